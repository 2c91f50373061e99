import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { after, describe, test } from 'node:test';
import express from 'express';
import { pino } from 'pino';
import { Counter, Registry } from 'prom-client';
import request from 'supertest';
import { CodedError, ERRORS, type ErrorCode } from '../../src/errors.ts';
import { createHttpApp } from '../../src/http/app.ts';
import { createHealth } from '../../src/http/health.ts';
import { errorAnswer } from '../../src/http/outcome.ts';
import { createHttpServer, type HttpServer } from '../../src/http/server.ts';

const servers: HttpServer[] = [];
after(async () => {
  for (const server of servers) await server.close(0);
});
async function listen(router: express.Router, options: Partial<Parameters<typeof createHttpServer>[0]> = {}): Promise<HttpServer> {
  const server = await createHttpServer({
    handler: createHttpApp({ mounts: [['/', router]], logger: pino({ level: 'silent' }) }),
    port: 0,
    ...options,
  });
  servers.push(server);
  return server;
}

describe('server', () => {
  test('listens on loopback, and refuses a port that is taken', async () => {
    const server = await listen(express.Router());
    assert.match(server.url, /^http:\/\/127\.0\.0\.1:\d+$/);
    await assert.rejects(listen(express.Router(), { port: server.port }), /EADDRINUSE/);
    const response = await fetch(`${server.url}/nowhere`);
    assert.equal(response.status, 404);
    assert.equal(((await response.json()) as { resourceType: string }).resourceType, 'OperationOutcome');
  });
  test('close lets a request in flight finish, and cuts what outlives the deadline', async () => {
    const router = express.Router();
    let release = (): void => {};
    let arrived = (): void => {};
    const waiting = (): Promise<void> => new Promise((resolve) => (arrived = resolve));
    router.get('/slow', async (_req, res) => {
      await new Promise<void>((resolve) => {
        release = resolve;
        arrived();
      });
      res.end('done');
    });
    const first = await listen(router);
    let here = waiting();
    const slow = fetch(`${first.url}/slow`);
    await here;
    const closing = first.close(5000);
    await assert.rejects(fetch(`${first.url}/slow`), 'no new connection');
    release();
    assert.equal(await (await slow).text(), 'done');
    await closing;

    const second = await listen(router);
    here = waiting();
    const cut = fetch(`${second.url}/slow`).then(
      () => 'answered',
      () => 'cut',
    );
    await here;
    await second.close(50);
    assert.equal(await cut, 'cut');
    release();
    await second.close(50);
  });
  test('a broken or oversized request gets an OperationOutcome', async () => {
    const server = await listen(express.Router(), { maxHeaderBytes: 2048 });
    assert.match(await rawRequest(server.port, 'NONSENSE\r\n\r\n'), /^HTTP\/1\.1 400 [^]*OperationOutcome/);
    assert.match(
      await rawRequest(server.port, `GET / HTTP/1.1\r\nHost: x\r\nX-Long: ${'a'.repeat(4000)}\r\n\r\n`),
      /^HTTP\/1\.1 413 [^]*TOO_LARGE/,
    );
  });
});

describe('app', () => {
  const observed: { route: string; status: number }[] = [];
  const router = express.Router();
  router.get('/thing/:id', (_req, res) => res.end('ok'));
  router.get('/error/:code', (req) => {
    throw new CodedError(req.params.code as ErrorCode, { diagnostics: 'said' });
  });
  router.get('/half', (_req, res) => {
    res.write('half');
    throw new Error('too late');
  });
  const app = createHttpApp({
    mounts: [['/api', router]],
    logger: pino({ level: 'silent' }),
    requestsPerMinute: 1000,
    onRequest: (one) => observed.push(one),
  });

  test('every row of the error table leaves as its status', async () => {
    for (const [code, row] of Object.entries(ERRORS)) {
      const response = await request(app).get(`/api/error/${code}`);
      assert.equal(response.status, row.status, code);
      assert.equal(response.body.issue[0].code, row.issue, code);
      assert.equal(response.body.issue[0].details.text, row.text);
      // What went wrong inside is for the log.
      assert.equal(response.body.issue[0].diagnostics, row.status < 500 ? 'said' : undefined, code);
      if (row.status === 429 || row.status === 503) assert.ok(Number(response.headers['retry-after']) > 0, code);
    }
  });
  test('request ids, headers, metrics by route', async () => {
    observed.length = 0;
    const response = await request(app).get('/api/thing/secret-42?name=x').set('X-Request-Id', 'abc-1').expect(200);
    assert.equal(response.headers['x-request-id'], 'abc-1');
    assert.equal(response.headers['etag'], undefined);
    assert.equal(response.headers['x-powered-by'], undefined);
    assert.equal(response.headers['x-content-type-options'], 'nosniff');
    assert.equal(response.headers['content-security-policy'], "default-src 'none';frame-ancestors 'none'");
    const other = await request(app).get('/api/thing/1').set('X-Request-Id', 'bad id <script>').expect(200);
    assert.match(other.headers['x-request-id'] ?? '', /^req-[a-z2-7]{26}$/);
    await new Promise((done) => setImmediate(done));
    assert.deepEqual(
      observed.map(({ route, status }) => ({ route, status })),
      [
        { route: '/api/thing/:id', status: 200 },
        { route: '/api/thing/:id', status: 200 },
      ],
    );
  });
  test('an error after the first byte cuts the answer: a truncated one never looks whole', async () => {
    await assert.rejects(request(app).get('/api/half'));
  });
  test('parser errors without a code of ours keep their class', () => {
    assert.equal(errorAnswer({ status: 400, type: 'encoding.unsupported' }).code, 'BAD_REQUEST');
    assert.equal(errorAnswer(new TypeError('x')).status, 500);
    assert.equal(errorAnswer(undefined).code, 'INTERNAL');
  });
});

test('health: alive, ready, metrics, draining', async () => {
  const metrics = new Registry();
  new Counter({ name: 'things_total', help: 'things', registers: [metrics] }).inc(3);
  let database: () => Promise<string | undefined> = async () => undefined;
  let alarm: string | undefined;
  const health = createHealth({
    checks: new Map([['database', () => database()]]),
    notes: new Map([['alarms', async () => alarm]]),
    metrics,
    timeoutMs: 30,
  });
  const call = (path: string) => request(health.handler as never).get(path);
  await call('/livez').expect(200);
  assert.deepEqual((await call('/readyz').expect(200)).body, { ready: true, checks: { database: 'ok' }, notes: {} });
  alarm = 'projection: 1';
  assert.deepEqual((await call('/readyz').expect(200)).body, {
    ready: true,
    checks: { database: 'ok' },
    notes: { alarms: 'projection: 1' },
  });
  assert.match((await call('/metrics').expect(200)).text, /things_total 3/);
  await call('/other').expect(404);
  database = async () => 'too old';
  assert.deepEqual((await call('/readyz').expect(503)).body.checks, { database: 'too old' });
  database = () => Promise.reject(new Error('secret'));
  assert.deepEqual((await call('/readyz').expect(503)).body.checks, { database: 'failed' });
  database = () => new Promise(() => {});
  assert.deepEqual((await call('/readyz').expect(503)).body.checks, { database: 'timed out' });
  database = async () => undefined;
  health.drain();
  await call('/readyz').expect(503);
  await call('/livez').expect(200);
});

function rawRequest(port: number, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let answer = '';
    const socket = connect(port, '127.0.0.1', () => socket.write(text));
    socket.setEncoding('utf8').on('data', (chunk: string) => (answer += chunk));
    socket.on('close', () => resolve(answer)).on('error', reject);
  });
}
