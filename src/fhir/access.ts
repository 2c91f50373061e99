import { hash } from 'node:crypto';
import type { AccessEvent } from '../audit/audit.ts';
import { isEmergency } from '../auth/purposes.ts';
import type { Interaction } from '../auth/scopes.ts';
import { CodedError, codeOf } from '../errors.ts';
import { isObject, type Json, parseResource, stringifyLossless } from '../records/lossless-json.ts';
import { resourcePlace } from '../store/resources.ts';
import { holderName } from '../vault/holder.ts';
import type { Caller, FacadeParts, PatientKey } from './ports.ts';
import { hasEmergency, type ReadableRow } from './readable.ts';
import { SERVED_TYPES } from './served-types.ts';

/** What an operation found: its answer, and what the audit must say of it. */
export interface Found<T> {
  answer: T;
  patients: readonly PatientKey[];
  height?: number | null;
  versionId?: string;
  /** What permits it, where that is no permission of the patient's. */
  reason?: string;
}

/**
 * Runs one operation: scopes of the token first (from the request alone), then freshness, then the work; the audit event
 * is committed before the answer is handed back, and the same one for hidden and missing (architecture section 8).
 */
export async function access<T>(
  parts: Pick<FacadeParts, 'audit' | 'allows' | 'fresh' | 'database' | 'readableScope'>,
  caller: Caller,
  event: {
    interaction: AccessEvent['interaction'];
    needs: readonly { type: string; interaction: Interaction }[];
    type: string;
    id?: string;
    /** True for what only takes away: it is done here at once, however old the view of the ledger is. */
    evenStale?: boolean;
  },
  /** Given the caller back, with `breakGlass` where only that is to be served. */
  work: (caller: Caller) => Promise<Found<T>>,
): Promise<T> {
  const { actor } = caller;
  const base = {
    interaction: event.interaction,
    actor,
    requestId: caller.requestId,
    purpose: actor.purpose,
    ...(caller.address !== undefined ? { address: caller.address } : {}),
    ...(caller.query !== undefined ? { query: caller.query } : {}),
  };
  const resource = { type: event.type, ...(event.id !== undefined ? { id: event.id } : {}) };
  let found: Found<T>;
  try {
    for (const need of event.needs) if (!parts.allows(actor, need.type, need.interaction)) throw new CodedError('FORBIDDEN');
    if (event.evenStale === true || (await parts.fresh())) found = await work(caller);
    else found = await whileStale(parts, caller, event.type, work);
  } catch (error) {
    const reason = codeOf(error) ?? 'INTERNAL';
    const outcome = reason === 'NOT_FOUND' || reason === 'FORBIDDEN' ? 'denied' : 'failed';
    await parts.audit.record({ ...base, outcome, reason, patients: [], resource });
    throw error;
  }
  await parts.audit.record({
    ...base,
    outcome: 'permitted',
    ...(found.reason === undefined ? {} : { reason: found.reason }),
    patients: found.patients,
    resource: { ...resource, ...(found.versionId !== undefined ? { versionId: found.versionId } : {}) },
    ...(found.height !== undefined && found.height !== null ? { decision: { height: found.height } } : {}),
  });
  return found.answer;
}

/**
 * While the view of the ledger is too old: what an emergency opens that the caller declared before, and of everything else, hidden
 * and missing alike, that it cannot be said now (protocol section 5).
 */
async function whileStale<T>(
  parts: Pick<FacadeParts, 'database' | 'readableScope'>,
  caller: Caller,
  type: string,
  work: (caller: Caller) => Promise<Found<T>>,
): Promise<Found<T>> {
  const stale = new CodedError('STALE', { retryAfterSeconds: 15 });
  // Permissions and the audit trail are the view itself.
  if (!isEmergency(caller.actor.purpose) || SERVED_TYPES.get(type)?.shelf === 'ledger') throw stale;
  if (!(await hasEmergency(parts, caller))) throw stale;
  try {
    return { ...(await work({ ...caller, breakGlass: true })), reason: 'EMERGENCY' };
  } catch (error) {
    throw codeOf(error) === 'NOT_FOUND' ? stale : error;
  }
}

/** The text of a row: opened where it is sealed; of a Patient with the links that this caller may see. */
export async function textOfRow(parts: Pick<FacadeParts, 'rows' | 'institution'>, row: ReadableRow): Promise<string> {
  if (typeof row.body === 'string') return row.body;
  const { inst, pat, category } = row;
  if (inst === null || pat === null || category === null)
    throw new CodedError('INTERNAL', { diagnostics: 'A sealed row without a patient.' });
  const holder = holderName(parts.institution, { institution: inst, patient: pat });
  const text = (await parts.rows.open(holder, category, resourcePlace(row.id, row.version), row.body)).toString('utf8');
  return withLinks(text, row.links ?? []);
}

/** Patient.link (protocol section 8): the same person under another pseudonym. */
function withLinks(text: string, links: readonly string[]): string {
  if (links.length === 0) return text;
  const resource = parseResource(text);
  const former = Array.isArray(resource['link']) ? (resource['link'] as readonly Json[]) : [];
  const added = links.map((id) => ({ other: { reference: `Patient/${id}` }, type: 'seealso' }));
  return stringifyLossless({ ...resource, link: [...former.filter(isObject), ...added] });
}

/** What an ETag names: the version, and with it the links that this caller sees. */
export function tagOf(row: Pick<ReadableRow, 'version' | 'links'>): string {
  const { version, links } = row;
  if (links === undefined || links === null || links.length === 0) return String(version);
  return `${version}-${hash('sha256', links.join()).slice(0, 16)}`;
}

/** The patients of rows, each once, for the audit. */
export function patientsOf(rows: Iterable<Pick<ReadableRow, 'inst' | 'pat'>>): PatientKey[] {
  const found = new Map<string, PatientKey>();
  for (const { inst, pat } of rows) if (inst !== null && pat !== null) found.set(`${inst}/${pat}`, { institution: inst, patient: pat });
  return [...found.values()];
}

/** Attachments are stored with relative urls; DocumentReference wants the absolute one (fhir-facade.md 2.6). */
export function withAbsoluteUrls(type: string, text: string, baseUrl: string): string {
  // Inside a JSON string every quote is escaped, so this text stands only where a member does.
  return type === 'DocumentReference' ? text.replaceAll('"url":"Binary/', `"url":${JSON.stringify(baseUrl).slice(0, -1)}/Binary/`) : text;
}

export const RESOURCE_ID = /^[A-Za-z0-9.-]{1,64}$/;
