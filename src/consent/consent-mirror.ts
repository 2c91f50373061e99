import type { Consent } from 'fhir/r4.js';
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
  /** Up to the newest projected block. Where nothing is new, one short query. */
  pass(): Promise<void>;
}

export function createConsentMirror(parts: { database: Database; rows: SealedRows; institution: string }): ConsentMirror {
  const { database, rows, institution } = parts;
  let running: Promise<void> | undefined;

  async function work(): Promise<void> {
    const [at] = await database.query<{ height: number; done: number | null }>(sql`
      select height, (select block from consent_mirror) as done from projection.checkpoint`);
    if (at === undefined || (at.done ?? 0) >= at.height) return;
    const changed = await database.query<{ pat: string }>(sql`
      select distinct p.pat from projection.permission p join projection.patient t on t.inst = p.inst and t.pat = p.pat
      where p.inst = ${institution} and p.grantor = 'patient' and p.block >= ${at.done ?? 0} and t.status <> 'erased' order by p.pat`);
    for (const { pat } of changed) await mirror({ institution, patient: pat });
    await database.query(sql`
      insert into consent_mirror (block) values (${at.height}) on conflict (one) do update set block = greatest(consent_mirror.block, excluded.block)`);
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
    async pass() {
      // One at a time: whoever asks while one is under way may have been told of a block that it does not see.
      while (running !== undefined) await running.catch(() => {});
      running = work().finally(() => {
        running = undefined;
      });
      await running;
    },
  };
}
