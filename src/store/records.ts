import type { Sql } from './database.ts';
import { packBytes } from './packed-bytes.ts';
import { insertAttachmentHashes } from './record-attachments.ts';
import { sql } from './sql.ts';

/** One record version as it is kept: sealed raw bytes and the stored decision on it. */
export interface RecordRow {
  rec: string;
  source: string;
  stream: string;
  type: string;
  key: string;
  version_key: string;
  content: string;
  raw: Buffer;
  sealed_for: string | null;
  last_updated: Date | null;
  received_at: Date;
  current: boolean;
  deleted: boolean;
  outcome: 'pending' | 'own' | 'skip' | 'quarantine';
  reason: string | null;
  rule: string | null;
  config_hash: string | null;
  category: string | null;
  pat: string | null;
  sub: string | null;
  document: string | null;
  document_version: number | null;
}

export interface NewRecord {
  rec: string;
  source: string;
  stream: string;
  type: string;
  key: string;
  versionKey: string;
  content: string;
  raw: Buffer;
  sealedFor: string | null;
  /** Sealed versionId of the source. */
  versionId: Buffer;
  /** The version before it stands in a document. */
  corrects: boolean;
  lastUpdated: Date | null;
  current: boolean;
  deleted: boolean;
  outcome: RecordRow['outcome'];
  reason: string | null;
  rule: string | null;
  configHash: string;
  category: string | null;
  pat: string | null;
  /** HMAC of the source's patient that it is about. */
  patientKey: string | null;
  links: readonly { relation: string; target: string }[];
  analyte: { analyte: string; at: Date } | null;
  /** HMAC of the bytes of each. */
  attachments: readonly string[];
  notBefore: Date | null;
}

const COLUMNS = sql`rec, source, stream, type, key, version_key, content, raw, sealed_for, last_updated, received_at, current, deleted,
  outcome, reason, rule, config_hash, category, pat, sub, document, document_version`;

/** Which of these versions are stored already; `gone`: a tombstone came after, so that the same version coming again says something new. */
export async function storedVersions(sqlOn: Sql, versionKeys: readonly string[]): Promise<Map<string, { gone: boolean }>> {
  const rows = await sqlOn.query<{ version_key: string; gone: boolean }>(sql`
    select r.version_key, exists (select 1 from record c where c.key = r.key and c.current and c.deleted) as gone
    from record r where r.version_key = any(${versionKeys})`);
  return new Map(rows.map((row) => [row.version_key, row]));
}

/** The current versions of these keys, without their raw bytes. */
export async function currentOf(
  sqlOn: Sql,
  keys: readonly string[],
): Promise<
  Map<
    string,
    { rec: string; content: string; last_updated: Date | null; outcome: string; sub: string | null; pat: string | null; deleted: boolean }
  >
> {
  const rows = await sqlOn.query<{
    key: string;
    rec: string;
    content: string;
    last_updated: Date | null;
    outcome: string;
    sub: string | null;
    pat: string | null;
    deleted: boolean;
  }>(sql`select key, rec, content, last_updated, outcome, sub, pat, deleted from record where key = any(${keys}) and current`);
  return new Map(rows.map((row) => [row.key, row]));
}

/** Stores a page's records with their links in a few statements. A version that is there already is left alone. */
export async function insertRecords(tx: Sql, records: readonly NewRecord[]): Promise<void> {
  if (records.length === 0) return;
  const column = <K extends keyof NewRecord>(name: K): NewRecord[K][] => records.map((record) => record[name]);
  const raw = packBytes(column('raw'));
  const versionId = packBytes(column('versionId'));
  const supersedes = records.filter((record) => record.current).map((record) => record.key);
  // An older version that no document took is superseded, held or not; one that a document took stays that document's.
  await tx.query(sql`
    update record set current = false,
      outcome = case when outcome in ('pending', 'quarantine') then 'skip' else outcome end,
      reason = case when outcome in ('pending', 'quarantine') then 'SUPERSEDED' else reason end
    where key = any(${supersedes}) and current`);
  await tx.query(sql`
    insert into record (rec, source, stream, type, key, version_key, content, raw, sealed_for, version_id, last_updated, current, corrects, deleted, outcome, reason, rule,
      config_hash, category, pat, patient_key, not_before, decided_at)
    select rec, source, stream, type, key, version_key, content, substring(${raw.all}::bytea from raw_at for raw_size), sealed_for,
      substring(${versionId.all}::bytea from version_at for version_size), last_updated, current, corrects, deleted, outcome, reason, rule,
      config_hash, category, pat, patient_key, coalesce(not_before, now()), now() from unnest(${column('rec')}::text[], ${column('source')}::text[], ${column('stream')}::text[], ${column('type')}::text[],
      ${column('key')}::text[], ${column('versionKey')}::text[], ${column('content')}::text[], ${raw.at}::int[], ${raw.size}::int[],
      ${column('sealedFor')}::text[], ${versionId.at}::int[], ${versionId.size}::int[], ${column('lastUpdated')}::timestamptz[], ${column('current')}::boolean[], ${column('corrects')}::boolean[], ${column('deleted')}::boolean[],
      ${column('outcome')}::text[], ${column('reason')}::text[], ${column('rule')}::text[], ${column('configHash')}::text[],
      ${column('category')}::text[], ${column('pat')}::text[], ${column('patientKey')}::text[], ${column('notBefore')}::timestamptz[])
      as t(rec, source, stream, type, key, version_key, content, raw_at, raw_size, sealed_for, version_at, version_size, last_updated, current, corrects, deleted, outcome, reason, rule,
        config_hash, category, pat, patient_key, not_before)
    on conflict (version_key) do nothing`);
  const links = records.flatMap((record) => record.links.map((link) => ({ rec: record.rec, ...link })));
  if (links.length > 0)
    await tx.query(sql`
      insert into record_link (rec, relation, target)
      select t.* from unnest(${links.map((l) => l.rec)}::text[], ${links.map((l) => l.relation)}::text[], ${links.map((l) => l.target)}::text[]) as t(rec, relation, target)
      where exists (select 1 from record r where r.rec = t.rec)
      on conflict do nothing`);
  await insertAttachmentHashes(tx, records);
  const analytes = records.filter((record) => record.analyte !== null && record.pat !== null);
  if (analytes.length > 0)
    await tx.query(sql`
      insert into record_analyte (rec, pat, analyte, at)
      select t.* from unnest(${analytes.map((r) => r.rec)}::text[], ${analytes.map((r) => r.pat)}::text[],
        ${analytes.map((r) => r.analyte?.analyte)}::text[], ${analytes.map((r) => r.analyte?.at)}::timestamptz[]) as t(rec, pat, analyte, at)
      where exists (select 1 from record r where r.rec = t.rec)
      on conflict do nothing`);
}

export async function recordsById(sqlOn: Sql, recs: readonly string[]): Promise<RecordRow[]> {
  return sqlOn.query<RecordRow>(sql`select ${COLUMNS} from record where rec = any(${recs}) order by seq`);
}

/**
 * Records that wait for assembly, oldest first, from behind `after`. Of streams that are still being read only those behind
 * `unfinishedAfter`: the ones before were looked at, and what they wait for comes with a record of its own. `final`: their
 * stream came to its end, so what a record still waits for will not come. `correcting`: only those whose last version stands in a
 * document.
 */
export async function pendingRecords(
  sqlOn: Sql,
  limit: number,
  place: { after: number; unfinishedAfter: number; correcting?: boolean },
): Promise<{ rec: string; key: string; seq: number; final: boolean }[]> {
  return sqlOn.query(sql`
    select r.rec, r.key, r.seq, coalesce(s.complete, false) as final from record r left join stream s on s.source = r.source and s.stream = r.stream
    where r.outcome = 'pending' and ${place.correcting === true ? sql`r.corrects and` : sql``} r.current and r.not_before <= now() and r.seq > ${place.after}::bigint
      and (coalesce(s.complete, false) or r.seq > ${place.unfinishedAfter}::bigint) order by r.seq limit ${limit}`);
}

/**
 * Everything that the links connect with these records, in both directions: all that their subjects can be made of. Each record
 * with the keys that it links to, by which the caller tells one component from another.
 */
export async function connectedRecords(sqlOn: Sql, keys: readonly string[]): Promise<(RecordRow & { targets: string[] })[]> {
  // `offset 0` holds every step to a look-up in an index. Left to itself the planner joins the whole tables as long as it has
  // no statistics of them, which is just when a backfill fills them.
  return sqlOn.query(sql`
    with recursive reach(name) as (
      select unnest(${keys}::text[])
      union
      select step.key from reach cross join lateral (
        select l.target as key from (select rec from record where key = reach.name and current offset 0) r
          cross join lateral (select target from record_link where rec = r.rec offset 0) l
        union all
        select r.key from (select rec from record_link where target = reach.name offset 0) l
          cross join lateral (select key from record where rec = l.rec and current offset 0) r
      ) step
    )
    select ${COLUMNS}, array(select l.target from record_link l where l.rec = found.rec) as targets
    from reach cross join lateral (select * from record r where r.key = reach.name and r.current offset 0) found
    order by found.seq`);
}

export async function currentByKeys(sqlOn: Sql, keys: readonly string[]): Promise<RecordRow[]> {
  if (keys.length === 0) return [];
  return sqlOn.query<RecordRow>(sql`select ${COLUMNS} from record where key = any(${keys}) and current and not deleted`);
}

/** What a trend draws: results of this patient's analyte from before a moment. */
export interface EarlierWanted {
  pat: string;
  analyte: string;
  before: Date;
}

/** For each that is wanted the names of the newest results, at most `perAnalyte`. */
export async function earlierResults(sqlOn: Sql, wanted: readonly EarlierWanted[], perAnalyte: number): Promise<string[][]> {
  const found = wanted.map((): string[] => []);
  if (wanted.length === 0) return found;
  const rows = await sqlOn.query<{ n: number; rec: string }>(sql`
    select a.n, x.rec from unnest(${wanted.map((_, n) => n)}::int[], ${wanted.map((w) => w.pat)}::text[], ${wanted.map((w) => w.analyte)}::text[],
      ${wanted.map((w) => w.before)}::timestamptz[]) as a(n, pat, analyte, before) cross join lateral (
        select ra.rec, ra.at from record_analyte ra
          cross join lateral (select 1 from record r where r.rec = ra.rec and r.current and not r.deleted and r.outcome in ('own', 'pending') offset 0) r
        where ra.pat = a.pat and ra.analyte = a.analyte and ra.at < a.before order by ra.at desc limit ${perAnalyte}) x
    order by a.n, x.at desc`);
  for (const { n, rec } of rows) found[n]?.push(rec);
  return found;
}

/** The version before the current one, of each key that has one: what a correction shows as the old value. */
export async function previousVersions(sqlOn: Sql, keys: readonly string[]): Promise<RecordRow[]> {
  if (keys.length === 0) return [];
  return sqlOn.query<RecordRow>(sql`
    select distinct on (key) ${COLUMNS} from record where key = any(${keys}) and not current and not deleted order by key, seq desc`);
}

/** What a source calls the newest version under a key (sealed), so that a sweep need not fetch what has not changed. */
export async function newestVersion(sqlOn: Sql, key: string): Promise<{ rec: string; version_id: Buffer } | undefined> {
  const [row] = await sqlOn.query<{ rec: string; version_id: Buffer }>(
    sql`select rec, version_id from record where key = ${key} order by seq desc limit 1`,
  );
  return row;
}

/** The clinical records of a patient in a stream that are not gone: what a sweep misses among them it reads again. */
export async function standingRecords(
  sqlOn: Sql,
  source: string,
  stream: string,
  pat: string,
): Promise<{ rec: string; version_id: Buffer }[]> {
  return sqlOn.query(sql`
    select rec, version_id from record
    where pat = ${pat} and source = ${source} and stream = ${stream} and current and not deleted
      and type not in ('Patient', 'Practitioner', 'Organization')`);
}

/** Of these records, those that still wait get this outcome; one that was superseded meanwhile keeps its own. */
export async function decide(
  tx: Sql,
  recs: readonly string[],
  decision: { outcome: RecordRow['outcome']; reason: string | null },
): Promise<void> {
  if (recs.length === 0) return;
  await tx.query(sql`
    update record set outcome = ${decision.outcome}, reason = ${decision.reason}, decided_at = now()
    where rec = any(${recs}) and outcome = 'pending'`);
}

/** Nothing changed but what a document does not show (only meta): the records belong to the version that is filed. */
export async function markOwn(
  tx: Sql,
  recs: readonly string[],
  subject: { sub: string; document: string; version: number; category: string },
): Promise<void> {
  if (recs.length === 0) return;
  await tx.query(sql`
    update record set outcome = 'own', reason = null, sub = ${subject.sub}, document = ${subject.document}, document_version = ${subject.version},
      category = ${subject.category}, decided_at = now()
    where rec = any(${recs})`);
}

/** Records held for a person that these words choose, in the order in which they came; `after` is the last seen, 0 at first. */
export async function heldRecords(
  sqlOn: Sql,
  chosen: { record?: string; reason?: string; source?: string },
  after: number,
  limit: number,
): Promise<(HeldRow & { seq: number })[]> {
  return sqlOn.query(sql`
    select ${COLUMNS}, seq, patient_key from record
    where outcome = 'quarantine' and current and seq > ${after} and (${chosen.record ?? null}::text is null or rec = ${chosen.record ?? null})
      and (${chosen.reason ?? null}::text is null or reason = ${chosen.reason ?? null}) and (${chosen.source ?? null}::text is null or source = ${chosen.source ?? null})
    order by seq limit ${limit}`);
}

/** Records held for their patient's sake of whom something else is known by now, in the order in which they came, from behind `after`. */
export async function heldForKnownPatients(sqlOn: Sql, after: number, limit: number): Promise<(HeldRow & { seq: number })[]> {
  return sqlOn.query(sql`
    select ${COLUMNS}, seq, patient_key from record where rec in (
      select r.rec from record r join source_patient p on p.source = r.source and p.key = r.patient_key
      where r.outcome = 'quarantine' and r.current and r.reason like 'PATIENT\\_%' and r.reason is distinct from p.reason
        and r.seq > ${after} order by r.seq limit ${limit}) order by seq`);
}

export interface HeldRow extends RecordRow {
  patient_key: string | null;
}

/** A held record is decided anew, its bytes sealed under the key that fits; nothing where somebody else was first. */
export async function redecideHeld(
  tx: Sql,
  rec: string,
  decided: {
    outcome: RecordRow['outcome'];
    reason: string | null;
    rule: string | null;
    configHash: string;
    category: string | null;
    pat: string | null;
    raw: Buffer;
    sealedFor: string | null;
    analyte: { analyte: string; at: Date } | null;
    notBefore: Date | null;
  },
): Promise<boolean> {
  const rows = await tx.query(sql`
    update record set outcome = ${decided.outcome}, reason = ${decided.reason}, rule = ${decided.rule}, config_hash = ${decided.configHash},
      category = ${decided.category}, pat = ${decided.pat}, raw = ${decided.raw}, sealed_for = ${decided.sealedFor},
      not_before = coalesce(${decided.notBefore}::timestamptz, now()), decided_at = now()
    where rec = ${rec} and outcome = 'quarantine' and current returning rec`);
  if (rows.length === 0) return false;
  if (decided.analyte !== null && decided.pat !== null)
    await tx.query(sql`
      insert into record_analyte (rec, pat, analyte, at) values (${rec}, ${decided.pat}, ${decided.analyte.analyte}, ${decided.analyte.at})
      on conflict do nothing`);
  return true;
}

/**
 * Subjects that a record has left for a patient who is held, or for one whose document is delayed: filed by its last version, while
 * the current one names another patient and cannot be filed yet.
 */
export async function subjectsLeftBehind(sqlOn: Sql): Promise<string[]> {
  const rows = await sqlOn.query<{ sub: string }>(sql`
    select distinct o.sub from record r join record o on o.key = r.key and not o.current and o.outcome = 'own'
      join subject s on s.sub = o.sub and s.withdrawn_at is null
    where r.outcome = 'quarantine' and r.current and (r.reason like 'PATIENT\\_%' or r.reason = 'TEST_PATIENT') and o.patient_key is distinct from r.patient_key
    union
    select o.sub from record r join record o on o.key = r.key and not o.current and o.outcome = 'own' and o.pat <> r.pat
      join subject s on s.sub = o.sub and s.withdrawn_at is null
    where r.outcome = 'pending' and r.corrects and r.current and r.not_before > now()`);
  return rows.map((row) => row.sub);
}

/** The source's patient whom a record is (a Patient itself) or is about; null: it names none. */
export async function patientOfRecord(sqlOn: Sql, rec: string): Promise<{ source: string; key: string | null } | undefined> {
  const [row] = await sqlOn.query<{ source: string; key: string | null }>(
    sql`select source, case when type = 'Patient' then key else patient_key end as key from record where rec = ${rec}`,
  );
  return row;
}

/** The Patient record of a source under this key, as it stands there now. */
export async function currentPatientRecord(sqlOn: Sql, source: string, key: string): Promise<RecordRow | undefined> {
  const [row] = await sqlOn.query<RecordRow>(
    sql`select ${COLUMNS} from record where key = ${key} and source = ${source} and type = 'Patient' and current and not deleted`,
  );
  return row;
}

/** It is this patient's from now on, or (null) nobody's; sealed for whom it is. */
export async function setPatientOfRecord(
  tx: Sql,
  rec: string,
  of: { pat: string | null; raw: Buffer; sealedFor: string | null },
): Promise<void> {
  await tx.query(sql`update record set pat = ${of.pat}, raw = ${of.raw}, sealed_for = ${of.sealedFor} where rec = ${rec}`);
}

/** How many records about this patient of a source are held for their sake. */
export async function countHeldOf(sqlOn: Sql, source: string, patientKey: string): Promise<number> {
  const [row] = await sqlOn.query<{ n: number }>(sql`
    select count(*) as n from record
    where outcome = 'quarantine' and current and reason like 'PATIENT\\_%' and source = ${source} and patient_key = ${patientKey}`);
  return row?.n ?? 0;
}

/** Documents filed of this patient of a source, by the pseudonym under which they stand; only of these pseudonyms. */
export async function filedOf(
  sqlOn: Sql,
  source: string,
  patientKey: string,
  pats: readonly string[],
): Promise<{ pat: string; sub: string }[]> {
  return sqlOn.query(sql`
    select distinct r.pat, r.sub from record r join subject s on s.sub = r.sub and s.withdrawn_at is null
    where r.pat = any(${pats}) and r.source = ${source} and r.current and r.outcome = 'own' and r.patient_key = ${patientKey}`);
}

/**
 * Records about this patient of a source are held, to be decided again: what was put aside by a rejection; of `pats` also what waits
 * to be filed, and with `subs` what these subjects are made of.
 */
export async function holdAgain(
  tx: Sql,
  of: { source: string; patientKey: string; pats: readonly string[]; subs: readonly string[] },
): Promise<void> {
  const hold = sql`update record set outcome = 'quarantine', reason = 'PATIENT_MISMATCH', sub = null, document = null, document_version = null`;
  const theirs = sql`current and source = ${of.source} and patient_key = ${of.patientKey}`;
  await tx.query(sql`${hold} where ${theirs} and outcome = 'skip' and reason = 'PATIENT_REJECTED'`);
  await tx.query(
    sql`${hold} where ${theirs} and pat = any(${of.pats}) and (outcome = 'pending' or (outcome = 'own' and sub = any(${of.subs})))`,
  );
}

/** Another subject takes these records over, or theirs is to be put together anew. */
export async function releaseRecords(tx: Sql, recs: readonly string[]): Promise<void> {
  await tx.query(sql`
    update record set outcome = 'pending', sub = null, document = null, document_version = null where rec = any(${recs})`);
}

/** All that stands for these subjects is to be put together anew; returns how many records that is. */
export async function releaseStanding(tx: Sql, subs: readonly string[]): Promise<number> {
  if (subs.length === 0) return 0;
  const rows = await tx.query(sql`
    update record set outcome = 'pending', sub = null, document = null, document_version = null
    where sub = any(${subs}) and current and outcome = 'own' returning rec`);
  return rows.length;
}

/** Pseudonym under which each of these source patients was matched last, whatever became of later versions. */
export async function lastMatched(sqlOn: Sql, keys: readonly string[]): Promise<Map<string, string>> {
  if (keys.length === 0) return new Map();
  const rows = await sqlOn.query<{ key: string; pat: string }>(sql`
    select distinct on (key) key, pat from record where key = any(${keys}) and type = 'Patient' and not deleted and pat is not null order by key, seq desc`);
  return new Map(rows.map((row) => [row.key, row.pat]));
}
