import { appendFile, cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createSimulator, type Simulator, type SimulatorOptions } from '../../simulator/simulator.ts';
import { type Core, createCore } from '../../src/app/core.ts';
import { readSettings } from '../../src/cli/settings.ts';
import type { PullProgress } from '../../src/pipeline/pull.ts';
import { simulatorEnvironment } from '../simulator/environment.ts';

/** The sample configuration in a folder of its own, pointed at a simulator. */
export interface TestConfiguration {
  directory: string;
  /** The server's configuration file; paths in it are relative to it. */
  file: string;
  /** Addresses and credentials of the simulator, under the names that the configuration reads. */
  env: Record<string, string>;
  remove(): Promise<void>;
}

export async function writeConfiguration(
  simulator: Simulator,
  options: { databaseUrl?: string; server?: string } = {},
): Promise<TestConfiguration> {
  const directory = await mkdtemp(join(tmpdir(), 'oncobridge-pipeline-'));
  const config = join(directory, 'config');
  await cp(fileURLToPath(new URL('../../config', import.meta.url)), config, { recursive: true });
  const file = join(config, 'embedded.yaml');
  let text = await readFile(file, 'utf8');
  // The scratch cluster of the tests instead of a server of its own: the same program, started once.
  if (options.databaseUrl !== undefined)
    text = text.replace('database: { kind: embedded }', `database: { kind: postgres, url: "\${env:TEST_DATABASE_URL}" }`);
  text = text.replace('port: 8480', 'port: 0').replace('port: 8481', 'port: 0');
  await writeFile(file, `${text}\n${options.server ?? ''}`);
  // What a source may be asked per second is courtesy to that source, and its patience is tested elsewhere.
  for (const name of await readdir(join(config, 'sources')))
    await appendFile(join(config, 'sources', name), '\nlimits: { requestsPerSecond: 100000, attempts: 2 }\n');
  return {
    directory,
    file,
    env: {
      ...simulatorEnvironment(simulator),
      ...(options.databaseUrl === undefined ? {} : { TEST_DATABASE_URL: options.databaseUrl }),
    },
    remove: () => rm(directory, { recursive: true, force: true, maxRetries: 5 }),
  };
}

/** The whole pipeline against a simulator of its own. */
export interface PipelineWorld {
  simulator: Simulator;
  core: Core;
  /** Pulls all streams, the sources beside each other as a schedule does, files what there is and waits for the ledger. */
  pull(): Promise<Record<string, PullProgress>>;
  close(): Promise<void>;
}

export async function createPipelineWorld(
  options: { databaseUrl?: string; simulator?: SimulatorOptions; logLevel?: string; server?: string } = {},
): Promise<PipelineWorld> {
  const simulator = await createSimulator(options.simulator);
  const configuration = await writeConfiguration(simulator, options);
  const settings = await readSettings(configuration.file, { ...process.env, ...configuration.env });
  const core = await createCore({ settings, logLevel: options.logLevel ?? 'silent' });
  return {
    simulator,
    core,
    pull: () => pullAll(core),
    async close() {
      await core.close();
      await simulator.close();
      await configuration.remove();
    },
  };
}

export async function pullAll(core: Core): Promise<Record<string, PullProgress>> {
  const found: Record<string, PullProgress> = {};
  await Promise.all(
    core.sources.map(async (configured) => {
      for (const stream of configured.source.streams)
        found[`${configured.source.id}/${stream}`] = await core.pull.pullStream(configured, stream, new AbortController().signal, () => {});
    }),
  );
  await core.assembler.drain();
  await settled(core);
  return found;
}

/** Resolves when all that is filed has reached the ledger and come back. */
export async function settled(core: Core, timeoutMs = 60_000): Promise<void> {
  const until = Date.now() + timeoutMs;
  for (;;) {
    const stats = await core.outbox.stats();
    if (stats.depth === 0 && (await core.projection.height()) >= (await core.ledger.height())) return;
    if (Date.now() > until) throw new Error(`the outbox did not empty: ${JSON.stringify(stats)}`);
    await new Promise((done) => setTimeout(done, 25));
  }
}
