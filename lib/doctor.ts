import { cpus } from 'node:os'
import { type Backend, backends, Device, type DeviceInfo } from './device.js'
import { version } from './version.js'

/** A device kind: where it was loaded from, and what it has, or why it cannot be used. */
export interface DeviceReport extends Backend {
  /** Null if the device did not load or did not open; `reason` says why. */
  readonly info: DeviceInfo | null
}

export interface DoctorReport {
  readonly version: string
  readonly node: string
  readonly platform: string
  readonly processor: string
  readonly devices: readonly DeviceReport[]
}

/** What this installation can run on. Never throws: what does not work is part of the report. */
export async function doctor(): Promise<DoctorReport> {
  return {
    version: version(),
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    processor: cpus()[0]?.model.trim() ?? 'unknown',
    devices: await Promise.all(listBackends().map(inspect)),
  }
}

function listBackends(): Backend[] {
  try {
    return backends()
  } catch (error) {
    const { details } = error as { details?: { file?: unknown } }
    const file = typeof details?.file === 'string' ? details.file : null
    return [{ kind: 'cpu', file, reason: (error as Error).message }]
  }
}

async function inspect(backend: Backend): Promise<DeviceReport> {
  if (backend.reason !== null) return { ...backend, info: null }
  try {
    const device = Device.open(backend.kind)
    try {
      return { ...backend, info: device.info }
    } finally {
      await device.close()
    }
  } catch (error) {
    return { ...backend, reason: (error as Error).message, info: null }
  }
}
