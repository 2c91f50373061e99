/**
 * The whole of oncobridge as a site runs it, attacked from outside: over HTTP, through its database and its folder. One start,
 * shared by all tests, which run in order.
 */
import assert from 'node:assert/strict';
import { createPublicKey, createSecretKey, generateKeyPairSync, type KeyObject, randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Consent, DocumentReference } from 'fhir/r4.js';
import { base64url, importJWK, type JWK, SignJWT } from 'jose';
import { newId } from '../../src/ids.ts';
import { verifyLedger } from '../../src/ledger/verify.ts';
import { createDatabase } from '../../src/store/database.ts';
import { createEmbeddedPostgres } from '../../src/store/embedded-postgres.ts';
import { raw, sql } from '../../src/store/sql.ts';
import type { PublicJwk } from '../../src/vault/custodian.ts';
import { createFileCustodian } from '../../src/vault/file-custodian.ts';
import { createSealer } from '../../src/vault/sealer.ts';
import { codeIn, idsIn, type Reply, type Site, settled, startSite, TOKEN_SECONDS } from './site.ts';

let site: Site;
/** A patient with laboratory, dose and note documents; another one. */
let alice: string;
let bob: string;
let clinician: string;
let registrar: string;
let officer: string;
/** A token of the beginning, used while it lived. */
let early: { token: string; at: number };
const TYPES = [
  'Patient',
  'Observation',
  'DiagnosticReport',
  'Procedure',
  'ServiceRequest',
  'BodyStructure',
  'DocumentReference',
  'Provenance',
  'Binary',
];

before(async () => {
  site = await startSite();
  const rows = await site.database.query<{ pat: string; n: number }>(sql`
    select pat, count(distinct category) as n from subject where version > 0 and withdrawn_at is null group by pat order by n desc, count(*) desc, pat`);
  [alice = '', bob = ''] = rows.map((row) => row.pat);
  assert.ok(rows[0] !== undefined && rows[0].n === 3 && bob !== '', JSON.stringify(rows));
  clinician = (await site.operations.memberAdd({ name: 'Dr. Ana Ruiz', role: 'clinician' })).member;
  registrar = (await site.operations.memberAdd({ name: 'Lee Ward', role: 'registrar' })).member;
  officer = (await site.operations.memberAdd({ name: 'Jo Park', role: 'privacy-officer' })).member;
  early = { token: await site.token(alice), at: Date.now() };
  assert.equal((await site.call(early.token, 'GET', `Patient/${alice}`)).status, 200);
});
after(() => site?.close());

/** What a patient has, by type and category: ids of versions that stand. */
interface Held {
  id: string;
  type: string;
  version: number;
  category: string;
  document: string | null;
  start: Date | null;
  end: Date | null;
}
function heldBy(pat: string): Promise<Held[]> {
  return site.database.query<Held & Record<string, unknown>>(sql`
    select r.id, r.type, r.version, r.category, r.document, r.clinical_start as start, r.clinical_end as end from resource r
    where r.pat = ${pat} and (r.document is null or exists (
      select 1 from projection.document d where d.doc = r.document and d.version = r.document_version and not d.withdrawn))
    order by r.type, r.id`);
}
async function oneOf(pat: string, type: string, category: string): Promise<Held> {
  return (await heldBy(pat)).find((row) => row.type === type && row.category === category) ?? assert.fail(`no ${type} of ${category}`);
}

const CODES = 'http://terminology.hl7.org/CodeSystem';
interface Said {
  patient?: string;
  grantee?: string;
  categories?: readonly string[];
  start?: string;
  end?: string;
  dataPeriod?: { start?: string; end?: string };
}
function consentOf(said: Said = {}): Consent {
  const end = said.end ?? new Date(Date.now() + 30 * 86_400_000).toISOString();
  return {
    resourceType: 'Consent',
    status: 'active',
    scope: { coding: [{ system: `${CODES}/consentscope`, code: 'patient-privacy' }] },
    category: [{ coding: [{ system: 'http://loinc.org', code: '59284-0' }] }],
    patient: { reference: `Patient/${said.patient ?? alice}` },
    dateTime: new Date().toISOString(),
    provision: {
      type: 'deny',
      provision: [
        {
          type: 'permit',
          period: { start: said.start ?? new Date(Date.now() - 60_000).toISOString(), end },
          ...(said.dataPeriod === undefined ? {} : { dataPeriod: said.dataPeriod }),
          actor: [
            {
              role: { coding: [{ system: `${CODES}/v3-ParticipationType`, code: 'IRCP' }] },
              reference: { reference: `Practitioner/${said.grantee ?? clinician}` },
            },
          ],
          action: [{ coding: [{ system: `${CODES}/consentaction`, code: 'access' }] }],
          class: (said.categories ?? ['laboratory']).map((code) => ({ system: 'urn:oncobridge:category', code })),
        },
      ],
    },
  };
}
interface Granted {
  id: string;
  etag: string;
  resource: Consent;
}
async function grant(said: Said = {}, as = said.patient ?? alice): Promise<Granted> {
  const reply = await site.call(as, 'POST', 'Consent', { body: consentOf(said) });
  assert.equal(reply.status, 201, reply.text);
  return { id: reply.json.id ?? '', etag: reply.headers.get('etag') ?? '', resource: reply.json as unknown as Consent };
}
async function end({ id, etag, resource }: Granted, as = alice): Promise<Reply> {
  const reply = await site.call(as, 'PUT', `Consent/${id}`, { body: { ...resource, status: 'inactive' }, headers: { 'if-match': etag } });
  assert.equal(reply.status, 200, reply.text);
  return reply;
}

/** Everything of an answer but what differs by itself: the moment, the request's id, what is left of the rate. */
function essence(reply: Reply, replace: Readonly<Record<string, string>> = {}): string {
  const headers = [...reply.headers].filter(([name]) => !['date', 'x-request-id', 'ratelimit', 'ratelimit-policy'].includes(name));
  let text = `${reply.status}\n${headers.map(([name, value]) => `${name}: ${value}`).join('\n')}\n\n${reply.bytes.toString('latin1')}`;
  for (const [from, to] of Object.entries(replace)) text = text.replaceAll(from, to);
  return text;
}
async function metric(line: string): Promise<number> {
  const text = await (await fetch(`${site.operationsUrl}/metrics`)).text();
  return Number(
    text
      .split('\n')
      .find((one) => one.startsWith(line))
      ?.slice(line.length) ?? 0,
  );
}
const b64 = (value: object): string => base64url.encode(JSON.stringify(value));
const part = (token: string, n: number): Record<string, unknown> =>
  JSON.parse(Buffer.from(token.split('.')[n] ?? '', 'base64url').toString()) as Record<string, unknown>;

test('tokens: absent, malformed, forged, of another kind', async () => {
  const real = await site.token(alice);
  const [head, claims] = [part(real, 0), part(real, 1)];
  const jwks = (await (await fetch(`${site.facade.replace(/fhir$/, 'auth')}/jwks`)).json()) as { keys: JWK[] };
  const [published] = jwks.keys;
  if (published === undefined) assert.fail('no key is published');
  assert.ok(!jwks.keys.some((key) => 'd' in key), 'a private key is published');
  const other = generateKeyPairSync('ec', { namedCurve: 'P-384' });
  const signed = (header: object, payload: object, key: KeyObject | Uint8Array): Promise<string> =>
    new SignJWT(payload as Record<string, unknown>).setProtectedHeader(header as { alg: string }).sign(key);
  const pem = createPublicKey({ key: published as Record<string, unknown>, format: 'jwk' })
    .export({ type: 'spki', format: 'pem' })
    .toString();
  const { client, key } = await newSystem(['system/*.rs']);
  const forged: Record<string, string | undefined> = {
    absent: undefined,
    'no JWT': 'abc',
    'alg none': `${b64({ ...head, alg: 'none' })}.${b64(claims)}.`,
    'alg none, signature kept': `${b64({ ...head, alg: 'none' })}.${b64(claims)}.${real.split('.')[2]}`,
    'another key, kid of the real one': await signed(head, claims, other.privateKey),
    'another key in the header': await signed(
      { ...head, kid: 'own', jwk: other.publicKey.export({ format: 'jwk' }) },
      claims,
      other.privateKey,
    ),
    'a key by url': await signed({ ...head, jku: `${site.simulator.ehr.baseUrl}/jwks` }, claims, other.privateKey),
    'HS256 with the public key as PEM': await signed({ ...head, alg: 'HS256' }, claims, createSecretKey(Buffer.from(pem))),
    'HS256 with the public key as JWK': await signed(
      { ...head, alg: 'HS256' },
      claims,
      createSecretKey(Buffer.from(JSON.stringify(published))),
    ),
    'claims exchanged': `${real.split('.')[0]}.${b64({ ...claims, sub: bob, patient: bob })}.${real.split('.')[2]}`,
    'scope widened': `${real.split('.')[0]}.${b64({ ...claims, scope: 'patient/*.cruds' })}.${real.split('.')[2]}`,
    'another issuer': await signed(head, { ...claims, iss: 'https://issuer.example.org' }, other.privateKey),
    'a client assertion': await assertionOf(client, key),
    'cut short': real.slice(0, -4),
    'twice the signature': `${real}${real.split('.')[2]}`,
    'very long': `${real}${'A'.repeat(9000)}`,
  };
  const replies = new Map<string, string>();
  for (const [what, token] of Object.entries(forged)) {
    for (const path of [
      `Patient/${alice}`,
      'Patient/pat-aaaaaaaaaaaaaaaaaaaaaaaaaa',
      'Observation',
      `Binary/${alice}`,
      'Consent',
      'AuditEvent',
      'nothing/here',
    ]) {
      const reply = await site.call(undefined, 'GET', path, token === undefined ? {} : { headers: { authorization: `Bearer ${token}` } });
      assert.equal(reply.status, 401, `${what}: ${path} answered ${reply.status}`);
      assert.equal(codeIn(reply), 'UNAUTHENTICATED');
      assert.match(reply.headers.get('www-authenticate') ?? '', /^Bearer/);
      replies.set(`${what} ${path}`, essence(reply));
    }
    const same = [...replies].filter(([name]) => name.startsWith(`${what} `)).map(([, text]) => text);
    assert.equal(new Set(same).size, 1, `${what}: the answer depends on what was asked for`);
  }
  for (const authorization of [
    `Basic ${Buffer.from('admin:admin').toString('base64')}`,
    'Bearer',
    `bearer ${real} x`,
    `Bearer ${real}, Bearer ${real}`,
  ]) {
    assert.equal(
      (await site.call(undefined, 'GET', `Patient/${alice}`, { headers: { authorization } })).status,
      401,
      authorization.slice(0, 12),
    );
  }
  // A token in the address is none.
  assert.equal((await site.call(undefined, 'GET', `Patient/${alice}?access_token=${real}`)).status, 401);
  const writes = await site.call(undefined, 'POST', 'Consent', { body: consentOf() });
  assert.equal(writes.status, 401);
});

async function newSystem(scopes: string[]): Promise<{ client: string; key: JWK }> {
  const { clientId, privateKeyJwk } = await site.operations.clientAdd({ name: 'EHR', scopes });
  return { client: clientId, key: privateKeyJwk as JWK };
}
async function assertionOf(client: string, key: JWK, claims: Record<string, unknown> = {}): Promise<string> {
  return new SignJWT({ iss: client, sub: client, aud: `${site.facade.replace(/fhir$/, 'auth')}/token`, jti: newId('req'), ...claims })
    .setProtectedHeader({ alg: 'ES384', kid: key.kid ?? '', typ: 'JWT' })
    .setIssuedAt()
    .setExpirationTime('4m')
    .sign(await importJWK(key, 'ES384'));
}
async function systemToken(assertion: string, scope: string): Promise<{ status: number; token: string; text: string }> {
  const response = await fetch(`${site.facade.replace(/fhir$/, 'auth')}/token`, {
    method: 'POST',
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body: new URLSearchParams({
      grant_type: 'client_credentials',
      client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
      client_assertion: assertion,
      scope,
    }),
  });
  const text = await response.text();
  return { status: response.status, token: (JSON.parse(text) as { access_token?: string }).access_token ?? '', text };
}

test('a system: its assertion counts once, its scopes hold before any lookup, without a grant it sees nothing', async () => {
  const { client, key } = await newSystem(['system/Observation.rs']);
  const assertion = await assertionOf(client, key);
  const first = await systemToken(assertion, 'system/Observation.rs');
  assert.equal(first.status, 200, first.text);
  const replayed = await systemToken(assertion, 'system/Observation.rs');
  assert.equal(replayed.status, 401);
  const stranger = generateKeyPairSync('ec', { namedCurve: 'P-384' }).privateKey.export({ format: 'jwk' }) as JWK;
  const refusals = [
    await systemToken(await assertionOf(client, { ...stranger, kid: key.kid ?? '' }), 'system/Observation.rs'),
    await systemToken(await assertionOf(client, key, { aud: 'https://elsewhere.example.org/token' }), 'system/Observation.rs'),
    await systemToken(await assertionOf('cli-aaaaaaaaaaaaaaaaaaaaaaaaaa', key), 'system/Observation.rs'),
  ];
  // Who is refused learns nothing about which clients exist.
  for (const refusal of refusals) assert.deepEqual(refusal, { ...replayed, token: '' });
  const wide = await systemToken(await assertionOf(client, key), 'system/*.cruds user/*.rs patient/*.rs');
  assert.equal(part(wide.token, 1)['scope'], 'system/Observation.rs');
  assert.equal((await systemToken(await assertionOf(client, key), 'system/Patient.rs')).status, 400);

  const observation = await oneOf(alice, 'Observation', 'laboratory');
  assert.deepEqual(idsIn(await site.call(first.token, 'GET', `Observation?patient=${alice}`)), []);
  assert.equal((await site.call(first.token, 'GET', `Observation/${observation.id}`)).status, 404);
  // 403 is said from the request alone: the same for what exists and what does not.
  for (const [one, two] of [
    [`Patient/${alice}`, 'Patient/pat-aaaaaaaaaaaaaaaaaaaaaaaaaa'],
    [`Patient?_id=${alice}`, 'Patient?_id=pat-aaaaaaaaaaaaaaaaaaaaaaaaaa'],
    [`Observation?_id=${observation.id}&_include=Observation:subject:Patient`, 'Observation?_id=x&_include=Observation:subject:Patient'],
    [`DocumentReference?patient=${alice}`, 'DocumentReference?patient=none'],
    ['Patient?nonsense=1', 'Patient'],
  ]) {
    const replies = await Promise.all([one, two].map((path) => site.call(first.token, 'GET', path ?? '')));
    assert.deepEqual(
      replies.map((reply) => reply.status),
      [403, 403],
      one,
    );
    assert.equal(new Set(replies.map((reply) => essence(reply))).size, 1, one);
  }
  const refused = await site.call(first.token, 'POST', 'Consent', { body: consentOf() });
  assert.equal(refused.status, 403);
  const reading = await site.token(alice, { scopes: ['patient/Observation.r'] });
  assert.equal((await site.call(reading, 'GET', `Observation/${observation.id}`)).status, 200);
  for (const path of ['Observation', `Patient/${alice}`, 'Consent', 'AuditEvent'])
    assert.equal((await site.call(reading, 'GET', path)).status, 403, path);
  assert.equal((await site.call(reading, 'POST', 'Consent', { body: consentOf() })).status, 403);
  // Scopes of another kind of actor give nothing.
  const foreign = await site.token(clinician, { scopes: ['patient/*.cruds', 'system/*.cruds'] });
  assert.equal((await site.call(foreign, 'GET', 'Observation')).status, 403);
});

test('hidden equals missing, byte for byte: reads, versions, histories, searches, conditions, Binary', async () => {
  const mine = await heldBy(alice);
  const absent: Record<string, string> = {};
  for (const type of TYPES) {
    const row = mine.find((one) => one.type === type);
    if (row === undefined) assert.fail(`the world holds no ${type}`);
    // Of the same form, and never given out.
    absent[type] = `${row.id.slice(0, row.id.indexOf('-') + 1)}${'a'.repeat(row.id.length - row.id.indexOf('-') - 1)}`;
  }
  await grant(); // alice's own Consent is hidden from others too
  const consent = idsIn(await site.call(alice, 'GET', `Consent?patient=${alice}`))[0] ?? assert.fail('no Consent');
  const event = idsIn(await site.call(alice, 'GET', `AuditEvent?patient=${alice}`))[0] ?? assert.fail('no AuditEvent');
  await end(await grantedOf(consent));
  const strangers = [bob, registrar, (await site.operations.memberAdd({ name: 'Dr. Nobody', role: 'researcher' })).member];
  const pairs: [string, string, Record<string, string>?][] = [];
  for (const type of TYPES) {
    const row = mine.find((one) => one.type === type);
    const [there, not] = [row?.id ?? '', absent[type] ?? ''];
    for (const tail of ['', `/_history/${row?.version}`, '/_history', '/_history/99', '?_format=json', '?_elements=id'])
      pairs.push([`${type}/${there}${tail}`, `${type}/${not}${tail}`]);
    for (const headers of [
      { 'if-none-match': `W/"${row?.version}"` },
      { 'if-none-match': '*' },
      { 'if-modified-since': 'Fri, 01 Jan 2100 00:00:00 GMT' },
      { accept: 'application/pdf' },
      { accept: 'image/png' },
      { range: 'bytes=0-9' },
      { range: 'bytes=999999999-' },
    ])
      pairs.push([`${type}/${there}`, `${type}/${not}`, headers]);
    if (type === 'Binary') continue;
    for (const query of [
      `_id=ID`,
      '_id=ID&_summary=count',
      '_id=ID&_count=0',
      '_id=ID&_total=accurate',
      '_id:missing=x&_id=ID',
      '_id=ID&_elements=id',
      '_id=ID&_sort=-_lastUpdated',
    ])
      pairs.push([`${type}?${query.replaceAll('ID', there)}`, `${type}?${query.replaceAll('ID', not)}`]);
  }
  const nobody = absent['Patient'] ?? '';
  for (const query of [
    'Observation?patient=PAT',
    'Observation?subject=Patient/PAT',
    'Observation?patient=PAT&_summary=count',
    'Observation?patient=PAT&value-quantity=gt0',
    'DiagnosticReport?patient=PAT&_include=DiagnosticReport:result',
    'Patient?_id=PAT&_revinclude=Observation:subject&_revinclude=DiagnosticReport:subject',
    'Patient?_id=PAT&name=a',
    'DocumentReference?patient=PAT&category=laboratory',
    'Procedure?patient=PAT&_sort=-date',
    'Consent?patient=PAT',
    'AuditEvent?patient=PAT',
    'Provenance?patient=PAT',
    'Observation?patient:missing=false&patient=PAT',
    'Practitioner?_revinclude=DiagnosticReport:performer',
    'Practitioner?_id=PAT',
  ])
    pairs.push([query.replaceAll('PAT', alice), query.replaceAll('PAT', nobody)]);
  pairs.push(
    [`Consent/${consent}`, 'Consent/con-aaaaaaaaaaaaaaaaaaaaaaaaaa'],
    [`AuditEvent/${event}`, 'AuditEvent/aud-aaaaaaaaaaaaaaaaaaaaaaaaaa'],
  );
  const compare = async (stranger: string, method: string, [there, not, headers = {}]: (typeof pairs)[number]): Promise<void> => {
    const hidden = await site.call(stranger, method, there, { headers });
    const missing = await site.call(stranger, method, not, { headers });
    const [one = '', two = ''] = [there, not].map((path) => path.split(/[/?]/)[1]);
    const ids = { [one]: 'ID', [two]: 'ID', [alice]: 'PAT', [nobody]: 'PAT', ...ofQuery(there), ...ofQuery(not) };
    assert.equal(essence(hidden, ids), essence(missing, ids), `${method} ${there} ${JSON.stringify(headers)}`);
    if (!there.includes('?')) assert.ok([404, 405, 406].includes(hidden.status), `${method} ${there} answered ${hidden.status}`);
    else if (hidden.status === 200 && method === 'GET' && !there.startsWith('Practitioner')) assert.deepEqual(idsIn(hidden), [], there);
  };
  for (const stranger of strangers) {
    // Conditions and HEAD by one of them; a registrar may know of Consents.
    const theirs = pairs.filter(
      ([there, , headers]) => (stranger === bob || headers === undefined) && !(stranger === registrar && there.startsWith('Consent')),
    );
    await inParallel(theirs, (pair) => compare(stranger, 'GET', pair));
    if (stranger === bob)
      await inParallel(
        theirs.filter(([there]) => !there.includes('?')),
        (pair) => compare(stranger, 'HEAD', pair),
      );
  }
  const put = (id: string): Promise<Reply> =>
    site.call(bob, 'PUT', `Consent/${id}`, { body: { ...consentOf({ patient: bob }), id }, headers: { 'if-match': 'W/"1"' } });
  assert.equal(essence(await put(consent)), essence(await put('con-aaaaaaaaaaaaaaaaaaaaaaaaaa')));
  for (const who of [bob, officer]) {
    const [there, not] = await Promise.all(
      [alice, nobody].map((patient) => site.call(who, 'POST', 'Consent', { body: consentOf({ patient }) })),
    );
    assert.equal(there?.status, who === bob ? 404 : 403);
    assert.equal(there && essence(there), not && essence(not));
  }
});
/** Some at a time: the server answers after its audit is on the disk, which many share. */
async function inParallel<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  for (let i = 0; i < items.length; i += 16) await Promise.all(items.slice(i, i + 16).map(work));
}
function ofQuery(path: string): Record<string, string> {
  const id = /_id=([^&]+)/.exec(path)?.[1];
  return id === undefined ? {} : { [id]: 'ID' };
}
async function grantedOf(id: string): Promise<Granted> {
  const reply = await site.call(alice, 'GET', `Consent/${id}`);
  return { id, etag: reply.headers.get('etag') ?? '', resource: reply.json as unknown as Consent };
}

/** Everything that a caller can get of a patient, followed page by page; ids by category. */
async function reach(as: string, pat: string): Promise<{ ids: Set<string>; text: string }> {
  const ids = new Set<string>();
  let text = '';
  for (const path of [
    `Patient?_id=${pat}&_revinclude=Observation:subject&_revinclude=DiagnosticReport:subject&_revinclude=DocumentReference:subject&_revinclude=Procedure:subject`,
    `Observation?patient=${pat}&_count=7&_include=Observation:subject&_include=Observation:derived-from`,
    `DiagnosticReport?patient=${pat}&_include=DiagnosticReport:result&_include=DiagnosticReport:subject`,
    `DocumentReference?patient=${pat}&_count=1&_revinclude=Provenance:target`,
    `Procedure?patient=${pat}`,
    `ServiceRequest?patient=${pat}`,
    `BodyStructure?patient=${pat}`,
    `Provenance?patient=${pat}`,
    'Observation',
    'Procedure',
    'DocumentReference',
    'Patient',
    'BodyStructure',
    'Provenance',
  ]) {
    let next: string | undefined = path;
    while (next !== undefined) {
      const reply: Reply = await site.call(as, 'GET', next);
      if (reply.status === 400) {
        assert.match(codeIn(reply), /PARAMETER/, `${next}: ${reply.text}`);
        text += `refused ${path}\n`;
        break;
      }
      for (const id of idsIn(reply)) ids.add(id);
      text += reply.text;
      next = reply.json.link?.find((link) => link.relation === 'next')?.url;
    }
  }
  return { ids, text };
}

test('a grant for laboratory: labs and their PDF, not the dose, not the notes, not a word of them', async () => {
  const mine = (await heldBy(alice)).filter((row) => row.type !== 'Binary');
  const before = await reach(clinician, alice);
  assert.deepEqual(
    mine.filter((row) => before.ids.has(row.id)),
    [],
  );
  const granted = await grant();
  const { ids, text } = await reach(clinician, alice);
  const labs = mine.filter((row) => row.category === 'laboratory');
  assert.deepEqual(
    labs.filter((row) => !ids.has(row.id)).map((row) => `${row.type}/${row.id}`),
    [],
    'a permitted row is not found',
  );
  for (const row of mine) {
    if (row.category === 'laboratory' || row.type === 'Patient') continue;
    assert.ok(!text.includes(row.id), `${row.type} of ${row.category} shows`);
    assert.ok(row.document === null || !text.includes(row.document));
    assert.equal((await site.call(clinician, 'GET', `${row.type}/${row.id}`)).status, 404);
  }
  const others = await site.database.query<{ id: string }>(sql`select id from resource where pat <> ${alice}`);
  assert.deepEqual(
    others.filter((row) => text.includes(row.id)),
    [],
  );
  for (const category of ['laboratory', 'radiation-dose', 'history-and-physical']) {
    for (const binary of (await heldBy(alice)).filter((row) => row.type === 'Binary' && row.category === category)) {
      const reply = await site.call(clinician, 'GET', `Binary/${binary.id}`, { headers: { accept: '*/*' } });
      assert.equal(reply.status, category === 'laboratory' ? 200 : 404);
    }
  }
  const total = (await site.call(clinician, 'GET', `Observation?patient=${alice}&_summary=count`)).json.total;
  assert.equal(total, labs.filter((row) => row.type === 'Observation').length);
  // Nobody else has gained anything.
  assert.equal((await site.call(bob, 'GET', `Patient/${alice}`)).status, 404);
  assert.equal((await site.call(registrar, 'GET', `Patient/${alice}`)).status, 404);
  // The patient's audit and Consents are not the clinician's, though they may read the patient.
  assert.deepEqual(idsIn(await site.call(clinician, 'GET', `AuditEvent?patient=${alice}`)), []);
  assert.deepEqual(idsIn(await site.call(clinician, 'GET', `Consent?patient=${alice}`)), []);
  assert.equal((await site.call(clinician, 'GET', `Consent/${granted.id}`)).status, 404);

  const observation = labs.find((row) => row.type === 'Observation')?.id ?? '';
  const page = await site.call(clinician, 'GET', `Observation?patient=${alice}&_count=1`);
  const next = page.json.link?.find((link) => link.relation === 'next')?.url ?? assert.fail('one page only');
  const other = await site.call(bob, 'GET', next);
  assert.equal(other.status, 404, 'the cursor of another caller');
  assert.equal(essence(other), essence(await site.call(bob, 'GET', `Observation?_cursor=${'A'.repeat(80)}`)));
  assert.equal(
    (await site.call(clinician, 'GET', next.replace('Observation?', 'DiagnosticReport?'))).status,
    404,
    'a cursor of another type',
  );
  await end(granted);
  assert.equal((await site.call(clinician, 'GET', `Observation/${observation}`)).status, 404);
  assert.equal((await site.call(clinician, 'GET', `Patient/${alice}`)).status, 404);
  assert.deepEqual(idsIn(await site.call(clinician, 'GET', next)), [], 'a page that was begun goes on');
});

test('a data period holds to the row', async () => {
  const labs = (await heldBy(alice)).filter((row) => row.type === 'Observation' && row.category === 'laboratory' && row.start !== null);
  const times = [...new Set(labs.map((row) => row.start?.getTime() ?? 0))].sort((a, b) => a - b);
  assert.ok(times.length >= 2, 'the labs are of one moment');
  const from = new Date(times[Math.floor(times.length / 2)] ?? 0);
  const granted = await grant({ dataPeriod: { start: from.toISOString() } });
  const found = new Set(idsIn(await site.call(clinician, 'GET', `Observation?patient=${alice}&_count=500`)));
  const within = labs.filter((row) => row.start !== null && row.start >= from);
  assert.deepEqual([...found].sort(), within.map((row) => row.id).sort());
  assert.ok(found.size > 0 && found.size < labs.length);
  for (const row of labs.filter((one) => !found.has(one.id)).slice(0, 3))
    assert.equal((await site.call(clinician, 'GET', `Observation/${row.id}`)).status, 404);
  await end(granted);
});

test('a period ends to the millisecond', async () => {
  const until = Date.now() + 2500;
  const granted = await grant({ end: new Date(until).toISOString() });
  const { id } = await oneOf(alice, 'Observation', 'laboratory');
  let [served, refused] = [0, 0];
  for (;;) {
    const asked = Date.now();
    const { status } = await site.call(clinician, 'GET', `Observation/${id}`);
    const answered = Date.now();
    if (status === 200) {
      served++;
      assert.ok(asked <= until, `served ${asked - until} ms after the end`);
    } else {
      assert.equal(status, 404);
      assert.ok(answered > until, `refused ${until - answered} ms before the end`);
      if (++refused === 3) break;
    }
  }
  assert.ok(served > 5);
  const later = await grant({ start: new Date(Date.now() + 3_600_000).toISOString() });
  assert.equal((await site.call(clinician, 'GET', `Observation/${id}`)).status, 404, 'before its period begins');
  await end(later);
  await end(granted);
});

test('who may write a Consent, and on which version', async () => {
  for (const [who, status] of [
    [clinician, 403],
    [officer, 403],
    [bob, 404],
    [registrar, 422],
  ] as const) {
    const reply = await site.call(who, 'POST', 'Consent', { body: consentOf() });
    assert.equal(reply.status, status, `${who}: ${reply.text}`);
  }
  const evidence = {
    sourceAttachment: { contentType: 'application/pdf', title: 'signed on paper', hash: Buffer.alloc(20).toString('base64') },
  };
  const written = await site.call(registrar, 'POST', 'Consent', { body: { ...consentOf(), ...evidence } });
  assert.equal(written.status, 201, written.text);
  const granted: Granted = {
    id: written.json.id ?? '',
    etag: written.headers.get('etag') ?? '',
    resource: written.json as unknown as Consent,
  };
  const { id } = await oneOf(alice, 'Observation', 'laboratory');
  assert.equal((await site.call(clinician, 'GET', `Observation/${id}`)).status, 200);
  const put = (as: string, headers: Record<string, string>, change: object = {}): Promise<Reply> =>
    site.call(as, 'PUT', `Consent/${granted.id}`, { body: { ...granted.resource, ...change }, headers });
  for (const etag of ['W/"2"', 'W/"0"', '"x"']) assert.equal((await put(alice, { 'if-match': etag })).status, 412, etag);
  assert.equal((await put(alice, {})).status, 412, 'without If-Match');
  assert.equal((await put(alice, { 'if-match': '*' })).status, 400);
  assert.equal((await put(bob, { 'if-match': granted.etag })).status, 404);
  assert.equal((await put(clinician, { 'if-match': granted.etag })).status, 404, 'the grantee cannot widen it');
  assert.equal((await put(officer, { 'if-match': granted.etag })).status, 403);
  assert.equal(
    (await put(alice, { 'if-match': granted.etag }, { patient: { reference: `Patient/${bob}` } })).status,
    422,
    'it stays with its patient',
  );
  assert.equal((await put(alice, { 'if-match': granted.etag }, { id: 'con-aaaaaaaaaaaaaaaaaaaaaaaaaa' })).status, 400);
  for (const method of ['DELETE', 'PATCH']) assert.equal((await site.call(alice, method, `Consent/${granted.id}`)).status, 405);
  for (const type of ['Patient', 'Observation', 'AuditEvent', 'Binary'])
    assert.equal((await site.call(alice, 'POST', type, { body: { resourceType: type } })).status, 405);
  await end(granted);
  assert.equal((await site.call(clinician, 'GET', `Observation/${id}`)).status, 404);
  assert.equal((await put(alice, { 'if-match': granted.etag })).status, 412, 'the ended one is another version');
});

test('grants that reach the ledger past the facade: replayed, signed by a clinician, for another patient', async () => {
  const [old] = await site.database.query<{ args: string[]; order_key: string; patient: string }>(sql`
    select args, order_key, patient from outbox where transaction = 'grantPermission' and state = 'committed' and patient like ${`%/${alice}`} order by seq limit 1`);
  const jws = old?.args[0] ?? assert.fail('no grant');
  const payload = Buffer.from(jws.split('.')[1] ?? '', 'base64url').toString();
  const head = part(jws, 0);
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const sign = (text: string, header: Record<string, unknown> = head): Promise<string> => signText(text, header, privateKey);
  const [current] = await site.database.query<{ seq: number }>(
    sql`select seq from projection.permission where pat = ${alice} and grantee = ${`member:${site.institution}:${clinician}`} and category = 'laboratory'`,
  );
  const fresh = payload
    .replace(/"notAfter":"[^"]+"/, `"notAfter":"${new Date(Date.now() + 300_000).toISOString()}"`)
    .replace(/"nonce":"[^"]+"/, `"nonce":"${randomBytes(16).toString('base64url')}"`)
    .replace(/"sequence":\d+/, `"sequence":${(current?.seq ?? 0) + 1}`);
  assert.notEqual(fresh, payload);
  const jwk = publicKey.export({ format: 'jwk' }) as JWK;
  const attempts: Record<string, string[]> = {
    'the old grant': [...(old?.args ?? [])],
    'the old grant with another signature encoding': [`${jws}=`],
    'a grant signed by a stranger': [await sign(fresh)],
    'a grant with the key in its header': [await sign(fresh, { ...head, jwk })],
    'a grant with a key handed over': [await sign(fresh), JSON.stringify({ crv: jwk.crv, kty: 'EC', x: jwk.x, y: jwk.y })],
    'alg none': [`${b64({ ...head, alg: 'none' })}.${base64url.encode(fresh)}.`],
    'signed for one, said of another': [`${jws.split('.')[0]}.${base64url.encode(payload.replaceAll(alice, bob))}.${jws.split('.')[2]}`],
    'by a clinician': [await sign(fresh.replace(/"onBehalf":"[^"]*"/, `"onBehalf":"member:${site.institution}:${clinician}"`))],
  };
  const height = async (): Promise<number> => (await site.operations.status({})).ledger.height;
  const rows = new Map<string, string>();
  for (const [what, args] of Object.entries(attempts)) {
    const id = newId('obx');
    rows.set(id, what);
    await site.database.query(sql`insert into outbox (id, transaction, args, order_key, patient, priority)
      values (${id}, 'grantPermission', ${args}::text[], ${`attack/${id}`}, ${old?.patient ?? ''}, 1)`);
  }
  const started = await height();
  for (let tries = 0; ; tries++) {
    const states = await site.database.query<{ id: string; state: string; error_code: string | null }>(
      sql`select id, state, error_code from outbox where id = any(${[...rows.keys()]}::text[])`,
    );
    if (states.every(({ state }) => !['pending', 'claimed', 'enqueued', 'inflight'].includes(state))) {
      for (const { id, state, error_code } of states) assert.equal(state, 'rejected', `${rows.get(id)}: ${state} ${error_code}`);
      break;
    }
    assert.ok(tries < 100, JSON.stringify(states));
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.ok((await height()) - started <= 2, 'something was written');
  const { id } = await oneOf(alice, 'Observation', 'laboratory');
  assert.equal((await site.call(clinician, 'GET', `Observation/${id}`)).status, 404);
  const report = await site.operations.reconcile({}, () => {});
  assert.ok(
    report.differences.every((difference) => difference.kind === 'outbox-stuck'),
    JSON.stringify(report.differences),
  );
  await site.database.query(sql`delete from outbox where id = any(${[...rows.keys()]}::text[])`);
});

async function signText(text: string, header: Record<string, unknown>, key: KeyObject): Promise<string> {
  const { sign } = await import('node:crypto');
  const input = `${b64(header)}.${base64url.encode(text)}`;
  return `${input}.${sign('sha256', Buffer.from(input), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`;
}

test('sealed values are found by those who may, and by nobody else', async () => {
  const own = await site.call(alice, 'GET', `Observation?patient=${alice}&_count=200`);
  interface Measured {
    id: string;
    valueQuantity?: { value: number; comparator?: string; system?: string; code?: string };
  }
  const measured = (own.json.entry ?? [])
    .map((entry) => entry.resource as unknown as Measured)
    // `<0.02` is no value that a search for 0.02 finds.
    .find((one) => one.valueQuantity?.code !== undefined && one.valueQuantity.comparator === undefined);
  const quantity = measured?.valueQuantity ?? assert.fail('nothing measured');
  const {
    id: pat,
    name: [name] = [],
    birthDate,
  } = (await site.call(alice, 'GET', `Patient/${alice}`)).json as unknown as {
    id: string;
    name?: { family: string }[];
    birthDate: string;
  };
  assert.equal(pat, alice);
  const family = encodeURIComponent(name?.family ?? '');
  const searches: [string, string][] = [
    [`Observation?value-quantity=${quantity.value}|${quantity.system ?? ''}|${quantity.code ?? ''}`, measured?.id ?? ''],
    [`Observation?patient=${alice}&_count=200&value-quantity=ge${quantity.value}`, measured?.id ?? ''],
    [`Patient?name=${family}&birthdate=${birthDate}`, alice],
    [`Patient?family:exact=${family}`, alice],
    [`Patient?_id=${alice}&birthdate=${birthDate}`, alice],
  ];
  const seen = async (as: string): Promise<boolean[]> =>
    Promise.all(searches.map(async ([path, id]) => idsIn(await site.call(as, 'GET', path)).includes(id)));
  const none = searches.map(() => false);
  const all = searches.map(() => true);
  assert.deepEqual(await seen(alice), all);
  for (const stranger of [clinician, bob, registrar]) assert.deepEqual(await seen(stranger), none);
  const granted = await grant();
  assert.deepEqual(await seen(clinician), all);
  assert.deepEqual(await seen(bob), none);
  await end(granted);
  assert.deepEqual(await seen(clinician), none);
  const dose = await grant({ categories: ['radiation-dose'] });
  assert.deepEqual(await seen(clinician), [false, false, true, true, true]);
  await end(dose);
});

test('requests that are meant to break something: refused with a code, never 500, nothing of them comes back', async () => {
  const mark = 'zqxmark<script>alert(1)</script>';
  const enc = encodeURIComponent(mark);
  const deep = (levels: number): string => `${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}`;
  const nested = (levels: number): string => `${'['.repeat(levels)}${']'.repeat(levels)}`;
  const gets = [
    `Observation?code=%00`,
    `Observation?code=a%00b|c`,
    `Observation?patient=%00`,
    `Observation?_id=%00`,
    `Patient?identifier=urn:x%00|%00`,
    `Patient?identifier=a%00|b`,
    `Practitioner?name=%00`,
    `Practitioner?name:contains=%00`,
    `Practitioner?identifier=%00|%00`,
    `Organization?name=a%00`,
    `Patient?name=%00&_id=${alice}`,
    `Observation?date=0000`,
    `Observation?date=gt9999-12-31T23:59:59.999-14:00`,
    `Observation?date=0001-01-01`,
    `Observation?date=9999`,
    `Observation?date=lt-0001`,
    `Observation?date=2026-02-30`,
    `Observation?_lastUpdated=ge9999-12-31`,
    `Observation?_lastUpdated=sa9999`,
    `Observation?_lastUpdated=0001-01-01T00:00:00+14:00`,
    `AuditEvent?date=9999`,
    `AuditEvent?date=gt9999-12-31T23:59:59.999Z`,
    `AuditEvent?date=lt0001`,
    `AuditEvent?patient=%00`,
    `Consent?patient=%00`,
    `Consent?_id=%00`,
    `AuditEvent/%00`,
    `Consent/%00`,
    `Consent/..%2f..%2fetc%2fpasswd`,
    `Observation?value-quantity=1e999`,
    `Observation?value-quantity=-1e-999`,
    `Observation?value-quantity=${'9'.repeat(30)}`,
    `Observation?patient=${alice}&value-quantity=NaN`,
    `Observation?_count=-1`,
    `Observation?_count=99999999999999999999`,
    `Observation?_count=1e3`,
    `Observation?_sort=${enc}`,
    `Observation?_sort=_id,_id,-_id`,
    `Observation?_elements=__proto__`,
    `Observation?_elements=constructor`,
    `Observation?__proto__=1`,
    `Observation?constructor=1`,
    `Observation?toString=1`,
    `Observation?__proto__[a]=1`,
    `Observation?_include=*`,
    `Observation?_include=__proto__:constructor`,
    `Observation?_include=Observation:${enc}`,
    `Observation?_revinclude=${enc}:subject`,
    `Observation?_has:Observation:patient:code=1`,
    `Observation?patient.name=x`,
    `Observation?${enc}=1`,
    `Observation?code=${enc}`,
    `Observation?code:${enc}=1`,
    `Observation?date=${enc}`,
    `Observation?_summary=${enc}`,
    `Observation?_format=${enc}`,
    `Observation?_cursor=${enc}`,
    `Observation?_cursor=`,
    `Observation?_cursor=AAAA&_cursor=BBBB`,
    `Observation?_total=${enc}`,
    `Observation?_count=1&_count=2`,
    `Observation?_sort=date&_sort=-date`,
    `Observation?_summary=count&_summary=false`,
    `Observation?_total=none&_total=accurate`,
    `Observation?_elements=id&_elements=code`,
    enc,
    `Patient/${enc}`,
    `Patient/${enc}/_history/${enc}`,
    `Patient/${alice}/_history/99999999999999`,
    `Patient/${alice}/_history/-1`,
    `Patient/${alice}/_history/1%00`,
    `Patient/%E0%A4%A`,
    `Patient/%`,
    `__proto__/constructor`,
    `constructor`,
    `Patient/__proto__`,
    `Patient//${alice}`,
    `../auth/token`,
    `..%2f..%2f`,
    `Observation?code=${'a,'.repeat(200)}`,
    `Observation?${'code=a&'.repeat(60)}`,
    `Observation?code=${'%5C'.repeat(500)}`,
    `Patient?name=${'%F0%9F%92%A9'.repeat(200)}`,
    `Patient?birthdate=${alice}`,
    `Observation?subject=http://169.254.169.254/latest/meta-data`,
    `Observation?subject=file:///etc/passwd`,
    `Patient/http:%2f%2f169.254.169.254%2f`,
  ];
  const odd: string[] = [];
  const judge = (what: string, reply: Reply): void => {
    if (reply.status >= 500) odd.push(`${reply.status} ${what.slice(0, 120)}`);
    if (/zqxmark/.test(reply.text) && reply.status >= 300) odd.push(`reflected ${what.slice(0, 120)}`);
    if (/<script>alert/.test(reply.text) && !(reply.headers.get('content-type') ?? '').startsWith('application/fhir+json'))
      odd.push(`type ${what.slice(0, 120)}`);
    if (reply.headers.get('x-content-type-options') !== 'nosniff') odd.push(`no nosniff ${what.slice(0, 120)}`);
    if (reply.status >= 400 && codeIn(reply) === '') odd.push(`no OperationOutcome ${reply.status} ${what.slice(0, 120)}`);
  };
  await inParallel(gets, async (path) => {
    for (const as of [alice, officer]) judge(`GET ${path}`, await site.call(as, 'GET', path));
    const [type, query] = path.split('?');
    if (query === undefined || type === '') return;
    const form = { 'content-type': 'application/x-www-form-urlencoded' };
    judge(`POST ${path}`, await site.call(alice, 'POST', `${type}/_search`, { body: query, headers: form }));
  });
  for (const twice of [
    '_count=1&_count=2',
    '_summary=count&_summary=false',
    '_total=none&_total=accurate',
    '_sort=date&_sort=-date',
    '_elements=id&_elements=code',
    '_cursor=AAAA&_cursor=BBBB',
  ]) {
    const reply = await site.call(alice, 'GET', `Observation?${twice}`);
    if (reply.status < 400) odd.push(`${reply.status} contradicts itself and is answered: ${twice}`);
  }
  const consent = JSON.stringify(consentOf());
  const into = (member: string): string => `${consent.slice(0, -1)},${member}}`;
  const granted = await grant();
  const bodies: Record<string, string> = {
    empty: '',
    'no JSON': '{',
    'an array': '[]',
    null: 'null',
    text: '"x"',
    number: '1',
    'another type': '{"resourceType":"Patient"}',
    NUL: '{"resourceType":"Consent","status":"\\u0000"}',
    BOM: `\ufeff${consent}`,
    'deep objects': into(`"extension":[${deep(20_000)}]`),
    'deep lists': into(`"extension":${nested(60_000)}`),
    'deep text': into(`"text":${deep(20_000)}`),
    'deep meta': into(`"meta":{"tag":${nested(60_000)}}`),
    'deep evidence': into(`"sourceAttachment":{"title":${nested(60_000)}}`),
    'deep provision': into(`"provision":${'{"type":"deny","provision":['.repeat(4000)}${']}'.repeat(4000)}`),
    __proto__: into('"__proto__":{"polluted":true}'),
    '__proto__ in meta': into('"meta":{"__proto__":{"polluted":true},"security":[]}'),
    constructor: into('"constructor":{"prototype":{"polluted":true}}'),
    '__proto__ in provision': consent.replace('"type":"permit"', '"type":"permit","__proto__":{"polluted":true}'),
    '__proto__ as type': '{"__proto__":{"resourceType":"Consent"}}',
    'meta as text': into('"meta":"abcdef"'),
    'meta as list': into('"meta":[1,2]'),
    'meta says a version': into('"meta":{"versionId":"99","lastUpdated":"1999-01-01T00:00:00Z"}'),
    'lone surrogate': into('"sourceAttachment":{"title":"\\ud800"}'),
    'status as list': consent.replace('"active"', '["active"]'),
    'patient as list': consent.replace('"patient":{', '"patient":[{').replace(`${alice}"}`, `${alice}"}]`),
    'members twice': into(`"patient":{"reference":"Patient/${bob}"}`),
    'a script': into(`"text":{"status":"generated","div":"<div xmlns=\\"http://www.w3.org/1999/xhtml\\"><script>alert(1)</script></div>"}`),
    'unknown member': into(`"${mark}":1`),
    'many provisions': JSON.stringify({
      ...consentOf(),
      provision: { type: 'deny', provision: Array.from({ length: 300 }, () => consentOf().provision?.provision?.[0]) },
    }),
    'huge number': into('"dateTime":1e999'),
    large: into(`"text":{"div":"${'a'.repeat(400_000)}"}`),
    'a foreign host': consent.replace(`Patient/${alice}`, `http://169.254.169.254/Patient/${alice}`),
    'a source by url': into('"sourceReference":{"reference":"http://169.254.169.254/latest"}'),
  };
  for (const [what, body] of Object.entries(bodies)) {
    for (const as of [alice, registrar]) {
      const reply = await site.call(as, 'POST', 'Consent', { body });
      judge(`Consent: ${what}`, reply);
      if (reply.status === 201) {
        const stored = (await site.call(alice, 'GET', `Consent/${reply.json.id}`)).json as unknown as Consent;
        if (
          typeof stored.meta !== 'object' ||
          stored.meta.versionId !== '1' ||
          Object.keys(stored.meta).some(
            (name) => !['versionId', 'lastUpdated', 'tag', 'security', 'profile', 'source', 'extension'].includes(name),
          )
        )
          odd.push(`stored with a broken meta: ${what} ${JSON.stringify(stored.meta).slice(0, 80)}`);
        if ('polluted' in stored || 'polluted' in (stored.meta ?? {})) odd.push(`polluted ${what}`);
        if (/<script/.test(JSON.stringify(stored))) odd.push(`a script is stored: ${what}`);
        await end({ id: reply.json.id ?? '', etag: reply.headers.get('etag') ?? '', resource: reply.json as unknown as Consent });
      }
    }
    const put = await site.call(alice, 'PUT', `Consent/${granted.id}`, {
      body: body.replace('{"resourceType":"Consent"', `{"resourceType":"Consent","id":"${granted.id}"`),
      headers: { 'if-match': 'W/"77"' },
    });
    judge(`PUT Consent: ${what}`, put);
    if (put.status < 400) odd.push(`PUT with a wrong version was taken: ${what}`);
  }
  await end(granted);
  // Formatted text is taken; what runs, loads or hides is not.
  const narrative = (div: string): Promise<Reply> =>
    site.call(alice, 'POST', 'Consent', {
      body: { ...consentOf(), text: { status: 'generated', div: `<div xmlns="http://www.w3.org/1999/xhtml">${div}</div>` } },
    });
  const plain = await narrative('<p class="a">Dr. Ruiz &amp; <b>laboratory</b><br/><a href="https://example.org/">more</a></p>');
  assert.equal(plain.status, 201, plain.text);
  await end({ id: plain.json.id ?? '', etag: plain.headers.get('etag') ?? '', resource: plain.json as unknown as Consent });
  for (const div of [
    '<script>1</script>',
    '<SCRIPT >1</SCRIPT>',
    '<img src="https://example.org/x"/>',
    '<p onclick="x()">a</p>',
    '<p style="display:none">a</p>',
    '<a href="javascript:x()">a</a>',
    "<a href='javascript:x()'>a</a>",
    '<iframe src="https://example.org/"></iframe>',
    '<svg><g onload="x"/></svg>',
    '<!-- a -->',
    '<b title="a"onclick="x()">a</b>',
    '<style>p{}</style>',
    '<p',
    '<base href="https://example.org/"/>',
  ])
    assert.equal((await narrative(div)).status, 422, div);
  const headers: Record<string, Record<string, string>> = {
    'X-Request-Id with markup': { 'x-request-id': mark },
    'long X-Request-Id': { 'x-request-id': 'a'.repeat(500) },
    'If-None-Match': { 'if-none-match': mark },
    'If-Modified-Since': { 'if-modified-since': mark },
    Accept: { accept: mark },
    'Accept, long': { accept: 'a/b;q=0.1,'.repeat(1000) },
    Range: { range: mark },
    Prefer: { prefer: mark },
    Host: { 'x-forwarded-host': 'evil.example.org', 'x-forwarded-proto': 'gopher', forwarded: 'host=evil.example.org' },
    'method override': { 'x-http-method-override': 'DELETE' },
    Origin: { origin: 'https://evil.example.org' },
  };
  for (const [what, some] of Object.entries(headers)) {
    for (const path of [`Patient/${alice}`, `Observation?patient=${alice}&_count=1`, 'metadata']) {
      const reply = await site.call(alice, 'GET', path, { headers: some });
      judge(`${what} ${path}`, reply);
      if (/evil\.example/.test(reply.text + [...reply.headers].join())) odd.push(`${what} shows in the answer`);
      if (/zqxmark/.test([...reply.headers].join())) odd.push(`${what} comes back in a header`);
    }
  }
  judge('gzip bomb', await site.call(alice, 'POST', 'Consent', { body: 'x', headers: { 'content-encoding': 'gzip' } }));
  judge(
    'charset',
    await site.call(alice, 'POST', 'Consent', { body: consent, headers: { 'content-type': 'application/fhir+json; charset=x-unknown' } }),
  );
  judge('no type', await site.call(alice, 'POST', 'Consent', { body: consent, headers: { 'content-type': 'text/xml' } }));
  const long = await site.call(alice, 'GET', `Observation?code=${'a'.repeat(9000)}`);
  assert.equal(long.status, 413);
  const longer = await site.call(alice, 'GET', `Observation?code=${'a'.repeat(20_000)}`);
  assert.ok([413, 431].includes(longer.status), String(longer.status));
  const header = await site.call(alice, 'GET', 'metadata', { headers: { 'x-long': 'a'.repeat(20_000) } });
  assert.ok([413, 431].includes(header.status), String(header.status));
  for (const method of ['PUT', 'DELETE', 'PATCH', 'OPTIONS', 'PROPFIND', 'SEARCH']) {
    const reply = await site.call(alice, method, `Patient/${alice}`, method === 'PUT' ? { body: '{}' } : {});
    assert.ok([404, 405].includes(reply.status), `${method} ${reply.status}`);
  }
  assert.equal(({} as { polluted?: boolean }).polluted, undefined);
  assert.deepEqual(odd, []);
});

/** A laboratory document of alice's, and the Binary of its PDF. */
async function labObject(): Promise<{
  binary: string;
  document: string;
  version: number;
  pointer: string;
  hash: string;
  commitment: string;
}> {
  for (const row of await heldBy(alice)) {
    if (row.type !== 'Binary' || row.category !== 'laboratory') continue;
    if ((await site.call(alice, 'HEAD', `Binary/${row.id}`, { headers: { accept: 'application/pdf' } })).status !== 200) continue;
    const [version] = await site.database.query<{ version: number; pointer: string; ciphertext_hash: string; commitment: string }>(sql`
      select version, pointer, ciphertext_hash, commitment from document_version where document = ${row.document ?? ''} order by version desc limit 1`);
    if (version === undefined) continue;
    const { ciphertext_hash: hash, ...rest } = version;
    return { binary: row.id, document: row.document ?? '', hash, ...rest };
  }
  return assert.fail('no laboratory document');
}

/** An object of the right form for this document, made by somebody who knows what stands on the ledger and holds keys of their own. */
async function sealedByAStranger(
  document: string,
  version: number,
): Promise<{ bytes: Uint8Array; ciphertextHash: string; commitment: string }> {
  const folder = join(site.folder, `stranger-${randomBytes(4).toString('hex')}`);
  const custodian = await createFileCustodian({
    directory: folder,
    passphrase: 'a long passphrase of a stranger 4471',
    institution: site.institution,
  });
  try {
    await custodian.enrollPatient(alice, ['laboratory']);
    const [key] = await site.database.query<{ version: number; public_jwk: PublicJwk }>(
      sql`select version, public_jwk from projection.category_key where pat = ${alice} and category = 'laboratory' order by version limit 1`,
    );
    if (key === undefined) assert.fail('no category key');
    return await createSealer({ custodian }).seal({
      institution: site.institution,
      document,
      version,
      patient: alice,
      category: 'laboratory',
      categoryKey: { version: key.version, publicJwk: key.public_jwk },
      inner: { manifest: {}, resourceIds: {} },
      pdf: Buffer.from('%PDF-1.7 of a stranger'),
      bundle: Buffer.from('{"resourceType":"Bundle","type":"collection"}'),
    });
  } finally {
    await custodian.close();
  }
}

test('objects put in place of stored ones: INTEGRITY, an alarm, and reconcile names the document', async () => {
  const { binary, document, version, pointer, hash, commitment } = await labObject();
  const alarms = (): Promise<number> => metric('oncobridge_alarms_total{kind="integrity"} ');
  const pdf = (): Promise<Reply> => site.call(alice, 'GET', `Binary/${binary}`, { headers: { accept: 'application/pdf' } });
  const differences = async (): Promise<string[]> =>
    (await site.operations.reconcile({}, () => {})).differences.map((one) => `${one.kind} ${one.document ?? ''}`);
  const path = site.blobs.pathOf(pointer);
  const original = readFileSync(path);
  const good = await pdf();
  assert.equal(good.status, 200);
  const [other] = await site.database.query<{ pointer: string }>(
    sql`select pointer from document_version where pat = ${alice} and document <> ${document} and category = 'laboratory' limit 1`,
  );
  const [dose] = await site.database.query<{ pointer: string }>(
    sql`select pointer from document_version where pat = ${alice} and category = 'radiation-dose' limit 1`,
  );
  const stranger = await sealedByAStranger(document, version);
  const flipped = Buffer.from(original);
  flipped[flipped.length - 40] = (flipped[flipped.length - 40] ?? 0) ^ 1;
  const attacks: Record<string, Uint8Array> = {
    'sealed by a stranger': stranger.bytes,
    'another document of the same patient': readFileSync(site.blobs.pathOf(other?.pointer ?? '')),
    'a document of another category': readFileSync(site.blobs.pathOf(dose?.pointer ?? '')),
    'one bit flipped': flipped,
    'cut short': original.subarray(0, -1),
    'one byte more': Buffer.concat([original, Buffer.from([0])]),
    empty: Buffer.alloc(0),
  };
  for (const [what, bytes] of Object.entries(attacks)) {
    writeFileSync(path, bytes);
    const before = await alarms();
    const reply = await pdf();
    assert.deepEqual([reply.status, codeIn(reply)], [500, 'INTEGRITY'], what);
    assert.ok(!reply.text.includes('%PDF'), what);
    assert.equal(await alarms(), before + 1, `${what}: no alarm`);
    assert.deepEqual(await differences(), [`object-altered ${document}`], what);
  }
  rmSync(path);
  const gone = await pdf();
  assert.ok(gone.status >= 500 && codeIn(gone) !== 'INTERNAL', `${gone.status} ${codeIn(gone)}`);
  assert.deepEqual(await differences(), [`object-missing ${document}`]);
  // Who has no permission cannot tell that anything is wrong.
  assert.equal((await site.call(bob, 'GET', `Binary/${binary}`)).status, 404);
  writeFileSync(path, original, { mode: 0o600 });

  // The stranger writes to the database too: the row names their object, then the row alone, then the ledger's copy as well.
  const name = `${site.institution}/${stranger.ciphertextHash}`;
  await site.blobs.put(name, stranger.bytes);
  const row = (p: string, h: string, c: string): Promise<unknown> =>
    site.database.query(
      sql`update document_version set pointer = ${p}, ciphertext_hash = ${h}, commitment = ${c} where document = ${document} and version = ${version}`,
    );
  await row(name, hash, commitment);
  assert.equal(codeIn(await pdf()), 'INTEGRITY');
  assert.deepEqual(await differences(), [`object-altered ${document}`]);
  await row(name, stranger.ciphertextHash, stranger.commitment);
  const before = await alarms();
  for (const path of [`Binary/${binary}`, `DocumentReference/${document}`]) {
    const unnamed = await site.call(alice, 'GET', path);
    assert.deepEqual([unnamed.status, codeIn(unnamed)], [500, 'INTEGRITY'], `${path}: no entry on the ledger names it`);
    assert.equal((await site.call(bob, 'GET', path)).status, 404);
  }
  assert.equal(await alarms(), before + 2, 'a pair that was forged together raises no alarm');
  assert.deepEqual((await differences()).sort(), [`commitment-differs-from-ledger ${document}`, `hash-differs-from-ledger ${document}`]);
  await site.database.query(
    sql`update projection.document set ciphertext_hash = ${stranger.ciphertextHash}, commitment = ${stranger.commitment} where doc = ${document}`,
  );
  const forged = await pdf();
  assert.deepEqual([forged.status, codeIn(forged)], [500, 'INTEGRITY'], 'a stranger’s object opens');
  assert.equal((await site.operations.verify({})).ok, false, 'a forged row of the projection is not found');
  await site.database.query(
    sql`update projection.document set ciphertext_hash = ${hash}, commitment = ${commitment} where doc = ${document}`,
  );
  await row(pointer, hash, commitment);
  await site.blobs.delete(name);
  assert.deepEqual(await differences(), []);
  assert.deepEqual((await pdf()).bytes, good.bytes);
  assert.equal((await site.operations.verify({})).ok, true);
});

test('Binary: an attachment that runs nothing', async () => {
  const { binary, document } = await labObject();
  for (const method of ['GET', 'HEAD']) {
    const reply = await site.call(alice, method, `Binary/${binary}`, { headers: { accept: 'application/pdf, */*;q=0.1' } });
    assert.equal(reply.status, 200);
    assert.equal(reply.headers.get('content-type'), 'application/pdf');
    assert.match(reply.headers.get('content-disposition') ?? '', new RegExp(`^attachment; filename="${document}\\.pdf"$`));
    assert.match(reply.headers.get('content-security-policy') ?? '', /sandbox/);
    assert.equal(reply.headers.get('x-content-type-options'), 'nosniff');
    assert.match(reply.headers.get('cache-control') ?? '', /no-store/);
    assert.equal(reply.headers.get('access-control-allow-origin'), null);
  }
  const fhir = await site.call(alice, 'GET', `Binary/${binary}`, { headers: { accept: 'application/fhir+json' } });
  assert.match(fhir.headers.get('content-type') ?? '', /^application\/fhir\+json/);
  for (const accept of ['text/html', 'image/svg+xml', 'text/html;q=0.9, application/xhtml+xml'])
    assert.equal((await site.call(alice, 'GET', `Binary/${binary}`, { headers: { accept } })).status, 406, accept);
  const denied = await site.call(undefined, 'GET', `Binary/${binary}`);
  assert.match(denied.headers.get('content-security-policy') ?? '', /default-src 'none'/);
});

test('a source that lies: nothing follows a link to another host, the token stays here', async () => {
  const { control } = site.simulator;
  // New things to fetch, so that the faults have something to act on.
  control.applyCorrections();
  for (const server of ['ehr', 'aria'] as const) {
    control.fault({ kind: 'foreign-next', server, times: 2 });
    control.fault({ kind: 'redirect', server, after: 3 });
    control.fault({ kind: 'truncate', server, after: 4 });
    control.fault({ kind: 'status', status: 500, server, after: 5, text: 'Анастасия' });
  }
  const first = await site.operations.pull({}, () => {});
  assert.ok(control.faultsActed() >= 4, `${control.faultsActed()} faults acted`);
  assert.ok(first.failed, 'a link to another host is an error of the stream');
  assert.deepEqual(control.strangerRequests(), []);
  control.clearFaults();
  const second = await site.operations.pull({}, () => {});
  assert.equal(second.failed, false, JSON.stringify(second.streams));
  await settled(site.operations);
  assert.deepEqual((await site.operations.reconcile({}, () => {})).differences, []);
});

test('filed to the wrong patient: its producer’s privacy officer reads it, all others get the 404 of what never was', async () => {
  const withdrawn = (reason: string) =>
    site.database.query<{ document: string; pat: string }>(
      sql`select document, pat from subject where withdrawn_reason = ${reason} and version > 0 order by document limit 1`,
    );
  const [misfiled] = await withdrawn('WRONG_PATIENT');
  const [cancelled] = await withdrawn('WITHDRAWN_AT_SOURCE');
  assert.ok(misfiled !== undefined && cancelled !== undefined, 'a note was moved and a report cancelled just now');
  const { document, pat: wrong } = misfiled;
  await settled(site.operations);
  const paths = (doc: string): string[] => [
    `DocumentReference/${doc}`,
    `DocumentReference/${doc}/_history/1`,
    `Binary/${doc}-pdf`,
    `Binary/${doc}-fhir`,
  ];
  const whole = await grant({ patient: wrong, categories: ['laboratory', 'history-and-physical', 'radiation-dose'] });
  const never = newId('doc');
  for (const [who, doc] of [
    ...[wrong, alice, bob, clinician, registrar].map((one) => [one, document] as const),
    [officer, cancelled.document] as const,
  ])
    for (const [n, path] of paths(doc).entries()) {
      const hidden = await site.call(who, 'GET', path);
      assert.equal(hidden.status, 404, `${path} for ${who}`);
      const missing = await site.call(who, 'GET', paths(never)[n] ?? '');
      assert.equal(essence(hidden), essence(missing), path);
    }
  for (const path of paths(document)) assert.equal((await site.call(officer, 'GET', path)).status, 200, path);
  const reference = (await site.call(officer, 'GET', `DocumentReference/${document}`)).json as unknown as DocumentReference;
  assert.deepEqual([reference.status, reference.subject?.reference], ['entered-in-error', `Patient/${wrong}`]);
  const url = reference.content[0]?.attachment.url ?? '';
  const pdf = await site.call(officer, 'GET', url.slice(url.indexOf('Binary/')), { headers: { accept: 'application/pdf' } });
  assert.ok(pdf.bytes.subarray(0, 5).toString() === '%PDF-');
  const found = await site.call(officer, 'GET', `DocumentReference?patient=${wrong}`);
  assert.deepEqual([found.status, found.json.total], [200, 0], 'by its id, and by no search');
  const events = (await site.call(officer, 'GET', 'AuditEvent?_count=500')).text;
  assert.match(events, /MISFILED_REVIEW/);
  assert.ok(
    !(await site.call(wrong, 'GET', `AuditEvent?patient=${wrong}&_count=500`)).text.includes(document),
    'the wrong patient hears of it',
  );
  await end(whole, wrong);
});

test('an expired token', async () => {
  const left = early.at + TOKEN_SECONDS * 1000 + 1100 - Date.now();
  if (left > 0) await new Promise((resolve) => setTimeout(resolve, left));
  const reply = await site.call(early.token, 'GET', `Patient/${alice}`);
  assert.deepEqual([reply.status, codeIn(reply)], [401, 'UNAUTHENTICATED'], 'one that was good before');
  const unused = await site.token(alice);
  assert.equal((await site.call(unused, 'GET', `Patient/${alice}`)).status, 200);
});

test('logs and metrics hold no canary, no token, no id of a patient; health and metrics stand apart, on the loopback', async () => {
  const { canaries } = site.simulator.truth();
  const log = site.log();
  assert.ok(log.includes('INTEGRITY ALARM') && log.length > 50_000, 'the log was not captured');
  assert.deepEqual(
    canaries.filter((canary) => log.includes(canary)),
    [],
  );
  assert.deepEqual(
    site.tokens.filter((token) => log.includes(token.split('.')[2] ?? token)),
    [],
  );
  const control = JSON.parse(readFileSync(join(site.data, 'run/control.json'), 'utf8')) as { token: string };
  const password = new URL(site.databaseUrl).password;
  const passphrase = readFileSync(join(site.data, 'custodian.passphrase'), 'utf8').trim();
  assert.ok(password.length > 8 && passphrase.length > 8);
  for (const secret of [control.token, password, passphrase, site.simulator.aria.clientSecret])
    assert.ok(!log.includes(secret), 'a secret is logged');
  assert.ok(!log.includes(`patient=${alice}`) && !/zqxmark/.test(log), 'an address is logged');

  const metrics = await (await fetch(`${site.operationsUrl}/metrics`)).text();
  assert.ok(metrics.includes('oncobridge_http_request_seconds'));
  assert.deepEqual(
    canaries.filter((canary) => metrics.includes(canary)),
    [],
  );
  const ids = /\b(?:pat|doc|mem|con|aud|cli|obx|rec|sub|inst|req)-[a-z2-7]{10,}/.exec(metrics);
  assert.equal(ids, null, `metrics hold ${ids?.[0]}`);
  assert.equal((await fetch(`${site.operationsUrl}/readyz`)).status, 200);
  assert.equal(new URL(site.operationsUrl).hostname, '127.0.0.1');
  const ports = [site.operationsUrl, site.facade].map((url) => Number(new URL(url).port));
  const control_ = (JSON.parse(readFileSync(join(site.data, 'run/control.json'), 'utf8')) as { port: number }).port;
  for (const [port, address] of listeners([...ports, control_]))
    assert.ok(['0100007F', '00000000000000000000000001000000'].includes(address), `port ${port} listens on ${address}`);
  const origin = new URL(site.facade).origin;
  for (const path of ['/metrics', '/readyz', '/livez', '/fhir/metrics', '/fhir/readyz', '/auth/metrics']) {
    const reply = await site.call(alice, 'GET', `${origin}${path}`);
    assert.equal(reply.status, 404, `${path} is served by the facade`);
  }
  for (const path of ['/fhir/metadata', '/auth/token', `/fhir/Patient/${alice}`])
    assert.equal((await fetch(`${site.operationsUrl}${path}`)).status, 404);
  // The door of the commands takes its own token only.
  for (const authorization of ['', 'Bearer', `Bearer ${await site.token(alice)}`, `Bearer ${'A'.repeat(43)}`])
    assert.equal(
      (await fetch(`http://127.0.0.1:${control_}/token`, { method: 'POST', body: `{"as":"${alice}"}`, headers: { authorization } })).status,
      401,
    );
});

/** Listening sockets of these ports, by /proc; address in its hexadecimal form. */
function listeners(ports: readonly number[]): [number, string][] {
  const found: [number, string][] = [];
  for (const file of ['/proc/net/tcp', '/proc/net/tcp6']) {
    for (const line of readFileSync(file, 'utf8').split('\n').slice(1)) {
      const [, local = '', , state] = line.trim().split(/\s+/);
      const [address = '', port = ''] = local.split(':');
      if (state === '0A' && ports.includes(Number.parseInt(port, 16))) found.push([Number.parseInt(port, 16), address]);
    }
  }
  assert.ok(found.length >= ports.length, 'a listener is not found');
  return found;
}

test('at rest: modes of the folder, and no canary in any table, index, file or log of it', async () => {
  const modes: Record<string, number> = {
    keys: 0o700,
    'keys/keys.log': 0o600,
    run: 0o700,
    'run/control.json': 0o600,
    'custodian.passphrase': 0o600,
    institution: 0o600,
    'ledger-tip': 0o600,
    blobs: 0o700,
    postgres: 0o700,
  };
  const wrong: string[] = [];
  for (const [name, mode] of Object.entries(modes)) {
    const is = statSync(join(site.data, name)).mode & 0o777;
    // What the database's own account must reach is its, under an own folder.
    if (is !== mode && !(name === 'postgres' && (is & 0o007) === 0)) wrong.push(`${name} ${is.toString(8)}`);
  }
  for (const entry of readdirSync(site.data, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || entry.parentPath.startsWith(join(site.data, 'postgres'))) continue;
    const is = statSync(join(entry.parentPath, entry.name)).mode & 0o077;
    if (is !== 0) wrong.push(`${entry.name} may be read by others`);
  }
  assert.deepEqual(wrong, []);

  const canaries = site.simulator.truth().canaries;
  const inText = new RegExp(canaries.map((canary) => canary.replaceAll(/[.*+?^${}()|[\]\\/]/g, '\\$&')).join('|'));
  const inBytes = new RegExp(
    canaries
      .map((canary) =>
        Buffer.from(canary)
          .toString('latin1')
          .replaceAll(/[.*+?^${}()|[\]\\/]/g, '\\$&'),
      )
      .join('|'),
  );
  const found: string[] = [];
  const tables = await site.database.query<{ name: string }>(sql`
    select format('%I.%I', n.nspname, c.relname) as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'r' and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast') order by 1`);
  assert.ok(tables.length > 30, `${tables.length} tables`);
  let rows = 0;
  for (const { name } of tables) {
    for (const row of await site.database.query(sql`select t.* from ${raw(name)} t`)) {
      rows++;
      for (const [column, value] of Object.entries(row)) {
        const bytes = Buffer.isBuffer(value);
        const hit = bytes ? inBytes.exec(value.toString('latin1')) : inText.exec(typeof value === 'string' ? value : JSON.stringify(value));
        if (hit !== null) found.push(`${name}.${column}: ${hit[0]}`);
      }
    }
  }
  assert.ok(rows > 500);
  await site.database.query(sql`checkpoint`);
  for (const entry of readdirSync(site.data, { recursive: true, withFileTypes: true })) {
    const file = join(entry.parentPath, entry.name);
    // The database's own catalogue and its programs hold nothing of ours.
    if (!entry.isFile() || file.includes('/postgres/lib/')) continue;
    const hit = inBytes.exec(readFileSync(file, 'latin1'));
    if (hit !== null) found.push(`${file.slice(site.data.length)}: ${Buffer.from(hit[0], 'latin1').toString()}`);
  }
  assert.deepEqual([...new Set(found)], []);
});

test('ledger verify: a byte of a block, a row of the state, the newest block', async () => {
  // One permission is in force and one has ended, so that there is something to forge.
  await end(await grant({ categories: ['history-and-physical'] }));
  await grant({ dataPeriod: { start: '2020-01-01' } });
  await site.stop();
  // Nobody else is connected now.
  const postgres = await createEmbeddedPostgres({ directory: join(site.data, 'postgres') });
  const database = createDatabase({ url: postgres.url, maxConnections: 2 });
  const tipFile = join(site.data, 'ledger-tip');
  const verified = await verifyLedger({ database, tipFile });
  assert.ok(verified.ok, JSON.stringify(verified.problems));
  const flip = (column: string, at: string): string =>
    `${column} = overlay(${column} placing (case when substr(${column}, ${at}, 1) = 'a' then 'b' else 'a' end) from ${at} for 1)`;
  const some = `(select number from embedded.block order by number offset ${Math.floor(verified.blocks / 2)} limit 1)`;
  const attacks: Record<string, string> = {};
  for (const column of ['header', 'body', 'signature', 'hash', 'previous_hash'])
    for (const at of column === 'body' ? ['1', `length(${column}) / 2`, `length(${column})`] : [`length(${column}) / 2`])
      attacks[`block ${column} at ${at}`] = `update embedded.block set ${flip(column, at)} where number = ${some}`;
  Object.assign(attacks, {
    'state value': `update embedded.state set ${flip('value', 'length(value) / 2')} where key like 'ent/%' and key = (select min(key) from embedded.state where key like 'ent/%')`,
    'a revocation undone': `update embedded.state set value = replace(value, '"status":"revoked"', '"status":"active"') where key = (select min(key) from embedded.state where value like '%"status":"revoked"%')`,
    'state key': `update embedded.state set key = key || 'x' where key = (select min(key) from embedded.state where key like 'ent/%')`,
    'state block': `update embedded.state set block = block - 1 where key = (select max(key) from embedded.state where key like 'mem/%')`,
    'state gone': `delete from embedded.state where key = (select min(key) from embedded.state where key like 'wd/%' or key like 'used/%')`,
    'state more': `insert into embedded.state (key, value, block, tx) values ('mem/x/y', '{}', 1, 0)`,
    'outcome of a transaction': `update embedded.transaction set validation = 'MVCC_READ_CONFLICT' where tx_id = (select min(tx_id) from embedded.transaction)`,
    'projected state': `update projection.state set ${flip('value', 'length(value) / 2')} where key = (select min(key) from projection.state where key like 'ent/%')`,
    'newest block deleted': `with t as (delete from embedded.transaction where block = (select max(number) from embedded.block)) select 1; delete from embedded.block where number = (select max(number) from embedded.block)`,
    'a block in the middle deleted': `delete from embedded.transaction where block = ${some}; delete from embedded.block where number = ${some}`,
    'all deleted': `delete from embedded.transaction; delete from embedded.state; delete from embedded.block`,
    'a permission row forged': `update projection.clause set rights = '{read,upload,share}'`,
    'a period made longer': `update projection.clause set period_end = null, data_start = null`,
    'a clause more': `insert into projection.clause select inst, pat, grantor, grantee, category, n + 9, 'permit', rights, purposes, null, null, null, null, consent, false from projection.clause limit 1`,
    'a role raised': `update projection.member set role = 'privacy-officer' where role = 'clinician'`,
    'a withdrawal undone': `update projection.document set withdrawn = not withdrawn where doc = (select min(doc) from projection.document)`,
    'an entry taken out': `delete from projection.entry where doc = (select min(doc) from projection.entry)`,
    'a patient let in': `update projection.patient set status = 'erased' where pat = '${alice}'`,
  });
  class Undo extends Error {}
  const missed: string[] = [];
  for (const [what, text] of Object.entries(attacks)) {
    await database
      .transaction(async (tx) => {
        let changed = 0;
        for (const statement of text.split('; '))
          changed += (await tx.query(sql`${raw(`${statement} ${/^(update|insert|delete)/.test(statement) ? 'returning 1' : ''}`)}`)).length;
        assert.ok(changed > 0, `${what} changes nothing`);
        const report = await verifyLedger({ database: { ...database, transaction: (work) => work(tx) }, tipFile });
        if (report.ok) missed.push(what);
        throw new Undo();
      })
      .catch((error: unknown) => {
        if (!(error instanceof Undo)) throw error;
      });
  }
  assert.deepEqual(missed, []);
  assert.ok((await verifyLedger({ database, tipFile })).ok, 'the undoing is not whole');

  // And once for good, by the command that a person runs.
  await database.query(sql`delete from embedded.transaction where block = (select max(number) from embedded.block)`);
  await database.query(sql`delete from embedded.block where number = (select max(number) from embedded.block)`);
  await database.close();
  await postgres.stop();
  const cli = await site.cli('ledger', 'verify', '--json');
  assert.equal(cli.code, 1, cli.err);
  assert.match(cli.out, /was handed out and is missing/);
  const start = await site.cli('status');
  assert.equal(start.code, 1, 'a server starts on a ledger whose newest block is missing');
  assert.match(start.err, /LEDGER_/);
});
