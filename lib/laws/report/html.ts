/** Text of anyone's, as HTML. */
export function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)
}

/** In letters: a longer cell is not squeezed into a column of single words. */
const longCell = 20

/** @param rows cells of text; numbers are set to the right */
export function table(
  head: readonly string[],
  rows: readonly (readonly (string | number)[])[],
): string {
  const line = (row: readonly (string | number)[], tag: 'th' | 'td') =>
    `<tr>${row.map((cell) => tableCell(cell, tag)).join('')}</tr>`
  const body = rows.map((row) => line(row, 'td')).join('\n')
  return `<div class="scroll"><table><thead>${line(head, 'th')}</thead><tbody>\n${body}\n</tbody></table></div>`
}

function tableCell(cell: string | number, tag: 'th' | 'td'): string {
  if (typeof cell === 'number')
    return `<${tag} class="number">${cell.toLocaleString('en')}</${tag}>`
  const style = cell.length > longCell ? ' class="long"' : ''
  return `<${tag}${style}>${escaped(cell)}</${tag}>`
}

export const list = (items: readonly string[]) =>
  items.length === 0 ? '' : `<ul>${items.map((item) => `<li>${escaped(item)}</li>`).join('')}</ul>`

export const figure = (caption: string, chart: string) =>
  `<figure>${chart}<figcaption>${escaped(caption)}</figcaption></figure>`

const style = `
:root { color-scheme: light dark; --text: #1d2127; --page: #ffffff; --line: #d5d9df; --quiet: #5b626c; --mark: #eef2f8; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --page: #15181c; --line: #383e46; --quiet: #a3abb5; --mark: #222831; } }
body { margin: 0 auto; max-width: 940px; padding: 24px; font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); }
h1 { font-size: 26px; } h2 { margin-top: 44px; border-top: 1px solid var(--line); padding-top: 18px; font-size: 20px; } h3 { font-size: 16px; margin-bottom: 6px; }
table { border-collapse: collapse; font-size: 13px; } th, td { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.long { min-width: 130px; } .number { text-align: right; font-variant-numeric: tabular-nums; }
.scroll, figure { overflow-x: auto; } figure { margin: 12px 0 20px; } figcaption, .quiet { color: var(--quiet); font-size: 13px; }
/* On a narrow page a chart scrolls rather than have letters that nobody can read. */
figure svg { display: block; width: 860px; min-width: 700px; max-width: 100%; height: auto; color: var(--text); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 0 0 6px; font-size: 13px; }
.legend i { display: inline-block; width: 22px; margin-right: 6px; vertical-align: middle; }
details { margin: 8px 0 20px; } summary { cursor: pointer; font-size: 13px; }
.verdict { display: inline-block; padding: 1px 8px; border-radius: 4px; background: var(--mark); font-weight: 600; }
`

/** A page that needs nothing else. */
export function page(title: string, body: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(title)}</title>
<style>${style}</style>
</head>
<body>
<h1>${escaped(title)}</h1>
${body}
</body>
</html>
`
}
