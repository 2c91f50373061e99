import type { common } from '@hyperledger/fabric-protos';
import type { BlockRow } from '../../src/ledger/embedded/stored-block.ts';
import { createCanarySearch, type Finding } from './canary-search.ts';

/** How deep something may be encoded in something encoded: a statement in an argument in an envelope, and one to spare. */
const DEEPEST = 4;
const BASE64 = /[A-Za-z0-9_+/-]{24,}={0,2}/g;
const PEM = /-----BEGIN [A-Z0-9 ]+-----([A-Za-z0-9+/=\s]+)-----END/g;

export interface BlockLinter {
  /** What a whole block says of canaries, in whatever form, with everything that is encoded in it opened. */
  embedded(row: BlockRow): Finding[];
  /**
   * The same of a Fabric block, its bytes as the peer sends them: arguments, read and write sets, events, certificates,
   * endorsements, configuration, metadata; of transactions that are valid, that are not, and that nobody can read.
   */
  fabric(block: common.Block): Finding[];
}

/**
 * One linter for both ledgers: what stands on a ledger stays for ever, valid or not. A protocol buffer holds its strings and bytes
 * as they are, so that searching the block's bytes searches every field there is, those that we do not know of included.
 */
export function createBlockLinter(canaries: readonly string[]): BlockLinter {
  const finder = createCanarySearch(canaries);
  const search = (place: string, bytes: Buffer): Finding[] => opened(bytes).flatMap((one) => finder.search(place, one));
  return {
    embedded: (row) => search(`block ${row.number}`, Buffer.from([row.header, row.body, row.signature].join('\n'))),
    fabric: (block) => search(`block ${block.getHeader()?.getNumber()}`, Buffer.from(block.serializeBinary())),
  };
}

/** The bytes, and what is encoded in them, and in that. */
function opened(bytes: Buffer, depth = 0): Buffer[] {
  if (depth === DEEPEST) return [bytes];
  const text = bytes.toString('latin1');
  // What stands before it (a length, say) may look like a part of it: hence each place where it could begin.
  const inner = (text.match(BASE64) ?? []).flatMap((word) => [0, 1, 2, 3].map((from) => Buffer.from(word.slice(from), 'base64')));
  // Lines of a certificate are cut anywhere, in the middle of a name too.
  for (const [, lines = ''] of text.matchAll(PEM)) inner.push(Buffer.from(lines.replaceAll(/\s/g, ''), 'base64'));
  return [bytes, ...inner.flatMap((one) => (one.length < 12 ? [] : opened(one, depth + 1)))];
}
