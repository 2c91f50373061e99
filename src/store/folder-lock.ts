import { createHash } from 'node:crypto';
import { link, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';

export interface FolderLock {
  release(): Promise<void>;
}

/**
 * One holder per folder; undefined where another live process holds it. On Linux and Windows the lock is a name that the
 * kernel gives to one process and takes back when that dies, however it dies, so there is no stale lock to judge. The name
 * is derived from a secret of the folder: no other user can take it first.
 */
export async function lockFolder(directory: string, secret: string): Promise<FolderLock | undefined> {
  const { dev, ino } = await stat(directory);
  const name = createHash('sha256').update(`lock\0${secret}\0${dev}:${ino}`).digest('hex').slice(0, 40);
  if (process.platform === 'linux') return await lockName(`\0oncobridge-${name}`);
  if (process.platform === 'win32') return await lockName(`\\\\.\\pipe\\oncobridge-${name}`);
  return await lockFile(join(directory, 'lock'));
}

function lockName(name: string): Promise<FolderLock | undefined> {
  return new Promise((done, fail) => {
    const server = createServer((socket) => socket.destroy());
    server.once('error', (error: NodeJS.ErrnoException) => (error.code === 'EADDRINUSE' ? done(undefined) : fail(error)));
    server.listen({ path: name, exclusive: true }, () => {
      server.unref();
      done({ release: () => new Promise((closed) => server.close(() => closed())) });
    });
  });
}

/** For systems without such names (macOS, developers only): a pid file, judged stale by its process. */
async function lockFile(path: string): Promise<FolderLock | undefined> {
  const own = `${path}.${process.pid}`;
  await writeFile(own, String(process.pid), { mode: 0o600 });
  try {
    for (let attempt = 0; attempt < 2; attempt++) {
      try {
        await link(own, path);
        return { release: () => rm(path, { force: true }) };
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      }
      const holder = Number(await readFile(path, 'utf8').catch(() => '0'));
      if (holder > 0 && isAlive(holder)) return undefined;
      await rm(path, { force: true });
    }
    return undefined;
  } finally {
    await rm(own, { force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
