/** A safetensors file in memory, for tests that need one that no library would write. */
export function safetensorsBytes(
  tensors: Readonly<
    Record<string, { dtype: string; shape: readonly number[]; bytes: ArrayBufferView }>
  >,
): Buffer {
  let end = 0
  const header: Record<string, unknown> = {}
  for (const [name, { dtype, shape, bytes }] of Object.entries(tensors)) {
    const begin = end
    end += bytes.byteLength
    header[name] = { dtype, shape, data_offsets: [begin, end] }
  }
  const json = Buffer.from(JSON.stringify(header))
  const size = Buffer.alloc(8)
  size.writeBigUInt64LE(BigInt(json.length))
  const data = Object.values(tensors).map(({ bytes }) =>
    Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength),
  )
  return Buffer.concat([size, json, ...data])
}
