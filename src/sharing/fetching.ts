import { hash, type JsonWebKey } from 'node:crypto';
import { CodedError, type ErrorCode } from '../errors.ts';
import { stringifyLossless } from '../records/lossless-json.ts';
import type { Sql } from '../store/database.ts';
import { announcePuts, forgetPuts } from '../store/documents.ts';
import { insertResources, prepareResources, type ResourceRows, writePatients } from '../store/resources.ts';
import { sql } from '../store/sql.ts';
import { unwrapWithCategoryKey } from '../vault/foreign-wrap.ts';
import { holderName } from '../vault/holder.ts';
import { putOff } from './backlog.ts';
import { type createEnding, deleteRows, keepCopy, removeLater } from './ending.ts';
import { faultOf, placeOf } from './faults.ts';
import { requireFreeIds } from './free-ids.ts';
import { addHeld, countDocuments, type HeldTotals, heldOf } from './held-totals.ts';
import { keyPlace, retryAt, type SharingParts } from './parts.ts';
import { type Received, type SharedDocument, sharedDocument } from './shared-documents.ts';

interface Wanted {
  recorder: string;
  document: string;
  version: number;
  n: number;
  inst: string;
  pat: string;
  category: string;
  state: string;
  code: string | null;
  attempts: number;
  /** Of the category: another one where it has ended and begun again. */
  began: string;
}
interface Kept {
  of: Received;
  entry: Entry;
  shared: SharedDocument;
  prepared: ResourceRows;
  holder: string;
  pointer: string;
  header: Buffer;
  wrapped: string;
  sizeBytes: number;
}
interface Entry {
  pointer: string;
  ciphertext_hash: string;
  commitment: string;
  key_version: number;
  tx_id: string;
  block: number;
}

/** What the same bytes will always be; only another entry, or another quota, changes it. */
const FINAL = new Set<ErrorCode>([
  'SHARED_CONTENT',
  'SHARED_ID_TAKEN',
  'SHARED_QUOTA',
  'SEAL_BROKEN',
  'CONTENT_INVALID',
  'BLOB_NAME',
  'BLOB_TOO_LARGE',
]);
/** A turn of this many objects, so many at one time: a store that is slow with one patient's does not hold up the others'. */
const BATCH = 64;
const AT_ONCE = 6;
/** One at a time of these: opened and parsed, several of somebody who means harm would be more than the process has room for. */
const LARGE_BYTES = 8 * 1024 * 1024;
const MOST_SLOW_MS = 24 * 3_600_000;

/**
 * Fetches what is wanted: the object that the entry names, checked against the ledger before anything else, opened with the category
 * key, compared, and kept as a copy of ours with its rows (protocol section 8). Killed anywhere, it is done again: the same names, the
 * same rows.
 */
export function createFetching(
  parts: Pick<
    SharingParts,
    'database' | 'rows' | 'custodian' | 'sealer' | 'blobs' | 'links' | 'facility' | 'quotas' | 'retry' | 'now' | 'onAlarm' | 'log'
  > & { requireView(tx: Sql): Promise<void>; ending: Pick<ReturnType<typeof createEnding>, 'dropKeys' | 'endCategory'> },
) {
  const { database, rows, custodian, sealer, blobs, links, quotas, retry, now, onAlarm, log } = parts;
  const own = custodian.institution;
  let large = Promise.resolve();

  /** Some of what is due, institutions and patients by turns; the number that came to be held, or that nobody wants any more. */
  async function fetchSome(closing: () => boolean): Promise<number> {
    const due = await database.query<Wanted>(sql`
      select recorder, document, version, n, inst, pat, category, state, code, attempts, began from (
        select t.*, row_number() over (partition by inst order by turn, pat) as place from (
          select o.*, l.state as link, c.noticed_at::text as began, row_number() over (partition by o.inst, o.pat order by o.retry_at, o.wanted_at, o.document) as turn
          from shared_object o join shared_category c on c.inst = o.inst and c.pat = o.pat and c.category = o.category
            join patient_link l on l.inst = o.inst and l.pat = o.pat
          where c.state = 'live' and l.state in ('bound', 'confirmed') and o.retry_at <= ${now()}) t
        -- Of somebody who was never compared, one document is enough to compare.
        where link = 'confirmed' or turn = 1) t
      order by place, inst limit ${BATCH}`);
    let done = 0;
    const worker = async (): Promise<void> => {
      for (let wanted = due.shift(); wanted !== undefined && !closing(); wanted = due.shift()) {
        try {
          await fetchOne(wanted);
          done++;
        } catch (error) {
          await failed(wanted, error);
        }
      }
    };
    // All of them, also where one fails with the database: none goes on beside the next pass.
    const ended = await Promise.allSettled(Array.from({ length: AT_ONCE }, worker));
    for (const one of ended) if (one.status === 'rejected') throw one.reason;
    return done;
  }

  async function fetchOne(wanted: Wanted): Promise<void> {
    const entry = await entryOf(wanted);
    if (entry === undefined) return forget(wanted);
    const size = await sizeOf(wanted, entry);
    if (size <= LARGE_BYTES) return take(wanted, entry);
    const before = large;
    const done = Promise.withResolvers<void>();
    large = done.promise;
    await before;
    try {
      await take(wanted, entry);
    } finally {
      done.resolve();
    }
  }

  async function take(wanted: Wanted, entry: Entry): Promise<void> {
    const { inst, pat, category, recorder, document, version } = wanted;
    const bytes = await getObject(entry);
    const holder = holderName(own, { institution: inst, patient: pat });
    const key = await categoryKey(wanted, entry.key_version, holder);
    let wrapped: string | undefined;
    const opened = await sealer.open(
      bytes,
      {
        document,
        version,
        patient: pat,
        category,
        institution: recorder,
        ciphertextHash: entry.ciphertext_hash,
        commitment: entry.commitment,
      },
      async (wrap) => {
        if (wrap.categoryKeyVersion !== entry.key_version) throw new CodedError('SEAL_BROKEN', { diagnostics: 'Another key version.' });
        const documentKey = await unwrapWithCategoryKey(wrap, key);
        wrapped = await custodian.wrapOwn(holder, category, documentKey);
        return documentKey;
      },
    );
    const at = now();
    const { tx_id: txId, block, ciphertext_hash: ciphertextHash } = entry;
    const of: Received = {
      inst,
      pat,
      recorder,
      document,
      version,
      n: wanted.n,
      category,
      txId,
      block,
      ciphertextHash,
      institution: own,
      facility: parts.facility,
      at,
    };
    const shared = await ofContent(() => sharedDocument(of, opened));
    await requireFreeIds(database, of, shared);
    await ofContent(() => links.compare({ institution: inst, patient: pat }, shared.patient));
    const prepared = await ofContent(() =>
      prepareResources(rows, {
        institution: inst,
        recorder,
        patient: pat,
        holder,
        category,
        document,
        version,
        lastUpdated: at,
        resources: shared.resources,
        ...(shared.covers === undefined ? {} : { covers: shared.covers }),
      }),
    );
    const header = await rows.seal(holder, category, `header/${document}/${version}`, Buffer.from(JSON.stringify(opened.inner)));
    const pointer = `${own}/copies/${ciphertextHash}`;
    await database.transaction(async (tx) => {
      await announcePuts(tx, [pointer]);
      await keepCopy(tx, pointer);
    });
    await blobs.put(pointer, bytes);
    await keep(wanted, { of, entry, shared, prepared, holder, pointer, header, wrapped: wrapped ?? '', sizeBytes: bytes.length });
    log.info({ inst, pat, category, document, version, n: wanted.n, sizeBytes: bytes.length }, 'shared document received');
  }

  /** What fails here for no coded reason fails for what the document says: it will say the same the next time. */
  async function ofContent<T>(work: () => T | Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (faultOf(error) !== 'INTERNAL') throw error;
      log.error(placeOf(error), 'a shared document has a form that nobody foresaw');
      throw new CodedError('SHARED_CONTENT', { diagnostics: 'It has a form that nobody foresaw.' });
    }
  }

  /** The entry that is wanted, where it is still the one that stands. */
  async function entryOf({ inst, pat, recorder, document, version, n, category }: Wanted, on: Sql = database): Promise<Entry | undefined> {
    const [entry] = await on.query<Entry>(sql`
      select e.pointer, e.ciphertext_hash, e.commitment, e.key_version, e.tx_id, e.block
      from projection.document d join projection.entry e on e.inst = d.inst and e.pat = d.pat and e.recorder = d.recorder and e.doc = d.doc
        and e.version = d.version and e.n = d.n and e.standing
      where d.recorder = ${recorder} and d.doc = ${document} and d.inst = ${inst} and d.pat = ${pat} and d.version = ${version} and d.n = ${n}
        and d.category = ${category} and not d.withdrawn`);
    return entry;
  }

  /** Whether the category is shared as it was when this began. */
  async function isStill({ inst, pat, category, began }: Wanted, on: Sql = database): Promise<boolean> {
    const [row] = await on.query<{ state: string; began: string }>(sql`
      select state, noticed_at::text as began from shared_category where inst = ${inst} and pat = ${pat} and category = ${category} for share`);
    return row?.state === 'live' && row.began === began;
  }

  async function forget(wanted: Wanted): Promise<void> {
    const { recorder, document, version, n } = wanted;
    await database.transaction(async (tx) => {
      // Not because the view is being made anew and is empty at this moment.
      await parts.requireView(tx);
      if ((await entryOf(wanted, tx)) !== undefined) return;
      await tx.query(sql`
        delete from shared_object where recorder = ${recorder} and document = ${document} and version = ${version} and n = ${n}`);
    });
  }

  /** Of an object that there is room for. */
  async function sizeOf({ inst, pat, code }: Wanted, entry: Entry): Promise<number> {
    // One that was over the quota is in only once there is room; the others count themselves.
    if (code === 'SHARED_QUOTA' && (await countDocuments(database, { institution: inst, patient: pat })) >= quotas.maxDocumentsPerPatient)
      throw new CodedError('SHARED_QUOTA');
    const size = (await blobs.head(entry.pointer))?.sizeBytes;
    if (size === undefined) throw new CodedError('BLOB_MISSING');
    const held = await heldOf(database, { institution: inst, patient: pat });
    if (size > quotas.maxObjectBytes || held.bytes + size > quotas.maxBytesPerPatient) throw new CodedError('SHARED_QUOTA');
    return size;
  }

  async function getObject(entry: Entry): Promise<Uint8Array> {
    const bytes = await blobs.get(entry.pointer);
    if (bytes.length > quotas.maxObjectBytes) throw new CodedError('SHARED_QUOTA');
    if (hash('sha256', bytes) !== entry.ciphertext_hash) throw new CodedError('SHARED_HASH');
    return bytes;
  }

  async function categoryKey({ inst, pat, category }: Wanted, version: number, holder: string): Promise<JsonWebKey> {
    const [row] = await database.query<{ jwk: Buffer }>(sql`
      select jwk from shared_key where inst = ${inst} and pat = ${pat} and category = ${category} and version = ${version}`);
    if (row === undefined) throw new CodedError('SHARED_KEY');
    return JSON.parse((await rows.open(holder, category, keyPlace(version), row.jwk)).toString('utf8')) as JsonWebKey;
  }

  async function keep(wanted: Wanted, { of, entry, shared, prepared, holder, pointer, header, wrapped, sizeBytes }: Kept): Promise<void> {
    const { inst, pat, category, recorder, document, version } = of;
    await database.transaction(async (tx) => {
      // Ended while it was fetched: what is sealed here may lie under a key that is gone. The copy is swept.
      if (!(await isStill(wanted, tx))) throw new CodedError('STALE');
      // Withdrawn or followed by another while it was fetched: whoever looked at that has not seen it here. It is looked at once more.
      if ((await entryOf(wanted, tx)) === undefined) throw new CodedError('STALE');
      // Another process may be at the same document.
      await tx.query(sql`select pg_advisory_xact_lock(hashtextextended(${`shared ${recorder}/${document}`}, 0))`);
      const held = await tx.query<{ version: number; commitment: string; pointer: string; size_bytes: number }>(sql`
        select version, commitment, pointer, size_bytes from shared_version where recorder = ${recorder} and document = ${document}`);
      const same = held.find((one) => one.version === version);
      const older = held.filter((one) => one.version < version);
      if (!held.some((one) => one.version > version)) {
        await takeRoom(tx, of, { documents: 1 - held.length, bytes: sizeBytes - held.reduce((sum, one) => sum + one.size_bytes, 0) });
        if (same?.commitment === entry.commitment) {
          // Sealed anew: what was served on until now is the same content.
          await tx.query(sql`
            update shared_version set n = ${of.n}, pointer = ${pointer}, origin = ${entry.pointer}, ciphertext_hash = ${entry.ciphertext_hash},
              key_version = ${entry.key_version}, size_bytes = ${sizeBytes}, header = ${header}, wrap = ${wrapped}, fetched_at = ${of.at}
            where recorder = ${recorder} and document = ${document} and version = ${version}`);
          if (same.pointer !== pointer) await removeLater(tx, [same.pointer], null);
        } else {
          await requireFreeIds(tx, of, shared);
          await evict(tx, of);
          await deleteRows(
            tx,
            sql`recorder = ${recorder} and document = ${document} and inst = ${inst} and pat = ${pat} and document_version <= ${version}`,
          );
          await tx.query(sql`delete from shared_version where recorder = ${recorder} and document = ${document} and version <= ${version}`);
          await removeLater(
            tx,
            [...older, ...(same === undefined ? [] : [same])].map((one) => one.pointer).filter((one) => one !== pointer),
            null,
          );
          await tx.query(sql`
            insert into shared_version (recorder, document, version, n, inst, pat, category, pointer, origin, ciphertext_hash, commitment, key_version,
              size_bytes, manifest_hash, header, wrap, fetched_at)
            values (${recorder}, ${document}, ${version}, ${of.n}, ${inst}, ${pat}, ${category}, ${pointer}, ${entry.pointer}, ${entry.ciphertext_hash},
              ${entry.commitment}, ${entry.key_version}, ${sizeBytes}, ${shared.manifestHash}, ${header}, ${wrapped}, ${of.at})`);
          await insertResources(tx, [prepared]);
          await keepPatient(tx, of, shared, holder);
        }
      }
      // From now on the row says where the copy lies.
      await forgetPuts(tx, [pointer]);
      await keepCopy(tx, pointer);
      await tx.query(sql`
        delete from shared_object where recorder = ${recorder} and document = ${document} and (version, n) <= (${version}, ${of.n})`);
    });
  }

  /** Whoever bears the patient's pseudonym at another institution and was enrolled later gives way, should they have come here first. */
  async function evict(tx: Sql, { inst, pat }: Received): Promise<void> {
    const there = await tx.query<{ inst: string }>(sql`select distinct inst from resource where id = ${pat} and inst <> ${inst}`);
    for (const { inst: later } of there) {
      const categories = await tx.query<{ category: string }>(sql`
        select category from shared_category where inst = ${later} and pat = ${pat} and state <> 'ending' order by category for update`);
      const end = { cause: 'taken', endedAt: now(), block: null } as const;
      for (const { category } of categories) await parts.ending.endCategory(tx, { institution: later, patient: pat, category }, end);
      // Its permissions stand: what comes of them now says why it is refused.
      await putOff(tx, later, now());
    }
  }

  /** Several of their objects are fetched at one time: whichever would be too much is not kept. */
  async function takeRoom(tx: Sql, { inst, pat }: Received, change: HeldTotals): Promise<void> {
    const { documents, bytes } = await addHeld(tx, { institution: inst, patient: pat }, change);
    if ((change.documents > 0 && documents > quotas.maxDocumentsPerPatient) || (change.bytes > 0 && bytes > quotas.maxBytesPerPatient))
      throw new CodedError('SHARED_QUOTA');
  }

  /** The Patient of theirs, as the newest of their documents says it. */
  async function keepPatient(tx: Sql, of: Received, shared: SharedDocument, holder: string): Promise<void> {
    const [newer] = await tx.query(sql`
      update patient_link set demographics_as_of = ${shared.asOf}
      where inst = ${of.inst} and pat = ${of.pat} and (demographics_as_of is null or demographics_as_of < ${shared.asOf}) returning link`);
    if (newer === undefined) return;
    await writePatients(tx, rows, {
      institution: of.inst,
      patients: [{ patient: of.pat, holder, text: stringifyLossless(shared.patient) }],
      lastUpdated: of.at,
    });
  }

  async function failed(wanted: Wanted, error: unknown): Promise<void> {
    const code = faultOf(error);
    if (!(await isStill(wanted)))
      return parts.ending.dropKeys({ institution: wanted.inst, patient: wanted.pat, category: wanted.category });
    if (code === 'STALE') return;
    const { inst, pat, category, recorder, document, version, n } = wanted;
    const attempts = wanted.attempts + 1;
    const final = FINAL.has(code);
    // Given up of one version, it is not waited for with the next.
    const givenUp = final || attempts >= retry.maxAttempts || wanted.state !== 'wanted';
    // A key comes with an envelope, which wakes this again; a document alone says nothing yet.
    const state = !givenUp ? 'wanted' : code === 'BLOB_MISSING' || code === 'UNAVAILABLE' || code === 'SHARED_KEY' ? 'missing' : 'refused';
    await database.query(sql`
      update shared_object set state = ${state}, code = ${code}, attempts = ${attempts}, retry_at = ${nextTry(code, attempts)}
      where recorder = ${recorder} and document = ${document} and version = ${version} and n = ${n}`);
    log.warn({ inst, pat, category, document, version, code, attempts }, 'a shared document cannot be received');
    if (code === 'INTERNAL') log.error(placeOf(error), 'a shared document failed for no coded reason');
    const isNews = code !== wanted.code && (final || code === 'SHARED_HASH' || code === 'INTERNAL');
    if (isNews || (givenUp && wanted.state === 'wanted' && !final)) onAlarm({ code, inst, pat, category, document, version });
  }

  /** What was fetched whole to be refused is fetched more and more seldom, or whoever files such things would have us fetch them all day. */
  function nextTry(code: ErrorCode, attempts: number): Date {
    const final = FINAL.has(code);
    const at = retryAt(parts, final ? retry.maxAttempts : attempts);
    const idle = final ? attempts - 1 : attempts - retry.maxAttempts;
    if (idle <= 0 || code === 'SHARED_QUOTA' || code === 'BLOB_MISSING' || code === 'UNAVAILABLE' || code === 'SHARED_KEY') return at;
    return new Date(now().getTime() + Math.min(Math.max(MOST_SLOW_MS, retry.slowMs), retry.slowMs * 2 ** Math.min(20, idle)));
  }

  return { fetchSome };
}
