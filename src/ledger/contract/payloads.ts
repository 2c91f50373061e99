import type { EcJwk, EncryptionJwk } from './host.ts';
import { canonicalize, type Json } from './jcs.ts';
import type { Infer } from './schema.ts';
import {
  ARGUMENTS,
  type Arguments,
  type Clause,
  type Entry,
  entry,
  PAYLOADS,
  type Payloads,
  question,
  type Reseal,
  reseal,
  type SignedTransaction,
  TYP,
} from './shapes.ts';

/**
 * The only place where payloads and arguments are written. Each builder returns the JCS text that is signed with the typ of
 * `TYP`, or handed over as argument, after the same schema check that the contract will make (a Refusal SCHEMA otherwise).
 */
type Facts<T extends SignedTransaction> = Omit<Payloads[T], 'type'>;

function statement<T extends SignedTransaction>(type: T): (facts: Facts<T>) => string {
  return (facts) => {
    const payload = { ...facts, type } as unknown as Json;
    PAYLOADS[type].check(payload, '');
    return canonicalize(payload);
  };
}

export { TYP };
/** By a founder's own key; `init`'s arguments are the ledger id and one such JWS a founder. */
export const initPayload = statement('init');
export const registerInstitutionPayload = statement('registerInstitution');
export const rotateInstitutionKeyPayload = statement('rotateInstitutionKey');
export const raiseRulesPayload = statement('raiseRules');
/** A member's proof of possession, which goes into registerMemberArgument. */
export const memberProofPayload = statement('registerMember');
export const rotateMemberKeyPayload = statement('rotateMemberKey');
export const renewMemberPayload = statement('renewMember');
export const suspendMemberPayload = statement('suspendMember');
export const enrollPatientPayload = statement('enrollPatient');
export const claimPatientPayload = statement('claimPatient');
export const rotatePatientKeyPayload = statement('rotatePatientKey');
export const publishCategoryKeyPayload = statement('publishCategoryKey');
export const delegatePayload = statement('delegate');
export const setPrivateInfoPayload = statement('setPrivateInfo');
export const erasePatientPayload = statement('erasePatient');
/** `sequence` of each permission is that of its head plus one, 1 where there is none; `clauses` is the whole list in force from then on. */
export const grantPayload = statement('grantPermission');
export const revokePayload = statement('revokePermission');
export const sharePayload = statement('sharePermission');
export const emergencyPayload = statement('recordEmergencyAccess');

export function registerMemberArgument(facts: Arguments['registerMember']): string {
  ARGUMENTS.registerMember.check(facts, '');
  return canonicalize(facts);
}
export function withdrawDocumentArgument(facts: Arguments['withdrawDocument']): string {
  ARGUMENTS.withdrawDocument.check(facts, '');
  return canonicalize(facts);
}
export function anchorAuditArgument(facts: Arguments['anchorAudit']): string {
  ARGUMENTS.anchorAudit.check(facts, '');
  return canonicalize(facts);
}

/** One batch; its size in UTF-8 bytes must stay within MAX_ARGUMENT_BYTES. */
export function recordDocumentsArgument(entries: readonly Entry[]): string {
  for (const [i, one] of entries.entries()) entry.check(one, `entries[${i}]`);
  return canonicalize({ entries });
}
export function resealDocumentsArgument(entries: readonly Reseal[]): string {
  for (const [i, one] of entries.entries()) reseal.check(one, `entries[${i}]`);
  return canonicalize({ entries });
}
/** The argument of the queries `decide` and `decisionAt`. */
export function questionArgument(facts: Infer<typeof question>): string {
  question.check(facts, '');
  return canonicalize(facts);
}

/** A clause with everything open but what is given. */
export function clause(facts: Pick<Clause, 'consent' | 'rights'> & Partial<Clause>): Clause {
  const open = {
    dataEnd: null,
    dataStart: null,
    effect: 'permit',
    emergency: false,
    periodEnd: null,
    periodStart: null,
    purposes: null,
  } as const;
  return { ...open, ...facts };
}

/** A JWK's required members only (RFC 7638), which is the form of every key in a payload. Throws TypeError for another curve. */
export function plainJwk(jwk: { kty?: string; crv?: string; x?: string; y?: string }): EncryptionJwk {
  if (jwk.kty === 'EC' && jwk.crv === 'P-256' && jwk.x !== undefined && jwk.y !== undefined) return ecJwk(jwk);
  if (jwk.kty === 'OKP' && jwk.crv === 'X25519' && jwk.x !== undefined) return { crv: 'X25519', kty: 'OKP', x: jwk.x };
  throw new TypeError('neither a P-256 nor an X25519 public key');
}
/** The same for signing keys, which are P-256 only. */
export function ecJwk(jwk: { crv?: string; x?: string; y?: string }): EcJwk {
  if (jwk.crv !== 'P-256' || jwk.x === undefined || jwk.y === undefined) throw new TypeError('not a P-256 public key');
  return { crv: 'P-256', kty: 'EC', x: jwk.x, y: jwk.y };
}
