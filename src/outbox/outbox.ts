import type { Receipt } from '../ledger/ledger.ts';
import type { Sql } from '../store/database.ts';

/** A transaction that must reach the ledger. `args` is what the contract takes; it never holds patient data. */
export interface OutboxItem {
  /** Contract transaction, e.g. `recordDocuments`. Rows of `recordDocuments` carry ONE entry and are batched by the relay. */
  transaction: string;
  args: readonly string[];
  /** At most one unsettled row per order key is released at a time (permissions of one triple). */
  orderKey?: string;
  /** `inst/pat` that the row is about: batches are filled patient by patient, and rows wait until that patient is enrolled in the projection. */
  patient?: string;
  /** `urgent`: a revoke, which waits for nothing; `live`; `backfill`. */
  priority?: 'urgent' | 'live' | 'backfill';
}

export type OutboxState = 'pending' | 'claimed' | 'enqueued' | 'inflight' | 'committed' | 'rejected' | 'failed' | 'conflict';

export interface Outbox {
  /** Writes a row inside the caller's transaction; returns its id (`obx-…`). */
  add(tx: Sql, item: OutboxItem): Promise<string>;
  /** The same for many in one statement; ids in the order of the items. */
  addAll(tx: Sql, items: readonly OutboxItem[]): Promise<string[]>;
  /** Wakes the relay; call it after the caller's transaction committed. */
  wake(): void;
  /** Resolves when the row is settled; `undefined` when it is not within `timeoutMs`. */
  settled(id: string, timeoutMs: number): Promise<Settlement | undefined>;
}

export interface Settlement {
  state: OutboxState;
  receipt?: Receipt;
  errorCode?: string;
}
