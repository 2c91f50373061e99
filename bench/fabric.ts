import { anchorAuditArgument, recordDocumentsArgument } from '../src/ledger/contract/payloads.ts';
import { TYP } from '../src/ledger/contract/shapes.ts';
import { projectedState } from '../src/ledger/projection-state.ts';
import { simulate } from '../src/ledger/simulation.ts';
import { HOME } from '../test/ledger/world.ts';
import { type FabricWorld, OWN, PATIENT_IDS, startFabricWorld } from './fabric-world.ts';
import { median, ownCpuMs, percentile, random } from './measure.ts';
import type { BenchOptions, BenchRow } from './row.ts';

interface Load {
  name: string;
  entries: number;
  /** Patients of a batch, drawn for each. */
  patients: readonly [number, number];
  inFlight: number;
  target?: number;
}
const LOADS: readonly Load[] = [
  { name: '1 entry', entries: 1, patients: [1, 1], inFlight: 64, target: 0.6 },
  { name: '50 entries of 1 to 5 patients', entries: 50, patients: [1, 5], inFlight: 16, target: 0.6 },
  { name: '50 entries of 50 patients', entries: 50, patients: [50, 50], inFlight: 16 },
];
const ROUNDS = 3;
const ROUND_MS = 5000;
const REVOCATIONS = 20;

interface Run {
  perSecond: number;
  latenciesMs: number[];
  entries: number;
  cpuMs: Record<string, number>;
}

/**
 * Entries a second on a real network of three institutions with every check on, from the local run to the third projection, by
 * turns with a chaincode on the same peers that only puts the same bytes under the same keys.
 */
export async function benchFabric({ progress }: BenchOptions): Promise<BenchRow[]> {
  const world = await startFabricWorld(progress);
  try {
    const rows: BenchRow[] = [];
    const perSecond: number[] = [];
    for (const load of LOADS) {
      progress(load.name);
      const ours: Run[] = [];
      const bare: Run[] = [];
      // One round of each unmeasured, for code that is compiled and caches that fill.
      for (let round = 0; round <= ROUNDS; round++) {
        const measured = [await drive(world, load, true), await drive(world, load, false)] as const;
        if (round === 0) continue;
        ours.push(measured[0]);
        bare.push(measured[1]);
      }
      const [o, b] = [ours, bare].map((runs) => median(runs.map((one) => one.perSecond))) as [number, number];
      perSecond.push(o);
      rows.push({
        name: `Fabric: ${load.name} a transaction, ${load.inFlight} in flight`,
        ours: o,
        baseline: b,
        ratio: o / b,
        unit: 'entries/s (baseline: bare putState)',
        ...(load.target === undefined ? {} : { target: `ratio >= ${load.target.toFixed(2)}`, met: o / b >= load.target }),
      });
      const latencies = ours.flatMap((one) => one.latenciesMs);
      const bareLatencies = bare.flatMap((one) => one.latenciesMs);
      for (const share of [0.5, 0.95, 0.99])
        rows.push({
          name: `Fabric: ${load.name}: p${share * 100} from endorsement to receipt`,
          ours: percentile(latencies, share),
          baseline: percentile(bareLatencies, share),
          ratio: percentile(latencies, share) / percentile(bareLatencies, share),
          unit: 'ms',
        });
      for (const who of Object.keys(ours[0]?.cpuMs ?? {})) {
        const each = (runs: readonly Run[]): number => median(runs.map((one) => (one.cpuMs[who] ?? 0) / one.entries));
        rows.push({
          name: `Fabric: ${load.name}: CPU of ${who}`,
          ours: each(ours),
          baseline: each(bare),
          ratio: each(ours) / each(bare),
          unit: 'ms an entry',
        });
      }
    }
    const [one = 0, fifty = 0] = perSecond;
    rows.push({
      name: 'Fabric: batches of 50 beside one entry a transaction',
      ours: fifty,
      baseline: one,
      ratio: fifty / one,
      unit: 'entries/s',
      target: 'ratio >= 6',
      met: fifty / one >= 6,
    });
    progress('revocations');
    rows.push(...(await revocations(world)));
    return rows;
  } finally {
    await world.close();
  }
}

let made = 0;
const draw = random(11);

/** Entries of one batch, each of a document of its own. */
function batch(world: FabricWorld, { entries, patients: [least, most] }: Load): string {
  const count = least + Math.floor(draw() * (most - least + 1));
  const from = Math.floor(draw() * PATIENT_IDS.length);
  return recordDocumentsArgument(
    Array.from({ length: entries }, (_, i) =>
      world.say.entry(PATIENT_IDS[(from + (i % count)) % PATIENT_IDS.length] ?? '', `doc-bench-${made++}`),
    ),
  );
}

/** Keeps so many transactions in flight for a while, and waits until what was committed is applied at all three institutions. */
async function drive(world: FabricWorld, load: Load, ours: boolean): Promise<Run> {
  const latenciesMs: number[] = [];
  let committed = 0;
  let newest = 0;
  // The same keys and values as the contract would write; made before the clock runs.
  const state = projectedState(world.database);
  const prepared = ours ? [] : await Promise.all(Array.from({ length: 40 }, () => writesOf(state, batch(world, load))));
  const before: Record<string, number> = { ...(await world.cpuMs()), [OWN]: ownCpuMs() };
  const began = performance.now();
  const until = began + ROUND_MS;
  await Promise.all(
    Array.from({ length: load.inFlight }, async (_, worker) => {
      for (let n = worker; performance.now() < until; n++) {
        const asked = performance.now();
        if (ours) newest = Math.max(newest, (await world.send('recordDocuments', [batch(world, load)])).block);
        else {
          // A new key each time: what is measured is putting, not conflicts between those who put.
          const text = (prepared[n % prepared.length] ?? '').replaceAll('doc-bench-', `doc-${made++}-`);
          await world.bare.run(({ network }) => network.getContract('bare').submit('putMany', { arguments: [text] }));
        }
        latenciesMs.push(performance.now() - asked);
        committed += load.entries;
      }
    }),
  );
  if (ours) {
    await world.projection.waitFor(newest, 120_000);
    await Promise.all(world.followers.map((one) => one.appliedAt(newest)));
  }
  const tookMs = performance.now() - began;
  const own = ownCpuMs();
  const after: Record<string, number> = { ...(await world.cpuMs()), [OWN]: own };
  const cpuMs = Object.fromEntries(Object.entries(after).map(([who, ms]) => [who, ms - (before[who] ?? 0)]));
  return { perSecond: (committed / tookMs) * 1000, latenciesMs, entries: committed, cpuMs };
}

async function writesOf(state: ReturnType<typeof projectedState>, argument: string): Promise<string> {
  const { writes } = await simulate(state, {
    name: 'recordDocuments',
    args: [argument],
    caller: { msp: `${HOME}-msp`, institution: HOME },
    time: new Date().toISOString(),
  });
  return JSON.stringify(Object.fromEntries(writes));
}

/** From the patient's revocation to the denial at another institution: until its projection has applied the block. */
async function revocations(world: FabricWorld): Promise<BenchRow[]> {
  const { say, keys } = world;
  const clock = (): number => performance.timeOrigin + performance.now();
  // A grant counts against the newest anchor.
  await world.send('anchorAudit', [anchorAuditArgument({ number: 1, root: '0'.repeat(64) })]);
  const wholeMs: number[] = [];
  const afterOwnMs: number[] = [];
  for (const patient of PATIENT_IDS.slice(0, REVOCATIONS)) {
    const grant = say.grantText(patient, [say.permission('role:carer', 'laboratory', 1)]);
    const { block: granted } = await world.send('grantPermission', [say.sign('grantPermission', grant, keys.home)]);
    await world.projection.waitFor(granted, 30_000);
    const revoke = say.revokeText(patient, [{ grantee: 'role:carer', category: 'laboratory' }]);
    const asked = clock();
    const { block } = await world.send('revokePermission', [keys.home.jws(TYP.revokePermission, revoke)]);
    const own = clock();
    const there = Math.max(...(await Promise.all(world.followers.map((one) => one.appliedAt(block)))));
    wholeMs.push(there - asked);
    afterOwnMs.push(there - own);
  }
  return [
    { name: 'Fabric: revocation asked to denial at the last of two others, p50', ours: median(wholeMs), unit: 'ms' },
    { name: 'Fabric: the same, p95', ours: percentile(wholeMs, 0.95), unit: 'ms' },
    {
      name: 'Fabric: of it after our own receipt, p95',
      ours: percentile(afterOwnMs, 0.95),
      unit: 'ms',
      target: '<= 250 (printed)',
      met: percentile(afterOwnMs, 0.95) <= 250,
    },
  ];
}
