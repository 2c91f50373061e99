import { createHash } from 'node:crypto';
import { CodedError } from '../errors.ts';
import type { Caller as LedgerCaller } from '../ledger/contract/host.ts';
import * as keys from '../ledger/contract/keys.ts';
import { Refusal } from '../ledger/contract/refusals.ts';
import type { PermissionState } from '../ledger/contract/state.ts';
import { projectedState } from '../ledger/projection-state.ts';
import { simulate } from '../ledger/simulation.ts';
import type { Database, Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';

/** A permission's name within one patient, where the patient grants. */
export interface Pair {
  grantee: string;
  category: string;
}
export interface PatientName {
  institution: string;
  patient: string;
}

export const pairKey = ({ grantee, category }: Pair): string => `${grantee}/${category}`;
const tripleOf = ({ grantee, category }: Pair): keys.Triple => ({ grantor: 'patient', grantee, category });

/** The newest version of what the patient granted to each pair, as the projection holds it. Sequence 0: there is none. */
export async function heads(
  on: Sql,
  of: PatientName,
  pairs: readonly Pair[],
): Promise<{ sequence: number; state: PermissionState | undefined }[]> {
  const state = projectedState(on);
  return Promise.all(
    pairs.map(async (pair) => {
      const head = await state.get(keys.permissionHeadKey(of.institution, of.patient, tripleOf(pair)));
      if (head === undefined) return { sequence: 0, state: undefined };
      const { sequence } = JSON.parse(head.value) as { sequence: number };
      const version = await state.get(keys.permissionVersionKey(of.institution, of.patient, tripleOf(pair), sequence));
      return { sequence, state: version === undefined ? undefined : (JSON.parse(version.value) as PermissionState) };
    }),
  );
}

/** State key of a permission's version: it exists once the grant has committed. */
export function versionKey(of: PatientName, pair: Pair, sequence: number): string {
  return keys.permissionVersionKey(of.institution, of.patient, tripleOf(pair), sequence);
}
/** State key of a revoke: it exists once the revoke has committed. */
export function usedKey(of: PatientName, statement: string): string {
  return keys.usedKey(of.institution, of.patient, statement);
}

/** Pairs on which clauses of this Consent are in force, by the projection. */
export async function pairsOf(on: Sql, of: PatientName, consent: string): Promise<Pair[]> {
  return on.query<{ grantee: string; category: string }>(sql`
    select distinct grantee, category from projection.clause
    where inst = ${of.institution} and pat = ${of.patient} and grantor = 'patient' and consent = ${consent} order by grantee, category`);
}

/** A statement's identity on the ledger: SHA-256 of its payload. */
export function identityOf(payload: string): string {
  return createHash('sha256').update(payload).digest('hex');
}

/**
 * The contract's own check on this institution's verified view, before anything is written or sent. Resolves to the contract's
 * refusal code, undefined where it accepts.
 */
export async function refusalOf(
  database: Database,
  transaction: { name: string; args: readonly string[]; caller: LedgerCaller; now: Date },
): Promise<string | undefined> {
  const { name, args, caller, now } = transaction;
  try {
    await database.transaction((tx) => simulate(projectedState(tx), { name, args, caller, time: now.toISOString() }), 'repeatable read');
    return undefined;
  } catch (error) {
    if (error instanceof Refusal) return error.code;
    throw error;
  }
}

/** The contract's refusal of a Consent, as its writer should hear of it. */
export function refusedBecause(code: string): CodedError {
  if (code === 'GRANTEE_UNKNOWN')
    return new CodedError('UNPROCESSABLE', {
      diagnostics: 'An actor is not registered.',
      expression: ['Consent.provision.provision.actor'],
    });
  if (code === 'PATIENT_UNKNOWN' || code === 'PATIENT_ERASED') return new CodedError('NOT_FOUND');
  if (code === 'SEQUENCE_STALE') return new CodedError('CONFLICT');
  if (code === 'GRANT_BEYOND_ANCHOR') return new CodedError('STALE', { retryAfterSeconds: 15 });
  return new CodedError('LEDGER_REFUSED', { diagnostics: code });
}
