import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { takePidLock } from './pid-lock.ts';

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
  // For systems without such names: macOS, developers only.
  const lock = await takePidLock(join(directory, 'lock'));
  return 'heldBy' in lock ? undefined : lock;
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
