import type { Logger } from 'pino';
import { CodedError, codeOf } from '../errors.ts';
import { isId } from '../ids.ts';
import type { Classifier } from '../records/classify.ts';
import type { Database } from '../store/database.ts';
import { skipSameScans } from '../store/record-attachments.ts';
import { type HeldRow, heldForKnownPatients, heldRecords, subjectsLeftBehind } from '../store/records.ts';
import { MISFILED, subjectById } from '../store/subjects.ts';
import type { createIntake } from './intake.ts';
import { isPassing } from './passing.ts';
import type { createWithdrawal } from './withdrawal.ts';

/** Which held records are decided again; without a word, all. */
export interface ReplayChoice {
  record?: string;
  reason?: string;
  source?: string;
}
export interface ReplayReport {
  /** Held records that were looked at. */
  records: number;
  /** What became of them: `taken`, or outcome and reason. */
  outcomes: Readonly<Record<string, number>>;
}

const PAGE = 100;

/**
 * Records in quarantine decided again, from their kept bytes, by the rules and the patients known now. What is taken goes on
 * to assembly as if it had just come. Nothing marks a record as replayed: it is the rows that say what is due, so a crash
 * loses nothing.
 */
export function createReplay(parts: {
  database: Database;
  intake: ReturnType<typeof createIntake>;
  withdrawal: ReturnType<typeof createWithdrawal>;
  /** The rules of a stream; undefined where it is not configured any more: its records stay held. */
  classifierOf(source: string, stream: string): Classifier | undefined;
  log: Logger;
}) {
  const { database, intake, withdrawal, classifierOf, log } = parts;

  /** An operator's replay, after a mapping was added or a patient was put right at the source. */
  async function replay(choice: ReplayChoice): Promise<ReplayReport> {
    if (choice.record !== undefined && !isId('rec', choice.record))
      throw new CodedError('BAD_REQUEST', { diagnostics: 'Name a record (rec-…).' });
    const outcomes: Record<string, number> = {};
    let records = 0;
    let after = 0;
    for (;;) {
      const page = await heldRecords(database, choice, after, PAGE);
      const last = page.at(-1);
      if (last === undefined) break;
      after = last.seq;
      for (const row of page) {
        records++;
        const decided = (await reconsider(row)) ?? row;
        const outcome = decided.outcome === 'pending' ? 'taken' : `${decided.outcome}:${decided.reason}`;
        outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
      }
    }
    if (choice.record !== undefined && records === 0)
      throw new CodedError('NOT_FOUND', { diagnostics: 'No record with this id is in quarantine.' });
    return { records, outcomes };
  }

  /**
   * What the rows say is due: records whose patient has come since; and documents whose record now names a patient who is
   * held. Those stand under the wrong name, so they are withdrawn without waiting for the right one. Returns how many records
   * wait for assembly again.
   */
  async function due(): Promise<number> {
    for (const sub of await subjectsLeftBehind(database)) {
      const subject = await subjectById(database, sub);
      if (subject === undefined) continue;
      await database.transaction((tx) => withdrawal.withdraw(tx, subject, MISFILED));
      log.info({ document: subject.document }, 'document withdrawn: its record names another patient, who is held');
    }
    const scans = await skipSameScans(database);
    if (scans > 0) log.info({ records: scans }, 'held reports skipped: the same scan is filed as a DocumentReference');
    let changed = 0;
    // Behind the last one looked at: some that cannot be decided must not keep the others waiting.
    for (let after = 0; ; ) {
      const page = await heldForKnownPatients(database, after, PAGE);
      for (const row of page) if ((await reconsider(row)) !== undefined) changed++;
      after = page.at(-1)?.seq ?? after;
      if (page.length < PAGE) break;
    }
    if (changed > 0) log.info({ records: changed }, 'held records decided again: their patient has come');
    return changed;
  }

  /** Undefined where it stays as it is: the stream is not configured any more, somebody was first, or it cannot be read. */
  async function reconsider(row: HeldRow): Promise<{ outcome: string; reason: string | null } | undefined> {
    const classify = classifierOf(row.source, row.stream);
    if (classify === undefined) return undefined;
    try {
      return await intake.reconsider(row, classify);
    } catch (error) {
      if (isPassing(error)) throw error;
      log.error({ record: row.rec, code: codeOf(error) ?? 'INTERNAL' }, 'a held record cannot be decided again');
      return undefined;
    }
  }

  return { replay, due };
}
