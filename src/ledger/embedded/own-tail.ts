import { CodedError } from '../../errors.ts';
import type { Sql } from '../../store/database.ts';
import type { EcJwk } from '../contract/host.ts';
import { institutionKey } from '../contract/keys.ts';
import type { InstitutionState } from '../contract/state.ts';
import type { Block } from '../ledger.ts';
import { newestBlock, readBlocks } from './block-store.ts';
import { type DecodedBlock, decodeBlock, GENESIS } from './stored-block.ts';
import type { Tip } from './tip-file.ts';

export interface OwnTail {
  /** The newest block, once every block since the last one known has been found to follow and to be signed by us. */
  newest(on: Sql): Promise<{ number: number; hash: string } | undefined>;
  /** Who signs the next block and its transactions: the key that the ledger names after the last one known. */
  signer(): EcJwk;
  /** The key among those that have signed since the tip file was read, newest first, that this accepts. */
  signerOf(accepts: (key: EcJwk) => Promise<boolean>, on: Sql): Promise<EcJwk | undefined>;
  /** A block that this process has committed, and the signer of the next. */
  committed(block: { number: number; hash: string; signerAfter: EcJwk }): void;
  /** Whether a block may be followed: the tip file binds those that it named at the start, whoever's key signed them then. */
  isOwn(on: Sql, decoded: DecodedBlock): Promise<boolean>;
}

const PAGE = 50;

/**
 * Guards the end of the chain against whoever writes to the database and lacks the key: a block of theirs is neither followed nor
 * built upon, for the first block of ours upon it would vouch for it, and the tip file with it. Throws LEDGER_CORRUPT. A block that
 * changes the institution's signing key is signed by the old one, and the next by the new one.
 */
export function createOwnTail(tip: Tip, institution: string, first: EcJwk): OwnTail {
  let known = { number: tip.height - 1, hash: tip.height === 0 ? GENESIS : tip.hash };
  /** From which block on which key signs; the last is the present one. */
  const signers = [{ from: tip.height, key: first }];
  const signerAt = (number: number): EcJwk => signers.findLast(({ from }) => from <= number)?.key ?? first;
  const follow = (block: { number: number; hash: string }, next: EcJwk): void => {
    known = { number: block.number, hash: block.hash };
    if (!isSame(next, signerAt(block.number))) signers.push({ from: block.number + 1, key: next });
  };
  const isOurs = (decoded: DecodedBlock): boolean =>
    decoded.ledger === tip.ledger && (decoded.block.number < tip.height || isSame(decoded.signer, signerAt(decoded.block.number)));

  async function newest(on: Sql): Promise<{ number: number; hash: string } | undefined> {
    const found = await newestBlock(on);
    if (found === undefined ? known.number >= 0 : found.number < known.number) throw corrupt(known.number);
    while (found !== undefined && known.number < found.number) {
      for (const row of await readBlocks(on, known.number + 1, PAGE)) {
        const decoded = await decodeBlock(row).catch(() => undefined);
        // Another reader in this process may have followed it meanwhile.
        if (row.number <= known.number) continue;
        const follows = row.number === known.number + 1 && row.previous_hash === known.hash;
        if (decoded === undefined || !follows || !isOurs(decoded)) throw corrupt(row.number);
        follow(row, signerAfter(decoded.block, institution) ?? decoded.signer);
      }
    }
    if (found !== undefined && found.number === known.number && found.hash !== known.hash) throw corrupt(found.number);
    return found;
  }

  return {
    newest,
    signer: () => signerAt(known.number + 1),
    async signerOf(accepts, on) {
      const tried = new Set<EcJwk>();
      const among = async (): Promise<EcJwk | undefined> => {
        for (const { key } of signers.toReversed()) {
          if (tried.has(key)) continue;
          tried.add(key);
          if (await accepts(key)) return key;
        }
        return undefined;
      };
      const found = await among();
      if (found !== undefined) return found;
      // Another process may have changed it.
      await newest(on);
      return among();
    },
    committed({ signerAfter: next, ...block }) {
      if (block.number > known.number) follow(block, next);
    },
    async isOwn(on, decoded) {
      // Beyond what is known a block may stand behind one that changes the key.
      if (decoded.block.number > known.number + 1) await newest(on);
      return isOurs(decoded);
    },
  };
}

export function isSame(a: { x: string; y: string }, b: { x: string; y: string }): boolean {
  return a.x === b.x && a.y === b.y;
}

/** The institution's signing key as this block left it; undefined where the block wrote none. */
export function signerAfter(block: Block, institution: string): EcJwk | undefined {
  let key: EcJwk | undefined;
  for (const { validation, writes } of block.transactions)
    if (validation === 'VALID') key = signingKeyOf(writes.get(institutionKey(institution))) ?? key;
  return key;
}

/** Of the state of an institution. */
export function signingKeyOf(value: string | null | undefined): EcJwk | undefined {
  return value === undefined || value === null ? undefined : (JSON.parse(value) as InstitutionState).signing;
}

function corrupt(block: number): CodedError {
  return new CodedError('LEDGER_CORRUPT', { diagnostics: `Block ${block} is missing, or not one that this institution has signed.` });
}
