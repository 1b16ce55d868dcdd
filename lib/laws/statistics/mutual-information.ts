import { ArgumentError } from '../../errors.js'
import { Philox } from '../../philox.js'
import { mean } from './chance.js'

export interface MutualInformation {
  /** I(D; E) / sqrt(H(D) H(E)): 0 where the experts know no discipline, 1 where each is one's. */
  readonly value: number
  /** The mean of the same with the labels permuted over the sequences: what chance gives. */
  readonly byChance: number
  /** One-sided. */
  readonly p: number
}

/**
 * How much the experts tell of the discipline: normalised mutual information of discipline and expert, from the gate mass of
 * each sequence, against permutations of the sequences' labels.
 *
 * @param labels discipline of each sequence
 * @param gateMass of each sequence, one number an expert
 */
export function mutualInformation(
  labels: readonly (string | number)[],
  gateMass: readonly ArrayLike<number>[],
  { permutations = 999, seed = 0 } = {},
): MutualInformation {
  const experts = gateMass[0]?.length ?? 0
  if (experts === 0 || labels.length !== gateMass.length)
    throw new ArgumentError(`${labels.length} labels for ${gateMass.length} sequences of gates`)
  const names = [...new Set(labels)]
  const numbers = Int32Array.from(labels, (label) => names.indexOf(label))
  const value = normalised(numbers, gateMass, names.length, experts)
  const random = new Philox(seed)
  const drawn = Array.from({ length: permutations }, () =>
    normalised(random.shuffle(numbers), gateMass, names.length, experts),
  )
  const reached = drawn.filter((one) => one >= value - 1e-12).length
  return { value, byChance: mean(drawn), p: (1 + reached) / (1 + permutations) }
}

function normalised(
  labels: Int32Array,
  gateMass: readonly ArrayLike<number>[],
  disciplines: number,
  experts: number,
): number {
  const joint = new Float64Array(disciplines * experts)
  const byDiscipline = new Float64Array(disciplines)
  const byExpert = new Float64Array(experts)
  let total = 0
  for (let i = 0; i < labels.length; i++)
    for (let e = 0; e < experts; e++) {
      const mass = gateMass[i][e]
      joint[labels[i] * experts + e] += mass
      byDiscipline[labels[i]] += mass
      byExpert[e] += mass
      total += mass
    }
  const scale = Math.sqrt(entropy(byDiscipline, total) * entropy(byExpert, total))
  if (!(scale > 0)) return 0
  const shared = entropy(byDiscipline, total) + entropy(byExpert, total) - entropy(joint, total)
  return Math.max(0, shared) / scale
}

/** In nats, of masses that sum to `total`. */
function entropy(masses: Float64Array, total: number): number {
  let sum = 0
  for (const mass of masses) if (mass > 0) sum -= (mass / total) * Math.log(mass / total)
  return sum
}
