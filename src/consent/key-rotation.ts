import { randomBytes } from 'node:crypto';
import * as keys from '../ledger/contract/keys.ts';
import { plainJwk, publishCategoryKeyPayload, TYP } from '../ledger/contract/payloads.ts';
import { projectedState } from '../ledger/projection-state.ts';
import { awaitCommit, type Carrier } from '../outbox/await-commit.ts';
import type { Database } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { Custodian } from '../vault/custodian.ts';
import { createCustodyEnvelopes, type EnvelopeKeeping } from './custody-envelopes.ts';
import { identityOf } from './permissions.ts';

/**
 * New category key versions after a revocation: the second message of the same act, for a patient in custody (architecture
 * section 5). What is due stands in a table, so that a crash at any point only delays it.
 */
export interface KeyRotation {
  /** Looks at what is due, now and until nothing is. Returns at once. */
  wake(): void;
  /** One pass over what is due; resolves to the number of key versions that came to stand on the ledger. */
  pass(): Promise<number>;
  close(): Promise<void>;
}

interface Due {
  pat: string;
  category: string;
  actor_kind: 'patient' | 'registrar';
  actor_id: string;
  outbox: string | null;
}

export function createKeyRotation(
  parts: Carrier & {
    database: Database;
    custodian: Custodian;
    envelopes: EnvelopeKeeping;
    ledgerId: string;
    now?: () => Date;
    waitMs?: number;
    retryMs?: number;
    onError?: (error: Error) => void;
  },
): KeyRotation {
  const { database, custodian, ledgerId, outbox } = parts;
  const { institution } = custodian;
  const custodyEnvelopes = createCustodyEnvelopes({ database, custodian, now: parts.now ?? (() => new Date()) });
  const waitMs = parts.waitMs ?? 10_000;
  const retryMs = parts.retryMs ?? 15_000;
  let running: Promise<void> | undefined;
  let woken = false;
  let closed = false;
  let timer: NodeJS.Timeout | undefined;

  async function publishedVersion(pat: string, category: string): Promise<number | undefined> {
    const head = await projectedState(database).get(keys.categoryHeadKey(institution, pat, category));
    return head === undefined ? undefined : (JSON.parse(head.value) as { version: number }).version;
  }

  /** A patient who holds their own keys signs new versions on their device; what nobody signs stays due (rotation-due.ts). */
  async function isClaimed(pat: string): Promise<boolean> {
    const rows = await database.query(sql`select 1 from projection.patient where inst = ${institution} and pat = ${pat} and not custody`);
    return rows.length > 0;
  }

  /** Documents on their way were sealed under the present version: a new one on the ledger would have them refused. */
  async function documentsUnderWay(pat: string): Promise<boolean> {
    const rows = await database.query(sql`
      select 1 from outbox where patient = ${`${institution}/${pat}`} and transaction = 'recordDocuments' and settled_at is null limit 1`);
    return rows.length > 0;
  }

  async function rotate(due: Due): Promise<boolean> {
    const { pat, category } = due;
    let id = due.outbox;
    if (id === null) {
      const published = await publishedVersion(pat, category);
      const current = await custodian.categoryKey(pat, category);
      if (published === undefined || current === undefined || (await isClaimed(pat))) {
        await done(pat, category);
        return false;
      }
      if (await documentsUnderWay(pat)) return false;
      // A version that was made and never published is the next one: what a crash between the two left behind.
      const next = current.version > published ? current : await custodian.rotateCategoryKey(pat, category);
      const onBehalf = due.actor_kind === 'patient' ? due.actor_id : `member:${institution}:${due.actor_id}`;
      // Other institutions that read on get the new version with it.
      const of = { institution, patient: pat };
      const sealed = await custodyEnvelopes.forReaders(of, category, next.version);
      const payload = publishCategoryKeyPayload({
        category,
        envelopes: sealed.map((one) => one.envelope),
        institution,
        key: plainJwk(next.publicJwk),
        ledger: ledgerId,
        nonce: randomBytes(16).toString('base64url'),
        onBehalf,
        patient: pat,
        version: next.version,
      });
      const jws = await custodian.signForPatient({
        patient: pat,
        actor: { kind: due.actor_kind, id: due.actor_id },
        typ: TYP.publishCategoryKey,
        payload,
      });
      const statement = identityOf(payload);
      const named = sealed.map(({ envelope }) => ({ ...envelope, category, grantee: null, sequence: null, keyVersion: next.version }));
      const stored = await parts.envelopes.put({ of, statement, named, given: sealed.map((one) => one.text), isOwn: true });
      id = await database.transaction(async (tx) => {
        const row = await outbox.add(tx, {
          transaction: 'publishCategoryKey',
          args: [jws],
          patient: `${institution}/${pat}`,
          priority: 'urgent',
        });
        await parts.envelopes.keep(tx, { of, statement, outbox: row, stored });
        await tx.query(
          sql`update key_rotation set outbox = ${row}, key_version = ${next.version} where pat = ${pat} and category = ${category}`,
        );
        return row;
      });
    }
    const carried = await awaitCommit(parts, id, waitMs);
    if (carried.state === 'committed') {
      await done(pat, category);
      return true;
    }
    // Refused: looked at anew at the next pass. Pending: its row is followed then.
    if (carried.state === 'rejected')
      await database.query(sql`update key_rotation set outbox = null where pat = ${pat} and category = ${category} and outbox = ${id}`);
    return false;
  }

  async function done(pat: string, category: string): Promise<void> {
    await database.query(sql`delete from key_rotation where pat = ${pat} and category = ${category}`);
  }

  async function pass(): Promise<number> {
    let rotated = 0;
    const due = await database.query<Due>(
      sql`select pat, category, actor_kind, actor_id, outbox from key_rotation order by due_at limit 100`,
    );
    for (const one of due) if (!closed && (await rotate(one))) rotated++;
    return rotated;
  }

  async function run(): Promise<void> {
    while (woken && !closed) {
      woken = false;
      await pass();
    }
    const [left] = await database.query(sql`select 1 from key_rotation limit 1`);
    if (left !== undefined && !closed) timer = setTimeout(wake, retryMs).unref();
  }

  function wake(): void {
    if (closed) return;
    woken = true;
    clearTimeout(timer);
    running ??= run()
      .catch((error: unknown) => {
        parts.onError?.(error as Error);
        if (!closed) timer = setTimeout(wake, retryMs).unref();
      })
      .finally(() => {
        running = undefined;
        if (woken) wake();
      });
  }

  return {
    wake,
    pass,
    async close() {
      closed = true;
      clearTimeout(timer);
      await running;
    },
  };
}
