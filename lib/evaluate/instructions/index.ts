import { Arguments, type InstructionArguments, instructions } from './checks.js'

export type { InstructionArguments } from './checks.js'

/** Which of a record's instructions an answer follows. */
export interface InstructionScore {
  /** The answer as it is. */
  readonly strict: readonly boolean[]
  /** Or one of its variants: without its first line, its last, or both, and each without asterisks. */
  readonly loose: readonly boolean[]
}

/** What tells how far an answer follows the instructions of one record. */
export type InstructionCheck = (answer: string) => InstructionScore

/**
 * @param ids IFEval's names, such as `keywords:existence`
 * @param values the arguments of each, in the same order
 * @throws Error saying which name or argument is wrong
 */
export function instructionCheck(
  ids: readonly string[],
  values: readonly InstructionArguments[],
): InstructionCheck {
  if (ids.length !== values.length)
    throw new Error(`there are ${ids.length} instructions and arguments for ${values.length}`)
  const checks = ids.map((id, i) => {
    if (!Object.hasOwn(instructions, id))
      throw new Error(
        `the instruction '${id}' is not known; there are ${Object.keys(instructions).join(', ')}`,
      )
    try {
      return instructions[id](new Arguments(values[i]))
    } catch (error) {
      throw new Error(`${id}: ${(error as Error).message}`, { cause: error })
    }
  })
  // An empty answer follows nothing.
  const follows = (check: (answer: string) => boolean, answer: string) =>
    answer.trim() !== '' && check(answer)
  return (answer) => ({
    strict: checks.map((check) => follows(check, answer)),
    loose: checks.map((check) => variants(answer).some((variant) => follows(check, variant))),
  })
}

function variants(answer: string): string[] {
  const lines = answer.split('\n')
  const cut = [lines.slice(1), lines.slice(0, -1), lines.slice(1, -1)]
  const texts = [answer, ...cut.map((part) => part.join('\n').trim())]
  return [...texts, ...texts.map((text) => text.replaceAll('*', ''))]
}
