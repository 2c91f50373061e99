/**
 * `npm run demo`: the embedded default against the simulator, pulled, filed and read over real HTTP, told as a story; with
 * `--fabric` the production configuration on a Fabric network of three institutions. Exits 0 where every step went as it must;
 * `--keep` leaves everything running.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { createApp } from '../src/app.ts';
import { startControlServer } from '../src/cli/control-server.ts';
import { createProgress } from '../src/cli/progress.ts';
import { controlFile } from '../src/cli/run.ts';
import { readSettings, shown } from '../src/cli/settings.ts';
import { CodedError } from '../src/errors.ts';
import { isReason, REASONS } from '../src/records/reasons.ts';
import { copyConfig } from './demo-config.ts';
import { exportDocuments } from './demo-export.ts';
import { createStory, type Persons, receiptLine, tellStory } from './demo-story.ts';
import { createSimulator } from './simulator.ts';

const { values } = parseArgs({
  options: {
    output: { type: 'string', default: 'demo-output' },
    fabric: { type: 'boolean', default: false },
    institutions: { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
});
if (values.help) {
  process.stdout.write(
    [
      'Usage: npm run demo [-- --fabric | --institutions] [-- --output <folder>] [-- --keep]',
      '',
      '  --fabric        config/production.yaml on Redis and a Hyperledger Fabric network of three institutions',
      '  --institutions  three institutions on that network, each with an oncobridge of its own, and a patient who shares',
      '  --output        where the PDFs go (demo-output)',
      '  --keep          leave everything running and say how to call it',
      '',
      'Example:',
      '  $ npm run demo -- --fabric --keep',
      '',
    ].join('\n'),
  );
  process.exit(0);
}

const output = resolve(values.output);
const run = join(output, '.run');
// Loaded where it is wanted only: it brings gRPC and the network's own tools.
const fabric = values.fabric ? await import('./demo-fabric.ts') : undefined;
if (values.institutions) {
  const { runInstitutionsDemo } = await import('./demo-institutions.ts');
  process.exit(await runInstitutionsDemo({ output, keep: values.keep }));
}
await fabric?.endLeftNetwork(run);
rmSync(output, { recursive: true, force: true });
mkdirSync(run, { recursive: true, mode: 0o700 });

/** What the machine lacks is for its user to install: no stack. */
const isMissing = (error: unknown): error is CodedError =>
  error instanceof CodedError && ['FABRIC_MISSING', 'FABRIC_BUILD'].includes(error.code);

const story = createStory(process.stdout);
const started = Date.now();
story.title(
  `oncobridge: ${fabric === undefined ? 'the embedded default' : 'the production configuration on Hyperledger Fabric'} and a simulated department`,
);

const simulator = await createSimulator();
story.line('The department is two servers on this machine, with synthetic patients:');
story.line(`  aria  the radiotherapy information system, ${simulator.aria.baseUrl}: courses and notes`);
story.line(`  ehr   the hospital's record, ${simulator.ehr.baseUrl}: laboratory results and notes`);
const site = await fabric?.startFoundedSite({ run, simulator, story }).catch(async (error: unknown) => {
  await simulator.close();
  if (!isMissing(error)) throw error;
  rmSync(output, { recursive: true, force: true });
  process.stderr.write(`${error.message}\n`);
  process.exit(69);
});
// The sample configuration as it ships, with a data folder of the demo's own and free ports.
const config = site?.config ?? copyConfig({ run, sample: 'embedded.yaml', simulator });
const settings = await readSettings(config);
if (settings.notice !== undefined) story.line(settings.notice);
const app = await createApp({ settings, serve: true, logLevel: 'fatal', schedule: false }).catch(async (error: unknown) => {
  await simulator.close();
  await site?.close();
  throw error;
});
story.line(
  `oncobridge is up after ${((Date.now() - started) / 1000).toFixed(1)} s, with a PostgreSQL of its own. Its FHIR R4 API: ${app.facadeUrl}`,
);
const closeAll = async (): Promise<void> => {
  await app.close();
  await simulator.close();
  await site?.close();
};
const interrupted = (): void => void closeAll().finally(() => process.exit(130));
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, interrupted);

let failed = false;
let persons: Persons | undefined;
try {
  story.title('Pull: what is new comes in, is classified, filed as PDF, sealed, and entered on the ledger');
  const pulled = await app.operations.pull({}, createProgress(process.stdout));
  await app.settled();
  const status = await app.operations.status({});
  story.line('  taken: goes into a document. skip: left out, for a reason that is kept. quarantine: held, sealed, until it is put right.');
  story.line('  known: this version is stored already: a later stream meets again what an earlier one brought (patients, staff).');
  story.line('  A page is one answer of the source; a course is read patient by patient.');
  story.line(
    `${pulled.filed} documents are filed and entered on the ledger, ${status.ledger.height} blocks. Consensus: ${status.ledger.consensus}.`,
  );
  story.line((await receiptLine(app, 'recordDocuments')).trim());
  story.table(
    'What became of each record',
    Object.entries(status.records).map(([outcome, count]) => [String(count), outcome.padEnd(34), meaningOf(outcome)]),
  );
  story.table(
    'Held in quarantine',
    (await app.operations.quarantineList({})).map((group) => [
      String(group.count),
      `${group.type}, ${group.source}/${group.stream}`.padEnd(34),
      group.reason,
    ]),
  );

  persons = await tellStory({ app, story });

  story.title('The documents');
  const files = await exportDocuments(app, output);
  story.line(`${files.length} PDFs, each with its FHIR data inside, lie in ${shown(output)}/, for example ${files[0] ?? ''}.`);
} catch (error) {
  failed = true;
  story.line(`THE DEMO FAILED: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
}

if (values.keep && !failed) {
  const control = await startControlServer({
    file: controlFile(settings.data),
    facade: app.facadeUrl,
    onError: (error) => story.line(`An operation failed: ${error instanceof Error ? error.name : 'unknown'}`),
    operations: { ...app.operations, stop: async () => (setTimeout(() => void stop(), 50), { pid: process.pid }) },
  });
  const stop = async (): Promise<void> => {
    await control.close();
    await closeAll();
  };
  for (const signal of ['SIGINT', 'SIGTERM']) {
    process.off(signal, interrupted);
    process.once(signal, () => void stop());
  }
  const command = `bin/oncobridge --config ${shown(config)}`;
  story.title('Left running (Ctrl-C ends it). The patient reads their own record, then everything there is to ask:');
  story.line(`  TOKEN=$(${command} token --as ${persons?.patient})`);
  story.line(`  curl -H "Authorization: Bearer $TOKEN" '${app.facadeUrl}/DocumentReference'`);
  story.line(`  curl -H "Authorization: Bearer $TOKEN" '${app.facadeUrl}/AuditEvent?patient=${persons?.patient}'`);
  story.line(`  ${command} member list`);
  story.line(`  ${command} status`);
} else {
  await closeAll();
  story.line(`${failed ? 'Failed' : 'Done'} after ${((Date.now() - started) / 1000).toFixed(1)} s.`);
  process.exitCode = failed ? 1 : 0;
}

/** An outcome of `status`, as the table of reasons explains it. */
function meaningOf(outcome: string): string {
  const reason = outcome.split(':')[1] ?? '';
  if (isReason(reason)) return REASONS[reason].text;
  return outcome === 'own' ? 'Stands in a filed document.' : 'Waits to be filed.';
}
