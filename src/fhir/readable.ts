import type { ScopeQuestion } from '../consent/readable-scope.ts';
import { CodedError } from '../errors.ts';
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
  return rowsOf(parts, caller, shelf, extent, stands);
}

/**
 * The same, and of documents also the rows that would be readable if their sealed object were the one that the ledger names: somebody
 * else has written here, which who may read it is told of. `doubtful` says which they are.
 */
export function readableOrDoubtful(
  parts: Pick<FacadeParts, 'readableScope'>,
  caller: Caller,
  shelf: Exclude<Shelf, 'ledger'>,
): Readable & { doubtful: SqlFragment } {
  const readable = rowsOf(parts, caller, shelf, 'whole', (r) => (shelf === 'document' ? sql`(${stands(r)} or ${differs(r)})` : stands(r)));
  return { ...readable, doubtful: shelf === 'document' ? sql`not ${stands(raw('r'))} as doubtful` : sql`false as doubtful` };
}

function rowsOf(
  parts: Pick<FacadeParts, 'readableScope'>,
  caller: Caller,
  shelf: Exclude<Shelf, 'ledger'>,
  extent: 'whole' | 'direct',
  standing: (r: SqlFragment) => SqlFragment,
): Readable {
  const scope = parts.readableScope({ ...scopeQuestion(caller), extent: caller.breakGlass === true ? 'emergency' : extent });
  // Asked about twice in the directory; inlined all the same, so that a read by id probes only its own patient's permissions.
  const cte = sql`scope as not materialized (${scope})`;
  if (shelf === 'document') return { cte, from: sql`from resource r where ${documentRow(raw('r'), standing)}` };
  if (shelf === 'patient') return { cte, from: sql`from resource r where ${patientRow(raw('r'))}` };
  return {
    cte,
    from: sql`from directory_resource r where (
      exists (select 1 from projection.member m where m.mem = r.id)
      or exists (select 1 from projection.institution i where i.inst = r.id)
      or exists (select 1 from resource x where x.elements @> array['>' || r.type || '/' || r.id] and (${patientRow(raw('x'))} or ${documentRow(raw('x'), stands)})))`,
  };
}

function scopeQuestion({ actor, now }: Caller): ScopeQuestion {
  return { actor, purpose: actor.purpose, right: 'read', now };
}

/**
 * Whether an emergency that this caller declared opens anybody's record now: what is asked where the view of the ledger is too old
 * for everything else (protocol section 5).
 */
export async function hasEmergency(parts: Pick<FacadeParts, 'database' | 'readableScope'>, caller: Caller): Promise<boolean> {
  const scope = parts.readableScope({ ...scopeQuestion(caller), extent: 'emergency' });
  return (await parts.database.query(sql`select 1 from (${scope}) opened limit 1`)).length > 0;
}

/** Readable by the person and by holders of any live read permission on them. */
function patientRow(r: SqlFragment): SqlFragment {
  return sql`(${r}.document is null and exists (select 1 from scope s where s.inst = ${r}.inst and s.pat = ${r}.pat))`;
}

/** A row of a document: in scope with its whole clinical time, and standing. */
function documentRow(r: SqlFragment, standing: (r: SqlFragment) => SqlFragment): SqlFragment {
  return sql`(exists (select 1 from scope s where s.inst = ${r}.inst and s.pat = ${r}.pat and s.category = ${r}.category
      and (s.data_start is null or ${r}.clinical_start >= s.data_start) and (s.data_end is null or ${r}.clinical_end <= s.data_end))
    and ${standing(r)})`;
}

/**
 * Of the very version that the ledger lets stand, sealed as the ledger says. A subject withdrawn here is hidden at once, before the
 * ledger has heard of it.
 */
function stands(r: SqlFragment): SqlFragment {
  return sql`exists (select 1 from document_version v
      join projection.document d on d.recorder = ${r}.recorder and d.doc = v.document and d.version = v.version and d.ciphertext_hash = v.ciphertext_hash
      where v.document = ${r}.document and v.version = ${r}.document_version
        and d.inst = ${r}.inst and d.pat = ${r}.pat and d.category = ${r}.category and not d.withdrawn
        and not exists (select 1 from subject w where w.sub = v.sub and w.withdrawn_at is not null))`;
}

/** The ledger lets this version stand, and the object that is named here is another, or none is. */
function differs(r: SqlFragment): SqlFragment {
  return sql`(exists (select 1 from projection.document d where d.recorder = ${r}.recorder and d.doc = ${r}.document and d.version = ${r}.document_version
        and d.inst = ${r}.inst and d.pat = ${r}.pat and d.category = ${r}.category and not d.withdrawn
        and not exists (select 1 from document_version v where v.document = d.doc and v.version = d.version and v.ciphertext_hash = d.ciphertext_hash))
      and not exists (select 1 from subject w where w.document = ${r}.document and w.withdrawn_at is not null))`;
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
  /** Its sealed object is not the one that the ledger names: it is not to be served. */
  doubtful?: boolean;
}

/** Raises the alarm over a doubtful row; the error to throw. */
export function doubt(parts: Pick<FacadeParts, 'onIntegrity'>, row: { document: string; version: number }): CodedError {
  parts.onIntegrity({ document: row.document, version: row.version, reason: 'ENTRY_DIFFERS' });
  return new CodedError('INTEGRITY');
}

/** Columns of `ReadableRow`. */
export function columns(shelf: Exclude<Shelf, 'ledger'>): SqlFragment {
  return shelf === 'directory'
    ? sql`r.id, r.type, r.version, r.last_updated, null::text as inst, null::text as pat, null::text as category, r.body,
        (select height from projection.checkpoint) as height`
    : sql`r.id, r.type, r.version, r.last_updated, r.inst, r.pat, r.category, r.body, (select height from projection.checkpoint) as height`;
}
