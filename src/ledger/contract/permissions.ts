import type { ContractHost } from './host.ts';
import { canonicalize } from './jcs.ts';
import { checkSignature, keyHandedOver, readStatement, type Statement, thumbprint } from './jws.ts';
import * as keys from './keys.ts';
import { checkHolder, delegateKey } from './patients.ts';
import { must, Refusal } from './refusals.ts';
import { type Clause, type Envelope, ROLES, type SignedTransaction } from './shapes.ts';
import {
  type AnchorState,
  type MemberState,
  type PatientState,
  type PermissionState,
  read,
  readCaller,
  readInstitution,
  readLedger,
  readPatient,
  readPermission,
  timeAfter,
  write,
} from './state.ts';

const ANCHOR_REACH_MS = 10 * 60 * 1000;
const MAX_DEPTH = 3;

/** args: JWS by the patient, a delegate (with public key) or in custody the institution. All triples of one FHIR Consent. */
export async function grantPermission(host: ContractHost, args: readonly string[]): Promise<object> {
  const { ledger } = await readLedger(host);
  await readCaller(host);
  const [jws, key] = args;
  must(jws !== undefined && args.length <= 2, 'ARGUMENTS_WRONG');
  const statement = await readStatement(host, 'grantPermission', jws, ledger);
  const p = statement.payload;
  const patient = await readPatient(host, p.institution, p.patient);
  const categories = p.permissions.map((one) => one.category);
  await checkGrantor(host, statement, patient, p.institution, p.onBehalf, categories, key);
  await checkTime(host, p.notAfter);
  once(p.permissions);
  for (const one of p.permissions) {
    checkClauses(one.clauses);
    await checkGrantee(host, one, patient.custody, p.institution);
    const triple = { grantor: p.grantor, grantee: one.grantee, category: one.category };
    await writeVersion(host, p, triple, one.sequence, {
      clauses: one.clauses,
      envelope: one.envelope,
      evidence: p.evidence,
      onBehalf: p.onBehalf,
      parentGrantee: null,
      parentGrantor: null,
      statement: statement.identity,
    });
  }
  return { permissions: p.permissions.map(({ grantee, category, sequence }) => ({ category, grantee, sequence })) };
}

/**
 * args: JWS by the grantor, the patient or the grantee's own institution; the public key of a member, delegate or recovery key
 * that signed. Applies to whatever head it finds, none included; the same revoke again has no effect.
 */
export async function revokePermission(host: ContractHost, args: readonly string[]): Promise<object> {
  const { ledger } = await readLedger(host);
  await readCaller(host);
  const [jws, key] = args;
  must(jws !== undefined && args.length <= 2, 'ARGUMENTS_WRONG');
  const statement = await readStatement(host, 'revokePermission', jws, ledger);
  const p = statement.payload;
  const patient = await readPatient(host, p.institution, p.patient);
  const renounce = await checkRevoker(host, statement, patient, key);
  once(p.permissions);
  const used = keys.usedKey(p.institution, p.patient, statement.identity);
  if ((await host.get(used)) !== undefined) return { permissions: [] };
  const revoked: object[] = [];
  for (const one of p.permissions) {
    const triple = { grantor: p.grantor, grantee: one.grantee, category: one.category };
    const head = await readPermission(host, p.institution, p.patient, triple);
    const before = head?.version.clauses ?? [];
    // A renouncing grantee only narrows: what denies stays.
    const clauses = before.filter(
      (clause) => (renounce && clause.effect === 'deny') || (p.consent !== null && clause.consent !== p.consent),
    );
    const sequence = (head?.sequence ?? 0) + 1;
    const value: PermissionState = {
      at: timeAfter(host.transactionTime, head?.version.at),
      clauses,
      envelope: null,
      evidence: null,
      onBehalf: p.onBehalf,
      parentGrantee: head?.version.parentGrantee ?? null,
      parentGrantor: head?.version.parentGrantor ?? null,
      statement: statement.identity,
      status: clauses.length === 0 ? 'revoked' : 'active',
    };
    await write(host, keys.permissionVersionKey(p.institution, p.patient, triple, sequence), value);
    await write(host, keys.permissionHeadKey(p.institution, p.patient, triple), { sequence });
    revoked.push({ category: one.category, grantee: one.grantee, sequence });
  }
  await host.put(used, canonicalize({ at: host.transactionTime }));
  return { permissions: revoked };
}

/** args: JWS by the member who shares on, that member's public key. Never wider than the permission that it stands on. */
export async function sharePermission(host: ContractHost, args: readonly string[]): Promise<object> {
  const { ledger } = await readLedger(host);
  await readCaller(host);
  const [jws, key] = args;
  must(jws !== undefined && args.length === 2, 'ARGUMENTS_WRONG');
  const statement = await readStatement(host, 'sharePermission', jws, ledger);
  const p = statement.payload;
  const patient = await readPatient(host, p.institution, p.patient);
  const sharer = await activeMember(host, p.grantor);
  must(sharer.signing !== null && sharer.signing === statement.kid, 'NOT_GRANTOR');
  await checkSignature(host, statement, await keyHandedOver(host, key, sharer.signing));
  await checkTime(host, p.notAfter);
  once(p.permissions);
  for (const one of p.permissions) {
    checkClauses(one.clauses);
    await checkGrantee(host, one, patient.custody, p.institution);
    must(covers(one.parentGrantee, p.grantor, sharer), 'SHARE_WIDER', 'parentGrantee');
    const parent = { grantor: one.parentGrantor, grantee: one.parentGrantee, category: one.category };
    await checkNarrower(host, p, parent, one.clauses);
    const triple = { grantor: p.grantor, grantee: one.grantee, category: one.category };
    await writeVersion(host, p, triple, one.sequence, {
      clauses: one.clauses,
      envelope: one.envelope,
      evidence: null,
      onBehalf: null,
      parentGrantee: one.parentGrantee,
      parentGrantor: one.parentGrantor,
      statement: statement.identity,
    });
  }
  return { permissions: p.permissions.map(({ grantee, category, sequence }) => ({ category, grantee, sequence })) };
}

async function writeVersion(
  host: ContractHost,
  of: { institution: string; patient: string },
  triple: keys.Triple,
  sequence: number,
  version: Omit<PermissionState, 'at' | 'status'>,
): Promise<void> {
  const head = await readPermission(host, of.institution, of.patient, triple);
  must(sequence === (head?.sequence ?? 0) + 1, 'SEQUENCE_STALE');
  // An empty list is a grant of nothing: it ends what stood, as a revoke does.
  const status = version.clauses.length === 0 ? 'revoked' : 'active';
  const value: PermissionState = { ...version, at: timeAfter(host.transactionTime, head?.version.at), status };
  await write(host, keys.permissionVersionKey(of.institution, of.patient, triple, sequence), value);
  await write(host, keys.permissionHeadKey(of.institution, of.patient, triple), { sequence });
}

/** The patient's key, a delegate's within its scope, or in custody the institution's for a named actor. */
async function checkGrantor(
  host: ContractHost,
  statement: Statement<SignedTransaction>,
  patient: PatientState,
  institution: string,
  onBehalf: string | null,
  categories: readonly string[],
  key: string | undefined,
): Promise<void> {
  const byDelegate = await delegateKey(host, patient, statement.kid, categories, key);
  if (byDelegate !== undefined) return checkSignature(host, statement, byDelegate);
  return checkHolder(host, statement, patient, institution, onBehalf, key);
}

/** True where the grantee's own institution renounces. */
async function checkRevoker(
  host: ContractHost,
  statement: Statement<'revokePermission'>,
  patient: PatientState,
  key: string | undefined,
): Promise<boolean> {
  const p = statement.payload;
  if (p.grantor !== 'patient') {
    const sharer = await read<MemberState>(host, keys.memberKeyOf(p.grantor));
    if (sharer?.signing === statement.kid) {
      await checkSignature(host, statement, await keyHandedOver(host, key, statement.kid));
      return false;
    }
  }
  const institutions = new Set(p.permissions.map(({ grantee }) => institutionOf(grantee)));
  const [grantees, ...others] = institutions;
  if (grantees !== undefined && others.length === 0 && (!patient.custody || grantees !== p.institution)) {
    const found = await readInstitution(host, grantees);
    if ((await thumbprint(host, found.signing)) === statement.kid) {
      await checkSignature(host, statement, found.signing);
      return true;
    }
  }
  const categories = p.permissions.map((one) => one.category);
  await checkGrantor(host, statement, patient, p.institution, p.onBehalf, categories, key);
  return false;
}

/** `notAfter` against the later of transaction time and the median anchor; the anchors are read so that a grant kept back dies. */
async function checkTime(host: ContractHost, notAfter: string): Promise<void> {
  const times = (await host.scan(keys.ANCHORS)).map(({ value }) => (JSON.parse(value) as AnchorState).time).sort();
  // The lower middle of an even number: half of the institutions cannot move time forward.
  const median = times[Math.floor((times.length - 1) / 2)];
  const newest = times.at(-1);
  must(median !== undefined && newest !== undefined, 'GRANT_BEYOND_ANCHOR');
  must(Date.parse(host.transactionTime) - Date.parse(newest) <= ANCHOR_REACH_MS, 'GRANT_BEYOND_ANCHOR');
  const now = median > host.transactionTime ? median : host.transactionTime;
  must(now <= notAfter, 'GRANT_EXPIRED');
}

function once(permissions: readonly { grantee: string; category: string }[]): void {
  const seen = new Set(permissions.map(({ grantee, category }) => `${grantee}/${category}`));
  must(seen.size === permissions.length, 'TRIPLE_REPEATED');
}

function checkClauses(clauses: readonly Clause[]): void {
  for (const clause of clauses) {
    must(clause.periodStart === null || clause.periodEnd === null || clause.periodStart <= clause.periodEnd, 'CLAUSE_EMPTY', 'period');
    must(clause.dataStart === null || clause.dataEnd === null || clause.dataStart <= clause.dataEnd, 'CLAUSE_EMPTY', 'data');
    must(new Set(clause.rights).size === clause.rights.length, 'SCHEMA', 'rights');
    must(!clause.emergency || clause.effect === 'deny', 'SCHEMA', 'emergency');
  }
}

function institutionOf(grantee: string): string | undefined {
  const [kind, institution] = grantee.split(':');
  return kind === 'role' ? undefined : institution;
}

/** The grantee exists, and where it has to open something, the envelope is to a key of its own (protocol section 6). */
async function checkGrantee(
  host: ContractHost,
  permission: { grantee: string; clauses: readonly Clause[]; envelope: Envelope | null },
  custody: boolean,
  patientInstitution: string,
): Promise<void> {
  const [kind, institution = '', member] = permission.grantee.split(':');
  if (kind === 'role') {
    must(
      ROLES.some((role) => role === institution),
      'GRANTEE_UNKNOWN',
    );
    must(permission.envelope === null, 'ENVELOPE_RECIPIENT');
    return;
  }
  const of = await host.get(keys.institutionKey(institution));
  must(of !== undefined, 'GRANTEE_UNKNOWN');
  const encryption = (JSON.parse(of) as { encryption: Parameters<typeof thumbprint>[1] }).encryption;
  const recipients = [await thumbprint(host, encryption)];
  if (member !== undefined) {
    const found = await read<MemberState>(host, keys.memberKey(institution, member));
    must(found !== undefined, 'GRANTEE_UNKNOWN');
    if (found.encryption !== null) recipients.push(found.encryption);
  }
  const reads = permission.clauses.some((clause) => clause.effect === 'permit' && clause.rights.includes('read'));
  const keptThere = custody && institution === patientInstitution;
  must(permission.envelope !== null || !reads || keptThere, 'ENVELOPE_MISSING');
  must(permission.envelope === null || recipients.includes(permission.envelope.recipient), 'ENVELOPE_RECIPIENT');
}

async function activeMember(host: ContractHost, name: string): Promise<MemberState> {
  const member = await read<MemberState>(host, keys.memberKeyOf(name));
  if (member === undefined) throw new Refusal('MEMBER_UNKNOWN');
  must(member.status === 'active' && member.validUntil > host.transactionTime, 'MEMBER_INACTIVE');
  return member;
}

/** Whether what was granted to `grantee` was granted to this member. */
function covers(grantee: string, member: string, state: { role: string }): boolean {
  const [, institution = ''] = member.split(':');
  return grantee === member || grantee === `organization:${institution}` || grantee === `role:${state.role}`;
}

/** Each shared clause lies within a live permit of the parent that allows sharing, all the way up. */
async function checkNarrower(
  host: ContractHost,
  of: { institution: string; patient: string },
  parent: keys.Triple,
  clauses: readonly Clause[],
): Promise<void> {
  let triple: keys.Triple | undefined = parent;
  for (let depth = 2; triple !== undefined; depth++) {
    must(depth <= MAX_DEPTH, 'SHARE_DEPTH');
    const head = await readPermission(host, of.institution, of.patient, triple);
    must(head !== undefined && head.version.status === 'active', 'SHARE_WIDER');
    for (const clause of clauses) {
      must(clause.effect === 'permit', 'SHARE_WIDER', 'effect');
      must(
        head.version.clauses.some((wide) => within(clause, wide)),
        'SHARE_WIDER',
        'clauses',
      );
    }
    const { parentGrantor, parentGrantee } = head.version;
    triple = parentGrantor === null || parentGrantee === null ? undefined : { ...parent, grantor: parentGrantor, grantee: parentGrantee };
  }
}

function within(narrow: Clause, wide: Clause): boolean {
  return (
    wide.effect === 'permit' &&
    wide.rights.includes('share') &&
    narrow.rights.every((right) => wide.rights.includes(right)) &&
    (wide.purposes === null || (narrow.purposes?.every((purpose) => wide.purposes?.includes(purpose)) ?? false)) &&
    inside(narrow.periodStart, narrow.periodEnd, wide.periodStart, wide.periodEnd) &&
    inside(narrow.dataStart, narrow.dataEnd, wide.dataStart, wide.dataEnd)
  );
}

function inside(start: string | null, end: string | null, wideStart: string | null, wideEnd: string | null): boolean {
  return (wideStart === null || (start !== null && start >= wideStart)) && (wideEnd === null || (end !== null && end <= wideEnd));
}
