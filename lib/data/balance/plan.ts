import type { Device } from '../../device.js'
import { ArgumentError, ConfigError } from '../../errors.js'
import { mix, permute } from '../order.js'
import { type Clustering, cluster } from './clusters.js'
import { type Unique, withoutExactDuplicates, withoutNearDuplicates } from './duplicates.js'
import { type Embedder, type EmbedOptions, embedPools } from './embedding.js'
import { Pool, type PooledCorpus } from './pool.js'
import { chooseCopies } from './selection.js'
import { type Content, drawsOf, epochCaps, samplesWithin, type ShareOptions } from './shares.js'
import type { Vectors } from './vectors.js'
import { vendiScore } from './vendi.js'

/** How disciplines share a run. Every kind of mixing is a case of this one. */
export interface MixingOptions extends Omit<ShareOptions, 'budget'> {
  /** Most passes over a discipline, the same for all, or by its diversity; null: no caps. */
  readonly caps: { readonly maxEpochs: number; readonly by: 'equal' | 'diversity' } | null
  /** Which samples come how often: by cluster and coverage, within caps; null: all alike, a fresh permutation each pass. */
  readonly selection: { readonly beta: number } | null
}

export interface PlanOptions extends MixingOptions, ShareOptions, EmbedOptions {
  readonly seed: number
  /** Needed for caps by diversity and for selection. */
  readonly embedding: { readonly embedder: Embedder; readonly device: Device } | null
}

/** What a mixing order follows. */
export interface MixingPlan {
  readonly disciplines: readonly DisciplinePlan[]
  readonly sequence: readonly string[] | null
}

export interface DisciplinePlan {
  readonly name: string
  /** Of the samples. */
  readonly share: number
  /** Samples of a run of the length that was planned for; a whole number where there are caps or a sequence. */
  readonly draws: number
  /** How often each sample comes in a round of all copies; 0: left out. */
  readonly copies: Uint16Array
  /** Of each sample, `noCluster` for a duplicate; null where clusters were not needed. */
  readonly clusters: Clustering | null
  readonly report: DisciplineReport
}

/** What a plan does to a discipline. */
export interface DisciplineReport {
  readonly records: number
  readonly exactDuplicates: number
  readonly nearDuplicates: number
  readonly unique: number
  /** Trained tokens of the unique samples. */
  readonly tokens: number
  /** Passes at most; null: no cap. */
  readonly maxEpochs: number | null
  /** Passes over the unique samples. */
  readonly epochs: number
  /** Most times that one sample comes. */
  readonly maxRepeats: number
  /** Effective number of different samples, of `sampled` records as they are and `sampled` draws as planned. */
  readonly vendi: {
    readonly before: number
    readonly after: number
    readonly sampled: number
  } | null
  /** `effective` is the exponential of the entropy of the clusters' shares. */
  readonly clusters: {
    readonly count: number
    readonly covered: number
    readonly effectiveBefore: number
    readonly effectiveAfter: number
  } | null
}

/** Stands in a plan's clusters for a sample that is a duplicate. */
export const noCluster = 0xffff

/** Below this many unique samples a discipline's diversity cannot be told, and it comes once. */
const leastForDiversity = 64
const mostForDiversity = 4096

/** A discipline on its way to a plan. */
interface Draft extends Content {
  readonly pool: Pool
  readonly vectors: Vectors | null
  readonly unique: Unique
}

/**
 * Decides what a run draws from each discipline: counts without duplicates, caps, shares, and how often each sample
 * comes. Depends on the corpus, the options and the embedder alone.
 *
 * @param corpus opened with `traits`
 * @throws ConfigError if the caps allow less than the budget, a discipline named does not exist or one is not named
 */
export async function planMixing(corpus: PooledCorpus, options: PlanOptions): Promise<MixingPlan> {
  const { caps, selection, embedding, seed, signal, sequence } = options
  const pools = Pool.all(corpus)
  if (sequence) checkSequence(sequence, pools)
  if ((selection || caps?.by === 'diversity') && !embedding)
    throw new ArgumentError('diversity needs an embedding, and none was given')
  if (selection && !caps)
    throw new ArgumentError('a selection needs caps: without them nothing limits its repeats')
  const exact: Draft[] = []
  for (const pool of pools)
    exact.push(draft(pool, null, await withoutExactDuplicates(pool, signal)))
  const loosest = caps ? exact.map(() => caps.maxEpochs) : null
  // What even the loosest caps do not allow is refused before anything is embedded.
  drawsOf(exact, loosest, options)
  const needed = selection !== null || caps?.by === 'diversity' ? embedding : null
  const { drafts, size, diversity } = needed
    ? await measured(exact, needed.embedder, options)
    : { drafts: exact, size: 0, diversity: exact.map(() => null) }
  const maxEpochs = caps ? epochCaps(caps, diversity) : null
  const draws = drawsOf(drafts, maxEpochs, options)
  const total = draws.reduce((sum, one) => sum + one, 0)
  const disciplines: DisciplinePlan[] = []
  for (const [i, one] of drafts.entries()) {
    const { pool, vectors, unique, tokens } = one
    const own = mix(seed, 1000 + i)
    const clusters =
      vectors && unique.items.length > 0
        ? await cluster(vectors, unique.items, { device: embedding!.device, seed: own, signal })
        : null
    const count = draws[i]
    const copies = new Uint16Array(pool.size)
    if (selection && maxEpochs && clusters) {
      const chosen = await chooseCopies(vectors!, unique.items, clusters, count, {
        ...selection,
        limit: itemLimit(maxEpochs[i]),
        device: embedding!.device,
        seed: own,
        signal,
      })
      unique.items.forEach((item, k) => {
        copies[item] = chosen[k]
      })
    } else for (const item of unique.items) copies[item] = 1
    disciplines.push({
      name: pool.name,
      share: total > 0 ? draws[i] / total : 0,
      draws: count,
      copies,
      clusters: clusters && spread(clusters, unique.items, pool.size),
      report: {
        records: pool.size,
        exactDuplicates: unique.exactDuplicates,
        nearDuplicates: unique.nearDuplicates,
        unique: unique.items.length,
        tokens,
        maxEpochs: maxEpochs?.[i] ?? null,
        epochs: count / Math.max(1, unique.items.length),
        maxRepeats: mostRepeats(copies, count),
        vendi:
          vectors && diversity[i] !== null
            ? {
                before: vendiScore(vectors, subsample(allOf(pool.size), size, mix(own, 1))),
                after: vendiScore(vectors, drawn(copies, size, mix(own, 2))),
                sampled: size,
              }
            : null,
        clusters: clusters && clusterReport(clusters, unique.items, copies),
      },
    })
  }
  return { disciplines, sequence }
}

/** What caps by diversity allow of a corpus, whatever the run: small, and JSON. */
export interface DiversitySurvey {
  readonly disciplines: readonly {
    readonly name: string
    /** Samples without duplicates, and the mean of their lengths in tokens. */
    readonly size: number
    readonly meanLength: number
    readonly diversity: number | null
  }[]
}

/** @param corpus opened with `traits` */
export async function surveyDiversity(
  corpus: PooledCorpus,
  embedder: Embedder,
  options: EmbedOptions,
): Promise<DiversitySurvey> {
  const exact: Draft[] = []
  for (const pool of Pool.all(corpus))
    exact.push(draft(pool, null, await withoutExactDuplicates(pool, options.signal)))
  const { drafts, diversity } = await measured(exact, embedder, options)
  return {
    disciplines: drafts.map(({ name, size, meanLength }, i) => ({
      name,
      size,
      meanLength,
      diversity: diversity[i],
    })),
  }
}

/** Tokens of a run that draws all that caps of at most so many passes allow, prompts included. */
export function drawableTokens({ disciplines }: DiversitySurvey, maxEpochs: number): number {
  const caps = epochCaps(
    { maxEpochs, by: 'diversity' },
    disciplines.map(({ diversity }) => diversity),
  )
  return disciplines.reduce(
    (sum, { size, meanLength }, i) => sum + samplesWithin(caps[i], size) * meanLength,
    0,
  )
}

/** Twice the passes, rounded up, so that a choice has room; the same whatever chooses. */
export function itemLimit(maxEpochs: number): number {
  return 2 * Math.ceil(maxEpochs)
}

function draft(pool: Pool, vectors: Vectors | null, unique: Unique): Draft {
  let tokens = 0
  let length = 0
  for (const item of unique.items) {
    tokens += pool.trainedTokens(item)
    length += pool.length(item)
  }
  const { name } = pool
  const size = unique.items.length
  return { name, size, tokens, meanLength: length / Math.max(1, size), pool, vectors, unique }
}

/** The same with vectors, and without near duplicates. */
async function embedded(
  drafts: readonly Draft[],
  embedder: Embedder,
  options: EmbedOptions,
): Promise<Draft[]> {
  const pools = drafts.map(({ pool }) => pool)
  const all = await embedPools(pools, embedder, options)
  const found: Draft[] = []
  for (const [i, { pool, unique }] of drafts.entries())
    found.push(draft(pool, all[i], await withoutNearDuplicates(pool, unique, all[i], options)))
  return found
}

interface Measured {
  readonly drafts: readonly Draft[]
  /** Samples of each discipline that its diversity was measured on. */
  readonly size: number
  /** The Vendi score; null where too few samples are there to tell. */
  readonly diversity: readonly (number | null)[]
}

/** Vectors, near duplicates and diversity. No seed has a part in it: caps are a property of the corpus. */
async function measured(
  exact: readonly Draft[],
  embedder: Embedder,
  options: EmbedOptions,
): Promise<Measured> {
  const drafts = await embedded(exact, embedder, options)
  const size = diversitySample(drafts)
  const diversity = drafts.map(({ vectors, unique: { items } }, i) =>
    size > 0 && items.length >= size ? vendiScore(vectors!, subsample(items, size, i)) : null,
  )
  return { drafts, size, diversity }
}

/** Equally many of each discipline that has enough; 0 where none has. */
function diversitySample(drafts: readonly Draft[]): number {
  const sizes = drafts
    .map(({ unique }) => unique.items.length)
    .filter((size) => size >= leastForDiversity)
  return sizes.length === 0 ? 0 : Math.min(mostForDiversity, ...sizes)
}

function checkSequence(sequence: readonly string[], pools: readonly Pool[]): void {
  const names = pools.map(({ name }) => name)
  const same =
    sequence.length === names.length &&
    new Set(sequence).size === names.length &&
    names.every((name) => sequence.includes(name))
  if (!same)
    throw new ConfigError(
      `data.mixing.order must name each discipline once (${names.join(', ')}), not ${sequence.join(', ')}`,
      { details: { key: 'data.mixing.order', received: sequence } },
    )
}

/** Clusters of some of so many samples. */
function spread({ count, of }: Clustering, items: Int32Array, size: number): Clustering {
  const all = new Uint16Array(size).fill(noCluster)
  items.forEach((item, k) => {
    all[item] = of[k]
  })
  return { count, of: all }
}

function allOf(size: number): Int32Array {
  return Int32Array.from({ length: size }, (_, i) => i)
}

function subsample(items: Int32Array, size: number, key: number): Int32Array {
  return Int32Array.from({ length: size }, (_, i) => items[permute(i, items.length, key)])
}

/** Some of a round of all copies. */
function drawn(copies: Uint16Array, size: number, key: number): Int32Array {
  const ends = new Float64Array(copies.length)
  let total = 0
  copies.forEach((count, item) => {
    ends[item] = total += count
  })
  if (total === 0) return new Int32Array(0)
  return Int32Array.from({ length: size }, (_, i) => {
    // A round may have fewer draws than are asked for.
    const place = permute(i % total, total, key)
    let low = 0
    let high = copies.length - 1
    while (low < high) {
      const middle = (low + high) >> 1
      if (ends[middle] > place) high = middle
      else low = middle + 1
    }
    return low
  })
}

function mostRepeats(copies: Uint16Array, draws: number): number {
  let round = 0
  let most = 0
  for (const count of copies) {
    round += count
    most = Math.max(most, count)
  }
  return round === 0 ? 0 : most * Math.ceil(draws / round)
}

function clusterReport(
  { count, of }: Clustering,
  items: Int32Array,
  copies: Uint16Array,
): DisciplineReport['clusters'] {
  const before = new Float64Array(count)
  const after = new Float64Array(count)
  items.forEach((item, k) => {
    before[of[k]]++
    after[of[k]] += copies[item]
  })
  return {
    count,
    covered: after.filter((one) => one > 0).length,
    effectiveBefore: effectiveNumber(before),
    effectiveAfter: effectiveNumber(after),
  }
}

function effectiveNumber(counts: Float64Array): number {
  const total = counts.reduce((sum, one) => sum + one, 0)
  let entropy = 0
  for (const count of counts) if (count > 0) entropy -= (count / total) * Math.log(count / total)
  return total > 0 ? Math.exp(entropy) : 0
}
