import assert from 'node:assert/strict'
import { cpSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { describe, it } from 'mocha'
import { Adapter } from '../../lib/adapters/adapter.js'
import { lora, type LoraDeclaration } from '../../lib/adapters/declaration.js'
import { loraMoe, mtlLora } from '../../lib/adapters/kinds.js'
import { saveAdapter } from '../../lib/adapters/peft.js'
import { Device } from '../../lib/device.js'
import { readConfig } from '../../lib/models/index.js'
import { goldenModel } from '../decoder-logits.js'
import { Random } from '../random.js'
import { temporaryFolder } from '../temporary-folder.js'
import { polylora } from './polylora.js'

const model = goldenModel('qwen2-text')

describe('adapter kinds on the command line', function () {
  this.timeout(180_000)
  const at = temporaryFolder()

  before(async () => {
    const device = Device.open('cpu', { threads: 1 })
    const config = await readConfig(model)
    const declarations: Record<string, LoraDeclaration> = {
      biology: lora({ rank: 2, seed: 1 }),
      law: lora({ rank: 3, seed: 2 }),
      tasks: mtlLora({ rank: 2, disciplines: ['biology', 'law'] }),
      routed: loraMoe({ rank: 2, experts: 3, seed: 3 }),
    }
    for (const [i, [name, declaration]] of Object.entries(declarations).entries()) {
      using adapter = Adapter.create(device, config, declaration)
      const random = new Random(i)
      for (const { part } of adapter.modules)
        part.b.value.write(random.normal(part.b.value.size, 0.5))
      // Another baseModel would be one of another model.
      await saveAdapter(adapter, at(name), { baseModel: model })
    }
    await device.close()
  })

  const generate = async (...more: string[]) => {
    const args = ['generate', '--model', model, '--prompt', 'What comes after 3?']
    const device = ['--temperature', '0', '--max-tokens', '12', '--threads', '1']
    return await polylora([...args, ...device, ...more], at('.'))
  }

  it('a composition in a YAML file is generated with as it is, and merged into one folder', async () => {
    const composition = {
      kind: 'arrow',
      base_model: model,
      adapters: ['biology', 'law'],
      topK: 1,
    }
    writeFileSync(at('arrow.yaml'), JSON.stringify(composition))
    const direct = await generate('--adapter', 'arrow.yaml')
    assert.equal(direct.code, 0, direct.stderr)
    const merged = await polylora(['merge', 'arrow.yaml', '--output', 'arrow'], at('.'))
    assert.equal(merged.code, 0, merged.stderr)
    assert.match(merged.stdout, /mixture of 2 adapters written to arrow/)
    const saved = await generate('--adapter', 'arrow')
    assert.equal(saved.stdout, direct.stdout)
    const described = await polylora(['describe', 'arrow'], at('.'))
    assert.match(described.stdout, /2 experts a layer, frozen, top 1 of prototypes/)
  })

  it('MoLE over saved adapters is trained from one YAML file', async () => {
    const records = Array.from({ length: 6 }, (_, i) => ({
      prompt: `What comes after ${i}?`,
      completion: ` ${i + 1}`,
    }))
    writeFileSync(at('data.jsonl'), records.map((one) => `${JSON.stringify(one)}\n`).join(''))
    const config = {
      model,
      output: 'mole-run',
      method: { kind: 'mole', adapters: ['biology', 'law'], balanceLoss: 0.01 },
      data: { train: [{ path: 'data.jsonl' }] },
      steps: 3,
      batch: { size: 2 },
    }
    writeFileSync(at('mole.yaml'), JSON.stringify(config))
    const trained = await polylora(['train', 'mole.yaml'], at('.'))
    assert.equal(trained.code, 0, trained.stderr)
    const described = await polylora(['describe', 'mole-run/adapter'], at('.'))
    assert.match(described.stdout, /mole: 2 experts a layer, frozen, softmax of what they say/)
    // Two layers of seven modules, 2 experts of rank 3: 2 · 2 · 3 each.
    assert.match(described.stdout, /trainable parameters: 168 \(4·r a module\)/)
    const generated = await generate('--adapter', 'mole-run/adapter')
    assert.equal(generated.code, 0, generated.stderr)
  })

  it('an adapter that goes by discipline is told which, and exported for it', async () => {
    const without = await generate('--adapter', 'tasks')
    assert.equal(without.code, 2)
    assert.match(
      without.stderr,
      /^polylora: tasks goes by discipline: give --discipline with one of biology, law\n$/,
    )
    const outputs: string[] = []
    for (const discipline of ['biology', 'law']) {
      const result = await generate('--adapter', 'tasks', '--discipline', discipline)
      assert.equal(result.code, 0, result.stderr)
      outputs.push(result.stdout)
    }
    const exported = await polylora(
      [
        'merge',
        '--model',
        model,
        '--adapter',
        'tasks',
        '--discipline',
        'law',
        '--as',
        'adapter',
      ].concat(['--output', 'law-of-tasks']),
      at('.'),
    )
    assert.equal(exported.code, 0, exported.stderr)
    assert.match(exported.stdout, /lost energy 0\.000e\+0/)
    const plain = await generate('--adapter', 'law-of-tasks')
    assert.equal(plain.stdout, outputs[1])
  })

  it('a routed mixture is exported to PEFT with constants for its gates, and says what a rank loses', async () => {
    const exported = (name: string, ...more: string[]) => {
      const from = ['--model', model, '--adapter', 'routed', '--as', 'adapter', '--output', name]
      return polylora(['merge', ...from, ...more], at('.'))
    }
    const refused = await exported('no')
    assert.equal(refused.code, 2)
    assert.match(refused.stderr, /^polylora: [^\n]*depend on each token[^\n]*\(gates\)[^\n]*\n$/)
    assert.ok(!existsSync(at('no')))
    const whole = await exported('whole', '--gates', '0.5,0.25,0.25')
    assert.match(whole.stdout, /lost energy 0\.000e\+0/, whole.stderr)
    const cut = await exported('cut', '--gates', '0.5,0.25,0.25', '--rank', '3')
    assert.match(cut.stdout, /lost energy [1-9]\.\d{3}e-[12]/, cut.stderr)
    for (const [name, rank] of Object.entries({ whole: 6, cut: 3 })) {
      const { stdout } = await polylora(['describe', name, '--json'], at('.'))
      const described = JSON.parse(stdout) as { format: string; modules: { rank: number }[] }
      assert.equal(described.format, 'peft')
      assert.ok(described.modules.every((module) => module.rank === rank))
    }
    const generated = await generate('--adapter', 'cut')
    assert.equal(generated.code, 0, generated.stderr)
  })

  it('adapters trained side by side are generated with and evaluated by discipline', async () => {
    mkdirSync(at('run/adapters'), { recursive: true })
    for (const name of ['biology', 'law'])
      cpSync(at(name), at(`run/adapters/${name}`), { recursive: true })
    const without = await generate('--adapter', 'run/adapters')
    assert.equal(without.code, 2)
    assert.match(
      without.stderr,
      /an adapter for each discipline: give --discipline with one of biology, law\n$/,
    )
    const wrong = await generate('--adapter', 'run/adapters', '--discipline', 'music')
    assert.match(wrong.stderr, /one of biology, law\n$/)
    writeFileSync(
      at('asked.jsonl'),
      JSON.stringify({ prompt: 'What comes after 3?', completion: ' 4' }),
    )
    const evaluated = async (...more: string[]) => {
      const options = ['--model', model, '--data', 'asked.jsonl', '--threads', '1']
      const { code, stdout, stderr } = await polylora(['evaluate', ...options, ...more], at('.'))
      assert.equal(code, 0, stderr)
      return stdout
    }
    const perplexities = new Set<string>()
    for (const name of ['biology', 'law']) {
      const own = await generate('--adapter', name)
      const together = await generate('--adapter', 'run/adapters', '--discipline', name)
      assert.equal(together.code, 0, together.stderr)
      assert.equal(together.stdout, own.stdout)
      const scored = await evaluated('--adapter', 'run/adapters', '--discipline', name)
      assert.equal(scored, await evaluated('--adapter', name))
      perplexities.add(scored)
    }
    assert.equal(perplexities.size, 2)
  })

  it('a mixture is evaluated on a task, and its items are kept under its name', async () => {
    writeFileSync(at('task.jsonl'), JSON.stringify({ prompt: 'What comes after 3?' }))
    writeFileSync(
      at('task.yaml'),
      'kind: likelihood\nname: own\nprompt: "Question:"\ntarget: "{prompt}"\n',
    )
    const evaluated = (adapter: string, discipline: string) => {
      const what = ['--data', 'task.jsonl', '--task', 'task.yaml', '--output', 'items.jsonl']
      const how = ['--adapter', adapter, '--discipline', discipline, '--threads', '1']
      return polylora(['evaluate', '--model', model, ...what, ...how], at('.'))
    }
    const first = await evaluated('tasks', 'law')
    assert.equal(first.code, 0, first.stderr)
    assert.match(first.stdout, /^own: 1 items\n/)
    const other = await evaluated('tasks', 'biology')
    assert.notEqual(other.code, 0, 'the items are those of another discipline')
    assert.match(other.stderr, /^polylora: [^\n]*items\.jsonl[^\n]*\n$/)
  })

  it('a discipline is refused for an adapter that tells none apart', async () => {
    for (const name of ['law', 'routed']) {
      const result = await generate('--adapter', name, '--discipline', 'law')
      assert.equal(result.code, 2)
      assert.match(result.stderr, /^polylora: --discipline is for nothing here: [^\n]*\n$/)
    }
  })

  it('refuses what does not fit, in one sentence, and writes nothing', async () => {
    const write = (name: string, value: object) => {
      writeFileSync(at(name), JSON.stringify(value))
      return name
    }
    const both = { base_model: model, adapters: ['biology', 'law'] }
    const attempts: [string, RegExp][] = [
      [write('count.yaml', { kind: 'fixed', ...both, weights: [1] }), /weights must be 2 numbers/],
      [write('kind.yaml', { kind: 'blend', ...both }), /kind.yaml: kind/],
      [write('mole.yaml', { kind: 'mole', ...both }), /the gate of mole is learned: train it/],
      [write('key.yaml', { kind: 'arrow', ...both, topp: 1 }), /topp is not a known key/],
      [write('topk.yaml', { kind: 'arrow', ...both, topK: 3 }), /topK must be/],
      [
        write('tasks.yaml', { kind: 'arrow', ...both, adapters: ['law', 'tasks'] }),
        /kind mtl-lora cannot be an expert/,
      ],
      [write('missing.yaml', { kind: 'arrow', ...both, adapters: ['law', 'nowhere'] }), /nowhere/],
      [write('base.yaml', { kind: 'arrow', adapters: ['law'] }), /base_model must be given/],
    ]
    for (const [file, expected] of attempts) {
      const result = await polylora(['merge', file, '--output', 'refused'], at('.'))
      assert.notEqual(result.code, 0, file)
      assert.match(result.stderr, expected)
      assert.match(result.stderr, /^polylora: [^\n]*\n$/)
      assert.ok(!existsSync(at('refused')), file)
    }
  })
})
