/**
 * Trains the tokenizer of the example models and writes it in Hugging Face's format:
 *
 *     npx tsx examples/five-disciplines/tokenizer/train.ts [FOLDER]
 */
import { mkdirSync, realpathSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { generateCorpus } from '../corpus.js'
import { pretrainingDocuments } from '../pretraining.js'
import { instructionTuningRecords } from '../tuning.js'
import { byteAlphabet, countWords, learnMerges, splitPattern } from './bpe.js'

export const vocabularySize = 4096
export const specialTokens = ['<|endoftext|>', '<|im_start|>', '<|im_end|>'] as const

/** ChatML without a default system message. */
export const chatTemplate =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

/** What every discipline says is to weigh in the merges more than it does in the tuning. */
const shares = { everyday: 34, instructions: 44, disciplines: 22 }

/** Pre-training text, chats and training prompts: validation and test are not looked at. */
function* trainingTexts(): Generator<string> {
  yield* pretrainingDocuments({ seed: 1, tokens: 1_500_000 })
  for (const { messages } of instructionTuningRecords({ seed: 1, shares })) {
    for (const { role, content } of messages) yield `${role}\n${content}`
  }
  const { disciplines } = generateCorpus({ seed: 1 })
  for (const { train } of Object.values(disciplines)) {
    for (const { prompt, completion } of train) {
      yield prompt
      yield completion
    }
  }
}

function addedToken(id: number, content: string): object {
  return {
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  }
}

export function trainTokenizer(): Record<string, string> {
  const alphabet = byteAlphabet()
  const room = vocabularySize - alphabet.length - specialTokens.length
  const merges = learnMerges(countWords(trainingTexts()), room)
  // Bytes in the order of their stand-ins, then merges as learnt, then the special tokens.
  const tokens = [...alphabet].sort().concat(merges.map(([left, right]) => left + right))
  const vocabulary = Object.fromEntries([...new Set(tokens)].map((token, id) => [token, id]))
  const first = Object.keys(vocabulary).length
  const added = specialTokens.map((token, index) => addedToken(first + index, token))
  const byteLevel = {
    type: 'ByteLevel',
    add_prefix_space: false,
    trim_offsets: false,
    use_regex: false,
  }
  const tokenizer = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: { type: 'NFC' },
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: splitPattern }, behavior: 'Isolated', invert: false },
        byteLevel,
      ],
    },
    post_processor: byteLevel,
    decoder: byteLevel,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: '',
      end_of_word_suffix: '',
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: vocabulary,
      merges: merges.map(([left, right]) => `${left} ${right}`),
    },
  }
  const config = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    model_max_length: 512,
    add_prefix_space: false,
    add_bos_token: false,
    clean_up_tokenization_spaces: false,
    bos_token: null,
    unk_token: null,
    eos_token: '<|im_end|>',
    pad_token: '<|endoftext|>',
    additional_special_tokens: ['<|im_start|>', '<|im_end|>'],
    added_tokens_decoder: Object.fromEntries(
      specialTokens.map((token, index) => [
        String(first + index),
        {
          content: token,
          lstrip: false,
          normalized: false,
          rstrip: false,
          single_word: false,
          special: true,
        },
      ]),
    ),
    chat_template: chatTemplate,
  }
  const generation = {
    do_sample: false,
    eos_token_id: [first + 2, first],
    pad_token_id: first,
    max_new_tokens: 64,
  }
  const json = (value: unknown): string => `${JSON.stringify(value, null, 1)}\n`
  return {
    'tokenizer.json': json(tokenizer),
    'tokenizer_config.json': json(config),
    'generation_config.json': json(generation),
  }
}

export function writeTokenizer(folder: string): void {
  mkdirSync(folder, { recursive: true })
  for (const [name, text] of Object.entries(trainTokenizer()))
    writeFileSync(join(folder, name), text)
}

if (
  process.argv[1] !== undefined &&
  realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)
) {
  writeTokenizer(process.argv[2] ?? fileURLToPath(new URL('.', import.meta.url)))
}
