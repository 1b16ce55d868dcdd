import type { Linear, Matrix, Parameter } from '../parameter.js'
import type { DecoderConfig } from './config.js'
import type { DecoderLayer, DecoderWeights } from './decoder.js'

/** Where Hugging Face's layout keeps a block's linear layers, under `model.layers.N.`. */
export const linearNames = {
  query: 'self_attn.q_proj',
  key: 'self_attn.k_proj',
  value: 'self_attn.v_proj',
  output: 'self_attn.o_proj',
  gate: 'mlp.gate_proj',
  up: 'mlp.up_proj',
  down: 'mlp.down_proj',
} as const

export type LinearName = keyof typeof linearNames

export const layerName = (index: number) => `model.layers.${index}`

/** [out, in] of a block's linear layer. */
export function linearShape(config: DecoderConfig, name: LinearName): [number, number] {
  const { hiddenSize, intermediateSize, headDim, numHeads, numKeyValueHeads } = config
  switch (name) {
    case 'query':
      return [numHeads * headDim, hiddenSize]
    case 'key':
    case 'value':
      return [numKeyValueHeads * headDim, hiddenSize]
    case 'output':
      return [hiddenSize, numHeads * headDim]
    case 'gate':
    case 'up':
      return [intermediateSize, hiddenSize]
    case 'down':
      return [hiddenSize, intermediateSize]
  }
}

function hasBias(config: DecoderConfig, name: LinearName): boolean {
  switch (name) {
    case 'query':
    case 'key':
    case 'value':
      return config.queryKeyValueBias
    case 'output':
      return config.attentionOutputBias
    default:
      return config.mlpBias
  }
}

/** Makes the values of a model, in the order in which they are listed, which is also the order of their seeds. */
export interface WeightSource {
  matrix(name: string, rows: number, columns: number): Promise<Matrix>
  vector(name: string, length: number, kind: 'norm' | 'bias'): Promise<Parameter>
}

/** Walks the layout of a model once. */
export async function buildWeights(
  config: DecoderConfig,
  source: WeightSource,
): Promise<DecoderWeights> {
  const { hiddenSize, vocabSize, headDim } = config
  const embedTokens = await source.matrix('model.embed_tokens.weight', vocabSize, hiddenSize)
  const layers: DecoderLayer[] = []
  for (let index = 0; index < config.numLayers; index++) {
    const prefix = layerName(index)
    const norm = (name: string, length: number) =>
      source.vector(`${prefix}.${name}.weight`, length, 'norm')
    const linear = async (name: LinearName): Promise<Linear> => {
      const [rows, columns] = linearShape(config, name)
      const path = `${prefix}.${linearNames[name]}`
      return {
        matrix: await source.matrix(`${path}.weight`, rows, columns),
        bias: hasBias(config, name) ? await source.vector(`${path}.bias`, rows, 'bias') : null,
      }
    }
    layers.push({
      inputNorm: await norm('input_layernorm', hiddenSize),
      query: await linear('query'),
      key: await linear('key'),
      value: await linear('value'),
      output: await linear('output'),
      queryNorm: config.queryKeyNorm ? await norm('self_attn.q_norm', headDim) : null,
      keyNorm: config.queryKeyNorm ? await norm('self_attn.k_norm', headDim) : null,
      postAttentionNorm: await norm('post_attention_layernorm', hiddenSize),
      gate: await linear('gate'),
      up: await linear('up'),
      down: await linear('down'),
    })
  }
  const norm = await source.vector('model.norm.weight', hiddenSize, 'norm')
  const head = config.tieWordEmbeddings
    ? embedTokens
    : await source.matrix('lm_head.weight', vocabSize, hiddenSize)
  return { embedTokens, layers, norm, head }
}

/** Every matrix and vector of a model once, in the order of the layout. */
export function* eachWeight(weights: DecoderWeights): Generator<Matrix | Parameter> {
  yield weights.embedTokens
  for (const layer of weights.layers) {
    yield layer.inputNorm
    for (const name of ['query', 'key', 'value', 'output'] as const) {
      yield layer[name].matrix
      if (layer[name].bias) yield layer[name].bias
    }
    if (layer.queryNorm) yield layer.queryNorm
    if (layer.keyNorm) yield layer.keyNorm
    yield layer.postAttentionNorm
    for (const name of ['gate', 'up', 'down'] as const) {
      yield layer[name].matrix
      if (layer[name].bias) yield layer[name].bias
    }
  }
  yield weights.norm
  if (weights.head !== weights.embedTokens) yield weights.head
}
