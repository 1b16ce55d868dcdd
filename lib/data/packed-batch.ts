/** One tokenised sample. */
export interface Example {
  readonly inputIds: Int32Array
  /** 1 where the token at that position is trained; never at position 0. */
  readonly labelMask: Uint8Array
  /** Index into the corpus's disciplines. */
  readonly discipline: number
}

/** Sequences laid end to end without padding. T counts tokens, S sequences, L trained tokens. */
export interface PackedBatch {
  /** [T] */
  readonly inputIds: Int32Array
  /** [T]: position in the sequence */
  readonly positions: Int32Array
  /** [S + 1]: first row of each sequence, then T */
  readonly cuSeqlens: Int32Array
  /** Length of the longest sequence. */
  readonly maxSeqlen: number
  /** [T]: global index of the row's sample in the run; it keys dropout */
  readonly rowSample: Int32Array
  /** [T]: index into disciplineNames */
  readonly rowDiscipline: Int32Array
  /** [L]: rows whose logits predict a trained token */
  readonly labelRows: Int32Array
  /** [L]: those tokens */
  readonly labels: Int32Array
  /** [L]: index into disciplineNames */
  readonly labelDiscipline: Int32Array
  /** [L]: what a trained token counts in the loss; absent: 1 */
  readonly labelWeight?: Float32Array
  readonly disciplineNames: readonly string[]
}

/** The micro-batches of one optimiser step. */
export interface StepPlan {
  readonly batches: readonly PackedBatch[]
  /** Over all micro-batches: the loss is normalised by it. */
  readonly trainedTokens: number
}

/**
 * Packs samples in the order given. Each loses its last token, which predicts nothing.
 *
 * @param samples with their global index in the run
 */
export function packBatch(
  samples: readonly { readonly example: Example; readonly sampleIndex: number }[],
  disciplineNames: readonly string[],
): PackedBatch {
  const cuSeqlens = new Int32Array(samples.length + 1)
  let numLabels = 0
  let maxSeqlen = 0
  samples.forEach(({ example: { inputIds, labelMask } }, i) => {
    const length = inputIds.length - 1
    cuSeqlens[i + 1] = cuSeqlens[i] + length
    maxSeqlen = Math.max(maxSeqlen, length)
    for (let t = 1; t <= length; t++) numLabels += labelMask[t]
  })
  const numTokens = cuSeqlens[samples.length]
  const batch = {
    inputIds: new Int32Array(numTokens),
    positions: new Int32Array(numTokens),
    cuSeqlens,
    maxSeqlen,
    rowSample: new Int32Array(numTokens),
    rowDiscipline: new Int32Array(numTokens),
    labelRows: new Int32Array(numLabels),
    labels: new Int32Array(numLabels),
    labelDiscipline: new Int32Array(numLabels),
    disciplineNames,
  }
  let label = 0
  samples.forEach(({ example: { inputIds, labelMask, discipline }, sampleIndex }, i) => {
    const begin = cuSeqlens[i]
    const end = cuSeqlens[i + 1]
    batch.inputIds.set(inputIds.subarray(0, end - begin), begin)
    batch.rowSample.fill(sampleIndex, begin, end)
    batch.rowDiscipline.fill(discipline, begin, end)
    for (let row = begin, t = 0; row < end; row++, t++) {
      batch.positions[row] = t
      if (labelMask[t + 1] === 0) continue
      batch.labelRows[label] = row
      batch.labels[label] = inputIds[t + 1]
      batch.labelDiscipline[label++] = discipline
    }
  })
  return batch
}
