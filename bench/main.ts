/** `npm run bench [-- name…] [--json]`: figures beside their baselines and targets. Never a timed test: it fails only where it breaks. */
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { benchConsentedRead } from './consented-read.ts';
import { benchDecision } from './decision.ts';
import { benchFabric } from './fabric.ts';
import { benchGrowth } from './growth.ts';
import { benchInstitutions } from './institutions.ts';
import { benchPdf } from './pdf.ts';
import { benchPipeline } from './pipeline.ts';
import type { BenchOptions, BenchRow } from './row.ts';
import { benchSealing } from './sealing.ts';
import { table } from './table.ts';

interface Bench {
  what: string;
  run(options: BenchOptions): Promise<BenchRow[]>;
  /** Takes long: runs only where it is named. */
  named?: true;
}

const BENCHES: Readonly<Record<string, Bench>> = {
  pdf: { what: 'CPU and size per document, beside a bare pdf-lib document', run: benchPdf },
  sealing: { what: 'sealed objects beside bare passes over the same bytes', run: () => benchSealing() },
  decision: { what: 'the decision over a million permissions', run: benchDecision },
  pipeline: { what: 'record to receipt on the embedded default, beside rendering alone', run: benchPipeline },
  'consented-read': {
    what: 'a FHIR read under a permission, beside the same stack without seal, scope and audit',
    run: benchConsentedRead,
  },
  fabric: {
    what: 'entries on a Fabric network of three institutions, beside a chaincode that only puts',
    run: benchFabric,
    named: true,
  },
  institutions: {
    what: 'what sharing between three institutions takes, at rest and at 10, 100 and 1,000 documents',
    run: benchInstitutions,
    named: true,
  },
  growth: { what: 'a read among ten thousand documents and among a million', run: benchGrowth, named: true },
};

const HELP = `Usage: npm run bench [-- name… options]

${Object.entries(BENCHES)
  .map(([name, { what, named }]) => `  ${name.padEnd(16)} ${what}${named ? ' (only where named)' : ''}`)
  .join('\n')}

  --json             one line of JSON
  --patients A,B     generated patients of the two pipeline runs (60,180)
  --documents A,B    documents of the two growth runs (10000,1000000)
`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'boolean' },
    patients: { type: 'string', default: '60,180' },
    documents: { type: 'string', default: '10000,1000000' },
    help: { type: 'boolean', short: 'h' },
  },
});
const unknown = positionals.filter((name) => !(name in BENCHES));
if (values.help || unknown.length > 0) {
  if (unknown.length > 0) process.stderr.write(`No such bench: ${unknown.join(' ')}\n`);
  process.stdout.write(HELP);
  process.exit(unknown.length > 0 ? 64 : 0);
}

const names = positionals.length > 0 ? positionals : Object.keys(BENCHES).filter((name) => !BENCHES[name]?.named);
const sizes = { patients: pair(values.patients), documents: pair(values.documents) };
const rows: BenchRow[] = [];
for (const name of names) {
  const say = (what: string): void => void process.stderr.write(`${name}: ${what}\n`);
  say(BENCHES[name]?.what ?? '');
  rows.push(...((await BENCHES[name]?.run({ ...sizes, progress: say })) ?? []));
}
const machine = { cpus: cpus().length, model: cpus()[0]?.model ?? '', node: process.version };
if (values.json) process.stdout.write(`${JSON.stringify({ machine, rows })}\n`);
else process.stdout.write(`\n${machine.cpus} x ${machine.model}, Node ${machine.node}\n\n${table(rows)}`);

function pair(text: string): [number, number] {
  const [a, b] = text.split(',').map(Number);
  if (a === undefined || b === undefined || !(a > 0) || !(b > a)) throw new RangeError('two rising numbers are wanted: 60,180');
  return [a, b];
}
