import { setTimeout as sleep } from 'node:timers/promises';
import { CodedError, codeOf } from '../errors.ts';
import type { Database, Sql } from '../store/database.ts';
import { raw, sql } from '../store/sql.ts';
import { runQuery } from './contract/contract.ts';
import type { Caller } from './contract/host.ts';
import { Refusal } from './contract/refusals.ts';
import type { DefinitionGuard } from './definition-guard.ts';
import { expectedReads } from './expected-reads.ts';
import type { Block, Ledger } from './ledger.ts';
import { type Alarm, type Denied, denyOwners, loadDenied, raiseAlarm } from './projection-alarms.ts';
import { writeRows, writesOf } from './projection-rows.ts';
import { HeldValues, projectedState } from './projection-state.ts';
import { replayBlock } from './replay.ts';
import { readHost } from './simulation.ts';

/** An institution's verified view of the ledger: a third host of the contract (protocol section 4). */
export interface Projection {
  /** Begins to follow the ledger; resolves when all blocks that it has now are applied. */
  start(): Promise<void>;
  close(): Promise<void>;
  /** Number of blocks applied. */
  height(): Promise<number>;
  /** True as soon as this block is applied, false where it is not within `timeoutMs`. */
  waitFor(block: number, timeoutMs: number): Promise<boolean>;
  /** Whether an own transaction submitted within `maxStalenessMs` has come back (protocol section 5); `on`: other connections than its own. */
  freshness(maxStalenessMs: number, on?: Sql): Promise<Freshness>;
  /** Empties the tables and applies every block again; the rows come out identical. Not fresh until it is done. */
  rebuild(): Promise<void>;
  /** Told of each block that this process applied, after the commit. Returns how to stop it. */
  onApplied(handler: (block: AppliedBlock) => void): () => void;
  /** A query of the contract on the verified view, now or as it stood after `height` blocks. Returns its JSON. */
  evaluate(query: string, args: readonly string[], height?: number): Promise<string>;
}

export interface Freshness {
  fresh: boolean;
  height: number;
  /** Submit time of the newest own transaction that came back; null where none has. */
  ownSeenAt: Date | null;
  ageMs: number | null;
}

export interface AppliedBlock {
  number: number;
  transactions: readonly { txId: string; name: string; validation: string; agrees: boolean }[];
}

export interface ProjectionOptions {
  database: Database;
  ledger: Pick<Ledger, 'blocks' | 'height'>;
  /** The own institution, whose transactions prove freshness. */
  institution: string;
  /** Its MSP id, where a certificate says who sends: another authority could write our institution's id into one. */
  msp?: string;
  /** Where the contract's definition is decided on the ledger itself (Fabric). */
  definitions?: DefinitionGuard;
  /** How often an approval is looked for that a definition waits for. */
  approvalRetryMs?: number;
  now?: () => Date;
  onAlarm?: (alarm: Alarm) => void;
  onError?: (error: Error) => void;
}

const CHANNEL = 'projection';
const RETRY_MS = 250;
/** Waiting for people: an approval of the contract. */
const APPROVAL_RETRY_MS = 2000;
const TABLES =
  'projection.definition, projection.state, projection.institution, projection.member, projection.patient, projection.category_key, projection.permission, projection.clause, projection.entry, projection.document, projection.emergency, projection.anchor';

type Applied = 'applied' | 'known' | 'gap';

/** Keys that a block's transactions read, as far as that is plain: who writes a patient's core has looked whether there is one. */
function likelyRead(block: Block): string[] {
  return block.transactions
    .filter(({ validation }) => validation === 'VALID')
    .flatMap((transaction) => [
      ...expectedReads(transaction),
      ...[...transaction.writes.keys()].filter((key) => key.startsWith('pat/') && key.endsWith('/core')),
    ]);
}

export function createProjection(options: ProjectionOptions): Projection {
  const { database, ledger, institution } = options;
  const now = options.now ?? (() => new Date());
  const onError = options.onError ?? (() => {});
  const held = new HeldValues();
  const handlers = new Set<(block: AppliedBlock) => void>();
  const watchers = new Set<() => void>();
  const closing = new AbortController();
  /** Ends the present pass over the blocks, so that the next begins at the checkpoint. */
  let pass = new AbortController();
  let following: Promise<void> | undefined;
  let listener: Promise<{ close(): Promise<void> }> | undefined;
  let denied: Denied | undefined;
  /** Blocks applied as far as this process has seen; the table knows better. */
  let seen = 0;
  /** The block that an unapproved definition keeps us from applying, and the one of which that was said. */
  let stoppedAt: number | undefined;
  let saidAt: number | undefined;

  function isOwn(caller: Caller): boolean {
    return caller.institution === institution && (options.msp === undefined || caller.msp === options.msp);
  }

  async function checkpoint(on: Sql): Promise<{ height: number; tip: string; own_seen_at: Date | null } | undefined> {
    const [row] = await on.query<{ height: number; tip: string; own_seen_at: Date | null }>(
      sql`select height, tip, own_seen_at from projection.checkpoint`,
    );
    return row;
  }

  /** One block in one transaction; another process may have been first, or have begun a rebuild. */
  async function apply(block: Block): Promise<Applied> {
    const alarms: Alarm[] = [];
    const applied: AppliedBlock['transactions'][number][] = [];
    let done: (() => void) | undefined;
    // Unforced: a lost commit of the last moments is applied again from the block.
    const outcome = await database.transaction(async (tx): Promise<Applied> => {
      const [at] = await tx.query<{ height: number; tip: string }>(sql`select height, tip from projection.checkpoint for update`);
      if (at === undefined || at.height < block.number) return 'gap';
      if (at.height > block.number) {
        seen = Math.max(seen, at.height);
        held.forget();
        denied = undefined;
        return 'known';
      }
      if (block.number > 0 && at.tip !== block.previousHash)
        throw new CodedError('LEDGER_CORRUPT', { diagnostics: `Block ${block.number}.` });
      await options.definitions?.admit(tx, block);
      denied ??= await loadDenied(tx);
      await held.fetch(tx, likelyRead(block));
      const { replayed, overlay } = await replayBlock(held.over(projectedState(tx)), block);
      for (const { agrees, keys, transaction } of replayed) {
        applied.push({ txId: transaction.txId, name: transaction.name, validation: transaction.validation, agrees });
        if (agrees) continue;
        const alarm: Alarm = { kind: 'write-set', block: block.number, txId: transaction.txId, stateKeys: keys };
        if (await raiseAlarm(tx, alarm)) alarms.push(alarm);
        denied = undefined;
      }
      denied ??= await loadDenied(tx);
      for (const write of await writeRows(tx, writesOf(block.number, replayed), denied)) {
        const alarm: Alarm = { kind: 'entry-conflict', block: block.number, txId: write.txId, stateKeys: [write.key] };
        if (await raiseAlarm(tx, alarm)) alarms.push(alarm);
      }
      // After the rows, so that rows of this very block are marked too. A cleared alarm denies nobody.
      const doubtful = replayed.filter((one) => !one.agrees).flatMap((one) => one.keys);
      await denyOwners(tx, await uncleared(tx, doubtful));
      // Only what the contract bears out: of any other anybody may have set the time.
      const own = replayed.filter(({ agrees, transaction }) => agrees && isOwn(transaction.caller)).map((one) => one.transaction.time);
      await tx.query(sql`with moved as (update projection.checkpoint set height = ${block.number + 1}, tip = ${block.hash},
        own_seen_at = greatest(own_seen_at, ${own.sort().at(-1) ?? null}::timestamptz) returning height)
        select pg_notify(${CHANNEL}, height::text) from moved`);
      done = () => held.applied(overlay);
      return 'applied';
    }, 'unforced');
    if (outcome === 'applied') {
      done?.();
      seen = block.number + 1;
      for (const alarm of alarms) options.onAlarm?.(alarm);
      for (const handler of handlers) handler({ number: block.number, transactions: applied });
      for (const watch of watchers) watch();
    }
    return outcome;
  }

  async function uncleared(tx: Sql, stateKeys: readonly string[]): Promise<string[]> {
    if (stateKeys.length === 0) return [];
    const rows = await tx.query<{ key: string }>(
      sql`select distinct k as key from ledger_alarm, unnest(state_keys) k where kind = 'write-set' and cleared_at is null and k = any(${[...stateKeys]}::text[])`,
    );
    return rows.map(({ key }) => key);
  }

  async function follow(): Promise<void> {
    while (!closing.signal.aborted) {
      pass = new AbortController();
      const signal = AbortSignal.any([closing.signal, pass.signal]);
      try {
        await database.query(sql`insert into projection.checkpoint (height, tip) values (0, '') on conflict (one) do nothing`);
        seen = (await checkpoint(database))?.height ?? 0;
        held.forget();
        denied = undefined;
        for await (const block of ledger.blocks(seen, signal)) {
          if (signal.aborted || (await apply(block)) === 'gap') break;
        }
      } catch (error) {
        held.forget();
        if (closing.signal.aborted) return;
        if (codeOf(error) === 'LEDGER_DEFINITION') {
          await options.definitions?.lookAhead(seen, signal).catch(onError);
          // At once again, for our approval may stand in a later block. It is said where it does not.
          if (stoppedAt === seen) await stopped('definition', error as Error, options.approvalRetryMs ?? APPROVAL_RETRY_MS);
          stoppedAt = seen;
        } else if (codeOf(error) === 'LEDGER_CORRUPT') await stopped('chain', error as Error, RETRY_MS);
        else {
          onError(error as Error);
          await pause(RETRY_MS);
        }
      }
    }
  }

  /** It does not advance any more, so freshness runs out and nothing is served. */
  async function stopped(kind: 'definition' | 'chain', error: Error, retryMs: number): Promise<void> {
    // Waiting for people is said once.
    if (kind === 'chain' || saidAt !== seen) onError(error);
    if (kind === 'definition') saidAt = seen;
    const alarm: Alarm = { kind, block: seen, stateKeys: [] };
    await raiseAlarm(database, alarm).then((fresh) => fresh && options.onAlarm?.(alarm), onError);
    await pause(retryMs);
  }

  /** Ends early, and says nothing of it, where everything is being closed. */
  function pause(ms: number): Promise<void> {
    return sleep(ms, undefined, { signal: closing.signal }).catch(() => {});
  }

  async function height(): Promise<number> {
    return (await checkpoint(database))?.height ?? 0;
  }

  async function waitFor(block: number, timeoutMs: number): Promise<boolean> {
    const end = performance.now() + timeoutMs;
    for (;;) {
      let wake = (): void => {};
      const woken = new Promise<void>((resolve) => (wake = resolve));
      watchers.add(wake);
      try {
        if ((await height()) > block) return true;
        const left = end - performance.now();
        if (left <= 0 || closing.signal.aborted) return false;
        // Blocks that another process applies are heard of through the channel, or seen at the next look.
        const timer = setTimeout(wake, Math.min(left, RETRY_MS));
        await woken;
        clearTimeout(timer);
      } finally {
        watchers.delete(wake);
      }
    }
  }

  async function catchUp(): Promise<void> {
    const target = await ledger.height();
    let reached = target === 0;
    while (!reached && !closing.signal.aborted) reached = await waitFor(target - 1, 1000);
  }

  return {
    async start() {
      following ??= follow();
      listener ??= database.listen(CHANNEL, () => {
        for (const watch of watchers) watch();
      });
      await listener;
      await catchUp();
    },
    async close() {
      closing.abort();
      for (const watch of watchers) watch();
      await following;
      await (await listener?.catch(() => undefined))?.close();
    },
    height,
    waitFor,
    async freshness(maxStalenessMs, on = database) {
      const at = await checkpoint(on);
      const ownSeenAt = at?.own_seen_at ?? null;
      const ageMs = ownSeenAt === null ? null : now().getTime() - ownSeenAt.getTime();
      return { fresh: ageMs !== null && ageMs <= maxStalenessMs, height: at?.height ?? 0, ownSeenAt, ageMs };
    },
    async rebuild() {
      await database.transaction(async (tx) => {
        await tx.query(sql`insert into projection.checkpoint (height, tip) values (0, '') on conflict (one) do nothing`);
        await tx.query(sql`select height from projection.checkpoint for update`);
        await tx.query(raw(`truncate ${TABLES}`));
        await tx.query(sql`update projection.checkpoint set height = 0, tip = '', own_seen_at = null`);
      });
      seen = 0;
      pass.abort();
      const begun = following === undefined;
      following ??= follow();
      await catchUp();
      if (begun) {
        closing.abort();
        await following;
      }
    },
    onApplied(handler) {
      handlers.add(handler);
      return () => handlers.delete(handler);
    },
    async evaluate(query, args, atHeight) {
      try {
        return await database.transaction((tx) => runQuery(readHost(projectedState(tx, atHeight)), query, args), 'repeatable read');
      } catch (error) {
        throw error instanceof Refusal ? new CodedError('LEDGER_REFUSED', { diagnostics: error.message }) : error;
      }
    },
  };
}
