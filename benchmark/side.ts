/** One side of a comparison: a fresh process that answers commands, each one line of JSON. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface, type Interface } from 'node:readline'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { CaseFiles, DType } from './cases.js'

export interface SideOptions {
  readonly files: CaseFiles
  readonly dtype: DType
  readonly threads: number
  readonly method: 'lora' | 'full' | 'decode'
  readonly checkpointing: boolean
  /** cpu unless said; the peer knows it by the same name. */
  readonly device?: string
}

export interface Step {
  readonly seconds: number
  readonly loss: number
}

/** Also by processor time, of all threads. */
export interface TimedStep extends Step {
  readonly busySeconds: number
}

/** Of a comparison of kinds. */
export interface KindOptions {
  readonly files: CaseFiles
  readonly dtype: DType
  readonly threads: number
  /** Of LoRA, and of the experts of a mixture together. */
  readonly rank: number
  readonly experts: number
  readonly adapters: number
}

export interface Profile {
  /** Of one step, with the timing on. */
  readonly seconds: number
  readonly operations: readonly { operation: string; count: number; seconds: number }[]
}

export interface Decoded {
  readonly seconds: number
  readonly tokens: readonly (readonly number[])[]
}

const here = (name: string) => fileURLToPath(new URL(name, import.meta.url))

export class Side {
  readonly #child: ChildProcess
  readonly #lines: Interface
  readonly #answers: AsyncIterator<string>
  readonly #ended: Promise<string>
  readonly versions: Readonly<Record<string, string>> = {}
  loadSeconds = 0

  private constructor(command: string, args: readonly string[], options: { threads: number }) {
    this.#child = spawn(command, [...args, JSON.stringify(options)], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, OMP_NUM_THREADS: String(options.threads) },
    })
    this.#lines = createInterface({ input: this.#child.stdout! })
    this.#answers = this.#lines[Symbol.asyncIterator]()
    this.#ended = new Promise((resolve) => {
      this.#child.on('error', (error) => {
        resolve(error.message)
      })
      this.#child.on('close', (code, signal) => {
        resolve(signal ? `ended by ${signal}` : `exit code ${code}`)
      })
    })
    // The answer that does not come says what has happened.
    this.#child.stdin!.on('error', () => undefined)
  }

  static async ours(options: SideOptions): Promise<Side> {
    return await Side.#start(process.execPath, [here('ours.mjs')], options)
  }

  static async peer(python: string, options: SideOptions): Promise<Side> {
    return await Side.#start(python, [here('peer.py')], options)
  }

  /** Every kind of ours in one process. */
  static async kinds(options: KindOptions): Promise<Side> {
    return await Side.#start(process.execPath, [here('ours-kinds.mjs')], options)
  }

  static async peerKind(python: string, options: KindOptions & { variant: string }): Promise<Side> {
    return await Side.#start(python, [here('peer_kinds.py')], options)
  }

  static async #start(command: string, args: readonly string[], options: { threads: number }) {
    const side = new Side(command, args, options)
    const loaded = (await side.#answer()) as Pick<Side, 'versions' | 'loadSeconds'>
    return Object.assign(side, loaded)
  }

  async step(): Promise<Step> {
    // Threads of the other side spin for a while after their last work.
    await setTimeout(50)
    return (await this.#ask({ command: 'step' })) as Step
  }

  /** One step of a kind. */
  async stepOf(variant: string): Promise<TimedStep> {
    await setTimeout(50)
    return (await this.#ask({ variant })) as TimedStep
  }

  async profile(steps: number): Promise<Profile> {
    return (await this.#ask({ command: 'profile', steps })) as Profile
  }

  async decode(prompts: readonly (readonly number[])[], maxTokens: number): Promise<Decoded> {
    return (await this.#ask({ command: 'decode', prompts, maxTokens })) as Decoded
  }

  /** Peak resident memory in bytes since the process began; of the device too, where it is ours or a GPU. */
  async memory(): Promise<{ peak: number; devicePeak?: number }> {
    return (await this.#ask({ command: 'memory' })) as { peak: number; devicePeak?: number }
  }

  async close(): Promise<void> {
    this.#child.stdin!.end()
    await this.#ended
    this.#lines.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  #ask(command: object): Promise<unknown> {
    this.#child.stdin!.write(`${JSON.stringify(command)}\n`)
    return this.#answer()
  }

  async #answer(): Promise<unknown> {
    const { value, done } = await this.#answers.next()
    if (done) throw new Error(`a benchmark process gave no answer: ${await this.#ended}`)
    return JSON.parse(value)
  }
}
