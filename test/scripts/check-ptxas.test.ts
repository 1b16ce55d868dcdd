import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import { complaints, parsePtxas } from '../../scripts/check-ptxas.mjs'

const log = (name: string, stack: number, spilled: number) =>
  `ptxas info    : Compiling entry function '${name}' for 'sm_90a'
ptxas info    : Function properties for ${name}
    ${stack} bytes stack frame, ${spilled} bytes spill stores, ${spilled} bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers
`

describe('check-ptxas', () => {
  it('reads what each kernel uses', () => {
    const kernels = parsePtxas(log('_Z3add', 0, 0) + log('_Z6matmul', 16, 8))
    assert.deepEqual(
      kernels.map(({ name, stack, stores }) => [name, stack, stores]),
      [
        ['_Z3add', 0, 0],
        ['_Z6matmul', 16, 8],
      ],
    )
  })

  it('complains of products that spill or use the stack, and of serialised wgmma', () => {
    assert.deepEqual(complaints(log('_Z3add', 8, 8) + log('_Z6matmul', 0, 0)), [])
    assert.equal(complaints(log('_Z13matmul_kernel', 0, 4)).length, 1)
    assert.equal(complaints(log('_Z18attention_backward', 40, 0)).length, 1)
    assert.match(complaints('ptxas info : (C7510) Potential Performance Loss')[0], /C7510/)
  })
})
