import { type Command, InvalidArgumentError, Option } from 'commander'
import { join } from 'node:path'
import type { DeviceOptions } from '../device.js'
import { ConfigError } from '../errors.js'
import type { Adapter } from '../adapters/adapter.js'
import { adaptersIn } from '../adapters/adapter-folders.js'
import type { Model } from '../model.js'
import { readYaml } from './config-file.js'

/** Parsers of option values; commander names the option, the value received and what these say. */

export function wholeNumber(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : NaN
    if (value >= min && value <= max) return value
    throw new InvalidArgumentError(
      max === Number.MAX_SAFE_INTEGER
        ? `It must be a whole number from ${min}.`
        : `It must be a whole number from ${min} to ${max}.`,
    )
  }
}

export function numberFrom(min: number, max = Infinity): (text: string) => number {
  return (text) => {
    const value = text.trim() === '' ? NaN : Number(text)
    if (Number.isFinite(value) && value >= min && value <= max) return value
    throw new InvalidArgumentError(
      max === Infinity
        ? `It must be a number from ${min}.`
        : `It must be a number from ${min} to ${max}.`,
    )
  }
}

/** An option that may be given several times. */
export function repeated(text: string, before: readonly string[] = []): string[] {
  return [...before, text]
}

export interface DeviceFlags extends Pick<DeviceOptions, 'threads' | 'instructionSet'> {
  readonly device?: string
}

/** The options that every command has which computes. */
export function addDeviceOptions(command: Command): Command {
  return command
    .option('--device <kind>', 'cpu; default: the best there is')
    .option('--threads <n>', 'CPU threads; default: all that may be used', wholeNumber(1, 1024))
    .addOption(
      new Option('--instruction-set <set>', 'highest CPU instruction set to use').choices([
        'portable',
        'avx2',
        'avx512',
        'avx512-bf16',
      ]),
    )
}

export interface AdapterFlags {
  readonly adapter?: string
  readonly discipline?: string
}

export function addAdapterOptions(command: Command): Command {
  return command
    .option(
      '--adapter <folder>',
      'adapter or mixture folder, the folder of adapters of a run side by side, or the YAML file of a composition',
    )
    .option(
      '--discipline <name>',
      'which adapter of a run side by side; what an adapter whose gates go by discipline takes the text for',
    )
}

/**
 * @returns the adapter folders that were read
 * @throws ConfigError if an adapter goes by discipline and none is named, or one is named for nothing
 */
export async function attachAdapter(
  model: Model,
  { adapter, discipline }: AdapterFlags,
): Promise<readonly string[]> {
  const fail = (message: string): never => {
    throw new ConfigError(message, { details: { key: '--discipline', received: discipline } })
  }
  if (adapter === undefined) {
    if (discipline !== undefined) fail('--discipline is for an adapter: give --adapter too')
    return []
  }
  const sideBySide = await adaptersIn(adapter)
  if (sideBySide.length > 0 && (discipline === undefined || !sideBySide.includes(discipline)))
    fail(
      `${adapter} holds an adapter for each discipline: give --discipline with one of ${sideBySide.join(', ')}`,
    )
  const { attached, folders } = /\.ya?ml$/i.test(adapter)
    ? await attachComposed(model, adapter)
    : await attachSaved(model, sideBySide.length > 0 ? join(adapter, discipline!) : adapter)
  const { disciplines, gate, transform } = attached.declaration.form
  const goesByDiscipline = gate?.kind === 'task' || transform
  if (attached.needsDiscipline && discipline === undefined)
    fail(`${adapter} goes by discipline: give --discipline with one of ${disciplines.join(', ')}`)
  if (discipline !== undefined && goesByDiscipline) attached.useDiscipline(discipline)
  else if (discipline !== undefined && sideBySide.length === 0)
    fail(
      `--discipline is for nothing here: ${adapter} is of kind ${attached.declaration.kind}, which does the same for every discipline`,
    )
  return folders
}

async function attachSaved(
  model: Model,
  folder: string,
): Promise<{ attached: Adapter; folders: readonly string[] }> {
  return { attached: await model.attachFrom(folder), folders: [folder] }
}

async function attachComposed(
  model: Model,
  file: string,
): Promise<{ attached: Adapter; folders: readonly string[] }> {
  const { parseComposition } = await import('../merge/composition-file.js')
  const { adapters, gate } = parseComposition(await readYaml(file), file)
  return { attached: await model.attachComposition(adapters, gate), folders: adapters }
}
