import type { Rule } from './classify.ts';
import { LOINC, SNOMED } from './elements.ts';
import { CODEX, MCODE, RADIOTHERAPY_CATEGORIES, RADIOTHERAPY_LEVEL_CODES } from './radiotherapy-codes.ts';

/** Rule sets that a source's config takes over by name (`use: us-core-laboratory`). Ids begin with the set's name. */
export type RuleSetName = 'us-core-laboratory' | 'codex-radiotherapy' | 'clinical-notes' | 'clinical-notes-with-drafts';

const V2_0074 = 'http://terminology.hl7.org/CodeSystem/v2-0074';
const OBSERVATION_CATEGORY = 'http://terminology.hl7.org/CodeSystem/observation-category';
const loinc = (codes: readonly string[]): readonly string[] => codes.map((code) => `${LOINC}|${code}`);
const snomed = (codes: readonly string[]): readonly string[] => codes.map((code) => `${SNOMED}|${code}`);

/** HPDocumentType (2.16.840.1.113883.1.11.20.22), the C-CDA value set of history and physical notes, and the oncology consult. */
export const HISTORY_AND_PHYSICAL_LOINC: readonly string[] = [
  '34117-2',
  '11492-6',
  '28626-0',
  '34774-0',
  '34115-6',
  '34116-4',
  '34095-0',
  '34096-8',
  '51849-8',
  '47039-3',
  '34763-3',
  '34094-3',
  '34138-8',
  '11488-4',
];
/** Known note types that none of the three categories covers: skipped by name, so that quarantine holds only what is unknown. */
const OTHER_NOTES_LOINC: readonly string[] = ['11506-3', '18842-5', '28570-0', '18748-4', '11526-1', '34111-5'];

const LABORATORY: readonly Rule[] = [
  {
    id: 'us-core-laboratory/registered',
    when: {
      type: ['DiagnosticReport', 'Observation'],
      category: [`${V2_0074}|`, `${OBSERVATION_CATEGORY}|laboratory`],
      status: ['registered'],
    },
    skip: 'STATUS_NOT_FINAL',
  },
  {
    id: 'us-core-laboratory/report',
    when: {
      type: 'DiagnosticReport',
      category: [
        ...['LAB', 'CH', 'HM', 'MB', 'BLB', 'IMM', 'SR', 'TX', 'URN', 'GE'].map((code) => `${V2_0074}|${code}`),
        `${LOINC}|26436-6`,
        `${OBSERVATION_CATEGORY}|laboratory`,
      ],
    },
    category: 'laboratory',
  },
  {
    id: 'us-core-laboratory/report-by-profile',
    when: { type: 'DiagnosticReport', profile: ['http://hl7.org/fhir/us/core/StructureDefinition/us-core-diagnosticreport-lab'] },
    category: 'laboratory',
  },
  {
    id: 'us-core-laboratory/result',
    when: { type: 'Observation', category: [`${OBSERVATION_CATEGORY}|laboratory`] },
    category: 'laboratory',
  },
  {
    id: 'us-core-laboratory/result-by-profile',
    when: { type: 'Observation', profile: ['http://hl7.org/fhir/us/core/StructureDefinition/us-core-observation-lab'] },
    category: 'laboratory',
  },
  { id: 'us-core-laboratory/supporting', when: { type: ['Specimen', 'Encounter'] }, skip: 'SUPPORTING' },
];

const RADIOTHERAPY: readonly Rule[] = [
  {
    id: 'codex-radiotherapy/course-phase-plan',
    when: { type: ['Procedure', 'ServiceRequest'], code: RADIOTHERAPY_LEVEL_CODES },
    category: 'radiation-dose',
  },
  {
    id: 'codex-radiotherapy/volume',
    when: {
      type: 'BodyStructure',
      profile: [
        `${CODEX}codexrt-radiotherapy-volume`,
        `${MCODE}mcode-radiotherapy-volume`,
        'http://varian.com/fhir/v1/StructureDefinition/RadiotherapyVolume',
      ],
    },
    category: 'radiation-dose',
  },
  {
    id: 'codex-radiotherapy/volume-by-type',
    when: {
      type: 'BodyStructure',
      code: [
        ...snomed(['228793007', '228791009', '228792002', '1162586008', '1201745009', '1201746005']),
        'http://varian.com/fhir/CodeSystem/radiotherapy-volume-type|',
      ],
    },
    category: 'radiation-dose',
  },
  {
    id: 'codex-radiotherapy/fraction',
    when: { type: 'Procedure', profile: [`${CODEX}codexrt-radiotherapy-treated-fraction`] },
    skip: 'SUPPORTING',
  },
  {
    id: 'codex-radiotherapy/unknown-level',
    when: { type: ['Procedure', 'ServiceRequest'], category: snomed(RADIOTHERAPY_CATEGORIES) },
    quarantine: 'UNMAPPED_CODE',
  },
  { id: 'codex-radiotherapy/supporting', when: { type: ['Condition', 'BodyStructure', 'Encounter'] }, skip: 'SUPPORTING' },
];

const NOTE_TYPES = ['DocumentReference', 'Composition'];
const NOTE_DRAFT: Rule = {
  id: 'clinical-notes/draft',
  when: { type: NOTE_TYPES, status: ['preliminary'] },
  skip: 'STATUS_NOT_FINAL',
};
const NOTES: readonly Rule[] = [
  { id: 'clinical-notes/mapped', when: { type: NOTE_TYPES, mapped: true }, mapped: true },
  {
    id: 'clinical-notes/history-and-physical',
    when: { type: NOTE_TYPES, code: loinc(HISTORY_AND_PHYSICAL_LOINC) },
    category: 'history-and-physical',
  },
  {
    id: 'clinical-notes/other-kind',
    when: { type: NOTE_TYPES, code: loinc(OTHER_NOTES_LOINC) },
    skip: 'CATEGORY_NOT_CONFIGURED',
  },
  { id: 'clinical-notes/unknown-type', when: { type: NOTE_TYPES }, quarantine: 'DOCUMENT_TYPE_UNKNOWN' },
  { id: 'clinical-notes/supporting', when: { type: ['Encounter', 'Binary'] }, skip: 'SUPPORTING' },
];

export const RULE_SETS: Readonly<Record<RuleSetName, readonly Rule[]>> = {
  'us-core-laboratory': LABORATORY,
  'codex-radiotherapy': RADIOTHERAPY,
  'clinical-notes': [NOTE_DRAFT, ...NOTES],
  'clinical-notes-with-drafts': NOTES,
};

/** Known people, places and appointments: never documents. Put behind a source's own rules, before its default. */
export const NOT_CLINICAL_RULE: Rule = {
  id: 'builtin:not-clinical',
  when: {
    type: [
      'Patient',
      'Practitioner',
      'PractitionerRole',
      'Organization',
      'Location',
      'HealthcareService',
      'Device',
      'CareTeam',
      'Appointment',
      'ChargeItem',
      'Task',
    ],
  },
  skip: 'NOT_CLINICAL',
};

/** A stream's rules in their order: its own, the built-in sets that it uses, then what is never clinical. */
export function rulesOf(stream: { rules: readonly Rule[]; use: readonly RuleSetName[] }): readonly Rule[] {
  return [...stream.rules, ...stream.use.flatMap((name) => RULE_SETS[name]), NOT_CLINICAL_RULE];
}
