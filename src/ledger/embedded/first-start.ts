import { CodedError } from '../../errors.ts';
import { type FounderParts, submitInit } from '../founding.ts';

/**
 * Founds the ledger where it has no block yet: one institution, proving its key. Started twice or by two processes at once it
 * founds it once.
 */
export async function foundLedger(parts: FounderParts): Promise<void> {
  const { ledgerId, height } = await parts.ledger.info();
  if (height > 0) return;
  try {
    await submitInit(parts, ledgerId);
  } catch (error) {
    // Another process was first.
    const lost = error instanceof CodedError && (error.code === 'LEDGER_REFUSED' || error.code === 'LEDGER_CONFLICT');
    if (!lost || (await parts.ledger.height()) === 0) throw error;
  }
}
