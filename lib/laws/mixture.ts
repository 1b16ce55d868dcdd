import type { TrainConfigInput } from '../train/options.js'
import type { Mixture } from './procedure.js'
import type { DisciplineData, StudyData } from './study-data.js'

type Sources = TrainConfigInput['data']['train']

/** What each discipline has of the trained tokens, by name; they sum to 1. */
export function sharesOf(
  { shares, mostEpochs = Infinity }: Mixture,
  disciplines: readonly DisciplineData[],
  tokens: number,
): Readonly<Record<string, number>> {
  const sizes = disciplines.map(({ trainedTokens }) => trainedTokens)
  const total = sum(sizes)
  const allotted = () => {
    switch (shares) {
      case 'proportional':
        return sizes
      case 'equal':
        return sizes.map(() => 1)
      case 'capped':
      case 'diverse': {
        const budget = (tokens * total) / sum(disciplines.map((one) => one.tokens))
        return waterFill(
          sizes.map((size) => size * mostEpochs),
          budget,
        )
      }
    }
  }
  const parts = allotted()
  const whole = sum(parts)
  return Object.fromEntries(disciplines.map(({ name }, i) => [name, parts[i] / whole]))
}

/** The budget in parts as equal as their caps allow (UniMax, Chung et al. 2023); all caps where they do not reach it. */
export function waterFill(caps: readonly number[], budget: number): number[] {
  const filled = caps.map(() => 0)
  let [left, open] = [budget, caps.length]
  const ascending = caps.map((_, i) => i).sort((a, b) => caps[a] - caps[b])
  for (const i of ascending) {
    filled[i] = Math.min(caps[i], left / open)
    left -= filled[i]
    open--
  }
  return filled
}

/** The training files of a mixture, weighted so that each discipline has its share of the trained tokens. */
export function sourcesOf(mixture: Mixture, data: StudyData, tokens: number): Sources {
  const { disciplines: names } = mixture
  if (names === 'instructions') return [{ discipline: 'instructions', path: data.alignment! }]
  const disciplines = data.disciplines.filter(({ name }) => names.includes(name))
  const shares = sharesOf(mixture, disciplines, tokens)
  const weights = disciplines.map(
    ({ name, trainedTokens, reserve }) =>
      shares[name] / (trainedTokens + (mixture.fresh ? reserve!.trainedTokens : 0)),
  )
  const largest = Math.max(...weights)
  return disciplines.flatMap(({ name, path, reserve }, i) => {
    const weight = weights[i] / largest
    const own = { discipline: name, path, weight }
    return mixture.fresh ? [own, { ...own, path: reserve!.path }] : [own]
  })
}

const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0)
