import { extraPerson } from './extra-patients.ts';
import { type Expectation, headOf, type RecordStore, type SourceName, type StreamName } from './record-store.ts';
import { ariaPatientId, PEOPLE, type Person } from './stories/people.ts';

/** One version of one record and what a pull is expected to make of it. */
export interface TruthRecord {
  source: SourceName;
  stream: StreamName;
  type: string;
  id: string;
  versionId: string;
  lastUpdated: string;
  /** The newest version; a pull that comes late sees only this one. */
  current: boolean;
  /** Gone at the source: only absence and 410 tell. */
  deleted: boolean;
  expect: Expectation;
}
export interface TruthSubject {
  subject: string;
  category: string;
  patient: string;
  /** `withdrawn`: cancelled, entered in error, deleted, or moved to another patient. */
  state: 'filed' | 'withdrawn';
  /** Current records that the subject's document is about: `Type/id`. */
  records: string[];
}
export interface StreamCounts {
  /** Versions ever published, and the current ones among them by expectation. */
  versions: number;
  current: number;
  own: number;
  skip: number;
  quarantine: number;
  directory: number;
  /** Subjects filed, and those withdrawn. */
  filed: number;
  withdrawn: number;
}
export interface Truth {
  records: TruthRecord[];
  subjects: TruthSubject[];
  counts: Record<StreamName, StreamCounts>;
  patients: { key: string; mrn?: string; ehrId: string; ariaId: string }[];
  /** Strings that must never turn up in logs, queue, ledger or at rest. */
  canaries: string[];
}

/** Values and phrases of the stories that occur nowhere else. */
const DISTINCTIVE = [
  '1187.346',
  '0.8273',
  '6003.75',
  'QX-HEMOLYSATE-88',
  'Quellmark protocol 17-B',
  'Violet Harbour hospice',
  'weißlich',
  'nổi mề đay',
  'Анастасия',
];
/** Too short or too common to prove anything. */
const COMMON = new Set(['김', 'Kim', 'Thị', 'Minh', 'Phantom', '2000-01-01', '1938-09']);

/** The simulator's own list at this moment. */
export function truthOf(stores: Readonly<Record<SourceName, RecordStore>>, seed: string, extraPatients: number): Truth {
  const records: TruthRecord[] = [];
  const subjects = new Map<string, TruthSubject & { stream: StreamName; alive: boolean; ended: boolean }>();
  const counts = Object.fromEntries(
    (['ehr/labs', 'ehr/notes', 'aria/courses', 'aria/notes', 'directory'] as const).map((stream) => [
      stream,
      { versions: 0, current: 0, own: 0, skip: 0, quarantine: 0, directory: 0, filed: 0, withdrawn: 0 },
    ]),
  ) as Record<StreamName, StreamCounts>;

  for (const store of [stores.ehr, stores.aria]) {
    for (const cell of store.all()) {
      const head = headOf(cell);
      for (const version of cell.versions) {
        const { source, stream, type, id, versionId, lastUpdated, expect } = version;
        const current = version === head;
        records.push({ source, stream, type, id, versionId, lastUpdated, current, deleted: version.deleted === true, expect });
        const count = counts[stream];
        count.versions += 1;
        if (current) {
          count.current += 1;
          count[expect.outcome] += 1;
        }
        if (expect.outcome !== 'own') continue;
        const { subject, category, patient } = expect;
        const known = subjects.get(subject) ?? {
          subject,
          category,
          patient,
          state: 'filed',
          records: [],
          stream,
          alive: false,
          ended: false,
        };
        subjects.set(subject, known);
        if (!current) continue;
        if (version.deleted) continue;
        known.records.push(`${type}/${id}`);
        known.alive = true;
        // A report, note or course that is withdrawn ends its subject; a single result of it does not.
        if (expect.withdraws && type !== 'Observation') known.ended = true;
      }
    }
  }
  const list = [...subjects.values()].map(({ stream, alive, ended, ...subject }): TruthSubject => {
    const state = alive && !ended ? 'filed' : 'withdrawn';
    counts[stream][state] += 1;
    return { ...subject, state };
  });

  const people: Person[] = Object.values(PEOPLE);
  for (let n = 1; n <= extraPatients; n++) people.push(extraPerson(seed, n));
  return {
    records,
    subjects: list,
    counts,
    patients: people.map((person) => ({
      key: person.key,
      ...(person.mrn === undefined ? {} : { mrn: person.mrn }),
      ehrId: person.ehrId,
      ariaId: ariaPatientId(person),
    })),
    canaries: canariesOf(people),
  };
}

function canariesOf(people: readonly Person[]): string[] {
  const words = new Set(DISTINCTIVE);
  for (const person of people) {
    const story = !person.key.startsWith('extra-');
    const names = story ? [person.family, ...person.given, ...(person.latin?.given ?? []), person.latin?.family] : [person.family];
    const ids = [person.mrn, person.ehrId, ...(story ? [person.birthDate, ariaPatientId(person)] : [])];
    for (const word of [...names, ...ids]) if (word !== undefined && !COMMON.has(word)) words.add(word);
  }
  return [...words];
}
