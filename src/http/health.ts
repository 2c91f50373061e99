import type { RequestListener } from 'node:http';
import type { Registry } from 'prom-client';

export interface HealthOptions {
  /** Each part that must work for the server to be of use; rejects or says why not. Text free of patient data. */
  checks: ReadonlyMap<string, () => Promise<string | undefined>>;
  /** What a person must look at although the server is of use: said beside the checks, and no reason to be not ready. */
  notes?: ReadonlyMap<string, () => Promise<string | undefined>>;
  metrics: Registry;
  /** Longest that one check may take. */
  timeoutMs?: number;
}

export interface Health {
  /** `GET /livez`, `/readyz`, `/metrics`: for a loopback listener of its own, apart from the facade. */
  handler: RequestListener;
  /** From now on not ready: the first step of stopping. */
  drain(): void;
}

export function createHealth(options: HealthOptions): Health {
  let draining = false;
  const askAll = (questions: HealthOptions['checks']) =>
    Promise.all([...questions].map(async ([name, ask]) => [name, await answerOf(ask, options.timeoutMs ?? 3000)] as const));

  async function ready(): Promise<{ ready: boolean; checks: Record<string, string>; notes: Record<string, string> }> {
    const [asked, noted] = await Promise.all([askAll(options.checks), askAll(options.notes ?? new Map())]);
    const checks = Object.fromEntries(asked.map(([name, wrong]) => [name, wrong ?? 'ok']));
    if (draining) checks['server'] = 'stopping';
    const notes = Object.fromEntries(noted.flatMap(([name, note]) => (note === undefined ? [] : [[name, note]])));
    return { ready: Object.values(checks).every((text) => text === 'ok'), checks, notes };
  }
  const handler: RequestListener = (req, res) => {
    const send = (status: number, type: string, body: string): void => {
      res.writeHead(status, { 'Content-Type': type, 'Cache-Control': 'no-store', 'X-Content-Type-Options': 'nosniff' });
      res.end(req.method === 'HEAD' ? undefined : body);
    };
    const path = (req.url ?? '').split('?')[0];
    if (req.method !== 'GET' && req.method !== 'HEAD') return send(405, 'text/plain', 'method not allowed\n');
    // Alive: the loop turns. Nothing else is asked, or a slow database would get the process killed.
    if (path === '/livez') return send(200, 'text/plain', 'ok\n');
    const answer =
      path === '/readyz'
        ? ready().then((found) => send(found.ready ? 200 : 503, 'application/json', `${JSON.stringify(found)}\n`))
        : path === '/metrics'
          ? options.metrics.metrics().then((text) => send(200, options.metrics.contentType, text))
          : Promise.resolve(send(404, 'text/plain', 'not found\n'));
    answer.catch(() => send(500, 'text/plain', 'failed\n'));
  };
  return {
    handler,
    drain() {
      draining = true;
    },
  };
}

async function answerOf(check: () => Promise<string | undefined>, timeoutMs: number): Promise<string | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve('timed out'), timeoutMs);
  });
  try {
    return await Promise.race([check(), late]);
  } catch {
    return 'failed';
  } finally {
    clearTimeout(timer);
  }
}
