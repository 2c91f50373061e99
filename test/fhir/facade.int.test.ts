import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Bundle, OperationOutcome } from 'fhir/r4.js';
import request from 'supertest';
import { sql } from '../../src/store/sql.ts';
import { BASE, course, createWorld, INST, laboratory, member, person, type World } from './world.ts';

const ANNA = 'pat-anna';
const BEAT = 'pat-beat';

let world: World;
before(async () => {
  world = await createWorld({ settings: { maxPinned: 3, maxIncluded: 50 } });
  await world.patient(ANNA, {
    resourceType: 'Patient',
    name: [{ family: 'Müller', given: ['Anna', 'Lisa'] }],
    birthDate: '1958-03-14',
    gender: 'female',
    identifier: [{ system: 'urn:mrn', value: 'M-1' }],
    generalPractitioner: [{ reference: 'Practitioner/prac-gp' }],
  });
  await world.patient(BEAT, {
    resourceType: 'Patient',
    name: [{ family: 'Nguyễn', given: ['Đức'] }],
    birthDate: '1960',
    identifier: [{ system: 'urn:mrn', value: 'M-2' }],
  });
  await world.directory([
    { resourceType: 'Practitioner', id: 'prac-l1', name: [{ family: 'Labor', given: ['Lea'] }] } as never,
    { resourceType: 'Practitioner', id: 'prac-b1', name: [{ family: 'Hidden' }] } as never,
    { resourceType: 'Practitioner', id: 'prac-gp', name: [{ family: 'House' }] } as never,
    { resourceType: 'Practitioner', id: 'mem-clinician', name: [{ family: 'Member' }] } as never,
    { resourceType: 'Organization', id: INST, name: 'Clinic' } as never,
  ]);
  await world.database.query(
    sql`insert into projection.member values (${INST}, 'mem-clinician', 'clinician', null, null, 'active', now(), 1)`,
  );
  await world.database.query(sql`insert into projection.institution values (${INST}, 'msp', 'active', '{}', '{}', 1)`);
  await world.document(
    laboratory(ANNA, 'l1', '2026-03-14', [
      ['718-7', '13.20'],
      ['718-7', '9.00'],
      ['2160-0', '0.80'],
    ]),
  );
  await world.document(laboratory(ANNA, 'l2', '2026-06-01', [['718-7', '11.0']]));
  await world.document(course(ANNA, 'c1', '2026-01-10', '2026-02-20'));
  await world.document(laboratory(BEAT, 'b1', '2026-03-14', [['718-7', '13.20']]));
  world.actors.set('anna', person('anna', ANNA));
  for (const category of ['laboratory', 'radiation-dose']) await world.grant('anna', ANNA, category);
  await world.grant('clinician', ANNA, 'laboratory');
});
after(() => world.close());

const get = (path: string, token: string | undefined = 'clinician') => {
  const call = request(world.app).get(path);
  return token === '' ? call : call.set('Authorization', `Bearer ${token}`);
};
const ids = (body: unknown, mode = 'match'): string[] =>
  ((body as Bundle).entry ?? []).filter((entry) => entry.search?.mode === mode).map((entry) => entry.resource?.id ?? '');
const search = async (query: string, token?: string): Promise<string[]> => {
  const response = await get(`/fhir/${query}`, token);
  assert.equal(response.status, 200, response.text);
  return ids(response.body).sort();
};

describe('read', () => {
  test('a permitted resource comes with its digits, version and headers', async () => {
    const response = await get('/fhir/Observation/obs-l1-0').expect(200);
    assert.match(response.text, /"value":13\.20,/);
    assert.equal(response.headers['content-type'], 'application/fhir+json; charset=utf-8');
    assert.equal(response.headers['etag'], 'W/"1"');
    assert.equal(response.headers['cache-control'], 'private, no-store');
    assert.match(response.headers['vary'] ?? '', /Authorization/);
    assert.match(response.headers['content-security-policy'] ?? '', /default-src 'none'/);
    assert.equal(response.body.meta.versionId, '1');
    assert.equal(response.body.meta.lastUpdated, '2026-11-01T08:00:00.123Z');
    const event = world.audited.at(-1);
    assert.deepEqual(event?.patients, [{ institution: INST, patient: ANNA }]);
    assert.equal(event?.outcome, 'permitted');
    assert.deepEqual(event?.decision, { height: 7 });
  });
  test('hidden and missing answer and are audited alike', async () => {
    const strip = (r: { status: number; text: string; headers: Record<string, string> }) => {
      const { date: _date, 'x-request-id': _id, ...headers } = r.headers;
      return { status: r.status, text: r.text, headers };
    };
    const missing = strip(await get('/fhir/Observation/obs-none').expect(404));
    const audit = (id: string) => {
      const { requestId: _r, query: _q, ...event } = world.audited.at(-1) ?? assert.fail();
      assert.equal(event.resource?.id, id);
      return { ...event, resource: { ...event.resource, id: '' } };
    };
    const missingAudit = audit('obs-none');
    for (const path of [
      'Observation/obs-b1-0',
      'Procedure/course-c1',
      'Patient/pat-beat',
      'Practitioner/prac-b1',
      'Binary/pdf-b1',
      'Observation/rep-l1',
    ]) {
      const [type = '', id = ''] = path.split('/');
      assert.deepEqual(strip(await get(`/fhir/${path}`)), missing, path);
      assert.deepEqual(audit(id), { ...missingAudit, resource: { type, id: '' } }, path);
      assert.deepEqual(strip(await get(`/fhir/${path}`).set('If-None-Match', 'W/"1"')), missing, path);
    }
    // A stranger with no permission at all.
    for (const path of ['Observation/obs-l1-0', 'Patient/pat-anna', 'Binary/pdf-l1'])
      assert.deepEqual(strip(await get(`/fhir/${path}`, 'stranger')), missing, path);
  });
  test('304 only after consent; versions and history', async () => {
    await get('/fhir/Observation/obs-l1-0').set('If-None-Match', '"0", W/"1"').expect(304);
    await get('/fhir/Observation/obs-l1-0').set('If-Modified-Since', 'Sun, 01 Nov 2026 08:00:00 GMT').expect(304);
    await get('/fhir/Observation/obs-l1-0').set('If-None-Match', 'W/"2"').expect(200);
    await get('/fhir/Observation/obs-l1-0/_history/1').expect(200);
    await get('/fhir/Observation/obs-l1-0/_history/2').expect(404);
    await get('/fhir/Observation/obs-l1-0/_history/x').expect(404);
    const history = await get('/fhir/Observation/obs-l1-0/_history').expect(200);
    assert.equal(history.body.type, 'history');
    assert.equal(history.body.total, 1);
    await get('/fhir/Observation/obs-b1-0/_history').expect(404);
  });
  test('a document counts only as the ledger says it', async () => {
    await world.document({ ...laboratory(ANNA, 'n1', '2026-07-01'), entry: 'none' });
    await world.document({ ...laboratory(ANNA, 'n2', '2026-07-01'), entry: 'other-hash' });
    await get('/fhir/Observation/obs-n1-0').expect(404);
    // Another object than the ledger names: told to who may read it, by no search.
    for (const path of ['Observation/obs-n2-0', 'Observation/obs-n2-0/_history', 'Observation/obs-n2-0/_history/1', 'Binary/pdf-n2'])
      await get(`/fhir/${path}`).expect(500, /INTEGRITY/);
    await get('/fhir/Observation/obs-n2-0', 'stranger').expect(404);
    assert.deepEqual(await search(`Observation?_id=obs-n2-0`), []);
    await world.database.query(sql`delete from document_version where document = 'doc-n2'`);
    await get('/fhir/Observation/obs-n2-0').expect(500, /INTEGRITY/);
    assert.deepEqual(new Set(world.alarms.splice(0).map((alarm) => (alarm as { reason: string }).reason)), new Set(['ENTRY_DIFFERS']));
    await world.document(laboratory(ANNA, 'n3', '2026-07-01'));
    await get('/fhir/Observation/obs-n3-0').expect(200);
    // The new version is filed and not yet on the ledger: the old one stands.
    await world.document({ ...laboratory(ANNA, 'n3', '2026-07-01', [['718-7', '14.00']]), version: 2, entry: 'none' });
    assert.match((await get('/fhir/Observation/obs-n3-0').expect(200)).text, /13\.20/);
    await world.database.query(sql`update projection.document d set version = 2, ciphertext_hash = v.ciphertext_hash, commitment = v.commitment
      from document_version v where d.doc = 'doc-n3' and v.document = d.doc and v.version = 2`);
    assert.match((await get('/fhir/Observation/obs-n3-0').expect(200)).text, /14\.00/);
    await get('/fhir/Observation/obs-n3-0/_history/1').expect(404);
    await world.database.query(sql`update subject set withdrawn_at = now() where document = 'doc-n3'`);
    await get('/fhir/Observation/obs-n3-0').expect(404);
    await world.database.query(sql`update subject set withdrawn_at = null where document = 'doc-n3'`);
    await world.withdraw('doc-n3');
    await get('/fhir/Observation/obs-n3-0').expect(404);
    for (const n of ['n1', 'n2', 'n3']) await world.remove(`doc-${n}`);
  });
  test('directory: members, institutions and whom readable resources name', async () => {
    for (const id of ['prac-l1', 'mem-clinician', 'prac-gp']) await get(`/fhir/Practitioner/${id}`).expect(200);
    await get(`/fhir/Organization/${INST}`).expect(200);
    await get('/fhir/Practitioner/prac-l1', 'stranger').expect(404);
    assert.deepEqual(await search('Practitioner?name=lab'), ['prac-l1']);
    assert.deepEqual(await search('Practitioner?family=hid'), []);
    assert.deepEqual(await search('Practitioner?name:exact=Labor'), ['prac-l1']);
    assert.deepEqual(await search('Practitioner?name:contains=embe'), ['mem-clinician']);
    assert.deepEqual(await search('Practitioner', 'stranger'), ['mem-clinician']);
  });
  test('the data period holds for the whole of a row and of what it refers to', async () => {
    world.actors.set('period', member('period'));
    await world.grant('period', ANNA, 'laboratory', { start: '2026-05-01T00:00:00Z' });
    await world.grant('period', ANNA, 'radiation-dose', { start: '2026-02-01T00:00:00Z' });
    assert.deepEqual(await search('Observation', 'period'), ['obs-l2-0']);
    assert.deepEqual(await search('DocumentReference', 'period'), ['ref-l2']);
    // The phase lies inside, but refers to a course that began before.
    assert.deepEqual(await search('Procedure', 'period'), []);
    assert.deepEqual(await search('BodyStructure', 'period'), []);
    assert.deepEqual(await search('Procedure', 'anna'), ['course-c1', 'phase-c1']);
  });
});

describe('search', () => {
  test('clear parameters', async () => {
    const cases: [string, string[]][] = [
      ['Observation?code=718-7', ['obs-l1-0', 'obs-l1-1', 'obs-l2-0']],
      ['Observation?code=http://loinc.org|718-7,http://loinc.org|2160-0&date=2026-03', ['obs-l1-0', 'obs-l1-1', 'obs-l1-2']],
      ['Observation?code=http://snomed.info/sct|718-7', []],
      ['Observation?code=http://loinc.org|&date=gt2026-03-14', ['obs-l2-0']],
      ['Observation?code=|718-7', []],
      ['Observation?status=|final&_id=obs-l2-0', ['obs-l2-0']],
      ['Observation?code:not=718-7', ['obs-l1-2']],
      ['Observation?date=ge2026-03-14&date=lt2026-03-15', ['obs-l1-0', 'obs-l1-1', 'obs-l1-2']],
      ['Observation?date=ne2026-03-14', ['obs-l2-0']],
      ['Observation?date=sa2026-03', ['obs-l2-0']],
      ['Observation?date=eb2026-06-01', ['obs-l1-0', 'obs-l1-1', 'obs-l1-2']],
      ['Observation?patient=pat-anna&_id=obs-l1-0,obs-b1-0', ['obs-l1-0']],
      [`Observation?subject=${BASE}/Patient/pat-anna&code=2160-0`, ['obs-l1-2']],
      ['Observation?subject:Patient=pat-anna&code=2160-0', ['obs-l1-2']],
      ['Observation?patient=pat-beat', []],
      ['Observation?performer=Practitioner/prac-l2', ['obs-l2-0']],
      ['Observation?encounter:missing=true&code=2160-0', ['obs-l1-2']],
      ['Observation?performer:missing=true', []],
      ['Observation?identifier=urn:lab|ACC-l1-1', ['obs-l1-1']],
      ['Observation?identifier=urn:lab|ACC-b1-0', []],
      ['Observation?identifier=urn:other|ACC-l1-1', []],
      ['Observation?_lastUpdated=ge2026-11-01&code=2160-0', ['obs-l1-2']],
      ['Observation?_lastUpdated=lt2026-11-01', []],
      ['DiagnosticReport?result=Observation/obs-l2-0', ['rep-l2']],
      ['DocumentReference?contenttype=application/pdf&type=11502-2', ['ref-l1', 'ref-l2']],
      ['DocumentReference?location=Binary/pdf-l1', ['ref-l1']],
      ['Provenance?target=DocumentReference/ref-l1', ['prov-l1']],
      ['Provenance?patient=pat-anna', ['prov-l1', 'prov-l2']],
      ['Patient', ['pat-anna']],
      ['Patient?identifier=urn:mrn|M-1', ['pat-anna']],
      ['Patient?identifier=urn:mrn|M-2', []],
      ['Procedure', []],
    ];
    for (const [query, expected] of cases) assert.deepEqual(await search(query), expected, query);
    const response = await request(world.app)
      .post('/fhir/Observation/_search?code=718-7')
      .set('Authorization', 'Bearer clinician')
      .type('form')
      .send('patient=Patient%2Fpat-anna&date=2026-06-01')
      .expect(200);
    assert.deepEqual(ids(response.body), ['obs-l2-0']);
  });
  test('sealed parameters are matched after opening', async () => {
    const cases: [string, string[]][] = [
      ['Observation?value-quantity=13.2', ['obs-l1-0']],
      ['Observation?value-quantity=13', ['obs-l1-0']],
      ['Observation?value-quantity=13.20|http://unitsofmeasure.org|g/dL', ['obs-l1-0']],
      ['Observation?value-quantity=13.2|http://unitsofmeasure.org|mg/dL', []],
      ['Observation?value-quantity=lt9.0||g/dL', ['obs-l1-2']],
      ['Observation?code-value-quantity=http://loinc.org|718-7$ge11', ['obs-l1-0', 'obs-l2-0']],
      ['Observation?value-concept:missing=true&code=2160-0', ['obs-l1-2']],
      ['Patient?name=mull&birthdate=1958-03-14', ['pat-anna']],
      ['Patient?name=ANNA&gender=female', ['pat-anna']],
      ['Patient?given=lisa', ['pat-anna']],
      ['Patient?name=nguyen', []],
      ['Patient?birthdate=lt1958', []],
      ['Patient?birthdate=1958', ['pat-anna']],
    ];
    for (const [query, expected] of cases) assert.deepEqual(await search(query), expected, query);
    const sorted = await get('/fhir/Patient?_sort=-birthdate').expect(200);
    assert.deepEqual(ids(sorted.body), ['pat-anna']);
  });
  test('too many patients in scope for a sealed search, unless pinned', async () => {
    world.actors.set('wide', member('wide'));
    for (const pat of [ANNA, BEAT, 'pat-x', 'pat-y']) await world.grant('wide', pat, 'laboratory');
    const refused = await get('/fhir/Patient?name=anna', 'wide').expect(400);
    assert.equal((refused.body as OperationOutcome).issue[0]?.code, 'too-costly');
    await get('/fhir/Observation?value-quantity=13.2', 'wide').expect(400);
    assert.deepEqual(await search('Observation?value-quantity=13.2&patient=pat-beat', 'wide'), ['obs-b1-0']);
    assert.deepEqual(await search('Patient?name=nguyen&identifier=urn:mrn|M-2', 'wide'), ['pat-beat']);
    assert.deepEqual(await search('Observation?code=2160-0', 'wide'), ['obs-l1-2']);
  });
  test('pages: every match once, in order, last page without next, bound to the caller', async () => {
    for (const sort of ['', '&_sort=-date', '&_sort=date,_id', '&_sort=-_lastUpdated', '&value-quantity=gt0']) {
      const seen: string[] = [];
      let url: string | undefined = `/fhir/Observation?_count=1${sort}`;
      for (let page = 0; url !== undefined && page < 10; page++) {
        const body: unknown = (await get(url).expect(200)).body;
        assert.equal((body as Bundle).total, page === 0 ? 4 : undefined);
        seen.push(...ids(body));
        const next: string | undefined = (body as Bundle).link?.find((link) => link.relation === 'next')?.url;
        if (next !== undefined) {
          assert.ok(next.startsWith(`${BASE}/Observation?_cursor=`));
          const cursor = next.slice(BASE.length);
          await get(`/fhir${cursor}`, 'stranger').expect(404);
          await get(`/fhir${cursor.replace('Observation', 'DiagnosticReport')}`).expect(404);
          await get(`/fhir${cursor}x`).expect(404);
          await get(`/fhir${cursor}&code=1`).expect(400);
        }
        url = next === undefined ? undefined : `/fhir${next.slice(BASE.length)}`;
      }
      assert.deepEqual([...seen].sort(), ['obs-l1-0', 'obs-l1-1', 'obs-l1-2', 'obs-l2-0'], sort);
      if (sort === '&_sort=-date') assert.equal(seen[0], 'obs-l2-0');
      if (sort === '&_sort=date,_id') assert.equal(seen.at(-1), 'obs-l2-0');
    }
  });
  test('a revocation between pages bites, and cursors expire', async () => {
    world.actors.set('walker', member('walker'));
    await world.grant('walker', ANNA, 'laboratory');
    const first = await get('/fhir/Observation?_count=2', 'walker').expect(200);
    const next = ((first.body as Bundle).link ?? []).find((link) => link.relation === 'next')?.url ?? assert.fail();
    const path = `/fhir${next.slice(BASE.length)}`;
    assert.equal(ids((await get(path, 'walker').expect(200)).body).length, 2);
    const { now } = world.state;
    world.state.now = new Date(now.getTime() + 16 * 60_000);
    await get(path, 'walker').expect(404);
    world.state.now = now;
    await world.revoke('walker', ANNA);
    const after = await get(path, 'walker').expect(200);
    assert.equal((after.body as Bundle).entry, undefined);
    assert.equal(
      (after.body as Bundle).link?.some((link) => link.relation === 'next'),
      false,
    );
  });
  test('counts, subsets and includes', async () => {
    const count = await get('/fhir/Observation?_summary=count').expect(200);
    assert.deepEqual(count.body, { resourceType: 'Bundle', type: 'searchset', total: 4, link: count.body.link });
    assert.equal((await get('/fhir/Observation?_count=0&value-quantity=13.2').expect(200)).body.total, 1);
    assert.equal((await get('/fhir/Observation?_total=none').expect(200)).body.total, undefined);
    const cut = await get('/fhir/Observation?_id=obs-l1-0&_elements=valueQuantity').expect(200);
    assert.match(cut.text, /13\.20/);
    assert.deepEqual(Object.keys(cut.body.entry[0].resource).sort(), ['code', 'id', 'meta', 'resourceType', 'status', 'valueQuantity']);
    assert.equal(cut.body.entry[0].resource.meta.tag[0].code, 'SUBSETTED');
    const include = await get(
      '/fhir/DiagnosticReport?_id=rep-l1&_include=DiagnosticReport:result&_include=DiagnosticReport:subject&_revinclude=Provenance:target',
    ).expect(200);
    assert.deepEqual(ids(include.body, 'include').sort(), ['obs-l1-0', 'obs-l1-1', 'obs-l1-2', 'pat-anna']);
    const back = await get('/fhir/DocumentReference?_id=ref-l1&_revinclude=Provenance:target').expect(200);
    assert.deepEqual(ids(back.body, 'include'), ['prov-l1']);
    assert.equal(back.body.entry[0].resource.content[0].attachment.url, `${BASE}/Binary/pdf-l1`);
    const performer = await get('/fhir/Observation?_id=obs-l1-0&_include=Observation:performer:Practitioner').expect(200);
    assert.deepEqual(ids(performer.body, 'include'), ['prac-l1']);
    world.state.deny.add('Patient.r');
    await get('/fhir/DiagnosticReport?_include=DiagnosticReport:patient').expect(403);
    assert.deepEqual(
      ids((await get('/fhir/DiagnosticReport?_id=rep-l1&_include=DiagnosticReport:subject').expect(200)).body, 'include'),
      [],
    );
    world.state.deny.clear();
  });
  test('unknown parameters: refused when strict, named when lenient, and the self link says what was honoured', async () => {
    const strict = await get('/fhir/Observation?code=718-7&colour=red').expect(400);
    assert.deepEqual((strict.body as OperationOutcome).issue[0]?.expression, ['colour']);
    const lenient = await get('/fhir/Observation?code=718-7&colour=red').set('Prefer', 'handling=lenient').expect(200);
    const bundle = lenient.body as Bundle;
    assert.equal(bundle.link?.[0]?.url, `${BASE}/Observation?code=718-7`);
    assert.equal(bundle.entry?.at(-1)?.search?.mode, 'outcome');
    assert.equal(bundle.total, 3);
    for (const bad of [
      'date=yesterday',
      'date=ap2026',
      'date=2026-02-31',
      'code:text=x',
      'code:in=x',
      'code:above=x',
      'subject:Patient=Group/x',
      'identifier=ACC',
      'value-quantity=high',
      'code-value-quantity=718-7',
      '_sort=code',
      '_count=-1',
      '_summary=true',
      '_total=maybe',
      '_include=*',
      '_include=Observation:*',
      '_include:iterate=Observation:performer',
      '_include=Patient:organization',
      '_revinclude=Observation:code',
      'patient:identifier=x',
    ]) {
      const response = await get(`/fhir/Observation?${bad}`).set('Prefer', 'handling=lenient');
      assert.equal(response.status, 400, bad);
      assert.equal((response.body as OperationOutcome).resourceType, 'OperationOutcome');
    }
    for (const chained of ['subject.name=x', '_has:Provenance:target:agent=x', '_text=x', '_content=x', '_query=x', '_filter=x']) {
      assert.equal((await get(`/fhir/Observation?${chained}`)).status, 400, chained);
    }
  });
});

describe('Binary', () => {
  test('raw, in parts, or as FHIR, as an attachment that can do nothing', async () => {
    const raw = await get('/fhir/Binary/pdf-l1').buffer(true).parse(bytes).expect(200);
    assert.equal(raw.body.toString(), '%PDF-1.7 test');
    assert.equal(raw.headers['content-type'], 'application/pdf');
    assert.match(raw.headers['content-disposition'] ?? '', /^attachment/);
    assert.equal(raw.headers['x-content-type-options'], 'nosniff');
    assert.match(raw.headers['content-security-policy'] ?? '', /sandbox/);
    const part = await get('/fhir/Binary/pdf-l1')
      .set('Range', 'bytes=1-3')
      .set('Accept', 'application/pdf')
      .buffer(true)
      .parse(bytes)
      .expect(206);
    assert.equal(part.body.toString(), 'PDF');
    assert.equal(part.headers['content-range'], 'bytes 1-3/13');
    await get('/fhir/Binary/pdf-l1').set('Range', 'bytes=99-').expect(416);
    const fhir = await get('/fhir/Binary/pdf-l1').set('Accept', 'application/fhir+json').expect(200);
    assert.equal(Buffer.from(fhir.body.data, 'base64').toString(), '%PDF-1.7 test');
    assert.equal(fhir.body.resourceType, 'Binary');
    await get('/fhir/Binary/pdf-l1').set('Accept', 'image/png').expect(406);
    await get('/fhir/Binary/pdf-b1').set('Accept', 'image/png').expect(404);
    await get('/fhir/Binary/pdf-l1').set('If-None-Match', 'W/"1"').expect(304);
    const json = await get('/fhir/Binary/json-l1').expect(200);
    assert.equal(json.body.type, 'collection');
  });
  test('an object that does not match the ledger is not served', async () => {
    await world.document(laboratory(ANNA, 'x1', '2026-08-01'));
    const [row] = await world.database.query<{ pointer: string }>(sql`select pointer from document_version where document = 'doc-x1'`);
    const pointer = row?.pointer ?? assert.fail();
    await world.blobs.delete(pointer);
    const response = await get('/fhir/Binary/pdf-x1').expect(500);
    assert.equal((response.body as OperationOutcome).issue[0]?.details?.coding?.[0]?.code, 'INTEGRITY');
    assert.deepEqual(world.alarms.at(-1), { document: 'doc-x1', version: 1, reason: 'BLOB_MISSING' });
    assert.equal(world.audited.at(-1)?.outcome, 'failed');
    await world.remove('doc-x1');
  });
});

describe('errors', () => {
  test('each is an OperationOutcome with its status', async () => {
    const as = (call: request.Test) => call.set('Authorization', 'Bearer clinician');
    const app = world.app;
    const cases: [string, request.Test, number, string][] = [
      ['no token', request(app).get('/fhir/Patient'), 401, 'UNAUTHENTICATED'],
      ['bad token', request(app).get('/fhir/Patient').set('Authorization', 'Bearer nobody'), 401, 'UNAUTHENTICATED'],
      ['basic', request(app).get('/fhir/Patient').set('Authorization', 'Basic eDp5'), 401, 'UNAUTHENTICATED'],
      ['unknown route', request(app).get('/nowhere'), 404, 'NOT_FOUND'],
      ['unknown type', as(request(app).get('/fhir/Medication/1')), 404, 'NOT_FOUND'],
      ['unknown operation', as(request(app).get('/fhir/Patient/pat-anna/$everything')), 404, 'NOT_FOUND'],
      ['bad escape', as(request(app).get('/fhir/Patient/%E0%A4%A')), 400, 'BAD_REQUEST'],
      ['delete', as(request(app).delete('/fhir/Observation/obs-l1-0')), 405, 'METHOD_NOT_ALLOWED'],
      [
        'patch',
        as(request(app).patch('/fhir/Observation/obs-l1-0')).type('application/json-patch+json').send('[]'),
        405,
        'METHOD_NOT_ALLOWED',
      ],
      ['create clinical', as(request(app).post('/fhir/Observation')).type('application/fhir+json').send('{}'), 405, 'METHOD_NOT_ALLOWED'],
      ['search Binary', as(request(app).get('/fhir/Binary')), 405, 'METHOD_NOT_ALLOWED'],
      ['xml', as(request(app).get('/fhir/Patient/pat-anna')).set('Accept', 'application/fhir+xml'), 406, 'NOT_ACCEPTABLE'],
      ['xml by format', as(request(app).get('/fhir/Patient/pat-anna?_format=xml')), 406, 'NOT_ACCEPTABLE'],
      ['R5', as(request(app).get('/fhir/Patient/pat-anna')).set('Accept', 'application/fhir+json; fhirVersion=5.0'), 406, 'NOT_ACCEPTABLE'],
      ['long url', as(request(app).get(`/fhir/Patient?_id=${'a'.repeat(9000)}`)), 413, 'TOO_LARGE'],
      [
        'long body',
        as(request(app).post('/fhir/Consent'))
          .type('application/fhir+json')
          .send(`"${'a'.repeat(300_000)}"`),
        413,
        'TOO_LARGE',
      ],
      ['media type', as(request(app).post('/fhir/Consent')).type('text/plain').send('x'), 415, 'UNSUPPORTED_MEDIA'],
      ['search media type', as(request(app).post('/fhir/Patient/_search')).type('application/json').send('{}'), 415, 'UNSUPPORTED_MEDIA'],
      [
        'charset',
        as(request(app).post('/fhir/Consent')).set('Content-Type', 'application/json; charset=nonsense').send('{}'),
        415,
        'UNSUPPORTED_MEDIA',
      ],
      ['no json', as(request(app).post('/fhir/Consent')).type('application/fhir+json').send('{'), 400, 'BAD_REQUEST'],
      [
        'no consent',
        as(request(app).post('/fhir/Consent')).type('application/fhir+json').send('{"resourceType":"Patient"}'),
        400,
        'BAD_REQUEST',
      ],
    ];
    for (const [name, call, status, code] of cases) {
      const response = await call.set('X-Request-Id', 'my-request');
      assert.equal(response.status, status, `${name}: ${response.text}`);
      const outcome = JSON.parse(response.text) as OperationOutcome;
      assert.equal(outcome.issue[0]?.details?.coding?.[0]?.code, code, name);
      assert.equal(response.headers['x-request-id'], 'my-request', name);
      assert.match(response.headers['content-type'] ?? '', /application\/fhir\+json/, name);
      if (status === 405) assert.match(response.headers['allow'] ?? '', /GET/, name);
      if (status === 401) assert.match(response.headers['www-authenticate'] ?? '', /Bearer/, name);
    }
  });
  test('scope before data, staleness, and no answer without its audit', async () => {
    world.state.deny.add('Observation.r').add('Observation.s');
    const forbidden = [
      await get('/fhir/Observation/obs-l1-0'),
      await get('/fhir/Observation/obs-none'),
      await get('/fhir/Observation?patient=pat-beat'),
    ];
    for (const response of forbidden) assert.equal(response.status, 403);
    assert.equal(forbidden[0]?.text, forbidden[1]?.text);
    world.state.deny.clear();
    world.state.fresh = false;
    for (const path of ['Observation/obs-l1-0', 'Observation/none', 'Observation', 'Binary/pdf-l1', 'Consent']) {
      const stale = await get(`/fhir/${path}`).expect(503);
      assert.ok(Number(stale.headers['retry-after']) > 0);
    }
    // Break-glass: what an emergency opens that was declared before, and only for who says so; the rest cannot be said now.
    const broken = ['Observation/obs-l1-0', 'Observation?patient=pat-beat', 'Binary/pdf-l1'];
    for (const path of broken) await get(`/fhir/${path}`, 'breaker').expect(503);
    world.state.declared.add('mem-clinician');
    for (const path of broken) {
      await get(`/fhir/${path}`, 'breaker').expect(200);
      assert.deepEqual([world.audited.at(-1)?.outcome, world.audited.at(-1)?.reason], ['permitted', 'EMERGENCY']);
      await get(`/fhir/${path}`).expect(503);
    }
    for (const path of ['Observation/none', 'Consent', 'AuditEvent']) await get(`/fhir/${path}`, 'breaker').expect(503);
    world.state.declared.clear();
    world.state.fresh = true;
    world.state.auditFails = true;
    const unaudited = await get('/fhir/Observation/obs-l1-0').expect(503);
    assert.doesNotMatch(unaudited.text, /13\.20/);
    world.state.auditFails = false;
    await get('/fhir/metadata', '').expect(200);
  });
  test('an unknown failure says nothing, in the answer or the log', async () => {
    const broken = await createWorld({
      parts: {
        verifyToken: async () => {
          throw new Error('Mrs CANARY has 13.20');
        },
      },
    });
    try {
      const response = await request(broken.app).get('/fhir/Patient?name=CANARY').set('Authorization', 'Bearer secret-token');
      assert.equal(response.status, 500);
      assert.doesNotMatch(response.text, /CANARY/);
      const log = broken.logged.join('');
      assert.match(log, /"status":500/);
      assert.doesNotMatch(log, /CANARY|13\.20|secret-token|name=/);
    } finally {
      await broken.close();
    }
  });
  test('logs name routes, not addresses', async () => {
    world.logged.length = 0;
    await get('/fhir/Patient?name=Canary&birthdate=1958-03-14').expect(200);
    await get('/fhir/Observation/obs-l1-0').expect(200);
    await new Promise((done) => setTimeout(done, 20));
    const lines = world.logged.map((line) => JSON.parse(line) as { route: string });
    assert.deepEqual(
      lines.map((line) => line.route),
      ['/fhir/:type', '/fhir/:type/:id'],
    );
    assert.doesNotMatch(world.logged.join(''), /Canary|1958|obs-l1|clinician/);
  });
  test('429 with Retry-After, per client', async () => {
    const limited = await createWorld({ settings: { requestsPerMinute: 2 } });
    try {
      const call = (token: string) => request(limited.app).get('/fhir/Patient').set('Authorization', `Bearer ${token}`);
      await call('clinician').expect(200);
      await call('clinician').expect(200);
      const refused = await call('clinician').expect(429);
      assert.equal((refused.body as OperationOutcome).issue[0]?.code, 'throttled');
      assert.equal(refused.headers['retry-after'], '60');
      await call('stranger').expect(200);
    } finally {
      await limited.close();
    }
  });
});

describe('Consent and AuditEvent are delegated', () => {
  const served = (type: string, id: string, patient: string, at: string, extra: object) => ({
    type,
    id,
    versionId: '1',
    lastUpdated: new Date(at),
    text: JSON.stringify({ resourceType: type, id, meta: { versionId: '1', lastUpdated: at }, ...extra }),
    patients: [{ institution: INST, patient }],
  });
  test('an end of a Consent passes also when the view of the ledger is too old, and nothing else does', async () => {
    world.consents.push(
      served('Consent', 'con-7', ANNA, '2026-10-01T00:00:00.000Z', { status: 'active', patient: { reference: `Patient/${ANNA}` } }),
    );
    const put = (status: string) =>
      request(world.app)
        .put('/fhir/Consent/con-7')
        .set('Authorization', 'Bearer clinician')
        .type('application/fhir+json')
        .set('If-Match', 'W/"1"')
        .send({ resourceType: 'Consent', id: 'con-7', status });
    world.state.fresh = false;
    try {
      for (const status of ['active', 'draft', 'Inactive', 'x']) await put(status).expect(503);
      await request(world.app)
        .put('/fhir/Consent/con-7')
        .set('Authorization', 'Bearer clinician')
        .type('application/fhir+json')
        .send('{')
        .expect(503);
      await get('/fhir/Consent/con-7').expect(503);
      for (const status of ['inactive', 'entered-in-error', 'rejected']) await put(status).expect(200);
    } finally {
      world.state.fresh = true;
      world.consents.splice(
        world.consents.findIndex(({ id }) => id === 'con-7'),
        1,
      );
    }
  });

  test('Consent: create, update with If-Match, read, search', async () => {
    world.consents.push(
      served('Consent', 'con-1', ANNA, '2026-10-01T00:00:00.000Z', {
        status: 'active',
        patient: { reference: `Patient/${ANNA}` },
        provision: { period: { start: '2026-10-01' } },
      }),
      served('Consent', 'con-2', ANNA, '2026-10-02T00:00:00.000Z', { status: 'inactive', patient: { reference: `Patient/${ANNA}` } }),
    );
    assert.deepEqual(await search(`Consent?patient=${ANNA}&status=active`), ['con-1']);
    assert.deepEqual(await search(`Consent?patient=Patient/${ANNA}&period=ge2026-11`), ['con-1']);
    assert.deepEqual(await search('Consent?patient=pat-beat'), []);
    const page = await get('/fhir/Consent?_sort=-_lastUpdated&_count=1').expect(200);
    assert.deepEqual(ids(page.body), ['con-2']);
    await get('/fhir/Consent/con-1').expect(200);
    await get('/fhir/Consent/con-9').expect(404);
    const call = (method: 'post' | 'put', path: string) =>
      request(world.app)[method](path).set('Authorization', 'Bearer clinician').type('application/fhir+json');
    const created = await call('post', '/fhir/Consent').send({ resourceType: 'Consent', status: 'active' }).expect(201);
    assert.equal(created.headers['location'], `${BASE}/Consent/con-new`);
    await call('post', '/fhir/Consent').send({ resourceType: 'Consent', status: 'proposed' }).expect(202);
    const minimal = await call('post', '/fhir/Consent')
      .set('Prefer', 'return=minimal')
      .send({ resourceType: 'Consent', status: 'active' })
      .expect(201);
    assert.equal(minimal.text, '');
    await call('put', '/fhir/Consent/con-1')
      .set('If-Match', 'W/"1"')
      .send({ resourceType: 'Consent', id: 'con-1', status: 'inactive' })
      .expect(200);
    await call('put', '/fhir/Consent/con-1').set('If-Match', 'W/"7"').send({ resourceType: 'Consent', id: 'con-1' }).expect(412);
    await call('put', '/fhir/Consent/con-1').set('If-Match', 'W/"1"').send({ resourceType: 'Consent', id: 'con-2' }).expect(400);
    await call('put', '/fhir/Consent/con-8').set('If-Match', 'W/"1"').send({ resourceType: 'Consent', id: 'con-8' }).expect(404);
    assert.equal(world.audited.at(-1)?.interaction, 'update');
  });
  test('AuditEvent: by patient and date, in pages', async () => {
    for (let i = 1; i <= 3; i++)
      world.auditEvents.push(
        served('AuditEvent', `aud-${i}`, ANNA, `2026-11-0${i}T10:00:00.000Z`, { recorded: `2026-11-0${i}T10:00:00Z` }),
      );
    assert.deepEqual(await search(`AuditEvent?patient=${ANNA}&date=ge2026-11-02`), ['aud-2', 'aud-3']);
    assert.deepEqual(await search(`AuditEvent?patient=${ANNA}&date=gt2026-11-01&date=lt2026-11-03`), ['aud-2']);
    const first = await get(`/fhir/AuditEvent?patient=${ANNA}&_count=2`).expect(200);
    const next = ((first.body as Bundle).link ?? []).find((link) => link.relation === 'next')?.url ?? assert.fail();
    const second = await get(`/fhir${next.slice(BASE.length)}`).expect(200);
    assert.deepEqual(ids(second.body), ['aud-3']);
    await get('/fhir/AuditEvent?_id=aud-1').expect(400);
    await get('/fhir/AuditEvent/aud-1').expect(200);
  });
});

test('metadata and SMART configuration are open and true', async () => {
  const { body } = await get('/fhir/metadata', '').expect(200);
  assert.equal(body.fhirVersion, '4.0.1');
  for (const resource of body.rest[0].resource) {
    for (const { name, type } of resource.searchParam ?? []) {
      if (resource.type === 'AuditEvent') continue;
      const value =
        {
          date: '2026',
          token: 'urn:x|y',
          reference: 'Patient/pat-anna',
          quantity: '1',
          string: 'x',
          uri: 'x',
          composite: name.includes('quantity') ? 'a$1' : name.includes('date') ? 'a$2026' : 'a$b',
        }[type as string] ?? '';
      const response = await get(`/fhir/${resource.type}?${name}=${encodeURIComponent(value)}`);
      assert.equal(response.status, 200, `${resource.type}?${name}=${value} ${response.text}`);
    }
    for (const include of [
      ...(resource.searchInclude ?? []).map((i: string) => `_include=${i}`),
      ...(resource.searchRevInclude ?? []).map((i: string) => `_revinclude=${i}`),
    ]) {
      assert.equal((await get(`/fhir/${resource.type}?${include}`)).status, 200, `${resource.type}?${include}`);
    }
  }
  const smart = await get('/fhir/.well-known/smart-configuration', '').set('Accept', 'text/html').expect(200);
  assert.equal(smart.body.token_endpoint, 'http://fhir.test/token');
  assert.equal(smart.headers['access-control-allow-origin'], '*');
});

function bytes(response: request.Response, done: (error: Error | null, body: Buffer) => void): void {
  const res = response as unknown as NodeJS.ReadableStream;
  const chunks: Buffer[] = [];
  res.on('data', (chunk: Buffer) => chunks.push(chunk));
  res.on('end', () => done(null, Buffer.concat(chunks)));
}
