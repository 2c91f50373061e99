import { setImmediate as turn } from 'node:timers/promises';

/** Items worked between two turns of the event loop: a few milliseconds. */
const CHUNK = 8;

/**
 * Maps a long list in chunks with a turn of the event loop between them, so that a page with a hundred records does not hold up
 * the document that is on its way to the ledger. Results of the whole in the order of the items.
 */
export async function mapByTurns<Item, Result>(
  items: readonly Item[],
  work: (item: Item, index: number) => Promise<Result>,
): Promise<Result[]> {
  const results: Promise<Result>[] = [];
  for (const [index, item] of items.entries()) {
    if (index > 0 && index % CHUNK === 0) await turn();
    const result = work(item, index);
    // Heard below; until then it is nobody's unhandled rejection.
    result.catch(() => {});
    results.push(result);
  }
  return Promise.all(results);
}
