import { randomBytes } from 'node:crypto';
import { link, mkdir, open, readFile, rename, stat, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { newLedgerId } from '../founding.ts';

/**
 * The tip file, outside the database: the ledger's id, made at the first start, and a line for each block whose receipts were
 * handed out. A database that lacks a block named here has lost its tail. `<path>` is only ever appended to or replaced whole.
 */
export interface Tip {
  ledger: string;
  /** Number of blocks, and hash of the newest, as of the last receipt handed out; 0 before the first block. */
  height: number;
  hash: string;
  /** All lines kept, oldest first. */
  lines: readonly { height: number; hash: string }[];
}
const FORMAT = 'oncobridge-tip/1';
const COMPACT_BYTES = 1024 * 1024;
const KEPT = 1000;

/** The tip, undefined where there is no file. Throws SyntaxError where a line other than a torn last one is malformed. */
export async function readTip(path: string): Promise<Tip | undefined> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  // What follows the last line feed was being written when the machine stopped; its receipts were never handed out.
  const [first = '', ...rest] = text.slice(0, text.lastIndexOf('\n')).split('\n');
  const head = JSON.parse(first) as { format?: string; ledger?: string };
  if (head.format !== FORMAT || typeof head.ledger !== 'string') throw new SyntaxError('not a tip file');
  const lines = rest.map((line) => {
    const { height, hash } = JSON.parse(line) as { height?: number; hash?: string };
    if (!Number.isSafeInteger(height) || height === undefined || typeof hash !== 'string') throw new SyntaxError('malformed line');
    return { height, hash };
  });
  const last = lines.at(-1);
  return { ledger: head.ledger, height: last?.height ?? 0, hash: last?.hash ?? '', lines };
}

/** The tip; where there is none it is made, with a new random ledger id. Of two processes that make it at once one wins. */
export async function openTip(path: string): Promise<Tip> {
  const found = await readTip(path);
  if (found !== undefined) return found;
  await mkdir(dirname(path), { recursive: true });
  const temporary = `${path}.${randomBytes(6).toString('hex')}`;
  await writeDurably(temporary, `${JSON.stringify({ format: FORMAT, ledger: newLedgerId() })}\n`);
  try {
    await link(temporary, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  } finally {
    await unlink(temporary);
  }
  await syncFolder(dirname(path));
  const made = await readTip(path);
  if (made === undefined) throw new SyntaxError('the tip file vanished');
  return made;
}

/** Durable when it resolves. The caller holds the ledger's lock, so that lines stand in the order of blocks. */
export async function appendTip(path: string, height: number, hash: string): Promise<void> {
  // Opened anew each time: another process may have replaced the file.
  const file = await open(path, 'r+');
  try {
    const { size } = await file.stat();
    const torn = size > 0 && (await file.read(Buffer.alloc(1), 0, 1, size - 1)).buffer[0] !== 10;
    // A torn line is closed off by cutting it away, not by adding to it.
    const at = torn ? await endOfLastLine(path) : size;
    if (torn) await file.truncate(at);
    await file.write(`${JSON.stringify({ height, hash })}\n`, at);
    await file.datasync();
  } finally {
    await file.close();
  }
  if ((await stat(path)).size > COMPACT_BYTES) await compact(path);
}

async function endOfLastLine(path: string): Promise<number> {
  return (await readFile(path)).lastIndexOf(10) + 1;
}

async function compact(path: string): Promise<void> {
  const tip = await readTip(path);
  if (tip === undefined) return;
  const lines = tip.lines.slice(-KEPT).map((line) => JSON.stringify(line));
  const temporary = `${path}.${randomBytes(6).toString('hex')}`;
  await writeDurably(temporary, `${[JSON.stringify({ format: FORMAT, ledger: tip.ledger }), ...lines].join('\n')}\n`);
  await rename(temporary, path);
  await syncFolder(dirname(path));
}

async function writeDurably(path: string, text: string): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  try {
    await file.write(text);
    await file.sync();
  } finally {
    await file.close();
  }
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
