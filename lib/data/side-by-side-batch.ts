import type { PackedBatch } from './packed-batch.js'

/** One packed batch from several, and which rows and labels came from each. */
export interface SideBySideBatch {
  readonly batch: PackedBatch
  readonly parts: readonly {
    readonly rowBegin: number
    readonly rowEnd: number
    readonly labelBegin: number
    readonly labelEnd: number
  }[]
}

/**
 * Lays packed batches end to end. Every row keeps its sample's index and position in its own run, so that its dropout
 * mask is the one that it has alone; disciplines are renumbered into the union of the names.
 */
export function joinBatches(batches: readonly PackedBatch[]): SideBySideBatch {
  const disciplineNames = [...new Set(batches.flatMap((batch) => batch.disciplineNames))]
  let [row, label] = [0, 0]
  const parts = batches.map((batch) => {
    const [rowBegin, labelBegin] = [row, label]
    row += batch.inputIds.length
    label += batch.labels.length
    return { rowBegin, rowEnd: row, labelBegin, labelEnd: label }
  })
  const numbers = batches.map((batch) =>
    batch.disciplineNames.map((name) => disciplineNames.indexOf(name)),
  )
  const join = (of: (batch: PackedBatch, i: number) => Int32Array) => {
    const arrays = batches.map(of)
    const all = new Int32Array(arrays.reduce((sum, { length }) => sum + length, 0))
    let at = 0
    for (const array of arrays) {
      all.set(array, at)
      at += array.length
    }
    return all
  }
  const batch: PackedBatch = {
    inputIds: join(({ inputIds }) => inputIds),
    positions: join(({ positions }) => positions),
    cuSeqlens: Int32Array.of(
      0,
      ...batches.flatMap(({ cuSeqlens }, i) =>
        Array.from(cuSeqlens.subarray(1), (end) => end + parts[i].rowBegin),
      ),
    ),
    maxSeqlen: Math.max(0, ...batches.map(({ maxSeqlen }) => maxSeqlen)),
    rowSample: join(({ rowSample }) => rowSample),
    rowDiscipline: join(({ rowDiscipline }, i) => rowDiscipline.map((one) => numbers[i][one])),
    labelRows: join(({ labelRows }, i) => labelRows.map((one) => one + parts[i].rowBegin)),
    labels: join(({ labels }) => labels),
    labelDiscipline: join(({ labelDiscipline }, i) =>
      labelDiscipline.map((one) => numbers[i][one]),
    ),
    disciplineNames,
  }
  return { batch, parts }
}
