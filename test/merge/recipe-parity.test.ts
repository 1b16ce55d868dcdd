import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse } from 'yaml'
import { Device } from '../../lib/device.js'
import { mergeRecipe, parseRecipe } from '../../lib/merge/index.js'
import { assertClose } from '../compare.js'
import { readTensors } from '../decoder-logits.js'
import { goldenPath } from '../golden-files.js'
import { temporaryFolder } from '../temporary-folder.js'

const golden = (name: string) => join(goldenPath('merging'), name)
const recipes = readdirSync(golden('mergekit'))
  .filter((name) => name.endsWith('.yaml'))
  .map((name) => name.slice(0, -5))

/** A recipe with every folder under test/golden/merging/models. */
export function locate(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(locate)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).map(([key, one]) =>
      (key === 'model' || key === 'base_model') && typeof one === 'string'
        ? [key, golden(join('models', one))]
        : [key, locate(one)],
    ),
  )
}

describe('recipes of mergekit', () => {
  const at = temporaryFolder()

  for (const name of recipes)
    it(`${name} gives mergekit's weights`, async () => {
      const text = readFileSync(golden(join('mergekit', `${name}.yaml`)), 'utf8')
      const recipe = parseRecipe(locate(parse(text)), name)
      await mergeRecipe({ recipe, output: at(name), device: 'cpu', threads: 1 })
      const expected = await tensorsOf(golden(join('mergekit', `${name}.safetensors`)))
      const actual = await tensorsOf(at(join(name, 'model.safetensors')))
      assert.deepEqual([...actual.keys()].sort(), [...expected.keys()].sort())
      for (const [key, { values, shape }] of expected) {
        assert.deepEqual(actual.get(key)!.shape, shape)
        // mergekit computes in float32 throughout; elections hang on sums that no golden case has near zero.
        assertClose(actual.get(key)!.values, values, 1e-6, key)
      }
    })
})

async function tensorsOf(path: string) {
  const device = Device.open('cpu', { threads: 1 })
  try {
    return await readTensors(device, path)
  } finally {
    await device.close()
  }
}
