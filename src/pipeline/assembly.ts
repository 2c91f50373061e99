import { createHash } from 'node:crypto';
import type { Logger } from 'pino';
import { newId } from '../ids.ts';
import { type Description, describe } from '../records/describe.ts';
import { type JsonObject, parseResource } from '../records/lossless-json.ts';
import type { Reason } from '../records/reasons.ts';
import { type Subject, subjectsOf } from '../records/subjects.ts';
import type { Database } from '../store/database.ts';
import { connectedRecords, decide, markOwn, type RecordRow, releaseRecords } from '../store/records.ts';
import { emptiedSubjects, ensureSubject, renameSubject, type SubjectRow, subjectsByKeys } from '../store/subjects.ts';
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
   * course still waits for will not come. Returns the drafts, and the records that go on waiting.
   */
  async function assemble(
    pending: { rec: string; key: string },
    final: boolean,
  ): Promise<{ drafts: DocumentDraft[]; waiting: string[]; touched: string[] }> {
    const component = await connectedRecords(database, pending.key);
    const usable = component.filter((row) => row.outcome === 'pending' || row.outcome === 'own' || row.reason === 'NOT_DELIVERED');
    const touched = usable.map((row) => row.rec);
    const drafts: DocumentDraft[] = [];
    const waiting: string[] = [];
    await settleDeleted(usable.filter((row) => row.deleted));

    const opened = await Promise.all(usable.filter((row) => !row.deleted && row.pat !== null).map(open));
    for (const [patient, records] of groupBy(opened, (record) => record.row.pat ?? '')) {
      const byRef = new Map(records.map((record) => [record.description.ref, record]));
      const source = records[0]?.row.source ?? '';
      for (const subject of subjectsOf(records.map((record) => record.description))) {
        const own = subject.own.flatMap((ref) => byRef.get(ref) ?? []);
        const context = subject.context.flatMap((ref) => byRef.get(ref) ?? []);
        if (!own.some((record) => record.row.outcome === 'pending' || record.row.reason === 'NOT_DELIVERED')) continue;
        const draft = await settleSubject({ source, patient, subject, own, context, final, byRef });
        if (draft === 'wait') waiting.push(...own.filter((record) => record.row.outcome === 'pending').map((record) => record.row.rec));
        else if (draft !== undefined) drafts.push(draft);
      }
    }
    return { drafts, waiting, touched };
  }

  async function settleSubject(found: {
    source: string;
    patient: string;
    subject: Subject;
    own: readonly OpenedRecord[];
    context: readonly OpenedRecord[];
    final: boolean;
    byRef: ReadonlyMap<string, OpenedRecord>;
  }): Promise<DocumentDraft | 'wait' | undefined> {
    const { source, patient, subject, own, final } = found;
    const anchor = own[0];
    if (anchor === undefined) return undefined;
    const pendingRecs = own.filter((record) => record.row.outcome === 'pending').map((record) => record.row.rec);
    const category = anchor.row.category ?? subject.category;
    const names = await Promise.all([subject.key, ...subject.aliases].map((name) => keys.ref(source, name)));
    const known = (await subjectsByKeys(database, names)).filter((row) => row.withdrawn_at === null);
    const mine = known.find((row) => row.pat === patient && row.category === category);
    const moved = known.filter((row) => row.pat !== patient || row.category !== category);

    // More may come in this pull: what the subject lacks, or the rest of a correction, which is one new version and not two.
    // What must be hidden is hidden at once.
    if (!final && (mine !== undefined || awaits(subject, own, found.byRef))) {
      const wrong = anchor.description.status === 'withdrawn' ? known : moved;
      if (wrong.length > 0)
        await database.transaction(async (tx) => {
          for (const row of wrong) await withdrawal.withdraw(tx, row, wrong === moved ? 'WRONG_PATIENT' : 'WITHDRAWN_AT_SOURCE');
        });
      return 'wait';
    }

    if (anchor.description.status === 'withdrawn') {
      await database.transaction(async (tx) => {
        for (const row of known) await withdrawal.withdraw(tx, row, 'WITHDRAWN_AT_SOURCE');
        await decide(tx, pendingRecs, { outcome: 'skip', reason: 'WITHDRAWN_AT_SOURCE' satisfies Reason });
      });
      return undefined;
    }
    // Planned or prescribed only: there is no delivered dose to file yet. It joins the course when that arrives.
    if (
      subject.category === 'radiation-dose' &&
      anchor.description.role !== 'course' &&
      anchor.description.role !== 'phase' &&
      anchor.description.role !== 'plan'
    ) {
      if (!final) return 'wait';
      await database.transaction((tx) => decide(tx, pendingRecs, { outcome: 'skip', reason: 'NOT_DELIVERED' satisfies Reason }));
      return undefined;
    }

    const ownHash = createHash('sha256')
      .update(
        own
          .map((record) => `${record.row.key}=${record.row.content}`)
          .sort()
          .join('\n'),
      )
      .digest('hex');
    const key = names[0] ?? '';
    return database.transaction(async (tx) => {
      for (const row of moved)
        if (await withdrawal.withdraw(tx, row, 'WRONG_PATIENT'))
          log.info({ document: row.document }, 'document withdrawn: its record moved');
      if (mine !== undefined && mine.key !== key) await renameSubject(tx, mine.sub, key);
      const row = await ensureSubject(tx, { sub: newId('sub'), category, key, pat: patient, document: newId('doc') });
      // Records that another subject owned until now: where it is left without any, its document goes.
      const left = [...new Set(own.map((record) => record.row.sub).filter((sub): sub is string => sub !== null && sub !== row.sub))];
      if (row.own_hash === ownHash) {
        await markOwn(tx, pendingRecs, row);
        return undefined;
      }
      if (left.length > 0) {
        await releaseRecords(
          tx,
          own.filter((record) => record.row.sub !== null && record.row.sub !== row.sub).map((record) => record.row.rec),
        );
        for (const emptied of await emptiedSubjects(tx, left)) await withdrawal.withdraw(tx, emptied, 'SUPERSEDED');
      }
      return { subject: row, ownHash, own, context: found.context };
    });
  }

  /** A tombstone: what stood for a subject is gone at the source, so its document is withdrawn; a member just leaves. */
  async function settleDeleted(deleted: readonly RecordRow[]): Promise<void> {
    for (const row of deleted) {
      if (row.outcome !== 'pending') continue;
      const subjects = (await subjectsByKeys(database, [row.key])).filter((subject) => subject.withdrawn_at === null);
      await database.transaction(async (tx) => {
        for (const subject of subjects) await withdrawal.withdraw(tx, subject, 'DELETED_AT_SOURCE');
        await decide(tx, [row.rec], { outcome: 'skip', reason: 'DELETED_AT_SOURCE' satisfies Reason });
      });
    }
  }

  async function open(row: RecordRow): Promise<OpenedRecord> {
    const kept = await openRecord(rows, row);
    const resource = parseResource(kept.record.bytes);
    return { row, kept, resource, description: describe(resource) };
  }

  return { assemble, open };
}

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
