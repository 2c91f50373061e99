import { CodedError } from '../errors.ts';
import type { Sql } from '../store/database.ts';
import { type SqlFragment, sql } from '../store/sql.ts';
import type { Received, SharedDocument } from './shared-documents.ts';

/** Where a pseudonym of an institution was enrolled first: block and place in it, in one order. Names of patients are the institutions' own, but stand in one room here. */
function enrolled(inst: SqlFragment, pat: string): SqlFragment {
  return sql`(select array[k.block, k.tx] from projection.state k where k.key = 'pat/' || ${inst} || '/' || ${pat} || '/core' order by k.block, k.tx limit 1)`;
}

/** A hostile institution can neither overwrite nor shadow rows of ours or of a third, nor take their ids before they come. */
export async function requireFreeIds(on: Sql, of: Received, shared: SharedDocument): Promise<void> {
  const { inst, pat, recorder, document } = of;
  const ids = shared.resources.map(({ id }) => id);
  if (new Set(ids).size !== ids.length) throw new CodedError('SHARED_CONTENT', { diagnostics: 'Two resources bear one id.' });
  const taken = await on.query(sql`
    select 1 from resource r where r.id = any(${ids}) and (r.inst, r.pat, r.recorder, r.document) is distinct from (${inst}, ${pat}, ${recorder}, ${document})
    union all select 1 from resource r where r.id = ${pat} and r.pat <> ${pat}
    union all select 1 from patient p where p.pat = ${pat} or p.pat = any(${ids})
    union all select 1 from resource_identity i where i.id = any(${ids})
    union all select 1 from directory_resource d where d.id = any(${ids}) or d.id = ${pat}
    union all select 1 from subject s where s.document = ${document} or s.document = any(${ids})
    union all select 1 from projection.institution i where i.inst <> ${inst} and ${enrolled(sql`i.inst`, pat)} < ${enrolled(sql`${inst}`, pat)}
    union all select 1 from projection.institution i join projection.document d on d.recorder = i.inst and d.doc = ${document}
      where i.inst <> ${recorder}
        and (select min(array[e.block, e.tx]) from projection.entry e where e.inst = d.inst and e.pat = d.pat and e.recorder = d.recorder and e.doc = d.doc)
          < (select min(array[e.block, e.tx]) from projection.entry e where e.inst = ${inst} and e.pat = ${pat} and e.recorder = ${recorder} and e.doc = ${document})
    limit 1`);
  if (taken.length > 0) throw new CodedError('SHARED_ID_TAKEN');
}
