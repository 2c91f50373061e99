import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { before, describe, test } from 'node:test';
import * as fc from 'fast-check';
import { base64url, compareUtf8, fromBase64url } from '../../src/ledger/contract/bytes.ts';
import { TRANSACTIONS } from '../../src/ledger/contract/contract.ts';
import type { EcJwk } from '../../src/ledger/contract/host.ts';
import { canonicalize, parseCanonical } from '../../src/ledger/contract/jcs.ts';
import { thumbprint } from '../../src/ledger/contract/jws.ts';
import { isPublicKey } from '../../src/ledger/contract/p256.ts';
import * as build from '../../src/ledger/contract/payloads.ts';
import { REFUSALS, Refusal, type RefusalCode } from '../../src/ledger/contract/refusals.ts';
import { PAYLOADS, TYP } from '../../src/ledger/contract/shapes.ts';
import { MemoryState } from '../../src/ledger/memory-state.ts';
import { Overlay, readHost, simulate } from '../../src/ledger/simulation.ts';
import { AWAY, CATEGORIES, cast, createWorld, HOME, hex64, LEDGER, newKey, T0 } from './world.ts';

const keys = cast();
type World = ReturnType<typeof createWorld>;
const MEMBER = `member:${HOME}:mem-1`;
const OTHER = `member:${HOME}:mem-2`;
const refusedSeen = new Set<RefusalCode>();

async function refuses(code: RefusalCode, work: () => Promise<unknown>): Promise<void> {
  await assert.rejects((async () => work())(), (error: unknown) => {
    assert.ok(error instanceof Refusal, String(error));
    assert.equal(error.code, code);
    refusedSeen.add(code);
    return true;
  });
}
async function world(): Promise<World> {
  return createWorld(keys).found();
}
function after(ms: number): string {
  return new Date(Date.parse(T0) + ms).toISOString();
}
/** A claimed patient, whose own key decides from then on. */
async function claimed(w: World, delegates = false): Promise<void> {
  const text = build.claimPatientPayload({
    ...w.say.base(),
    ...w.say.of('pat-1'),
    encryption: keys.category.jwk,
    keys: CATEGORIES.map((category) => ({ category, envelopes: [], key: keys.category.jwk, version: 2 })),
    onBehalf: 'pat-1',
    recovery: keys.recovery.thumbprint,
    signing: keys.patient.jwk,
    version: 2,
  });
  await w.run('claimPatient', [keys.patient.jws(TYP.claimPatient, text), keys.home.jws(TYP.claimPatient, text)]);
  if (!delegates) return;
  const list = [{ categories: ['laboratory'], key: keys.delegate.thumbprint, until: after(86_400_000) }];
  const delegation = build.delegatePayload({ ...w.say.base(), ...w.say.of('pat-1'), delegates: list, version: 3 });
  await w.run('delegate', [keys.patient.jws(TYP.delegate, delegation)]);
}
function envelopeTo(thumbprint: string) {
  return { hash: hex64('e'), path: `${HOME}/envelopes/${hex64('e')}`, recipient: thumbprint };
}

describe('canonical form', () => {
  test('members sort by UTF-16 units and the text is its own canonical form', () => {
    assert.equal(
      canonicalize({ b: 1, a: [true, null, 'ä"\u000f'], '€': -5, '\ud83d\ude00': 0 }),
      '{"a":[true,null,"ä\\"\\u000f"],"b":1,"€":-5,"😀":0}',
    );
    for (const bad of [
      '{"a":1,"a":2}',
      '{"b":1,"a":2}',
      '{ "a":1}',
      '{"a":1.0}',
      '{"a":1e2}',
      '"\\u0041"',
      '{"a":0.5}',
      '[-0]',
      'nonsense',
      '"\\ud800"',
    ])
      assert.throws(() => parseCanonical(bad), /NOT_CANONICAL/, bad);
  });
  test('any flat value comes back from its text', () => {
    const value = fc.letrec((tie) => ({
      json: fc.oneof(
        { maxDepth: 4 },
        fc.string({ unit: 'grapheme' }),
        fc.maxSafeInteger().map((n) => n + 0),
        fc.boolean(),
        fc.constant(null),
        fc.array(tie('json'), { maxLength: 4 }),
        fc.dictionary(fc.string(), tie('json'), { maxKeys: 4 }),
      ),
    })).json;
    fc.assert(
      fc.property(value, (v) => {
        const text = canonicalize(v);
        assert.equal(canonicalize(parseCanonical(text)), text);
      }),
      { numRuns: 200 },
    );
  });
  test('base64url is strict and its own inverse; keys sort by UTF-8 bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array(), (bytes) => {
        assert.equal(base64url(bytes), Buffer.from(bytes).toString('base64url'));
        assert.deepEqual(fromBase64url(base64url(bytes)), Uint8Array.from(bytes));
      }),
      { numRuns: 100 },
    );
    for (const bad of ['A', 'AB=', 'AB', 'A+', 'AAB']) assert.equal(fromBase64url(bad), undefined, bad);
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (a, b) => {
        assert.equal(Math.sign(compareUtf8(a, b)), Math.sign(Buffer.compare(Buffer.from(a), Buffer.from(b))));
      }),
      { numRuns: 300 },
    );
  });
  test('a point off the curve is no key', () => {
    const { jwk } = keys.patient;
    assert.ok(isPublicKey(jwk));
    assert.ok(!isPublicKey({ ...jwk, y: jwk.x }));
    assert.ok(!isPublicKey({ ...jwk, x: base64url(new Uint8Array(32).fill(255)) }));
    assert.ok(isPublicKey({ kty: 'OKP', crv: 'X25519', x: jwk.x }));
  });
});

describe('the contract imports nothing outside its folder', () => {
  test('no import leaves it, and it names no clock, randomness or host global', () => {
    const folder = new URL('../../src/ledger/contract/', import.meta.url);
    for (const file of readdirSync(folder)) {
      const text = readFileSync(new URL(file, folder), 'utf8');
      for (const [, from] of text.matchAll(/from '([^']+)'/g)) assert.match(from ?? '', /^\.\/[a-z0-9-]+\.ts$/, file);
      assert.doesNotMatch(text, /Date\.now|new Date\(\)|Math\.random|process\.|Buffer\.|crypto\.|performance/, file);
    }
  });
});

describe('statements', () => {
  let w: World;
  before(async () => {
    w = await world();
  });
  const text = () => w.say.grantText('pat-1', [w.say.permission(MEMBER, 'laboratory', 1)]);
  const send = (jws: string) => w.run('grantPermission', [jws]);
  const withHeader = (header: string) => {
    const [, body = ''] = keys.home.jws(TYP.grantPermission, text()).split('.');
    return `${Buffer.from(header).toString('base64url')}.${body}.${'A'.repeat(86)}`;
  };
  const payloadOf = (change: (p: Record<string, unknown>) => void) => {
    const payload = JSON.parse(text()) as Record<string, unknown>;
    change(payload);
    return keys.home.jws(TYP.grantPermission, canonicalize(payload));
  };
  const kid = keys.home.thumbprint;
  const cases: [string, RefusalCode, () => string][] = [
    ['two parts', 'JWS_MALFORMED', () => 'AAAA.AAAA'],
    ['padding', 'JWS_MALFORMED', () => keys.home.jws(TYP.grantPermission, text()).replace('.', '=.')],
    ['a short signature', 'JWS_MALFORMED', () => keys.home.jws(TYP.grantPermission, text()).slice(0, -4)],
    ['none', 'JWS_ALGORITHM', () => withHeader(`{"alg":"none","kid":"${kid}","typ":"grant+jws"}`)],
    ['HS256', 'JWS_ALGORITHM', () => withHeader(`{"alg":"HS256","kid":"${kid}","typ":"grant+jws"}`)],
    ['crit', 'JWS_HEADER', () => withHeader(`{"alg":"ES256","crit":["x"],"kid":"${kid}","typ":"grant+jws"}`)],
    ['a key in the header', 'JWS_HEADER', () => withHeader(`{"alg":"ES256","jwk":{},"kid":"${kid}","typ":"grant+jws"}`)],
    ['a repeated header member', 'JWS_HEADER', () => withHeader(`{"alg":"none","alg":"ES256","kid":"${kid}","typ":"grant+jws"}`)],
    ['the typ of another', 'JWS_TYPE', () => keys.home.jws(TYP.revokePermission, text())],
    ['a kid of nobody', 'JWS_KEY', () => newKey().jws(TYP.grantPermission, text())],
    ['another signature', 'JWS_SIGNATURE', () => withHeader(`{"alg":"ES256","kid":"${kid}","typ":"grant+jws"}`)],
    [
      'another payload under the signature',
      'JWS_SIGNATURE',
      () => {
        const [head, , tail] = keys.home.jws(TYP.grantPermission, text()).split('.');
        return `${head}.${Buffer.from(text()).toString('base64url')}.${tail}`;
      },
    ],
    ['blanks', 'NOT_CANONICAL', () => keys.home.jws(TYP.grantPermission, text().replace('{', '{ '))],
    ['a duplicate member', 'NOT_CANONICAL', () => keys.home.jws(TYP.grantPermission, text().replace('{', '{"consent":"con-0",'))],
    ['an unknown member', 'SCHEMA', () => payloadOf((p) => (p['also'] = 1))],
    ['a missing member', 'SCHEMA', () => payloadOf((p) => delete p['evidence'])],
    ['an id with a slash', 'SCHEMA', () => payloadOf((p) => (p['consent'] = 'a/b'))],
    ['a name', 'SCHEMA', () => payloadOf((p) => (p['patient'] = 'Anna Example'))],
    ['another ledger', 'LEDGER_OTHER', () => payloadOf((p) => (p['ledger'] = 'ledger-other001'))],
    ['the type of another', 'TYPE_OTHER', () => payloadOf((p) => (p['type'] = 'sharePermission'))],
    ['8 KiB and more', 'PAYLOAD_TOO_LARGE', () => payloadOf((p) => (p['also'] = 'x'.repeat(9000)))],
  ];
  for (const [what, code, jws] of cases) test(`${what} is refused as ${code}`, () => refuses(code, () => send(jws())));
  test('members of the header may stand in any order', async () => {
    const payload = Buffer.from(w.say.grantText('pat-1', [w.say.permission('role:carer', 'laboratory', 1)])).toString('base64url');
    const signed = `${Buffer.from(`{"typ":"grant+jws","alg":"ES256","kid":"${kid}"}`).toString('base64url')}.${payload}`;
    await send(`${signed}.${Buffer.from(await keys.home.sign(Buffer.from(signed))).toString('base64url')}`);
  });
});

describe('ledger, institutions, members', () => {
  test('init once, by a founder, each with its own key', async () => {
    const w = createWorld(keys);
    await refuses('LEDGER_MISSING', () => w.run('anchorAudit', [build.anchorAuditArgument({ number: 1, root: hex64('r') })]));
    await refuses('CALLER_UNKNOWN', () => w.run('init', w.say.init([AWAY, keys.away])));
    await refuses('INSTITUTION_EXISTS', () => w.run('init', w.say.init([HOME, keys.home], [HOME, keys.away])));
    await refuses('ARGUMENTS_WRONG', () => w.run('init', [LEDGER]));
    await w.run('init', w.say.init([HOME, keys.home]));
    await refuses('LEDGER_EXISTS', () => w.run('init', w.say.init([HOME, keys.home])));
    await refuses('CALLER_UNKNOWN', () => w.run('registerMember', w.say.member('mem-1'), AWAY));
    await refuses('TRANSACTION_UNKNOWN', () => w.run('mintCoins', []));
    await refuses('ARGUMENT_TOO_LARGE', () => w.run('anchorAudit', ['x'.repeat(70_000)]));
  });

  test('an institution joins by two signatures, one while there is one; rotates by its key or two others; rules by all', async () => {
    const w = createWorld(keys);
    await w.run('init', w.say.init([HOME, keys.home]));
    const join = (institution: string, key = keys.away, encryption = keys.category.jwk) =>
      build.registerInstitutionPayload({ ...w.say.base(), institution, msp: `${institution}-msp`, signing: key.jwk, encryption });
    const jws = (text: string, ...by: (typeof keys.home)[]) => by.map((key) => key.jws(TYP.registerInstitution, text));
    const away = join(AWAY);
    await refuses('JWS_KEY', () => w.run('registerInstitution', jws(away, keys.away, keys.third)));
    await refuses('JWS_PAYLOADS_DIFFER', () => w.run('registerInstitution', [...jws(away, keys.away), ...jws(join(AWAY), keys.home)]));
    await refuses('KEY_INVALID', () =>
      w.run('registerInstitution', jws(join(AWAY, keys.away, { ...keys.away.jwk, y: keys.away.jwk.x }), keys.away, keys.home)),
    );
    await w.run('registerInstitution', jws(away, keys.away, keys.home));
    await refuses('INSTITUTION_EXISTS', () => w.run('registerInstitution', jws(join(AWAY), keys.away, keys.home, keys.away)));
    const third = join('inst-third', keys.third);
    await refuses('SIGNERS_MISSING', () => w.run('registerInstitution', jws(third, keys.third, keys.home)));
    await refuses('SIGNERS_MISSING', () => w.run('registerInstitution', jws(third, keys.third, keys.home, keys.home)));
    await w.run('registerInstitution', jws(third, keys.third, keys.home, keys.away));

    const fresh = newKey();
    const rotate = (version: number, institution = HOME) =>
      build.rotateInstitutionKeyPayload({ ...w.say.base(), institution, signing: fresh.jwk, encryption: keys.category.jwk, version });
    const turn = (text: string, ...by: (typeof keys.home)[]) => by.map((key) => key.jws(TYP.rotateInstitutionKey, text));
    const second = rotate(2);
    await refuses('VERSION_STALE', () => w.run('rotateInstitutionKey', turn(rotate(3), fresh, keys.home)));
    await refuses('INSTITUTION_UNKNOWN', () => w.run('rotateInstitutionKey', turn(rotate(2, 'inst-none'), fresh, keys.home)));
    await refuses('SIGNERS_MISSING', () => w.run('rotateInstitutionKey', turn(second, fresh, keys.away)));
    await w.run('rotateInstitutionKey', turn(second, fresh, keys.away, keys.third));
    await refuses('VERSION_STALE', () => w.run('rotateInstitutionKey', turn(second, fresh, keys.away, keys.third)));

    const rules = build.raiseRulesPayload({ ...w.say.base(), rules: 2 });
    const raise = (...by: (typeof keys.home)[]) => by.map((key) => key.jws(TYP.raiseRules, rules));
    await refuses('SIGNERS_MISSING', () => w.run('raiseRules', raise(keys.away, keys.third)));
    await refuses('JWS_KEY', () => w.run('raiseRules', raise(keys.away, keys.third, keys.home)));
    await w.run('raiseRules', raise(keys.away, keys.third, fresh));
    await refuses('VERSION_STALE', () => w.run('raiseRules', raise(keys.away, keys.third, fresh)));
  });

  test('a member proves their key, is renewed, suspended and re-keyed by version', async () => {
    const w = createWorld(keys);
    await w.run('init', w.say.init([HOME, keys.home], [AWAY, keys.away]));
    await refuses('VALIDITY_PAST', () => w.run('registerMember', w.say.member('mem-1', { validUntil: T0 })));
    await refuses('SCHEMA', () => w.run('registerMember', w.say.member('mem-1', { key: keys.clinician, institution: AWAY })));
    const register = w.say.member('mem-1', { key: keys.clinician });
    await w.run('registerMember', register);
    await w.run('registerMember', register);
    await refuses('MEMBER_EXISTS', () => w.run('registerMember', w.say.member('mem-1', { role: 'carer' })));
    const renew = (version: number, validUntil = '2028-01-01T00:00:00.000Z', member = 'mem-1') =>
      build.renewMemberPayload({ ...w.say.base(), institution: HOME, member, validUntil, version });
    const suspend = keys.home.jws(
      TYP.suspendMember,
      build.suspendMemberPayload({ ...w.say.base(), institution: HOME, member: 'mem-1', version: 2 }),
    );
    await refuses('MEMBER_UNKNOWN', () => w.run('renewMember', [keys.home.jws(TYP.renewMember, renew(2, T0, 'mem-9'))]));
    await refuses('JWS_KEY', () => w.run('renewMember', [keys.away.jws(TYP.renewMember, renew(2))]));
    await refuses('VALIDITY_PAST', () => w.run('renewMember', [keys.home.jws(TYP.renewMember, renew(2, T0))]));
    await w.run('suspendMember', [suspend], AWAY);
    await refuses('VERSION_STALE', () => w.run('suspendMember', [suspend]));
    await w.run('renewMember', [keys.home.jws(TYP.renewMember, renew(3))]);
    assert.deepEqual(await w.query('member', HOME, 'mem-1'), {
      encryption: keys.category.thumbprint,
      role: 'clinician',
      signing: keys.clinician.thumbprint,
      status: 'active',
      validUntil: '2028-01-01T00:00:00.000Z',
      version: 3,
    });
    const rotate = (version: number) =>
      build.rotateMemberKeyPayload({
        ...w.say.base(),
        encryption: null,
        institution: HOME,
        member: 'mem-1',
        signing: keys.other.jwk,
        version,
      });
    const text = rotate(4);
    const by = (...signers: (typeof keys.home)[]) => signers.map((key) => key.jws(TYP.rotateMemberKey, text));
    await refuses('KEY_MISSING', () => w.run('rotateMemberKey', by(keys.other, keys.clinician)));
    await refuses('KEY_MISMATCH', () => w.run('rotateMemberKey', [...by(keys.other, keys.clinician), keys.other.text]));
    await refuses('JWS_KEY', () => w.run('rotateMemberKey', by(keys.other, keys.away)));
    await w.run('rotateMemberKey', [...by(keys.other, keys.clinician), keys.clinician.text]);
    await refuses('VERSION_STALE', () => w.run('rotateMemberKey', [...by(keys.other, keys.clinician), keys.clinician.text]));
  });
});

describe('patients and their keys', () => {
  test('enrolment publishes every key, is the same again, and no other institution signs it', async () => {
    const w = await world();
    const again = w.say.enroll('pat-2');
    await w.run('enrollPatient', again, AWAY);
    assert.deepEqual(await w.run('enrollPatient', again), { categories: 3 });
    await refuses('PATIENT_EXISTS', () => w.run('enrollPatient', w.say.enroll('pat-2')));
    await refuses('JWS_KEY', () => w.run('enrollPatient', w.say.enroll('pat-3', keys.away)));
    for (const category of CATEGORIES)
      assert.deepEqual(JSON.parse((await w.state.get(`pat/${HOME}/pat-2/ck/${category}/head`))?.value ?? ''), { version: 1 });
  });

  test('category keys go up by one; the same version again only with equal bytes', async () => {
    const w = await world();
    const publish = (version: number, key = keys.category.jwk, onBehalf: string | null = 'pat-1', patient = 'pat-1') =>
      build.publishCategoryKeyPayload({
        ...w.say.base(),
        ...w.say.of(patient),
        category: 'laboratory',
        envelopes: [],
        key,
        onBehalf,
        version,
      });
    const send = (text: string, by = keys.home) => w.run('publishCategoryKey', [by.jws(TYP.publishCategoryKey, text)]);
    await refuses('PATIENT_UNKNOWN', () => send(publish(2, keys.category.jwk, 'x', 'pat-9')));
    await refuses('ON_BEHALF_MISSING', () => send(publish(2, keys.category.jwk, null)));
    await refuses('VERSION_STALE', () => send(publish(3)));
    await send(publish(2));
    await send(publish(2));
    await refuses('VERSION_STALE', () => send(publish(2, keys.other.jwk)));
    await refuses('JWS_KEY', () => send(publish(3), keys.away));
  });

  test('from the claim on only the patient signs; recovery re-keys; erasure ends everything', async () => {
    const w = await world();
    const claim = (facts: object = {}) =>
      build.claimPatientPayload({
        ...w.say.base(),
        ...w.say.of('pat-1'),
        encryption: keys.category.jwk,
        onBehalf: 'pat-1',
        recovery: keys.recovery.thumbprint,
        signing: keys.patient.jwk,
        version: 2,
        keys: CATEGORIES.map((category) => ({ category, envelopes: [], key: keys.category.jwk, version: 2 })),
        ...facts,
      });
    const both = (text: string) => [keys.patient.jws(TYP.claimPatient, text), keys.home.jws(TYP.claimPatient, text)];
    await refuses('CATEGORIES_INCOMPLETE', () =>
      w.run('claimPatient', both(claim({ keys: [{ category: 'laboratory', envelopes: [], key: keys.category.jwk, version: 2 }] }))),
    );
    await refuses('VERSION_STALE', () => w.run('claimPatient', both(claim({ version: 5 }))));
    await refuses('JWS_KEY', () => w.run('claimPatient', both(claim()).toReversed()));
    await claimed(w);
    await refuses('PATIENT_CLAIMED', () => w.run('claimPatient', both(claim({ version: 3 }))));
    await refuses('JWS_KEY', () => w.grant('pat-1', [w.say.permission('role:carer', 'laboratory', 1)]));
    await w.grant('pat-1', [w.say.permission('role:carer', 'laboratory', 1)], { onBehalf: null }, keys.patient);

    const fresh = newKey();
    const rotate = build.rotatePatientKeyPayload({
      ...w.say.base(),
      ...w.say.of('pat-1'),
      encryption: keys.category.jwk,
      recovery: keys.recovery.thumbprint,
      signing: fresh.jwk,
      version: 3,
    });
    const signed = [fresh.jws(TYP.rotatePatientKey, rotate), keys.recovery.jws(TYP.rotatePatientKey, rotate)];
    await refuses('KEY_MISSING', () => w.run('rotatePatientKey', signed));
    await refuses('JWS_KEY', () => w.run('rotatePatientKey', [signed[0] ?? '', keys.home.jws(TYP.rotatePatientKey, rotate)]));
    await w.run('rotatePatientKey', [...signed, keys.recovery.text]);
    const info = (version: number) =>
      build.setPrivateInfoPayload({ ...w.say.base(), ...w.say.of('pat-1'), commitment: hex64('private'), onBehalf: null, version });
    await refuses('VERSION_STALE', () => w.run('setPrivateInfo', [fresh.jws(TYP.setPrivateInfo, info(3))]));
    await w.run('setPrivateInfo', [fresh.jws(TYP.setPrivateInfo, info(4))]);

    const erase = build.erasePatientPayload({ ...w.say.base(), ...w.say.of('pat-1'), onBehalf: null });
    await refuses('JWS_KEY', () => w.run('erasePatient', [keys.home.jws(TYP.erasePatient, erase)]));
    await w.run('erasePatient', [fresh.jws(TYP.erasePatient, erase)]);
    await w.run('erasePatient', [fresh.jws(TYP.erasePatient, erase)]);
    await refuses('PATIENT_ERASED', () => w.revoke('pat-1', [{ grantee: MEMBER, category: 'laboratory' }], {}, fresh));
    assert.equal((await w.decide()).reason, 'PATIENT_ERASED');
  });

  test('in custody nobody claims to be a delegate or to hold a key', async () => {
    const w = await world();
    const delegation = build.delegatePayload({ ...w.say.base(), ...w.say.of('pat-1'), delegates: [], version: 2 });
    await refuses('NOT_GRANTOR', () => w.run('delegate', [keys.home.jws(TYP.delegate, delegation)]));
  });
});

describe('permissions', () => {
  test('a grant counts once, on its head, within its time', async () => {
    const w = await world();
    const text = w.say.grantText('pat-1', [w.say.permission(MEMBER, 'laboratory', 1)]);
    const jws = keys.home.jws(TYP.grantPermission, text);
    assert.equal((await w.decide()).reason, 'NO_PERMISSION');
    await w.run('grantPermission', [jws], AWAY);
    assert.equal((await w.decide()).decision, 'permit');
    assert.equal((await w.decide({ category: 'radiation-dose' })).decision, 'deny');
    await refuses('SEQUENCE_STALE', () => w.run('grantPermission', [jws]));
    await w.revoke('pat-1', [{ grantee: MEMBER, category: 'laboratory' }]);
    assert.equal((await w.decide()).decision, 'deny');
    await refuses('SEQUENCE_STALE', () => w.run('grantPermission', [jws]));
    assert.equal((await w.decide()).decision, 'deny');
    await w.grant('pat-1', [w.say.permission(MEMBER, 'laboratory', 3)]);
    assert.equal((await w.decide()).decision, 'permit');
    const history = (await w.query('permissionHistory', HOME, 'pat-1', 'patient', MEMBER, 'laboratory')) as {
      sequence: number;
      status: string;
      at: string;
    }[];
    assert.deepEqual(
      history.map((one) => [one.sequence, one.status, one.at]),
      [
        [1, 'active', T0],
        [2, 'revoked', after(1)],
        [3, 'active', after(2)],
      ],
    );
    assert.equal(((await w.query('permissionsOf', HOME, 'pat-1')) as unknown[]).length, 1);
    const then = build.questionArgument({
      actorId: 'mem-1',
      actorInstitution: HOME,
      actorKind: 'member',
      at: T0,
      category: 'laboratory',
      emergency: null,
      institution: HOME,
      patient: 'pat-1',
      purpose: 'TREAT',
      right: 'read',
    });
    assert.equal(((await w.query('decisionAt', then, after(1))) as { decision: string }).decision, 'deny');
    assert.equal(((await w.query('decisionAt', then, T0)) as { decision: string }).decision, 'permit');
  });

  test('a signed grant kept back is dead once a revoke came first', async () => {
    const w = await world();
    const kept = keys.home.jws(TYP.grantPermission, w.say.grantText('pat-1', [w.say.permission(MEMBER, 'laboratory', 1)]));
    await w.revoke('pat-1', [{ grantee: MEMBER, category: 'laboratory' }]);
    await refuses('SEQUENCE_STALE', () => w.run('grantPermission', [kept]));
  });

  test('notAfter counts against the later of transaction time and median anchor; beyond the newest anchor nothing is granted', async () => {
    const w = await world();
    const give = (notAfter: string) => w.grant('pat-1', [w.say.permission(MEMBER, 'laboratory', 1)], { notAfter });
    await refuses('GRANT_EXPIRED', () => give(after(-1)));
    w.at(after(11 * 60_000));
    await refuses('GRANT_BEYOND_ANCHOR', () => give('2099-01-01T00:00:00.000Z'));
    for (const institution of [HOME, AWAY])
      await w.run('anchorAudit', [build.anchorAuditArgument({ number: 1, root: hex64('r') })], institution);
    // A submitter who sets the clock back is held against the anchors.
    w.at(T0);
    await refuses('GRANT_EXPIRED', () => give(after(60_000)));
    await give(after(11 * 60_000));
  });

  test('what a grant must say', async () => {
    const w = await world();
    const p = w.say.permission;
    await refuses('ON_BEHALF_MISSING', () => w.grant('pat-1', [p(MEMBER, 'laboratory', 1)], { onBehalf: null }));
    await refuses('GRANTEE_UNKNOWN', () => w.grant('pat-1', [p(`member:${HOME}:mem-9`, 'laboratory', 1)]));
    await refuses('GRANTEE_UNKNOWN', () => w.grant('pat-1', [p('organization:inst-none', 'laboratory', 1)]));
    await refuses('GRANTEE_UNKNOWN', () => w.grant('pat-1', [p('role:wizard', 'laboratory', 1)]));
    await refuses('TRIPLE_REPEATED', () => w.grant('pat-1', [p(MEMBER, 'laboratory', 1), p(MEMBER, 'laboratory', 2)]));
    await refuses('CLAUSE_EMPTY', () => w.grant('pat-1', [p(MEMBER, 'laboratory', 1, { periodStart: after(1), periodEnd: T0 })]));
    await refuses('CLAUSE_EMPTY', () => w.grant('pat-1', [p(MEMBER, 'laboratory', 1, { dataStart: after(1), dataEnd: T0 })]));
    await refuses('SCHEMA', () => w.grant('pat-1', [p(MEMBER, 'laboratory', 1, { emergency: true })]));
    await refuses('ENVELOPE_MISSING', () => w.grant('pat-1', [p(`organization:${AWAY}`, 'laboratory', 1)]));
    const to = (recipient: string) =>
      w.grant('pat-1', [{ ...p(`organization:${AWAY}`, 'laboratory', 1), envelope: envelopeTo(recipient) }]);
    await refuses('ENVELOPE_RECIPIENT', () => to(keys.patient.thumbprint));
    await to(keys.category.thumbprint);
    const sixteen = Array.from({ length: 17 }, () => build.clause({ consent: 'con-1', rights: ['read'] }));
    assert.throws(() => w.say.grantText('pat-1', [{ ...p(MEMBER, 'laboratory', 1), clauses: sixteen }]), /SCHEMA/);
  });

  test('a revoke has effect once, narrows by consent, and the grantee may renounce', async () => {
    const w = await world();
    const two = {
      ...w.say.permission(MEMBER, 'laboratory', 1),
      clauses: [
        build.clause({ consent: 'con-1', rights: ['read'] }),
        build.clause({ consent: 'con-2', rights: ['read'], purposes: ['HRESCH'] }),
      ],
    };
    await w.grant('pat-1', [two]);
    const revoke = keys.home.jws(
      TYP.revokePermission,
      w.say.revokeText('pat-1', [{ grantee: MEMBER, category: 'laboratory' }], { consent: 'con-1' }),
    );
    assert.deepEqual(await w.run('revokePermission', [revoke]), {
      permissions: [{ category: 'laboratory', grantee: MEMBER, sequence: 2 }],
    });
    assert.equal((await w.decide()).decision, 'deny');
    assert.equal((await w.decide({ purpose: 'HRESCH' })).decision, 'permit');
    const before = w.state.size;
    assert.deepEqual(await w.run('revokePermission', [revoke]), { permissions: [] });
    assert.equal(w.state.size, before);

    const away = `organization:${AWAY}`;
    const clauses = [
      build.clause({ consent: 'con-3', rights: ['read'] }),
      build.clause({ consent: 'con-3', rights: ['read'], effect: 'deny', purposes: ['HMARKT'] }),
    ];
    await w.grant('pat-1', [{ ...w.say.permission(away, 'laboratory', 1), clauses, envelope: envelopeTo(keys.category.thumbprint) }]);
    await refuses('JWS_KEY', () => w.revoke('pat-1', [{ grantee: MEMBER, category: 'laboratory' }], {}, keys.away));
    await w.revoke('pat-1', [{ grantee: away, category: 'laboratory' }], {}, keys.away);
    const left = (await w.query('permissionsOf', HOME, 'pat-1')) as { grantee: string; clauses: { effect: string }[] }[];
    assert.deepEqual(
      left.find((one) => one.grantee === away)?.clauses.map((one) => one.effect),
      ['deny'],
    );
  });

  test('a delegate signs within scope and time only', async () => {
    const w = await world();
    await claimed(w, true);
    const give = (category: string, key: string | undefined) => {
      const text = w.say.grantText('pat-1', [w.say.permission('role:carer', category, 1)], { onBehalf: null });
      return w.run('grantPermission', [keys.delegate.jws(TYP.grantPermission, text), ...(key === undefined ? [] : [key])]);
    };
    await refuses('KEY_MISSING', () => give('laboratory', undefined));
    await refuses('DELEGATION_SCOPE', () => give('radiation-dose', keys.delegate.text));
    await give('laboratory', keys.delegate.text);
    w.at(after(86_400_001));
    await refuses('DELEGATION_SCOPE', () => give('laboratory', keys.delegate.text));
  });

  test('sharing on narrows, to a depth of three, and ends with its parent', async () => {
    const w = await world();
    await w.run('registerMember', w.say.member('mem-3', { key: keys.delegate }));
    await w.run('registerMember', w.say.member('mem-4', { key: keys.recovery }));
    await w.grant('pat-1', [w.say.permission(MEMBER, 'laboratory', 1, { rights: ['read', 'share'], purposes: ['TREAT'] })]);
    const share = (
      from: string,
      by: typeof keys.home,
      to: string,
      facts: object = {},
      parent: object = { parentGrantee: MEMBER, parentGrantor: 'patient' },
    ) => {
      const permission = {
        ...w.say.permission(to, 'laboratory', 1, { purposes: ['TREAT'], rights: ['read', 'share'], ...facts }),
        ...(parent as { parentGrantee: string; parentGrantor: string }),
      };
      const text = build.sharePayload({
        ...w.say.base(),
        ...w.say.of('pat-1'),
        consent: 'con-9',
        grantor: from,
        notAfter: '2099-01-01T00:00:00.000Z',
        permissions: [permission],
      });
      return w.run('sharePermission', [by.jws(TYP.sharePermission, text), by.text]);
    };
    await refuses('NOT_GRANTOR', () => share(MEMBER, keys.other, OTHER));
    await refuses('MEMBER_UNKNOWN', () => share(`member:${HOME}:mem-9`, keys.other, OTHER));
    await refuses('SHARE_WIDER', () => share(MEMBER, keys.clinician, OTHER, { purposes: null }));
    await refuses('SHARE_WIDER', () => share(MEMBER, keys.clinician, OTHER, { rights: ['read', 'upload'] }));
    await refuses('SHARE_WIDER', () => share(MEMBER, keys.clinician, OTHER, { effect: 'deny' }));
    await refuses('SHARE_WIDER', () => share(OTHER, keys.other, MEMBER));
    await share(MEMBER, keys.clinician, OTHER);
    assert.equal((await w.decide({ actorId: 'mem-2' })).decision, 'permit');
    assert.equal((await w.decide({ actorId: 'mem-2', right: 'upload' })).decision, 'deny');
    const third = `member:${HOME}:mem-3`;
    await share(OTHER, keys.other, third, {}, { parentGrantee: OTHER, parentGrantor: MEMBER });
    assert.equal((await w.decide({ actorId: 'mem-3' })).decision, 'permit');
    await refuses('SHARE_DEPTH', () =>
      share(third, keys.delegate, `member:${HOME}:mem-4`, {}, { parentGrantee: third, parentGrantor: OTHER }),
    );
    await w.revoke('pat-1', [{ grantee: MEMBER, category: 'laboratory' }]);
    for (const actorId of ['mem-1', 'mem-2', 'mem-3']) assert.equal((await w.decide({ actorId })).decision, 'deny', actorId);
    const suspend = build.suspendMemberPayload({ ...w.say.base(), institution: HOME, member: 'mem-1', version: 2 });
    await w.run('suspendMember', [keys.home.jws(TYP.suspendMember, suspend)]);
    await refuses('MEMBER_INACTIVE', () => share(MEMBER, keys.clinician, OTHER));
  });
});

describe('documents and accountability', () => {
  const record = (w: World, entries: Parameters<typeof build.recordDocumentsArgument>[0], institution = HOME) =>
    w.run('recordDocuments', [build.recordDocumentsArgument(entries)], institution) as Promise<{
      recorded: number;
      refused: { index: number; code: RefusalCode }[];
    }>;
  const noted = (refused: { code: RefusalCode }[]) => refused.map(({ code }) => (refusedSeen.add(code), code));

  test('a batch reports each refused entry and the others stand; a repeat is harmless', async () => {
    const w = await world();
    await w.run('enrollPatient', w.say.enroll('pat-2'));
    const erase = build.erasePatientPayload({ ...w.say.base(), ...w.say.of('pat-2'), onBehalf: 'pat-2' });
    await w.run('erasePatient', [keys.home.jws(TYP.erasePatient, erase)]);
    const e = w.say.entry;
    const batch = [
      e('pat-1', 'doc-1'),
      e('pat-9', 'doc-2'),
      e('pat-2', 'doc-3'),
      e('pat-1', 'doc-4', { category: 'imaging' }),
      e('pat-1', 'doc-5', { keyVersion: 2 }),
      e('pat-1', 'doc-6', { pointer: `${AWAY}/${hex64('x')}` }),
      e('pat-1', 'doc-7'),
    ];
    const first = await record(w, batch);
    assert.equal(first.recorded, 2);
    assert.deepEqual(
      first.refused.map(({ index }) => index),
      [1, 2, 3, 4, 5],
    );
    assert.deepEqual(noted(first.refused), ['PATIENT_UNKNOWN', 'PATIENT_ERASED', 'CATEGORY_UNKNOWN', 'KEY_VERSION_STALE', 'SCHEMA']);
    const before = w.state.size;
    assert.deepEqual(await record(w, batch), first);
    assert.equal(w.state.size, before);
    await refuses('SCHEMA', () => w.run('recordDocuments', ['{"entries":[]}']));
    await refuses('NOT_CANONICAL', () => w.run('recordDocuments', ['{"entries":[ ]}']));
    await refuses('ARGUMENT_TOO_LARGE', () =>
      w.run('recordDocuments', [canonicalize({ entries: Array.from({ length: 300 }, (_, i) => e('pat-1', `doc-${i}`)) })]),
    );
    const documents = (await w.query('documentsOf', HOME, 'pat-1')) as { document: string }[];
    assert.deepEqual(
      documents.map((one) => one.document),
      ['doc-1', 'doc-7'],
    );
  });

  test('a batch reads core and key head once a patient, and writes blind', async () => {
    const w = await world();
    const done = await simulate(w.state, {
      name: 'recordDocuments',
      args: [build.recordDocumentsArgument(Array.from({ length: 20 }, (_, i) => w.say.entry('pat-1', `doc-${i}`)))],
      caller: { msp: `${HOME}-msp`, institution: HOME },
      time: T0,
    });
    assert.deepEqual([...done.reads.keys()], ['ledger', `inst/${HOME}`, `pat/${HOME}/pat-1/core`, `pat/${HOME}/pat-1/ck/laboratory/head`]);
    assert.equal(done.ranges.length, 0);
    assert.equal(done.writes.size, 20);
  });

  test('an upload stands on a live permission of its own institution', async () => {
    const w = await world();
    const grantee = `organization:${AWAY}`;
    const upload = (document: string, permission: { grantee: string; grantor: string } | null = { grantee, grantor: 'patient' }) => {
      const ciphertextHash = hex64(document);
      return record(w, [w.say.entry('pat-1', document, { ciphertextHash, permission, pointer: `${AWAY}/${ciphertextHash}` })], AWAY);
    };
    assert.deepEqual(noted((await upload('doc-1')).refused), ['UPLOAD_NOT_PERMITTED']);
    await w.grant('pat-1', [{ ...w.say.permission(grantee, 'laboratory', 1, { rights: ['upload'] }) }]);
    assert.deepEqual(noted((await upload('doc-1', null)).refused), ['UPLOAD_NOT_PERMITTED']);
    assert.equal((await upload('doc-1')).recorded, 1);
    await w.revoke('pat-1', [{ grantee, category: 'laboratory' }]);
    assert.deepEqual(noted((await upload('doc-2')).refused), ['UPLOAD_NOT_PERMITTED']);
  });

  test('a reseal keeps the commitment and counts up; a withdrawal is the recorder’s own', async () => {
    const w = await world();
    const entry = w.say.entry('pat-1', 'doc-1');
    await record(w, [entry]);
    const [{ entryHash } = { entryHash: '' }] = (await w.query('documentsOf', HOME, 'pat-1')) as { entryHash: string }[];
    const { permission: _, ...rest } = entry;
    const again = (facts: object = {}, hash = hex64('resealed')) => ({
      ...rest,
      ciphertextHash: hash,
      n: 1,
      pointer: `${HOME}/${hash}`,
      previous: entryHash,
      ...facts,
    });
    const reseal = async (...entries: ReturnType<typeof again>[]) =>
      noted(((await w.run('resealDocuments', [build.resealDocumentsArgument(entries)])) as { refused: { code: RefusalCode }[] }).refused);
    assert.deepEqual(await reseal(again({ commitment: hex64('other') })), ['COMMITMENT_DIFFERS']);
    assert.deepEqual(await reseal(again({ previous: hex64('none') })), ['ENTRY_UNKNOWN']);
    assert.deepEqual(await reseal(again({ keyVersion: 0 })), ['KEY_VERSION_STALE']);
    assert.deepEqual(await reseal(again(), again({}, hex64('twice'))), ['RESEAL_NUMBER']);
    assert.deepEqual(await reseal(again()), []);
    assert.deepEqual(await reseal(again({}, hex64('third'))), ['RESEAL_NUMBER']);
    const withdraw = build.withdrawDocumentArgument({ ...w.say.of('pat-1'), document: 'doc-1' });
    await refuses('PATIENT_UNKNOWN', () =>
      w.run('withdrawDocument', [build.withdrawDocumentArgument({ ...w.say.of('pat-9'), document: 'doc-1' })]),
    );
    await w.run('withdrawDocument', [withdraw], AWAY);
    assert.ok(((await w.query('documentsOf', HOME, 'pat-1')) as { withdrawn: boolean }[]).every((one) => !one.withdrawn));
    await w.run('withdrawDocument', [withdraw]);
    await w.run('withdrawDocument', [withdraw]);
    const now = (await w.query('documentsOf', HOME, 'pat-1')) as { withdrawn: boolean; n: number; entryHash: string }[];
    assert.deepEqual(
      now.map((one) => [one.n, one.withdrawn]),
      [
        [0, true],
        [1, true],
      ],
    );
    assert.deepEqual(await reseal(again({ keyVersion: 0, n: 2, previous: now[1]?.entryHash }, hex64('own'))), []);
  });

  test('emergency access is short, by a member with that function, and does not override a deny for emergencies', async () => {
    const w = await world();
    await w.run('registerMember', w.say.member('mem-3', { role: 'carer' }));
    const declare = (facts: object = {}, by = keys.home) => {
      const text = build.emergencyPayload({
        ...w.say.base(),
        ...w.say.of('pat-1'),
        from: T0,
        id: 'emg-1',
        member: MEMBER,
        until: after(3_600_000),
        ...facts,
      });
      return w.run('recordEmergencyAccess', [by.jws(TYP.recordEmergencyAccess, text)]);
    };
    await refuses('EMERGENCY_PERIOD', () => declare({ until: after(5 * 3_600_000) }));
    await refuses('ROLE_FUNCTION', () => declare({ member: `member:${HOME}:mem-3` }));
    await refuses('MEMBER_UNKNOWN', () => declare({ member: `member:${HOME}:mem-9` }));
    await refuses('JWS_KEY', () => declare({}, keys.away));
    await declare();
    await declare();
    await refuses('EMERGENCY_EXISTS', () => declare({ until: after(1000) }));
    assert.equal((await w.decide()).decision, 'deny');
    assert.equal((await w.decide({ emergency: 'emg-1' })).reason, 'EMERGENCY');
    assert.equal((await w.decide({ emergency: 'emg-1', actorId: 'mem-2' })).decision, 'deny');
    await w.grant('pat-1', [w.say.permission(MEMBER, 'laboratory', 1, { effect: 'deny' })]);
    assert.equal((await w.decide({ emergency: 'emg-1' })).reason, 'EMERGENCY');
    await w.grant('pat-1', [w.say.permission(MEMBER, 'laboratory', 2, { effect: 'deny', emergency: true })]);
    assert.equal((await w.decide({ emergency: 'emg-1' })).reason, 'DENIED_ALWAYS');
  });

  test('anchors count without gaps; the same one again is no error', async () => {
    const w = await world();
    const anchor = (number: number, root = hex64(String(number))) => w.run('anchorAudit', [build.anchorAuditArgument({ number, root })]);
    await anchor(1);
    await anchor(1);
    await refuses('ANCHOR_NUMBER', () => anchor(1, hex64('x')));
    await refuses('ANCHOR_NUMBER', () => anchor(3));
    await anchor(2);
  });
});

describe('determinism', () => {
  test('the same program gives the same results and the same state, and writes nothing where it refuses', async () => {
    const step = fc.record({
      what: fc.constantFrom('grant', 'revoke', 'record', 'withdraw', 'anchor', 'enroll'),
      patient: fc.integer({ min: 1, max: 2 }),
      n: fc.integer({ min: 1, max: 3 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 12 }), async (program) => {
        const shared = await world();
        const calls: [string, string[]][] = program.map(({ what, patient, n }) => {
          const pat = `pat-${patient}`;
          const { say } = shared;
          if (what === 'grant')
            return [
              'grantPermission',
              [say.sign('grantPermission', say.grantText(pat, [say.permission(MEMBER, 'laboratory', n)]), keys.home)],
            ];
          if (what === 'revoke')
            return [
              'revokePermission',
              [say.sign('revokePermission', say.revokeText(pat, [{ grantee: MEMBER, category: 'laboratory' }]), keys.home)],
            ];
          if (what === 'record') return ['recordDocuments', [build.recordDocumentsArgument([say.entry(pat, `doc-${n}`)])]];
          if (what === 'withdraw') return ['withdrawDocument', [build.withdrawDocumentArgument({ ...say.of(pat), document: `doc-${n}` })]];
          if (what === 'anchor') return ['anchorAudit', [build.anchorAuditArgument({ number: n, root: hex64(String(n)) })]];
          return ['enrollPatient', say.enroll(pat)];
        });
        const setup: [string, string[]][] = [
          ['init', shared.say.init([HOME, keys.home], [AWAY, keys.away])],
          ['enrollPatient', shared.say.enroll('pat-1')],
          ['registerMember', shared.say.member('mem-1', { key: keys.clinician })],
        ];
        const outcome = async (): Promise<string> => {
          const w = createWorld(keys);
          const results: unknown[] = [];
          for (const [name, args] of [...setup, ...calls]) {
            const size = w.block;
            results.push(await w.run(name, args).catch((error: Error) => error.message));
            if (typeof results.at(-1) === 'string') assert.equal(w.block, size);
          }
          return JSON.stringify([results, [...w.state].sort(([a], [b]) => (a < b ? -1 : 1))]);
        };
        assert.equal(await outcome(), await outcome());
      }),
      { numRuns: 8, seed: 20261123 },
    );
  });
});

describe('every refusal', () => {
  test('has been provoked above, and every transaction has run', () => {
    const unreached = (Object.keys(REFUSALS) as RefusalCode[]).filter((code) => !refusedSeen.has(code));
    assert.deepEqual(unreached, []);
    assert.equal(Object.keys(TRANSACTIONS).length, 23);
  });
});

describe('docs/ledger.md', () => {
  const doc = readFileSync(new URL('../../docs/ledger.md', import.meta.url), 'utf8');
  const rows = new Map(
    Array.from(doc.matchAll(/^\| (\w+) \| ([a-z-]+\+jws) \| (.*) \|$/gm), ([, name = '', typ = '', members = '']) => [
      name,
      { typ, members },
    ]),
  );

  test('names every statement with its typ and members', () => {
    assert.deepEqual([...rows.keys()].sort(byText), Object.keys(PAYLOADS).sort(byText));
    for (const [name, { members }] of Object.entries(PAYLOADS)) {
      const listed = (rows.get(name)?.members ?? '').replaceAll(/ \([^)]*\)/g, '').split(', ');
      assert.deepEqual([...listed, 'ledger', 'nonce', 'type'].sort(byText), [...members].sort(byText), name);
      assert.equal(rows.get(name)?.typ, TYP[name as keyof typeof TYP]);
    }
  });
  test('names every transaction and every refusal with its meaning', () => {
    const table = doc.slice(doc.indexOf('## Transactions'), doc.indexOf('## State keys'));
    for (const name of Object.keys(TRANSACTIONS)) assert.ok(table.includes(name), name);
    for (const [code, meaning] of Object.entries(REFUSALS)) assert.ok(doc.includes(`| ${code} | ${meaning} |`), code);
  });
  test('its vectors run', async () => {
    const vectors = JSON.parse(readFileSync(new URL('../../docs/ledger-vectors.json', import.meta.url), 'utf8')) as {
      thumbprints: Record<string, string>;
      keys: Record<string, EcJwk>;
      statements: { payload: string; identity: string; kid: string }[];
      transactions: {
        name: string;
        args: string[];
        caller: { msp: string; institution: string };
        time: string;
        result: string;
        writes: Record<string, string>;
      }[];
    };
    const state = new MemoryState();
    for (const [n, { name, args, caller, time, result, writes }] of vectors.transactions.entries()) {
      const done = await simulate(state, { name, args, caller, time });
      assert.equal(done.result, result, name);
      assert.deepEqual(Object.fromEntries(done.writes), writes, name);
      const overlay = new Overlay(state);
      overlay.apply(done.writes, [n, 0]);
      state.apply(overlay);
    }
    for (const { payload, identity } of vectors.statements)
      assert.deepEqual([hex64(payload), canonicalize(parseCanonical(payload))], [identity, payload]);
    const host = readHost(state);
    for (const [name, key] of Object.entries(vectors.keys)) assert.equal(await thumbprint(host, key), vectors.thumbprints[name]);
  });
});

function byText(a: string, b: string): number {
  return a < b ? -1 : 1;
}
