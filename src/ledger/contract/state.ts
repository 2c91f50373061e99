import type { ContractHost, EcJwk, EncryptionJwk, ReadHost } from './host.ts';
import { canonicalize } from './jcs.ts';
import * as keys from './keys.ts';
import { must } from './refusals.ts';
import type { Clause, Envelope, Role } from './shapes.ts';

/** The values under the state keys, each as JCS text. Only the contract writes them, so a reader need not check their form. */
export interface LedgerState {
  ledger: string;
  rules: number;
}
export interface InstitutionState {
  encryption: EncryptionJwk;
  msp: string;
  signing: EcJwk;
  status: 'active';
  version: number;
}
export interface MemberState {
  /** Thumbprints (RFC 7638); null where the member has no such key. */
  encryption: string | null;
  role: Role;
  signing: string | null;
  status: 'active' | 'suspended';
  validUntil: string;
  version: number;
}
export interface Delegate {
  categories: readonly string[] | null;
  key: string;
  until: string;
}
export interface PatientState {
  custody: boolean;
  delegates: readonly Delegate[];
  encryption: EncryptionJwk | null;
  /** SHA-256 of the enrolment's payload: the same enrolment again is no error. */
  enrolment: string;
  privateInfo: string | null;
  recovery: string | null;
  signing: EcJwk | null;
  status: 'active' | 'erased';
  version: number;
}
export interface CategoryKeyState {
  envelopes: readonly Envelope[];
  key: EncryptionJwk;
}
export interface PermissionState {
  clauses: readonly Clause[];
  /** max(transaction time, previous + 1 ms): informs, the sequence orders. */
  at: string;
  envelope: Envelope | null;
  evidence: string | null;
  onBehalf: string | null;
  /** The permission that a shared one stands on; null where the patient granted. */
  parentGrantee: string | null;
  parentGrantor: string | null;
  /** SHA-256 of the payload that wrote this version. */
  statement: string;
  status: 'active' | 'revoked';
}
export interface EntryState {
  category: string;
  ciphertextHash: string;
  clinician: string | null;
  commitment: string;
  keyVersion: number;
  pointer: string;
}
export interface EmergencyState {
  from: string;
  member: string;
  until: string;
}
export interface AnchorState {
  number: number;
  root: string;
  time: string;
}

export async function read<T>(host: ReadHost, key: string): Promise<T | undefined> {
  const value = await host.get(key);
  return value === undefined ? undefined : (JSON.parse(value) as T);
}
export async function write(host: ContractHost, key: string, value: object): Promise<void> {
  await host.put(key, canonicalize(value));
}

export async function readLedger(host: ReadHost): Promise<LedgerState> {
  const ledger = await read<LedgerState>(host, keys.LEDGER);
  must(ledger !== undefined, 'LEDGER_MISSING');
  return ledger;
}

/** The submitting institution, which must be active under the MSP that it registered. */
export async function readCaller(host: ContractHost): Promise<InstitutionState> {
  const caller = await read<InstitutionState>(host, keys.institutionKey(host.caller.institution));
  must(caller !== undefined && caller.status === 'active' && caller.msp === host.caller.msp, 'CALLER_UNKNOWN');
  return caller;
}

export async function readInstitution(host: ReadHost, institution: string): Promise<InstitutionState> {
  const found = await read<InstitutionState>(host, keys.institutionKey(institution));
  must(found !== undefined, 'INSTITUTION_UNKNOWN');
  return found;
}

export async function readPatient(host: ReadHost, institution: string, patient: string): Promise<PatientState> {
  const found = await read<PatientState>(host, keys.coreKey(institution, patient));
  must(found !== undefined, 'PATIENT_UNKNOWN');
  must(found.status === 'active', 'PATIENT_ERASED');
  return found;
}

export interface PermissionHead {
  sequence: number;
  version: PermissionState;
}
export async function readPermission(
  host: ReadHost,
  institution: string,
  patient: string,
  triple: keys.Triple,
): Promise<PermissionHead | undefined> {
  const head = await read<{ sequence: number }>(host, keys.permissionHeadKey(institution, patient, triple));
  if (head === undefined) return undefined;
  const version = await read<PermissionState>(host, keys.permissionVersionKey(institution, patient, triple, head.sequence));
  return version === undefined ? undefined : { sequence: head.sequence, version };
}

/** max(transaction time, previous + 1 ms) (architecture section 6). */
export function timeAfter(transactionTime: string, previous: string | undefined): string {
  if (previous === undefined || previous < transactionTime) return transactionTime;
  return new Date(Date.parse(previous) + 1).toISOString();
}
