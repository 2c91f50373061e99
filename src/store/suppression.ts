import type { SealedRows } from '../vault/sealed-rows.ts';
import type { Sql } from './database.ts';
import type { BlindIdentifier } from './patients.ts';
import { sql } from './sql.ts';

/**
 * Marks of erased persons, by which pulls skip them (architecture section 5): HMAC under a key used for nothing else, of what a person
 * is looked up by, which is an HMAC itself. So a mark can be made without opening anything, and says nothing to who has the table.
 */
export function suppressionMarks(rows: Pick<SealedRows, 'blind'>) {
  return {
    ofIdentifier: ({ authority, blind }: BlindIdentifier): Promise<string> =>
      rows.blind('suppression', JSON.stringify(['identifier', authority, blind])),
    /** `key`: HMAC of a patient's id at the source. */
    ofSourcePatient: (source: string, key: string): Promise<string> =>
      rows.blind('suppression', JSON.stringify(['source-patient', source, key])),
  };
}

export async function addSuppressions(tx: Sql, marks: readonly string[]): Promise<void> {
  if (marks.length === 0) return;
  await tx.query(sql`insert into suppression (mark) select unnest(${marks}::text[]) on conflict do nothing`);
}

/** Those of these marks that are set. */
export async function suppressed(on: Sql, marks: readonly string[]): Promise<Set<string>> {
  if (marks.length === 0) return new Set();
  const rows = await on.query<{ mark: string }>(sql`select mark from suppression where mark = any(${marks})`);
  return new Set(rows.map((row) => row.mark));
}
