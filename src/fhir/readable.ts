import { raw, type SqlFragment, sql } from '../store/sql.ts';
import type { Caller, FacadeParts } from './ports.ts';
import type { Shelf } from './served-types.ts';

/**
 * The rows of a shelf that this caller may read, as SQL: `with ${cte} select … ${from} and <conditions on r>`. Consent,
 * withdrawal and the ledger's word on the document stand in the query itself, so that nothing after it (totals, pages,
 * includes, 304s) can tell a hidden row from an absent one (architecture section 8).
 */
export interface Readable {
  cte: SqlFragment;
  from: SqlFragment;
}

export function readableRows(
  parts: Pick<FacadeParts, 'readableScope'>,
  caller: Caller,
  shelf: Exclude<Shelf, 'ledger'>,
  extent: 'whole' | 'direct' = 'whole',
): Readable {
  const scope = parts.readableScope({ actor: caller.actor, purpose: caller.actor.purpose, right: 'read', now: caller.now, extent });
  // Asked about twice in the directory; inlined all the same, so that a read by id probes only its own patient's permissions.
  const cte = sql`scope as not materialized (${scope})`;
  if (shelf === 'document') return { cte, from: sql`from resource r where ${documentRow(raw('r'))}` };
  if (shelf === 'patient') return { cte, from: sql`from resource r where ${patientRow(raw('r'))}` };
  return {
    cte,
    from: sql`from directory_resource r where (
      exists (select 1 from projection.member m where m.mem = r.id)
      or exists (select 1 from projection.institution i where i.inst = r.id)
      or exists (select 1 from resource x where x.elements @> array['>' || r.type || '/' || r.id] and (${patientRow(raw('x'))} or ${documentRow(raw('x'))})))`,
  };
}

/** Readable by the person and by holders of any live read permission on them. */
function patientRow(r: SqlFragment): SqlFragment {
  return sql`(${r}.document is null and exists (select 1 from scope s where s.inst = ${r}.inst and s.pat = ${r}.pat))`;
}

/**
 * A row of a document: in scope with its whole clinical time, and of the very version that the ledger lets stand, sealed
 * as the ledger says. A subject withdrawn here is hidden at once, before the ledger has heard of it.
 */
function documentRow(r: SqlFragment): SqlFragment {
  return sql`(exists (select 1 from scope s where s.inst = ${r}.inst and s.pat = ${r}.pat and s.category = ${r}.category
      and (s.data_start is null or ${r}.clinical_start >= s.data_start) and (s.data_end is null or ${r}.clinical_end <= s.data_end))
    and exists (select 1 from document_version v
      join projection.document d on d.recorder = ${r}.recorder and d.doc = v.document and d.version = v.version and d.ciphertext_hash = v.ciphertext_hash
      where v.document = ${r}.document and v.version = ${r}.document_version
        and d.inst = ${r}.inst and d.pat = ${r}.pat and d.category = ${r}.category and not d.withdrawn
        and not exists (select 1 from subject w where w.sub = v.sub and w.withdrawn_at is not null)))`;
}

/** A row as the queries of this folder select it. */
export interface ReadableRow {
  id: string;
  type: string;
  version: number;
  last_updated: Date;
  inst: string | null;
  pat: string | null;
  category: string | null;
  body: Buffer | string;
  height: number | null;
}

/** Columns of `ReadableRow`. */
export function columns(shelf: Exclude<Shelf, 'ledger'>): SqlFragment {
  return shelf === 'directory'
    ? sql`r.id, r.type, r.version, r.last_updated, null::text as inst, null::text as pat, null::text as category, r.body,
        (select height from projection.checkpoint) as height`
    : sql`r.id, r.type, r.version, r.last_updated, r.inst, r.pat, r.category, r.body, (select height from projection.checkpoint) as height`;
}
