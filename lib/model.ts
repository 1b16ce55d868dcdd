import { Adapter } from './adapters/adapter.js'
import { composeSaved } from './adapters/compose.js'
import type { LoraDeclaration } from './adapters/declaration.js'
import type { CompositionGate } from './adapters/kinds.js'
import type { TrainingOverrides } from './adapters/peft-config.js'
import { loadAdapter, saveAdapter } from './adapters/peft.js'
import { Device, type DeviceOptions } from './device.js'
import { ArgumentError, DisposedError } from './errors.js'
import { generate, type GenerateOptions, type GeneratedText } from './generate/generate.js'
import { type DecoderConfig, Decoder, eachWeight, parseConfig, readConfig } from './models/index.js'
import { Parameter } from './parameter.js'
import { type ComputeDType, disposeWeights, initializeWeights, loadWeights } from './models/load.js'
import { type ChatMessage, Tokenizer } from './text/index.js'

export interface ModelOptions extends DeviceOptions {
  /** 'cpu', or a Device that is open already and stays so; default: the best there is. */
  device?: string | Device
  /** f32, or bf16 operands with float32 sums; default f32. */
  dtype?: ComputeDType
  /** One that is loaded already and stays so; default: the folder's. */
  tokenizer?: Tokenizer
  signal?: AbortSignal
  onProgress?: (read: number, total: number) => void
}

/** A language model on a device, with its tokenizer, and an adapter if one is attached. */
export class Model {
  /** The folder it came from; null if it was initialised from a configuration. */
  readonly folder: string | null
  readonly config: DecoderConfig
  readonly device: Device
  readonly decoder: Decoder
  readonly #tokenizer: Tokenizer | null
  readonly #ownsDevice: boolean
  readonly #ownsTokenizer: boolean
  #adapter: Adapter | null = null
  #disposed = false

  private constructor(
    folder: string | null,
    decoder: Decoder,
    tokenizer: Tokenizer | null,
    ownsDevice: boolean,
    ownsTokenizer: boolean,
  ) {
    this.folder = folder
    this.config = decoder.config
    this.device = decoder.device
    this.decoder = decoder
    this.#tokenizer = tokenizer
    this.#ownsDevice = ownsDevice
    this.#ownsTokenizer = ownsTokenizer
  }

  /** Reads a Hugging Face model folder: config.json, safetensors (single or sharded), tokenizer.json. */
  static async load(folder: string, options: ModelOptions = {}): Promise<Model> {
    const config = await readConfig(folder)
    return await Model.#open(folder, config, options, (device) =>
      loadWeights(device, folder, config, { ...options, compute: options.dtype }),
    )
  }

  /**
   * A model with random weights, to train from scratch.
   *
   * @param config an object in the form of config.json
   * @param tokenizerFolder where tokenizer.json is; none: token ids only
   */
  static async initialize(
    config: unknown,
    tokenizerFolder: string | null,
    options: ModelOptions & { seed?: number } = {},
  ): Promise<Model> {
    const parsed = parseConfig(config)
    return await Model.#open(tokenizerFolder, parsed, options, (device) =>
      initializeWeights(device, parsed, options.seed ?? 0, { compute: options.dtype }),
    )
  }

  /** The same with the config.json and tokenizer of a folder, whose weights, if any, are not read. */
  static async initializeFrom(
    folder: string,
    options: ModelOptions & { seed?: number } = {},
  ): Promise<Model> {
    const config = await readConfig(folder)
    return await Model.#open(folder, config, options, (device) =>
      initializeWeights(device, config, options.seed ?? 0, { compute: options.dtype }),
    )
  }

  static async #open(
    folder: string | null,
    config: DecoderConfig,
    options: ModelOptions,
    weights: (device: Device) => Promise<Decoder['weights']>,
  ): Promise<Model> {
    const ownsDevice = !(options.device instanceof Device)
    const { index, threads, instructionSet, memoryBudget } = options
    const device =
      options.device instanceof Device
        ? options.device
        : Device.open(options.device, { index, threads, instructionSet, memoryBudget })
    let own: Tokenizer | null = null
    try {
      const { tokenizer = folder === null ? null : (own = await Tokenizer.load(folder)) } = options
      const decoder = new Decoder(device, config, await weights(device))
      return new Model(folder, decoder, tokenizer, ownsDevice, own !== null)
    } catch (error) {
      await own?.dispose()
      if (ownsDevice) await device.close()
      throw error
    }
  }

  /** @throws ArgumentError if the model has none */
  get tokenizer(): Tokenizer {
    if (this.#disposed) throw new DisposedError('the model is disposed')
    if (!this.#tokenizer) throw new ArgumentError('this model was initialised without a tokenizer')
    return this.#tokenizer
  }

  /** Of the model itself, without an adapter; a tied head counts once. */
  get numParameters(): number {
    let count = 0
    for (const one of eachWeight(this.decoder.weights))
      count += one instanceof Parameter ? one.value.size : one.weight.rows * one.weight.columns
    return count
  }

  get adapter(): Adapter | null {
    return this.#adapter
  }

  /**
   * Attaches a fresh adapter; it changes nothing until it is trained. The model owns it. An adapter that was attached
   * before is disposed.
   */
  attach(declaration: LoraDeclaration): Adapter {
    const { kind, form } = declaration
    if (form.magnitude || form.initialization !== 'zero')
      throw new ArgumentError(
        `an adapter of kind ${kind} starts from the model's weights: attach it with await model.attachBound(…)`,
      )
    return this.#replace(Adapter.create(this.device, this.config, declaration))
  }

  /** The same for every kind: DoRA, PiSSA and OLoRA read the model's weights first. */
  async attachBound(declaration: LoraDeclaration): Promise<Adapter> {
    return await this.#bind(Adapter.create(this.device, this.config, declaration), false)
  }

  /** Attaches an adapter from a PEFT folder. @param overrides how it is trained further, where that is to differ */
  async attachFrom(folder: string, overrides: TrainingOverrides = {}): Promise<Adapter> {
    return await this.#bind(await loadAdapter(this.device, this.config, folder, overrides), true)
  }

  /**
   * Attaches one mixture of saved adapters, which stay as they are, behind a gate: learned by training it (mole), made
   * of prototypes (arrow), or constant (fixed).
   *
   * @param folders plain LoRA, in the order of the experts
   */
  async attachComposition(
    folders: readonly string[],
    gate: CompositionGate,
    { seed = 0 } = {},
  ): Promise<Adapter> {
    return this.#replace(await composeSaved(this.device, this.config, folders, gate, { seed }))
  }

  async #bind(adapter: Adapter, loaded: boolean): Promise<Adapter> {
    try {
      await adapter.bind(this.decoder.weights, { loaded })
    } catch (error) {
      adapter.dispose()
      throw error
    }
    return this.#replace(adapter)
  }

  /** Writes the attached adapter as a PEFT folder. @throws ArgumentError if none is attached */
  async saveAdapter(folder: string): Promise<void> {
    if (!this.#adapter) throw new ArgumentError('no adapter is attached to the model')
    await saveAdapter(this.#adapter, folder, { baseModel: this.folder ?? 'unknown' })
  }

  detach(): void {
    this.#adapter?.dispose()
    this.#adapter = null
  }

  #replace(adapter: Adapter): Adapter {
    this.#adapter?.dispose()
    this.#adapter = adapter
    return adapter
  }

  /**
   * Streams the continuation of one prompt. A string is taken as it is, as in training, or with `chatTemplate` rendered
   * as a user's turn; messages are always rendered.
   */
  async *generate(
    prompt: string | readonly ChatMessage[],
    options: GenerateOptions & { chatTemplate?: boolean } = {},
  ): AsyncGenerator<string> {
    for await (const { text } of this.generateBatch([prompt], options)) if (text) yield text
  }

  /** The same for several prompts at once. */
  async *generateBatch(
    prompts: readonly (string | readonly ChatMessage[])[],
    options: GenerateOptions & { chatTemplate?: boolean } = {},
  ): AsyncGenerator<GeneratedText> {
    const { tokenizer } = this
    const tokens = await Promise.all(
      prompts.map((prompt) => this.#encodePrompt(prompt, options.chatTemplate ?? false)),
    )
    yield* generate(this.decoder, this.#adapter, tokenizer, tokens, options)
  }

  async #encodePrompt(
    prompt: string | readonly ChatMessage[],
    chatTemplate: boolean,
  ): Promise<Int32Array> {
    const { tokenizer } = this
    const isText = typeof prompt === 'string'
    if (isText && !chatTemplate)
      return (await tokenizer.encode([prompt], { addSpecialTokens: true }))[0]
    const messages = isText ? [{ role: 'user', content: prompt }] : prompt
    const text = await tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true })
    return (await tokenizer.encode([text], { addSpecialTokens: false }))[0]
  }

  async dispose(): Promise<void> {
    if (this.#disposed) return
    this.#disposed = true
    this.detach()
    this.decoder.dispose()
    disposeWeights(this.decoder.weights)
    if (this.#ownsTokenizer) await this.#tokenizer?.dispose()
    if (this.#ownsDevice) await this.device.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose()
  }
}
