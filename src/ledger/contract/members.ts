import type { ContractHost, EcJwk } from './host.ts';
import { canonicalize, parseCanonical } from './jcs.ts';
import { checkPublicKey, checkSignature, keyHandedOver, readStatement, thumbprint } from './jws.ts';
import * as keys from './keys.ts';
import { must } from './refusals.ts';
import { ARGUMENTS } from './shapes.ts';
import { type MemberState, read, readCaller, readInstitution, readLedger, write } from './state.ts';

/** args: JCS {member, proof, role, validUntil}. The submitting institution registers its own members. */
export async function registerMember(host: ContractHost, args: readonly string[]): Promise<object> {
  const { ledger } = await readLedger(host);
  await readCaller(host);
  const [argument] = args;
  must(args.length === 1 && argument !== undefined, 'ARGUMENTS_WRONG');
  const a = ARGUMENTS.registerMember.check(parseCanonical(argument), '');
  must(a.validUntil > host.transactionTime, 'VALIDITY_PAST');
  const institution = host.caller.institution;
  let signing: string | null = null;
  let encryption: string | null = null;
  if (a.proof !== null) {
    // Who registers a signing key proves possession; the encryption key is vouched for by that signature.
    const proof = await readStatement(host, 'registerMember', a.proof, ledger);
    must(proof.payload.institution === institution && proof.payload.member === a.member, 'SCHEMA', 'proof');
    checkPublicKey(proof.payload.signing, 'proof.signing');
    await checkSignature(host, proof, proof.payload.signing);
    signing = proof.kid;
    if (proof.payload.encryption !== null) {
      checkPublicKey(proof.payload.encryption, 'proof.encryption');
      encryption = await thumbprint(host, proof.payload.encryption);
    }
  }
  const value: MemberState = { encryption, role: a.role, signing, status: 'active', validUntil: a.validUntil, version: 1 };
  const key = keys.memberKey(institution, a.member);
  const existing = await host.get(key);
  if (existing !== undefined) {
    must(existing === canonicalize(value), 'MEMBER_EXISTS');
    return { version: 1 };
  }
  await write(host, key, value);
  return { version: 1 };
}

async function readMember(host: ContractHost, institution: string, member: string): Promise<MemberState> {
  const found = await read<MemberState>(host, keys.memberKey(institution, member));
  must(found !== undefined, 'MEMBER_UNKNOWN');
  return found;
}

/**
 * args: JWS by the new key, the same payload by the member's current key (with that public key as third argument) or, where
 * it is lost, by the member's own institution.
 */
export async function rotateMemberKey(host: ContractHost, args: readonly string[]): Promise<object> {
  const { ledger } = await readLedger(host);
  await readCaller(host);
  const [newJws, oldJws, oldKey] = args;
  must(newJws !== undefined && oldJws !== undefined && args.length <= 3, 'ARGUMENTS_WRONG');
  const proof = await readStatement(host, 'rotateMemberKey', newJws, ledger);
  const authority = await readStatement(host, 'rotateMemberKey', oldJws, ledger);
  must(proof.payloadText === authority.payloadText, 'JWS_PAYLOADS_DIFFER');
  const p = proof.payload;
  checkPublicKey(p.signing, 'signing');
  await checkSignature(host, proof, p.signing);
  const member = await readMember(host, p.institution, p.member);
  must(p.version === member.version + 1, 'VERSION_STALE');
  let signer: EcJwk;
  if (authority.kid === member.signing) signer = await keyHandedOver(host, oldKey, member.signing);
  else signer = (await readInstitution(host, p.institution)).signing;
  await checkSignature(host, authority, signer);
  let encryption: string | null = null;
  if (p.encryption !== null) {
    checkPublicKey(p.encryption, 'encryption');
    encryption = await thumbprint(host, p.encryption);
  }
  await write(host, keys.memberKey(p.institution, p.member), { ...member, encryption, signing: proof.kid, version: p.version });
  return { version: p.version };
}

/** args: JWS by the member's institution. Renewing a suspended member makes them active again. */
export async function renewMember(host: ContractHost, args: readonly string[]): Promise<object> {
  const { ledger } = await readLedger(host);
  await readCaller(host);
  const [jws] = args;
  must(args.length === 1 && jws !== undefined, 'ARGUMENTS_WRONG');
  const statement = await readStatement(host, 'renewMember', jws, ledger);
  const p = statement.payload;
  const member = await readMember(host, p.institution, p.member);
  await checkSignature(host, statement, (await readInstitution(host, p.institution)).signing);
  must(p.version === member.version + 1, 'VERSION_STALE');
  must(p.validUntil > host.transactionTime, 'VALIDITY_PAST');
  const value: MemberState = { ...member, status: 'active', validUntil: p.validUntil, version: p.version };
  await write(host, keys.memberKey(p.institution, p.member), value);
  return { version: p.version };
}

/** args: JWS by the member's institution. */
export async function suspendMember(host: ContractHost, args: readonly string[]): Promise<object> {
  const { ledger } = await readLedger(host);
  await readCaller(host);
  const [jws] = args;
  must(args.length === 1 && jws !== undefined, 'ARGUMENTS_WRONG');
  const statement = await readStatement(host, 'suspendMember', jws, ledger);
  const p = statement.payload;
  const member = await readMember(host, p.institution, p.member);
  await checkSignature(host, statement, (await readInstitution(host, p.institution)).signing);
  must(p.version === member.version + 1, 'VERSION_STALE');
  const value: MemberState = { ...member, status: 'suspended', version: p.version };
  await write(host, keys.memberKey(p.institution, p.member), value);
  return { version: p.version };
}
