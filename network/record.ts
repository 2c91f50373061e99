import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { CodedError } from '../src/errors.ts';
import { lockFolder } from '../src/store/folder-lock.ts';
import { pause } from './processes.ts';
import type { Places, Topology } from './topology.ts';

/** The recorded network of a folder; undefined where there is none. */
export async function readTopology(places: Places): Promise<Topology | undefined> {
  const text = await readFile(places.topology, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (text === undefined) return undefined;
  const topology = JSON.parse(text) as Topology;
  if (topology.version !== 1) throw new CodedError('FABRIC_FOLDER', { diagnostics: 'It was made by another version of oncobridge.' });
  return topology;
}

/** Replaces the record whole: whoever is killed meanwhile leaves the old one or the new one. */
export async function writeTopology(places: Places, topology: Topology): Promise<void> {
  const half = `${places.topology}.new`;
  await writeFile(half, `${JSON.stringify(topology, null, 2)}\n`);
  await rename(half, places.topology);
}

/**
 * Runs `work` as the only one that brings this network up or down. The kernel takes the lock back from a process that dies.
 * Throws FABRIC_BUSY where another holds it for longer than two minutes.
 */
export async function exclusively<T>(places: Places, work: () => Promise<T>): Promise<T> {
  const until = Date.now() + 120_000;
  for (;;) {
    await mkdir(places.root, { recursive: true, mode: 0o700 });
    const before = await inode(places.root);
    const lock = await lockFolder(places.root, 'fabric network').catch(() => undefined);
    if (lock !== undefined) {
      try {
        // Taken down and made again while we waited: that lock is of another folder.
        if (before !== undefined && before === (await inode(places.root))) return await work();
      } finally {
        await lock.release();
      }
    } else await pause(50);
    if (Date.now() > until) throw new CodedError('FABRIC_BUSY');
  }
}

async function inode(path: string): Promise<number | undefined> {
  return await stat(path).then(
    ({ ino }) => ino,
    () => undefined,
  );
}

/** Whether the folder holds nothing of anybody. */
export async function isEmpty(root: string): Promise<boolean> {
  return (await readdir(root).catch(() => [])).length === 0;
}

/** Removes everything, the record last, so that a removal cut short is still known for what it is. */
export async function removeNetwork(places: Places): Promise<void> {
  for (const entry of await readdir(places.root)) {
    if (entry !== 'network.json') await rm(`${places.root}/${entry}`, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 });
  }
  await rm(places.root, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 });
}
