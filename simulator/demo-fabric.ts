import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { createNetwork, type FabricNetwork } from '../network/network.ts';
import { foundFabricLedger } from '../src/app/ledger-identity.ts';
import { readSettings } from '../src/cli/settings.ts';
import { newId } from '../src/ids.ts';
import { createEmbeddedPostgres } from '../src/store/embedded-postgres.ts';
import { copyConfig } from './demo-config.ts';
import type { Story } from './demo-story.ts';
import type { Simulator } from './simulator.ts';

/** What `config/production.yaml` names, started on this machine: PostgreSQL, Redis, and a Fabric network of three institutions. */
export interface FabricSite {
  config: string;
  close(): Promise<void>;
}

const NAMES = ['home', 'second', 'third'];

/** The network's folder within the demo's; what an earlier demo left running there is ended first. */
export async function endLeftNetwork(run: string): Promise<void> {
  const folder = join(run, 'network');
  if (existsSync(folder)) await (await openNetwork(folder, newId('inst'))).down().catch(() => undefined);
}

export async function startFabricSite({ run, simulator, story }: { run: string; simulator: Simulator; story: Story }): Promise<FabricSite> {
  const closers: (() => Promise<unknown>)[] = [];
  const close = async (): Promise<void> => {
    for (const closer of closers.splice(0).reverse()) await closer();
  };
  try {
    const institution = newId('inst');
    const started = performance.now();
    const network = await openNetwork(join(run, 'network'), institution);
    closers.push(() => network.down());
    await network.up();
    const nodes = await network.status();
    const count = (kind: string): number => nodes.filter((node) => node.kind === kind).length;
    story.line(
      `A Hyperledger Fabric network of three institutions is up after ${seconds(started)} s: ${count('peer')} peers, ${count('orderer')} orderer, ${count('chaincode')} servers of the contract.`,
    );
    const postgres = await createEmbeddedPostgres({ directory: join(run, 'postgres') });
    closers.push(() => postgres.stop());
    const redis = await startRedis();
    if (redis === undefined) story.line('There is no redis-server on this machine: the queue lies in PostgreSQL instead.');
    else closers.push(redis.close);

    const connection = await network.connection(institution);
    const [peer] = connection.peers;
    assert.ok(peer !== undefined, 'the network has no peer of ours');
    const config = copyConfig({
      run,
      sample: 'production.yaml',
      simulator,
      values: {
        ONCOBRIDGE_DATA: '../data',
        ONCOBRIDGE_INSTITUTION: 'Example Cancer Centre',
        ONCOBRIDGE_INSTITUTION_ID: institution,
        FABRIC_MSP: connection.msp,
        FABRIC_PEER: peer.endpoint,
      },
      files: {
        DATABASE_URL: postgres.url,
        REDIS_URL: redis?.url ?? '',
        CUSTODIAN_PASSPHRASE: randomBytes(24).toString('base64url'),
        FABRIC_CERTIFICATE: connection.certificatePem,
        FABRIC_KEY: connection.privateKeyPem,
        FABRIC_PEER_TLS_ROOT: peer.tlsRootPem,
      },
      change(text) {
        const queue = redis === undefined ? text.replace(/^queue: .*$/m, 'queue: { kind: postgres }') : text;
        const named = peer.serverName === undefined ? queue : queue.replace('{ endpoint:', `{ serverName: ${peer.serverName}, endpoint:`);
        return named.replace(/, publicUrl: "[^"]*"/, '');
      },
    });
    const founded = await foundFabricLedger(await readSettings(config));
    story.line(
      `This institution founded the ledger: transaction ${short(founded.txId)}, block ${founded.block}. Its id is pinned: ${founded.ledgerId}.`,
    );
    const text = readFileSync(config, 'utf8');
    writeFileSync(config, text.replace(/# id: .*$/m, `id: ${founded.ledgerId}`));
    return { config, close };
  } catch (error) {
    await close();
    throw error;
  }
}

function openNetwork(folder: string, home: string): Promise<FabricNetwork> {
  const institutions = NAMES.map((name, n) => ({
    name,
    institution: n === 0 ? home : newId('inst'),
    msp: `${name[0]?.toUpperCase()}${name.slice(1)}MSP`,
  }));
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  return createNetwork({ folder, institutions });
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

const seconds = (started: number): string => ((performance.now() - started) / 1000).toFixed(1);
const short = (txId: string): string => `${txId.slice(0, 12)}…`;
