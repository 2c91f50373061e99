import { anchorAudit, recordEmergencyAccess } from './accountability.ts';
import { recordDocuments, resealDocuments, withdrawDocument } from './documents.ts';
import type { ContractHost, ReadHost } from './host.ts';
import { init, raiseRules, registerInstitution, rotateInstitutionKey } from './institutions.ts';
import { canonicalize } from './jcs.ts';
import { registerMember, renewMember, rotateMemberKey, suspendMember } from './members.ts';
import { claimPatient, delegate, enrollPatient, erasePatient, publishCategoryKey, rotatePatientKey, setPrivateInfo } from './patients.ts';
import { grantPermission, revokePermission, sharePermission } from './permissions.ts';
import { QUERIES } from './queries.ts';
import { must, Refusal } from './refusals.ts';
import { MAX_ARGUMENT_BYTES } from './shapes.ts';

type Transaction = (host: ContractHost, args: readonly string[]) => Promise<object>;

export const TRANSACTIONS: Readonly<Record<string, Transaction>> = {
  init,
  registerInstitution,
  rotateInstitutionKey,
  raiseRules,
  registerMember,
  rotateMemberKey,
  renewMember,
  suspendMember,
  enrollPatient,
  claimPatient,
  rotatePatientKey,
  publishCategoryKey,
  delegate,
  setPrivateInfo,
  erasePatient,
  grantPermission,
  revokePermission,
  sharePermission,
  recordDocuments,
  withdrawDocument,
  resealDocuments,
  recordEmergencyAccess,
  anchorAudit,
};

/** Runs one transaction; the result as JCS text. Throws Refusal, after which the host discards whatever was put. */
export async function runTransaction(host: ContractHost, name: string, args: readonly string[]): Promise<string> {
  const transaction = Object.hasOwn(TRANSACTIONS, name) ? TRANSACTIONS[name] : undefined;
  if (transaction === undefined) throw new Refusal('TRANSACTION_UNKNOWN');
  for (const argument of args) must(argument.length <= MAX_ARGUMENT_BYTES, 'ARGUMENT_TOO_LARGE');
  return canonicalize(await transaction(host, args));
}

/** Runs one query; the result as JSON text. */
export async function runQuery(host: ReadHost, name: string, args: readonly string[]): Promise<string> {
  const query = Object.hasOwn(QUERIES, name) ? QUERIES[name] : undefined;
  if (query === undefined) throw new Refusal('TRANSACTION_UNKNOWN');
  return JSON.stringify(await query(host, args));
}
