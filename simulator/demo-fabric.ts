import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { createNetwork, type FabricNetwork, openNetwork } from '../network/network.ts';
import { foundFabricLedger } from '../src/app/ledger-identity.ts';
import { readSettings } from '../src/cli/settings.ts';
import { newId } from '../src/ids.ts';
import { createDatabase } from '../src/store/database.ts';
import { createEmbeddedPostgres } from '../src/store/embedded-postgres.ts';
import { raw } from '../src/store/sql.ts';
import { copyConfig } from './demo-config.ts';
import type { Story } from './demo-story.ts';
import type { Simulator } from './simulator.ts';

/** What `config/production.yaml` names, started on this machine: PostgreSQL, Redis, and a Fabric network of three institutions. */
export interface FabricSite {
  network: FabricNetwork;
  /** The first institution's configuration, with no ledger pinned. */
  config: string;
  /** The configuration of another one of the three, on the same servers. */
  configOf(name: string, run: string): Promise<string>;
  /** Kinds of node, counted. */
  count(kind: string): number;
  hasRedis: boolean;
  close(): Promise<void>;
}

const NAMES = ['home', 'second', 'third'];

/** What an earlier demo left running in this folder is ended before the folder is removed. */
export async function endLeftNetwork(run: string): Promise<void> {
  const folder = join(run, 'network');
  if (existsSync(folder))
    await openNetwork(folder).then(
      (network) => network.down(),
      () => undefined,
    );
}

export async function startFabricSite({ run, simulator }: { run: string; simulator: Simulator }): Promise<FabricSite> {
  const closers: (() => Promise<unknown>)[] = [];
  const close = async (): Promise<void> => {
    for (const closer of closers.splice(0).reverse()) await closer();
  };
  try {
    const folder = join(run, 'network');
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const institutions = NAMES.map((name) => ({ name, institution: newId('inst'), msp: `${name[0]?.toUpperCase()}${name.slice(1)}MSP` }));
    const network = await createNetwork({ folder, institutions });
    closers.push(() => network.down());
    await network.up();
    const nodes = await network.status();
    const postgres = await createEmbeddedPostgres({ directory: join(run, 'postgres') });
    closers.push(() => postgres.stop());
    const redis = await startRedis();
    if (redis !== undefined) closers.push(redis.close);

    async function configOf(name: string, into: string): Promise<string> {
      const connection = await network.connection(name);
      const [peer] = connection.peers;
      assert.ok(peer !== undefined, 'the network has no peer of ours');
      return copyConfig({
        run: into,
        sample: 'production.yaml',
        simulator,
        values: {
          ONCOBRIDGE_DATA: '../data',
          ONCOBRIDGE_INSTITUTION: 'Example Cancer Centre',
          ONCOBRIDGE_INSTITUTION_ID: connection.institution,
          FABRIC_MSP: connection.msp,
          FABRIC_PEER: peer.endpoint,
        },
        files: {
          DATABASE_URL: name === NAMES[0] ? postgres.url : await databaseBeside(postgres.url, name),
          REDIS_URL: redis?.url ?? '',
          CUSTODIAN_PASSPHRASE: randomBytes(24).toString('base64url'),
          FABRIC_CERTIFICATE: connection.certificatePem,
          FABRIC_KEY: connection.privateKeyPem,
          FABRIC_PEER_TLS_ROOT: peer.tlsRootPem,
        },
        change(text) {
          // One Redis serves one institution; the queue of any other lies in its database.
          const queue = redis === undefined || name !== NAMES[0] ? text.replace(/^queue: .*$/m, 'queue: { kind: postgres }') : text;
          const named =
            peer?.serverName === undefined ? queue : queue.replace('{ endpoint:', `{ serverName: ${peer.serverName}, endpoint:`);
          return named.replace(/, publicUrl: "[^"]*"/, '');
        },
      });
    }

    return {
      network,
      config: await configOf('home', run),
      configOf,
      count: (kind) => nodes.filter((node) => node.kind === kind).length,
      hasRedis: redis !== undefined,
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Writes the founded ledger's id into a configuration that names none. */
export function pinLedger(config: string, ledgerId: string): void {
  const text = readFileSync(config, 'utf8');
  const pinned = text.replace(/^( +)(?:# )?id: ledger-.*$/m, `$1id: ${ledgerId}`);
  writeFileSync(config, pinned);
}

/** The whole site with its ledger founded, told as the demo tells it. */
export async function startFoundedSite(options: { run: string; simulator: Simulator; story: Story }): Promise<FabricSite> {
  const { story } = options;
  const started = performance.now();
  const site = await startFabricSite(options);
  try {
    const took = ((performance.now() - started) / 1000).toFixed(1);
    const { count, hasRedis } = site;
    story.line(
      `A Hyperledger Fabric network of three institutions, ${hasRedis ? 'a Redis' : 'a queue in PostgreSQL (there is no redis-server on this machine)'} and a PostgreSQL are up after ${took} s:`,
    );
    story.line(`  ${count('peer')} peers, ${count('orderer')} orderer, ${count('chaincode')} servers of the contract.`);
    const { ledgerId, txId, block } = await foundFabricLedger(await readSettings(site.config));
    pinLedger(site.config, ledgerId);
    story.line(`This institution founded the ledger: transaction ${txId.slice(0, 12)}…, block ${block}. Its id is pinned: ${ledgerId}.`);
    return site;
  } catch (error) {
    await site.close();
    throw error;
  }
}

async function databaseBeside(url: string, name: string): Promise<string> {
  const database = createDatabase({ url, maxConnections: 1 });
  try {
    await database.query(raw(`create database ${name}`));
  } finally {
    await database.close();
  }
  const other = new URL(url);
  other.pathname = `/${name}`;
  return other.href;
}

/** A Redis of the demo's own on a socket, as production wants it; undefined where there is no redis-server. */
async function startRedis(): Promise<{ url: string; close(): Promise<void> } | undefined> {
  if (spawnSync('redis-server', ['--version']).status !== 0) return undefined;
  // A socket's path is short, which the demo's folder need not be.
  const folder = mkdtempSync(join(tmpdir(), 'oncobridge-redis-'));
  const socket = join(folder, 'redis.sock');
  const durable = ['--appendonly', 'yes', '--appendfsync', 'always', '--maxmemory-policy', 'noeviction', '--save', ''];
  const redis = spawn('redis-server', ['--port', '0', '--unixsocket', socket, '--dir', folder, ...durable], { stdio: 'ignore' });
  const admin = new Redis(socket, { retryStrategy: () => 20, maxRetriesPerRequest: null });
  admin.on('error', () => {});
  await admin.ping();
  admin.disconnect();
  return {
    url: `unix://${socket}`,
    async close() {
      await ended(redis);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

function ended(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    if (child.exitCode !== null || child.signalCode !== null) resolve();
    child.once('exit', () => resolve());
    child.kill('SIGTERM');
  });
}
