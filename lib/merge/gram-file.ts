import { join } from 'node:path'
import type { Device } from '../device.js'
import { FormatError } from '../errors.js'
import { SafetensorsFile } from '../safetensors.js'
import { Tensor } from '../tensor.js'
import { gramKey, gramName } from './information.js'

/** The Gram matrices that `collectGram` wrote. */
export class GramFile {
  readonly folder: string
  readonly #device: Device
  readonly #file: SafetensorsFile

  private constructor(folder: string, device: Device, file: SafetensorsFile) {
    this.folder = folder
    this.#device = device
    this.#file = file
  }

  /** @throws FormatError if the folder holds none */
  static async open(device: Device, folder: string): Promise<GramFile> {
    return new GramFile(folder, device, await SafetensorsFile.open(join(folder, gramName)))
  }

  /** Of the inputs of a layer, [in, in]. @throws FormatError if it is missing, of another size, or not finite */
  async read(path: string, inFeatures: number): Promise<Float64Array> {
    const name = gramKey(path)
    const entry = this.#file.entries.get(name)
    const fail = (problem: string): never => {
      throw new FormatError(`${this.#file.path}: ${problem}`, {
        details: { file: this.#file.path, key: name },
      })
    }
    if (!entry) return fail(`there is no Gram matrix ${name}, which ${path} needs`)
    if (entry.shape.join() !== `${inFeatures},${inFeatures}` || entry.dtype !== 'F32')
      return fail(
        `${name} is ${entry.dtype} [${entry.shape.join(', ')}], the model needs F32 [${inFeatures}, ${inFeatures}]`,
      )
    using tensor = Tensor.empty(this.#device, entry.shape)
    await this.#file.readTensor(name, tensor)
    const values = Float64Array.from(await tensor.readFloats())
    const bad = values.findIndex((value) => !Number.isFinite(value))
    return bad < 0 ? values : fail(`element ${bad} of ${name} is ${values[bad]}`)
  }

  close(): void {
    this.#file.close()
  }
}
