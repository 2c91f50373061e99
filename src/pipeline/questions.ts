import { CodedError } from '../errors.ts';
import { isId } from '../ids.ts';
import { isReason, REASONS } from '../records/reasons.ts';
import type { Database } from '../store/database.ts';
import { recordsOfSameBytes } from '../store/record-attachments.ts';
import { sql } from '../store/sql.ts';

/** Records that wait for a person, grouped by what is wrong. */
export interface QuarantineGroup {
  source: string;
  stream: string;
  type: string;
  reason: string;
  text: string;
  rule: string | null;
  count: number;
  first: string;
  last: string;
  /** One of them, to look at. */
  example: string;
}
export interface QuarantineEntry {
  record: string;
  source: string;
  stream: string;
  type: string;
  reason: string;
  text: string;
  rule: string | null;
  receivedAt: string;
  patient: string | null;
  configHash: string | null;
}

/** What became of a record or a document, step by step; ids, codes and hashes only. */
export interface ExplainReport {
  record?: {
    record: string;
    source: string;
    stream: string;
    type: string;
    outcome: string;
    reason: string | null;
    reasonText: string | null;
    rule: string | null;
    category: string | null;
    patient: string | null;
    receivedAt: string;
    current: boolean;
    configHash: string | null;
    /** Other records of the patient with an attachment of the same bytes. */
    sameBytes: readonly string[];
  };
  document?: {
    document: string;
    category: string;
    patient: string;
    withdrawn: string | null;
    withdrawnBecause: string | null;
    versions: readonly {
      version: number;
      manifestHash: string;
      ciphertextHash: string;
      sizeBytes: number;
      filedAt: string;
      outbox: string;
      outboxState: string;
      transaction: string | null;
      block: number | null;
      records: readonly string[];
    }[];
  };
}

/** Questions of an operator about records and documents. */
export function createQuestions(parts: { database: Database }) {
  const { database } = parts;

  async function quarantineList(): Promise<QuarantineGroup[]> {
    const rows = await database.query<Omit<QuarantineGroup, 'text' | 'first' | 'last'> & { first: Date; last: Date }>(sql`
      select source, stream, type, reason, rule, count(*) as count, min(received_at) as first, max(received_at) as last, min(rec) as example
      from record where outcome = 'quarantine' and current group by source, stream, type, reason, rule order by count(*) desc, source, stream, type`);
    return rows.map((row) => ({ ...row, text: textOf(row.reason), first: row.first.toISOString(), last: row.last.toISOString() }));
  }

  async function quarantineShow(record: string): Promise<QuarantineEntry> {
    const [row] = await database.query<{
      rec: string;
      source: string;
      stream: string;
      type: string;
      reason: string;
      rule: string | null;
      received_at: Date;
      pat: string | null;
      config_hash: string | null;
    }>(
      sql`select rec, source, stream, type, reason, rule, received_at, pat, config_hash from record where rec = ${record} and outcome = 'quarantine'`,
    );
    if (row === undefined) throw new CodedError('NOT_FOUND', { diagnostics: 'No record with this id is in quarantine.' });
    return {
      record: row.rec,
      source: row.source,
      stream: row.stream,
      type: row.type,
      reason: row.reason,
      text: textOf(row.reason),
      rule: row.rule,
      receivedAt: row.received_at.toISOString(),
      patient: row.pat,
      configHash: row.config_hash,
    };
  }

  async function explain(id: string): Promise<ExplainReport> {
    if (isId('rec', id)) return explainRecord(id);
    if (isId('doc', id)) return { document: await explainDocument(id) };
    throw new CodedError('BAD_REQUEST', { diagnostics: 'Name a record (rec-…) or a document (doc-…).' });
  }

  async function explainRecord(id: string): Promise<ExplainReport> {
    const [row] = await database.query<{
      rec: string;
      source: string;
      stream: string;
      type: string;
      outcome: string;
      reason: string | null;
      rule: string | null;
      category: string | null;
      pat: string | null;
      received_at: Date;
      current: boolean;
      config_hash: string | null;
      document: string | null;
    }>(sql`
      select rec, source, stream, type, outcome, reason, rule, category, pat, received_at, current, config_hash, document from record where rec = ${id}`);
    if (row === undefined) throw new CodedError('NOT_FOUND', { diagnostics: 'No record has this id.' });
    return {
      record: {
        record: row.rec,
        source: row.source,
        stream: row.stream,
        type: row.type,
        outcome: row.outcome,
        reason: row.reason,
        reasonText: row.reason === null ? null : textOf(row.reason),
        rule: row.rule,
        category: row.category,
        patient: row.pat,
        receivedAt: row.received_at.toISOString(),
        current: row.current,
        configHash: row.config_hash,
        sameBytes: await recordsOfSameBytes(database, id),
      },
      ...(row.document === null ? {} : { document: await explainDocument(row.document) }),
    };
  }

  async function explainDocument(id: string): Promise<NonNullable<ExplainReport['document']>> {
    const [subject] = await database.query<{ category: string; pat: string; withdrawn_at: Date | null; withdrawn_reason: string | null }>(
      sql`select category, pat, withdrawn_at, withdrawn_reason from subject where document = ${id}`,
    );
    if (subject === undefined) throw new CodedError('NOT_FOUND', { diagnostics: 'No document has this id.' });
    const versions = await database.query<{
      version: number;
      manifest_hash: string;
      ciphertext_hash: string;
      size_bytes: number;
      filed_at: Date;
      outbox: string;
      state: string | null;
      tx_id: string | null;
      block: number | null;
      records: string[] | null;
    }>(sql`
      select d.version, d.manifest_hash, d.ciphertext_hash, d.size_bytes, d.filed_at, d.outbox, o.state, o.tx_id, o.block,
        (select array_agg(r.rec order by r.rec) from record r where r.document = d.document and r.document_version = d.version) as records
      from document_version d left join outbox o on o.id = d.outbox where d.document = ${id} order by d.version`);
    return {
      document: id,
      category: subject.category,
      patient: subject.pat,
      withdrawn: subject.withdrawn_at?.toISOString() ?? null,
      withdrawnBecause: subject.withdrawn_reason,
      versions: versions.map((row) => ({
        version: row.version,
        manifestHash: row.manifest_hash,
        ciphertextHash: row.ciphertext_hash,
        sizeBytes: row.size_bytes,
        filedAt: row.filed_at.toISOString(),
        outbox: row.outbox,
        outboxState: row.state ?? 'settled and cleaned',
        transaction: row.tx_id,
        block: row.block,
        records: row.records ?? [],
      })),
    };
  }

  /** Counts for `status`: records by outcome and reason, and standing documents. */
  async function counts(): Promise<{ records: Record<string, number>; documents: number }> {
    const rows = await database.query<{ outcome: string; reason: string | null; count: number }>(
      sql`select outcome, reason, count(*) as count from record group by outcome, reason order by 1, 2`,
    );
    const [documents] = await database.query<{ standing: number }>(
      sql`select count(*) as standing from subject where version > 0 and withdrawn_at is null`,
    );
    return {
      records: Object.fromEntries(rows.map((row) => [row.reason === null ? row.outcome : `${row.outcome}:${row.reason}`, row.count])),
      documents: documents?.standing ?? 0,
    };
  }

  return { quarantineList, quarantineShow, explain, counts };
}

function textOf(reason: string): string {
  return isReason(reason) ? REASONS[reason].text : '';
}
