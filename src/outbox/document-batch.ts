import { canonicalize } from '../ledger/contract/jcs.ts';
import { MAX_ARGUMENT_BYTES } from '../ledger/contract/shapes.ts';

/** The transaction whose rows are joined; every other one goes alone. */
export const BATCHED = 'recordDocuments';
const FRAME_BYTES = Buffer.byteLength('{"entries":[]}');

/** What is looked at here of an entry. */
export interface EntryFields {
  institution?: string;
  patient?: string;
  document?: string;
  version?: number;
  ciphertextHash?: string;
}

/** The entries in a row's only argument, JCS `{"entries":[…]}`. */
export function entriesOf(args: readonly string[]): EntryFields[] {
  const { entries } = JSON.parse(args[0] ?? '{}') as { entries?: EntryFields[] };
  return entries ?? [];
}

/** The one argument for the entries of these rows. */
export function joinArguments(rows: readonly (readonly string[])[]): string[] {
  return [canonicalize({ entries: rows.flatMap((args) => entriesOf(args)) })];
}

/** Cuts rows that are in order into runs that fit a transaction by number and size; a row too large for any stands alone. */
export function cutIntoBatches<Row extends { transaction: string; args: readonly string[]; priority: number }>(
  rows: readonly Row[],
  limits: { entries: number; bytes?: number },
): Row[][] {
  const batches: Row[][] = [];
  const bytesLimit = (limits.bytes ?? MAX_ARGUMENT_BYTES) - FRAME_BYTES;
  let open: Row[] = [];
  let bytes = 0;
  for (const row of rows) {
    const size = Buffer.byteLength(row.args[0] ?? '') + 1;
    const first = open[0];
    const joins =
      first !== undefined &&
      row.transaction === BATCHED &&
      first.transaction === BATCHED &&
      first.priority === row.priority &&
      open.length < limits.entries &&
      bytes + size <= bytesLimit;
    if (joins) {
      open.push(row);
      bytes += size;
    } else {
      open = [row];
      bytes = size;
      batches.push(open);
    }
  }
  return batches;
}

/** The contract's code for each refused entry, by position, from the result of `recordDocuments`; the others stand. */
export function readRefusals(result: string): Map<number, string> {
  const { refused } = JSON.parse(result) as { refused?: { index: number; code: string }[] };
  return new Map((refused ?? []).map(({ index, code }) => [index, code]));
}
