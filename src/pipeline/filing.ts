import { createHash, hash } from 'node:crypto';
import type { Logger } from 'pino';
import { CodedError } from '../errors.ts';
import { newId } from '../ids.ts';
import type { Outbox } from '../outbox/outbox.ts';
import type { Assembly, AssemblyRecord } from '../records/assembly.ts';
import { describe } from '../records/describe.ts';
import { millisOf, stringOf } from '../records/elements.ts';
import { type BundleInput, bundleBytes, documentReference, toBundle } from '../records/fhir-out.ts';
import { hull, type TimeRange, timeRange } from '../records/fhir-time.ts';
import { assembleHistoryAndPhysical } from '../records/history-and-physical.ts';
import { analyteCode, assembleLaboratory } from '../records/laboratory.ts';
import { type JsonObject, parseResource } from '../records/lossless-json.ts';
import { manifestHash } from '../records/manifest.ts';
import type { ClinicalDocument, Manifest, ManifestRecord } from '../records/model.ts';
import { assembleRadiationDose } from '../records/radiation-dose.ts';
import type { Renderer } from '../render/renderer.ts';
import type { BlobStore } from '../store/blobs.ts';
import type { Database } from '../store/database.ts';
import { announcePuts, forgetPuts, insertDocumentVersions, type NewDocumentVersion, resourceIds } from '../store/documents.ts';
import { getPatients } from '../store/patients.ts';
import { currentByKeys, type EarlierWanted, earlierResults, previousVersions, type RecordRow, recordsById } from '../store/records.ts';
import { insertResources, prepareResources, type ResourceRows } from '../store/resources.ts';
import type { SealedObject, Sealer } from '../vault/sealed-object.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import type { DocumentDraft, OpenedRecord } from './assembly.ts';
import type { createCategoryKeys } from './category-keys.ts';
import { gather } from './gather.ts';
import type { CategoryConfig, FilingConfig, LedgerStatements } from './parts.ts';
import { digestRecord } from './raw-record.ts';
import { openRecord } from './record-seal.ts';
import type { SourceKeys } from './source-keys.ts';

const EARLIER_PER_ANALYTE = 6;
const DIRECTORY_KEPT = 500;

/** The document, and the source's files that ride inside its PDF byte for byte. */
interface Assembled {
  document: ClinicalDocument;
  files: readonly { title: string; mediaType: string; bytes: Uint8Array }[];
}
const ASSEMBLE: Record<CategoryConfig['layout'], (assembly: Assembly) => Assembled> = {
  laboratory: (assembly) => ({ document: assembleLaboratory(assembly), files: [] }),
  'history-and-physical': assembleHistoryAndPhysical,
  'radiation-dose': (assembly) => ({ document: assembleRadiationDose(assembly), files: [] }),
};

interface Prepared {
  draft: DocumentDraft;
  /** All but the outbox row, which is made with it. */
  row: Omit<NewDocumentVersion, 'outbox'>;
  sealed: SealedObject;
  resources: ResourceRows;
}

/**
 * From a draft to a filed document (architecture section 3, steps 5-8): manifest, PDF with its Bundle, sealed object, blob
 * put and durable, then one transaction for the rows of all drafts given, their outbox rows included. Killed anywhere, the
 * records are still pending and the work is done again; an object that was put is swept.
 */
export function createFiling(parts: {
  database: Database;
  blobs: BlobStore;
  rows: SealedRows;
  keys: SourceKeys;
  categoryKeys: ReturnType<typeof createCategoryKeys>;
  sealer: Sealer;
  renderer: Renderer & { layout: string };
  outbox: Outbox;
  statements: LedgerStatements;
  config: FilingConfig;
  log: Logger;
}) {
  const { database, blobs, rows, keys, categoryKeys, sealer, renderer, outbox, statements, config, log } = parts;

  const directory = new Map<string, JsonObject>();

  // The documents of a batch are prepared beside each other, so each of these is one statement for all of them.
  const patientOf = gather(async (pats: readonly string[]) => {
    const found = await getPatients(database, [...new Set(pats)]);
    return pats.map((pat) => found.get(pat));
  });
  const earlierOf = gather(async (asks: readonly (readonly EarlierWanted[])[]) => {
    const results = await earlierResults(database, asks.flat(), EARLIER_PER_ANALYTE);
    const names = asks.map((wanted) => new Set(results.splice(0, wanted.length).flat()));
    const rowsOf = new Map((await recordsById(database, [...new Set(names.flatMap((one) => [...one]))])).map((row) => [row.rec, row]));
    return names.map((one) => [...one].flatMap((rec) => rowsOf.get(rec) ?? []));
  });
  const currentOf = gather(async (asks: readonly (readonly string[])[]) => {
    const found = new Map((await currentByKeys(database, [...new Set(asks.flat())])).map((row) => [row.key, row]));
    return asks.map((keysOf) => keysOf.flatMap((key) => found.get(key) ?? []));
  });
  const idsOf = gather(async (asks: readonly (readonly { key: string; id: string }[])[]) => {
    const found = await resourceIds(database, asks.flat());
    return asks.map(() => found);
  });

  async function file(drafts: readonly DocumentDraft[]): Promise<{ filed: number; failed: { draft: DocumentDraft; error: unknown }[] }> {
    const results = await Promise.allSettled(drafts.map(prepare));
    const prepared: Prepared[] = [];
    const failed: { draft: DocumentDraft; error: unknown }[] = [];
    for (const [index, result] of results.entries()) {
      const draft = drafts[index];
      if (draft === undefined) continue;
      if (result.status === 'fulfilled') prepared.push(result.value);
      else failed.push({ draft, error: result.reason as unknown });
    }
    if (prepared.length === 0) return { filed: 0, failed };
    await announcePuts(
      database,
      prepared.map((p) => p.row.pointer),
    );
    await Promise.all(prepared.map((p) => blobs.put(p.row.pointer, p.sealed.bytes)));
    await database.transaction(async (tx) => {
      const rowIds = await outbox.addAll(
        tx,
        prepared.map(({ row }) =>
          statements.recordDocument({
            patient: row.pat,
            document: row.document,
            version: row.version,
            category: row.category,
            pointer: row.pointer,
            ciphertextHash: row.ciphertextHash,
            commitment: row.commitment,
            keyVersion: row.keyVersion,
          }),
        ),
      );
      const overtaken = await insertDocumentVersions(
        tx,
        prepared.map((p, index) => ({ ...p.row, outbox: rowIds[index] ?? '' })),
      );
      // From now on the row says where the object lies.
      await forgetPuts(
        tx,
        prepared.map((p) => p.row.pointer),
      );
      if (overtaken.length > 0) throw new CodedError('CONFLICT', { diagnostics: `Subjects moved on: ${overtaken.join(' ')}` });
      await insertResources(
        tx,
        prepared.map((p) => p.resources),
      );
    });
    outbox.wake();
    for (const p of prepared)
      log.info(
        { document: p.row.document, version: p.row.version, category: p.row.category, sizeBytes: p.row.sizeBytes },
        'document filed',
      );
    return { filed: prepared.length, failed };
  }

  async function prepare(draft: DocumentDraft): Promise<Prepared> {
    // Before anything is drawn: without a key it waits.
    const key = await categoryKeys.sealingKey(draft.subject.pat, draft.subject.category);
    const { assembly, document, files, carried, drawnTimes, category, ids } = await describeDocument(draft);
    const { manifest } = assembly;
    const input: BundleInput = {
      manifest,
      document,
      records: carried,
      patient: assembly.patient,
      authorities: config.authorities,
      identities: { patient: draft.subject.pat, resourceId: (type, id) => ids[`${type}/${id}`] },
      documentType: { code: category.loinc, display: category.title },
      binaryId: `${manifest.document}-pdf`,
    };
    const made = toBundle(input);
    const embedded = bundleBytes(made.bundle);
    const sources = files.map(({ title, mediaType, bytes }) => ({ name: title, mediaType, bytes }));
    const pdf = await renderer.render(document, { bundle: embedded, sources });
    const clinicalTime = document.header.dateOfService;
    const sealed = await sealer.seal({
      institution: config.institution,
      document: manifest.document,
      version: manifest.version,
      patient: draft.subject.pat,
      category: manifest.category,
      categoryKey: key,
      inner: { manifest, resourceIds: ids, ...(clinicalTime === undefined ? {} : { clinicalTime }), ...covers(drawnTimes) },
      pdf,
      bundle: embedded,
    });
    // What is served says of the PDF what the Bundle inside it could not: its size and hashes.
    const facts = { sizeBytes: pdf.length, sha1Base64: hash('sha1', pdf, 'base64'), sha256Hex: hash('sha256', pdf, 'hex') };
    const served: JsonObject[] = [
      documentReference({ ...input, pdf: facts }),
      ...made.resources.filter((resource) => resource['resourceType'] !== 'Patient' && resource['id'] !== manifest.document),
      ...binaries(manifest.document),
    ];
    const millis = millisOf(clinicalTime);
    return {
      draft,
      sealed,
      resources: await prepareResources(rows, {
        institution: config.institution,
        patient: draft.subject.pat,
        category: manifest.category,
        document: manifest.document,
        version: manifest.version,
        lastUpdated: new Date(),
        // The PDF draws earlier values beside its own: who may not see their time may not see the document.
        ...covers(drawnTimes),
        resources: served.map((resource) => ({
          type: stringOf(resource['resourceType']) ?? '',
          id: stringOf(resource['id']) ?? '',
          resource,
        })),
      }),
      row: {
        document: manifest.document,
        version: manifest.version,
        sub: draft.subject.sub,
        pat: draft.subject.pat,
        category: manifest.category,
        pointer: `${config.institution}/${sealed.ciphertextHash}`,
        ciphertextHash: sealed.ciphertextHash,
        commitment: sealed.commitment,
        keyVersion: key.version,
        sizeBytes: sealed.bytes.length,
        manifestHash: manifestHash(manifest),
        clinicalTime: millis === undefined ? null : new Date(millis),
        header: await rows.seal(
          draft.subject.pat,
          manifest.category,
          `header/${manifest.document}/${manifest.version}`,
          Buffer.from(JSON.stringify({ manifest, resourceIds: ids })),
        ),
        ownHash: draft.ownHash,
        ownRecords: draft.own.map((record) => record.row.rec),
      },
    };
  }
  /** The manifest of a draft, and everything opened that it names. */
  async function describeDocument(draft: DocumentDraft) {
    const category = config.categories.find((one) => one.id === draft.subject.category);
    const patientRow = await patientOf(draft.subject.pat);
    if (category === undefined || !patientRow?.demographics) throw new Error('a subject without category or patient');
    const demographics = await rows.open(draft.subject.pat, 'core', `demographics/${draft.subject.pat}`, patientRow.demographics);
    const patient = parseResource(demographics);
    const drawn = [...draft.context, ...(await earlier(draft)), ...(await before(draft))];
    const manifest: Manifest = {
      format: 1,
      layout: renderer.layout,
      category: category.id,
      subject: draft.subject.sub,
      document: draft.subject.document,
      version: draft.subject.version + 1,
      patient: draft.subject.pat,
      demographics: { recordSha256: createHash('sha256').update(demographics).digest('hex') },
      own: draft.own.map(named),
      context: drawn.map(named),
      zone: config.zone,
      asOf: asOf(draft.own),
      facility: config.facility,
      configHash: config.configHash,
    };
    const people = await lookups(draft);
    const assembly: Assembly = {
      manifest,
      own: draft.own.map(forAssembly),
      context: drawn.map(forAssembly),
      patient,
      authorities: config.authorities,
      lookup: (ref) => people.get(ref),
    };
    // Volumes of another course are drawn and carried here too, as rows of their own with ids of their own.
    const carried = [...draft.own, ...draft.context].map(forAssembly);
    const drawnTimes = [...draft.own, ...drawn].flatMap((record) => record.description.clinicalTime ?? []);
    return {
      assembly,
      carried,
      drawnTimes,
      category,
      ...ASSEMBLE[category.layout](assembly),
      ids: await identities(draft, [...people.keys()]),
    };
  }

  /** Earlier results of the same analytes, for trends: context of the manifest, never of this subject. */
  async function earlier(draft: DocumentDraft): Promise<OpenedRecord[]> {
    const results = draft.own.filter((record) => record.description.role === 'laboratory-result');
    const times = results.map((record) => millisOf(record.description.clinicalTime)).filter((time) => time !== undefined);
    if (times.length === 0) return [];
    const codes = [...new Set(results.map((record) => analyteCode(record.resource)).filter((code) => code !== undefined))];
    const analytes = await Promise.all(codes.map((code) => keys.content(`analyte|${code}`)));
    // The own results are not among them: none is older than the oldest of them.
    const before = new Date(Math.min(...times));
    const found = await earlierOf(analytes.map((analyte) => ({ pat: draft.subject.pat, analyte, before })));
    const time = (row: RecordRow): number => row.last_updated?.getTime() ?? Number.MAX_SAFE_INTEGER;
    return Promise.all(found.toSorted((a, b) => time(b) - time(a)).map(open));
  }

  /** The versions that own records had before: what a correction shows as the old value. */
  async function before(draft: DocumentDraft): Promise<OpenedRecord[]> {
    if (draft.subject.version === 0) return [];
    const found = await previousVersions(
      database,
      draft.own.map((record) => record.row.key),
    );
    return Promise.all(found.filter((row) => row.document === draft.subject.document).map(open));
  }

  /** What the own records refer to and no document is about: people, organisations, specimens, conditions. */
  async function lookups(draft: DocumentDraft): Promise<Map<string, JsonObject>> {
    const source = draft.own[0]?.row.source ?? '';
    const own = new Set(draft.own.map((record) => record.description.ref));
    const refs = [...new Set(draft.own.flatMap((record) => referencesIn(record.resource)))].filter(
      (ref) => !own.has(ref) && !ref.startsWith('Patient/'),
    );
    const byKey = new Map(await Promise.all(refs.map(async (ref) => [await keys.ref(source, ref), ref] as const)));
    const found = await currentOf([...byKey.keys()]);
    return new Map(await Promise.all(found.map(async (row) => [byKey.get(row.key) ?? '', await lookedUp(row)] as const)));
  }

  /** Staff and organisations, a directory in clear, are named by document after document: a record version's text never changes. */
  async function lookedUp(row: RecordRow): Promise<JsonObject> {
    const known = directory.get(row.rec);
    if (known !== undefined) return known;
    const resource = parseResource((await openRecord(rows, row)).record.bytes);
    if (row.sealed_for === 'directory') {
      if (directory.size >= DIRECTORY_KEPT) directory.clear();
      directory.set(row.rec, resource);
    }
    return resource;
  }

  /** Our ids: of the subject's own resources per subject, of staff and organisations the directory's. */
  async function identities(draft: DocumentDraft, directory: readonly string[]): Promise<ResourceIds> {
    const source = draft.own[0]?.row.source ?? '';
    const wanted = await Promise.all([
      ...[...draft.own, ...draft.context].map(async (record) => ({
        ref: record.description.ref,
        key: await keys.resource(source, record.description.ref, draft.subject.sub),
      })),
      ...directory
        .filter((ref) => /^(Practitioner|Organization)\//.test(ref))
        .map(async (ref) => ({ ref, key: await keys.resource(source, ref, 'directory') })),
    ]);
    const ids = await idsOf(wanted.map(({ key }) => ({ key, id: newId('res') })));
    return Object.fromEntries(wanted.map(({ ref, key }) => [ref, ids.get(key) ?? '']));
  }

  async function open(row: RecordRow): Promise<OpenedRecord> {
    const kept = await openRecord(rows, row);
    const resource = parseResource(kept.record.bytes);
    return { row, kept, resource, description: describe(resource) };
  }

  return { file, prepare };
}

type ResourceIds = Readonly<Record<string, string>>;

function named(record: OpenedRecord): ManifestRecord {
  const { source, record: raw } = record.kept;
  return { source, type: raw.type, id: raw.id, versionId: raw.versionId, record: record.row.rec, sha256: digestRecord(raw) };
}

function forAssembly(record: OpenedRecord): AssemblyRecord {
  const attachments = record.kept.record.attachments;
  return { source: record.kept.source, resource: record.resource, ...(attachments === undefined ? {} : { attachments }) };
}

/** The newest statement of the sources, not the time of rendering: the same records print the same. */
function asOf(own: readonly OpenedRecord[]): string {
  let newest = 0;
  for (const { description, kept } of own)
    newest = Math.max(newest, millisOf(kept.record.lastUpdated) ?? 0, millisOf(description.orderTime) ?? 0);
  return new Date(newest).toISOString();
}

/** Every `reference` in a resource. */
function referencesIn(value: unknown): string[] {
  if (Array.isArray(value)) return value.flatMap(referencesIn);
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, item]) => (key === 'reference' && typeof item === 'string' ? [item] : referencesIn(item)));
}

/** The two parts of a sealed object as the facade serves them; their bytes stay in the object. Ids stay over versions. */
function binaries(document: string): JsonObject[] {
  return [
    { resourceType: 'Binary', id: `${document}-pdf`, contentType: 'application/pdf' },
    { resourceType: 'Binary', id: `${document}-fhir`, contentType: 'application/fhir+json' },
  ];
}

/** The time that all of these lie in. */
function covers(times: readonly string[]): { covers?: TimeRange } {
  const range = hull(times.flatMap((time) => timeRange(time) ?? []));
  return range === undefined ? {} : { covers: range };
}
