import type { Sql } from './database.ts';
import { sql } from './sql.ts';

/** A person's decision about who a source's patient is; `pat` null: their records are not taken. */
export interface IdentityDecision {
  key: string;
  facts: string;
  choice: 'patient' | 'new' | 'reject';
  pat: string | null;
  takes_demographics: boolean;
  decided_at: Date;
}

/** The newest decision on each of these patients of a source, of those that have one. */
export async function identityDecisions(sqlOn: Sql, source: string, keys: readonly string[]): Promise<Map<string, IdentityDecision>> {
  if (keys.length === 0) return new Map();
  const rows = await sqlOn.query<IdentityDecision>(sql`
    select distinct on (key) key, facts, choice, pat, takes_demographics, decided_at from identity_decision
    where source = ${source} and key = any(${keys}) order by key, id desc`);
  return new Map(rows.map((row) => [row.key, row]));
}

/** `detail` is sealed. */
export async function insertIdentityDecision(
  tx: Sql,
  decision: Omit<IdentityDecision, 'decided_at'> & { source: string; forced: boolean; detail: Buffer },
): Promise<void> {
  await tx.query(sql`
    insert into identity_decision (source, key, facts, choice, pat, takes_demographics, forced, detail)
    values (${decision.source}, ${decision.key}, ${decision.facts}, ${decision.choice}, ${decision.pat}, ${decision.takes_demographics},
      ${decision.forced}, ${decision.detail})`);
}
