import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { array, boolean, constantFrom, assert as holds, json, property, string, tuple } from 'fast-check';
import { ARIA_SCOPES, ARIA_STREAMS } from '../../src/adapters/aria/aria-streams.ts';
import { scanBundle } from '../../src/adapters/fhir/bundle-scanner.ts';
import { createFhirSource } from '../../src/adapters/fhir/fhir-source.ts';
import { referencesIn } from '../../src/adapters/fhir/references.ts';
import { readRetryAfter } from '../../src/adapters/fhir/resilience.ts';
import { parseTemplate, searchUrl, splitIntoSingleValues } from '../../src/adapters/fhir/search-template.ts';
import { sniffMediaType } from '../../src/adapters/fhir/sniff.ts';

const SEED = Number(process.env.FC_SEED ?? 20260301);
const bytesOf = (text: string): Uint8Array => Buffer.from(text);
const textOf = (bytes: Uint8Array | undefined): string => Buffer.from(bytes ?? []).toString();

describe('bundle scanner', () => {
  it('gives each resource as it was written, whatever stands around it', () => {
    const value = json({ maxDepth: 4 });
    const space = constantFrom('', ' ', '\n', '\t ', '\r\n');
    const resource = tuple(string({ unit: 'grapheme' }), value, space).map(
      ([text, other, gap]) => `{${gap}"a"${gap}:${gap}${JSON.stringify(text)},"n":2.00,"j":${other}${gap}}`,
    );
    holds(
      property(array(resource, { maxLength: 6 }), space, boolean(), boolean(), (resources, gap, mark, before) => {
        const entries = `"entry"${gap}:${gap}[${resources.map((text) => `${gap}{"search":{"mode":"match"},"resource"${gap}:${gap}${text}${gap},"fullUrl":"u"}${gap}`).join(',')}]`;
        const head = '"resourceType":"Bundle","note":"}]\\"entry\\":[{"';
        const text = `${mark ? '\ufeff' : ''}${gap}{${before ? `${entries},${head}` : `${head},${entries}`}${gap}}${gap}`;
        const scanned = scanBundle(bytesOf(text));
        assert.deepEqual(
          scanned.entries.map((entry) => textOf(entry.resource)),
          resources,
        );
        assert.equal(textOf(scanned.members.get('resourceType')), '"Bundle"');
      }),
      { seed: SEED, numRuns: 300 },
    );
  });
  it('refuses every proper beginning of a Bundle', () => {
    const text = '{"resourceType":"Bundle","entry":[{"resource":{"id":"\\u00e9\\"","v":[1.0,true]}},{}],"link":[]}';
    for (let end = 0; end < text.length; end++) {
      assert.throws(() => scanBundle(bytesOf(text.slice(0, end))), { code: 'SOURCE_RESPONSE' }, `cut at ${end}`);
    }
    assert.equal(scanBundle(bytesOf(text)).entries.length, 2);
    for (const bad of ['[]', 'null', '"x"', `${text}x`, '{"entry":{}}', '<html>', '{"a" 1}', '{"a":}']) {
      assert.throws(() => scanBundle(bytesOf(bad)), { code: 'SOURCE_RESPONSE' }, bad);
    }
  });
  it('takes deep nesting without recursion', () => {
    const deep = `${'['.repeat(200_000)}${']'.repeat(200_000)}`;
    const slice = scanBundle(bytesOf(`{"entry":[{"resource":{"a":${deep},"subject":{"reference":"Patient/1"}}}]}`)).entries[0]?.resource;
    const resource = JSON.parse(textOf(slice)) as import('fhir/r4.js').Observation;
    assert.equal(referencesIn(resource, new URL('http://x/')).length, 1);
  });
});

describe('search templates', () => {
  it('splits comma-joined values and merges (edge case 11)', () => {
    const all = splitIntoSingleValues(parseTemplate('Procedure?category=s|1,s|2&status=a,b\\,c'));
    assert.deepEqual(
      all.map(({ parameters }) => parameters.map(([, value]) => value).join(' ')),
      ['s|1 a', 's|1 b\\,c', 's|2 a', 's|2 b\\,c'],
    );
    assert.throws(() => splitIntoSingleValues(parseTemplate('Procedure?date=ge1&date=le2')), { code: 'CONFIG_INVALID' });
  });
  it('encodes once, however the config wrote it', () => {
    const base = new URL('https://x.example/fhir/');
    for (const written of [
      'Procedure?category=http://snomed.info/sct|108290001',
      'Procedure?category=http%3A%2F%2Fsnomed.info%2Fsct%7C108290001',
    ]) {
      const url = searchUrl(base, parseTemplate(written), [['_count', '5']]);
      assert.equal(url.href, 'https://x.example/fhir/Procedure?category=http%3A%2F%2Fsnomed.info%2Fsct%7C108290001&_count=5');
    }
    assert.equal(searchUrl(base, parseTemplate('BodyStructure'), []).href, 'https://x.example/fhir/BodyStructure');
  });
  it('refuses nonsense when the source is made', () => {
    const stream = {
      id: 's',
      strategy: 'last-updated' as const,
      searches: ['procedure list'],
      lookbackMs: 0,
      pageSize: 1,
      follow: { types: [], attachments: false },
    };
    assert.throws(() => createFhirSource({ id: 'x', baseUrl: 'http://x/', auth: { type: 'none' }, streams: [stream] }), {
      code: 'CONFIG_INVALID',
    });
  });
  it('the ARIA profile asks for both categories, one value a request, and the scopes for it', () => {
    const searches = ARIA_STREAMS.flatMap(({ perPatient }) => perPatient);
    for (const type of ['Procedure', 'ServiceRequest'])
      assert.equal(searches.filter((text) => text.startsWith(`${type}?category=`)).length, 2);
    for (const text of searches) assert.equal(splitIntoSingleValues(parseTemplate(text)).length, 1);
    for (const type of ['Procedure', 'ServiceRequest', 'BodyStructure', 'DocumentReference', 'Patient', 'Appointment', 'Binary'])
      assert.ok(ARIA_SCOPES.includes(`system/${type}.rs`));
  });
});

describe('small readers', () => {
  it('Retry-After counts from the date of the answer, not from our clock', () => {
    assert.equal(readRetryAfter('120', undefined), 120);
    assert.equal(readRetryAfter('Wed, 01 Jan 2020 00:01:30 GMT', 'Wed, 01 Jan 2020 00:00:00 GMT'), 90);
    assert.equal(readRetryAfter('Wed, 01 Jan 2020 00:00:00 GMT', 'Wed, 01 Jan 2020 00:01:00 GMT'), 0);
    assert.equal(readRetryAfter('soon', undefined), undefined);
    assert.equal(readRetryAfter(undefined, undefined), undefined);
  });
  it('finds literal references to this server only', () => {
    const resource = {
      resourceType: 'Observation' as const,
      subject: { reference: 'Patient/Patient-352' },
      performer: [
        { reference: 'https://x.example/fhir/Practitioner/1/_history/2' },
        { reference: 'https://other.example/fhir/Practitioner/2' },
      ],
      basedOn: [{ reference: '#inner' }, { reference: 'urn:uuid:1' }, { identifier: { value: 'x' } }, { reference: 'Patient/../admin' }],
    };
    assert.deepEqual(referencesIn(resource as unknown as import('fhir/r4.js').Observation, new URL('https://x.example/fhir/')), [
      { type: 'Patient', id: 'Patient-352' },
      { type: 'Practitioner', id: '1' },
    ]);
  });
  it('tells types by their beginning (edge case 43)', () => {
    const cases: [content: string | Buffer, declared: string | undefined, found: string][] = [
      ['%PDF-1.4', 'application/msword', 'application/pdf'],
      ['{\\rtf1\\ansi hello}', 'text/plain', 'application/rtf'],
      [Buffer.from('d0cf11e0a1b11ae1', 'hex'), 'application/pdf', 'application/msword'],
      [Buffer.from('504b0304', 'hex'), 'application/octet-stream', 'application/zip'],
      ['PK\x03\x04....word/document.xml', 'application/msword', 'application/vnd.openxmlformats-officedocument.wordprocessingml.document'],
      [Buffer.from('ffd8ffe0', 'hex'), undefined, 'image/jpeg'],
      ['II*\0....', 'application/pdf', 'image/tiff'],
      ['<!DOCTYPE html><html>', 'application/pdf', 'text/html'],
      ['<?xml version="1.0"?><ClinicalDocument/>', 'application/hl7-cda+xml', 'application/hl7-cda+xml'],
      ['<?xml version="1.0"?><ClinicalDocument/>', 'application/pdf', 'application/xml'],
      ['Patient is well.', 'application/pdf', 'text/plain'],
      ['# Title', 'text/markdown; charset=utf-8', 'text/markdown'],
      [Buffer.from([0, 1, 2, 3]), 'text/plain', 'application/octet-stream'],
      [Buffer.from([0, 1, 2, 3]), 'application/dicom', 'application/dicom'],
      ['', 'application/pdf', 'application/pdf'],
    ];
    for (const [content, declared, found] of cases) {
      assert.equal(
        sniffMediaType(typeof content === 'string' ? Buffer.from(content, 'latin1') : content, declared),
        found,
        `${declared} ${String(content)}`,
      );
    }
  });
});
