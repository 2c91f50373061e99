import type { EncryptionJwk } from './host.ts';
import { boolean, either, type Infer, instant, integer, list, literal, nullable, object, type Schema, text } from './schema.ts';

/**
 * The schema of every payload and argument. What is signed is fixed here and in payloads.ts and nowhere else.
 * docs/ledger.md is the public form.
 */
const NAME = '[a-z0-9][a-z0-9-]{0,63}';
const name = text(new RegExp(`^${NAME}$`));
const hash = text(/^[0-9a-f]{64}$/);
const thumbprint = text(/^[A-Za-z0-9_-]{43}$/);
const category = text(/^[a-z][a-z0-9-]{0,63}$/);
const purpose = text(/^[A-Za-z0-9._-]{1,64}$/);
const nonce = text(/^[A-Za-z0-9_-]{16,64}$/);
const version = integer(1, 9_999_999_999);
const memberName = text(new RegExp(`^member:${NAME}:${NAME}$`));
const grantor = text(new RegExp(`^(patient|member:${NAME}:${NAME})$`));
const grantee = text(new RegExp(`^(member:${NAME}:${NAME}|organization:${NAME}|role:${NAME})$`));
/** On whose behalf a custodian signs: a patient's id, a member's id or `member:<inst>:<mem>`. */
const actor = text(/^[a-z0-9][a-z0-9:-]{0,139}$/);

export const ROLES = ['clinician', 'carer', 'researcher', 'insurer', 'pharmacy', 'registrar', 'privacy-officer'] as const;
export type Role = (typeof ROLES)[number];
const role = literal(...ROLES);

const coordinate = text(/^[A-Za-z0-9_-]{43}$/);
export const ecJwk = object({ crv: literal('P-256'), kty: literal('EC'), x: coordinate, y: coordinate });
const okpJwk = object({ crv: literal('X25519'), kty: literal('OKP'), x: coordinate });
const encryptionJwk: Schema<EncryptionJwk> = either(ecJwk, okpJwk);

export const RIGHTS = ['read', 'upload', 'share'] as const;
export type Right = (typeof RIGHTS)[number];

/** An envelope that the statement causes: the recipient key's thumbprint, its path in the shared store, its hash. */
const envelope = object({
  hash,
  path: text(new RegExp(`^${NAME}/envelopes/[0-9a-f]{64}$`)),
  recipient: thumbprint,
});
export type Envelope = Infer<typeof envelope>;

/** What holds: null purposes mean any; null bounds are open; both ends count in (FHIR Period). */
const clause = object({
  consent: name,
  dataEnd: nullable(instant()),
  dataStart: nullable(instant()),
  effect: literal('permit', 'deny'),
  emergency: boolean(),
  periodEnd: nullable(instant()),
  periodStart: nullable(instant()),
  purposes: nullable(list(purpose, 1, 16)),
  rights: list(literal(...RIGHTS), 1, 3),
});
export type Clause = Infer<typeof clause>;

/** Every statement binds ledger, transaction and nonce. */
function statement<const T extends string, M extends Record<string, Schema<unknown>>>(type: T, members: M) {
  return object({ ...members, ledger: text(/^[a-z0-9][a-z0-9-]{7,63}$/), nonce, type: literal(type) });
}

const institutionKeys = { encryption: encryptionJwk, institution: name, msp: text(/^[A-Za-z0-9.-]{1,64}$/), signing: ecJwk };
const ofPatient = { institution: name, patient: name };
const clauses = list(clause, 0, 16);
const categoryKeys = list(object({ category, envelopes: list(envelope, 0, 16), key: encryptionJwk, version }), 1, 32);
const delegates = list(object({ categories: nullable(list(category, 1, 16)), key: thumbprint, until: instant() }), 0, 8);

/** Payloads of JWS, by transaction. */
export const PAYLOADS = {
  init: statement('init', institutionKeys),
  registerInstitution: statement('registerInstitution', institutionKeys),
  rotateInstitutionKey: statement('rotateInstitutionKey', { encryption: encryptionJwk, institution: name, signing: ecJwk, version }),
  raiseRules: statement('raiseRules', { rules: version }),
  registerMember: statement('registerMember', {
    encryption: nullable(encryptionJwk),
    institution: name,
    member: name,
    signing: ecJwk,
  }),
  rotateMemberKey: statement('rotateMemberKey', {
    encryption: nullable(encryptionJwk),
    institution: name,
    member: name,
    signing: ecJwk,
    version,
  }),
  renewMember: statement('renewMember', { institution: name, member: name, validUntil: instant(), version }),
  suspendMember: statement('suspendMember', { institution: name, member: name, version }),
  enrollPatient: statement('enrollPatient', { ...ofPatient, keys: list(object({ category, key: encryptionJwk }), 1, 32) }),
  claimPatient: statement('claimPatient', {
    ...ofPatient,
    encryption: encryptionJwk,
    keys: categoryKeys,
    onBehalf: actor,
    recovery: thumbprint,
    signing: ecJwk,
    version,
  }),
  rotatePatientKey: statement('rotatePatientKey', {
    ...ofPatient,
    encryption: encryptionJwk,
    recovery: thumbprint,
    signing: ecJwk,
    version,
  }),
  publishCategoryKey: statement('publishCategoryKey', {
    ...ofPatient,
    category,
    envelopes: list(envelope, 0, 16),
    key: encryptionJwk,
    onBehalf: nullable(actor),
    version,
  }),
  delegate: statement('delegate', { ...ofPatient, delegates, version }),
  setPrivateInfo: statement('setPrivateInfo', { ...ofPatient, commitment: nullable(hash), onBehalf: nullable(actor), version }),
  erasePatient: statement('erasePatient', { ...ofPatient, onBehalf: nullable(actor) }),
  grantPermission: statement('grantPermission', {
    ...ofPatient,
    consent: name,
    evidence: nullable(hash),
    grantor: literal('patient'),
    notAfter: instant(),
    onBehalf: nullable(actor),
    permissions: list(object({ category, clauses, envelope: nullable(envelope), grantee, sequence: version }), 1, 32),
  }),
  revokePermission: statement('revokePermission', {
    ...ofPatient,
    consent: nullable(name),
    grantor,
    onBehalf: nullable(actor),
    permissions: list(object({ category, grantee }), 1, 32),
  }),
  sharePermission: statement('sharePermission', {
    ...ofPatient,
    consent: name,
    grantor: memberName,
    notAfter: instant(),
    permissions: list(
      object({
        category,
        clauses,
        envelope: nullable(envelope),
        grantee,
        parentGrantee: grantee,
        parentGrantor: grantor,
        sequence: version,
      }),
      1,
      32,
    ),
  }),
  recordEmergencyAccess: statement('recordEmergencyAccess', {
    ...ofPatient,
    from: instant(),
    id: name,
    member: memberName,
    until: instant(),
  }),
};
export type Payloads = { [K in keyof typeof PAYLOADS]: Infer<(typeof PAYLOADS)[K]> };
export type SignedTransaction = keyof Payloads;

/** JWS `typ` of each payload. */
export const TYP: Readonly<Record<SignedTransaction, string>> = {
  init: 'init+jws',
  registerInstitution: 'register-institution+jws',
  rotateInstitutionKey: 'rotate-institution-key+jws',
  raiseRules: 'raise-rules+jws',
  registerMember: 'register-member+jws',
  rotateMemberKey: 'rotate-member-key+jws',
  renewMember: 'renew-member+jws',
  suspendMember: 'suspend-member+jws',
  enrollPatient: 'enroll+jws',
  claimPatient: 'claim+jws',
  rotatePatientKey: 'rotate-patient-key+jws',
  publishCategoryKey: 'category-key+jws',
  delegate: 'delegate+jws',
  setPrivateInfo: 'private-info+jws',
  erasePatient: 'erase+jws',
  grantPermission: 'grant+jws',
  revokePermission: 'revoke+jws',
  sharePermission: 'share+jws',
  recordEmergencyAccess: 'emergency+jws',
};

/** The form of one entry, checked entry by entry so that one bad entry does not refuse its batch. */
export const entry = object({
  ...ofPatient,
  category,
  ciphertextHash: hash,
  clinician: nullable(memberName),
  commitment: hash,
  document: name,
  keyVersion: version,
  /** The head that an upload for another institution's patient stands on; null for the own patient. */
  permission: nullable(object({ grantee, grantor })),
  pointer: text(new RegExp(`^${NAME}/[0-9a-f]{64}$`)),
  version,
});
export type Entry = Infer<typeof entry>;
export const reseal = object({
  ...ofPatient,
  category,
  ciphertextHash: hash,
  clinician: nullable(memberName),
  commitment: hash,
  document: name,
  /** 0: under the institution's own key only, for a withdrawn document. */
  keyVersion: integer(0, 9_999_999_999),
  n: version,
  pointer: text(new RegExp(`^${NAME}/[0-9a-f]{64}$`)),
  previous: hash,
  version,
});
export type Reseal = Infer<typeof reseal>;

/** Arguments without a JWS of their own: the submitting institution's certificate signs the transaction. */
export const ARGUMENTS = {
  registerMember: object({ member: name, proof: nullable(text(/^[A-Za-z0-9_.-]{1,8192}$/)), role, validUntil: instant() }),
  withdrawDocument: object({ ...ofPatient, document: name }),
  anchorAudit: object({ number: version, root: hash }),
};
export type Arguments = { [K in keyof typeof ARGUMENTS]: Infer<(typeof ARGUMENTS)[K]> };

/** Sizes, in UTF-8 bytes (protocol section 1). */
export const MAX_PAYLOAD_BYTES = 8 * 1024;
export const MAX_ARGUMENT_BYTES = 64 * 1024;

/** The question of `decide`, as a query argument. */
export const question = object({
  actorId: nullable(name),
  actorInstitution: name,
  actorKind: literal('patient', 'member', 'organization'),
  at: instant(),
  category,
  emergency: nullable(name),
  institution: name,
  patient: name,
  purpose,
  right: literal(...RIGHTS),
});
