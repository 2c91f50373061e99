/** An institution's prefix is one path segment of ours; the rest is a hash. Nothing else reaches a file system or a store. */
export const BLOB_NAME = /^([a-z][a-z0-9-]{0,63})\/(envelopes\/|copies\/)?([0-9a-f]{64})$/;

/**
 * The blob port: sealed objects under their ciphertext hash. Names are `<inst>/<sha256>` or `<inst>/envelopes/<sha256>`
 * (protocol, section 7); our code never lists a store. An object never changes, so a repeated put is harmless. What an institution
 * received lies under `<inst>/copies/<sha256>`, which a shared store never sees: it would tell its operator when it is read.
 */
export interface BlobStore {
  /** Durable when it resolves. Refuses a name of another form (BLOB_NAME). */
  put(name: string, bytes: Uint8Array): Promise<void>;
  /** The bytes, or CodedError BLOB_MISSING; BLOB_TOO_LARGE where more lies there than is ever put. Does not check the hash: the reader does, against the ledger. */
  get(name: string): Promise<Uint8Array>;
  head(name: string): Promise<{ sizeBytes: number } | undefined>;
  /** Idempotent. */
  delete(name: string): Promise<void>;
  close(): Promise<void>;
}
