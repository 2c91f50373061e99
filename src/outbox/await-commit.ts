import { CodedError } from '../errors.ts';
import type { Receipt } from '../ledger/ledger.ts';
import type { Outbox } from './outbox.ts';

/** What it takes to follow a transaction until it counts: its settlement, and the projection having applied its block. */
export interface Carrier {
  outbox: Pick<Outbox, 'add' | 'wake' | 'settled'>;
  /** True as soon as this block is applied, false where it is not within `timeoutMs`. */
  projected(block: number, timeoutMs: number): Promise<boolean>;
}

export type Carried = { state: 'committed'; receipt: Receipt } | { state: 'rejected'; code: string } | { state: 'pending' };

/**
 * Waits until the row is committed *and projected*: only then does the transaction count (architecture section 7). `pending`
 * where that takes longer than `timeoutMs`; the row stays on its way.
 */
export async function awaitCommit(carrier: Carrier, id: string, timeoutMs: number): Promise<Carried> {
  const started = performance.now();
  carrier.outbox.wake();
  const settlement = await carrier.outbox.settled(id, timeoutMs);
  if (settlement === undefined) return { state: 'pending' };
  const { receipt } = settlement;
  if (receipt === undefined || settlement.state !== 'committed') {
    return { state: 'rejected', code: settlement.errorCode ?? 'LEDGER_REFUSED' };
  }
  const left = Math.max(0, timeoutMs - (performance.now() - started));
  return (await carrier.projected(receipt.block, left)) ? { state: 'committed', receipt } : { state: 'pending' };
}

/** As above, for transactions that nobody may go on without: LEDGER_REFUSED or UNAVAILABLE instead of the other states. */
export async function mustCommit(carrier: Carrier, id: string, timeoutMs: number): Promise<Receipt> {
  const carried = await awaitCommit(carrier, id, timeoutMs);
  if (carried.state === 'committed') return carried.receipt;
  if (carried.state === 'rejected') throw new CodedError('LEDGER_REFUSED', { diagnostics: carried.code });
  throw new CodedError('UNAVAILABLE', { diagnostics: 'The transaction is on its way to the ledger.', retryAfterSeconds: 5 });
}
