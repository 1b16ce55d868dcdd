export { Tokenizer } from './tokenizer.js'
export type {
  DecodeOptions,
  EncodeOptions,
  TemplateOptions,
  TokenizerOptions,
} from './tokenizer.js'
export { encodeContinuations } from './continuation.js'
export type { Continuation, ContinuationEncoding, ContinuationOptions } from './continuation.js'
export { StreamingDecoder } from './streaming-decoder.js'
export type { ChatEncoding, ChatLabels, ChatProblem, Conversation } from './chat.js'
export type { ChatMessage } from './rendering.js'
