import { callParts } from './calls.js'
import { endingParts } from './endings.js'
import { fileParts } from './files.js'
import { operationParts } from './operations.js'
import type { Part } from './part.js'

export function allParts(): Part[] {
  return [...callParts(), ...operationParts(), ...endingParts(), ...fileParts()]
}
