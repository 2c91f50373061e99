import type { Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';

/** Permissions of this institution's patients wait: they are looked at again at `at`, whatever else is put off, or earlier. */
export async function putOff(tx: Sql, inst: string, at: Date): Promise<void> {
  await tx.query(sql`
    insert into sharing_backlog (inst, retry_at) values (${inst}, ${at}) on conflict (inst) do update set
      retry_at = least(sharing_backlog.retry_at, excluded.retry_at), next_at = least(sharing_backlog.next_at, excluded.retry_at)`);
}

/**
 * Revocations of other institutions' patients that the ledger has refused deny nothing any more, whoever handed them in; what ended by
 * them begins again. Not those that were signed by our former key: they are signed and sent again.
 */
export async function dropRefused(tx: Sql, own: string, now: Date): Promise<void> {
  const gone = await tx.query<{ inst: string; pat: string; category: string }>(sql`
    delete from revocation v using outbox o where o.id = v.outbox and o.state = 'rejected' and v.inst <> ${own}
      and (o.error_code is distinct from 'JWS_KEY' or exists (select 1 from device_statement d where d.outbox = o.id))
    returning v.inst, v.pat, v.category`);
  if (gone.length === 0) return;
  await tx.query(sql`
    update shared_category s set renounced_by = null
    from unnest(${gone.map((row) => row.inst)}::text[], ${gone.map((row) => row.pat)}::text[], ${gone.map((row) => row.category)}::text[]) as t(inst, pat, category)
    where s.inst = t.inst and s.pat = t.pat and s.category = t.category`);
  for (const inst of new Set(gone.map((row) => row.inst))) await putOff(tx, inst, now);
}
