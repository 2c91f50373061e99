import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Consent, ConsentProvision, Period } from 'fhir/r4.js';
import { type ConsentPermission, type MappingContext, permissionsOf, provisionOf } from '../../src/consent/consent-mapping.ts';
import { CodedError } from '../../src/errors.ts';
import { decide } from '../../src/ledger/contract/decision.ts';
import { clauseFacts, createDecisionState } from '../../src/ledger/contract/decision-state.ts';
import { grantPayload } from '../../src/ledger/contract/payloads.ts';
import { timeRange } from '../../src/records/fhir-time.ts';

const SEED = Number(process.env['SEED'] ?? 20261123);
const INST = 'inst-a';
const context: MappingContext = { institution: INST, consent: 'con-1', categories: ['laboratory', 'radiation-dose'] };
const ACT_REASON = 'http://terminology.hl7.org/CodeSystem/v3-ActReason';

const codes = <T extends string>(...all: T[]) => fc.subarray(all, { minLength: 1 });
const actor = fc
  .constantFrom<object>(
    { reference: 'Practitioner/mem-1' },
    { reference: 'Practitioner/mem-2' },
    { reference: 'Organization/inst-a' },
    { identifier: { system: 'urn:oncobridge:role', value: 'clinician' } },
  )
  .map((reference) => ({
    role: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/v3-ParticipationType', code: 'IRCP' }] },
    reference,
  }));
const date = fc.constantFrom(
  '2026',
  '2026-03',
  '2026-03-04',
  '2026-03-04T05:06:07Z',
  '2026-03-04T05:06:07.089+02:00',
  '2027-01-01T00:00:00-05:00',
);
const period = fc
  .tuple(fc.option(date, { nil: undefined }), fc.option(date, { nil: undefined }))
  .filter(([start, end]) => start !== undefined || end !== undefined)
  .map(([start, end]) => ({ ...(start === undefined ? {} : { start }), ...(end === undefined ? {} : { end }) }))
  .filter(({ start, end }) => start === undefined || end === undefined || (timeRange(start)?.start ?? '') <= (timeRange(end)?.end ?? ''));
const facts = fc.record({
  actor: fc.array(actor, { minLength: 1, maxLength: 2 }),
  action: codes('access', 'collect', 'disclose').map((all) =>
    all.map((code) => ({ coding: [{ system: 'http://terminology.hl7.org/CodeSystem/consentaction', code }] })),
  ),
  class: codes('laboratory', 'radiation-dose').map((all) => all.map((code) => ({ system: 'urn:oncobridge:category', code }))),
  purpose: fc.option(
    codes('TREAT', 'HRESCH', 'ETREAT', 'BTG', 'PATRQT').map((all) => all.map((code) => ({ system: ACT_REASON, code }))),
    { nil: undefined },
  ),
  period,
  dataPeriod: fc.option(period, { nil: undefined }),
});
const leaf = (type: 'permit' | 'deny') =>
  facts.map((one): ConsentProvision => JSON.parse(JSON.stringify({ type, ...one })) as ConsentProvision);
/** A permit; its exceptions are drawn from its own categories and actions, often also its purposes. */
const permit = fc.tuple(leaf('permit'), fc.array(fc.tuple(leaf('deny'), fc.boolean()), { maxLength: 2 })).map(
  ([own, below]): ConsentProvision => ({
    ...own,
    ...(below.length === 0
      ? {}
      : {
          provision: below.map(([deny, samePurposes]) => {
            const { purpose: _purpose, ...rest } = deny;
            const kept = samePurposes ? own.purpose : deny.purpose;
            return { ...rest, class: own.class ?? [], action: own.action ?? [], ...(kept === undefined ? {} : { purpose: kept }) };
          }),
        }),
  }),
);
const consentOf = (provisions: readonly ConsentProvision[]): Consent =>
  ({
    resourceType: 'Consent',
    status: 'active',
    scope: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/consentscope', code: 'patient-privacy' }] },
    category: [{ text: 'consent' }],
    patient: { reference: 'Patient/pat-1' },
    provision: { type: 'deny', provision: [...provisions] },
  }) as Consent;

function refusal(work: () => unknown): CodedError | undefined {
  try {
    work();
    return undefined;
  } catch (error) {
    assert.ok(error instanceof CodedError, String(error));
    assert.equal(error.code, 'UNPROCESSABLE');
    assert.ok((error.detail.expression?.length ?? 0) > 0);
    return error;
  }
}
const sorted = (permissions: readonly ConsentPermission[]): string[] =>
  permissions.flatMap(({ grantee, category, clauses }) => clauses.map((clause) => JSON.stringify([grantee, category, clause]))).sort();

test('a Consent is accepted whole and comes back the same, or is refused with the element at fault', () => {
  let accepted = 0;
  fc.assert(
    fc.property(fc.array(permit, { minLength: 1, maxLength: 3 }), (provisions) => {
      const consent = consentOf(provisions);
      let permissions: ConsentPermission[] = [];
      if (refusal(() => (permissions = permissionsOf(consent, context))) !== undefined) return;
      accepted++;
      const again = permissionsOf(consentOf(provisionOf(permissions, context).provision ?? []), context);
      assert.deepEqual(sorted(again), sorted(permissions));
      // The contract takes it as it stands.
      grantPayload({
        institution: INST,
        patient: 'pat-1',
        consent: 'con-1',
        evidence: null,
        grantor: 'patient',
        ledger: 'ledger-1',
        nonce: 'n'.repeat(22),
        notAfter: '2026-11-23T00:00:00.000Z',
        onBehalf: 'pat-1',
        permissions: permissions.map((one) => ({ ...one, envelope: null, sequence: 1 })),
      });
    }),
    { numRuns: 400, seed: SEED },
  );
  assert.ok(accepted > 150, `only ${accepted} were accepted`);
});

test('nothing is decided wider than a reading of the Consent allows', () => {
  const purposes = ['TREAT', 'HRESCH', 'ETREAT', 'BTG', 'PATRQT'];
  const above: Record<string, string[]> = { ETREAT: ['TREAT'], BTG: ['ETREAT', 'TREAT'] };
  const times = ['2025-06-01', '2026-03-04', '2026-06-01', '2027-06-01'].map((text) => Date.parse(text));
  /** An independent reading of one provision: does it speak of this? */
  const speaks = (
    p: ConsentProvision,
    q: { refs: string[]; right: string; category: string; purpose: string; at: number; data: number },
  ): boolean => {
    const within = (range: Period | undefined, at: number): boolean =>
      range === undefined ||
      ((range.start === undefined || at >= Date.parse(timeRange(range.start)?.start ?? '')) &&
        (range.end === undefined || at <= Date.parse(timeRange(range.end)?.end ?? '')));
    return (
      (p.actor ?? []).some(({ reference }) => q.refs.includes(reference.reference ?? reference.identifier?.value ?? '')) &&
      (p.action ?? []).some(({ coding }) => coding?.[0]?.code === q.right) &&
      (p.class ?? []).some(({ code }) => code === q.category) &&
      (p.purpose === undefined || p.purpose.some(({ code }) => [q.purpose, ...(above[q.purpose] ?? [])].includes(code ?? ''))) &&
      within(p.period, q.at) &&
      within(p.dataPeriod, q.data)
    );
  };
  let permitted = 0;
  fc.assert(
    fc.property(fc.array(permit, { minLength: 1, maxLength: 2 }), (provisions) => {
      const consent = consentOf(provisions);
      let permissions: ConsentPermission[] = [];
      if (refusal(() => (permissions = permissionsOf(consent, context))) !== undefined) return;
      const state = createDecisionState();
      state.setInstitution(INST, 'active');
      state.setPatient(INST, 'pat-1', 'active');
      state.setMember(INST, 'mem-1', { role: 'clinician', status: 'active', validUntil: Number.POSITIVE_INFINITY });
      for (const { grantee, category, clauses } of permissions) {
        state.setHead(INST, 'pat-1', {
          grantor: 'patient',
          grantee,
          category,
          sequence: 1,
          parent: null,
          clauses: clauses.map(clauseFacts),
        });
      }
      for (const purpose of purposes)
        for (const at of times)
          for (const [right, code] of [
            ['read', 'access'],
            ['upload', 'collect'],
          ] as const) {
            const decision = decide(state, {
              actor: { kind: 'member', institution: INST, member: 'mem-1' },
              patient: { institution: INST, patient: 'pat-1' },
              category: 'laboratory',
              right,
              purpose,
              at,
            });
            for (const data of times) {
              const inside = decision.dataPeriods.some(
                ({ start, end }) => (start === null || Date.parse(start) <= data) && (end === null || data <= Date.parse(end)),
              );
              if (!inside) continue;
              permitted++;
              const q = {
                refs: ['Practitioner/mem-1', 'Organization/inst-a', 'clinician'],
                right: code,
                category: 'laboratory',
                purpose,
                at,
                data,
              };
              const allowed = provisions.some((p) => speaks(p, q) && !(p.provision ?? []).some((below) => speaks(below, q)));
              assert.ok(allowed, 'permitted on the ledger and not in the Consent');
            }
          }
    }),
    { numRuns: 150, seed: SEED },
  );
  assert.ok(permitted > 500, `only ${permitted} permits were looked at`);
});

const good = {
  type: 'permit',
  actor: [
    {
      role: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/v3-ParticipationType', code: 'IRCP' }] },
      reference: { reference: 'Practitioner/mem-1' },
    },
  ],
  action: [{ coding: [{ system: 'http://terminology.hl7.org/CodeSystem/consentaction', code: 'access' }] }],
  class: [{ system: 'urn:oncobridge:category', code: 'laboratory' }],
  period: { end: '2027-01-01' },
};
const P = 'Consent.provision.provision[0]';
for (const [what, change, expression] of [
  ['no class', { class: undefined }, `${P}.class`],
  ['no actor', { actor: undefined }, `${P}.actor`],
  ['no action', { action: undefined }, `${P}.action`],
  ['no period', { period: undefined }, `${P}.period`],
  ['an empty period', { period: {} }, `${P}.period`],
  ['a period that is none', { period: { end: 'soon' } }, `${P}.period`],
  ['an end before the start', { period: { start: '2027', end: '2026' } }, `${P}.period`],
  ['an unknown category', { class: [{ system: 'urn:oncobridge:category', code: 'core' }] }, `${P}.class[0]`],
  ['another class system', { class: [{ system: 'urn:ietf:bcp:13', code: 'laboratory' }] }, `${P}.class[0]`],
  [
    'an unknown action',
    { action: [{ coding: [{ system: 'http://terminology.hl7.org/CodeSystem/consentaction', code: 'correct' }] }] },
    `${P}.action[0]`,
  ],
  ['an unknown purpose', { purpose: [{ system: ACT_REASON, code: 'MARKT' }] }, `${P}.purpose[0]`],
  ['an empty list of purposes', { purpose: [] }, `${P}.purpose`],
  ['a code', { code: [{ text: 'x' }] }, `${P}.code`],
  ['data', { data: [{ meaning: 'instance', reference: { reference: 'Observation/1' } }] }, `${P}.data`],
  ['a security label', { securityLabel: [{ code: 'R' }] }, `${P}.securityLabel`],
  ['a modifier extension', { modifierExtension: [{ url: 'http://x.test' }] }, `${P}.modifierExtension`],
  ['a type extended away', { _type: { extension: [] } }, `${P}._type`],
  ['a deny below the root', { type: 'deny' }, `${P}.type`],
  ['a permit below a permit', { provision: [good] }, `${P}.provision[0].type`],
  [
    'an exception to another category',
    { provision: [{ ...good, type: 'deny', class: [{ system: 'urn:oncobridge:category', code: 'radiation-dose' }] }] },
    `${P}.provision[0].class`,
  ],
  ['a third level', { provision: [{ ...good, type: 'deny', provision: [good] }] }, `${P}.provision[0].provision`],
  ['an actor of another kind', { actor: [{ ...good.actor[0], reference: { reference: 'Patient/pat-2' } }] }, `${P}.actor[0].reference`],
  [
    'an actor by two names',
    {
      actor: [
        {
          ...good.actor[0],
          reference: { reference: 'Practitioner/mem-1', identifier: { system: 'urn:oncobridge:role', value: 'clinician' } },
        },
      ],
    },
    `${P}.actor[0].reference`,
  ],
  ['text for a list', { actor: 'x' }, `${P}.actor`],
  ['null in a list', { class: [null] }, 'Consent'],
] as const) {
  test(`422: ${what}`, () => {
    const provision = JSON.parse(JSON.stringify({ ...good, ...change })) as ConsentProvision;
    assert.equal(
      refusal(() => permissionsOf(consentOf([good as ConsentProvision]), context)),
      undefined,
    );
    assert.deepEqual(refusal(() => permissionsOf(consentOf([provision]), context))?.detail.expression, [expression]);
  });
}

test('422: roots and resources that say more than permissions can', () => {
  const base = consentOf([good as ConsentProvision]);
  const faults: readonly (readonly [object, string])[] = [
    [{ provision: { type: 'permit', provision: [good] } }, 'Consent.provision.type'],
    [{ provision: { type: 'deny', dataPeriod: { start: '2026' }, provision: [good] } }, 'Consent.provision.dataPeriod'],
    [{ provision: { type: 'deny' } }, 'Consent.provision.provision'],
    [{ provision: undefined }, 'Consent.provision'],
    [{ scope: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/consentscope', code: 'research' }] } }, 'Consent.scope'],
    [{ modifierExtension: [{ url: 'http://x.test' }] }, 'Consent.modifierExtension'],
    [{ implicitRules: 'http://x.test' }, 'Consent.implicitRules'],
    [{ verification: [{ verified: false }] }, 'Consent.verification'],
    [
      { provision: { type: 'deny', provision: Array.from({ length: 17 }, (_, i) => ({ ...good, period: { end: `20${30 + i}` } })) } },
      'Consent.provision.provision',
    ],
  ];
  for (const [change, expression] of faults) {
    assert.deepEqual(refusal(() => permissionsOf({ ...base, ...change } as Consent, context))?.detail.expression, [expression]);
  }
});

test('emergencies: a deny gives way to them unless it names them; TREAT covers what lies below it', () => {
  const deny = (purpose: readonly string[] | undefined): ConsentPermission[] =>
    permissionsOf(
      consentOf([
        {
          ...good,
          provision: [
            { ...good, type: 'deny', ...(purpose === undefined ? {} : { purpose: purpose.map((code) => ({ system: ACT_REASON, code })) }) },
          ],
        } as ConsentProvision,
      ]),
      context,
    );
  const clauseOf = (permissions: ConsentPermission[]) => permissions[0]?.clauses.find((clause) => clause.effect === 'deny');
  assert.equal(clauseOf(deny(undefined))?.emergency, false);
  assert.deepEqual(clauseOf(deny(['TREAT'])), { ...clauseOf(deny(['TREAT'])), emergency: false, purposes: ['TREAT', 'ETREAT', 'BTG'] });
  assert.equal(clauseOf(deny(['TREAT', 'BTG']))?.emergency, true);
});
