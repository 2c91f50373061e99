import { compareTimes, displayOf, objectOf, objectsOf, stringOf, targetOf } from './elements.ts';
import { type JsonObject, textOf } from './lossless-json.ts';
import { manifestHash } from './manifest.ts';
import type { DocumentHeader, Manifest } from './model.ts';
import { type Authority, currentName, demographicsOf, nameText } from './patient-identity.ts';

/** One record version, opened and parsed. */
export interface AssemblyRecord {
  source: string;
  resource: JsonObject;
  attachments?: readonly Attachment[];
}
/** As an adapter fetched it; the shape of `RawAttachment` of the source port. */
export interface Attachment {
  contentIndex: number;
  mediaType: string;
  bytes: Uint8Array;
  /** Why there are no bytes, free of patient data. */
  problem?: string;
}

export interface Assembly {
  manifest: Manifest;
  /** What the document is about; the subject's anchor first. */
  own: readonly AssemblyRecord[];
  /**
   * What it only draws: earlier results for trends, the versions before a correction of own results, volumes of other
   * courses. Only what the manifest lists may be here.
   */
  context: readonly AssemblyRecord[];
  /** The Patient whose hash the manifest holds. */
  patient: JsonObject;
  authorities: readonly Authority[];
  /** `Type/id` at the source -> directory or supporting resource (Practitioner, Organization, Specimen, Encounter, Condition …). */
  lookup(ref: string): JsonObject | undefined;
}

export const NOT_PROVIDED = 'not provided by source';

export type HeaderParts = Pick<DocumentHeader, 'title' | 'status'> & {
  dateOfService: string | undefined;
  author: string | undefined;
  signer: string | undefined;
};
/** The part of a document that is the same for every category. */
export function headerOf(assembly: Assembly, parts: HeaderParts): DocumentHeader {
  const { manifest } = assembly;
  const { name, identifiers, birthDate, sex, deceased } = demographicsOf(assembly.patient, assembly.authorities, manifest.asOf);
  return {
    category: manifest.category,
    title: parts.title,
    documentId: manifest.document,
    version: manifest.version,
    status: parts.status,
    facility: manifest.facility,
    patient: {
      name,
      identifiers,
      ...(birthDate === undefined ? {} : { birthDate }),
      ...(sex === undefined ? {} : { sex }),
      ...(deceased === undefined ? {} : { deceased }),
    },
    asOf: manifest.asOf,
    zone: manifest.zone,
    sources: manifest.own.map(({ source, type, id, versionId }) => ({ source, type, id, versionId })),
    manifestHash: manifestHash(manifest),
    ...present({ dateOfService: parts.dateOfService, author: parts.author, signer: parts.signer }),
  };
}

/** The members that are there: `exactOptionalPropertyTypes` wants absence, not undefined. */
export function present<T extends Record<string, unknown>>(members: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const found: { [K in keyof T]?: Exclude<T[K], undefined> } = {};
  for (const key in members) {
    if (members[key] !== undefined) found[key] = members[key] as Exclude<T[typeof key], undefined>;
  }
  return found;
}

/** How the one behind a reference is called: the directory's name, else the reference's display. Never an id. */
export function nameOf(assembly: Assembly, reference: JsonObject | undefined): string | undefined {
  const target = targetOf(reference);
  const resource = target === undefined ? undefined : assembly.lookup(target);
  if (resource !== undefined) {
    const name = resource['name'];
    if (typeof name === 'string') return name;
    const person = nameText(currentName(objectsOf(name), assembly.manifest.asOf));
    if (person !== undefined) return person;
    const practitioner = objectOf(resource['practitioner']);
    if (practitioner !== undefined) return nameOf(assembly, practitioner);
  }
  return displayOf(reference);
}
/** Names of several references, joined; undefined where none has one. */
export function namesOf(assembly: Assembly, references: readonly JsonObject[]): string | undefined {
  const names = [...new Set(references.map((reference) => nameOf(assembly, reference)).filter((name) => name !== undefined))];
  return names.length > 0 ? names.join('; ') : undefined;
}

export function refOf(resource: JsonObject): string {
  return `${stringOf(resource['resourceType']) ?? ''}/${textOf(resource['id']) ?? ''}`;
}

/** Record versions of one resource, newest first by issued, else lastUpdated. */
export function newestFirst(records: readonly AssemblyRecord[]): readonly AssemblyRecord[] {
  const order = (record: AssemblyRecord): string | undefined =>
    stringOf(record.resource['issued']) ?? stringOf(objectOf(record.resource['meta'])?.['lastUpdated']);
  return [...records].sort((a, b) => compareTimes(order(b), order(a)));
}
