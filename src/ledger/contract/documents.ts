import { hex, utf8 } from './bytes.ts';
import type { ContractHost } from './host.ts';
import { canonicalize, type Json, parseCanonical } from './jcs.ts';
import * as keys from './keys.ts';
import { must, Refusal, type RefusalCode } from './refusals.ts';
import { ARGUMENTS, type Entry, entry, MAX_ARGUMENT_BYTES, type Reseal, reseal } from './shapes.ts';
import { type EntryState, type PatientState, type PermissionState, read, readCaller, readLedger, write } from './state.ts';

/** One entry's place in the batch and why it was refused; the others stand. */
export interface RefusedEntry {
  index: number;
  code: RefusalCode;
}

/** One JCS argument of at most 64 KiB; the items are checked one by one by the caller. */
async function batch(host: ContractHost, args: readonly string[]): Promise<readonly Json[]> {
  await readLedger(host);
  await readCaller(host);
  const [argument] = args;
  must(args.length === 1 && argument !== undefined, 'ARGUMENTS_WRONG');
  must(argument.length <= MAX_ARGUMENT_BYTES && utf8(argument).length <= MAX_ARGUMENT_BYTES, 'ARGUMENT_TOO_LARGE');
  const value = parseCanonical(argument);
  must(value !== null && typeof value === 'object' && !Array.isArray(value), 'SCHEMA');
  const members = value as { readonly [member: string]: Json };
  const items = members['entries'];
  must(Object.keys(members).join() === 'entries' && Array.isArray(items) && items.length > 0, 'SCHEMA', 'entries');
  return items as readonly Json[];
}

/** Reads each key once in the transaction, whatever number of entries asks for it. */
function reader(host: ContractHost): <T>(key: string) => Promise<T | undefined> {
  const seen = new Map<string, Promise<unknown>>();
  return <T>(key: string) => {
    const before = seen.get(key) ?? read<T>(host, key);
    seen.set(key, before);
    return before as Promise<T | undefined>;
  };
}

async function each(items: readonly Json[], record: (item: Json) => Promise<void>): Promise<object> {
  const refused: RefusedEntry[] = [];
  for (const [index, item] of items.entries()) {
    try {
      await record(item);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      refused.push({ index, code: error.code });
    }
  }
  return { recorded: items.length - refused.length, refused };
}

/** args: JCS {entries: [...]}. Blind writes that commute; for each patient `core` and `ck head` are read once. */
export async function recordDocuments(host: ContractHost, args: readonly string[]): Promise<object> {
  const items = await batch(host, args);
  const get = reader(host);
  const recorder = host.caller.institution;
  return each(items, async (item) => {
    const e = entry.check(item, '');
    await checkPatient(get, e);
    const head = await get<{ version: number }>(keys.categoryHeadKey(e.institution, e.patient, e.category));
    must(head !== undefined, 'CATEGORY_UNKNOWN');
    must(head.version === e.keyVersion, 'KEY_VERSION_STALE');
    if (e.institution !== recorder) must(await mayUpload(host, get, e), 'UPLOAD_NOT_PERMITTED');
    await putEntry(host, recorder, e, 0);
  });
}

/** args: JCS {entries: [...]}. The content stays (equal commitment), its encryption changes: `n` rises by one. */
export async function resealDocuments(host: ContractHost, args: readonly string[]): Promise<object> {
  const items = await batch(host, args);
  const get = reader(host);
  const recorder = host.caller.institution;
  const resealed = new Set<string>();
  return each(items, async (item) => {
    const e = reseal.check(item, '');
    // A range that this transaction has written into cannot be read again.
    must(!resealed.has(keys.entries(recorder, e)), 'RESEAL_NUMBER');
    resealed.add(keys.entries(recorder, e));
    await checkPatient(get, e);
    if (e.keyVersion === 0) {
      // Under no category key any more: only what is withdrawn may lose its readers so.
      const withdrawn = await get<object>(keys.withdrawalKey(e.institution, e.patient, recorder, e.document));
      must(withdrawn !== undefined, 'KEY_VERSION_STALE');
    } else {
      const head = await get<{ version: number }>(keys.categoryHeadKey(e.institution, e.patient, e.category));
      must(head !== undefined, 'CATEGORY_UNKNOWN');
      must(head.version === e.keyVersion, 'KEY_VERSION_STALE');
    }
    const prefix = keys.entries(recorder, e);
    const rows = await host.scan(prefix);
    const highest = rows.reduce((most, { key }) => Math.max(most, Number(key.slice(prefix.length).split('/')[0])), -1);
    const previous = rows.find(({ key }) => key === keys.entryKey(recorder, e, e.n - 1, e.previous));
    // The same reseal again finds itself as the highest: success where the bytes are equal, as everywhere.
    const again = rows.find(({ key }) => key.startsWith(`${prefix}${keys.ten(e.n)}/`));
    must(previous !== undefined, 'ENTRY_UNKNOWN');
    const was = JSON.parse(previous.value) as EntryState;
    must(was.commitment === e.commitment && was.category === e.category, 'COMMITMENT_DIFFERS');
    must(highest === e.n - 1 || again?.value === canonicalize(entryState(e)), 'RESEAL_NUMBER');
    await putEntry(host, recorder, e, e.n);
  });
}

/** args: JCS {document, institution, patient}. Only the recorder's own: the key holds who submits. No reason stands on the ledger. */
export async function withdrawDocument(host: ContractHost, args: readonly string[]): Promise<object> {
  await readLedger(host);
  await readCaller(host);
  const [argument] = args;
  must(args.length === 1 && argument !== undefined, 'ARGUMENTS_WRONG');
  const a = ARGUMENTS.withdrawDocument.check(parseCanonical(argument), '');
  const patient = await read<PatientState>(host, keys.coreKey(a.institution, a.patient));
  must(patient !== undefined, 'PATIENT_UNKNOWN');
  await write(host, keys.withdrawalKey(a.institution, a.patient, host.caller.institution, a.document), { withdrawn: true });
  return { document: a.document };
}

async function checkPatient(get: <T>(key: string) => Promise<T | undefined>, e: { institution: string; patient: string }): Promise<void> {
  const patient = await get<PatientState>(keys.coreKey(e.institution, e.patient));
  must(patient !== undefined, 'PATIENT_UNKNOWN');
  must(patient.status === 'active', 'PATIENT_ERASED');
}

/** Point reads of the head that the upload names; what the patient shares on to others carries no upload. */
async function mayUpload(host: ContractHost, get: <T>(key: string) => Promise<T | undefined>, e: Entry): Promise<boolean> {
  if (e.permission === null || e.permission.grantor !== 'patient') return false;
  const [kind, institution] = e.permission.grantee.split(':');
  if (kind === 'role' || institution !== host.caller.institution) return false;
  if (kind === 'member' && e.permission.grantee !== e.clinician) return false;
  const triple = { grantor: e.permission.grantor, grantee: e.permission.grantee, category: e.category };
  const head = await get<{ sequence: number }>(keys.permissionHeadKey(e.institution, e.patient, triple));
  if (head === undefined) return false;
  const version = await get<PermissionState>(keys.permissionVersionKey(e.institution, e.patient, triple, head.sequence));
  const live = version?.clauses.filter(
    (clause) =>
      clause.rights.includes('upload') &&
      (clause.periodStart === null || clause.periodStart <= host.transactionTime) &&
      (clause.periodEnd === null || host.transactionTime <= clause.periodEnd),
  );
  return live !== undefined && live.some((clause) => clause.effect === 'permit') && !live.some((clause) => clause.effect === 'deny');
}

function entryState(e: Entry | Reseal): EntryState {
  return {
    category: e.category,
    ciphertextHash: e.ciphertextHash,
    clinician: e.clinician,
    commitment: e.commitment,
    keyVersion: e.keyVersion,
    pointer: e.pointer,
  };
}

async function putEntry(host: ContractHost, recorder: string, e: Entry | Reseal, n: number): Promise<void> {
  // The object's name is its hash under the recorder's prefix (protocol section 7); a pointer to anything else is not ours.
  must(e.pointer === `${recorder}/${e.ciphertextHash}`, 'SCHEMA', 'pointer');
  const value = canonicalize(entryState(e));
  const entryHash = hex(await host.sha256(utf8(value)));
  await host.put(keys.entryKey(recorder, e, n, entryHash), value);
}
