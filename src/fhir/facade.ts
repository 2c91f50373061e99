import express, { type Request, type RequestHandler, type Response, type Router } from 'express';
import { rateLimit } from 'express-rate-limit';
import { CodedError } from '../errors.ts';
import { createBinaryReader } from './binary.ts';
import { capabilityStatement, smartConfiguration } from './capability.ts';
import { createConsentWriter } from './consent.ts';
import { acceptsFhirJson } from './negotiate.ts';
import { type Answer, type Caller, DEFAULT_SETTINGS, type FacadeParts, type FacadeSettings } from './ports.ts';
import { createReader } from './read.ts';
import { createSearcher } from './search.ts';
import { SERVED_TYPES } from './served-types.ts';

export interface Facade {
  /** Mount it at the FHIR base. Errors go on to the error middleware of the server. */
  router: Router;
  /** The operations, callable without HTTP. */
  operations: ReturnType<typeof createReader> & {
    search: ReturnType<typeof createSearcher>['search'];
    readBinary: ReturnType<typeof createBinaryReader>['read'];
    createConsent: ReturnType<typeof createConsentWriter>['create'];
    updateConsent: ReturnType<typeof createConsentWriter>['update'];
  };
}

type Given = Partial<typeof DEFAULT_SETTINGS> & Pick<FacadeSettings, 'baseUrl' | 'smart' | 'software'>;

const MAX_BODY = '256kb';

/** The FHIR R4 facade (architecture section 8): handlers unpack the request and send the answer; operations do the work. */
export function createFacade(parts: FacadeParts, given: Given): Facade {
  const settings: FacadeSettings = { ...DEFAULT_SETTINGS, ...given };
  const reader = createReader(parts, settings);
  const { search } = createSearcher(parts, settings);
  const binary = createBinaryReader(parts);
  const consent = createConsentWriter(parts, settings);
  const router = express.Router({ caseSensitive: true, strict: true });

  const metadata = JSON.stringify(capabilityStatement(settings, parts.clock()));
  const smart = JSON.stringify(smartConfiguration(settings.smart));
  const open: RequestHandler = (_req, res, next) => {
    res.set('Access-Control-Allow-Origin', '*');
    next();
  };
  router.get('/metadata', open, (req, res) => {
    if (!acceptsFhirJson(req.get('accept'), formatOf(req))) throw new CodedError('NOT_ACCEPTABLE');
    send(res, { status: 200, headers: { 'Content-Type': 'application/fhir+json; charset=utf-8' }, body: metadata });
  });
  router.get('/.well-known/smart-configuration', open, (_req, res) => {
    send(res, { status: 200, headers: { 'Content-Type': 'application/json' }, body: smart });
  });

  router.use(async (req, res, next) => {
    // Before anything is looked at, for refusals as well.
    res.set('Cache-Control', 'private, no-store').set('Vary', 'Accept, Authorization');
    const requestId = requestIdOf(res);
    const token = /^Bearer ([A-Za-z0-9._~+/-]+=*)$/i.exec(req.get('authorization') ?? '')?.[1];
    if (token === undefined) throw new CodedError('UNAUTHENTICATED');
    const address = req.ip === undefined ? {} : { address: req.ip };
    try {
      const actor = await parts.verifyToken(token);
      res.locals['caller'] = { actor, requestId, now: parts.clock(), query: pathOf(req), ...address } satisfies Caller;
    } catch (error) {
      await parts.audit.record({
        interaction: 'read',
        actor: undefined,
        requestId,
        ...address,
        outcome: 'denied',
        reason: 'UNAUTHENTICATED',
        patients: [],
      });
      throw error;
    }
    next();
  });
  if (settings.requestsPerMinute > 0) {
    router.use(
      rateLimit({
        windowMs: 60_000,
        limit: settings.requestsPerMinute,
        standardHeaders: 'draft-8',
        legacyHeaders: false,
        keyGenerator: (_req, res) => callerOf(res).actor.client,
        handler: (_req, _res, next) => next(new CodedError('THROTTLED', { retryAfterSeconds: 60 })),
      }),
    );
  }
  router.use((req, _res, next) => {
    // A Binary negotiates by its own content type, once it is known that it may be read.
    if (!req.path.startsWith('/Binary/') && !acceptsFhirJson(req.get('accept'), formatOf(req))) throw new CodedError('NOT_ACCEPTABLE');
    next();
  });

  const form = express.text({ type: 'application/x-www-form-urlencoded', limit: MAX_BODY });
  router.post('/:type/_search', form, async (req, res) => {
    const type = servedType(req, 'search-type');
    if (req.is('application/x-www-form-urlencoded') === false) throw new CodedError('UNSUPPORTED_MEDIA');
    const body = typeof req.body === 'string' ? req.body : '';
    const caller = callerOf(res);
    const pairs = [...pairsOf(req), ...new URLSearchParams(body)];
    send(res, await search({ ...caller, query: `${caller.query ?? ''} ${body}` }, type, pairs, { lenient: isLenient(req) }));
  });
  router.get('/:type', async (req, res) => {
    const type = servedType(req, 'search-type');
    send(res, await search(callerOf(res), type, pairsOf(req), { lenient: isLenient(req) }));
  });
  router.get('/:type/:id', async (req, res) => {
    const type = servedType(req, 'read');
    const id = parameter(req, 'id');
    const conditions = conditionsOf(req);
    if (type !== 'Binary') return send(res, await reader.read(callerOf(res), type, id, conditions));
    send(
      res,
      await binary.read(callerOf(res), id, {
        ...conditions,
        ...present('accept', req.get('accept')),
        ...present('format', formatOf(req)),
        ...present('range', req.get('if-range') === undefined ? req.get('range') : undefined),
      }),
    );
  });
  router.get('/:type/:id/_history', async (req, res) => {
    send(res, await reader.history(callerOf(res), servedType(req, 'history-instance'), parameter(req, 'id')));
  });
  router.get('/:type/:id/_history/:version', async (req, res) => {
    const { id, version } = req.params;
    send(res, await reader.vread(callerOf(res), servedType(req, 'vread'), id, version, conditionsOf(req)));
  });

  const json = express.text({ type: ['application/fhir+json', 'application/json'], limit: MAX_BODY });
  router.post('/:type', json, async (req, res) => {
    servedType(req, 'create');
    sendWritten(req, res, await consent.create(callerOf(res), resourceBody(req)));
  });
  router.put('/:type/:id', json, async (req, res) => {
    servedType(req, 'update');
    sendWritten(req, res, await consent.update(callerOf(res), parameter(req, 'id'), resourceBody(req), req.get('if-match')));
  });
  // Whatever else is tried on a type that is served.
  router.all(['/:type', '/:type/:id', '/:type/_search'], (req, res) => {
    const served = SERVED_TYPES.get(parameter(req, 'type'));
    if (served === undefined) throw new CodedError('NOT_FOUND');
    refuseMethod(res, served.interactions);
  });

  return {
    router,
    operations: {
      ...reader,
      search,
      readBinary: binary.read,
      createConsent: consent.create,
      updateConsent: consent.update,
    },
  };
}

function servedType(req: Request, interaction: 'read' | 'vread' | 'history-instance' | 'search-type' | 'create' | 'update'): string {
  const type = parameter(req, 'type');
  const served = SERVED_TYPES.get(type);
  if (served === undefined) throw new CodedError('NOT_FOUND');
  if (!served.interactions.includes(interaction)) {
    if (req.res === undefined) throw new CodedError('METHOD_NOT_ALLOWED');
    refuseMethod(req.res, served.interactions);
  }
  return type;
}

function refuseMethod(res: Response, interactions: readonly string[]): never {
  const methods = [
    'GET',
    'HEAD',
    ...(interactions.includes('create') ? ['POST'] : []),
    ...(interactions.includes('update') ? ['PUT'] : []),
  ];
  res.set('Allow', methods.join(', '));
  throw new CodedError('METHOD_NOT_ALLOWED');
}

function send(res: Response, answer: Answer): void {
  res.status(answer.status);
  for (const [name, value] of Object.entries(answer.headers)) res.setHeader(name, value);
  if (answer.body === undefined) {
    res.end();
    return;
  }
  // As text it leaves in one write with the head.
  res.setHeader('Content-Length', Buffer.byteLength(answer.body));
  res.end(answer.body);
}

function sendWritten(req: Request, res: Response, answer: Answer): void {
  const minimal = /(^|[,;\s])return=minimal\b/.test(req.get('prefer') ?? '');
  send(res, minimal ? { ...answer, body: undefined } : answer);
}

function resourceBody(req: Request): string {
  if (typeof req.body !== 'string' || req.is(['application/fhir+json', 'application/json']) === false)
    throw new CodedError('UNSUPPORTED_MEDIA');
  return req.body;
}

function parameter(req: Request, name: string): string {
  const value = req.params[name];
  return typeof value === 'string' ? value : '';
}
function callerOf(res: Response): Caller {
  return res.locals['caller'] as Caller;
}
function requestIdOf(res: Response): string {
  return String(res.getHeader('X-Request-Id') ?? '');
}
function pathOf(req: Request): string {
  return `${req.method} ${req.url}`;
}
function pairsOf(req: Request): [string, string][] {
  const question = req.url.indexOf('?');
  return question < 0 ? [] : [...new URLSearchParams(req.url.slice(question + 1))];
}
function formatOf(req: Request): string | undefined {
  return req.url.includes('_format=') ? pairsOf(req).find(([name]) => name === '_format')?.[1] : undefined;
}
function isLenient(req: Request): boolean {
  return /(^|[,;\s])handling=lenient\b/.test(req.get('prefer') ?? '');
}
function conditionsOf(req: Request): { ifNoneMatch?: string; ifModifiedSince?: string } {
  return { ...present('ifNoneMatch', req.get('if-none-match')), ...present('ifModifiedSince', req.get('if-modified-since')) };
}
function present<K extends string>(name: K, value: string | undefined): { [P in K]?: string } {
  return (value === undefined ? {} : { [name]: value }) as { [P in K]?: string };
}
