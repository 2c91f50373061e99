import { randomBytes } from 'node:crypto';
import { CodedError, codeOf } from '../errors.ts';
import { checkSignature, readStatement, type Statement } from '../ledger/contract/jws.ts';
import { ecJwk, plainJwk, registerInstitutionPayload, TYP } from '../ledger/contract/payloads.ts';
import { Refusal } from '../ledger/contract/refusals.ts';
import { submitSurely } from '../ledger/founding.ts';
import { hostCrypto } from '../ledger/host-crypto.ts';
import type { Ledger, Receipt } from '../ledger/ledger.ts';
import type { Custodian } from '../vault/custodian.ts';
import { jwkThumbprint } from '../vault/thumbprint.ts';

/**
 * A statement about an institution that other institutions sign too (protocol section 3): to join a ledger, or to turn to new keys
 * when the current signing key is lost. The one whom it is about signs it first, active institutions sign the same one, and any of
 * them submits it. Between them goes this file; it holds no secret, and nothing in it counts but the signatures.
 */
export interface CosignedFile {
  transaction: 'registerInstitution' | 'rotateInstitutionKey';
  ledger: string;
  institution: string;
  /** Of an institution that joins. */
  msp?: string;
  /** Of the keys of an institution that turns to new ones, as the ledger counts them. */
  version?: number;
  /** Of the new signing key: what is read to the others over another way than the file came. */
  thumbprint: string;
  /** Compact JWS of one payload: by the new key first, then the others'. */
  signatures: readonly string[];
}

type Signer = Pick<Custodian, 'institution' | 'institutionKeys' | 'signAsInstitution'>;

/** The newcomer's statement, with the first signature. */
export async function makeJoinFile(parts: { custodian: Signer; ledgerId: string; msp: string }): Promise<CosignedFile> {
  const { custodian, ledgerId, msp } = parts;
  const { signing, encryption } = await custodian.institutionKeys();
  const payload = registerInstitutionPayload({
    encryption: plainJwk(encryption),
    institution: custodian.institution,
    ledger: ledgerId,
    msp,
    nonce: randomBytes(16).toString('base64url'),
    signing: ecJwk(signing),
  });
  return {
    transaction: 'registerInstitution',
    ledger: ledgerId,
    institution: custodian.institution,
    msp,
    thumbprint: jwkThumbprint(signing),
    signatures: [await custodian.signAsInstitution(TYP.registerInstitution, payload)],
  };
}

/**
 * Adds this institution's signature. Whoever signs must have the new key's thumbprint from the institution itself: a file that was
 * altered on its way holds another key. BAD_REQUEST where anything in the file is not what its institution signed.
 */
export async function cosignFile(
  parts: { custodian: Signer; ledgerId: string },
  file: CosignedFile,
  thumbprint: string,
): Promise<CosignedFile> {
  const statement = await readFile(file, parts.ledgerId);
  if (thumbprint !== statement.kid)
    throw new CodedError('BAD_REQUEST', {
      diagnostics: `The key in the file has the thumbprint ${statement.kid}, not the one given: do not sign.`,
    });
  const jws = await parts.custodian.signAsInstitution(TYP[file.transaction], statement.payloadText);
  const { signing } = await parts.custodian.institutionKeys();
  const own = jwkThumbprint(signing);
  if (own === statement.kid) throw new CodedError('BAD_REQUEST', { diagnostics: 'An institution cannot be its own sponsor.' });
  const others = file.signatures.filter((one, n) => n === 0 || kidOf(one) !== own);
  return { ...file, signatures: [...others, jws] };
}

const CONFLICT_TRIES = 5;

/** Submits the statement with its signatures. LEDGER_REFUSED with the contract's code where one is missing (SIGNERS_MISSING). */
export async function submitFile(
  parts: { ledger: Pick<Ledger, 'endorse' | 'submit' | 'status'>; ledgerId: string },
  file: CosignedFile,
): Promise<Receipt> {
  await readFile(file, parts.ledgerId);
  for (let tries = 1; ; tries++) {
    try {
      return await submitSurely(parts.ledger, await parts.ledger.endorse({ name: file.transaction, args: file.signatures }));
    } catch (error) {
      // Another institution joined, or changed, in the same moment.
      if (codeOf(error) !== 'LEDGER_CONFLICT' || tries === CONFLICT_TRIES) throw error;
    }
  }
}

/** The file as it came from somebody else: form, the first signature, and that what a person reads is what was signed. */
async function readFile(file: CosignedFile, ledgerId: string): Promise<Statement<CosignedFile['transaction']>> {
  const bad = (diagnostics: string): CodedError => new CodedError('BAD_REQUEST', { diagnostics });
  const { transaction } = file;
  const [first] = Array.isArray(file.signatures) ? file.signatures : [];
  if ((transaction !== 'registerInstitution' && transaction !== 'rotateInstitutionKey') || typeof first !== 'string')
    throw bad('This is no file of `oncobridge ledger join` or `oncobridge institution rotate-key`.');
  const host = { ...hostCrypto, get: async () => undefined, scan: async () => [] };
  try {
    const statement = await readStatement(host, transaction, first, ledgerId);
    const { payload } = statement;
    await checkSignature(host, statement, payload.signing);
    const said = [file.institution, file.ledger, file.thumbprint, file.msp, file.version];
    const signed = [
      payload.institution,
      payload.ledger,
      statement.kid,
      'msp' in payload ? payload.msp : undefined,
      'version' in payload ? payload.version : undefined,
    ];
    if (said.some((one, n) => one !== signed[n])) throw bad('What the file says beside the signature is not what was signed.');
    return statement;
  } catch (error) {
    throw error instanceof Refusal ? bad(error.message) : error;
  }
}

function kidOf(jws: string): string | undefined {
  try {
    const header = JSON.parse(Buffer.from(jws.split('.')[0] ?? '', 'base64url').toString()) as { kid?: string };
    return header.kid;
  } catch {
    return undefined;
  }
}
