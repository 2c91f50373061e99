import { createHash } from 'node:crypto';
import { type JsonObject, jsonText, type Resource } from './json.ts';
import { indexOf, type SearchIndex } from './search-index.ts';

export type SourceName = 'aria' | 'ehr';
/** The agreed streams; `directory` are the resources that ride along with them (Patient, Practitioner, Organization, Appointment). */
export type StreamName = 'ehr/labs' | 'ehr/notes' | 'aria/courses' | 'aria/notes' | 'directory';

/** What a pull is expected to make of one version of one record. */
export type Expectation =
  | { outcome: 'own'; subject: string; category: string; patient: string; withdraws?: true }
  | { outcome: 'directory' }
  | { outcome: 'skip' | 'quarantine'; why: string };

/** One record as a story tells it at one moment, without version and time stamp. */
export interface Draft {
  source: SourceName;
  stream: StreamName;
  resource: Resource;
  /** meta members other than versionId and lastUpdated. */
  meta?: JsonObject;
  /** lastUpdated of the first version, as written on the wire. */
  recorded: string;
  expect: Expectation;
}

/** One version of one record as a server holds it. */
export interface Publication {
  source: SourceName;
  stream: StreamName;
  type: string;
  id: string;
  versionId: string;
  /** As on the wire: precision and offset differ between records, on purpose. */
  lastUpdated: string;
  atMs: number;
  index: SearchIndex;
  expect: Expectation;
  /** The resource with its meta; made when asked, so that thousands of generated records cost no memory. */
  body(): Resource;
  deleted?: true;
}

/** All versions of one record, oldest first. */
export interface Cell {
  readonly type: string;
  readonly id: string;
  readonly versions: Publication[];
}

export interface RecordStore {
  /** Takes a story's record in; a new version only where the content differs from the newest one. True where it did. */
  put(draft: Draft, changedAt: string | undefined, versionId: (atMs: number) => string): boolean;
  publish(publication: Publication): void;
  head(type: string, id: string): Publication | undefined;
  version(type: string, id: string, versionId: string): Publication | undefined;
  /** The records of one type in the order of their first appearance; with a patient only those that ever were the patient's. */
  cells(type: string, patient?: string): Iterable<Cell>;
  all(): Iterable<Cell>;
}

/** The newest version of a cell; a cell is never empty. */
export function headOf(cell: Cell): Publication {
  const head = cell.versions.at(-1);
  if (!head) throw new Error('a record without versions');
  return head;
}

/** The records of one simulated server, in memory. */
export function createRecordStore(): RecordStore {
  const types = new Map<string, Map<string, Cell>>();
  const byPatient = new Map<string, Set<Cell>>();
  const contents = new Map<string, string>();

  function publish(publication: Publication): void {
    const { type, id } = publication;
    const cells = types.get(type) ?? new Map<string, Cell>();
    types.set(type, cells);
    const cell = cells.get(id) ?? { type, id, versions: [] };
    cells.set(id, cell);
    cell.versions.push(publication);
    for (const patient of publication.index.patients) {
      const key = `${type}|${patient}`;
      const set = byPatient.get(key) ?? new Set<Cell>();
      byPatient.set(key, set);
      set.add(cell);
    }
  }

  return {
    publish,
    put(draft, changedAt, versionId) {
      const { resource } = draft;
      const key = `${resource.resourceType}/${resource.id}`;
      const content = createHash('sha256').update(jsonText(resource)).digest('base64');
      if (contents.get(key) === content) return false;
      // A record that appears for the first time in a later step bears that step's time, not one of the past.
      const lastUpdated = changedAt ?? draft.recorded;
      contents.set(key, content);
      const atMs = Date.parse(lastUpdated);
      const version = versionId(atMs);
      const { resourceType, id, ...rest } = resource;
      const whole: Resource = { resourceType, id, meta: { versionId: version, lastUpdated, ...draft.meta }, ...rest };
      publish({
        source: draft.source,
        stream: draft.stream,
        type: resourceType,
        id,
        versionId: version,
        lastUpdated,
        atMs,
        index: indexOf(whole),
        expect: draft.expect,
        body: () => whole,
      });
      return true;
    },
    head(type, id) {
      return types.get(type)?.get(id)?.versions.at(-1);
    },
    version(type, id, versionId) {
      return types
        .get(type)
        ?.get(id)
        ?.versions.find((one) => one.versionId === versionId);
    },
    cells(type, patient) {
      return patient === undefined ? (types.get(type)?.values() ?? []) : (byPatient.get(`${type}|${patient}`) ?? []);
    },
    *all() {
      for (const cells of types.values()) yield* cells.values();
    },
  };
}
