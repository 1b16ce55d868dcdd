import assert from 'node:assert/strict'
import { cpSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { goldenModel } from '../decoder-logits.js'
import { temporaryFolder } from '../temporary-folder.js'
import { polylora, start } from './polylora.js'

const steps = 40

interface Line {
  step: number
  loss?: number
  lossByDiscipline?: Record<string, number>
  evaluation?: { loss: number }
}

describe('polylora train', function () {
  this.timeout(180_000)
  const at = temporaryFolder()
  const run = (...args: string[]) => polylora(['train', 'run.yaml', ...args], at('.'))
  const metrics = (name: string) =>
    readFileSync(at(`${name}/metrics.jsonl`), 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Line)
  const weights = (name: string) => readFileSync(at(`${name}/adapter/adapter_model.safetensors`))

  before(async () => {
    cpSync(goldenModel('qwen2-text'), at('base'), { recursive: true })
    const record = (prompt: string, completion: string) =>
      `${JSON.stringify({ prompt, completion })}\n`
    let [sums, symbols] = ['', '']
    for (let i = 0; i < 37; i++) sums += record(`What is ${i} plus ${i * 3}?`, ` ${i * 4}`)
    for (let i = 0; i < 11; i++) symbols += record(`Element ${i + 1}?`, ` ${'HLBCNOFPSKU'[i]}`)
    writeFileSync(at('sums.jsonl'), sums)
    writeFileSync(at('symbols.jsonl'), symbols)
    writeFileSync(
      at('run.yaml'),
      `model: base
output: whole
method: { kind: lora, rank: 4, alpha: 8, targets: all-linear, dropout: 0.1 }
data:
  train:
    - { discipline: sums, path: sums.jsonl }
    - { discipline: symbols, path: symbols.jsonl, weight: 2 }
  validation: [{ discipline: symbols, path: symbols.jsonl }]
optimizer: { learningRate: 2.0e-3 }
schedule: { kind: cosine, warmupSteps: 3 }
batch: { size: 3, accumulation: 2 }
steps: ${steps}
checkpoint: { every: 7, keep: 2 }
evaluation: { every: 20 }
seed: 5
`,
    )
    const { code, stdout, stderr } = await run()
    assert.equal(code, 0, stderr)
    assert.match(
      stdout,
      /^trained 40 steps: loss \d+\.\d{4}, validation loss .*; written to whole\/adapter\n$/,
    )
    const lines = stderr.trimEnd().split('\n')
    assert.match(lines[0], /^training \d+ parameters on 48 samples of \d+ tokens for 40 steps$/)
    assert.match(lines[1], /^step 1\/40, loss \d+\.\d{4}, [\d.]+ tokens\/s$/)
    assert.ok(
      lines.some((line) => /^step 20: validation loss/.test(line)),
      stderr,
    )
    assert.ok(
      lines.some((line) => /^step 40\/40, loss/.test(line)),
      stderr,
    )
  })

  it('leaves metrics, two checkpoints and an adapter', () => {
    assert.deepEqual(readdirSync(at('whole')).sort(), [
      '.lock',
      'adapter',
      'metrics.jsonl',
      'run.json',
      'step-35',
      'step-40',
    ])
    const lines = metrics('whole')
    const trained = lines.filter((line) => line.loss !== undefined)
    assert.deepEqual(
      trained.map(({ step }) => step),
      Array.from({ length: steps }, (_, i) => i + 1),
    )
    for (const key of ['step', 'loss', 'gradNorm', 'learningRate', 'tokens', 'tokensPerSecond'])
      assert.ok(
        trained.every((line) => typeof line[key as 'loss'] === 'number'),
        key,
      )
    assert.ok(trained.some(({ lossByDiscipline }) => Object.keys(lossByDiscipline!).length === 2))
    assert.deepEqual(
      lines.filter((line) => line.evaluation).map(({ step }) => step),
      [20, 40],
    )
    assert.ok(trained.at(-1)!.loss! < trained[0].loss! / 2, 'it learns')
  })

  it('refuses to run again without --resume, or with anything else changed', async () => {
    const before = weights('whole')
    const cases: [string[], RegExp][] = [
      [[], /whole already holds a run/],
      [
        ['--resume', '--learning-rate', '1e-3'],
        /^polylora: optimizer\.learningRate was 0\.002 .* now 0\.001/,
      ],
      [['--resume', '--set', 'method.rank=5'], /^polylora: method\.rank was 4 .* now 5/],
      [['--resume', '--seed', '6'], /^polylora: seed was 5 .* now 6/],
      [['--resume', '--set', 'data.train.1.weight=3'], /^polylora: data\.train\.1\.weight was 2/],
    ]
    for (const [args, expected] of cases) {
      const { code, stderr } = await run(...args)
      assert.equal(code, 2, stderr)
      assert.match(stderr, expected)
      assert.match(stderr, /^[^\n]*\n$/)
    }
    assert.deepEqual(weights('whole'), before)
  })

  it('names a changed corpus and a changed base model', async () => {
    const changes: [string, RegExp, (path: string) => void][] = [
      [
        'sums.jsonl',
        /^polylora: corpus was /,
        (path) => {
          writeFileSync(path, readFileSync(path, 'utf8').replace('plus 3', 'plus 4'))
        },
      ],
      [
        'base/model.safetensors',
        /^polylora: baseModel was /,
        (path) => {
          const bytes = readFileSync(path)
          bytes[bytes.length - 100] ^= 1
          writeFileSync(path, bytes)
        },
      ],
    ]
    for (const [name, expected, change] of changes) {
      cpSync(at(name), at('kept'))
      change(at(name))
      const { code, stderr } = await run('--resume', '--steps', '50')
      cpSync(at('kept'), at(name))
      assert.equal(code, 2, stderr)
      assert.match(stderr, expected)
    }
  })

  it('stops after the step on a signal, and goes on to the same bits', async () => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      const name = `stopped-${signal}`
      const first = start(['train', 'run.yaml', '--output', name], at('.'))
      await first.says(/step \d+\/40/)
      first.child.kill(signal)
      const { code, stderr } = await first.finished
      assert.equal(code, signal === 'SIGINT' ? 130 : 143, stderr)
      assert.match(stderr, new RegExp(`^${signal}: finishing the step and saving`, 'm'))
      assert.match(
        stderr,
        /stopped after step (\d+), which is saved in .*; continue it with --resume\n$/,
      )
      const stopped = Number(/stopped after step (\d+)/.exec(stderr)![1])
      assert.ok(stopped < steps)
      assert.ok(readdirSync(at(name)).includes(`step-${stopped}`))
      assert.ok(!readdirSync(at(name)).includes('adapter'))
      const second = await run('--output', name, '--resume', '--threads', '1')
      assert.equal(second.code, 0, second.stderr)
      assert.match(second.stderr, new RegExp(`going on at step ${stopped + 1}$`, 'm'))
      assert.deepEqual(weights(name), weights('whole'))
      const withoutPace = (lines: Line[]) => lines.map((line) => ({ ...line, tokensPerSecond: 0 }))
      assert.deepEqual(withoutPace(metrics(name)), withoutPace(metrics('whole')))
    }
  })

  it('quits at once on a second signal', async () => {
    const running = start(
      ['train', 'run.yaml', '--output', 'twice', '--set', 'checkpoint.every=1'],
      at('.'),
    )
    await running.says(/step \d+\/40/)
    running.child.kill('SIGTERM')
    running.child.kill('SIGINT')
    const { code } = await running.finished
    // Whichever came first; the run may also have been quick enough to save.
    assert.ok(code === 130 || code === 143)
    const again = await run('--output', 'twice', '--resume')
    assert.equal(again.code, 0, again.stderr)
    assert.deepEqual(weights('twice'), weights('whole'))
  })

  it('is told in one sentence that another process has the folder', async () => {
    const running = start(['train', 'run.yaml', '--output', 'held'], at('.'))
    await running.says(/step 1\/40/)
    // It might end before the other has started.
    running.child.kill('SIGSTOP')
    const { code, stderr } = await run('--output', 'held', '--resume')
    running.child.kill('SIGKILL')
    const ended = await running.finished
    assert.equal(code, 1, stderr)
    assert.match(stderr, /^polylora: held is in use by another process[^\n]*\n$/)
    assert.equal(ended.signal, 'SIGKILL')
    const again = await run('--output', 'held', '--resume')
    assert.equal(again.code, 0, again.stderr)
    assert.deepEqual(weights('held'), weights('whole'))
  })

  it('passes over damaged checkpoints, and fails if there is no other', async () => {
    cpSync(at('whole'), at('damaged'), { recursive: true })
    rmSync(at('damaged/adapter'), { recursive: true })
    truncateSync(at('damaged/step-40/training.safetensors'), 5000)
    const args = ['--output', 'damaged', '--set', 'checkpoint.keep=9', '--resume']
    const resumed = await run(...args)
    assert.equal(resumed.code, 0, resumed.stderr)
    assert.match(
      resumed.stderr,
      /damaged\/step-40 is damaged and was passed over: training\.safetensors has 5000 bytes/,
    )
    assert.match(resumed.stderr, /going on at step 36$/m)
    assert.deepEqual(weights('damaged'), weights('whole'))
    for (const name of readdirSync(at('damaged')).filter((one) => one.startsWith('step-')))
      writeFileSync(join(at('damaged'), name, 'manifest.json'), '{}')
    const failed = await run(...args)
    assert.equal(failed.code, 1, failed.stderr)
    assert.match(
      failed.stderr,
      /polylora: damaged has no checkpoint that can be used: step-40 \(.*step-35 \(/,
    )
  })
})
