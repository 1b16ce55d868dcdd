/** Whether a template says itself what the assistant writes. */
export function marksGeneration(template: string): boolean {
  return new RegExp(generationTag.source).test(template)
}

const generationTag = /\{%(-?)\s*(end)?generation\s*(-?)%\}/g
// Private-use characters, which conversations do not hold; one that does is not rendered marked.
const openMark = '\uf8f3'
const closeMark = '\uf8f4'
/** Whether a text holds characters that marked renderings give a meaning to. */
export const holdsMarks = /[\uf8f3\uf8f4]/

// The library drops the tags and keeps their whitespace control. A mark between two of them ends up
// where the block's border is, and takes nothing from the control on either side.
export function markGeneration(template: string): string {
  return template.replace(
    generationTag,
    (_, left: string, end: string | undefined, right: string) =>
      `{%${left} generation %}${end ? closeMark : openMark}{% generation ${right}%}`,
  )
}

/** The text without its marks, and where they were. */
export function readMarks(marked: string): { text: string; generated: [number, number][] } {
  const generated: [number, number][] = []
  let text = ''
  let opened: number | undefined
  for (const part of marked.split(/([\uf8f3\uf8f4])/)) {
    if (part === openMark) opened = text.length
    else if (part === closeMark) {
      if (opened !== undefined) generated.push([opened, text.length])
      opened = undefined
    } else text += part
  }
  return { text, generated }
}
