import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'
import type { StudyResults } from '../lib/laws/study.js'
import { parseStudyConfig } from '../lib/laws/study-config.js'
import { parseTrainConfig } from '../lib/train/options.js'
import { polylora } from './cli/polylora.js'
import { goldenModel } from './decoder-logits.js'
import { temporaryFolder } from './temporary-folder.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const readme = readFileSync(join(root, 'README.md'), 'utf8')

/** The block of this language, from 0 on. */
function block(language: string, index = 0): string {
  const found = [...readme.matchAll(new RegExp(`\`\`\`${language}\n([^]*?)\`\`\``, 'g'))].at(index)
  assert.ok(found, `README.md has ${index + 1} ${language} blocks`)
  return found[1]
}

describe('README', () => {
  it('has a first script that runs as it stands', async function () {
    this.timeout(120_000)
    const folder = mkdtempSync(join(tmpdir(), 'polylora-readme-'))
    try {
      symlinkSync(join(root, 'examples'), join(folder, 'examples'))
      cpSync(join(root, 'package.json'), join(folder, 'package.json'))
      symlinkSync(join(root, 'dist'), join(folder, 'dist'))
      symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
      symlinkSync(join(root, 'build'), join(folder, 'build'))
      writeFileSync(join(folder, 'first.mjs'), block('js'))
      const { code, output } = await run(folder, 'first.mjs')
      assert.equal(code, 0, output)
      const losses = output.matchAll(/^(\d+) (\d+\.\d+)$/gm)
      assert.deepEqual(
        Array.from(losses, ([, step]) => Number(step)),
        Array.from({ length: 20 }, (_, i) => i + 1),
      )
      const config: unknown = JSON.parse(
        readFileSync(join(folder, 'runs/first/adapter/adapter_config.json'), 'utf8'),
      )
      assert.equal((config as { r: number }).r, 16)
      assert.match(output.trimEnd().split('\n').at(-1)!, /\p{L}{3}/u, 'it answers in words')
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })

  it('shows a configuration that the schema takes', () => {
    const config = parseTrainConfig(parse(block('yaml')))
    assert.equal(config.data.train.length, 2)
    assert.equal(config.batch.accumulation, 2)
  })

  describe("shows a study of one's own model and corpus", function () {
    this.timeout(600_000)
    const at = temporaryFolder()
    const text = block('yaml', 1)
    const config = parseStudyConfig(parse(text))

    it('in at most 20 lines, of five files', () => {
      assert.ok(text.trimEnd().split('\n').length <= 20)
      assert.equal(Object.keys(config.data.disciplines).length, 5)
      assert.equal(config.minutes, 90)
    })

    it('that runs as it stands, all of its laws: a slice, with fewer items and learning rates', async () => {
      const slice = ['--slice', '--minutes 0.05', '--set items=6', '--set learningRates=[0.001]']
      writeFileSync(at('study.yaml'), text)
      cpSync(goldenModel('qwen2-text'), at(config.model), { recursive: true })
      Object.values(config.data.disciplines).forEach((path, d) => {
        assert.ok(typeof path === 'string')
        mkdirSync(dirname(at(path)), { recursive: true })
        const records = Array.from({ length: 40 + 20 * d }, (_, i) => ({
          prompt: `Discipline ${d}: what is ${i}?`,
          completion: `It is ${'abcdefg'[(i * (d + 2)) % 7]}.`,
        }))
        writeFileSync(at(path), records.map((one) => `${JSON.stringify(one)}\n`).join(''))
      })
      const { code, stdout, stderr } = await polylora(
        ['study', 'study.yaml', ...slice.flatMap((one) => one.split(' '))],
        at('.'),
      )
      assert.equal(code, 0, stderr)
      for (const law of config.laws)
        assert.match(stdout, new RegExp(`^${law}: undecided \\(a slice gives no verdict\\)$`, 'm'))
      const results = JSON.parse(
        readFileSync(at(`${config.output}/results.json`), 'utf8'),
      ) as StudyResults
      assert.equal(results.status, 'finished')
      assert.deepEqual(
        Object.values(results.runs).filter(({ status }) => status === 'failed'),
        [],
      )
      assert.match(readFileSync(at(`${config.output}/report.html`), 'utf8'), /mathematics/)
    })
  })
})

function run(cwd: string, file: string): Promise<{ code: number | null; output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [file], { cwd, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    const add = (chunk: Buffer) => (output += chunk.toString())
    child.stdout.on('data', add)
    child.stderr.on('data', add)
    child.on('error', reject)
    child.on('close', (code) => {
      resolve({ code, output })
    })
  })
}
