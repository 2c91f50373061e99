import type { ContractHost } from './host.ts';
import { canonicalize } from './jcs.ts';
import { checkPublicKey, checkSignature, readStatement, type Statement, thumbprint } from './jws.ts';
import * as keys from './keys.ts';
import { must } from './refusals.ts';
import type { SignedTransaction } from './shapes.ts';
import { type AnchorState, type InstitutionState, read, readCaller, readLedger, timeAfter, write } from './state.ts';

const NO_ROOT = '0'.repeat(64);

interface Known extends InstitutionState {
  institution: string;
}
async function institutions(host: ContractHost): Promise<Known[]> {
  const rows = await host.scan(keys.INSTITUTIONS);
  return rows.map(({ key, value }) => ({ ...(JSON.parse(value) as InstitutionState), institution: key.slice(keys.INSTITUTIONS.length) }));
}

/** Same payload under every signature: what each signer agreed to. */
async function sameStatements<T extends SignedTransaction>(
  host: ContractHost,
  type: T,
  args: readonly string[],
  ledger: string,
): Promise<readonly [Statement<T>, ...Statement<T>[]]> {
  const [first, ...others] = await Promise.all(args.map((jws) => readStatement(host, type, jws, ledger)));
  must(first !== undefined, 'ARGUMENTS_WRONG');
  for (const other of others) must(other.payloadText === first.payloadText, 'JWS_PAYLOADS_DIFFER');
  return [first, ...others];
}

/** Checks each signature against the key of an active institution; the names of those that signed, each once. */
async function signers(
  host: ContractHost,
  statements: readonly Statement<SignedTransaction>[],
  known: readonly Known[],
): Promise<Set<string>> {
  const byThumbprint = new Map(await Promise.all(known.map(async (one) => [await thumbprint(host, one.signing), one] as const)));
  const names = new Set<string>();
  for (const statement of statements) {
    const signer = byThumbprint.get(statement.kid);
    must(signer !== undefined, 'JWS_KEY');
    await checkSignature(host, statement, signer.signing);
    names.add(signer.institution);
  }
  return names;
}

async function writeInstitution(
  host: ContractHost,
  p: { institution: string } & Omit<InstitutionState, 'status' | 'version'>,
): Promise<void> {
  const value: InstitutionState = { encryption: p.encryption, msp: p.msp, signing: p.signing, status: 'active', version: 1 };
  await write(host, keys.institutionKey(p.institution), value);
  // Joining is the first proof of being there: grants measure time against the anchors of every institution.
  const anchor: AnchorState = { number: 0, root: NO_ROOT, time: host.transactionTime };
  await write(host, keys.anchorKey(p.institution), anchor);
}

/** args: the ledger id, then one JWS a founder by that founder's own signing key. */
export async function init(host: ContractHost, args: readonly string[]): Promise<object> {
  const [ledger, ...founders] = args;
  must(ledger !== undefined && founders.length > 0 && founders.length <= 16, 'ARGUMENTS_WRONG');
  must((await host.get(keys.LEDGER)) === undefined, 'LEDGER_EXISTS');
  const names = new Set<string>();
  const msps = new Set<string>();
  for (const jws of founders) {
    const founder = await readStatement(host, 'init', jws, ledger);
    const p = founder.payload;
    checkPublicKey(p.signing, 'signing');
    checkPublicKey(p.encryption, 'encryption');
    await checkSignature(host, founder, p.signing);
    must(!names.has(p.institution) && !msps.has(p.msp), 'INSTITUTION_EXISTS');
    must(p.institution !== host.caller.institution || p.msp === host.caller.msp, 'CALLER_UNKNOWN');
    names.add(p.institution);
    msps.add(p.msp);
    await writeInstitution(host, p);
  }
  must(names.has(host.caller.institution), 'CALLER_UNKNOWN');
  await write(host, keys.LEDGER, { ledger, rules: 1 });
  return { founders: names.size };
}

/** args: the newcomer's JWS, then the same payload signed by two active institutions (one, where only one exists). */
export async function registerInstitution(host: ContractHost, args: readonly string[]): Promise<object> {
  const { ledger } = await readLedger(host);
  await readCaller(host);
  must(args.length >= 2 && args.length <= 4, 'ARGUMENTS_WRONG');
  const [newcomer, ...sponsors] = await sameStatements(host, 'registerInstitution', args, ledger);
  const p = newcomer.payload;
  checkPublicKey(p.signing, 'signing');
  checkPublicKey(p.encryption, 'encryption');
  await checkSignature(host, newcomer, p.signing);
  const known = await institutions(host);
  must(!known.some((one) => one.institution === p.institution || one.msp === p.msp), 'INSTITUTION_EXISTS');
  const signed = await signers(host, sponsors, known);
  must(signed.size >= Math.min(2, known.length), 'SIGNERS_MISSING');
  await writeInstitution(host, p);
  return { institution: p.institution };
}

/** args: the JWS by the new signing key, then the same payload by the current key, or by two other institutions. */
export async function rotateInstitutionKey(host: ContractHost, args: readonly string[]): Promise<object> {
  const { ledger } = await readLedger(host);
  await readCaller(host);
  must(args.length >= 2 && args.length <= 4, 'ARGUMENTS_WRONG');
  const [proof, ...others] = await sameStatements(host, 'rotateInstitutionKey', args, ledger);
  const p = proof.payload;
  checkPublicKey(p.signing, 'signing');
  checkPublicKey(p.encryption, 'encryption');
  await checkSignature(host, proof, p.signing);
  const known = await institutions(host);
  const current = known.find((one) => one.institution === p.institution);
  must(current !== undefined, 'INSTITUTION_UNKNOWN');
  must(p.version === current.version + 1, 'VERSION_STALE');
  const signed = await signers(host, others, known);
  must(signed.has(p.institution) || signed.size >= 2, 'SIGNERS_MISSING');
  const value: InstitutionState = { encryption: p.encryption, msp: current.msp, signing: p.signing, status: 'active', version: p.version };
  await write(host, keys.institutionKey(p.institution), value);
  return { version: p.version };
}

/** args: one JWS of the same payload by every active institution. */
export async function raiseRules(host: ContractHost, args: readonly string[]): Promise<object> {
  const { ledger, rules } = await readLedger(host);
  await readCaller(host);
  must(args.length >= 1 && args.length <= 64, 'ARGUMENTS_WRONG');
  const statements = await sameStatements(host, 'raiseRules', args, ledger);
  const p = statements[0].payload;
  must(p.rules === rules + 1, 'VERSION_STALE');
  const known = await institutions(host);
  const signed = await signers(host, statements, known);
  must(signed.size === known.length, 'SIGNERS_MISSING');
  await write(host, keys.LEDGER, { ledger, rules: p.rules });
  return { rules: p.rules };
}

/** args: JCS {number, root}. The heartbeat: freshness and a grant's notAfter are measured against it (protocol sections 1 and 5). */
export async function writeAnchor(host: ContractHost, anchor: { number: number; root: string }): Promise<object> {
  const key = keys.anchorKey(host.caller.institution);
  const previous = await read<AnchorState>(host, key);
  // The same anchor again is success, so that an unknown outcome can be repeated.
  if (previous !== undefined && previous.number === anchor.number && previous.root === anchor.root) return { number: anchor.number };
  must(anchor.number === (previous?.number ?? 0) + 1, 'ANCHOR_NUMBER');
  const value: AnchorState = { ...anchor, time: timeAfter(host.transactionTime, previous?.time) };
  await host.put(key, canonicalize(value));
  return { number: anchor.number };
}
