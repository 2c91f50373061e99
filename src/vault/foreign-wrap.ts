import { createPrivateKey, createPublicKey, createSecretKey, type JsonWebKey, type KeyObject } from 'node:crypto';
import { compactDecrypt } from 'jose';
import { CodedError } from '../errors.ts';
import type { DocumentKeyWrap } from './custodian.ts';
import { jwkThumbprint } from './thumbprint.ts';

/**
 * The document key of an object that another institution sealed, out of its wrap to the category key, whose private half an envelope
 * gave us. SEAL_BROKEN where it does not open.
 */
export async function unwrapWithCategoryKey(wrap: Pick<DocumentKeyWrap, 'toCategory'>, privateJwk: JsonWebKey): Promise<KeyObject> {
  try {
    const opened = await compactDecrypt(wrap.toCategory, createPrivateKey({ key: privateJwk, format: 'jwk' }), {
      keyManagementAlgorithms: ['ECDH-ES+A256KW'],
      contentEncryptionAlgorithms: ['A256GCM'],
    });
    if (opened.plaintext.length !== 32) throw new Error('another length');
    return createSecretKey(opened.plaintext);
  } catch {
    throw new CodedError('SEAL_BROKEN', { diagnostics: 'The wrapped key does not open.' });
  }
}

/**
 * The wrap of a document of another institution's patient that we hold, as `custodian.unwrapDocumentKey` takes it: `wrapped` is what
 * `custodian.wrapOwn(holder, category, …)` gave.
 */
export function ownWrap(facts: { institution: string; holder: string; category: string; wrapped: string }): DocumentKeyWrap {
  const { institution, holder: patient, category, wrapped } = facts;
  return { institution, patient, category, categoryKeyVersion: 0, toCategory: '', toInstitution: wrapped };
}

/** Whether this private half belongs to the public key that the ledger names; false for what is no key. */
export function belongsTo(privateJwk: JsonWebKey, publicJwk: { kty: string; crv: string; x: string; y?: string }): boolean {
  try {
    const { kty, crv, x, y } = createPublicKey(createPrivateKey({ key: privateJwk, format: 'jwk' })).export({ format: 'jwk' });
    if (kty === undefined || crv === undefined || x === undefined) return false;
    return jwkThumbprint({ kty, crv, x, ...(y === undefined ? {} : { y }) }) === jwkThumbprint(publicJwk);
  } catch {
    return false;
  }
}
