import { CodedError } from '../errors.ts';
import { type ProjectedKey, projectedKeys } from '../store/category-keys.ts';
import type { Database } from '../store/database.ts';
import type { Custodian, PublicJwk } from '../vault/custodian.ts';
import { jwkThumbprint } from '../vault/thumbprint.ts';
import { gather } from './gather.ts';

/** What a document is sealed to. */
export interface SealingKey {
  version: number;
  publicJwk: PublicJwk;
}

/**
 * Which category key a document of an own patient is sealed to (protocol section 3). In custody the custodian's newest, after a
 * check that the ledger names the same key; of a patient who holds their own keys the ledger's newest; before the enrolment is
 * projected the custodian's. What is asked in one turn of the event loop is one statement.
 *
 * Rejects with CATEGORY_KEY_UNPUBLISHED where the ledger has none for the category, and with KEY_DIFFERS, after `onDiffers` has heard
 * of it, where the ledger names a key that is not ours: nothing is ever sealed to that. UNAVAILABLE where our view of the ledger has
 * not come to the claim (it is being rebuilt): it is tried again.
 */
export function createCategoryKeys(parts: {
  database: Database;
  custodian: Custodian;
  onDiffers(found: { patient: string; category: string; version: number; block: number }): Promise<void>;
}): { sealingKey(pat: string, category: string): Promise<SealingKey> } {
  const { database, custodian, onDiffers } = parts;
  const projected = gather((asks: readonly { pat: string; category: string }[]) => projectedKeys(database, custodian.institution, asks));

  async function ofCustody(pat: string, category: string, newest: ProjectedKey['newest']): Promise<SealingKey> {
    if (await custodian.isReleased(pat)) throw behind();
    const own = await custodian.categoryKey(pat, category);
    if (newest === undefined) throw new CodedError('CATEGORY_KEY_UNPUBLISHED');
    // A version that was made and is not published yet is ahead of the ledger, which names one of those before it.
    const same = await custodian.categoryKey(pat, category, newest.version);
    if (own === undefined || same === undefined || jwkThumbprint(same.publicJwk) !== jwkThumbprint(newest.publicJwk)) {
      await onDiffers({ patient: pat, category, version: newest.version, block: newest.block });
      throw new CodedError('KEY_DIFFERS');
    }
    return own;
  }

  return {
    async sealingKey(pat, category) {
      const { custody, newest } = await projected({ pat, category });
      if (custody === true) return ofCustody(pat, category, newest);
      if (custody === false) {
        if (newest === undefined) throw new CodedError('CATEGORY_KEY_UNPUBLISHED');
        return newest;
      }
      const own = await custodian.categoryKey(pat, category);
      if (own === undefined) throw (await custodian.isReleased(pat)) ? behind() : new CodedError('KEY_MISSING');
      return own;
    },
  };
}

function behind(): CodedError {
  return new CodedError('UNAVAILABLE', { diagnostics: 'The view of the ledger lies behind a claim.' });
}
