/**
 * `npm run demo`: the embedded default against the simulator, pulled, filed and read over real HTTP, told as a story.
 * Exits 0 where every step went as it must; `--keep` leaves the server running.
 */
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { createApp } from '../src/app.ts';
import { startControlServer } from '../src/cli/control-server.ts';
import { createProgress } from '../src/cli/progress.ts';
import { controlFile } from '../src/cli/run.ts';
import { readSettings, shown } from '../src/cli/settings.ts';
import { isReason, REASONS } from '../src/records/reasons.ts';
import { exportDocuments } from './demo-export.ts';
import { createStory, type Persons, tellStory } from './demo-story.ts';
import { createSimulator, type Simulator } from './simulator.ts';

const root = fileURLToPath(new URL('../', import.meta.url));
const { values } = parseArgs({
  options: {
    output: { type: 'string', default: 'demo-output' },
    keep: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
});
if (values.help) {
  process.stdout.write(
    'Usage: npm run demo [-- --output <folder>] [-- --keep]\n\n  --output  where the PDFs go (demo-output)\n  --keep    leave the server running and say how to call it\n\nExample:\n  $ npm run demo -- --keep\n',
  );
  process.exit(0);
}

const output = resolve(values.output);
const run = join(output, '.run');
rmSync(output, { recursive: true, force: true });
mkdirSync(run, { recursive: true, mode: 0o700 });

const story = createStory(process.stdout);
const started = Date.now();
story.title('oncobridge: the embedded default and a simulated department');

const simulator = await createSimulator();
story.line('The department is two servers on this machine, with synthetic patients:');
story.line(`  aria  the radiotherapy information system, ${simulator.aria.baseUrl}: courses and notes`);
story.line(`  ehr   the hospital's record, ${simulator.ehr.baseUrl}: laboratory results and notes`);
// The sample configuration as it ships, with a data folder of the demo's own and free ports.
cpSync(join(root, 'config'), join(run, 'config'), { recursive: true });
const config = join(run, 'config', 'embedded.yaml');
pointAt(simulator);
const settings = await readSettings(config);
if (settings.notice !== undefined) story.line(settings.notice);
const app = await createApp({ settings, serve: true, logLevel: 'fatal', schedule: false });
story.line(
  `oncobridge is up after ${((Date.now() - started) / 1000).toFixed(1)} s, with a PostgreSQL of its own. Its FHIR R4 API: ${app.facadeUrl}`,
);

let failed = false;
let persons: Persons | undefined;
try {
  story.title('Pull: what is new comes in, is classified, filed as PDF, sealed, and entered on the ledger');
  const pulled = await app.operations.pull({}, createProgress(process.stdout));
  await app.settled();
  const status = await app.operations.status({});
  story.line('  taken: goes into a document. skip: left out, for a reason that is kept. quarantine: held, sealed, until it is put right.');
  story.line('  known: this version is stored already. A page is one answer of the source; a course is read patient by patient.');
  story.line(
    `${pulled.filed} documents are filed and entered on the ledger, ${status.ledger.height} blocks. Consensus: ${status.ledger.consensus}.`,
  );
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
    await app.close();
    await simulator.close();
  };
  process.once('SIGINT', () => void stop());
  process.once('SIGTERM', () => void stop());
  const command = `bin/oncobridge --config ${shown(config)}`;
  story.title('Left running (Ctrl-C ends it). The patient reads their own record, then everything there is to ask:');
  story.line(`  TOKEN=$(${command} token --as ${persons?.patient})`);
  story.line(`  curl -H "Authorization: Bearer $TOKEN" '${app.facadeUrl}/DocumentReference'`);
  story.line(`  curl -H "Authorization: Bearer $TOKEN" '${app.facadeUrl}/AuditEvent?patient=${persons?.patient}'`);
  story.line(`  ${command} member list`);
  story.line(`  ${command} status`);
} else {
  await app.close();
  await simulator.close();
  story.line(`${failed ? 'Failed' : 'Done'} after ${((Date.now() - started) / 1000).toFixed(1)} s.`);
  process.exitCode = failed ? 1 : 0;
}

/** An outcome of `status`, as the table of reasons explains it. */
function meaningOf(outcome: string): string {
  const reason = outcome.split(':')[1] ?? '';
  if (isReason(reason)) return REASONS[reason].text;
  return outcome === 'own' ? 'Stands in a filed document.' : 'Waits to be filed.';
}

/**
 * Writes the simulator's addresses and credentials into the copied configuration, so that every command works with it and
 * needs no variable: what stood as a reference to the environment becomes its value, a secret a file of its own.
 */
function pointAt({ ehr, aria }: Simulator): void {
  const values: Record<string, string> = {
    EHR_FHIR_URL: ehr.baseUrl,
    EHR_CLIENT_ID: ehr.clientId,
    ARIA_FHIR_URL: aria.baseUrl,
    ARIA_TOKEN_URL: aria.tokenUrl,
    ARIA_CLIENT_ID: aria.clientId,
  };
  const secrets: Record<string, string> = { EHR_CLIENT_KEY: JSON.stringify(ehr.privateKeyJwk), ARIA_CLIENT_SECRET: aria.clientSecret };
  mkdirSync(join(run, 'secrets'), { mode: 0o700 });
  for (const [name, secret] of Object.entries(secrets)) writeFileSync(join(run, 'secrets', name), secret, { mode: 0o600 });
  const reference = /\$\{env:([A-Z_]+)(?::-[^}]*)?\}/g;
  for (const file of [config, join(run, 'config/sources/ehr.yaml'), join(run, 'config/sources/aria.yaml')]) {
    const text = readFileSync(file, 'utf8').replaceAll(reference, (all, name: string) =>
      name in secrets ? `\${file:../../secrets/${name}}` : (values[name] ?? all),
    );
    writeFileSync(file, text.replace('port: 8480', 'port: 0').replace('port: 8481', 'port: 0'));
  }
}
