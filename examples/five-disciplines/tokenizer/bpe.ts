/** Byte-pair encoding over UTF-8 bytes: learns merges, most frequent pair first. */

/** GPT-2's printable stand-ins for the 256 bytes, in byte order. */
export function byteAlphabet(): string[] {
  const printable = (byte: number): boolean =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255)
  let next = 256
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCodePoint(printable(byte) ? byte : next++),
  )
}

/**
 * Qwen2's split, with digits one by one: contractions, a word with one leading mark or space, a digit,
 * punctuation with its newlines, newlines, trailing spaces.
 */
export const splitPattern =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/** The same for JavaScript before inline flags: the contractions spelt out. */
const splitter = new RegExp(
  splitPattern.replace(
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]",
  ),
  'gu',
)

export function countWords(texts: Iterable<string>): Map<string, number> {
  const alphabet = byteAlphabet()
  const encoder = new TextEncoder()
  const raw = new Map<string, number>()
  for (const text of texts) {
    for (const [word] of text.normalize('NFC').matchAll(splitter))
      raw.set(word, (raw.get(word) ?? 0) + 1)
  }
  return new Map(
    [...raw].map(([word, count]) => [
      [...encoder.encode(word)].map((byte) => alphabet[byte]).join(''),
      count,
    ]),
  )
}

interface Word {
  symbols: string[]
  count: number
}

const separator = ' '

/** Learns up to `limit` merges. Ties fall to the pair that sorts first, so the result is deterministic. */
export function learnMerges(
  counts: ReadonlyMap<string, number>,
  limit: number,
): [string, string][] {
  const words: Word[] = [...counts].map(([word, count]) => ({ symbols: [...word], count }))
  const pairCounts = new Map<string, number>()
  const pairWords = new Map<string, Set<number>>()
  const account = (index: number, sign: 1 | -1): void => {
    const { symbols, count } = words[index]
    for (let i = 0; i + 1 < symbols.length; i++) {
      const pair = symbols[i] + separator + symbols[i + 1]
      pairCounts.set(pair, (pairCounts.get(pair) ?? 0) + sign * count)
      if (sign === 1) {
        const members = pairWords.get(pair) ?? new Set<number>()
        pairWords.set(pair, members.add(index))
      }
    }
  }
  words.forEach((_, index) => {
    account(index, 1)
  })

  const merges: [string, string][] = []
  while (merges.length < limit) {
    let best: string | undefined
    let bestCount = 1
    for (const [pair, count] of pairCounts) {
      if (count > bestCount || (count === bestCount && best !== undefined && pair < best)) {
        best = pair
        bestCount = count
      }
    }
    if (best === undefined) break
    const [left, right] = best.split(separator) as [string, string]
    merges.push([left, right])
    for (const index of pairWords.get(best)!) {
      account(index, -1)
      const word = words[index]
      const merged: string[] = []
      for (let i = 0; i < word.symbols.length; i++) {
        if (word.symbols[i] === left && word.symbols[i + 1] === right) {
          merged.push(left + right)
          i++
        } else merged.push(word.symbols[i])
      }
      word.symbols = merged
      account(index, 1)
    }
    pairCounts.delete(best)
    pairWords.delete(best)
  }
  return merges
}
