import { CodedError } from '../errors.ts';
import { awaitCommit, type Carrier } from '../outbox/await-commit.ts';
import type { OutboxItem } from '../outbox/outbox.ts';
import type { Database, Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { LedgerPatient } from '../vault/holder.ts';

/** Where a statement stands: on the ledger and in our view of it, or on its way there. */
export type Carried = { state: 'committed'; txId: string | null; block: number } | { state: 'pending'; id: string };

export interface Carrying {
  /** Where a statement stands that was handed in before; undefined where it was not, or was refused since: then it is looked at anew. */
  follow(statement: string): Promise<Carried | undefined>;
  /** THROTTLED where this signer has sent too many of this patient: asked before anything is stored for the statement. */
  admit(request: Admission): Promise<void>;
  /**
   * Writes it down and brings it to the ledger, once, however often it is handed in. `write` shares the database transaction.
   * LEDGER_REFUSED or STALE where the ledger refuses it late, THROTTLED as `admit`.
   */
  carry(request: CarryRequest): Promise<Carried>;
  /** Takes local denials away that the ledger has, or that came with a revocation which it refused late; forgets what is old. */
  sweep(): Promise<void>;
}

interface Admission {
  of: LedgerPatient;
  /** Thumbprint of the key that signed it; the contract has verified the signature. */
  kid: string;
  item: Pick<OutboxItem, 'transaction'>;
  /** Whether it takes something away that stands: then no number refuses it. */
  takesAway?(on: Sql): Promise<boolean>;
}

export interface CarryRequest extends Admission {
  /** SHA-256 of the payload. */
  statement: string;
  item: Pick<OutboxItem, 'transaction' | 'args' | 'priority' | 'orderKey'>;
  write?(tx: Sql, outbox: string): Promise<void>;
}

/**
 * Statements of one patient by one key within a day, revocations counted apart. By key, for others may sign of a patient too (a
 * grantee's institution that renounces, a member who shared on), and must not use up the number of the patient's own.
 */
const MOST_A_DAY = 500;

class HandedInMeanwhile extends Error {}

/** Statements on their way to the ledger, each once: what makes a repeated request harmless. */
export function createCarrying(parts: Carrier & { database: Database; waitMs: number }): Carrying {
  const { database, outbox, waitMs } = parts;

  async function wait(statement: string, id: string): Promise<Carried> {
    const carried = await awaitCommit(parts, id, waitMs);
    if (carried.state === 'pending') return { state: 'pending', id };
    if (carried.state === 'rejected') {
      await database.query(sql`delete from revocation where outbox = ${id}`);
      throw refusedWith(carried.code);
    }
    const { txId, block } = carried.receipt;
    // Our view of the ledger says it now.
    await database.query(sql`delete from revocation where outbox = ${id}`);
    await database.query(
      sql`update device_statement set tx_id = ${txId}, block = ${block} where statement = ${statement} and outbox = ${id}`,
    );
    return { state: 'committed', txId, block };
  }

  async function follow(statement: string): Promise<Carried | undefined> {
    const [row] = await database.query<{ outbox: string; tx_id: string | null; block: number | null; state: string | null }>(sql`
      select d.outbox, d.tx_id, d.block, o.state from device_statement d left join outbox o on o.id = d.outbox where d.statement = ${statement}`);
    if (row === undefined) return undefined;
    if (row.block !== null) return { state: 'committed', txId: row.tx_id, block: row.block };
    if (row.state === null || row.state === 'rejected' || row.state === 'conflict') return undefined;
    return wait(statement, row.outbox);
  }

  async function checkNumber(on: Sql, { of, kid, item, takesAway }: Admission): Promise<void> {
    const [sent] = await on.query<{ n: number }>(sql`
      select count(*) as n from device_statement where inst = ${of.institution} and pat = ${of.patient} and kid = ${kid}
        and received_at > now() - interval '1 day' and (transaction = 'revokePermission') = ${item.transaction === 'revokePermission'}`);
    if ((sent?.n ?? 0) < MOST_A_DAY || (await takesAway?.(on))) return;
    throw new CodedError('THROTTLED', { retryAfterSeconds: 3600 });
  }

  return {
    follow,
    admit: (request) => checkNumber(database, request),
    async carry(request) {
      const { statement, of, kid, item, write } = request;
      const patient = `${of.institution}/${of.patient}`;
      let id: string;
      try {
        id = await database.transaction(async (tx) => {
          // Of two at once the later waits here, and then sees what the earlier has written.
          await tx.query(sql`select pg_advisory_xact_lock(hashtextextended(${statement}, 0))`);
          const [there] = await tx.query(sql`
            select 1 from device_statement d join outbox o on o.id = d.outbox
            where d.statement = ${statement} and o.state not in ('rejected', 'conflict')`);
          if (there !== undefined) throw new HandedInMeanwhile();
          await checkNumber(tx, request);
          const row = await outbox.add(tx, { ...item, patient });
          await tx.query(sql`
            insert into device_statement (statement, transaction, inst, pat, kid, outbox)
            values (${statement}, ${item.transaction}, ${of.institution}, ${of.patient}, ${kid}, ${row})
            on conflict (statement) do update set kid = excluded.kid, outbox = excluded.outbox, tx_id = null, block = null, received_at = now()`);
          await write?.(tx, row);
          return row;
        });
      } catch (error) {
        const other = error instanceof HandedInMeanwhile ? await follow(statement) : undefined;
        if (other !== undefined) return other;
        throw error instanceof HandedInMeanwhile ? new CodedError('CONFLICT') : error;
      }
      outbox.wake();
      return wait(statement, id);
    },
    async sweep() {
      await database.query(sql`
        delete from revocation v using device_statement d, outbox o
        where v.outbox = d.outbox and o.id = d.outbox and o.state = 'rejected'`);
      await database.query(sql`delete from revocation v where exists (select 1 from projection.state s where s.key = v.used_key)`);
      await database.query(sql`
        delete from device_statement d where d.received_at < now() - interval '90 days'
          and not exists (select 1 from outbox o where o.id = d.outbox and o.settled_at is null)`);
    },
  };
}

/** The contract's refusal as the device hears of it: its code, which docs/ledger.md explains. */
export function refusedWith(code: string): CodedError {
  if (code === 'GRANT_BEYOND_ANCHOR') return new CodedError('STALE', { retryAfterSeconds: 15 });
  return new CodedError('LEDGER_REFUSED', { diagnostics: code });
}
