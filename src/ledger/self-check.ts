import type { Database, Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { EcJwk } from './contract/host.ts';
import { readBlocks } from './embedded/block-store.ts';
import { type DecodedBlock, decodeBlock, GENESIS } from './embedded/stored-block.ts';
import { readTip, type Tip } from './embedded/tip-file.ts';
import { sha256Hex } from './host-crypto.ts';
import type { Alarm } from './projection-alarms.ts';
import { writesOf } from './projection-rows.ts';
import { createShadow } from './projection-shadow.ts';
import { type Checkpoint, type Problem, problemOf, readCheckpoint, verifyLedger } from './verify.ts';
import { type VerifyChannelOptions, verifyChannel } from './verify-channel.ts';

const PAGE = 100;
/** Names in an alarm. */
const MOST = 100;

/**
 * The cheap part of `ledger verify`, for the running server: are the rows that the readable scope reads those of the blocks? It
 * hashes every block up to the tip file, which lies outside the database, and so needs no signature and does not run the contract
 * again; it derives the projection's rows from what the blocks say they wrote and compares them all, and the ledger's stored state.
 * A difference raises the alarm `projection` (one row in ledger_alarm for the same differences). Resolves to what was found.
 *
 * With a write-set alarm on record the blocks' word is not enough: then it is `verifyLedger`.
 */
export async function checkProjection(options: {
  database: Database;
  tipFile: string;
  /** Told of an alarm that is new, or came again after it was cleared. */
  onAlarm?: (alarm: Alarm) => void;
  /** Ends the check early, without a finding. */
  signal?: AbortSignal;
}): Promise<readonly Problem[]> {
  const { database, tipFile, signal } = options;
  return alarmed(options, async (doubt) =>
    doubt ? (await verifyLedger({ database, tipFile })).problems : compare(database, await readTip(tipFile).catch(() => undefined), signal),
  );
}

/** The same over the blocks of the own peers (Fabric), which lie outside the database as the tip file does. */
export async function checkChannelProjection(
  options: Omit<VerifyChannelOptions, 'rerun' | 'receipts'> & { onAlarm?: (alarm: Alarm) => void },
): Promise<readonly Problem[]> {
  return alarmed(options, async (doubt) => (await verifyChannel({ ...options, rerun: doubt })).problems);
}

async function alarmed(
  options: { database: Database; onAlarm?: (alarm: Alarm) => void; signal?: AbortSignal },
  check: (doubt: boolean) => Promise<readonly Problem[]>,
): Promise<readonly Problem[]> {
  const { database, signal } = options;
  const [doubt] = await database.query(sql`select 1 from ledger_alarm where kind = 'write-set' limit 1`);
  let problems: readonly Problem[];
  try {
    problems = await check(doubt !== undefined);
  } catch (error) {
    if (signal?.aborted === true) return [];
    throw error;
  }
  if (problems.length > 0) {
    const names = problems.slice(0, MOST).map(({ what }) => what);
    const block = (await readCheckpoint(database)).height;
    const alarm: Alarm = { kind: 'projection', block, stateKeys: names };
    if (await raise(database, alarm)) options.onAlarm?.(alarm);
  }
  return problems;
}

async function raise(on: Sql, alarm: Alarm): Promise<boolean> {
  const id = `projection-${sha256Hex(alarm.stateKeys.join('\n')).slice(0, 32)}`;
  const rows = await on.query(sql`insert into ledger_alarm (id, kind, block, state_keys)
    values (${id}, ${alarm.kind}, ${alarm.block}, ${[...alarm.stateKeys]}::text[])
    on conflict (id) do update set at = now(), cleared_at = null where ledger_alarm.cleared_at is not null returning id`);
  return rows.length > 0;
}

async function compare(database: Database, tip: Tip | undefined, signal: AbortSignal | undefined): Promise<Problem[]> {
  if (tip === undefined) return [{ kind: 'tip', what: 'the tip file is missing or malformed' }];
  return database.transaction(async (tx) => {
    const shadow = await createShadow(tx);
    const checkpoint = await readCheckpoint(tx);
    const problems: Problem[] = [];
    let seen = '';
    const compareProjection = async (): Promise<void> => {
      for (const difference of await shadow.compareProjection()) problems.push(problemOf(difference));
      const { own_seen_at: own } = checkpoint;
      if (own !== null && own.toISOString() > seen)
        problems.push({ kind: 'projection', what: 'projection.checkpoint claims an own transaction that no block holds' });
    };
    if (checkpoint.height === 0) await compareProjection();
    let number = 0;
    for await (const { block } of chain(tx, tip, checkpoint)) {
      signal?.throwIfAborted();
      if ('problem' in block) return [block.problem];
      const valid = block.transactions.flatMap((transaction, n) =>
        transaction.validation === 'VALID' ? [{ n, transaction, writes: transaction.writes }] : [],
      );
      await shadow.apply(writesOf(block.number, valid));
      number = block.number + 1;
      if (number <= checkpoint.height) for (const { time } of block.transactions) if (time > seen) seen = time;
      if (number === checkpoint.height) await compareProjection();
    }
    if (number < Math.max(checkpoint.height, tip.height)) return [{ kind: 'chain', block: number, what: `block ${number} is missing` }];
    for (const difference of await shadow.compareState()) problems.push(problemOf(difference));
    return problems;
  }, 'repeatable read');
}

type Checked = { block: DecodedBlock['block'] | { problem: Problem } };

/** The blocks in order, each one bound to the tip file, or beyond it to the signer before; ends with the first problem. */
async function* chain(on: Sql, tip: Tip, checkpoint: Checkpoint): AsyncGenerator<Checked> {
  const told = new Map(tip.lines.map(({ height, hash }) => [height, hash]));
  if (checkpoint.height > 0) told.set(checkpoint.height, told.get(checkpoint.height) ?? checkpoint.tip);
  let previous = GENESIS;
  let signer: EcJwk | undefined;
  for (let number = 0; ; ) {
    const rows = await readBlocks(on, number, PAGE);
    if (rows.length === 0) return;
    for (const row of rows) {
      let decoded: DecodedBlock | undefined;
      // What no line of the tip file follows on yet was committed a moment ago, or by somebody else.
      const known = number < tip.height;
      let wrong = row.number !== number || row.previous_hash !== previous ? `block ${number} does not follow on the one before` : undefined;
      try {
        decoded = await decodeBlock(row, { signatures: !known });
      } catch (error) {
        wrong ??= error instanceof SyntaxError ? 'malformed' : (error as Error).message;
      }
      const hash = told.get(number + 1);
      if (hash !== undefined && hash !== row.hash) wrong ??= `block ${number} is not the one handed out`;
      if (decoded !== undefined && decoded.ledger !== tip.ledger) wrong ??= 'block of another ledger';
      if (!known && signer !== undefined && (decoded?.signer.x !== signer.x || decoded.signer.y !== signer.y))
        wrong ??= 'signed by another key than the blocks before';
      if (wrong !== undefined || decoded === undefined) {
        yield { block: { problem: { kind: 'block', block: number, what: wrong ?? 'malformed' } } };
        return;
      }
      yield { block: decoded.block };
      previous = row.hash;
      signer = decoded.signer;
      number++;
    }
  }
}
