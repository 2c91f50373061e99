/**
 * Three institutions as they run: processes of their own on one network and one store, which all tests share, in order. What the demo
 * tells, then what is done against it. INSTITUTIONS_ROUNDS kills more of A's processes; 12 is each of them at each step.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { DocumentReference } from 'fhir/r4.js';
import { type Cast, tellInstitutions } from '../../simulator/demo-institutions.ts';
import type { Story } from '../../simulator/demo-story.ts';
import { type Acts, createActs, NOT_SHARED, SHARED, type SharingPatient } from '../../simulator/institutions-acts.ts';
import type { InstitutionPart, InstitutionsSite, SiteInstitution } from '../../simulator/institutions-site.ts';
import { createPatientDevice } from '../../simulator/patient-device.ts';
import type { Simulator } from '../../simulator/simulator.ts';
import type { StatusReport } from '../../src/cli/operations.ts';
import { newId } from '../../src/ids.ts';
import * as keys from '../../src/ledger/contract/keys.ts';
import * as build from '../../src/ledger/contract/payloads.ts';
import { connectPeers } from '../../src/ledger/fabric/peers.ts';
import { raw, sql } from '../../src/store/sql.ts';
import { createFileCustodian } from '../../src/vault/file-custodian.ts';
import { holderName } from '../../src/vault/holder.ts';
import { createSealedRows } from '../../src/vault/sealed-rows-store.ts';
import { rawBlocks } from '../fabric/raw-blocks.ts';
import { replaceChaincode } from '../fabric/replace-chaincode.ts';
import { fabricTest } from '../fabric/test-network.ts';
import { createBlockLinter } from '../privacy/block-linter.ts';
import { createCanarySearch } from '../privacy/canary-search.ts';
import { dump } from '../privacy/dump.ts';
import { openTestSite, withDatabase } from './test-site.ts';

/** Of the course that is shared, and of nothing else. */
const CANARIES = ['PTV_Breast_L', 'PTV_SCV_L', 'CalcPt_Scar', 'C1_Breast_L', '6003.75'];
const PARTS: readonly InstitutionPart[] = ['oncobridge', 'postgres', 'peer', 'chaincode'];
const STEPS = ['grant', 'entry', 'revoke'] as const;
const ROUNDS = Number(process.env['INSTITUTIONS_ROUNDS'] ?? 4);

describe('between institutions', fabricTest(), () => {
  let site: InstitutionsSite;
  let simulator: Simulator;
  let acts: Acts;
  let cast: Cast;
  let close: () => Promise<void>;
  let a: SiteInstitution;
  let b: SiteInstitution;
  let c: SiteInstitution;
  const scratch = mkdtempSync(join(tmpdir(), 'oncobridge-institutions-test-'));

  before(async () => {
    ({ site, simulator, close } = await openTestSite());
    ({ a, b, c } = site.institutions);
    acts = createActs(site);
  });
  after(async () => {
    await close?.();
    rmSync(scratch, { recursive: true, force: true });
  });

  /** What a thief of B's rows and copies had while B held what was shared. */
  interface Stolen {
    keys: { category: string; version: number; jwk: Buffer }[];
    rows: { id: string; version: number; category: string; body: Buffer }[];
    copies: { pointer: string; wrap: string; document: string; version: number; category: string }[];
    custodian: string;
  }
  async function steal(patient: string): Promise<Stolen> {
    const custodian = join(scratch, 'keys');
    cpSync(join(b.data, 'keys'), custodian, { recursive: true });
    rmSync(join(custodian, 'keys.lock'), { force: true });
    return withDatabase(b, async (database) => ({
      custodian,
      keys: await database.query(sql`select category, version, jwk from shared_key where pat = ${patient}`),
      rows: await database.query(sql`select id, version, category, body from resource where inst = ${a.institution} and pat = ${patient}`),
      copies: await database.query(
        sql`select pointer, wrap, document, version, category from shared_version where pat = ${patient} and inst = ${a.institution}`,
      ),
    }));
  }
  /** How many of the stolen rows the key store in this folder opens. */
  async function opened(folder: string, stolen: Stolen, patient: string): Promise<number> {
    const passphrase = readFileSync(join(b.folder, 'secrets/CUSTODIAN_PASSPHRASE'), 'utf8').trim();
    const custodian = await createFileCustodian({ directory: folder, passphrase, institution: b.institution });
    try {
      const rows = createSealedRows({ custodian });
      const holder = holderName(b.institution, { institution: a.institution, patient });
      const results = await Promise.allSettled([
        ...stolen.keys.map((key) => rows.open(holder, key.category, `shared-key/${key.version}`, key.jwk)),
        ...stolen.rows.map((row) => rows.open(holder, row.category, `resource/${row.id}/${row.version}`, row.body)),
      ]);
      return results.filter((one) => one.status === 'fulfilled').length;
    } finally {
      await custodian.close();
    }
  }

  let stolen: Stolen;
  let beforeEnd = 0;

  test('the story: linked, granted, read with A off, revoked through C, A agrees', async () => {
    const lines: string[] = [];
    const tell = (text: string): void => void lines.push(text);
    const story: Story = { title: tell, line: tell, table: tell, request: (who, what, answer) => tell(`${who} ${what} ${answer}`) };
    cast = await tellInstitutions({
      acts,
      story,
      output: scratch,
      meanwhile: async ({ patient }) => {
        stolen = await steal(patient);
        beforeEnd = await opened(stolen.custodian, stolen, patient);
      },
    });
    for (const line of lines.filter((one) => one.includes(' ms'))) console.log(`   ${line}`);
  });

  test('after the end B has no key, row, copy or word of it', async () => {
    const { patient } = cast;
    assert.ok(stolen.keys.length > 0 && stolen.rows.length > 2 && stolen.copies.length > 0, 'B never held anything');
    assert.equal(beforeEnd, stolen.keys.length + stolen.rows.length, 'while it was shared its keys open all of it');

    const finder = createCanarySearch(CANARIES);
    const tables = await withDatabase(b, async (database) => {
      for (const table of ['shared_version', 'shared_key', 'shared_category', 'shared_object', 'resource'])
        assert.deepEqual(await database.query(raw(`select 1 from ${table} where inst = '${a.institution}'`)), [], table);
      assert.ok((await database.query(raw(`select 1 from sharing_end where deleted_at is not null`))).length > 0);
      await database.query(raw('checkpoint'));
      return dump(database);
    });
    assert.deepEqual(
      tables.flatMap(({ table, text }) => finder.searchText(table, text)),
      [],
    );
    // Objects: our copies are gone, and so is what the patient's grant left at A.
    const names = storeNames();
    for (const { pointer } of stolen.copies) {
      assert.ok(pointer.startsWith(`${b.institution}/`));
      assert.ok(!names.some((name) => name.includes(pointer)), 'a sealed copy still lies in the store');
    }
    await b.stop();
    try {
      // An earlier copy of rows and a later look at the keys: nothing opens.
      assert.equal(await opened(join(b.data, 'keys'), stolen, patient), 0, 'a key of the ended category is still kept');
      const folders = await Promise.all([finder.searchFolder(b.folder), finder.searchFolder(join(site.folder, 'store'))]);
      assert.deepEqual(
        folders.flatMap((one) => one.findings.map(({ canary, form, place }) => `${canary} as ${form} in ${place}`)),
        [],
      );
      assert.ok(folders.every((one) => one.files > 10));
    } finally {
      await b.start();
    }
    // It finds what is there.
    assert.ok(finder.search('planted', Buffer.from(`x${Buffer.from('..PTV_Breast_L..').toString('base64')}`)).length > 0);
  });

  /** Names of objects, as the store's operator sees them on disk. */
  const storeNames = (): string[] => readdirSync(join(site.folder, 'store'), { recursive: true }).map(String);

  test('the blocks: no word of a record, no code, and never the two pseudonyms of a person in one transaction', async () => {
    const linter = createBlockLinter([...CANARIES, ...simulator.truth().canaries, 'LU-220117', 'LU-220385', 'LU-220942', 'lnk-']);
    const blocks = await rawBlocks(await site.network.connection('c'), await acts.heightAt('c'));
    assert.ok(blocks.length > 30);
    assert.deepEqual(
      blocks.flatMap((block) => linter.fabric(block)),
      [],
    );
    const both = (await acts.transactionsSince('c', 0)).filter((one) => {
      const text =
        JSON.stringify([one.args, [...one.writes]]) + one.args.map((arg) => Buffer.from(arg.split('.')[1] ?? '', 'base64url').toString());
      return text.includes(cast.patient) && text.includes(cast.ownAtB);
    });
    assert.deepEqual(both, []);
  });

  // -- rounds: another patient, whose course goes on --

  let phuong: SharingPatient;
  let grantee: string;
  let clinicianToken: string;
  const atB = (): Promise<DocumentReference[]> =>
    acts.search<DocumentReference>(b, clinicianToken, `DocumentReference?patient=${phuong.patient}&category=${SHARED}`);
  const granted = async (): Promise<boolean> =>
    (await acts.headsAtA(phuong.token)).some((head) => head.grantee === grantee && head.category === SHARED && head.status === 'active');

  /** The act again until what it is for holds: its answer may have died with whoever would have given it. */
  async function insist(what: string, act: () => Promise<unknown>, holds: () => Promise<boolean>): Promise<void> {
    await acts.until(
      what,
      async () => {
        if (await holds()) return true;
        await act();
        return undefined;
      },
      60_000,
      300,
    );
  }
  /** Something of A dies while it goes on and comes back a moment later, whatever became of the act meanwhile. */
  async function killedDuring(part: InstitutionPart, afterMs: number, work: () => Promise<unknown>): Promise<void> {
    const done = work().catch((error: unknown) => error);
    await new Promise((resolve) => setTimeout(resolve, afterMs));
    await a.kill(part);
    await Promise.race([done, new Promise((resolve) => setTimeout(resolve, 1000))]);
    await a.revive(part);
    await done;
  }
  const share = () => phuong.device.grant({ grantee, categories: [SHARED] });
  const unshare = (via: SiteInstitution) => phuong.device.revoke({ grantee, categories: [SHARED], via: via.origin });

  test(`every process of A killed at each step: ${ROUNDS} rounds`, async () => {
    const fresh = async (): Promise<string> => (phuong.token = await acts.token(a, phuong.patient));
    phuong = await acts.patientOf('phuong');
    clinicianToken = await acts.token(b, cast.clinician);
    await phuong.device.claim();
    const code = await acts.linkCode(phuong.ownAtB, cast.clinician);
    ({ grantee } = await phuong.device.grant({ code: code.text, categories: [SHARED] }));
    await acts.firstReadable(clinicianToken, phuong.patient, performance.now());
    let isShared = true;
    for (let round = 0; round < ROUNDS; round++) {
      const part = PARTS[round % PARTS.length] ?? 'oncobridge';
      const step = STEPS[Math.floor(round / PARTS.length + round) % STEPS.length] ?? 'grant';
      const afterMs = Math.floor(Math.random() * 400);
      console.log(`   round ${round}: ${part} of A killed ${afterMs} ms into: ${step}`);
      if (step === 'grant') {
        if (isShared)
          await insist(
            'revoked',
            () => unshare(c),
            async () => !(await granted()),
          );
        await killedDuring(part, afterMs, share);
        await insist('granted', share, granted);
        isShared = true;
      } else if (step === 'entry') {
        if (!isShared) await insist('granted', share, granted);
        isShared = true;
        simulator.control.advanceCourse();
        await killedDuring(part, afterMs, () => a.run(['pull']));
      } else {
        if (!isShared) await insist('granted', share, granted);
        await killedDuring(part, afterMs, () => unshare(a));
        await insist(
          'revoked',
          () => unshare(a),
          async () => !(await granted()),
        );
        isShared = false;
      }
      await acts.pull(a);
      await fresh();
      const own = await acts.read(a, phuong.token, phuong.patient, SHARED);
      await acts.until('B is where A is', async () => {
        const versions = (list: readonly DocumentReference[]): string[] =>
          list.map((one) => `${one.id} ${one.meta?.versionId} ${acts.pdfPath(one)}`).sort();
        assert.deepEqual(versions(await atB()), isShared ? versions(own.references) : []);
        return true;
      });
      if (isShared) {
        const seen = await acts.read(b, clinicianToken, phuong.patient, SHARED);
        for (const [id, pdf] of own.pdfs) assert.ok(seen.pdfs.get(id)?.equals(pdf));
      }
    }
    if (!isShared) await insist('granted', share, granted);
    await acts.agree();
  });

  /** A person's statement as it lies on the ledger, or as somebody made it, at the door of any institution. */
  async function handIn(at: SiteInstitution, transaction: string, args: readonly string[], envelopes: readonly string[] = []) {
    const answer = await fetch(`${at.origin}/device/statements`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ transaction, args, envelopes }),
    });
    return { status: answer.status, text: await answer.text() };
  }
  const linkAtB = (patient: string) =>
    withDatabase(b, async (database) => ({
      links: await database.query<{ state: string; own_pat: string }>(
        sql`select state, own_pat from patient_link where inst = ${a.institution} and pat = ${patient}`,
      ),
      categories: await database.query<{ state: string; code: string | null }>(
        sql`select state, code from shared_category where inst = ${a.institution} and pat = ${patient}`,
      ),
      held: await database.query(sql`select 1 from shared_version where inst = ${a.institution} and pat = ${patient}`),
    }));
  /** Whatever B says of this patient to this reader, it is no document. */
  async function nothingAtB(bearer: string, patient: string, references: readonly DocumentReference[]): Promise<void> {
    const list = await acts.matches(b, bearer, `DocumentReference?patient=${patient}`);
    assert.ok(Array.isArray(list) ? list.length === 0 : list.status === 503, JSON.stringify(list));
    for (const reference of references)
      assert.notEqual((await acts.call(b, bearer, acts.pdfPath(reference), { accept: 'application/pdf' })).status, 200);
    assert.equal((await acts.call(b, bearer, `Patient/${patient}`)).status, 404);
  }

  test('a clinician without the grant, one of C with a stolen code, codes of other patients', async () => {
    const brennan = await acts.patientOf('brennan');
    const own = await acts.read(a, brennan.token, brennan.patient, SHARED);
    // Keys that change hands while something of A dies: none is lost, for neither side lets go before the other has it.
    const part = PARTS[Math.floor(Math.random() * PARTS.length)] ?? 'oncobridge';
    const afterMs = Math.floor(Math.random() * 300);
    console.log(`   ${part} of A killed ${afterMs} ms into: claim`);
    await killedDuring(part, afterMs, () => brennan.device.claim());
    await insist(
      'claimed',
      () => brennan.device.claim(),
      async () => brennan.device.toJSON().claimed,
    );
    const code = await acts.linkCode(brennan.ownAtB, cast.clinician);
    const stranger = await acts.token(c, cast.stranger);
    const bystander = await acts.token(b, cast.bystander);
    const bearer = await acts.token(b, cast.clinician);
    // C's clinician has the code, and signs the grant that should carry it, by a key that is not the patient's.
    const forged = build.grantPayload({
      ...brennan.device.facts(),
      consent: newId('con'),
      evidence: null,
      grantor: 'patient',
      notAfter: new Date(Date.now() + 300_000).toISOString(),
      onBehalf: null,
      permissions: [cast.stranger, cast.clinician].map((member, n) => ({
        category: SHARED,
        clauses: [build.clause({ consent: 'con-forged', rights: ['read'] })],
        envelope: null,
        grantee: `member:${n === 0 ? c.institution : b.institution}:${member}`,
        sequence: 1,
      })),
    });
    for (const at of [a, b, c]) {
      const answer = await handIn(at, 'grantPermission', [cast.device.signed('grantPermission', forged)]);
      assert.equal(answer.status, 422, answer.text);
      assert.match(answer.text, /LEDGER_REFUSED/);
    }
    for (const [at, who] of [
      [c, stranger],
      [b, bystander],
      [b, bearer],
    ] as const) {
      for (const reference of own.references)
        assert.equal((await acts.call(at, who, acts.pdfPath(reference), { accept: 'application/pdf' })).status, 404);
      assert.equal((await acts.call(at, who, `Patient/${brennan.patient}`)).status, 404);
    }
    assert.deepEqual(await withDatabase(c, (database) => database.query(raw('select 1 from shared_version'))), []);

    // A patient who is linked presents the code of another one: refused, and nothing but the envelope is fetched.
    const asked = site.store.requests.length;
    const seoyeon = cast.device;
    const theirs = await acts.read(a, await acts.token(a, cast.patient), cast.patient, SHARED);
    await seoyeon.grant({ code: code.text, categories: [SHARED] });
    const refused = await acts.until('the code of another patient is refused', async () => {
      const at = await linkAtB(cast.patient);
      return at.categories[0]?.code === 'LINK_OTHER' ? at : undefined;
    });
    assert.deepEqual(refused, {
      links: [{ state: 'confirmed', own_pat: cast.ownAtB }],
      categories: [{ state: 'refused', code: 'LINK_OTHER' }],
      held: [],
    });
    await nothingAtB(bearer, cast.patient, theirs.references);
    assert.deepEqual(
      site.store.requests.slice(asked).filter(({ institution, name }) => institution === b.institution && !name.includes('/envelopes/')),
      [],
    );
    await seoyeon.revoke({ grantee, categories: [SHARED] });

    // It was not used up: who it was made for comes with it.
    await brennan.device.grant({ code: code.text, categories: [SHARED] });
    await acts.firstReadable(bearer, brennan.patient, performance.now());

    // A further code of theirs, stolen by one whom B does not know: bound and held, and nothing is served.
    const stolenCode = await acts.linkCode(brennan.ownAtB, cast.clinician);
    const patient = (await a.cli<{ patient: string }>(['patient', 'find', '--authority', 'mrn'], '00551208')).patient;
    const thief = createPatientDevice({
      gateway: a.origin,
      token: await acts.token(a, patient),
      institution: a.institution,
      patient,
    });
    await thief.claim();
    const all = await acts.search<DocumentReference>(a, await acts.token(a, patient), `DocumentReference?patient=${patient}`);
    const ofThief = all.filter(({ content }) => content.some(({ attachment }) => attachment.contentType === 'application/pdf'));
    assert.ok(ofThief.length > 0);
    await thief.grant({ code: stolenCode.text, categories: [SHARED, NOT_SHARED, 'history-and-physical'] });
    await acts.until('another name and birth date: held', async () =>
      (await linkAtB(patient)).links[0]?.state === 'held' ? true : undefined,
    );
    await nothingAtB(bearer, patient, ofThief);
    // The one whose code it was goes on reading what is theirs.
    const seen = await acts.read(b, bearer, brennan.patient, SHARED);
    for (const [id, pdf] of own.pdfs) assert.ok(seen.pdfs.get(id)?.equals(pdf));
    await thief.revoke({ grantee, categories: [SHARED, NOT_SHARED, 'history-and-physical'] });
    await brennan.device.revoke({ grantee, categories: [SHARED] });
  });

  test('objects and envelopes withheld, swapped, replayed: not served, alarmed, and put right when they are back', async () => {
    const list = await atB();
    assert.ok(list.length > 0);
    const alarms = async (): Promise<number> => {
      const text = await (await fetch(`${b.operationsUrl}/metrics`)).text();
      return [...text.matchAll(/^oncobridge_alarms_total\{[^}]*\} (\d+)$/gm)].reduce((sum, [, n]) => sum + Number(n), 0);
    };
    const [other] = storeNames().filter((name) => name.includes(`${a.institution}/`) && /[0-9a-f]{64}/.test(name));
    const swappedWith = /(inst-[a-z2-7]+\/[0-9a-f]{64})/.exec(other ?? '')?.[1] ?? '';
    for (const kind of ['missing', 'truncated', 'altered', 'swapped'] as const) {
      const known = await alarms();
      const heal = site.store.fault({
        kind,
        match: (name, by) => by === b.institution && name.startsWith(`${a.institution}/`) && name !== swappedWith,
        ...(kind === 'swapped' ? { other: swappedWith } : {}),
      });
      try {
        simulator.control.advanceCourse();
        await acts.pull(a);
        const wanted = (await acts.read(a, await acts.token(a, phuong.patient), phuong.patient, SHARED)).references;
        const newest = wanted.map((one) => acts.pdfPath(one)).sort();
        // The search names the patient: 503 and never the older list.
        await acts.until(`${kind}: 503`, async () => {
          const answer = await acts.matches<DocumentReference>(
            b,
            clinicianToken,
            `DocumentReference?patient=${phuong.patient}&category=${SHARED}`,
          );
          if (Array.isArray(answer))
            assert.notDeepEqual(answer.map((one) => acts.pdfPath(one)).sort(), newest, 'what cannot be had is served');
          return !Array.isArray(answer) && answer.status === 503 ? true : undefined;
        });
        // Its harm is that patient's alone.
        assert.equal((await acts.call(b, clinicianToken, `DocumentReference?patient=${cast.ownAtB}`)).status, 200);
        await acts.until(`${kind}: alarm`, async () => ((await alarms()) > known ? true : undefined), 30_000, 300);
      } finally {
        heal();
      }
      await acts.until(`${kind}: put right`, async () => ((await atB()).length > 0 ? true : undefined), 60_000, 200);
    }

    // Envelopes: of the next grant, withheld; then an earlier one of the same patient and category in its place.
    const envelopes = storeNames().flatMap((name) => /(inst-[a-z2-7]+\/envelopes\/[0-9a-f]{64})/.exec(name)?.[1] ?? []);
    const earlier = envelopes.find((name) => name.startsWith(a.institution)) ?? assert.fail('no envelope');
    for (const kind of ['missing', 'swapped'] as const) {
      await insist(
        'revoked',
        () => unshare(c),
        async () => !(await granted()),
      );
      await acts.until('ended at B', async () => ((await atB()).length === 0 ? true : undefined));
      const heal = site.store.fault({
        kind,
        match: (name, by) => by === b.institution && name.includes('/envelopes/') && name !== earlier,
        ...(kind === 'swapped' ? { other: earlier } : {}),
      });
      try {
        await share();
        const asked = site.store.requests.length;
        await acts.until(`${kind}: B asked for the envelope`, async () =>
          site.store.requests
            .slice(asked - 20)
            .some(({ institution, name }) => institution === b.institution && name.includes('/envelopes/'))
            ? true
            : undefined,
        );
        const answer = await acts.matches<DocumentReference>(
          b,
          clinicianToken,
          `DocumentReference?patient=${phuong.patient}&category=${SHARED}`,
        );
        assert.ok(!Array.isArray(answer) || answer.length === 0, `${kind}: served without its envelope`);
      } finally {
        heal();
      }
      await acts.until(`envelope ${kind}: put right`, async () => ((await atB()).length > 0 ? true : undefined), 60_000, 200);
    }
  });

  test('a permission that has ended: its grant and its envelope handed in again, and its end after a later one', async () => {
    const onLedger = (await acts.transactionsSince('c', 0)).flatMap(({ name, args: [jws = ''] }) => {
      const payload = JSON.parse(Buffer.from(jws.split('.')[1] ?? '', 'base64url').toString() || '{}') as {
        patient?: string;
        permissions?: { category: string; envelope?: { path: string } | null }[];
      };
      return payload.patient === phuong.patient ? [{ name, jws, path: payload.permissions?.[0]?.envelope?.path ?? '' }] : [];
    });
    const grant = onLedger.findLast(({ name }) => name === 'grantPermission') ?? assert.fail('no grant on the ledger');
    const kept = (path: string): string => {
      const name = storeNames().find((one) => one.includes(path) && one.endsWith('_object')) ?? assert.fail('no such object');
      return readFileSync(join(site.folder, 'store', name), 'utf8');
    };
    const envelope = kept(grant.path);
    assert.ok(grant.path.startsWith(a.institution) && grant.path.endsWith(createHash('sha256').update(envelope).digest('hex')));
    await insist(
      'revoked',
      () => unshare(c),
      async () => !(await granted()),
    );
    await acts.until('ended at B', async () => ((await atB()).length === 0 ? true : undefined));
    await acts.until('deleted at B', async () => ((await linkAtB(phuong.patient)).categories.length === 0 ? true : undefined));

    // It lies in the store still, as a thief would put it back; and the grant is signed by the patient.
    const asked = site.store.requests.length;
    const { height } = (await acts.status(b)).ledger;
    for (const at of [a, b, c]) {
      const answer = await handIn(at, 'grantPermission', [grant.jws], at === a ? [envelope] : []);
      // "It stands in block n", as it did; or refused.
      assert.ok([200, 422].includes(answer.status), answer.text);
    }
    // Past an anchor, so that whatever was written is seen.
    await acts.until('a further block', async () => ((await acts.status(b)).ledger.projected > height ? true : undefined), 30_000, 300);
    assert.deepEqual(
      (await acts.transactionsSince('b', height)).filter(({ name, validation }) => validation === 'VALID' && name === 'grantPermission'),
      [],
    );
    assert.equal(await granted(), false);
    assert.deepEqual(await atB(), []);
    assert.deepEqual((await linkAtB(phuong.patient)).held, []);
    assert.deepEqual(
      site.store.requests.slice(asked).filter(({ institution, operation }) => institution === b.institution && operation === 'get'),
      [],
    );

    // Granted anew: the revocation of before, handed in again, takes nothing away.
    const revocation = (await acts.transactionsSince('c', 0)).findLast(({ name, args: [jws = ''] }) => {
      const payload = Buffer.from(jws.split('.')[1] ?? '', 'base64url').toString();
      return name === 'revokePermission' && payload.includes(phuong.patient);
    });
    await insist('granted', share, granted);
    await acts.firstReadable(clinicianToken, phuong.patient, performance.now());
    for (const at of [a, b, c]) assert.equal((await handIn(at, 'revokePermission', revocation?.args ?? [])).status, 200);
    await acts.settled(b);
    assert.ok(await granted());
    assert.ok((await atB()).length > 0);
  });

  test('two institutions that forge a grant, an entry, a member: nothing changes at the third, and nothing opens', async () => {
    const patient = (await a.cli<{ patient: string }>(['patient', 'find', '--authority', 'mrn'], 'A-0093317')).patient;
    const bearer = await acts.token(b, cast.clinician);
    const bystander = await acts.token(b, cast.bystander);
    const requests = site.store.requests.length;
    const [document, falseMember, pointer] = [newId('doc'), newId('mem'), `${c.institution}/${'ab'.repeat(32)}`];
    const permission = `perm/${a.institution}/${patient}/patient/${grantee}/${NOT_SHARED}/`;
    const entry = {
      category: SHARED,
      ciphertextHash: 'ab'.repeat(32),
      clinician: null,
      commitment: 'cd'.repeat(32),
      keyVersion: 1,
      pointer,
    };
    const member = {
      encryption: null,
      role: 'privacy-officer',
      signing: 'x',
      status: 'active',
      validUntil: '2099-01-01T00:00:00.000Z',
      version: 9,
    };
    const ofPhuong = { institution: a.institution, patient: phuong.patient, document, version: 1 };
    const forgeries: Record<string, [string, string][]> = {
      'a grant that nobody signed': [
        [`${permission}head`, '{"sequence":1}'],
        [`${permission}v/0000000001`, '{}'],
      ],
      'a document that nobody filed, of a patient whom B may read': [
        [keys.entryKey(c.institution, ofPhuong, 0, 'ef'.repeat(32)), JSON.stringify(entry)],
      ],
      'a member of A whom A does not know': [[keys.memberKey(a.institution, falseMember), JSON.stringify(member)]],
      'a clinician of B who would be a privacy officer': [[keys.memberKey(b.institution, cast.bystander), JSON.stringify(member)]],
    };
    const forgers = await Promise.all(['chaincode.b', 'chaincode.c'].map((name) => replaceChaincode(site.network, name)));
    const peers = connectPeers(await site.network.connection('b'));
    try {
      const contract = (peers.all[0] ?? assert.fail()).network.getContract('oncobridge');
      for (const [what, writes] of Object.entries(forgeries)) {
        const proposal = contract.newProposal('forge', { arguments: [JSON.stringify(writes)], endorsingOrganizations: [b.msp, c.msp] });
        const submitted = await (await proposal.endorse()).submit();
        assert.ok((await submitted.getStatus()).successful, `two of three endorse ${what}: Fabric lets it pass`);
      }
    } finally {
      peers.close();
      await Promise.all(forgers.map((one) => one.back()));
    }
    for (const one of [a, b, c]) {
      const wanted = Object.values(forgeries).flatMap((writes) => writes.map(([key]) => key));
      await acts.until(`${one.name} alarms`, async () => {
        const alarms = await withDatabase(one, (database) =>
          database.query<{ state_keys: string[] }>(
            sql`select state_keys from ledger_alarm where kind = 'write-set' and cleared_at is null`,
          ),
        );
        const named = new Set(alarms.flatMap(({ state_keys }) => state_keys));
        return wanted.every((key) => named.has(key)) ? true : undefined;
      });
      assert.ok((await one.cli<StatusReport>(['status'])).openAlarms.some((alarm) => alarm.kind === 'write-set'));
      await withDatabase(one, async (database) => {
        const of = (table: string, where: ReturnType<typeof sql>) =>
          database.query(sql`select 1 from projection.${raw(table)} where ${where}`);
        assert.deepEqual(await of('permission', sql`pat = ${patient} and grantee = ${grantee}`), [], 'the grant');
        assert.deepEqual(await of('entry', sql`doc = ${document}`), [], 'the entry');
        assert.deepEqual(await of('member', sql`mem = ${falseMember}`), [], 'the member');
        const known = await database.query(sql`select role, status from projection.member where mem = ${cast.bystander}`);
        assert.deepEqual(known, [{ role: 'clinician', status: 'alarmed' }]);
      });
    }
    // Whose key was forged is denied until it is looked into.
    assert.equal((await acts.call(b, bearer, `Patient/${patient}`)).status, 404);
    assert.deepEqual(await acts.search(b, bearer, `DocumentReference?patient=${patient}`), []);
    await acts.until('ended at B', async () => ((await atB()).length === 0 ? true : undefined));
    const trail = await acts.matches(b, bystander, 'AuditEvent');
    assert.ok(!Array.isArray(trail) || trail.length === 0, 'no officer by forgery');
    assert.notEqual((await a.run(['token', '--as', falseMember])).code, 0);
    // Nobody asked the store for what was forged.
    assert.deepEqual(
      site.store.requests.slice(requests).filter(({ name }) => name === pointer),
      [],
    );
    // And nobody else is denied.
    assert.equal((await acts.call(a, await acts.token(a, cast.patient), `Patient/${cast.patient}`)).status, 200);
  });
});
