import { codingsOf, objectOf, SNOMED, stringsOf } from './elements.ts';
import type { Json, JsonObject } from './lossless-json.ts';

/** Profiles, extensions and codes of CodeX RT (STU1 and STU2) and mCODE; aria-and-oncology.md section 5. */
export const CODEX = 'http://hl7.org/fhir/us/codex-radiation-therapy/StructureDefinition/';
export const MCODE = 'http://hl7.org/fhir/us/mcode/StructureDefinition/';

/** 108290001 in STU1 and in ARIA (now inactive), 1287742003 in STU2: both are accepted, and both must be queried. */
export const RADIOTHERAPY_CATEGORIES: readonly string[] = ['108290001', '1287742003'];

export type RadiotherapyLevel = 'course' | 'phase' | 'plan';
const LEVELS: Readonly<Record<string, RadiotherapyLevel>> = { '1217123003': 'course', '1222565005': 'phase', '1255724003': 'plan' };
export const RADIOTHERAPY_LEVEL_CODES: readonly string[] = Object.keys(LEVELS).map((code) => `${SNOMED}|${code}`);

/** The level that a Procedure's or ServiceRequest's code names. */
export function levelOf(resource: JsonObject): RadiotherapyLevel | undefined {
  for (const coding of codingsOf(resource['code'])) {
    const level = coding.system === SNOMED ? LEVELS[coding.code] : undefined;
    if (level !== undefined) return level;
  }
  return undefined;
}

const VOLUME_PROFILES = new Set([
  `${CODEX}codexrt-radiotherapy-volume`,
  `${MCODE}mcode-radiotherapy-volume`,
  'http://varian.com/fhir/v1/StructureDefinition/RadiotherapyVolume',
]);
/** Value set mcode-radiotherapy-volume-type-vs (mCODE 4.0.0): what tells a radiotherapy volume from a tumour or an organ. */
const VOLUME_TYPES: Readonly<Record<string, string>> = {
  '228793007': 'PTV',
  '228791009': 'GTV',
  '228792002': 'CTV',
  '1162586008': 'Organ at risk',
  '1201745009': 'ITV',
  '1201746005': 'Internal GTV',
};
/** True where a BodyStructure is a radiotherapy volume: by profile or by type, since an mCODE tumour is a BodyStructure too. */
export function isVolume(resource: JsonObject): boolean {
  if (stringsOf(objectOf(resource['meta'])?.['profile']).some((profile) => VOLUME_PROFILES.has(profile.split('|')[0] ?? ''))) return true;
  return codingsOf(resource['morphology']).some(
    (coding) => (coding.system === SNOMED && coding.code in VOLUME_TYPES) || coding.system.endsWith('/radiotherapy-volume-type'),
  );
}

const MODALITIES: Readonly<Record<string, string>> = {
  '1156506007': 'External beam, photons',
  '45643008': 'External beam, electrons',
  '10611004': 'External beam, protons',
  '1156505006': 'External beam, carbon ions',
  '80347004': 'External beam, neutrons',
  '394902000': 'Brachytherapy, high dose rate (HDR)',
  '1156708005': 'Brachytherapy, low dose rate (LDR), temporary',
  '169359004': 'Brachytherapy, permanent seeds',
  '1156384006': 'Brachytherapy, pulsed dose rate (PDR)',
  '440252007': 'Radiopharmaceutical',
  '438629002': 'Electronic brachytherapy, high dose rate',
};
const TECHNIQUES: Readonly<Record<string, string>> = {
  '1162782007': '3D conformal',
  '1156526006': '2D',
  '441799006': 'IMRT',
  '1156530009': 'VMAT',
  '1156528007': 'Spot scanning',
  '1156529004': 'Passive scattering',
  '168524008': 'Intraoperative',
  '1163157007': 'FLASH',
  '113120007': 'Interstitial',
  '384692006': 'Intracavitary',
};
const INTENTS: Readonly<Record<string, string>> = {
  '373808002': 'Curative',
  '363676003': 'Palliative',
  '399707004': 'Supportive',
  '129428001': 'Preventive',
};
const STOP_REASONS: Readonly<Record<string, string>> = {
  '266721009': 'Absent response to treatment',
  '407563006': 'Treatment not tolerated',
  '105480006': 'Refusal of treatment by patient',
  '419620001': 'Death',
  '7058009': 'Noncompliance with treatment regimen',
  '399307001': 'Lost to follow-up',
};
const LATERALITIES: Readonly<Record<string, string>> = {
  '7771000': 'Left',
  '24028007': 'Right',
  '51440002': 'Bilateral',
  '399488007': 'Midline',
};

/**
 * The reading of a concept: by the code table first, since examples show wrong displays for right codes (1156526006 as
 * "Three dimensional"), else by the source's text. A local code stays what the source calls it.
 */
export function readByCode(table: keyof typeof TABLES, concept: Json | undefined): string | undefined {
  const rows = TABLES[table];
  const codings = codingsOf(concept);
  for (const coding of codings) {
    const text = coding.system === SNOMED ? rows[coding.code] : undefined;
    if (text !== undefined) return text;
  }
  const own = codings.find((coding) => coding.display !== undefined && !coding.system.endsWith('/v3-NullFlavor'));
  const text = objectOf(Array.isArray(concept) ? (concept[0] as Json) : concept)?.['text'];
  if (typeof text === 'string' && text.trim() !== '') return text;
  return own?.display ?? codings[0]?.display ?? codings[0]?.code;
}
const TABLES = {
  modality: MODALITIES,
  technique: TECHNIQUES,
  intent: INTENTS,
  'volume-type': VOLUME_TYPES,
  laterality: LATERALITIES,
  'stop-reason': STOP_REASONS,
} as const;
