/**
 * Every reason for which the contract refuses. The codes are stable: they stand in results, in the outbox and in
 * docs/ledger.md, and are compared between hosts. A refusal writes nothing.
 */
export const REFUSALS = {
  // -- form --
  TRANSACTION_UNKNOWN: 'There is no such transaction or query.',
  ARGUMENTS_WRONG: 'The number of arguments is wrong.',
  ARGUMENT_TOO_LARGE: 'The argument is larger than 64 KiB.',
  PAYLOAD_TOO_LARGE: 'The payload is larger than 8 KiB.',
  NOT_CANONICAL: 'The text is not the RFC 8785 form of itself (order, spacing, duplicate members, numbers).',
  SCHEMA: 'The payload does not fit the schema of its transaction.',
  JWS_MALFORMED: 'Not a compact JWS of three base64url parts.',
  JWS_HEADER: 'The JWS header holds something other than alg, kid and typ.',
  JWS_ALGORITHM: 'The JWS algorithm is not ES256.',
  JWS_TYPE: 'The JWS typ is not that of this transaction.',
  JWS_KEY: 'The JWS kid is not the thumbprint of a key that may sign this.',
  JWS_SIGNATURE: 'The JWS signature does not verify.',
  JWS_PAYLOADS_DIFFER: 'The signatures of this transaction are not over the same payload.',
  KEY_INVALID: 'A public key is malformed or not on its curve.',
  KEY_MISSING: 'The public key of the signer must be handed over beside the JWS.',
  KEY_MISMATCH: 'The public key handed over does not match its thumbprint on the ledger.',
  LEDGER_OTHER: 'The payload was signed for another ledger.',
  TYPE_OTHER: 'The payload was signed for another transaction.',
  CALLER_UNKNOWN: 'The submitting institution is not an active member of this ledger, or its MSP is not the registered one.',
  VERSION_STALE: 'The version named is not the next one.',
  // -- ledger and institutions --
  LEDGER_EXISTS: 'The ledger is already initialised.',
  LEDGER_MISSING: 'The ledger is not initialised.',
  INSTITUTION_EXISTS: 'The institution or its MSP is already registered.',
  INSTITUTION_UNKNOWN: 'The institution is not registered.',
  SIGNERS_MISSING: 'Not all signatures that this transaction needs are there.',
  // -- members --
  MEMBER_EXISTS: 'The member is already registered, with other content.',
  MEMBER_UNKNOWN: 'The member is not registered.',
  MEMBER_INACTIVE: 'The member is suspended or expired.',
  ROLE_FUNCTION: 'The role of the member does not have this function.',
  VALIDITY_PAST: 'The end of validity lies before the transaction.',
  // -- patients --
  PATIENT_EXISTS: 'The patient is already enrolled, with other content.',
  PATIENT_UNKNOWN: 'The patient is not enrolled.',
  PATIENT_ERASED: 'The patient has been erased.',
  PATIENT_CLAIMED: 'The patient holds their own keys; no institution may sign this.',
  CATEGORIES_INCOMPLETE: 'A new key is missing for a category that has one.',
  CATEGORY_UNKNOWN: 'The patient has no key for this category.',
  KEY_VERSION_STALE: 'The category key version is not the current one. Settle if the entry stands, else seal again.',
  // -- permissions --
  NOT_GRANTOR: 'The signer may not sign for this grantor.',
  ON_BEHALF_MISSING: 'A statement signed in custody must say on whose behalf.',
  DELEGATION_SCOPE: 'The delegate may not sign for this category, or no longer.',
  GRANTEE_UNKNOWN: 'The grantee is not registered.',
  TRIPLE_REPEATED: 'A grantee and category stand twice in one payload.',
  SEQUENCE_STALE: 'The sequence is not that of the head plus one.',
  GRANT_EXPIRED: 'The notAfter of the grant has passed.',
  GRANT_BEYOND_ANCHOR: 'The transaction lies more than 10 minutes past the newest anchor.',
  CLAUSE_EMPTY: 'A period of a clause is empty.',
  ENVELOPE_MISSING: 'A grant of read access to another institution needs an envelope.',
  ENVELOPE_RECIPIENT: 'The envelope is not to a key of the grantee.',
  SHARE_WIDER: 'What is shared is wider than the permission that it stands on, or that permission does not allow sharing.',
  SHARE_DEPTH: 'A permission may be shared on to a depth of 3 only.',
  // -- documents --
  UPLOAD_NOT_PERMITTED: 'The upload stands on no live permission.',
  ENTRY_UNKNOWN: 'The entry to be resealed is not on the ledger.',
  COMMITMENT_DIFFERS: 'The commitment differs from that of the entry resealed.',
  RESEAL_NUMBER: 'The reseal number is not the next one.',
  // -- accountability --
  EMERGENCY_PERIOD: 'Emergency access is limited to four hours.',
  EMERGENCY_EXISTS: 'The emergency id is taken, with other content.',
  ANCHOR_NUMBER: 'The anchor number is not the next one.',
} as const;

export type RefusalCode = keyof typeof REFUSALS;

/** The contract's only exception. `where` names a member of the payload, never a value. */
export class Refusal extends Error {
  readonly code: RefusalCode;
  readonly where: string | undefined;
  constructor(code: RefusalCode, where?: string) {
    super(where === undefined ? code : `${code} ${where}`);
    this.name = 'Refusal';
    this.code = code;
    this.where = where;
  }
}

/** Refuses with the code unless the condition holds. */
export function must(condition: boolean, code: RefusalCode, where?: string): asserts condition {
  if (!condition) throw new Refusal(code, where);
}
