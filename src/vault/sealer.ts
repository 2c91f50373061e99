import { createSecretKey, hash, randomBytes } from 'node:crypto';
import type { Custodian, DocumentKeyWrap } from './custodian.ts';
import { sealToCategory } from './key-wrap.ts';
import type { Expectation, OuterHeader, Sealer, Unwrap } from './sealed-object.ts';
import { broken, FORMAT, type OpenedParts, readHeader, readParts, writeSealed } from './sealed-object-format.ts';

/**
 * Seals documents and opens them (architecture section 3, step 6). Sealing needs the category key's public half and the
 * institution's own key only; opening asks the custodian for the document key.
 */
export function createSealer(parts: { custodian: Custodian }): Sealer {
  const { custodian } = parts;

  const openParts = async (
    given: Uint8Array,
    wanted: readonly ('pdf' | 'bundle')[],
    expect: Expectation,
    unwrap: Unwrap = (wrap) => custodian.unwrapDocumentKey(wrap),
  ): Promise<{ outer: OuterHeader; parts: OpenedParts }> => {
    const bytes = Buffer.isBuffer(given) ? given : Buffer.from(given.buffer, given.byteOffset, given.byteLength);
    // Sealing needs no secret, so only the hash that the ledger names makes an object ours; everything else comes after.
    if (hash('sha256', bytes) !== expect.ciphertextHash) throw broken('It is not the object that the ledger names.');
    const { header, aad } = readHeader(bytes);
    const { alg: _alg, kdf: _kdf, innerBytes: _innerBytes, ...outer } = header;
    const { wrap } = outer;
    const same =
      outer.document === expect.document &&
      outer.version === expect.version &&
      outer.patient === expect.patient &&
      outer.category === expect.category &&
      (expect.institution === undefined || outer.institution === expect.institution) &&
      wrap.patient === outer.patient &&
      wrap.category === outer.category &&
      wrap.institution === outer.institution;
    if (!same) throw broken('It is another document.');
    const opened = readParts(bytes, header, aad, await unwrap(wrap), wanted);
    if (opened.commitment !== expect.commitment) throw broken('Its content is not what was committed to.');
    return { outer, parts: opened };
  };

  return {
    async seal(input) {
      const { institution, document, version, patient, category, categoryKey } = input;
      const rawKey = randomBytes(32);
      const key = createSecretKey(rawKey);
      const wrap: DocumentKeyWrap = {
        patient,
        category,
        categoryKeyVersion: categoryKey.version,
        toCategory: sealToCategory(rawKey, categoryKey.publicJwk),
        toInstitution: await custodian.wrapOwn(patient, category, key),
        institution,
      };
      rawKey.fill(0);
      // It is written into the header as it is; a salt read from an opened object always has this form.
      if (input.inner.salt !== undefined && !/^[A-Za-z0-9_-]{43}$/.test(input.inner.salt)) throw broken('The salt given is malformed.');
      const salt = input.inner.salt ?? randomBytes(32).toString('base64url');
      const facts = { format: FORMAT, institution, document, version, patient, category, wrap };
      return { ...writeSealed(facts, key, salt, input.inner, input.pdf, input.bundle), wrap };
    },
    async open(bytes, expect, unwrap) {
      const { outer, parts: opened } = await openParts(bytes, ['pdf', 'bundle'], expect, unwrap);
      const { inner, pdf, bundle, commitment } = opened;
      if (pdf === undefined || bundle === undefined) throw broken('It is cut short.');
      return { outer, inner, pdf, bundle, commitment };
    },
    async openPart(bytes, part, expect, unwrap) {
      const { parts: opened } = await openParts(bytes, [part], expect, unwrap);
      return opened[part] ?? Promise.reject(broken('It is cut short.'));
    },
  };
}
