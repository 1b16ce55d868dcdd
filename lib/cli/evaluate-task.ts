import { evaluateTask, type Figure, type TaskInput } from '../evaluate/tasks/index.js'
import { ConfigError } from '../errors.js'
import { Model } from '../model.js'
import { modelFingerprint } from '../train/model-fingerprint.js'
import { readYaml } from './config-file.js'
import { Interrupt } from './interrupt.js'
import { type AdapterFlags, attachAdapter, type DeviceFlags } from './options.js'
import { Progress } from './progress.js'

export interface TaskFlags {
  readonly model: string
  readonly data: string
  readonly output?: string
  readonly chatTemplate?: boolean
  readonly skipBadRecords?: boolean
  /** The name of a built-in task, or a YAML file. */
  readonly task?: string
  readonly shots?: number
  readonly shotsData?: string
  readonly limit?: number
}

/** `polylora evaluate --task`: prints each figure with its standard error and interval, and by group. */
export async function runTask(
  flags: TaskFlags & AdapterFlags & DeviceFlags,
  name: string,
): Promise<void> {
  const {
    data,
    output,
    adapter,
    discipline,
    chatTemplate,
    skipBadRecords,
    shots,
    shotsData,
    limit,
  } = flags
  if ((shots === undefined) !== (shotsData === undefined))
    throw new ConfigError('--shots and --shots-data go together')
  const task = /\.ya?ml$/i.test(name) ? ((await readYaml(name)) as TaskInput) : name
  const progress = new Progress('item')
  const interrupt = new Interrupt(() => undefined)
  const { signal } = interrupt
  try {
    await using model = await Model.load(flags.model, { ...flags, signal })
    const folders = [flags.model, ...(await attachAdapter(model, { adapter, discipline }))]
    const fingerprints = await Promise.all(folders.map((folder) => modelFingerprint(folder)))
    // Two disciplines of one adapter, or two gates over the same ones, are not the same thing.
    const how = /\.ya?ml$/i.test(adapter ?? '')
      ? [JSON.stringify(model.adapter?.declaration.form)]
      : [discipline ?? '']
    const result = await evaluateTask(model, task, {
      data,
      chatTemplate,
      limit,
      output,
      onBadRecord: skipBadRecords ? 'skip' : 'error',
      shots: shots === undefined ? undefined : { data: shotsData!, count: shots },
      identity: [...fingerprints, ...how].filter((part) => part !== '').join(' '),
      signal,
      onMessage: (text) => {
        progress.message(text)
      },
    })
    const skipped = result.badRecords > 0 ? `, ${result.badRecords} left out` : ''
    console.log(`${result.task}: ${result.items} items${skipped}`)
    print(result.figures)
    for (const [group, figures] of Object.entries(result.groups)) {
      console.log(`${group}:`)
      print(figures)
    }
    if (result.secondsPerItem !== null)
      console.log(`${(result.secondsPerItem * 1000).toPrecision(3)} ms an item`)
  } catch (error) {
    if (interrupt.exitCode === null) throw error
    process.exitCode = interrupt.exitCode
  } finally {
    progress.stop()
    interrupt.dispose()
  }
}

function print(figures: readonly Figure[]): void {
  for (const { name, value, standardError, interval } of figures) {
    const error = standardError === null ? '' : ` ± ${standardError.toFixed(4)}`
    const [low, high] = interval.map((bound) => bound.toFixed(4))
    console.log(`  ${name} ${value.toFixed(4)}${error}  (95%: ${low} to ${high})`)
  }
}
