import { ConfigError } from '../errors.js'
import { readJsonFile } from '../json-file.js'

/** How training on one discipline changes the accuracy on the others. */
export interface TransferMatrix {
  readonly disciplines: readonly string[]
  /** [i][j]: accuracy on j after training on i less that before. */
  readonly transfer: readonly (readonly number[])[]
}

const mostDisciplines = 16
const fileCap = 1 << 20

/**
 * The order of disciplines in which later ones harm earlier ones least, or help them most: it maximises
 * Σ transfer[later][earlier] over all pairs (backward transfer, as Omni-Thinker orders its tasks). Exact, over all subsets;
 * of equal orders the one that keeps to the matrix's.
 *
 * @throws ConfigError for more than 16 disciplines
 */
export function orderByTransfer({ disciplines, transfer }: TransferMatrix): string[] {
  const count = disciplines.length
  if (count > mostDisciplines)
    throw new ConfigError(
      `a task order is found for at most ${mostDisciplines} disciplines, not for ${count}: give data.mixing.order`,
      { details: { key: 'data.mixing.transfer', received: count } },
    )
  const best = new Float64Array(2 ** count).fill(-Infinity)
  const last = new Int8Array(2 ** count).fill(-1)
  best[0] = 0
  for (let set = 1; set < best.length; set++)
    // Largest first, so that of equals the last in the matrix comes last.
    for (let later = count - 1; later >= 0; later--) {
      if (((set >> later) & 1) === 0) continue
      const earlier = set ^ (1 << later)
      let sum = best[earlier]
      for (let i = 0; i < count; i++) if ((earlier >> i) & 1) sum += transfer[later][i]
      if (sum <= best[set]) continue
      best[set] = sum
      last[set] = later
    }
  const order: string[] = []
  for (let set = best.length - 1; set > 0; set ^= 1 << last[set])
    order.unshift(disciplines[last[set]])
  return order
}

/** @throws FormatError if the file is no JSON, ConfigError if it holds no transfer matrix */
export async function readTransfer(path: string): Promise<TransferMatrix> {
  const value = (await readJsonFile(path, fileCap)) as Partial<TransferMatrix> | null
  const { disciplines, transfer } = value ?? {}
  const isMatrix =
    Array.isArray(disciplines) &&
    disciplines.length > 0 &&
    disciplines.every((name) => typeof name === 'string') &&
    Array.isArray(transfer) &&
    transfer.length === disciplines.length &&
    transfer.every(
      (row: unknown) =>
        Array.isArray(row) && row.length === disciplines.length && row.every(Number.isFinite),
    )
  if (!isMatrix)
    throw new ConfigError(
      `${path} must hold { "disciplines": [names], "transfer": [[numbers]] } with one row and one column for each name`,
      { details: { key: 'data.mixing.transfer', file: path } },
    )
  return { disciplines, transfer }
}
