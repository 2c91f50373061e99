import { randomBytes } from 'node:crypto';
import { mkdir, open, readdir, readFile, rename, stat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CodedError } from '../errors.ts';
import { BLOB_NAME, type BlobStore } from './blobs.ts';
import { isRunning, processIdentity } from './process-alive.ts';

export interface FileBlobs extends BlobStore {
  /** Where an object lies, whether it is there or not. */
  pathOf(name: string): string;
  /** Removes what puts that were killed left: ciphertext under no name, which nothing else finds. At the start, and every so often. */
  sweep(): Promise<void>;
}

/** Longer than any put. */
const LONGEST_PUT_MS = 3_600_000;

/**
 * Blobs in a directory: `<directory>/<inst>/{objects,envelopes,copies}/<2 hex>/<2 hex>/<sha256>`. A put writes a temporary file, fsyncs,
 * renames, fsyncs the folder (and those that it made): a name that exists is whole, and is still there after a power loss.
 * A name already there with the same bytes is left alone. No store is listed.
 */
export function createFileBlobs(options: { directory: string }): FileBlobs {
  const { directory } = options;
  /** Folders known to be durable; made once, so a put does not ask again. */
  const known = new Map<string, Promise<void>>();
  const temporaries = join(directory, '.tmp');
  /**
   * What this process's temporary files begin with. Several may put into one directory: a command beside the server, or the server of
   * another institution on another machine; so each says whose it is, and only those of processes that are gone are swept at once.
   */
  let writer: Promise<string> | undefined;

  const pathOf = (name: string): string => {
    const match = BLOB_NAME.exec(name);
    const [, institution, kind = 'objects', hash] = match ?? [];
    if (institution === undefined || hash === undefined) throw new CodedError('BLOB_NAME');
    return join(directory, institution, kind, hash.slice(0, 2), hash.slice(2, 4), hash);
  };
  const makeFolder = (path: string): Promise<void> => {
    let made = known.get(path);
    if (made === undefined) {
      made = makeDurable(path, directory);
      made.catch(() => known.delete(path));
      known.set(path, made);
    }
    return made;
  };

  return {
    pathOf,
    async put(name, bytes) {
      const path = pathOf(name);
      const folder = dirname(path);
      const temporary = join(temporaries, `${await (writer ??= writerOf(process.pid))}.${randomBytes(16).toString('hex')}`);
      try {
        await makeFolder(temporaries);
        await makeFolder(folder);
        // A put cut short before its folder's fsync may have left the name: the fsync below makes it count. A damaged
        // object is healed by the next put of the right bytes.
        if (!(await holds(path, bytes))) {
          await write(temporary, bytes);
          await rename(temporary, path);
        }
        await sync(folder);
      } catch (error) {
        await unlink(temporary).catch(() => {});
        if (isMissing(error)) {
          // Somebody removed the folders: the next put makes them again.
          known.delete(folder);
          known.delete(temporaries);
        }
        throw new CodedError('UNAVAILABLE', { diagnostics: 'An object could not be stored.', cause: error });
      }
    },
    async get(name) {
      const path = pathOf(name);
      try {
        return await readFile(path);
      } catch (error) {
        if (isMissing(error)) throw new CodedError('BLOB_MISSING');
        throw new CodedError('UNAVAILABLE', { diagnostics: 'An object could not be read.', cause: error });
      }
    },
    async head(name) {
      const sizeBytes = await sizeOf(pathOf(name));
      return sizeBytes === undefined ? undefined : { sizeBytes };
    },
    async delete(name) {
      const path = pathOf(name);
      try {
        await unlink(path);
        await sync(dirname(path));
      } catch (error) {
        if (!isMissing(error)) throw new CodedError('UNAVAILABLE', { diagnostics: 'An object could not be deleted.', cause: error });
      }
    },
    sweep: () => sweepTemporaries(temporaries),
    async close() {
      known.clear();
    },
  };
}

/** Temporary files lie apart, so that those of a killed put are found without listing the store. */
async function sweepTemporaries(folder: string): Promise<void> {
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (error) {
    if (isMissing(error)) return;
    throw new CodedError('UNAVAILABLE', { diagnostics: 'The folder of temporary files could not be read.', cause: error });
  }
  const writers = new Map<string, Promise<boolean>>();
  for (const name of names) {
    const path = join(folder, name);
    const writer = name.slice(0, name.lastIndexOf('.'));
    let gone = writers.get(writer);
    if (gone === undefined) {
      gone = isGone(writer);
      writers.set(writer, gone);
    }
    if ((await gone) || (await ageOf(path)) > LONGEST_PUT_MS) await unlink(path).catch(() => {});
  }
}

async function writerOf(pid: number): Promise<string> {
  const { started, boot } = await processIdentity(pid);
  return [boot, pid, started].join('.');
}

/** Of this machine, since it was started, and running no more. Of another machine or boot nobody here can say: age tells. */
async function isGone(writer: string): Promise<boolean> {
  const [, boot = '', pid, started = ''] = /^([0-9a-f-]*)\.(\d{1,10})\.(\d*)$/.exec(writer) ?? [];
  if (pid === undefined || boot !== (await processIdentity(process.pid)).boot) return false;
  return !(await isRunning({ pid: Number(pid), started, boot }));
}

function ageOf(path: string): Promise<number> {
  return stat(path).then(
    (found) => Date.now() - found.mtimeMs,
    () => 0,
  );
}

async function write(path: string, bytes: Uint8Array): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  try {
    await file.writeFile(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Makes a folder and those above it, and fsyncs every parent that got a new name. */
async function makeDurable(path: string, root: string): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o700 });
  // All parents down from the root, made by us now or by a put that was killed before its fsync.
  for (let folder = path; folder.length > root.length && folder.startsWith(root); folder = dirname(folder)) await sync(dirname(folder));
}

async function sync(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function sizeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw new CodedError('UNAVAILABLE', { diagnostics: 'An object could not be looked up.', cause: error });
  }
}

async function holds(path: string, bytes: Uint8Array): Promise<boolean> {
  if ((await sizeOf(path)) !== bytes.length) return false;
  return (await readFile(path)).equals(bytes);
}

function isMissing(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === 'ENOENT';
}
