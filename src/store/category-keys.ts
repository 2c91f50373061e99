import type { Reason } from '../records/reasons.ts';
import type { PublicJwk } from '../vault/custodian.ts';
import type { Sql } from './database.ts';
import { sql } from './sql.ts';

/** What the verified view of the ledger says of one category of an own patient. */
export interface ProjectedKey {
  /** Undefined where the patient's enrolment is not projected yet. */
  custody: boolean | undefined;
  /** The newest version, undefined where none is published. */
  newest: { version: number; publicJwk: PublicJwk; block: number } | undefined;
}

const WAITS: Reason = 'CATEGORY_KEY_UNPUBLISHED';

/** In the order of the asks, one statement for all of them. */
export async function projectedKeys(
  sqlOn: Sql,
  institution: string,
  asks: readonly { pat: string; category: string }[],
): Promise<ProjectedKey[]> {
  const rows = await sqlOn.query<{
    custody: boolean | null;
    version: number | null;
    public_jwk: PublicJwk | null;
    block: number | null;
  }>(sql`
    select p.custody, k.version, k.public_jwk, k.block
    from unnest(${asks.map((ask) => ask.pat)}::text[], ${asks.map((ask) => ask.category)}::text[]) with ordinality as a(pat, category, n)
    left join projection.patient p on p.inst = ${institution} and p.pat = a.pat
    left join lateral (select version, public_jwk, block from projection.category_key c
      where c.inst = ${institution} and c.pat = a.pat and c.category = a.category order by version desc limit 1) k on true
    order by a.n`);
  return rows.map(({ custody, version, public_jwk: publicJwk, block }) => ({
    custody: custody ?? undefined,
    newest: version === null || publicJwk === null || block === null ? undefined : { version, publicJwk, block },
  }));
}

/** Records of a category that has no published key yet: kept under the institution's own key, and taken up again when there is one. */
export async function waitForCategoryKey(sqlOn: Sql, recs: readonly string[], category: string): Promise<void> {
  await sqlOn.query(sql`
    update record set outcome = 'quarantine', reason = ${WAITS}, category = ${category}, decided_at = now()
    where rec = any(${recs}) and outcome = 'pending'`);
}

/** Those of them whose category has a key by now are pending again; returns how many. */
export async function takeUpPublished(sqlOn: Sql, institution: string): Promise<number> {
  const rows = await sqlOn.query(sql`
    update record r set outcome = 'pending', reason = null
    where r.outcome = 'quarantine' and r.reason = ${WAITS} and r.current
      and exists (select 1 from projection.category_key k where k.inst = ${institution} and k.pat = r.pat and k.category = r.category)
    returning r.rec`);
  return rows.length;
}
