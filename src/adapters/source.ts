/**
 * The one interface of every source of records. A source yields pages; the pipeline stores a page and its mark in one
 * transaction, so a mark never passes an unstored record (queue-and-reliability.md section 7).
 */
export interface Source {
  readonly id: string;
  readonly kind: string;
  readonly streams: readonly string[];
  /**
   * Pages of one stream, from `mark` (opaque to the pipeline; undefined at the first pull) on. The generator may be
   * abandoned at any page and called again with the last stored mark: nothing is lost, repeats are harmless.
   */
  pull(stream: string, mark: string | undefined, context: PullContext): AsyncIterable<Page>;
  /** Reads the server's own description; names what is missing for the configured streams. */
  probe(signal?: AbortSignal): Promise<ProbeReport>;
  close(): Promise<void>;
}

export interface PullContext {
  signal: AbortSignal;
  /** Logical ids (at this source) of patients already known, for sources that must be swept patient by patient. */
  knownPatients(): Promise<readonly string[]>;
  /** Versions already stored, so that a sweep need not fetch attachments of unchanged records: `${type}/${id}` -> versionId. */
  knownVersion(type: string, id: string): Promise<string | undefined>;
  /**
   * Records of this stream stored for a patient (logical id at this source) and not gone: what a sweep misses among them
   * is read again, and is a tombstone where that says 404 or 410. Without it a disappearance stays unseen.
   */
  knownRecords?(patient: string): Promise<readonly { type: string; id: string }[]>;
}

export interface Page {
  records: readonly RawRecord[];
  /** The mark to store together with this page; absent where the stream can only resume from the earlier one. */
  mark?: string;
  /** Warnings of the source (an OperationOutcome entry), free of patient data. */
  warnings?: readonly string[];
}

/** What a source said about one thing at one version, to the byte. */
export interface RawRecord {
  type: string;
  id: string;
  /** As the source says it; compared for equality only. Empty where it has none. */
  versionId: string;
  lastUpdated?: string;
  mediaType: 'application/fhir+json';
  /** The exact text of the resource as it came (decimals kept: 2.00 stays 2.00). */
  bytes: Uint8Array;
  /**
   * Attachment bytes of it (DocumentReference `content`, DiagnosticReport `presentedForm`, in their order; inline data
   * decoded too). Absent: the stream fetches none, or the version is the stored one and they were not fetched again.
   */
  attachments?: readonly RawAttachment[];
  /** Gone at the source (404, 410, absence after a sweep): a tombstone, `bytes` empty. */
  deleted?: boolean;
}
export interface RawAttachment {
  contentIndex: number;
  url?: string;
  mediaType: string;
  bytes: Uint8Array;
  /** Why the bytes are absent or must not be used: a stable id, see docs/sources.md. */
  problem?: string;
}

export interface ProbeReport {
  software: string;
  fhirVersion: string;
  problems: readonly { id: string; text: string; cure: string }[];
}
