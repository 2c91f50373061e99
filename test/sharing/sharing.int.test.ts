import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { CodedError } from '../../src/errors.ts';
import { newId } from '../../src/ids.ts';
import { recordDocumentsArgument } from '../../src/ledger/contract/payloads.ts';
import { createSharingReport } from '../../src/sharing/report.ts';
import { lockOrphanPuts } from '../../src/store/documents.ts';
import { resourcePlace } from '../../src/store/resources.ts';
import { raw, sql } from '../../src/store/sql.ts';
import { ownWrap } from '../../src/vault/foreign-wrap.ts';
import { holderName } from '../../src/vault/holder.ts';
import { CANARY_MRN, createWorld, type FileOptions, OWN_PERSON, type World, watchedBlobs } from './world.ts';

let w: World;
before(async () => {
  w = await createWorld();
});
after(() => w.close());
afterEach(() => {
  w.clock.at = undefined;
  w.alarms.length = 0;
});

const GIVEN_OUT = newId('res');

type Row = Record<string, unknown>;
const heldOf = (patient: string) =>
  w.database.query<Row & { document: string; version: number; pointer: string; wrap: string; n: number }>(
    sql`select * from shared_version where pat = ${patient} order by document, version`,
  );
const wantedOf = (patient: string) =>
  w.database.query<Row & { document: string; state: string; code: string | null; attempts: number }>(
    sql`select * from shared_object where pat = ${patient} order by document`,
  );
const categoryOf = async (patient: string, category = 'laboratory') =>
  (
    await w.database.query<Row & { state: string; code: string | null }>(
      sql`select * from shared_category where pat = ${patient} and category = ${category}`,
    )
  )[0];
const holderOf = (patient: string) => holderName(w.b.institution, { institution: w.a.institution, patient });
const resourcesOf = async (patient: string): Promise<Record<string, Row>> => {
  const found = await w.database.query<{ id: string; type: string; version: number; category: string; body: Buffer }>(
    sql`select id, type, version, category, body from resource where pat = ${patient} order by type, id`,
  );
  const opened: Record<string, Row> = {};
  for (const { id, type, version, category, body } of found)
    opened[`${type}/${id}`] = JSON.parse(
      (await w.rows.open(holderOf(patient), category, resourcePlace(id, version), body)).toString(),
    ) as Row;
  return opened;
};

/** No row, no byte, no key of theirs is left; what remains is named. */
async function assertNothingLeft(
  patient: string,
  filed: readonly { ciphertextHash: string }[],
  categories = ['laboratory'],
): Promise<void> {
  for (const table of ['resource', 'shared_category', 'shared_key', 'shared_object', 'shared_version', 'shared_envelope'])
    assert.equal(await w.count(table, patient), 0, table);
  const dates = await w.database.query(
    sql`select 1 from resource_date d where not exists (select 1 from resource r where r.id = d.id and r.version = d.version)`,
  );
  assert.equal(dates.length, 0, 'resource_date');
  assert.equal(await w.count('shared_removal'), 0, 'shared_removal');
  for (const { ciphertextHash } of filed)
    assert.equal(await w.store.head(`${w.b.institution}/copies/${ciphertextHash}`), undefined, 'a copy');
  for (const category of [...categories, 'core'])
    await assert.rejects(w.b.custodian.rowKey(holderOf(patient), category, 'open'), { code: 'KEY_MISSING' });
  const log = await readFile(join(w.directory, 'b', 'keys.log'), 'utf8');
  assert.equal(log.includes(holderOf(patient)), false, 'the key store');
  const [link] = await w.database.query<{ detail: Buffer | null }>(sql`select detail from patient_link where pat = ${patient}`);
  assert.equal(link?.detail ?? null, null);
}

describe('share and fetch', () => {
  test('what is granted with a live code is fetched, checked and kept under names and keys of ours', async () => {
    const { patient, filed, own } = await w.granted();
    const blobs = watchedBlobs(w.store);
    await w.pass({ blobs });
    const [held, ...more] = await heldOf(patient);
    assert.ok(held);
    assert.equal(more.length, 0);
    assert.equal(held.pointer, `${w.b.institution}/copies/${filed.ciphertextHash}`);
    assert.equal((await categoryOf(patient))?.state, 'live');
    assert.equal((await wantedOf(patient)).length, 0);
    // Our copy opens with our own key alone, and only as what it is.
    const wrap = ownWrap({ institution: w.b.institution, holder: holderOf(patient), category: 'laboratory', wrapped: held.wrap });
    const expect = {
      document: filed.document,
      version: 1,
      patient,
      category: 'laboratory',
      ciphertextHash: filed.ciphertextHash,
      commitment: filed.commitment,
    };
    const pdf = await w.sealer.openPart(await w.store.get(held.pointer), 'pdf', expect, () => w.b.custodian.unwrapDocumentKey(wrap));
    assert.match(Buffer.from(pdf).toString(), /^%PDF-1\.7/);

    const resources = await resourcesOf(patient);
    const doc = filed.document.slice(4);
    assert.deepEqual(Object.keys(resources).sort(), [
      `Binary/${filed.document}-fhir`,
      `Binary/${filed.document}-pdf`,
      `DocumentReference/${filed.document}`,
      `Observation/res-${doc}`,
      `Patient/${patient}`,
      `Provenance/prov-${doc}-1`,
      `Provenance/recv-${doc}-1`,
    ]);
    // A's PDF facts, as A serves them.
    const reference = resources[`DocumentReference/${filed.document}`] as {
      content: { attachment: { size: number; hash: string; url: string } }[];
    };
    assert.equal(reference.content[0]?.attachment.hash, createHash('sha1').update(pdf).digest('base64'));
    assert.equal(reference.content[0]?.attachment.size, pdf.length);
    // References to their staff, who are in no directory of ours, by display.
    assert.deepEqual((resources[`Observation/res-${doc}`] as { performer: unknown }).performer, [
      { type: 'Practitioner', display: 'Dr. Example' },
    ]);
    const received = JSON.stringify(resources[`Provenance/recv-${doc}-1`]);
    for (const fact of [filed.ciphertextHash, w.a.institution, filed.document, w.b.institution]) assert.ok(received.includes(fact), fact);
    // No MRN crosses, and our own pseudonym stands nowhere beside theirs but in the link.
    const all = JSON.stringify(resources);
    assert.equal(all.includes(CANARY_MRN), false);
    assert.equal(all.includes(own), false);
    const rows = await w.database.query<{ inst: string; recorder: string; elements: string[] }>(
      sql`select inst, recorder, elements from resource where pat = ${patient}`,
    );
    assert.ok(rows.every((row) => row.inst === w.a.institution && row.recorder === w.a.institution));
    assert.equal(
      rows.some((row) => row.elements.some((element) => element.startsWith('identifier#'))),
      false,
    );
    // Asked of the store once: the envelope and the object.
    assert.equal(new Set(blobs.asked).size, 2);
    // Nothing is looked at again.
    const again = watchedBlobs(w.store);
    await w.pass({ blobs: again });
    assert.deepEqual(again.asked, []);
  });

  test('no code, no object: nothing but the envelope is asked for before one has matched', async () => {
    const patient = await w.enroll();
    await w.file(patient);
    await w.grant(patient);
    const blobs = watchedBlobs(w.store);
    await w.pass({ blobs });
    assert.ok(blobs.asked.length > 0 && blobs.asked.every((name) => name.includes('/envelopes/')));
    const waiting = await categoryOf(patient);
    assert.deepEqual([waiting?.state, waiting?.code], ['waiting', 'LINK_MISSING']);
    assert.ok(waiting?.['statement']);
    assert.equal(await w.count('shared_key', patient), 0);
    // A grant of the other category brings the code: both are taken up.
    await w.file(patient, { category: 'radiation-dose' });
    await w.grant(patient, { categories: ['radiation-dose'], link: await w.code(await w.ownPatient()) });
    await w.pass({ blobs });
    assert.equal((await heldOf(patient)).length, 2);
  });

  test('a code of another patient, and one that has expired, are refused by code and not looked at again', async () => {
    const own = await w.ownPatient();
    const link = await w.code(own);
    const first = await w.enroll();
    await w.grant(first, { link });
    await w.pass();
    const thief = await w.enroll();
    await w.file(thief);
    await w.grant(thief, { link });
    const expired = await w.code(await w.ownPatient());
    const late = await w.enroll();
    await w.file(late);
    await w.grant(late, { link: expired });
    w.clock.at = new Date(Date.now() + 40 * 86_400_000);
    await w.pass();
    assert.equal((await categoryOf(thief))?.code, 'LINK_USED');
    assert.equal((await categoryOf(late))?.code, 'LINK_EXPIRED');
    assert.equal((await categoryOf(late))?.state, 'refused');
    const blobs = watchedBlobs(w.store);
    await w.pass({ blobs });
    assert.deepEqual(blobs.asked, []);
    assert.equal((await heldOf(thief)).length + (await heldOf(late)).length, 0);
  });

  test('another person: held, one document to compare, and nothing more is fetched until somebody decides', async () => {
    const own = await w.ownPatient({ ...OWN_PERSON, birthDate: '1999-12-31' });
    const { patient } = await w.granted(own);
    await w.file(patient);
    await w.pass();
    const [link] = await w.database.query<{ state: string; link: string }>(
      sql`select state, link from patient_link where pat = ${patient}`,
    );
    assert.equal(link?.state, 'held');
    assert.equal((await heldOf(patient)).length, 1);
    assert.equal((await wantedOf(patient)).length, 1);
    // Rejected: all of it goes.
    await w.database.query(sql`update patient_link set state = 'rejected' where pat = ${patient}`);
    await w.pass();
    assert.equal((await heldOf(patient)).length, 0);
    assert.equal(await w.count('resource', patient), 0);
    assert.equal((await categoryOf(patient))?.state, 'refused');
    const [end] = await w.database.query<Row>(sql`select * from sharing_end where pat = ${patient}`);
    assert.equal(end?.['cause'], 'rejected');
  });

  test('each later version, a new key version with its envelope, and a re-encryption: the old copy serves on and then goes', async () => {
    const { patient, filed } = await w.granted();
    await w.pass();
    const second = await w.file(patient, { document: filed.document, version: 2, value: '14.1' });
    await w.pass();
    let held = await heldOf(patient);
    assert.deepEqual(
      held.map((row) => row.version),
      [2],
    );
    assert.equal(await w.store.head(`${w.b.institution}/copies/${filed.ciphertextHash}`), undefined);
    const versions = await w.database.query<{ version: number }>(
      sql`select distinct version from resource where pat = ${patient} and document is not null`,
    );
    assert.deepEqual(versions, [{ version: 2 }]);
    const before = await w.database.query<{ id: string; last_updated: Date }>(
      sql`select id, last_updated from resource where pat = ${patient} order by id`,
    );

    const keyVersion = await w.publishKey(patient);
    const resealed = await w.reseal(patient, second);
    // While the new object is away the old copy stands.
    const bytes = await w.store.get(resealed.pointer);
    await w.store.delete(resealed.pointer);
    await w.pass();
    held = await heldOf(patient);
    assert.deepEqual([held[0]?.n, (await wantedOf(patient))[0]?.code], [0, 'BLOB_MISSING']);
    assert.equal(held[0]?.['commitment'], resealed.commitment);
    await w.store.put(resealed.pointer, bytes);
    w.clock.at = new Date(Date.now() + 1000);
    await w.pass();
    held = await heldOf(patient);
    assert.deepEqual(
      [held[0]?.n, held[0]?.['key_version'], held[0]?.pointer],
      [1, keyVersion, `${w.b.institution}/copies/${resealed.ciphertextHash}`],
    );
    assert.equal(await w.store.head(`${w.b.institution}/copies/${second.ciphertextHash}`), undefined);
    // The same rows: nobody sees a change where there is none.
    assert.deepEqual(await w.database.query(sql`select id, last_updated from resource where pat = ${patient} order by id`), before);
    // A document under the new version.
    await w.file(patient);
    await w.pass();
    assert.deepEqual(
      (await heldOf(patient)).map((row) => row['key_version']),
      [keyVersion, keyVersion],
    );
  });

  test('times: context drawn is covered; an object that does not say so has no known time', async () => {
    const { patient } = await w.granted();
    const said = await w.file(patient, { context: true, covers: { start: '2025-01-01T00:00:00.000Z', end: '2026-10-30T23:59:59.999Z' } });
    const silent = await w.file(patient, { context: true });
    await w.pass();
    const times = async (document: string) =>
      (await w.database.query<{ clinical_start: Date | null }>(sql`select clinical_start from resource where id = ${document}`))[0]
        ?.clinical_start;
    assert.deepEqual(await times(said.document), new Date('2025-01-01T00:00:00.000Z'));
    assert.equal(await times(silent.document), null);
  });
});

describe('what cannot be had', () => {
  test('missing and swapped objects: coded, alarmed, tried again by the clock, and nobody else waits for them', async () => {
    const first = await w.granted();
    const second = await w.granted();
    await w.pass();
    const lost = await w.file(first.patient, { put: false });
    const swapped = await w.file(first.patient);
    const fine = await w.file(second.patient);
    const blobs = watchedBlobs(w.store, {
      get: async (name) => (name === swapped.pointer ? w.store.get(first.filed.pointer) : undefined),
    });
    await w.pass({ blobs });
    assert.ok((await heldOf(second.patient)).some((row) => row.document === fine.document));
    for (let i = 1; i < 3; i++) {
      w.clock.at = new Date(Date.now() + i * 10_000);
      await w.pass({ blobs });
    }
    const wanted = new Map((await wantedOf(first.patient)).map((row) => [row.document, row]));
    assert.deepEqual([wanted.get(lost.document)?.state, wanted.get(lost.document)?.code], ['missing', 'BLOB_MISSING']);
    assert.deepEqual([wanted.get(swapped.document)?.state, wanted.get(swapped.document)?.code], ['refused', 'SHARED_HASH']);
    assert.deepEqual(
      new Set(w.alarms.map((alarm) => `${alarm.code} ${alarm.document === lost.document ? 'lost' : 'swapped'}`)),
      new Set(['BLOB_MISSING lost', 'SHARED_HASH swapped']),
    );
    // Still tried, slowly; then it is there.
    await w.store.put(lost.pointer, (lost as unknown as { bytes: Uint8Array }).bytes);
    w.clock.at = new Date(Date.now() + 30_000);
    await w.pass();
    assert.equal((await wantedOf(first.patient)).length, 2, 'not before its time');
    w.clock.at = new Date(Date.now() + 200_000);
    await w.pass();
    assert.equal((await wantedOf(first.patient)).length, 0);
    assert.equal((await heldOf(first.patient)).length, 3);
  });

  const hostile: [string, FileOptions, string][] = [
    ['a document sealed for another name', { sealedAs: { document: newId('doc') } }, 'SEAL_BROKEN'],
    ['a document of another patient', { sealedAs: { patient: newId('pat') } }, 'SEAL_BROKEN'],
    ['another version', { sealedAs: { version: 7 } }, 'SEAL_BROKEN'],
    ['another commitment', { entry: { commitment: 'a'.repeat(64) } }, 'SEAL_BROKEN'],
    [
      'an id that its header does not name',
      { spoil: ({ bundle }) => bundle.entry.push({ resource: { resourceType: 'Observation', id: 'res-other' } }) },
      'SHARED_CONTENT',
    ],
    [
      'a reference out of the document',
      { spoil: ({ bundle }) => Object.assign(bundle.entry[3]?.resource ?? {}, { hasMember: [{ reference: 'Observation/res-foreign' }] }) },
      'SHARED_CONTENT',
    ],
    [
      'a Consent',
      {
        spoil: (p) => {
          p.resourceIds['Consent/c'] = GIVEN_OUT;
          p.bundle.entry.push({ resource: { resourceType: 'Consent', id: GIVEN_OUT } });
        },
      },
      'SHARED_CONTENT',
    ],
    [
      "an id of another kind: a document's, to be there before it",
      {
        spoil: ({ resourceIds }) => {
          resourceIds['Observation/z'] = newId('doc');
        },
      },
      'SHARED_CONTENT',
    ],
    [
      'another subject',
      { spoil: ({ bundle }) => Object.assign(bundle.entry[3]?.resource ?? {}, { subject: { reference: 'Patient/pat-other' } }) },
      'SHARED_CONTENT',
    ],
    [
      'two resources of one id',
      {
        spoil: ({ bundle }) => {
          const one = bundle.entry[3];
          if (one) bundle.entry.push(one);
        },
      },
      'SHARED_CONTENT',
    ],
    ['no patient', { spoil: ({ bundle }) => bundle.entry.splice(0, 1) }, 'SHARED_CONTENT'],
    ['a manifest of another document', { spoil: ({ manifest }) => Object.assign(manifest, { document: newId('doc') }) }, 'SHARED_CONTENT'],
    [
      'a manifest that is none',
      {
        spoil: ({ manifest }) => {
          delete manifest['own'];
        },
      },
      'SHARED_CONTENT',
    ],
    ['a time that is none', { covers: { start: 'now', end: "'; drop table resource" } }, 'SHARED_CONTENT'],
    [
      'a nest without a bottom',
      {
        spoil: ({ bundle }) =>
          Object.assign(bundle.entry[3]?.resource ?? {}, JSON.parse(`{"extension":${'[{"extension":'.repeat(40)}[]${'}]'.repeat(40)}}`)),
      },
      'CONTENT_INVALID',
    ],
  ];
  for (const [what, facts, code] of hostile) {
    test(`${what}: ${code}, and nothing of it is kept`, async () => {
      const { patient } = await w.granted();
      await w.pass();
      const bad = await w.file(patient, facts);
      await w.pass();
      const [wanted] = await wantedOf(patient);
      assert.deepEqual([wanted?.document, wanted?.state, wanted?.code], [bad.document, 'refused', code]);
      assert.equal((await heldOf(patient)).length, 1);
      assert.equal(await w.store.head(`${w.b.institution}/copies/${bad.ciphertextHash}`), undefined);
      assert.deepEqual(
        w.alarms.map((alarm) => [alarm.code, alarm.document]),
        [[code, bad.document]],
      );
    });
  }

  test('ids of ours and of a third: refused, whoever came first keeps them', async () => {
    const { patient, filed } = await w.granted();
    await w.pass();
    const other = await w.granted();
    await w.pass();
    const theirs = `res-${filed.document.slice(4)}`;
    // The id of another patient's resource, one that the pipeline has given out, a directory's, a patient's of ours.
    await w.database.query(sql`insert into resource_identity (key, id) values ('k', ${GIVEN_OUT}) on conflict do nothing`);
    const listed = newId('res');
    await w.database.query(
      sql`insert into directory_resource (id, type, version, last_updated, content, elements, strings, body) values (${listed}, 'Practitioner', 1, now(), '', '{}', '{}', '{}')`,
    );
    for (const id of [theirs, GIVEN_OUT, listed]) {
      await w.file(other.patient, {
        spoil: ({ bundle, resourceIds }) => {
          resourceIds['Observation/src-9'] = id;
          bundle.entry.push({ resource: { resourceType: 'Observation', id, subject: { reference: `Patient/${other.patient}` } } });
        },
      });
    }
    await w.pass();
    assert.deepEqual(
      (await wantedOf(other.patient)).map((row) => row.code),
      ['SHARED_ID_TAKEN', 'SHARED_ID_TAKEN', 'SHARED_ID_TAKEN'],
    );
    const [row] = await w.database.query<Row>(sql`select pat from resource where id = ${theirs}`);
    assert.equal(row?.['pat'], patient);
  });

  test('the id of a document of a third: whoever entered it first on the ledger keeps it, fetched or not', async () => {
    const { patient } = await w.granted();
    await w.pass();
    const theirs = await w.enroll(w.c);
    const document = newId('doc');
    const ciphertextHash = 'c'.repeat(64);
    await w.chain.submit(w.c.gateway, 'recordDocuments', [
      recordDocumentsArgument([
        {
          institution: w.c.institution,
          patient: theirs,
          category: 'laboratory',
          ciphertextHash,
          clinician: null,
          commitment: 'b'.repeat(64),
          document,
          keyVersion: 1,
          permission: null,
          pointer: `${w.c.institution}/${ciphertextHash}`,
          version: 1,
        },
      ]),
    ]);
    await w.file(patient, { document });
    await w.pass();
    assert.deepEqual(
      (await wantedOf(patient)).map((row) => row.code),
      ['SHARED_ID_TAKEN'],
    );
  });

  test("a pseudonym that is one of ours: nothing of it is kept, and our own patient's row stands", async () => {
    const own = await w.ownPatient();
    await w.enroll(w.a, own);
    await w.file(own);
    await w.grant(own, { link: await w.code(own) });
    await w.pass();
    const [wanted] = await wantedOf(own);
    assert.deepEqual([wanted?.state, wanted?.code], ['refused', 'SHARED_ID_TAKEN']);
    assert.equal(await w.count('resource', own), 0);
  });

  test('envelopes: another hash in the store, another key inside, another recipient, too large', async () => {
    const own = await w.ownPatient();
    const link = await w.code(own);
    const swapped = await w.enroll();
    await w.grant(swapped, { link });
    const envelope = await w.envelope(w.a, swapped, 'laboratory', link);
    const other = await w.enroll();
    const wrong = await w.envelope(w.a, other, 'laboratory', link);
    const blobs = watchedBlobs(w.store, {
      get: async (name) => (name.includes('/envelopes/') && name !== wrong.path ? w.store.get(wrong.path) : undefined),
    });
    await w.pass({ blobs });
    assert.equal((await categoryOf(swapped))?.code, 'ENVELOPE_BROKEN');
    // An envelope of another patient named in the grant: its header says whose it is.
    await w.grant(other, { envelope });
    await w.pass();
    assert.equal((await categoryOf(other))?.code, 'SEAL_BROKEN');
    // Keys that are not the ledger's: made in another key store for a patient of the same name.
    const forged = await w.enroll();
    await w.c.custodian.enrollPatient(forged, ['laboratory']);
    const { sealEnvelope } = await import('../../src/vault/envelope.ts');
    const { encryption } = await w.b.custodian.institutionKeys();
    const pair = (await import('node:crypto')).generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });
    const { jwkThumbprint } = await import('../../src/vault/thumbprint.ts');
    const recipient = jwkThumbprint(encryption);
    const text = await sealEnvelope(
      {
        patient: { institution: w.a.institution, patient: forged },
        category: 'laboratory',
        keys: [{ version: 1, jwk: pair }],
        link: await w.code(own),
      },
      { ...encryption, kid: recipient },
    );
    const hash = createHash('sha256').update(text).digest('hex');
    await w.store.put(`${w.a.institution}/envelopes/${hash}`, Buffer.from(text));
    await w.grant(forged, { envelope: { hash, path: `${w.a.institution}/envelopes/${hash}`, recipient } });
    await w.pass();
    assert.equal((await categoryOf(forged))?.code, 'ENVELOPE_KEY');
    assert.equal(await w.count('shared_key', forged), 0);
  });
});

describe('quotas', () => {
  test('documents and bytes of one patient, and of one object: the rest waits, and nobody else does', async () => {
    const flooder = await w.granted();
    const other = await w.granted();
    for (let i = 0; i < 4; i++) await w.file(flooder.patient);
    const quotas = { ...w.parts.quotas, maxDocumentsPerPatient: 2 };
    await w.pass({ quotas });
    assert.equal((await heldOf(flooder.patient)).length, 2);
    assert.deepEqual(
      (await wantedOf(flooder.patient)).map((row) => [row.state, row.code]),
      Array.from({ length: 3 }, () => ['refused', 'SHARED_QUOTA']),
    );
    assert.equal((await heldOf(other.patient)).length, 1);
    assert.deepEqual(
      w.alarms.map((alarm) => alarm.code),
      ['SHARED_QUOTA'],
    );
    // One is withdrawn: there is room for one, once it is looked at again.
    await w.withdraw(flooder.patient, flooder.filed.document);
    w.clock.at = new Date(Date.now() + 120_000);
    await w.pass({ quotas });
    assert.equal((await heldOf(flooder.patient)).length, 2);
    // A larger object than is taken: not even asked for.
    w.clock.at = undefined;
    await w.file(other.patient);
    const blobs = watchedBlobs(w.store);
    await w.pass({ quotas: { ...w.parts.quotas, maxObjectBytes: 100 }, blobs: { ...blobs, get: () => assert.fail('it was fetched') } });
    assert.equal((await wantedOf(other.patient))[0]?.code, 'SHARED_QUOTA');
  });

  test('a flood of grants without codes: so many rows and no more; the others wait on the ledger', async () => {
    const own = await createWorld({ quotas: { maxPendingPerInstitution: 3 } });
    try {
      for (let i = 0; i < 5; i++) await own.grant(await own.enroll());
      await own.pass();
      assert.equal(await own.count('shared_category'), 3);
      assert.equal(await own.count('sharing_backlog'), 1);
      assert.deepEqual(
        own.alarms.map((alarm) => alarm.code),
        ['SHARED_QUOTA'],
      );
      // Another institution is not concerned.
      const theirs = await own.enroll(own.c);
      const link = await own.code(await own.ownPatient());
      await own.grant(theirs, { of: own.c, link });
      await own.pass();
      const [row] = await own.database.query<{ state: string }>(sql`select state from shared_category where pat = ${theirs}`);
      assert.equal(row?.state, 'live');
      // Room again: taken up later.
      const [first] = await own.database.query<{ pat: string }>(
        sql`select pat from shared_category where inst = ${own.a.institution} limit 1`,
      );
      await own.revoke(first?.pat ?? '');
      own.clock.at = new Date(Date.now() + 120_000);
      await own.pass();
      assert.equal(await own.count('shared_category'), 4);
    } finally {
      await own.close();
    }
  });
});

describe('the end', () => {
  test('revoked through another institution: nothing is left but the audit, and the officer sees what went', async () => {
    const { patient, filed } = await w.granted();
    const more = await w.file(patient);
    await w.pass();
    assert.equal((await heldOf(patient)).length, 2);
    const rows = await w.count('resource', patient);
    await w.revoke(patient, { via: w.c });
    await w.pass();
    await assertNothingLeft(patient, [filed, more]);
    const [end] = await w.database.query<Row & { audit: string; ended_at: Date; deleted_at: Date }>(
      sql`select * from sharing_end where pat = ${patient}`,
    );
    assert.equal(end?.['cause'], 'revoked');
    assert.deepEqual([end?.['documents'], end?.['rows'], end?.['objects'], end?.['keys'], end?.['held']], [2, rows, 2, 1, 0]);
    assert.ok(end !== undefined && end.deleted_at >= end.ended_at && typeof end['block'] === 'number');
    const events = (await w.auditEvents()).filter((event) => event.id === end?.audit);
    assert.equal(events.length, 1);
    assert.match(events[0]?.query ?? '', /sharing end category=laboratory .*cause=revoked documents=2/);
    const report = createSharingReport({ database: w.database, institution: w.b.institution, now: () => new Date() });
    const [told] = await report.ends({ institution: w.a.institution, patient });
    assert.deepEqual([told?.cause, told?.anchor], ['revoked', null]);
    // Granted again: everything anew, with the same link and no code.
    await w.grant(patient, { sequence: 3 });
    await w.pass();
    assert.equal((await heldOf(patient)).length, 2);
    const [held] = await report.categories({ institution: w.a.institution, patient });
    assert.deepEqual([held?.documents, held?.state, held?.permissions.length], [2, 'live', 1]);
  });

  test('one of two categories: the other and the Patient stay until it ends too', async () => {
    const own = await w.ownPatient();
    const patient = await w.enroll();
    const labs = await w.file(patient);
    const dose = await w.file(patient, { category: 'radiation-dose' });
    await w.grant(patient, { categories: ['laboratory', 'radiation-dose'], link: await w.code(own) });
    await w.pass();
    assert.equal((await heldOf(patient)).length, 2);
    await w.revoke(patient);
    await w.pass();
    assert.deepEqual(
      (await heldOf(patient)).map((row) => row.document),
      [dose.document],
    );
    assert.equal(await w.store.head(`${w.b.institution}/copies/${labs.ciphertextHash}`), undefined);
    assert.ok((await resourcesOf(patient))[`Patient/${patient}`]);
    await assert.rejects(w.b.custodian.rowKey(holderOf(patient), 'laboratory', 'open'), { code: 'KEY_MISSING' });
    await w.revoke(patient, { categories: ['radiation-dose'] });
    await w.pass();
    await assertNothingLeft(patient, [labs, dose], ['laboratory', 'radiation-dose']);
  });

  test('two grantees: the last permission ends it; a period ends by the clock alone', async () => {
    const { patient, filed } = await w.granted();
    const organization = `organization:${w.b.institution}`;
    const until = new Date(Date.now() + 60_000);
    await w.grant(patient, { grantee: organization, clause: { periodEnd: until.toISOString() } });
    await w.pass();
    await w.revoke(patient);
    await w.pass();
    assert.equal((await heldOf(patient)).length, 1);
    w.clock.at = new Date(until.getTime() + 1);
    await w.pass();
    await assertNothingLeft(patient, [filed]);
    const [end] = await w.database.query<Row & { ended_at: Date }>(sql`select * from sharing_end where pat = ${patient}`);
    assert.equal(end?.['cause'], 'expired');
    assert.deepEqual(end?.ended_at, until);
  });

  test('withdrawn: the document goes, the rest stays', async () => {
    const { patient, filed } = await w.granted();
    const stays = await w.file(patient);
    await w.pass();
    await w.withdraw(patient, filed.document);
    await w.pass();
    assert.deepEqual(
      (await heldOf(patient)).map((row) => row.document),
      [stays.document],
    );
    assert.equal(await w.store.head(`${w.b.institution}/copies/${filed.ciphertextHash}`), undefined);
    assert.equal((await w.database.query(sql`select 1 from resource where document = ${filed.document}`)).length, 0);
    const [end] = await w.database.query<Row>(sql`select * from sharing_end where pat = ${patient}`);
    assert.deepEqual([end?.['cause'], end?.['document'], end?.['documents'], end?.['keys']], ['withdrawn', filed.document, 1, 0]);
  });

  test('erased, and a patient under a ledger alarm', async () => {
    const erased = await w.granted();
    const alarmed = await w.granted();
    await w.pass();
    await w.erase(erased.patient);
    await w.database.query(sql`update projection.patient set status = 'alarmed' where pat = ${alarmed.patient}`);
    await w.pass();
    await assertNothingLeft(erased.patient, [erased.filed]);
    await assertNothingLeft(alarmed.patient, [alarmed.filed]);
    const causes = await w.database.query<{ pat: string; cause: string }>(
      sql`select pat, cause from sharing_end where pat = any(${[erased.patient, alarmed.patient]})`,
    );
    assert.deepEqual(
      new Map(causes.map((row) => [row.pat, row.cause])),
      new Map([
        [erased.patient, 'erased'],
        [alarmed.patient, 'alarmed'],
      ]),
    );
  });

  test('a legal hold keeps sealed copies and no key; lifted, they go too', async () => {
    const { patient, filed } = await w.granted();
    await w.pass();
    await w.database.query(sql`
      insert into legal_hold (inst, pat, category, by, reason) values (${w.a.institution}, ${patient}, 'laboratory', ${w.officer}, ${Buffer.from('x')})`);
    await w.revoke(patient);
    await w.pass();
    const pointer = `${w.b.institution}/copies/${filed.ciphertextHash}`;
    assert.ok(await w.store.head(pointer));
    assert.equal(await w.count('resource', patient), 0);
    await assert.rejects(w.b.custodian.rowKey(holderOf(patient), 'laboratory', 'open'), { code: 'KEY_MISSING' });
    const [end] = await w.database.query<Row>(sql`select * from sharing_end where pat = ${patient}`);
    assert.deepEqual([end?.['held'], end?.['objects']], [1, 0]);
    // The sweep knows it.
    await w.database.query(sql`insert into puts (name, at) values (${pointer}, now() - interval '2 hours')`);
    assert.equal((await lockOrphanPuts(w.database, 1000)).includes(pointer), false);
    await w.database.query(sql`delete from puts`);
    await w.database.query(
      sql`with gone as (delete from held_object where pat = ${patient} returning pointer) insert into shared_removal (pointer) select pointer from gone`,
    );
    await w.pass();
    assert.equal(await w.store.head(pointer), undefined);
  });

  test('while the view of the ledger is being rebuilt nothing is ended', async () => {
    const { patient } = await w.granted();
    await w.pass();
    const wanted = await w.file(patient, { put: false });
    await w.pass();
    const late = await w.enroll();
    await w.grant(late, { link: await w.code(await w.ownPatient()) });
    // As a rebuild has it at first: no rows, and a height far below what was seen.
    const tables = ['permission', 'clause', 'document', 'entry', 'patient', 'category_key', 'state'];
    const [before] = await w.database.query<{ height: number; tip: string }>(sql`select height, tip from projection.checkpoint`);
    await w.database.transaction(async (tx) => {
      for (const table of tables) await tx.query(sql`create table ${raw(`kept_${table}`)} as select * from ${raw(`projection.${table}`)}`);
      await tx.query(sql`truncate ${raw(tables.map((table) => `projection.${table}`).join(', '))}`);
      await tx.query(sql`update projection.checkpoint set height = 1`);
    });
    w.clock.at = new Date(Date.now() + 1_000_000);
    await w.pass();
    assert.equal((await heldOf(patient)).length, 1);
    assert.equal((await wantedOf(patient)).length, 1);
    await w.database.transaction(async (tx) => {
      for (const table of tables) {
        await tx.query(sql`insert into ${raw(`projection.${table}`)} select * from ${raw(`kept_${table}`)}`);
        await tx.query(sql`drop table ${raw(`kept_${table}`)}`);
      }
      await tx.query(sql`update projection.checkpoint set height = ${before?.height ?? 0}`);
    });
    w.clock.at = new Date(Date.now() + 2_000_000);
    await w.store.put(wanted.pointer, (wanted as unknown as { bytes: Uint8Array }).bytes);
    await w.pass();
    assert.equal((await heldOf(patient)).length, 2);
    assert.equal((await categoryOf(late))?.state, 'live');
  });
});

describe('killed', () => {
  /** Throws at the n-th call of anything that a pass awaits; before or after it was done. */
  function faulty(at: number, afterwards: boolean) {
    let calls = 0;
    const hit = { any: false };
    const guard = async <T>(work: () => Promise<T>): Promise<T> => {
      calls++;
      const mine = calls === at;
      if (mine) hit.any = true;
      if (mine && !afterwards) throw new CodedError('UNAVAILABLE', { diagnostics: 'killed' });
      if (calls > at) throw new CodedError('UNAVAILABLE', { diagnostics: 'dead' });
      const done = await work();
      if (mine) throw new CodedError('UNAVAILABLE', { diagnostics: 'killed' });
      return done;
    };
    const { database, store, b } = w;
    return {
      hit,
      over: {
        database: {
          ...database,
          query: (fragment: Parameters<typeof database.query>[0]) => guard(() => database.query(fragment)),
          transaction: (work: Parameters<typeof database.transaction>[0], mode?: 'repeatable read') =>
            guard(() => database.transaction(work, mode)),
        } as typeof database,
        blobs: {
          ...store,
          get: (name: string) => guard(() => store.get(name)),
          head: (name: string) => guard(() => store.head(name)),
          put: (name: string, bytes: Uint8Array) => guard(() => store.put(name, bytes)),
          delete: (name: string) => guard(() => store.delete(name)),
        },
        custodian: {
          institution: b.institution,
          rowKey: (...args: Parameters<typeof b.custodian.rowKey>) => guard(() => b.custodian.rowKey(...args)),
          openEnvelope: (...args: Parameters<typeof b.custodian.openEnvelope>) => guard(() => b.custodian.openEnvelope(...args)),
          wrapOwn: (...args: Parameters<typeof b.custodian.wrapOwn>) => guard(() => b.custodian.wrapOwn(...args)),
          destroy: (...args: Parameters<typeof b.custodian.destroy>) => guard(() => b.custodian.destroy(...args)),
        },
        audit: { record: (event: Parameters<typeof w.audit.record>[0]) => guard(() => w.audit.record(event)) },
      },
    };
  }

  test('at each await of taking up, fetching and ending: done again, the end state is the same', async () => {
    // Every place takes a minute; by default every third, before and after what is awaited there by turns.
    const step = process.env['EVERY_AWAIT'] === '1' ? 1 : 3;
    let killed = 0;
    for (let n = 0; ; n++) {
      for (const afterwards of step === 1 ? [false, true] : [n % 2 === 1]) {
        const at = 1 + n * step;
        const { patient, filed } = await w.granted();
        const one = faulty(at, afterwards);
        await w.pass(one.over).catch(() => {});
        w.clock.at = new Date(Date.now() + 1_000_000);
        await w.pass();
        w.clock.at = undefined;
        assert.equal((await heldOf(patient)).length, 1, `killed at ${at}`);
        assert.equal(await w.count('resource', patient), 7, `killed at ${at}`);
        assert.equal((await wantedOf(patient)).length, 0);
        assert.equal(await w.count('puts'), 0, `killed at ${at}`);
        // And at the same place of the end.
        await w.revoke(patient);
        const two = faulty(at, afterwards);
        await w.pass(two.over).catch(() => {});
        await w.pass();
        await assertNothingLeft(patient, [filed]);
        const ends = await w.database.query<{ audit: string; deleted_at: Date | null }>(
          sql`select audit, deleted_at from sharing_end where pat = ${patient}`,
        );
        assert.equal(ends.length, 1, `killed at ${at}`);
        assert.ok(ends[0]?.deleted_at);
        const events = await w.database.query(sql`select 1 from audit_event where id = ${ends[0]?.audit}`);
        assert.equal(events.length, 1, 'one event, however often it was begun');
        if (one.hit.any || two.hit.any) killed = n + 1;
      }
      if (killed <= n) break;
    }
    assert.ok(killed * step > 30, `${killed * step} places`);
  });

  test('at an await of taking up, and revoked before it is taken up again: nothing is left, no key either', async () => {
    const step = process.env['EVERY_AWAIT'] === '1' ? 1 : 4;
    for (let n = 0; ; n++) {
      const { patient, filed } = await w.granted();
      const one = faulty(2 + n * step, n % 2 === 0);
      await w.pass(one.over).catch(() => {});
      await w.revoke(patient);
      await w.pass();
      // A copy that was put before its row: the sweep finds it by its name.
      const copy = `${w.b.institution}/copies/${filed.ciphertextHash}`;
      if ((await w.store.head(copy)) !== undefined) {
        assert.deepEqual(await lockOrphanPuts(w.database, 0), [copy], `killed at ${2 + n * step}`);
        await w.store.delete(copy);
      }
      await w.database.query(sql`delete from puts`);
      await assertNothingLeft(patient, [filed]);
      if (!one.hit.any) break;
    }
  });

  test('two at once do no harm', async () => {
    const { patient, filed } = await w.granted();
    for (let i = 0; i < 5; i++) await w.file(patient);
    await Promise.all([w.pass(), w.pass()]);
    w.clock.at = new Date(Date.now() + 1_000_000);
    await w.pass();
    assert.equal((await heldOf(patient)).length, 6);
    assert.equal(await w.count('resource', patient), 6 * 6 + 1);
    await w.revoke(patient);
    await Promise.all([w.pass(), w.pass()]);
    await w.pass();
    await assertNothingLeft(patient, [filed]);
    assert.equal((await w.database.query(sql`select 1 from sharing_end where pat = ${patient}`)).length, 1);
  });

  test('it follows the ledger by itself, and stops', async () => {
    const one = w.sharing();
    await one.start();
    try {
      const { patient } = await w.granted();
      const until = Date.now() + 5000;
      while ((await heldOf(patient)).length === 0 && Date.now() < until) await new Promise((done) => setTimeout(done, 20));
      assert.equal((await heldOf(patient)).length, 1);
      await w.revoke(patient);
      while ((await w.count('shared_category', patient)) > 0 && Date.now() < until) await new Promise((done) => setTimeout(done, 20));
      assert.equal(await w.count('shared_category', patient), 0);
    } finally {
      await one.close();
    }
  });
});
