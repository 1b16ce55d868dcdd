import type { TaskInput } from './task.js'

/**
 * Tasks of the field, as lm-evaluation-harness asks and scores them: prompts, choices, extraction and what is ignored
 * are those of its task files, so that scores compare. `data` is the user's copy, with the keys of the data set's own
 * records. Shots, where there are any, are the first ones of their file.
 */
const letters = ['A', 'B', 'C', 'D']

export const builtInTasks: Readonly<Record<string, TaskInput>> = {
  mmlu: {
    kind: 'choice',
    name: 'mmlu',
    description:
      'The following are multiple choice questions (with answers) about {subject|spaces}.\n\n',
    prompt:
      '{question|trim}\nA. {choices.0}\nB. {choices.1}\nC. {choices.2}\nD. {choices.3}\nAnswer:',
    choices: letters,
    answer: 'answer',
    group: 'subject',
  },
  medmcqa: {
    kind: 'choice',
    name: 'medmcqa',
    prompt: 'Question: {question}\nChoices:\nA. {opa}\nB. {opb}\nC. {opc}\nD. {opd}\nAnswer:',
    choices: letters,
    answer: 'cop',
  },
  medqa: {
    kind: 'choice',
    name: 'medqa',
    prompt: 'Question: {sent1}\nA. {ending0}\nB. {ending1}\nC. {ending2}\nD. {ending3}\nAnswer:',
    choices: letters,
    answer: 'label',
  },
  pubmedqa: {
    kind: 'choice',
    name: 'pubmedqa',
    prompt: 'Abstract: {CONTEXTS}\nQuestion: {QUESTION}\nAnswer:',
    choices: ['yes', 'no', 'maybe'],
    answer: 'final_decision',
  },
  gsm8k: {
    kind: 'generation',
    name: 'gsm8k',
    prompt: 'Question: {question}\nAnswer:',
    target: '{answer}',
    maxTokens: 256,
    stop: ['Question:', '</s>', '<|im_end|>'],
    extract: [
      { name: 'strict', pattern: '#### (\\-?[0-9\\.\\,]+)' },
      { name: 'flexible', pattern: '(-?[$0-9.,]{2,})|(-?[0-9]+)', take: 'last' },
    ],
    ignoreCase: true,
    ignore: [',', '\\$', '(?s).*#### ', '\\.$'],
  },
  ifeval: { kind: 'instructions', name: 'ifeval', prompt: '{prompt}', maxTokens: 1280 },
}
