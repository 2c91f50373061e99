import { readStatement, type Statement } from '../ledger/contract/jws.ts';
import * as keys from '../ledger/contract/keys.ts';
import { Refusal } from '../ledger/contract/refusals.ts';
import type { SignedTransaction } from '../ledger/contract/shapes.ts';
import type { PatientState } from '../ledger/contract/state.ts';
import { hostCrypto } from '../ledger/host-crypto.ts';
import { projectedState } from '../ledger/projection-state.ts';
import type { Sql } from '../store/database.ts';
import type { LedgerPatient } from '../vault/holder.ts';
import { refusedWith } from './carrying.ts';

const formOnly = { ...hostCrypto, get: async () => undefined, scan: async () => [] };

/** Form and payload of a statement of this ledger; its signature is not looked at. LEDGER_REFUSED with the contract's code. */
export async function readSigned<T extends SignedTransaction>(transaction: T, jws: string, ledgerId: string): Promise<Statement<T>> {
  try {
    return await readStatement(formOnly, transaction, jws, ledgerId);
  } catch (error) {
    throw error instanceof Refusal ? refusedWith(error.code) : error;
  }
}

/** The patient as our verified view of the ledger has them, with the block that says so. */
export async function patientOnLedger(on: Sql, of: LedgerPatient): Promise<{ core: PatientState; block: number } | undefined> {
  const found = await projectedState(on).get(keys.coreKey(of.institution, of.patient));
  return found === undefined ? undefined : { core: JSON.parse(found.value) as PatientState, block: found.version[0] };
}

/** Changes of a patient's keys go one at a time. */
export function patientOrder({ institution, patient }: LedgerPatient): string {
  return `pat/${institution}/${patient}`;
}
