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
export type RowShelf = Exclude<Shelf, 'ledger'>;
type ScopeParts = Pick<FacadeParts, 'readableScope' | 'institution'>;

export function readableRows(parts: ScopeParts, caller: Caller, shelf: RowShelf): Readable {
  return rowsOf(parts, caller, shelf, { standing: (r) => stands(r, parts.institution) });
}

/**
 * The part of them that is this institution's own, its patients' and its record: all there is where nobody is linked, and no dearer for
 * what other institutions let us have. `direct`: of these what is granted directly, which is looked for first.
 */
export function ownRows(parts: ScopeParts, caller: Caller, shelf: RowShelf, extent: 'whole' | 'direct'): Readable {
  return rowsOf(parts, caller, shelf, { standing: (r) => recordedHere(r, parts.institution, standsOwn(r)), own: extent });
}

/**
 * The same, and of documents also the rows that would be readable if their sealed object were the one that the ledger names: somebody
 * else has written here, which who may read it is told of. `doubtful` says which they are.
 */
export function readableOrDoubtful(
  parts: ScopeParts,
  caller: Caller,
  shelf: RowShelf,
  whose: 'own' | 'all',
): Readable & { doubtful: SqlFragment } {
  const own = parts.institution;
  const standing = (r: SqlFragment): SqlFragment => (whose === 'own' ? recordedHere(r, own, standsOwn(r)) : stands(r, own));
  const orDoubtful = (r: SqlFragment): SqlFragment => sql`(${standing(r)} or ${recordedHere(r, own, differs(r))})`;
  const isDocument = shelf === 'document';
  return {
    ...rowsOf(parts, caller, shelf, { standing: isDocument ? orDoubtful : standing, ...(whose === 'own' ? { own: 'whole' } : {}) }),
    doubtful: isDocument ? sql`not ${standing(raw('r'))} as doubtful` : sql`false as doubtful`,
  };
}

function recordedHere(r: SqlFragment, own: string, and: SqlFragment): SqlFragment {
  return sql`(${r}.recorder = ${own} and ${and})`;
}

function rowsOf(
  parts: ScopeParts,
  caller: Caller,
  shelf: RowShelf,
  rows: { standing: (r: SqlFragment) => SqlFragment; own?: 'whole' | 'direct' },
): Readable {
  const own = parts.institution;
  const scope = scopeOf(parts, caller, rows.own ?? 'whole');
  const here = rows.own === undefined ? servedHere(own) : sql`g.inst = ${own}`;
  // Asked about twice in the directory; inlined all the same, so that a read by id probes only its own patient's permissions.
  const cte = sql`scope as not materialized (select g.* from (${scope}) g where ${here})`;
  if (shelf === 'document') return { cte, from: sql`from resource r where ${documentRow(raw('r'), rows.standing)}` };
  if (shelf === 'patient') return { cte, from: sql`from resource r where ${patientRow(raw('r'))}` };
  return {
    cte,
    from: sql`from directory_resource r where (
      exists (select 1 from projection.member m where m.mem = r.id)
      or exists (select 1 from projection.institution i where i.inst = r.id)
      or exists (select 1 from resource x where x.inst = ${own} and x.recorder = ${own} and x.elements @> array['>' || r.type || '/' || r.id]
        and (${patientRow(raw('x'))} or ${documentRow(raw('x'), standsOwn)})))`,
  };
}

function scopeQuestion({ actor, now }: Caller): ScopeQuestion {
  return { actor, purpose: actor.purpose, right: 'read', now };
}

/** What the caller may read by the ledger, of patients of every institution: `readableScope`. */
export function scopeOf(parts: Pick<FacadeParts, 'readableScope'>, caller: Caller, extent: 'whole' | 'direct' = 'whole'): SqlFragment {
  return parts.readableScope({ ...scopeQuestion(caller), extent: caller.breakGlass === true ? 'emergency' : extent });
}

/**
 * Of another institution's patients nothing is in scope before a code has linked them to one of ours and name and birth date were found
 * to be theirs, and of their categories only those whose keys we have and keep (protocol section 8). Said apart of patient and category,
 * so that the first is asked before anything of a permission is.
 */
function servedHere(own: string): SqlFragment {
  return sql`(g.inst = ${own} or exists (select 1 from patient_link l where l.inst = g.inst and l.pat = g.pat and l.state = 'confirmed'))
    and (g.inst = ${own} or g.category = 'core' or exists (
      select 1 from shared_category c where c.inst = g.inst and c.pat = g.pat and c.category = g.category and c.state = 'live'))`;
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
  return sql`(exists (select 1 from scope s where ${inScope(r)}) and ${standing(r)})`;
}

/** Wholly inside one data period of the scope's row `s`. */
export function inScope(r: SqlFragment): SqlFragment {
  return sql`s.inst = ${r}.inst and s.pat = ${r}.pat and s.category = ${r}.category
      and (s.data_start is null or ${r}.clinical_start >= s.data_start) and (s.data_end is null or ${r}.clinical_end <= s.data_end)`;
}

/** Of the very version that the ledger lets stand. One condition by whose record it is, so that an own one costs what it costs alone. */
function stands(r: SqlFragment, own: string): SqlFragment {
  return sql`case when ${r}.recorder = ${own} then ${standsOwn(r)} else ${standsShared(r)} end`;
}

/** Sealed as the ledger says. A subject withdrawn here is hidden at once, before the ledger has heard of it. */
function standsOwn(r: SqlFragment): SqlFragment {
  return sql`exists (select 1 from document_version v
      join projection.document d on d.recorder = ${r}.recorder and d.doc = v.document and d.version = v.version and d.ciphertext_hash = v.ciphertext_hash
      where v.document = ${r}.document and v.version = ${r}.document_version
        and d.inst = ${r}.inst and d.pat = ${r}.pat and d.category = ${r}.category and not d.withdrawn
        and not exists (select 1 from subject w where w.sub = v.sub and w.withdrawn_at is not null))`;
}

/** Another institution's record. The copy held here serves while its content is what the newest entry commits to, re-encrypted or not. */
function standsShared(r: SqlFragment): SqlFragment {
  return sql`exists (select 1 from shared_version v
      join projection.document d on d.recorder = v.recorder and d.doc = v.document and d.version = v.version and d.commitment = v.commitment
      where v.recorder = ${r}.recorder and v.document = ${r}.document and v.version = ${r}.document_version
        and v.inst = ${r}.inst and v.pat = ${r}.pat and v.category = ${r}.category
        and d.inst = ${r}.inst and d.pat = ${r}.pat and d.category = ${r}.category and not d.withdrawn)`;
}

/**
 * The ledger lets this version of ours stand, and the object that is named here is another, or none is. Of another institution's record
 * it is simply not fetched yet.
 */
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
  /** Of a Patient: ids of the same person at other institutions, or at this one, which this caller can read too. */
  links?: readonly string[] | null;
  /** Its sealed object is not the one that the ledger names: it is not to be served. */
  doubtful?: boolean;
}

/**
 * The Patients that a row's person has a link to, each only where this caller can read it as well (protocol section 8). For the statement
 * whose `scope` this is.
 */
export function linksOf(own: string): SqlFragment {
  return sql`(select array_agg(x.pat order by x.inst, x.pat) from (
      select l.inst, l.pat from patient_link l where r.inst = ${own} and l.own_pat = r.pat and l.state = 'confirmed'
      union all select ${own}, l.own_pat from patient_link l where r.inst <> ${own} and l.inst = r.inst and l.pat = r.pat and l.state = 'confirmed') x
    where exists (select 1 from scope s where s.inst = x.inst and s.pat = x.pat)
      and exists (select 1 from resource p where p.id = x.pat and p.type = 'Patient' and p.inst = x.inst and p.document is null)) as links`;
}

/** Raises the alarm over a doubtful row; the error to throw. */
export function doubt(parts: Pick<FacadeParts, 'onIntegrity'>, row: { document: string; version: number }): CodedError {
  parts.onIntegrity({ document: row.document, version: row.version, reason: 'ENTRY_DIFFERS' });
  return new CodedError('INTEGRITY');
}

/** Columns of `ReadableRow`. */
export function columns(shelf: RowShelf): SqlFragment {
  return shelf === 'directory'
    ? sql`r.id, r.type, r.version, r.last_updated, null::text as inst, null::text as pat, null::text as category, r.body,
        (select height from projection.checkpoint) as height`
    : sql`r.id, r.type, r.version, r.last_updated, r.inst, r.pat, r.category, r.body, (select height from projection.checkpoint) as height`;
}
