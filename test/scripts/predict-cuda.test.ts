import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import { familyOf } from '../../scripts/predict-cuda.mjs'
import { card, occupancy, predict } from '../../scripts/predict/card.mjs'
import { casesOf } from '../../scripts/predict/cases.mjs'

describe('predict-cuda', () => {
  it('knows how many blocks a processor holds', () => {
    assert.equal(occupancy({ registers: 32, threads: 256, shared: 0 }), 8) // by threads
    assert.equal(occupancy({ registers: 128, threads: 256, shared: 0 }), 2) // by registers
    assert.equal(occupancy({ registers: 121, threads: 256, shared: 0 }), 2) // which go by 256 a warp
    assert.equal(occupancy({ registers: 32, threads: 128, shared: 64 << 10 }), 3) // by shared memory
    assert.equal(occupancy({ registers: 16, threads: 32, shared: 0 }), 32) // by blocks
  })

  it('finds the slowest unit, and rounds that are not full', () => {
    const use = { registers: 32, shared: 0 }
    const work = { fma: 256 * card.clock } // a second of a processor
    const one = predict({ use, blocks: 1, threads: 256, work })
    assert.deepEqual([one.limit, one.time], ['fma', 1])
    const full = predict({ use, blocks: 132 * 8, threads: 256, work })
    assert.equal(full.time, 8) // eight blocks share their processor
    assert.equal(predict({ use, blocks: 132 * 8 + 1, threads: 256, work }).time, 16)
    const bytes = predict({ use, blocks: 1, threads: 256, work, memory: 2 * card.memory })
    assert.deepEqual([bytes.limit, bytes.time], ['memory', 2])
  })

  it('lets blocks that share a processor fill the waits of each other', () => {
    const use = { registers: 32, shared: 0 }
    const launch = { use, threads: 256, work: { fma: 256e3 }, exposed: 3000 }
    const cycles = (blocks: number) => Math.round(predict({ ...launch, blocks }).time * card.clock)
    assert.equal(cycles(132), 4000)
    assert.equal(cycles(132 * 2), 4000)
    assert.equal(cycles(132 * 8), 8000)
  })

  it('knows what a mangled kernel is an instance of', () => {
    const file = '_GLOBAL__N__9a339b8f_7_copy_cu_11e159dc'
    const within = `_ZN8polylora4cuda${file.length}${file}`
    for (const [mangled, family] of [
      [`${within}12adamw_kernelENS1_5BatchE`, 'adamw_kernel'],
      [`${within}15rms_norm_kernelILi32ELb1EEEvNS0_4RowsE`, 'rms_norm_kernel'],
      [
        `_ZN8polylora4cuda19each_element_kernelINS0_${file.length}${file}4CopyIhiEEEEvlT_`,
        'each_element_kernel, Copy',
      ],
      [
        '_ZN8polylora4cuda19each_element_kernelINS0_10RoundHeadsEEEvlT_',
        'each_element_kernel, RoundHeads',
      ],
    ])
      assert.equal(familyOf(mangled), family)
  })

  it('takes the wgmma kernel for the products where nvcc has made one', () => {
    const one = { registers: 168, shared: 0 }
    const names = (use: (pattern: RegExp) => object | undefined) =>
      casesOf(use)['frozen:8192,4096,4096'].map(({ kernel }: { kernel: string }) => kernel)
    const without = names((pattern) => (pattern.source.includes('sm90') ? undefined : one))
    const rounding = 'each_element, Round'
    assert.deepEqual(without, [rounding, 'matmul_bf16, nt', rounding, 'matmul_bf16, nn'])
    assert.equal(names(() => one).filter((name: string) => name.includes('sm90')).length, 2)
  })
})
