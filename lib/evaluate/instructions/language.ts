import { franc } from 'franc'

/** The languages that IFEval asks for, by ISO 639-1, as ISO 639-3. */
const languages: Readonly<Record<string, string>> = {
  ar: 'arb',
  bg: 'bul',
  bn: 'ben',
  de: 'deu',
  en: 'eng',
  es: 'spa',
  fa: 'pes',
  fi: 'fin',
  fr: 'fra',
  gu: 'guj',
  he: 'heb',
  hi: 'hin',
  it: 'ita',
  ja: 'jpn',
  kn: 'kan',
  ko: 'kor',
  ml: 'mal',
  mr: 'mar',
  ne: 'nep',
  pa: 'pan',
  pl: 'pol',
  pt: 'por',
  ru: 'rus',
  sw: 'swh',
  ta: 'tam',
  te: 'tel',
  th: 'tha',
  uk: 'ukr',
  ur: 'urd',
  vi: 'vie',
}

export const languageCodes: readonly string[] = Object.keys(languages)

/**
 * Whether a text is in the language of an ISO 639-1 code, by its trigrams. The reference asks another detector
 * (langdetect), which draws random numbers: on short texts the two may differ. As there, a text in which no language
 * can be recognised counts as right.
 */
export function isInLanguage(text: string, code: string): boolean {
  // Trigrams were counted in lower case.
  const found = franc(text.toLowerCase(), { only: Object.values(languages), minLength: 3 })
  return found === 'und' || found === languages[code]
}
