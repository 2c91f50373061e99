import { createHash } from 'node:crypto';
import type { Logger } from 'pino';
import { newId } from '../ids.ts';
import { type Description, describe } from '../records/describe.ts';
import { type JsonObject, parseResource } from '../records/lossless-json.ts';
import type { Reason } from '../records/reasons.ts';
import { type Subject, subjectsOf } from '../records/subjects.ts';
import type { Database, Sql } from '../store/database.ts';
import { connectedRecords, decide, markOwn, type RecordRow, releaseRecords, releaseStanding } from '../store/records.ts';
import {
  emptiedSubjects,
  ensureSubject,
  ensureSubjects,
  MISFILED,
  renameSubject,
  type SubjectRow,
  standingSubjects,
  takenNames,
} from '../store/subjects.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import { isPassing } from './passing.ts';
import type { KeptRecord } from './raw-record.ts';
import { openRecord } from './record-seal.ts';
import type { SourceKeys } from './source-keys.ts';
import type { createWithdrawal } from './withdrawal.ts';

/** A record of a subject, opened. */
export interface OpenedRecord {
  row: RecordRow;
  kept: KeptRecord;
  resource: JsonObject;
  description: Description;
}

/** A document version that is due: what it is about and what it may draw. */
export interface DocumentDraft {
  subject: SubjectRow;
  /** Hash over the content of the own records: the same means no new version. */
  ownHash: string;
  /** The record that stands for the subject first. */
  own: readonly OpenedRecord[];
  /** Records of other subjects that this one only draws. */
  context: readonly OpenedRecord[];
}

/**
 * From records to subjects (architecture section 3, step 4): opens everything that the links connect with a pending
 * record, lets the pure rules say which subjects that makes, and compares with what is filed. What changed is a draft;
 * what is withdrawn, moved to another patient or emptied is withdrawn.
 */
export function createAssembly(parts: {
  database: Database;
  rows: SealedRows;
  keys: SourceKeys;
  withdrawal: ReturnType<typeof createWithdrawal>;
  log: Logger;
}) {
  const { database, rows, keys, withdrawal, log } = parts;

  /**
   * Works out the component of one pending record. `final`: the source has been read to its end, so what a report or
   * course still waits for will not come. `released`: records of other subjects wait again, because what they stood beside
   * has left them.
   */
  async function assemble(
    pending: { rec: string; key: string },
    final: boolean,
  ): Promise<{ drafts: DocumentDraft[]; touched: string[]; released: boolean }> {
    const usable = (await connectedRecords(database, [pending.key])).filter(isUsable);
    const touched = usable.map((row) => row.rec);
    const drafts: DocumentDraft[] = [];
    let released = false;
    for (const row of usable) if (row.deleted && row.outcome === 'pending' && (await settleDeleted(row, final))) released = true;

    for (const found of await subjectsIn(usable)) {
      const settled = await settleSubject(found, final);
      if (settled.draft !== undefined) drafts.push(settled.draft);
      released ||= settled.released;
    }
    return { drafts, touched, released };
  }

  /**
   * The same for many pending records at once, as far as nothing of theirs was ever filed: by name of the record, the result of
   * its whole component. What is not among them, `assemble` works out alone; so is everything that a document stands for.
   */
  async function assembleNew(
    pending: readonly { rec: string; key: string; final: boolean }[],
  ): Promise<Map<string, { drafts: DocumentDraft[]; touched: string[]; released: boolean }>> {
    if (pending.length === 0) return new Map();
    const rowsOf = components(
      await connectedRecords(
        database,
        pending.map((record) => record.key),
      ),
    );
    const looked: { rec: string; final: boolean; touched: string[]; subjects: FoundSubject[] }[] = [];
    const done = new Set<readonly RecordRow[]>();
    for (const { rec, key, final } of pending) {
      const component = rowsOf.get(key);
      if (component === undefined || done.has(component)) continue;
      done.add(component);
      const usable = component.filter(isUsable);
      if (usable.some((row) => row.outcome !== 'pending' || row.deleted)) continue;
      try {
        looked.push({ rec, final, touched: usable.map((row) => row.rec), subjects: await subjectsIn(usable) });
      } catch (error) {
        if (isPassing(error)) throw error;
      }
    }
    const every = looked.flatMap((one) => one.subjects);
    const taken = await takenNames(
      database,
      every.flatMap((found) => found.names),
      every.flatMap((found) => found.refs),
    );
    const fresh = looked.filter(({ subjects }) => {
      const mine = new Set(subjects.flatMap((found) => [...found.names, ...found.refs]));
      const said = subjects.reduce((sum, found) => sum + new Set([...found.names, ...found.refs]).size, 0);
      // Two that claim one name, of one component or of two: the first is made before the second is looked at.
      if (said !== mine.size || [...mine].some((name) => taken.has(name)) || subjects.some(isExceptional)) return false;
      for (const name of mine) taken.add(name);
      return true;
    });
    const due = fresh.flatMap(({ final, subjects }) => subjects.filter((found) => final || !awaits(found)));
    const made = await ensureSubjects(
      database,
      due.map((found) => ({ sub: newId('sub'), category: found.category, key: found.key, pat: found.patient, document: newId('doc') })),
    );
    const nameOf = (row: Pick<SubjectRow, 'category' | 'key' | 'pat'>): string => `${row.category} ${row.key} ${row.pat}`;
    const byName = new Map(made.map((row) => [nameOf(row), row]));
    return new Map(
      fresh.map(({ rec, final, touched, subjects }) => {
        const drafts = subjects.flatMap((found): DocumentDraft[] => {
          const row = byName.get(nameOf({ category: found.category, key: found.key, pat: found.patient }));
          if (row === undefined || !(final || !awaits(found))) return [];
          return [{ subject: row, ownHash: ownHashOf(found.own), own: found.own, context: found.context }];
        });
        return [rec, { drafts, touched, released: false }];
      }),
    );
  }

  /** What the rules make of a component's records, patient by patient: the subjects that something waits for. */
  async function subjectsIn(usable: readonly RecordRow[]): Promise<FoundSubject[]> {
    const opened = await Promise.all(usable.filter((row) => !row.deleted && row.pat !== null).map(open));
    const all: FoundSubject[] = [];
    for (const [patient, records] of groupBy(opened, (record) => record.row.pat ?? '')) {
      const byRef = new Map(records.map((record) => [record.description.ref, record]));
      const source = records[0]?.row.source ?? '';
      for (const subject of subjectsOf(records.map((record) => record.description))) {
        const own = subject.own.flatMap((ref) => byRef.get(ref) ?? []);
        const context = subject.context.flatMap((ref) => byRef.get(ref) ?? []);
        const anchor = own[0];
        if (anchor === undefined || !own.some((record) => record.row.outcome === 'pending' || record.row.reason === 'NOT_DELIVERED'))
          continue;
        const names = await Promise.all([subject.key, ...subject.aliases].map((name) => keys.ref(source, name)));
        const refs = own.map((record) => record.row.key);
        const category = anchor.row.category ?? subject.category;
        all.push({ patient, subject, category, anchor, own, context, byRef, names, key: names[0] ?? '', refs });
      }
    }
    return all;
  }

  async function settleSubject(found: FoundSubject, final: boolean): Promise<{ draft?: DocumentDraft; released: boolean }> {
    const { patient, subject, own, anchor, category, names, key, refs } = found;
    const pendingRecs = own.filter((record) => record.row.outcome === 'pending').map((record) => record.row.rec);
    const standing = await standingSubjects(database, names, refs);
    const known = standing.filter((row) => names.includes(row.key));
    const named = known.filter((row) => row.pat === patient && row.category === category);
    // Two that were filed apart may turn out to be one: the one under the lasting name goes on.
    const mine = named.find((row) => row.key === key) ?? named[0];
    const moved = standing.filter((row) => row.pat !== patient || (row.category !== category && names.includes(row.key)));

    const isWithdrawn = anchor.description.status === 'withdrawn';

    // More may come in this pull: what the subject lacks, or the rest of a correction, which is one new version and not two.
    // What must be hidden is hidden at once.
    if (!final && (mine !== undefined || awaits(found))) {
      const ended = isWithdrawn ? known : [];
      if (ended.length + moved.length === 0) return NOTHING;
      return database.transaction(async (tx) => ({ released: await hide(tx, ended, moved) }));
    }

    if (isWithdrawn)
      return database.transaction(async (tx) => {
        const released = await hide(tx, known, moved);
        await decide(tx, pendingRecs, { outcome: 'skip', reason: 'WITHDRAWN_AT_SOURCE' satisfies Reason });
        return { released };
      });
    // Planned or prescribed only: there is no delivered dose to file yet. It joins the course when that arrives.
    if (isOnlyPlanned(subject, anchor)) {
      if (final) await database.transaction((tx) => decide(tx, pendingRecs, { outcome: 'skip', reason: 'NOT_DELIVERED' satisfies Reason }));
      return NOTHING;
    }

    const ownHash = ownHashOf(own);
    return database.transaction(async (tx) => {
      let released = await hide(tx, [], moved);
      if (mine !== undefined && mine.key !== key) await renameSubject(tx, mine.sub, key);
      const row = await ensureSubject(tx, { sub: newId('sub'), category, key, pat: patient, document: newId('doc') });
      if (row.own_hash === ownHash) {
        await markOwn(tx, pendingRecs, row);
        return { released };
      }
      // Subjects that these records, in this version or the last, were own in until now: where nothing is left, the document
      // goes; what is left makes a new version.
      const left = (await standingSubjects(tx, [], refs)).filter((subject) => subject.sub !== row.sub);
      if (left.length > 0) {
        await releaseRecords(
          tx,
          own.filter((record) => record.row.sub !== null && record.row.sub !== row.sub).map((record) => record.row.rec),
        );
        const subs = left.map((subject) => subject.sub);
        for (const emptied of await emptiedSubjects(tx, subs)) await withdrawal.withdraw(tx, emptied, 'SUPERSEDED');
        released = (await releaseStanding(tx, subs)) > 0 || released;
      }
      return { draft: { subject: row, ownHash, own, context: found.context }, released };
    });
  }

  /**
   * A tombstone. What stood alone, or by its own name, for a subject is gone, and the document with it, at once. A member
   * leaves: its document gets a new version without it, once the stream's pull tells what else has changed. True where
   * records were released for that.
   */
  async function settleDeleted(row: RecordRow, final: boolean): Promise<boolean> {
    return database.transaction(async (tx) => {
      const subjects = await standingSubjects(tx, [], [row.key]);
      const emptied = new Set(
        (
          await emptiedSubjects(
            tx,
            subjects.map(({ sub }) => sub),
          )
        ).map(({ sub }) => sub),
      );
      const ended = subjects.filter((subject) => subject.key === row.key || emptied.has(subject.sub));
      for (const subject of ended) await withdrawal.withdraw(tx, subject, 'DELETED_AT_SOURCE');
      if (!final && ended.length < subjects.length) return release(tx, ended);
      await decide(tx, [row.rec], { outcome: 'skip', reason: 'DELETED_AT_SOURCE' satisfies Reason });
      return release(tx, subjects);
    });
  }

  /**
   * Withdraws documents that the source takes back, and those that a record has left for another patient: of these, what still
   * belongs to the first one waits again.
   */
  async function hide(tx: Sql, ended: readonly SubjectRow[], moved: readonly SubjectRow[]): Promise<boolean> {
    for (const row of ended) await withdrawal.withdraw(tx, row, 'WITHDRAWN_AT_SOURCE');
    const left: SubjectRow[] = [];
    for (const row of moved) {
      if (!(await withdrawal.withdraw(tx, row, MISFILED))) continue;
      log.info({ document: row.document }, 'document withdrawn: its record moved');
      left.push(row);
    }
    return release(tx, left);
  }

  /** What still stands for these subjects waits again. */
  async function release(tx: Sql, subjects: readonly SubjectRow[]): Promise<boolean> {
    const count = await releaseStanding(
      tx,
      subjects.map((subject) => subject.sub),
    );
    return count > 0;
  }

  async function open(row: RecordRow): Promise<OpenedRecord> {
    const kept = await openRecord(rows, row);
    const resource = parseResource(kept.record.bytes);
    return { row, kept, resource, description: describe(resource) };
  }

  return { assemble, assembleNew, open };
}

const NOTHING = { released: false } as const;

/** A subject with its records, and the names under which it and they are kept. */
interface FoundSubject {
  patient: string;
  subject: Subject;
  category: string;
  anchor: OpenedRecord;
  own: readonly OpenedRecord[];
  context: readonly OpenedRecord[];
  byRef: ReadonlyMap<string, OpenedRecord>;
  /** Hashed; `key` is the lasting one. */
  names: readonly string[];
  key: string;
  /** Keys of the own records. */
  refs: readonly string[];
}

function isUsable(row: RecordRow): boolean {
  return row.outcome === 'pending' || row.outcome === 'own' || row.reason === 'NOT_DELIVERED';
}

/** Planned or prescribed, and nothing delivered. */
function isOnlyPlanned(subject: Subject, anchor: OpenedRecord): boolean {
  const { role } = anchor.description;
  return subject.category === 'radiation-dose' && role !== 'course' && role !== 'phase' && role !== 'plan';
}

function isExceptional({ subject, anchor }: FoundSubject): boolean {
  return anchor.description.status === 'withdrawn' || isOnlyPlanned(subject, anchor);
}

function ownHashOf(own: readonly OpenedRecord[]): string {
  const lines = own.map((record) => `${record.row.key}=${record.row.content}`);
  return createHash('sha256').update(lines.sort().join('\n')).digest('hex');
}

/** A report whose results, or a course whose parents, are named but not here yet. */
function awaits({ subject, anchor: { description: anchor }, byRef }: FoundSubject): boolean {
  if (anchor.role === 'laboratory-result') return true; // a report may still claim it
  if (anchor.role === 'laboratory-report') return anchor.links.some((link) => link.relation === 'result' && !byRef.has(link.target));
  // Phases, plans and requests come in requests of their own, after or before the course: only the end of the sweep tells.
  return subject.category === 'radiation-dose';
}

/** Rows by key, those that links join in one list. */
function components(rows: readonly (RecordRow & { targets: readonly string[] })[]): Map<string, RecordRow[]> {
  const above = new Map<string, string>();
  const top = (name: string): string => {
    let at = name;
    for (let up = above.get(at); up !== undefined; up = above.get(at)) at = up;
    return at;
  };
  for (const row of rows)
    for (const target of row.targets) {
      const [a, b] = [top(row.key), top(target)];
      if (a !== b) above.set(a, b);
    }
  const groups = groupBy(rows, (row) => top(row.key));
  return new Map(rows.map((row) => [row.key, groups.get(top(row.key)) ?? []]));
}

function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const key = keyOf(item);
    const group = groups.get(key);
    if (group) group.push(item);
    else groups.set(key, [item]);
  }
  return groups;
}
