import { randomBytes } from 'node:crypto';
import { CodedError } from '../errors.ts';
import { checkSignature, readStatement, type Statement } from '../ledger/contract/jws.ts';
import { ecJwk, plainJwk, registerInstitutionPayload, TYP } from '../ledger/contract/payloads.ts';
import { Refusal } from '../ledger/contract/refusals.ts';
import { submitSurely } from '../ledger/founding.ts';
import { hostCrypto } from '../ledger/host-crypto.ts';
import type { Ledger, Receipt } from '../ledger/ledger.ts';
import type { Custodian } from '../vault/custodian.ts';
import { jwkThumbprint } from '../vault/thumbprint.ts';

/**
 * How an institution joins a ledger (protocol section 3): it signs a statement, active institutions sign the same one, and any of
 * them submits it. Between them goes this file; it holds no secret, and nothing in it counts but the signatures.
 */
export interface JoinFile {
  transaction: 'registerInstitution';
  ledger: string;
  institution: string;
  msp: string;
  /** Of the newcomer's signing key: what is read to the sponsors over another way than the file came. */
  thumbprint: string;
  /** Compact JWS of one payload: the newcomer's first, then the sponsors'. */
  signatures: readonly string[];
}

type Signer = Pick<Custodian, 'institution' | 'institutionKeys' | 'signAsInstitution'>;

/** The newcomer's statement, with the first signature. */
export async function makeJoinFile(parts: { custodian: Signer; ledgerId: string; msp: string }): Promise<JoinFile> {
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
 * Adds this institution's signature. Whoever signs must have the newcomer's thumbprint from the newcomer itself: a file that was
 * altered on its way holds another key. BAD_REQUEST where anything in the file is not what the newcomer signed.
 */
export async function cosignJoinFile(
  parts: { custodian: Signer; ledgerId: string },
  file: JoinFile,
  thumbprint: string,
): Promise<JoinFile> {
  const { statement } = await readJoinFile(file, parts.ledgerId);
  if (thumbprint !== statement.kid)
    throw new CodedError('BAD_REQUEST', {
      diagnostics: `The key in the file has the thumbprint ${statement.kid}, not the one given: do not sign.`,
    });
  const jws = await parts.custodian.signAsInstitution(TYP.registerInstitution, statement.payloadText);
  const { signing } = await parts.custodian.institutionKeys();
  const own = jwkThumbprint(signing);
  if (own === statement.kid) throw new CodedError('BAD_REQUEST', { diagnostics: 'The newcomer cannot be its own sponsor.' });
  const others = file.signatures.filter((one, n) => n === 0 || kidOf(one) !== own);
  return { ...file, signatures: [...others, jws] };
}

/** Submits the statement with its signatures. LEDGER_REFUSED with the contract's code where one is missing (SIGNERS_MISSING). */
export async function submitJoinFile(
  parts: { ledger: Pick<Ledger, 'endorse' | 'submit' | 'status'>; ledgerId: string },
  file: JoinFile,
): Promise<Receipt> {
  await readJoinFile(file, parts.ledgerId);
  const endorsed = await parts.ledger.endorse({ name: 'registerInstitution', args: file.signatures });
  return submitSurely(parts.ledger, endorsed);
}

/** The file as it came from somebody else: form, the newcomer's signature, and that what a person reads is what was signed. */
async function readJoinFile(file: JoinFile, ledgerId: string): Promise<{ statement: Statement<'registerInstitution'> }> {
  const bad = (diagnostics: string): CodedError => new CodedError('BAD_REQUEST', { diagnostics });
  const [first] = Array.isArray(file.signatures) ? file.signatures : [];
  if (file.transaction !== 'registerInstitution' || typeof first !== 'string') throw bad('This is no file of `oncobridge ledger join`.');
  const host = { ...hostCrypto, get: async () => undefined, scan: async () => [] };
  try {
    const statement = await readStatement(host, 'registerInstitution', first, ledgerId);
    await checkSignature(host, statement, statement.payload.signing);
    const { institution, ledger, msp } = statement.payload;
    if (institution !== file.institution || ledger !== file.ledger || msp !== file.msp || statement.kid !== file.thumbprint)
      throw bad('What the file says beside the signature is not what was signed.');
    return { statement };
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
