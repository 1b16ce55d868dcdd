import { DeviceError } from '../errors.js'
import type { StepReport } from './step-report.js'

/** Steps in a row whose loss or gradient may be non-finite before training stops. */
const mostInRow = 3
const mostNamed = 8

/** Reports steps that were skipped because a loss or gradient was not finite, and ends training when it goes on. */
export class SkippedSteps {
  inRow = 0
  readonly #onMessage: ((message: string) => void) | undefined

  constructor(onMessage: ((message: string) => void) | undefined) {
    this.#onMessage = onMessage
  }

  /**
   * @param samples those of the step, by file and line
   * @throws DeviceError naming them after three skipped steps in a row
   */
  count(report: StepReport, samples: readonly { file: string; line: number }[]): void {
    if (report.applied) {
      this.inRow = 0
      return
    }
    const places = samples.map(({ file, line }) => `${file}:${line}`)
    const named = places.slice(0, mostNamed).join(', ') + (places.length > mostNamed ? ', …' : '')
    const what = Number.isFinite(report.loss) ? 'a gradient' : 'the loss'
    this.#onMessage?.(
      `step ${report.step} was skipped because ${what} is not finite; its samples: ${named}`,
    )
    if (++this.inRow >= mostInRow)
      throw new DeviceError(
        `training stopped: ${what} was not finite in ${mostInRow} steps in a row, last in step ${report.step} with the samples ${named}; a lower learning rate may help`,
        { details: { step: report.step, samples: places } },
      )
  }
}
