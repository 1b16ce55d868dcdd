import assert from 'node:assert/strict'
import type { Device } from '../lib/device.js'
import { assertSameBits } from './compare.js'
import type { DeviceContext } from './devices.js'

/** Runs the same on devices with 1, 2 and 4 threads (other kinds of device: three times), and compares all bits. */
export async function assertSameAtAnyThreads(
  { variant, open }: DeviceContext,
  run: (device: Device) => Promise<Readonly<Record<string, Float32Array>>>,
): Promise<void> {
  let first: Readonly<Record<string, Float32Array>> | null = null
  for (const threads of [1, 2, 4]) {
    const device = open(variant.kind === 'cpu' ? { threads } : {})
    try {
      const result = await run(device)
      first ??= result
      assert.deepEqual(Object.keys(result), Object.keys(first))
      for (const [name, values] of Object.entries(first))
        assertSameBits(result[name], values, `${name} with ${threads} threads`)
    } finally {
      await device.close()
    }
  }
}
