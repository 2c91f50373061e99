import { codeOf } from '../errors.ts';
import { newId } from '../ids.ts';
import type { Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import { holderName, type LedgerPatient } from '../vault/holder.ts';
import { putOff } from './backlog.ts';
import { addHeld, type HeldTotals } from './held-totals.ts';
import { retryAt, type SharingParts } from './parts.ts';
import type { EndCause } from './shared-permissions.ts';

export interface SharedCategory extends LedgerPatient {
  category: string;
}
interface End {
  cause: EndCause;
  endedAt: Date;
  block: number | null;
}
interface OpenEnd {
  id: string;
  inst: string;
  pat: string;
  category: string;
  document: string | null;
  cause: EndCause;
  block: number | null;
  ended_at: Date;
  documents: number;
  rows: number;
  objects: number;
  bytes: number;
  keys: number;
  held: number;
  audit: string;
  attempts: number;
}

/**
 * The end of what was shared (protocol section 8): rows, dates, index and wrapped keys go in the transaction that finds the end; copies,
 * the custodian's keys and the audit event follow, named by a row that stays until they are done. Audit rows stay.
 */
export function createEnding(parts: Pick<SharingParts, 'database' | 'custodian' | 'blobs' | 'audit' | 'retry' | 'now' | 'log'>) {
  const { database, custodian, blobs, audit, now, log } = parts;
  const own = custodian.institution;

  /** Inside the caller's transaction, which holds the category's row. */
  async function endCategory(tx: Sql, of: SharedCategory, end: End): Promise<void> {
    const { institution: inst, patient: pat, category } = of;
    const at = sql`inst = ${inst} and pat = ${pat} and category = ${category}`;
    const keys = await tx.query(sql`delete from shared_key where ${at} returning version`);
    const opened = await tx.query<{ state: string }>(sql`delete from shared_envelope where ${at} returning state`);
    await tx.query(sql`delete from shared_object where ${at}`);
    const versions = await tx.query<VersionRow>(
      sql`delete from shared_version where ${at} returning recorder, document, version, pointer, size_bytes`,
    );
    await addHeld(tx, of, gone(versions));
    // Two that end in one act do not keep the core for each other, nor does one of which nothing was ever here.
    const [others] = await tx.query(sql`
      select 1 from shared_category where inst = ${inst} and pat = ${pat} and category <> ${category} and state = 'live' limit 1`);
    const whole = others === undefined;
    const rows = await deleteRows(tx, whole ? sql`inst = ${inst} and pat = ${pat}` : at);
    if (whole) {
      await tx.query(sql`update patient_link set detail = null, demographics_as_of = null where inst = ${inst} and pat = ${pat}`);
    }
    if (
      keys.length === 0 &&
      versions.length === 0 &&
      rows === 0 &&
      !opened.some(({ state }) => state === 'opened' || state === 'opening')
    ) {
      // Nothing of theirs was ever here: no row for the officer, or a flood of grants would be one of ends.
      await tx.query(sql`delete from shared_category where ${at}`);
      return;
    }
    await tx.query(sql`update shared_category set state = 'ending', code = null where ${at}`);
    await note(tx, of, end, { document: null, versions, rows, keys: keys.length });
  }

  /** Documents that are held here and that the ledger lets stand no more in this category; true where there were any. */
  async function endDocuments(tx: Sql, of: SharedCategory): Promise<boolean> {
    const { institution: inst, patient: pat, category } = of;
    const versions = await tx.query<VersionRow>(sql`
      delete from shared_version v where v.inst = ${inst} and v.pat = ${pat} and v.category = ${category}
        and not exists (select 1 from projection.document d where d.recorder = v.recorder and d.doc = v.document and d.inst = v.inst and d.pat = v.pat
          and d.category = v.category and not d.withdrawn)
      returning recorder, document, version, pointer, size_bytes`);
    if (versions.length > 0) await addHeld(tx, of, gone(versions));
    for (const document of new Set(versions.map((row) => `${row.recorder}/${row.document}`))) {
      const these = versions.filter((row) => `${row.recorder}/${row.document}` === document);
      const [first] = these;
      if (first === undefined) continue;
      const rows = await deleteRows(
        tx,
        sql`recorder = ${first.recorder} and document = ${first.document} and inst = ${inst} and pat = ${pat}`,
      );
      const [entry] = await tx.query<{ block: number }>(sql`
        select w.block from projection.state w where w.key = ${`wd/${inst}/${pat}/${first.recorder}/${first.document}`} order by w.block desc limit 1`);
      const end: End = { cause: 'withdrawn', endedAt: now(), block: entry?.block ?? null };
      await note(tx, of, end, { document: first.document, versions: these, rows, keys: 0 });
    }
    return versions.length > 0;
  }

  async function note(
    tx: Sql,
    of: SharedCategory,
    end: End,
    went: { document: string | null; versions: readonly VersionRow[]; rows: number; keys: number },
  ): Promise<void> {
    const { institution: inst, patient: pat, category } = of;
    const id = newId('end');
    const { versions } = went;
    const [hold] = await tx.query(sql`
      select 1 from legal_hold where inst = ${inst} and pat = ${pat} and category = ${category} and lifted_at is null`);
    const held = hold === undefined ? 0 : versions.length;
    if (held > 0) {
      await tx.query(sql`
        insert into held_object (pointer, inst, pat, category, document, version)
        select p, ${inst}, ${pat}, ${category}, d, v from unnest(${versions.map((v) => v.pointer)}::text[], ${versions.map((v) => v.document)}::text[],
          ${versions.map((v) => v.version)}::int[]) as t(p, d, v) on conflict (pointer) do nothing`);
    } else {
      await removeLater(
        tx,
        versions.map((row) => row.pointer),
        id,
      );
    }
    await tx.query(sql`
      insert into sharing_end (id, inst, pat, category, document, cause, block, ended_at, audit, documents, rows, objects, bytes, keys, held)
      values (${id}, ${inst}, ${pat}, ${category}, ${went.document}, ${end.cause}, ${end.block}, ${end.endedAt}, ${newId('aud')},
        ${new Set(versions.map((row) => row.document)).size}, ${went.rows}, ${versions.length - held},
        ${held > 0 ? 0 : versions.reduce((sum, row) => sum + row.size_bytes, 0)}, ${went.keys}, ${held})`);
  }

  /** Does what is left of every end; whether anything was done, and the patients of whom one was finished. */
  async function finish(): Promise<{ any: boolean; finished: LedgerPatient[] }> {
    const any = await remove();
    const finished: LedgerPatient[] = [];
    // Those whose copies are gone, by turns: what cannot be deleted or finished now holds up nobody behind it.
    const open = await database.query<OpenEnd>(sql`
      select id, inst, pat, category, document, cause, block, ended_at, documents, rows, objects, bytes, keys, held, audit, attempts
      from sharing_end e where deleted_at is null and retry_at <= ${now()} and not exists (select 1 from shared_removal r where r.ending = e.id)
      order by retry_at, ended_at, id limit 100`);
    for (const end of open) {
      try {
        if (await finishOne(end)) finished.push({ institution: end.inst, patient: end.pat });
      } catch (error) {
        await database.query(sql`
          update sharing_end set attempts = attempts + 1, retry_at = ${retryAt(parts, end.attempts + 1)} where id = ${end.id}`);
        log.warn({ end: end.id, code: codeOf(error) ?? 'INTERNAL' }, 'the end of a sharing could not be finished; it is tried again');
      }
    }
    return { any: any || finished.length > 0, finished };
  }

  async function finishOne(end: OpenEnd): Promise<boolean> {
    const { inst, pat, category } = end;
    const of = { institution: inst, patient: pat };
    const facts = ['cause', 'document', 'documents', 'rows', 'objects', 'bytes', 'keys', 'held', 'block'] as const;
    await audit.record({
      id: end.audit,
      interaction: 'operation',
      actor: undefined,
      requestId: end.id,
      outcome: 'permitted',
      patients: [of],
      query: `sharing end category=${category} ended=${end.ended_at.toISOString()} ${facts.flatMap((name) => (end[name] === null ? [] : `${name}=${end[name]}`)).join(' ')}`,
    });
    await database.transaction(async (tx) => {
      // Whoever begins a category of theirs waits until this is over.
      await lockPatient(tx, of);
      await tx.query(sql`select 1 from shared_category where inst = ${inst} and pat = ${pat} order by category for update`);
      const [done] = await tx.query(
        sql`update sharing_end set deleted_at = ${now()} where id = ${end.id} and deleted_at is null returning id`,
      );
      if (done === undefined || end.document !== null) return;
      await destroyKeys(tx, { ...of, category });
      await tx.query(
        sql`delete from shared_category where inst = ${inst} and pat = ${pat} and category = ${category} and state = 'ending'`,
      );
      // Granted again meanwhile: it begins anew, should we be killed before our caller sees to it.
      const [again] = await tx.query(sql`
        select 1 from projection.permission p where p.inst = ${inst} and p.pat = ${pat} and p.category = ${category} and p.status = 'active' limit 1`);
      if (again !== undefined) await putOff(tx, inst, now());
    });
    log.info({ end: end.id, inst, pat, category, cause: end.cause }, 'what was shared is ended and deleted');
    return true;
  }

  /** The category's keys, and what belongs to the patient as a whole where nothing else of theirs is here: as it stands now, not as it stood when the end began. */
  async function destroyKeys(tx: Sql, { institution: inst, patient: pat, category }: SharedCategory): Promise<void> {
    const holder = holderName(own, { institution: inst, patient: pat });
    const [left] = await tx.query<{ categories: boolean; core: boolean }>(sql`
      select exists (select 1 from shared_category where inst = ${inst} and pat = ${pat} and state <> 'ending') as categories,
        exists (select 1 from shared_category where inst = ${inst} and pat = ${pat} and state = 'live')
          or exists (select 1 from resource where inst = ${inst} and pat = ${pat} and category = 'core')
          or exists (select 1 from patient_link where inst = ${inst} and pat = ${pat} and detail is not null) as core`);
    if (left?.categories !== true) return custodian.destroy(holder);
    await custodian.destroy(holder, category);
    if (!left.core) await custodian.destroy(holder, 'core');
  }

  /**
   * Somebody was at the category while it ended elsewhere, and may have made its key anew after that was destroyed. Where nothing has
   * begun since, it goes.
   */
  async function dropKeys(of: SharedCategory): Promise<void> {
    const { institution: inst, patient: pat, category } = of;
    await database.transaction(async (tx) => {
      await lockPatient(tx, of);
      const rows = await tx.query<{ category: string }>(sql`select category from shared_category where inst = ${inst} and pat = ${pat}`);
      const holder = holderName(own, { institution: inst, patient: pat });
      if (rows.length === 0) await custodian.destroy(holder);
      else if (rows.every((row) => row.category !== category)) await custodian.destroy(holder, category);
    });
  }

  /** Deletes copies that no row needs; true where one was. */
  async function remove(): Promise<boolean> {
    const due = await database.query<{ pointer: string; attempts: number }>(sql`
      select pointer, attempts from shared_removal where retry_at <= ${now()} order by retry_at, pointer limit 1000`);
    let any = false;
    for (const { pointer, attempts } of due) {
      try {
        any = (await removeOne(pointer)) || any;
      } catch (error) {
        await database.query(sql`
          update shared_removal set attempts = attempts + 1, retry_at = ${retryAt(parts, attempts + 1)} where pointer = ${pointer}`);
        log.warn({ pointer, code: codeOf(error) ?? 'INTERNAL' }, 'a copy could not be deleted; it is tried again');
      }
    }
    return any;
  }

  /** Under the row's lock, which whoever puts the same bytes anew waits for (`keepCopy`): it is never deleted after it was put. */
  async function removeOne(pointer: string): Promise<boolean> {
    return database.transaction(async (tx) => {
      const [row] = await tx.query<{ needed: boolean }>(sql`
        select exists (select 1 from shared_version v where v.pointer = r.pointer) or exists (select 1 from held_object h where h.pointer = r.pointer) as needed
        from shared_removal r where pointer = ${pointer} for update skip locked`);
      if (row === undefined) return false;
      if (!row.needed) await blobs.delete(pointer);
      await tx.query(sql`delete from shared_removal where pointer = ${pointer}`);
      return true;
    });
  }

  return { endCategory, endDocuments, finish, dropKeys };
}

interface VersionRow {
  recorder: string;
  document: string;
  version: number;
  pointer: string;
  size_bytes: number;
}

/** Of one patient of theirs, categories do not begin while keys are destroyed. */
export async function lockPatient(tx: Sql, { institution, patient }: LedgerPatient): Promise<void> {
  await tx.query(sql`select pg_advisory_xact_lock(hashtextextended(${`sharing ${institution}/${patient}`}, 0))`);
}

function gone(versions: readonly { size_bytes: number }[]): HeldTotals {
  return { documents: -versions.length, bytes: -versions.reduce((sum, row) => sum + row.size_bytes, 0) };
}

/** Copies to be deleted once the caller's transaction has committed. */
export async function removeLater(tx: Sql, pointers: readonly string[], ending: string | null): Promise<void> {
  if (pointers.length === 0) return;
  await tx.query(sql`
    insert into shared_removal (pointer, ending) select unnest(${pointers}::text[]), ${ending}
    on conflict (pointer) do update set ending = coalesce(excluded.ending, shared_removal.ending)`);
}

/** A copy of this name is about to be put, and shall stay: the deletion of an earlier one is over, or does not happen. */
export async function keepCopy(tx: Sql, pointer: string): Promise<void> {
  await tx.query(sql`delete from shared_removal where pointer = ${pointer}`);
}

/** Resource rows with their dates; the index is their own column. */
export async function deleteRows(tx: Sql, where: ReturnType<typeof sql>): Promise<number> {
  const [gone] = await tx.query<{ count: number }>(sql`
    with gone as (delete from resource where ${where} returning id, version),
      dates as (delete from resource_date d using gone where d.id = gone.id and d.version = gone.version)
    select count(*) as count from gone`);
  return gone?.count ?? 0;
}
