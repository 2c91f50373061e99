import { codeOf } from '../errors.ts';
import type { CosignedFile } from '../membership/cosigned-file.ts';
import {
  followInstitutionKeys,
  makeRotationFile,
  projectedInstitution,
  type RotatedKeys,
  requireOthers,
  rotateInstitutionKeys,
} from '../membership/institution-keys.ts';
import type { Core } from './core.ts';

/**
 * The institution's keys in a running process: whenever the ledger names a new version, whoever submitted it, that is used from
 * then on, and what the former key had signed and the ledger then refused goes out again.
 */
export function createInstitutionKeyUse(core: Core): { rotate(): Promise<RotatedKeys>; statement(): Promise<CosignedFile> } {
  const { database, custodian, institution, ledger, ledgerId, projection, log } = core;

  async function follow(): Promise<void> {
    const state = await projectedInstitution(database, institution);
    if (state !== undefined && (await followInstitutionKeys(custodian, state)))
      log.info({ version: state.version }, 'the institution uses its new keys');
    await core.signAgain();
  }
  projection.onApplied(({ transactions }) => {
    if (!transactions.some(({ name, validation }) => name === 'rotateInstitutionKey' && validation === 'VALID')) return;
    follow().catch((error: unknown) => log.error({ code: codeOf(error) ?? 'INTERNAL' }, 'the ledger names keys that cannot be used here'));
  });

  const parts = { on: database, ledger, custodian, ledgerId };
  return {
    async statement() {
      requireOthers(ledger.kind);
      return makeRotationFile(parts);
    },
    rotate: () => rotateInstitutionKeys({ ...parts, follow, projected: (block, timeoutMs) => projection.waitFor(block, timeoutMs) }),
  };
}
