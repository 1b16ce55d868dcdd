import { workerData } from 'node:worker_threads'
import { FormatError } from '../errors.js'
import { answerRequests } from '../worker-requests.js'
import type { RequestHandlers } from '../worker-requests.js'
import { ChatTemplate } from './chat-template.js'
import type { TemplateVariables } from './chat-template.js'
import type { Rendering, TemplateInput } from './rendering.js'

export interface TemplateWorkerData {
  template: string
  variables: TemplateVariables
  /** The model's, for messages. */
  folder: string
}

answerRequests(async () => {
  const { template, variables, folder } = workerData as TemplateWorkerData
  const chatTemplate = parse(template, variables, folder)
  return {
    render: (items: TemplateInput[]): Rendering[] => items.map((item) => chatTemplate.render(item)),
  } satisfies RequestHandlers
})

function parse(template: string, variables: TemplateVariables, folder: string): ChatTemplate {
  try {
    return new ChatTemplate(template, variables)
  } catch (cause) {
    throw new FormatError(`${folder}: ${(cause as Error).message}`, {
      cause,
      details: { file: folder },
    })
  }
}
