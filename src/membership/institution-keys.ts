import { randomBytes } from 'node:crypto';
import { CodedError } from '../errors.ts';
import { institutionKey } from '../ledger/contract/keys.ts';
import { ecJwk, plainJwk, rotateInstitutionKeyPayload, TYP } from '../ledger/contract/payloads.ts';
import type { InstitutionState } from '../ledger/contract/state.ts';
import type { Ledger } from '../ledger/ledger.ts';
import { projectedState } from '../ledger/projection-state.ts';
import type { Sql } from '../store/database.ts';
import type { Custodian, InstitutionKeys } from '../vault/custodian.ts';
import { jwkThumbprint } from '../vault/thumbprint.ts';
import { type CosignedFile, submitFile } from './cosigned-file.ts';

type KeyHolder = Pick<Custodian, 'institution' | 'institutionKeys' | 'keptInstitutionKeys' | 'useInstitutionKeys'>;

/** This institution as the verified view of the ledger has it; undefined where it is not registered. */
export async function projectedInstitution(on: Sql, institution: string): Promise<InstitutionState | undefined> {
  const found = await projectedState(on).get(institutionKey(institution));
  return found === undefined ? undefined : (JSON.parse(found.value) as InstitutionState);
}

/**
 * Has the key store use the version that the ledger names: what a process left undone that was killed between the commit and that,
 * and what others have submitted. Resolves to whether anything changed. A view of the ledger that lies behind changes nothing back.
 * KEYS_BROKEN where none of the kept ones is the ledger's: a key store of another institution, or an old copy of it, must sign nothing.
 */
export async function followInstitutionKeys(custodian: KeyHolder, state: InstitutionState): Promise<boolean> {
  const current = await custodian.institutionKeys();
  if (isNamed(current, state)) return false;
  const named = (await custodian.keptInstitutionKeys()).find((kept) => isNamed(kept, state));
  if (named === undefined) throw new CodedError('KEYS_BROKEN', { diagnostics: 'The ledger names other keys for this institution.' });
  if (named.version < current.version) return false;
  await custodian.useInstitutionKeys(named.version);
  return true;
}

function isNamed(keys: InstitutionKeys, state: InstitutionState): boolean {
  return jwkThumbprint(keys.signing) === jwkThumbprint(state.signing) && jwkThumbprint(keys.encryption) === jwkThumbprint(state.encryption);
}

/** On one node there are no others. */
export function requireOthers(kind: 'embedded' | 'fabric'): void {
  if (kind === 'embedded')
    throw new CodedError('BAD_REQUEST', {
      diagnostics: 'On the embedded ledger nobody else could sign: where the current signing key is lost, it means a new ledger.',
    });
}

/**
 * The statement by which this institution turns to its next keys, signed by the next signing key only: two other institutions sign
 * it too where the current one is lost. The next keys are made and durable before it is, and stay the same until they are used.
 */
export async function makeRotationFile(parts: { on: Sql; custodian: Custodian; ledgerId: string }): Promise<CosignedFile> {
  const { custodian, ledgerId } = parts;
  const { institution } = custodian;
  const state = await projectedInstitution(parts.on, institution);
  if (state === undefined) throw new CodedError('INSTITUTION_NOT_REGISTERED');
  const next = await custodian.nextInstitutionKeys();
  const version = state.version + 1;
  const payload = rotateInstitutionKeyPayload({
    encryption: plainJwk(next.encryption),
    institution,
    ledger: ledgerId,
    nonce: randomBytes(16).toString('base64url'),
    signing: ecJwk(next.signing),
    version,
  });
  return {
    transaction: 'rotateInstitutionKey',
    ledger: ledgerId,
    institution,
    version,
    thumbprint: jwkThumbprint(next.signing),
    signatures: [await custodian.signAsInstitution(TYP.rotateInstitutionKey, payload, next.version)],
  };
}

export interface RotatedKeys {
  institution: string;
  /** As the ledger counts. */
  version: number;
  /** Of the new signing key. */
  thumbprint: string;
  txId: string;
  block: number;
}

/**
 * Turns to the next keys by a signature of the current one. Killed anywhere, the next start finds what the ledger names and uses
 * that; the command may be repeated, and then makes one more version where the first had come through.
 */
export async function rotateInstitutionKeys(parts: {
  on: Sql;
  ledger: Pick<Ledger, 'endorse' | 'submit' | 'status'>;
  custodian: Custodian;
  ledgerId: string;
  projected(block: number, timeoutMs: number): Promise<boolean>;
  /** Uses what the ledger names now. */
  follow(): Promise<void>;
  timeoutMs?: number;
}): Promise<RotatedKeys> {
  const { custodian, follow } = parts;
  await follow();
  const file = await makeRotationFile(parts);
  const payload = Buffer.from(file.signatures[0]?.split('.')[1] ?? '', 'base64url').toString();
  const authority = await custodian.signAsInstitution(TYP.rotateInstitutionKey, payload);
  const { txId, block } = await submitFile(parts, { ...file, signatures: [...file.signatures, authority] });
  if (!(await parts.projected(block, parts.timeoutMs ?? 15_000)))
    throw new CodedError('UNAVAILABLE', { diagnostics: 'The new keys stand on the ledger and are used as soon as its block is here.' });
  await follow();
  return { institution: custodian.institution, version: file.version ?? 0, thumbprint: file.thumbprint, txId, block };
}
