export * from './merge.js'
export * from './merge-model.js'
export { saveModel, type ModelDType, type SaveModelOptions } from './save-model.js'
