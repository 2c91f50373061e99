import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { newId } from '../../src/ids.ts';
import type { Role } from '../../src/ledger/contract/shapes.ts';
import type { JsonObject } from '../../src/records/lossless-json.ts';
import { formatLinkCode, makeLinkCode, parseLinkCode, secretHash } from '../../src/sharing/link-code.ts';
import type { LinkState } from '../../src/sharing/link-rows.ts';
import { createLinks, type Links } from '../../src/sharing/links.ts';
import type { Database } from '../../src/store/database.ts';
import { raw, sql } from '../../src/store/sql.ts';
import { createFileCustodian } from '../../src/vault/file-custodian.ts';
import type { LedgerPatient } from '../../src/vault/holder.ts';
import { createSealedRows } from '../../src/vault/sealed-rows-store.ts';
import { jwkThumbprint } from '../../src/vault/thumbprint.ts';
import { withTestDatabase } from '../store/test-database.ts';

const own = newId('inst');
const clinic = newId('inst');
const clinician = newId('mem');
const registrar = newId('mem');
const carer = newId('mem');
const officer = newId('mem');
const roles = new Map<string, Role>([
  [clinician, 'clinician'],
  [registrar, 'registrar'],
  [carer, 'carer'],
  [officer, 'privacy-officer'],
]);
const DAY = 24 * 3600 * 1000;

describe('links with patients of other institutions', () => {
  let database: Database;
  let custodian: Awaited<ReturnType<typeof createFileCustodian>>;
  let rows: ReturnType<typeof createSealedRows>;
  let directory: string;
  let links: Links;
  let clock = Date.parse('2026-11-24T08:00:00Z');
  const alarms: string[] = [];
  const changes: [LedgerPatient, LinkState][] = [];
  /** Every secret that was ever shown. */
  const shown: string[] = [];

  before(async () => {
    ({ database } = await withTestDatabase({ maxConnections: 16 }));
    directory = await mkdtemp(join(tmpdir(), 'oncobridge-links-'));
    custodian = await createFileCustodian({ directory, passphrase: randomBytes(16).toString('hex'), institution: own });
    rows = createSealedRows({ custodian });
    links = createLinks({
      database,
      rows,
      custodian,
      activeRole: async (institution, member) => (institution === own ? roles.get(member) : undefined),
      now: () => new Date(clock),
      onAlarm: ({ link }) => alarms.push(link),
      onChanged: (of, state) => changes.push([of, state]),
    });
  });
  after(async () => {
    await custodian.close();
    await rm(directory, { recursive: true, force: true });
  });

  const person = (family: string | undefined, given: string | readonly string[], birthDate: string | undefined): JsonObject => ({
    resourceType: 'Patient',
    id: 'p1',
    ...(family === undefined
      ? {}
      : { name: [{ use: 'official', family, given: typeof given === 'string' ? given.split(' ') : [...given] }] }),
    ...(birthDate === undefined ? {} : { birthDate }),
  });
  const LOVE = person('Love', 'Mary Anne', '1950-04-01');
  async function patient(resource?: JsonObject): Promise<string> {
    const pat = newId('pat');
    const sealed =
      resource === undefined ? null : await rows.seal(pat, 'core', `demographics/${pat}`, Buffer.from(JSON.stringify(resource)));
    await database.query(sql`insert into patient (pat, demographics) values (${pat}, ${sealed})`);
    return pat;
  }
  async function code(pat: string, more: { expiresInMs?: number; by?: string } = {}) {
    const made = await links.makeCode({ patient: pat, clinician, by: registrar, ...more });
    shown.push(made.text);
    return made;
  }
  const theirs = (institution = clinic): LedgerPatient => ({ institution, patient: newId('pat') });
  /** Our patient, bound to one of theirs. */
  async function bound(resource?: JsonObject) {
    const pat = await patient(resource);
    const { link, text } = await code(pat);
    const of = theirs();
    assert.deepEqual(await links.present(of, text), { state: 'bound', ownPatient: pat });
    return { pat, link, text, of };
  }
  const statusOf = async (link: string) => (await links.list()).find((one) => one.link === link)?.status;

  test('who may make a code, for whom, and for how long', async () => {
    const pat = await patient(LOVE);
    const make = (change: object) => links.makeCode({ patient: pat, clinician, by: registrar, ...change });
    for (const [change, refused] of [
      [{ by: carer }, 'FORBIDDEN'],
      [{ by: newId('mem') }, 'FORBIDDEN'],
      [{ by: await patient(LOVE) }, 'FORBIDDEN'],
      [{ by: '' }, 'FORBIDDEN'],
      [{ clinician: carer }, 'UNPROCESSABLE'],
      [{ clinician: newId('mem') }, 'UNPROCESSABLE'],
      [{ patient: newId('pat') }, 'NOT_FOUND'],
      [{ patient: 'pat-x', by: 'pat-x' }, 'NOT_FOUND'],
      [{ expiresInMs: 30 * DAY + 1 }, 'UNPROCESSABLE'],
      [{ expiresInMs: 0 }, 'UNPROCESSABLE'],
      [{ expiresInMs: -DAY }, 'UNPROCESSABLE'],
      [{ expiresInMs: Number.NaN }, 'UNPROCESSABLE'],
    ] as const)
      await assert.rejects(make(change), { code: refused }, JSON.stringify(change));
    assert.equal((await links.list()).length, 0);

    const made = [await make({}), await make({ by: clinician }), await make({ by: pat, expiresInMs: 30 * DAY })];
    shown.push(...made.map(({ text }) => text));
    const { encryption } = await custodian.institutionKeys();
    const read = parseLinkCode(made[0]?.text ?? '');
    assert.deepEqual([read.institution, read.clinician, read.link, read.expires], [own, clinician, made[0]?.link, made[0]?.expires]);
    assert.equal(read.key, jwkThumbprint(encryption));
    assert.equal(read.expires, '2026-12-01T08:00:00.000Z');
    const found = await links.list();
    assert.deepEqual(new Set(found.map(({ by }) => by)), new Set([registrar, clinician, pat]));
    for (const one of found) assert.deepEqual([one.status, one.patient, one.institution], ['open', pat, null]);
  });

  test('five codes of a patient are open at most, however many ask at once; a used, closed or expired one makes room', async () => {
    const pat = await patient(LOVE);
    const asked = await Promise.allSettled(Array.from({ length: 12 }, () => code(pat)));
    const made = asked.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
    assert.equal(made.length, 5);
    for (const one of asked) if (one.status === 'rejected') assert.equal((one.reason as { code: string }).code, 'CONFLICT');
    await links.close(made[0]?.link ?? '', registrar);
    await links.present(theirs(), made[1]?.text);
    const further = [await code(pat, { expiresInMs: 1000 }), await code(pat)];
    await assert.rejects(code(pat), { code: 'CONFLICT' });
    clock += 1000;
    await code(pat);
    assert.deepEqual(
      [await statusOf(made[0]?.link ?? ''), await statusOf(made[1]?.link ?? ''), await statusOf(further[0]?.link ?? '')],
      ['closed', 'bound', 'expired'],
    );
  });

  test('nothing, something else, an unknown, expired, closed or foreign code: refused, and nobody is bound', async () => {
    const pat = await patient(LOVE);
    const { link, text } = await code(pat);
    const good = parseLinkCode(text);
    const expired = await code(pat, { expiresInMs: 2000 });
    const closed = await code(pat);
    assert.deepEqual(await links.close(closed.link, officer), { link: closed.link });
    assert.deepEqual(await links.close(closed.link, officer), { link: closed.link });
    await assert.rejects(links.close(newId('lnk'), officer), { code: 'NOT_FOUND' });
    await assert.rejects(links.close(link, carer), { code: 'FORBIDDEN' });
    clock += 2000;
    const elsewhere = makeLinkCode({ institution: clinic, clinician, key: good.key, expires: new Date(clock + DAY) });
    const invented = makeLinkCode({ institution: own, clinician, key: good.key, expires: new Date(clock + DAY) });
    const otherKey = makeLinkCode({ institution: own, clinician, key: 'A'.repeat(43), expires: new Date(clock + DAY) });
    const cases: [string | undefined, string][] = [
      [undefined, 'LINK_MISSING'],
      ['', 'LINK_MALFORMED'],
      ['ob1.x.y', 'LINK_MALFORMED'],
      [text.slice(0, -1), 'LINK_MALFORMED'],
      [formatLinkCode(invented), 'LINK_UNKNOWN'],
      [formatLinkCode(otherKey), 'LINK_OTHER'],
      [formatLinkCode(elsewhere), 'LINK_OTHER'],
      [formatLinkCode({ ...good, institution: clinic }), 'LINK_OTHER'],
      [expired.text, 'LINK_EXPIRED'],
      [closed.text, 'LINK_EXPIRED'],
      // A true secret beside another clinician, a later expiry, another link.
      [formatLinkCode({ ...good, clinician: registrar }), 'LINK_UNKNOWN'],
      [formatLinkCode({ ...parseLinkCode(expired.text), expires: new Date(clock + DAY).toISOString() }), 'LINK_UNKNOWN'],
      [formatLinkCode({ ...good, link: newId('lnk') }), 'LINK_UNKNOWN'],
      [formatLinkCode({ ...good, secret: invented.secret }), 'LINK_UNKNOWN'],
    ];
    const of = theirs();
    for (const [given, refused] of cases) {
      await assert.rejects(links.present(of, given), (error: Error & { code: string }) => {
        assert.equal(error.code, refused, given);
        if (given !== undefined && given.length > 50)
          assert.ok(!error.message.includes(parseSecret(given)), 'the secret is in the message');
        return true;
      });
    }
    await assert.rejects(links.present({ institution: own, patient: pat }, text), { code: 'LINK_OTHER' });
    await assert.rejects(links.compare(of, LOVE), { code: 'LINK_MISSING' });
    assert.deepEqual(
      (await database.query(sql`select 1 from patient_link where inst = ${of.institution} and pat = ${of.patient}`)).length,
      0,
    );
    assert.equal(await statusOf(link), 'open');
  });
  test('a code binds the first who presents it, once: the same again needs none, whenever; anybody else is refused', async () => {
    const { pat, link, text, of } = await bound(LOVE);
    for (const given of [text, undefined, 'rubbish', formatLinkCode({ ...parseLinkCode(text), link: newId('lnk') })])
      assert.deepEqual(await links.present(of, given), { state: 'bound', ownPatient: pat });
    clock += 8 * DAY;
    assert.deepEqual(await links.present(of, text), { state: 'bound', ownPatient: pat });
    // Stolen: another patient of theirs, the same pseudonym of another institution.
    await assert.rejects(links.present(theirs(), text), { code: 'LINK_USED' });
    await assert.rejects(links.present({ ...of, institution: newId('inst') }, text), { code: 'LINK_USED' });
    await assert.rejects(links.present({ ...of, institution: newId('inst') }, undefined), { code: 'LINK_MISSING' });
    await assert.rejects(links.close(link, registrar), { code: 'CONFLICT' });
    // Another patient who is linked already cannot use it up either.
    const other = await bound(LOVE);
    await assert.rejects(links.present(other.of, text), { code: 'LINK_USED' });

    // The same pseudonym at another institution is another patient, with a code of their own.
    const twin = { institution: newId('inst'), patient: of.patient };
    const elsewhere = await patient(person('Kim', 'Jun', '1990-01-01'));
    assert.deepEqual(await links.present(twin, (await code(elsewhere)).text), { state: 'bound', ownPatient: elsewhere });
    assert.equal((await links.present(of, undefined)).ownPatient, pat);

    // A second code of the same patient of ours is used up by who is linked; one of another patient is not taken.
    const second = await code(pat);
    assert.deepEqual(await links.present(of, second.text), { state: 'bound', ownPatient: pat });
    assert.equal(await statusOf(second.link), 'spent');
    assert.deepEqual(await links.present(of, second.text), { state: 'bound', ownPatient: pat });
    await assert.rejects(links.present(theirs(), second.text), { code: 'LINK_USED' });
    const third = await code(await patient(LOVE));
    await assert.rejects(links.present(of, third.text), { code: 'LINK_OTHER' });
    assert.equal(await statusOf(third.link), 'open');
  });

  test('of many who present one code at once exactly one is bound; one who presents two codes at once is bound by one', async () => {
    for (let round = 0; round < 5; round++) {
      const pat = await patient(LOVE);
      const { text } = await code(pat);
      const many = Array.from({ length: 8 }, () => theirs());
      // Each of them twice, as a retried pass does.
      const tried = await Promise.allSettled([...many, ...many].map((of) => links.present(of, text)));
      assert.equal(tried.filter((one) => one.status === 'fulfilled').length, 2);
      for (const one of tried) if (one.status === 'rejected') assert.equal((one.reason as { code: string }).code, 'LINK_USED');
      assert.equal((await database.query(sql`select 1 from patient_link where own_pat = ${pat}`)).length, 1);

      const codes = [await code(pat), await code(pat)];
      const of = theirs();
      const both = await Promise.all([...codes, ...codes].map((one) => links.present(of, one.text)));
      assert.deepEqual(
        both,
        Array.from({ length: 4 }, () => ({ state: 'bound', ownPatient: pat })),
      );
      assert.deepEqual(new Set(await Promise.all(codes.map(({ link }) => statusOf(link)))), new Set(['bound', 'spent']));
    }
    // A close and a presenter at once: either it was closed and nobody is bound, or somebody is and it was not closed.
    for (let round = 0; round < 20; round++) {
      const { link, text } = await code(await patient(LOVE));
      const [closed, presented] = await Promise.allSettled([links.close(link, registrar), links.present(theirs(), text)]);
      assert.notEqual(closed.status, presented.status);
      assert.equal(await statusOf(link), closed.status === 'fulfilled' ? 'closed' : 'bound');
    }
  });

  test('names: accents, order, middle names and spaces are no difference; another name or birth date, or one that is missing, is held', async () => {
    const full = '1971-03-05';
    const cases: [string, JsonObject, JsonObject, string][] = [
      ['the same', LOVE, LOVE, 'confirmed'],
      ['accents', person('Müller', 'Zoë', full), person('Muller', 'Zoe', full), 'confirmed'],
      [
        'composed and not',
        person('Dvořák', 'Antonín', full),
        person('Dvořák'.normalize('NFD'), 'Antonín'.normalize('NFD'), full),
        'confirmed',
      ],
      ['a middle name more', person('Garcia', 'Ana Lucia', full), person('García', 'Ana', full), 'confirmed'],
      ['capitals', person('O’NEILL', 'SEAN', full), person("O'Neill", 'Seán', full), 'confirmed'],
      ['Korean, a space more', person('김', '민준', full), { ...person(undefined, '', full), name: [{ text: '김 민준' }] }, 'confirmed'],
      ['another Korean name', person('김', '민준', full), person('이', '민준', full), 'held name differs'],
      ['Korean here, Latin there', person('김', '민준', full), person('Kim', 'Minjun', full), 'held name differs'],
      ['Vietnamese', person('Nguyễn', 'Thị Hương', full), person('Nguyen', 'Thi Huong', full), 'confirmed'],
      ['Vietnamese, given and family changed over', person('Đỗ', 'Văn An', full), person('An', 'Do Van', full), 'confirmed'],
      ['another Vietnamese name', person('Nguyễn', 'Thị Hương', full), person('Nguyễn', 'Thị Lan', full), 'held name differs'],
      ['married', person('Love', 'Mary', full), person('Okafor', 'Mary', full), 'held name differs'],
      [
        'married, the former name known',
        {
          ...person('Okafor', 'Mary', full),
          name: [
            { family: 'Okafor', given: ['Mary'] },
            { use: 'maiden', family: 'Love', given: ['Mary'] },
          ],
        },
        person('Love', 'Mary', full),
        'confirmed',
      ],
      ['a day off', LOVE, person('Love', 'Mary Anne', '1950-04-02'), 'held birthDate differs'],
      ['all else', LOVE, person('Kim', 'Jun', '1990-01-01'), 'held name differs birthDate differs'],
      ['no birth date there', LOVE, person('Love', 'Mary Anne', undefined), 'held birthDate missing'],
      ['no birth date here', person('Love', 'Mary Anne', undefined), LOVE, 'held birthDate missing'],
      ['a year alone', LOVE, person('Love', 'Mary Anne', '1950'), 'held birthDate missing'],
      ['another year alone', LOVE, person('Love', 'Mary Anne', '1951'), 'held birthDate differs'],
      ['no name there', LOVE, person(undefined, '', '1950-04-01'), 'held name missing'],
      ['no name here', person(undefined, '', '1950-04-01'), LOVE, 'held name missing'],
      ['an empty record', LOVE, { resourceType: 'Patient' }, 'held name missing birthDate missing'],
      ['no Patient at all', LOVE, { ...LOVE, resourceType: 'Person' }, 'held name missing birthDate missing'],
    ];
    for (const [what, ours, others, wanted] of cases) {
      const { link, of } = await bound(ours);
      const state = await links.compare(of, others);
      const { held } = await links.show(link, false);
      const text = [state, ...held.flatMap(({ differs }) => differs.map(({ field, how }) => `${field} ${how}`))].join(' ');
      assert.equal(text, wanted, what);
      assert.equal((await links.present(of, undefined)).state, state);
      assert.equal(alarms.includes(link), state === 'held', what);
    }
    const unknown = await bound();
    assert.equal(await links.compare(unknown.of, LOVE), 'held');
  });

  test('held stays held until a person answers; what was accepted is exactly what was shown', async () => {
    const { link, of } = await bound(LOVE);
    const married = person('Okafor', 'Mary Anne', '1950-04-01');
    const before = alarms.length;
    assert.equal(await links.compare(of, married), 'held');
    assert.deepEqual(alarms.slice(before), [link]);
    // Once more, by an equal document: the question stays, and is not asked twice.
    assert.equal(await links.compare(of, married), 'held');
    assert.equal(await links.compare(of, LOVE), 'held');
    assert.equal(alarms.length, before + 1);

    const closedEyes = await links.show(link, false);
    assert.deepEqual(closedEyes.theirs, of);
    assert.doesNotMatch(JSON.stringify(closedEyes), /Okafor|Love|1950/);
    const open = await links.show(link, true);
    assert.deepEqual(open.held, [
      {
        differs: [{ field: 'name', how: 'differs' }],
        theirs: { name: 'Mary Anne Okafor', birthDate: '1950-04-01' },
        ours: { name: 'Mary Anne Love', birthDate: '1950-04-01' },
      },
    ]);
    const answer = (change: object) =>
      links.resolve({
        link,
        answer: 'accept',
        seen: open.seen ?? '',
        reason: 'married in March, see her passport',
        by: registrar,
        ...change,
      });
    await assert.rejects(answer({ reason: ' ' }), { code: 'BAD_REQUEST' });
    await assert.rejects(answer({ by: carer }), { code: 'FORBIDDEN' });
    await assert.rejects(answer({ by: newId('mem') }), { code: 'FORBIDDEN' });
    await assert.rejects(answer({ link: newId('lnk') }), { code: 'NOT_FOUND' });
    await assert.rejects(answer({ seen: '00000000' }), { code: 'CONFLICT' });
    // Another document came in between: what was shown is not what would be accepted.
    const third = person('Okafor', 'Mary Anne', '1951-04-01');
    assert.equal(await links.compare(of, third), 'held');
    assert.equal(alarms.length, before + 2);
    await assert.rejects(answer({}), { code: 'CONFLICT' });
    const now = await links.show(link, true);
    assert.equal(now.held.length, 2);
    const at = changes.length;
    assert.deepEqual(await answer({ seen: now.seen ?? '' }), { link, state: 'confirmed', already: false });
    assert.deepEqual(changes.slice(at), [[of, 'confirmed']]);
    assert.deepEqual(await answer({ seen: now.seen ?? '' }), { link, state: 'confirmed', already: true });

    for (const one of [married, third, LOVE]) assert.equal(await links.compare(of, one), 'confirmed');
    assert.equal(await links.compare(of, person('Okafor', 'Mary Anne', '1952-04-01')), 'held');
    assert.equal(await links.compare(of, married), 'held', 'an open question stays open');
    const again = await links.show(link, true);
    assert.deepEqual(
      again.held.map((one) => one.theirs?.birthDate),
      ['1952-04-01'],
    );
    assert.equal(again.answered?.reason, 'married in March, see her passport');
    assert.equal((await links.counts()).held > 0, true);

    // Rejected: nothing of theirs counts any more, whatever it says.
    assert.deepEqual(await answer({ answer: 'reject', seen: undefined }), { link, state: 'rejected', already: false });
    assert.deepEqual(changes.at(-1), [of, 'rejected']);
    assert.equal((await answer({ answer: 'reject', seen: undefined })).already, true);
    assert.equal(await links.compare(of, LOVE), 'rejected');
    assert.deepEqual((await links.present(of, undefined)).state, 'rejected');
    assert.equal((await links.list()).find((one) => one.link === link)?.decidedBy, registrar);
    // Taken back: compared anew from the start, and what was accepted need not be asked again.
    // The envelope of a later grant was not opened: it is now.
    await database.query(sql`
      insert into shared_envelope (inst, pat, category, path, hash, recipient, statement, state, code, retry_at)
      values (${of.institution}, ${of.patient}, 'laboratory', 'a/envelopes/x', 'x', 'k', 's', 'refused', 'LINK_REJECTED', 'infinity')`);
    const seen = (await links.show(link, false)).seen ?? '';
    assert.equal((await answer({ seen })).state, 'bound');
    assert.deepEqual(await database.query(sql`select state, retry_at as at from shared_envelope where pat = ${of.patient}`), [
      { state: 'wanted', at: new Date(clock) },
    ]);
    assert.equal(await links.compare(of, married), 'confirmed');
  });

  test('a link may be rejected before anything was compared and after it was confirmed, but not accepted blindly', async () => {
    const { link, of } = await bound(LOVE);
    const answer = (kind: 'accept' | 'reject') => links.resolve({ link, answer: kind, reason: 'another person', by: clinician });
    await assert.rejects(answer('accept'), { code: 'CONFLICT' });
    assert.equal(await links.compare(of, LOVE), 'confirmed');
    assert.equal((await answer('accept')).already, true);
    assert.equal((await answer('reject')).state, 'rejected');
    // A used or expired code opens nothing; a new one begins anew, for another of our patients too.
    const right = await patient(person('Kim', 'Jun', '1990-01-01'));
    const late = await code(right, { expiresInMs: 1000 });
    const closed = await code(right);
    await links.close(closed.link, registrar);
    clock += 1000;
    for (const { text } of [late, closed]) assert.equal((await links.present(of, text)).state, 'rejected');
    const fresh = await code(right);
    assert.deepEqual(await links.present(of, fresh.text), { state: 'bound', ownPatient: right });
    assert.equal(await statusOf(link), 'spent');
    assert.equal(await links.compare(of, LOVE), 'held');
    await assert.rejects(links.present(theirs(), fresh.text), { code: 'LINK_USED' });
    assert.deepEqual((await links.show(link, false)).theirs, null);
  });

  test('what was shown goes with the keys of their data; the link then asks anew', async () => {
    const { link, of } = await bound(LOVE);
    assert.equal(await links.compare(of, person('Okafor', 'Mary Anne', '1950-04-01')), 'held');
    await custodian.destroy(`${of.institution}.${of.patient}`);
    const gone = await links.show(link, true);
    assert.deepEqual(gone.held, []);
    assert.equal(
      (await links.resolve({ link, answer: 'accept', seen: gone.seen ?? '', reason: 'seen before', by: registrar })).state,
      'bound',
    );
    assert.equal(await links.compare(of, person('Okafor', 'Mary Anne', '1950-04-01')), 'held');
  });

  test('comparisons of many documents at once hold a link once, and show each set of facts once, ten at most', async () => {
    const { link, of } = await bound(LOVE);
    const others = Array.from({ length: 14 }, (_, i) => person('Okafor', 'Mary Anne', `19${60 + i}-04-01`));
    const before = changes.length;
    const states = await Promise.all([...others, ...others, LOVE].map((one) => links.compare(of, one)));
    // The equal one may have been first; after the first that differs nothing is confirmed.
    assert.equal(
      states.slice(0, -1).every((state) => state === 'held'),
      true,
    );
    assert.equal((await links.show(link, false)).held.length, 10);
    assert.equal(changes.slice(before).filter(([, state]) => state === 'held').length, 1);
    assert.equal(await links.compare(of, LOVE), 'held');
  });

  test('no secret, name or reason lies anywhere in the database in clear', async () => {
    assert.ok(shown.length > 30);
    const tables = await database.query<{ name: string }>(
      sql`select format('%I.%I', schemaname, tablename) as name from pg_tables where schemaname not in ('pg_catalog', 'information_schema')`,
    );
    const dump: string[] = [];
    for (const { name } of tables) {
      const found = await database.query<{ t: string }>(sql`select t::text as t from ${raw(name)} t`);
      for (const { t } of found) dump.push(t, bytesOf(t));
    }
    const whole = dump.join('\n');
    assert.ok(whole.includes(secretHash(parseLinkCode(shown[0] ?? ''))), 'the search sees the tables');
    for (const text of shown) {
      const { secret } = parseLinkCode(text);
      const bytes = Buffer.from(secret, 'base64url');
      const forms = [secret, bytes.toString('hex'), bytes.toString('latin1'), bytes.toString('base64'), text.slice(4, 60), text.slice(-60)];
      for (const form of forms) assert.ok(!whole.includes(form), 'a secret lies in the database');
    }
    for (const word of ['Okafor', 'married', '민준']) assert.ok(!whole.includes(word), word);
  });
});

function parseSecret(text: string): string {
  try {
    return parseLinkCode(text).secret;
  } catch {
    return text;
  }
}

/** Every bytea of a row's text, as bytes. */
function bytesOf(text: string): string {
  return [...text.matchAll(/\\\\?x([0-9a-f]+)/g)].map(([, hex = '']) => Buffer.from(hex, 'hex').toString('latin1')).join('\n');
}
