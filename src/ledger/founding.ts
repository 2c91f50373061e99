import { randomBytes } from 'node:crypto';
import { CodedError, codeOf } from '../errors.ts';
import { base32 } from '../ids.ts';
import { ecJwk, initPayload, plainJwk, TYP } from './contract/payloads.ts';
import type { Ledger, Receipt } from './ledger.ts';

/** What the founding transaction says, and where it stands. */
export interface Founded {
  ledgerId: string;
  /** The institution that submitted it. */
  founder: string;
  txId: string;
  block: number;
}

/** The founding transaction of this ledger, undefined where no block has one. It stands among a channel's first blocks. */
export async function findFounding(ledger: Pick<Ledger, 'blocks' | 'height'>): Promise<Founded | undefined> {
  const height = await ledger.height();
  if (height === 0) return undefined;
  const done = new AbortController();
  try {
    for await (const block of ledger.blocks(0, done.signal)) {
      for (const { name, args, caller, txId, validation } of block.transactions) {
        if (name !== 'init' || validation !== 'VALID' || args[0] === undefined) continue;
        return { ledgerId: args[0], founder: caller.institution, txId, block: block.number };
      }
      if (block.number + 1 >= height) return undefined;
    }
    return undefined;
  } finally {
    done.abort();
  }
}

export interface FounderParts {
  ledger: Ledger;
  institution: string;
  msp: string;
  keys: { signing: Parameters<typeof plainJwk>[0]; encryption: Parameters<typeof plainJwk>[0] };
  /** Compact JWS (ES256, kid, typ) by the institution's signing key. */
  signAsInstitution(typ: string, payload: string): Promise<string>;
}

/** A ledger id: random, so that no signature of another ledger fits this one. */
export function newLedgerId(): string {
  return `ledger-${base32(randomBytes(16))}`;
}

/** Submits `init` with one founder, proving its keys. Rejects as the ledger does: LEDGER_REFUSED (LEDGER_EXISTS) where somebody was first. */
export async function submitInit(parts: FounderParts, ledgerId: string): Promise<Receipt> {
  const payload = initPayload({
    encryption: plainJwk(parts.keys.encryption),
    institution: parts.institution,
    ledger: ledgerId,
    msp: parts.msp,
    nonce: randomBytes(16).toString('base64url'),
    signing: ecJwk(parts.keys.signing),
  });
  const jws = await parts.signAsInstitution(TYP.init, payload);
  return submitSurely(parts.ledger, await parts.ledger.endorse({ name: 'init', args: [ledgerId, jws] }));
}

const TRIES = 5;
const WAIT_MS = 500;

/**
 * Submits for a command, which has no journal: an outcome that is not known is asked for and the same bytes are sent again. What
 * is still not known then is found by looking at the ledger, so that the command may simply be repeated.
 */
export async function submitSurely(
  ledger: Pick<Ledger, 'submit' | 'status'>,
  endorsed: { txId: string; bytes: Uint8Array },
): Promise<Receipt> {
  for (let tries = 1; ; tries++) {
    try {
      return await ledger.submit(endorsed.bytes);
    } catch (error) {
      if (codeOf(error) !== 'LEDGER_UNKNOWN' || tries === TRIES) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, WAIT_MS * tries));
    const known = await ledger.status(endorsed.txId);
    if (known !== undefined) return known;
  }
}

/**
 * Founds the ledger of a channel, once: where it stands already by this institution, and under the wanted id if one is, its
 * founding is returned. LEDGER_OTHER where the channel is another ledger's, or another institution founded it.
 */
export async function foundChannel(parts: FounderParts, wanted: string | undefined): Promise<Founded & { isNew: boolean }> {
  const { ledger, institution } = parts;
  const check = (found: Founded): Founded & { isNew: boolean } => {
    if (found.ledgerId !== (wanted ?? found.ledgerId) || found.founder !== institution)
      throw new CodedError('LEDGER_OTHER', { diagnostics: `The channel holds ${found.ledgerId}, founded by ${found.founder}.` });
    return { ...found, isNew: false };
  };
  const before = await findFounding(ledger);
  if (before !== undefined) return check(before);
  const ledgerId = wanted ?? newLedgerId();
  try {
    const { txId, block } = await submitInit(parts, ledgerId);
    return { ledgerId, founder: institution, txId, block, isNew: true };
  } catch (error) {
    // Another one was first, in the block before or in this one.
    const found = ['LEDGER_REFUSED', 'LEDGER_CONFLICT'].includes(codeOf(error) ?? '') ? await findFounding(ledger) : undefined;
    if (found === undefined) throw error;
    return check(found);
  }
}
