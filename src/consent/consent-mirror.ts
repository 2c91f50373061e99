import type { Consent } from 'fhir/r4.js';
import { codeOf } from '../errors.ts';
import * as keys from '../ledger/contract/keys.ts';
import { projectedState } from '../ledger/projection-state.ts';
import type { Database } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import { type ConsentRow, consentPlace, insertConsent, isErased, stampedConsent } from './consent-rows.ts';
import { ENDED } from './ended.ts';
import type { PatientName } from './permissions.ts';
import { type ConsentChange, consentChanges, gives, otherId, recordedConsent } from './recorded-consents.ts';

type KnownRow = ConsentRow & { statement: string };

/**
 * Consents of our patients whose statements reached the ledger without us, as rows like those that were written here: what a device
 * signed, what another gateway carried, what a grantee gave up. One version for each transaction that changed a Consent, from the ledger
 * alone, so that patient and privacy officer see over FHIR what holds.
 */
export interface ConsentMirror {
  /** Up to the newest projected block, but for patients of whom it fails: those are tried again. Where nothing is new, one short query. */
  pass(): Promise<void>;
  /** Those of these patients whose Consents here may not be what the ledger says. */
  behind(patients: readonly string[]): Promise<string[]>;
}

/** After so many patients the mark is moved, so that a kill loses little. */
const BATCH = 100;
/** Failed ones that one pass tries again. */
const AGAIN = 20;

/** `onFailed`: one patient's Consents could not be written; everybody else's go on. */
export function createConsentMirror(parts: {
  database: Database;
  rows: SealedRows;
  institution: string;
  onFailed: (patient: string, error: unknown) => void;
}): ConsentMirror {
  const { database, rows, institution } = parts;
  let running: Promise<void> | undefined;
  let next: Promise<void> | undefined;

  async function work(): Promise<void> {
    const [at] = await database.query<{ height: number; done: number | null }>(sql`
      select height, (select block from consent_mirror) as done from projection.checkpoint`);
    if (at === undefined || (at.done ?? 0) >= at.height) return;
    const changed = await database.query<{ pat: string; block: number }>(sql`
      select p.pat, min(p.block) as block from projection.permission p join projection.patient t on t.inst = p.inst and t.pat = p.pat
      where p.inst = ${institution} and p.grantor = 'patient' and p.block >= ${at.done ?? 0} and t.status <> 'erased'
      group by p.pat order by 2, 1`);
    for (const [i, { pat, block }] of changed.entries()) {
      // All that changed before this block is done.
      if (i > 0 && i % BATCH === 0) await mark(block);
      await tryOne(pat);
    }
    const failed = await database.query<{ pat: string }>(sql`select pat from consent_mirror_failed order by tried_at limit ${AGAIN}`);
    const just = new Set(changed.map((one) => one.pat));
    for (const { pat } of failed) if (!just.has(pat)) await tryOne(pat);
    await mark(at.height);
  }

  async function mark(block: number): Promise<void> {
    await database.query(sql`
      insert into consent_mirror (block) values (${block}) on conflict (one) do update set block = greatest(consent_mirror.block, excluded.block)`);
  }

  /** One patient's failure is theirs: the mark goes on, they are noted, and tried again at each later block. */
  async function tryOne(pat: string): Promise<void> {
    try {
      await mirror({ institution, patient: pat });
      await database.query(sql`delete from consent_mirror_failed where pat = ${pat}`);
    } catch (error) {
      await database.query(sql`
        insert into consent_mirror_failed (pat, code, tried_at) values (${pat}, ${codeOf(error) ?? 'INTERNAL'}, clock_timestamp())
        on conflict (pat) do update set code = excluded.code, tried_at = excluded.tried_at`);
      parts.onFailed(pat, error);
    }
  }

  async function mirror(of: PatientName): Promise<void> {
    const changes = consentChanges(of, await projectedState(database).scan(keys.permissions(of.institution, of.patient)));
    const statements = changes.map((change) => change.statement);
    for (const name of new Set(changes.map((change) => change.name))) {
      const mine = changes.filter((change) => change.name === name);
      for (let attempt = 1; ; attempt++) {
        try {
          await mirrorOne(of, name, mine, statements);
          break;
        } catch (error) {
          // Somebody wrote the same version of it at that moment.
          if ((error as { code?: string }).code !== '23505' || attempt === 3) throw error;
        }
      }
    }
  }

  async function mirrorOne(of: PatientName, name: string, changes: readonly ConsentChange[], statements: readonly string[]): Promise<void> {
    const [taken] = await database.query(
      sql`select 1 from consent_version where consent = ${name} and (inst, pat) <> (${of.institution}, ${of.patient}) limit 1`,
    );
    const id = taken === undefined ? name : otherId(of, name);
    const known = await database.query<KnownRow>(sql`
      select consent, version, inst, pat, status, last_updated, body, statement from consent_version
      where consent = ${id} and inst = ${of.institution} and pat = ${of.patient} order by version`);
    for (const [i, change] of changes.entries()) {
      const newest = known.at(-1);
      if (known.some((row) => row.statement === change.statement)) {
        // Written here, and shown as it was written: but for one that came to stand after another that was mirrored before it.
        const isLast = i === changes.length - 1 && newest?.statement !== change.statement;
        if (!isLast || newest === undefined || !statements.slice(0, statements.indexOf(change.statement)).includes(newest.statement))
          continue;
      }
      // An end that was written here takes several statements where it is large; it shows as ended already.
      if (newest !== undefined && ENDED.includes(newest.status) && !gives(change)) continue;
      known.push(await add(of, id, change, newest));
    }
  }

  async function add(of: PatientName, id: string, change: ConsentChange, newest: KnownRow | undefined): Promise<KnownRow> {
    const version = (newest?.version ?? 0) + 1;
    const lastUpdated = new Date(change.at);
    let resource = recordedConsent(of, change);
    if (change.after.length === 0 && newest !== undefined) {
      // What it said stays as it was; only the status is new.
      const former = await rows.open(of.patient, 'core', consentPlace(id, newest.version), newest.body);
      resource = { ...(JSON.parse(former.toString('utf8')) as Consent), status: 'inactive' };
    }
    const text = stampedConsent(resource, { consent: id, version, lastUpdated });
    const pairs = [...change.before, ...change.after].map(({ grantee, category }) => ({ grantee, category }));
    const body = await rows.seal(of.patient, 'core', consentPlace(id, version), Buffer.from(text));
    const row = { consent: id, version, status: resource.status, statement: change.statement, body };
    await database.transaction(async (tx) => {
      if (await isErased(tx, of)) return;
      await insertConsent(tx, { ...of, ...row, stateKey: change.stateKey, pairs, outbox: null, lastUpdated, evidence: null });
    });
    return { ...row, inst: of.institution, pat: of.patient, last_updated: lastUpdated };
  }

  return {
    pass() {
      // One at a time; whoever asks while one is under way shares the next with all who ask till then, for that one may not see their block.
      if (running === undefined) {
        running = work().finally(() => {
          running = undefined;
        });
        return running;
      }
      next ??= running
        .catch(() => {})
        .then(() => {
          next = undefined;
          running = work().finally(() => {
            running = undefined;
          });
          return running;
        });
      return next;
    },
    async behind(patients) {
      const failed = await database.query<{ pat: string }>(sql`select pat from consent_mirror_failed where pat = any(${patients})`);
      return failed.map((row) => row.pat);
    },
  };
}
