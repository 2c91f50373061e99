import { createHash, timingSafeEqual } from 'node:crypto';
import express, { type Express } from 'express';
import type { Faults } from './faults.ts';
import { type Authorise, type FhirProfile, outcome, spoil } from './fhir-server.ts';
import { type JsonObject, jsonText } from './json.ts';
import { DOCUMENT_TYPES } from './stories/notes.ts';

/** Which searches the ARIA API takes (aria-and-oncology.md section 2.1): `_lastUpdated` on Appointment only. */
const PARAMETERS = {
  Patient: ['_id', 'identifier', 'family', 'given', 'birthdate', 'gender', 'active'],
  Procedure: ['_id', 'category', 'code', 'date', 'patient', 'subject', 'status'],
  ServiceRequest: ['_id', 'category', 'code', 'intent', 'patient', 'subject', 'status'],
  BodyStructure: ['_id', 'patient', 'identifier'],
  DocumentReference: ['_id', 'patient', 'date', 'type', 'status', 'doc-status', 'identifier'],
  Observation: ['_id', 'category', 'code', 'date', 'patient', 'status'],
  Appointment: ['_id', '_lastUpdated', 'patient', 'date', 'status'],
  Practitioner: ['_id', 'identifier', 'family', 'given', 'name'],
  Organization: ['_id', 'identifier', 'name', 'active'],
} as const;

const DIRECTORY = new Set(['Practitioner', 'Organization']);

/** Scopes that the client's API key file allows. */
export const ARIA_SCOPES = [...Object.keys(PARAMETERS), 'Binary', 'ValueSet'].map((type) => `system/${type}.rs`);

/** The ARIA API: HAPI habits, cost guard, `ValueSet/$expand` of the local document types. */
export const ARIA_PROFILE: FhirProfile = {
  source: 'aria',
  path: '/fhir/r4',
  software: { name: 'ARIA API (simulated)', version: '1.0.0' },
  parameters: PARAMETERS,
  multipleValues: false,
  pageSize: { standard: 20, most: 50 },
  security: {
    service: [{ coding: [{ system: 'http://terminology.hl7.org/CodeSystem/restful-security-service', code: 'OAuth' }] }],
    description: 'OAuth 2.0 client credentials; the token service is another endpoint.',
  },
  tooCostly(type, query) {
    if (query.has('_id') || DIRECTORY.has(type)) return undefined;
    if (!query.has('_count')) return 'The search is too costly: _count is required.';
    if (query.has('_total') && query.get('_total') !== 'none') return 'The search is too costly: only _total=none is supported.';
    const scoped = query.has('patient') || query.has('subject') || (type === 'Patient' && (query.has('identifier') || query.has('family')));
    if (scoped || (type === 'Appointment' && (query.has('_lastUpdated') || query.has('date')))) return undefined;
    return `The search is too costly: scope ${type} by patient.`;
  },
  // The form of HAPI's paging links; the search behind them is remembered, not repeated.
  nextLink: (base, cursor) => `${base}?_getpages=${cursor}&_bundletype=searchset`,
  cursorOf: (query) => query.get('_getpages') ?? undefined,
  operation(path, request, response) {
    if (path !== 'ValueSet/$expand') return false;
    response.setHeader('Content-Type', 'application/fhir+json; charset=utf-8');
    const url = typeof request.query.url === 'string' ? request.query.url : '';
    if (url !== 'http://varian.com/fhir/ValueSet/documentreference-type') {
      response.status(404).end(jsonText(outcome('not-found', 'Unknown value set.')));
      return true;
    }
    const contains = Object.values(DOCUMENT_TYPES).map(({ code, display }) => ({
      system: 'http://varian.com/fhir/CodeSystem/DocumentReference/documentreference-type',
      code,
      display,
    }));
    response
      .status(200)
      .end(jsonText({ resourceType: 'ValueSet', status: 'active', url, expansion: { total: contains.length, contains } }));
    return true;
  },
};

export interface TokenIssuer {
  app: Express;
  authorise: Authorise;
  /** Grants at most these scopes from now on; undefined: all that are asked. */
  limitScopes(scopes: readonly string[] | undefined): void;
  /** Every token handed out so far counts for nothing. */
  expireTokens(): void;
  /** How many tokens were handed out. */
  issued(): number;
}

/** A grant from scopes in SMART v2 (`system/X.rs`) and v1 (`system/X.read`) form. */
function grantOf(scopes: readonly string[]): (type: string, right: 'r' | 's') => boolean {
  return (type, right) =>
    scopes.some((scope) => {
      const parts = /^(?:system|user)\/([A-Za-z]+|\*)\.([a-z*]+)$/.exec(scope);
      if (!parts || (parts[1] !== type && parts[1] !== '*')) return false;
      const rights = parts[2] ?? '';
      return rights === '*' || rights === 'read' || (/^c?r?u?d?s?$/.test(rights) && rights.includes(right));
    });
}

/** Tokens: opaque, remembered by hash, refused once expired by control. */
export function createTokens(seed: string): {
  issue(scopes: readonly string[]): string;
  authorise: Authorise;
  expire(): void;
  issued(): number;
} {
  const live = new Map<string, ReturnType<typeof grantOf>>();
  let issued = 0;
  return {
    issue(scopes) {
      const token = createHash('sha256').update(`${seed} token ${issued++}`).digest('base64url');
      live.set(token, grantOf(scopes));
      return token;
    },
    authorise: (authorization) => live.get(/^Bearer (\S+)$/.exec(authorization ?? '')?.[1] ?? ''),
    expire: () => live.clear(),
    issued: () => issued,
  };
}

/** The token service on a port of its own: client credentials with the secret in the form body. */
export function createAriaTokenService(parts: { seed: string; clientId: string; clientSecret: string; faults: Faults }): TokenIssuer {
  const tokens = createTokens(`${parts.seed} aria`);
  let most: ReadonlySet<string> | undefined;
  const app = express();
  app.disable('x-powered-by');
  app.use(async (request, response, next) => {
    if (await spoil(parts.faults.take('aria', 'token', request.originalUrl, 'request'), request, response, 'http://127.0.0.1:9')) return;
    next();
  });
  app.post('/tokenservice/connect/token', express.text({ type: FORM, limit: '16kb' }), (request, response) => {
    const form = formOf(request.body);
    const answer = (): [number, JsonObject] => {
      if (form.get('grant_type') !== 'client_credentials') return [400, { error: 'unsupported_grant_type' }];
      const secret = form.get('client_secret') ?? '';
      if (form.get('client_id') !== parts.clientId || !equal(secret, parts.clientSecret)) return [401, { error: 'invalid_client' }];
      const asked = scopesOf(form);
      const known = grantOf(ARIA_SCOPES);
      const legal = asked.filter((scope) => known(/^(?:system|user)\/([A-Za-z]+)\./.exec(scope)?.[1] ?? '', 'r'));
      if (asked.length === 0 || legal.length < asked.length) return [400, { error: 'invalid_scope' }];
      const granted = asked.filter((scope) => most?.has(scope) ?? true);
      return [200, { access_token: tokens.issue(granted), token_type: 'Bearer', expires_in: 3600, scope: granted.join(' ') }];
    };
    const [status, body] = answer();
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
}

export const FORM = 'application/x-www-form-urlencoded';

/** The fields of a form body as express.text left it. */
export function formOf(body: unknown): URLSearchParams {
  return new URLSearchParams(typeof body === 'string' ? body : '');
}
export function scopesOf(form: URLSearchParams): string[] {
  return (form.get('scope') ?? '').split(' ').filter((scope) => scope !== '');
}

function equal(given: string, wanted: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(given), digest(wanted));
}
