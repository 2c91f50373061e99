/**
 * What a host offers the contract, and nothing else: no clock, no randomness, no history (protocol section 2). The three
 * hosts are the embedded ledger, Fabric chaincode and every projection; all run this same code.
 */
export interface ContractHost extends ReadHost {
  /** Writes at commit. Refuses an empty value; a later `get` of the same key in this transaction throws. */
  put(key: string, value: string): Promise<void>;
  delete(key: string): Promise<void>;
  readonly caller: Caller;
  /** ISO instant (`2026-11-23T10:00:00.000Z`) that the submitter set. It informs; order decides. */
  readonly transactionTime: string;
}

export interface ReadHost {
  get(key: string): Promise<string | undefined>;
  /** All keys under the prefix in the order of their UTF-8 bytes, drained, never paged. */
  scan(prefix: string): Promise<readonly KeyValue[]>;
  /** ES256 over `bytes` with a raw r||s signature; false for any malformed key or signature, never an exception. */
  verify(alg: 'ES256', key: EcJwk, bytes: Uint8Array, signature: Uint8Array): Promise<boolean>;
  sha256(bytes: Uint8Array): Promise<Uint8Array>;
}

export interface KeyValue {
  readonly key: string;
  readonly value: string;
}

/** Who sends: the MSP of the certificate, and the institution that the host maps it to. */
export interface Caller {
  readonly msp: string;
  readonly institution: string;
}

/** A P-256 public key in exactly the members of RFC 7638, so that its JCS text is its thumbprint's input. */
export interface EcJwk {
  readonly crv: 'P-256';
  readonly kty: 'EC';
  readonly x: string;
  readonly y: string;
}
export interface OkpJwk {
  readonly crv: 'X25519';
  readonly kty: 'OKP';
  readonly x: string;
}
/** A key that others encrypt to. */
export type EncryptionJwk = EcJwk | OkpJwk;
