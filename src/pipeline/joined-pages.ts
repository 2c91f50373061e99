import type { Page } from '../adapters/source.ts';
import { CodedError } from '../errors.ts';

/** A page to be stored; `pages`: of how many of the source's it is made. */
export interface JoinedPage extends Page {
  pages: number;
}

/** What is stored together at most; a page that is larger by itself stays one. */
const MOST_RECORDS = 100;
const MOST_BYTES = 8 * 2 ** 20;
/** Between two that are stored. The first page waits for nothing, and so does one that a slow source took longer for. */
const APART_MS = 100;

/**
 * A sweep brings a record or two at a time, and to store each alone costs a transaction of a dozen statements. Pages that come
 * within a tenth of a second are joined; the mark is that of the last, so what a crash takes is pulled again. Two versions of
 * one record stay in pages of their own, in their order. The next page is fetched while the one before is stored, one and no more.
 * `open` is given a signal that ends with the one who takes the pages.
 */
export async function* joinPages(open: (signal: AbortSignal) => AsyncIterable<Page>, signal: AbortSignal): AsyncGenerator<JoinedPage> {
  const ended = new AbortController();
  const source = open(AbortSignal.any([signal, ended.signal]))[Symbol.asyncIterator]();
  const fetch = (): Promise<IteratorResult<Page>> => {
    const next = source.next();
    next.catch(() => {}); // heard when it is taken
    return next;
  };
  let held: JoinedPage | undefined;
  let dueAt = 0;
  let next = fetch();
  try {
    for (;;) {
      if (held !== undefined && !(await arrives(next, isFull(held) ? 0 : dueAt - performance.now()))) {
        dueAt = performance.now() + APART_MS;
        yield held;
        held = undefined;
      }
      // What has come is stored before an error is told.
      const { done, value } = await next.catch((error: unknown) => ({ done: undefined, value: error }));
      if (held !== undefined && (done !== false || !fits(held, value))) {
        dueAt = performance.now() + APART_MS;
        yield held;
        held = undefined;
      }
      if (done === undefined) throw value;
      if (done) return;
      held = held === undefined ? { ...value, pages: 1 } : join(held, value);
      next = fetch();
    }
  } finally {
    ended.abort(new CodedError('UNAVAILABLE', { diagnostics: 'The pull has ended.' }));
    await source.return?.().catch(() => {});
  }
}

/** Whether the next page comes within this time. */
async function arrives(next: Promise<unknown>, withinMs: number): Promise<boolean> {
  if (withinMs <= 0) return false;
  const late = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => late.resolve(false), withinMs);
  const settled = next.then(
    () => true,
    () => true,
  );
  const arrived = await Promise.race([settled, late.promise]);
  clearTimeout(timer);
  return arrived;
}

function isFull(page: Page): boolean {
  return page.records.length >= MOST_RECORDS || bytesOf(page) >= MOST_BYTES;
}

function fits(held: Page, page: Page): boolean {
  if (held.records.length + page.records.length > MOST_RECORDS || bytesOf(held) + bytesOf(page) > MOST_BYTES) return false;
  const names = new Set(held.records.map((record) => `${record.type}/${record.id}`));
  return !page.records.some((record) => names.has(`${record.type}/${record.id}`));
}

function bytesOf({ records }: Page): number {
  let bytes = 0;
  for (const record of records) {
    bytes += record.bytes.length;
    for (const attachment of record.attachments ?? []) bytes += attachment.bytes.length;
  }
  return bytes;
}

function join(held: JoinedPage, page: Page): JoinedPage {
  const warnings = [...(held.warnings ?? []), ...(page.warnings ?? [])];
  const mark = page.mark ?? held.mark;
  return {
    records: [...held.records, ...page.records],
    pages: held.pages + 1,
    ...(mark === undefined ? {} : { mark }),
    ...(warnings.length === 0 ? {} : { warnings }),
  };
}
