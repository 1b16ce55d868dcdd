// Mocha's spec reporter, which also writes its totals to the file named in the option `totals`.
import { writeFileSync } from 'node:fs'
import Mocha from 'mocha'

/** How long the process may take to end after the last test: an idle polylora lets Node exit. */
const EXIT_MS = 20_000

export default class Reporter extends Mocha.reporters.Spec {
  constructor(runner, options) {
    super(runner, options)
    const file = options.reporterOptions?.totals
    runner.once(Mocha.Runner.constants.EVENT_RUN_END, () => {
      const { passes, failures, pending } = runner.stats
      const totals = { passed: passes, failed: failures, skipped: pending }
      if (file) writeFileSync(file, JSON.stringify(totals))
      setTimeout(() => {
        const held = process.getActiveResourcesInfo().join(', ')
        console.error(`The tests ended, but the process did not: it is held by ${held}.`)
        if (file) writeFileSync(file, JSON.stringify({ ...totals, failed: failures + 1 }))
        process.exit(1)
      }, EXIT_MS).unref()
    })
  }
}
