export { evaluateTask, type TaskOptions, type TaskResult } from './evaluate-task.js'
export type { Figure } from './figures.js'
export type { ItemScore } from './score-items.js'
export { parseTask, type Task, type TaskInput } from './task.js'
