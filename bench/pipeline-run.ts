/**
 * One run of the pipeline in a process of its own, so that its memory can be compared with that of another run: simulator,
 * embedded default in a temporary directory, everything pulled, filed and settled on the ledger. Started by pipeline.ts.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { appendFile, cp, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { createCore } from '../src/app/core.ts';
import { readSettings } from '../src/cli/settings.ts';
import type { ConfiguredSource } from '../src/pipeline/pull.ts';
import { createRenderer } from '../src/render/renderer.ts';
import type { RenderJob } from '../src/render/worker.ts';
import { sql } from '../src/store/sql.ts';
import { collectGarbage, median, ownCpuMs, treeCpuMs } from './measure.ts';
import { tapRenderer } from './render-tap.ts';

const SAMPLE = 240;
const RENDER_ROUNDS = 3;

export interface PipelineRun {
  records: number;
  documents: number;
  /** From the pull's start until every outbox row was committed. */
  wallMs: number;
  ourCpuMs: number;
  postgresCpuMs: number;
  simulatorCpuMs: number;
  /** The same documents rendered by the same number of threads and nothing else: per document. */
  renderWallMs: number;
  renderCpuMs: number;
  /** From the source's answer until the first document stood on the ledger: at the backfill, and for one new report later. */
  firstOfBackfillMs: number;
  firstOfUpdateMs: number;
  /** After the run and a collection; and the most that was seen. */
  rssBytes: number;
  peakRssBytes: number;
  heapBytes: number;
}

const extraPatients = Number(process.argv[2] ?? 60);
const result = await run(extraPatients);
if (process.send) process.send(result);
else process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
process.disconnect?.();

async function run(extra: number): Promise<PipelineRun> {
  const directory = await mkdtemp(join(tmpdir(), 'oncobridge-bench-'));
  const tap = tapRenderer(SAMPLE);
  const simulator = await startSimulator(extra);
  try {
    await cp(fileURLToPath(new URL('../config', import.meta.url)), join(directory, 'config'), { recursive: true });
    await liftRequestLimit(join(directory, 'config', 'sources'));
    const settings = await readSettings(join(directory, 'config', 'embedded.yaml'), { ...process.env, ...simulator.env });
    const core = await createCore({ settings, logLevel: process.env['BENCH_LOG'] ?? 'error' });
    try {
      const answers: { at: number; records: number }[] = [];
      const sources = core.sources.map((source) => timed(source, answers));
      const postgresPid = Number((await readFile(join(settings.data, 'postgres', 'data', 'postmaster.pid'), 'utf8')).split('\n')[0]);
      const cpu = async () => ({
        ours: ownCpuMs(),
        postgres: (await treeCpuMs(postgresPid)) ?? 0,
        simulator: (await treeCpuMs(simulator.process.pid ?? 0)) ?? 0,
      });
      let peakRssBytes = 0;
      const watch = setInterval(() => {
        peakRssBytes = Math.max(peakRssBytes, process.memoryUsage.rss());
      }, 100);

      const pullAll = async (only?: string): Promise<number> => {
        let records = 0;
        // Sources beside each other, streams of one after the other, as the server's schedules do.
        await Promise.all(
          sources.map(async (source) => {
            for (const stream of source.source.streams) {
              if (only !== undefined && `${source.source.id}/${stream}` !== only) continue;
              const progress = await core.pull.pullStream(source, stream, new AbortController().signal, () => {});
              if (progress.error !== undefined) throw new Error(`${progress.source}/${stream}: ${progress.error}`);
              records += progress.records;
            }
          }),
        );
        await core.assembler.drain();
        while ((await core.outbox.stats()).depth > 0) await new Promise((done) => setTimeout(done, 15));
        return records;
      };

      const before = await cpu();
      const start = performance.now();
      const records = await pullAll();
      const wallMs = performance.now() - start;
      const after = await cpu();
      clearInterval(watch);
      const [count] = await core.database.query<{ n: number }>(sql`select count(*) as n from document_version`);
      const [settled] = await core.database.query<{ n: number }>(
        sql`select count(*) as n from outbox where transaction = 'recordDocuments' and state = 'committed'`,
      );
      const documents = count?.n ?? 0;
      if (documents === 0 || settled?.n !== documents) throw new Error(`${documents} documents, ${settled?.n ?? 0} on the ledger`);
      const firstOfBackfillMs = await firstDocument(core.database, answers, new Date(0));

      const later = new Date();
      answers.length = 0;
      await simulator.tell('step new-lab');
      await pullAll('ehr/labs');
      const firstOfUpdateMs = await firstDocument(core.database, answers, later);

      tap.close();
      collectGarbage();
      const { rss: rssBytes, heapUsed: heapBytes } = process.memoryUsage();
      const rendered = await renderAlone(tap.jobs(), settings.config.server.pipeline.renderThreads);
      return {
        records,
        documents,
        wallMs,
        ourCpuMs: after.ours - before.ours,
        postgresCpuMs: after.postgres - before.postgres,
        simulatorCpuMs: after.simulator - before.simulator,
        ...rendered,
        firstOfBackfillMs,
        firstOfUpdateMs,
        rssBytes,
        peakRssBytes,
        heapBytes,
      };
    } finally {
      await core.close();
    }
  } finally {
    tap.close();
    simulator.process.kill();
    await rm(directory, { recursive: true, force: true });
  }
}

/** What a source may be asked per second is courtesy to that source, and not what is measured here. */
async function liftRequestLimit(folder: string): Promise<void> {
  for (const name of await readdir(folder)) await appendFile(join(folder, name), '\nlimits: { requestsPerSecond: 100000 }\n');
}

/** The source, with the moment noted at which each of its pages was there. */
function timed({ source, classifier }: ConfiguredSource, answers: { at: number; records: number }[]): ConfiguredSource {
  return {
    classifier,
    source: {
      ...source,
      async *pull(...given: Parameters<typeof source.pull>) {
        for await (const page of source.pull(...given)) {
          answers.push({ at: Date.now(), records: page.records.length });
          yield page;
        }
      },
    },
  };
}

type Core = Awaited<ReturnType<typeof createCore>>;

/** Milliseconds from the answer that brought the last of the first settled document's records until its receipt. */
async function firstDocument(database: Core['database'], answers: readonly { at: number }[], since: Date): Promise<number> {
  const [first] = await database.query<{ settled_at: Date; received_at: Date }>(sql`
    select o.settled_at, (select max(r.received_at) from record r where r.document = d.document) as received_at
    from outbox o join document_version d on d.outbox = o.id
    where o.settled_at > ${since} and o.state = 'committed' order by o.settled_at limit 1`);
  if (first === undefined) throw new Error('no document was settled');
  // A page is stored right after it came, and its rows bear the time of that transaction.
  const brought = answers.findLast((answer) => answer.at <= first.received_at.getTime());
  return first.settled_at.getTime() - (brought?.at ?? first.received_at.getTime());
}

/** Warmed-up threads; medians of rounds over the whole sample, per document. */
async function renderAlone(jobs: readonly RenderJob[], threads: number): Promise<{ renderWallMs: number; renderCpuMs: number }> {
  const renderer = createRenderer({ threads, paper: jobs[0]?.paper ?? 'a4' });
  const all = (): Promise<unknown> => Promise.all(jobs.map((job) => renderer.render(job.document, job.attachments)));
  try {
    await all();
    const wall: number[] = [];
    const cpu: number[] = [];
    for (let round = 0; round < RENDER_ROUNDS; round += 1) {
      const [startMs, startCpu] = [performance.now(), ownCpuMs()];
      await all();
      wall.push((performance.now() - startMs) / jobs.length);
      cpu.push((ownCpuMs() - startCpu) / jobs.length);
    }
    return { renderWallMs: median(wall), renderCpuMs: median(cpu) };
  } finally {
    await renderer.close();
  }
}

async function startSimulator(
  extra: number,
): Promise<{ process: ChildProcess; env: Record<string, string>; tell(line: string): Promise<void> }> {
  const main = fileURLToPath(new URL('../simulator/main.ts', import.meta.url));
  const ports = ['--aria-port', '0', '--token-port', '0', '--ehr-port', '0'];
  const child = spawn(process.execPath, [main, '--json', '--extra', String(extra), ...ports], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const first = await lines.next();
  if (first.done === true) throw new Error('the simulator did not start');
  const { aria, ehr } = JSON.parse(first.value) as {
    aria: { baseUrl: string; tokenUrl: string; clientId: string; clientSecret: string };
    ehr: { baseUrl: string; clientId: string; privateKeyJwk: object };
  };
  return {
    process: child,
    env: {
      ARIA_FHIR_URL: aria.baseUrl,
      ARIA_TOKEN_URL: aria.tokenUrl,
      ARIA_CLIENT_ID: aria.clientId,
      ARIA_CLIENT_SECRET: aria.clientSecret,
      EHR_FHIR_URL: ehr.baseUrl,
      EHR_CLIENT_ID: ehr.clientId,
      EHR_CLIENT_KEY: JSON.stringify(ehr.privateKeyJwk),
    },
    async tell(line) {
      child.stdin.write(`${line}\n`);
      await lines.next();
    },
  };
}
