import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { after, afterEach, before, beforeEach, describe, it } from 'mocha'
import { backends, Device, type DeviceOptions } from '../lib/device.js'
import { DeviceError } from '../lib/errors.js'
import { loadNative } from '../lib/native.js'

/** A device, and where it has several code paths, the one it is held to. */
export interface DeviceVariant {
  readonly name: string
  readonly kind: string
  readonly options: DeviceOptions
}

// Highest first is not needed: a device says which set it really took.
const instructionSets = ['portable', 'avx2', 'avx512', 'avx512-bf16']

let variants: DeviceVariant[] | undefined

/**
 * CUDA's kernels in the emulator (test/cuda/emulator); `npm test` builds it where there is cmake. `POLYLORA_EMULATED`
 * names another build of them: race, sanitized, or a file.
 */
function emulatedDevice(): string | undefined {
  const folder = fileURLToPath(new URL('../build/cuda-emulated', import.meta.url))
  const asked = process.env.POLYLORA_EMULATED
  if (asked === undefined) {
    const path = resolve(folder, 'polylora_cuda_emulated.so')
    return existsSync(path) ? path : undefined
  }
  return resolve(folder, asked.endsWith('.so') ? asked : `polylora_cuda_${asked}.so`)
}

/**
 * Every device present, the CPU once for each instruction set that the processor has. The emulated CUDA device is one
 * of them where it was built.
 */
export function deviceVariants(): readonly DeviceVariant[] {
  if (variants === undefined) {
    const emulated = emulatedDevice()
    if (emulated !== undefined) loadNative().addBackend(emulated)
  }
  variants ??= backends()
    .filter(({ reason }) => reason === null)
    .flatMap(({ kind }) => (kind === 'cpu' ? cpuVariants() : [{ name: kind, kind, options: {} }]))
  assert.ok(variants.length > 0, 'no device is present')
  return variants
}

/** The instruction set that a device takes when it is held to one; null: it cannot be. */
function takenBy(kind: string, options: DeviceOptions): string | null {
  try {
    const device = Device.open(kind, { threads: 1, ...options })
    const { instructionSet } = device.info
    void device.close()
    return instructionSet
  } catch {
    return null
  }
}

/** For what has kernels of its own on sm_90: those of the first tier, which it has as well. */
function firstTierOf({ name, kind, options }: DeviceVariant): DeviceVariant[] {
  if (!kind.startsWith('cuda') || takenBy(kind, options) !== 'sm_90') return []
  return [{ name: `${name}, sm_80`, kind, options: { ...options, instructionSet: 'sm_80' } }]
}

function cpuVariants(): DeviceVariant[] {
  const taken = instructionSets.filter(
    (instructionSet) => takenBy('cpu', { instructionSet }) === instructionSet,
  )
  return taken.map((instructionSet) => ({
    name: `cpu, ${instructionSet}`,
    kind: 'cpu',
    options: { instructionSet },
  }))
}

/** What does not run in the emulator, and why. */
const notEmulated: Readonly<Record<string, string>> = {
  'test/train/trainer.test.ts':
    'long runs at several numbers of threads, of which the emulator has one',
}

let runningTest: Mocha.Test | undefined

/** A test that needs an operation which this device does not have yet is skipped, and says so. */
function openForTests(variant: DeviceVariant, options: DeviceOptions): Device {
  const device = Device.open(variant.kind, { ...variant.options, ...options })
  const run = device.run.bind(device)
  device.run = (operation, args) => {
    try {
      run(operation, args)
    } catch (error) {
      if (error instanceof DeviceError && error.details.unsupported === 1 && runningTest) {
        if (!runningTest.isPending()) runningTest.title += ` (skipped: ${error.message})`
        // What Mocha's own skip() does: the test counts as skipped however it ends.
        runningTest.pending = true
      }
      throw error
    }
  }
  return device
}

/** What the tests of one device see: the device is open while a test runs. */
export interface DeviceContext {
  readonly variant: DeviceVariant
  readonly device: Device
  /** Another device of the same kind and instruction set; the caller closes it. */
  open(options?: DeviceOptions): Device
}

/**
 * Describes the same tests once for every device and instruction set present. After each test the device must hold as
 * much memory as before: whatever a test makes, a scope or the test itself has to end.
 *
 * @param onEveryTier a CUDA device of sm_90 runs them a second time, with the kernels of sm_80
 */
export function forEachDevice(
  title: string,
  body: (context: DeviceContext) => void,
  { onEveryTier = false } = {},
): void {
  describe(title, function () {
    const { file } = this
    const variants = deviceVariants().flatMap((variant) =>
      onEveryTier ? [variant, ...firstTierOf(variant)] : [variant],
    )
    for (const variant of variants)
      describe(`on ${variant.name}`, () => {
        const why = Object.keys(notEmulated).find((path) => file?.endsWith(path))
        if (variant.kind === 'cuda-emulated' && why !== undefined) {
          it(`(skipped: ${notEmulated[why]})`)
          return
        }
        let device: Device | null = null
        let memoryUsed = 0
        const open = (options: DeviceOptions) => openForTests(variant, options)
        before(() => {
          device = open({ threads: 2 })
        })
        after(async () => {
          await device?.close()
        })
        beforeEach(function () {
          runningTest = this.currentTest
          memoryUsed = device!.info.memoryUsed
        })
        afterEach(async function () {
          await device!.synchronize()
          if (this.currentTest?.isPending() === true) return // it ended where it stood
          assert.equal(device!.info.memoryUsed, memoryUsed, 'bytes of device memory still in use')
        })
        body({
          variant,
          get device() {
            assert.ok(device, 'the device is open only while tests run')
            return device
          },
          open: (options = {}) => open(options),
        })
      })
  })
}
