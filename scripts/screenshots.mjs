// node scripts/screenshots.mjs REPORT.html FOLDER [SECTION ...]: pictures of a study's report in light and dark, a section
// each, as PNG files of at most 300 kB: a longer section ends where one of its figures or tables does.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Browser, findChromium } from './browser.mjs'
import { runMain, ScriptError } from './run.mjs'

const width = 960
const gap = 16
const mostBytes = 300_000

/** Sections of the page, each from its heading to the next, with the ends of what is in them. */
const findSections = `(() => {
  const sections = []
  for (const element of document.body.children) {
    const { top, bottom } = element.getBoundingClientRect()
    if (/^H[12]$/.test(element.tagName)) {
      const slug = element.textContent.toLowerCase().replace(/[^a-z0-9]+/g, '-')
      sections.push({ slug: sections.length > 0 ? slug : 'verdicts', top: top + scrollY, ends: [] })
    }
    sections.at(-1)?.ends.push(bottom + scrollY)
  }
  return sections
})()`

async function pictureOf(page, { top, ends }) {
  const y = Math.max(0, top - gap)
  for (let i = ends.length - 1; ;) {
    const height = ends[i] + gap - y
    const picture = await page.picture({ x: 0, y, width, height })
    if (picture.length <= mostBytes || i === 0) return picture
    // Bytes go with the height, roughly.
    const fitting = y + (0.97 * height * mostBytes) / picture.length
    const next = ends.findLastIndex((end) => end + gap <= fitting)
    i = Math.max(0, Math.min(i - 1, next))
  }
}

runMain(async () => {
  const [file, folder, ...wanted] = process.argv.slice(2)
  if (folder === undefined)
    throw new ScriptError('usage: node scripts/screenshots.mjs REPORT.html FOLDER [SECTION ...]')
  const path = findChromium()
  if (path === undefined)
    throw new ScriptError('there is no Chromium; install one, or name it in POLYLORA_CHROMIUM')
  mkdirSync(folder, { recursive: true })
  const browser = new Browser(path)
  try {
    for (const scheme of ['light', 'dark']) {
      const page = await browser.open(file, { width, scheme })
      for (const section of await page.evaluate(findSections)) {
        if (wanted.length > 0 && !wanted.includes(section.slug)) continue
        const picture = await pictureOf(page, section)
        const target = join(folder, `${section.slug}-${scheme}.png`)
        writeFileSync(target, picture)
        console.log(`${target}: ${Math.ceil(picture.length / 1000)} kB`)
      }
      await page.close()
    }
  } finally {
    await browser.close()
  }
})
