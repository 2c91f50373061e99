import type { Consent } from 'fhir/r4.js';
import { CodedError, codeOf } from '../errors.ts';
import { type LinkCode, parseLinkCode } from '../sharing/link-code.ts';
import type { ConsentPermission } from './consent-mapping.ts';

/** Extension of a Consent as it is sent: the text of a one-time code of another institution that is to read (docs/linking.md). */
const LINKING_CODE = 'urn:oncobridge:linking-code';

/**
 * The linking codes that came with a Consent, and the Consent without them: a code is a secret, and goes into envelopes and nowhere
 * else. Each must be for somebody whom the Consent lets read. UNPROCESSABLE, without a word of the code.
 */
export function takeLinkCodes(sent: Consent, permissions: readonly ConsentPermission[]): { resource: Consent; codes: readonly LinkCode[] } {
  const { extension, ...rest } = sent;
  const given = Array.isArray(extension) ? extension : [];
  const others = given.filter((one) => one.url !== LINKING_CODE);
  const codes = given.filter((one) => one.url === LINKING_CODE).map((one) => codeIn(one.valueString));
  // Anywhere else it would be stored, and answered, with what it stands in.
  if (JSON.stringify([rest, others]).includes(JSON.stringify(LINKING_CODE)))
    throw refuse('A linking code stands in an extension of the Consent itself, and nowhere deeper.');
  for (const { institution, clinician } of codes)
    if (!permissions.some(({ grantee }) => grantee === `member:${institution}:${clinician}` || grantee === `organization:${institution}`))
      throw refuse('A linking code is for a clinician whom the Consent does not name.');
  if (new Set(codes.map((code) => code.institution)).size < codes.length) throw refuse('Two linking codes are of one institution.');
  return { resource: { ...rest, ...(others.length === 0 ? {} : { extension: others }) } as Consent, codes };
}

function codeIn(text: unknown): LinkCode {
  if (typeof text !== 'string') throw refuse('A linking code is a valueString.');
  try {
    return parseLinkCode(text);
  } catch (error) {
    throw codeOf(error) === 'LINK_MALFORMED' ? refuse('A linking code cannot be read: a letter is wrong, or some are missing.') : error;
  }
}

function refuse(diagnostics: string): CodedError {
  return new CodedError('UNPROCESSABLE', { diagnostics, expression: ['Consent.extension'] });
}
