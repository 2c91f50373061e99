import express, { type ErrorRequestHandler, type Express, type RequestHandler, type Router } from 'express';
import { rateLimit } from 'express-rate-limit';
import helmet from 'helmet';
import type { Logger } from 'pino';
import { CodedError } from '../errors.ts';
import { newId } from '../ids.ts';
import { errorAnswer } from './outcome.ts';

export interface HttpAppOptions {
  /** Routers by path, in order: `[['/fhir', facade.router]]`. */
  mounts: readonly (readonly [string, Router])[];
  logger: Logger;
  /** Longest request target, in bytes; search by POST takes more. */
  maxUrlBytes?: number;
  /** Requests a minute and address, before anything else is known of the client; 0: no limit. */
  requestsPerMinute?: number;
  /** As express's `trust proxy`; false: the socket's address counts. */
  trustProxy?: boolean | string;
  /** Called with errors that leave as INTERNAL. */
  onError?: (error: unknown, requestId: string) => void;
  /** One observation a request, for metrics. */
  onRequest?: (observed: { method: string; route: string; status: number; seconds: number }) => void;
}

const REQUEST_ID = /^[A-Za-z0-9._-]{1,64}$/;

/** The express stack around the routers: request ids, security headers, limits, log, and errors as OperationOutcome. */
export function createHttpApp(options: HttpAppOptions): Express {
  const app = express();
  // FHIR's ETag is the version; express would hash every body.
  app
    .set('etag', false)
    .set('query parser', false)
    .set('x-powered-by', false)
    .set('trust proxy', options.trustProxy ?? false);
  app.use(observed(options));
  app.use(
    helmet({
      contentSecurityPolicy: { useDefaults: false, directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] } },
      crossOriginResourcePolicy: { policy: 'same-site' },
    }),
  );
  const maxUrlBytes = options.maxUrlBytes ?? 8192;
  app.use((req, _res, next) => {
    if (req.originalUrl.length > maxUrlBytes) throw new CodedError('TOO_LARGE', { diagnostics: 'Search by POST instead.' });
    next();
  });
  if (options.requestsPerMinute !== undefined && options.requestsPerMinute > 0) {
    app.use(
      rateLimit({
        windowMs: 60_000,
        limit: options.requestsPerMinute,
        standardHeaders: 'draft-8',
        legacyHeaders: false,
        handler: (_req, _res, next) => next(new CodedError('THROTTLED', { retryAfterSeconds: 60 })),
      }),
    );
  }
  for (const [path, router] of options.mounts) app.use(path, router);
  app.use(() => {
    throw new CodedError('NOT_FOUND');
  });
  app.use(errorHandler(options));
  return app;
}

/** Request id, log line and metric. The log names the route's pattern, never the address: searches carry identifiers. */
function observed({ logger, onRequest }: HttpAppOptions): RequestHandler {
  return (req, res, next) => {
    const given = req.get('x-request-id');
    const requestId = given !== undefined && REQUEST_ID.test(given) ? given : newId('req');
    res.setHeader('X-Request-Id', requestId);
    const start = performance.now();
    res.once('close', () => {
      const ms = performance.now() - start;
      const route = req.route === undefined ? 'unmatched' : `${req.baseUrl}${pattern(req.route)}`;
      const line = { requestId, method: req.method, route, status: res.statusCode, ms: Math.round(ms * 10) / 10 };
      if (!res.writableFinished) logger.warn(line, 'request aborted');
      else if (res.statusCode >= 500) logger.error(line, 'request');
      else logger.info(line, 'request');
      onRequest?.({ method: req.method, route, status: res.statusCode, seconds: ms / 1000 });
    });
    next();
  };
}

function pattern(route: unknown): string {
  const { path } = route as { path?: unknown };
  return Array.isArray(path) ? String(path[0]) : typeof path === 'string' ? path : '';
}

function errorHandler({ logger, onError }: HttpAppOptions): ErrorRequestHandler {
  // Express knows an error handler by its four parameters.
  return (error: unknown, _req, res, _next) => {
    const answer = errorAnswer(error);
    const requestId = String(res.getHeader('X-Request-Id') ?? '');
    if (answer.status >= 500) {
      // An unknown error's message may quote what it choked on; its class and place say enough.
      logger.error({ requestId, code: answer.code, ...safeError(error) }, 'request failed');
      if (answer.code === 'INTERNAL') onError?.(error, requestId);
    }
    if (res.headersSent) {
      res.destroy();
      return;
    }
    for (const [name, value] of Object.entries(answer.headers)) res.setHeader(name, value);
    res.status(answer.status).setHeader('Content-Type', 'application/fhir+json; charset=utf-8');
    const body = Buffer.from(answer.body);
    res.setHeader('Content-Length', body.length);
    res.end(body);
  };
}

/** What may be logged of an error: class, code and our own stack lines, not the message. */
export function safeError(error: unknown): { error: string; at: string[] } {
  if (!(error instanceof Error)) return { error: typeof error, at: [] };
  const { code } = error as { code?: unknown };
  const cause = error.cause instanceof Error ? ` < ${error.cause.name}` : '';
  const at = (error.stack ?? '')
    .split('\n')
    .filter((line) => /^\s+at /.test(line) && !line.includes('node_modules') && !line.includes('node:'))
    .slice(0, 5)
    .map((line) => line.trim());
  return { error: `${error.name}${typeof code === 'string' ? ` ${code}` : ''}${cause}`, at };
}
