import { median, percentile } from './measure.ts';
import { createReader, type ReadServer, startReadServer } from './read-load.ts';
import type { Way } from './read-server.ts';
import type { BenchRow, Progress } from './row.ts';

const DOCUMENTS = 2000;
const CONCURRENCY = 16;
const WAYS: readonly Way[] = ['ours', 'plain', 'unaudited', 'unscoped'];
const ROUNDS = 9;
const REQUESTS = 800;
const PACED_SECONDS = 4;

interface Round {
  serverMs: number;
  postgresMs: number;
  seconds: number;
}

/**
 * A consented read of one FHIR resource over HTTP, beside the same express stack reading the same row unsealed, unscoped and
 * unaudited. By turns, so that a busy machine is as busy for each; CPU of server and PostgreSQL together decides.
 */
export async function benchConsentedRead({ progress }: { progress: Progress }): Promise<BenchRow[]> {
  progress(`seeding ${DOCUMENTS} documents`);
  const server = await startReadServer(DOCUMENTS);
  const reader = createReader(server, CONCURRENCY);
  try {
    progress('reading by turns');
    const rounds = await readByTurns(server, reader, WAYS, ROUNDS, REQUESTS);
    const cpu = (way: Way): number => median(rounds[way].map((round) => round.serverMs + round.postgresMs));
    const postgres = (way: Way): number => median(rounds[way].map((round) => round.postgresMs));
    const rate = (way: Way): number => median(rounds[way].map((round) => REQUESTS / round.seconds));
    progress('reading at 70 % of what it can');
    const took = await reader.pace('ours', rate('ours') * 0.7, PACED_SECONDS);

    const ratio = cpu('plain') / cpu('ours');
    const perCore = 1000 / cpu('ours');
    const scope = 1 - cpu('unscoped') / cpu('ours');
    const audit = 1 - cpu('unaudited') / cpu('ours');
    const p99 = percentile(took, 0.99);
    return [
      {
        name: 'consented read: requests per second of CPU, PostgreSQL counted',
        ours: perCore,
        baseline: 1000 / cpu('plain'),
        ratio,
        unit: 'requests per core and s',
        target: '>= 600, ratio >= 0.60',
        met: perCore >= 600 && ratio >= 0.6,
      },
      { name: 'consented read: CPU per request', ours: cpu('ours'), baseline: cpu('plain'), ratio: cpu('ours') / cpu('plain'), unit: 'ms' },
      {
        name: 'consented read: of it PostgreSQL',
        ours: postgres('ours'),
        baseline: postgres('plain'),
        ratio: postgres('ours') / postgres('plain'),
        unit: 'ms',
      },
      {
        name: `consented read: ${CONCURRENCY} at once, asked from the same machine`,
        ours: rate('ours'),
        baseline: rate('plain'),
        ratio: rate('ours') / rate('plain'),
        unit: 'requests/s',
      },
      { name: 'consented read: share of the scope', ours: scope * 100, unit: '% of CPU', target: '<= 15', met: scope <= 0.15 },
      { name: 'consented read: share of the audit', ours: audit * 100, unit: '% of CPU' },
      { name: 'consented read: p50 at 70 % load', ours: median(took), unit: 'ms' },
      { name: 'consented read: p99 at 70 % load', ours: p99, unit: 'ms', target: '<= 20', met: p99 <= 20 },
    ];
  } finally {
    reader.close();
    await server.close();
  }
}

/** Rounds of every way in turn, milliseconds of CPU per request; one round of each before anything counts. */
export async function readByTurns(
  server: ReadServer,
  reader: ReturnType<typeof createReader>,
  ways: readonly Way[],
  rounds: number,
  requests: number,
): Promise<Record<Way, Round[]>> {
  const found: Record<Way, Round[]> = { ours: [], unaudited: [], unscoped: [], plain: [] };
  // Compiled, connections opened, statements prepared and planned for good.
  for (const way of ways) await reader.flood(way, requests * 2);
  for (let round = 0; round < rounds; round += 1) {
    for (const way of ways) {
      const before = await server.cpu();
      const { seconds } = await reader.flood(way, requests);
      const after = await server.cpu();
      found[way].push({
        serverMs: (after.serverMs - before.serverMs) / requests,
        postgresMs: (after.postgresMs - before.postgresMs) / requests,
        seconds,
      });
    }
  }
  return found;
}
