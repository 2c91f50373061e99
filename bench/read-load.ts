import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { Agent, get } from 'node:http';
import { fileURLToPath } from 'node:url';
import { random, treeCpuMs } from './measure.ts';
import type { ReadServerReady, Way } from './read-server.ts';

export interface ReadServer extends ReadServerReady {
  /** CPU milliseconds so far of the server and of its PostgreSQL. */
  cpu(): Promise<{ serverMs: number; postgresMs: number }>;
  close(): Promise<void>;
}

/** Starts read-server.ts over so many documents, and so many more that nobody opens. */
export async function startReadServer(documents: number, filler = 0): Promise<ReadServer> {
  const child: ChildProcess = fork(fileURLToPath(new URL('./read-server.ts', import.meta.url)), [String(documents), String(filler)]);
  const ended = once(child, 'exit');
  const next = async (): Promise<unknown> => {
    const [message] = (await Promise.race([
      once(child, 'message'),
      ended.then(() => Promise.reject(new Error('the server of the bench ended'))),
    ])) as [unknown];
    return message;
  };
  const ready = (await next()) as ReadServerReady;
  return {
    ...ready,
    async cpu() {
      const answer = next();
      child.send('cpu');
      return { serverMs: (await answer) as number, postgresMs: (await treeCpuMs(ready.postgresPid)) ?? 0 };
    },
    async close() {
      child.send('stop');
      await ended;
    },
  };
}

/** Reads rows at random; every answer is looked at. */
export function createReader(
  server: ReadServerReady,
  concurrency: number,
): {
  /** So many requests, as fast as they are answered. */
  flood(way: Way, requests: number): Promise<{ seconds: number }>;
  /** Requests at this rate, whatever the answers do; milliseconds of each. */
  pace(way: Way, perSecond: number, seconds: number): Promise<number[]>;
  close(): void;
} {
  const agent = new Agent({ keepAlive: true, maxSockets: concurrency });
  const draw = random(5);
  const one = (way: Way): Promise<void> => {
    const name = server.readable[Math.floor(draw() * server.readable.length)] ?? '';
    return new Promise((resolve, reject) => {
      const request = get(
        `${server.urls[way]}/fhir/${name}`,
        { agent, headers: { authorization: `Bearer ${server.token}` } },
        (response) => {
          let bytes = 0;
          response.on('data', (chunk: Buffer) => (bytes += chunk.length));
          response.on('end', () => {
            if (response.statusCode === 200 && bytes > 100) resolve();
            else reject(new Error(`${way} answered ${response.statusCode} with ${bytes} bytes`));
          });
          response.on('error', reject);
        },
      );
      request.on('error', reject);
    });
  };
  return {
    async flood(way, requests) {
      const start = performance.now();
      let left = requests;
      await Promise.all(
        Array.from({ length: concurrency }, async () => {
          while (left > 0) {
            left -= 1;
            await one(way);
          }
        }),
      );
      return { seconds: (performance.now() - start) / 1000 };
    },
    async pace(way, perSecond, seconds) {
      const took: number[] = [];
      const running = new Set<Promise<void>>();
      const start = performance.now();
      for (let sent = 0; sent < perSecond * seconds; ) {
        // Counted from when it was due, so that a server that stalls is not spared the requests that it kept waiting.
        const due = start + (sent * 1000) / perSecond;
        if (performance.now() < due) {
          await new Promise((done) => setTimeout(done, Math.max(0, due - performance.now())));
          continue;
        }
        sent += 1;
        const running1 = one(way).then(() => void took.push(performance.now() - due));
        running.add(running1);
        void running1.finally(() => running.delete(running1)).catch(() => {});
      }
      await Promise.all(running);
      return took;
    },
    close: () => agent.destroy(),
  };
}
