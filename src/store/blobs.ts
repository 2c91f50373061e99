/**
 * The blob port: sealed objects under their ciphertext hash. Names are `<inst>/<sha256>` or `<inst>/envelopes/<sha256>`
 * (protocol, section 7); our code never lists a store. An object never changes, so a repeated put is harmless.
 */
export interface BlobStore {
  /** Durable when it resolves. Refuses a name of another form (BLOB_NAME). */
  put(name: string, bytes: Uint8Array): Promise<void>;
  /** The bytes, or CodedError BLOB_MISSING. Does not check the hash: the reader does, against the ledger. */
  get(name: string): Promise<Uint8Array>;
  head(name: string): Promise<{ sizeBytes: number } | undefined>;
  /** Idempotent. */
  delete(name: string): Promise<void>;
  close(): Promise<void>;
}
