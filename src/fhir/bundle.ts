import type { Json, JsonObject } from '../records/lossless-json.ts';
import { isObject, parseResource, stringifyLossless } from '../records/lossless-json.ts';

export interface BundleEntry {
  type: string;
  id: string;
  text: string;
  mode: 'match' | 'include';
}

/** A searchset. Resources go in as their stored text, so that no decimal is printed anew. `outcomes` are the JSON of OperationOutcomes. */
export function searchset(
  baseUrl: string,
  bundle: { entries: readonly BundleEntry[]; total?: number; self: string; next?: string; outcomes: readonly string[] },
): string {
  const link = [{ relation: 'self', url: bundle.self }, ...(bundle.next !== undefined ? [{ relation: 'next', url: bundle.next }] : [])];
  const entries = bundle.entries.map(
    ({ type, id, text, mode }) =>
      `{"fullUrl":${JSON.stringify(`${baseUrl}/${type}/${id}`)},"resource":${text},"search":{"mode":"${mode}"}}`,
  );
  for (const outcome of bundle.outcomes) entries.push(`{"resource":${outcome},"search":{"mode":"outcome"}}`);
  const total = bundle.total === undefined ? '' : `"total":${bundle.total},`;
  // An empty array is no legal FHIR JSON.
  const entry = entries.length === 0 ? '' : `,"entry":[${entries.join(',')}]`;
  return `{"resourceType":"Bundle","type":"searchset",${total}"link":${JSON.stringify(link)}${entry}}`;
}

const MANDATORY: Readonly<Record<string, readonly string[]>> = {
  Observation: ['status', 'code'],
  DiagnosticReport: ['status', 'code'],
  Procedure: ['status', 'subject'],
  ServiceRequest: ['status', 'intent', 'subject'],
  BodyStructure: ['patient'],
  DocumentReference: ['status', 'content'],
  Provenance: ['target', 'recorded', 'agent'],
  Consent: ['status', 'scope', 'category'],
  AuditEvent: ['type', 'recorded', 'agent', 'source'],
};
const ALWAYS = ['resourceType', 'id', 'meta', 'implicitRules', 'modifierExtension'];

/** The resource cut down to `_elements` (and what is mandatory), or without its narrative (`_summary=data`); tagged SUBSETTED. */
export function subset(type: string, text: string, keep: { elements?: readonly string[]; withoutText?: boolean }): string {
  const resource = parseResource(text);
  const wanted = keep.elements === undefined ? undefined : new Set([...ALWAYS, ...(MANDATORY[type] ?? []), ...keep.elements]);
  const cut: { [name: string]: Json | undefined } = {};
  for (const [name, value] of Object.entries(resource)) {
    if (keep.withoutText === true && name === 'text') continue;
    if (wanted === undefined || wanted.has(name) || (name.startsWith('_') && wanted.has(name.slice(1)))) cut[name] = value;
  }
  const meta: JsonObject = isObject(resource['meta']) ? resource['meta'] : {};
  const tags = Array.isArray(meta['tag']) ? (meta['tag'] as readonly Json[]) : [];
  cut['meta'] = { ...meta, tag: [...tags, { system: 'http://terminology.hl7.org/CodeSystem/v3-ObservationValue', code: 'SUBSETTED' }] };
  return stringifyLossless(cut);
}
