import {
  booleanOf,
  codingsOf,
  compareText,
  extensionOf,
  millisOf,
  objectOf,
  objectsOf,
  stringOf,
  stringsOf,
  targetOf,
} from './elements.ts';
import { type JsonObject, textOf } from './lossless-json.ts';
import type { PatientHeader } from './model.ts';

/** Who assigns identifiers, and under which systems each source writes them. Which ARIA id is the MRN is the site's word. */
export interface Authority {
  id: string;
  /** Printed beside the value, e.g. `MRN, St. Example`. */
  display: string;
  systems: readonly string[];
}
export interface PatientIdentifier {
  authority: string;
  display: string;
  system: string;
  /** As the source writes it, leading zeros kept. */
  value: string;
  /** For comparison only: no spaces, upper case, compatibility forms folded. */
  normalised: string;
  /** `use: old`, or a period that has ended: still leads to the patient, is not printed. */
  old: boolean;
}

/**
 * The identifiers of configured authorities, in the order of the config (so the MRN comes first), duplicates dropped.
 * Everything else (an address, a name, an unconfigured system) never matches anybody. Edge cases 21, 22.
 */
export function identifiersOf(patient: JsonObject, authorities: readonly Authority[]): readonly PatientIdentifier[] {
  const found: PatientIdentifier[] = [];
  const identifiers = objectsOf(patient['identifier']);
  for (const authority of authorities) {
    for (const identifier of identifiers) {
      const system = stringOf(identifier['system']);
      const value = textOf(identifier['value'])?.trim();
      if (system === undefined || value === undefined || value === '' || !authority.systems.includes(system)) continue;
      const normalised = normaliseIdentifier(value);
      const old = identifier['use'] === 'old' || stringOf(objectOf(identifier['period'])?.['end']) !== undefined;
      if (normalised === '' || found.some((other) => other.authority === authority.id && other.normalised === normalised)) continue;
      found.push({ authority: authority.id, display: authority.display, system, value, normalised, old });
    }
  }
  return found;
}

export function normaliseIdentifier(value: string): string {
  return value.normalize('NFKC').replace(/\s+/gu, '').toUpperCase();
}

export interface Demographics extends PatientHeader {
  /** Folded tokens of every name on the record, for comparison only. */
  nameTokens: readonly (readonly string[])[];
  /** `Patient.active`: false after a merge. */
  active: boolean;
}

/**
 * What a page's header says of the patient. `asOf` (an instant of the manifest) decides which of several names is current,
 * so that the same manifest gives the same header. Never fails: missing parts stay undefined, a nameless patient prints
 * "not provided by source".
 */
export function demographicsOf(patient: JsonObject, authorities: readonly Authority[], asOf: string): Demographics {
  const names = objectsOf(patient['name']);
  const birthDate = stringOf(patient['birthDate']);
  const gender =
    stringOf(patient['gender']) ?? stringOf(codingsOf(extensionOf(patient, PERSON_GENDER)?.['valueCodeableConcept'])[0]?.display);
  const deceased = stringOf(patient['deceasedDateTime']) ?? (patient['deceasedBoolean'] === true ? 'true' : undefined);
  const identifiers = identifiersOf(patient, authorities)
    .filter((identifier) => !identifier.old)
    .map((identifier) => ({ value: identifier.value, authority: identifier.display }));
  return {
    name: nameText(currentName(names, asOf)) ?? 'not provided by source',
    identifiers,
    nameTokens: names.map(nameTokens).filter((tokens) => tokens.length > 0),
    active: booleanOf(patient['active']) ?? true,
    ...(birthDate !== undefined && /^\d{4}(-\d{2}(-\d{2})?)?$/.test(birthDate) ? { birthDate } : {}),
    ...(gender === undefined ? {} : { sex: gender }),
    ...(deceased === undefined ? {} : { deceased }),
  };
}

const PERSON_GENDER = 'http://varian.com/fhir/v1/StructureDefinition/person-gender';
const NAME_RANK: Readonly<Record<string, number>> = { official: 0, usual: 1, nickname: 4, anonymous: 5, temp: 3, maiden: 6, old: 7 };

/** Current before ended, official before usual before unsaid before the rest; then the later start, then the source's order. */
export function currentName(names: readonly JsonObject[], asOf: string): JsonObject | undefined {
  const now = millisOf(asOf) ?? Number.POSITIVE_INFINITY;
  const rank = (name: JsonObject): readonly [number, number, number] => {
    const period = objectOf(name['period']);
    const start = millisOf(stringOf(period?.['start']));
    const end = millisOf(stringOf(period?.['end']));
    const ended = (end !== undefined && end < now) || (start !== undefined && start > now);
    const use = stringOf(name['use']) ?? '';
    return [ended || use === 'old' || use === 'maiden' ? 1 : 0, NAME_RANK[use] ?? 2, -(start ?? Number.NEGATIVE_INFINITY)];
  };
  return names
    .map((name, index) => ({ name, index, rank: rank(name) }))
    .filter(({ name }) => nameText(name) !== undefined)
    .sort((a, b) => a.rank[0] - b.rank[0] || a.rank[1] - b.rank[1] || compareNumbers(a.rank[2], b.rank[2]) || a.index - b.index)[0]?.name;
}

const EAST_ASIAN = /[\p{Script=Hangul}\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]/u;
// Letters that Vietnamese has and western European languages lack; a Vietnamese name stands family first.
const VIETNAMESE = /[ăđơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ]/iu;

/**
 * How a HumanName reads. The source's own `text` is the one that knows the order; without it East Asian and Vietnamese
 * names stand family first, others given names first.
 */
export function nameText(name: JsonObject | undefined): string | undefined {
  if (name === undefined) return undefined;
  const text = stringOf(name['text']);
  if (text !== undefined) return text.trim().normalize('NFC');
  const family = stringOf(name['family'])?.trim();
  const given = stringsOf(name['given']).map((part) => part.trim());
  const suffix = stringsOf(name['suffix']).map((part) => part.trim());
  const all = [...given, ...(family === undefined ? [] : [family])].join(' ');
  if (all === '') return undefined;
  let whole: string;
  if (EAST_ASIAN.test(all)) whole = `${family ?? ''}${given.join('')}`;
  else if (VIETNAMESE.test(all.normalize('NFC'))) whole = [family, ...given].filter((part) => part !== undefined).join(' ');
  else whole = all;
  return (suffix.length > 0 ? `${whole}, ${suffix.join(', ')}` : whole).normalize('NFC');
}

function nameTokens(name: JsonObject): readonly string[] {
  const given = stringsOf(name['given']).join(' ');
  const family = stringOf(name['family']) ?? '';
  // Family first, so that an East Asian name reads the same as its text.
  return foldName(`${family} ${given}`.trim() === '' ? (stringOf(name['text']) ?? '') : `${family} ${given}`);
}
function foldName(text: string): readonly string[] {
  const folded = text
    .normalize('NFKD')
    .replace(/\p{M}/gu, '')
    .toLowerCase()
    .replace(/đ/g, 'd')
    .replace(/ø/g, 'o')
    .replace(/ł/g, 'l')
    .replace(/ß/g, 'ss');
  const words = folded.split(/[^\p{L}\p{N}]+/u).filter((word) => word !== '');
  // A Hangul or Han name is one token: sources differ in where they put spaces.
  return EAST_ASIAN.test(text) ? [words.join('').normalize('NFC')] : words.sort(compareText);
}

export type Comparison = { result: 'same' } | { result: 'differs'; on: readonly ('name' | 'birthDate')[] };

/**
 * Whether two records with one identifier can be one person (edge case 23). A missing part says nothing; a middle name more
 * or less, an initial, order, case and accents are no difference; another name or another birth date holds for a person.
 */
export function compareDemographics(a: Demographics, b: Demographics): Comparison {
  const on: ('name' | 'birthDate')[] = [];
  if (
    a.nameTokens.length > 0 &&
    b.nameTokens.length > 0 &&
    !a.nameTokens.some((left) => b.nameTokens.some((right) => sameName(left, right)))
  )
    on.push('name');
  if (
    a.birthDate !== undefined &&
    b.birthDate !== undefined &&
    !a.birthDate.startsWith(b.birthDate) &&
    !b.birthDate.startsWith(a.birthDate)
  ) {
    on.push('birthDate');
  }
  return on.length === 0 ? { result: 'same' } : { result: 'differs', on };
}

/** The shorter name lies wholly within the longer one, an initial standing for a word; a single word must be the whole name. */
function sameName(a: readonly string[], b: readonly string[]): boolean {
  const [short, long] = a.length <= b.length ? [a, [...b]] : [b, [...a]];
  if (short.length === 1 && long.length > 1) return false;
  for (const word of [...short].sort((x, y) => y.length - x.length)) {
    const at = long.findIndex((other) => other === word);
    const initial = at >= 0 ? at : long.findIndex((other) => (other.length === 1 || word.length === 1) && other[0] === word[0]);
    if (initial < 0) return false;
    long.splice(initial, 1);
  }
  return true;
}

const IS_TEST_PATIENT = 'http://varian.com/fhir/v1/StructureDefinition/patient-isTestPatient';
/** ARIA's own flag, or the security label HTEST of the standard. Edge case 29. */
export function isTestPatient(patient: JsonObject): boolean {
  if (extensionOf(patient, IS_TEST_PATIENT)?.['valueBoolean'] === true) return true;
  const meta = objectOf(patient['meta']);
  return [...objectsOf(meta?.['security']), ...objectsOf(meta?.['tag'])].some((label) => label['code'] === 'HTEST');
}

export interface PatientLink {
  type: 'replaced-by' | 'replaces' | 'refer' | 'seealso';
  /** `Patient/id` at the source. */
  other: string;
}
/** `Patient.link` (edge case 27). What follows from it is the pipeline's; `replaced-by` comes with `active: false`. */
export function patientLinksOf(patient: JsonObject): readonly PatientLink[] {
  const links: PatientLink[] = [];
  for (const link of objectsOf(patient['link'])) {
    const type = link['type'];
    const other = targetOf(link['other']);
    if (other === undefined) continue;
    if (type === 'replaced-by' || type === 'replaces' || type === 'refer' || type === 'seealso') links.push({ type, other });
  }
  return links;
}

function compareNumbers(a: number, b: number): number {
  return a === b ? 0 : a < b ? -1 : 1;
}
