import type { KeyObject } from 'node:crypto';
import type { JWK } from 'jose';

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
  /** The institution's signing and encryption keys in use (public halves), made at first use. */
  institutionKeys(): Promise<InstitutionKeys>;
  /** The pair after those in use, made and durable before it resolves; the same until it is taken into use. */
  nextInstitutionKeys(): Promise<InstitutionKeys>;
  /** Every version kept, oldest first, the next one included where it was made. */
  keptInstitutionKeys(): Promise<readonly InstitutionKeys[]>;
  /** From now on this version signs and is what others encrypt to, over a restart too. Older ones still open envelopes. KEY_MISSING where it is not kept. */
  useInstitutionKeys(version: number): Promise<void>;
  /** Compact JWS (ES256, kid, typ) over the given JCS text, by the institution's signing key: the one in use, or that of the version. */
  signAsInstitution(typ: string, payload: string, version?: number): Promise<string>;
  /**
   * The same statement by the signing key in use, where a former one signed it; undefined for everything else. It signs nothing that
   * was not signed here before.
   */
  signAgain(jws: string): Promise<string | undefined>;
  /**
   * ES256 signature (raw r||s) by the signing key in use, or by that with this public half, over bytes: blocks and transactions of
   * the embedded host, whose signer is the key that the ledger names. KEY_MISSING where it is not kept.
   */
  signBytes(bytes: Uint8Array, publicKey?: Pick<PublicJwk, 'x' | 'y'>): Promise<Uint8Array>;

  /** Starts custody of a patient: patient key and one category pair each; the same patient again returns the same keys. CUSTODY_REFUSED once released. */
  enrollPatient(patient: string, categories: readonly string[]): Promise<ReadonlyMap<string, CategoryKey>>;
  /** The newest category key, or that of the version; undefined where the patient is not in custody here. */
  categoryKey(patient: string, category: string, version?: number): Promise<CategoryKey | undefined>;
  /** Categories of which a key is kept for this patient: none where the patient never was in custody here, or was released. */
  heldCategories(patient: string): Promise<readonly string[]>;
  /** A new version after a revocation or compromise. CUSTODY_REFUSED for who is not in custody here. */
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

  /**
   * Ends custody once the patient's own keys stand on the ledger: destroys the patient key and the private halves of all category
   * keys, and nothing else (what the institution holds stays readable to it). For good: a mark keeps a replayed enrolment from
   * making new ones. The same again does nothing; without custody it only sets the mark.
   */
  release(patient: string): Promise<void>;
  /** Whether custody of this patient was ended by `release`. */
  isReleased(patient: string): Promise<boolean>;

  /**
   * Envelope (protocol section 6) of all versions kept of a category key to a recipient's encryption key, `link` (a link code's
   * text) inside it; with `upTo` of no later version, for one that the ledger does not name is nobody's yet. KEY_MISSING where none is kept.
   */
  sealEnvelope(patient: string, category: string, recipient: PublicJwk, link?: string, upTo?: number): Promise<string>;
  /** Opens an envelope addressed to any kept version of this institution's encryption key. SEAL_BROKEN where it is not the one expected. */
  openEnvelope(envelope: string, expect: { institution: string; patient: string; category: string }): Promise<EnvelopeContent>;

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

export interface InstitutionKeys {
  /** Counted by this key store, from 1; the ledger counts for itself. */
  version: number;
  signing: PublicJwk;
  encryption: PublicJwk;
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

/** The private halves of one category key's versions (protocol section 6). */
export interface EnvelopeContent {
  patient: { institution: string; patient: string };
  category: string;
  keys: readonly { version: number; jwk: JWK }[];
  /** Text of the one-time code that the grant carries (protocol section 8); it stands inside the encrypted part only. */
  link?: string;
}
