import { createHash } from 'node:crypto';
import type { Logger } from 'pino';
import { newId } from '../ids.ts';
import { type Description, describe } from '../records/describe.ts';
import { type JsonObject, parseResource } from '../records/lossless-json.ts';
import type { Reason } from '../records/reasons.ts';
import { type Subject, subjectsOf } from '../records/subjects.ts';
import type { Database, Sql } from '../store/database.ts';
import { connectedRecords, decide, markOwn, type RecordRow, releaseRecords, releaseStanding } from '../store/records.ts';
import { emptiedSubjects, ensureSubject, renameSubject, type SubjectRow, standingSubjects } from '../store/subjects.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
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
    const component = await connectedRecords(database, pending.key);
    const usable = component.filter((row) => row.outcome === 'pending' || row.outcome === 'own' || row.reason === 'NOT_DELIVERED');
    const touched = usable.map((row) => row.rec);
    const drafts: DocumentDraft[] = [];
    let released = false;
    for (const row of usable) if (row.deleted && row.outcome === 'pending' && (await settleDeleted(row, final))) released = true;

    const opened = await Promise.all(usable.filter((row) => !row.deleted && row.pat !== null).map(open));
    for (const [patient, records] of groupBy(opened, (record) => record.row.pat ?? '')) {
      const byRef = new Map(records.map((record) => [record.description.ref, record]));
      const source = records[0]?.row.source ?? '';
      for (const subject of subjectsOf(records.map((record) => record.description))) {
        const own = subject.own.flatMap((ref) => byRef.get(ref) ?? []);
        const context = subject.context.flatMap((ref) => byRef.get(ref) ?? []);
        if (!own.some((record) => record.row.outcome === 'pending' || record.row.reason === 'NOT_DELIVERED')) continue;
        const settled = await settleSubject({ source, patient, subject, own, context, final, byRef });
        if (settled.draft !== undefined) drafts.push(settled.draft);
        released ||= settled.released;
      }
    }
    return { drafts, touched, released };
  }

  async function settleSubject(found: {
    source: string;
    patient: string;
    subject: Subject;
    own: readonly OpenedRecord[];
    context: readonly OpenedRecord[];
    final: boolean;
    byRef: ReadonlyMap<string, OpenedRecord>;
  }): Promise<{ draft?: DocumentDraft; released: boolean }> {
    const { source, patient, subject, own, final } = found;
    const anchor = own[0];
    if (anchor === undefined) return NOTHING;
    const pendingRecs = own.filter((record) => record.row.outcome === 'pending').map((record) => record.row.rec);
    const category = anchor.row.category ?? subject.category;
    const names = await Promise.all([subject.key, ...subject.aliases].map((name) => keys.ref(source, name)));
    const key = names[0] ?? '';
    const refs = own.map((record) => record.row.key);
    const standing = await standingSubjects(database, names, refs);
    const known = standing.filter((row) => names.includes(row.key));
    const named = known.filter((row) => row.pat === patient && row.category === category);
    // Two that were filed apart may turn out to be one: the one under the lasting name goes on.
    const mine = named.find((row) => row.key === key) ?? named[0];
    const moved = standing.filter((row) => row.pat !== patient || (row.category !== category && names.includes(row.key)));

    const isWithdrawn = anchor.description.status === 'withdrawn';

    // More may come in this pull: what the subject lacks, or the rest of a correction, which is one new version and not two.
    // What must be hidden is hidden at once.
    if (!final && (mine !== undefined || awaits(subject, own, found.byRef))) {
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
    if (
      subject.category === 'radiation-dose' &&
      anchor.description.role !== 'course' &&
      anchor.description.role !== 'phase' &&
      anchor.description.role !== 'plan'
    ) {
      if (final) await database.transaction((tx) => decide(tx, pendingRecs, { outcome: 'skip', reason: 'NOT_DELIVERED' satisfies Reason }));
      return NOTHING;
    }

    const ownHash = createHash('sha256')
      .update(
        own
          .map((record) => `${record.row.key}=${record.row.content}`)
          .sort()
          .join('\n'),
      )
      .digest('hex');
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
      if (!(await withdrawal.withdraw(tx, row, 'WRONG_PATIENT'))) continue;
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

  return { assemble, open };
}

const NOTHING = { released: false } as const;

/** A report whose results, or a course whose parents, are named but not here yet. */
function awaits(subject: Subject, own: readonly OpenedRecord[], byRef: ReadonlyMap<string, OpenedRecord>): boolean {
  const anchor = own[0]?.description;
  if (anchor === undefined) return false;
  if (anchor.role === 'laboratory-result') return true; // a report may still claim it
  if (anchor.role === 'laboratory-report') return anchor.links.some((link) => link.relation === 'result' && !byRef.has(link.target));
  // Phases, plans and requests come in requests of their own, after or before the course: only the end of the sweep tells.
  return subject.category === 'radiation-dose';
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
