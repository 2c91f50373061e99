import { hasFunction } from './decision.ts';
import type { ContractHost, EcJwk } from './host.ts';
import { writeAnchor } from './institutions.ts';
import { canonicalize, parseCanonical } from './jcs.ts';
import { checkSignature, keyHandedOver, readStatement } from './jws.ts';
import * as keys from './keys.ts';
import { must } from './refusals.ts';
import { ARGUMENTS } from './shapes.ts';
import { type EmergencyState, type MemberState, read, readCaller, readInstitution, readLedger, readPatient } from './state.ts';

const EMERGENCY_MS = 4 * 60 * 60 * 1000;

/** args: JWS by the member (with public key) or by the member's institution. Served before it arrives here; this is the account of it. */
export async function recordEmergencyAccess(host: ContractHost, args: readonly string[]): Promise<object> {
  const { ledger } = await readLedger(host);
  await readCaller(host);
  const [jws, key] = args;
  must(jws !== undefined && args.length <= 2, 'ARGUMENTS_WRONG');
  const statement = await readStatement(host, 'recordEmergencyAccess', jws, ledger);
  const p = statement.payload;
  await readPatient(host, p.institution, p.patient);
  const member = await read<MemberState>(host, keys.memberKeyOf(p.member));
  must(member !== undefined, 'MEMBER_UNKNOWN');
  must(hasFunction(member.role, 'emergency'), 'ROLE_FUNCTION');
  must(member.status === 'active' && member.validUntil > p.from, 'MEMBER_INACTIVE');
  let signer: EcJwk;
  if (member.signing === statement.kid) signer = await keyHandedOver(host, key, member.signing);
  else signer = (await readInstitution(host, p.member.split(':')[1] ?? '')).signing;
  await checkSignature(host, statement, signer);
  const length = Date.parse(p.until) - Date.parse(p.from);
  must(length > 0 && length <= EMERGENCY_MS, 'EMERGENCY_PERIOD');
  const value: EmergencyState = { from: p.from, member: p.member, until: p.until };
  const at = `${keys.emergencies(p.institution, p.patient)}${p.id}`;
  const existing = await host.get(at);
  if (existing !== undefined) must(existing === canonicalize(value), 'EMERGENCY_EXISTS');
  else await host.put(at, canonicalize(value));
  return { id: p.id };
}

/** args: JCS {number, root}: the salted Merkle root of the access events since the last one. */
export async function anchorAudit(host: ContractHost, args: readonly string[]): Promise<object> {
  await readLedger(host);
  await readCaller(host);
  const [argument] = args;
  must(args.length === 1 && argument !== undefined, 'ARGUMENTS_WRONG');
  return writeAnchor(host, ARGUMENTS.anchorAudit.check(parseCanonical(argument), ''));
}
