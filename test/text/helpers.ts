import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'

/** A folder of its own under the system's temporary folder. */
export class TemporaryFolder {
  readonly path: string

  private constructor(path: string) {
    this.path = path
  }

  static async create(): Promise<TemporaryFolder> {
    return new TemporaryFolder(await mkdtemp(join(tmpdir(), 'polylora-test-')))
  }

  /** Writes a file (objects as JSON) and returns its path. */
  async write(name: string, content: string | Uint8Array | object): Promise<string> {
    const path = join(this.path, name)
    await mkdir(dirname(path), { recursive: true })
    const raw = typeof content === 'string' || content instanceof Uint8Array
    await writeFile(path, raw ? content : JSON.stringify(content))
    return path
  }

  async remove(): Promise<void> {
    await rm(this.path, { recursive: true, force: true })
  }
}

/** The vocabulary's printable ASCII, one token a character, so that expectations can be counted. */
const characters = [...'\n', ...Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i))]

/**
 * tokenizer.json of a tokenizer with a token for each printable ASCII character and newline (ids
 * from 0 in that order: newline 0, space 1, '!' 2 …), then `merges` ("ab": one token for a + b),
 * then `special`.
 */
export function characterTokenizer(
  options: {
    merges?: string[]
    special?: string[]
    split?: string
    normalizer?: unknown
    begin?: string
  } = {},
): Record<string, unknown> {
  const { merges = [], special = ['<end>'], split, normalizer = null, begin } = options
  const vocab: Record<string, number> = {}
  for (const token of [...characters, ...merges]) vocab[token] = Object.keys(vocab).length
  const base = Object.keys(vocab).length
  const idOf = (token: string): number => base + special.indexOf(token)
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: special.map((content) => ({
      id: idOf(content),
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer,
    pre_tokenizer:
      split === undefined
        ? null
        : { type: 'Split', pattern: { Regex: split }, behavior: 'Isolated', invert: false },
    post_processor:
      begin === undefined
        ? null
        : {
            type: 'TemplateProcessing',
            single: [
              { SpecialToken: { id: begin, type_id: 0 } },
              { Sequence: { id: 'A', type_id: 0 } },
            ],
            pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
            special_tokens: { [begin]: { id: begin, ids: [idOf(begin)], tokens: [begin] } },
          },
    decoder: { type: 'Fuse' },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab,
      merges: merges.map((token) => [token.slice(0, -1), token.slice(-1)]),
    },
  }
}

/** The ids that {@link characterTokenizer} gives a text without merges. */
export function characterIds(text: string): number[] {
  return [...text].map((character) => characters.indexOf(character))
}

/** Writes a model folder with {@link characterTokenizer} and returns its path. */
export async function writeTokenizer(
  folder: TemporaryFolder,
  name: string,
  options: Parameters<typeof characterTokenizer>[0] & { config?: Record<string, unknown> } = {},
): Promise<string> {
  const { config = {}, ...rest } = options
  await folder.write(join(name, 'tokenizer.json'), characterTokenizer(rest))
  await folder.write(join(name, 'tokenizer_config.json'), { eos_token: '<end>', ...config })
  return join(folder.path, name)
}
