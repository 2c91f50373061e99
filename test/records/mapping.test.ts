import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { type ClassifierConfig, checkRules, compileClassifier } from '../../src/records/classify.ts';
import { NOT_CLINICAL_RULE, RULE_SETS } from '../../src/records/default-rules.ts';
import { describe } from '../../src/records/describe.ts';
import { compareTimes, targetOf } from '../../src/records/elements.ts';
import { type Json, numberOf, parseLossless, parseResource, stringifyLossless, textOf, toPlain } from '../../src/records/lossless-json.ts';
import { compareDemographics, demographicsOf, identifiersOf, isTestPatient, patientLinksOf } from '../../src/records/patient-identity.ts';
import { isReason } from '../../src/records/reasons.ts';
import { subjectsOf } from '../../src/records/subjects.ts';
import { bundleResources, sample, samples } from './samples.ts';

const AUTHORITIES = [
  { id: 'mrn', display: 'MRN', systems: ['http://hospital.example/mrn', 'http://hospital.smarthealthit.org'] },
  { id: 'aria', display: 'ARIA ID', systems: ['http://varian.com/fhir/identifier/Patient/ARIAID1'] },
];
const demographics = (patient: Json) => demographicsOf(parseResource(JSON.stringify(patient)), AUTHORITIES, '2026-01-01T00:00:00Z');

test('lossless JSON keeps every digit, and only raw where it must', () => {
  const text = '{"a":2.00,"b":[1e3,-0,0.10,12,1.5,12345678901234567890],"c":"x: 2.00, [1.0]","d":{"e":-2.50}}';
  const value = parseResource(text);
  assert.equal(stringifyLossless(value), text);
  assert.equal(textOf(value['a']), '2.00');
  assert.equal(numberOf(value['a']), 2);
  assert.deepEqual(toPlain(parseLossless('{"a":[2.00,{"b":1.10}],"c":1}')), { a: [2, { b: 1.1 }], c: 1 });
  assert.equal(stringifyLossless(parseLossless('[ 1.0 , 2 ]')), '[1.0,2]');
  // Strings that look like what stands for a number while the text is parsed, and numbers where none may stand.
  for (const mark of ['\uf8ff\ue000', '\\uf8ff\\ue000', '\\uF8FF\\uE000'])
    assert.deepEqual(toPlain(parseLossless(`{"a":"${mark}1.0","b":1.0}`)), { a: '\uf8ff\ue0001.0', b: 1 });
  for (const broken of ['{1.50:2}', `{1.50${' '.repeat(100)}:2}`, '[01.0]', '[1.0.0]', '[1.]', '1.50"', '[1.50 2]', '[-]', '[1.0e]'])
    assert.throws(() => parseLossless(broken), { code: 'CONTENT_INVALID' }, broken);
  assert.equal(stringifyLossless(parseLossless('1.50')), '1.50');
  const plain = parseLossless('{"a":1,"b":2.5}');
  assert.equal(toPlain(plain), plain);
});

test('lossless JSON: any numbers, anywhere, come back as they were', () => {
  const digits = fc
    .tuple(fc.integer({ min: -999999, max: 999999 }), fc.option(fc.stringMatching(/^\d{1,8}$/)), fc.option(fc.integer({ min: -9, max: 9 })))
    .map(([whole, fraction, exponent]) => `${whole}${fraction === null ? '' : `.${fraction}`}${exponent === null ? '' : `e${exponent}`}`);
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.string(), digits), { maxLength: 6 }), (members) => {
      const text = `[${members.map(([name, number]) => `{${JSON.stringify(`k${name}`)}:[${number}]}`).join(',')}]`;
      assert.equal(stringifyLossless(parseLossless(text)), text);
    }),
    { seed: 7, numRuns: 300 },
  );
});

test('lossless JSON refuses what is broken, deep, long or a trap, and quotes nothing of it', () => {
  const code = (text: string | Uint8Array, limits?: { maxLength: number; maxDepth: number }) => {
    try {
      parseResource(text, limits);
      return 'parsed';
    } catch (error) {
      assert.ok(error instanceof Error);
      assert.ok(!error.message.includes('SECRET'), error.message);
      return (error as { code?: string }).code;
    }
  };
  assert.equal(code('{"a":"SECRET'), 'CONTENT_INVALID');
  assert.equal(code('{"SECRET":nul}'), 'CONTENT_INVALID');
  assert.equal(code(`${'{"a":'.repeat(200)}1${'}'.repeat(200)}`), 'CONTENT_INVALID');
  assert.equal(code('[1]'), 'CONTENT_INVALID');
  assert.equal(code('{"__proto__":{"a":1}}'), 'CONTENT_INVALID');
  assert.equal(code(new Uint8Array([0x7b, 0xff, 0x7d])), 'CONTENT_INVALID');
  assert.equal(code('{"a":"xxxx"}', { maxLength: 5, maxDepth: 5 }), 'CONTENT_INVALID');
  assert.equal(code('{"a":"[[[[[[[[[[\\"[[[[["}', { maxLength: 100, maxDepth: 2 }), 'parsed');
  assert.equal(code('\uFEFF{"a":1}'), 'parsed');
});

test('references and times read the same however a source writes them', () => {
  const cases: [Json, string | undefined][] = [
    [{ reference: 'Patient/1' }, 'Patient/1'],
    [{ reference: 'https://host:55370/fhir/r4/Patient/Patient-1/_history/3' }, 'Patient/Patient-1'],
    [{ reference: 'urn:uuid:0b' }, 'urn:uuid:0b'],
    [{ reference: '/fhir/ValueSet?url=http://x/y&publisher=Organization-Prov-1' }, undefined],
    [{ reference: '\\\\SERVER\\share\\394.doc' }, undefined],
    [{ display: 'only' }, undefined],
    ['Patient/1', undefined],
  ];
  for (const [reference, expected] of cases) assert.equal(targetOf(reference), expected);
  assert.ok(compareTimes('2024-01-01T10:00:00+02:00', '2024-01-01T09:00:00Z') < 0);
  assert.ok(compareTimes('2024-03', '2024-03-02') < 0);
  assert.ok(compareTimes('2024-03-01T00:30:00', '2024-03-01T00:29:00Z') > 0, 'no offset counts as UTC, not as the zone of the machine');
  assert.ok(compareTimes(undefined, '1900') < 0);
  assert.ok(compareTimes('rubbish', '1900') < 0);
});

test('describe: role, status class and links of each kind', () => {
  const table: [Json, Record<string, unknown>][] = [
    [
      { resourceType: 'Patient', id: 'p' },
      { role: 'patient', status: 'active' },
    ],
    [{ resourceType: 'Organization', id: 'o' }, { role: 'directory' }],
    [
      { resourceType: 'Appointment', id: 'a', status: 'booked', start: '2024-01-01T00:00:00Z' },
      { role: 'appointment', clinicalTime: '2024-01-01T00:00:00Z' },
    ],
    [
      { resourceType: 'DocumentReference', id: 'd', status: 'current', docStatus: 'preliminary' },
      { role: 'note', status: 'draft', sourceStatus: 'current/preliminary' },
    ],
    [{ resourceType: 'DocumentReference', id: 'd', status: 'entered-in-error' }, { status: 'withdrawn' }],
    [
      {
        resourceType: 'Observation',
        id: 'o',
        status: 'final',
        category: [{ coding: [{ code: 'vital-signs', system: 'http://terminology.hl7.org/CodeSystem/observation-category' }] }],
      },
      { role: 'other' },
    ],
    [
      {
        resourceType: 'Observation',
        id: 'o',
        status: 'cancelled',
        category: [{ coding: [{ code: 'laboratory', system: 'http://terminology.hl7.org/CodeSystem/observation-category' }] }],
      },
      { role: 'laboratory-result', status: 'withdrawn' },
    ],
    [
      {
        resourceType: 'Observation',
        id: 'o',
        status: 'preliminary',
        category: [{ coding: [{ code: 'laboratory', system: 'http://terminology.hl7.org/CodeSystem/observation-category' }] }],
      },
      { status: 'active' },
    ],
    [
      {
        resourceType: 'ServiceRequest',
        id: 's',
        status: 'revoked',
        code: { coding: [{ system: 'http://snomed.info/sct', code: '1222565005' }] },
      },
      { role: 'radiotherapy-request', level: 'phase', status: 'active' },
    ],
    [
      {
        resourceType: 'Procedure',
        id: 's',
        status: 'entered-in-error',
        code: { coding: [{ system: 'http://snomed.info/sct', code: '1255724003' }] },
      },
      { role: 'plan', status: 'withdrawn' },
    ],
    [{}, { type: '', id: '', role: 'other' }],
    [
      { resourceType: 7, id: [], meta: 'x', subject: [], status: {} },
      { type: '', role: 'other' },
    ],
  ];
  for (const [resource, expected] of table) {
    const found = describe(parseResource(JSON.stringify(resource))) as unknown as Record<string, unknown>;
    for (const [key, value] of Object.entries(expected)) assert.equal(found[key], value, `${JSON.stringify(resource)} ${key}`);
  }
});

test('describe never throws on any JSON', () => {
  const types = fc.constantFrom(
    'Observation',
    'DiagnosticReport',
    'Procedure',
    'ServiceRequest',
    'DocumentReference',
    'BodyStructure',
    'Patient',
  );
  const names = fc.constantFrom(
    'status',
    'code',
    'category',
    'subject',
    'result',
    'partOf',
    'extension',
    'identifier',
    'relatesTo',
    'meta',
    'specimen',
  );
  fc.assert(
    fc.property(types, fc.dictionary(names, fc.jsonValue()), (resourceType, members) => {
      describe(parseResource(JSON.stringify({ ...members, resourceType })));
    }),
    { seed: 11, numRuns: 300 },
  );
});

test('subjects: a panel is one, an orphan goes by specimen and collection time, a course is one', { skip: samples.skip }, () => {
  const cbc = [
    'diagnosticreport-cbc',
    ...['erythrocytes', 'hematocrit', 'hemoglobin', 'leukocytes', 'mch', 'mchc', 'mcv', 'platelets'].map(
      (name) => `observation-cbc-${name}`,
    ),
  ];
  const panel = subjectsOf(cbc.map((name) => describe(sample(`uscore/${name}.json`))));
  assert.equal(panel.length, 1);
  assert.equal(panel[0]?.own.length, 9);
  assert.equal(panel[0]?.key, 'DiagnosticReport/cbc');

  const orphans = subjectsOf(cbc.slice(1).map((name) => describe(sample(`uscore/${name}.json`))));
  assert.equal(orphans.length, 1, 'eight results of one collection without their report');
  assert.equal(orphans[0]?.key, 'collection:Patient/example||2005-07-05');

  for (const [file, members, anchor] of [
    ['codex-rt/bundle-XRTS-01.json', 7, 'Procedure/RadiotherapyCourseSummary-XRTS-01-22B-01-Prostate-1P-1V'],
    ['codex-rt/bundle-XRTS-02.json', 9, 'Procedure/RadiotherapyCourseSummary-XRTS-02-22B-01-Prostate-2P-1V'],
    ['codex-rt/bundle-XRTS-04.json', 12, 'Procedure/RadiotherapyCourseSummary-XRTS-04-22B-01-Breast-2P-3V'],
    ['codex-rt/bundle-bilateral-breast-RTTD.json', 11, 'Procedure/RadiotherapyCourseSummary-101-RTTD-BilateralBreast'],
  ] as const) {
    const subjects = subjectsOf(bundleResources(file).map(describe));
    assert.equal(subjects.length, 1, file);
    assert.equal(subjects[0]?.anchor, anchor);
    assert.ok((subjects[0]?.own.length ?? 0) >= members, `${file}: ${subjects[0]?.own.length}`);
  }
  const aria = subjectsOf(samples.list('aria-api').map((name) => describe(sample(name))));
  const course = aria.find((subject) => subject.category === 'radiation-dose');
  assert.equal(course?.key, 'identifier:http://varian.com/fhir/identifier/RadiotherapyCourse/RadOnc-Id|634');
  assert.equal(course?.anchor, 'Procedure/RadiotherapyCourseSummary-352-634');
  assert.equal(course?.own.length, 9, 'the plan 1479 comes in through the planned course although its phase is not there');
});

test('subjects do not depend on the order of arrival, and every record is own once', { skip: samples.skip }, () => {
  const records = [...bundleResources('codex-rt/bundle-XRTS-04.json'), ...bundleResources('codex-rt/bundle-XRTS-02.json')].map(describe);
  const expected = JSON.stringify(subjectsOf(records));
  fc.assert(
    fc.property(fc.shuffledSubarray(records, { minLength: records.length, maxLength: records.length }), (shuffled) => {
      assert.equal(JSON.stringify(subjectsOf(shuffled)), expected);
    }),
    { seed: 3, numRuns: 50 },
  );
  fc.assert(
    fc.property(fc.shuffledSubarray(records), (some) => {
      const own = subjectsOf(some).flatMap((subject) => subject.own);
      const wanted = some
        .filter((record) => ['course', 'phase', 'plan', 'radiotherapy-request', 'volume'].includes(record.role))
        .map((record) => record.ref);
      assert.deepEqual([...own].sort(), [...new Set(wanted)].sort());
    }),
    { seed: 5, numRuns: 50 },
  );
});

test('subjects: a note, its replacement and its addendum are one; the head is the newest that stands', () => {
  const note = (id: string, more: Record<string, Json> = {}) =>
    describe(
      parseResource(
        JSON.stringify({
          resourceType: 'DocumentReference',
          id,
          status: 'current',
          meta: { lastUpdated: `2024-01-0${id}T00:00:00Z` },
          ...more,
        }),
      ),
    );
  const [subject, ...rest] = subjectsOf([
    note('1', { status: 'superseded' }),
    note('2', { relatesTo: [{ code: 'replaces', target: { reference: 'DocumentReference/1' } }] }),
    note('3', { relatesTo: [{ code: 'appends', target: { reference: 'DocumentReference/2' } }] }),
  ]);
  assert.equal(rest.length, 0);
  assert.equal(subject?.anchor, 'DocumentReference/2');
  assert.equal(subject?.key, 'DocumentReference/1');
  assert.deepEqual(subject?.own, ['DocumentReference/2', 'DocumentReference/1', 'DocumentReference/3']);
  const aria = subjectsOf(
    ['1', '2'].map((id) =>
      note(id, { masterIdentifier: { system: 'http://varian.com/fhir/identifier/DocumentReference/Id', value: '231009' } }),
    ),
  );
  assert.equal(aria.length, 1, 'ARIA has no relatesTo: the same masterIdentifier is a new version');
  assert.equal(aria[0]?.anchor, 'DocumentReference/2');
  const cycle = subjectsOf([
    note('1', { relatesTo: [{ code: 'replaces', target: { reference: 'DocumentReference/2' } }] }),
    note('2', { relatesTo: [{ code: 'replaces', target: { reference: 'DocumentReference/1' } }] }),
  ]);
  assert.equal(cycle.length, 1);
});

test('subjects: a course key holds from planned-only to treated, and a shared volume is own once', () => {
  const identifier = [{ system: 'http://varian.com/fhir/identifier/RadiotherapyCourse/RadOnc-Id', value: '7' }];
  const code = { coding: [{ system: 'http://snomed.info/sct', code: '1217123003' }] };
  const planned = describe(
    parseResource(JSON.stringify({ resourceType: 'ServiceRequest', id: 'planned', intent: 'filler-order', code, identifier })),
  );
  const dose = {
    url: 'http://hl7.org/fhir/us/mcode/StructureDefinition/mcode-radiotherapy-dose-delivered-to-volume',
    extension: [{ url: 'volume', valueReference: { reference: 'BodyStructure/v' } }],
  };
  const course = (id: string, start: string, more: Record<string, Json>) =>
    describe(
      parseResource(JSON.stringify({ resourceType: 'Procedure', id, code, extension: [dose], performedPeriod: { start }, ...more })),
    );
  const volume = describe(
    parseResource(
      '{"resourceType":"BodyStructure","id":"v","meta":{"profile":["http://hl7.org/fhir/us/mcode/StructureDefinition/mcode-radiotherapy-volume"]}}',
    ),
  );
  const before = subjectsOf([planned]);
  const after = subjectsOf([planned, course('first', '2020-01-01', { identifier }), course('second', '2022-01-01', {}), volume]);
  assert.equal(before[0]?.key, after[0]?.key);
  assert.deepEqual(
    subjectsOf([volume]).map((subject) => subject.fileable),
    [false],
  );
  assert.equal(after.length, 2, 'a volume does not join two courses');
  assert.deepEqual(
    after.map((subject) => [subject.own.includes('BodyStructure/v'), subject.context]),
    [
      [true, []],
      [false, ['BodyStructure/v']],
    ],
  );
});

test('classify: the built-in rules over what servers really send', { skip: samples.skip }, async () => {
  const config: ClassifierConfig = {
    rules: [...RULE_SETS['us-core-laboratory'], ...RULE_SETS['clinical-notes'], ...RULE_SETS['codex-radiotherapy'], NOT_CLINICAL_RULE],
    default: 'quarantine',
  };
  const classify = await compileClassifier(config);
  const outcome = (name: string) => {
    const found = classify(sample(name), { source: 's', stream: 't' });
    return found.category ?? `${found.outcome} ${found.reason}`;
  };
  assert.equal(outcome('uscore/diagnosticreport-cbc.json'), 'laboratory');
  assert.equal(outcome('uscore/observation-cbc-mcv.json'), 'laboratory');
  assert.equal(outcome('uscore/documentreference-discharge-summary.json'), 'skip CATEGORY_NOT_CONFIGURED');
  assert.equal(outcome('uscore/patient-example.json'), 'skip NOT_CLINICAL');
  assert.equal(outcome('aria-api/Procedure-RadiotherapyCourseSummary-352-634.json'), 'radiation-dose');
  assert.equal(outcome('aria-api/ServiceRequest-RadiotherapyPhasePrescription-352-50.json'), 'radiation-dose');
  assert.equal(outcome('aria-api/BodyStructure-BodyStructure-PV-681.json'), 'radiation-dose');
  assert.equal(outcome('aria-api/DocumentReference-DocumentReference-20000000000000000002-3-2.json'), 'skip STATUS_NOT_FINAL');
  assert.equal(outcome('mcode/Procedure-radiotherapy-treatment-summary-chest-wall-jenny-m.json'), 'radiation-dose', 'without category');
  assert.equal(outcome('mcode/BodyStructure-jenny-m-chest-wall-treatment-volume.json'), 'radiation-dose');
  assert.equal(outcome('mcode/BodyStructure-tumor-lobular-carcinoma-left-breast.json'), 'skip SUPPORTING', 'a tumour is no target');
  const counts = new Map<string, number>();
  for (const resource of bundleResources('synthea/Darin_Skiles_31c343e9-5d7f-444e-9be4-56b1a6ec6146.trimmed.json')) {
    const found = classify(resource, { source: 's', stream: 't' });
    const name = `${textOf(resource['resourceType']) ?? ''} ${found.category ?? found.reason}`;
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  assert.equal(counts.get('Observation laboratory'), 30);
  assert.equal(counts.get('Observation NO_RULE_MATCH'), 10);
  assert.equal(counts.get('DiagnosticReport laboratory'), 4);
  assert.deepEqual(
    (await checkRules(config.rules)).filter((problem) => problem.kind === 'error'),
    [],
  );
});

test('classify: local codes, drafts, modifiers, test patients, FHIRPath, tried rules', async () => {
  const drafts = RULE_SETS['clinical-notes-with-drafts'];
  const note = (code: string, more: Record<string, Json> = {}) =>
    parseResource(
      JSON.stringify({
        resourceType: 'DocumentReference',
        id: 'n',
        status: 'current',
        docStatus: 'final',
        type: { coding: [{ system: 'urn:local', code }] },
        ...more,
      }),
    );
  const classify = await compileClassifier({
    rules: [
      { id: 'old', when: { fhirpath: "date < @2000-01-01T00:00:00Z and %source = 's'" }, skip: 'OUT_OF_WINDOW' },
      { id: 'heavy', when: { type: 'Observation', fhirpath: 'value.ofType(Quantity).value > 2' }, category: 'heavy' },
      ...drafts,
    ],
    default: 'skip',
    localCodes: [
      { code: 'urn:local|572', category: 'history-and-physical' },
      { code: 'urn:local|573', loinc: '34117-2' },
    ],
    knownModifiers: ['urn:known'],
  });
  const context = { source: 's', stream: 't' };
  assert.deepEqual(classify(note('572'), context).category, 'history-and-physical');
  assert.equal(classify(note('573'), context).rule, 'clinical-notes/history-and-physical');
  const unknown = classify(note('999'), context);
  assert.deepEqual([unknown.outcome, unknown.reason, unknown.rule], ['quarantine', 'DOCUMENT_TYPE_UNKNOWN', 'clinical-notes/unknown-type']);
  assert.deepEqual(unknown.tried.slice(0, 3), [
    { rule: 'old', missed: 'fhirpath' },
    { rule: 'heavy', missed: 'type' },
    { rule: 'clinical-notes/mapped', missed: 'mapped' },
  ]);
  assert.equal(classify(note('572', { docStatus: 'preliminary' }), context).category, 'history-and-physical');
  assert.equal(classify(note('572', { date: '1999-05-01T00:00:00Z' }), context).reason, 'OUT_OF_WINDOW');
  assert.equal(classify(note('572', { date: '1999-05-01T00:00:00Z' }), { source: 'other', stream: 't' }).category, 'history-and-physical');
  assert.equal(classify(note('572', { content: [{ modifierExtension: [{ url: 'urn:x' }] }] }), context).reason, 'MODIFIER_UNKNOWN');
  assert.equal(
    classify(note('572', { modifierExtension: [{ url: 'urn:known', valueBoolean: true }] }), context).category,
    'history-and-physical',
  );
  assert.equal(classify(note('572', { implicitRules: 'urn:rules' }), context).reason, 'MODIFIER_UNKNOWN');
  assert.equal(classify(note('572'), { ...context, excludedTestPatient: true }).reason, 'TEST_PATIENT');
  assert.equal(classify(parseResource('{"resourceType":"Observation","valueQuantity":{"value":2.50}}'), context).category, 'heavy');
  assert.equal(classify(parseResource('{"resourceType":"Observation","valueQuantity":{"value":2.00}}'), context).reason, 'NO_RULE_MATCH');
});

test('checkRules: broken, double and unreachable rules', async () => {
  const problems = await checkRules([
    { id: 'a', when: { type: 'Observation' }, skip: 'NOT_CLINICAL' },
    { id: 'b', when: { type: 'Observation', code: ['http://loinc.org|1'] }, category: 'laboratory' },
    { id: 'a', when: { type: 'Patient', fhirpath: 'name.where(' }, skip: 'NOT_CLINICAL' },
    { id: 'c', when: { type: ['Observation', 'Procedure'] }, category: 'x' },
  ]);
  assert.deepEqual(
    problems.map((problem) => `${problem.rule} ${problem.kind}`),
    ['b warning', 'a error', 'a error'],
  );
  await assert.rejects(compileClassifier({ rules: [{ id: 'x', when: { fhirpath: '((' }, skip: 'NOT_CLINICAL' }], default: 'skip' }), {
    code: 'CONFIG_INVALID',
  });
  for (const rules of Object.values(RULE_SETS)) {
    for (const rule of rules) {
      const reason = rule.skip ?? rule.quarantine;
      assert.ok(reason === undefined || isReason(reason), rule.id);
    }
  }
});

test('identity: configured systems only; zeros kept; case and spaces only for comparison', () => {
  const patient = parseResource(
    JSON.stringify({
      resourceType: 'Patient',
      identifier: [
        { system: 'http://varian.com/fhir/identifier/Patient/ARIAID1', value: ' 00 12a ' },
        { system: 'http://hospital.example/mrn', value: '0012' },
        { system: 'http://elsewhere.example/mrn', value: '0012' },
        { system: 'http://hospital.example/mrn', value: '99', use: 'old' },
        { system: 'http://hospital.example/mrn', value: '00 12' },
        { value: 'no system' },
      ],
    }),
  );
  assert.deepEqual(
    identifiersOf(patient, AUTHORITIES).map((identifier) => [
      identifier.authority,
      identifier.value,
      identifier.normalised,
      identifier.old,
    ]),
    [
      ['mrn', '0012', '0012', false],
      ['mrn', '99', '99', true],
      ['aria', '00 12a', '0012A', false],
    ],
  );
  const swapped = [{ id: 'mrn', display: 'MRN', systems: ['http://varian.com/fhir/identifier/Patient/ARIAID1'] }];
  assert.equal(identifiersOf(patient, swapped)[0]?.normalised, '0012A', 'which ARIA id is the MRN is configuration');
  assert.deepEqual(demographicsOf(patient, AUTHORITIES, '2026-01-01').identifiers, [
    { value: '0012', authority: 'MRN' },
    { value: '00 12a', authority: 'ARIA ID' },
  ]);
});

test('identity: the name to print, in the order of its language', () => {
  const table: [Json, string][] = [
    [
      [
        { use: 'old', family: 'Shaw', given: ['Amy'] },
        { family: 'Baxter', given: ['Amy', 'V.'], suffix: ['PharmD'] },
      ],
      'Amy V. Baxter, PharmD',
    ],
    [
      [
        { use: 'usual', family: 'Kim', given: ['Min-jun'] },
        { use: 'official', text: '김민준' },
      ],
      '김민준',
    ],
    [[{ family: '김', given: ['민준'] }], '김민준'],
    [[{ family: 'Nguyễn', given: ['Thị', 'Ánh'] }], 'Nguyễn Thị Ánh'],
    [[{ text: 'Trần Văn An', family: 'Trần', given: ['Văn', 'An'] }], 'Trần Văn An'],
    [[{ family: 'García', given: ['José'] }], 'José García'],
    [
      [
        { family: 'A', period: { end: '2020-01-01' } },
        { family: 'B', period: { start: '2030-01-01' } },
        { family: 'C', use: 'temp' },
      ],
      'C',
    ],
    [[{ given: ['Cher'] }], 'Cher'],
    [[], 'not provided by source'],
    [[{}, { use: 'official' }], 'not provided by source'],
  ];
  for (const [name, expected] of table) assert.equal(demographics({ name }).name, expected);
});

test('identity: birth date as precise as given, deceased, unknown gender', () => {
  assert.equal(demographics({ birthDate: '1958' }).birthDate, '1958');
  assert.equal(demographics({ birthDate: '14.03.1958' }).birthDate, undefined);
  assert.equal(demographics({}).sex, undefined);
  assert.equal(demographics({ gender: 'unknown' }).sex, 'unknown');
  assert.equal(demographics({ deceasedBoolean: true }).deceased, 'true');
  assert.equal(demographics({ deceasedDateTime: '2023-10-03' }).deceased, '2023-10-03');
});

test('identity: what holds a match for a person', () => {
  const person = (family: string, given: string[], birthDate?: string) =>
    demographics({ name: [{ family, given }], ...(birthDate === undefined ? {} : { birthDate }) });
  const same: [string, string[], string | undefined][] = [
    ['Baxter', ['Amy', 'V.'], '1987-02-20'],
    ['BAXTER', ['amy'], '1987'],
    ['Baxter', ['A'], undefined],
    ['Baxter', ['Amy', 'Victoria'], '1987-02'],
  ];
  for (const [family, given, date] of same)
    assert.deepEqual(
      compareDemographics(person('Baxter', ['Amy', 'V'], '1987-02-20'), person(family, given, date)),
      { result: 'same' },
      family + given.join(),
    );
  assert.deepEqual(compareDemographics(person('Baxter', ['Amy']), person('Baxter', ['Anna'])), { result: 'differs', on: ['name'] });
  assert.deepEqual(compareDemographics(person('Baxter', ['Amy'], '1987-02-20'), person('Baxter', ['Amy'], '1987-02-21')), {
    result: 'differs',
    on: ['birthDate'],
  });
  assert.deepEqual(compareDemographics(person('김', ['민준']), demographics({ name: [{ text: '김 민준' }] })), { result: 'same' });
  assert.deepEqual(compareDemographics(person('김', ['민준']), person('김', ['준민'])), { result: 'differs', on: ['name'] });
  assert.deepEqual(compareDemographics(person('Nguyễn', ['Văn', 'An']), demographics({ name: [{ text: 'NGUYEN VAN AN' }] })), {
    result: 'same',
  });
  assert.deepEqual(
    compareDemographics(
      person('Baxter', ['Amy']),
      demographics({
        name: [
          { use: 'old', family: 'Baxter', given: ['Amy'] },
          { family: 'Shaw', given: ['Amy'] },
        ],
      }),
    ),
    { result: 'same' },
  );
});

test('identity: test patients and links', { skip: samples.skip }, () => {
  const extension = [{ url: 'http://varian.com/fhir/v1/StructureDefinition/patient-isTestPatient', valueBoolean: true }];
  assert.equal(isTestPatient(parseResource(JSON.stringify({ extension }))), true);
  assert.equal(isTestPatient(parseResource(JSON.stringify({ meta: { security: [{ code: 'HTEST' }] } }))), true);
  assert.equal(isTestPatient(sample('uscore/patient-example.json')), false);
  assert.deepEqual(
    patientLinksOf(
      parseResource(
        JSON.stringify({
          link: [
            { type: 'replaced-by', other: { reference: 'Patient/2' } },
            { type: 'odd', other: { reference: 'Patient/3' } },
          ],
        }),
      ),
    ),
    [{ type: 'replaced-by', other: 'Patient/2' }],
  );
  assert.equal(demographicsOf(sample('uscore/patient-example.json'), AUTHORITIES, '2024-01-01').name, 'Amy V. Baxter, PharmD');
  assert.equal(demographicsOf(sample('aria-api/Patient-Patient-352.json'), AUTHORITIES, '2024-01-01').name, 'Jane Sister-22B');
});
