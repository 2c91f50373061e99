import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { after, before, beforeEach, describe, it } from 'node:test';
import { importSPKI, jwtVerify } from 'jose';
import { scopesMissing } from '../../src/adapters/fhir/authentication.ts';
import { createFhirSource } from '../../src/adapters/fhir/fhir-source.ts';
import type { AuthOptions, SourceOptions, StreamOptions } from '../../src/adapters/fhir/options.ts';
import { makeCertificate } from './certificates.ts';
import { type FixtureServer, json, outcome, startFixtureServer } from './fixture-server.ts';
import { createMemoryIntake, type MemoryIntake, pullInto } from './source-conformance.ts';

const STREAM: StreamOptions = {
  id: 'labs',
  strategy: 'last-updated',
  searches: ['Observation?category=laboratory'],
  lookbackMs: 1000,
  pageSize: 1,
  follow: { types: [], attachments: false },
};
const LIMITS = { requestsPerSecond: 5000, retryBaseMs: 1, retryCapMs: 5, maxRetries: 1, timeoutMs: 2000 };

describe('sign-in', () => {
  let server: FixtureServer;
  let tokenServer: FixtureServer;
  let valid = new Set<string>();
  let issued = 0;
  let scope: string | undefined;
  before(async () => {
    server = await startFixtureServer();
    tokenServer = await startFixtureServer();
    for (const id of ['a', 'b', 'c'])
      server.put(`{"resourceType":"Observation","id":"${id}","meta":{"versionId":"1","lastUpdated":"2026-01-01T00:00:00Z"}}`);
  });
  after(async () => {
    await server.close();
    await tokenServer.close();
  });
  beforeEach(() => {
    valid = new Set();
    issued = 0;
    scope = undefined;
    server.requests.length = 0;
    tokenServer.requests.length = 0;
    server.hook = (request, response) => {
      if (valid.has(request.headers.authorization ?? '')) return false;
      outcome(response, 401, 'login');
      return true;
    };
    tokenServer.hook = (_request, response) => {
      issued += 1;
      valid.add(`Bearer token-${issued}`);
      json(response, 200, JSON.stringify({ access_token: `token-${issued}`, token_type: 'bearer', expires_in: 3600, scope }));
      return true;
    };
  });
  const secret = (): AuthOptions => ({
    type: 'client-credentials',
    tokenUrl: `${tokenServer.origin}/connect/token`,
    clientId: 'oncobridge',
    clientSecret: 's3cret & more',
    scopes: ['system/Observation.rs', 'system/Patient.rs'],
  });
  const pull = async (auth: AuthOptions, more: Partial<SourceOptions> = {}): Promise<MemoryIntake> => {
    const source = createFhirSource({ id: 't', baseUrl: server.base, auth, limits: LIMITS, streams: [STREAM], ...more });
    const intake = createMemoryIntake();
    try {
      await pullInto(source, 'labs', intake);
      return intake;
    } finally {
      await source.close();
    }
  };

  it('client credentials go in the form body, once for a whole pull', async () => {
    assert.equal((await pull(secret())).records.size, 3);
    assert.equal(tokenServer.requests.length, 1);
    const form = new URLSearchParams(tokenServer.requests[0]?.body);
    assert.deepEqual(Object.fromEntries(form), {
      grant_type: 'client_credentials',
      client_id: 'oncobridge',
      client_secret: 's3cret & more',
      scope: 'system/Observation.rs system/Patient.rs',
    });
  });

  it('a token that ends mid-run is got anew, once (edge case 15)', async () => {
    let searches = 0;
    server.hook = (request, response) => {
      searches += 1;
      if (searches === 2) valid.clear();
      if (valid.has(request.headers.authorization ?? '')) return false;
      outcome(response, 401, 'login');
      return true;
    };
    assert.equal((await pull(secret())).records.size, 3);
    assert.equal(issued, 2);
  });

  it('401 twice stops as authentication failing and names the scopes not granted', async () => {
    scope = 'system/Patient.rs';
    server.hook = (_request, response) => {
      outcome(response, 401, 'login');
      return true;
    };
    await assert.rejects(pull(secret()), { code: 'SOURCE_AUTHENTICATION', message: /401.*not granted: system\/Observation\.rs/ });
    assert.equal(issued, 2);
    assert.equal(server.requests.length, 2);
  });

  it('a smaller grant that is enough is a warning', async () => {
    scope = 'system/Observation.read';
    const intake = await pull(secret());
    assert.deepEqual(intake.warnings, ['Scopes asked and not granted: system/Patient.rs.']);
  });

  it('a refusal of the token service is not tried again and shows no secret', async () => {
    tokenServer.hook = (_request, response) => {
      json(response, 400, '{"error":"invalid_client","error_description":"secret s3cret is wrong"}');
      return true;
    };
    await assert.rejects(pull(secret()), (error: unknown) => {
      assert.match(String(error), /SOURCE_AUTHENTICATION.*400 \(invalid_client\)/);
      assert.doesNotMatch(String(error), /s3cret/);
      return true;
    });
    assert.equal(tokenServer.requests.length, 1);
  });

  it('SMART backend services: discovery, private_key_jwt in ES384 and RS384, PEM and JWK', async () => {
    for (const algorithm of ['ES384', 'RS384'] as const) {
      const { publicKey, privateKey } =
        algorithm === 'ES384' ? generateKeyPairSync('ec', { namedCurve: 'P-384' }) : generateKeyPairSync('rsa', { modulusLength: 2048 });
      const publicPem = publicKey.export({ type: 'spki', format: 'pem' }) as string;
      for (const written of [
        privateKey.export({ type: 'pkcs8', format: 'pem' }) as string,
        JSON.stringify(privateKey.export({ format: 'jwk' })),
      ]) {
        valid.clear();
        const assertions: string[] = [];
        server.hook = (request, response, url) => {
          if (url.pathname === '/fhir/.well-known/smart-configuration') {
            assert.equal(request.headers.authorization, undefined);
            json(response, 200, JSON.stringify({ token_endpoint: `${server.origin}/token` }));
          } else if (url.pathname === '/token') {
            assertions.push(new URLSearchParams(request.body).get('client_assertion') ?? '');
            valid.add('Bearer smart');
            json(response, 200, '{"access_token":"smart","expires_in":300}');
          } else if (valid.has(request.headers.authorization ?? '')) return false;
          else outcome(response, 401, 'login');
          return true;
        };
        const intake = await pull({ type: 'smart-backend', clientId: 'me', privateKey: written, algorithm, scopes: ['system/*.rs'] });
        assert.equal(intake.records.size, 3);
        const { payload, protectedHeader } = await jwtVerify(assertions[0] ?? '', await importSPKI(publicPem, algorithm), {
          audience: `${server.origin}/token`,
          issuer: 'me',
          subject: 'me',
        });
        assert.ok(payload.jti && protectedHeader.kid);
        assert.ok((payload.exp ?? 0) - Date.now() / 1000 <= 300);
      }
    }
  });

  it('a token URL from discovery on another origin is refused; a broken key shows nothing of itself', async () => {
    server.hook = (_request, response) => {
      json(response, 200, '{"token_endpoint":"https://elsewhere.example/token"}');
      return true;
    };
    const { privateKey } = generateKeyPairSync('ec', {
      namedCurve: 'P-384',
      privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
      publicKeyEncoding: { type: 'spki', format: 'pem' },
    });
    await assert.rejects(pull({ type: 'smart-backend', clientId: 'me', privateKey, algorithm: 'ES384', scopes: [] }), {
      code: 'SOURCE_ORIGIN',
    });
    const auth: AuthOptions = {
      type: 'smart-backend',
      tokenUrl: `${server.origin}/token`,
      clientId: 'me',
      privateKey: 'not-a-key-KEYTEXT',
      algorithm: 'ES384',
      scopes: [],
    };
    await assert.rejects(pull(auth), (error: unknown) => {
      assert.match(String(error), /SOURCE_AUTHENTICATION/);
      assert.doesNotMatch(String(error), /KEYTEXT/);
      return true;
    });
  });

  it('compares scopes of SMART v1 and v2', () => {
    assert.deepEqual(scopesMissing(['system/Patient.rs'], ['system/*.read']), []);
    assert.deepEqual(scopesMissing(['system/Patient.rs'], ['system/Patient.r', 'system/Patient.s']), []);
    assert.deepEqual(scopesMissing(['system/Patient.rs', 'openid'], ['system/Patient.r', 'openid']), ['system/Patient.rs']);
    assert.deepEqual(scopesMissing(['system/Patient.rs'], ['user/Patient.rs', 'system/Patient.rs?x=1']), ['system/Patient.rs']);
    assert.deepEqual(scopesMissing(['system/Patient.read'], ['system/Patient.cruds']), []);
  });

  it('probe tells what is wrong, with stable ids and cures', async () => {
    scope = 'system/Observation.rs';
    const statement = {
      resourceType: 'CapabilityStatement',
      fhirVersion: '4.0.1',
      software: { name: 'Fixture', version: '1' },
      rest: [
        {
          mode: 'server',
          resource: [
            { type: 'Observation', interaction: [{ code: 'read' }, { code: 'search-type' }], searchParam: [{ name: 'category' }] },
          ],
        },
      ],
    };
    server.hook = (request, response, url) => {
      if (url.pathname === '/fhir/metadata') json(response, 200, JSON.stringify(statement));
      else if (!valid.has(request.headers.authorization ?? '')) outcome(response, 401, 'login');
      else if (url.pathname === '/fhir/Procedure') outcome(response, 403, 'forbidden');
      else return false;
      return true;
    };
    const streams: StreamOptions[] = [STREAM, { ...STREAM, id: 'more', searches: ['Procedure'] }];
    const source = createFhirSource({ id: 't', baseUrl: server.base, auth: secret(), limits: LIMITS, streams });
    const report = await source.probe();
    await source.close();
    assert.equal(report.software, 'Fixture 1');
    assert.equal(report.fhirVersion, '4.0.1');
    assert.deepEqual(report.problems.map(({ id }) => id).sort(), [
      'parameter-not-offered',
      'scope-missing',
      'search-refused',
      'type-not-offered',
    ]);
    for (const { text, cure } of report.problems) assert.ok(text.length > 10 && cure.length > 10 && !text.includes('Jane'));

    const nowhere = createFhirSource({ id: 't', baseUrl: 'http://127.0.0.1:9/fhir', auth: { type: 'none' }, limits: LIMITS, streams });
    assert.ok((await nowhere.probe()).problems.some(({ id }) => id === 'unreachable'));
    await nowhere.close();
  });
});

describe('TLS (edge case 16)', () => {
  const authority = makeCertificate({ commonName: 'Hospital CA', authority: true });
  const issuer = { commonName: 'Hospital CA', key: authority.key };
  const pull = async (tls: { key: string; cert: string }, caPem: string | undefined): Promise<number> => {
    const server = await startFixtureServer({ tls });
    server.put('{"resourceType":"Observation","id":"a","meta":{"versionId":"1"}}');
    const source = createFhirSource({
      id: 't',
      baseUrl: server.base,
      auth: { type: 'none' },
      tls: { caPem },
      limits: LIMITS,
      streams: [STREAM],
    });
    const intake = createMemoryIntake();
    try {
      await pullInto(source, 'labs', intake);
      return intake.records.size;
    } finally {
      await source.close();
      await server.close();
    }
  };
  it('trusts the configured authority', async () => {
    const good = makeCertificate({ commonName: 'ehr', issuer, subjectAltName: '127.0.0.1' });
    assert.equal(await pull(good, authority.cert), 1);
  });
  it('refuses an unknown authority, a wrong host name, an expired certificate', async () => {
    const good = makeCertificate({ commonName: 'ehr', issuer, subjectAltName: '127.0.0.1' });
    await assert.rejects(pull(good, undefined), { code: 'SOURCE_TLS' });
    const elsewhere = makeCertificate({ commonName: 'ehr', issuer, subjectAltName: 'other.example' });
    await assert.rejects(pull(elsewhere, authority.cert), { code: 'SOURCE_TLS', message: /ERR_TLS_CERT_ALTNAME_INVALID/ });
    const expired = makeCertificate({ commonName: 'ehr', issuer, subjectAltName: '127.0.0.1', notAfter: '2021-01-01T00:00:00' });
    await assert.rejects(pull(expired, authority.cert), { code: 'SOURCE_TLS', message: /CERT_HAS_EXPIRED/ });
  });
  it('never goes from https down to http', async () => {
    const good = makeCertificate({ commonName: 'ehr', issuer, subjectAltName: '127.0.0.1' });
    const server = await startFixtureServer({ tls: good });
    const plain = await startFixtureServer();
    server.hook = (_request, response) => {
      json(response, 200, `{"resourceType":"Bundle","link":[{"relation":"next","url":"${plain.base}/Observation"}]}`);
      return true;
    };
    const source = createFhirSource({
      id: 't',
      baseUrl: server.base,
      allowedOrigins: [plain.origin],
      auth: { type: 'none' },
      tls: { caPem: authority.cert },
      limits: LIMITS,
      streams: [STREAM],
    });
    await assert.rejects(pullInto(source, 'labs', createMemoryIntake()), { code: 'SOURCE_ORIGIN' });
    assert.equal(plain.requests.length, 0);
    await source.close();
    await server.close();
    await plain.close();
  });
});
