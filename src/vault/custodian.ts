import type { KeyObject } from 'node:crypto';

/** A public key as a JWK (RFC 7517), only the public members. */
export interface PublicJwk {
  kty: string;
  crv: string;
  x: string;
  y?: string;
  kid?: string;
  use?: string;
  alg?: string;
}

/**
 * The keeper of the institution's keys (architecture section 5). Implementations: a file under a passphrase now; Vault
 * transit, cloud KMS, PKCS#11 later. Everything here is idempotent; every new key is durable before the call resolves.
 */
export interface Custodian {
  readonly institution: string;
  /** The institution's own signing and encryption keys (public halves), made at first use. */
  institutionKeys(): Promise<{ signing: PublicJwk; encryption: PublicJwk }>;
  /** Compact JWS (ES256, kid, typ) over the given JCS text, by the institution's signing key. */
  signAsInstitution(typ: string, payload: string): Promise<string>;
  /** ES256 signature (raw r||s) by the institution's signing key over bytes: blocks, transactions of the embedded host. */
  signBytes(bytes: Uint8Array): Promise<Uint8Array>;

  /** Starts custody of a patient: patient key and one category pair each; the same patient again returns the same keys. */
  enrollPatient(patient: string, categories: readonly string[]): Promise<ReadonlyMap<string, CategoryKey>>;
  /** The current category key, undefined where the patient is not in custody here. */
  categoryKey(patient: string, category: string): Promise<CategoryKey | undefined>;
  /** A new version after a revocation or compromise. */
  rotateCategoryKey(patient: string, category: string): Promise<CategoryKey>;
  /**
   * Signs for a patient in custody (typ `grant+jws`, `revoke+jws`, …). Refuses (CUSTODY_REFUSED) unless the actor is
   * that patient or a registrar and the payload's `onBehalf` names the actor.
   */
  signForPatient(request: {
    patient: string;
    actor: { kind: 'patient' | 'registrar'; id: string };
    typ: string;
    payload: string;
  }): Promise<string>;

  /** Unwraps a document key from a wrap to the category key (any version kept) or under the institution's own key. */
  unwrapDocumentKey(wrap: DocumentKeyWrap): Promise<KeyObject>;
  /** Wraps a document key under the institution's own key for this patient and category. */
  wrapOwn(patient: string, category: string, key: KeyObject): Promise<string>;

  /**
   * AES-256 key for the institution's sealed rows of this patient and category (`core` for demographics and consent
   * text). Made at first use; with `open` none is made: KEY_MISSING where it was destroyed.
   */
  rowKey(patient: string, category: string, use?: 'open'): Promise<KeyObject>;
  /** Monthly intake key, `2026-11`. Made at first use; with `open` as above. */
  intakeKey(month: string, use?: 'open'): Promise<KeyObject>;
  /** Keys of the institution for other uses: `audit`, `marks`, `directory`. */
  purposeKey(purpose: string): Promise<KeyObject>;
  /** HMAC-SHA-256 keys: `source-ids`, `content`, `identifier:<system>`, `suppression`. */
  hmacKey(purpose: string): Promise<KeyObject>;

  /** Destroys all keys of a patient (erasure), or of one category. */
  destroy(patient: string, category?: string): Promise<void>;
  close(): Promise<void>;
}

export interface CategoryKey {
  patient: string;
  category: string;
  version: number;
  publicJwk: PublicJwk;
}

/** As it stands in a sealed object's outer header. */
export interface DocumentKeyWrap {
  patient: string;
  category: string;
  categoryKeyVersion: number;
  /** JWE (ECDH-ES+A256KW) of the document key to the category key's public half. */
  toCategory: string;
  /** The document key under the producing institution's own key for this patient and category. */
  toInstitution: string;
  institution: string;
}
