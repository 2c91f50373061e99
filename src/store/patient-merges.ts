import type { Merge } from '../records/patient-merges.ts';
import type { Sql } from './database.ts';
import { sql } from './sql.ts';

/** All merges at a source that hang together with these patients, whoever says them. */
export async function mergesAround(sqlOn: Sql, source: string, keys: readonly string[]): Promise<Merge[]> {
  if (keys.length === 0) return [];
  return sqlOn.query<Merge>(sql`
    with recursive reach(key) as (
      select unnest(${keys}::text[])
      union
      select step.key from reach cross join lateral (
        select survivor as key from patient_merge where source = ${source} and gone = reach.key
        union all
        select gone from patient_merge where source = ${source} and survivor = reach.key
      ) step
    )
    select said_by as "saidBy", gone, survivor, standing from patient_merge
    where source = ${source} and gone in (select key from reach) order by gone, survivor, said_by`);
}

/** What the records of these patients say of merges now; what they said before and do not say any more is kept as taken back. */
export async function setMerges(tx: Sql, source: string, saidBy: readonly string[], merges: readonly Merge[]): Promise<void> {
  if (saidBy.length === 0) return;
  await tx.query(sql`update patient_merge set standing = false where source = ${source} and said_by = any(${saidBy}) and standing`);
  if (merges.length === 0) return;
  await tx.query(sql`
    insert into patient_merge (source, said_by, gone, survivor, standing)
    select ${source}, said_by, gone, survivor, true
    from unnest(${merges.map((m) => m.saidBy)}::text[], ${merges.map((m) => m.gone)}::text[], ${merges.map((m) => m.survivor)}::text[]) as t(said_by, gone, survivor)
    on conflict (source, said_by, gone, survivor) do update set standing = true`);
}

/**
 * Whether what is filed under `to` could be read by somebody whom the permissions under one of `from` keep out; so also where the
 * patient holds the keys of one of `from`. Compared clause by clause on the verified view: one of `to` must be within one of `from`,
 * and what `from` denies must be denied there too. In doubt true.
 */
export async function wouldWiden(sqlOn: Sql, institution: string, from: readonly string[], to: string): Promise<boolean> {
  const within = sql`
    a.grantor = b.grantor and a.grantee = b.grantee and a.category = b.category and a.rights <@ b.rights
      and (b.purposes is null or a.purposes <@ b.purposes)
      and (b.period_start is null or a.period_start >= b.period_start) and (b.period_end is null or a.period_end <= b.period_end)
      and (b.data_start is null or a.data_start >= b.data_start) and (b.data_end is null or a.data_end <= b.data_end)`;
  const [row] = await sqlOn.query<{ widens: boolean }>(sql`
    select exists (
      select 1 from unnest(${from}::text[]) as f(pat) where
        exists (select 1 from projection.patient p where p.inst = ${institution} and p.pat = f.pat and not (p.custody and p.status = 'active'))
        or exists (
          select 1 from projection.clause a where a.inst = ${institution} and a.pat = ${to} and a.effect = 'permit'
            and (a.period_end is null or a.period_end > now()) and not exists (
              select 1 from projection.clause b where b.inst = a.inst and b.pat = f.pat and b.effect = 'permit' and b.grantor = 'patient' and ${within}
                and not exists (select 1 from revocation r where r.inst = b.inst and r.pat = b.pat and r.grantor = b.grantor
                  and r.grantee = b.grantee and r.category = b.category)))
        or exists (
          select 1 from projection.clause a where a.inst = ${institution} and a.pat = f.pat and a.effect = 'deny' and not exists (
            select 1 from projection.clause b where b.inst = a.inst and b.pat = ${to} and b.effect = 'deny' and ${within}
              and (b.emergency or not a.emergency)))) as widens`);
  return row?.widens !== false;
}
