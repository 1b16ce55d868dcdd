import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { describe, it } from 'mocha'
import { findUnlaunched } from '../../scripts/launched-kernels.mjs'
import { temporaryFolder } from '../temporary-folder.js'

const library = resolve('build/cuda-emulated/polylora_cuda_emulated.so')
const absence = existsSync(library) ? '' : ' (skipped: the emulated device is not built)'

describe(`the kernels that no test has run${absence}`, () => {
  const at = temporaryFolder()

  it('are all where nothing is noted', async function () {
    if (absence) this.skip()
    const { kernels, missing } = await findUnlaunched(library, at('nothing'))
    assert.equal(missing.length, kernels)
    for (const kernel of ['rms_norm_kernel<32, true>', 'adamw_kernel', 'each_element_kernel<'])
      assert.ok(
        missing.some((name) => name.includes(kernel)),
        kernel,
      )
  })

  it('are those whose place in this library is not noted', async function () {
    if (absence) this.skip()
    const all = await findUnlaunched(library, at('nothing'))
    const symbols = execFileSync('nm', ['-C', library], { encoding: 'utf8' }).split('\n')
    const places = (text: string) =>
      symbols
        .filter((line) => line.includes(` ${text}`) && line.endsWith(')'))
        .map((line) => line.slice(0, line.indexOf(' ')).replace(/^0+/, ''))
    const some = places('void polylora::cuda::each_element_kernel<')
    assert.ok(some.length > 20)
    const others = places('polylora::cuda::(anonymous namespace)::adamw_kernel(')
    assert.equal(others.length, 1)
    writeFileSync(
      at('notes'),
      [...some.map((place) => `${place} ${library}`), `${others[0]} another.so`, ''].join('\n'),
    )
    const { kernels, missing } = await findUnlaunched(library, at('notes'))
    assert.equal(kernels, all.kernels)
    assert.deepEqual(
      missing,
      all.missing.filter((name) => !name.includes('each_element_kernel<')),
    )
  })
})
