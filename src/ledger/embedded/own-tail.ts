import { CodedError } from '../../errors.ts';
import type { Sql } from '../../store/database.ts';
import type { EcJwk } from '../contract/host.ts';
import { newestBlock, readBlocks } from './block-store.ts';
import { type DecodedBlock, decodeBlock, GENESIS } from './stored-block.ts';
import type { Tip } from './tip-file.ts';

export interface OwnTail {
  /** The newest block, once every block since the last one known has been found to follow and to be signed by us. */
  newest(on: Sql): Promise<{ number: number; hash: string } | undefined>;
  /** A block that this process has committed. */
  committed(block: { number: number; hash: string }): void;
  /** Whether a block may be followed: the tip file binds those that it named at the start, whoever's key signed them then. */
  isOwn(decoded: DecodedBlock): boolean;
}

const PAGE = 50;

/**
 * Guards the end of the chain against whoever writes to the database and lacks the key: a block of theirs is neither followed nor
 * built upon, for the first block of ours upon it would vouch for it, and the tip file with it. Throws LEDGER_CORRUPT.
 */
export function createOwnTail(tip: Tip, signer: EcJwk): OwnTail {
  let known = { number: tip.height - 1, hash: tip.height === 0 ? GENESIS : tip.hash };
  const isOwn = (decoded: DecodedBlock): boolean =>
    decoded.ledger === tip.ledger &&
    (decoded.block.number < tip.height || (decoded.signer.x === signer.x && decoded.signer.y === signer.y));
  return {
    isOwn,
    committed(block) {
      if (block.number > known.number) known = block;
    },
    async newest(on) {
      const newest = await newestBlock(on);
      if (newest === undefined ? known.number >= 0 : newest.number < known.number) throw corrupt(known.number);
      while (newest !== undefined && known.number < newest.number) {
        for (const row of await readBlocks(on, known.number + 1, PAGE)) {
          const decoded = await decodeBlock(row).catch(() => undefined);
          const follows = row.number === known.number + 1 && row.previous_hash === known.hash;
          if (decoded === undefined || !follows || !isOwn(decoded)) throw corrupt(row.number);
          known = { number: row.number, hash: row.hash };
        }
      }
      if (newest !== undefined && newest.number === known.number && newest.hash !== known.hash) throw corrupt(newest.number);
      return newest;
    },
  };
}

function corrupt(block: number): CodedError {
  return new CodedError('LEDGER_CORRUPT', { diagnostics: `Block ${block} is missing, or not one that this institution has signed.` });
}
