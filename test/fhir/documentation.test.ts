import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { isSearchable, SERVED_TYPES } from '../../src/fhir/served-types.ts';
import { SEARCH_PARAMETERS } from '../../src/records/search-parameters.ts';

const read = (name: string): string => readFileSync(fileURLToPath(new URL(`../../docs/${name}`, import.meta.url)), 'utf8');

test('docs/fhir.md lists what is served, and nothing else', () => {
  const rows = [...read('fhir.md').matchAll(/^\| ([A-Z]\w+) \| ([a-z, -]+) \|/gm)].map(([, type, interactions]) => [type, interactions]);
  assert.deepEqual(
    rows,
    [...SERVED_TYPES.values()].map(({ type, interactions }) => [type, interactions.join(', ')]),
  );
});

test('every searchable type is in the table of parameters, and every parameter in the docs', () => {
  const page = read('search-parameters.md');
  for (const { type, interactions } of SERVED_TYPES.values()) assert.equal(isSearchable(type), interactions.includes('search-type'), type);
  for (const [type, parameters] of SEARCH_PARAMETERS) {
    assert.ok(SERVED_TYPES.has(type), type);
    const row = page.split('\n').find((line) => line.startsWith(`| ${type} |`)) ?? assert.fail(type);
    for (const name of parameters.keys()) assert.ok(row.includes(`\`${name}\``), `${type}.${name}`);
  }
});
