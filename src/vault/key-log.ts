import { type FileHandle, open, readFile, rename, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { CodedError } from '../errors.ts';
import { syncDirectory } from './passphrase.ts';

/**
 * The append-only file below the custodian: lines of text, the first one a header. It knows nothing of keys. One writer
 * (store/pid-lock.ts). Appends that meet share one write and one fsync, so that thousands of new keys cost few.
 */
export interface KeyLog {
  header: string;
  /** Lines found at opening, without the header. */
  lines: readonly string[];
  /** Bytes of an unfinished last record that were cut off at opening: a writer was killed before it was acknowledged. */
  tornBytes: number;
  /** Durable when it resolves. */
  append(line: string): Promise<void>;
  /**
   * Compacts: rewrites the file to what `lines` yields at that moment (appends before and after keep their order), then
   * overwrites what stood in the old one. Requests that meet share one rewrite.
   */
  rewrite(lines: () => Iterable<string>): Promise<void>;
  close(): Promise<void>;
}

/** Opens the log, or makes it with `makeHeader()` where there is none. */
export async function openKeyLog(path: string, makeHeader: () => Promise<string>): Promise<KeyLog> {
  await unlink(`${path}.new`).catch(() => {}); // a rewrite that did not come to its rename
  let bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (bytes === undefined) {
    bytes = Buffer.from(`${await makeHeader()}\n`);
    await replace(path, [bytes]);
  }
  const { lines, goodBytes } = split(bytes);
  const [header, ...records] = lines;
  if (header === undefined) throw new CodedError('KEYS_BROKEN', { diagnostics: 'The key store has no header.' });
  const tornBytes = bytes.length - goodBytes;
  let file = await open(path, 'r+');
  if (tornBytes > 0) {
    await file.truncate(goodBytes);
    await file.sync();
  }
  let end = goodBytes;
  let failure: unknown;
  let closed = false;
  let running: Promise<void> | undefined;
  let appends: { line: string; done: PromiseWithResolvers<void> }[] = [];
  let rewrites: { lines: () => Iterable<string>; done: PromiseWithResolvers<void> }[] = [];

  const flush = async (): Promise<void> => {
    while (appends.length > 0 || rewrites.length > 0) {
      const batch = appends;
      const compactions = rewrites;
      appends = [];
      rewrites = [];
      try {
        if (failure !== undefined) throw failure;
        if (batch.length > 0) {
          const text = Buffer.from(`${batch.map((item) => item.line).join('\n')}\n`);
          await writeAll(file, text, end);
          await file.datasync();
          end += text.length;
        }
        const newest = compactions.at(-1);
        if (newest !== undefined) {
          const old = file;
          const oldEnd = end;
          end = await replace(path, chunks(header, newest.lines()));
          file = await open(path, 'r+');
          await overwrite(old, oldEnd);
        }
        for (const item of [...batch, ...compactions]) item.done.resolve();
      } catch (error) {
        // After a failed write or fsync nobody knows what is on the disk: no key is handed out any more until a restart reads it.
        failure = error;
        const refusal = new CodedError('UNAVAILABLE', { diagnostics: 'The key store could not be written.', cause: error });
        for (const item of [...batch, ...compactions]) item.done.reject(refusal);
      }
    }
    running = undefined;
  };
  const start = (): void => {
    // A turn of the event loop gathers what is asked for at the same time.
    running ??= new Promise<void>((resolve) => setImmediate(resolve)).then(flush);
  };
  const refuseIfClosed = (): void => {
    if (closed) throw new CodedError('UNAVAILABLE', { diagnostics: 'The key store is closed.' });
  };

  return {
    header,
    lines: records,
    tornBytes,
    append(line) {
      refuseIfClosed();
      const done = Promise.withResolvers<void>();
      appends.push({ line, done });
      start();
      return done.promise;
    },
    rewrite(source) {
      refuseIfClosed();
      const done = Promise.withResolvers<void>();
      rewrites.push({ lines: source, done });
      start();
      return done.promise;
    },
    async close() {
      if (closed) return;
      closed = true;
      await running;
      await file.close();
    },
  };
}

/** Whole lines, and how many bytes they take. What follows the last line feed, or zeros at the very end, was never acknowledged. */
function split(bytes: Buffer): { lines: string[]; goodBytes: number } {
  const lines: string[] = [];
  let at = 0;
  for (;;) {
    const next = bytes.indexOf(10, at);
    if (next < 0) break;
    const line = bytes.subarray(at, next);
    if (line.includes(0)) {
      // A power loss may leave zeros where the last batch should be; zeros with records after them are damage, not a torn write.
      if (bytes.subarray(next + 1).some((byte) => byte !== 0))
        throw new CodedError('KEYS_BROKEN', { diagnostics: 'The key store holds a damaged record.' });
      break;
    }
    lines.push(line.toString('utf8'));
    at = next + 1;
  }
  return { lines, goodBytes: at };
}

function* chunks(header: string, lines: Iterable<string>): Iterable<Buffer> {
  let text = `${header}\n`;
  for (const line of lines) {
    text += `${line}\n`;
    if (text.length < 1 << 20) continue;
    yield Buffer.from(text);
    text = '';
  }
  if (text !== '') yield Buffer.from(text);
}

/** Writes a new file beside and renames it over; returns its size in bytes. */
async function replace(path: string, content: Iterable<Buffer>): Promise<number> {
  const temporary = `${path}.new`;
  const file = await open(temporary, 'w', 0o600);
  let size = 0;
  try {
    for (const chunk of content) {
      await writeAll(file, chunk, size);
      size += chunk.length;
    }
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
  await syncDirectory(dirname(path));
  return size;
}

async function writeAll(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}

/** Best effort: a journaling or copying file system, or an SSD, may keep the old blocks for a while all the same. */
async function overwrite(file: FileHandle, size: number): Promise<void> {
  try {
    const zeros = Buffer.alloc(Math.min(size, 1 << 20));
    for (let at = 0; at < size; at += zeros.length) await writeAll(file, zeros.subarray(0, Math.min(zeros.length, size - at)), at);
    await file.datasync();
  } finally {
    await file.close();
  }
}
