import { fold } from '../records/search-index.ts';
import { join, raw, type SqlFragment, sql } from '../store/sql.ts';
import { type Clause, ID, LAST_UPDATED, type Match, type Prefix, type SortKey } from './search-query.ts';
import type { Shelf } from './served-types.ts';

/** Clauses that the index answers; the others are matched after opening. */
export function isIndexed(clause: Clause, shelf: Shelf): boolean {
  if (clause.parameter.class === 'sealed') return false;
  // The directory's strings are kept folded, so an exact match needs the resource itself.
  return !(shelf === 'directory' && clause.modifier === 'exact');
}

/** The HMAC of an identifier, undefined where none of that system is indexed. */
export type BlindLookup = (system: string, value: string) => Promise<string | undefined>;

/** A clause as a condition on `r`. The index's form: src/records/search-index.ts. */
export async function condition(clause: Clause, blind: BlindLookup): Promise<SqlFragment> {
  const { parameter, any, modifier } = clause;
  const { name } = parameter;
  if (modifier === 'missing') return sql`${raw(clause.missing ? 'not ' : '')}(r.elements @> ${[`${name}?`]}::text[])`;
  if (parameter === ID) return sql`r.id = any(${any.flatMap((match) => (match.kind === 'token' ? (match.code ?? []) : []))}::text[])`;
  if (parameter === LAST_UPDATED) {
    return anyOf(any, (match) =>
      match.kind === 'date' ? dateCondition(match.prefix, match.range, sql`r.last_updated`, sql`r.last_updated`) : [],
    );
  }
  if (parameter.type === 'date') {
    const conditions = anyOf(any, (match) =>
      match.kind === 'date' ? dateCondition(match.prefix, match.range, sql`d.range_start`, sql`d.range_end`) : [],
    );
    return sql`exists (select 1 from resource_date d where d.id = r.id and d.version = r.version and d.parameter = ${name} and ${conditions})`;
  }
  if (parameter.type === 'string') {
    return anyOf(any, (match) => {
      if (match.kind !== 'string') return [];
      const text = fold(match.text);
      return modifier === 'contains'
        ? sql`exists (select 1 from unnest(r.strings) t where starts_with(t, ${`${name}=`}) and position(${text} in substr(t, ${name.length + 2})) > 0)`
        : sql`exists (select 1 from unnest(r.strings) t where starts_with(t, ${`${name}=${text}`}))`;
    });
  }
  const elements = (await Promise.all(any.map((match) => element(parameter.class === 'blind' ? blind : undefined, name, match)))).flat();
  return sql`${raw(modifier === 'not' ? 'not ' : '')}(r.elements && ${elements}::text[])`;
}

async function element(blind: BlindLookup | undefined, name: string, match: Match): Promise<string[]> {
  if (match.kind === 'token') {
    const { system, code } = match;
    if (blind !== undefined) {
      const hmac = await blind(system ?? '', code ?? '');
      return hmac === undefined ? [] : [`${name}#${hmac}`];
    }
    if (system === undefined) return [`${name}~${code ?? ''}`];
    return [`${name}=${system}|${code ?? ''}`];
  }
  if (match.kind === 'reference') return [match.reference !== undefined ? `${name}=${match.reference}` : `${name}~${match.id ?? ''}`];
  return match.kind === 'uri' ? [`${name}=${match.uri}`] : [];
}

function anyOf(any: readonly Match[], of: (match: Match) => SqlFragment | never[]): SqlFragment {
  return sql`(${join(
    any.flatMap((match) => of(match)),
    ' or ',
    'false',
  )})`;
}

function dateCondition(prefix: Prefix, asked: { start: string; end: string }, start: SqlFragment, end: SqlFragment): SqlFragment {
  const from = sql`${asked.start}::timestamptz`;
  const until = sql`${asked.end}::timestamptz`;
  switch (prefix) {
    case 'eq':
      return sql`(${start} >= ${from} and ${end} <= ${until})`;
    case 'ne':
      return sql`not (${start} >= ${from} and ${end} <= ${until})`;
    case 'gt':
      return sql`${end} > ${until}`;
    case 'ge':
      return sql`(${end} > ${until} or (${start} >= ${from} and ${end} <= ${until}))`;
    case 'lt':
      return sql`${start} < ${from}`;
    case 'le':
      return sql`(${start} < ${from} or (${start} >= ${from} and ${end} <= ${until}))`;
    case 'sa':
      return sql`${start} > ${until}`;
    default:
      return sql`${end} < ${from}`;
  }
}

/**
 * The order of a page: expressions that are never null (absent dates sort last either way), the id at the end, so that it
 * is total. Values travel as text, which loses nothing.
 */
export function sortExpression(key: SortKey): { value: SqlFragment; type: SqlFragment } {
  if (key.parameter === ID) return { value: sql`r.id`, type: raw('text') };
  if (key.parameter === LAST_UPDATED) return { value: sql`r.last_updated`, type: raw('timestamptz') };
  const absent = raw(key.descending ? "'-infinity'" : "'infinity'");
  return {
    value: sql`coalesce((select min(d.range_start) from resource_date d where d.id = r.id and d.version = r.version and d.parameter = ${key.parameter.name}), ${absent}::timestamptz)`,
    type: raw('timestamptz'),
  };
}

/** Rows after the one whose sort values these are: (a > x) or (a = x and b > y) or … */
export function afterKeyset(sort: readonly SortKey[], values: readonly string[]): SqlFragment {
  const alternatives = sort.map((_, n) =>
    join(
      sort.slice(0, n + 1).map((key, i) => {
        const { value, type } = sortExpression(key);
        const operator = i < n ? '=' : key.descending ? '<' : '>';
        return sql`${value} ${raw(operator)} cast(${values[i] ?? ''}::text as ${type})`;
      }),
      ' and ',
    ),
  );
  return sql`(${join(
    alternatives.map((alternative) => sql`(${alternative})`),
    ' or ',
  )})`;
}
