import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createNetwork, type FabricNetwork, openNetwork } from '../network/network.ts';
import { findProcess, killProcess, logTail, pause, processesUnder, startProcess, stopProcesses } from '../network/processes.ts';
import { freePorts } from '../network/topology.ts';
import { findServer } from '../src/cli/control-client.ts';
import { controlFile } from '../src/cli/run.ts';
import { newId } from '../src/ids.ts';
import { readPostmasterFile, servesFolder } from '../src/store/postmaster.ts';
import { copyConfig } from './demo-config.ts';
import { pinLedger } from './demo-fabric.ts';
import { type SharedStore, startSharedStore } from './shared-store.ts';
import { createSimulator, type Simulator } from './simulator.ts';

export type InstitutionName = 'a' | 'b' | 'c';
/** What of an institution can be ended by itself. */
export type InstitutionPart = 'oncobridge' | 'postgres' | 'peer' | 'chaincode';

const NAMES = ['a', 'b', 'c'] as const;
const TITLES: Readonly<Record<InstitutionName, string>> = {
  a: 'Cedar Hollow Medical Center',
  b: 'Larkfield University Hospital',
  c: 'Norham Regional Clinic',
};
const launcher = fileURLToPath(new URL('../bin/oncobridge', import.meta.url));
const START_MS = 90_000;

/** What a command said; `json` where it was asked for and it ended with 0. */
export interface CommandRun {
  code: number;
  out: string;
  err: string;
}

export interface SiteInstitution {
  name: InstitutionName;
  title: string;
  /** `inst-…`. */
  institution: string;
  msp: string;
  /** Everything of it but its nodes: configuration, secrets, data, log. */
  folder: string;
  config: string;
  data: string;
  /** Its log, JSON a line, from its first start on. */
  log: string;
  origin: string;
  facadeUrl: string;
  operationsUrl: string;
  /** Starts its oncobridge where it does not run; returns when commands and requests are answered. */
  start(): Promise<void>;
  /** SIGTERM, and returns when it is gone. */
  stop(): Promise<void>;
  /** SIGKILL of a part of it, default its oncobridge; returns when the process is gone. */
  kill(part?: InstitutionPart): Promise<void>;
  /** Starts a peer or chaincode server that was killed; oncobridge as `start`, PostgreSQL is oncobridge's own affair. */
  revive(part: InstitutionPart): Promise<void>;
  run(args: readonly string[], stdin?: string): Promise<CommandRun>;
  /** A command with `--json`: its parsed answer. Throws where it ended otherwise than with 0. */
  cli<T>(args: readonly string[], stdin?: string): Promise<T>;
  /** Resident bytes by part, shared pages counted once (PSS). */
  memory(): Promise<Record<InstitutionPart, number>>;
  /** CPU seconds by part since each of its processes was started. */
  cpu(): Promise<Record<InstitutionPart, number>>;
}

export interface InstitutionsSite {
  folder: string;
  network: FabricNetwork;
  store: SharedStore;
  ledgerId: string;
  institutions: Record<InstitutionName, SiteInstitution>;
  /** B's own record: persons of A's stories under numbers of its own. */
  otherHospital: Simulator;
  /** Everything of an institution: oncobridge with its PostgreSQL, peer, chaincode server. */
  switchOff(name: InstitutionName): Promise<void>;
  switchOn(name: InstitutionName): Promise<void>;
  /** Ends every process; removes the folder unless it is to be looked at. */
  close(options?: { keepFolder?: boolean }): Promise<void>;
}

/** What an earlier site that was killed left running in this folder. */
export async function endLeftSite(folder: string): Promise<void> {
  if (!existsSync(folder)) return;
  await stopProcesses(
    (await processesUnder(join(folder, 'institutions'))).map(({ pid }) => pid),
    10_000,
  );
  for (const name of NAMES) for (const pid of await postgresOf(join(folder, 'institutions', name, 'data'))) await killProcess(pid);
  await openNetwork(join(folder, 'network')).then(
    (network) => network.down(),
    () => undefined,
  );
}

/**
 * Three institutions as they would run: each its own oncobridge process, embedded PostgreSQL, keys and members, on one Fabric
 * network and one shared object store. A has ARIA and an EHR (`simulator`), B an EHR of its own, C nothing. A founds the ledger; B and C
 * join by the commands that docs/operations.md names. Nobody has pulled yet.
 */
export async function startInstitutionsSite(options: {
  folder: string;
  simulator: Simulator;
  /** Changes of the configuration's text, the same at each. */
  change?: (text: string) => string;
  onEvent?: (text: string) => void;
}): Promise<InstitutionsSite> {
  const { folder, simulator, change = (text: string) => text, onEvent = () => {} } = options;
  const closers: (() => Promise<unknown>)[] = [];
  const closeAll = async (): Promise<void> => {
    for (const closer of closers.splice(0).reverse()) await closer();
  };
  try {
    await endLeftSite(folder);
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
    // As root PostgreSQL runs under another uid, which must be able to pass through.
    mkdirSync(folder, { recursive: true, mode: process.getuid?.() === 0 ? 0o711 : 0o700 });
    const named = NAMES.map((name) => ({ name, institution: newId('inst'), msp: `${name.toUpperCase()}MSP` }));
    const network = await createNetwork({ folder: join(folder, 'network'), institutions: named });
    closers.push(() => network.down());
    const credentials = named.map(({ name, institution }) => ({
      institution,
      accessKeyId: `AK${name.toUpperCase()}${randomBytes(8).toString('hex').toUpperCase()}`,
      secretAccessKey: randomBytes(30).toString('base64url'),
    }));
    const store = await startSharedStore({ folder: join(folder, 'store'), institutions: credentials });
    closers.push(() => store.close());
    const otherHospital = await createSimulator({
      seed: 'other hospital',
      otherHospital: [
        { person: 'seoyeon', mrn: 'LU-220117' },
        { person: 'phuong', mrn: 'LU-220385' },
        { person: 'brennan', mrn: 'LU-220942' },
      ],
    });
    closers.push(() => otherHospital.close());
    await network.up();
    onEvent('network');

    const ports = await freePorts(6);
    const build = async ({ name, institution, msp }: (typeof named)[number], n: number): Promise<SiteInstitution> => {
      const run = join(folder, 'institutions', name);
      mkdirSync(run, { recursive: true, mode: process.getuid?.() === 0 ? 0o711 : 0o700 });
      const connection = await network.connection(name);
      const [peer] = connection.peers;
      assert.ok(peer !== undefined, 'the network has no peer of ours');
      const [http = 0, operations = 0] = ports.slice(2 * n);
      const credential = credentials[n];
      assert.ok(credential !== undefined);
      const config = copyConfig({
        run,
        sample: 'production.yaml',
        simulator: name === 'b' ? otherHospital : simulator,
        values: {
          ONCOBRIDGE_DATA: '../data',
          ONCOBRIDGE_INSTITUTION: TITLES[name],
          ONCOBRIDGE_INSTITUTION_ID: institution,
          FABRIC_MSP: msp,
          FABRIC_PEER: peer.endpoint,
          S3_ENDPOINT: store.endpoint,
          S3_REGION: store.region,
          S3_BUCKET: store.bucket,
        },
        files: {
          CUSTODIAN_PASSPHRASE: randomBytes(24).toString('base64url'),
          FABRIC_CERTIFICATE: connection.certificatePem,
          FABRIC_KEY: connection.privateKeyPem,
          FABRIC_PEER_TLS_ROOT: peer.tlsRootPem,
          S3_ACCESS_KEY_ID: credential.accessKeyId,
          S3_SECRET_ACCESS_KEY: credential.secretAccessKey,
        },
        change(text) {
          const sources = {
            a: 'sources:\n  - sources/ehr.yaml\n  - sources/aria.yaml',
            b: 'sources: [sources/ehr.yaml]',
            c: 'sources: []',
          };
          return change(
            text
              .replace(/^database: .*$/m, 'database: { kind: embedded }')
              .replace(/^queue: .*$/m, 'queue: { kind: postgres }')
              // The sample's own lines for a shared store, made to count.
              .replace(
                /^blobs: .*\n# (blobs:.*)\n((?:# {3}.*\n)+)/m,
                (_, head: string, lines: string) => `${head}\n${lines.replaceAll(/^# /gm, '')}`,
              )
              .replace(/^sources:\n( +- .*\n?)+/m, `${sources[name]}\n`)
              .replace(/, publicUrl: "[^"]*"/, '')
              // So that nobody waits a minute to see what is anchored.
              .replace('anchorEvery: 60s', 'anchorEvery: 10s')
              .replace('port: 8480', `port: ${http}`)
              .replace('port: 8481', `port: ${operations}`),
          );
        },
      });
      return createInstitution({ name, institution, msp, folder: run, config, http, operations, network });
    };
    const list = await Promise.all(named.map(build));
    const [a, b, c] = list as [SiteInstitution, SiteInstitution, SiteInstitution];
    closers.push(async () => {
      await Promise.all(list.map((one) => one.stop()));
      for (const one of list) for (const pid of await postgresOf(one.data)) await killProcess(pid);
    });

    // docs/operations.md, "Founding a ledger, and joining it", word for word.
    const { ledgerId } = await a.cli<{ ledgerId: string }>(['ledger', 'found']);
    for (const one of list) pinLedger(one.config, ledgerId);
    onEvent('founded');
    const files = [b, c].map((one) => ({ one, file: join(folder, `join-${one.name}.json`) }));
    const [, ...joins] = await Promise.all([
      a.start(),
      ...files.map(({ one, file }) => one.cli<{ thumbprint: string }>(['ledger', 'join', '--out', file])),
    ]);
    for (const [n, { one, file }] of files.entries()) {
      const thumbprint = joins[n]?.thumbprint ?? '';
      for (const sponsor of n === 0 ? [a] : [a, b]) await sponsor.cli(['ledger', 'cosign', file, '--thumbprint', thumbprint]);
      await a.cli(['ledger', 'submit', file]);
      await one.start();
      onEvent(`joined ${one.title}`);
    }

    const switchOn = async (name: InstitutionName): Promise<void> => {
      for (const part of ['chaincode', 'peer', 'oncobridge'] as const) await site.institutions[name].revive(part);
    };
    const site: InstitutionsSite = {
      folder,
      network,
      store,
      ledgerId,
      institutions: { a, b, c },
      otherHospital,
      async switchOff(name) {
        const one = site.institutions[name];
        await one.stop();
        for (const part of ['postgres', 'peer', 'chaincode'] as const) await one.kill(part);
      },
      switchOn,
      async close({ keepFolder = false } = {}) {
        await closeAll();
        if (!keepFolder) rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
      },
    };
    return site;
  } catch (error) {
    await closeAll();
    throw error;
  }
}

function createInstitution(parts: {
  name: InstitutionName;
  institution: string;
  msp: string;
  folder: string;
  config: string;
  http: number;
  operations: number;
  network: FabricNetwork;
}): SiteInstitution {
  const { name, folder, config, network } = parts;
  const data = join(folder, 'data');
  const log = join(folder, 'oncobridge.log');
  const place = join(folder, 'process');
  const origin = `http://127.0.0.1:${parts.http}`;
  const node = { peer: `peer1.${name}`, chaincode: `chaincode.${name}` } as const;
  const coverage = process.env['NODE_V8_COVERAGE'];

  async function launch(): Promise<void> {
    if ((await findProcess(place)) !== undefined) return;
    await startProcess({
      name: `oncobridge.${name}`,
      folder: place,
      log,
      file: launcher,
      args: ['--config', config, 'start', '--json', '--log-level', 'debug'],
      env: { HOME: folder, ...(coverage === undefined ? {} : { NODE_V8_COVERAGE: coverage }) },
      ports: [],
    });
  }

  async function start(): Promise<void> {
    await launch();
    const until = Date.now() + START_MS;
    // The control file is written when everything is built.
    while ((await findServer(controlFile(data))) === undefined) {
      const gone = (await findProcess(place)) === undefined;
      const last = gone ? await logTail(log) : '';
      // A command that was given while the server was down holds the keys until it ends: a supervisor starts it again.
      const isBusy = /KEYS_BUSY: [^|]*$/.test(last);
      if ((gone && !isBusy) || Date.now() > until)
        throw new Error(`oncobridge of ${name} ${gone ? 'ended' : 'does not answer'}: ${gone ? last : await logTail(log)}`);
      await pause(gone ? 300 : 50);
      if (gone) await launch();
    }
  }

  const run = (args: readonly string[], stdin?: string): Promise<CommandRun> =>
    new Promise((resolve) => {
      const child = execFile(launcher, ['--config', config, ...args], { maxBuffer: 1 << 26 }, (error, out, err) =>
        resolve({ code: error === null ? 0 : Number(error.code ?? 1), out, err }),
      );
      child.stdin?.end(stdin ?? '');
    });

  /** Processes of each part at this moment. */
  async function processes(): Promise<Record<InstitutionPart, readonly number[]>> {
    const nodes = await network.status();
    const of = (wanted: string): number[] => nodes.flatMap((one) => (one.name === wanted && one.pid !== undefined ? [one.pid] : []));
    const own = await findProcess(place);
    return {
      oncobridge: own === undefined ? [] : [own],
      postgres: await postgresOf(data),
      peer: of(node.peer),
      chaincode: of(node.chaincode),
    };
  }
  async function measured(one: (pid: number) => Promise<number>): Promise<Record<InstitutionPart, number>> {
    const sum = async (pids: readonly number[]): Promise<number> => (await Promise.all(pids.map(one))).reduce((all, n) => all + n, 0);
    const { oncobridge, postgres, peer, chaincode } = await processes();
    return { oncobridge: await sum(oncobridge), postgres: await sum(postgres), peer: await sum(peer), chaincode: await sum(chaincode) };
  }

  return {
    name,
    title: TITLES[name],
    institution: parts.institution,
    msp: parts.msp,
    folder,
    config,
    data,
    log,
    origin,
    facadeUrl: `${origin}/fhir`,
    operationsUrl: `http://127.0.0.1:${parts.operations}`,
    start,
    async stop() {
      const pid = await findProcess(place);
      if (pid !== undefined) await stopProcesses([pid], 60_000);
    },
    async kill(part = 'oncobridge') {
      if (part === 'oncobridge') {
        const pid = await findProcess(place);
        if (pid !== undefined) await killProcess(pid);
      } else if (part === 'postgres') {
        const pid = (await readPostmasterFile(join(data, 'postgres/data')))?.pid;
        if (pid !== undefined && (await servesFolder(pid, join(data, 'postgres/data')))) await killProcess(pid);
      } else await network.node(node[part]).kill();
    },
    async revive(part) {
      if (part === 'oncobridge') await start();
      else if (part !== 'postgres') await network.node(node[part]).start();
    },
    run,
    async cli<T>(args: readonly string[], stdin?: string): Promise<T> {
      const { code, out, err } = await run([...args, '--json'], stdin);
      assert.equal(code, 0, `oncobridge ${args.slice(0, 2).join(' ')} at ${name} ended with ${code}: ${err || out}`);
      return JSON.parse(out) as T;
    },
    memory: () => measured(residentBytes),
    cpu: () => measured(cpuSeconds),
  };
}

/** Every process of the embedded PostgreSQL of a data folder. */
async function postgresOf(data: string): Promise<number[]> {
  const folder = join(data, 'postgres/data');
  if (!existsSync(folder)) return [];
  const pids = (await readdir('/proc')).map(Number).filter((pid) => Number.isInteger(pid) && pid !== process.pid);
  const serving = await Promise.all(pids.map((pid) => servesFolder(pid, folder)));
  return pids.filter((_, n) => serving[n]);
}

async function residentBytes(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8').catch(() => '');
  return Number(/^Pss: +(\d+) kB/m.exec(text)?.[1] ?? 0) * 1024;
}

async function cpuSeconds(pid: number): Promise<number> {
  const line = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  // Counted from behind the name in parentheses: user and system time in hundredths of a second, its own and of children that ended.
  const fields = line.slice(line.lastIndexOf(')') + 2).split(' ');
  return [11, 12, 13, 14].reduce((all, at) => all + Number(fields[at] ?? 0), 0) / 100;
}

/** The log's lines from `from` bytes on. */
export function logSince(institution: SiteInstitution, from: number): string {
  return readFileSync(institution.log).subarray(from).toString();
}
