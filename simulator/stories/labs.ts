import { decimal, type Json, type JsonObject, type Resource } from '../json.ts';
import type { Draft, Expectation } from '../record-store.ts';
import { CLINICIANS, ehrClinician, ehrPatient, LABORATORY, type Person } from './people.ts';

const LOINC = 'http://loinc.org';
const UCUM = 'http://unitsofmeasure.org';
const FLAGS = 'http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation';

/** What one analyte is called and measured in; ranges as a laboratory prints them. */
interface Analyte {
  loinc?: string;
  /** Code of the laboratory's own, where LOINC has none or nobody mapped it. */
  local?: string;
  text: string;
  unit?: string;
  low?: string;
  high?: string;
  rangeText?: string;
}

const ANALYTES = {
  wbc: { loinc: '6690-2', text: 'Leukocytes', unit: '10*3/uL', low: '4.0', high: '10.5' },
  rbc: { loinc: '789-8', text: 'Erythrocytes', unit: '10*6/uL', low: '3.80', high: '5.10' },
  hgb: { loinc: '718-7', text: 'Hemoglobin', unit: 'g/dL', low: '12.0', high: '15.5' },
  hct: { loinc: '4544-3', text: 'Hematocrit', unit: '%', low: '35.0', high: '45.0' },
  // The laboratory typed low and high the wrong way round.
  mcv: { loinc: '787-2', text: 'MCV', unit: 'fL', low: '98.0', high: '80.0' },
  mch: { loinc: '785-6', text: 'MCH', unit: 'pg', low: '27.0', high: '33.0' },
  mchc: { loinc: '786-4', text: 'MCHC', unit: 'g/dL', low: '32.0', high: '36.0' },
  plt: { loinc: '777-3', text: 'Platelets', unit: '10*3/uL', low: '150', high: '400' },
  na: { loinc: '2951-2', text: 'Sodium', unit: 'mmol/L', low: '136', high: '145' },
  k: { loinc: '2823-3', text: 'Potassium', unit: 'mmol/L', low: '3.5', high: '5.1' },
  cl: { loinc: '2075-0', text: 'Chloride', unit: 'mmol/L', low: '98', high: '107' },
  co2: { loinc: '2028-9', text: 'Carbon dioxide, total', unit: 'mmol/L', low: '22', high: '29' },
  glucose: { loinc: '2345-7', text: 'Glucose', unit: 'mg/dL', low: '70', high: '99' },
  bun: { loinc: '3094-0', text: 'Urea nitrogen', unit: 'mg/dL', low: '7', high: '20' },
  creatinine: { loinc: '2160-0', text: 'Creatinine', unit: 'mg/dL', low: '0.50', high: '1.10' },
  egfr: { loinc: '98979-8', text: 'eGFR (CKD-EPI 2021)', unit: 'mL/min/{1.73_m2}', low: '60' },
  calcium: { loinc: '17861-6', text: 'Calcium', unit: 'mg/dL', low: '8.6', high: '10.2' },
  albumin: { loinc: '1751-7', text: 'Albumin', unit: 'g/dL', low: '3.5', high: '5.0' },
  alt: { loinc: '1742-6', text: 'ALT', unit: 'U/L', high: '35' },
  ast: { loinc: '1920-8', text: 'AST', unit: 'U/L', high: '33' },
  alp: { loinc: '6768-6', text: 'Alkaline phosphatase', unit: 'U/L', low: '44', high: '121' },
  bilirubin: { loinc: '1975-2', text: 'Bilirubin, total', unit: 'mg/dL', high: '1.2' },
  protein: { loinc: '2885-2', text: 'Protein, total', unit: 'g/dL', low: '6.0', high: '8.3' },
  psa: { loinc: '2857-1', text: 'Prostate specific antigen', unit: 'ng/mL', high: '4.00' },
  ca125: { loinc: '10334-1', text: 'Cancer antigen 125', unit: 'U/mL', high: '35.0' },
  cea: { loinc: '2039-6', text: 'Carcinoembryonic antigen', unit: 'ng/mL', rangeText: 'non-smoker < 3.0; smoker < 5.0' },
  pt: { loinc: '5902-2', text: 'Prothrombin time', unit: 's', low: '11.0', high: '13.5' },
  inr: { loinc: '6301-6', text: 'INR', unit: '{INR}', low: '0.9', high: '1.1' },
  ph: { loinc: '2744-1', text: 'pH of arterial blood', unit: '[pH]', low: '7.35', high: '7.45' },
  lactate: { loinc: '2518-9', text: 'Lactate, arterial blood', unit: 'mmol/L', low: '0.5', high: '1.6' },
  colour: { loinc: '5778-6', text: 'Color of urine', rangeText: 'straw to yellow' },
  nitrite: { loinc: '5802-4', text: 'Nitrite, urine', rangeText: 'negative' },
  urineWbc: { loinc: '5821-4', text: 'Leukocytes, urine sediment', unit: '/[HPF]', rangeText: '0-5 /HPF' },
  ana: { loinc: '5048-4', text: 'Nuclear antibody titer', rangeText: '< 1:40' },
  urineProtein: { loinc: '2888-6', text: 'Protein, urine', unit: 'mg/dL', high: '15' },
  circulatingTumour: { local: 'CTC7', text: 'Circulating tumour cells (in-house)', unit: '{cells}/7.5mL' },
} as const satisfies Record<string, Analyte>;
type AnalyteName = keyof typeof ANALYTES;

const PANELS = {
  cbc: { loinc: '58410-2', text: 'CBC panel - Blood by Automated count' },
  cmp: { loinc: '24323-8', text: 'Comprehensive metabolic 2000 panel - Serum or Plasma' },
  bmp: { loinc: '51990-0', text: 'Basic metabolic panel - Blood' },
  psa: { loinc: '2857-1', text: 'Prostate specific antigen' },
  markers: { loinc: '10334-1', text: 'Tumour markers' },
  coagulation: { loinc: '34528-0', text: 'PT panel - Platelet poor plasma by Coagulation assay' },
  urinalysis: { loinc: '24356-8', text: 'Urinalysis complete panel - Urine' },
} as const;
type PanelName = keyof typeof PANELS;

/** One result; `value` alone is a number in the analyte's unit, its digits kept as typed. */
export interface Result {
  analyte: AnalyteName;
  value?: string;
  comparator?: '<' | '<=' | '>=' | '>';
  text?: string;
  coded?: { system: string; code: string; display: string };
  ratio?: readonly [string, string];
  range?: readonly [string, string];
  absent?: { code: string; display: string };
  flag?: 'L' | 'H' | 'LL' | 'HH' | 'A' | 'N';
  status?: string;
  note?: string;
  /** Where it differs from the other results': a correction. */
  issued?: string;
}

export interface Report {
  id: string;
  person: Person;
  panel: PanelName;
  collected: string;
  issued: string;
  /** When the results came out, where the report was issued anew later. */
  resultsIssued?: string;
  /** lastUpdated of the first version. */
  recorded: string;
  status: 'registered' | 'preliminary' | 'final' | 'corrected' | 'amended' | 'cancelled';
  results: readonly Result[];
  conclusion?: string;
  note?: string;
  /** Why the records of this patient come to nothing here. */
  outcome?: Extract<Expectation, { why: string }>;
}

/** The names of the records of a report's subject. */
function reportSubject(id: string): string {
  return `laboratory:ehr:DiagnosticReport/${id}`;
}

/** DiagnosticReport and its Observations, US Core shaped. */
export function reportDrafts(report: Report): Draft[] {
  const withdrawn = report.status === 'cancelled';
  const expect: Expectation = report.outcome ?? {
    outcome: 'own',
    subject: reportSubject(report.id),
    category: 'laboratory',
    patient: report.person.key,
    ...(withdrawn ? { withdraws: true as const } : {}),
  };
  const panel = PANELS[report.panel];
  const observations = report.results.map((result) => observation(report, result));
  const resource: Resource = {
    resourceType: 'DiagnosticReport',
    id: report.id,
    identifier: [{ system: 'urn:oid:2.16.840.1.113883.19.5.99.2', value: `ACC-${report.id.slice(4)}` }],
    status: report.status,
    category: [{ coding: [{ system: 'http://terminology.hl7.org/CodeSystem/v2-0074', code: 'LAB', display: 'Laboratory' }] }],
    code: { coding: [{ system: LOINC, code: panel.loinc, display: panel.text }], text: panel.text },
    subject: ehrPatient(report.person),
    effectiveDateTime: report.collected,
    issued: report.issued,
    performer: [{ reference: `Organization/${LABORATORY.id}`, display: LABORATORY.name }],
    resultsInterpreter: [ehrClinician(CLINICIANS.pathologist)],
    result: observations.map((one) => ({ reference: `Observation/${one.id}` })),
    conclusion: report.conclusion,
  };
  const draft = (one: Resource, profile: string): Draft => ({
    source: 'ehr',
    stream: 'ehr/labs',
    resource: one,
    meta: { profile: [`http://hl7.org/fhir/us/core/StructureDefinition/${profile}`] },
    recorded: report.recorded,
    expect,
  });
  return [draft(resource, 'us-core-diagnosticreport-lab'), ...observations.map((one) => draft(one, 'us-core-observation-lab'))];
}

/** An Observation of a report. */
function observation(report: Report, result: Result): Resource {
  const analyte: Analyte = ANALYTES[result.analyte];
  const ends = report.status === 'cancelled' ? 'cancelled' : undefined;
  const follows = report.status === 'preliminary' || report.status === 'registered' ? report.status : 'final';
  const status = result.status ?? ends ?? follows;
  const code = analyte.loinc ?? analyte.local ?? '';
  return {
    resourceType: 'Observation',
    id: `obs-${report.id.slice(4)}-${code}`,
    status,
    category: [
      { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/observation-category', code: 'laboratory', display: 'Laboratory' }] },
    ],
    code: {
      coding: [
        {
          system: analyte.loinc === undefined ? 'urn:oid:2.16.840.1.113883.19.5.99.3' : LOINC,
          code,
          display: analyte.text,
        },
      ],
      text: analyte.text,
    },
    subject: ehrPatient(report.person),
    effectiveDateTime: report.collected,
    issued: result.issued ?? report.resultsIssued ?? report.issued,
    performer: [{ reference: `Organization/${LABORATORY.id}`, display: LABORATORY.name }],
    ...(status === 'cancelled' ? cancelledValue() : valueOf(result, analyte)),
    ...(result.flag === undefined ? {} : { interpretation: [{ coding: [{ system: FLAGS, code: result.flag }] }] }),
    ...(result.note === undefined ? {} : { note: [{ text: result.note }] }),
    ...rangeOf(analyte),
  };
}

function cancelledValue(): JsonObject {
  const coding = [{ system: 'http://terminology.hl7.org/CodeSystem/data-absent-reason', code: 'not-performed', display: 'Not Performed' }];
  return { dataAbsentReason: { coding } };
}

function quantity(value: string, unit: string | undefined, comparator?: string): JsonObject {
  return { value: decimal(value), comparator, ...(unit === undefined ? {} : { unit, system: UCUM, code: unit }) };
}

function valueOf(result: Result, analyte: Analyte): JsonObject {
  if (result.value !== undefined) return { valueQuantity: quantity(result.value, analyte.unit, result.comparator) };
  if (result.text !== undefined) return { valueString: result.text };
  if (result.coded) return { valueCodeableConcept: { coding: [result.coded], text: result.coded.display } };
  if (result.ratio)
    return { valueRatio: { numerator: { value: decimal(result.ratio[0]) }, denominator: { value: decimal(result.ratio[1]) } } };
  if (result.range) return { valueRange: { low: quantity(result.range[0], analyte.unit), high: quantity(result.range[1], analyte.unit) } };
  const absent = result.absent ?? { code: 'unknown', display: 'Unknown' };
  return { dataAbsentReason: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/data-absent-reason', ...absent }] } };
}

function rangeOf(analyte: Analyte): JsonObject {
  const { low, high, rangeText, unit } = analyte;
  if (low === undefined && high === undefined && rangeText === undefined) return {};
  const range: Record<string, Json> = {};
  if (low !== undefined) range.low = quantity(low, unit);
  if (high !== undefined) range.high = quantity(high, unit);
  if (rangeText !== undefined) range.text = rangeText;
  return { referenceRange: [range] };
}

/** Results that no report lists: a point-of-care device writes them straight into the chart. One specimen and time, one subject. */
export function orphanDrafts(parts: {
  specimen: string;
  person: Person;
  collected: string;
  recorded: string;
  results: readonly Result[];
}): Draft[] {
  const { person, collected } = parts;
  return parts.results.map((result): Draft => {
    const report: Report = {
      id: `rpt-${parts.specimen}`,
      person,
      panel: 'bmp',
      collected,
      issued: collected,
      recorded: parts.recorded,
      status: 'final',
      results: [],
    };
    const resource: Resource = {
      ...observation(report, result),
      specimen: { identifier: { system: 'urn:oid:2.16.840.1.113883.19.5.99.4', value: parts.specimen }, display: 'Arterial blood' },
    };
    return {
      source: 'ehr',
      stream: 'ehr/labs',
      resource,
      meta: { profile: ['http://hl7.org/fhir/us/core/StructureDefinition/us-core-observation-lab'] },
      recorded: parts.recorded,
      expect: {
        outcome: 'own',
        subject: `laboratory:ehr:specimen/${parts.specimen}@${collected}`,
        category: 'laboratory',
        patient: person.key,
      },
    };
  });
}
