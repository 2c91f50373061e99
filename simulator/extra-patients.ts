import { createHash } from 'node:crypto';
import type { Resource } from './json.ts';
import type { Draft, Publication, RecordStore } from './record-store.ts';
import { indexOf, type SearchIndex } from './search-index.ts';
import { courseDrafts } from './stories/courses.ts';
import { type Report, reportDrafts } from './stories/labs.ts';
import { HISTORY_AND_PHYSICAL, noteDraft } from './stories/notes.ts';
import { appointment, ariaPatientResource, CLINICIANS, ehrPatientResource, type Person } from './stories/people.ts';
import { simpleCourse } from './stories/story-courses.ts';

/** Records that each generated patient brings in the four streams (two reports of three results, a note, a course). */
export const RECORDS_PER_EXTRA_PATIENT = 18;
export const SUBJECTS_PER_EXTRA_PATIENT = 4;

const ONSETS = ['Var', 'Quel', 'Tres', 'Wym', 'Zor', 'Bex', 'Cald', 'Drav', 'Esk', 'Fenn', 'Gryn', 'Hask', 'Ilv', 'Jorv', 'Kest', 'Lomb'];
const CODAS = [
  'enholt',
  'ibrook',
  'andelle',
  'oswyn',
  'umgarde',
  'ethorne',
  'ickstead',
  'avoria',
  'elmoor',
  'ondrake',
  'ysgarth',
  'aquist',
];
const GIVEN = ['Amara', 'Bastien', 'Cosima', 'Dafydd', 'Eloisa', 'Farrukh', 'Gudrun', 'Hyacinth', 'Ioana', 'Jarek', 'Kaveh', 'Ludmila'];

/** A number in [0, below) that depends on nothing but its words. */
function draw(below: number, ...words: readonly (string | number)[]): number {
  return createHash('sha256').update(words.join('|')).digest().readUInt32BE(0) % below;
}
function pick<T>(list: readonly [T, ...T[]] | readonly T[], ...words: readonly (string | number)[]): T {
  const item = list[draw(list.length, ...words)];
  if (item === undefined) throw new Error('pick from nothing');
  return item;
}

/** The n-th generated person; the same for the same seed. */
export function extraPerson(seed: string, n: number): Person {
  const of = (what: string) => [seed, 'extra', n, what] as const;
  const year = 1930 + draw(65, ...of('year'));
  const month = String(1 + draw(12, ...of('month'))).padStart(2, '0');
  const day = String(1 + draw(28, ...of('day'))).padStart(2, '0');
  return {
    key: `extra-${n}`,
    mrn: `9${String(n).padStart(7, '0')}`,
    ehrId: `px-${n.toString(36).padStart(6, '0')}`,
    ariaSerial: 100_000 + n,
    family: `${pick(ONSETS, ...of('onset'))}${pick(CODAS, ...of('coda'))}-${n}`,
    given: [pick(GIVEN, ...of('given'))],
    gender: draw(2, ...of('gender')) === 0 ? 'female' : 'male',
    birthDate: `${year}-${month}-${day}`,
  };
}

/** All records of the n-th generated patient. */
function extraDrafts(seed: string, n: number): Draft[] {
  const person = extraPerson(seed, n);
  const day = (back: number) => new Date(Date.UTC(2026, 1, 20 - back - draw(60, seed, n, back))).toISOString().slice(0, 10);
  const directory = { stream: 'directory', expect: { outcome: 'directory' } } as const;
  const drafts: Draft[] = [
    { source: 'ehr', ...directory, recorded: '2025-09-03T08:00:00Z', resource: ehrPatientResource(person) },
    { source: 'aria', ...directory, recorded: '2025-09-03T03:00:00.500-05:00', resource: ariaPatientResource(person) },
    { source: 'aria', ...directory, recorded: '2026-01-12T07:45:00.000-05:00', resource: appointment(person, 0) },
  ];
  for (let number = 0; number < 2; number++) {
    const date = day(number * 3);
    const value = (base: number, spread: number, digits: number, what: string) =>
      (base + draw(spread, seed, n, number, what) / 10 ** digits).toFixed(digits);
    const report: Report = {
      id: `rpt-x${n}-${number}`,
      person,
      panel: 'cbc',
      collected: `${date}T08:00:00-05:00`,
      issued: `${date}T10:00:00-05:00`,
      // Milliseconds tell records apart; every tenth patient shares its instant with the one before.
      recorded: `${date}T15:00:${String(Math.floor(n / 10) % 60).padStart(2, '0')}.${String(n % 1000).padStart(3, '0')}Z`,
      status: 'final',
      results: [
        { analyte: 'hgb', value: value(11, 40, 1, 'hgb') },
        { analyte: 'wbc', value: value(4, 500, 2, 'wbc') },
        { analyte: 'plt', value: value(150, 250, 0, 'plt') },
      ],
    };
    drafts.push(...reportDrafts(report));
  }
  const seen = day(10);
  drafts.push(
    noteDraft(
      {
        source: 'ehr',
        id: `note-x${n}`,
        person,
        author: CLINICIANS.internist,
        date: `${seen}T11:00:00-05:00`,
        recorded: `${seen}T16:00:00Z`,
        docStatus: 'final',
        type: HISTORY_AND_PHYSICAL,
        description: 'History and physical',
        masterIdentifier: `urn:uuid:5b6c1d52-0000-4000-9000-${String(n).padStart(12, '0')}`,
        attachment: {
          kind: 'inline',
          contentType: 'text/plain; charset=utf-8',
          bytes: Buffer.from(
            `HISTORY\n${person.given[0]} ${person.family}, seen for follow-up.\n\nPLAN\nReturn in ${1 + draw(6, seed, n)} months.\n`,
          ),
          title: 'H&P',
        },
      },
      new Map(),
      '',
    ),
  );
  const given = 1 + draw(10, seed, n, 'given');
  const start = day(20);
  const course = simpleCourse({
    person,
    serial: 500_000 + n,
    name: 'C1',
    category: n % 3 === 0 ? '1287742003' : '108290001',
    intent: 'palliative',
    status: given === 10 ? 'completed' : 'in-progress',
    diagnosis: { code: 'C79.51', display: 'Secondary malignant neoplasm of bone' },
    sites: [{ local: 'Spine, lumbar' }],
    volume: { serial: 500_000 + n, name: 'PTV_3000', type: 'PTV' },
    fractions: 10,
    given,
    fractionCGy: 300,
    technique: 'conformal',
    start: `${start}T09:00:00-05:00`,
    end: `${start}T09:00:00-05:00`,
    recorded: `${start}T08:00:00.000-05:00`,
    recordedTreatment: `${start}T09:00:00.000-05:00`,
  });
  return drafts.concat(courseDrafts(course));
}

/**
 * Adds generated patients up to number `count`. Only ids, stamps and what can be searched for stay in memory; bodies are made
 * when read. `later`: those from `after` on, entered at this moment and not in the past.
 */
export function publishExtraPatients(
  count: number,
  seed: string,
  stores: Readonly<Record<'aria' | 'ehr', RecordStore>>,
  versionOf: (draft: Draft, atMs: number) => string,
  later?: { after: number; stamp(source: Draft['source']): string },
): void {
  // A page of a search reads the records of one patient after another: keeping the newest few is enough.
  const recent = new Map<number, Draft[]>();
  const draftsOf = (n: number): Draft[] => {
    const known = recent.get(n) ?? extraDrafts(seed, n);
    recent.delete(n);
    recent.set(n, known);
    const oldest = recent.keys().next().value;
    if (recent.size > 8 && oldest !== undefined) recent.delete(oldest);
    return known;
  };
  const shared = new Map<string, SearchIndex['tokens']>();
  for (let n = 1 + (later?.after ?? 0); n <= count; n++) {
    for (const [position, draft] of extraDrafts(seed, n).entries()) {
      const { resourceType: type, id } = draft.resource;
      const lastUpdated = later?.stamp(draft.source) ?? draft.recorded;
      const atMs = Date.parse(lastUpdated);
      const versionId = versionOf(draft, atMs);
      const index = indexOf(draft.resource);
      const tokens = type === 'Patient' ? index.tokens : { ...index.tokens, identifier: [] };
      const key = JSON.stringify(tokens);
      const kept = shared.get(key) ?? tokens;
      if (type !== 'Patient') shared.set(key, kept);
      const publication: Publication = {
        source: draft.source,
        stream: draft.stream,
        type,
        id,
        versionId,
        lastUpdated,
        atMs,
        index: { ...index, tokens: kept },
        expect: draft.expect,
        body: () => {
          const again = draftsOf(n)[position];
          if (!again) throw new Error('a generated patient changed');
          const { resourceType, id: sameId, ...rest } = again.resource;
          const whole: Resource = { resourceType, id: sameId, meta: { versionId, lastUpdated, ...again.meta }, ...rest };
          return whole;
        },
      };
      stores[draft.source].publish(publication);
    }
  }
}
