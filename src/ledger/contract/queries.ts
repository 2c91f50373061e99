import { decide, type Question } from './decision.ts';
import { clauseFacts, createDecisionState, type HeldState } from './decision-state.ts';
import type { ReadHost } from './host.ts';
import { parseCanonical } from './jcs.ts';
import * as keys from './keys.ts';
import { must } from './refusals.ts';
import { type Infer, instant } from './schema.ts';
import { question } from './shapes.ts';
import {
  type EmergencyState,
  type EntryState,
  type InstitutionState,
  type MemberState,
  type PatientState,
  type PermissionState,
  read,
} from './state.ts';

interface Version {
  triple: keys.Triple;
  sequence: number;
  value: PermissionState;
}

/** All versions of all permissions of a patient, in key order, and the heads' sequences. */
async function permissionVersions(host: ReadHost, institution: string, patient: string): Promise<Version[]> {
  const prefix = keys.permissions(institution, patient);
  const versions: Version[] = [];
  for (const { key, value } of await host.scan(prefix)) {
    const [grantor = '', grantee = '', category = '', kind, number] = key.slice(prefix.length).split('/');
    if (kind !== 'v') continue;
    versions.push({ triple: { grantor, grantee, category }, sequence: Number(number), value: JSON.parse(value) as PermissionState });
  }
  return versions;
}

/** The newest version of each triple, or the newest written by this moment. */
function heads(versions: readonly Version[], by?: string): Version[] {
  const newest = new Map<string, Version>();
  for (const version of versions) {
    if (by !== undefined && version.value.at > by) continue;
    newest.set(`${version.triple.grantor}/${version.triple.grantee}/${version.triple.category}`, version);
  }
  return [...newest.values()];
}

async function decisionState(host: ReadHost, q: Infer<typeof question>, by?: string): Promise<HeldState> {
  const state = createDecisionState();
  const institution = await read<InstitutionState>(host, keys.institutionKey(q.actorInstitution));
  if (institution !== undefined) state.setInstitution(q.actorInstitution, institution.status);
  if (q.actorKind === 'member' && q.actorId !== null) {
    const member = await read<MemberState>(host, keys.memberKey(q.actorInstitution, q.actorId));
    if (member !== undefined) {
      state.setMember(q.actorInstitution, q.actorId, {
        role: member.role,
        status: member.status,
        validUntil: Date.parse(member.validUntil),
      });
    }
  }
  const patient = await read<PatientState>(host, keys.coreKey(q.institution, q.patient));
  if (patient === undefined) return state;
  state.setPatient(q.institution, q.patient, patient.status);
  for (const { triple, sequence, value } of heads(await permissionVersions(host, q.institution, q.patient), by)) {
    const parent =
      value.parentGrantor === null || value.parentGrantee === null ? null : { grantor: value.parentGrantor, grantee: value.parentGrantee };
    state.setHead(q.institution, q.patient, { ...triple, sequence, parent, clauses: value.clauses.map(clauseFacts) });
  }
  for (const { value } of await host.scan(keys.emergencies(q.institution, q.patient))) {
    const e = JSON.parse(value) as EmergencyState;
    state.addEmergency(q.institution, q.patient, { member: e.member, from: Date.parse(e.from), until: Date.parse(e.until) });
  }
  return state;
}

/** The pure function's question of a query's argument. */
export function questionOf(q: Infer<typeof question>): Question {
  const id = q.actorId ?? '';
  return {
    actor:
      q.actorKind === 'member'
        ? { kind: 'member', institution: q.actorInstitution, member: id }
        : q.actorKind === 'patient'
          ? { kind: 'patient', institution: q.actorInstitution, patient: id }
          : { kind: 'organization', institution: q.actorInstitution },
    patient: { institution: q.institution, patient: q.patient },
    category: q.category,
    right: q.right,
    purpose: q.purpose,
    at: Date.parse(q.at),
    emergency: q.emergency !== null,
  };
}

/** args: JCS of the question. */
async function decideQuery(host: ReadHost, args: readonly string[]): Promise<unknown> {
  must(args.length === 1, 'ARGUMENTS_WRONG');
  const q = question.check(parseCanonical(args[0] ?? ''), '');
  return decide(await decisionState(host, q), questionOf(q));
}

/**
 * args: JCS of the question, an instant. The permissions as they stood at that instant; members and patients as they stand in
 * the host's state, so a host that keeps history (the projection) is asked at the block of that instant.
 */
async function decisionAt(host: ReadHost, args: readonly string[]): Promise<unknown> {
  must(args.length === 2, 'ARGUMENTS_WRONG');
  const q = question.check(parseCanonical(args[0] ?? ''), '');
  return decide(await decisionState(host, q, instant().check(args[1] ?? '', 'at')), questionOf(q));
}

/** args: institution, patient. The heads, each with its whole list of clauses. */
async function permissionsOf(host: ReadHost, args: readonly string[]): Promise<unknown> {
  const [institution = '', patient = ''] = args;
  must(args.length === 2, 'ARGUMENTS_WRONG');
  const versions = await permissionVersions(host, institution, patient);
  return heads(versions).map(({ triple, sequence, value }) => ({ ...triple, sequence, ...value }));
}

/** args: institution, patient, then grantor, grantee, category of one triple, or nothing more for all of the patient's. */
async function permissionHistory(host: ReadHost, args: readonly string[]): Promise<unknown> {
  const [institution = '', patient = '', grantor, grantee, category] = args;
  must(args.length === 2 || args.length === 5, 'ARGUMENTS_WRONG');
  const versions = await permissionVersions(host, institution, patient);
  return versions
    .filter(({ triple: t }) => grantor === undefined || (t.grantor === grantor && t.grantee === grantee && t.category === category))
    .map(({ triple, sequence, value }) => ({ ...triple, sequence, ...value }));
}

/** args: institution, patient. Every entry; where two hashes stand at one (version, n) both are returned. */
async function documentsOf(host: ReadHost, args: readonly string[]): Promise<unknown> {
  const [institution = '', patient = ''] = args;
  must(args.length === 2, 'ARGUMENTS_WRONG');
  const withdrawals = `wd/${institution}/${patient}/`;
  const withdrawn = new Set((await host.scan(withdrawals)).map(({ key }) => key.slice(withdrawals.length)));
  const prefix = `ent/${institution}/${patient}/`;
  return (await host.scan(prefix)).map(({ key, value }) => {
    const [recorder = '', document = '', version, n, entryHash = ''] = key.slice(prefix.length).split('/');
    const state = JSON.parse(value) as EntryState;
    const place = { recorder, document, version: Number(version), n: Number(n), entryHash };
    return { ...place, ...state, withdrawn: withdrawn.has(`${recorder}/${document}`) };
  });
}

/** args: institution, member. null where unknown. */
async function member(host: ReadHost, args: readonly string[]): Promise<unknown> {
  const [institution = '', id = ''] = args;
  must(args.length === 2, 'ARGUMENTS_WRONG');
  return (await read<MemberState>(host, keys.memberKey(institution, id))) ?? null;
}

export const QUERIES: Readonly<Record<string, (host: ReadHost, args: readonly string[]) => Promise<unknown>>> = {
  decide: decideQuery,
  decisionAt,
  permissionsOf,
  permissionHistory,
  documentsOf,
  member,
};
