import { randomBytes } from 'node:crypto';
import { link, open, readFile, stat, unlink } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { isRunning, type ProcessIdentity, processIdentity } from './process-alive.ts';

/** A takeover takes microseconds; whoever left one behind was killed in it. */
const TAKEOVER_STALE_MS = 10_000;

/**
 * Takes a lock that is a file with the holder's pid, or says who holds it. A lock whose process is gone (kill -9) is taken over.
 * Two that take over at once are ordered by a second file, so that neither removes the other's fresh lock.
 */
export async function takePidLock(path: string): Promise<{ release(): Promise<void> } | { heldBy: string }> {
  const own = JSON.stringify(await processIdentity(process.pid));
  const temporary = `${path}.${process.pid}.${randomBytes(6).toString('hex')}`;
  const file = await open(temporary, 'wx', 0o600);
  await file.writeFile(own);
  await file.close();
  try {
    for (let attempt = 0; attempt < 100; attempt++) {
      // link() makes the whole file appear at once: nobody reads a lock half written.
      if (await links(temporary, path)) return { release: () => release(path, own) };
      const found = await readFile(path, 'utf8').catch(() => undefined);
      if (found === undefined) continue;
      if (await isHeld(found)) return { heldBy: `Its process id is ${parse(found)?.pid ?? 'unknown'}.` };
      await removeStale(path, found);
    }
    return { heldBy: `The lock file ${path} cannot be taken.` };
  } finally {
    await unlink(temporary).catch(() => {});
  }
}

async function removeStale(path: string, stale: string): Promise<void> {
  const takeover = `${path}.takeover`;
  const file = await open(takeover, 'wx', 0o600).catch(() => undefined);
  if (file === undefined) {
    const age = await stat(takeover).then(
      (s) => Date.now() - s.mtimeMs,
      () => 0,
    );
    if (age > TAKEOVER_STALE_MS) await unlink(takeover).catch(() => {});
    await sleep(20);
    return;
  }
  try {
    if ((await readFile(path, 'utf8').catch(() => undefined)) === stale) await unlink(path);
  } finally {
    await file.close();
    await unlink(takeover).catch(() => {});
  }
}

async function release(path: string, own: string): Promise<void> {
  if ((await readFile(path, 'utf8').catch(() => undefined)) === own) await unlink(path).catch(() => {});
}

async function links(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

function parse(text: string): ProcessIdentity | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && typeof (value as ProcessIdentity).pid === 'number'
      ? (value as ProcessIdentity)
      : undefined;
  } catch {
    return undefined;
  }
}

async function isHeld(text: string): Promise<boolean> {
  const holder = parse(text);
  return holder !== undefined && (await isRunning(holder));
}
