import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import type { Actor } from '../../src/auth/actor.ts';
import { isEmergency, purposeOf } from '../../src/auth/purposes.ts';
import { formatScope, grantScopes, parseScope, scopeAllows } from '../../src/auth/scopes.ts';

test('SMART v2 scopes, and v1 as v2', () => {
  assert.deepEqual(parseScope('user/Observation.rs'), { context: 'user', resource: 'Observation', interactions: ['r', 's'] });
  const cases = {
    'system/*.read': 'system/*.rs',
    'patient/Consent.write': 'patient/Consent.cud',
    'user/Patient.*': 'user/Patient.cruds',
    'system/Observation.cruds': 'system/Observation.cruds',
  };
  for (const [text, canonical] of Object.entries(cases)) {
    const scope = parseScope(text);
    assert.equal(scope && formatScope(scope), canonical);
  }
  for (const other of [
    'openid',
    'launch/patient',
    'user/Observation',
    'user/Observation.',
    'user/Observation.sr',
    'user/observation.r',
    'user/Observation.rs?category=lab',
    'admin/*.rs',
    'user/*.rr',
    '',
  ]) {
    assert.equal(parseScope(other), undefined, other);
  }
});

test('what is granted is what was asked for, as far as it is registered', () => {
  assert.deepEqual(grantScopes(['system/Observation.rs'], ['system/*.rs']), ['system/Observation.rs']);
  assert.deepEqual(grantScopes(['system/*.cruds'], ['system/Observation.rs', 'system/Patient.r']), [
    'system/Observation.rs',
    'system/Patient.r',
  ]);
  assert.deepEqual(grantScopes(['system/Observation.read', 'system/Observation.r'], ['system/*.r', 'system/Observation.s']), [
    'system/Observation.rs',
  ]);
  assert.deepEqual(grantScopes(['user/Observation.rs'], ['system/*.cruds']), []);
  assert.deepEqual(grantScopes(['system/Observation.c'], ['system/*.rs']), []);
  const context = fc.constantFrom('user', 'system', 'patient');
  const resource = fc.constantFrom('*', 'Observation', 'Patient');
  const letters = fc.subarray(['c', 'r', 'u', 'd', 's'], { minLength: 1 });
  const scopes = fc.array(
    fc.tuple(context, resource, letters).map(([c, r, l]) => `${c}/${r}.${l.join('')}`),
    { maxLength: 4 },
  );
  const actor = (list: string[]): Actor => ({
    kind: 'member',
    member: 'mem-a',
    system: 'cli-a',
    role: 'clinician',
    institution: 'i',
    client: 'cli-a',
    scopes: list,
    purpose: 'TREAT',
    tokenId: 't',
  });
  fc.assert(
    fc.property(
      scopes,
      scopes,
      fc.constantFrom('Observation', 'Patient', 'Consent'),
      fc.constantFrom('c', 'r', 'u', 'd', 's'),
      (asked, registered, type, letter) => {
        // Per context, for a context of one side must not be lent to the other.
        for (const only of ['user/', 'system/']) {
          const of = (list: string[]): boolean => scopeAllows(actor(list.filter((text) => text.startsWith(only))), type, letter);
          assert.equal(of(grantScopes(asked, registered)), of(asked) && of(registered));
        }
      },
    ),
  );
});

test('a context counts for its kind of actor only', () => {
  const facts = { institution: 'i', client: 'cli-a', purpose: 'TREAT', tokenId: 't' };
  const allows = (who: 'patient' | 'member' | 'system' | 'system for member', scope: string): boolean => {
    const scopes = [scope];
    if (who === 'patient') return scopeAllows({ ...facts, scopes, kind: 'patient', patient: 'pat-a' }, 'Observation', 'r');
    if (who === 'system') return scopeAllows({ ...facts, scopes, kind: 'system' }, 'Observation', 'r');
    const member = { ...facts, scopes, kind: 'member', member: 'mem-a', role: 'clinician' } as const;
    return scopeAllows(who === 'member' ? member : { ...member, system: 'cli-a' }, 'Observation', 'r');
  };
  const table = { patient: ['patient', 'user'], member: ['user'], system: ['system'], 'system for member': ['user', 'system'] } as const;
  for (const [who, contexts] of Object.entries(table)) {
    for (const context of ['patient', 'user', 'system']) {
      assert.equal(
        allows(who as keyof typeof table, `${context}/Observation.r`),
        (contexts as readonly string[]).includes(context),
        `${who} ${context}`,
      );
    }
  }
});

test('purposes of use, bare and with their code system', () => {
  assert.equal(purposeOf('TREAT'), 'TREAT');
  assert.equal(purposeOf('urn:oid:2.16.840.1.113883.5.8#BTG'), 'BTG');
  assert.equal(purposeOf('http://terminology.hl7.org/CodeSystem/v3-ActReason|HRESCH'), 'HRESCH');
  for (const other of ['treat', '', 'TREAT ', 'urn:oid:2.16.840.1.113883.5.8#', 'urn:oid:1.2#TREAT'])
    assert.equal(purposeOf(other), undefined, other);
  assert.deepEqual(['BTG', 'ETREAT', 'TREAT'].map(isEmergency), [true, true, false]);
});
