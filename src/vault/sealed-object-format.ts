import { createCipheriv, createDecipheriv, createHmac, createSecretKey, hash, hkdfSync, type KeyObject } from 'node:crypto';
import { canonicalJson } from '../canonical-json.ts';
import { CodedError } from '../errors.ts';
import type { InnerHeader, OuterHeader } from './sealed-object.ts';

/**
 * The bytes of a sealed object (docs/sealed-object.md): pure, without a custodian, so that test vectors fix it.
 *
 *   magic 8 | outer header length 4 (big endian) | outer header (JCS)   = the authenticated data of all that follows
 *   inner header | PDF part | Bundle part (with the padding)            each AES-256-GCM under its own subkey
 */
export const FORMAT = 'oncobridge-sealed/1';
const MAGIC = Buffer.from('OBSEAL1\n', 'ascii');
const TAG_BYTES = 16;
/** Above this many bytes of PDF and Bundle together, both are sealed in chunks. */
export const CHUNKED_ABOVE_BYTES = 10 * 1024 * 1024;
const CHUNK_BYTES = 64 * 1024;
/** A large part goes through the cipher in strides, so that its output does not stand in memory twice. */
const STRIDE_BYTES = 1024 * 1024;
const MAX_HEADER_BYTES = 64 * 1024;
const PARTS = ['inner', 'pdf', 'bundle'] as const;
type PartName = (typeof PARTS)[number];
type Subkeys = Readonly<Record<PartName, KeyObject>>;

/** The outer header as it stands in the object: the port's facts and how to read on. */
export interface StoredHeader extends OuterHeader {
  alg: 'A256GCM' | 'A256GCM-STREAM-64K';
  kdf: 'HKDF-SHA256';
  /** Bytes of the encrypted inner header with its tag. */
  innerBytes: number;
}
interface StoredInner {
  facts: InnerHeader;
  /** Lengths and SHA-256 of the plaintext parts; hidden here, for a length tells much. */
  parts: Record<'pdf' | 'bundle', { bytes: number; sha256: string }>;
  salt: string;
}

/** Seals the parts under a document key that is used for nothing else. `salt`: 32 bytes, base64url. */
export function writeSealed(
  facts: OuterHeader,
  key: KeyObject,
  salt: string,
  inner: InnerHeader,
  pdf: Uint8Array,
  bundle: Uint8Array,
): { bytes: Buffer; ciphertextHash: string; commitment: string } {
  const parts = {
    bundle: { bytes: bundle.length, sha256: hash('sha256', bundle) },
    pdf: { bytes: pdf.length, sha256: hash('sha256', pdf) },
  };
  const factsText = canonicalJson(innerFacts(inner));
  const innerText = `{"facts":${factsText},"parts":${partsText(parts)},"salt":"${salt}"}`;
  const innerTextBytes = Buffer.byteLength(innerText);
  // Blanks after the JSON, so that the length in clear does not count the records of the manifest.
  const innerPlain = Buffer.from(innerText + ' '.repeat(padded(innerTextBytes) - innerTextBytes));
  const chunked = pdf.length + bundle.length > CHUNKED_ABOVE_BYTES;
  const { category, document, format, institution, patient, version, wrap } = facts;
  const innerBytes = innerPlain.length + TAG_BYTES;
  // Members in their canonical order, which readHeader insists on: the native serialiser is the faster one.
  const header: StoredHeader = {
    alg: chunked ? 'A256GCM-STREAM-64K' : 'A256GCM',
    category,
    document,
    format,
    innerBytes,
    institution,
    kdf: 'HKDF-SHA256',
    patient,
    version,
    wrap: {
      category: wrap.category,
      categoryKeyVersion: wrap.categoryKeyVersion,
      institution: wrap.institution,
      patient: wrap.patient,
      toCategory: wrap.toCategory,
      toInstitution: wrap.toInstitution,
    },
  };
  const aad = prefixOf(Buffer.from(JSON.stringify(header)));
  const keys = subkeys(key);

  const ahead = aad.length + innerBytes + sealedSize(pdf.length, chunked);
  let total = padded(ahead + sealedSize(bundle.length, chunked));
  // In chunks, a few sizes would leave a last chunk of nothing but its tag: one step more.
  while (sealedSize(plainSize(total - ahead, chunked), chunked) !== total - ahead) total = padded(total + 1);
  const padding = plainSize(total - ahead, chunked) - bundle.length;
  const out = Buffer.allocUnsafeSlow(total);
  aad.copy(out);
  let at = aad.length;
  const put = (bytes: Buffer): void => {
    out.set(bytes, at);
    at += bytes.length;
  };
  encryptPart(keys.inner, aad, innerPlain, 0, false, put);
  encryptPart(keys.pdf, aad, pdf, 0, chunked, put);
  encryptPart(keys.bundle, aad, bundle, padding, chunked, put);
  return { bytes: out, ciphertextHash: hash('sha256', out), commitment: commitmentOf(salt, factsText, parts) };
}

export interface OpenedParts {
  inner: InnerHeader & { salt: string };
  pdf?: Uint8Array;
  bundle?: Uint8Array;
  commitment: string;
}

/** Reads and checks magic and outer header; nothing is trusted yet. SEAL_BROKEN where they are malformed. */
export function readHeader(bytes: Buffer): { header: StoredHeader; aad: Buffer } {
  const length = bytes.length >= 12 && bytes.subarray(0, 8).equals(MAGIC) ? bytes.readUInt32BE(8) : 0;
  if (length === 0 || length > MAX_HEADER_BYTES || 12 + length > bytes.length) throw broken('It is no sealed object.');
  const aad = bytes.subarray(0, 12 + length);
  const text = aad.toString('utf8', 12);
  let header: unknown;
  try {
    header = JSON.parse(text);
    if (canonicalJson(header) !== text) throw new Error('another form');
  } catch {
    throw broken('Its outer header cannot be read.');
  }
  if (!isStoredHeader(header)) throw broken('Its outer header is not of this format.');
  return { header, aad };
}

/** Opens the wanted parts and checks digests and commitment. SEAL_BROKEN where anything of what is read was altered. */
export function readParts(
  bytes: Buffer,
  header: StoredHeader,
  aad: Buffer,
  key: KeyObject,
  wanted: readonly ('pdf' | 'bundle')[],
): OpenedParts {
  const keys = subkeys(key);
  const chunked = header.alg === 'A256GCM-STREAM-64K';
  let at = aad.length;
  const take = (length: number): Buffer => {
    if (at + length > bytes.length) throw broken('It is cut short.');
    at += length;
    return bytes.subarray(at - length, at);
  };
  const stored = JSON.parse(decryptPart(keys.inner, aad, take(header.innerBytes), false).toString('utf8')) as StoredInner;
  const { facts, salt, parts } = stored;
  const opened: OpenedParts = { inner: { ...facts, salt }, commitment: commitmentOf(salt, canonicalJson(facts), parts) };
  const sealed = { pdf: take(sealedSize(parts.pdf.bytes, chunked)), bundle: take(bytes.length - at) };
  for (const name of wanted) {
    const plain = decryptPart(keys[name], aad, sealed[name], chunked);
    const content = plain.subarray(0, parts[name].bytes);
    const isWhole = content.length === parts[name].bytes && hash('sha256', content) === parts[name].sha256;
    if (!isWhole || plain.subarray(content.length).some((byte) => byte !== 0)) throw broken('A part is not the one its header names.');
    opened[name] = content;
  }
  return opened;
}

/** The next 1/16: the step is a sixteenth of the largest power of two in `size` (protocol section 7). */
export function padded(size: number): number {
  const step = 2 ** Math.max(4, Math.floor(Math.log2(size)) - 4);
  return Math.ceil(size / step) * step;
}

/** JCS, written out: numbers and hex need no escapes, and small documents feel it. */
function partsText({ bundle, pdf }: StoredInner['parts']): string {
  return `{"bundle":{"bytes":${bundle.bytes},"sha256":"${bundle.sha256}"},"pdf":{"bytes":${pdf.bytes},"sha256":"${pdf.sha256}"}}`;
}

function innerFacts(inner: InnerHeader): InnerHeader {
  const { manifest, resourceIds, clinicalTime, covers } = inner;
  return {
    manifest,
    resourceIds,
    ...(clinicalTime === undefined ? {} : { clinicalTime }),
    ...(covers === undefined ? {} : { covers: { start: covers.start, end: covers.end } }),
  };
}

/** HMAC-SHA-256 under the salt over the digests of inner facts, PDF and Bundle: re-encryption keeps it, any other content changes it. */
function commitmentOf(salt: string, factsText: string, parts: StoredInner['parts']): string {
  const content = `{"bundle":"${parts.bundle.sha256}","format":"oncobridge-content/1","inner":"${hash('sha256', factsText)}","pdf":"${parts.pdf.sha256}"}`;
  return createHmac('sha256', createSecretKey(salt, 'base64url'))
    .update(hash('sha256', content, 'buffer'))
    .digest('hex');
}

/** One HKDF call: subkey i is bytes 32i to 32i+31 of its output. */
function subkeys(key: KeyObject): Subkeys {
  const material = Buffer.from(hkdfSync('sha256', key, '', FORMAT, 32 * PARTS.length));
  const at = (i: number): KeyObject => createSecretKey(material.subarray(32 * i, 32 * i + 32));
  const keys = { inner: at(0), pdf: at(1), bundle: at(2) };
  material.fill(0);
  return keys;
}

function prefixOf(header: Buffer): Buffer {
  const prefix = Buffer.concat([MAGIC, Buffer.alloc(4), header]);
  prefix.writeUInt32BE(header.length, 8);
  return prefix;
}

function chunksOf(bytes: number): number {
  return Math.max(1, Math.ceil(bytes / CHUNK_BYTES));
}
function sealedSize(bytes: number, chunked: boolean): number {
  return bytes + TAG_BYTES * (chunked ? chunksOf(bytes) : 1);
}

/** The other way round. */
function plainSize(sealed: number, chunked: boolean): number {
  return sealed - TAG_BYTES * (chunked ? Math.ceil(sealed / (CHUNK_BYTES + TAG_BYTES)) : 1);
}

/** A subkey seals one part of one document, so its nonce needs no randomness. Chunks: counter 11 bytes, last flag 1 (STREAM). */
function nonceOf(chunk: number, last: boolean): Buffer {
  const nonce = Buffer.alloc(12);
  nonce.writeUInt32BE(chunk, 7);
  nonce[11] = last ? 1 : 0;
  return nonce;
}

/** `padding`: that many zero bytes after the plaintext, inside the part. */
function encryptPart(
  key: KeyObject,
  aad: Buffer,
  plain: Uint8Array,
  padding: number,
  chunked: boolean,
  put: (bytes: Buffer) => void,
): void {
  const end = plain.length + padding;
  const chunks = chunked ? chunksOf(end) : 1;
  for (let chunk = 0; chunk < chunks; chunk++) {
    const cipher = createCipheriv('aes-256-gcm', key, nonceOf(chunk, chunk === chunks - 1)).setAAD(aad);
    const from = chunk * CHUNK_BYTES;
    const to = chunked ? Math.min(end, from + CHUNK_BYTES) : end;
    const plainTo = Math.min(to, plain.length);
    for (let at = from; at < plainTo; at += STRIDE_BYTES) put(cipher.update(plain.subarray(at, Math.min(plainTo, at + STRIDE_BYTES))));
    if (to > plainTo) put(cipher.update(Buffer.alloc(to - Math.max(plainTo, from))));
    cipher.final();
    put(cipher.getAuthTag());
  }
}

/** The plaintext, once every tag of the part has passed. */
function decryptPart(key: KeyObject, aad: Buffer, sealed: Buffer, chunked: boolean): Buffer {
  const step = chunked ? CHUNK_BYTES + TAG_BYTES : Math.max(1, sealed.length);
  const chunks = Math.ceil(sealed.length / step);
  const plain: Buffer[] = [];
  for (let chunk = 0; chunk < chunks; chunk++) {
    const piece = sealed.subarray(chunk * step, Math.min(sealed.length, (chunk + 1) * step));
    if (piece.length < TAG_BYTES) throw broken('It is cut short.');
    const decipher = createDecipheriv('aes-256-gcm', key, nonceOf(chunk, chunk === chunks - 1), { authTagLength: TAG_BYTES });
    decipher.setAAD(aad).setAuthTag(piece.subarray(-TAG_BYTES));
    plain.push(decipher.update(piece.subarray(0, -TAG_BYTES)));
    try {
      decipher.final();
    } catch {
      throw broken('A part does not pass its tag.');
    }
  }
  return plain.length === 1 && plain[0] ? plain[0] : Buffer.concat(plain);
}

function isStoredHeader(value: unknown): value is StoredHeader {
  if (typeof value !== 'object' || value === null) return false;
  const h = value as Record<string, unknown>;
  const w = h['wrap'] as Record<string, unknown> | null;
  if (typeof w !== 'object' || w === null) return false;
  const texts = (of: Record<string, unknown>, names: string[]): boolean => names.every((name) => typeof of[name] === 'string');
  const members = ['alg', 'category', 'document', 'format', 'innerBytes', 'institution', 'kdf', 'patient', 'version', 'wrap'];
  const wrapMembers = ['category', 'categoryKeyVersion', 'institution', 'patient', 'toCategory', 'toInstitution'];
  return (
    Object.keys(h).join() === members.join() &&
    Object.keys(w).join() === wrapMembers.join() &&
    h['format'] === FORMAT &&
    (h['alg'] === 'A256GCM' || h['alg'] === 'A256GCM-STREAM-64K') &&
    h['kdf'] === 'HKDF-SHA256' &&
    texts(h, ['institution', 'document', 'patient', 'category']) &&
    texts(w, ['institution', 'patient', 'category', 'toCategory', 'toInstitution']) &&
    Number.isSafeInteger(h['version']) &&
    Number.isSafeInteger(w['categoryKeyVersion']) &&
    Number.isSafeInteger(h['innerBytes']) &&
    (h['innerBytes'] as number) > TAG_BYTES
  );
}

export function broken(diagnostics: string): CodedError {
  return new CodedError('SEAL_BROKEN', { diagnostics });
}
