import { CodedError } from '../errors.ts';
import type { Database } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { LedgerPatient } from '../vault/holder.ts';

/** What may lie here in envelopes, in bytes, and come within a day. Those of an institution hold for each that is not this one. */
export interface EnvelopeQuotas {
  maxBytesPerPatient: number;
  maxBytesPerPatientADay: number;
  maxBytesPerInstitution: number;
  maxBytesPerInstitutionADay: number;
}

/**
 * Counts what is about to be stored for a statement, before it is: an institution can enrol as many patients as it likes, each of whose
 * signatures the contract accepts, and must not have a store of us by that. The same statement again counts once. `times`: how often the quotas it may be. ENVELOPE_QUOTA.
 */
export async function takeIn(
  database: Database,
  facts: { of: LedgerPatient; statement: string; sizeBytes: number; isForeign: boolean; quotas: EnvelopeQuotas; times: number },
): Promise<void> {
  const { of, statement, sizeBytes, isForeign, quotas, times } = facts;
  await database.transaction(async (tx) => {
    // Of two at once the later sees what the earlier takes.
    await tx.query(sql`select pg_advisory_xact_lock(hashtextextended(${`device-envelopes/${of.institution}`}, 0))`);
    const [used] = await tx.query<{ pat_day: number; inst_day: number; pat_kept: number; inst_kept: number }>(sql`
      with day as (
        select pat, size_bytes from device_envelope_intake
        where inst = ${of.institution} and statement <> ${statement} and taken_at > now() - interval '1 day'
      ), kept as (
        select distinct on (name) pat, size_bytes::bigint from device_envelope where inst = ${of.institution}
        union all
        -- Taken in, and on its way still: what never comes to stand goes within the hour.
        select i.pat, i.size_bytes from device_envelope_intake i
        where i.inst = ${of.institution} and i.statement <> ${statement} and i.taken_at > now() - interval '2 hours'
          and not exists (select 1 from device_envelope v where v.statement = i.statement)
      )
      select (select coalesce(sum(size_bytes), 0) from day)::float8 as inst_day,
        (select coalesce(sum(size_bytes), 0) from day where pat = ${of.patient})::float8 as pat_day,
        (select coalesce(sum(size_bytes), 0) from kept)::float8 as inst_kept,
        (select coalesce(sum(size_bytes), 0) from kept where pat = ${of.patient})::float8 as pat_kept`);
    const { pat_day: patDay = 0, inst_day: instDay = 0, pat_kept: patKept = 0, inst_kept: instKept = 0 } = used ?? {};
    const isOver =
      patDay + sizeBytes > quotas.maxBytesPerPatientADay * times ||
      patKept + sizeBytes > quotas.maxBytesPerPatient * times ||
      (isForeign &&
        (instDay + sizeBytes > quotas.maxBytesPerInstitutionADay * times || instKept + sizeBytes > quotas.maxBytesPerInstitution * times));
    if (isOver) throw new CodedError('ENVELOPE_QUOTA', { retryAfterSeconds: 3600 });
    await tx.query(sql`
      insert into device_envelope_intake (statement, inst, pat, size_bytes)
      values (${statement}, ${of.institution}, ${of.patient}, ${sizeBytes})
      on conflict (statement) do update set size_bytes = excluded.size_bytes, taken_at = now()`);
  });
}
