import type { Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import { addSuppressions, type suppressionMarks } from '../store/suppression.ts';

/** What was removed in one go; `objects` are still to be deleted. */
export interface RemovedRows {
  records: number;
  documents: number;
  rows: number;
  objects: number;
  /** Other pseudonyms that the same ids at the sources had here: what stands under those stays. */
  alsoKnownAs: string[];
}

/**
 * Removes every row of a patient of ours that holds or indexes content, in the caller's transaction, and notes the objects that are to go.
 * What a pull would know the person by is left behind as marks. Audit events, links between pseudonyms and what the ledger holds stay.
 */
export async function removeRows(
  tx: Sql,
  facts: { institution: string; patient: string; marks: ReturnType<typeof suppressionMarks> },
): Promise<RemovedRows> {
  const { institution: inst, patient: pat, marks } = facts;
  const others = await tx.query<{ pat: string }>(sql`
    select distinct o.pat from source_patient_was w join source_patient_was o on o.source = w.source and o.key = w.key
    join patient p on p.pat = o.pat where w.pat = ${pat} and o.pat <> ${pat} order by o.pat`);
  const identifiers = await tx.query<{ authority: string; blind: string }>(
    sql`delete from patient_identifier where pat = ${pat} returning authority, blind`,
  );
  const sources = await tx.query<{ source: string; key: string }>(sql`delete from source_patient where pat = ${pat} returning source, key`);
  await addSuppressions(tx, [
    ...(await Promise.all(identifiers.map((one) => marks.ofIdentifier(one)))),
    ...(await Promise.all(sources.map(({ source, key }) => marks.ofSourcePatient(source, key)))),
  ]);
  const keys = sources.map((one) => one.key);

  const objects = await tx.query(sql`
    insert into erasure_object (name, pat)
    select name, ${pat} from (
      select pointer as name from document_version where pat = ${pat}
      union select pointer from projection.entry where inst = ${inst} and pat = ${pat} and recorder = ${inst}
      union select name from device_envelope where inst = ${inst} and pat = ${pat}
    ) o on conflict do nothing returning name`);
  await tx.query(sql`delete from device_envelope where inst = ${inst} and pat = ${pat}`);

  await tx.query(sql`delete from resource_identity where id in (select id from resource where inst = ${inst} and pat = ${pat})`);
  await tx.query(sql`
    delete from resource_date d using resource r where r.inst = ${inst} and r.pat = ${pat} and d.id = r.id and d.version = r.version`);
  const resources = await tx.query(sql`delete from resource where inst = ${inst} and pat = ${pat} returning 1`);
  const documents = await tx.query<{ document: string }>(sql`delete from document_version where pat = ${pat} returning document`);
  await tx.query(sql`delete from subject where pat = ${pat}`);
  // After a merge some of these ids were another pseudonym's: what was filed under that one stays with it.
  const records = await tx.query(sql`
    delete from record where pat = ${pat} or (pat is null and (patient_key = any(${keys}) or key = any(${keys}))) returning 1`);
  const consents = await tx.query(sql`delete from consent_version where inst = ${inst} and pat = ${pat} returning 1`);
  await tx.query(sql`delete from key_rotation where pat = ${pat}`);
  await tx.query(sql`delete from identity_decision where pat = ${pat} or (pat is null and key = any(${keys}))`);
  await tx.query(sql`delete from source_patient_was where pat = ${pat}`);
  await tx.query(sql`delete from patient_merge where gone = any(${keys}) or survivor = any(${keys})`);
  // What other institutions share of this person ends with the link, as after a person's answer that it is somebody else.
  await tx.query(sql`update link_code set closed_at = now() where pat = ${pat} and closed_at is null`);
  await tx.query(sql`update patient_link set state = 'rejected', detail = null, reason = null, accepted = '{}' where own_pat = ${pat}`);
  const person = await tx.query(sql`
    update patient set demographics = null, demographics_record = null where pat = ${pat} and demographics is not null returning 1`);
  return {
    records: records.length,
    documents: new Set(documents.map((row) => row.document)).size,
    rows: resources.length + consents.length + person.length,
    objects: objects.length,
    alsoKnownAs: others.map((row) => row.pat),
  };
}
