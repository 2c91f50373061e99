import { z } from 'zod';
import { CodedError } from '../errors.ts';
import type { EcJwk } from '../ledger/contract/host.ts';
import { verifyEs256 } from '../ledger/host-crypto.ts';
import type { LedgerPatient } from '../vault/holder.ts';
import { jwkThumbprint } from '../vault/thumbprint.ts';

const TYPE = 'claim-finish+jws';
const thumbprint = z.string().regex(/^[A-Za-z0-9_-]{43}$/);
const header = z.strictObject({ alg: z.literal('ES256'), kid: thumbprint, typ: z.literal(TYPE) });
const content = z.strictObject({
  institution: z.string().max(64),
  keys: z.array(thumbprint).max(5000),
  ledger: z.string().max(64),
  patient: z.string().max(64),
  type: z.literal('finishClaim'),
});

/**
 * Thumbprints of the category keys that a device says it has, by its patient's signature. It is no transaction: the ledger never sees
 * it, and what it allows is only what the patient's own custodian keeps. BAD_REQUEST for another form, FORBIDDEN where `signing` did
 * not sign it or it is of another patient or ledger.
 */
export async function readFinishProof(
  jws: string,
  expect: LedgerPatient & { ledger: string; signing: EcJwk },
): Promise<ReadonlySet<string>> {
  const [head = '', body = '', tail = ''] = jws.split('.');
  const read = { header: header.safeParse(parsed(head)), content: content.safeParse(parsed(body)) };
  if (!read.header.success || !read.content.success || jws !== `${head}.${body}.${tail}`)
    throw new CodedError('BAD_REQUEST', { diagnostics: 'The proof is no signed list of the keys that came.', expression: ['proof'] });
  const { institution, patient, ledger, keys } = read.content.data;
  const isMeant = institution === expect.institution && patient === expect.patient && ledger === expect.ledger;
  const isSigned =
    read.header.data.kid === jwkThumbprint(expect.signing) &&
    (await verifyEs256(expect.signing, Buffer.from(`${head}.${body}`), Buffer.from(tail, 'base64url')));
  if (!isMeant || !isSigned)
    throw new CodedError('FORBIDDEN', { diagnostics: "The proof is not by the patient's key on the ledger, or is of another patient." });
  return new Set(keys);
}

function parsed(part: string): unknown {
  try {
    return JSON.parse(Buffer.from(part, 'base64url').toString('utf8'));
  } catch {
    return undefined;
  }
}
