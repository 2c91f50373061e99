import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { decide, type HeadFacts, type Question } from '../../src/ledger/contract/decision.ts';
import { clauseFacts, createDecisionState, type HeldState } from '../../src/ledger/contract/decision-state.ts';
import { clause } from '../../src/ledger/contract/payloads.ts';
import type { Clause } from '../../src/ledger/contract/shapes.ts';

const DAY = 86_400_000;
const NOW = Date.parse('2026-11-23T10:00:00.000Z');
const iso = (time: number) => new Date(time).toISOString();
const A = 'member:inst-a:mem-1';
const patient = { institution: 'inst-a', patient: 'pat-1' };

function state(): HeldState {
  const held = createDecisionState();
  held.height = 7;
  held.setInstitution('inst-a', 'active');
  for (const [member, role] of [
    ['mem-1', 'clinician'],
    ['mem-2', 'clinician'],
    ['mem-3', 'privacy-officer'],
    ['mem-4', 'carer'],
  ] as const)
    held.setMember('inst-a', member, { role, status: 'active', validUntil: NOW + 365 * DAY });
  held.setPatient('inst-a', 'pat-1', 'active');
  return held;
}
function head(grantee: string, clauses: Clause[], facts: Partial<HeadFacts> = {}): HeadFacts {
  return { grantor: 'patient', grantee, category: 'laboratory', sequence: 1, parent: null, clauses: clauses.map(clauseFacts), ...facts };
}
function permit(facts: Partial<Clause> = {}): Clause {
  return clause({ consent: 'con-1', rights: ['read'], ...facts });
}
function deny(facts: Partial<Clause> = {}): Clause {
  return permit({ effect: 'deny', ...facts });
}
function ask(held: HeldState, facts: Partial<Question> = {}) {
  return decide(held, {
    actor: { kind: 'member', institution: 'inst-a', member: 'mem-1' },
    patient,
    category: 'laboratory',
    right: 'read',
    purpose: 'TREAT',
    at: NOW,
    ...facts,
  });
}
function held(...heads: HeadFacts[]): HeldState {
  const one = state();
  for (const h of heads) one.setHead('inst-a', 'pat-1', h);
  return one;
}
const member = (id: string): Partial<Question> => ({ actor: { kind: 'member', institution: 'inst-a', member: id } });

describe('the order of the decision', () => {
  const granted = () => held(head(A, [permit()]));
  const emergency = () => {
    const one = held(head(A, [deny()]));
    one.addEmergency('inst-a', 'pat-1', { member: A, from: NOW - 1000, until: NOW + 1000 });
    return one;
  };
  const cases: [string, HeldState, Partial<Question>, string, string][] = [
    ['nothing granted', state(), {}, 'deny', 'NO_PERMISSION'],
    ['a live permission', granted(), {}, 'permit', 'PERMISSION'],
    ['another category', granted(), { category: 'radiation-dose' }, 'deny', 'NO_PERMISSION'],
    ['another right', granted(), { right: 'upload' }, 'deny', 'NO_PERMISSION'],
    ['another patient', granted(), { patient: { institution: 'inst-a', patient: 'pat-2' } }, 'deny', 'PATIENT_UNKNOWN'],
    ['the same id at another institution', granted(), { patient: { institution: 'inst-b', patient: 'pat-1' } }, 'deny', 'PATIENT_UNKNOWN'],
    ['a withdrawn document', granted(), { document: { withdrawn: true } }, 'deny', 'WITHDRAWN'],
    [
      'a withdrawn document, asked by the patient',
      granted(),
      { document: { withdrawn: true }, actor: { kind: 'patient', ...patient } },
      'deny',
      'WITHDRAWN',
    ],
    [
      'a misfiled document, the producer’s privacy officer',
      granted(),
      { document: { withdrawn: true, misfiled: { producer: 'inst-a' } }, ...member('mem-3') },
      'permit',
      'MISFILED_REVIEW',
    ],
    [
      'a misfiled document, another’s privacy officer',
      granted(),
      { document: { withdrawn: true, misfiled: { producer: 'inst-b' } }, ...member('mem-3') },
      'deny',
      'WITHDRAWN',
    ],
    [
      'a misfiled document, a clinician',
      granted(),
      { document: { withdrawn: true, misfiled: { producer: 'inst-a' } } },
      'deny',
      'WITHDRAWN',
    ],
    ['the patient themself', held(head(A, [deny()])), { actor: { kind: 'patient', ...patient } }, 'permit', 'OWN_RECORD'],
    ['another patient', granted(), { actor: { kind: 'patient', institution: 'inst-a', patient: 'pat-2' } }, 'deny', 'NO_PERMISSION'],
    ['an unknown member', granted(), member('mem-9'), 'deny', 'ACTOR_UNKNOWN'],
    ['an unknown organisation', granted(), { actor: { kind: 'organization', institution: 'inst-b' } }, 'deny', 'ACTOR_UNKNOWN'],
    [
      'an organisation',
      held(head('organization:inst-a', [permit()])),
      { actor: { kind: 'organization', institution: 'inst-a' } },
      'permit',
      'PERMISSION',
    ],
    ['a member of that organisation', held(head('organization:inst-a', [permit()])), {}, 'permit', 'PERMISSION'],
    [
      'an organisation, for what its member was granted',
      granted(),
      { actor: { kind: 'organization', institution: 'inst-a' } },
      'deny',
      'NO_PERMISSION',
    ],
    ['a role', held(head('role:clinician', [permit()])), {}, 'permit', 'PERMISSION'],
    ['another role', held(head('role:clinician', [permit()])), member('mem-4'), 'deny', 'NO_PERMISSION'],
    ['a deny to the organisation beside a permit', held(head(A, [permit()]), head('organization:inst-a', [deny()])), {}, 'deny', 'DENIED'],
    ['a deny for another purpose', held(head(A, [permit(), deny({ purposes: ['HRESCH'] })])), {}, 'permit', 'PERMISSION'],
    ['a deny that has ended', held(head(A, [permit(), deny({ periodEnd: iso(NOW - 1) })])), {}, 'permit', 'PERMISSION'],
    ['a declared emergency beside a deny', emergency(), { emergency: true }, 'permit', 'EMERGENCY'],
    ['an emergency that was not declared', held(head(A, [deny()])), { emergency: true }, 'deny', 'DENIED'],
    ['an emergency of another member', emergency(), { emergency: true, ...member('mem-2') }, 'deny', 'NO_PERMISSION'],
    ['an emergency that has ended', emergency(), { emergency: true, at: NOW + 1000 }, 'deny', 'DENIED'],
    ['an emergency asked for another right', emergency(), { emergency: true, right: 'upload' }, 'deny', 'NO_PERMISSION'],
    ['a revocation on its way', held(head(A, [permit()], { revoking: true })), {}, 'deny', 'NO_PERMISSION'],
  ];
  for (const [what, one, facts, decision, reason] of cases) {
    test(`${what}: ${decision}`, () => {
      const answer = ask(one, facts);
      assert.deepEqual([answer.decision, answer.reason, answer.height], [decision, reason, 7]);
      assert.equal(answer.dataPeriods.length > 0, decision === 'permit');
    });
  }

  test('both ends of a period count, to the millisecond', () => {
    const one = held(head(A, [permit({ periodStart: iso(NOW), periodEnd: iso(NOW + DAY) })]));
    const at = (time: number) => ask(one, { at: time });
    assert.deepEqual(
      [at(NOW - 1).decision, at(NOW).decision, at(NOW + DAY).decision, at(NOW + DAY + 1).decision],
      ['deny', 'permit', 'permit', 'deny'],
    );
    assert.deepEqual(at(NOW - 1).change, ['WAIT']);
    assert.deepEqual(at(NOW + DAY + 1).change, ['RENEW_PERIOD']);
    assert.deepEqual(ask(one, { right: 'upload' }).change, ['GRANT_RIGHT']);
    assert.deepEqual(ask(held(head(A, [permit({ purposes: ['HRESCH'] })]))).change, ['GRANT_PURPOSE']);
  });

  test('members: suspended, expired, alarmed', () => {
    const one = held(head(A, [permit()]));
    const set = (status: 'active' | 'suspended' | 'alarmed', validUntil: number) => {
      one.setMember('inst-a', 'mem-1', { role: 'clinician', status, validUntil });
      return ask(one).reason;
    };
    assert.deepEqual(
      [set('suspended', NOW + 1), set('active', NOW), set('alarmed', NOW + 1), set('active', NOW + 1)],
      ['MEMBER_SUSPENDED', 'MEMBER_EXPIRED', 'LEDGER_ALARM', 'PERMISSION'],
    );
    one.setInstitution('inst-a', 'alarmed');
    assert.equal(ask(one).reason, 'LEDGER_ALARM');
    one.setPatient('inst-a', 'pat-1', 'erased');
    assert.equal(ask(one).reason, 'PATIENT_ERASED');
    one.setPatient('inst-a', 'pat-1', 'alarmed');
    assert.equal(ask(one, { actor: { kind: 'patient', ...patient } }).reason, 'LEDGER_ALARM');
  });

  test('data periods are joined, and what is denied is cut out', () => {
    const day = (n: number) => iso(NOW + n * DAY);
    const one = held(
      head(A, [
        permit({ dataStart: day(0), dataEnd: day(4) }),
        permit({ dataStart: day(3), dataEnd: day(6) }),
        permit({ dataStart: day(8), dataEnd: null }),
        deny({ dataStart: day(1), dataEnd: day(2) }),
      ]),
    );
    assert.deepEqual(ask(one).dataPeriods, [
      { start: day(0), end: iso(NOW + DAY - 1) },
      { start: iso(NOW + 2 * DAY + 1), end: day(6) },
      { start: day(8), end: null },
    ]);
    assert.equal(ask(held(head(A, [permit({ dataEnd: day(1) }), deny({ dataEnd: day(2) })]))).reason, 'DENIED');
  });

  test('the configured implicit policy answers where nobody said anything', () => {
    for (const [policy, purpose, decision] of [
      ['permit', 'HRESCH', 'permit'],
      ['permit-treatment', 'TREAT', 'permit'],
      ['permit-treatment', 'HRESCH', 'deny'],
      ['deny', 'TREAT', 'deny'],
    ] as const) {
      const one = createDecisionState(policy);
      one.setInstitution('inst-a', 'active');
      one.setMember('inst-a', 'mem-1', { role: 'clinician', status: 'active', validUntil: NOW + 1 });
      one.setPatient('inst-a', 'pat-1', 'active');
      assert.equal(ask(one, { purpose }).decision, decision, policy);
      one.setHead('inst-a', 'pat-1', head(A, [deny()]));
      assert.equal(ask(one, { purpose }).decision, 'deny');
    }
  });

  test('a shared permission is the intersection of its whole chain, three deep at most', () => {
    const [b, c, d] = ['mem-2', 'mem-3', 'mem-4'].map((id) => `member:inst-a:${id}`) as [string, string, string];
    const share = (from: string, to: string, above: string, facts: Partial<Clause> = {}) =>
      head(to, [permit({ rights: ['read', 'share'], ...facts })], { grantor: from, parent: { grantor: above, grantee: from } });
    const root = head(A, [permit({ rights: ['read', 'share'], dataStart: iso(NOW) })]);
    const chain = held(root, share(A, b, 'patient', { dataEnd: iso(NOW + DAY) }), share(b, c, A), share(c, d, b));
    assert.deepEqual(ask(chain, member('mem-2')).dataPeriods, [{ start: iso(NOW), end: iso(NOW + DAY) }]);
    assert.equal(ask(chain, member('mem-3')).decision, 'permit');
    assert.equal(ask(chain, member('mem-4')).decision, 'deny');
    chain.setHead('inst-a', 'pat-1', head(A, [permit({ dataStart: iso(NOW) })]));
    assert.equal(ask(chain, member('mem-2')).decision, 'deny', 'the patient no longer allows sharing');
    chain.setHead('inst-a', 'pat-1', { ...root, revoking: true });
    assert.equal(ask(chain, member('mem-3')).decision, 'deny');
  });
});

describe('properties', () => {
  const time = fc.integer({ min: -4, max: 4 }).map((n) => iso(NOW + n * DAY));
  const bounds = fc
    .tuple(fc.option(time), fc.option(time))
    .map(([a, b]) => (a !== null && b !== null && a > b ? [b, a] : [a, b]) as [string | null, string | null]);
  const clauses = fc.array(
    fc
      .record({
        effect: fc.constantFrom('permit' as const, 'permit' as const, 'deny' as const),
        rights: fc.subarray(['read', 'upload', 'share'] as const, { minLength: 1 }),
        purposes: fc.option(fc.subarray(['TREAT', 'HRESCH'], { minLength: 1 })),
        period: bounds,
        data: bounds,
      })
      .map(
        ({ period, data, effect, rights, purposes }): Clause =>
          clause({
            consent: 'con-1',
            rights,
            effect,
            purposes,
            periodStart: period[0],
            periodEnd: period[1],
            dataStart: data[0],
            dataEnd: data[1],
          }),
      ),
    { maxLength: 4 },
  );
  const heads = fc.dictionary(fc.constantFrom(A, 'organization:inst-a', 'role:clinician', 'member:inst-a:mem-2'), clauses);

  test('a moment of data may be read exactly where some clause permits it and none denies it', () => {
    fc.assert(
      fc.property(heads, fc.integer({ min: -5, max: 5 }), fc.integer({ min: -50, max: 50 }), (granted, when, what) => {
        const one = held(...Object.entries(granted).map(([grantee, list]) => head(grantee, list)));
        const at = NOW + when * DAY;
        const row = iso(NOW + (what / 10) * DAY);
        const answer = ask(one, { at });
        const mine = Object.entries(granted)
          .filter(([grantee]) => grantee !== 'member:inst-a:mem-2')
          .flatMap(([, list]) => list);
        const covers = (c: Clause) =>
          c.rights.includes('read') &&
          (c.purposes?.includes('TREAT') ?? true) &&
          (c.periodStart ?? '') <= iso(at) &&
          iso(at) <= (c.periodEnd ?? '9') &&
          (c.dataStart ?? '') <= row &&
          row <= (c.dataEnd ?? '9');
        const expected = mine.some((c) => c.effect === 'permit' && covers(c)) && !mine.some((c) => c.effect === 'deny' && covers(c));
        const served = answer.dataPeriods.some(({ start, end }) => (start ?? '') <= row && row <= (end ?? '9'));
        assert.equal(served, expected);
        assert.equal(answer.decision === 'permit', answer.dataPeriods.length > 0);
      }),
      { numRuns: 2000, seed: 7 },
    );
  });
  test('a deny more never lets anything in, a permit more never shuts anything out', () => {
    fc.assert(
      fc.property(clauses, clauses, (list, more) => {
        const reads = (all: Clause[]) => ask(held(head(A, all))).decision === 'permit';
        if (reads([...list, ...more.map((c) => ({ ...c, effect: 'deny' as const }))])) assert.ok(reads(list));
        if (reads(list)) assert.ok(reads([...list, ...more.map((c) => ({ ...c, effect: 'permit' as const }))]));
      }),
      { numRuns: 500, seed: 8 },
    );
  });
});
