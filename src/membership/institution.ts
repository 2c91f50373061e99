import { CodedError } from '../errors.ts';
import { foundLedger } from '../ledger/embedded/first-start.ts';
import type { Ledger } from '../ledger/ledger.ts';
import type { Database } from '../store/database.ts';
import type { Custodian } from '../vault/custodian.ts';
import { followInstitutionKeys, projectedInstitution } from './institution-keys.ts';

/**
 * Makes sure that the institution stands on the ledger with keys that the custodian holds, and that it uses those. On one node it founds the ledger
 * itself; among several that is a person's act: INSTITUTION_NOT_REGISTERED. KEYS_BROKEN where the ledger names other keys: a key
 * store of another institution, or an old copy of it, must sign nothing.
 */
export async function ensureInstitution(parts: {
  database: Database;
  ledger: Ledger;
  custodian: Custodian;
  msp: string;
  projected(block: number, timeoutMs: number): Promise<boolean>;
  timeoutMs?: number;
}): Promise<void> {
  const { database, ledger, custodian, msp } = parts;
  const { institution } = custodian;
  const keys = await custodian.institutionKeys();
  if (ledger.kind === 'embedded') {
    await foundLedger({ ledger, institution, msp, keys, signAsInstitution: (typ, payload) => custodian.signAsInstitution(typ, payload) });
    // The founding transaction stands in block 0.
    if (!(await parts.projected(0, parts.timeoutMs ?? 10_000)))
      throw new CodedError('UNAVAILABLE', { diagnostics: 'The ledger is not projected yet.' });
  }
  const state = await projectedInstitution(database, institution);
  if (state === undefined) throw new CodedError('INSTITUTION_NOT_REGISTERED');
  if (state.msp !== msp) throw new CodedError('KEYS_BROKEN', { diagnostics: 'The ledger names another MSP for this institution.' });
  await followInstitutionKeys(custodian, state);
}
