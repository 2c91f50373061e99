import { CodedError } from '../errors.ts';
import { type SqlFragment, sql } from '../store/sql.ts';
import { access, type Found, patientsOf, RESOURCE_ID, tagOf, textOfRow, withAbsoluteUrls } from './access.ts';
import { createCompleteReads } from './complete-reads.ts';
import { findMisfiled, MISFILED_REVIEW, misfiledReference } from './misfiled.ts';
import type { Answer, Caller, FacadeParts, FacadeSettings, ServedResource } from './ports.ts';
import { columns, doubt, ownRows, type ReadableRow } from './readable.ts';
import { SERVED_TYPES } from './served-types.ts';

/** If-None-Match and If-Modified-Since of a read: they are looked at after consent, for a 304 is a disclosure too. */
export interface Conditions {
  ifNoneMatch?: string;
  ifModifiedSince?: string;
}

export interface Reader {
  /** The current version. Throws NOT_FOUND for hidden and missing alike. */
  read(caller: Caller, type: string, id: string, conditions?: Conditions): Promise<Answer>;
  /** One version; only the one that the ledger lets stand can be read. */
  vread(caller: Caller, type: string, id: string, version: string, conditions?: Conditions): Promise<Answer>;
  /** A history Bundle of the versions that can be read: superseded ones are not served, so it has one entry. */
  history(caller: Caller, type: string, id: string): Promise<Answer>;
}

export const FHIR_JSON = 'application/fhir+json; charset=utf-8';

export function createReader(parts: FacadeParts, settings: FacadeSettings): Reader {
  const complete = createCompleteReads(parts);

  async function find(caller: Caller, type: string, id: string, version?: string): Promise<{ row: ReadableRow; text: string }> {
    return (await look(caller, type, id, version)) ?? Promise.reject(new CodedError('NOT_FOUND'));
  }

  async function look(caller: Caller, type: string, id: string, version?: string): Promise<{ row: ReadableRow; text: string } | undefined> {
    const shelf = SERVED_TYPES.get(type)?.shelf;
    if (shelf === undefined || shelf === 'ledger' || !RESOURCE_ID.test(id)) throw new CodedError('NOT_FOUND');
    if (version !== undefined && !/^[1-9]\d{0,8}$/.test(version)) throw new CodedError('NOT_FOUND');
    const ofVersion: SqlFragment = version === undefined ? sql`` : sql` and r.version = ${Number(version)}`;
    const direct = async (): Promise<ReadableRow | undefined> => {
      const { cte, from } = ownRows(parts, caller, shelf, 'direct');
      // Who is linked to somebody of another institution is shown with what the whole scope says of both.
      const also =
        shelf === 'patient'
          ? sql`, exists (select 1 from patient_link l where l.own_pat = r.pat and l.state = 'confirmed') as linked`
          : sql``;
      // The directory is read by what refers to its rows, which no index look-up by id finds.
      const [found] = await (shelf === 'directory' ? parts.database : parts.reads).query<ReadableRow & { linked?: boolean }>(
        sql`with ${cte} select ${columns(shelf)}${also} ${from} and r.id = ${id} and r.type = ${type}${ofVersion}`,
      );
      return found?.linked === true ? undefined : found;
    };
    const whole = async (): Promise<ReadableRow | undefined> => {
      const more = shelf === 'document' ? sql`, r.document` : sql``;
      const found = await complete.one<{ document: string }>(caller, shelf, {
        type,
        id,
        document: type === 'DocumentReference' ? id : undefined,
        more,
        ...(version === undefined ? {} : { version: Number(version) }),
      });
      if (found?.doubtful === true) throw doubt(parts, found);
      return found;
    };
    // What is not granted directly is looked for in the whole scope, hidden and missing alike.
    const row = (await direct()) ?? (await whole());
    if (row === undefined) return undefined;
    return { row, text: withAbsoluteUrls(type, await textOfRow(parts, row), settings.baseUrl) };
  }

  /** For a privacy officer of ours: what was filed to the wrong person. It is about nobody whom we could name. */
  async function misfiled(caller: Caller, id: string, conditions: Conditions, version?: string): Promise<Found<Answer>> {
    const row = await findMisfiled(parts, caller, id, version === undefined ? undefined : Number(version));
    if (row === undefined) throw new CodedError('NOT_FOUND');
    const versionId = String(row.version);
    const text = withAbsoluteUrls('DocumentReference', misfiledReference(row), settings.baseUrl);
    const answer = resourceAnswer({ versionId, lastUpdated: row.withdrawn_at, text }, conditions);
    return { answer, patients: [], height: row.height, versionId, reason: MISFILED_REVIEW };
  }

  async function ledgerResource(caller: Caller, type: string, id: string): Promise<ServedResource> {
    if (!RESOURCE_ID.test(id)) throw new CodedError('NOT_FOUND');
    const resource =
      type === 'Consent'
        ? await parts.consents.readConsent(caller.actor, id, caller.now)
        : await parts.auditEvents.readAuditEvent(caller.actor, id, caller.now);
    if (resource === undefined) throw new CodedError('NOT_FOUND');
    return resource;
  }

  async function one(caller: Caller, type: string, id: string, conditions: Conditions, version?: string): Promise<Found<Answer>> {
    if (SERVED_TYPES.get(type)?.shelf === 'ledger') {
      const resource = await ledgerResource(caller, type, id);
      return { answer: resourceAnswer(resource, conditions), patients: resource.patients, versionId: resource.versionId };
    }
    const found = await look(caller, type, id, version);
    if (found === undefined && type === 'DocumentReference' && caller.breakGlass !== true) return misfiled(caller, id, conditions, version);
    if (found === undefined) throw new CodedError('NOT_FOUND');
    const { row, text } = found;
    const versionId = String(row.version);
    // A link that came or went changes no time.
    const { ifModifiedSince: _since, ...byTag } = conditions;
    const tagged = type === 'Patient' ? byTag : conditions;
    return {
      answer: resourceAnswer({ versionId: tagOf(row), lastUpdated: row.last_updated, text }, tagged),
      patients: patientsOf([row]),
      height: row.height,
      versionId,
    };
  }

  return {
    read: (caller, type, id, conditions = {}) =>
      access(parts, caller, { interaction: 'read', needs: [{ type, interaction: 'r' }], type, id }, (as) => one(as, type, id, conditions)),
    vread: (caller, type, id, version, conditions = {}) =>
      access(parts, caller, { interaction: 'vread', needs: [{ type, interaction: 'r' }], type, id }, (as) =>
        one(as, type, id, conditions, version),
      ),
    history: (caller, type, id) =>
      access(parts, caller, { interaction: 'history-instance', needs: [{ type, interaction: 'r' }], type, id }, async (as) => {
        const { row, text } = await find(as, type, id);
        const url = `${settings.baseUrl}/${type}/${id}`;
        const response = JSON.stringify({ status: '200', etag: `W/"${tagOf(row)}"`, lastModified: row.last_updated.toISOString() });
        const request = JSON.stringify({ method: row.version === 1 ? 'POST' : 'PUT', url: `${type}/${id}` });
        const body =
          `{"resourceType":"Bundle","type":"history","total":1,"link":[{"relation":"self","url":${JSON.stringify(`${url}/_history`)}}],` +
          `"entry":[{"fullUrl":${JSON.stringify(url)},"resource":${text},"request":${request},"response":${response}}]}`;
        return {
          answer: { status: 200, headers: { 'Content-Type': FHIR_JSON }, body },
          patients: patientsOf([row]),
          height: row.height,
        };
      }),
  };
}

/** 200 with the text, or 304 where the client holds this very version. */
export function resourceAnswer(resource: { versionId: string; lastUpdated: Date; text: string }, conditions: Conditions): Answer {
  const headers = versionHeaders(resource.versionId, resource.lastUpdated);
  if (notModified(resource.versionId, resource.lastUpdated, conditions)) return { status: 304, headers, body: undefined };
  return { status: 200, headers: { ...headers, 'Content-Type': FHIR_JSON }, body: resource.text };
}

export function versionHeaders(versionId: string, lastUpdated: Date): Record<string, string> {
  return { ETag: `W/"${versionId}"`, 'Last-Modified': lastUpdated.toUTCString() };
}

export function notModified(versionId: string, lastUpdated: Date, { ifNoneMatch, ifModifiedSince }: Conditions): boolean {
  // RFC 9110 13.1.3: If-Modified-Since is ignored where If-None-Match stands.
  if (ifNoneMatch !== undefined)
    return ifNoneMatch.split(',').some((tag) => ['*', `"${versionId}"`].includes(tag.trim().replace(/^W\//, '')));
  if (ifModifiedSince === undefined) return false;
  const since = Date.parse(ifModifiedSince);
  return !Number.isNaN(since) && Math.floor(lastUpdated.getTime() / 1000) * 1000 <= since;
}
