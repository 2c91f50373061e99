import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { AccessEvent } from '../../src/audit/audit.ts';
import type { MemberActor, PatientActor } from '../../src/auth/actor.ts';
import type { Database } from '../../src/store/database.ts';
import { createFileCustodian } from '../../src/vault/file-custodian.ts';
import type { SealedRows } from '../../src/vault/sealed-rows.ts';
import { createSealedRows } from '../../src/vault/sealed-rows-store.ts';
import { HOME } from '../ledger/world.ts';
import { withTestDatabase } from '../store/test-database.ts';

export const PATIENT = 'pat-aaaaaaaaaaaaaaaaaaaaaaaaaa';
export const OTHER = 'pat-bbbbbbbbbbbbbbbbbbbbbbbbbb';

/** A real database and real sealing. */
export async function open(t: TestContext): Promise<{ database: Database; rows: SealedRows; url: string; folder: string }> {
  const { database, url } = await withTestDatabase({ maxConnections: 10 });
  const folder = await mkdtemp(join(tmpdir(), 'oncobridge-audit-'));
  const custodian = await createFileCustodian({
    directory: join(folder, 'keys'),
    passphrase: randomBytes(16).toString('hex'),
    institution: HOME,
  });
  t.after(async () => {
    await custodian.close();
    await rm(folder, { recursive: true });
  });
  return { database, rows: createSealedRows({ custodian }), url, folder };
}

const token = { scopes: ['user/*.rs'], purpose: 'TREAT' };
export function member(name: string, facts: Partial<MemberActor> = {}): MemberActor {
  return {
    kind: 'member',
    institution: HOME,
    member: `mem-${name}`,
    role: 'clinician',
    client: `cli-${name}`,
    tokenId: `jti-${name}`,
    ...token,
    ...facts,
  };
}
export function patient(pat: string, institution = HOME): PatientActor {
  return { kind: 'patient', institution, patient: pat, client: 'cli-app', tokenId: `jti-${pat}`, ...token, purpose: 'PATRQT' };
}

export function access(facts: Partial<AccessEvent> = {}): AccessEvent {
  return {
    interaction: 'read',
    actor: member('reader'),
    requestId: 'req-1',
    address: '192.0.2.17',
    outcome: 'permitted',
    patients: [{ institution: HOME, patient: PATIENT }],
    resource: { type: 'Observation', id: 'res-1', versionId: '1' },
    query: 'GET /Observation/res-1',
    purpose: 'TREAT',
    decision: { height: 12 },
    ...facts,
  };
}
