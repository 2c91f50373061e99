import { canonicalize } from '../ledger/contract/jcs.ts';

/** The transaction whose rows are joined; every other one goes alone. */
export const BATCHED = 'recordDocuments';
/** Protocol section 1: one JCS argument of at most 64 KiB. */
export const MAX_ARGUMENT_BYTES = 64 * 1024;
const FRAME_BYTES = Buffer.byteLength('{"entries":[]}');

/** One entry of a row's argument, as the fields that are looked at here. */
export interface EntryFields {
  institution?: string;
  patient?: string;
  document?: string;
  version?: number;
  ciphertextHash?: string;
}

/** The entries in a row's only argument: an entry by itself, or the transaction's whole argument holding one. */
export function entriesOf(args: readonly string[]): EntryFields[] {
  const parsed = JSON.parse(args[0] ?? 'null') as unknown;
  if (Array.isArray(parsed)) return parsed as EntryFields[];
  const whole = parsed as { entries?: EntryFields[] };
  return Array.isArray(whole.entries) ? whole.entries : [parsed as EntryFields];
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

export interface EntryOutcome {
  /** The contract's code where this entry was refused; the others stand. */
  refusal?: string;
}

/** What became of each entry, by position, from the result of `recordDocuments`. */
export function readOutcomes(result: string, count: number): EntryOutcome[] {
  const outcomes: EntryOutcome[] = Array.from({ length: count }, () => ({}));
  let parsed: unknown;
  try {
    parsed = JSON.parse(result);
  } catch {
    return outcomes;
  }
  const whole = parsed as { entries?: unknown; results?: unknown; refused?: unknown } | null;
  const list = Array.isArray(parsed) ? parsed : (whole?.entries ?? whole?.results);
  if (Array.isArray(list)) list.forEach((one: unknown, i) => note(i, one));
  if (Array.isArray(whole?.refused)) {
    for (const one of whole.refused as { index?: number; n?: number; code?: string }[]) note(one.index ?? one.n ?? -1, one);
  }
  return outcomes;

  function note(position: number, one: unknown): void {
    const code =
      typeof one === 'string'
        ? one
        : ((one as { code?: unknown; refused?: unknown } | null)?.code ?? (one as { refused?: unknown } | null)?.refused);
    if (position < 0 || position >= count || typeof code !== 'string' || code === '' || /^ok$/i.test(code)) return;
    outcomes[position] = { refusal: code };
  }
}
