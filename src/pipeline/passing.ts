import { codeOf } from '../errors.ts';

/** SQLSTATE classes that speak of the data handed in: the same record would fail again. */
const OF_THE_DATA = /^(22|23)/;

/**
 * True where nothing is wrong with the record: the database, a disk or a part of ours went away and will be back, or an
 * object store wants a credential that holds, so the work
 * is left as it is and tried again. Everything else would fail again, and the record is held for a person.
 */
export function isPassing(error: unknown): boolean {
  const ours = codeOf(error);
  if (ours !== undefined) return ours === 'UNAVAILABLE' || ours === 'STORE_REFUSED';
  if (!(error instanceof Error)) return false;
  const { code, syscall, severity } = error as { code?: unknown; syscall?: unknown; severity?: unknown };
  // A failed call of the system: a socket that is gone while PostgreSQL starts again, a full disk.
  if (typeof syscall === 'string') return true;
  if (typeof severity === 'string' && typeof code === 'string') return !OF_THE_DATA.test(code);
  // What the client library says of a lost connection carries no code.
  return /^(Connection terminated|Client has encountered a connection error|Client was closed|Cannot use a pool after|timeout exceeded when trying to connect)/i.test(
    error.message,
  );
}
