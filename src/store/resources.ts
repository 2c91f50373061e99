import { createHash } from 'node:crypto';
import { hull, type TimeRange } from '../records/fhir-time.ts';
import { type JsonObject, parseResource, stringifyLossless } from '../records/lossless-json.ts';
import { extractIndex, type ResourceIndex } from '../records/search-index.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import type { Sql } from './database.ts';
import { packBytes } from './packed-bytes.ts';
import { sql } from './sql.ts';

/** The FHIR resources of one document version, as the pipeline files them. */
export interface DocumentResources {
  /** The patient's institution, and the one that records the entry where that is another. */
  institution: string;
  recorder?: string;
  patient: string;
  /** Under whose name the rows are sealed, where that is another than `patient`: `holderName` of another institution's patient. */
  holder?: string;
  category: string;
  document: string;
  version: number;
  lastUpdated: Date;
  /** `id` and the references in each are ours already. Digits of decimals are kept. */
  resources: readonly (ResourceText | ParsedResource)[];
  /** Time that the document covers beyond its resources (context drawn in the PDF); `unknown`: no data period holds the whole of it. */
  covers?: TimeRange | 'unknown';
}
export interface ResourceText {
  type: string;
  id: string;
  /** JSON. */
  text: string;
}
/** The same as whoever made it has it: it need not be printed and parsed once more. */
export interface ParsedResource {
  type: string;
  id: string;
  resource: JsonObject;
}
/** Sealed and indexed, ready to be inserted. */
export interface ResourceRows {
  rows: readonly ResourceRow[];
}
interface ResourceRow {
  id: string;
  version: number;
  type: string;
  inst: string;
  /** Of another institution's patient: it gives way to rows of ours. */
  isShared: boolean;
  pat: string;
  category: string;
  recorder: string;
  document: string | null;
  documentVersion: number | null;
  lastUpdated: Date;
  clinical: TimeRange | undefined;
  elements: string[];
  dates: ResourceIndex['dates'];
  systems: readonly string[];
  body: Buffer;
}

/** Where a sealed body belongs: bound into its seal, so that rows cannot be swapped. */
export function resourcePlace(id: string, version: number): string {
  return `resource/${id}/${version}`;
}

/** HMAC text and key purpose of an identifier: one key per identifier system (architecture section 4). */
export function blindIdentifier(rows: SealedRows, system: string, value: string): Promise<string> {
  return rows.blind(`identifier:${system}`, `${system}|${value}`);
}

/** The HMAC to look an identifier up by; undefined where nothing of that system was ever indexed. */
export async function lookupIdentifier(on: Sql, rows: SealedRows, system: string, value: string): Promise<string | undefined> {
  const known = await on.query(sql`select 1 from identifier_system where system = ${system}`);
  return known.length === 0 ? undefined : blindIdentifier(rows, system, value);
}

/**
 * Stamps, indexes and seals the resources of one document version. The costly part: call it before the transaction.
 * Throws CONTENT_INVALID where a text is no JSON object.
 */
export async function prepareResources(sealed: SealedRows, input: DocumentResources): Promise<ResourceRows> {
  const parsed = input.resources.map((given) => {
    const { type, id } = given;
    const resource = stamp('text' in given ? parseResource(given.text) : given.resource, type, id, input.version, input.lastUpdated);
    return { type, id, resource, index: extractIndex(resource) };
  });
  const times = clinicalTimes(parsed, input.covers);
  const rows = await Promise.all(
    parsed.map(
      async ({ type, id, resource, index }): Promise<ResourceRow> => ({
        id,
        version: input.version,
        type,
        inst: input.institution,
        isShared: input.holder !== undefined,
        pat: input.patient,
        category: input.category,
        recorder: input.recorder ?? input.institution,
        document: input.document,
        documentVersion: input.version,
        lastUpdated: input.lastUpdated,
        clinical: times.get(`${type}/${id}`),
        // Identifiers that another institution gave are none of ours to look anybody up by, and each system would make a key here.
        elements: input.holder === undefined ? await withBlind(sealed, index) : index.elements,
        dates: index.dates,
        systems: input.holder === undefined ? index.blind.map((one) => one.system) : [],
        body: await sealed.seal(
          input.holder ?? input.patient,
          input.category,
          resourcePlace(id, input.version),
          Buffer.from(stringifyLossless(resource)),
        ),
      }),
    ),
  );
  return { rows };
}

/** Inserts prepared rows of any number of documents: three statements at most in the caller's filing transaction. */
export async function insertResources(tx: Sql, prepared: readonly ResourceRows[]): Promise<void> {
  const rows = prepared.flatMap((one) => one.rows);
  if (rows.length === 0) return;
  await clearIds(
    tx,
    rows.filter((row) => !row.isShared),
  );
  const column = <K extends keyof ResourceRow>(name: K): ResourceRow[K][] => rows.map((row) => row[name]);
  const bodies = packBytes(column('body'));
  await tx.query(sql`
    insert into resource (id, version, type, inst, pat, category, recorder, document, document_version, last_updated, clinical_start, clinical_end, elements, body)
    select id, version, type, inst, pat, category, recorder, document, document_version, last_updated, clinical_start, clinical_end, elements::text[],
      substring(${bodies.all}::bytea from body_at for body_size)
    from unnest(${column('id')}::text[], ${column('version')}::int[], ${column('type')}::text[], ${column('inst')}::text[], ${column('pat')}::text[],
      ${column('category')}::text[], ${column('recorder')}::text[], ${column('document')}::text[], ${column('documentVersion')}::int[],
      ${column('lastUpdated')}::timestamptz[], ${rows.map((row) => row.clinical?.start ?? null)}::timestamptz[],
      ${rows.map((row) => row.clinical?.end ?? null)}::timestamptz[], ${rows.map((row) => arrayLiteral(row.elements))}::text[], ${bodies.at}::int[], ${bodies.size}::int[])
      as t(id, version, type, inst, pat, category, recorder, document, document_version, last_updated, clinical_start, clinical_end, elements, body_at, body_size)`);
  const systems = new Set(rows.flatMap((row) => row.systems));
  if (systems.size > 0) {
    // Sorted, so that two writers with the same new systems wait for one another instead of deadlocking.
    await tx.query(sql`insert into identifier_system select unnest(${[...systems].sort()}::text[]) on conflict do nothing`);
  }
  const dates = rows.flatMap((row) => row.dates.map((date) => ({ id: row.id, version: row.version, ...date })));
  if (dates.length === 0) return;
  await tx.query(sql`
    insert into resource_date (id, version, parameter, range_start, range_end)
    select * from unnest(${dates.map((d) => d.id)}::text[], ${dates.map((d) => d.version)}::int[], ${dates.map((d) => d.parameter)}::text[],
      ${dates.map((d) => d.range.start)}::timestamptz[], ${dates.map((d) => d.range.end)}::timestamptz[])`);
}

/**
 * Whatever another institution's document has brought under an id of ours goes, the whole document, and is wanted anew, which then says
 * why it is refused: nobody's object keeps our own records from being filed. Fetching lets none in; this is the second line.
 */
async function clearIds(tx: Sql, own: readonly ResourceRow[]): Promise<void> {
  const [first] = own;
  if (first === undefined) return;
  const ids = [...new Set(own.map((row) => row.id))];
  const taken = await tx.query<{ recorder: string; document: string | null }>(
    sql`select distinct recorder, document from resource where id = any(${ids}::text[]) and inst <> ${first.inst} order by recorder, document`,
  );
  if (taken.length === 0) return;
  const named = sql`(select * from unnest(${taken.map((row) => row.recorder)}::text[], ${taken.map((row) => row.document)}::text[]) as t(recorder, document))`;
  await tx.query(sql`
    with gone as (delete from resource r where r.inst <> ${first.inst} and (r.id = any(${ids}::text[]) or (r.recorder, r.document) in ${named}) returning id, version)
    delete from resource_date d using gone where d.id = gone.id and d.version = gone.version`);
  await tx.query(sql`
    with gone as (delete from shared_version v where (v.recorder, v.document) in ${named} returning *),
      copies as (insert into shared_removal (pointer) select distinct pointer from gone on conflict do nothing),
      sums as (update patient_link l set held_documents = held_documents - g.documents, held_bytes = held_bytes - g.bytes
        from (select inst, pat, count(*) as documents, sum(size_bytes) as bytes from gone group by inst, pat) g where g.inst = l.inst and g.pat = l.pat)
    insert into shared_object (recorder, document, version, n, inst, pat, category)
    select distinct on (recorder, document) recorder, document, version, n, inst, pat, category from gone order by recorder, document, version desc
    on conflict (recorder, document) do nothing`);
}

/** Both steps in one call, for callers whose transaction is open anyway. */
export async function writeResources(tx: Sql, sealed: SealedRows, documents: readonly DocumentResources[]): Promise<void> {
  await insertResources(tx, await Promise.all(documents.map((document) => prepareResources(sealed, document))));
}

/** Removes the rows of a document, or of its versions below `before`. */
export async function deleteDocumentRows(tx: Sql, document: string, before?: number): Promise<void> {
  await tx.query(sql`
    with gone as (
      delete from resource where document = ${document} and document_version < ${before ?? 2_147_483_647} returning id, version)
    delete from resource_date d using gone where d.id = gone.id and d.version = gone.version`);
}

/** Puts a patient's demographics in place of the former ones; the version counts up. The id is the pseudonym. One entry a patient. */
export async function writePatients(
  tx: Sql,
  sealed: SealedRows,
  input: { institution: string; patients: readonly { patient: string; holder?: string; text: string }[]; lastUpdated: Date },
): Promise<void> {
  const { institution, patients, lastUpdated } = input;
  if (patients.length === 0) return;
  const names = patients.map(({ patient }) => patient).sort();
  // In one order for all writers, so that they wait for one another instead of deadlocking.
  await tx.query(sql`
    select pg_advisory_xact_lock(hashtextextended(name, 0)) from unnest(${names.map((name) => `patient-resource ${name}`)}::text[]) with ordinality as t(name, n) order by n`);
  const former = new Map(
    (
      await tx.query<{ id: string; version: number }>(
        sql`delete from resource where id = any(${names}) and inst = ${institution} and type = 'Patient' and document is null returning id, version`,
      )
    ).map((row) => [row.id, row.version]),
  );
  const rows = await Promise.all(
    patients.map(async ({ patient, holder = patient, text }): Promise<ResourceRow> => {
      const version = (former.get(patient) ?? 0) + 1;
      const resource = stamp(parseResource(text), 'Patient', patient, version, lastUpdated);
      const index = extractIndex(resource);
      return {
        id: patient,
        version,
        type: 'Patient',
        inst: institution,
        isShared: holder !== patient,
        pat: patient,
        category: 'core',
        recorder: institution,
        document: null,
        documentVersion: null,
        lastUpdated,
        clinical: undefined,
        elements: await withBlind(sealed, index),
        dates: index.dates,
        systems: index.blind.map((one) => one.system),
        body: await sealed.seal(holder, 'core', resourcePlace(patient, version), Buffer.from(stringifyLossless(resource))),
      };
    }),
  );
  await insertResources(tx, [{ rows }]);
}

/**
 * Writes practitioners and organisations; one whose text is the stored one is left as it is. Give registered members
 * their member id (`mem-…`) and institutions theirs (`inst-…`): these are readable without being referred to.
 */
export async function writeDirectory(tx: Sql, resources: readonly ResourceText[], lastUpdated: Date): Promise<void> {
  if (resources.length === 0) return;
  // One order for all writers, so that two transactions with the same persons wait for one another instead of deadlocking.
  const unique = [...new Map(resources.map((r) => [r.id, r])).values()].sort((a, b) => (a.id < b.id ? -1 : 1));
  const known = new Map(
    (
      await tx.query<{ id: string; version: number; content: string }>(
        sql`select id, version, content from directory_resource where id = any(${unique.map((r) => r.id)}) order by id for update`,
      )
    ).map((row) => [row.id, row]),
  );
  const changed = unique.flatMap(({ type, id, text }) => {
    const content = createHash('sha256').update(text).digest('hex');
    const former = known.get(id);
    if (former?.content === content) return [];
    const version = (former?.version ?? 0) + 1;
    const resource = stamp(parseResource(text), type, id, version, lastUpdated);
    const index = extractIndex(resource);
    return [{ id, type, version, content, elements: arrayLiteral(index.elements), strings: arrayLiteral(index.strings), resource }];
  });
  if (changed.length === 0) return;
  await tx.query(sql`
    insert into directory_resource (id, type, version, last_updated, content, elements, strings, body)
    select id, type, version, ${lastUpdated}, content, elements::text[], strings::text[], body
    from unnest(${changed.map((c) => c.id)}::text[], ${changed.map((c) => c.type)}::text[], ${changed.map((c) => c.version)}::int[],
      ${changed.map((c) => c.content)}::text[], ${changed.map((c) => c.elements)}::text[], ${changed.map((c) => c.strings)}::text[],
      ${changed.map((c) => stringifyLossless(c.resource))}::text[]) as t(id, type, version, content, elements, strings, body)
    on conflict (id) do update set version = excluded.version, last_updated = excluded.last_updated, content = excluded.content,
      elements = excluded.elements, strings = excluded.strings, body = excluded.body`);
}

/** The resource with our id, version and time in it, in the order that FHIR prints. */
function stamp(resource: JsonObject, type: string, id: string, version: number, lastUpdated: Date): JsonObject {
  const { resourceType: _type, id: _id, meta, ...rest } = resource;
  const former = typeof meta === 'object' && meta !== null && !Array.isArray(meta) ? (meta as JsonObject) : {};
  return {
    resourceType: type,
    id,
    meta: { ...former, versionId: String(version), lastUpdated: lastUpdated.toISOString() },
    ...rest,
  };
}

// These speak of the document as a whole; who may not see all of it does not see them.
const WHOLE = new Set(['DocumentReference', 'Binary', 'Provenance', 'DiagnosticReport', 'Composition']);

/**
 * The clinical time of each row: its own, that of the whole document where it has none or speaks for the whole, and that
 * of all it refers to within the document. So a row inside a data period never points at one outside (fhir-facade.md 2.4).
 */
function clinicalTimes(
  parsed: readonly { type: string; id: string; index: ResourceIndex }[],
  covers: TimeRange | 'unknown' | undefined,
): Map<string, TimeRange | undefined> {
  const own = new Map(parsed.map((one) => [`${one.type}/${one.id}`, one]));
  const known = parsed.flatMap((one) => one.index.clinical ?? []);
  const whole = covers === 'unknown' ? undefined : hull(covers === undefined ? known : [...known, covers]);
  const times = new Map<string, TimeRange | undefined>();
  for (const key of own.keys()) {
    const ranges: (TimeRange | undefined)[] = [];
    const seen = new Set<string>();
    const queue = [key];
    for (let at = queue.pop(); at !== undefined; at = queue.pop()) {
      const one = own.get(at);
      if (one === undefined || seen.has(at)) continue;
      seen.add(at);
      ranges.push(WHOLE.has(one.type) ? whole : (one.index.clinical ?? whole));
      queue.push(...one.index.references);
    }
    // One part without a known time makes the time of all that holds it unknown.
    times.set(key, ranges.includes(undefined) ? undefined : hull(ranges.flatMap((range) => range ?? [])));
  }
  return times;
}

async function withBlind(sealed: SealedRows, index: ResourceIndex): Promise<string[]> {
  const blind = await Promise.all(
    index.blind.map(async ({ parameter, system, value }) => `${parameter}#${await blindIdentifier(sealed, system, value)}`),
  );
  return [...index.elements, ...new Set(blind)];
}

/** A PostgreSQL array literal: unnest takes no ragged arrays of arrays, but each row's may be cast from text. */
function arrayLiteral(items: readonly string[]): string {
  // U+0000 cannot be stored; it never stands in a legal code.
  return `{${items.map((item) => `"${item.replaceAll('\0', '').replace(/["\\]/g, '\\$&')}"`).join(',')}}`;
}
