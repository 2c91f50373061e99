import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { access, mkdir, mkdtemp, readdir, readFile, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, delimiter, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CodedError } from '../src/errors.ts';
import { lockFolder } from '../src/store/folder-lock.ts';

const COMMANDS = ['peer', 'orderer', 'configtxgen', 'cryptogen', 'osnadmin'] as const;
const tools = fileURLToPath(new URL('./tools/', import.meta.url));

/** Where each of Fabric's commands lies. */
export type FabricBinaries = Readonly<Record<(typeof COMMANDS)[number], string>>;

export interface BinariesOptions {
  env?: NodeJS.ProcessEnv;
  /** Lines of progress of the build, for stderr. */
  onProgress?: (line: string) => void;
  /** Where Go is looked for after PATH: where its own installer and distributions put it. */
  goFolders?: readonly string[];
}

const GO_FOLDERS = ['/usr/local/go/bin', '/usr/lib/go/bin'];

/**
 * Fabric's commands: those of FABRIC_BIN, else those built from the pin in network/tools, once, into a cache folder outside
 * the tree (ONCOBRIDGE_CACHE or ~/.cache/oncobridge). Throws FABRIC_MISSING and FABRIC_BUILD.
 */
export async function fabricBinaries(options: BinariesOptions = {}): Promise<FabricBinaries> {
  const env = options.env ?? process.env;
  const ready = await readyBinaries(env);
  if (ready !== undefined) return ready;
  const go = await findGo(env, options.goFolders ?? GO_FOLDERS);
  if (go === undefined) throw new CodedError('FABRIC_MISSING');
  const folder = await cacheFolder(env);
  await buildOnce(go, folder, env, options.onProgress ?? (() => {}));
  return inFolder(folder);
}

/** Two builds at once would be harmless, and slow: whoever comes second waits for the first, or for its death. */
async function buildOnce(go: string, folder: string, env: NodeJS.ProcessEnv, onProgress: (line: string) => void): Promise<void> {
  const cache = dirname(folder);
  await mkdir(cache, { recursive: true });
  for (let told = false; (await absentIn(folder)).length > 0; told = true) {
    const lock = await lockFolder(cache, basename(folder));
    if (lock === undefined) {
      if (!told) onProgress("Waiting for another process to build Fabric's commands");
      await new Promise((done) => setTimeout(done, 300));
      continue;
    }
    try {
      if ((await absentIn(folder)).length === 0) return;
      // Left by a build that was killed.
      const left = (await readdir(cache)).filter((name) => name.startsWith(`${basename(folder)}.build-`));
      for (const name of left) await rm(join(cache, name), { recursive: true, force: true });
      await build(go, folder, env, onProgress);
    } finally {
      await lock.release();
    }
  }
}

/** Whether `fabricBinaries` would find or build the commands: what decides whether a test is skipped. Throws FABRIC_MISSING for a wrong FABRIC_BIN. */
export async function canHaveBinaries(env: NodeJS.ProcessEnv = process.env): Promise<boolean> {
  return (await readyBinaries(env)) !== undefined || (await findGo(env, GO_FOLDERS)) !== undefined;
}

async function readyBinaries(env: NodeJS.ProcessEnv): Promise<FabricBinaries | undefined> {
  const given = env['FABRIC_BIN'];
  if (given !== undefined && given !== '') {
    const folder = resolve(given);
    const absent = await absentIn(folder);
    // Building instead would test another version than the one asked for.
    if (absent.length > 0) throw new CodedError('FABRIC_MISSING', { diagnostics: `FABRIC_BIN lacks: ${absent.join(', ')}.` });
    return inFolder(folder);
  }
  const folder = await cacheFolder(env);
  return (await absentIn(folder)).length === 0 ? inFolder(folder) : undefined;
}

/** Named by the pin, so that another version is built beside the old one and never mistaken for it. */
async function cacheFolder(env: NodeJS.ProcessEnv): Promise<string> {
  const hash = createHash('sha256');
  for (const file of ['go.mod', 'go.sum']) hash.update(await readFile(join(tools, file))).update('\0');
  const cache = env['ONCOBRIDGE_CACHE'] || join(env['XDG_CACHE_HOME'] || join(env['HOME'] || homedir(), '.cache'), 'oncobridge');
  return join(resolve(cache), `fabric-${hash.digest('hex').slice(0, 16)}`);
}

function inFolder(folder: string): FabricBinaries {
  return Object.fromEntries(COMMANDS.map((name) => [name, join(folder, fileName(name))])) as unknown as FabricBinaries;
}

async function absentIn(folder: string): Promise<string[]> {
  const found = await Promise.all(COMMANDS.map((name) => isExecutable(join(folder, fileName(name)))));
  return COMMANDS.filter((_, i) => found[i] !== true);
}

async function findGo(env: NodeJS.ProcessEnv, more: readonly string[]): Promise<string | undefined> {
  const folders = [...(env['PATH'] ?? '').split(delimiter).filter((f) => f !== ''), ...more];
  for (const folder of folders) {
    const path = join(folder, fileName('go'));
    // Older ones do not know `tool` directives.
    if ((await isExecutable(path)) && isRecent(path)) return path;
  }
  return undefined;
}

function isRecent(go: string): boolean {
  const [, major, minor] = /go(\d+)\.(\d+)/.exec(spawnSync(go, ['env', 'GOVERSION'], { encoding: 'utf8', cwd: '/' }).stdout ?? '') ?? [];
  return Number(major) > 1 || (Number(major) === 1 && Number(minor) >= 24);
}

async function build(go: string, folder: string, env: NodeJS.ProcessEnv, onProgress: (line: string) => void): Promise<void> {
  const half = await mkdtemp(`${folder}.build-`);
  const began = Date.now();
  onProgress(`Building Fabric's commands with ${go} (once, one to three minutes)`);
  const ticking = setInterval(() => onProgress(`  still building, ${Math.round((Date.now() - began) / 1000)} s`), 15_000);
  try {
    const child = spawn(go, ['install', '-trimpath', '-ldflags=-s -w', 'tool'], {
      cwd: tools,
      env: { ...env, GOBIN: half, GOFLAGS: '-mod=readonly', GOWORK: 'off' },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-2000);
    });
    const code = await new Promise<number>((done) => {
      child.once('error', () => done(-1));
      child.once('close', (status) => done(status ?? -1));
    });
    if (code !== 0)
      throw new CodedError('FABRIC_BUILD', {
        diagnostics: `go install ended with ${code}: ${said.trim().split('\n').slice(-4).join(' | ')}`,
      });
    const absent = await absentIn(half);
    if (absent.length > 0) throw new CodedError('FABRIC_BUILD', { diagnostics: `go install made no ${absent.join(', ')}.` });
    await publish(half, folder);
    onProgress(`  built in ${Math.round((Date.now() - began) / 1000)} s`);
  } finally {
    clearInterval(ticking);
    await rm(half, { recursive: true, force: true });
  }
}

/** The whole folder appears at once or not at all; where another build was first, its folder serves as well as ours. */
async function publish(half: string, folder: string): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await rename(half, folder);
    } catch (error) {
      if ((await absentIn(folder)).length === 0) return;
      // Something damaged stands in its place: aside with it.
      if (attempt > 0 || (await readdir(folder).catch(() => undefined)) === undefined) throw error;
      await rm(folder, { recursive: true, force: true });
    }
  }
}

async function isExecutable(path: string): Promise<boolean> {
  return await access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}

function fileName(command: string): string {
  return process.platform === 'win32' ? `${command}.exe` : command;
}
