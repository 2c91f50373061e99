import { createECDH, createHash } from 'node:crypto';
import express, { type Express } from 'express';
import { importJWK, type JWK, jwtVerify } from 'jose';
import { createTokens, FORM, formOf, scopesOf, type TokenIssuer } from './aria-api.ts';
import type { Faults } from './faults.ts';
import { type FhirProfile, spoil } from './fhir-server.ts';
import type { JsonObject } from './json.ts';

const PARAMETERS = {
  Patient: ['_id', '_lastUpdated', 'identifier', 'family', 'given', 'name', 'birthdate', 'gender'],
  DiagnosticReport: ['_id', '_lastUpdated', 'patient', 'subject', 'category', 'code', 'date', 'status', 'identifier'],
  Observation: ['_id', '_lastUpdated', 'patient', 'subject', 'category', 'code', 'date', 'status', 'identifier'],
  DocumentReference: ['_id', '_lastUpdated', 'patient', 'subject', 'category', 'type', 'date', 'status', 'identifier'],
  Practitioner: ['_id', '_lastUpdated', 'identifier', 'family', 'given', 'name'],
  Organization: ['_id', '_lastUpdated', 'identifier', 'name'],
} as const;

export const EHR_SCOPES = Object.keys(PARAMETERS)
  .concat('Binary')
  .map((type) => `system/${type}.rs`);

/** A US Core server: system-wide search by `_lastUpdated`, next links that say nothing. */
export const EHR_PROFILE: FhirProfile = {
  source: 'ehr',
  path: '/fhir/r4',
  software: { name: 'Simulated EHR', version: '2026.1' },
  parameters: PARAMETERS,
  multipleValues: true,
  pageSize: { standard: 50, most: 200 },
  security: {
    service: [{ coding: [{ system: 'http://terminology.hl7.org/CodeSystem/restful-security-service', code: 'SMART-on-FHIR' }] }],
  },
  tooCostly: () => undefined,
  nextLink: (base, cursor) => `${base}?_page=${cursor}`,
  cursorOf: (query) => query.get('_page') ?? undefined,
};

/** An ES384 key pair derived from the seed: the same at every start, and no private key lies in the repository. */
export function clientKeyOf(seed: string): { privateJwk: JWK; publicJwk: JWK } {
  const ecdh = createECDH('secp384r1');
  // 47 bytes are always below the group's order.
  const d = createHash('sha384').update(`${seed} ehr client key`).digest().subarray(0, 47);
  ecdh.setPrivateKey(d);
  const point = ecdh.getPublicKey();
  const publicJwk: JWK = {
    kty: 'EC',
    crv: 'P-384',
    x: point.subarray(1, 49).toString('base64url'),
    y: point.subarray(49).toString('base64url'),
    kid: createHash('sha256').update(point).digest('base64url').slice(0, 16),
    alg: 'ES384',
    use: 'sig',
  };
  const privateJwk: JWK = { ...publicJwk, d: Buffer.concat([Buffer.from([0]), d]).toString('base64url') };
  return { privateJwk, publicJwk };
}

/** SMART Backend Services (http://hl7.org/fhir/smart-app-launch/backend-services.html): discovery and token endpoint on the server's own origin. */
export function createSmartSignIn(parts: {
  seed: string;
  clientId: string;
  publicJwk: JWK;
  faults: Faults;
  origin(): string;
}): TokenIssuer {
  const tokens = createTokens(`${parts.seed} ehr`);
  const usedAssertions = new Set<string>();
  let most: ReadonlySet<string> | undefined;
  const app: Express = express();
  app.disable('x-powered-by');
  const tokenUrl = () => `${parts.origin()}/oauth2/token`;
  app.get(`${EHR_PROFILE.path}/.well-known/smart-configuration`, (_request, response) => {
    response.json({
      token_endpoint: tokenUrl(),
      grant_types_supported: ['client_credentials'],
      token_endpoint_auth_methods_supported: ['private_key_jwt'],
      token_endpoint_auth_signing_alg_values_supported: ['ES384'],
      scopes_supported: EHR_SCOPES,
      capabilities: ['client-confidential-asymmetric', 'permission-v2'],
    });
  });
  app.use('/oauth2/token', async (request, response, next) => {
    if (await spoil(parts.faults.take('ehr', 'token', request.originalUrl, 'request'), request, response, 'http://127.0.0.1:9')) return;
    next();
  });
  app.post('/oauth2/token', express.text({ type: FORM, limit: '16kb' }), async (request, response) => {
    const form = formOf(request.body);
    const answer = async (): Promise<[number, JsonObject]> => {
      if (form.get('grant_type') !== 'client_credentials') return [400, { error: 'unsupported_grant_type' }];
      const bearer = form.get('client_assertion_type') === 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer';
      if (!bearer || !(await assertionHolds(form.get('client_assertion') ?? ''))) return [401, { error: 'invalid_client' }];
      const asked = scopesOf(form);
      if (asked.length === 0) return [400, { error: 'invalid_scope' }];
      const granted = asked.filter((scope) => most?.has(scope) ?? true);
      return [200, { access_token: tokens.issue(granted), token_type: 'bearer', expires_in: 300, scope: granted.join(' ') }];
    };
    const [status, body] = await answer();
    response.status(status).set('Cache-Control', 'no-store').json(body);
  });

  return {
    app,
    authorise: tokens.authorise,
    limitScopes(scopes) {
      most = scopes && new Set(scopes);
    },
    expireTokens: tokens.expire,
    issued: tokens.issued,
  };

  /** The assertion's times are checked against the real clock: they are the client's, and have no part in the data. */
  async function assertionHolds(assertion: string): Promise<boolean> {
    try {
      const key = await importJWK(parts.publicJwk, 'ES384');
      const { payload, protectedHeader } = await jwtVerify(assertion, key, {
        algorithms: ['ES384'],
        issuer: parts.clientId,
        subject: parts.clientId,
        audience: tokenUrl(),
        requiredClaims: ['exp', 'jti'],
        clockTolerance: 30,
      });
      // At most five minutes ahead, each jti once.
      if ((payload.exp ?? 0) > Date.now() / 1000 + 330 || usedAssertions.has(payload.jti ?? '')) return false;
      if (protectedHeader.kid !== undefined && protectedHeader.kid !== parts.publicJwk.kid) return false;
      usedAssertions.add(payload.jti ?? '');
      return true;
    } catch {
      return false;
    }
  }
}
