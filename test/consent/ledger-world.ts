import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { MemberActor, PatientActor, SystemActor } from '../../src/auth/actor.ts';
import { createConsentService } from '../../src/consent/consent-service.ts';
import { createKeptEnvelopes } from '../../src/device/kept-envelopes.ts';
import { newId } from '../../src/ids.ts';
import { createEmbeddedLedger } from '../../src/ledger/embedded/embedded-ledger.ts';
import { createProjection } from '../../src/ledger/projection.ts';
import { ensureInstitution } from '../../src/membership/institution.ts';
import { createMembership } from '../../src/membership/members.ts';
import { mustCommit } from '../../src/outbox/await-commit.ts';
import { createLedgerWriter } from '../../src/outbox/ledger-writer.ts';
import { createOutbox } from '../../src/outbox/postgres-outbox.ts';
import { createRelay } from '../../src/outbox/relay.ts';
import { createLedgerStatements } from '../../src/pipeline/ledger-statements.ts';
import { createPostgresQueue } from '../../src/queue/postgres.ts';
import { createFileBlobs } from '../../src/store/blob-files.ts';
import { createFileCustodian } from '../../src/vault/file-custodian.ts';
import { createSealedRows } from '../../src/vault/sealed-rows-store.ts';
import { withTestDatabase } from '../store/test-database.ts';

export const CATEGORIES = ['history-and-physical', 'laboratory', 'radiation-dose'];
export type LedgerWorld = Awaited<ReturnType<typeof createLedgerWorld>>;

/** A whole institution without HTTP: real database, custodian, queue, embedded ledger and projection, and the rooms over them. */
export async function createLedgerWorld(options: { waitMs?: number } = {}) {
  const { database, url } = await withTestDatabase({ maxConnections: 16 });
  const directory = await mkdtemp(join(tmpdir(), 'oncobridge-world-'));
  const institution = newId('inst');
  const msp = `${institution}-msp`;
  const errors: Error[] = [];
  const onError = (error: Error): void => void errors.push(error);
  const custodian = await createFileCustodian({
    directory: join(directory, 'keys'),
    passphrase: randomBytes(16).toString('hex'),
    institution,
  });
  const rows = createSealedRows({ custodian });
  const tipFile = join(directory, 'ledger-tip');
  const ledger = await createEmbeddedLedger({
    database,
    tipFile,
    institution,
    msp,
    publicKey: (await custodian.institutionKeys()).signing,
    sign: (bytes, publicKey) => custodian.signBytes(bytes, publicKey),
    onError,
  });
  const projection = createProjection({ database, ledger, institution, onError });
  await projection.start();
  const projected = (block: number, timeoutMs: number): Promise<boolean> => projection.waitFor(block, timeoutMs);
  await ensureInstitution({ database, ledger, custodian, msp, projected });
  const { ledgerId } = await ledger.info();
  const queue = await createPostgresQueue({ url, onError });
  const outbox = createOutbox({ database, onError });
  const relay = await createRelay({ database, queue, onError });
  const writer = await createLedgerWriter({ database, queue, ledger, onError });
  const carrier = { outbox, projected };
  const membership = createMembership({ ...carrier, database, rows, custodian, ledgerId });
  const { activeRole } = membership;
  const blobs = createFileBlobs({ directory: join(directory, 'blobs') });
  const most = Number.MAX_SAFE_INTEGER;
  const quotas = { maxBytesPerPatient: most, maxBytesPerPatientADay: most, maxBytesPerInstitution: most, maxBytesPerInstitutionADay: most };
  const envelopes = createKeptEnvelopes({ database, blobs, institution, quotas });
  const consents = createConsentService({
    ...carrier,
    database,
    rows,
    custodian,
    envelopes,
    ledgerId,
    msp,
    categories: CATEGORIES,
    activeRole,
    onError,
    ...(options.waitMs === undefined ? {} : { waitMs: options.waitMs }),
  });
  const statements = createLedgerStatements({ custodian, ledgerId });

  const token = (purpose: string) => ({ client: 'cli-test', scopes: [], purpose, tokenId: 'jti-1', institution });
  return {
    database,
    tipFile,
    custodian,
    rows,
    ledger,
    ledgerId,
    projection,
    outbox,
    relay,
    membership,
    consents,
    envelopes,
    institution,
    msp,
    errors,
    projected,
    async enrol(): Promise<string> {
      const patient = newId('pat');
      const item = await statements.enrollPatient(patient, await custodian.enrollPatient(patient, CATEGORIES));
      const id = await database.transaction((tx) => outbox.add(tx, item));
      await mustCommit(carrier, id, 10_000);
      return patient;
    },
    person: (patient: string): PatientActor => ({ ...token('PATRQT'), kind: 'patient', patient }),
    member: (member: string, purpose = 'TREAT'): MemberActor => ({ ...token(purpose), kind: 'member', member, role: 'clinician' }),
    system: (purpose = 'TREAT'): SystemActor => ({ ...token(purpose), kind: 'system' }),
    async close(): Promise<void> {
      await consents.close();
      await relay.close();
      await writer.close();
      await queue.close();
      await outbox.close();
      await projection.close();
      await ledger.close();
      await custodian.close();
      await rm(directory, { recursive: true, force: true });
    },
  };
}
