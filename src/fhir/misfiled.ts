import { misfiledScope } from '../consent/misfiled-scope.ts';
import { CATEGORY_SYSTEM } from '../records/fhir-out.ts';
import { sql } from '../store/sql.ts';
import { MISFILED } from '../store/subjects.ts';
import type { Caller, FacadeParts } from './ports.ts';

/** A document that was filed to the wrong person, in the last version that was filed: `pat` is whom it was filed to. */
export interface MisfiledRow {
  document: string;
  version: number;
  pat: string;
  category: string;
  pointer: string;
  ciphertext_hash: string;
  commitment: string;
  clinical_time: Date | null;
  filed_at: Date;
  withdrawn_at: Date;
  height: number | null;
}

/** What the audit says of a read that no permission of a patient allows. */
export const MISFILED_REVIEW = 'MISFILED_REVIEW';

/**
 * Undefined for hidden and missing alike. Its rows are gone and its object is sealed to the institution alone, so of the ledger's
 * entry only the commitment still holds: it is what the object is opened against.
 */
export async function findMisfiled(
  parts: Pick<FacadeParts, 'database' | 'institution'>,
  caller: Caller,
  document: string,
  version?: number,
): Promise<MisfiledRow | undefined> {
  const scope = misfiledScope({ actor: caller.actor, right: 'read', now: caller.now });
  if (scope === undefined) return undefined;
  const [row] = await parts.database.query<MisfiledRow>(sql`
    with scope as not materialized (${scope})
    select v.document, v.version, v.pat, v.category, v.pointer, v.ciphertext_hash, v.clinical_time, v.filed_at, s.withdrawn_at,
      coalesce((select e.commitment from projection.entry e
        where e.inst = ${parts.institution} and e.pat = v.pat and e.recorder = ${parts.institution} and e.doc = v.document and e.version = v.version and e.standing
        order by e.n desc limit 1), v.commitment) as commitment,
      (select height from projection.checkpoint) as height
    from subject s join document_version v on v.sub = s.sub and v.version = s.version
    where s.document = ${document} and s.withdrawn_at is not null and s.withdrawn_reason = ${MISFILED}
      and (${version ?? null}::int is null or v.version = ${version ?? null}::int)
      and exists (select 1 from scope where scope.producer = ${parts.institution})`);
  return row;
}

/** What stands in place of the DocumentReference, which went with its document's rows: entered in error, and where the content is. */
export function misfiledReference(row: MisfiledRow): string {
  const { document, version, pat, category, clinical_time: clinicalTime, filed_at: filedAt, withdrawn_at: withdrawnAt } = row;
  return JSON.stringify({
    resourceType: 'DocumentReference',
    id: document,
    meta: { versionId: String(version), lastUpdated: withdrawnAt.toISOString() },
    status: 'entered-in-error',
    docStatus: 'entered-in-error',
    category: [{ coding: [{ system: CATEGORY_SYSTEM, code: category }] }],
    subject: { reference: `Patient/${pat}` },
    date: filedAt.toISOString(),
    description: 'Filed to the wrong person and withdrawn. The subject is whom it was filed to.',
    content: [
      { attachment: { contentType: 'application/pdf', url: `Binary/${document}-pdf` } },
      { attachment: { contentType: 'application/fhir+json', url: `Binary/${document}-fhir` } },
    ],
    ...(clinicalTime === null ? {} : { context: { period: { start: clinicalTime.toISOString() } } }),
  });
}

/** A Binary's id as the pipeline makes it: the document's, and which part. */
export function partOfDocument(id: string): { document: string; contentType: string } | undefined {
  const [, document, part] = /^(doc-[a-z0-9]+)-(pdf|fhir)$/.exec(id) ?? [];
  return document === undefined ? undefined : { document, contentType: part === 'pdf' ? 'application/pdf' : 'application/fhir+json' };
}
