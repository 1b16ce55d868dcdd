export { reportPage } from './page.js'
export { summaryMarkdown } from './summary.js'
