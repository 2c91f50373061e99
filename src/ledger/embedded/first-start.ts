import { randomBytes } from 'node:crypto';
import { CodedError } from '../../errors.ts';
import { ecJwk, initPayload, plainJwk, TYP } from '../contract/payloads.ts';
import type { Ledger } from '../ledger.ts';

/**
 * Founds the ledger where it has no block yet: one institution, proving its key. Started twice or by two processes at once it
 * founds it once.
 */
export async function foundLedger(parts: {
  ledger: Ledger;
  institution: string;
  msp: string;
  keys: { signing: Parameters<typeof plainJwk>[0]; encryption: Parameters<typeof plainJwk>[0] };
  /** Compact JWS (ES256, kid, typ) by the institution's signing key. */
  signAsInstitution(typ: string, payload: string): Promise<string>;
}): Promise<void> {
  const { ledgerId, height } = await parts.ledger.info();
  if (height > 0) return;
  const payload = initPayload({
    encryption: plainJwk(parts.keys.encryption),
    institution: parts.institution,
    ledger: ledgerId,
    msp: parts.msp,
    nonce: randomBytes(16).toString('base64url'),
    signing: ecJwk(parts.keys.signing),
  });
  const jws = await parts.signAsInstitution(TYP.init, payload);
  try {
    const endorsed = await parts.ledger.endorse({ name: 'init', args: [ledgerId, jws] });
    await parts.ledger.submit(endorsed.bytes);
  } catch (error) {
    // Another process was first.
    const lost = error instanceof CodedError && (error.code === 'LEDGER_REFUSED' || error.code === 'LEDGER_CONFLICT');
    if (!lost || (await parts.ledger.height()) === 0) throw error;
  }
}
