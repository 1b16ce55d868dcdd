import * as Plot from '@observablehq/plot'
import { parseHTML } from 'linkedom'
import type { BalancePlan, BalanceRow } from './balance.js'

/** Three panels side by side, in points. */
const width = 1040
const panelWidth = 340
const rowHeight = 44

const before = 'the files'
const after = 'the run'
const colors = { domain: [before, after], range: ['#8c8c8c', '#1f77b4'] }

/** What a plan does to each discipline, as one file that needs nothing else: shares, passes, diversity. */
export function balancePicture({ kind, rows }: BalancePlan, format: 'svg' | 'html'): string {
  const height = 90 + rowHeight * rows.length
  const panels = [shares(rows, height), passes(rows, height), diversity(rows, height)]
  const body = panels
    .map(
      (panel, i) =>
        `<svg x="${i * (panelWidth + 10)}" y="40" width="${panelWidth}" height="${height}">${panel}</svg>`,
    )
    .join('\n')
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height + 50}" width="${width}" height="${height + 50}" role="img" aria-label="Plan of the mixing ${kind}">
<style>
  svg { color: #1a1a1a; font: 12px system-ui, sans-serif; }
  .page { fill: #ffffff; }
  @media (prefers-color-scheme: dark) { svg { color: #e6e6e6; } .page { fill: #161616; } }
</style>
<rect class="page" width="100%" height="100%"/>
<text x="12" y="24" fill="currentColor" font-size="15">Mixing: ${kind}</text>
${legend(width - 190)}
${body}
</svg>
`
  if (format === 'svg') return svg
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="color-scheme" content="light dark">
<title>Plan of the mixing ${kind}</title>
<body style="margin: 0">
${svg}</body>
</html>
`
}

function legend(left: number): string {
  return colors.domain
    .map((name, i) => {
      const x = left + 90 * i
      return `<rect x="${x}" y="14" width="12" height="12" fill="${colors.range[i]}"/><text x="${x + 18}" y="24" fill="currentColor">${name}</text>`
    })
    .join('')
}

function shares(rows: readonly BalanceRow[], height: number): string {
  const bars = rows.flatMap(({ discipline, shareBefore, shareAfter }) => [
    { discipline, of: before, value: 100 * shareBefore },
    { discipline, of: after, value: 100 * shareAfter },
  ])
  return panel(rows, height, 'Share of trained tokens, %', bars, [])
}

function passes(rows: readonly BalanceRow[], height: number): string {
  const bars = rows.map(({ discipline, epochs }) => ({ discipline, of: after, value: epochs }))
  const caps = rows.flatMap(({ discipline, maxEpochs }) =>
    maxEpochs === null ? [] : [{ discipline, of: after, value: maxEpochs }],
  )
  return panel(rows, height, 'Passes over unique samples; line: the cap', bars, caps)
}

function diversity(rows: readonly BalanceRow[], height: number): string {
  const bars = rows.flatMap(({ discipline, clusters }) =>
    clusters
      ? [
          { discipline, of: before, value: clusters.effectiveBefore },
          { discipline, of: after, value: clusters.effectiveAfter },
        ]
      : [],
  )
  return panel(rows, height, 'Effective number of clusters', bars, [])
}

interface Bar {
  readonly discipline: string
  readonly of: string
  readonly value: number
}

/** Bars by discipline; a panel without any says so. */
function panel(
  rows: readonly BalanceRow[],
  height: number,
  label: string,
  bars: readonly Bar[],
  ticks: readonly Bar[],
): string {
  // The types of a browser are not part of this project.
  const { document } = parseHTML('<!doctype html><html><body></body></html>') as unknown as {
    readonly document: Plot.PlotOptions['document']
  }
  const chart = Plot.plot({
    document,
    width: panelWidth,
    height,
    marginLeft: 104,
    marginTop: 30,
    x: { label: null, grid: true, nice: true, zero: true, ticks: 4 },
    y: {
      label: null,
      axis: null,
      domain: colors.domain.filter((name) => bars.some((bar) => bar.of === name)),
    },
    fy: { label: null, domain: rows.map(({ discipline }) => discipline), padding: 0.25 },
    color: { ...colors, type: 'categorical' },
    marks: [
      Plot.axisFy({ anchor: 'left', label: null, fontSize: 12, tickFormat: shortened }),
      Plot.barX(bars, { x: 'value', y: 'of', fy: 'discipline', fill: 'of' }),
      Plot.tickX(ticks, { x: 'value', y: 'of', fy: 'discipline', strokeWidth: 2 }),
      Plot.text([label], { frameAnchor: 'top', dy: -24, fontSize: 12, facet: 'super' }),
      ...(bars.length === 0
        ? [Plot.text(['not measured by this mixing'], { frameAnchor: 'middle', facet: 'super' })]
        : [Plot.ruleX([0])]),
    ],
  })
  return chart.outerHTML
}

function shortened(name: string): string {
  return name.length > 14 ? `${name.slice(0, 13)}…` : name
}
