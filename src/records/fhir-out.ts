import { type AssemblyRecord, refOf } from './assembly.ts';
import { compareText, LOINC, objectOf, objectsOf, stringOf, stringsOf } from './elements.ts';
import { type Json, type JsonObject, stringifyLossless, textOf } from './lossless-json.ts';
import type { ClinicalDocument, Manifest } from './model.ts';
import { type Authority, identifiersOf } from './patient-identity.ts';
import { type Identities, reidentify } from './reidentify.ts';

/** The document type of each category. */
const DOCUMENT_TYPES: Readonly<Record<string, { code: string; display: string }>> = {
  laboratory: { code: '11502-2', display: 'Laboratory report' },
  'history-and-physical': { code: '34117-2', display: 'History and physical note' },
  'radiation-dose': { code: '68602-2', display: 'Radiation oncology Summary note' },
};
export const CATEGORY_SYSTEM = 'urn:oncobridge:category';
export const RECORD_SYSTEM = 'urn:oncobridge:record';
/**
 * Base of the full urls inside a document. `.invalid` never resolves (RFC 2606): a document must read the same wherever it is
 * opened, so it cannot name the server that happens to hold it.
 */
export const FULL_URL_BASE = 'https://oncobridge.invalid/fhir';
const SHA256_EXTENSION = 'urn:oncobridge:attachment-sha256';

export interface BundleInput {
  manifest: Manifest;
  document: ClinicalDocument;
  /** Source resources that the document is about and that it carries; `own`, and volumes or specimens drawn with them. */
  records: readonly AssemblyRecord[];
  patient: JsonObject;
  authorities: readonly Authority[];
  identities: Identities;
  /** The LOINC type of this very document where the config or the source names one; else the category's. */
  documentType?: { code: string; display?: string };
  /** Where the rendered PDF is served: `Binary/<id>`. */
  binaryId: string;
  /** Known only once the PDF is made; absent in the Bundle that the PDF itself carries. */
  pdf?: { sizeBytes: number; sha1Base64: string; sha256Hex: string };
  withdrawn?: boolean;
  /** Display of the practitioner or organisation that wrote the source record, with our id where the directory has one. */
  authors?: readonly { reference?: string; display: string }[];
}

export interface BundleOutput {
  bundle: JsonObject;
  /** Entries in the bundle's order: Patient, DocumentReference, Provenance, then the source's resources. */
  resources: readonly JsonObject[];
  /** What was changed on the way out, for the docs of a record; free of patient data. */
  notes: readonly string[];
}

/**
 * The FHIR R4 collection that is embedded in the PDF and served: deterministic for equal input. A record whose type and id the
 * identities do not know is a mistake of the caller and throws RangeError, for it would be lost.
 */
export function toBundle(input: BundleInput): BundleOutput {
  const notes = new Set<string>();
  const clinical: JsonObject[] = [];
  const ids: { record: AssemblyRecord; ref: string }[] = [];
  const seen = new Set<string>();
  for (const record of input.records) {
    const type = stringOf(record.resource['resourceType']) ?? '';
    const id = input.identities.resourceId(type, textOf(record.resource['id']) ?? '');
    if (id === undefined) throw new RangeError(`no id for a ${type} of the document`);
    if (seen.has(`${type}/${id}`)) continue;
    seen.add(`${type}/${id}`);
    const changed = reidentify(record.resource, id, input.identities);
    for (const note of changed.notes) notes.add(note);
    clinical.push(changed.resource);
    ids.push({ record, ref: `${type}/${id}` });
  }
  clinical.sort((a, b) => compareText(refOf(a), refOf(b)));
  const resources = [
    patientResource(input.manifest.patient, input.patient, input.authorities),
    documentReference(input),
    provenance(input, ids),
    ...clinical,
  ];
  const bundle: JsonObject = {
    resourceType: 'Bundle',
    type: 'collection',
    timestamp: instantOf(input.manifest.asOf),
    entry: resources.map((resource) => ({ fullUrl: `${FULL_URL_BASE}/${refOf(resource)}`, resource })),
  };
  return { bundle, resources, notes: [...notes].sort(compareText) };
}

/** The bytes to embed and to seal. */
export function bundleBytes(bundle: JsonObject): Uint8Array {
  return Buffer.from(stringifyLossless(bundle), 'utf8');
}

/**
 * The rendered document's DocumentReference. Its id is the document's and its versions are the document's versions.
 * `relatesTo` points at the version before.
 */
export function documentReference(input: Omit<BundleInput, 'records' | 'patient' | 'authorities'>): JsonObject {
  const { manifest, document, pdf } = input;
  const { header } = document;
  const known = input.documentType ?? DOCUMENT_TYPES[manifest.category];
  const category: Json[] = [{ coding: [{ system: CATEGORY_SYSTEM, code: manifest.category }] }];
  if (manifest.category === 'history-and-physical') {
    category.push({
      coding: [{ system: 'http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category', code: 'clinical-note' }],
    });
  }
  const clinicalTime = header.dateOfService;
  return compact({
    resourceType: 'DocumentReference',
    id: manifest.document,
    masterIdentifier: { system: 'urn:oncobridge:document', value: manifest.document },
    status: input.withdrawn ? 'entered-in-error' : 'current',
    docStatus: input.withdrawn ? 'entered-in-error' : docStatusOf(header.status),
    type: {
      coding: known === undefined ? undefined : [compact({ system: LOINC, code: known.code, display: known.display })],
      text: header.title,
    },
    category,
    subject: { reference: `Patient/${manifest.patient}`, type: 'Patient' },
    date: instantOf(manifest.asOf),
    author:
      input.authors === undefined || input.authors.length === 0
        ? undefined
        : input.authors.map((author) => compact({ reference: author.reference, display: author.display })),
    custodian: { display: manifest.facility },
    relatesTo:
      manifest.version > 1
        ? [{ code: 'replaces', target: { reference: `DocumentReference/${manifest.document}/_history/${manifest.version - 1}` } }]
        : undefined,
    content: [
      {
        attachment: compact({
          contentType: 'application/pdf',
          url: `Binary/${input.binaryId}`,
          title: header.title,
          creation: instantOf(manifest.asOf),
          size: pdf?.sizeBytes,
          hash: pdf?.sha1Base64,
          extension: pdf === undefined ? undefined : [{ url: SHA256_EXTENSION, valueString: pdf.sha256Hex }],
        }),
      },
    ],
    context: clinicalTime === undefined || !isDateTime(clinicalTime) ? undefined : { period: { start: clinicalTime } },
  });
}

/** Who made the document of what: the assembler, and one source entity for each own record. */
function provenance(input: BundleInput, ids: readonly { record: AssemblyRecord; ref: string }[]): JsonObject {
  const { manifest } = input;
  const carried = new Map(ids.map(({ record, ref }) => [`${record.source} ${refOf(record.resource)}`, ref]));
  const entities = [...manifest.own].sort((a, b) => compareText(a.record, b.record));
  return compact({
    resourceType: 'Provenance',
    id: `prov-${manifest.document.replace(/^doc-/, '')}-${manifest.version}`,
    target: [{ reference: `DocumentReference/${manifest.document}` }],
    recorded: instantOf(manifest.asOf),
    activity: {
      coding: [{ system: 'http://terminology.hl7.org/CodeSystem/v3-DataOperation', code: manifest.version > 1 ? 'UPDATE' : 'CREATE' }],
    },
    agent: [
      {
        type: {
          coding: [
            { system: 'http://terminology.hl7.org/CodeSystem/provenance-participant-type', code: 'assembler', display: 'Assembler' },
          ],
        },
        who: { display: `oncobridge at ${manifest.facility}` },
      },
    ],
    entity: entities.map((record) =>
      compact({
        role: 'source',
        // Our record id and the hash of its bytes: they prove the origin without the source's own ids.
        what: compact({
          reference: carried.get(`${record.source} ${record.type}/${record.id}`),
          identifier: { system: RECORD_SYSTEM, value: record.record },
          display: `${record.type} of ${record.source}, SHA-256 ${record.sha256}`,
        }),
      }),
    ),
  });
}

/**
 * The Patient that we serve: our id, identifiers of configured authorities, names, birth date, gender, death, telecom and
 * address. Nothing else of the source's Patient leaves: no photo, contacts, links, practitioners, religion or ethnicity.
 */
export function patientResource(pat: string, source: JsonObject, authorities: readonly Authority[]): JsonObject {
  const identifiers = identifiersOf(source, authorities);
  const mrn = authorities[0]?.id;
  return compact({
    resourceType: 'Patient',
    id: pat,
    identifier: identifiers.map((identifier) =>
      compact({
        use: identifier.old ? 'old' : 'usual',
        type:
          identifier.authority === mrn
            ? {
                coding: [{ system: 'http://terminology.hl7.org/CodeSystem/v2-0203', code: 'MR', display: 'Medical record number' }],
                text: identifier.display,
              }
            : { text: identifier.display },
        system: identifier.system,
        value: identifier.value,
      }),
    ),
    active: typeof source['active'] === 'boolean' ? source['active'] : undefined,
    name: objectsOf(source['name']).map((name) =>
      compact({
        use: stringOf(name['use']),
        text: stringOf(name['text']),
        family: stringOf(name['family']),
        given: stringsOf(name['given']),
        prefix: stringsOf(name['prefix']),
        suffix: stringsOf(name['suffix']),
        period: periodOf(name['period']),
      }),
    ),
    telecom: objectsOf(source['telecom']).map((point) =>
      compact({ system: stringOf(point['system']), value: textOf(point['value']), use: stringOf(point['use']) }),
    ),
    gender: stringOf(source['gender']),
    birthDate: stringOf(source['birthDate']),
    deceasedBoolean: typeof source['deceasedBoolean'] === 'boolean' ? source['deceasedBoolean'] : undefined,
    deceasedDateTime: stringOf(source['deceasedDateTime']),
    address: objectsOf(source['address']).map((address) =>
      compact({
        use: stringOf(address['use']),
        text: stringOf(address['text']),
        line: stringsOf(address['line']),
        city: stringOf(address['city']),
        district: stringOf(address['district']),
        state: stringOf(address['state']),
        postalCode: textOf(address['postalCode']),
        country: stringOf(address['country']),
        period: periodOf(address['period']),
      }),
    ),
  });
}

function periodOf(period: Json | undefined): JsonObject | undefined {
  const source = objectOf(period);
  return source === undefined ? undefined : compact({ start: stringOf(source['start']), end: stringOf(source['end']) });
}

/** CompositionStatus out of what the header says: everything that is not a draft or a correction stands as final. */
function docStatusOf(status: string): string {
  switch (status) {
    case 'draft':
    case 'preliminary':
    case 'partial':
    case 'registered':
    case 'in-progress':
    case 'planned':
    case 'on-hold':
      return 'preliminary';
    case 'amended':
    case 'corrected':
    case 'appended':
      return 'amended';
    case 'entered-in-error':
    case 'withdrawn':
    case 'cancelled':
      return 'entered-in-error';
    default:
      return 'final';
  }
}

function isDateTime(text: string): boolean {
  return /^\d{4}(-\d{2}(-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2}))?)?)?$/.test(text);
}
/** An instant needs time and offset: a mere date becomes its midnight, UTC. */
function instantOf(text: string): string {
  return /T/.test(text) ? text : `${text.length === 4 ? `${text}-01-01` : text.length === 7 ? `${text}-01` : text}T00:00:00Z`;
}

/** Without undefined members, empty arrays and empty objects, which FHIR's JSON does not allow. */
function compact(members: { readonly [key: string]: Json | undefined }): JsonObject {
  const out: { [key: string]: Json } = {};
  for (const [key, value] of Object.entries(members)) {
    if (value === undefined || (Array.isArray(value) && value.length === 0)) continue;
    if (typeof value === 'object' && value !== null && !Array.isArray(value) && Object.keys(value).length === 0) continue;
    out[key] = value;
  }
  return out;
}
