import { holdsAdapter } from '../adapters/adapter-folders.js'
import { requireOneBase } from '../adapters/base-name.js'
import type { Device } from '../device.js'
import { ConfigError } from '../errors.js'
import { nodeFileSystem } from '../file-system.js'
import type { DecoderConfig } from '../models/index.js'
import { AdapterDeltas } from './adapter-deltas.js'
import { GramFile } from './gram-file.js'
import { ModelFiles } from './model-files.js'
import type { PlainAdapterOptions } from './plain-adapter.js'
import type { Recipe, RecipeSlice } from './recipe.js'

/** The folders of a recipe, each opened once. */
export class Inputs {
  readonly #device: Device
  readonly #opened = new Map<string, { files: ModelFiles | null; adapter: AdapterDeltas | null }>()
  readonly #grams = new Map<string, GramFile>()

  constructor(device: Device) {
    this.#device = device
  }

  get models(): ModelFiles[] {
    return [...this.#opened.values()].flatMap(({ files }) => files ?? [])
  }

  get folders(): string[] {
    const adapters = [...this.#opened.values()].flatMap(({ adapter }) => adapter?.folder ?? [])
    return [...this.models.map(({ folder }) => folder), ...adapters, ...this.#grams.keys()]
  }

  get(reference: string) {
    return this.#opened.get(reference)!
  }

  gram(folder: string): GramFile {
    return this.#grams.get(folder)!
  }

  /** @param adapters what stands in for gates that are not fixed */
  async openAll(slices: readonly RecipeSlice[], adapters: PlainAdapterOptions = {}): Promise<void> {
    for (const { base } of slices) if (base !== null) await this.#openModel(base)
    for (const { base, sources } of slices)
      for (const { model, fisher, gram } of sources) {
        if (fisher !== undefined) await this.#openModel(fisher)
        if (gram !== undefined && !this.#grams.has(gram))
          this.#grams.set(gram, await GramFile.open(this.#device, gram))
        if (this.#opened.has(model)) continue
        const [folder, adapter] = await splitReference(model)
        if (folder === null && base === null)
          throw new ConfigError(`${model} is an adapter, so base_model must be given`, {
            details: { key: 'base_model' },
          })
        if (folder !== null) await this.#openModel(folder, model)
        if (adapter === null) continue
        const files = folder === null ? null : this.get(model).files
        const config = (files ?? this.get(base!).files!).config
        this.#opened.set(model, {
          files,
          adapter: await AdapterDeltas.open(this.#device, config, adapter, adapters),
        })
      }
    requireOneBase([...this.#opened.values()].flatMap(({ adapter }) => adapter ?? []))
  }

  async #openModel(folder: string, reference = folder): Promise<void> {
    const same = this.models.find((one) => one.folder === folder)
    if (!this.#opened.has(reference))
      this.#opened.set(reference, { files: same ?? (await ModelFiles.open(folder)), adapter: null })
  }

  async close(): Promise<void> {
    for (const gram of this.#grams.values()) gram.close()
    for (const { files, adapter } of this.#opened.values()) {
      adapter?.dispose()
      await files?.close()
    }
  }
}

/** MODEL, ADAPTER or MODEL+ADAPTER as the two folders. */
export async function splitReference(reference: string): Promise<[string | null, string | null]> {
  const names = await nodeFileSystem.list(reference).catch((): string[] => [])
  const isModel = names.includes('config.json')
  if (holdsAdapter(names)) return isModel ? [reference, null] : [null, reference]
  const plus = reference.indexOf('+')
  if (plus < 1 || isModel) return [reference, null]
  return [reference.slice(0, plus), reference.slice(plus + 1)]
}

/** Tensors are compared one by one; this says first what would make every one of them differ. */
export function requireOneShape(models: readonly ModelFiles[]): DecoderConfig {
  const [first, ...others] = models
  const keys = ['modelType', 'numLayers', 'hiddenSize', 'vocabSize', 'tieWordEmbeddings'] as const
  for (const { folder, config } of others)
    for (const key of keys)
      if (config[key] !== first.config[key])
        throw new ConfigError(
          `${folder} has ${key} ${config[key]} and ${first.folder} has ${first.config[key]}: only models of one shape can be merged`,
          { details: { path: folder, key, received: config[key], allowed: first.config[key] } },
        )
  return first.config
}

/** mergekit's linear would merge an unlisted base as well; adapters need one that is not merged. */
export function requireBaseAmongModels(
  { method, methodName, slices }: Recipe,
  inputs: Inputs,
): void {
  if (!method.mergesBase) return
  for (const { base, sources } of slices)
    if (base !== null && !sources.some(({ model }) => model === base))
      for (const { model } of sources)
        if (inputs.get(model).files)
          throw new ConfigError(
            `${methodName} merges whole models, and base_model ${base} is not among them: list it with its weight, or leave it out`,
            { details: { key: 'base_model', received: base } },
          )
}
