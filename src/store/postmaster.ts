import { type ChildProcess, spawn } from 'node:child_process';
import { open, readdir, readFile, readlink, realpath, rename, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { Client } from 'pg';
import { ids, type Launcher, type PostgresBinaries } from './postgres-binaries.ts';
import { isAlive } from './process-alive.ts';

/** What `postmaster.pid` says: pid, and the server's own word on its state. */
export interface PostmasterFile {
  pid: number;
  port: number;
  status: 'starting' | 'ready' | 'stopping' | 'standby' | '';
}

/** Reads `postmaster.pid` of a data folder; undefined where there is none or it is being written. */
export async function readPostmasterFile(data: string): Promise<PostmasterFile | undefined> {
  const text = await readFile(join(data, 'postmaster.pid'), 'utf8').catch(() => '');
  const lines = text.split('\n');
  const pid = Number(lines[0]);
  if (!Number.isInteger(pid) || pid <= 0) return undefined;
  return { pid, port: Number(lines[3] ?? 0), status: (lines[7] ?? '').trim() as PostmasterFile['status'] };
}

/**
 * True where `pid` is a live server on this data folder. A pid alone proves nothing (it may have been given out again),
 * so the program and its working directory are looked at; a zombie has neither.
 */
export async function servesFolder(pid: number, data: string): Promise<boolean> {
  if (process.platform !== 'linux') return isAlive(pid);
  try {
    const [cwd, exe, folder] = await Promise.all([readlink(`/proc/${pid}/cwd`), readlink(`/proc/${pid}/exe`), realpath(data)]);
    return cwd === folder && basename(exe).startsWith('postgres');
  } catch {
    return false;
  }
}

/**
 * Ends every server process whose working directory is this data folder. Backends of a killed postmaster live on while
 * they are busy and keep its shared memory block, which makes the next start fail for half a minute. Call it only when no
 * postmaster lives and the folder's lock is held. SIGKILL is safe then: recovery replays the log in any case.
 */
export async function endOrphans(data: string): Promise<number> {
  if (process.platform !== 'linux') return 0;
  let ended = 0;
  for (const name of await readdir('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid || !(await servesFolder(pid, data))) continue;
    try {
      process.kill(pid, 'SIGKILL');
      ended++;
    } catch {
      // Gone in between.
    }
  }
  if (ended > 0) await new Promise((done) => setTimeout(done, 50));
  return ended;
}

export type Answer = 'ready' | 'no-database' | 'wrong-password' | 'silent';

/** Asks the server at `url`. Any answer but "not now" proves that it is up, a refusal for want of connections included. */
export async function ask(url: string): Promise<Answer> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 3000, application_name: 'oncobridge-start' });
  client.on('error', () => {});
  try {
    await client.connect();
    await client.end();
    return 'ready';
  } catch (error) {
    await client.end().catch(() => {});
    const code = (error as { code?: string }).code ?? '';
    if (code === '3D000') return 'no-database';
    if (code === '28P01') return 'wrong-password';
    return code === '53300' ? 'ready' : 'silent';
  }
}

/** Runs initdb into a temporary folder and renames it, so that a half-made cluster never stands in the data folder's place. */
export async function initialise(options: {
  binaries: PostgresBinaries;
  launcher: Launcher;
  data: string;
  passwordFile: string;
  log: string;
}): Promise<number> {
  const { binaries, launcher, data } = options;
  const half = `${data}.new`;
  await rm(half, { recursive: true, force: true });
  const command = launcher.command(binaries.initdb, [
    `--pgdata=${half}`,
    '--username=oncobridge',
    '--auth=scram-sha-256',
    `--pwfile=${options.passwordFile}`,
    '--encoding=UTF8',
    // Built into the server: no dependence on the locales of the machine, and the same order everywhere.
    '--locale-provider=builtin',
    '--builtin-locale=C.UTF-8',
    '--locale=C',
  ]);
  const log = await open(options.log, 'a', 0o600);
  try {
    const child = spawn(command.file, command.args, {
      stdio: ['ignore', log.fd, log.fd],
      env: environment(binaries),
      ...ids(launcher),
      ...(launcher.kind === 'account' ? { cwd: '/' } : {}),
    });
    const code = await exitCode(child);
    if (code === 0) await rename(half, data);
    return code;
  } finally {
    await log.close();
  }
}

/** Starts the server as a child that survives us: it is stopped by whoever owns it, and adopted where we were killed. */
export async function spawnPostmaster(options: {
  binaries: PostgresBinaries;
  launcher: Launcher;
  data: string;
  log: string;
  settings: Readonly<Record<string, string>>;
}): Promise<{ pid: number; exited: Promise<number> }> {
  const { binaries, launcher, data } = options;
  const size = await stat(options.log).then(
    (s) => s.size,
    () => 0,
  );
  if (size > 10_000_000) await rename(options.log, `${options.log}.1`);
  const args = ['-D', data];
  for (const [name, value] of Object.entries(options.settings)) args.push('-c', `${name}=${value}`);
  const command = launcher.command(binaries.postgres, args);
  const log = await open(options.log, 'a', 0o600);
  try {
    const child = spawn(command.file, command.args, {
      stdio: ['ignore', log.fd, log.fd],
      // Its own session: Ctrl-C in the terminal must reach us first, the database is stopped last.
      detached: true,
      env: environment(binaries),
      cwd: '/',
      ...ids(launcher),
    });
    const exited = exitCode(child);
    child.unref();
    return { pid: child.pid ?? -1, exited };
  } finally {
    await log.close();
  }
}

/** Fast shutdown, then the harder ones as the deadline passes. */
export async function stopPostmaster(pid: number, data: string, deadlineMs: number): Promise<void> {
  for (const signal of ['SIGINT', 'SIGQUIT', 'SIGKILL'] as const) {
    try {
      process.kill(pid, signal);
    } catch {
      return;
    }
    const until = Date.now() + (signal === 'SIGINT' ? deadlineMs : 3000);
    while (Date.now() < until) {
      if (!(await servesFolder(pid, data))) return;
      await new Promise((done) => setTimeout(done, 15));
    }
  }
}

/** The last lines of the server's log; it holds no statement and no value (see `settings`). */
export async function logTail(log: string): Promise<string> {
  const text = await readFile(log, 'utf8').catch(() => '');
  return text.trimEnd().split('\n').slice(-6).join(' | ').slice(-800);
}

function environment(binaries: PostgresBinaries): Record<string, string> {
  return { PATH: process.env['PATH'] ?? '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC', ...binaries.env };
}

function exitCode(child: ChildProcess): Promise<number> {
  return new Promise((done) => {
    child.once('error', () => done(-1));
    child.once('exit', (code) => done(code ?? -1));
  });
}
