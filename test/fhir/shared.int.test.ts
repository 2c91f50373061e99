import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import type { Bundle, OperationOutcome, Patient } from 'fhir/r4.js';
import request from 'supertest';
import type { BlobStore } from '../../src/store/blobs.ts';
import { sql } from '../../src/store/sql.ts';
import { createSharedWorld, type SharedWorld, THEIRS } from './shared-world.ts';
import { course, createWorld, INST, laboratory, member, type NewDocument, type World } from './world.ts';

/*
 * The facade of the institution that receives: what another institution's patient shared is served under that institution's pseudonym,
 * as protocol section 8 says, out of what is held here and of nothing else.
 */
const OURS = 'pat-ours';
const OTHER = 'pat-other';
const XENIA = 'pat-xenia';
const YUSUF = 'pat-yusuf';

let world: World;
let shared: SharedWorld;
const fetched: string[] = [];
before(async () => {
  world = await createWorld({ settings: { maxPinned: 2 } });
  const { get } = world.blobs;
  // Every object that is asked for, of whichever store.
  (world.blobs as { get: BlobStore['get'] }).get = async (name) => {
    fetched.push(name);
    return get(name);
  };
  shared = await createSharedWorld(world);
  await world.patient(OURS, { resourceType: 'Patient', name: [{ family: 'Meier' }], birthDate: '1950-01-01' });
  await world.patient(OTHER, { resourceType: 'Patient', name: [{ family: 'Other' }] });
  await world.document(laboratory(OURS, 'o1', '2026-03-01', [['718-7', '13.20']]));
  await world.document(laboratory(OTHER, 'o2', '2026-03-01', [['718-7', '12.00']]));
  world.actors.set('clinician', member('clinician'));
  world.actors.set('theirs-only', member('theirs-only'));
});
beforeEach(async () => {
  await shared.clear();
  await world.database.query(sql`delete from test_grant`);
  await world.grant('clinician', OURS, 'laboratory');
  await world.grant('clinician', OTHER, 'laboratory');
  for (const [pat, own] of [
    [XENIA, OURS],
    [YUSUF, OTHER],
  ] as const) {
    await shared.link(pat, own, 'confirmed');
    await shared.category(pat, 'laboratory', 'live');
    await shared.patient(pat, { resourceType: 'Patient', name: [{ family: 'Meier' }], birthDate: '1950-01-01' });
  }
  await shared.grant('clinician', XENIA, 'laboratory');
  await shared.grant('clinician', YUSUF, 'laboratory');
  fetched.length = 0;
  world.alarms.length = 0;
});
after(async () => {
  await shared.close();
  await world.close();
});

const get = (path: string, token = 'clinician') => request(world.app).get(`/fhir/${path}`).set('Authorization', `Bearer ${token}`);
const ids = (body: unknown, mode = 'match'): string[] =>
  ((body as Bundle).entry ?? []).filter((entry) => entry.search?.mode === mode).map((entry) => entry.resource?.id ?? '');
const codesOf = (body: unknown): string[] =>
  ((body as Bundle).entry ?? [])
    .filter((entry) => entry.search?.mode === 'outcome')
    .map((entry) => (entry.resource as OperationOutcome).issue[0]?.details?.coding?.[0]?.code ?? '');
const refusedAs = async (path: string, code: string, status: number, token?: string) => {
  const response = await get(path, token);
  assert.equal(response.status, status, `${path}: ${response.text}`);
  assert.equal((response.body as OperationOutcome).issue[0]?.details?.coding?.[0]?.code, code, path);
  return response;
};
/** As the pipeline names the parts of a document. */
const theirDocument = (pat: string, n: string, date = '2026-05-01'): NewDocument => {
  const made = laboratory(pat, n, date, [['718-7', '11.10']]);
  const text = JSON.stringify(made.resources)
    .replaceAll(`ref-${n}`, `doc-${n}`)
    .replaceAll(`pdf-${n}`, `doc-${n}-pdf`)
    .replaceAll(`json-${n}`, `doc-${n}-fhir`);
  return { ...made, resources: JSON.parse(text) as NewDocument['resources'] };
};

describe('what is held', () => {
  test('is read, searched, included and audited under their pseudonym', async () => {
    await shared.document(theirDocument(XENIA, 'x1'), 'held');
    const read = await get('Observation/obs-x1-0').expect(200);
    assert.match(read.text, /11\.10/);
    assert.deepEqual(world.audited.at(-1)?.patients, [{ institution: THEIRS, patient: XENIA }]);
    assert.deepEqual(ids((await get('Observation').expect(200)).body), ['obs-o1-0', 'obs-o2-0', 'obs-x1-0']);
    assert.deepEqual(ids((await get(`Observation?patient=${XENIA}&value-quantity=11.1`).expect(200)).body), ['obs-x1-0']);
    assert.deepEqual(ids((await get(`Provenance?target=DocumentReference/doc-x1`).expect(200)).body), ['prov-x1']);
    const all = await get(`DocumentReference?patient=${XENIA}&_include=DocumentReference:subject&_revinclude=Provenance:target`).expect(
      200,
    );
    assert.deepEqual([ids(all.body), ids(all.body, 'include').sort()], [['doc-x1'], [XENIA, 'prov-x1']]);
    assert.equal((await get('Observation?_summary=count').expect(200)).body.total, 3);
    await get(`Patient/${XENIA}`).expect(200);
    assert.deepEqual(ids((await get('Patient?name=meier').expect(400)).body), []);
    assert.deepEqual(ids((await get(`Patient?_id=${XENIA}&birthdate=1950`).expect(200)).body), [XENIA]);
    // Nobody here is found by an identifier of theirs, and nobody without a permission finds anything.
    assert.deepEqual(ids((await get('Observation?identifier=urn:lab|ACC-x1-0').expect(200)).body), []);
    for (const path of [`Patient/${XENIA}`, 'Observation/obs-x1-0', 'Binary/doc-x1-pdf', 'Provenance/prov-x1'])
      await refusedAs(path, 'NOT_FOUND', 404, 'stranger');
    // The labs only: nothing else of theirs.
    await shared.category(XENIA, 'radiation-dose', 'live');
    await shared.document(course(XENIA, 'x2', '2026-01-01', '2026-02-01'), 'held');
    await refusedAs('Procedure/course-x2', 'NOT_FOUND', 404);
    assert.deepEqual(ids((await get('Procedure').expect(200)).body), []);
  });

  test('is opened from our copy and asks no other store', async () => {
    const pdf = Buffer.from('%PDF-1.7 their dose');
    await shared.document({ ...theirDocument(XENIA, 'x1'), pdf }, 'held');
    const raw = await get('Binary/doc-x1-pdf').buffer(true).parse(bytes).expect(200);
    assert.equal(raw.body.toString(), pdf.toString());
    assert.match(raw.headers['content-disposition'] ?? '', /^attachment/);
    assert.equal((await get('Binary/doc-x1-fhir').expect(200)).body.type, 'collection');
    await get('Observation').expect(200);
    await get('Observation/obs-x1-0').expect(200);
    assert.ok(fetched.length === 2 && fetched.every((name) => name.startsWith(`${INST}/`)), fetched.join());
    // A row that names their own store is not followed.
    await world.database.query(sql`update shared_version set pointer = origin`);
    await refusedAs('Binary/doc-x1-pdf', 'INTEGRITY', 500);
    assert.ok(fetched.every((name) => name.startsWith(`${INST}/`)));
  });

  test('serves while commitments are equal, and no longer', async () => {
    await shared.document(theirDocument(XENIA, 'x1'), 'resealed');
    await get('Observation/obs-x1-0').expect(200);
    await get('Binary/doc-x1-pdf').expect(200);
    assert.deepEqual(ids((await get(`Observation?patient=${XENIA}`).expect(200)).body), ['obs-x1-0']);
    await world.database.query(sql`update projection.document set commitment = ${'c'.repeat(64)} where doc = 'doc-x1'`);
    await refusedAs('Binary/doc-x1-pdf', 'NOT_FETCHED', 503);
    await refusedAs(`Observation?patient=${XENIA}`, 'NOT_FETCHED', 503);
    await shared.remove('doc-x1');
    await shared.document(theirDocument(XENIA, 'x1'), 'withdrawn');
    for (const path of ['Observation/obs-x1-0', 'DocumentReference/doc-x1', 'Binary/doc-x1-pdf']) await refusedAs(path, 'NOT_FOUND', 404);
    assert.deepEqual(ids((await get(`Observation?patient=${XENIA}`).expect(200)).body), []);
    assert.deepEqual(world.alarms, []);
  });

  test('is served by every word that the ledger and our row of it say alike, and by none less', async () => {
    await shared.document(theirDocument(XENIA, 'x1'), 'held');
    const wrong = [
      sql`update shared_version set version = 9`,
      sql`update shared_version set recorder = 'inst-c'`,
      sql`update shared_version set document = 'doc-x9'`,
      sql`update shared_version set commitment = 'x'`,
      sql`update shared_version set inst = 'inst-c'`,
      sql`update shared_version set pat = ${YUSUF}`,
      sql`update shared_version set category = 'radiation-dose'`,
      sql`update projection.document set version = 9 where doc = 'doc-x1'`,
      sql`update projection.document set commitment = 'x' where doc = 'doc-x1'`,
    ];
    const elsewhere = [
      sql`update projection.document set recorder = 'inst-c' where doc = 'doc-x1'`,
      sql`update projection.document set inst = 'inst-c' where doc = 'doc-x1'`,
      sql`update projection.document set pat = 'pat-z' where doc = 'doc-x1'`,
      sql`update projection.document set category = 'radiation-dose' where doc = 'doc-x1'`,
    ];
    const [held] = await world.database.query(sql`select * from shared_version`);
    const [entry] = await world.database.query(sql`select * from projection.document where doc = 'doc-x1'`);
    for (const [n, update] of [...wrong, ...elsewhere].entries()) {
      await world.database.query(update);
      assert.notEqual((await get('Observation/obs-x1-0')).status, 200, `${n}`);
      const search = await get(`Observation?patient=${XENIA}`);
      // What the ledger has of this patient and category is waited for; what it has not is nothing.
      if (n < wrong.length) assert.equal(search.status, 503, `${n}`);
      else assert.equal(ids(search.body).length, 0, `${n}`);
      await world.database.query(sql`truncate shared_version`);
      await world.database.query(
        sql`insert into shared_version select * from jsonb_populate_record(null::shared_version, ${JSON.stringify(held)}::jsonb)`,
      );
      await world.database.query(sql`delete from projection.document where doc = 'doc-x1'`);
      await world.database.query(
        sql`insert into projection.document select * from jsonb_populate_record(null::projection.document, ${JSON.stringify(entry)}::jsonb)`,
      );
      await get('Observation/obs-x1-0').expect(200);
    }
  });

  test('is nothing while nobody is linked, a person still looks, or the keys are not here', async () => {
    await shared.document(theirDocument(XENIA, 'x1'), 'held');
    await shared.document(theirDocument(XENIA, 'x2'), 'missing');
    await shared.document(theirDocument(XENIA, 'x3'), 'unseen');
    // As the scope says it of whoever may read anything of a patient.
    await shared.grant('clinician', XENIA, 'core');
    const hidden = async (state: string, core = false) => {
      for (const path of [
        'Observation/obs-x1-0',
        'DocumentReference/doc-x1',
        'Binary/doc-x1-pdf',
        'DocumentReference/doc-x2',
        'Binary/doc-x3-pdf',
      ])
        assert.equal((await get(path)).status, 404, `${state}: ${path}`);
      assert.equal((await get(`Patient/${XENIA}`)).status, core ? 200 : 404, state);
      const all = await get('Observation').expect(200);
      assert.deepEqual([ids(all.body), codesOf(all.body), all.body.total], [['obs-o1-0', 'obs-o2-0'], [], 2], state);
      assert.equal((await get(`Observation?patient=${XENIA}`).expect(200)).body.total, 0);
    };
    for (const state of ['held', 'rejected'] as const) {
      await shared.link(XENIA, OURS, state);
      await hidden(state);
    }
    await world.database.query(sql`delete from patient_link where pat = ${XENIA}`);
    await hidden('unlinked');
    await shared.link(XENIA, OURS, 'confirmed');
    // As in an emergency: readable, and granted to nobody here.
    for (const state of ['waiting', 'refused', 'ending'] as const) {
      await shared.category(XENIA, 'laboratory', state);
      await hidden(state, true);
    }
    // Bound: what is fetched is compared first, so nothing of it is shown, and what is not fetched is waited for.
    await shared.category(XENIA, 'laboratory', 'live');
    await shared.remove('doc-x2');
    await shared.remove('doc-x3');
    await shared.link(XENIA, OURS, 'bound');
    await hidden('bound');
    await shared.document(theirDocument(XENIA, 'x3'), 'unseen');
    await refusedAs(`Observation?patient=${XENIA}`, 'NOT_FETCHED', 503);
  });

  test('a data period cuts it as anything', async () => {
    await shared.document(theirDocument(XENIA, 'x1', '2026-02-01'), 'held');
    await shared.document(theirDocument(XENIA, 'x2', '2026-06-01'), 'held');
    await world.database.query(sql`delete from test_grant where inst = ${THEIRS}`);
    await shared.grant('clinician', XENIA, 'laboratory', { start: '2026-05-01T00:00:00Z' });
    assert.deepEqual(ids((await get(`Observation?patient=${XENIA}`).expect(200)).body), ['obs-x2-0']);
    await refusedAs('Observation/obs-x1-0', 'NOT_FOUND', 404);
  });

  test('their records make none of our staff readable', async () => {
    await world.directory([{ resourceType: 'Practitioner', id: 'prac-x1', name: [{ family: 'Hidden' }] } as never]);
    await shared.document(theirDocument(XENIA, 'x1'), 'held');
    await refusedAs('Practitioner/prac-x1', 'NOT_FOUND', 404);
    assert.deepEqual(ids((await get('Practitioner?name=hidden').expect(200)).body), []);
  });
});

describe('what is not held', () => {
  const searches = [
    'Observation',
    'Observation?_count=1',
    'Observation?_summary=count',
    'Observation?value-quantity=gt1&patient=pat-ours,pat-xenia',
    'DocumentReference?date=ge2026-01',
    'Patient',
    `Patient?_id=${XENIA}`,
    'Procedure',
    `DocumentReference?patient=${XENIA}&_revinclude=Provenance:target`,
  ];
  for (const holding of ['unseen', 'noticed', 'newer'] as const) {
    test(`${holding}: a search that might need it waits, one that names others does not`, async () => {
      await shared.document(theirDocument(XENIA, 'x1'), holding);
      for (const path of searches) {
        const refused = await refusedAs(path, 'NOT_FETCHED', 503);
        assert.ok(Number(refused.headers['retry-after']) > 0);
        assert.equal((refused.body as OperationOutcome).issue[0]?.code, 'transient');
        assert.doesNotMatch(refused.text, /xenia|doc-x1/);
      }
      const post = request(world.app).post('/fhir/Observation/_search').set('Authorization', 'Bearer clinician').type('form');
      await post.send(`patient=${XENIA}`).expect(503);
      for (const path of ['DocumentReference/doc-x1', 'Binary/doc-x1-pdf', 'Binary/doc-x1-fhir', 'DocumentReference/doc-x1/_history'])
        await refusedAs(path, 'NOT_FETCHED', 503);
      await get('Binary/doc-x1-pdf').set('If-None-Match', 'W/"1"').expect(503);
      await refusedAs('Observation/obs-x9-0', 'NOT_FOUND', 404);
      // A resource of the version before: its document is there, in a version that is not.
      const newer = holding === 'newer';
      await refusedAs('Observation/obs-x1-0', newer ? 'NOT_FETCHED' : 'NOT_FOUND', newer ? 503 : 404);
      await refusedAs('DocumentReference/doc-x1/_history/1', newer ? 'NOT_FOUND' : 'NOT_FETCHED', newer ? 404 : 503);
      // Neither who is not granted it nor what cannot hold it is kept waiting.
      for (const path of searches) await get(path, 'stranger').expect(200);
      for (const path of ['DocumentReference/doc-x1', 'Binary/doc-x1-pdf']) await refusedAs(path, 'NOT_FOUND', 404, 'stranger');
      for (const path of [
        `Observation?patient=${OURS}`,
        `Observation?subject=Patient/${OURS},Patient/${YUSUF}`,
        `Patient?_id=${OURS}`,
        'Practitioner',
        'Consent',
      ])
        await get(path).expect(200);
      assert.deepEqual([world.audited.at(-1)?.outcome, world.alarms], ['permitted', []]);
    });
  }

  for (const holding of ['missing', 'refused'] as const) {
    test(`${holding}: 503 where the search names its patient, elsewhere an entry that says so`, async () => {
      await shared.document(theirDocument(XENIA, 'x1'), 'held');
      await shared.document(theirDocument(XENIA, 'x2'), holding);
      for (const path of ['Observation', 'Observation?_count=1', 'Observation?value-quantity=gt12&_id=obs-o1-0,obs-x1-0', 'Patient']) {
        const { body, text } = await get(path).expect(200);
        assert.deepEqual(codesOf(body), ['INCOMPLETE'], path);
        assert.equal((body as Bundle).total, undefined, path);
        const { search, resource } = (body as Bundle).entry?.at(-1) ?? assert.fail();
        const [issue] = (resource as OperationOutcome).issue;
        assert.deepEqual([search?.mode, issue?.severity, issue?.code], ['outcome', 'warning', 'incomplete']);
        assert.doesNotMatch(text, /doc-x2/);
      }
      const counted = (await get('Observation?_summary=count').expect(200)).body as Bundle;
      assert.deepEqual([counted.total, codesOf(counted)], [undefined, ['INCOMPLETE']]);
      const seen: string[] = [];
      let next: string | undefined = 'Observation?_count=1';
      for (let page = 0; next !== undefined && page < 9; page++) {
        const body = (await get(next).expect(200)).body as Bundle;
        assert.deepEqual(codesOf(body), ['INCOMPLETE'], `page ${page}`);
        seen.push(...ids(body));
        next = body.link?.find((link) => link.relation === 'next')?.url.split('/fhir/')[1];
      }
      assert.deepEqual(seen, ['obs-o1-0', 'obs-o2-0', 'obs-x1-0']);
      for (const path of [
        `Observation?patient=${XENIA}`,
        `Observation?subject=${XENIA}`,
        `Observation?patient=${OURS},${XENIA}`,
        `Provenance?target=Patient/${XENIA}`,
        `Patient?_id=${XENIA}`,
        `Observation?patient=${XENIA}&_summary=count`,
      ])
        await refusedAs(path, 'NOT_FETCHED', 503);
      for (const path of ['DocumentReference/doc-x2', 'Binary/doc-x2-pdf']) await refusedAs(path, 'NOT_FETCHED', 503);
      await get('Observation/obs-x1-0').expect(200);
      const others = (await get(`Observation?patient=${OURS},${YUSUF}`).expect(200)).body as Bundle;
      assert.deepEqual([others.total, codesOf(others)], [1, []]);
      // The ledger names a newer object since: it is fetched anew.
      await world.database.query(sql`update projection.document set n = 1 where doc = 'doc-x2'`);
      await refusedAs('Observation', 'NOT_FETCHED', 503);
    });
  }

  test('who withholds one object after the other keeps no search of other patients waiting', async () => {
    await shared.document(theirDocument(XENIA, 'x1'), 'missing');
    await shared.document(theirDocument(XENIA, 'x2'), 'unseen');
    assert.deepEqual(codesOf((await get('Observation').expect(200)).body), ['INCOMPLETE']);
    await refusedAs(`Observation?patient=${XENIA}`, 'NOT_FETCHED', 503);
    await refusedAs('DocumentReference/doc-x2', 'NOT_FETCHED', 503);
    await shared.document(theirDocument(YUSUF, 'y1'), 'unseen');
    await refusedAs('Observation', 'NOT_FETCHED', 503);
  });

  test('a category that is granted and not open here: waited for, or named as missing, never absent', async () => {
    await shared.document(theirDocument(XENIA, 'x1'), 'held');
    const granted = (status: string) =>
      world.database.query(sql`
        insert into projection.permission (inst, pat, grantor, grantee, category, seq, status, recorded_at, tx_id, block)
        values ('inst-bbbbbbbbbbbbbbbbbbbbbbbbbb', ${XENIA}, 'patient', ${`organization:${INST}`}, 'laboratory', 1, ${status}, now(), 't', 5)
        on conflict (inst, pat, grantor, grantee, category) do update set status = excluded.status`);
    await granted('active');
    try {
      await get('Observation/obs-x1-0').expect(200);
      for (const state of ['waiting', 'ending'] as const) {
        await shared.category(XENIA, 'laboratory', state);
        for (const path of ['Observation', `Observation?patient=${XENIA}`, 'DocumentReference/doc-x1'])
          await refusedAs(path, 'NOT_FETCHED', 503);
      }
      await shared.category(XENIA, 'laboratory', 'refused');
      assert.deepEqual(codesOf((await get('Observation').expect(200)).body), ['INCOMPLETE']);
      await refusedAs(`Observation?patient=${XENIA}`, 'NOT_FETCHED', 503);
      // Its block was not looked at yet; then it was, and nothing came of it; then there was no room for it.
      await world.database.query(sql`delete from shared_category where pat = ${XENIA}`);
      await refusedAs(`Observation?patient=${XENIA}`, 'NOT_FETCHED', 503);
      await world.database.query(sql`insert into sharing_cursor (block) values (5)`);
      await get(`Observation?patient=${XENIA}`).expect(200);
      await world.database.query(sql`insert into sharing_backlog (inst, retry_at) values ('inst-bbbbbbbbbbbbbbbbbbbbbbbbbb', now())`);
      await refusedAs(`Observation?patient=${XENIA}`, 'NOT_FETCHED', 503);
      await granted('revoked');
      await get(`Observation?patient=${XENIA}`).expect(200);
    } finally {
      await world.database.query(sql`truncate sharing_cursor, sharing_backlog`);
      await world.database.query(sql`delete from projection.permission where pat = ${XENIA}`);
    }
  });

  test('searches that do not name the patient wait for a moment only, and are told that something is missing; one that names them waits', async () => {
    await shared.document(theirDocument(XENIA, 'x1'), 'noticed');
    await world.database.query(sql`update patient_link set held_up_at = now() where pat = ${XENIA}`);
    await refusedAs('Observation', 'NOT_FETCHED', 503);
    await world.database.query(sql`update patient_link set held_up_at = now() - interval '31 s' where pat = ${XENIA}`);
    assert.deepEqual(codesOf((await get('Observation').expect(200)).body), ['INCOMPLETE']);
    await refusedAs(`Observation?patient=${XENIA}`, 'NOT_FETCHED', 503);
    await refusedAs('DocumentReference/doc-x1', 'NOT_FETCHED', 503);
    // What comes more of theirs is no reason to wait again.
    await shared.document(theirDocument(XENIA, 'x2'), 'unseen');
    assert.deepEqual(codesOf((await get('Observation').expect(200)).body), ['INCOMPLETE']);
    // Another's is.
    await shared.document(theirDocument(YUSUF, 'y1'), 'unseen');
    await refusedAs('Observation', 'NOT_FETCHED', 503);
  });

  test('what comes between two pages holds the walk up, and no page is short', async () => {
    await shared.document(theirDocument(XENIA, 'x1'), 'held');
    const first = (await get('Observation?_count=1').expect(200)).body as Bundle;
    const next = first.link?.find((link) => link.relation === 'next')?.url.split('/fhir/')[1] ?? assert.fail();
    await shared.document(theirDocument(XENIA, 'x2'), 'unseen');
    await refusedAs(next, 'NOT_FETCHED', 503);
    await shared.remove('doc-x2');
    await get(next).expect(200);
  });

  test('while it is being filed, a search either waits or has it', async () => {
    // Each of the filings is one transaction that ends the lack and adds the rows; no answer may lie between.
    let filed = 0;
    let answered = 0;
    let going = true;
    await shared.document(theirDocument(XENIA, 'f0'), 'unseen');
    const filing = (async () => {
      for (let i = 0; i < 12 && going; i++) {
        await world.database.query(sql`delete from projection.document where doc = ${`doc-f${i}`}`);
        await shared.document(theirDocument(XENIA, `f${i}`), 'held');
        filed++;
        await shared.document(theirDocument(XENIA, `f${i + 1}`), 'unseen');
        // Every third lack lasts until a search has begun and ended in it, however slow the machine is; the others are as short as they are.
        const until = answered + 2;
        while (i % 3 === 0 && answered < until && going) await new Promise((resolve) => setTimeout(resolve, 2));
      }
    })().finally(() => {
      going = false;
    });
    let waited = 0;
    while (going) {
      const before = filed;
      const response = await get(`Observation?patient=${XENIA}`);
      answered++;
      if (response.status === 503) waited++;
      else if (ids(response.body).length < before) {
        going = false;
        assert.fail(`${ids(response.body).length} of ${before}`);
      }
    }
    await filing;
    assert.ok(waited >= 4, `${waited} waited`);
  });
});

describe('a copy that is not what the ledger commits to', () => {
  test('missing, cut short or swapped: INTEGRITY and an alarm, never content', async () => {
    await shared.document({ ...theirDocument(XENIA, 'x1'), pdf: Buffer.from('%PDF one') }, 'held');
    await shared.document({ ...theirDocument(XENIA, 'x2'), pdf: Buffer.from('%PDF two') }, 'held');
    const of = async (document: string) => {
      const [row] = await world.database.query<{ pointer: string; ciphertext_hash: string; wrap: string; commitment: string }>(
        sql`select pointer, ciphertext_hash, wrap, commitment from shared_version where document = ${document}`,
      );
      return row ?? assert.fail();
    };
    const [one, two] = [await of('doc-x1'), await of('doc-x2')];
    const broken = async (reason: string) => {
      world.alarms.length = 0;
      const response = await refusedAs('Binary/doc-x1-pdf', 'INTEGRITY', 500);
      assert.doesNotMatch(response.text, /%PDF/);
      assert.deepEqual(world.alarms, [{ document: 'doc-x1', version: 1, reason }]);
    };
    await world.database.query(sql`update shared_version set wrap = ${two.wrap} where document = 'doc-x1'`);
    await broken('SEAL_BROKEN');
    await world.database.query(sql`update shared_version set wrap = ${one.wrap}, pointer = ${two.pointer} where document = 'doc-x1'`);
    await broken('SEAL_BROKEN');
    await world.database.query(
      sql`update shared_version set pointer = ${two.pointer}, ciphertext_hash = ${two.ciphertext_hash}, wrap = ${two.wrap} where document = 'doc-x1'`,
    );
    await broken('SEAL_BROKEN');
    await world.database.query(
      sql`update shared_version set pointer = ${one.pointer}, ciphertext_hash = ${one.ciphertext_hash}, wrap = ${one.wrap} where document = 'doc-x1'`,
    );
    await get('Binary/doc-x1-pdf').expect(200);
    // Another recorder's entry of the same name does not make their object its own.
    await world.database.query(sql`update shared_version set recorder = 'inst-c' where document = 'doc-x1'`);
    await world.database.query(sql`update projection.document set recorder = 'inst-c' where doc = 'doc-x1'`);
    await world.database.query(sql`update resource set recorder = 'inst-c' where document = 'doc-x1'`);
    await broken('SEAL_BROKEN');
    await world.database.query(sql`update shared_version set recorder = ${THEIRS} where document = 'doc-x1'`);
    await world.database.query(sql`update projection.document set recorder = ${THEIRS} where doc = 'doc-x1'`);
    await world.database.query(sql`update resource set recorder = ${THEIRS} where document = 'doc-x1'`);
    await world.blobs.delete(one.pointer);
    await broken('BLOB_MISSING');
  });
});

describe('Patient.link', () => {
  const linksIn = (patient: unknown): string[] => ((patient as Patient).link ?? []).map(({ other, type }) => `${type} ${other.reference}`);
  test('only for who can read both, on either, in every way of reading', async () => {
    await shared.document(theirDocument(XENIA, 'x1'), 'held');
    for (const [one, other] of [
      [OURS, XENIA],
      [XENIA, OURS],
    ] as const) {
      const read = await get(`Patient/${one}`).expect(200);
      assert.deepEqual(linksIn(read.body), [`seealso Patient/${other}`]);
      const tag = read.headers['etag'] ?? '';
      assert.match(tag, /^W\/"1-[0-9a-f]{16}"$/);
      assert.equal((read.body as Patient).meta?.versionId, '1');
      await get(`Patient/${one}`).set('If-None-Match', tag).expect(304);
      await get(`Patient/${one}`).set('If-None-Match', 'W/"1"').expect(200);
      await get(`Patient/${one}`).set('If-Modified-Since', 'Mon, 23 Nov 2026 08:00:00 GMT').expect(200);
      assert.deepEqual(linksIn((await get(`Patient/${one}/_history/1`).expect(200)).body), [`seealso Patient/${other}`]);
      const history = (await get(`Patient/${one}/_history`).expect(200)).body as Bundle;
      assert.deepEqual([linksIn(history.entry?.[0]?.resource), history.entry?.[0]?.response?.etag], [[`seealso Patient/${other}`], tag]);
      const found = (await get(`Patient?_id=${one}`).expect(200)).body as Bundle;
      assert.deepEqual(linksIn(found.entry?.[0]?.resource), [`seealso Patient/${other}`]);
      assert.deepEqual(linksIn(((await get(`Patient?_id=${one}&_elements=link`).expect(200)).body as Bundle).entry?.[0]?.resource), [
        `seealso Patient/${other}`,
      ]);
      assert.deepEqual(linksIn(((await get(`Patient?_id=${one}&_elements=name`).expect(200)).body as Bundle).entry?.[0]?.resource), []);
      assert.deepEqual(
        world.audited.at(-1)?.patients.map(({ patient }) => patient),
        [one],
      );
    }
    const included = (await get(`Observation?patient=${XENIA}&_include=Observation:subject`).expect(200)).body as Bundle;
    assert.deepEqual(linksIn(included.entry?.find((entry) => entry.search?.mode === 'include')?.resource), [`seealso Patient/${OURS}`]);
    // Who can read but one of them sees no sign of the other.
    await shared.grant('theirs-only', XENIA, 'laboratory');
    await world.database.query(sql`delete from test_grant where actor = 'mem-clinician' and inst = ${THEIRS}`);
    for (const [one, token] of [
      [OURS, 'clinician'],
      [XENIA, 'theirs-only'],
    ] as const) {
      const read = await get(`Patient/${one}`, token).expect(200);
      assert.deepEqual([linksIn(read.body), read.headers['etag']], [[], 'W/"1"']);
      assert.deepEqual(linksIn(((await get(`Patient?_id=${one}`, token).expect(200)).body as Bundle).entry?.[0]?.resource), []);
    }
  });
  test('not while the link is none, and one a link', async () => {
    await shared.link(XENIA, OURS, 'bound');
    assert.deepEqual(linksIn((await get(`Patient/${OURS}`).expect(200)).body), []);
    await shared.link(XENIA, OURS, 'confirmed');
    await world.database.query(sql`update patient_link set own_pat = ${OURS}`);
    assert.deepEqual(linksIn((await get(`Patient/${OURS}`).expect(200)).body), [`seealso Patient/${XENIA}`, `seealso Patient/${YUSUF}`]);
    assert.deepEqual(linksIn((await get(`Patient/${YUSUF}`).expect(200)).body), [`seealso Patient/${OURS}`]);
    assert.deepEqual(linksIn((await get(`Patient/${OTHER}`).expect(200)).body), []);
  });
});

test('permissions on patients whom nobody linked make no search too costly', async () => {
  await world.database.query(sql`delete from test_grant`);
  await world.grant('clinician', OURS, 'laboratory');
  for (let i = 0; i < 20; i++) await shared.grant('clinician', `pat-flood${i}`, 'laboratory');
  assert.deepEqual(ids((await get('Patient?name=meier').expect(200)).body), [OURS]);
});

test('an emergency opens what is held, and nothing that is not', async () => {
  await shared.document(theirDocument(XENIA, 'x1'), 'held');
  world.state.fresh = false;
  world.state.declared.add('mem-clinician');
  try {
    await get('Observation/obs-x1-0', 'breaker').expect(200);
    await shared.link(XENIA, OURS, 'held');
    await get('Observation/obs-x1-0', 'breaker').expect(503, /STALE/);
  } finally {
    world.state.fresh = true;
    world.state.declared.clear();
  }
});

function bytes(response: request.Response, done: (error: Error | null, body: Buffer) => void): void {
  const chunks: Buffer[] = [];
  const stream = response as unknown as NodeJS.ReadableStream;
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  stream.on('end', () => done(null, Buffer.concat(chunks)));
}
