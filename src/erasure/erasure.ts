import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import type { Audit } from '../audit/audit.ts';
import { refusalOf } from '../consent/permissions.ts';
import { CodedError, codeOf } from '../errors.ts';
import { newId } from '../ids.ts';
import { erasePatientPayload, TYP } from '../ledger/contract/payloads.ts';
import type { Role } from '../ledger/contract/shapes.ts';
import { type Carrier, mustCommit } from '../outbox/await-commit.ts';
import type { BlobStore } from '../store/blobs.ts';
import type { Database } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import { suppressionMarks } from '../store/suppression.ts';
import type { Custodian } from '../vault/custodian.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import { removeRows } from './erasing-rows.ts';

/** What was erased, when, and what cannot be (architecture section 5). Names nobody but the pseudonym. */
export interface ErasureCertificate {
  institution: string;
  patient: string;
  /** Block of the ledger that holds `erasePatient`. */
  block: number;
  /** Since when nothing of the patient opens here; null while it is under way. */
  erased: string | null;
  /** When the last copy of the key store may be gone that brings the keys back. */
  keyBackupsGone: string | null;
  removed: { records: number; documents: number; rows: number; objects: number };
  /** Pseudonyms of the same person, merged or moved, that are not erased with it: each is erased by its own statement. */
  alsoKnownAs: readonly string[];
  /** What stays on the ledger, for ever, at every institution; and the audit events here. */
  stays: { entries: number; permissions: number; categoryKeys: number; emergencyAccesses: number; auditEvents: number };
}

export interface Erasure {
  /** Signs for a patient in custody, and erases once the ledger has it. FORBIDDEN, NOT_FOUND, CUSTODY_REFUSED, LEDGER_REFUSED, UNAVAILABLE. */
  erase(request: { patient: string; by: string }): Promise<ErasureCertificate>;
  /** NOT_FOUND where the ledger holds no erasure of this patient of ours. */
  certificate(patient: string): Promise<ErasureCertificate>;
  /** Follows the ledger from now on. */
  start(): Promise<void>;
  /** Does all that is due now, and again what came back of what was erased: at the start, and every so often. */
  pass(): Promise<void>;
  close(): Promise<void>;
}

interface Due {
  pat: string;
  block: number;
  /** Erased before. */
  done: boolean;
  /** There are rows of theirs. */
  left: boolean;
  categories: readonly string[];
}

/** What the projection says after each block that any process applied. */
const CHANNEL = 'projection';
const RETRY_MS = 60_000;
/** No copy of the key store is kept for longer (docs/operations.md). */
const KEY_BACKUP_MS = 30 * 24 * 3_600_000;
const WAIT_MS = 30_000;

/**
 * Erases patients of ours whose `erasePatient` stands on the ledger, whoever signed and carried it: rows and marks in one transaction,
 * then the keys, then the objects. The database says what is left, so that it may be killed at any await; and because it asks the
 * ledger, and not what was done, whatever comes back (a restored database, a page that was under way) is erased again.
 */
export function createErasure(
  parts: Carrier & {
    database: Database;
    rows: Pick<SealedRows, 'blind'>;
    custodian: Custodian;
    blobs: Pick<BlobStore, 'delete'>;
    audit: Pick<Audit, 'record'>;
    ledgerId: string;
    /** MSP of this institution, as it stands on the ledger. */
    msp: string;
    activeRole(institution: string, member: string): Promise<Role | undefined>;
    /** Runs while no page of a source is being stored: one under way knows the patient still. */
    betweenPages<T>(work: () => Promise<T>): Promise<T>;
    /** Told after a patient's rows have gone: what others share of them ends. */
    onErased(): void;
    now: () => Date;
    log: Logger;
  },
): Erasure {
  const { database, custodian, blobs, audit, ledgerId, now, log } = parts;
  const { institution } = custodian;
  const marks = suppressionMarks(parts.rows);
  let running: Promise<void> | undefined;
  let woken = false;
  let closed = false;
  let timer: NodeJS.Timeout | undefined;
  let listener: { close(): Promise<void> } | undefined;

  /** Erased on the ledger and not here. `whole`: also what was erased, where something of it came back. */
  async function due(whole: boolean): Promise<Due[]> {
    return database.query(sql`
      select p.pat, p.block, e.erased_at is not null as done, array(
          select distinct k.category from projection.category_key k where k.inst = p.inst and k.pat = p.pat) as categories,
        exists (select 1 from record t where t.pat = p.pat and t.current)
        or exists (select 1 from document_version t where t.pat = p.pat)
        or exists (select 1 from patient_identifier t where t.pat = p.pat)
        or exists (select 1 from source_patient t where t.pat = p.pat)
        or exists (select 1 from resource t where t.inst = p.inst and t.pat = p.pat)
        or exists (select 1 from consent_version t where t.inst = p.inst and t.pat = p.pat)
        or exists (select 1 from device_envelope t where t.inst = p.inst and t.pat = p.pat)
        or exists (select 1 from patient t where t.pat = p.pat and t.demographics is not null) as left
      from projection.patient p left join erasure e on e.pat = p.pat
      where p.inst = ${institution} and p.status = 'erased' and (${whole} or e.erased_at is null)
      order by p.block, p.pat`);
  }

  /** Our own keys for what we hold of them, and the patient's where they were in custody: an older key store brings them back. */
  async function hasKeys({ pat, categories }: Due): Promise<boolean> {
    if ((await custodian.heldCategories(pat)).length > 0) return true;
    for (const category of ['core', ...categories]) {
      const isThere = await custodian.rowKey(pat, category, 'open').then(
        () => true,
        (error: unknown) => {
          if (codeOf(error) === 'KEY_MISSING') return false;
          throw error;
        },
      );
      if (isThere) return true;
    }
    return false;
  }

  async function eraseOne(one: Due): Promise<void> {
    const { pat, block } = one;
    const hadKeys = await hasKeys(one);
    if (one.done && !one.left && !hadKeys) return;
    if (one.left || !one.done)
      await parts.betweenPages(() =>
        database.transaction(async (tx) => {
          await tx.query(sql`
            insert into erasure (pat, block, begun_at, audit) values (${pat}, ${block}, ${now()}, ${newId('aud')})
            on conflict (pat) do update set erased_at = null`);
          const gone = await removeRows(tx, { institution, patient: pat, marks });
          await tx.query(sql`
            update erasure set records = records + ${gone.records}, documents = documents + ${gone.documents}, rows = rows + ${gone.rows},
              objects = objects + ${gone.objects},
              also_known = array(select distinct unnest(also_known || ${gone.alsoKnownAs}::text[]) order by 1) where pat = ${pat}`);
        }),
      );
    // From here on nothing opens.
    if (hadKeys) await custodian.destroy(pat);
    parts.onErased();
    if (!(await removeObjects(pat))) return;
    const [row] = await database.query<{ audit: string; records: number; documents: number; rows: number; objects: number }>(
      sql`select audit, records, documents, rows, objects from erasure where pat = ${pat}`,
    );
    if (row === undefined) return;
    const { audit: id, ...removed } = row;
    const counts = Object.entries(removed).map(([name, count]) => `${name}=${count}`);
    await audit.record({
      id,
      interaction: 'operation',
      actor: undefined,
      requestId: newId('req'),
      outcome: 'permitted',
      patients: [{ institution, patient: pat }],
      query: `patient erased block=${block} ${counts.join(' ')}`,
    });
    await database.query(sql`update erasure set erased_at = ${now()} where pat = ${pat} and erased_at is null`);
    log.info({ pat, block, ...removed }, 'a patient is erased');
  }

  /** True where none is left. */
  async function removeObjects(pat: string): Promise<boolean> {
    const objects = await database.query<{ name: string }>(sql`select name from erasure_object where pat = ${pat} order by name`);
    let isWhole = true;
    for (const { name } of objects) {
      try {
        await blobs.delete(name);
        await database.query(sql`delete from erasure_object where name = ${name}`);
      } catch (error) {
        isWhole = false;
        log.warn({ name, code: codeOf(error) ?? 'INTERNAL' }, 'an object of an erased patient could not be deleted; it is tried again');
      }
    }
    return isWhole;
  }

  async function work(whole: boolean): Promise<void> {
    for (const one of await due(whole)) {
      if (closed) return;
      try {
        await eraseOne(one);
      } catch (error) {
        // Theirs alone: whoever comes after them goes on, and this one is taken up again.
        log.error({ pat: one.pat, code: codeOf(error) ?? 'INTERNAL' }, 'a patient could not be erased; it is tried again');
      }
    }
  }

  function wake(): void {
    if (closed) return;
    woken = true;
    clearTimeout(timer);
    running ??= after(
      run().catch((error: unknown) => log.warn({ code: codeOf(error) ?? 'INTERNAL' }, 'an erasure was interrupted; it is taken up again')),
    );
  }

  /** What was asked for meanwhile comes next; what is left, by the clock. */
  function after(work: Promise<void>): Promise<void> {
    return work.finally(() => {
      running = undefined;
      if (closed) return;
      clearTimeout(timer);
      if (woken) wake();
      else timer = setTimeout(wake, RETRY_MS).unref();
    });
  }

  async function run(): Promise<void> {
    while (woken && !closed) {
      woken = false;
      await work(false);
    }
  }

  async function pass(): Promise<void> {
    while (running !== undefined) await running.catch(() => {});
    await (running = after(work(true)));
  }

  async function certificate(patient: string): Promise<ErasureCertificate> {
    const [row] = await database.query<{
      block: number;
      erased_at: Date | null;
      records: number;
      documents: number;
      rows: number;
      objects: number;
      also_known: string[];
      entries: number;
      permissions: number;
      category_keys: number;
      emergencies: number;
      events: number;
    }>(sql`
      select p.block, e.erased_at, coalesce(e.records, 0) as records, coalesce(e.documents, 0) as documents, coalesce(e.rows, 0) as rows,
        coalesce(e.objects, 0) as objects,
        array(select o from unnest(e.also_known) o where not exists (
          select 1 from projection.patient q where q.inst = p.inst and q.pat = o and q.status = 'erased')) as also_known,
        (select count(*) from projection.entry t where t.inst = p.inst and t.pat = p.pat) as entries,
        (select count(*) from projection.permission t where t.inst = p.inst and t.pat = p.pat) as permissions,
        (select count(*) from projection.category_key t where t.inst = p.inst and t.pat = p.pat) as category_keys,
        (select count(*) from projection.emergency t where t.inst = p.inst and t.pat = p.pat) as emergencies,
        (select count(*) from audit_event t where t.inst = p.inst and t.pat = p.pat) as events
      from projection.patient p left join erasure e on e.pat = p.pat
      where p.inst = ${institution} and p.pat = ${patient} and p.status = 'erased'`);
    if (row === undefined) throw new CodedError('NOT_FOUND', { diagnostics: 'The ledger holds no erasure of this patient.' });
    const { block, erased_at: erased, records, documents, rows, objects } = row;
    return {
      institution,
      patient,
      block,
      erased: erased?.toISOString() ?? null,
      keyBackupsGone: erased === null ? null : new Date(erased.getTime() + KEY_BACKUP_MS).toISOString(),
      removed: { records, documents, rows, objects },
      alsoKnownAs: row.also_known,
      stays: {
        entries: row.entries,
        permissions: row.permissions,
        categoryKeys: row.category_keys,
        emergencyAccesses: row.emergencies,
        auditEvents: row.events,
      },
    };
  }

  return {
    certificate,
    pass,
    async erase({ patient, by }) {
      if ((await parts.activeRole(institution, by)) !== 'registrar')
        throw new CodedError('FORBIDDEN', { diagnostics: 'Only a registrar erases for a patient in custody.' });
      const [known] = await database.query<{ custody: boolean; status: string }>(
        sql`select custody, status from projection.patient where inst = ${institution} and pat = ${patient}`,
      );
      if (known === undefined) throw new CodedError('NOT_FOUND');
      if (known.status !== 'erased') {
        if (!known.custody)
          throw new CodedError('CUSTODY_REFUSED', { diagnostics: 'The patient holds their own keys: they sign it on their device.' });
        const payload = erasePatientPayload({
          institution,
          patient,
          ledger: ledgerId,
          nonce: randomBytes(16).toString('base64url'),
          onBehalf: `member:${institution}:${by}`,
        });
        const jws = await custodian.signForPatient({ patient, actor: { kind: 'registrar', id: by }, typ: TYP.erasePatient, payload });
        const args = [jws];
        const refusal = await refusalOf(database, { name: 'erasePatient', args, caller: { msp: parts.msp, institution }, now: now() });
        if (refusal !== undefined) throw new CodedError('LEDGER_REFUSED', { diagnostics: refusal });
        const name = `${institution}/${patient}`;
        const id = await database.transaction((tx) =>
          parts.outbox.add(tx, { transaction: 'erasePatient', args, patient: name, priority: 'urgent', orderKey: `pat/${name}` }),
        );
        await mustCommit(parts, id, WAIT_MS);
      }
      await pass();
      return certificate(patient);
    },
    async start() {
      listener ??= await database.listen(CHANNEL, wake);
      wake();
    },
    async close() {
      closed = true;
      clearTimeout(timer);
      await listener?.close();
      await running?.catch(() => {});
    },
  };
}
