import { base64url, fromBase64url } from '../contract/bytes.ts';
import type { EcJwk } from '../contract/host.ts';
import { canonicalize } from '../contract/jcs.ts';
import { sha256Hex, verifyEs256 } from '../host-crypto.ts';
import type { Block } from '../ledger.ts';
import { decodeEnvelope, type Envelope, isSigned } from './envelope.ts';
import type { Validation } from './validation.ts';

/** What stands in embedded.block. The hash is that of the header, which holds the hash of the body. */
export interface BlockRow {
  number: number;
  previous_hash: string;
  hash: string;
  header: string;
  signature: string;
  body: string;
}
interface Header {
  count: number;
  data: string;
  ledger: string;
  number: number;
  previous: string;
  signer: EcJwk;
  time: string;
}
/** Before block 0. */
export const GENESIS = '0'.repeat(64);

/** One line a transaction, the validation code before it: JSON text holds no line feed. */
export async function encodeBlock(
  facts: { ledger: string; number: number; previous: string; time: string; signer: EcJwk },
  transactions: readonly { envelope: Envelope; validation: Validation }[],
  sign: (bytes: Uint8Array) => Promise<Uint8Array>,
): Promise<BlockRow> {
  const body = transactions.map(({ envelope, validation }) => `${validation} ${envelope.text}`).join('\n');
  const content: Header = { ...facts, count: transactions.length, data: sha256Hex(body) };
  const header = canonicalize(content);
  return {
    number: facts.number,
    previous_hash: facts.previous,
    hash: sha256Hex(header),
    header,
    signature: base64url(await sign(Buffer.from(header))),
    body,
  };
}

export interface DecodedBlock {
  block: Block;
  envelopes: readonly Envelope[];
  signer: EcJwk;
  ledger: string;
}

/**
 * Decodes a stored block and checks all that can be checked of it alone: canonical header, hashes, its signature and that of
 * every transaction. Throws an Error that names what is wrong, never a value. Without `signatures` the hashes only, for blocks
 * whose newest hash is known from outside.
 */
export async function decodeBlock(row: BlockRow, { signatures = true } = {}): Promise<DecodedBlock> {
  const wrong = (what: string): never => {
    throw new Error(what);
  };
  let header: Header;
  try {
    header = JSON.parse(row.header) as Header;
    if (canonicalize(header) !== row.header) wrong('header is not canonical');
  } catch {
    return wrong('header is malformed');
  }
  if (sha256Hex(row.header) !== row.hash) wrong('hash is not that of the header');
  if (header.number !== row.number || header.previous !== row.previous_hash) wrong('header and row differ');
  if (sha256Hex(row.body) !== header.data) wrong('body is not that of the header');
  const signature = fromBase64url(row.signature);
  if (signatures && (signature === undefined || !(await verifyEs256(header.signer, Buffer.from(row.header), signature))))
    wrong('signature does not verify');
  const lines = row.body.split('\n');
  if (lines.length !== header.count) wrong('number of transactions differs');
  const envelopes: Envelope[] = [];
  const transactions = [];
  for (const line of lines) {
    const blank = line.indexOf(' ');
    const envelope = decodeEnvelope(line.slice(blank + 1));
    if (envelope.ledger !== header.ledger) wrong('transaction of another ledger');
    if (signatures && !(await isSigned(envelope, header.signer))) wrong('signature of a transaction does not verify');
    envelopes.push(envelope);
    const { name, args, caller, time } = envelope.proposal;
    transactions.push({ txId: envelope.txId, validation: line.slice(0, blank), name, args, caller, time, writes: envelope.writes });
  }
  const block: Block = { number: row.number, previousHash: row.previous_hash, hash: row.hash, transactions };
  return { block, envelopes, signer: header.signer, ledger: header.ledger };
}
