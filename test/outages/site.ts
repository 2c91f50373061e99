import assert from 'node:assert/strict';
import { recordDocumentsArgument } from '../../src/ledger/contract/payloads.ts';
import { createFabricLedger } from '../../src/ledger/fabric/fabric-ledger.ts';
import { createProjection } from '../../src/ledger/projection.ts';
import { projectedState } from '../../src/ledger/projection-state.ts';
import { createLedgerWriter } from '../../src/outbox/ledger-writer.ts';
import { createOutbox } from '../../src/outbox/postgres-outbox.ts';
import { createRelay } from '../../src/outbox/relay.ts';
import { createPostgresQueue } from '../../src/queue/postgres.ts';
import { sql } from '../../src/store/sql.ts';
import { type TestNetwork, withTestNetwork } from '../fabric/test-network.ts';
import { send } from '../ledger/conformance.ts';
import { enteredDocuments } from '../ledger/entered-documents.ts';
import { cast, HOME, LEDGER, statements } from '../ledger/world.ts';
import { until } from '../queue/conformance.ts';
import { withTestDatabase } from '../store/test-database.ts';

const PATIENTS = ['pat-1', 'pat-2', 'pat-3', 'pat-4', 'pat-5'];
/** A department files a document now and then; here one every so often, so that some are at every stage when something dies. */
const EVERY_MS = 40;
/** What the client survived, for who looks into a failure: OUTAGES_TRACE=1. */
const trace = (event: object): void => {
  if (process.env['OUTAGES_TRACE'] === '1') console.log(new Date().toISOString(), event);
};

/** Three institutions, ours with two peers or one; the network is new. */
export function outageNetwork(ordering: 'raft' | 'raft3' | 'bft', ownPeers: 1 | 2): Promise<TestNetwork> {
  const institution = (name: string, peers: 1 | 2) => ({ name, institution: `inst-${name}`, msp: `inst-${name}-msp`, peers });
  return withTestNetwork({ ordering, institutions: [institution('home', ownPeers), institution('away', 1), institution('third', 1)] });
}

/**
 * Everything between a filed document and its receipt, over a real network: outbox, relay, queue, writer, Fabric client,
 * projection. Nothing of it is restarted by the tests: it recovers by itself or not at all.
 */
export async function openSite(network: TestNetwork) {
  const { database, url, close: closeDatabase } = await withTestDatabase();
  const keys = cast();
  const say = statements(keys, LEDGER);
  const ledger = await createFabricLedger({
    connection: { ...(await network.connection('home')), deadlines: { evaluateMs: 2000, endorseMs: 4000, submitMs: 4000, commitMs: 5000 } },
    ledgerId: LEDGER,
    state: projectedState(database),
    onEvent: (event) => trace(event),
  });
  const alarms: unknown[] = [];
  const projection = createProjection({ database, ledger, institution: HOME, onAlarm: (alarm) => alarms.push(alarm) });
  await projection.start();
  await send(ledger, 'init', say.init([HOME, keys.home]));
  const queue = await createPostgresQueue({ url, attempts: 4, backoffMs: 100 });
  const outbox = createOutbox({ database });
  const relay = await createRelay({ database, queue, checkMs: 200, scanMs: 200, retryMs: 200, maxRetryMs: 1000 });
  const writer = await createLedgerWriter({ database, queue, ledger, onError: trace });
  let filed = 0;

  async function add(...items: Parameters<typeof outbox.add>[1][]): Promise<string[]> {
    const ids = await database.transaction((tx) => outbox.addAll(tx, items));
    outbox.wake();
    return ids;
  }
  const drained = (what: string, timeoutMs = 60_000): Promise<unknown> =>
    until(what, async () => (await outbox.stats()).depth === 0, timeoutMs);
  const file = (): Promise<string[]> => {
    const patient = PATIENTS[filed % PATIENTS.length] ?? '';
    const entry = say.entry(patient, `doc-${filed++}`);
    return add({ transaction: 'recordDocuments', args: [recordDocumentsArgument([entry])], patient: `${HOME}/${patient}` });
  };
  await add(...PATIENTS.map((one) => ({ transaction: 'enrollPatient', args: say.enroll(one), patient: `${HOME}/${one}` })));
  await drained('patients enrolled');

  return {
    network,
    ledger,
    projection,
    /** Documents filed while `work` runs, and a little before and after it. */
    async filingDuring<T>(work: () => Promise<T>): Promise<T> {
      let busy = true;
      const filing = (async () => {
        while (busy) {
          await file();
          await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
        }
      })();
      await new Promise((resolve) => setTimeout(resolve, 500));
      try {
        return await work();
      } finally {
        await new Promise((resolve) => setTimeout(resolve, 300));
        busy = false;
        await filing;
      }
    },
    depth: async () => (await outbox.stats()).depth,
    drained,
    /** A revocation past the outbox's order, as the patient's own act; resolves with its receipt's block. */
    async revoke(patient: string): Promise<number> {
      const text = say.revokeText(patient, [{ grantee: 'role:carer', category: 'laboratory' }]);
      const [id = ''] = await add({
        transaction: 'revokePermission',
        args: [say.sign('revokePermission', text, keys.home)],
        patient: `${HOME}/${patient}`,
        priority: 'urgent',
      });
      const settled = await outbox.settled(id, 60_000);
      assert.equal(settled?.state, 'committed');
      return settled?.receipt?.block ?? -1;
    },
    /** Nothing lost, nothing doubled: in our rows, in the blocks and in the projection. */
    async account(): Promise<void> {
      await drained('the outbox is empty');
      assert.deepEqual(await database.query(sql`select distinct state from outbox`), [{ state: 'committed' }]);
      const times = await enteredDocuments(ledger);
      assert.deepEqual(
        [...times].filter(([, n]) => n !== 1),
        [],
        'nothing twice',
      );
      assert.equal(times.size, filed, 'nothing lost');
      await until('projected', async () => (await database.query(sql`select 1 from projection.entry`)).length === filed, 30_000);
      assert.deepEqual(alarms, []);
    },
    async close(): Promise<void> {
      await relay.close();
      await writer.close();
      await queue.close();
      await outbox.close();
      await projection.close();
      await ledger.close();
      await closeDatabase();
    },
  };
}
export type Site = Awaited<ReturnType<typeof openSite>>;

/** `what` happens while documents are filed, lasts for a while, ends; then all is accounted for. Prints how long the draining took. */
export async function outage(
  site: Site,
  name: string,
  facts: { begin(): Promise<unknown>; lastsMs: number; during?: () => Promise<unknown>; end(): Promise<unknown> },
): Promise<void> {
  let ended = 0;
  let most = 0;
  await site.filingDuring(async () => {
    await facts.begin();
    try {
      await facts.during?.();
      await new Promise((resolve) => setTimeout(resolve, facts.lastsMs));
      most = await site.depth();
    } finally {
      await facts.end();
    }
    ended = performance.now();
  });
  await site.drained(`${name}: drained`);
  console.log(`    ${name}: ${most} waiting at its end, drained ${((performance.now() - ended) / 1000).toFixed(1)} s after it`);
  await site.account();
}
