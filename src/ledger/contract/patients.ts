import type { ContractHost, EcJwk, EncryptionJwk } from './host.ts';
import { canonicalize } from './jcs.ts';
import { checkPublicKey, checkSignature, keyHandedOver, readStatement, type Statement } from './jws.ts';
import * as keys from './keys.ts';
import { must, Refusal } from './refusals.ts';
import type { Envelope, SignedTransaction } from './shapes.ts';
import { type CategoryKeyState, type PatientState, read, readCaller, readInstitution, readLedger, readPatient, write } from './state.ts';

async function one<T extends SignedTransaction>(host: ContractHost, type: T, args: readonly string[], most: number): Promise<Statement<T>> {
  const { ledger } = await readLedger(host);
  await readCaller(host);
  const [jws] = args;
  must(jws !== undefined && args.length <= most, 'ARGUMENTS_WRONG');
  return readStatement(host, type, jws, ledger);
}

/**
 * Checks that whoever holds the patient's keys signed: in custody the patient's institution, for the actor that `onBehalf`
 * names; from the claim on the current key or the recovery key, and no institution (architecture section 5).
 */
export async function checkHolder(
  host: ContractHost,
  statement: Statement<SignedTransaction>,
  patient: PatientState,
  institution: string,
  onBehalf: string | null,
  key: string | undefined,
): Promise<void> {
  if (patient.custody) {
    must(onBehalf !== null, 'ON_BEHALF_MISSING');
    await checkSignature(host, statement, (await readInstitution(host, institution)).signing);
    return;
  }
  if (patient.recovery !== null && statement.kid === patient.recovery) {
    await checkSignature(host, statement, await keyHandedOver(host, key, patient.recovery));
    return;
  }
  must(patient.signing !== null, 'NOT_GRANTOR');
  await checkSignature(host, statement, patient.signing);
}

async function writeCategoryKey(
  host: ContractHost,
  of: { institution: string; patient: string },
  category: string,
  version: number,
  key: EncryptionJwk,
  envelopes: readonly Envelope[],
): Promise<void> {
  const value: CategoryKeyState = { envelopes, key };
  await write(host, keys.categoryVersionKey(of.institution, of.patient, category, version), value);
  await write(host, keys.categoryHeadKey(of.institution, of.patient, category), { version });
}

/** args: JWS by the patient's institution. Starts custody, and publishes a key for every configured category with it. */
export async function enrollPatient(host: ContractHost, args: readonly string[]): Promise<object> {
  const statement = await one(host, 'enrollPatient', args, 1);
  const p = statement.payload;
  await checkSignature(host, statement, (await readInstitution(host, p.institution)).signing);
  const existing = await read<PatientState>(host, keys.coreKey(p.institution, p.patient));
  if (existing !== undefined) {
    must(existing.enrolment === statement.identity, 'PATIENT_EXISTS');
    return { categories: p.keys.length };
  }
  const core: PatientState = {
    custody: true,
    delegates: [],
    encryption: null,
    enrolment: statement.identity,
    privateInfo: null,
    recovery: null,
    signing: null,
    status: 'active',
    version: 1,
  };
  await write(host, keys.coreKey(p.institution, p.patient), core);
  const seen = new Set<string>();
  for (const { category, key } of p.keys) {
    must(!seen.has(category), 'SCHEMA', 'keys');
    seen.add(category);
    checkPublicKey(key, 'keys.key');
    await writeCategoryKey(host, p, category, 1, key, []);
  }
  return { categories: p.keys.length };
}

/** args: JWS by the patient's new key, the same payload by the institution that kept custody. Re-keys every category. */
export async function claimPatient(host: ContractHost, args: readonly string[]): Promise<object> {
  const proof = await one(host, 'claimPatient', args, 2);
  const p = proof.payload;
  const authority = await readStatement(host, 'claimPatient', args[1] ?? '', p.ledger);
  must(proof.payloadText === authority.payloadText, 'JWS_PAYLOADS_DIFFER');
  const patient = await readPatient(host, p.institution, p.patient);
  must(patient.custody, 'PATIENT_CLAIMED');
  must(p.version === patient.version + 1, 'VERSION_STALE');
  checkPublicKey(p.signing, 'signing');
  checkPublicKey(p.encryption, 'encryption');
  await checkSignature(host, proof, p.signing);
  await checkSignature(host, authority, (await readInstitution(host, p.institution)).signing);
  const prefix = keys.categoryKeys(p.institution, p.patient);
  const heads = new Map<string, number>();
  for (const { key, value } of await host.scan(prefix)) {
    const [category = '', rest] = key.slice(prefix.length).split('/');
    if (rest === 'head') heads.set(category, (JSON.parse(value) as { version: number }).version);
  }
  const given = new Set(p.keys.map((one) => one.category));
  must(given.size === p.keys.length, 'SCHEMA', 'keys');
  for (const category of heads.keys()) must(given.has(category), 'CATEGORIES_INCOMPLETE');
  for (const one of p.keys) {
    must(one.version === (heads.get(one.category) ?? 0) + 1, 'VERSION_STALE', 'keys.version');
    checkPublicKey(one.key, 'keys.key');
    await writeCategoryKey(host, p, one.category, one.version, one.key, one.envelopes);
  }
  const core: PatientState = {
    ...patient,
    custody: false,
    encryption: p.encryption,
    recovery: p.recovery,
    signing: p.signing,
    version: p.version,
  };
  await write(host, keys.coreKey(p.institution, p.patient), core);
  return { version: p.version };
}

/** args: JWS by the new key, the same payload by the current or the recovery key, the recovery public key where that signed. */
export async function rotatePatientKey(host: ContractHost, args: readonly string[]): Promise<object> {
  const proof = await one(host, 'rotatePatientKey', args, 3);
  const p = proof.payload;
  const authority = await readStatement(host, 'rotatePatientKey', args[1] ?? '', p.ledger);
  must(proof.payloadText === authority.payloadText, 'JWS_PAYLOADS_DIFFER');
  const patient = await readPatient(host, p.institution, p.patient);
  must(!patient.custody, 'NOT_GRANTOR');
  must(p.version === patient.version + 1, 'VERSION_STALE');
  checkPublicKey(p.signing, 'signing');
  checkPublicKey(p.encryption, 'encryption');
  await checkSignature(host, proof, p.signing);
  await checkHolder(host, authority, patient, p.institution, null, args[2]);
  const core: PatientState = { ...patient, encryption: p.encryption, recovery: p.recovery, signing: p.signing, version: p.version };
  await write(host, keys.coreKey(p.institution, p.patient), core);
  return { version: p.version };
}

/** args: JWS by whoever holds the patient's keys, the recovery public key where that signed. */
export async function publishCategoryKey(host: ContractHost, args: readonly string[]): Promise<object> {
  const statement = await one(host, 'publishCategoryKey', args, 2);
  const p = statement.payload;
  const patient = await readPatient(host, p.institution, p.patient);
  await checkHolder(host, statement, patient, p.institution, p.onBehalf, args[1]);
  checkPublicKey(p.key, 'key');
  const head = await read<{ version: number }>(host, keys.categoryHeadKey(p.institution, p.patient, p.category));
  if (head !== undefined && p.version <= head.version) {
    const value: CategoryKeyState = { envelopes: p.envelopes, key: p.key };
    const existing = await host.get(keys.categoryVersionKey(p.institution, p.patient, p.category, p.version));
    must(existing === canonicalize(value), 'VERSION_STALE');
    return { version: p.version };
  }
  must(p.version === (head?.version ?? 0) + 1, 'VERSION_STALE');
  await writeCategoryKey(host, p, p.category, p.version, p.key, p.envelopes);
  return { version: p.version };
}

/** args: JWS by the patient's current or recovery key. Replaces the whole list of delegates. */
export async function delegate(host: ContractHost, args: readonly string[]): Promise<object> {
  const statement = await one(host, 'delegate', args, 2);
  const p = statement.payload;
  const patient = await readPatient(host, p.institution, p.patient);
  must(!patient.custody, 'NOT_GRANTOR');
  must(p.version === patient.version + 1, 'VERSION_STALE');
  await checkHolder(host, statement, patient, p.institution, null, args[1]);
  const core: PatientState = { ...patient, delegates: p.delegates, version: p.version };
  await write(host, keys.coreKey(p.institution, p.patient), core);
  return { version: p.version };
}

/** args: JWS by whoever holds the patient's keys. A salted commitment, never the information itself. */
export async function setPrivateInfo(host: ContractHost, args: readonly string[]): Promise<object> {
  const statement = await one(host, 'setPrivateInfo', args, 2);
  const p = statement.payload;
  const patient = await readPatient(host, p.institution, p.patient);
  must(p.version === patient.version + 1, 'VERSION_STALE');
  await checkHolder(host, statement, patient, p.institution, p.onBehalf, args[1]);
  const core: PatientState = { ...patient, privateInfo: p.commitment, version: p.version };
  await write(host, keys.coreKey(p.institution, p.patient), core);
  return { version: p.version };
}

/** args: JWS by whoever holds the patient's keys. Once erased, everything else about the patient is refused or denied. */
export async function erasePatient(host: ContractHost, args: readonly string[]): Promise<object> {
  const statement = await one(host, 'erasePatient', args, 2);
  const p = statement.payload;
  const patient = await read<PatientState>(host, keys.coreKey(p.institution, p.patient));
  if (patient === undefined) throw new Refusal('PATIENT_UNKNOWN');
  await checkHolder(host, statement, patient, p.institution, p.onBehalf, args[1]);
  if (patient.status === 'erased') return { status: 'erased' };
  const core: PatientState = { ...patient, status: 'erased', version: patient.version + 1 };
  await write(host, keys.coreKey(p.institution, p.patient), core);
  return { status: 'erased' };
}

/** The key of a delegate that may sign for these categories now; refuses where the scope or the time does not cover it. */
export async function delegateKey(
  host: ContractHost,
  patient: PatientState,
  kid: string,
  categories: readonly string[],
  key: string | undefined,
): Promise<EcJwk | undefined> {
  const found = patient.delegates.find((one) => one.key === kid);
  if (found === undefined) return undefined;
  must(found.until > host.transactionTime, 'DELEGATION_SCOPE');
  must(found.categories === null || categories.every((category) => found.categories?.includes(category)), 'DELEGATION_SCOPE');
  return keyHandedOver(host, key, found.key);
}
