import { type Assembly, refOf } from './assembly.ts';
import { compareText, compareTimes, objectOf, objectsOf, stringOf, targetOf } from './elements.ts';
import { type JsonObject, textOf } from './lossless-json.ts';
import { levelOf, type RadiotherapyLevel } from './radiotherapy-codes.ts';

/** The records of one course, sorted out: one statement for each thing, and the requests that belong to it. */
export interface Records {
  course: JsonObject | undefined;
  procedures: readonly JsonObject[];
  requests: readonly JsonObject[];
  volume(ref: string): JsonObject | undefined;
  /** How many own records are not shown: withdrawn, or an older statement of the same phase. */
  withdrawn: number;
  older: number;
}

export function readRecords(assembly: Assembly): Records {
  const own = assembly.own.map((record) => record.resource);
  const standing = own.filter((resource) => resource['status'] !== 'entered-in-error');
  const procedures = standing.filter((resource) => resource['resourceType'] === 'Procedure' && levelOf(resource) !== undefined);
  const latest = newestOfEach(procedures);
  const volumes = new Map<string, JsonObject>();
  for (const { resource } of [...assembly.context, ...assembly.own])
    if (resource['resourceType'] === 'BodyStructure') volumes.set(refOf(resource), resource);
  const courses = latest.filter((resource) => levelOf(resource) === 'course').sort(newer);
  const withdrawn = own.filter((resource) => resource['status'] === 'entered-in-error').length;
  return {
    course: courses[0],
    procedures: latest.filter((resource) => levelOf(resource) !== 'course'),
    requests: newestOfEach(standing.filter((resource) => resource['resourceType'] === 'ServiceRequest' && levelOf(resource) !== undefined)),
    volume: (ref) => volumes.get(ref) ?? assembly.lookup(ref),
    withdrawn,
    older: procedures.length - latest.length,
  };
}

/**
 * One statement for each thing: records with the same permanent identifier at the same level are versions of one (CodeX's
 * own examples send an earlier moment under another id), and two versions must never be shown as two doses.
 */
function newestOfEach(resources: readonly JsonObject[]): readonly JsonObject[] {
  const byIdentity = new Map<string, JsonObject>();
  for (const resource of [...resources].sort(newer)) {
    const identity = `${levelOf(resource)} ${stringOf(resource['intent']) ?? ''} ${permanentIdentifier(resource) ?? refOf(resource)}`;
    if (!byIdentity.has(identity)) byIdentity.set(identity, resource);
  }
  return [...byIdentity.values()].sort((a, b) => compareText(refOf(a), refOf(b)));
}
export function newer(a: JsonObject, b: JsonObject): number {
  const time = (resource: JsonObject): string | undefined => stringOf(objectOf(resource['meta'])?.['lastUpdated']);
  return compareTimes(time(b), time(a)) || compareText(refOf(a), refOf(b));
}
function permanentIdentifier(resource: JsonObject): string | undefined {
  for (const identifier of objectsOf(resource['identifier'])) {
    const system = stringOf(identifier['system']) ?? '';
    const value = textOf(identifier['value']);
    if (value !== undefined && (system === 'urn:dicom:uid' || system.endsWith('/RadOnc-Id'))) return `${system}|${value}`;
  }
  return undefined;
}

export interface Requests {
  planned: JsonObject | undefined;
  prescribed: JsonObject | undefined;
}
/** The requests of the same level that a procedure is based on; for a course without such links, the course level's own. */
export function requestsOf(records: Records, procedure: JsonObject | undefined, level: RadiotherapyLevel): Requests {
  const targets = new Set(objectsOf(procedure?.['basedOn']).map((reference) => targetOf(reference)));
  const sameLevel = records.requests.filter((request) => levelOf(request) === level);
  let linked = sameLevel.filter((request) => targets.has(refOf(request)));
  if (linked.length === 0 && level === 'course') linked = sameLevel.filter((request) => request['status'] !== 'revoked');
  // A phase's prescription is often named by its plan's request only: one step further up the same level.
  const further = new Set(linked.flatMap((request) => objectsOf(request['basedOn']).map((reference) => targetOf(reference))));
  const all = [...linked, ...sameLevel.filter((request) => further.has(refOf(request)) && !linked.includes(request))];
  const live = (request: JsonObject): number => (request['status'] === 'revoked' ? 1 : 0);
  const ordered = [...all].sort((a, b) => live(a) - live(b) || newer(a, b));
  return {
    planned: ordered.find((request) => request['intent'] !== 'original-order'),
    prescribed: ordered.find((request) => request['intent'] === 'original-order'),
  };
}
