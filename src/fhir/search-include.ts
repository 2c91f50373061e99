import { CodedError } from '../errors.ts';
import { typeOfReference } from '../records/search-index.ts';
import { type SqlFragment, sql } from '../store/sql.ts';
import type { CompleteReads, Named } from './complete-reads.ts';
import type { Caller, FacadeParts, FacadeSettings } from './ports.ts';
import type { ReadableRow, RowShelf } from './readable.ts';
import type { Include } from './search-query.ts';
import { isSearchable, SERVED_TYPES } from './served-types.ts';

/** A matched row, with its index where includes start from it. */
export interface Matched {
  id: string;
  type: string;
  elements: readonly string[] | undefined;
}

/** Checks that the token reaches every included type: an include needs its own scope (fhir-facade.md 2.4). From the request alone. */
export function checkIncludes(parts: Pick<FacadeParts, 'allows'>, caller: Caller, includes: readonly Include[]): void {
  for (const { reverse, source, targets } of includes) {
    // Where no type is named, those that the token does not reach are left out.
    for (const type of reverse ? [source] : targets) {
      if (!parts.allows(caller.actor, type, reverse ? 's' : 'r')) throw new CodedError('FORBIDDEN');
    }
  }
}

/**
 * Rows one step away from the matches, each inside the caller's scope like any other; never one of the matches again. They lie with the
 * patients of the matches, so what the search names narrows them too.
 */
export async function includedRows(
  parts: Pick<FacadeParts, 'allows'> & { complete: CompleteReads },
  settings: Pick<FacadeSettings, 'maxIncluded'>,
  caller: Caller,
  includes: readonly Include[],
  { rows: matched, named }: { rows: readonly Matched[]; named: Named },
): Promise<{ rows: ReadableRow[]; incomplete: boolean }> {
  let incomplete = false;
  const have = new Set(matched.map(({ type, id }) => `${type}/${id}`));
  const found = new Map<string, ReadableRow>();
  const keep = (rows: readonly ReadableRow[], wanted?: ReadonlySet<string>): void => {
    for (const row of rows) {
      const key = `${row.type}/${row.id}`;
      if (!have.has(key) && (wanted === undefined || wanted.has(key))) found.set(key, row);
    }
    if (found.size > settings.maxIncluded) throw new CodedError('TOO_COSTLY', { expression: ['_include'] });
  };
  const select = async (shelf: RowShelf, condition: SqlFragment): Promise<ReadableRow[]> => {
    const found = await parts.complete.rows(caller, shelf, {
      named,
      rest: sql`${condition} order by r.type, r.id limit ${settings.maxIncluded + have.size + 1}`,
    });
    incomplete ||= found.incomplete;
    return found.rows;
  };

  const wanted = new Set<string>();
  for (const include of includes.filter((one) => !one.reverse)) {
    const prefix = `${include.parameter}=`;
    for (const { elements } of matched) {
      for (const element of elements ?? []) {
        if (!element.startsWith(prefix)) continue;
        const reference = element.slice(prefix.length);
        const type = typeOfReference(reference);
        if (include.targets.length > 0 && !include.targets.includes(type)) continue;
        if (isSearchable(type) && parts.allows(caller.actor, type, 'r')) wanted.add(reference);
      }
    }
  }
  const shelves = Map.groupBy(wanted, (reference) => SERVED_TYPES.get(typeOfReference(reference))?.shelf);
  for (const [shelf, references] of shelves) {
    if (shelf === undefined || shelf === 'ledger') continue;
    const ids = references.map((reference) => reference.slice(reference.lastIndexOf('/') + 1));
    keep(await select(shelf, sql`r.id = any(${ids}::text[])`), new Set(references));
  }

  for (const { source, parameter } of includes.filter((one) => one.reverse)) {
    const shelf = SERVED_TYPES.get(source)?.shelf;
    if (matched.length === 0 || shelf === undefined || shelf === 'ledger') continue;
    const elements = matched.map(({ type, id }) => `${parameter}=${type}/${id}`);
    keep(await select(shelf, sql`r.type = ${source} and r.elements && ${elements}::text[]`));
  }
  return { rows: [...found.values()], incomplete };
}
