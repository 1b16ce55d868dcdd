/** What a trial came to on validation. */
export interface Trial {
  readonly score: number
  /** Of the right answers, per token: tells apart what has equal scores. -Infinity if it is not finite. */
  readonly logLikelihood: number
}

export interface Rung {
  /** That each trial is trained on. */
  readonly tokens: number
  /** How many go on. */
  readonly keep: number
}

/**
 * Successive halving (Jamieson and Talwalkar 2016): at each rung all that are left are tried anew with more tokens, and the
 * best of this rung go on. Of equals those that were named first; what failed comes after everything that did not.
 *
 * @param tryOut null: the trial failed
 */
export async function successiveHalving<T>(
  candidates: readonly T[],
  rungs: readonly Rung[],
  tryOut: (candidate: T, tokens: number) => Promise<Trial | null>,
): Promise<T> {
  let left = candidates
  for (const { tokens, keep } of rungs) {
    const tried: { candidate: T; trial: Trial }[] = []
    for (const candidate of left)
      tried.push({ candidate, trial: (await tryOut(candidate, tokens)) ?? failed })
    tried.sort(
      (a, b) =>
        descending(a.trial.score, b.trial.score) ||
        descending(a.trial.logLikelihood, b.trial.logLikelihood),
    )
    left = tried.slice(0, keep).map(({ candidate }) => candidate)
  }
  return left[0]
}

const failed: Trial = { score: -Infinity, logLikelihood: -Infinity }

// A difference of infinities is no number.
const descending = (a: number, b: number) => Number(b > a) - Number(a > b)
