import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { recordDocumentsArgument } from '../../src/ledger/contract/payloads.ts';
import { createEmbeddedLedger } from '../../src/ledger/embedded/embedded-ledger.ts';
import type { Fault } from '../../src/ledger/embedded/faults.ts';
import { foundLedger } from '../../src/ledger/embedded/first-start.ts';
import { createProjection } from '../../src/ledger/projection.ts';
import { createLedgerWriter } from '../../src/outbox/ledger-writer.ts';
import { createOutbox } from '../../src/outbox/postgres-outbox.ts';
import { createRelay } from '../../src/outbox/relay.ts';
import { createPostgresQueue } from '../../src/queue/postgres.ts';
import { sql } from '../../src/store/sql.ts';
import { enteredDocuments } from '../ledger/entered-documents.ts';
import { cast, HOME, statements } from '../ledger/world.ts';
import { until } from '../queue/conformance.ts';
import { seeded } from '../random.ts';
import { withTestDatabase } from '../store/test-database.ts';

const SEED = Number(process.env['OUTBOX_SEED'] ?? 7);

test(`outbox to receipt on the embedded ledger, enrolment first, with every failure of its table (OUTBOX_SEED=${SEED})`, async (t) => {
  const { database, url } = await withTestDatabase();
  const keys = cast();
  const random = seeded(SEED);
  const folder = await mkdtemp(join(tmpdir(), 'oncobridge-outbox-'));
  let erring = false;
  const endorseFaults: Fault[] = ['mismatch', 'unavailable'];
  const submitFaults: Fault[] = ['lost', 'committed-unknown', 'read-conflict', 'phantom-conflict', 'invalid', 'unavailable'];
  const parts: { close(): Promise<void> }[] = [];
  t.after(async () => {
    for (const part of parts.toReversed()) await part.close();
    await rm(folder, { recursive: true });
  });
  const ledger = await createEmbeddedLedger({
    database,
    tipFile: join(folder, 'tip'),
    institution: HOME,
    msp: `${HOME}-msp`,
    publicKey: keys.home.jwk,
    sign: keys.home.sign,
    faults(stage) {
      if (!erring || random() > 0.25) return undefined;
      const faults = stage === 'endorse' ? endorseFaults : stage === 'submit' ? submitFaults : (['unknown'] satisfies Fault[]);
      return faults[Math.floor(random() * faults.length)];
    },
  });
  parts.push(ledger);
  const found = { institution: HOME, msp: `${HOME}-msp`, keys: { signing: keys.home.jwk, encryption: keys.category.jwk } };
  await foundLedger({ ledger, ...found, signAsInstitution: async (typ, payload) => keys.home.jws(typ, payload) });
  const say = statements(keys, (await ledger.info()).ledgerId);
  const projection = createProjection({ database, ledger, institution: HOME, onError: (error) => console.error(error) });
  parts.push(projection);
  await projection.start();
  const queue = await createPostgresQueue({ url, attempts: 4, backoffMs: 10 });
  const outbox = createOutbox({ database });
  const relay = await createRelay({ database, queue, batchSize: 10, checkMs: 200, scanMs: 100, retryMs: 50, maxRetryMs: 200 });
  const writer = await createLedgerWriter({ database, queue, ledger, unknownWaitMs: 2 });
  parts.push(outbox, queue, writer, relay);

  const add = async (...items: Parameters<typeof outbox.add>[1][]): Promise<string[]> => {
    const ids: string[] = [];
    await database.transaction(async (tx) => {
      for (const item of items) ids.push(await outbox.add(tx, item));
    });
    outbox.wake();
    return ids;
  };
  const record = (pat: string, document: string, change: object = {}): Parameters<typeof outbox.add>[1] => ({
    transaction: 'recordDocuments',
    args: [recordDocumentsArgument([{ ...say.entry(pat, document), ...change }])],
    patient: `${HOME}/${pat}`,
  });

  // Without failures: a new patient's first document.
  const before = performance.now();
  const [, first] = await add(
    { transaction: 'enrollPatient', args: say.enroll('pat-1'), patient: `${HOME}/pat-1` },
    record('pat-1', 'doc-first'),
  );
  assert.equal((await outbox.settled(first ?? '', 10_000))?.state, 'committed');
  console.log(`    enrolment and first document on the ledger after ${(performance.now() - before).toFixed(0)} ms`);

  erring = true;
  const good = await add(
    { transaction: 'enrollPatient', args: say.enroll('pat-2'), patient: `${HOME}/pat-2` },
    ...Array.from({ length: 60 }, (_, i) => record(`pat-${1 + (i % 2)}`, `doc-${i}`)),
  );
  const [stale] = await add(record('pat-1', 'doc-stale', { keyVersion: 7 }));
  await until(`all settled (seed ${SEED})`, async () => (await outbox.stats()).depth === 0, 25_000);
  erring = false;
  const rows = await database.query<{ state: string }>(sql`select distinct state from outbox where id = any(${good})`);
  assert.deepEqual(rows, [{ state: 'committed' }], `seed ${SEED}`);
  const refused = await outbox.settled(stale ?? '', 100);
  assert.deepEqual([refused?.state, refused?.errorCode], ['rejected', 'KEY_VERSION_STALE']);

  // Read from the blocks themselves: each document in one valid transaction.
  const times = await enteredDocuments(ledger);
  times.delete('doc-stale');
  assert.equal(times.size, 61);
  assert.deepEqual(
    [...times].filter(([, n]) => n !== 1),
    [],
    `seed ${SEED}: nothing twice`,
  );
  await until('projected', async () => (await database.query(sql`select 1 from projection.entry`)).length === 61);
});
