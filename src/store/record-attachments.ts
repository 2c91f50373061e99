import type { Sql } from './database.ts';
import { sql } from './sql.ts';

export async function insertAttachmentHashes(tx: Sql, records: readonly { rec: string; attachments: readonly string[] }[]): Promise<void> {
  const rows = records.flatMap(({ rec, attachments }) => attachments.map((hash) => ({ rec, hash })));
  if (rows.length === 0) return;
  await tx.query(sql`
    insert into record_attachment (rec, hash)
    select t.* from unnest(${rows.map((row) => row.rec)}::text[], ${rows.map((row) => row.hash)}::text[]) as t(rec, hash)
    where exists (select 1 from record r where r.rec = t.rec) on conflict do nothing`);
}

/** Other records of the same patient, in their newest version, that have an attachment of these very bytes. */
export async function recordsOfSameBytes(sqlOn: Sql, rec: string): Promise<string[]> {
  const rows = await sqlOn.query<{ rec: string }>(sql`
    select distinct o.rec from record r join record_attachment a on a.rec = r.rec join record_attachment b on b.hash = a.hash
      join record o on o.rec = b.rec and o.key <> r.key and o.current and o.pat = r.pat
    where r.rec = ${rec} order by o.rec`);
  return rows.map((row) => row.rec);
}

/**
 * A DiagnosticReport that no rule takes is the same record as the DocumentReference of the same patient that carries the same scan and
 * is taken: it waits for nobody. Returns how many there were.
 */
export async function skipSameScans(sqlOn: Sql): Promise<number> {
  const rows = await sqlOn.query(sql`
    update record set outcome = 'skip', reason = 'SAME_SCAN', decided_at = now() where rec in (
      select h.rec from record h where h.outcome = 'quarantine' and h.reason in ('NO_RULE_MATCH', 'UNMAPPED_CODE') and h.current
        and h.type = 'DiagnosticReport' and h.patient_key is not null and exists (
          select 1 from record_attachment a join record_attachment b on b.hash = a.hash
            join record d on d.rec = b.rec and d.type = 'DocumentReference' and d.source = h.source and d.patient_key = h.patient_key and d.current
              and d.outcome in ('own', 'pending')
              and not exists (select 1 from subject s where s.sub = d.sub and s.withdrawn_at is not null)
          where a.rec = h.rec and not exists (
            select hash from record_attachment x where x.rec = h.rec except select hash from record_attachment y where y.rec = d.rec)))
      and outcome = 'quarantine' returning rec`);
  return rows.length;
}
