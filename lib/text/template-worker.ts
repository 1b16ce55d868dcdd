import { workerData } from 'node:worker_threads'
import { answerRequests } from '../worker-requests.js'
import type { RequestHandlers } from '../worker-requests.js'
import { ChatTemplate } from './chat-template.js'
import type { TemplateVariables } from './chat-template.js'
import type { Rendering, TemplateInput } from './rendering.js'

export interface TemplateWorkerData {
  template: string
  variables: TemplateVariables
}

answerRequests(async () => {
  const { template, variables } = workerData as TemplateWorkerData
  const chatTemplate = new ChatTemplate(template, variables)
  return {
    render: (items: TemplateInput[]): Rendering[] => items.map((item) => chatTemplate.render(item)),
  } satisfies RequestHandlers
})
