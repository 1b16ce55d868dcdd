/**
 * A message as chat templates take it: `role`, `content` (a text, for some templates a list of
 * parts or nothing), and whatever else the template looks at. Plain data.
 */
export interface ChatMessage {
  role: string
  content?: string | readonly Readonly<Record<string, unknown>>[] | null
  [key: string]: unknown
}

export interface TemplateInput {
  messages: readonly ChatMessage[]
  addGenerationPrompt: boolean
  /** Further variables that the template may look at: `tools`, `enable_thinking`, … */
  variables?: Readonly<Record<string, unknown>>
  /** Whether to say where the `{% generation %}` blocks of the template came to stand. */
  marked?: boolean
}

/** What became of one rendering: its text, or why the template refused. */
export type Rendering =
  | {
      text: string
      /** [start, end) in the text of each `{% generation %}` block; only of a marked rendering. */
      generated?: [number, number][]
      error?: undefined
    }
  | { text?: undefined; error: string }
