import { X509Certificate } from 'node:crypto';
import type { Caller } from '../contract/host.ts';

/** Fabric CA's extension of attributes: a JSON object in the octet string itself, `{"attrs":{"name":"value"}}`. */
const ATTRIBUTES_OID = '1.2.3.4.5.6.7.8.1';
const INSTITUTION = 'oncobridge.institution';

/**
 * Who sends, out of the creator of a transaction: its MSP id, and the institution that its certificate's attribute
 * `oncobridge.institution` names, '' where it names none. Chaincode, local run and projection all use this one function, and
 * the contract holds the pair against the ledger (CALLER_UNKNOWN), so an authority that writes another's id gains nothing.
 * Never throws: a certificate that cannot be read names nobody, on every host alike.
 */
export function callerOf(mspId: string, certificatePem: string): Caller {
  let institution = read.get(certificatePem);
  if (institution === undefined) {
    institution = institutionOf(certificatePem);
    if (read.size >= HELD) read.clear();
    read.set(certificatePem, institution);
  }
  return { msp: mspId, institution };
}

/** Certificates already read: a channel has few gateways, and each of a server's transactions comes with its certificate. */
const read = new Map<string, string>();
const HELD = 1000;

function institutionOf(certificatePem: string): string {
  try {
    const found = extensionValues(new X509Certificate(certificatePem).raw, ATTRIBUTES_OID);
    const [value] = found;
    // RFC 5280 section 4.2: an extension stands once. Twice is an attempt to be two.
    if (value === undefined || found.length !== 1) return '';
    const parsed = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(value)) as { attrs?: Record<string, unknown> } | null;
    const attributes = parsed?.attrs;
    if (typeof attributes !== 'object' || attributes === null || !Object.hasOwn(attributes, INSTITUTION)) return '';
    const institution = attributes[INSTITUTION];
    return typeof institution === 'string' ? institution : '';
  } catch {
    return '';
  }
}

interface Element {
  tag: number;
  content: Uint8Array;
}
const SEQUENCE = 0x30;
const OBJECT_IDENTIFIER = 0x06;
const OCTET_STRING = 0x04;
/** `[3] EXPLICIT Extensions` of TBSCertificate, RFC 5280 section 4.1. */
const EXTENSIONS = 0xa3;

/** The values of every extension of this id in a DER certificate. */
function extensionValues(der: Uint8Array, oid: string): Uint8Array[] {
  const certificate = only(elements(der), SEQUENCE);
  const toBeSigned = elements(certificate)[0];
  if (toBeSigned?.tag !== SEQUENCE) throw new Error('no TBSCertificate');
  const extensions = elements(toBeSigned.content).find((one) => one.tag === EXTENSIONS);
  if (extensions === undefined) return [];
  const values: Uint8Array[] = [];
  for (const extension of elements(only(elements(extensions.content), SEQUENCE))) {
    // Extension ::= SEQUENCE { extnID, critical DEFAULT FALSE, extnValue }.
    const parts = elements(extension.content);
    const id = parts[0];
    const value = parts.at(-1);
    if (id?.tag === OBJECT_IDENTIFIER && value?.tag === OCTET_STRING && oidText(id.content) === oid) values.push(value.content);
  }
  return values;
}

function only(found: readonly Element[], tag: number): Uint8Array {
  const [first] = found;
  if (first?.tag !== tag || found.length !== 1) throw new Error('unexpected ASN.1');
  return first.content;
}

/** The elements that lie one after another in these bytes, X.690 section 8.1 with definite lengths. */
function elements(bytes: Uint8Array): Element[] {
  const found: Element[] = [];
  let at = 0;
  const next = (): number => {
    const byte = bytes[at++];
    if (byte === undefined) throw new Error('truncated ASN.1');
    return byte;
  };
  while (at < bytes.length) {
    const tag = next();
    let length = next();
    if (length >= 0x80) {
      const octets = length & 0x7f;
      if (octets === 0 || octets > 4) throw new Error('unsupported ASN.1 length');
      length = 0;
      for (let i = 0; i < octets; i++) length = length * 256 + next();
    }
    if (at + length > bytes.length) throw new Error('truncated ASN.1');
    found.push({ tag, content: bytes.subarray(at, at + length) });
    at += length;
  }
  return found;
}

function oidText(content: Uint8Array): string {
  const arcs: number[] = [];
  let value = 0;
  for (const byte of content) {
    value = value * 128 + (byte & 0x7f);
    if (byte & 0x80) continue;
    if (arcs.length === 0) {
      const root = Math.min(2, Math.floor(value / 40));
      arcs.push(root, value - root * 40);
    } else arcs.push(value);
    value = 0;
  }
  return arcs.join('.');
}
