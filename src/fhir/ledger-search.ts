import { CodedError } from '../errors.ts';
import type { Caller, FacadeParts, ServedResource } from './ports.ts';
import { type Clause, patientIds, type SearchQuery } from './search-query.ts';

/** Consents that the caller may see, of the patients that the query names; the search filters, sorts and pages them. */
export async function consentsFor(
  parts: Pick<FacadeParts, 'consents'>,
  caller: Caller,
  query: SearchQuery,
): Promise<readonly ServedResource[]> {
  const patients = namedPatients(query.clauses);
  return parts.consents.searchConsents(caller.actor, { now: caller.now, ...(patients !== undefined ? { patients } : {}) });
}

/** One page of audit events: by patient and date, newest first, nothing else. */
export async function auditEventPage(
  parts: Pick<FacadeParts, 'auditEvents'>,
  caller: Caller,
  query: SearchQuery,
  after: string | undefined,
): Promise<{ resources: readonly ServedResource[]; after?: string }> {
  const refuse = (name: string): CodedError => new CodedError('PARAMETER_UNKNOWN', { expression: [name] });
  for (const { parameter, modifier } of query.clauses) {
    if ((parameter.name !== 'patient' && parameter.name !== 'date') || modifier !== undefined) throw refuse(parameter.name);
  }
  if (query.includes.length > 0) throw refuse('_include');
  if (query.summary === 'count') throw refuse('_summary');
  if (query.sort.length > 1 || query.sort.some((key) => key.parameter.name !== 'date' || !key.descending)) throw refuse('_sort');
  const patients = namedPatients(query.clauses);
  const { from, until } = bounds(query.clauses.filter((clause) => clause.parameter.name === 'date'));
  return parts.auditEvents.searchAuditEvents(caller.actor, {
    now: caller.now,
    count: query.count,
    ...(patients !== undefined ? { patients } : {}),
    ...(from !== undefined ? { from: new Date(from) } : {}),
    ...(until !== undefined ? { until: new Date(until) } : {}),
    ...(after !== undefined ? { after } : {}),
  });
}

/** Patients that every `patient` clause allows; undefined where none is named. */
function namedPatients(clauses: readonly Clause[]): string[] | undefined {
  let named: Set<string> | undefined;
  for (const clause of clauses) {
    if (clause.parameter.name !== 'patient' || clause.modifier !== undefined) continue;
    const ids = new Set(patientIds(clause));
    named = named === undefined ? ids : named.intersection(ids);
  }
  return named === undefined ? undefined : [...named];
}

/** Date clauses on an instant as one inclusive span, milliseconds. */
function bounds(clauses: readonly Clause[]): { from?: number; until?: number } {
  let from = -Infinity;
  let until = Infinity;
  for (const { any } of clauses) {
    const [match, ...others] = any;
    if (match?.kind !== 'date' || others.length > 0 || match.prefix === 'ne') {
      throw new CodedError('PARAMETER_INVALID', { diagnostics: 'One date with eq, gt, ge, lt or le.', expression: ['date'] });
    }
    const [start, end] = [Date.parse(match.range.start), Date.parse(match.range.end)];
    if (match.prefix === 'eq') [from, until] = [Math.max(from, start), Math.min(until, end)];
    else if (match.prefix === 'ge') from = Math.max(from, start);
    else if (match.prefix === 'gt' || match.prefix === 'sa') from = Math.max(from, end + 1);
    else if (match.prefix === 'le') until = Math.min(until, end);
    else until = Math.min(until, start - 1);
  }
  return { ...(from > -Infinity ? { from } : {}), ...(until < Infinity ? { until } : {}) };
}
