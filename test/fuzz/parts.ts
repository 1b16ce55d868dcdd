import { callParts } from './calls.js'
import { operationParts } from './operations.js'
import type { Part } from './part.js'

export function allParts(): Part[] {
  return [...callParts(), ...operationParts()]
}
