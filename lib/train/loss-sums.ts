import type { PackedBatch } from '../data/packed-batch.js'

/** Sums losses over batches, in all and by discipline. */
export class LossSums {
  readonly #byDiscipline = new Map<string, { sum: number; count: number }>()
  #sum = 0
  #count = 0

  /** @param losses one a labelled row of the batch, in its order; more may follow and are left alone */
  add(batch: PackedBatch, losses: Float32Array): void {
    batch.labelDiscipline.forEach((discipline, i) => {
      const name = batch.disciplineNames[discipline]
      let entry = this.#byDiscipline.get(name)
      if (!entry) this.#byDiscipline.set(name, (entry = { sum: 0, count: 0 }))
      entry.sum += losses[i]
      entry.count++
      this.#sum += losses[i]
      this.#count++
    })
  }

  /** How many were summed, by discipline. */
  counts(): Record<string, number> {
    return Object.fromEntries([...this.#byDiscipline].map(([name, { count }]) => [name, count]))
  }

  means(): { loss: number; lossByDiscipline: Record<string, number> } {
    return {
      loss: this.#sum / this.#count,
      lossByDiscipline: Object.fromEntries(
        [...this.#byDiscipline].map(([name, { sum, count }]) => [name, sum / count]),
      ),
    }
  }
}
