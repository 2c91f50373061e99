import { CodedError } from '../errors.ts';
import { operationOutcome } from '../http/outcome.ts';
import { compareBounds } from '../records/fhir-time.ts';
import { type JsonObject, parseResource } from '../records/lossless-json.ts';
import { lookupIdentifier } from '../store/resources.ts';
import { join, raw, sql } from '../store/sql.ts';
import { access, type Found, patientsOf, textOfRow, withAbsoluteUrls } from './access.ts';
import { type BundleEntry, searchset, subset } from './bundle.ts';
import { createCompleteReads } from './complete-reads.ts';
import { type Cursor, createCursors } from './cursor.ts';
import { auditEventPage, consentsFor } from './ledger-search.ts';
import type { Answer, Caller, FacadeParts, FacadeSettings, PatientKey } from './ports.ts';
import { FHIR_JSON } from './read.ts';
import { type ReadableRow, type RowShelf, readableRows } from './readable.ts';
import { checkIncludes, includedRows } from './search-include.ts';
import { matches, sortText } from './search-match.ts';
import { type Clause, ID, namedPatients, parseSearch, patientIds, type SearchQuery, type SortKey } from './search-query.ts';
import { afterKeyset, condition, isIndexed, sortExpression } from './search-sql.ts';
import { isSearchable, SERVED_TYPES, type Shelf } from './served-types.ts';

export interface Searcher {
  /** A searchset Bundle. `pairs` are the parameters in the order sent; `_cursor` alone continues a search. */
  search(caller: Caller, type: string, pairs: readonly (readonly [string, string])[], options: { lenient: boolean }): Promise<Answer>;
}

/** One page of matches, whichever way they were found. */
interface Page {
  rows: readonly PageRow[];
  more: boolean;
  total: number | undefined;
  /** Objects of another institution stayed missing: there would be more. */
  incomplete: boolean;
}
interface PageRow {
  id: string;
  type: string;
  text: string;
  keys: readonly string[];
  elements: readonly string[] | undefined;
  patients: readonly PatientKey[];
  height: number | null;
}
type SearchRow = ReadableRow & { elements?: string[]; k?: string[] };

export function createSearcher(parts: FacadeParts, settings: FacadeSettings): Searcher {
  const cursors = createCursors(parts.cursorKey, settings.cursorLifetimeMs);
  const complete = createCompleteReads(parts);

  const blind = (system: string, value: string) => lookupIdentifier(parts.database, parts.rows, system, value);

  async function work(
    caller: Caller,
    type: string,
    pairs: readonly (readonly [string, string])[],
    lenient: boolean,
  ): Promise<Found<Answer>> {
    const token = pairs.find(([name]) => name === '_cursor')?.[1];
    const pagesNamed = pairs.filter(([name]) => name === '_cursor').length;
    if (token !== undefined && (pagesNamed > 1 || pairs.some(([name]) => !['_cursor', '_format', '_pretty'].includes(name)))) {
      throw new CodedError('PARAMETER_INVALID', { diagnostics: 'A page is fetched by its link as it stands.', expression: ['_cursor'] });
    }
    const cursor = token === undefined ? undefined : cursors.open(caller, type, token);
    const query = parseSearch(type, cursor?.pairs ?? pairs, { ...settings, lenient });
    checkIncludes(parts, caller, query.includes);
    const shelf = SERVED_TYPES.get(type)?.shelf;
    const sort = query.sort.some((key) => key.parameter === ID) ? query.sort : [...query.sort, { parameter: ID, descending: false }];
    let page: Page;
    let after: readonly string[] | undefined;
    if (type === 'AuditEvent') {
      const found = await auditEventPage(parts, caller, query, cursor?.after[0]);
      page = {
        rows: found.resources.map((r) => ({ ...r, keys: [], elements: undefined, height: null })),
        more: found.after !== undefined,
        total: undefined,
        incomplete: false,
      };
      after = found.after === undefined ? undefined : [found.after];
    } else {
      if (shelf === undefined) throw new CodedError('NOT_FOUND');
      const opened = shelf === 'ledger' ? query.clauses : query.clauses.filter((clause) => !isIndexed(clause, shelf));
      const inMemory = opened.length > 0 || shelf === 'ledger' || sort.some((key) => key.parameter.class === 'sealed');
      if (!inMemory) page = await indexedPage(caller, query, shelf, sort, cursor);
      else page = memoryPage(query, sort, cursor, await candidates(caller, query, shelf, opened));
      after = page.more ? page.rows.at(-1)?.keys : undefined;
    }
    return answer(caller, query, page, after, { token, moment: cursor?.moment ?? caller.now.toISOString() });
  }

  /** The index answers everything: one query for the page, one for the total where the page is not all. */
  async function indexedPage(
    caller: Caller,
    query: SearchQuery,
    shelf: RowShelf,
    sort: readonly SortKey[],
    cursor: Cursor | undefined,
  ): Promise<Page> {
    const conditions = await whereOf(query.type, query.clauses);
    const named = namedPatients(query);
    const total = (): Promise<number | undefined> => complete.count(caller, shelf, { named, rest: conditions });
    if (query.summary === 'count') {
      const n = await total();
      return { rows: [], more: false, total: n, incomplete: n === undefined };
    }
    const keys = sort.map((key) => sql`(${sortExpression(key).value})::text`);
    const order = sort.map((key) => sql`${sortExpression(key).value} ${raw(key.descending ? 'desc' : 'asc')}`);
    const elements = query.includes.length > 0 ? sql`, r.elements` : sql``;
    const beyond = cursor === undefined ? sql`` : sql` and ${afterKeyset(sort, cursor.after)}`;
    const { rows, incomplete } = await complete.rows<{ elements?: string[]; k: string[] }>(caller, shelf, {
      named,
      more: sql`, array[${join(keys, ', ')}] as k${elements}`,
      rest: sql`${conditions}${beyond} order by ${join(order, ', ')} limit ${query.count + 1}`,
    });
    const more = rows.length > query.count;
    const first = cursor === undefined && query.total && !incomplete;
    const n = first ? (more ? await total() : rows.length) : undefined;
    return {
      rows: await Promise.all(rows.slice(0, query.count).map((row) => pageRow(row, row.k))),
      more,
      total: n,
      incomplete: incomplete || (first && n === undefined),
    };
  }

  async function whereOf(type: string, clauses: readonly Clause[]): Promise<ReturnType<typeof sql>> {
    const conditions = [sql`r.type = ${type}`];
    for (const clause of clauses) {
      conditions.push(await condition(clause, blind));
      const ids = clause.parameter.name === 'patient' && clause.modifier === undefined ? patientIds(clause) : [];
      // Said twice, for the index on patients.
      if (ids.length > 0 && type !== 'Patient') conditions.push(sql`r.pat = any(${ids}::text[])`);
    }
    return join(conditions, ' and ');
  }

  /** Rows that the index lets through, opened, of those that the sealed clauses let through too. */
  async function candidates(
    caller: Caller,
    query: SearchQuery,
    shelf: Shelf,
    opened: readonly Clause[],
  ): Promise<{ found: Candidate[]; incomplete: boolean }> {
    if (shelf === 'ledger') {
      const resources = await consentsFor(parts, caller, query);
      const found = resources.flatMap((r) => {
        const resource = parseResource(r.text);
        return opened.every((clause) => matches(resource, clause))
          ? [{ row: { ...r, keys: [], elements: undefined, height: null }, resource }]
          : [];
      });
      return { found, incomplete: false };
    }
    await requirePinned(caller, query, shelf);
    const conditions = await whereOf(
      query.type,
      query.clauses.filter((clause) => !opened.includes(clause)),
    );
    const { rows, incomplete } = await complete.rows<{ elements?: string[] }>(caller, shelf, {
      named: namedPatients(query),
      more: query.includes.length > 0 ? sql`, r.elements` : sql``,
      rest: sql`${conditions} limit ${settings.maxOpened + 1}`,
    });
    if (rows.length > settings.maxOpened) throw new CodedError('TOO_COSTLY');
    const found: Candidate[] = [];
    for (let i = 0; i < rows.length; i += 200) {
      const chunk = await Promise.all(rows.slice(i, i + 200).map((row) => pageRow(row, [])));
      for (const row of chunk) {
        const resource = parseResource(row.text);
        if (opened.every((clause) => matches(resource, clause))) found.push({ row, resource });
      }
    }
    return { found, incomplete };
  }

  function memoryPage(
    query: SearchQuery,
    sort: readonly SortKey[],
    cursor: Cursor | undefined,
    { found, incomplete }: { found: readonly Candidate[]; incomplete: boolean },
  ): Page {
    if (query.summary === 'count') return { rows: [], more: false, total: incomplete ? undefined : found.length, incomplete };
    const keyed = found.map(({ row, resource }) => ({ ...row, keys: sort.map((key) => sortText(resource, key) ?? ABSENT) }));
    const compare = (a: readonly string[], b: readonly string[]): number => {
      for (const [i, key] of sort.entries()) {
        const [x, y] = [a[i] ?? '', b[i] ?? ''];
        if (x === y) continue;
        if (x === ABSENT || y === ABSENT) return x === ABSENT ? 1 : -1;
        const order = key.parameter.type === 'date' ? compareBounds(x, y) : x < y ? -1 : 1;
        return key.descending ? -order : order;
      }
      return 0;
    };
    keyed.sort((a, b) => compare(a.keys, b.keys));
    const start = cursor === undefined ? 0 : keyed.findIndex((row) => compare(row.keys, cursor.after) > 0);
    const rest = start < 0 ? [] : keyed.slice(start);
    return {
      rows: rest.slice(0, query.count),
      more: rest.length > query.count,
      total: cursor === undefined && query.total && !incomplete ? keyed.length : undefined,
      incomplete,
    };
  }

  /** Sealed values are matched only where parameters or the caller's own scope hold few patients (architecture section 4). */
  async function requirePinned(caller: Caller, query: SearchQuery, shelf: RowShelf): Promise<void> {
    if (shelf === 'directory') return;
    const pinned = query.clauses.some(({ parameter, modifier, any }) => {
      if (modifier !== undefined || any.length > settings.maxPinned) return false;
      if (parameter === ID) return true;
      return shelf === 'patient'
        ? parameter.class === 'blind'
        : parameter.name === 'patient' || (parameter.name === 'subject' && any.every(isPatient));
    });
    if (pinned) return;
    const { cte } = readableRows(parts, caller, shelf);
    const [row] = await parts.database.query<{ n: number }>(
      sql`with ${cte} select count(*) as n from (select distinct s.inst, s.pat from scope s limit ${settings.maxPinned + 1}) t`,
    );
    if ((row?.n ?? 0) > settings.maxPinned) throw new CodedError('TOO_COSTLY');
  }

  async function pageRow(row: SearchRow, keys: readonly string[]): Promise<PageRow> {
    const text = withAbsoluteUrls(row.type, await textOfRow(parts, row), settings.baseUrl);
    return { id: row.id, type: row.type, text, keys, elements: row.elements, patients: patientsOf([row]), height: row.height };
  }

  async function answer(
    caller: Caller,
    query: SearchQuery,
    page: Page,
    after: readonly string[] | undefined,
    continued: { token: string | undefined; moment: string },
  ): Promise<Found<Answer>> {
    const url = `${settings.baseUrl}/${query.type}`;
    const cut = {
      ...(query.elements !== undefined ? { elements: query.elements } : {}),
      ...(query.summary === 'data' ? { withoutText: true } : {}),
    };
    const entries: BundleEntry[] = page.rows.map(({ type, id, text }) => ({
      type,
      id,
      text: Object.keys(cut).length > 0 ? subset(type, text, cut) : text,
      mode: 'match',
    }));
    const { rows: included, incomplete: includedIncomplete } =
      page.rows.length > 0 && query.includes.length > 0
        ? await includedRows({ ...parts, complete }, settings, caller, query.includes, { rows: page.rows, named: namedPatients(query) })
        : { rows: [], incomplete: false };
    const outcomes = [
      ...(query.ignored.length > 0 ? [operationOutcome('PARAMETER_UNKNOWN', { expression: [...query.ignored] }, 'warning')] : []),
      // Whose they are is not said.
      ...(page.incomplete || includedIncomplete ? [operationOutcome('INCOMPLETE', {}, 'warning')] : []),
    ];
    for (const row of included) {
      entries.push({
        type: row.type,
        id: row.id,
        text: withAbsoluteUrls(row.type, await textOfRow(parts, row), settings.baseUrl),
        mode: 'include',
      });
    }
    const self = new URLSearchParams(
      continued.token === undefined ? query.honoured.map(([name, value]): [string, string] => [name, value]) : { _cursor: continued.token },
    ).toString();
    const body = searchset(settings.baseUrl, {
      entries,
      self: self === '' ? url : `${url}?${self}`,
      ...(page.total !== undefined ? { total: page.total } : {}),
      ...(after !== undefined
        ? { next: `${url}?_cursor=${cursors.seal(caller, query.type, { pairs: query.honoured, after, moment: continued.moment })}` }
        : {}),
      outcomes: outcomes.map((outcome) => JSON.stringify(outcome)),
    });
    const patients = [...page.rows.flatMap((row) => row.patients), ...patientsOf(included)];
    return {
      answer: { status: 200, headers: { 'Content-Type': FHIR_JSON }, body },
      patients: [...new Map(patients.map((p) => [`${p.institution}/${p.patient}`, p])).values()],
      height: page.rows[0]?.height ?? null,
    };
  }

  return {
    search: (caller, type, pairs, { lenient }) =>
      access(parts, caller, { interaction: 'search-type', needs: [{ type, interaction: 's' }], type }, (as) => {
        if (!isSearchable(type)) throw new CodedError('NOT_FOUND');
        return work(as, type, pairs, lenient);
      }),
  };
}

interface Candidate {
  row: PageRow;
  resource: JsonObject;
}
/** Stands for an absent sort value; no value begins with it. */
const ABSENT = '\u{10ffff}';

function isPatient(match: Clause['any'][number]): boolean {
  return match.kind === 'reference' && (match.id !== undefined || (match.reference?.startsWith('Patient/') ?? false));
}
