import assert from 'node:assert/strict';
import { createDecipheriv, hash, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pause } from '../network/processes.ts';
import { createActs, NOT_SHARED } from '../simulator/institutions-acts.ts';
import { type InstitutionsSite, type SiteInstitution, startInstitutionsSite } from '../simulator/institutions-site.ts';
import type { SharedStore, StoreRequest } from '../simulator/shared-store.ts';
import { createSimulator } from '../simulator/simulator.ts';
import { createS3Blobs } from '../src/store/blob-s3.ts';
import { sql } from '../src/store/sql.ts';
import { withDatabase } from '../test/institutions/test-site.ts';
import { ownCpuMs } from './measure.ts';
import type { BenchOptions, BenchRow } from './row.ts';

/** Reports of each person beside those of the stories, so that they have 10, 100 and 1,000 in all. */
const EXTRA = { seoyeon: 7, phuong: 98, brennan: 999 } as const;
const CATEGORY = NOT_SHARED;
const IDLE_MS = 20_000;
/** Fetching asks for so many at a time (src/sharing/fetching.ts). */
const AT_ONCE = 4;
const MIB = 1024 * 1024;

interface Shared {
  documents: number;
  /** From the patient's tap to the first document read at B, and to the first complete search. */
  firstMs: number;
  allMs: number;
  /** What B asked of the store meanwhile. */
  requests: readonly StoreRequest[];
  /** Seconds of CPU that each institution spent, all its parts, and of B by part. */
  cpu: Readonly<Record<'a' | 'b' | 'c', number>>;
  partsOfB: Readonly<Record<string, number>>;
}

/**
 * What sharing costs, on three institutions that run as processes of their own on one Fabric network and one store: at rest, and
 * while B takes over a category of 10, 100 and 1,000 documents. Getting and opening is held beside bare gets and decryption of the same objects.
 */
export async function benchInstitutions({ progress }: BenchOptions): Promise<BenchRow[]> {
  const folder = await mkdtemp(join(tmpdir(), 'oncobridge-bench-institutions-'));
  const simulator = await createSimulator({ extraReports: EXTRA });
  let site: InstitutionsSite | undefined;
  try {
    site = await startInstitutionsSite({ folder: join(folder, 'site'), simulator, onEvent: progress });
    const acts = createActs(site);
    const { a, b, c } = site.institutions;
    progress('A files what it is going to share');
    await Promise.all([acts.pull(a), acts.pull(b)]);
    const staff = await acts.staff();
    const clinician = await acts.token(b, staff.clinician);

    progress('idle');
    const rows = [...(await memoryRows([a, b, c], 'idle')), ...(await idleRows([a, b, c]))];
    const people = Object.keys(EXTRA) as (keyof typeof EXTRA)[];
    let last: Shared | undefined;
    for (const person of people) {
      const patient = await acts.patientOf(person);
      await patient.device.claim();
      const code = await acts.linkCode(patient.ownAtB, staff.clinician);
      progress(`${person}: a grant`);
      last = await share({ acts, site, patient, clinician, code: code.text });
      rows.push(...sharedRows(last));
    }
    rows.push(...(await memoryRows([b], 'after fetching')));
    if (last !== undefined) rows.push(...(await besideBare(site.store, b.institution, last)));
    return rows;
  } finally {
    await site?.close();
    await simulator.close();
    await rm(folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

async function share(options: {
  acts: ReturnType<typeof createActs>;
  site: InstitutionsSite;
  patient: Awaited<ReturnType<ReturnType<typeof createActs>['patientOf']>>;
  clinician: string;
  code: string;
}): Promise<Shared> {
  const { acts, site, patient, clinician, code } = options;
  const { a, b, c } = site.institutions;
  const [entry] = await withDatabase(a, (database) =>
    database.query<{ documents: number }>(sql`
      select count(*)::int as documents from projection.document where pat = ${patient.patient} and category = ${CATEGORY}`),
  );
  const documents = entry?.documents ?? 0;
  assert.ok(documents > 1, 'nothing is there to be shared');
  await acts.settled(a);
  const [cpuA, cpuB, cpuC] = await Promise.all([a.cpu(), b.cpu(), c.cpu()]);
  const from = site.store.requests.length;

  const granted = performance.now();
  await patient.device.grant({ code, categories: [CATEGORY] });
  const first = await acts.until('a first document is held at B', async () => {
    const [row] = await withDatabase(b, (database) =>
      database.query<{ id: string }>(sql`
        select id from resource where inst = ${a.institution} and pat = ${patient.patient} and type = 'DocumentReference' limit 1`),
    );
    return row?.id;
  });
  await acts.until('it is readable', async () => {
    const answer = await acts.call(b, clinician, `DocumentReference/${first}`);
    return answer.status === 200 ? answer : undefined;
  });
  const firstMs = performance.now() - granted;
  // A search that names the patient is complete or it is 503.
  await acts.until(
    'all are readable',
    async () => {
      const answer = await acts.call(b, clinician, `DocumentReference?patient=${patient.patient}&category=${CATEGORY}&_summary=count`);
      if (answer.status !== 200) return undefined;
      assert.equal((answer.json as { total?: number }).total, documents, 'a shorter list');
      return answer;
    },
    600_000,
    // Each look costs B something too.
    Math.max(50, documents),
  );
  const allMs = performance.now() - granted;
  const [a2, b2, c2] = await Promise.all([a.cpu(), b.cpu(), c.cpu()]);
  const spent = (before: Record<string, number>, after: Record<string, number>): number => sum(after) - sum(before);
  return {
    documents,
    firstMs,
    allMs,
    requests: site.store.requests.slice(from).filter((one) => one.institution === b.institution),
    cpu: { a: spent(cpuA, a2), b: spent(cpuB, b2), c: spent(cpuC, c2) },
    partsOfB: Object.fromEntries(Object.entries(b2).map(([part, seconds]) => [part, seconds - (cpuB[part as keyof typeof cpuB] ?? 0)])),
  };
}

function sharedRows({ documents, firstMs, allMs, requests, cpu, partsOfB }: Shared): BenchRow[] {
  const name = `institutions: ${documents} documents`;
  const objects = gotObjects(requests);
  const envelopes = requests.filter((one) => one.operation === 'get' && one.name.includes('/envelopes/'));
  return [
    { name: `${name}: grant to the first one read at B`, ours: firstMs, unit: 'ms' },
    { name: `${name}: grant to all of them`, ours: allMs, unit: 'ms' },
    {
      name: `${name}: objects got from the store`,
      ours: objects.length,
      unit: `beside ${envelopes.length} envelope; ${requests.length} requests in all`,
    },
    {
      name: `${name}: bytes got`,
      ours: bytesOf(objects) / 1024,
      unit: `KiB, ${Math.round(bytesOf(objects) / 1024 / Math.max(1, objects.length))} an object`,
    },
    ...(['a', 'b', 'c'] as const).map((one) => ({
      name: `${name}: CPU of ${one.toUpperCase()}, all parts`,
      ours: (cpu[one] * 1000) / documents,
      unit: 'ms a document',
    })),
    ...Object.entries(partsOfB).map(([part, seconds]) => ({
      name: `${name}: of B's: ${part}`,
      ours: (seconds * 1000) / documents,
      unit: 'ms a document',
    })),
  ];
}

/** The same objects by nothing but a client of the store and a cipher, as many at a time. */
async function besideBare(store: SharedStore, institution: string, shared: Shared): Promise<BenchRow[]> {
  const credential = { institution, accessKeyId: 'AKBENCH', secretAccessKey: randomBytes(20).toString('hex') };
  store.issue(credential);
  const { endpoint, region, bucket } = store;
  const blobs = createS3Blobs({ endpoint, region, bucket, ...credential });
  const names = gotObjects(shared.requests).map((one) => one.name);
  const waiting = [...names];
  const began = performance.now();
  const cpu = ownCpuMs();
  const key = randomBytes(32);
  let bytes = 0;
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      for (let name = waiting.shift(); name !== undefined; name = waiting.shift()) {
        const object = await blobs.get(name);
        assert.equal(hash('sha256', object), name.split('/')[1]);
        // The work of opening it; whether it opens is another matter, for this key is none.
        bytes += createDecipheriv('aes-256-gcm', key, key.subarray(0, 12)).update(object).length;
      }
    }),
  );
  const tookMs = performance.now() - began;
  const cpuMs = ownCpuMs() - cpu;
  await blobs.close();
  store.withdraw(credential.accessKeyId);
  assert.ok(bytes > 0);
  const name = `institutions: ${shared.documents} documents: fetched, opened, compared, indexed, kept`;
  const ours = (shared.documents - 1) / ((shared.allMs - shared.firstMs) / 1000);
  const bare = names.length / (tookMs / 1000);
  const cpuOurs = (((shared.partsOfB['oncobridge'] ?? 0) + (shared.partsOfB['postgres'] ?? 0)) * 1000) / shared.documents;
  return [
    { name, ours, baseline: bare, ratio: ours / bare, unit: 'a second (baseline: got and decrypted; its CPU holds the store itself)' },
    { name: `${name}, CPU`, ours: cpuOurs, baseline: cpuMs / names.length, ratio: cpuOurs / (cpuMs / names.length), unit: 'ms each' },
  ];
}

async function memoryRows(institutions: readonly SiteInstitution[], when: string): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  for (const one of institutions) {
    const memory = await one.memory();
    rows.push({ name: `institutions: memory of ${one.name.toUpperCase()}, ${when}`, ours: sum(memory) / MIB, unit: 'MiB (PSS)' });
    for (const [part, bytes] of Object.entries(memory))
      rows.push({ name: `institutions: memory of ${one.name.toUpperCase()}, ${when}: ${part}`, ours: bytes / MIB, unit: 'MiB (PSS)' });
  }
  return rows;
}

async function idleRows(institutions: readonly SiteInstitution[]): Promise<BenchRow[]> {
  const before = await Promise.all(institutions.map((one) => one.cpu()));
  await pause(IDLE_MS);
  const after = await Promise.all(institutions.map((one) => one.cpu()));
  return institutions.map((one, n) => ({
    name: `institutions: CPU of ${one.name.toUpperCase()}, idle, all parts`,
    ours: ((sum(after[n] ?? {}) - sum(before[n] ?? {})) / (IDLE_MS / 1000)) * 100,
    unit: '% of a core',
  }));
}

function gotObjects(requests: readonly StoreRequest[]): StoreRequest[] {
  return requests.filter((one) => one.operation === 'get' && one.status === 200 && !one.name.includes('/envelopes/'));
}

function bytesOf(requests: readonly StoreRequest[]): number {
  return requests.reduce((all, one) => all + one.bytes, 0);
}

function sum(parts: Readonly<Record<string, number>>): number {
  return Object.values(parts).reduce((all, one) => all + one, 0);
}
