import type { Model } from '../model.js'
import { declareAdapter, type DeclaredMethod, methodSchema } from '../train/method.js'
import { train } from '../train/train.js'
import type { Speed } from './budget.js'
import { defaultMethod } from './arms/design.js'
import { scoreSet } from './scoring.js'
import type { StudyConfig } from './study-config.js'
import type { StudyData } from './study-data.js'

const steps = 4
const lookedAt = 2

/** Trains a few steps and scores a set or two: what a second of this machine is worth. */
export async function measureSpeed(
  model: Model,
  config: StudyConfig,
  data: StudyData,
  signal?: AbortSignal,
): Promise<Speed> {
  const training = async (kind: 'lora' | 'hydra-lora') => {
    const method = methodSchema.parse({ ...defaultMethod(config.rank), kind }) as DeclaredMethod
    await model.attachBound(declareAdapter(method, 0, []))
    let [tokens, first] = [0, 0]
    const started = { at: 0 }
    await train(model, {
      data: {
        train: data.disciplines.map(({ name, path }) => ({ discipline: name, path })),
        chatTemplate: config.data.chatTemplate,
        onBadRecord: 'skip',
      },
      steps,
      batch: { maxTokens: config.batchTokens },
      signal,
      onStep: (report) => {
        // The first step also warms up.
        if (first++ === 0) started.at = performance.now()
        else tokens += report.tokens
      },
    })
    return tokens / ((performance.now() - started.at) / 1000)
  }
  const speed = { tokens: await training('lora'), mixtureTokens: await training('hydra-lora') }
  const began = performance.now()
  let items = 0
  for (const set of [...data.sets.values()]
    .filter(({ isChecked }) => !isChecked)
    .slice(0, lookedAt)) {
    await scoreSet(model, set, config, signal)
    items += set.chances.length
  }
  model.detach()
  return { ...speed, items: items / ((performance.now() - began) / 1000) }
}
