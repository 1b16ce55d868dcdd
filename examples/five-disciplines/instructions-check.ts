/** What instruction records demand is checked by the library: a study of any corpus can carry such constraints. */
export {
  checkConstraint,
  checkInstruction,
  type Constraint,
  type InstructionRecord,
} from '../../lib/evaluate/constraints.js'
