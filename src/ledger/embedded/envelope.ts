import { base64url, fromBase64url } from '../contract/bytes.ts';
import type { EcJwk } from '../contract/host.ts';
import { canonicalize } from '../contract/jcs.ts';
import { sha256Hex, verifyEs256 } from '../host-crypto.ts';
import type { Proposal, Simulated, Version } from '../simulation.ts';

/**
 * A signed transaction of the embedded host: `<base64url signature>.<JCS text>`, the signature (ES256, raw) over the text's
 * UTF-8 bytes by the institution's signing key. The id is the hash of the proposal, as it would be on Fabric: two
 * endorsements of one proposal are one transaction.
 */
export interface Envelope {
  text: string;
  txId: string;
  ledger: string;
  proposal: Proposal;
  result: string;
  reads: ReadonlyMap<string, Version | null>;
  ranges: Simulated['ranges'];
  writes: ReadonlyMap<string, string | null>;
}

interface Stored {
  proposal: Proposal & { ledger: string; nonce: string };
  ranges: [string, [string, number, number][]][];
  reads: [string, number, number][];
  absent: string[];
  result: string;
  writes: [string, string | null][];
}

export async function encodeEnvelope(
  proposal: Proposal & { ledger: string; nonce: string },
  simulated: Simulated,
  sign: (bytes: Uint8Array) => Promise<Uint8Array>,
): Promise<Envelope> {
  const reads = [...simulated.reads];
  const stored: Stored = {
    proposal,
    ranges: simulated.ranges.map(({ prefix, rows }) => [prefix, rows.map((row) => [...row])]),
    reads: reads.flatMap(([key, version]): [string, number, number][] => (version === null ? [] : [[key, ...version]])),
    absent: reads.flatMap(([key, version]) => (version === null ? [key] : [])),
    result: simulated.result,
    writes: [...simulated.writes],
  };
  const text = canonicalize(stored);
  return decodeEnvelope(`${base64url(await sign(Buffer.from(text)))}.${text}`);
}

/** Reads the bytes; throws SyntaxError where they are not an envelope. Checks no signature. */
export function decodeEnvelope(text: string): Envelope {
  const stored = JSON.parse(text.slice(text.indexOf('.') + 1)) as Stored;
  const { proposal } = stored;
  if (!Array.isArray(proposal?.args) || !Array.isArray(stored.writes)) throw new SyntaxError('not an envelope');
  return {
    text,
    txId: sha256Hex(canonicalize(proposal)),
    ledger: proposal.ledger,
    proposal,
    result: stored.result,
    reads: new Map<string, Version | null>([
      ...stored.reads.map(([key, block, tx]): [string, Version] => [key, [block, tx]]),
      ...stored.absent.map((key): [string, null] => [key, null]),
    ]),
    ranges: stored.ranges.map(([prefix, rows]) => ({ prefix, rows })),
    writes: new Map(stored.writes),
  };
}

export async function isSigned(envelope: Envelope, key: EcJwk): Promise<boolean> {
  const dot = envelope.text.indexOf('.');
  const signature = fromBase64url(envelope.text.slice(0, dot));
  return signature !== undefined && verifyEs256(key, Buffer.from(envelope.text.slice(dot + 1)), signature);
}
