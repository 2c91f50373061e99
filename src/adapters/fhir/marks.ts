import { CodedError } from '../../errors.ts';

/**
 * Marks: where a stream stands, as JSON text. Opaque to everybody else. They may hold links of the source and patients'
 * ids there, so whoever stores them seals them.
 */
export interface LastUpdatedMark {
  v: 1;
  strategy: 'last-updated';
  /** By template text, so that a search added to the config begins at its beginning. */
  searches: Record<string, SearchState>;
  /** Last patient read again; the next pull goes on behind it. */
  rotation?: string;
}
export interface SearchState {
  /** Server instant up to which everything is stored; absent before the first chain ended. */
  since?: string;
  /** A page chain under way. */
  chain?: {
    next: string;
    /** Server instant at the chain's query: becomes `since` when its last page is stored. */
    until?: string;
    /** Newest lastUpdated seen in it: stands in for `until` at a server that tells no time. */
    newest?: string;
  };
}

export interface PatientSweepMark {
  v: 1;
  strategy: 'patient-sweep';
  /** Server instant up to which the discovery has been swept. */
  since?: string;
  /** Last patient swept among those known before; the next pull goes on behind it where not all are taken at once. */
  rotation?: string;
  /** A sweep under way. */
  sweep?: SweepState;
}
export interface SweepState {
  /** Server instant at the start of this sweep's discovery. */
  until?: string;
  phase: 'discovered' | 'known';
  /** Last patient whose records are all stored. */
  after?: string;
  /** Known patients taken so far. */
  taken: number;
  /** A type was refused: the discovery cursor must not move. */
  incomplete?: boolean;
}

/** Reads a stored mark of this strategy; SOURCE_MARK where it is none. */
export function readMark<M extends LastUpdatedMark | PatientSweepMark>(strategy: M['strategy'], mark: string | undefined, first: M): M {
  if (mark === undefined) return first;
  let value: unknown;
  try {
    value = JSON.parse(mark);
  } catch {
    throw new CodedError('SOURCE_MARK');
  }
  const read = value as Partial<LastUpdatedMark | PatientSweepMark> | null;
  if (read?.v !== 1 || read.strategy !== strategy)
    throw new CodedError('SOURCE_MARK', { diagnostics: 'It was written by another strategy or version.' });
  if (strategy === 'last-updated' && typeof (read as Partial<LastUpdatedMark>).searches !== 'object') throw new CodedError('SOURCE_MARK');
  return value as M;
}

/** `since` less the lookback, as an instant. A FHIR date without lookback stays as it was written. */
export function lookBack(since: string, lookbackMs: number): string {
  const atMs = Date.parse(since);
  if (Number.isNaN(atMs)) throw new CodedError('SOURCE_MARK', { diagnostics: 'Its time cannot be read.' });
  return new Date(atMs - lookbackMs).toISOString();
}
