/** What a kind of file is: a good one, how it is opened, and some that were made to do harm. */

import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Device } from '../../lib/device.js'

export type Files = Record<string, string | Uint8Array>

export interface HostileFile {
  /** What is wrong with it. */
  readonly what: string
  readonly files: Files
  /** As the product opens it. */
  open(folder: string): Promise<unknown>
  /** What is damaged at random may happen to be good. */
  readonly expected: 'taken' | 'refused' | 'either'
  /** What the message says of it. */
  readonly reason?: RegExp
}

export interface Kind {
  readonly name: string
  /** The one of the files that is damaged. */
  readonly file: string
  good(): Files
  open(folder: string): Promise<unknown>
  hostile(): HostileFile[]
  /** How many times it is damaged at random. */
  readonly damages: number
  readonly everyTruncation?: boolean
  /** Why even a good one may be refused here. */
  readonly unreadable?: string
}

export const golden = (path: string) => fileURLToPath(new URL(`../golden/${path}`, import.meta.url))
export const textOf = (path: string) => readFileSync(golden(path), 'utf8')

let device: Device | null = null

/** Opens a file on a device, where it must leave nothing. */
export async function withDevice(body: (device: Device) => Promise<void>): Promise<void> {
  device ??= Device.open('cpu', { threads: 1, memoryBudget: 1 << 26 })
  let refused: unknown
  try {
    await body(device)
  } catch (error) {
    refused = error
  }
  const { memoryUsed } = device.info
  if (memoryUsed !== 0)
    throw new Error(`${memoryUsed} bytes of device memory are still in use`, { cause: refused })
  if (refused !== undefined) throw refused as Error
}

/** Ends what the kinds share. */
export async function closeDevice(): Promise<void> {
  await device?.close()
  device = null
}

/** A JSON document with other values for some of its keys. */
export const withChanges = (text: string, changes: object) =>
  JSON.stringify({ ...(JSON.parse(text) as object), ...changes })
