export { correctForChance, mean, meanDeviation, median } from './chance.js'
export { mutualInformation, type MutualInformation } from './mutual-information.js'
export {
  type Estimate,
  type ItemDifferences,
  pairedDifference,
  type PairedOptions,
} from './paired-difference.js'
export { upperQuantile, upperTail } from './student-t.js'
export { leastRatio, type PairedRuns, variability, type VariabilityResult } from './variability.js'
export { contrastVerdict, holm, lawVerdict, type Verdict } from './verdict.js'
