import { Tensor } from '../tensor.js'

/** alpha · a + beta · b; same shapes, f32. Not recorded: the tape itself uses it. */
export function add(a: Tensor, b: Tensor, alpha = 1, beta = 1): Tensor {
  const y = Tensor.empty(a.device, a.shape)
  a.device.run('add', { a: a.native, b: b.native, alpha, beta, y: y.native })
  return y
}
