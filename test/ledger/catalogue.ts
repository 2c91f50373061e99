import { canonicalize } from '../../src/ledger/contract/jcs.ts';
import * as build from '../../src/ledger/contract/payloads.ts';
import type { RefusalCode } from '../../src/ledger/contract/refusals.ts';
import { type SignedTransaction, TYP } from '../../src/ledger/contract/shapes.ts';
import { AWAY, CATEGORIES, type Cast, HOME, hex64, newKey, type statements, type TestKey } from './world.ts';

/** What is sent, by whom, and how long from now. */
export interface Call {
  name: string;
  args: readonly string[];
  /** Another institution's gateway than HOME's. */
  as?: typeof AWAY;
  minutesLater?: number;
}

export const THIRD = 'inst-third';
const HOUR_MS = 3_600_000;
function inMs(ms: number): string {
  return new Date(Date.now() + ms).toISOString();
}

/**
 * Every transaction of the contract but `init`, on a ledger that HOME has founded, and every refusal, on what those leave behind.
 * One table for every host: `tour` is sent in order, `refusals` change nothing and may be asked for at once.
 */
export function catalogue(keys: Cast, say: ReturnType<typeof statements>, facts: { anchor: number }) {
  const fresh = { member: newKey(), patient: newKey(), suspended: newKey() };
  const p = say.permission;
  const member = (id: string) => `member:${HOME}:${id}`;
  const signed = (type: SignedTransaction, text: string, ...by: TestKey[]): string[] => by.map((key) => key.jws(TYP[type], text));
  const institution = (name: string, key: TestKey, encryption = keys.category.jwk) =>
    build.registerInstitutionPayload({ ...say.base(), institution: name, msp: `${name}-msp`, signing: key.jwk, encryption });
  const rotateInstitution = (name: string, key: TestKey, version: number) =>
    build.rotateInstitutionKeyPayload({ ...say.base(), institution: name, signing: key.jwk, encryption: keys.category.jwk, version });
  const rules = build.raiseRulesPayload({ ...say.base(), rules: 2 });
  const renew = (id: string, version: number, validUntil = inMs(300 * 24 * HOUR_MS)) =>
    build.renewMemberPayload({ ...say.base(), institution: HOME, member: id, validUntil, version });
  const suspend = (id: string, version: number) => build.suspendMemberPayload({ ...say.base(), institution: HOME, member: id, version });
  const rotateMember = (key: TestKey, version: number) =>
    build.rotateMemberKeyPayload({
      ...say.base(),
      encryption: null,
      institution: HOME,
      member: 'mem-t5',
      signing: key.jwk,
      version,
    });
  const publish = (patient: string, version: number, onBehalf: string | null = patient) =>
    build.publishCategoryKeyPayload({
      ...say.base(),
      ...say.of(patient),
      category: 'laboratory',
      envelopes: [],
      key: keys.category.jwk,
      onBehalf,
      version,
    });
  const info = (patient: string, version: number, onBehalf: string | null = patient) =>
    build.setPrivateInfoPayload({ ...say.base(), ...say.of(patient), commitment: hex64('private'), onBehalf, version });
  const claim = (patient: string, more: object = {}) =>
    build.claimPatientPayload({
      ...say.base(),
      ...say.of(patient),
      encryption: keys.category.jwk,
      keys: CATEGORIES.map((category) => ({ category, envelopes: [], key: keys.category.jwk, version: 2 })),
      onBehalf: patient,
      recovery: keys.recovery.thumbprint,
      signing: keys.patient.jwk,
      version: 2,
      ...more,
    });
  const delegation = (patient: string, version: number) =>
    build.delegatePayload({
      ...say.base(),
      ...say.of(patient),
      delegates: [{ categories: ['laboratory'], key: keys.delegate.thumbprint, until: inMs(24 * HOUR_MS) }],
      version,
    });
  const rotatePatient = build.rotatePatientKeyPayload({
    ...say.base(),
    ...say.of('pat-t2'),
    encryption: keys.category.jwk,
    recovery: keys.recovery.thumbprint,
    signing: fresh.patient.jwk,
    version: 4,
  });
  const erase = (patient: string) => build.erasePatientPayload({ ...say.base(), ...say.of(patient), onBehalf: patient });
  const grant = (patient: string, permissions: Parameters<typeof say.grantText>[1], more: object = {}, by = keys.home) =>
    signed('grantPermission', say.grantText(patient, permissions, more), by);
  const revoke = (patient: string, grantee: string, by = keys.home) =>
    signed('revokePermission', say.revokeText(patient, [{ grantee, category: 'laboratory' }]), by);
  const share = (from: string, by: TestKey, to: string, parent: { grantee: string; grantor: string }, more: object = {}): string[] => {
    const permission = {
      ...p(to, 'laboratory', 1, { purposes: ['TREAT'], rights: ['read', 'share'], ...more }),
      parentGrantee: parent.grantee,
      parentGrantor: parent.grantor,
    };
    const text = build.sharePayload({
      ...say.base(),
      ...say.of('pat-t1'),
      consent: 'con-9',
      grantor: from,
      notAfter: '2099-01-01T00:00:00.000Z',
      permissions: [permission],
    });
    return [...signed('sharePermission', text, by), by.text];
  };
  const [one, two, three, four] = ['mem-t1', 'mem-t2', 'mem-t3', 'mem-t4'].map(member) as [string, string, string, string];
  const parentOfOne = { grantee: one, grantor: 'patient' };
  const entry = say.entry('pat-t1', 'doc-t1');
  const record = (...entries: Parameters<typeof build.recordDocumentsArgument>[0]) => [build.recordDocumentsArgument(entries)];
  const withdraw = (patient: string, document: string) => [build.withdrawDocumentArgument({ ...say.of(patient), document })];
  const reseal = (entryHash: string, more: object = {}) => {
    const { permission: _, ...rest } = entry;
    const hash = hex64(JSON.stringify(more));
    return [
      build.resealDocumentsArgument([{ ...rest, ciphertextHash: hash, n: 1, pointer: `${HOME}/${hash}`, previous: entryHash, ...more }]),
    ];
  };
  const declare = (more: object = {}, by = keys.home) =>
    signed(
      'recordEmergencyAccess',
      build.emergencyPayload({
        ...say.base(),
        ...say.of('pat-t1'),
        from: '2026-11-23T10:00:00.000Z',
        id: 'emg-t1',
        member: one,
        until: '2026-11-23T11:00:00.000Z',
        ...more,
      }),
      by,
    );
  const anchor = (number: number, root = hex64(String(number))) => [build.anchorAuditArgument({ number, root })];
  const envelope = (recipient: string) => ({ hash: hex64('e'), path: `${HOME}/envelopes/${hex64('e')}`, recipient });

  /** In order. `entryHash` of the entry to reseal is asked for when its turn comes. */
  function* tour(entryHash: () => string): Generator<Call> {
    yield {
      name: 'registerInstitution',
      args: signed('registerInstitution', institution(AWAY, keys.away), keys.away, keys.home),
    };
    const third = institution(THIRD, keys.third);
    yield { name: 'registerInstitution', args: signed('registerInstitution', third, keys.third, keys.home, keys.away) };
    yield {
      name: 'rotateInstitutionKey',
      args: signed('rotateInstitutionKey', rotateInstitution(THIRD, keys.thirdNext, 2), keys.thirdNext, keys.third),
    };
    yield { name: 'raiseRules', args: signed('raiseRules', rules, keys.home, keys.away, keys.thirdNext) };
    for (const [id, key] of [
      ['mem-t1', keys.clinician],
      ['mem-t2', keys.other],
      ['mem-t3', keys.delegate],
      ['mem-t4', keys.recovery],
      ['mem-t5', keys.third],
      ['mem-t6', fresh.suspended],
    ] as const)
      yield { name: 'registerMember', args: say.member(id, { key }) };
    yield { name: 'registerMember', args: say.member('mem-t7', { role: 'carer' }) };
    yield { name: 'renewMember', args: signed('renewMember', renew('mem-t1', 2), keys.home) };
    yield {
      name: 'rotateMemberKey',
      args: [...signed('rotateMemberKey', rotateMember(fresh.member, 2), fresh.member, keys.third), keys.third.text],
    };
    for (const patient of ['pat-t1', 'pat-t2', 'pat-t3']) yield { name: 'enrollPatient', args: say.enroll(patient) };
    yield { name: 'publishCategoryKey', args: signed('publishCategoryKey', publish('pat-t3', 2), keys.home) };
    yield { name: 'setPrivateInfo', args: signed('setPrivateInfo', info('pat-t1', 2), keys.home) };
    yield { name: 'claimPatient', args: signed('claimPatient', claim('pat-t2'), keys.patient, keys.home) };
    yield { name: 'delegate', args: signed('delegate', delegation('pat-t2', 3), keys.patient) };
    yield {
      name: 'rotatePatientKey',
      args: [...signed('rotatePatientKey', rotatePatient, fresh.patient, keys.recovery), keys.recovery.text],
    };
    yield { name: 'erasePatient', args: signed('erasePatient', erase('pat-t3'), keys.home) };
    for (const [id, sequence] of [
      [one, 1],
      [member('mem-t6'), 1],
    ] as const)
      yield {
        name: 'grantPermission',
        args: grant('pat-t1', [p(id, 'laboratory', sequence, { rights: ['read', 'share'], purposes: ['TREAT'] })]),
      };
    yield { name: 'sharePermission', args: share(one, keys.clinician, two, parentOfOne) };
    yield { name: 'sharePermission', args: share(two, keys.other, three, { grantee: two, grantor: one }) };
    yield { name: 'suspendMember', args: signed('suspendMember', suspend('mem-t6', 2), keys.home) };
    yield { name: 'revokePermission', args: revoke('pat-t1', 'role:carer') };
    yield { name: 'recordDocuments', args: record(entry, say.entry('pat-t1', 'doc-t2')) };
    yield { name: 'withdrawDocument', args: withdraw('pat-t1', 'doc-t2') };
    yield { name: 'resealDocuments', args: reseal(entryHash()) };
    yield { name: 'recordEmergencyAccess', args: declare() };
    yield { name: 'anchorAudit', args: anchor(facts.anchor) };
  }

  /** Each with the code that the contract answers, as a refusal or, of a batch, in its result. */
  function refusals(original: string, entryHash: string): (readonly [RefusalCode, Call])[] {
    const text = () => say.grantText('pat-t1', [p('role:carer', 'laboratory', 9)]);
    const kid = keys.home.thumbprint;
    const granting = (jws: string): Call => ({ name: 'grantPermission', args: [jws] });
    const header = (head: string) => {
      const [, body = ''] = keys.home.jws(TYP.grantPermission, text()).split('.');
      return granting(`${Buffer.from(head).toString('base64url')}.${body}.${'A'.repeat(86)}`);
    };
    const payload = (change: (facts: Record<string, unknown>) => void) => {
      const changed = JSON.parse(text()) as Record<string, unknown>;
      change(changed);
      return granting(keys.home.jws(TYP.grantPermission, canonicalize(changed)));
    };
    const give = (permission: Parameters<typeof grant>[1][number], more: object = {}): Call => ({
      name: 'grantPermission',
      args: grant('pat-t1', [permission], more),
    });
    const call = (name: string, args: readonly string[], more: Partial<Call> = {}): Call => ({ name, args, ...more });
    const join = (name: string, ...by: TestKey[]) =>
      call('registerInstitution', signed('registerInstitution', institution(name, keys.away), ...by));
    const rotateAgain = signed('rotateMemberKey', rotateMember(fresh.suspended, 3), fresh.suspended, fresh.member);
    const bad = { ...keys.away.jwk, y: keys.away.jwk.x };
    const upload = { grantee: `organization:${AWAY}`, grantor: 'patient' };
    const uploaded = hex64('upload');
    return [
      // -- form --
      ['TRANSACTION_UNKNOWN', call('mintCoins', [])],
      ['ARGUMENTS_WRONG', call('anchorAudit', [])],
      ['ARGUMENT_TOO_LARGE', call('anchorAudit', ['x'.repeat(70_000)])],
      ['PAYLOAD_TOO_LARGE', payload((facts) => (facts['also'] = 'x'.repeat(9000)))],
      ['NOT_CANONICAL', granting(keys.home.jws(TYP.grantPermission, text().replace('{', '{ ')))],
      ['NOT_CANONICAL', granting(keys.home.jws(TYP.grantPermission, text().replace('{', '{"consent":"con-0",')))],
      ['SCHEMA', payload((facts) => (facts['also'] = 1))],
      ['SCHEMA', payload((facts) => (facts['patient'] = 'Anna Example'))],
      ['JWS_MALFORMED', granting('AAAA.AAAA')],
      ['JWS_HEADER', header(`{"alg":"ES256","crit":["x"],"kid":"${kid}","typ":"grant+jws"}`)],
      ['JWS_ALGORITHM', header(`{"alg":"none","kid":"${kid}","typ":"grant+jws"}`)],
      ['JWS_TYPE', granting(keys.home.jws(TYP.revokePermission, text()))],
      ['JWS_KEY', granting(keys.away.jws(TYP.grantPermission, text()))],
      ['JWS_SIGNATURE', header(`{"alg":"ES256","kid":"${kid}","typ":"grant+jws"}`)],
      [
        'JWS_PAYLOADS_DIFFER',
        call('registerInstitution', [
          ...signed('registerInstitution', institution('inst-new', keys.away), keys.away),
          ...signed('registerInstitution', institution('inst-new', keys.away), keys.home),
        ]),
      ],
      [
        'KEY_INVALID',
        call('registerInstitution', signed('registerInstitution', institution('inst-new', keys.away, bad), keys.away, keys.home)),
      ],
      ['KEY_MISSING', call('rotateMemberKey', rotateAgain)],
      ['KEY_MISMATCH', call('rotateMemberKey', [...rotateAgain, keys.away.text])],
      ['LEDGER_OTHER', payload((facts) => (facts['ledger'] = 'ledger-other001'))],
      ['TYPE_OTHER', payload((facts) => (facts['type'] = 'sharePermission'))],
      ['VERSION_STALE', call('setPrivateInfo', signed('setPrivateInfo', info('pat-t1', 9), keys.home))],
      // -- ledger and institutions --
      ['LEDGER_EXISTS', call('init', say.init([HOME, keys.home]))],
      ['INSTITUTION_EXISTS', join(AWAY, keys.away, keys.home)],
      [
        'INSTITUTION_UNKNOWN',
        call('rotateInstitutionKey', signed('rotateInstitutionKey', rotateInstitution('inst-none', keys.third, 2), keys.third, keys.home)),
      ],
      ['SIGNERS_MISSING', join('inst-new', keys.away, keys.home)],
      // -- members --
      ['MEMBER_EXISTS', call('registerMember', say.member('mem-t1', { role: 'carer' }))],
      ['MEMBER_UNKNOWN', call('renewMember', signed('renewMember', renew('mem-none', 2), keys.home))],
      [
        'MEMBER_INACTIVE',
        call('sharePermission', share(member('mem-t6'), fresh.suspended, four, { grantee: member('mem-t6'), grantor: 'patient' })),
      ],
      ['ROLE_FUNCTION', call('recordEmergencyAccess', declare({ id: 'emg-t2', member: member('mem-t7') }))],
      ['VALIDITY_PAST', call('registerMember', say.member('mem-t8', { validUntil: '2020-01-01T00:00:00.000Z' }))],
      // -- patients --
      ['PATIENT_EXISTS', call('enrollPatient', say.enroll('pat-t1'))],
      ['PATIENT_UNKNOWN', call('withdrawDocument', withdraw('pat-none', 'doc-t1'))],
      ['PATIENT_UNKNOWN', call('recordDocuments', record(entry, say.entry('pat-none', 'doc-t9')))],
      ['PATIENT_ERASED', call('revokePermission', revoke('pat-t3', one))],
      ['PATIENT_CLAIMED', call('claimPatient', signed('claimPatient', claim('pat-t2', { version: 5 }), keys.patient, keys.home))],
      [
        'CATEGORIES_INCOMPLETE',
        call(
          'claimPatient',
          signed(
            'claimPatient',
            claim('pat-t1', { version: 3, keys: [{ category: 'laboratory', envelopes: [], key: keys.category.jwk, version: 2 }] }),
            keys.patient,
            keys.home,
          ),
        ),
      ],
      ['CATEGORY_UNKNOWN', call('recordDocuments', record(say.entry('pat-t1', 'doc-t9', { category: 'imaging' })))],
      ['KEY_VERSION_STALE', call('recordDocuments', record(say.entry('pat-t1', 'doc-t9', { keyVersion: 2 })))],
      // -- permissions --
      ['NOT_GRANTOR', call('sharePermission', share(one, keys.other, four, parentOfOne))],
      ['NOT_GRANTOR', call('delegate', signed('delegate', delegation('pat-t1', 3), keys.home))],
      ['ON_BEHALF_MISSING', give(p(three, 'laboratory', 1), { onBehalf: null })],
      [
        'DELEGATION_SCOPE',
        call('grantPermission', [
          ...grant('pat-t2', [p('role:carer', 'radiation-dose', 1)], { onBehalf: null }, keys.delegate),
          keys.delegate.text,
        ]),
      ],
      // The institution's own key no longer signs for who holds theirs.
      ['JWS_KEY', call('grantPermission', grant('pat-t2', [p('role:carer', 'laboratory', 1)]))],
      ['GRANTEE_UNKNOWN', give(p(member('mem-none'), 'laboratory', 1))],
      ['TRIPLE_REPEATED', call('grantPermission', grant('pat-t1', [p(three, 'laboratory', 1), p(three, 'laboratory', 2)]))],
      ['SEQUENCE_STALE', give(p(one, 'laboratory', 1))],
      ['GRANT_EXPIRED', give(p(three, 'laboratory', 1), { notAfter: '2020-01-01T00:00:00.000Z' })],
      ['GRANT_BEYOND_ANCHOR', { ...give(p(three, 'laboratory', 1)), minutesLater: 11 }],
      ['CLAUSE_EMPTY', give(p(three, 'laboratory', 1, { periodStart: inMs(1000), periodEnd: inMs(0) }))],
      ['ENVELOPE_MISSING', give(p(`organization:${AWAY}`, 'laboratory', 1))],
      ['ENVELOPE_RECIPIENT', give({ ...p(`organization:${AWAY}`, 'laboratory', 1), envelope: envelope(keys.patient.thumbprint) })],
      ['SHARE_WIDER', call('sharePermission', share(one, keys.clinician, four, parentOfOne, { purposes: null }))],
      ['SHARE_DEPTH', call('sharePermission', share(three, keys.delegate, four, { grantee: three, grantor: two }))],
      // -- documents --
      [
        'UPLOAD_NOT_PERMITTED',
        call(
          'recordDocuments',
          record(say.entry('pat-t1', 'doc-t9', { ciphertextHash: uploaded, permission: upload, pointer: `${AWAY}/${uploaded}` })),
          { as: AWAY },
        ),
      ],
      ['ENTRY_UNKNOWN', call('resealDocuments', reseal(hex64('none')))],
      ['COMMITMENT_DIFFERS', call('resealDocuments', reseal(entryHash, { n: 2, commitment: hex64('other') }))],
      [
        'RESEAL_NUMBER',
        call(
          'resealDocuments',
          reseal(original, { n: 1, keyVersion: 1, clinician: null, ciphertextHash: hex64('again'), pointer: `${HOME}/${hex64('again')}` }),
        ),
      ],
      // -- accountability --
      ['EMERGENCY_PERIOD', call('recordEmergencyAccess', declare({ id: 'emg-t3', until: '2026-11-23T20:00:00.000Z' }))],
      ['EMERGENCY_EXISTS', call('recordEmergencyAccess', declare({ until: '2026-11-23T10:30:00.000Z' }))],
      ['ANCHOR_NUMBER', call('anchorAudit', anchor(facts.anchor + 2))],
    ];
  }
  return { tour, refusals };
}
