import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Settings } from '../cli/settings.ts';
import { CodedError } from '../errors.ts';
import { createFabricLedger } from '../ledger/fabric/fabric-ledger.ts';
import { type Founded, foundChannel } from '../ledger/founding.ts';
import { type CosignedFile, makeJoinFile } from '../membership/cosigned-file.ts';
import { makeRotationFile, requireOthers } from '../membership/institution-keys.ts';
import type { Custodian } from '../vault/custodian.ts';
import { createFileCustodian } from '../vault/file-custodian.ts';
import { withDatabaseAlone } from './database-alone.ts';
import { fabricConnection } from './fabric-connection.ts';
import { institutionId } from './institution-id.ts';

/** `oncobridge ledger found`: makes this institution the founder of the channel's ledger, once. */
export async function foundFabricLedger(settings: Settings): Promise<Founded & { isNew: boolean }> {
  const { connection, pinned } = fabricConnection(settings.config.server);
  return withCustodian(settings, async (custodian) => {
    const ledger = await createFabricLedger({ connection, ledgerId: pinned ?? '' });
    try {
      const keys = await custodian.institutionKeys();
      const { institution, msp } = connection;
      return await foundChannel(
        { ledger, institution, msp, keys, signAsInstitution: (typ, payload) => custodian.signAsInstitution(typ, payload) },
        pinned,
      );
    } finally {
      await ledger.close();
    }
  });
}

/** `oncobridge ledger join`: the newcomer's signed statement, for which the network is not needed. */
export async function joinFabricLedger(settings: Settings): Promise<CosignedFile> {
  const { connection, pinned } = fabricConnection(settings.config.server);
  if (pinned === undefined) throw new CodedError('LEDGER_UNPINNED');
  return withCustodian(settings, (custodian) => makeJoinFile({ custodian, ledgerId: pinned, msp: connection.msp }));
}

/** `oncobridge institution rotate-key --export` where no server runs, for it may not start without the lost key. */
export async function exportRotation(settings: Settings): Promise<CosignedFile> {
  requireOthers(settings.config.server.ledger.kind);
  const { pinned } = fabricConnection(settings.config.server);
  if (pinned === undefined) throw new CodedError('LEDGER_UNPINNED');
  return withCustodian(settings, (custodian) => withDatabaseAlone(settings, (on) => makeRotationFile({ on, custodian, ledgerId: pinned })));
}

/** Before the institution stands on the ledger no server runs, so its keys are opened here. */
async function withCustodian<T>(settings: Settings, work: (custodian: Custodian) => Promise<T>): Promise<T> {
  const { data, config } = settings;
  const { server } = config;
  await mkdir(data, { recursive: true, mode: process.getuid?.() === 0 ? 0o711 : 0o700 });
  const institution = await institutionId(data, server.institution.id);
  const custodian = await createFileCustodian({ directory: join(data, 'keys'), passphrase: server.custodian.passphrase, institution });
  try {
    return await work(custodian);
  } finally {
    await custodian.close();
  }
}
