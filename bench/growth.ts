import { readByTurns } from './consented-read.ts';
import { median } from './measure.ts';
import { createReader, startReadServer } from './read-load.ts';
import type { BenchOptions, BenchRow } from './row.ts';

/** Documents that are read; the others stand around them. */
const READ = 2000;
const CONCURRENCY = 8;
const ROUNDS = 9;
const REQUESTS = 600;

/**
 * CPU of a consented read among so many documents and among many more. The runs follow one another, for two such databases do
 * not fit beside each other: the plain read of each is run by turns with it, and the cost is compared in its terms too.
 */
export async function benchGrowth({ progress, documents }: BenchOptions): Promise<BenchRow[]> {
  const few = await costAmong(documents[0], progress);
  const many = await costAmong(documents[1], progress);
  const ratio = many.ours / few.ours;
  return [
    {
      name: `growth: a consented read among ${documents[1]} documents and among ${documents[0]}`,
      ours: many.ours,
      baseline: few.ours,
      ratio,
      unit: 'ms CPU',
      target: 'ratio <= 1.3',
      met: ratio <= 1.3,
    },
    {
      name: 'growth: in plain reads of the same run',
      ours: many.ours / many.plain,
      baseline: few.ours / few.plain,
      ratio: many.ours / many.plain / (few.ours / few.plain),
      unit: 'plain reads',
    },
  ];
}

async function costAmong(documents: number, progress: BenchOptions['progress']): Promise<{ ours: number; plain: number }> {
  progress(`seeding ${documents} documents`);
  const server = await startReadServer(Math.min(READ, documents), Math.max(0, documents - READ));
  const reader = createReader(server, CONCURRENCY);
  try {
    progress('reading by turns');
    const rounds = await readByTurns(server, reader, ['ours', 'plain'], ROUNDS, REQUESTS);
    const cpu = (way: 'ours' | 'plain'): number => median(rounds[way].map((round) => round.serverMs + round.postgresMs));
    return { ours: cpu('ours'), plain: cpu('plain') };
  } finally {
    reader.close();
    await server.close();
  }
}
