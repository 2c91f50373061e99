import { type ChildProcess, fork } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { BARE_CHAINCODE, createNetwork, type FabricNetwork, ONCOBRIDGE_CHAINCODE } from '../network/network.ts';
import type { FabricConnection } from '../src/ledger/fabric/connection.ts';
import { createFabricLedger } from '../src/ledger/fabric/fabric-ledger.ts';
import { connectPeers, type OwnPeers } from '../src/ledger/fabric/peers.ts';
import type { Ledger, Receipt } from '../src/ledger/ledger.ts';
import { createProjection, type Projection } from '../src/ledger/projection.ts';
import { projectedState } from '../src/ledger/projection-state.ts';
import { createDatabase, type Database } from '../src/store/database.ts';
import { createEmbeddedPostgres } from '../src/store/embedded-postgres.ts';
import { migrate } from '../src/store/migrate.ts';
import { raw, sql } from '../src/store/sql.ts';
import { type Cast, cast, HOME, LEDGER, statements } from '../test/ledger/world.ts';
import { treesCpuMs } from './measure.ts';
import type { Progress } from './row.ts';

export interface FollowerStart {
  connection: FabricConnection;
  ledgerId: string;
  databaseUrl: string;
}
export type FollowerMessage = { applied: number; atMs: number } | { alarm: unknown };

/** An institution that only follows, in its own process. */
export interface Follower {
  /** The moment (ms since the epoch) at which this block was applied there. */
  appliedAt(block: number): Promise<number>;
}

/** Three institutions on one network, the contract and the bare chaincode on it; ours writes, all three follow. */
export interface FabricWorld {
  keys: Cast;
  say: ReturnType<typeof statements>;
  ledger: Ledger;
  projection: Projection;
  database: Database;
  /** The same peers and signer, for the bare chaincode. */
  bare: OwnPeers;
  followers: readonly Follower[];
  send(name: string, args: readonly string[]): Promise<Receipt>;
  /** CPU milliseconds so far, by what spent them; our own are left to the caller, for asking costs some. */
  cpuMs(): Promise<Record<string, number>>;
  close(): Promise<void>;
}

/** Whose CPU the process of the bench itself spends. */
export const OWN = 'our client and projection';
const PATIENTS = 200;
export const PATIENT_IDS: readonly string[] = Array.from({ length: PATIENTS }, (_, i) => `pat-${String(i).padStart(4, '0')}`);

export async function startFabricWorld(progress: Progress): Promise<FabricWorld> {
  const directory = await mkdtemp(join(tmpdir(), 'oncobridge-bench-fabric-'));
  const closers: (() => Promise<unknown>)[] = [() => rm(directory, { recursive: true, force: true, maxRetries: 5 })];
  const close = async (): Promise<void> => {
    for (const one of closers.splice(0).reverse()) await one();
  };
  try {
    progress('starting a network of three institutions');
    const network = await createNetwork({
      folder: join(directory, 'network'),
      institutions: ['home', 'away', 'third'].map((name) => ({ name, institution: `inst-${name}`, msp: `inst-${name}-msp` })),
      chaincode: [ONCOBRIDGE_CHAINCODE, BARE_CHAINCODE],
    });
    closers.push(() => network.down());
    await network.up();

    const postgres = await createEmbeddedPostgres({ directory: join(directory, 'postgres') });
    closers.push(() => postgres.stop());
    const admin = createDatabase({ url: postgres.url, maxConnections: 1 });
    const [database, ...others] = await Promise.all(
      ['home', 'away', 'third'].map(async (name) => {
        await admin.query(sql`create database ${raw(name)}`);
        const url = new URL(postgres.url);
        url.pathname = `/${name}`;
        const one = createDatabase({ url: url.href, maxConnections: name === 'home' ? 12 : 2 });
        await migrate(one);
        return { one, url: url.href };
      }),
    );
    await admin.close();
    if (database === undefined) throw new Error('no database');
    closers.push(() => database.one.close());
    for (const { one } of others) await one.close();

    const keys = cast();
    const say = statements(keys, LEDGER);
    const ledger = await createFabricLedger({
      connection: await network.connection('home'),
      ledgerId: LEDGER,
      state: projectedState(database.one),
    });
    closers.push(() => ledger.close());
    const bare = connectPeers(await network.connection('home', BARE_CHAINCODE.name));
    closers.push(async () => bare.close());
    const alarm = (what: unknown): void => {
      throw new Error('the projection raised an alarm', { cause: what });
    };
    const projection = createProjection({ database: database.one, ledger, institution: HOME, onAlarm: alarm });
    closers.push(() => projection.close());
    await projection.start();
    const followers = await Promise.all(
      ['away', 'third'].map(async (name, i) => {
        const start: FollowerStart = {
          connection: await network.connection(name),
          ledgerId: LEDGER,
          databaseUrl: others[i]?.url ?? '',
        };
        const child = fork(fileURLToPath(new URL('./fabric-follower.ts', import.meta.url)), { stdio: 'inherit' });
        closers.push(() => ended(child));
        return { child, ...follow(child, start, alarm) };
      }),
    );

    const send = async (name: string, args: readonly string[]): Promise<Receipt> =>
      ledger.submit((await ledger.endorse({ name, args })).bytes);
    await send('init', say.init([HOME, keys.home]));
    progress(`enrolling ${PATIENTS} patients`);
    const waiting = [...PATIENT_IDS];
    await Promise.all(
      Array.from({ length: 16 }, async () => {
        for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) await send('enrollPatient', say.enroll(next));
      }),
    );
    await projection.waitFor((await ledger.height()) - 1, 60_000);
    const cpuMs = async (): Promise<Record<string, number>> =>
      measure(
        network,
        await postgres.pid(),
        followers.map(({ child }) => child.pid ?? 0),
      );
    return { keys, say, ledger, projection, database: database.one, bare, followers, send, cpuMs, close };
  } catch (error) {
    await close();
    throw error;
  }
}

function follow(child: ChildProcess, start: FollowerStart, onAlarm: (what: unknown) => void): Follower {
  const at = new Map<number, number>();
  const waiting = new Set<() => void>();
  child.on('message', (message: FollowerMessage) => {
    if ('alarm' in message) return onAlarm(message.alarm);
    at.set(message.applied, message.atMs);
    for (const wake of waiting) wake();
  });
  child.send(start);
  return {
    async appliedAt(block) {
      for (;;) {
        const found = at.get(block);
        if (found !== undefined) return found;
        await new Promise<void>((resolve) => {
          const wake = (): void => {
            waiting.delete(wake);
            resolve();
          };
          waiting.add(wake);
        });
      }
    },
  };
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) return;
  const exit = new Promise((resolve) => child.once('exit', resolve));
  child.disconnect();
  const late = setTimeout(() => child.kill('SIGKILL'), 5000);
  await exit;
  clearTimeout(late);
}

async function measure(
  network: FabricNetwork,
  postgres: number | undefined,
  followers: readonly number[],
): Promise<Record<string, number>> {
  const found: { name: string; pid: number }[] = [];
  const add = (name: string, pid: number | undefined): void => void (pid === undefined || found.push({ name, pid }));
  for (const node of await network.status()) {
    const own = node.name.endsWith('.home');
    const kind =
      node.kind === 'peer' ? (own ? 'gateway peer' : 'two other peers') : node.kind === 'orderer' ? 'orderer' : 'chaincode servers';
    add(kind, node.pid);
  }
  for (const pid of followers) add("two others' projections", pid);
  add('PostgreSQL of all three', postgres);
  const sums: Record<string, number> = { [OWN]: 0 };
  for (const [i, ms] of (await treesCpuMs(found.map(({ pid }) => pid))).entries()) {
    const { name } = found[i] as (typeof found)[number];
    sums[name] = (sums[name] ?? 0) + (ms ?? 0);
  }
  return sums;
}
