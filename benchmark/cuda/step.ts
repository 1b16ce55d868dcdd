/**
 * A LoRA step of Qwen2.5-7B's shape with random weights, 8 full sequences of 1,024, on a GPU: ours, then transformers
 * and PEFT. Prints a line a side: name, side, milliseconds, the fastest, float operations, peak bytes of device memory;
 * for a peer that is not here or failed: name, side, `-`, why.
 *
 *     node scripts/start.mjs benchmark/cuda/step.ts --python PATH [--device cpu] [--small]
 *
 * The sides run one after the other, since both together do not fit a card. Half of the tokens are labelled.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseOptions } from '../../scripts/run.mjs'
import { type Case, quickCases, rank, writeCase } from '../cases.js'
import { median } from '../record.js'
import { Side, type SideOptions } from '../side.js'

const qwen7b: Case = {
  name: '28x3584',
  config: {
    ...quickCases[0].config,
    vocab_size: 152064,
    hidden_size: 3584,
    intermediate_size: 18944,
    num_hidden_layers: 28,
    num_attention_heads: 28,
    num_key_value_heads: 4,
    max_position_embeddings: 32768,
    rope_theta: 1e6,
    tie_word_embeddings: false,
  },
  sequences: 8,
  length: 1024,
}
const steps = 6

const { values } = parseOptions({
  options: {
    python: { type: 'string' },
    device: { type: 'string', default: 'cuda' },
    small: { type: 'boolean', default: false },
  },
})

/** Forward and data gradient of the products, the head on labelled rows alone, and attention both ways. */
function operationsOf({ config, sequences, length }: Case): number {
  const d = config.hidden_size
  const head = d / config.num_attention_heads
  const projections = d * (2 * d + 2 * config.num_key_value_heads * head)
  const layer = projections + 3 * d * config.intermediate_size
  const tokens = sequences * length
  const attention = 7 * tokens * (length + 1) * d
  const products = 4 * tokens * config.num_hidden_layers * layer
  const labelled = 4 * (tokens / 2) * d * config.vocab_size
  return products + labelled + config.num_hidden_layers * attention
}

async function measure(side: Side): Promise<[number, number, number]> {
  try {
    const seconds: number[] = []
    for (let i = 0; i < steps; i++) seconds.push((await side.step()).seconds)
    // The first makes what later ones find made.
    const timed = seconds.slice(1)
    const { devicePeak = 0 } = await side.memory()
    return [1e3 * median(timed), 1e3 * Math.min(...timed), devicePeak]
  } finally {
    await side.close()
  }
}

const one = values.small ? quickCases[0] : qwen7b
const name = `lora-step:${one.name},${one.sequences},${one.length},${rank}`
const folder = mkdtempSync(join(tmpdir(), 'polylora-step-'))
try {
  const files = await writeCase(one, 'bf16', folder)
  const options: SideOptions = {
    files,
    dtype: 'bf16',
    threads: 2,
    method: 'lora',
    checkpointing: false,
    device: values.device,
  }
  const print = (side: string, [middle, fastest, memory]: [number, number, number]) => {
    console.log([name, side, middle, fastest, operationsOf(one), memory].join('\t'))
  }
  print('ours', await measure(await Side.ours(options)))
  try {
    print('peft', await measure(await Side.peer(values.python ?? 'python3', options)))
  } catch (error) {
    console.log([name, 'peft', '-', (error as Error).message.split('\n', 1)[0]].join('\t'))
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
