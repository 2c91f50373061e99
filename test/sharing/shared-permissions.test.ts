import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { clause } from '../../src/ledger/contract/payloads.ts';
import type { Clause } from '../../src/ledger/contract/shapes.ts';
import { endOf, type Head, isGranteeOf, livesUntil } from '../../src/sharing/shared-permissions.ts';

const B = 'inst-b';
const NOW = Date.parse('2026-11-24T12:00:00Z');
const BEFORE = '2026-11-24T11:59:59.999Z';
const LATER = '2026-12-01T00:00:00.000Z';
const LATEST = '2027-01-01T00:00:00.000Z';
const OURS = `member:${B}:mem-1`;

function head(facts: Partial<Omit<Head, 'state'>> & { clauses?: readonly Partial<Clause>[]; parent?: [string, string] } = {}): Head {
  const { clauses = [{}], parent, ...rest } = facts;
  return {
    grantor: 'patient',
    grantee: OURS,
    category: 'laboratory',
    block: 7,
    recordedAt: new Date('2026-11-20T00:00:00Z'),
    revokedHereAt: null,
    ...rest,
    state: {
      clauses: clauses.map((one) => clause({ consent: 'con-1', rights: ['read'], ...one })),
      envelope: null,
      parentGrantor: parent?.[0] ?? null,
      parentGrantee: parent?.[1] ?? null,
      statement: 'f'.repeat(64),
      status: clauses.length === 0 ? 'revoked' : 'active',
    },
  };
}
const lives = (...heads: Head[]) => livesUntil(heads, B, 'laboratory', NOW);

describe('until when somebody here may read', () => {
  test('members, the institution and roles are ours; others are not', () => {
    assert.deepEqual(
      [OURS, `organization:${B}`, 'role:clinician', 'member:inst-bb:mem-1', 'organization:inst-c'].map((one) => isGranteeOf(B, one)),
      [true, true, true, false, false],
    );
    assert.equal(lives(head({ grantee: 'member:inst-c:mem-1' })), undefined);
    assert.equal(lives(head({ category: 'radiation-dose' })), undefined);
  });

  test('the latest end of any clause that permits reading; one that ended, one that begins later', () => {
    assert.equal(lives(head()), Number.POSITIVE_INFINITY);
    assert.equal(lives(head({ clauses: [{ periodEnd: LATER }, { periodEnd: BEFORE }] })), Date.parse(LATER));
    assert.equal(
      lives(head({ clauses: [{ periodEnd: LATER }] }), head({ grantee: `organization:${B}`, clauses: [{ periodEnd: LATEST }] })),
      Date.parse(LATEST),
    );
    assert.equal(lives(head({ clauses: [{ periodEnd: BEFORE }] })), undefined);
    assert.equal(lives(head({ clauses: [{ periodStart: LATER, periodEnd: LATEST }] })), Date.parse(LATEST));
    assert.equal(lives(head({ clauses: [{ effect: 'deny' }, { rights: ['upload'] }] })), undefined);
    assert.equal(lives(head({ clauses: [{ purposes: ['TREAT'], dataEnd: BEFORE }, { effect: 'deny' }] })), Number.POSITIVE_INFINITY);
    assert.equal(lives(head({ revokedHereAt: new Date(NOW) })), undefined);
  });

  test('what is shared on lives as long as all above it, and no deeper than the decision goes', () => {
    const shared = (grantor: string, grantee: string, parent: [string, string], facts: Partial<Clause> = {}): Head =>
      head({ grantor, grantee, parent, clauses: [{ rights: ['read', 'share'], ...facts }] });
    const c = 'member:inst-c:mem-9';
    const d = 'member:inst-d:mem-8';
    const top = head({ grantee: c, clauses: [{ rights: ['read', 'share'], periodEnd: LATER }] });
    assert.equal(lives(top, shared(c, OURS, ['patient', c])), Date.parse(LATER));
    assert.equal(lives(head({ grantee: c }), shared(c, OURS, ['patient', c])), undefined, 'not to be shared on');
    assert.equal(lives(head({ grantee: c, clauses: [] }), shared(c, OURS, ['patient', c])), undefined, 'ended above');
    assert.equal(lives(shared(c, OURS, ['patient', c])), undefined, 'nothing above');
    assert.equal(lives(top, shared(c, d, ['patient', c]), shared(d, OURS, [c, d])), Date.parse(LATER));
    const e = 'member:inst-e:mem-7';
    assert.equal(lives(top, shared(c, d, ['patient', c]), shared(d, e, [c, d]), shared(e, OURS, [d, e])), undefined, 'too deep');
    // A circle ends.
    assert.equal(lives(shared(c, OURS, [OURS, c]), shared(OURS, c, [c, OURS])), undefined);
  });

  test('why and when it ended', () => {
    const of = (...heads: Head[]) => endOf(heads, B, 'laboratory', NOW);
    assert.deepEqual(of(head({ clauses: [] })), { cause: 'revoked', endedAt: new Date('2026-11-20T00:00:00Z'), block: 7 });
    assert.deepEqual(of(head({ clauses: [{ periodEnd: BEFORE }] })), { cause: 'expired', endedAt: new Date(BEFORE), block: null });
    const here = new Date(NOW - 5);
    assert.deepEqual(of(head({ revokedHereAt: here })), { cause: 'revoked', endedAt: here, block: null });
    // The last of several; a time that lies ahead of our clock is now.
    assert.equal(of(head({ clauses: [] }), head({ grantee: `organization:${B}`, clauses: [{ periodEnd: BEFORE }] })).cause, 'expired');
    assert.deepEqual(of(head({ clauses: [], recordedAt: new Date(LATER) })).endedAt, new Date(NOW));
    assert.deepEqual(of(), { cause: 'revoked', endedAt: new Date(NOW), block: null });
  });
});
