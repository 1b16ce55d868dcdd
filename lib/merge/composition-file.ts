import { z } from 'zod'
import { composeSaved } from '../adapters/compose.js'
import type { CompositionGate } from '../adapters/kinds.js'
import { saveAdapter } from '../adapters/peft.js'
import { configError } from '../config-error.js'
import { Device, type DeviceOptions } from '../device.js'
import { ConfigError } from '../errors.js'
import { readConfig } from '../models/index.js'
import { requireOutside } from '../output-folder.js'

/** A composition of saved adapters behind a gate that needs no training, as a YAML file has it. */

const common = {
  /** Model folder; not needed where a model is there already. */
  base_model: z.string().min(1).optional(),
  /** Saved LoRA adapters, in the order of the experts. */
  adapters: z.array(z.string().min(1)).min(1).max(256),
}

const schema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('fixed'), ...common, weights: z.array(z.number()) }),
  z.strictObject({
    kind: z.literal('arrow'),
    ...common,
    /** Default: all, but at most 3. */
    topK: z.int().min(1).max(256).optional(),
    temperature: z.number().min(1e-3).max(1e3).default(1),
  }),
])

export interface Composition {
  readonly base: string | null
  readonly adapters: readonly string[]
  readonly gate: CompositionGate
}

/** Whether the object of a YAML file is a composition's, and no recipe. */
export function isComposition(value: unknown): boolean {
  return typeof value === 'object' && value !== null && 'kind' in value
}

/** @throws ConfigError naming the key, the value received and what is allowed */
export function parseComposition(value: unknown, file = 'composition'): Composition {
  if (isComposition(value) && (value as { kind: unknown }).kind === 'mole')
    throw new ConfigError(
      `${file}: kind: the gate of mole is learned: train it, with method: { kind: mole, adapters: [...] }`,
      { details: { file, key: 'kind', received: 'mole' } },
    )
  const result = schema.safeParse(value)
  if (!result.success) throw configError(result.error, value, file)
  const one = result.data
  return {
    base: one.base_model ?? null,
    adapters: one.adapters,
    gate:
      one.kind === 'fixed'
        ? { kind: one.kind, weights: one.weights }
        : {
            kind: one.kind,
            topK: one.topK ?? Math.min(3, one.adapters.length),
            temperature: one.temperature,
          },
  }
}

export interface WriteCompositionOptions extends DeviceOptions {
  /** As `parseComposition` returns it. */
  readonly composition: Composition
  /** New, empty, or an adapter already. */
  readonly output: string
  readonly device?: string
}

/** Writes a composition as one mixture folder, which holds the adapters. @throws ConfigError, FormatError */
export async function writeComposition(options: WriteCompositionOptions): Promise<void> {
  const { composition, output, index, threads, instructionSet, memoryBudget } = options
  const { base, adapters, gate } = composition
  if (base === null)
    throw new ConfigError('base_model must be given: the model of the adapters', {
      details: { key: 'base_model' },
    })
  await requireOutside(output, [base, ...adapters])
  const config = await readConfig(base)
  const device = Device.open(options.device, { index, threads, instructionSet, memoryBudget })
  try {
    using mixture = await composeSaved(device, config, adapters, gate)
    await saveAdapter(mixture, output, { baseModel: base })
  } finally {
    await device.close()
  }
}
