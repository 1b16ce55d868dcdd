import { writeFile } from 'node:fs/promises'
import { Command } from 'commander'
import { ConfigError } from '../errors.js'
import { balance, type BalancePlan, parseBalanceRecipe, planBalance } from '../laws/balance.js'
import { Interrupt } from './interrupt.js'
import { Progress } from './progress.js'
import { tableLines } from './table.js'
import { addTrainOptions, readConfiguration, trainAs, type TrainFlags } from './train.js'

interface BalanceFlags extends TrainFlags {
  readonly plan?: boolean
  readonly picture?: string
}

export function balanceCommand(): Command {
  const command = new Command('balance')
    .summary('law 1: train with disciplines balanced and repeats chosen for diversity')
    .description(
      'Train as a YAML file says, with diversity-aware upsampling unless data.mixing says otherwise. With --plan nothing ' +
        'is trained: a table shows what would be drawn from each discipline.',
    )
  return addTrainOptions(command)
    .option('--plan', 'only show what it would do to the corpus')
    .option('--picture <file>', 'with --plan: the same as a picture, .svg or .html')
    .action(async (file: string | undefined, flags: BalanceFlags) => {
      if (flags.plan) await show(file, flags)
      else if (flags.picture !== undefined)
        throw new ConfigError('--picture shows a plan, so it needs --plan', {
          details: { key: '--picture' },
        })
      else await trainAs('balance', parseBalanceRecipe, file, flags, balance)
    })
}

async function show(file: string | undefined, flags: BalanceFlags): Promise<void> {
  const { picture } = flags
  if (picture !== undefined && !/\.(svg|html)$/.test(picture))
    throw new ConfigError(`--picture must end in .svg or .html, not ${JSON.stringify(picture)}`, {
      details: { key: '--picture', received: picture },
    })
  const config = await readConfiguration('balance', parseBalanceRecipe, file, flags)
  const progress = new Progress('sample')
  const interrupt = new Interrupt(() => undefined)
  try {
    const plan = await planBalance(config, {
      signal: interrupt.signal,
      onProgress: (done, total) => {
        progress.update(done, total)
      },
      onMessage: (text) => {
        progress.message(text)
      },
    })
    progress.stop()
    for (const line of describe(plan)) console.log(line)
    if (picture === undefined) return
    // Charts are a large library, and few calls want them.
    const { balancePicture } = await import('../laws/balance-picture.js')
    await writePicture(picture, balancePicture(plan, picture.endsWith('.html') ? 'html' : 'svg'))
    console.log(`picture written to ${picture}`)
  } catch (error) {
    if (interrupt.exitCode === null) throw error
    process.exitCode = interrupt.exitCode
  } finally {
    progress.stop()
    interrupt.dispose()
  }
}

function describe({ kind, rows, learned }: BalancePlan): string[] {
  const header = ['discipline', 'records', 'exact dup.', 'near dup.', 'unique', 'tokens']
  header.push('share', 'planned', 'samples', 'epochs', 'cap', 'max repeats', 'vendi', 'clusters')
  const number = (value: number) => value.toLocaleString('en-US')
  const change = (change: { before: number; after: number } | null) =>
    change ? `${change.before.toFixed(1)} > ${change.after.toFixed(1)}` : '-'
  const lines = tableLines(
    header,
    rows.map((row) => [
      row.discipline,
      number(row.records),
      number(row.exactDuplicates),
      // Not looked for where nothing was embedded.
      row.vendi || row.clusters ? number(row.nearDuplicates) : '-',
      number(row.unique),
      number(row.tokens),
      `${(100 * row.shareBefore).toFixed(1)}%`,
      `${(100 * row.shareAfter).toFixed(1)}%`,
      number(row.draws),
      row.epochs.toFixed(2),
      row.maxEpochs === null ? '-' : row.maxEpochs.toFixed(2),
      String(row.maxRepeats),
      change(row.vendi),
      change(
        row.clusters && {
          before: row.clusters.effectiveBefore,
          after: row.clusters.effectiveAfter,
        },
      ),
    ]),
  )
  const tokens = learned?.tokens
  return [
    `mixing: ${kind}`,
    ...lines,
    'tokens: trained, of unique samples; share and planned: of trained tokens, as the files are and as the run draws;',
    'vendi: effective number of different samples; clusters: effective number, each before > after',
    ...(tokens
      ? [
          `DoReMi trained on ${number(tokens.reference)} tokens for its reference and ${number(tokens.proxy)} for its proxy`,
        ]
      : []),
  ]
}

async function writePicture(path: string, text: string): Promise<void> {
  try {
    await writeFile(path, text, { flag: 'wx' })
  } catch (cause) {
    const exists = (cause as NodeJS.ErrnoException).code === 'EEXIST'
    throw new ConfigError(
      exists
        ? `${path} is there already: the picture is written to a new file`
        : `${path}: the picture could not be written: ${(cause as Error).message}`,
      { cause, details: { path } },
    )
  }
}
