/** Steps of every kind of adapter beside LoRA of the same total rank, and beside the peers' forms of them. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Case, type CaseFiles, kindsBatches, optimizer, rank } from './cases.js'
import { type KindFigure, median } from './record.js'
import type { Setting } from './sections.js'
import { Side, type TimedStep } from './side.js'

// PiSSA and OLoRA start elsewhere and take LoRA's step.
export const kindVariants = [
  'lora',
  'dora',
  'hydra-lora',
  'hydra-lora, top 2',
  'lora-moe',
  'mtl-lora',
  'side by side',
] as const
const peerVariants = ['lora', 'dora', 'hydra-lora', 'lora-moe'] as const

const experts = 4
/** Side by side: one for each discipline. */
const adapters = 5

export async function measureKinds(setting: Setting): Promise<KindFigure[]> {
  const figures: KindFigure[] = []
  for (const one of setting.cases)
    for (const dtype of setting.dtypes) {
      setting.say(`${one.name} ${dtype}: kinds of adapters`)
      const given = await setting.files(one, dtype)
      const files: CaseFiles = { ...given, data: join(given.model, '../kinds.json') }
      const batches = kindsBatches(one, adapters)
      writeFileSync(files.data, JSON.stringify({ optimizer, batches }))
      const tokens = batches[0].flat().length
      const options = { files, dtype, threads: setting.threads, rank, experts, adapters }
      await using ours = await Side.kinds(options)
      setting.versions(ours.versions)
      const rounds = stepsOf(one, setting.quick)
      const own = await inTurn(rounds, Object.fromEntries(kindVariants.map((name) => [name, ours])))
      const peers: Partial<Record<string, TimedStep[]>> = {}
      if (setting.python !== null)
        for (const variant of peerVariants) {
          await using peer = await Side.peerKind(setting.python, { ...options, variant })
          setting.versions(peer.versions)
          // Our own step in between, so that what else the machine does falls on both.
          const both = await inTurn(rounds, { [variant]: ours, peer })
          peers[variant] = both.peer
          own[variant].push(...both[variant])
        }
      for (const variant of kindVariants) {
        const theirs = peers[variant]
        figures.push({
          model: one.name,
          dtype,
          kind: variant,
          tokens,
          ours: figureOf(own[variant]),
          peer: theirs ? figureOf(theirs) : null,
        })
      }
    }
  return figures
}

function stepsOf({ config }: Case, quick: boolean): number {
  if (quick) return 2
  return config.hidden_size > 500 ? 4 : 20
}

/** Each of them one step after the other, round by round; the first round is not counted. */
async function inTurn(
  rounds: number,
  sides: Readonly<Record<string, Side>>,
): Promise<Record<string, TimedStep[]>> {
  const steps: Record<string, TimedStep[]> = {}
  for (let round = 0; round <= rounds; round++)
    for (const [variant, side] of Object.entries(sides)) {
      const step = await side.stepOf(variant)
      if (round > 0) (steps[variant] ??= []).push(step)
    }
  return steps
}

function figureOf(steps: readonly TimedStep[]): KindFigure['ours'] {
  return {
    seconds: median(steps.map(({ seconds }) => seconds)),
    busySeconds: median(steps.map(({ busySeconds }) => busySeconds)),
    allSeconds: steps.map(({ seconds }) => seconds),
  }
}
