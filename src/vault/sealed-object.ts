import type { KeyObject } from 'node:crypto';
import type { DocumentKeyWrap, PublicJwk } from './custodian.ts';

/** What is sealed: architecture section 3, step 6. */
export interface SealInput {
  institution: string;
  document: string;
  version: number;
  patient: string;
  category: string;
  categoryKey: { version: number; publicJwk: PublicJwk };
  /** Encrypted inner header: manifest, resource ids, clinical time. A salt is made here, but kept where given (re-encryption: the commitment must be equal). */
  inner: InnerHeader & { salt?: string };
  pdf: Uint8Array;
  bundle: Uint8Array;
}
export interface InnerHeader {
  manifest: unknown;
  /** source resource key -> our resource id. */
  resourceIds: Readonly<Record<string, string>>;
  clinicalTime?: string;
  /** What the document covers, times of context drawn in its PDF included: ISO instants, both inclusive, `-infinity` or `infinity` where open. */
  covers?: { start: string; end: string };
}
export interface SealedObject {
  bytes: Uint8Array;
  /** SHA-256 of `bytes`, hex: the blob's name and what the ledger entry holds. */
  ciphertextHash: string;
  /** HMAC-SHA-256(salt, digest of the plaintext parts), hex. */
  commitment: string;
  wrap: DocumentKeyWrap;
}
export interface OpenedObject {
  outer: OuterHeader;
  inner: InnerHeader & { salt: string };
  pdf: Uint8Array;
  bundle: Uint8Array;
  commitment: string;
}
export interface OuterHeader {
  format: string;
  institution: string;
  document: string;
  version: number;
  patient: string;
  category: string;
  wrap: DocumentKeyWrap;
}

export interface Expectation {
  document: string;
  version: number;
  patient: string;
  category: string;
  ciphertextHash: string;
  commitment: string;
  /** Who must have sealed it: the recorder of the entry. Not asked about where it is not given. */
  institution?: string;
}

/** How the document key is got out of its wrap; the custodian's own way where none is given. */
export type Unwrap = (wrap: DocumentKeyWrap) => Promise<KeyObject>;

export interface Sealer {
  seal(input: SealInput): Promise<SealedObject>;
  /**
   * Throws SEAL_BROKEN where anything was altered, or the object is not the expected one. No plaintext before its tag. `unwrap` for an
   * object of another institution: `unwrapWithCategoryKey` and `ownWrap` of foreign-wrap.ts.
   */
  open(bytes: Uint8Array, expect: Expectation, unwrap?: Unwrap): Promise<OpenedObject>;
  /** Opens one part only, where the other is not needed. */
  openPart(bytes: Uint8Array, part: 'pdf' | 'bundle', expect: Expectation, unwrap?: Unwrap): Promise<Uint8Array>;
}
