import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { PipelineRun } from './pipeline-run.ts';
import type { BenchOptions, BenchRow } from './row.ts';

/** Records of the memory target; shorter runs are printed without a verdict, for they have hardly warmed up. */
const ENOUGH_RECORDS = 10_000;

/**
 * Record to receipt on the embedded default, in two runs of different length: throughput beside that of rendering the same
 * documents alone, CPU by process, how soon the first document stands on the ledger, and how memory grows.
 */
export async function benchPipeline({ progress, patients }: BenchOptions): Promise<BenchRow[]> {
  progress(`${patients[0]} generated patients`);
  const short = await runApart(patients[0]);
  progress(`${patients[1]} generated patients`);
  const long = await runApart(patients[1]);

  const perSecond = (long.documents / long.wallMs) * 1000;
  const renderPerSecond = 1000 / long.renderWallMs;
  const cpuMs = (long.ourCpuMs + long.postgresCpuMs) / long.documents;
  const size = `${long.records} records, ${long.documents} documents`;
  const grown = (long.rssBytes - short.rssBytes) / 1e6 / ((long.records - short.records) / 1000);
  const rssRatio = long.rssBytes / short.rssBytes;
  return [
    {
      name: `pipeline, ${size}`,
      ours: perSecond,
      baseline: renderPerSecond,
      ratio: perSecond / renderPerSecond,
      unit: 'documents/s (baseline: rendering alone)',
      target: '>= 20, ratio >= 0.60',
      met: perSecond >= 20 && perSecond / renderPerSecond >= 0.6,
    },
    {
      name: 'pipeline: CPU per document, PostgreSQL counted',
      ours: cpuMs,
      baseline: long.renderCpuMs,
      ratio: long.renderCpuMs / cpuMs,
      unit: 'ms CPU (baseline: rendering alone)',
    },
    { name: 'pipeline: of it PostgreSQL', ours: long.postgresCpuMs / long.documents, unit: 'ms CPU' },
    { name: 'pipeline: the simulator beside it', ours: long.simulatorCpuMs / long.documents, unit: 'ms CPU' },
    {
      name: 'pipeline: first document of a backfill on the ledger',
      ours: long.firstOfBackfillMs,
      unit: 'ms after the answer',
      target: '<= 1000',
      met: long.firstOfBackfillMs <= 1000,
    },
    {
      name: 'pipeline: one new report on the ledger',
      ours: long.firstOfUpdateMs,
      unit: 'ms after the answer',
      target: '<= 1000',
      met: long.firstOfUpdateMs <= 1000,
    },
    {
      name: `pipeline: memory at ${long.records} and ${short.records} records`,
      ours: long.rssBytes / 1e6,
      baseline: short.rssBytes / 1e6,
      ratio: rssRatio,
      unit: `MB RSS; ${grown.toFixed(1)} MB more per 1000 records`,
      target: 'flat',
      ...(short.records >= ENOUGH_RECORDS ? { met: rssRatio <= 1.1 } : {}),
    },
    {
      name: 'pipeline: most memory',
      ours: long.peakRssBytes / 1e6,
      baseline: short.peakRssBytes / 1e6,
      ratio: long.peakRssBytes / short.peakRssBytes,
      unit: 'MB RSS',
    },
    {
      name: 'pipeline: cost per record, long run against short',
      ours: (long.ourCpuMs + long.postgresCpuMs) / long.records,
      baseline: (short.ourCpuMs + short.postgresCpuMs) / short.records,
      ratio: (long.ourCpuMs + long.postgresCpuMs) / long.records / ((short.ourCpuMs + short.postgresCpuMs) / short.records),
      unit: 'ms CPU per record',
      target: 'ratio <= 1.3',
      met: (long.ourCpuMs + long.postgresCpuMs) / long.records / ((short.ourCpuMs + short.postgresCpuMs) / short.records) <= 1.3,
    },
  ];
}

async function runApart(patients: number): Promise<PipelineRun> {
  // With the environment that bin/oncobridge gives its process.
  const env = { MALLOC_ARENA_MAX: '2', ...process.env };
  const child = fork(fileURLToPath(new URL('./pipeline-run.ts', import.meta.url)), [String(patients)], { env });
  return new Promise((resolve, reject) => {
    let result: PipelineRun | undefined;
    child.on('message', (message) => {
      result = message as PipelineRun;
    });
    child.on('error', reject);
    child.on('exit', (code, signal) => {
      if (result !== undefined) resolve(result);
      else reject(new Error(`the run of ${patients} patients ended with ${signal ?? code}`));
    });
  });
}
