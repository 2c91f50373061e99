import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { OperationOutcomeIssue, Resource } from 'fhir/r4.js';
import { createSimulator, type Simulator } from '../../simulator/simulator.ts';
import { findServer, remoteOperations } from '../../src/cli/control-client.ts';
import type { Operations } from '../../src/cli/operations.ts';
import { controlFile } from '../../src/cli/run.ts';
import { createFileBlobs, type FileBlobs } from '../../src/store/blob-files.ts';
import { createDatabase, type Database } from '../../src/store/database.ts';
import { createEmbeddedPostgres } from '../../src/store/embedded-postgres.ts';
import { simulatorEnvironment } from '../simulator/environment.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const launcher = join(root, 'bin/oncobridge');

/** Answer of a request, whole. */
export interface Reply {
  status: number;
  headers: Headers;
  bytes: Buffer;
  text: string;
  json: {
    id?: string;
    total?: number;
    link?: { relation: string; url: string }[];
    entry?: { resource?: Resource; search?: { mode?: string } }[];
    issue?: OperationOutcomeIssue[];
  };
}

/** One oncobridge as a site runs it, seen from outside: its doors, its folder, its database, what it logs. */
export interface Site {
  simulator: Simulator;
  folder: string;
  config: string;
  data: string;
  facade: string;
  operationsUrl: string;
  operations: Operations;
  database: Database;
  /** Connection URL of its database; it holds the password. */
  databaseUrl: string;
  blobs: FileBlobs;
  institution: string;
  /** Everything that the server and its PostgreSQL have said so far. */
  log(): string;
  /** Every bearer token that was handed out. */
  tokens: readonly string[];
  token(as: string, options?: { purpose?: string; scopes?: readonly string[] }): Promise<string>;
  /** A request with the token of `as` (none where undefined). */
  call(as: string | undefined, method: string, path: string, options?: CallOptions): Promise<Reply>;
  cli(...args: string[]): Promise<{ code: number; out: string; err: string }>;
  /** Stops the server; database, folder and simulator stay. */
  stop(): Promise<void>;
  close(): Promise<void>;
}

export interface CallOptions {
  body?: string | object;
  headers?: Record<string, string>;
}

/** Tokens live this long, so that an expired one can be shown. */
export const TOKEN_SECONDS = 12;

export async function startSite(): Promise<Site> {
  const simulator = await createSimulator();
  const folder = mkdtempSync(join(tmpdir(), 'oncobridge-judged-'));
  try {
    return await openSite(simulator, folder);
  } catch (error) {
    await simulator.close();
    rmSync(folder, { recursive: true, force: true });
    throw error;
  }
}

async function openSite(simulator: Simulator, folder: string): Promise<Site> {
  cpSync(join(root, 'config'), join(folder, 'config'), { recursive: true });
  const config = join(folder, 'config/embedded.yaml');
  writeFileSync(
    config,
    readFileSync(config, 'utf8')
      .replace('port: 8480', 'port: 0')
      .replace('port: 8481', 'port: 0')
      .replace('userTokenLifetime: 1h', `userTokenLifetime: ${TOKEN_SECONDS}s`),
  );
  const env = {
    ...process.env,
    ...simulatorEnvironment(simulator),
  };
  const data = join(folder, '.oncobridge');
  const server = spawn(launcher, ['--config', config, 'start', '--json', '--log-level', 'trace'], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const said: string[] = [];
  server.stderr.on('data', (chunk: Buffer) => said.push(chunk.toString()));
  const ended = new Promise<number | null>((resolve) => server.once('exit', resolve));
  const line = await firstLine(server, said);
  server.stdout.on('data', (chunk: Buffer) => said.push(chunk.toString()));
  const { facade, operations: operationsUrl } = JSON.parse(line) as { facade: string; operations: string };
  const control = (await findServer(controlFile(data))) ?? assert.fail('no control file');
  const operations = remoteOperations(control);
  // The server runs it; this attaches.
  const postgres = await createEmbeddedPostgres({ directory: join(data, 'postgres') });
  assert.equal(postgres.owned, false);
  const database = createDatabase({ url: postgres.url, maxConnections: 3 });
  const blobs = createFileBlobs({ directory: join(data, 'blobs') });
  await settled(operations);
  // What the schedule's pull left for the assembler is filed when one that finds nothing new comes back.
  await operations.pull({}, () => {});
  await settled(operations);

  const tokens: string[] = [];
  let stopping: Promise<void> | undefined;
  const held = new Map<string, { token: string; until: number }>();
  const run = (args: readonly string[]): Promise<{ code: number; out: string; err: string }> =>
    new Promise((resolve) => {
      const child = spawn(launcher, ['--config', config, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
      let [out, err] = ['', ''];
      child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
      child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
      child.once('close', (code) => resolve({ code: code ?? -1, out, err }));
    });

  const site: Site = {
    simulator,
    folder,
    config,
    data,
    facade,
    operationsUrl,
    operations,
    database,
    databaseUrl: postgres.url,
    blobs,
    institution: (await operations.status({})).institution,
    log: () => `${said.join('')}\n${readFileSync(join(data, 'postgres/postgres.log'), 'utf8')}`,
    tokens,
    async token(as, options = {}) {
      const { token } = await operations.token({ as, ...options });
      tokens.push(token);
      return token;
    },
    async call(as, method, path, { body, headers = {} } = {}) {
      const authorization = as === undefined ? {} : { authorization: `Bearer ${as.includes('.') ? as : await current(as)}` };
      const response = await fetch(path.startsWith('http') ? path : `${facade}/${path}`, {
        method,
        redirect: 'manual',
        headers: { ...authorization, ...(body === undefined ? {} : { 'content-type': 'application/fhir+json' }), ...headers },
        ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      });
      const bytes = Buffer.from(await response.arrayBuffer());
      const isJson = (response.headers.get('content-type') ?? '').includes('json');
      const text = bytes.toString();
      const json = (isJson && text !== '' ? JSON.parse(text) : {}) as Reply['json'];
      return { status: response.status, headers: response.headers, bytes, text, json };
    },
    cli: (...args) => run(args),
    stop() {
      stopping ??= (async () => {
        await database.close();
        await postgres.leave();
        await operations.stop({});
        assert.equal(await ended, 0, 'the server did not end well');
      })();
      return stopping;
    },
    async close() {
      await site.stop().catch(() => server.kill('SIGKILL'));
      await simulator.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
  async function current(as: string): Promise<string> {
    const known = held.get(as);
    if (known !== undefined && Date.now() < known.until) return known.token;
    const token = await site.token(as);
    held.set(as, { token, until: Date.now() + (TOKEN_SECONDS - 5) * 1000 });
    return token;
  }
  return site;
}

/** All streams pulled, and all that was filed on the ledger and projected. */
export async function settled(operations: Operations): Promise<void> {
  for (let tries = 0; tries < 400; tries++) {
    const { streams, outbox, ledger } = await operations.status({});
    const pulled = streams.length >= 4 && streams.every((stream) => stream.lastSuccess !== null && !stream.running);
    if (pulled && outbox.depth === 0 && ledger.projected >= ledger.height) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.fail(`not settled: ${JSON.stringify(await operations.status({}))}`);
}

function firstLine(server: ChildProcess, said: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    server.stdout?.once('data', (chunk: Buffer) => resolve(chunk.toString()));
    server.once('exit', () => reject(new Error(`the server ended:\n${said.join('')}`)));
  });
}

/** Code of an OperationOutcome. */
export function codeIn(reply: Reply): string {
  return (reply.json.issue ?? []).map((issue) => issue.details?.coding?.[0]?.code ?? issue.code).join(',');
}
/** Ids of a Bundle's entries. */
export function idsIn(reply: Reply): string[] {
  assert.equal(reply.status, 200, reply.text);
  return (reply.json.entry ?? []).flatMap((entry) => (entry.search?.mode === 'outcome' ? [] : (entry.resource?.id ?? [])));
}
