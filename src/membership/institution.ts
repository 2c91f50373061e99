import { CodedError } from '../errors.ts';
import { institutionKey } from '../ledger/contract/keys.ts';
import { ecJwk, plainJwk } from '../ledger/contract/payloads.ts';
import type { InstitutionState } from '../ledger/contract/state.ts';
import { foundLedger } from '../ledger/embedded/first-start.ts';
import type { Ledger } from '../ledger/ledger.ts';
import { projectedState } from '../ledger/projection-state.ts';
import type { Database } from '../store/database.ts';
import type { Custodian } from '../vault/custodian.ts';

/**
 * Makes sure that the institution stands on the ledger with the keys that the custodian holds. On one node it founds the ledger
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
  const found = await projectedState(database).get(institutionKey(institution));
  if (found === undefined) throw new CodedError('INSTITUTION_NOT_REGISTERED');
  const state = JSON.parse(found.value) as InstitutionState;
  const signing = ecJwk(keys.signing);
  const encryption = plainJwk(keys.encryption);
  if (state.signing.x !== signing.x || state.signing.y !== signing.y || state.encryption.x !== encryption.x || state.msp !== msp) {
    throw new CodedError('KEYS_BROKEN', { diagnostics: 'The ledger names other keys for this institution.' });
  }
}
