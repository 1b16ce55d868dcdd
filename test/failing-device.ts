import assert from 'node:assert/strict'
import type { Device } from '../lib/device.js'
import { DeviceError } from '../lib/errors.js'
import { scope } from '../lib/scope.js'
import type { DeviceContext } from './devices.js'

/** What `body` queues on a device of its own must fail that device with this message, and nothing else. */
export async function assertFailsDevice(
  context: DeviceContext,
  body: (device: Device) => void,
  message: RegExp,
): Promise<void> {
  const device = context.open()
  try {
    scope(() => {
      body(device)
    })
    await assert.rejects(
      device.synchronize(),
      (error) => error instanceof DeviceError && message.test(error.message),
      `no failure like ${message}`,
    )
  } finally {
    await device.close()
  }
}
