import * as Plot from '@observablehq/plot'
import { parseHTML } from 'linkedom'

/** Charts as SVG texts that need nothing else. Text takes the page's colour, marks have ones that do on light and dark. */

const width = 860
const labelWidth = 250
const rowHeight = 30
const margins = 76

export const palette = [
  '#4c8bf5',
  '#e8833a',
  '#3fa66b',
  '#c95f8f',
  '#9a7be0',
  '#b59b2d',
  '#2fa6b3',
  '#d9534f',
]
const accent = palette[0]
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
  const element = chart.tagName.toLowerCase() === 'svg' ? chart : chart.querySelector('svg')!
  element.setAttribute('role', 'img')
  // The serialiser leaves these as they are in attributes.
  element.setAttribute('aria-label', label.replace(/[<>]/g, ''))
  return chart.outerHTML
}

const height = (rows: number) => margins + rowHeight * Math.max(1, rows)
const shortened = (name: string) => (name.length > 36 ? `${name.slice(0, 35)}…` : name)

/** Rows of points with their estimate and interval. @param lines what they are read against, by name */
export function intervals(
  label: string,
  axis: string,
  rows: readonly Row[],
  lines: readonly Line[],
): string {
  const points = rows.flatMap(({ name, points }) => points.map((value) => ({ name, value })))
  const bars = rows.filter(({ lower, upper }) => lower !== null && upper !== null)
  return svg(label, {
    height: height(rows.length),
    marginLeft: labelWidth,
    marginTop: 34,
    marginBottom: 42,
    x: { label: axis, grid: true, nice: true },
    y: {
      label: null,
      type: 'point',
      domain: rows.map(({ name }) => name),
      padding: 0.5,
      tickFormat: shortened,
    },
    marks: [
      Plot.ruleX(lines, { x: 'value', stroke: quiet, strokeDasharray: '4 3' }),
      Plot.text(lines, {
        x: 'value',
        text: 'name',
        frameAnchor: 'top',
        dy: -12,
        fontSize: 11,
        fill: 'currentColor',
      }),
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
  const points = lines.flatMap(({ name, losses }) =>
    losses.map((loss, i) => ({ name: shortened(name), loss, at: (100 * (i + 1)) / losses.length })),
  )
  return svg(label, {
    height: 300,
    marginLeft: 56,
    marginBottom: 42,
    x: { label: 'part of the training, %' },
    y: { label: 'training loss, nats a token', grid: true, nice: true },
    color: { legend: true, range: palette, domain: [...new Set(points.map(({ name }) => name))] },
    marks: [Plot.line(points, { x: 'at', y: 'loss', stroke: 'name', z: 'name', strokeWidth: 2 })],
  })
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
  return svg(label, {
    height: height(rows.length),
    marginLeft: labelWidth,
    marginBottom: 42,
    x: { label: 'of the trained tokens, %' },
    y: { label: null, domain: rows.map(({ name }) => name), padding: 0.25, tickFormat: shortened },
    color: { legend: true, range: palette, domain: [...new Set(bars.map(({ part }) => part))] },
    marks: [Plot.barX(bars, { y: 'name', x: 'value', fill: 'part' })],
  })
}

export interface Cell {
  readonly row: string
  readonly column: string
  readonly value: number
}

/** A table of numbers as shades, which are also written. @param digits after the point */
export function matrix(label: string, cells: readonly Cell[], digits = 2): string {
  const rows = [...new Set(cells.map(({ row }) => row))]
  return svg(label, {
    height: height(rows.length),
    marginLeft: labelWidth,
    marginTop: 34,
    padding: 0.06,
    x: { axis: 'top', label: null, domain: [...new Set(cells.map(({ column }) => column))] },
    y: { label: null, domain: rows, tickFormat: shortened },
    marks: [
      Plot.cell(cells, { x: 'column', y: 'row', fill: accent, fillOpacity: opacityOf(cells) }),
      Plot.text(cells, {
        x: 'column',
        y: 'row',
        text: ({ value }: Cell) => value.toFixed(digits),
        fill: 'currentColor',
      }),
    ],
  })
}

function opacityOf(cells: readonly Cell[]): (cell: Cell) => number {
  const values = cells.map(({ value }) => value)
  const [least, most] = [Math.min(...values), Math.max(...values)]
  return ({ value }) => (most > least ? 0.05 + (0.5 * (value - least)) / (most - least) : 0.2)
}
