/**
 * Reference intervals of blood tests, for exercises; not for use on patients.
 *
 * Source: the example laboratory report of HL7 FHIR (release 3, DiagnosticReport, "examples-general",
 * hl7.org/fhir/STU3/diagnosticreport-examples-general.html), as printed there; the specification is in
 * the public domain (CC0). Intervals differ between laboratories and methods.
 */
export interface ReferenceInterval {
  name: string
  unit: string
  low: number
  high: number
  /** Digits after the point, as printed. */
  digits: number
}

const interval = (name: string, unit: string, low: string, high: string): ReferenceInterval => ({
  name,
  unit,
  low: Number(low),
  high: Number(high),
  digits: Math.max(...[low, high].map((text) => text.split('.')[1]?.length ?? 0)),
})

export const referenceIntervals: readonly ReferenceInterval[] = [
  interval('sodium', 'mmol/L', '137', '147'),
  interval('potassium', 'mmol/L', '3.5', '5.0'),
  interval('chloride', 'mmol/L', '96', '109'),
  interval('bicarbonate', 'mmol/L', '25', '33'),
  interval('glucose', 'mmol/L', '3.0', '7.7'),
  interval('urea', 'mmol/L', '2.0', '7.0'),
  interval('creatinine', 'mmol/L', '0.04', '0.11'),
  interval('uric acid', 'mmol/L', '0.14', '0.35'),
  interval('total bilirubin', 'umol/L', '2', '20'),
  interval('alkaline phosphatase', 'U/L', '30', '115'),
  interval('lactate dehydrogenase', 'U/L', '80', '250'),
  interval('calcium', 'mmol/L', '2.25', '2.65'),
  interval('phosphate', 'mmol/L', '0.8', '1.5'),
  interval('total protein', 'g/L', '60', '82'),
  interval('albumin', 'g/L', '35', '50'),
  interval('globulin', 'g/L', '20', '40'),
  interval('iron', 'umol/L', '10', '33'),
  interval('cholesterol', 'mmol/L', '3.6', '6.7'),
]
