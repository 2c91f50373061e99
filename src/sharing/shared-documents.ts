import { hash } from 'node:crypto';
import { CodedError } from '../errors.ts';
import { isId } from '../ids.ts';
import { objectOf, objectsOf, stringOf } from '../records/elements.ts';
import { patientResource } from '../records/fhir-out.ts';
import type { TimeRange } from '../records/fhir-time.ts';
import { isObject, type Json, type JsonObject, parseResource, textOf } from '../records/lossless-json.ts';
import { manifestHash } from '../records/manifest.ts';
import type { Manifest } from '../records/model.ts';
import type { ParsedResource } from '../store/resources.ts';
import type { OpenedObject } from '../vault/sealed-object.ts';

/** The entry that an object was fetched by, and who received it. */
export interface Received {
  inst: string;
  pat: string;
  recorder: string;
  document: string;
  version: number;
  n: number;
  category: string;
  txId: string;
  block: number;
  ciphertextHash: string;
  /** Ours. */
  institution: string;
  facility: string;
  at: Date;
}

/** What is served of an object of another institution. */
export interface SharedDocument {
  /** All rows but the Patient; ids and references are the other institution's. */
  resources: readonly ParsedResource[];
  /** Without identifiers: no MRN crosses. */
  patient: JsonObject;
  covers: TimeRange | 'unknown' | undefined;
  asOf: Date;
  manifestHash: string;
}

const SHA256_EXTENSION = 'urn:oncobridge:attachment-sha256';
/** More than any course or panel has; what is larger was not made by an assembler. */
const MAX_RESOURCES = 5000;
const MAX_BUNDLE_BYTES = 32 * 1024 * 1024;
const MAX_DEPTH = 48;
const FHIR_ID = /^[A-Za-z0-9.-]{1,64}$/;
const TYPE = /^[A-Z][A-Za-z]{2,39}$/;
/** Who stands in these stands in a directory of ours, or on the ledger; a document brings none. */
const DIRECTORY = new Set(['Practitioner', 'PractitionerRole', 'Organization', 'Location']);
const NEVER = new Set(['Patient', 'Consent', 'AuditEvent', 'Binary', 'Bundle']);
/** A narrative as `reidentify` leaves it: paragraphs of escaped text. */
const PLAIN_NARRATIVE = /^<div xmlns="http:\/\/www\.w3\.org\/1999\/xhtml">(?:<p>[^<>]*<\/p>)*<\/div>$/;

/**
 * The rows of an opened object, as the other institution serves them, or SHARED_CONTENT where the object says more than it may: an id or a
 * reference that its own inner header does not name, another patient, document or category. Nothing of it is trusted but its
 * commitment, for whoever seals may be hostile. Pure.
 */
export function sharedDocument(of: Received, opened: Pick<OpenedObject, 'inner' | 'pdf' | 'bundle'>): SharedDocument {
  const { document, version, pat } = of;
  const manifest = readManifest(of, opened.inner.manifest);
  if (Buffer.from(opened.pdf.subarray(0, 5)).toString('latin1') !== '%PDF-') throw refused('The PDF is none.');
  if (opened.bundle.length > MAX_BUNDLE_BYTES) throw refused('The Bundle is larger than any of a document.');
  const bundle = parseResource(opened.bundle, { maxLength: opened.bundle.length, maxDepth: MAX_DEPTH });
  const resources = objectsOf(bundle['entry']).map((entry) => objectOf(entry['resource']) ?? {});
  if (bundle['resourceType'] !== 'Bundle' || resources.length > MAX_RESOURCES) throw refused('The Bundle is none of a document.');

  const named = namedIds(opened.inner.resourceIds);
  const provenance = `prov-${document.slice('doc-'.length)}-${version}`;
  const kept: { key: string; resource: JsonObject }[] = [];
  let patient: JsonObject | undefined;
  for (const resource of resources) {
    const type = stringOf(resource['resourceType']) ?? '';
    const id = textOf(resource['id']) ?? '';
    if (!TYPE.test(type) || !FHIR_ID.test(id)) throw refused('A resource has no type or id.');
    const key = `${type}/${id}`;
    if (type === 'Patient') {
      if (id !== pat || patient !== undefined) throw refused('It is about another patient.');
      patient = resource;
    } else if (key === `DocumentReference/${document}` || key === `Provenance/${provenance}` || (!NEVER.has(type) && named.has(key))) {
      if (!DIRECTORY.has(type)) kept.push({ key, resource });
    } else throw refused('An id is none that its header names.');
  }
  const served = new Set(kept.map(({ key }) => key));
  if (patient === undefined || served.size !== kept.length || !served.has(`DocumentReference/${document}`))
    throw refused('A part is missing or doubled.');

  const binaries = new Set([`Binary/${document}-pdf`, `Binary/${document}-fhir`]);
  const scope: Scope = { served: new Set([...served, ...binaries, `Patient/${pat}`]), named };
  const rows = kept.map(({ key, resource }): ParsedResource => {
    const clean = cleaned(resource, scope);
    const [type = '', id = ''] = key.split('/');
    return { type, id, resource: key === `DocumentReference/${document}` ? withFacts(clean, document, opened.pdf) : clean };
  });
  const received = receivedProvenance(of);
  return {
    resources: [
      ...rows,
      ...[
        ['pdf', 'application/pdf'],
        ['fhir', 'application/fhir+json'],
      ].map(([part, contentType]): ParsedResource => {
        const id = `${document}-${part}`;
        return { type: 'Binary', id, resource: { resourceType: 'Binary', id, contentType } };
      }),
      { type: 'Provenance', id: stringOf(received['id']) ?? '', resource: received },
    ],
    patient: patientResource(pat, patient, []),
    covers: coversOf(opened.inner.covers, manifest),
    asOf: new Date(manifest.asOf),
    manifestHash: manifestHash(manifest),
  };
}

function readManifest(of: Received, given: unknown): Manifest {
  const manifest = given as Partial<Manifest> | null;
  const same =
    typeof manifest === 'object' &&
    manifest !== null &&
    manifest.document === of.document &&
    manifest.version === of.version &&
    manifest.category === of.category &&
    manifest.patient === of.pat;
  if (!same || !isId('doc', of.document)) throw refused('Its manifest is of another document.');
  const lists = [manifest.own, manifest.context];
  const whole =
    lists.every((list) => Array.isArray(list) && list.every((record) => typeof record === 'object' && record !== null)) &&
    typeof manifest.demographics === 'object' &&
    manifest.demographics !== null &&
    typeof manifest.asOf === 'string' &&
    !Number.isNaN(Date.parse(manifest.asOf));
  if (!whole) throw refused('Its manifest is not whole.');
  return manifest as Manifest;
}

/** `Type/id` of all that the header gave an id to. */
function namedIds(resourceIds: unknown): Set<string> {
  if (typeof resourceIds !== 'object' || resourceIds === null) throw refused('Its header names no ids.');
  const named = new Set<string>();
  for (const [ref, id] of Object.entries(resourceIds)) {
    const [type = ''] = ref.split('/');
    // As every assembler makes them: neither a document's, a patient's nor a consent's id, whoever's it may be.
    if (typeof id !== 'string' || !isId('res', id)) throw refused('Its header names what is no id of a resource.');
    if (!NEVER.has(type)) named.add(`${type}/${id}`);
  }
  return named;
}

interface Scope {
  served: ReadonlySet<string>;
  named: ReadonlySet<string>;
}
type Writable = { [key: string]: Json | undefined };

/** The resource with references to nothing but what is served with it; what else its header names keeps its display. */
function cleaned(resource: JsonObject, scope: Scope): JsonObject {
  return (cleanValue(resource, '', scope) as JsonObject | undefined) ?? {};
}

function cleanValue(value: Json | undefined, key: string, scope: Scope): Json | undefined {
  if (Array.isArray(value)) {
    const items = (value as readonly Json[]).flatMap((item) => cleanValue(item, key, scope) ?? (item === null ? [null] : []));
    return items.length === 0 && value.length > 0 ? undefined : items;
  }
  if (!isObject(value)) return value;
  if (key === 'text' && typeof value['div'] === 'string' && !PLAIN_NARRATIVE.test(value['div'])) return undefined;
  const out: Writable = {};
  for (const [name, item] of Object.entries(value)) {
    const clean =
      name === 'reference' && typeof item === 'string'
        ? referenceOf(item, scope)
        : name === 'url' && typeof item === 'string' && key !== 'extension' && key !== 'modifierExtension'
          ? scope.served.has(item)
            ? item
            : undefined
          : cleanValue(item, name, scope);
    if (clean !== undefined) out[name] = clean;
  }
  return Object.keys(out).length === 0 && Object.keys(value).length > 0 ? undefined : out;
}

function referenceOf(reference: string, scope: Scope): string | undefined {
  if (reference.startsWith('#')) return reference;
  const target = reference.replace(/\/_history\/\d+$/, '');
  if (scope.served.has(target)) return reference;
  if (scope.named.has(target)) return undefined;
  throw refused('A reference leads out of the document.');
}

/** What the Bundle inside the PDF could not say of the PDF: its size and hashes. */
function withFacts(reference: JsonObject, document: string, pdf: Uint8Array): JsonObject {
  const contents = objectsOf(reference['content']);
  const attachment = objectOf(contents[0]?.['attachment']);
  if (contents.length !== 1 || attachment === undefined || attachment['url'] !== `Binary/${document}-pdf`)
    throw refused('Its attachment is another.');
  const facts = {
    size: pdf.length,
    hash: hash('sha1', pdf, 'base64'),
    extension: [{ url: SHA256_EXTENSION, valueString: hash('sha256', pdf, 'hex') }],
  };
  return { ...reference, content: [{ ...contents[0], attachment: { ...attachment, ...facts } }] };
}

/** Ours: by which entry it came, and when. */
function receivedProvenance(of: Received): JsonObject {
  return {
    resourceType: 'Provenance',
    id: `recv-${of.document.slice('doc-'.length)}-${of.version}`,
    target: [{ reference: `DocumentReference/${of.document}` }],
    recorded: of.at.toISOString(),
    activity: {
      coding: [
        {
          system: 'http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle',
          code: 'receive',
          display: 'Receive/Retain Record Lifecycle Event',
        },
      ],
    },
    agent: [
      {
        type: {
          coding: [
            { system: 'http://terminology.hl7.org/CodeSystem/provenance-participant-type', code: 'custodian', display: 'Custodian' },
          ],
        },
        who: { identifier: { system: 'urn:oncobridge:institution', value: of.institution }, display: `oncobridge at ${of.facility}` },
      },
    ],
    entity: [
      {
        role: 'source',
        what: {
          identifier: {
            system: 'urn:oncobridge:entry',
            value: `${of.inst}/${of.pat}/${of.recorder}/${of.document}/${of.version}/${of.n}`,
          },
          display: `Entry of ${of.recorder} in transaction ${of.txId}, block ${of.block}, ciphertext SHA-256 ${of.ciphertextHash}`,
        },
      },
    ],
  };
}

const BOUND = /^(?:-?infinity|\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z)$/;

/** Objects of before the header said it: with context drawn, nobody can tell what time the document covers. */
function coversOf(covers: OpenedObject['inner']['covers'], manifest: Manifest): TimeRange | 'unknown' | undefined {
  if (covers === undefined) return manifest.context.length > 0 ? 'unknown' : undefined;
  const { start, end } = covers;
  if (typeof start !== 'string' || typeof end !== 'string' || !BOUND.test(start) || !BOUND.test(end))
    throw refused('The time it covers is none.');
  return { start, end };
}

function refused(diagnostics: string): CodedError {
  return new CodedError('SHARED_CONTENT', { diagnostics });
}
