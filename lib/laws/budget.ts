import { mostEpochs } from './arms/balance.js'
import {
  askedSize,
  makePlan,
  type PlanInputs,
  possibleSize,
  type StudyPlan,
  type StudySize,
  type Workload,
  workloadOf,
} from './plan.js'

/** What the machine does in a second. */
export interface Speed {
  /** Tokens trained on, by an adapter of one expert. */
  readonly tokens: number
  /** The same by a mixture of experts. */
  readonly mixtureTokens: number
  /** Items scored. */
  readonly items: number
}

/** Loading the model, writing what was found. */
const secondsPerRun = 0.5
/** Of a step with frozen weights: the other half goes back. */
const forwardPart = 0.5
/** Of the time: measuring takes at most so much. */
const mostMeasuring = 0.25
const leastItems = 30
/** Of the tokens that were asked for: below this, seeds are cut. */
const leastTokens = 0.25

export interface BudgetedPlan {
  readonly plan: StudyPlan
  readonly workload: Workload
  readonly seconds: number
}

/**
 * Runs are counted one after the other. Five seeds' adapters joined in one pass through the base (train/side-by-side.ts) took
 * 1.10 of the processor time that they take alone (median of five rounds, 0.97 to 1.26; one thread of a Zen 3, AVX2;
 * `node benchmark/lanes.mjs 5`): a step of a study fills the processor as it is.
 */
export function secondsOf(work: Workload, speed: Speed): number {
  const { runs, tokens, mixtureTokens, embeddedTokens, items } = work
  const training = (tokens - mixtureTokens) / speed.tokens + mixtureTokens / speed.mixtureTokens
  const embedding = (forwardPart * embeddedTokens) / speed.tokens
  return training + embedding + items / speed.items + runs * secondsPerRun
}

/**
 * The plan that fits in the configuration's minutes: first fewer test items, so that measuring takes a quarter of the time;
 * then without the arms that are shown only; then fewer tokens a run; seeds last. What was cut is said in the plan.
 */
export function fitPlan(inputs: PlanInputs, speed: Speed): BudgetedPlan {
  const { config, data } = inputs
  const mostItems = Math.max(...[...data.sets.values()].map(({ chances }) => chances.length))
  const asked = askedSize(config, mostItems)
  const whole = possibleSize(inputs, mostItems)
  const capped =
    whole.tokens < asked.tokens
      ? [
          `tokens of a run: ${whole.tokens} in place of ${asked.tokens}, all that law 1 can draw in ${mostEpochs} passes; without balance in laws there is no such cut`,
        ]
      : []
  const tryOut = (size: StudySize): BudgetedPlan => {
    const plan = makePlan(inputs, size, [...capped, ...cutsOf(whole, size)])
    const workload = workloadOf(plan, data)
    return { plan, workload, seconds: secondsOf(workload, speed) }
  }
  const fewerItems = (size: StudySize): StudySize => {
    const { seconds, workload } = tryOut(size)
    const measuring = workload.items / speed.items
    const part = ((seconds - measuring) * mostMeasuring) / (1 - mostMeasuring) / measuring
    if (part >= 1) return size
    return {
      ...size,
      items: Math.max(Math.min(leastItems, size.items), Math.floor(size.items * part)),
    }
  }
  if (config.minutes === undefined) return tryOut(whole)
  const budget = 60 * config.minutes
  // Each size takes less time than the one before it: the first that fits is found by halving.
  const sizes = [...smallerSizes(whole)]
  let [first, end] = [0, sizes.length - 1]
  while (first < end) {
    const middle = (first + end) >> 1
    if (tryOut(fewerItems(sizes[middle])).seconds <= budget) end = middle
    else first = middle + 1
  }
  return tryOut(fewerItems(sizes[first]))
}

function* smallerSizes(whole: StudySize): Generator<StudySize> {
  yield whole
  let size: StudySize = { ...whole, extras: false }
  yield size
  for (let part = 0.95; part >= leastTokens; part -= 0.05) {
    size = { ...size, tokens: Math.round(part * whole.tokens) }
    yield size
  }
  const most = Math.max(whole.seeds, whole.variabilityRuns)
  for (let cut = 1; cut < most; cut++) {
    size = {
      ...size,
      seeds: Math.max(1, Math.min(whole.seeds, Math.ceil((whole.seeds * (most - cut)) / most))),
      variabilityRuns: Math.max(
        1,
        whole.variabilityRuns - Math.ceil((whole.variabilityRuns * cut) / most),
      ),
    }
    yield size
  }
  // Nothing but tokens is left to give.
  for (let part = leastTokens / 2; part > 0.01; part /= 2)
    yield { ...size, tokens: Math.round(part * whole.tokens) }
}

function cutsOf(whole: StudySize, size: StudySize): string[] {
  const cuts: string[] = []
  const fewer = (key: 'items' | 'tokens' | 'seeds' | 'variabilityRuns', what: string) => {
    if (size[key] < whole[key]) cuts.push(`${what}: ${size[key]} in place of ${whole[key]}`)
  }
  fewer('items', 'items of a set')
  if (whole.extras && !size.extras) cuts.push('arms that are shown only are left out')
  fewer('tokens', 'tokens of a run')
  fewer('seeds', 'seeds of an arm')
  fewer('variabilityRuns', 'runs of a condition of variability')
  return cuts
}
