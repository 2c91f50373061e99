import { CodedError } from '../errors.ts';
import { raw, type SqlFragment, sql } from '../store/sql.ts';
import type { Caller, FacadeParts } from './ports.ts';
import { columns, inScope, linksOf, type ReadableRow, type RowShelf, readableOrDoubtful, readableRows, scopeOf } from './readable.ts';

/** Patients that a search names. */
export interface Named {
  names: readonly string[];
  /** Those that alone can be in its answer; undefined where nothing narrows it to patients. */
  only: readonly string[] | undefined;
}

/** Rows that a search finds, and whether there would be more if another institution's objects had not stayed missing. */
export interface Complete<Row> {
  rows: Row[];
  incomplete: boolean;
}

/** Reads that know what they lack: what another institution recorded for this caller's eyes and we do not hold yet. */
export interface CompleteReads {
  /**
   * Rows of a shelf, `rest` being conditions on `r`, order and limit. Throws NOT_FETCHED while something that might be among them is
   * being fetched, or has stayed missing and the search names its patient.
   */
  rows<More extends object = object>(
    caller: Caller,
    shelf: RowShelf,
    search: { named: Named; more?: SqlFragment; rest: SqlFragment },
  ): Promise<Complete<ReadableRow & More>>;
  /** How many of them there are; undefined where nobody can say. */
  count(caller: Caller, shelf: RowShelf, search: { named: Named; rest: SqlFragment }): Promise<number | undefined>;
  /** One row, readable or doubtful. Throws NOT_FETCHED where it would be there if its document had been fetched. */
  one<More extends object = object>(
    caller: Caller,
    shelf: RowShelf,
    read: { type: string; id: string; document: string | undefined; version?: number; more?: SqlFragment },
  ): Promise<(ReadableRow & More) | undefined>;
}

interface Lack {
  linked: boolean;
  fetching: boolean;
  given_up: boolean;
  given_up_named: boolean;
}
const LINKED = sql`exists (select 1 from patient_link where state in ('bound', 'confirmed')) as linked`;
/** Seconds after which something may have changed: fetching takes moments, what stayed missing is tried again by a timer. */
const FETCHING_SECONDS = 2;
const MISSING_SECONDS = 60;
/** So long a patient's documents hold up searches that do not name the patient; then they are named as missing there. */
const HELD_UP_SECONDS = 30;

/**
 * Where no patient is linked to one of another institution, our own rows are all there are and nothing can be lacking; the statement that
 * finds them says so by the way, and costs what it cost before there were others. Else rows and lack come out of one statement: of two snapshots the first could lack what the second holds, and a list would be
 * shorter than it says (protocol section 8).
 */
export function createCompleteReads(parts: Pick<FacadeParts, 'database' | 'readableScope' | 'institution'>): CompleteReads {
  const { database, institution: own } = parts;
  /** Which of the two is tried first; the answer is right either way. */
  let linked = false;

  /** Is asked after the rows: whoever is linked no more has nothing to show either. */
  async function isLinked(rows: readonly { linked?: boolean }[]): Promise<boolean> {
    const [row] = rows.length > 0 ? rows : await database.query<{ linked: boolean }>(sql`select ${LINKED}`);
    return row?.linked === true;
  }

  /**
   * What is on the ledger for this caller and not here, over the whole of a category: of what is not here no time is known. A patient of
   * whom something stayed missing, or is waited for longer than a moment, holds up nobody else's searches, whatever more of theirs comes.
   * A category that is granted and not open here lacks all of its documents; one that nobody of ours was granted, as in an emergency, none.
   */
  function lack(caller: Caller, which: SqlFragment, names: readonly string[]): SqlFragment {
    const readable = (of: SqlFragment): SqlFragment =>
      sql`exists (select 1 from (${scopeOf(parts, caller)}) s where s.inst = ${of}.inst and s.pat = ${of}.pat and s.category = ${of}.category)`;
    return sql`(select ${LINKED}, coalesce(bool_or(p.holds), false) as fetching, coalesce(bool_or(not p.holds), false) as given_up,
        coalesce(bool_or(not p.holds and p.pat = any(${names}::text[])), false) as given_up_named
      from (select x.pat, coalesce(min(x.held_up_at) > now() - ${HELD_UP_SECONDS} * interval '1 s', true) and not bool_or(x.missing) as holds
        from (select l.inst, l.pat, l.held_up_at, coalesce(o.state, 'wanted') <> 'wanted' as missing
            from patient_link l join shared_category c on c.inst = l.inst and c.pat = l.pat and c.state = 'live'
              join projection.document d on d.inst = c.inst and d.pat = c.pat and d.category = c.category and not d.withdrawn
              left join shared_object o on o.recorder = d.recorder and o.document = d.doc and o.version = d.version and o.n = d.n
            where l.state in ('bound', 'confirmed') and d.recorder <> ${own} and ${which}
              and not exists (select 1 from shared_version v
                where v.recorder = d.recorder and v.document = d.doc and v.version = d.version and v.commitment = d.commitment
                  and v.inst = d.inst and v.pat = d.pat and v.category = d.category)
              and ${readable(raw('c'))}
          union all select l.inst, l.pat, l.held_up_at, coalesce(c.state = 'refused', false)
            from patient_link l join projection.permission g on g.inst = l.inst and g.pat = l.pat and g.status = 'active'
                and (g.grantee = ${`organization:${own}`} or starts_with(g.grantee, ${`member:${own}:`}))
              left join shared_category c on c.inst = g.inst and c.pat = g.pat and c.category = g.category
            where l.state = 'confirmed' and c.state is distinct from 'live'
              and (c.state is not null or exists (select 1 from sharing_backlog b where b.inst = g.inst)
                or not exists (select 1 from sharing_cursor k where k.block >= g.block))
              and exists (select 1 from projection.document d where d.inst = g.inst and d.pat = g.pat and d.category = g.category and not d.withdrawn
                and d.recorder <> ${own} and ${which})
              and ${readable(raw('g'))}) x
        group by x.inst, x.pat) p) lack`;
  }

  async function search<Row extends object>(
    caller: Caller,
    shelf: RowShelf,
    { named, rest }: { named: Named; rest: SqlFragment },
    select: (linked: boolean) => SqlFragment,
  ): Promise<Complete<Row>> {
    const { cte, from } = readableRows(parts, caller, shelf);
    // Staff are read by what our own records say.
    if (shelf === 'directory') {
      return { rows: await database.query<Row>(sql`with ${cte} select ${select(false)} ${from} and ${rest}`), incomplete: false };
    }
    if (!linked) {
      const rows = await database.query<Row & { linked?: boolean }>(
        sql`with ${cte} select ${select(false)}, ${LINKED} ${from} and ${rest}`,
      );
      if (!(await isLinked(rows))) return { rows, incomplete: false };
    }
    const which = named.only === undefined ? sql`true` : sql`d.pat = any(${named.only}::text[])`;
    // One row of what is lacking, so the order of the rows found is theirs.
    const found = await database.query<Row & Lack & { found: true | null }>(sql`
      with ${cte} select lack.*, page.* from ${lack(caller, which, named.names)}
        left join lateral (select true as found, ${select(true)} ${from} and ${rest}) page on true`);
    const [first] = found;
    linked = first?.linked === true;
    if (first?.fetching === true) throw new CodedError('NOT_FETCHED', { retryAfterSeconds: FETCHING_SECONDS });
    if (first?.given_up_named === true) throw new CodedError('NOT_FETCHED', { retryAfterSeconds: MISSING_SECONDS });
    return { rows: found.filter((row) => row.found === true), incomplete: first?.given_up === true };
  }

  return {
    rows<More extends object>(caller: Caller, shelf: RowShelf, asked: { named: Named; more?: SqlFragment; rest: SqlFragment }) {
      const select = (links: boolean): SqlFragment =>
        sql`${columns(shelf)}${asked.more ?? sql``}${links && shelf === 'patient' ? sql`, ${linksOf(own)}` : sql``}`;
      return search<ReadableRow & More>(caller, shelf, asked, select);
    },
    async count(caller, shelf, asked) {
      const { rows, incomplete } = await search<{ n: number }>(caller, shelf, asked, () => sql`count(*) as n`);
      return incomplete ? undefined : (rows[0]?.n ?? 0);
    },
    async one<More extends object>(
      caller: Caller,
      shelf: RowShelf,
      {
        type,
        id,
        document,
        version,
        more = sql``,
      }: { type: string; id: string; document: string | undefined; version?: number; more?: SqlFragment },
    ) {
      const ofVersion = version === undefined ? sql`` : sql` and r.version = ${version}`;
      const rest = sql` and r.id = ${id} and r.type = ${type}${ofVersion} order by doubtful limit 1`;
      type Row = ReadableRow & More;
      if (!linked || shelf === 'directory') {
        const { cte, from, doubtful } = readableOrDoubtful(parts, caller, shelf, 'own');
        const also = shelf === 'directory' ? sql`` : sql`, ${LINKED}`;
        const rows = await database.query<Row & { linked?: boolean }>(
          sql`with ${cte} select ${columns(shelf)}, ${doubtful}${more}${also} ${from}${rest}`,
        );
        if (shelf === 'directory' || !(await isLinked(rows))) return rows[0];
      }
      const { cte, from, doubtful } = readableOrDoubtful(parts, caller, shelf, 'all');
      // Its document by its name, or by a row of a version before.
      const named =
        document === undefined
          ? sql`exists (select 1 from resource x where x.id = ${id} and x.type = ${type} and x.recorder = d.recorder and x.document = d.doc
              and x.inst = d.inst and x.pat = d.pat and x.category = d.category and exists (select 1 from (${scopeOf(parts, caller)}) s where ${inScope(raw('x'))}))`
          : sql`d.doc = ${document}`;
      const which = sql`${named} and (${version ?? null}::int is null or d.version = ${version ?? null}::int)`;
      const links = shelf === 'patient' ? sql`, ${linksOf(own)}` : sql``;
      const [row] = await database.query<Row & Lack & { found: true | null }>(sql`
        with ${cte} select lack.*, one.* from ${lack(caller, which, [])}
          left join lateral (select true as found, ${columns(shelf)}, ${doubtful}${more}${links} ${from}${rest}) one on true`);
      linked = row?.linked === true;
      if (row?.found === true) return row;
      if (row?.fetching === true || row?.given_up === true) {
        throw new CodedError('NOT_FETCHED', { retryAfterSeconds: row.fetching ? FETCHING_SECONDS : MISSING_SECONDS });
      }
      return undefined;
    },
  };
}
