import { createHash } from 'node:crypto'
import { open, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { folderFormat } from '../adapters/adapter-folders.js'

const sampleBytes = 1 << 16
const mostSamples = 64

/**
 * SHA-256 of config.json, or an adapter's configuration, and of every safetensors file's size, beginning and evenly
 * spaced samples: tells one model, adapter or mixture from another without reading all of its bytes.
 */
export async function modelFingerprint(folder: string): Promise<string> {
  const hash = createHash('sha256')
  const all = (await readdir(folder)).sort()
  const config = all.includes('config.json') ? 'config.json' : folderFormat(folder, all).config
  hash.update(await readFile(join(folder, config)))
  const names = all.filter((name) => name.endsWith('.safetensors'))
  for (const name of names) {
    const file = await open(join(folder, name))
    try {
      const { size } = await file.stat()
      hash.update(`\n${name} ${size}\n`)
      const count = Math.min(mostSamples, Math.ceil(size / sampleBytes))
      const buffer = new Uint8Array(sampleBytes)
      for (let i = 0; i < count; i++) {
        const at = count === 1 ? 0 : Math.floor((i * Math.max(0, size - sampleBytes)) / (count - 1))
        const { bytesRead } = await file.read(buffer, 0, sampleBytes, at)
        hash.update(buffer.subarray(0, bytesRead))
      }
    } finally {
      await file.close()
    }
  }
  return hash.digest('hex')
}
