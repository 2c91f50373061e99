import { createHash, randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { canonicalize } from '../ledger/contract/jcs.ts';
import { anchorAuditArgument } from '../ledger/contract/payloads.ts';
import { awaitCommit, type Carried, type Carrier } from '../outbox/await-commit.ts';
import type { Database, Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import { merkleRoot } from './merkle.ts';

/** Events that one anchor covers at most; the rest follow with the next. Bounds a transaction after a long outage. */
const MAX_EVENTS = 50_000;
const NO_ROOT = '0'.repeat(64);
const RETRY_MS = 250;
const SLICE_MS = 1000;

export interface Anchoring {
  /**
   * Begins the heartbeat. Resolves when the first anchor is projected, or when `maxWaitMs` have passed without: a start does
   * not fail with the ledger.
   */
  start(): Promise<void>;
  /** One anchor now, or the one that is still on its way. */
  anchorNow(): Promise<Anchored>;
  close(): Promise<void>;
}
export type Anchored =
  | { state: 'committed'; number: number; events: number }
  /** On its way: it is waited for again before another one is made. */
  | { state: 'pending'; number: number }
  /** Refused; its events come under the next one. */
  | { state: 'rejected'; number: number; code: string };

interface Taken {
  number: number;
  outbox: string;
  events: number;
  /** False where an earlier run made it. */
  made: boolean;
}

/** First leaf of each tree: what makes a missing row, a missing anchor and a guessed tree show. */
interface AnchorHeader {
  /** Events under this anchor. */
  count: number;
  institution: string;
  number: number;
  /** Root of the anchor before. */
  previous: string;
  salt: string;
}

/**
 * Anchors the log of accesses on the ledger: at start and then every `everyMs`, whatever else happened, for the anchor is also
 * the own transaction whose return proves that the view of the ledger is fresh (protocol section 5).
 */
export function createAnchoring(
  parts: Carrier & {
    database: Database;
    institution: string;
    everyMs: number;
    /** How long one round waits for the ledger. Default: 15 s, at most `everyMs`. */
    maxWaitMs?: number;
    log?: { info(facts: object, message: string): void };
    onError?: (error: Error) => void;
  },
): Anchoring {
  const { database, institution, outbox, everyMs } = parts;
  const maxWaitMs = parts.maxWaitMs ?? Math.min(everyMs, 15_000);
  const closing = new AbortController();
  let current: Promise<Anchored> | undefined;
  let beating: Promise<void> | undefined;

  /** The anchor to wait for: one made by an earlier run and not settled, or a new one. */
  async function take(): Promise<Taken> {
    return await database.transaction(async (tx) => {
      // A command may run beside the server: one at a time over all processes.
      await tx.query(sql`select pg_advisory_xact_lock(hashtext('audit-anchor'))`);
      const [projected] = await tx.query<{ number: number; root: string }>(
        sql`select number, root from projection.anchor where inst = ${institution}`,
      );
      const [last] = await tx.query<{ number: number; header: string; outbox: string; state: string | null }>(sql`
        select a.number, a.header, a.outbox, o.state from audit_anchor a left join outbox o on o.id = a.outbox order by a.number desc limit 1`);
      if (last !== undefined && last.number > (projected?.number ?? 0)) {
        if (last.state !== 'rejected' && last.state !== 'conflict') {
          return { number: last.number, outbox: last.outbox, events: readHeader(last.header).count, made: false };
        }
        await release(tx, last.number);
      }
      return await make(tx, (projected?.number ?? 0) + 1, projected?.root ?? NO_ROOT);
    });
  }

  async function make(tx: Sql, number: number, previous: string): Promise<Taken> {
    const covered = await tx.query<{ seq: number; leaf: Buffer }>(sql`
      update audit_event set anchor = ${number}
      where seq in (select seq from audit_event where anchor is null order by seq limit ${MAX_EVENTS}) returning seq, leaf`);
    const leaves = covered.sort((a, b) => a.seq - b.seq).map(({ leaf }) => leaf);
    const header = canonicalize({
      count: leaves.length,
      institution,
      number,
      previous,
      salt: randomBytes(16).toString('base64url'),
    } satisfies AnchorHeader);
    const root = anchorRoot(header, leaves);
    const id = await outbox.add(tx, {
      transaction: 'anchorAudit',
      args: [anchorAuditArgument({ number, root })],
      orderKey: `anchor/${institution}`,
      // Nothing is answered without it, so it goes before any backlog of documents.
      priority: 'urgent',
    });
    await tx.query(sql`insert into audit_anchor (number, root, header, outbox) values (${number}, ${root}, ${header}, ${id})`);
    return { number, outbox: id, events: leaves.length, made: true };
  }

  /** A refused anchor never was: its events are free for the next. */
  async function release(tx: Sql, number: number): Promise<void> {
    await tx.query(sql`update audit_event set anchor = null where anchor = ${number}`);
    await tx.query(sql`delete from audit_anchor where number = ${number}`);
  }

  async function anchor(): Promise<Anchored> {
    const until = performance.now() + maxWaitMs;
    for (;;) {
      const { number, outbox: id, events, made } = await take();
      const carried = await carry(id, until);
      const late = closing.signal.aborted || performance.now() + RETRY_MS >= until;
      if (carried.state === 'pending') return { state: 'pending', number };
      // One of an earlier run may have been signed long ago and proves nothing of now: it is followed by a new one.
      if (carried.state === 'committed' && (made || late)) return { state: 'committed', number, events };
      if (carried.state === 'rejected') {
        if (late) return { state: 'rejected', number, code: carried.code };
        await pause(RETRY_MS);
      }
    }
  }

  /** In short waits, so that closing does not last as long as a ledger is away. */
  async function carry(id: string, until: number): Promise<Carried> {
    for (;;) {
      const left = until - performance.now();
      const carried = await awaitCommit(parts, id, Math.max(1, Math.min(left, SLICE_MS)));
      if (carried.state !== 'pending' || left <= SLICE_MS || closing.signal.aborted) return carried;
    }
  }

  function anchorNow(): Promise<Anchored> {
    current ??= anchor().finally(() => {
      current = undefined;
    });
    return current;
  }

  async function round(): Promise<void> {
    try {
      const done = await anchorNow();
      parts.log?.info(done, 'audit anchor');
    } catch (error) {
      parts.onError?.(error as Error);
    }
  }

  async function beat(first: Promise<void>): Promise<void> {
    let next = performance.now() + everyMs;
    await first;
    while (!closing.signal.aborted) {
      await pause(Math.max(0, next - performance.now()));
      if (closing.signal.aborted) return;
      next = performance.now() + everyMs;
      await round();
    }
  }

  /** Ends early, and says nothing of it, where everything is being closed. */
  function pause(ms: number): Promise<void> {
    return sleep(ms, undefined, { signal: closing.signal }).catch(() => {});
  }

  return {
    async start() {
      if (beating !== undefined) return;
      const first = round();
      beating = beat(first);
      await first;
    },
    anchorNow,
    async close() {
      closing.abort();
      await beating;
      await current?.catch(() => undefined);
    },
  };
}

export function anchorRoot(header: string, leaves: readonly Uint8Array[]): string {
  return merkleRoot([headerLeaf(header), ...leaves]).toString('hex');
}

/** Prefix 0x02: never taken for an event or an inner node. */
export function headerLeaf(header: string): Buffer {
  return createHash('sha256').update(Buffer.of(2)).update(header).digest();
}

export function readHeader(header: string): AnchorHeader {
  return JSON.parse(header) as AnchorHeader;
}
