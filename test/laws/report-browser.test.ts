import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { reportPage } from '../../lib/laws/report/index.js'
import { Browser, findChromium } from '../../scripts/browser.mjs'
import { temporaryFolder } from '../temporary-folder.js'
import { sampleReport } from './sample-report.js'

/** What is wrong with the page that is open, in words. */
const findFaults = `(() => {
  const faults = []
  let marks = 0
  const shown = (text) => JSON.stringify(text.textContent)
  const boxOf = (one) => one.getBoundingClientRect()
  const luminance = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).map((part) => {
      const value = Number(part) / 255
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4
    })
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b)
    return (light + 0.05) / (dark + 0.05)
  }
  const page = getComputedStyle(document.body).backgroundColor
  if (contrast(getComputedStyle(document.body).color, page) < 7) faults.push('pale text')
  if (document.documentElement.scrollWidth > innerWidth) faults.push('the page is wider than the window')
  for (const svg of document.querySelectorAll('svg')) {
    const label = svg.getAttribute('aria-label')
    if (svg.getAttribute('role') !== 'img' || !label) faults.push('a chart without a label')
    const texts = [...svg.querySelectorAll('text')].filter((one) => one.textContent !== '')
    if (texts.length === 0) faults.push(label + ': no text')
    const outer = boxOf(svg)
    const boxes = texts.map(boxOf)
    boxes.forEach((box, i) => {
      const inside = box.left >= outer.left - 1 && box.right <= outer.right + 1 &&
        box.top >= outer.top - 1 && box.bottom <= outer.bottom + 1
      if (!inside) faults.push(label + ': ' + shown(texts[i]) + ' leaves the chart')
      if (box.height < 9) faults.push(label + ': ' + shown(texts[i]) + ' is ' + box.height + ' pixels high')
      if (contrast(getComputedStyle(texts[i]).fill, page) < 4.5) faults.push(label + ': ' + shown(texts[i]) + ' is pale')
      for (let k = 0; k < i; k++) {
        const other = boxes[k]
        const wide = Math.min(box.right, other.right) - Math.max(box.left, other.left)
        const high = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top)
        // Boxes are as high as a line: letters of neighbouring rows do not touch.
        if (wide > 1 && high > 4) faults.push(label + ': ' + shown(texts[i]) + ' lies on ' + shown(texts[k]))
      }
    })
    for (const mark of svg.querySelectorAll('[aria-label="line"] path, [aria-label="dot"] circle')) {
      marks++
      const { stroke, fill } = getComputedStyle(mark)
      const color = stroke === 'none' ? fill : stroke
      if (contrast(color, page) < 3) faults.push(label + ': a mark of ' + color + ' on ' + page)
    }
  }
  return { faults, marks, charts: document.querySelectorAll('svg').length }
})()`

describe('the report in a browser', function () {
  this.timeout(120_000)
  const path = findChromium()
  if (path === undefined) {
    it.skip('is readable (skipped: there is no Chromium)')
    return
  }
  const at = temporaryFolder()
  let browser: Browser

  before(async () => {
    const { inputs } = await sampleReport()
    writeFileSync(at('report.html'), reportPage(inputs))
    browser = new Browser(path)
  })
  after(() => browser.close())

  for (const scheme of ['light', 'dark'] as const)
    for (const width of [1000, 420])
      it(`has charts whose labels can be read, ${scheme}, in ${width} pixels`, async () => {
        const page = await browser.open(at('report.html'), { width, scheme })
        const { faults, charts, marks } = (await page.evaluate(findFaults)) as {
          faults: string[]
          charts: number
          marks: number
        }
        await page.close()
        assert.ok(charts > 30 && marks > 500, `${charts} charts, ${marks} marks`)
        assert.deepEqual(faults, [])
      })
})
