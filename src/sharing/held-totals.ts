import type { Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { LedgerPatient } from '../vault/holder.ts';

export interface HeldTotals {
  documents: number;
  bytes: number;
}

/** What is held of a patient of theirs, by a sum that each change of `shared_version` keeps in its own transaction. */
export async function heldOf(on: Sql, of: LedgerPatient): Promise<HeldTotals> {
  const [row] = await on.query<HeldTotals>(
    sql`select held_documents as documents, held_bytes as bytes from patient_link where inst = ${of.institution} and pat = ${of.patient}`,
  );
  return row ?? { documents: 0, bytes: 0 };
}

/** Rows of `shared_version` came or went in this transaction; the sums after it. Others of the same patient wait until it has ended. */
export async function addHeld(tx: Sql, of: LedgerPatient, change: HeldTotals): Promise<HeldTotals> {
  const [row] = await tx.query<HeldTotals>(sql`
    update patient_link set held_documents = held_documents + ${change.documents}, held_bytes = held_bytes + ${change.bytes}
    where inst = ${of.institution} and pat = ${of.patient} returning held_documents as documents, held_bytes as bytes`);
  return row ?? { documents: 0, bytes: 0 };
}

/** Documents that are held, or being fetched: what their quota counts. One that waits for room does not. */
export async function countDocuments(on: Sql, of: LedgerPatient): Promise<number> {
  const { documents } = await heldOf(on, of);
  const [row] = await on.query<{ count: number }>(sql`
    select count(*) as count from shared_object o where o.inst = ${of.institution} and o.pat = ${of.patient} and o.code is distinct from 'SHARED_QUOTA'
      and not exists (select 1 from shared_version v where v.recorder = o.recorder and v.document = o.document)`);
  return documents + (row?.count ?? 0);
}
