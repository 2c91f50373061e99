/** Runs the simulator by itself: `node simulator/main.ts --key-file ehr.pem`. */
import { writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import type { Fault } from './faults.ts';
import { createSimulator } from './simulator.ts';
import { STEPS, type StepName } from './stories/steps.ts';

const HELP = `Usage: node simulator/main.ts [options]

  --aria-port N      port of the ARIA API (8491; 0: any free one)
  --token-port N     port of its token service (8492)
  --ehr-port N       port of the EHR (8490)
  --seed TEXT        secrets, keys and generated patients follow from it
  --today INSTANT    the simulated day
  --extra N          so many generated patients more
  --key-file PATH    writes the EHR client's private key (PEM) there
  --json             prints one line of JSON

While it runs it reads lines: step NAME | corrections | advance N | fault {JSON} | clear | counts | quit
Steps: ${Object.keys(STEPS).join(' ')}
`;

const { values } = parseArgs({
  options: {
    'aria-port': { type: 'string' },
    'token-port': { type: 'string' },
    'ehr-port': { type: 'string' },
    seed: { type: 'string' },
    today: { type: 'string' },
    extra: { type: 'string' },
    'key-file': { type: 'string' },
    json: { type: 'boolean' },
    help: { type: 'boolean', short: 'h' },
  },
});
if (values.help) {
  process.stdout.write(HELP);
  process.exit(0);
}

const number = (text: string | undefined): number => {
  const value = Number(text ?? 0);
  if (!Number.isInteger(value) || value < 0) throw new RangeError('ports and counts are whole numbers');
  return value;
};
const simulator = await createSimulator({
  ports: {
    aria: number(values['aria-port'] ?? '8491'),
    ariaToken: number(values['token-port'] ?? '8492'),
    ehr: number(values['ehr-port'] ?? '8490'),
  },
  extraPatients: number(values.extra),
  ...(values.seed === undefined ? {} : { seed: values.seed }),
  ...(values.today === undefined ? {} : { today: values.today }),
});
const { aria, ehr, control } = simulator;
if (values['key-file']) writeFileSync(values['key-file'], ehr.privateKeyPem, { mode: 0o600 });

if (values.json) process.stdout.write(`${JSON.stringify({ aria, ehr })}\n`);
else {
  process.stdout.write(
    [
      `ARIA API       ${aria.baseUrl}`,
      `  token        ${aria.tokenUrl}`,
      `  client       ${aria.clientId} / ${aria.clientSecret}`,
      `EHR            ${ehr.baseUrl}`,
      `  token        ${ehr.tokenUrl} (private_key_jwt, ES384)`,
      `  client       ${ehr.clientId}${values['key-file'] ? `, key in ${values['key-file']}` : ' (--key-file PATH writes its key)'}`,
      `now            ${control.now()}`,
      '',
    ].join('\n'),
  );
}

const stop = () => void simulator.close().then(() => process.exit(0));
process.on('SIGINT', stop);
process.on('SIGTERM', stop);

// The answer names the step, never a patient.
createInterface({ input: process.stdin }).on('line', (line) => {
  const [word = '', ...rest] = line.trim().split(' ');
  try {
    if (word === 'step' && (rest[0] ?? '') in STEPS) control.step(rest[0] as StepName);
    else if (word === 'corrections') control.applyCorrections();
    else if (word === 'advance') control.advanceCourse(number(rest[0] ?? '1'));
    else if (word === 'fault') control.fault(JSON.parse(rest.join(' ')) as Fault);
    else if (word === 'clear') control.clearFaults();
    else if (word === 'counts') process.stdout.write(`${JSON.stringify(simulator.truth().counts)}\n`);
    else if (word === 'quit') stop();
    else throw new SyntaxError('unknown command: see --help');
    process.stdout.write(`ok, now ${control.now()}\n`);
  } catch (error) {
    process.stdout.write(`${(error as Error).message}\n`);
  }
});
