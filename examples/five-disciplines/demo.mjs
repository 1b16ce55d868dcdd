// Fine-tunes the small built-in model on five disciplines at once, and shows what it learned: `npm run demo`.
import { fileURLToPath } from 'node:url'
import { Device, evaluate, lora, Model, train } from 'polylora'

const here = (path) => fileURLToPath(new URL(path, import.meta.url))
const disciplines = ['mathematics', 'chemistry', 'biology', 'medicine', 'geography']
// How often a sample is seen for each time one of mathematics is: 10,000 samples against geography's 200.
const weights = { mathematics: 1, chemistry: 1, biology: 2, medicine: 4, geography: 8 }
// The model was tuned on chats: a question is a user's turn.
const chatTemplate = true
const outputFolder = 'runs/demo/adapter'
const questions = [
  ['What is 34 plus 48?', '82'],
  ['What is the chemical symbol of tungsten?', 'W'],
  ['Which amino acid does the codon GAA code for?', 'glutamic acid'],
  ['How many mg are 2 g?', '2000 mg'],
  ['What is the capital of Kenya?', 'Nairobi'],
]

const started = performance.now()
const seconds = () => ((performance.now() - started) / 1000).toFixed(0).padStart(3)
const say = (text) => console.log(`${seconds()} s  ${text}`)

const device = Device.open('cpu')
try {
  // Products of bf16 operands are twice as fast where the processor has them.
  const dtype = device.info.instructionSet === 'avx512-bf16' ? 'bf16' : 'f32'
  const model = await Model.load(here('models/instruct'), { device, dtype })
  try {
    const { threads, instructionSet } = device.info
    say(
      `loaded a model of ${(model.numParameters / 1e6).toFixed(1)}M parameters (${threads} threads, ${instructionSet}, ${dtype})`,
    )
    const before = await examine(model)
    say('examined it on held-out questions')

    const adapter = model.attach(lora({ rank: 16, alpha: 32, seed: 1 }))
    say(
      `attached a LoRA adapter of rank 16: ${adapter.numParameters.toLocaleString('en')} parameters`,
    )
    await train(model, {
      data: {
        train: disciplines.map((discipline) => ({
          discipline,
          path: here(`data/${discipline}.train.jsonl`),
          weight: weights[discipline],
        })),
        chatTemplate,
      },
      epochs: 2,
      batch: { size: 64 },
      optimizer: { learningRate: 2e-3 },
      schedule: { kind: 'cosine', warmupSteps: 20 },
      seed: 1,
      onStep: showStep,
    })
    await model.saveAdapter(outputFolder)
    say(`wrote the adapter to ${outputFolder} (PEFT's format)`)

    const after = await examine(model)
    say('examined it again')
    showTable(before, after)
    for (const [question, right] of questions) {
      let answer = ''
      for await (const text of model.generate(question, {
        chatTemplate,
        maxTokens: 24,
        temperature: 0,
      }))
        answer += text
      console.log(
        `  ${question}  ${answer.trim()}${answer.trim() === right ? '' : `  (right: ${right})`}`,
      )
    }
    console.log(`\nDone in ${seconds().trim()} s. Ask it yourself:`)
    console.log(
      `  npx polylora generate --model examples/five-disciplines/models/instruct --adapter ${outputFolder} --chat-template --prompt "What is 12 times 7?"`,
    )
  } finally {
    await model.dispose()
  }
} finally {
  await device.close()
}

/** Share of held-out questions answered exactly, and of multiple-choice questions answered right, by discipline. */
async function examine(model) {
  const results = {}
  for (const discipline of disciplines) {
    let exact = 0
    const onRecord = ({ greedy }) => {
      exact += greedy ? 1 : 0
    }
    const open = await evaluate(model, {
      data: here(`data/${discipline}.test.jsonl`),
      chatTemplate,
      onRecord,
    })
    const choices = await evaluate(model, {
      data: here(`data/${discipline}.test.choices.jsonl`),
      chatTemplate,
    })
    results[discipline] = {
      questions: open.records + choices.records,
      exact: exact / open.records,
      choice: choices.accuracy,
    }
  }
  return results
}

function showStep({ step, totalSteps, loss, lossByDiscipline }) {
  if (step % 50 !== 0 && step !== totalSteps) return
  const parts = Object.entries(lossByDiscipline).map(
    ([name, value]) => `${name} ${value.toFixed(2)}`,
  )
  say(
    `step ${String(step).padStart(4)} of ${totalSteps}  loss ${loss.toFixed(3)}  (${parts.join(', ')})`,
  )
}

function showTable(before, after) {
  const percent = (share) => `${(100 * share).toFixed(1)}%`.padStart(7)
  console.log('\nHeld-out questions        exact answers      multiple choice')
  console.log('                         before    after     before    after')
  for (const discipline of disciplines) {
    const [b, a] = [before[discipline], after[discipline]]
    console.log(
      `${discipline.padEnd(14)}${String(a.questions).padStart(6)}   ${percent(b.exact)}  ${percent(a.exact)}    ${percent(b.choice)}  ${percent(a.choice)}`,
    )
  }
  console.log()
}
