import * as Plot from '@observablehq/plot'
import { parseHTML } from 'linkedom'
import { escaped } from './html.js'

/**
 * Charts as SVG texts that need nothing else. Text takes the page's colour; marks have ones that stand out by 3:1 or more
 * from a light page and a dark one.
 */

const width = 860
const labelWidth = 310
const rowHeight = 30
const margins = 76

const palette = [
  '#4c8bf5',
  '#d9722a',
  '#35985f',
  '#c95f8f',
  '#9a7be0',
  '#a68a1f',
  '#2795a2',
  '#d9534f',
]
/** Beyond the palette its colours come again, in other strokes. */
const dashes = ['none', '7 4', '2 3']
const accent = palette[0]
const opposite = palette[1]
const quiet = '#8a8f98'

/** One line of a chart: every seed as a point, and what they say together. */
export interface Row {
  readonly name: string
  readonly points: readonly number[]
  readonly estimate: number | null
  readonly lower: number | null
  readonly upper: number | null
}

export interface Line {
  readonly name: string
  readonly value: number
}

type Options = Omit<NonNullable<Parameters<typeof Plot.plot>[0]>, 'document' | 'width'>

function svg(label: string, options: Options): string {
  // The compiler knows no DOM: that of Plot's options has no type here.
  const { document } = parseHTML('<!doctype html><html><body></body></html>') as unknown as {
    readonly document: never
  }
  const chart = Plot.plot({
    document,
    width,
    style: { background: 'none', overflow: 'visible', fontSize: '13px' },
    ...options,
  })
  chart.setAttribute('role', 'img')
  // The serialiser leaves these as they are in attributes.
  chart.setAttribute('aria-label', label.replace(/[<>]/g, ''))
  return chart.outerHTML
}

const height = (rows: number) => margins + rowHeight * Math.max(1, rows)

/** Of wide letters: not every system has narrow ones. */
const letterWidth = 7.8
const shortened = (name: string, room = Math.floor(labelWidth / letterWidth)) =>
  name.length > room ? `${name.slice(0, room - 1)}…` : name

/** What the colours and strokes of a chart stand for. */
function legend(names: readonly string[], kind: 'line' | 'area'): string {
  const entries = names.map((name, i) => {
    const color = colorOf(i)
    const stroke = ['solid', 'dashed', 'dotted'][strokeOf(i)]
    const swatch =
      kind === 'line' ? `border-top: 3px ${stroke} ${color}` : `height: 12px; background: ${color}`
    return `<span><i style="${swatch}"></i>${escaped(shortened(name))}</span>`
  })
  return `<div class="legend">${entries.join('')}</div>`
}

const colorOf = (i: number) => palette[i % palette.length]
const strokeOf = (i: number) => Math.floor(i / palette.length) % dashes.length

/** Rows of points with their estimate and interval. @param lines what they are read against, by name */
export function intervals(
  label: string,
  axis: string,
  rows: readonly Row[],
  lines: readonly Line[],
): string {
  const points = rows.flatMap(({ name, points }) => points.map((value) => ({ name, value })))
  const bars = rows.filter(({ lower, upper }) => lower !== null && upper !== null)
  const ordered = [...lines].sort((a, b) => a.value - b.value)
  // Names of lines that are close to each other lean away from each other.
  const names = ordered.map((line, i) =>
    Plot.text([line], {
      x: 'value',
      text: 'name',
      frameAnchor: 'top',
      dy: -12,
      dx: ordered.length === 1 ? 0 : i === 0 ? 3 : -3,
      textAnchor: ordered.length === 1 ? 'middle' : i === 0 ? 'end' : 'start',
      fontSize: 12,
      fill: 'currentColor',
    }),
  )
  return svg(label, {
    height: height(rows.length),
    marginLeft: labelWidth,
    marginRight: 60,
    marginTop: 34,
    marginBottom: 42,
    x: { label: axis, grid: true, nice: true },
    y: {
      label: null,
      type: 'point',
      domain: rows.map(({ name }) => name),
      padding: 0.5,
      tickFormat: (name: string) => shortened(name),
    },
    marks: [
      Plot.ruleX(lines, { x: 'value', stroke: quiet, strokeDasharray: '4 3' }),
      ...names,
      Plot.ruleY(bars, {
        y: 'name',
        x1: 'lower',
        x2: 'upper',
        stroke: accent,
        strokeWidth: 3,
        strokeOpacity: 0.6,
      }),
      Plot.dot(points, { y: 'name', x: 'value', r: 3, stroke: quiet, strokeWidth: 1.5 }),
      Plot.dot(
        rows.filter(({ estimate }) => estimate !== null),
        { y: 'name', x: 'estimate', r: 5, fill: accent },
      ),
    ],
  })
}

export interface Curve {
  readonly name: string
  /** From the start of the training to its end. */
  readonly losses: readonly number[]
}

/** Loss against the part of the training that is done. */
export function curves(label: string, lines: readonly Curve[]): string {
  const marks = lines.map(({ losses }, i) => {
    const points = losses.map((loss, k) => ({ loss, at: (100 * (k + 1)) / losses.length }))
    return Plot.line(points, {
      x: 'at',
      y: 'loss',
      stroke: colorOf(i),
      strokeDasharray: dashes[strokeOf(i)],
      strokeWidth: 2,
    })
  })
  const chart = svg(label, {
    height: 300,
    marginLeft: 56,
    marginBottom: 42,
    x: { label: 'part of the training, %' },
    y: { label: 'training loss, nats a token', grid: true, nice: true },
    marks,
  })
  return (
    legend(
      lines.map(({ name }) => name),
      'line',
    ) + chart
  )
}

/** Shares that sum to 1, by row. */
export function shares(
  label: string,
  rows: readonly { readonly name: string; readonly parts: Readonly<Record<string, number>> }[],
): string {
  const bars = rows.flatMap(({ name, parts }) => {
    const total = Object.values(parts).reduce((a, b) => a + b, 0)
    return Object.entries(parts).map(([part, value]) => ({
      name,
      part,
      value: (100 * value) / total,
    }))
  })
  const parts = [...new Set(bars.map(({ part }) => part))]
  const chart = svg(label, {
    height: height(rows.length),
    marginLeft: labelWidth,
    marginBottom: 42,
    x: { label: 'of the trained tokens, %' },
    y: {
      label: null,
      domain: rows.map(({ name }) => name),
      padding: 0.25,
      tickFormat: (name: string) => shortened(name),
    },
    color: { domain: parts, range: parts.map((_, i) => colorOf(i)) },
    marks: [Plot.barX(bars, { y: 'name', x: 'value', fill: 'part' })],
  })
  return legend(parts, 'area') + chart
}

export interface Cell {
  readonly row: string
  readonly column: string
  readonly value: number
}

/**
 * A table of numbers as shades, which are also written: of one colour from the least to the most, or where some are below
 * 0 of two, by how far they are from it.
 *
 * @param digits after the point
 */
export function matrix(label: string, cells: readonly Cell[], digits = 2): string {
  const rows = [...new Set(cells.map(({ row }) => row))]
  const columns = [...new Set(cells.map(({ column }) => column))]
  const marginLeft = 190
  const letters = Math.floor((width - marginLeft) / Math.max(1, columns.length) / letterWidth)
  return svg(label, {
    height: height(rows.length),
    marginLeft,
    marginTop: 34,
    padding: 0.06,
    x: {
      axis: 'top',
      label: null,
      domain: columns,
      tickFormat: (name: string) => shortened(name, letters),
    },
    y: {
      label: null,
      domain: rows,
      tickFormat: (name: string) => shortened(name, Math.floor(marginLeft / letterWidth)),
    },
    opacity: { type: 'identity' },
    marks: [
      Plot.cell(cells, {
        x: 'column',
        y: 'row',
        fill: ({ value }: Cell) => (value < 0 ? opposite : accent),
        fillOpacity: opacityOf(cells),
      }),
      Plot.text(cells, {
        x: 'column',
        y: 'row',
        text: ({ value }: Cell) => value.toFixed(digits).replace(/^-(?=[0.]+$)/, ''),
        fill: 'currentColor',
      }),
    ],
  })
}

function opacityOf(cells: readonly Cell[]): (cell: Cell) => number {
  const values = cells.map(({ value }) => value)
  const most = Math.max(...values.map(Math.abs))
  const least = Math.min(...values)
  const origin = least < 0 ? 0 : least
  return ({ value }) =>
    most > origin ? 0.05 + (0.5 * (Math.abs(value) - origin)) / (most - origin) : 0.2
}
