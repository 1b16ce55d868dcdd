/** The table of a run, in Markdown. */
import type {
  BenchmarkRecord,
  Circumstances,
  DecodeFigure,
  KernelFigure,
  KindFigure,
  PeerFigure,
  StepFigure,
} from './record.js'

export function report(record: BenchmarkRecord): string {
  const { sections, circumstances } = record
  const versions = Object.entries(record.versions).map(([name, version]) => `${name} ${version}`)
  const section = (
    name: keyof typeof circumstances,
    title: string,
    body: readonly string[],
  ): string[] => [
    `## ${title}`,
    '',
    describe(circumstances[name]!, record.threads),
    '',
    ...body,
    '',
  ]
  return [
    `# ${record.processor}, ${record.date}`,
    '',
    `${record.threads} threads, ${gib(record.memoryBytes)} of memory; ${versions.join(', ')}. Made by \`npm run bench\`; the same figures, and each repetition, are in the JSON file beside this one.`,
    '',
    '## Goals',
    '',
    ...goals(record),
    '',
    '## Peaks',
    '',
    ...table(
      ['threads', 'instruction set', 'float32 FMA', 'bf16 dot product', 'reading memory'],
      record.peaks.map((peak) => [
        peak.threads,
        peak.instructionSet,
        `${giga(peak.fmaFlopsPerThread * peak.threads)} GFLOP/s`,
        `${giga(peak.dotFlopsPerThread * peak.threads)} GFLOP/s`,
        `${giga(peak.readBytes)} GB/s`,
      ]),
    ),
    '',
    ...(sections.peer
      ? section('peer', 'LoRA beside transformers and PEFT', peerTable(sections.peer))
      : []),
    ...(sections.kinds ? section('kinds', 'Kinds of adapters', kindTable(sections.kinds)) : []),
    ...(sections.decode ? section('decode', 'Decoding', decodeTable(sections.decode)) : []),
    ...(sections.step ? section('step', 'Training steps', stepTables(sections.step)) : []),
    ...(sections.kernels ? section('kernels', 'Kernels', kernelTables(sections.kernels)) : []),
  ].join('\n')
}

/** What else the machine did. */
function describe({ at, commit, loadBefore, loadAfter }: Circumstances, threads: number): string {
  const load = (values: readonly number[]) => values.map((value) => value.toFixed(2)).join(', ')
  const isShared = Math.max(...loadBefore.slice(0, 2), loadAfter[0]) > 1.5 * threads
  const shared = isShared
    ? ' Other programs had a large part of the processors: times are longer than on a quiet machine, and ratios of what was measured in turn are rough.'
    : ''
  return `Commit ${commit}, ${at.slice(0, 16).replace('T', ' ')} UTC; load averages before ${load(loadBefore)} and after ${load(loadAfter)} on ${threads} processors.${shared}`
}

// ---- Goals ----

function goals({ sections, threads }: BenchmarkRecord): string[] {
  const rows: (string | number)[][] = []
  const row = (figure: string, goal: number, values: readonly number[], most = false) => {
    if (values.length === 0) return
    const worst = most ? Math.max(...values) : Math.min(...values)
    const isMet = most ? worst <= goal : worst >= goal
    const share = goal < 1 && !most
    const show = (value: number) => (share ? percent(value) : `${value.toFixed(2)}×`)
    rows.push([
      figure,
      `${most ? '≤' : '≥'} ${share ? percent(goal, 0) : `${goal}×`}`,
      show(worst),
      isMet ? 'yes' : 'no',
    ])
  }
  const ratio = ({ ours, peer }: PeerFigure) => peer.seconds / ours.seconds
  const of = (model: string, dtype: string) =>
    (sections.peer ?? []).filter((one) => one.model === model && one.dtype === dtype)
  row('LoRA step, 24×896, float32, against PEFT', 2, of('24x896', 'f32').map(ratio))
  row('LoRA step, 24×896, bf16, against PEFT', 2, of('24x896', 'bf16').map(ratio))
  row('LoRA step, 6×192, float32, against PEFT', 2.5, of('6x192', 'f32').map(ratio))
  row('LoRA step, 6×192, bf16, against PEFT', 3, of('6x192', 'bf16').map(ratio))
  const memory = (sections.peer ?? []).map(({ ours, peer }) => ours.peakBytes / peer.peakBytes)
  row('peak memory of those steps, against PEFT, worst', 0.5, memory, true)
  const kinds = sections.kinds ?? []
  for (const [kind, goal, what] of [
    ['hydra-lora', 1.15, 'asymmetric mixture against LoRA of the same total rank'],
    ['side by side', 1.3, 'five adapters on a batch against one'],
  ] as const) {
    const chosen = kinds.filter((one) => one.kind === kind)
    const ratios = (of: (time: KindFigure['ours']) => number) =>
      chosen.map((one) => of(one.ours) / of(loraBeside(kinds, one).ours))
    row(
      `${what}, worst`,
      goal,
      ratios(({ seconds }) => seconds),
      true,
    )
    row(
      `${what}, by processor time`,
      goal,
      ratios(({ busySeconds }) => busySeconds),
      true,
    )
  }
  const kernels = (sections.kernels ?? []).filter((one) => one.threads === threads)
  const shareRows = (title: string, goal: number, of: (one: KernelFigure) => boolean) => {
    const chosen = kernels.filter(of)
    row(
      `${title}, of the peak, worst`,
      goal,
      chosen.map(({ share }) => share),
    )
    row(
      `${title}, by processor time, worst`,
      goal,
      chosen.map(({ busyShare }) => Number(busyShare)),
    )
    row(
      `${title}, both at their best, worst`,
      goal,
      chosen.map(({ bestShare }) => Number(bestShare)),
    )
  }
  shareRows('products at 1024³', 0.9, ({ kind, name }) => {
    return kind === 'product' && name.includes('1024x1024x1024')
  })
  shareRows('rank-16 products', 0.75, ({ kind, name }) => {
    return kind === 'rank' && /rank 16$|^TN 16x/.test(name)
  })
  for (const batch of [1, 16])
    row(
      `decoding at batch ${batch} against transformers, worst`,
      2,
      (sections.decode ?? [])
        .filter((one) => one.batch === batch && one.peer !== null)
        .map(({ ours, peer }) => peer! / ours),
    )
  return table(['figure', 'goal', 'measured', 'met'], rows)
}

// ---- Sections ----

function peerTable(figures: readonly PeerFigure[]): string[] {
  return [
    ...table(
      [
        'model',
        'dtype',
        'tokens/s',
        'PEFT',
        'ratio',
        'peak memory',
        'PEFT',
        'ratio',
        'first and last loss',
        'PEFT',
        'largest difference',
      ],
      figures.map(({ model, dtype, tokens, ours, peer, lossDifference }) => [
        model,
        dtype,
        rate(tokens / ours.seconds),
        rate(tokens / peer.seconds),
        `${(peer.seconds / ours.seconds).toFixed(2)}×`,
        gib(ours.peakBytes),
        gib(peer.peakBytes),
        `${(ours.peakBytes / peer.peakBytes).toFixed(2)}×`,
        losses(ours.losses),
        losses(peer.losses),
        lossDifference.toExponential(1),
      ]),
    ),
    '',
    'Rank 16 on all linear layers, half of the tokens labelled, AdamW with clipping; the same model folder, initial adapter, batches, dtype and threads. Both processes stay loaded and step in turn; medians without the first step. Memory is VmHWM of the whole process, loading included. In bf16 PEFT computes everything from bf16, and we the products alone.',
  ]
}

function loraBeside(figures: readonly KindFigure[], one: KindFigure): KindFigure {
  const { model, dtype } = one
  return figures.find(
    (other) => other.kind === 'lora' && other.model === model && other.dtype === dtype,
  )!
}

function kindTable(figures: readonly KindFigure[]): string[] {
  const times = (x: number, y: number) => `${(x / y).toFixed(2)}×`
  return [
    ...table(
      [
        'model',
        'dtype',
        'kind',
        'tokens/s',
        'time of LoRA',
        'by processor time',
        'peer',
        'ratio',
        'by processor time',
      ],
      figures.map((one) => {
        const { model, dtype, kind, tokens, ours, peer } = one
        const beside = loraBeside(figures, one).ours
        return [
          model,
          dtype,
          kind,
          rate(tokens / ours.seconds),
          times(ours.seconds, beside.seconds),
          times(ours.busySeconds, beside.busySeconds),
          peer === null ? '–' : rate(tokens / peer.seconds),
          peer === null ? '–' : times(peer.seconds, ours.seconds),
          peer === null ? '–' : times(peer.busySeconds, ours.busySeconds),
        ]
      }),
    ),
    '',
    'LoRA of rank 16 on all linear layers; mixtures of four experts whose ranks add up to 16; side by side are five adapters of rank 16, each on a fifth of the same tokens. Steps in turn; medians without the first. Peers: PEFT for LoRA and DoRA, plain PyTorch from the formulas for HydraLoRA and MoELoRA.',
  ]
}

function decodeTable(figures: readonly DecodeFigure[]): string[] {
  return [
    ...table(
      [
        'model',
        'dtype',
        'batch',
        'tokens/s',
        'of what the machine allows',
        'transformers',
        'ratio',
        'same tokens',
      ],
      figures.map(({ model, dtype, batch, ours, peer, bound, agreement }) => [
        model,
        dtype,
        batch,
        rate(batch / ours),
        percent(bound / ours),
        peer === null ? '–' : rate(batch / peer),
        peer === null ? '–' : `${(peer / ours).toFixed(2)}×`,
        agreement === null ? '–' : `${agreement.same} of ${agreement.all}`,
      ]),
    ),
    '',
    'Greedy, after a prompt of 32 tokens, whose time is taken off. What the machine allows: every weight read once a step at the rate of the memory, or the arithmetic where that takes longer; a model that fits in the cache may be faster. Tokens are counted up to the first that differs.',
  ]
}

function stepTables(figures: readonly StepFigure[]): string[] {
  const name = ({ model, dtype, method, checkpointing }: StepFigure) =>
    `${model} ${dtype} ${method === 'lora' ? 'LoRA' : 'full'}${checkpointing ? ', checkpointed' : ''}`
  return [
    ...table(
      [
        'step',
        'tokens/s',
        'seconds',
        'arithmetic allows',
        'with bytes',
        'reached',
        'process peak',
        'device peak',
      ],
      figures.map((one) => [
        name(one),
        rate(one.tokens / one.seconds),
        seconds(one.seconds),
        rate(one.tokens / one.roofline.arithmetic),
        rate(one.tokens / one.roofline.bound),
        percent(one.roofline.bound / one.seconds),
        gib(one.peakBytes),
        gib(one.devicePeakBytes),
      ]),
    ),
    '',
    'Allowed tokens/s: the arithmetic at its peak; and with the bytes, where moving every tensor of an operation once takes longer (what stays in a cache moves faster). A checkpointed step is held to the arithmetic of one that is not.',
    '',
    ...figures.flatMap((one) => {
      if (!one.profile) return []
      const total = one.profile.seconds
      const inside = one.profile.operations.reduce((sum, { seconds }) => sum + seconds, 0)
      return [
        `### ${name(one)}, by operation`,
        '',
        ...table(
          ['operation', 'calls', 'seconds', 'of the step', 'arithmetic', 'bytes', 'reached'],
          [
            ...one.profile.operations
              .filter(({ seconds }) => seconds > total / 1000)
              .map((timed) => [
                timed.operation,
                Math.round(timed.count),
                seconds(timed.seconds),
                percent(timed.seconds / total),
                seconds(timed.arithmetic),
                seconds(timed.memory),
                timed.work
                  ? percent(Math.max(timed.arithmetic, timed.memory) / timed.seconds)
                  : '–',
              ]),
            [
              'outside of operations',
              '',
              seconds(total - inside),
              percent(1 - inside / total),
              '',
              '',
              '',
            ],
          ],
        ),
        '',
      ]
    }),
  ]
}

// Rows and packing (`memory`) have no peak to be held to: they stand in the JSON file.
const kinds: Readonly<Record<string, string>> = {
  product: 'Products, of the peak',
  rank: 'Low-rank products, of the FMA peak',
  row: 'Products of few rows, of the peak',
  head: 'Head and cross entropy, of the peak',
  attention: 'Attention, of the FMA peak',
  cache: 'Attention against the cache, of the FMA peak',
  elementwise: 'Elementwise operations, of what copying as many bytes takes',
}

function kernelTables(figures: readonly KernelFigure[]): string[] {
  const threads = [...new Set(figures.map((one) => one.threads))]
  const note =
    'Names give rows × inner × columns. Shares by the clock count what other programs take from the processors as lost; those by processor time do not, nor do they count threads that wait. At best: what the fastest repetition has of the highest peak of its repetitions, which neighbours of a virtual machine, that take units of its cores away for a while, lengthen least.'
  const tables = Object.entries(kinds).flatMap(([kind, title]) => {
    const names = [...new Set(figures.filter((one) => one.kind === kind).map((one) => one.name))]
    const hasBackward = kind === 'attention'
    const hasBusy = figures.some((one) => one.kind === kind && 'busyShare' in one)
    const cell = (name: string, count: number) => {
      const one = figures.find(
        (figure) => figure.kind === kind && figure.name === name && figure.threads === count,
      )
      if (!one) return ['', '']
      const rates =
        kind === 'row' || kind === 'elementwise'
          ? `${giga(Number(one.bytes) / one.seconds)} GB/s`
          : `${(one.seconds * 1e3).toPrecision(3)} ms`
      const backward = hasBackward
        ? [
            `${(Number(one.backwardSeconds) * 1e3).toPrecision(3)} ms`,
            percent(Number(one.backwardShare)),
          ]
        : []
      const busy = hasBusy ? [percent(Number(one.busyShare)), percent(Number(one.bestShare))] : []
      return [rates, percent(one.share), ...busy, ...backward]
    }
    return [
      `### ${title}`,
      '',
      ...table(
        [
          '',
          ...threads.flatMap((count) => {
            const label = count === 1 ? '1 thread' : `${count} threads`
            return [
              label,
              'share',
              ...(hasBusy ? ['by processor time', 'at best'] : []),
              ...(hasBackward ? ['backward', 'share'] : []),
            ]
          }),
        ],
        names.map((name) => [name, ...threads.flatMap((count) => cell(name, count))]),
      ),
      '',
    ]
  })
  return [note, '', ...tables]
}

// ---- Cells ----

function table(
  heads: readonly string[],
  rows: readonly (readonly (string | number)[])[],
): string[] {
  const line = (cells: readonly (string | number)[]) => `| ${cells.join(' | ')} |`
  return [line(heads), line(heads.map((_, i) => (i === 0 ? '---' : '--:'))), ...rows.map(line)]
}

const percent = (share: number, digits = 1) => `${(100 * share).toFixed(digits)}%`
const giga = (value: number) => (value / 1e9).toFixed(1)
const gib = (bytes: number) =>
  bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(2)} GiB` : `${(bytes / 2 ** 20).toFixed(0)} MiB`
const rate = (value: number) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3))
const seconds = (value: number) => (value >= 1 ? value.toFixed(2) : value.toPrecision(3))
const losses = (values: readonly number[]) =>
  `${values[0].toFixed(4)} to ${values.at(-1)!.toFixed(4)}`
