import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { canonicalJson } from '../../src/canonical-json.ts';
import { codeOf } from '../../src/errors.ts';
import { newId } from '../../src/ids.ts';
import { cosignFile, makeJoinFile, submitFile } from '../../src/membership/cosigned-file.ts';
import { createDirectories, type Directory } from '../../src/membership/directory.ts';
import { sql } from '../../src/store/sql.ts';
import { createFileCustodian, type FileCustodian } from '../../src/vault/file-custodian.ts';
import { createLedgerWorld, type LedgerWorld } from '../consent/ledger-world.ts';
import { newKey } from '../ledger/world.ts';

const AWAY = newId('inst');
const DAY_MS = 24 * 3600 * 1000;
let world: LedgerWorld;
let away: FileCustodian;
let folder: string;
let clinician: string;
before(async () => {
  world = await createLedgerWorld();
  folder = await mkdtemp(join(tmpdir(), 'oncobridge-directory-'));
  away = await createFileCustodian({ directory: folder, passphrase: 'Tallow-harbour 71 quince', institution: AWAY });
  const { ledgerId, custodian, ledger } = world;
  const joining = await makeJoinFile({ custodian: away, ledgerId, msp: `${AWAY}-msp` });
  const { block } = await submitFile({ ledger, ledgerId }, await cosignFile({ custodian, ledgerId }, joining, joining.thumbprint));
  await world.projected(block, 10_000);
  // Their members, as a projection of their transactions would have them; names as their own database would.
  for (const [mem, role] of [
    [(clinician = newId('mem')), 'clinician'],
    [newId('mem'), 'carer'],
  ] as const) {
    await world.database.query(sql`insert into member (mem, name, role) values (${mem}, ${`Dr. ${role}`}, ${role})`);
    await world.database.query(sql`insert into projection.member (inst, mem, role, signing_thumbprint, status, valid_until, block)
      values (${AWAY}, ${mem}, ${role}, ${newKey().thumbprint}, 'active', now() + interval '1 year', 1)`);
  }
});
after(async () => {
  await away.close();
  await world.close();
  await rm(folder, { recursive: true, force: true });
});

const refusedWith = (code: string) => (error: unknown) => codeOf(error) === code;
const directories = (custodian = away, now = () => new Date()) =>
  createDirectories({ database: world.database, custodian, ledgerId: world.ledgerId, name: 'Away Hospital', now });
const ours = (now?: () => Date) => directories(world.custodian as FileCustodian, now);
const contentOf = (jws: string): Directory => JSON.parse(Buffer.from(jws.split('.')[1] ?? '', 'base64url').toString()) as Directory;
/** What they would say, with something else in it, signed by them. */
const signed = async (change: Partial<Directory> | { more: 1 }): Promise<string> =>
  away.signAsInstitution('directory+jws', canonicalJson({ ...contentOf(await directories().own()), ...change }));

test('a directory says who works there, and the ledger bears it out', async () => {
  const jws = await directories().own();
  assert.equal((await directories().own()) === jws, false, 'each signs for itself');
  const report = await ours().import(jws);
  assert.deepEqual(
    [report.institution, report.name, report.members.map((one) => [one.id, one.role, one.name, one.onLedger])],
    [AWAY, 'Away Hospital', [[clinician, 'clinician', 'Dr. clinician', 'as listed']]],
    'no private person stands in it',
  );
  assert.equal(await ours().of(AWAY), jws);
  assert.deepEqual(await ours().known(), [world.institution, AWAY]);
  await assert.rejects(ours().of('inst-other'), refusedWith('NOT_FOUND'));
  await assert.rejects(ours().import(await ours().own()), refusedWith('BAD_REQUEST'));
  await assert.rejects(
    ours().import(await signed({ issued: new Date(Date.now() - DAY_MS).toISOString() })),
    refusedWith('CONFLICT'),
    'an older one',
  );
});

test('it is held against the ledger each time: a member who is not so there any more', async () => {
  const set = (change: string, value: string) =>
    world.database.query(
      change === 'status'
        ? sql`update projection.member set status = ${value} where mem = ${clinician}`
        : sql`update projection.member set role = ${value} where mem = ${clinician}`,
    );
  const jws = await ours().of(AWAY);
  const standing = async () => (await ours().report(jws)).members[0]?.onLedger;
  await set('status', 'suspended');
  assert.equal(await standing(), 'suspended');
  await assert.rejects(ours().import(jws), refusedWith('DIRECTORY_MEMBER'));
  await set('status', 'active');
  await set('role', 'insurer');
  assert.equal(await standing(), 'other role');
  await set('role', 'clinician');
  assert.equal(await standing(), 'as listed');
  const [member] = contentOf(jws).members;
  assert.ok(member !== undefined);
  const stranger = { ...member, id: newId('mem') };
  assert.equal((await ours().report(await signed({ members: [stranger] }))).members[0]?.onLedger, 'unknown');
  assert.equal(
    (await ours().report(await signed({ members: [{ ...member, encryption: newKey().thumbprint }] }))).members[0]?.onLedger,
    'other key',
  );
  assert.equal((await ours(() => new Date(Date.now() + 80 * DAY_MS)).report(jws)).members.length, 1);
  await assert.rejects(ours(() => new Date(Date.now() + 91 * DAY_MS)).report(jws), refusedWith('DIRECTORY_EXPIRED'));
  assert.equal(await ours().holding(AWAY), jws);
  await assert.rejects(ours(() => new Date(Date.now() + 91 * DAY_MS)).holding(AWAY), refusedWith('DIRECTORY_EXPIRED'));
});

test('what is forged, altered, of another ledger or in another form', async () => {
  const jws = await directories().own();
  const [head = '', , tail = ''] = jws.split('.');
  const altered = Buffer.from(canonicalJson({ ...contentOf(jws), name: 'Home Hospital' })).toString('base64url');
  await assert.rejects(ours().report(`${head}.${altered}.${tail}`), refusedWith('DIRECTORY_SIGNATURE'));
  const forger = newKey();
  await assert.rejects(ours().report(forger.jws('directory+jws', canonicalJson(contentOf(jws)))), refusedWith('DIRECTORY_SIGNATURE'));
  // Another institution cannot speak for it, nor it for another.
  const { custodian } = world;
  await assert.rejects(
    ours().report(await custodian.signAsInstitution('directory+jws', canonicalJson(contentOf(jws)))),
    refusedWith('DIRECTORY_SIGNATURE'),
  );
  await assert.rejects(ours().report(await signed({ institution: world.institution })), refusedWith('DIRECTORY_SIGNATURE'));
  await assert.rejects(ours().report(await signed({ encryption: forger.thumbprint })), refusedWith('DIRECTORY_KEY'));
  await assert.rejects(ours().report(await signed({ signing: forger.thumbprint })), refusedWith('DIRECTORY_KEY'));
  for (const change of [{ ledger: 'ledger-another' }, { institution: 'inst-nowhere' }, { more: 1 }, { expires: 'soon' }] as const)
    await assert.rejects(ours().report(await signed(change)), refusedWith('DIRECTORY_MALFORMED'), JSON.stringify(change));
  const blank = JSON.stringify(contentOf(jws), null, 1);
  for (const text of [
    '',
    'a.b',
    'a.b.c',
    await away.signAsInstitution('grant+jws', canonicalJson(contentOf(jws))),
    await away.signAsInstitution('directory+jws', blank),
  ])
    await assert.rejects(ours().report(text), refusedWith('DIRECTORY_MALFORMED'));
});
