import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { goldenPath } from '../golden-files.js'
import { temporaryFolder } from '../temporary-folder.js'
import { polylora } from './polylora.js'

describe('polylora evaluate --task', function () {
  this.timeout(60_000)
  const at = temporaryFolder()
  const model = goldenPath('models/qwen2-text/model')
  const evaluate = (...args: string[]) =>
    polylora(['evaluate', '--model', model, '--data', 'data.jsonl', ...args], at('.'))

  before(() => {
    const record = {
      prompt: 'Say it.',
      instruction_id_list: ['punctuation:no_comma'],
      kwargs: [{}],
    }
    writeFileSync(at('data.jsonl'), `${JSON.stringify(record)}\n`.repeat(3))
    writeFileSync(
      at('own.yaml'),
      'kind: likelihood\nname: own\nprompt: "Question:"\ntarget: "{prompt}"\n',
    )
  })

  it('prints the figures of a task of your own, and keeps the scores of its items', async () => {
    const first = await evaluate('--task', 'own.yaml', '--output', 'scores.jsonl')
    assert.equal(first.code, 0, first.stderr)
    assert.match(first.stdout, /^own: 3 items\n {2}greedy [01]\.\d{4} ± /)
    assert.match(first.stdout, / {2}perplexity \d+\.\d{4} {2}\(95%: /)
    assert.equal(readFileSync(at('scores.jsonl'), 'utf8').split('\n').length, 5)
    // Nothing is left to be scored.
    const again = await evaluate('--task', 'own.yaml', '--output', 'scores.jsonl')
    assert.equal(`${again.stdout}`, first.stdout.replace(/.* an item\n$/, ''))
  })

  it('says what is wrong with the flags, the task or a record', async () => {
    const wrong: [string[], RegExp][] = [
      [['--task', 'mmlu-pro'], /the task 'mmlu-pro' is not known; there are mmlu, /],
      [['--task', 'mmlu'], /data\.jsonl:1: .* is missing/],
      [['--task', 'own.yaml', '--shots', '2'], /--shots and --shots-data go together/],
      [['--limit', '2'], /--limit goes with --task/],
      [['--task', 'none.yaml'], /none\.yaml: the configuration cannot be read/],
    ]
    for (const [args, message] of wrong) {
      const { code, stderr, stdout } = await evaluate(...args)
      assert.equal(code, 2, stderr)
      assert.match(stderr, message)
      assert.equal(stdout, '')
    }
  })
})
