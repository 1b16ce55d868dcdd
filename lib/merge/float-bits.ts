/** float32 and the two half precisions as their bits, on the host. */

/** Little-endian bytes of a safetensors file as float32; exact. The bytes must be aligned and not a part of a larger buffer. */
export function widen(bytes: Buffer, dtype: 'F32' | 'BF16' | 'F16'): Float32Array {
  const { buffer, byteOffset, length } = bytes
  if (dtype === 'F32') return new Float32Array(buffer, byteOffset, length / 4)
  const halves = new Uint16Array(buffer, byteOffset, length / 2)
  const values = new Float32Array(halves.length)
  const bits = new Uint32Array(values.buffer)
  if (dtype === 'BF16') for (let i = 0; i < halves.length; i++) bits[i] = halves[i] << 16
  else for (let i = 0; i < halves.length; i++) values[i] = fromF16(halves[i])
  return values
}

/** float32 as the bytes of a safetensors file, rounded to nearest, ties to even. The values must be finite. */
export function narrow(values: Float32Array, dtype: 'f32' | 'bf16' | 'f16'): Uint8Array {
  if (dtype === 'f32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  const halves = new Uint16Array(values.length)
  if (dtype === 'f16') for (let i = 0; i < halves.length; i++) halves[i] = toF16(values[i])
  else {
    const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
    for (let i = 0; i < halves.length; i++)
      halves[i] = (bits[i] + 0x7fff + ((bits[i] >>> 16) & 1)) >>> 16
  }
  return new Uint8Array(halves.buffer)
}

function fromF16(half: number): number {
  const sign = half & 0x8000 ? -1 : 1
  const exponent = (half >> 10) & 31
  const fraction = half & 1023
  if (exponent === 31) return fraction ? NaN : sign * Infinity
  return exponent === 0
    ? sign * fraction * 2 ** -24
    : sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

/** Infinity above 65,504 and what rounds to it. */
function toF16(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0
  const magnitude = Math.abs(value)
  if (magnitude >= 65520) return sign | 0x7c00
  // Steps of 2^-24 below 2^-14, of 2^(exponent - 10) above.
  const exponent = Math.max(-14, Math.floor(Math.log2(magnitude || 2 ** -24)))
  const steps = roundToEven(magnitude / 2 ** (exponent - 10))
  return sign | ((exponent + 14) * 1024 + steps)
}

function roundToEven(x: number): number {
  const below = Math.floor(x)
  const rest = x - below
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below
}
