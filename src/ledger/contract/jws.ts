import { base64url, fromBase64url, fromUtf8, hex, utf8 } from './bytes.ts';
import type { EcJwk, EncryptionJwk, ReadHost } from './host.ts';
import { canonicalize, parseCanonical } from './jcs.ts';
import { isPublicKey } from './p256.ts';
import { must, Refusal } from './refusals.ts';
import { ecJwk, MAX_PAYLOAD_BYTES, PAYLOADS, type Payloads, type SignedTransaction, TYP } from './shapes.ts';

/** A compact JWS whose form and payload have been checked, and whose signature has not. */
export interface Statement<T extends SignedTransaction> {
  readonly payload: Payloads[T];
  readonly payloadText: string;
  /** SHA-256 of the payload, hex: the statement's identity. Never of the JWS, for ECDSA signatures are malleable. */
  readonly identity: string;
  readonly kid: string;
  readonly signed: Uint8Array;
  readonly signature: Uint8Array;
}

/** Reads a compact JWS (RFC 7515 7.1) and refuses everything that protocol section 1 refuses; verifies nothing yet. */
export async function readStatement<T extends SignedTransaction>(
  host: ReadHost,
  type: T,
  jws: string,
  ledger: string | undefined,
): Promise<Statement<T>> {
  const [head, body, tail, ...more] = jws.split('.');
  must(head !== undefined && body !== undefined && tail !== undefined && more.length === 0, 'JWS_MALFORMED');
  must(body.length <= Math.ceil((MAX_PAYLOAD_BYTES * 4) / 3), 'PAYLOAD_TOO_LARGE');
  const headBytes = fromBase64url(head);
  const bodyBytes = fromBase64url(body);
  const signature = fromBase64url(tail);
  const headText = headBytes && fromUtf8(headBytes);
  const payloadText = bodyBytes && fromUtf8(bodyBytes);
  must(bodyBytes !== undefined && headText !== undefined && payloadText !== undefined, 'JWS_MALFORMED');
  must(signature !== undefined && signature.length === 64, 'JWS_MALFORMED');
  must(bodyBytes.length <= MAX_PAYLOAD_BYTES, 'PAYLOAD_TOO_LARGE');

  const header = readHeader(headText);
  must(header['alg'] === 'ES256', 'JWS_ALGORITHM');
  must(header['typ'] === TYP[type], 'JWS_TYPE');
  const kid = header['kid'];
  must(typeof kid === 'string' && /^[A-Za-z0-9_-]{43}$/.test(kid), 'JWS_KEY');

  const value = parseCanonical(payloadText);
  if (value !== null && typeof value === 'object' && !Array.isArray(value)) {
    const given = value as { readonly [member: string]: unknown };
    must(given['type'] === undefined || given['type'] === type, 'TYPE_OTHER');
    must(ledger === undefined || given['ledger'] === undefined || given['ledger'] === ledger, 'LEDGER_OTHER');
  }
  const payload = PAYLOADS[type].check(value, '') as Payloads[T];
  const identity = hex(await host.sha256(bodyBytes));
  return { payload, payloadText, identity, kid, signed: utf8(`${head}.${body}`), signature };
}

/** Exactly alg, kid and typ: `crit`, `jwk`, `jku`, `x5c` and every other member are refused, and so is a repeated one. */
function readHeader(headText: string): Record<string, unknown> {
  let header: unknown;
  try {
    header = JSON.parse(headText);
  } catch {
    throw new Refusal('JWS_MALFORMED');
  }
  must(header !== null && typeof header === 'object' && !Array.isArray(header), 'JWS_HEADER');
  const names = Object.keys(header).sort().join();
  // Members may stand in any order, but the text must be what they serialise to: a duplicate would be lost in parsing.
  must(names === 'alg,kid,typ' && JSON.stringify(header) === headText, 'JWS_HEADER');
  return header as Record<string, unknown>;
}

/** Refuses unless this key signed the statement. */
export async function checkSignature(host: ReadHost, statement: Statement<SignedTransaction>, key: EcJwk): Promise<void> {
  must((await thumbprint(host, key)) === statement.kid, 'JWS_KEY');
  must(await host.verify('ES256', key, statement.signed, statement.signature), 'JWS_SIGNATURE');
}

/** RFC 7638. The JWKs of this contract hold exactly the required members, so their JCS text is the hash's input. */
export async function thumbprint(host: ReadHost, key: EncryptionJwk): Promise<string> {
  return base64url(await host.sha256(utf8(canonicalize(key))));
}

/** The public key handed over beside a JWS, as JCS text, checked against the thumbprint that the ledger holds. */
export async function keyHandedOver(host: ReadHost, text: string | undefined, expected: string): Promise<EcJwk> {
  must(text !== undefined && text !== '', 'KEY_MISSING');
  const key = ecJwk.check(parseCanonical(text), 'key');
  must(isPublicKey(key), 'KEY_INVALID');
  must((await thumbprint(host, key)) === expected, 'KEY_MISMATCH');
  return key;
}

export function checkPublicKey(key: EncryptionJwk, where: string): void {
  must(isPublicKey(key), 'KEY_INVALID', where);
}
