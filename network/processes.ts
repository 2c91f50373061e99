import { spawn, spawnSync } from 'node:child_process';
import { mkdir, open, readdir, readFile, readlink, realpath, rename, rm, stat, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { connect } from 'node:net';
import { join, sep } from 'node:path';
import { CodedError } from '../src/errors.ts';
import { isAlive } from '../src/store/process-alive.ts';

/** Stands in the environment of every process of a network: what proves that a pid is still ours. */
const MARK = 'ONCOBRIDGE_FABRIC_NODE';

export interface ProcessSpec {
  name: string;
  /** Working directory; one process at a time has it. */
  folder: string;
  log: string;
  file: string;
  args: readonly string[];
  env: Readonly<Record<string, string>>;
  /** Ports on 127.0.0.1 that take connections when it is up. */
  ports: readonly number[];
  /** Port of `/healthz`, where it has one. */
  healthPort?: number;
}

/** Pid of the live process of a node's folder, started by whichever process of ours; undefined where there is none. */
export async function findProcess(folder: string): Promise<number | undefined> {
  const noted = Number(await readFile(join(folder, 'pid'), 'utf8').catch(() => ''));
  if (noted > 0 && (await belongsTo(noted, folder))) return noted;
  // Its starter was killed before it could note the pid.
  return (await processesUnder(folder))[0]?.pid;
}

/** Every live process of ours whose working directory lies in or below `root`. */
export async function processesUnder(root: string): Promise<{ pid: number; folder: string }[]> {
  const top = await realpath(root).catch(() => undefined);
  if (top === undefined) return [];
  if (process.platform !== 'linux') return await notedProcesses(top);
  const found: { pid: number; folder: string }[] = [];
  for (const entry of await readdir('/proc')) {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    const cwd = await readlink(`/proc/${pid}/cwd`).catch(() => undefined);
    if (cwd === undefined || (cwd !== top && !cwd.startsWith(top + sep))) continue;
    if (await isMarked(pid)) found.push({ pid, folder: cwd });
  }
  return found;
}

/** Where the system has no /proc: the noted pids below `root`. */
async function notedProcesses(root: string): Promise<{ pid: number; folder: string }[]> {
  const found: { pid: number; folder: string }[] = [];
  const entries = await readdir(root, { recursive: true }).catch(() => []);
  for (const entry of entries.filter((one) => one === 'pid' || one.endsWith(`${sep}pid`))) {
    const pid = Number(await readFile(join(root, entry), 'utf8').catch(() => ''));
    if (pid > 0 && isAlive(pid) && (await isMarked(pid))) found.push({ pid, folder: join(root, entry, '..') });
  }
  return found;
}

async function belongsTo(pid: number, folder: string): Promise<boolean> {
  if (process.platform !== 'linux') return isAlive(pid) && (await isMarked(pid));
  const [cwd, own] = await Promise.all([readlink(`/proc/${pid}/cwd`).catch(() => ''), realpath(folder).catch(() => undefined)]);
  return own !== undefined && cwd === own && (await isMarked(pid));
}

/** A pid alone proves nothing, for it may have been given out again; nor does a working directory, for a shell may stand in it. */
async function isMarked(pid: number): Promise<boolean> {
  if (process.platform === 'linux') return (await readFile(`/proc/${pid}/environ`, 'latin1').catch(() => '')).includes(`${MARK}=`);
  return spawnSync('ps', ['eww', '-o', 'command=', '-p', String(pid)], { encoding: 'utf8' }).stdout?.includes(`${MARK}=`) ?? false;
}

/** Starts a process that outlives us, in a session of its own; its pid is noted in its folder. */
export async function startProcess(spec: ProcessSpec): Promise<number> {
  await mkdir(spec.folder, { recursive: true });
  const size = await stat(spec.log).then(
    (s) => s.size,
    () => 0,
  );
  if (size > 50_000_000) await rename(spec.log, `${spec.log}.1`);
  const log = await open(spec.log, 'a', 0o600);
  try {
    const child = spawn(spec.file, spec.args, {
      cwd: spec.folder,
      env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC', ...spec.env, [MARK]: spec.name },
      stdio: ['ignore', log.fd, log.fd],
      detached: true,
    });
    await new Promise<void>((done, fail) => {
      child.once('spawn', done);
      child.once('error', (cause) => fail(new CodedError('FABRIC_NODE', { diagnostics: `${spec.name} cannot be started.`, cause })));
    });
    child.unref();
    const pid = child.pid ?? -1;
    await writeFile(join(spec.folder, 'pid'), `${pid}\n`);
    return pid;
  } finally {
    await log.close();
  }
}

/** Whether the process of this node answers now. */
export async function isReady(spec: ProcessSpec): Promise<boolean> {
  // Health is green some 100 ms before the ports listen.
  if (spec.healthPort !== undefined && !(await isHealthy(spec.healthPort))) return false;
  return (await Promise.all(spec.ports.map(takesConnections))).every(Boolean);
}

/** Waits until it is ready. Throws FABRIC_NODE with the end of its log where it ends or does not get there in time. */
export async function waitReady(spec: ProcessSpec, timeoutMs: number): Promise<void> {
  const until = Date.now() + timeoutMs;
  for (let round = 0; ; round++) {
    if (await isReady(spec)) return;
    const gone = round % 5 === 4 && (await findProcess(spec.folder)) === undefined;
    if (gone || Date.now() > until) {
      const why = gone ? 'ended' : `did not answer within ${Math.round(timeoutMs / 1000)} s`;
      throw new CodedError('FABRIC_NODE', { diagnostics: `${spec.name} ${why}: ${await logTail(spec.log)}` });
    }
    await pause(25);
  }
}

/** Ends processes: asked first, then killed; returns when none is left. One that is paused is killed at once. */
export async function stopProcesses(pids: readonly number[], graceMs = 5000): Promise<void> {
  for (const pid of pids) signal(pid, (await processState(pid)) === 'paused' ? 'SIGKILL' : 'SIGTERM');
  const until = Date.now() + graceMs;
  let killed = false;
  for (;;) {
    const left: number[] = [];
    for (const pid of pids) if ((await processState(pid)) !== 'gone') left.push(pid);
    if (left.length === 0) return;
    if (!killed && Date.now() > until) {
      killed = true;
      for (const pid of left) signal(pid, 'SIGKILL');
    }
    if (Date.now() > until + 10_000) throw new CodedError('FABRIC_NODE', { diagnostics: `Process ${left[0]} cannot be ended.` });
    await pause(15);
  }
}

/** Kills and waits until it is gone. */
export async function killProcess(pid: number): Promise<void> {
  signal(pid, 'SIGKILL');
  while ((await processState(pid)) !== 'gone') await pause(5);
}

export function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // Gone in between.
  }
}

export async function processState(pid: number): Promise<'running' | 'paused' | 'gone'> {
  let letter: string | undefined;
  if (process.platform === 'linux') {
    const line = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
    // The name in parentheses may hold anything.
    letter = line.slice(line.lastIndexOf(')') + 2)[0];
  } else letter = spawnSync('ps', ['-o', 'state=', '-p', String(pid)], { encoding: 'utf8' }).stdout?.trim()[0];
  if (letter === undefined || letter === 'Z' || letter === 'X') return 'gone';
  return letter === 'T' || letter === 't' ? 'paused' : 'running';
}

/** The last lines of a log, shortened. */
export async function logTail(path: string, lines = 6): Promise<string> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return text.trimEnd().split('\n').slice(-lines).join(' | ').slice(-1200);
}

export async function forgetPid(folder: string): Promise<void> {
  await rm(join(folder, 'pid'), { force: true });
}

async function isHealthy(port: number): Promise<boolean> {
  return await new Promise((done) => {
    const asked = request({ host: '127.0.0.1', port, path: '/healthz', timeout: 1000 }, (answer) => {
      answer.resume();
      answer.once('end', () => done(answer.statusCode === 200));
    });
    asked.once('timeout', () => asked.destroy());
    asked.once('error', () => done(false));
    asked.end();
  });
}

async function takesConnections(port: number): Promise<boolean> {
  return await new Promise((done) => {
    const socket = connect({ host: '127.0.0.1', port, timeout: 1000 });
    const end = (answer: boolean): void => {
      socket.destroy();
      done(answer);
    };
    socket.once('connect', () => end(true));
    socket.once('timeout', () => end(false));
    socket.once('error', () => end(false));
  });
}

export function pause(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms));
}
