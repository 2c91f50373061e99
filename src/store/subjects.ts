import type { Sql } from './database.ts';
import { sql } from './sql.ts';

/** What a document is about, and which version of it is filed. */
export interface SubjectRow {
  sub: string;
  category: string;
  key: string;
  pat: string;
  document: string;
  version: number;
  own_hash: string | null;
  /** Raised at every change, so that a change during assembly is not lost. */
  touched: number;
  withdrawn_at: Date | null;
  withdrawn_reason: string | null;
}

/** Makes subjects that are not there yet; marks the ones that are as changed. Ids are kept where they exist. */
export async function touchSubjects(
  tx: Sql,
  subjects: readonly { sub: string; category: string; key: string; pat: string; document: string; delayMs: number }[],
): Promise<void> {
  if (subjects.length === 0) return;
  await tx.query(sql`
    insert into subject (sub, category, key, pat, document, dirty_at)
    select sub, category, key, pat, document, now() + delay * interval '1 ms'
    from unnest(${subjects.map((s) => s.sub)}::text[], ${subjects.map((s) => s.category)}::text[], ${subjects.map((s) => s.key)}::text[],
      ${subjects.map((s) => s.pat)}::text[], ${subjects.map((s) => s.document)}::text[], ${subjects.map((s) => s.delayMs)}::double precision[])
      as t(sub, category, key, pat, document, delay)
    on conflict (category, key, pat) do update set dirty = true, touched = subject.touched + 1, dirty_at = greatest(subject.dirty_at, excluded.dirty_at)`);
}

/** Marks every subject that these record keys may belong to: along the links, up to the nearest roots. */
export async function touchByLinks(tx: Sql, keys: readonly string[]): Promise<void> {
  if (keys.length === 0) return;
  await tx.query(sql`
    with recursive up(key, depth) as (
      select unnest(${keys}::text[]), 0
      union
      select step.key, up.depth + 1 from up
      cross join lateral (
        select r.key from record_link l join record r on r.rec = l.rec and r.current where l.target = up.key
        union
        select l.target from record r join record_link l on l.rec = r.rec where r.key = up.key and r.current and l.relation <> 'volume'
      ) step
      where up.depth < 6 and not exists (select 1 from subject s where s.key = up.key)
    )
    update subject set dirty = true, touched = touched + 1, dirty_at = greatest(dirty_at, now()) where key in (select key from up)`);
}

/** Subjects of other patients with the same key: the record was filed to the wrong patient and moved. */
export async function movedAway(sqlOn: Sql, roots: readonly { category: string; key: string; pat: string }[]): Promise<SubjectRow[]> {
  if (roots.length === 0) return [];
  return sqlOn.query<SubjectRow>(sql`
    select s.* from subject s
    join unnest(${roots.map((r) => r.category)}::text[], ${roots.map((r) => r.key)}::text[], ${roots.map((r) => r.pat)}::text[]) as t(category, key, pat)
      on s.key = t.key and (s.pat <> t.pat or s.category <> t.category)
    where s.withdrawn_at is null`);
}

export async function dirtySubjects(sqlOn: Sql, limit: number, excluding: readonly string[]): Promise<SubjectRow[]> {
  return sqlOn.query<SubjectRow>(sql`
    select * from subject where dirty and dirty_at <= now() and sub <> all(${excluding}) order by dirty_at, sub limit ${limit}`);
}

export async function subjectById(sqlOn: Sql, sub: string): Promise<SubjectRow | undefined> {
  const [row] = await sqlOn.query<SubjectRow>(sql`select * from subject where sub = ${sub}`);
  return row;
}

/** Not changed after all, or nothing to do now. A change that came meanwhile (`touched` moved on) stays. */
export async function settleSubject(tx: Sql, sub: string, seenTouched: number): Promise<void> {
  await tx.query(sql`update subject set dirty = false where sub = ${sub} and touched = ${seenTouched}`);
}

export async function dirtyCount(sqlOn: Sql): Promise<number> {
  const [row] = await sqlOn.query<{ count: number }>(sql`select count(*) as count from subject where dirty and dirty_at <= now()`);
  return row?.count ?? 0;
}
