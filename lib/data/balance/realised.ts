import { Pause } from '../pause.js'
import type { MixedOrder } from './mixed-order.js'
import { type MixingPlan, noCluster } from './plan.js'

/** What came of a plan after so many samples. */
export interface RealisedMixing {
  readonly samples: number
  readonly disciplines: Readonly<Record<string, RealisedDiscipline>>
}

export interface RealisedDiscipline {
  readonly samples: number
  /** Passes over the unique samples. */
  readonly epochs: number
  /** Most times that one sample came. */
  readonly maxRepeats: number
  /** Part of the unique samples, and of the clusters, that came at all. */
  readonly coverage: number
  readonly clusterCoverage: number | null
}

/** Follows a plan's order from its beginning, and counts. @param order new, of this plan */
export async function realise(
  plan: MixingPlan,
  order: MixedOrder,
  samples: number,
  signal?: AbortSignal,
): Promise<RealisedMixing> {
  const pause = new Pause(signal)
  const counts = plan.disciplines.map(({ copies }) => new Uint32Array(copies.length))
  for (let i = 0; i < samples; i++) {
    const { discipline, item } = order.nextItem()
    counts[discipline][item]++
    await pause.turn()
  }
  const disciplines = plan.disciplines.map(({ name, report, clusters }, i) => {
    const unique = Math.max(1, report.unique)
    const covered = new Set<number>()
    let total = 0
    let different = 0
    let maxRepeats = 0
    counts[i].forEach((count, item) => {
      if (count === 0) return
      total += count
      different++
      maxRepeats = Math.max(maxRepeats, count)
      if (clusters && clusters.of[item] !== noCluster) covered.add(clusters.of[item])
    })
    const realised: RealisedDiscipline = {
      samples: total,
      epochs: total / unique,
      maxRepeats,
      coverage: different / unique,
      clusterCoverage: clusters && covered.size / clusters.count,
    }
    return [name, realised] as const
  })
  return { samples, disciplines: Object.fromEntries(disciplines) }
}
