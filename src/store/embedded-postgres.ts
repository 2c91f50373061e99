import { createHash, randomBytes } from 'node:crypto';
import { chmod, chown, link, lstat, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { Client } from 'pg';
import { CodedError } from '../errors.ts';
import { type FolderLock, lockFolder } from './folder-lock.ts';
import { chooseLauncher, findBinaries, type Launcher, majorVersion, type PostgresBinaries } from './postgres-binaries.ts';
import { ask, endOrphans, initialise, logTail, readPostmasterFile, servesFolder, spawnPostmaster, stopPostmaster } from './postmaster.ts';

/** A PostgreSQL of our own in a folder of ours. */
export interface EmbeddedPostgres {
  /** Connection URL; it holds the password, so it is never logged. It stays the same over restarts of the server. */
  readonly url: string;
  /** True where this process is the one that must stop the server: it started it, or took over an orphan. */
  readonly owned: boolean;
  /** Process id of the running server, undefined while it is being restarted. */
  pid(): Promise<number | undefined>;
  /** Stops the server if owned; call it last. Idempotent. */
  stop(): Promise<void>;
  /** Gives the server up without stopping it: the next start takes it over. */
  leave(): Promise<void>;
}

export interface EmbeddedPostgresEvent {
  kind: 'initialised' | 'started' | 'adopted' | 'attached' | 'orphans-ended' | 'died' | 'restarted' | 'restart-failed';
  detail: string;
}

export interface EmbeddedPostgresOptions {
  /** Folder for data, password, log and socket; made (0700) where absent. */
  directory: string;
  /** Name of the database; made where absent. */
  database?: string;
  /** Lifecycle events, for the log and for readiness; never holds a secret. */
  onEvent?: (event: EmbeddedPostgresEvent) => void;
  /** Milliseconds until a start is given up. */
  startTimeoutMs?: number;
  /** Server settings over our own. */
  settings?: Readonly<Record<string, string>>;
  /** Behave as where user namespaces are barred; for tests. */
  barNamespaces?: boolean;
}

/** Small, durable, silent about values: neither statements nor key values of an error reach the log. */
const SETTINGS = {
  max_connections: '60',
  shared_buffers: '64MB',
  fsync: 'on',
  synchronous_commit: 'on',
  max_wal_size: '256MB',
  checkpoint_timeout: '5min',
  io_method: 'sync',
  jit: 'off',
  timezone: 'UTC',
  log_timezone: 'UTC',
  logging_collector: 'off',
  log_destination: 'stderr',
  log_min_error_statement: 'panic',
  log_error_verbosity: 'terse',
  log_parameter_max_length: '0',
  log_parameter_max_length_on_error: '0',
  log_checkpoints: 'off',
  password_encryption: 'scram-sha-256',
} as const;

/**
 * Starts PostgreSQL in `directory`, or takes over one that a killed process of ours left there, or attaches to one that
 * another live process of ours runs. There is one path, and it is the recovery path. While this process owns the server it
 * restarts it when it dies; pools reconnect to the same URL. Throws POSTGRES_MISSING, POSTGRES_ROOT, POSTGRES_BUSY,
 * POSTGRES_VERSION, POSTGRES_FAILED.
 */
export async function createEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const directory = resolve(options.directory);
  const onEvent = options.onEvent ?? (() => {});
  const deadline = Date.now() + (options.startTimeoutMs ?? 90_000);
  const data = join(directory, 'data');
  const log = join(directory, 'postgres.log');
  // Folders above ours that are absent: passable and not readable, for the account that the server may have to run as.
  await mkdir(dirname(directory), { recursive: true, mode: 0o711 });
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const password = await readOrMakePassword(directory);
  const database = options.database ?? 'oncobridge';
  const place = await listenPlace(directory, data);
  const urlOf = (name: string): string => place.url(password, name);
  const url = urlOf(database);

  let lock: FolderLock | undefined;
  for (;;) {
    lock = await lockFolder(directory, password);
    if (lock !== undefined) break;
    if ((await ask(url)) === 'ready') {
      onEvent({ kind: 'attached', detail: 'another process runs the server' });
      return attached(url, data);
    }
    if (Date.now() > deadline) throw new CodedError('POSTGRES_BUSY');
    await pause(50);
  }
  const held = lock;

  let stopping = false;
  let finishing: Promise<void> | undefined;
  const stopSignal = Promise.withResolvers<void>();
  let watching: Promise<void> = Promise.resolve();
  try {
    const binaries = await findBinaries(join(directory, 'lib'));
    const launcher = await chooseLauncher(binaries, directory, { namespaces: options.barNamespaces === true });
    await place.prepare(launcher.owner);
    await giveTo(directory, launcher);
    const first = await bringUp(binaries, launcher);
    await ensureDatabase(urlOf('postgres'), database);
    watching = watch(binaries, launcher, first);
    return {
      url,
      owned: true,
      pid: async () => (await readPostmasterFile(data))?.pid,
      stop: () => finish(true),
      leave: () => finish(false),
    };
  } catch (error) {
    await held.release();
    throw error;
  }

  async function finish(stopServer: boolean): Promise<void> {
    finishing ??= (async () => {
      stopping = true;
      stopSignal.resolve();
      // A restart under way is let finish first: what it started is stopped too.
      await watching;
      const pid = (await readPostmasterFile(data))?.pid;
      if (stopServer && pid !== undefined && (await servesFolder(pid, data))) await stopPostmaster(pid, data, 20_000);
      await held.release();
    })();
    await finishing;
  }

  /** Returns when a server answers: adopted or new. The folder's lock is held. */
  async function bringUp(binaries: PostgresBinaries, launcher: Launcher): Promise<RunningServer> {
    const until = Math.max(deadline, Date.now() + 30_000);
    const wedgedAt = Date.now() + 30_000;
    if (!(await isFile(join(data, 'PG_VERSION')))) {
      await rm(data, { recursive: true, force: true });
      const code = await initialise({ binaries, launcher, data, passwordFile: join(directory, 'password'), log });
      if (code !== 0) throw new CodedError('POSTGRES_FAILED', { diagnostics: `initdb ended with ${code}: ${await logTail(log)}` });
      onEvent({ kind: 'initialised', detail: `as ${launcher.kind}` });
    }
    const made = (await readFile(join(data, 'PG_VERSION'), 'utf8')).trim();
    const ours = await majorVersion(binaries, launcher);
    if (made !== ours) throw new CodedError('POSTGRES_VERSION', { diagnostics: `Folder ${made}, program ${ours}.` });
    while (Date.now() < until) {
      const file = await readPostmasterFile(data);
      const alive = file !== undefined && (await servesFolder(file.pid, data));
      const answer = alive || place.mayBeElsewhere ? await ask(urlOf('postgres')) : 'silent';
      if (answer === 'wrong-password') throw new CodedError('POSTGRES_FAILED', { diagnostics: 'The password file does not fit the data.' });
      if (alive && answer === 'ready') {
        onEvent({ kind: 'adopted', detail: `server ${file.pid} of an ended process` });
        return { pid: file.pid, exited: undefined };
      }
      // It answers on our socket, yet no process here serves the folder: it runs in another container on the same volume.
      if (!alive && answer === 'ready')
        throw new CodedError('POSTGRES_BUSY', { diagnostics: 'A server outside of this container uses the folder.' });
      if (alive) {
        // Starting or stopping; a server that does neither and does not answer either is ended.
        if (Date.now() > wedgedAt && file.status !== 'starting') await stopPostmaster(file.pid, data, 5000);
        await pause(30);
        continue;
      }
      await rm(join(data, 'postmaster.pid'), { force: true });
      const ended = await endOrphans(data);
      if (ended > 0) onEvent({ kind: 'orphans-ended', detail: `${ended} processes of a killed server` });
      const server = await spawnPostmaster({
        binaries,
        launcher,
        data,
        log,
        settings: { ...SETTINGS, ...place.settings(), ...options.settings },
      });
      let exit: number | undefined;
      void server.exited.then((code) => {
        exit = code;
      });
      while (exit === undefined && Date.now() < until) {
        if ((await readPostmasterFile(data))?.status === 'ready' && (await ask(urlOf('postgres'))) === 'ready') {
          onEvent({ kind: 'started', detail: `server ${server.pid}` });
          return server;
        }
        await pause(15);
      }
      const tail = await logTail(log);
      // Shared memory of processes that were dying just now: look again and try again.
      if (exit !== undefined && /pre-existing shared memory block|lock file .* already exists/.test(tail)) {
        await pause(200);
        continue;
      }
      throw new CodedError('POSTGRES_FAILED', { diagnostics: tail });
    }
    throw new CodedError('POSTGRES_FAILED', { diagnostics: `It did not answer in time. ${await logTail(log)}` });
  }

  /** Waits for the server's end, over and over; restarts it until we are stopping. */
  async function watch(binaries: PostgresBinaries, launcher: Launcher, first: RunningServer): Promise<void> {
    let server = first;
    let failures = 0;
    for (;;) {
      await ended(server);
      if (stopping) return;
      onEvent({ kind: 'died', detail: `server ${server.pid}` });
      for (;;) {
        try {
          server = await bringUp(binaries, launcher);
          failures = 0;
          onEvent({ kind: 'restarted', detail: `server ${server.pid}` });
          break;
        } catch (error) {
          onEvent({ kind: 'restart-failed', detail: error instanceof CodedError ? error.message : 'POSTGRES_FAILED' });
          failures++;
          const until = Date.now() + Math.min(30_000, 500 * 2 ** failures);
          while (!stopping && Date.now() < until) await pause(50);
        }
        if (stopping) return;
      }
    }
  }

  /** Resolves when the server has ended or we are stopping. */
  async function ended(server: RunningServer): Promise<void> {
    if (server.exited !== undefined) {
      await Promise.race([server.exited, stopSignal.promise]);
      return;
    }
    while (!stopping && (await servesFolder(server.pid, data))) {
      const looked = Promise.withResolvers<void>();
      setTimeout(looked.resolve, 100).unref();
      await Promise.race([looked.promise, stopSignal.promise]);
    }
  }
}

interface RunningServer {
  pid: number;
  /** Exit of our own child; an adopted server has none and is looked at instead. */
  exited: Promise<number> | undefined;
}

function attached(url: string, data: string): EmbeddedPostgres {
  return { url, owned: false, pid: async () => (await readPostmasterFile(data))?.pid, stop: async () => {}, leave: async () => {} };
}

/** The superuser's password, made once, in a file that only its owner reads; the first of several starters wins. */
async function readOrMakePassword(directory: string): Promise<string> {
  const path = join(directory, 'password');
  const existing = await readFile(path, 'utf8').catch(() => undefined);
  if (existing !== undefined && existing.trim() !== '') return existing.trim();
  const temporary = `${path}.${process.pid}`;
  await writeFile(temporary, `${randomBytes(24).toString('base64url')}\n`, { mode: 0o600, flush: true });
  await link(temporary, path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error;
  });
  await rm(temporary, { force: true });
  return (await readFile(path, 'utf8')).trim();
}

interface ListenPlace {
  url(password: string, database: string): string;
  settings(): Record<string, string>;
  /** Makes the socket's folder and gives it to the account that the server runs as. */
  prepare(owner: number): Promise<void>;
  /** A socket on a shared volume answers from another container too. */
  mayBeElsewhere: boolean;
}

/**
 * A Unix socket in a 0700 folder: no port to collide, nothing for other users to reach. Beside the data where the path
 * fits the kernel's 107 bytes, else in a folder of ours under the system's temporary one. Windows: a free port of 127.0.0.1.
 */
async function listenPlace(directory: string, data: string): Promise<ListenPlace> {
  if (process.platform === 'win32') {
    const port = (await readPostmasterFile(data))?.port || (await freePort());
    return {
      url: (password, database) => `postgresql://oncobridge:${password}@127.0.0.1:${port}/${database}`,
      settings: () => ({ listen_addresses: '127.0.0.1', port: String(port) }),
      prepare: async () => {},
      mayBeElsewhere: false,
    };
  }
  const beside = join(directory, 'run');
  const fits = Buffer.byteLength(join(beside, '.s.PGSQL.5432.lock')) <= 100;
  const folder = fits ? beside : join(tmpdir(), `oncobridge-${createHash('sha256').update(directory).digest('hex').slice(0, 16)}`);
  return {
    url: (password, database) => `postgresql://oncobridge:${password}@localhost/${database}?host=${encodeURIComponent(folder)}`,
    settings: () => ({
      listen_addresses: '',
      unix_socket_directories: `"${folder.replaceAll('"', '""')}"`,
      unix_socket_permissions: '0700',
      port: '5432',
    }),
    async prepare(owner) {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      const { uid } = await lstat(folder);
      const self = process.getuid?.() ?? 0;
      // Beside the data nobody but us can have made it; under the temporary folder anybody can.
      if (!fits && uid !== self && uid !== owner)
        throw new CodedError('POSTGRES_FAILED', { diagnostics: `The socket folder ${folder} belongs to another user.` });
      await chmod(folder, 0o700);
      if (self === 0 && uid !== owner) await chown(folder, owner, -1);
    },
    mayBeElsewhere: fits,
  };
}

/** As root: the folder and all in it belong to whom the server runs as; a change of the launcher between starts is followed. */
async function giveTo(directory: string, launcher: Launcher): Promise<void> {
  if (process.getuid?.() !== 0) return;
  const { uid } = await lstat(directory);
  const data = await lstat(join(directory, 'data')).catch(() => undefined);
  if (uid === launcher.owner && (data === undefined || data.uid === launcher.owner)) return;
  const gid = launcher.gid ?? 0;
  const give = async (path: string): Promise<void> => {
    await chown(path, launcher.owner, gid);
    if (!(await lstat(path)).isDirectory()) return;
    for (const name of await readdir(path)) {
      const inner = join(path, name);
      if (!(await lstat(inner)).isSymbolicLink()) await give(inner);
    }
  };
  await give(directory);
}

async function ensureDatabase(adminUrl: string, database: string): Promise<void> {
  const client = new Client({ connectionString: adminUrl });
  client.on('error', () => {});
  await client.connect();
  try {
    const { rowCount } = await client.query('select 1 from pg_database where datname = $1', [database]);
    if (rowCount === 0) await client.query(`create database ${client.escapeIdentifier(database)}`);
  } finally {
    await client.end();
  }
}

function freePort(): Promise<number> {
  return new Promise((done, fail) => {
    const server = createServer();
    server.once('error', fail);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => done(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}

async function isFile(path: string): Promise<boolean> {
  return await lstat(path).then(
    (s) => s.isFile(),
    () => false,
  );
}

function pause(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms));
}
