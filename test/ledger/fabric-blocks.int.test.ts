import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createFreshness } from '../../src/app/freshness.ts';
import { createAnchoring } from '../../src/audit/anchoring.ts';
import { codeOf } from '../../src/errors.ts';
import * as build from '../../src/ledger/contract/payloads.ts';
import { TYP } from '../../src/ledger/contract/shapes.ts';
import { createDefinitionGuard } from '../../src/ledger/definition-guard.ts';
import { type BlockReaderEvent, createBlockReader } from '../../src/ledger/fabric/block-reader.ts';
import { createFabricLedger } from '../../src/ledger/fabric/fabric-ledger.ts';
import { connectPeers } from '../../src/ledger/fabric/peers.ts';
import type { Ledger, Receipt } from '../../src/ledger/ledger.ts';
import { createProjection, type Projection } from '../../src/ledger/projection.ts';
import type { Alarm } from '../../src/ledger/projection-alarms.ts';
import { projectedState } from '../../src/ledger/projection-state.ts';
import { verifyChannel } from '../../src/ledger/verify-channel.ts';
import { createLedgerWriter } from '../../src/outbox/ledger-writer.ts';
import { createOutbox } from '../../src/outbox/postgres-outbox.ts';
import { createRelay } from '../../src/outbox/relay.ts';
import { createPostgresQueue } from '../../src/queue/postgres.ts';
import type { Database } from '../../src/store/database.ts';
import { raw, sql } from '../../src/store/sql.ts';
import { nextDefinition } from '../fabric/lifecycle-commands.ts';
import { rawBlocks } from '../fabric/raw-blocks.ts';
import { replaceChaincode } from '../fabric/replace-chaincode.ts';
import { fabricTest, type TestNetwork, withTestNetwork } from '../fabric/test-network.ts';
import { createBlockLinter } from '../privacy/block-linter.ts';
import { until } from '../queue/conformance.ts';
import { withTestDatabase } from '../store/test-database.ts';
import { AWAY, cast, HOME, hex64, LEDGER, statements } from './world.ts';

/** For a machine that does much else. */
const WAIT_MS = 30_000;
const THIRD = 'inst-third';
const CANARY = 'Featherstonehaugh-Whitcombe';
const keys = cast();
const say = statements(keys, LEDGER);

/** One institution with its gateway, its database and its view. */
interface Site {
  name: string;
  institution: string;
  msp: string;
  database: Database;
  url: string;
  ledger: Ledger;
  projection: Projection;
  alarms: Alarm[];
  errors: string[];
  verify(receipts?: Receipt[]): Promise<string[]>;
}

describe('blocks of a network', fabricTest(), () => {
  let network: TestNetwork;
  let home: Site;
  let away: Site;
  let third: Site;
  const closing: { close(): Promise<void> | void }[] = [];
  const receipts: Receipt[] = [];

  before(async () => {
    network = await withTestNetwork({
      institutions: [
        { name: 'alpha', institution: HOME, msp: `${HOME}-msp`, peers: 2 },
        { name: 'beta', institution: AWAY, msp: `${AWAY}-msp`, peers: 1 },
        { name: 'gamma', institution: THIRD, msp: `${THIRD}-msp`, peers: 1 },
      ],
      batchTimeoutMs: 60,
    });
    [home, away, third] = await Promise.all([site('alpha', HOME), site('beta', AWAY), site('gamma', THIRD)]);
    await send(home, 'init', say.init([HOME, keys.home], [AWAY, keys.away], [THIRD, keys.third]));
    await Promise.all([home, away, third].map((one) => one.projection.start()));
  });
  after(async () => {
    for (const one of closing.splice(0).toReversed()) await one.close();
  });

  async function site(name: string, institution: string): Promise<Site> {
    const connection = { ...(await network.connection(name)), deadlines: { endorseMs: 5000, submitMs: 5000, commitMs: 5000 } };
    const { database, url } = await withTestDatabase();
    const { msp, chaincode } = connection;
    const ledger = await createFabricLedger({ connection, ledgerId: LEDGER, state: projectedState(database) });
    const alarms: Alarm[] = [];
    const errors: string[] = [];
    const projection = createProjection({
      database,
      ledger,
      institution,
      msp,
      definitions: createDefinitionGuard({ msp, chaincode, ledger }),
      approvalRetryMs: 200,
      onAlarm: (alarm) => alarms.push(alarm),
      onError: (error) => errors.push(codeOf(error) ?? String(error)),
    });
    closing.push(ledger, projection);
    return {
      name,
      institution,
      msp,
      database,
      url,
      ledger,
      projection,
      alarms,
      errors,
      async verify(more = []) {
        const { problems } = await verifyChannel({ database, ledger, institution, msp, receipts: more });
        return problems.map(({ kind, what }) => `${kind}: ${what}`);
      },
    };
  }
  async function send(from: Site, transaction: string, args: readonly string[]): Promise<Receipt> {
    for (;;) {
      const endorsed = await from.ledger.endorse({ name: transaction, args });
      try {
        const receipt = await from.ledger.submit(endorsed.bytes);
        receipts.push(receipt);
        return receipt;
      } catch (error) {
        if (codeOf(error) !== 'LEDGER_CONFLICT') throw error;
      }
    }
  }
  function anchor(from: Site, number: number): Promise<Receipt> {
    return send(from, 'anchorAudit', [build.anchorAuditArgument({ number, root: hex64(`${from.name} ${number}`) })]);
  }
  async function nextAnchor(from: Site): Promise<Receipt> {
    const [row] = await from.database.query<{ number: number }>(sql`select number from projection.anchor where inst = ${from.institution}`);
    return anchor(from, (row?.number ?? 0) + 1);
  }
  async function caughtUp(...sites: Site[]): Promise<void> {
    // One peer may have a block that another has not yet; what is compared afterwards must stand at the same.
    const all = [...new Set([away, ...sites])];
    const height = Math.max(...(await Promise.all(all.map((one) => one.ledger.height()))));
    for (const one of all) assert.ok(await one.projection.waitFor(height - 1, WAIT_MS), `${one.name} ${one.errors.join()}`);
  }
  /** All rows, but for what is each institution's own. */
  async function dump(from: Site, { own = false } = {}): Promise<Record<string, string[]>> {
    const tables = await from.database.query<{ name: string }>(
      sql`select table_name as name from information_schema.tables where table_schema = 'projection' order by 1`,
    );
    const rows: Record<string, string[]> = {};
    for (const { name } of tables) {
      if (name === 'definition' && !own) continue;
      const what = name === 'checkpoint' && !own ? 'height, t.tip' : 't::text';
      const found = await from.database.query<{ row: string }>(raw(`select (${what})::text as row from projection.${name} t order by 1`));
      rows[name] = found.map(({ row }) => row);
    }
    return rows;
  }
  test('three institutions follow one channel to the same rows, and come to them again from block 0', async () => {
    await send(home, 'enrollPatient', say.enroll('pat-1'));
    await send(home, 'registerMember', say.member('mem-1', { key: keys.clinician }));
    await caughtUp(home);
    const grant = [keys.home.jws(TYP.grantPermission, say.grantText('pat-1', [say.permission('role:clinician', 'laboratory', 1)]))];
    const documents = Array.from({ length: 12 }, (_, i) => build.recordDocumentsArgument([say.entry('pat-1', `doc-${i}`)]));
    // One of two at once is invalid by a read conflict, and stands in the block all the same.
    const [first, second] = await Promise.all([1, 2].map(() => home.ledger.endorse({ name: 'grantPermission', args: grant })));
    assert.ok(first && second);
    const outcomes = await Promise.allSettled([first, second].map(({ bytes }) => home.ledger.submit(bytes)));
    assert.deepEqual(outcomes.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
    await Promise.all(documents.map((argument) => send(home, 'recordDocuments', [argument])));
    await Promise.all([home, away, third].map((one) => anchor(one, 1)));
    await caughtUp(home, away, third);
    const rows = await dump(home);
    assert.deepEqual(
      ['institution', 'patient', 'member', 'document', 'clause'].map((table) => rows[table]?.length),
      [3, 1, 1, 12, 1],
    );
    assert.deepEqual(await dump(away), rows);
    assert.deepEqual(await dump(third), rows);
    const { height, tip } = await home.ledger.info();
    const [checkpoint] = await home.database.query<{ height: number; tip: string }>(sql`select height, tip from projection.checkpoint`);
    assert.deepEqual(checkpoint, { height, tip }, 'the hash is the one that the peer computes');
    const all = await dump(home, { own: true });
    await home.projection.rebuild();
    assert.deepEqual(await dump(home, { own: true }), all);
    assert.deepEqual(await home.verify(receipts), []);
    assert.deepEqual([home.alarms, away.alarms, third.alarms].flat(), []);
    // The definition, and our own approval of it, were read from the blocks.
    assert.deepEqual(await home.database.query(sql`select distinct sequence from projection.definition where kind = 'committed'`), [
      { sequence: 1 },
    ]);
  });

  test('a peer that is killed, hangs and comes back: its successor goes on, and nothing is lost or repeated', async () => {
    const peers = connectPeers(await network.connection('alpha'));
    const events: BlockReaderEvent[] = [];
    const sources = peers.all.map(({ name, network: channel }) => ({
      name,
      open: (startBlock: bigint) => channel.getBlockEvents({ startBlock }),
    }));
    const reader = createBlockReader({ sources, chaincode: 'oncobridge', stallMs: 1000, onEvent: (event) => events.push(event) });
    closing.push(peers, reader);
    const from = await away.ledger.height();
    const numbers: number[] = [];
    const reading = (async () => {
      for await (const { number } of reader.blocks(from)) numbers.push(number);
    })();
    let number = 1;
    const write = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i++) await anchor(away, ++number);
    };
    const serving = (): string => events.findLast(({ kind }) => kind === 'connected')?.peer ?? assert.fail('not connected');
    await write(3);
    await until('blocks', () => numbers.length >= 3);
    await network.node(serving()).kill();
    await write(3);
    await until('the other peer', () => numbers.length >= 6, WAIT_MS);
    const hung = serving();
    await Promise.all(['peer1.alpha', 'peer2.alpha'].filter((name) => name !== hung).map((name) => network.node(name).start()));
    await network.node(hung).pause();
    await write(3);
    await until('the first peer again', () => numbers.length >= 9, WAIT_MS);
    assert.notEqual(serving(), hung);
    await network.node(hung).resume();
    // All of ours away for a while.
    for (const name of ['peer1.alpha', 'peer2.alpha']) await network.node(name).kill();
    await write(3);
    await Promise.all(['peer1.alpha', 'peer2.alpha'].map((name) => network.node(name).start()));
    const height = await away.ledger.height();
    await until('every block', () => numbers.at(-1) === height - 1, WAIT_MS);
    reader.close();
    await reading;
    assert.deepEqual(
      numbers,
      Array.from({ length: height - from }, (_, i) => from + i),
    );
    assert.deepEqual(new Set(events.map(({ kind }) => kind)), new Set(['connected', 'lost', 'quiet']));
    await caughtUp(home, away, third);
    assert.deepEqual(await dump(home), await dump(third));
    assert.deepEqual(home.alarms, []);
  });

  test('an idle network stays fresh by its anchors alone; frozen peers make the view stale in time', async () => {
    const maxStalenessMs = 1500;
    const { database, url, ledger, projection } = home;
    const queue = await createPostgresQueue({ url, attempts: 4, backoffMs: 10 });
    const outbox = createOutbox({ database, pollMs: 20 });
    const writer = await createLedgerWriter({ database, queue, ledger, unknownWaitMs: 20, closeMs: 2000 });
    const relay = await createRelay({ database, queue, batchSize: 10, checkMs: 500, scanMs: 50, retryMs: 100, maxRetryMs: 300 });
    const anchoring = createAnchoring({
      database,
      institution: HOME,
      outbox,
      projected: (block, timeoutMs) => projection.waitFor(block, timeoutMs),
      everyMs: 400,
    });
    const fresh = createFreshness({ projection, maxStalenessMs });
    try {
      await anchoring.start();
      await until('fresh', fresh, WAIT_MS);
      const end = performance.now() + 3 * maxStalenessMs;
      while (performance.now() < end) {
        assert.ok(await fresh(), JSON.stringify(await projection.freshness(maxStalenessMs)));
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      const others = await away.ledger.height();
      const frozen = performance.now();
      for (const name of ['peer1.alpha', 'peer2.alpha']) await network.node(name).pause();
      await anchor(away, 100).catch(() => {});
      await until('stale', async () => !(await fresh()), WAIT_MS);
      // Not sooner than what came last allows, and not later either.
      assert.ok(performance.now() - frozen < maxStalenessMs + 1000, `${performance.now() - frozen} ms`);
      assert.ok((await projection.height()) <= others + 1);
      for (const name of ['peer1.alpha', 'peer2.alpha']) await network.node(name).resume();
      await until('fresh again', fresh, WAIT_MS);
    } finally {
      for (const name of ['peer1.alpha', 'peer2.alpha']) await network.node(name).resume();
      await anchoring.close();
      await relay.close();
      await outbox.close();
      await writer.close();
      await queue.close();
    }
  });

  test('a definition that two institutions put into force stops the third, until it approves it', async () => {
    const definition = await nextDefinition(network, 2);
    await Promise.all(['beta', 'gamma'].map((name) => definition.approve(name)));
    await definition.commit('beta', 'gamma');
    await nextAnchor(away);
    await until('the alarm', () => home.alarms.length > 0, WAIT_MS);
    assert.deepEqual(
      home.alarms.map(({ kind }) => kind),
      ['definition'],
    );
    await caughtUp(away, third);
    assert.deepEqual([...away.alarms, ...third.alarms], []);
    const at = await home.projection.height();
    assert.ok(at < (await away.projection.height()));
    await definition.approve('alpha');
    await caughtUp(home);
    assert.deepEqual(await dump(home), await dump(away));
    const all = await dump(home, { own: true });
    await home.projection.rebuild();
    assert.deepEqual(await dump(home, { own: true }), all);
    assert.deepEqual(await home.verify(receipts), []);
  });

  test('a write set that two institutions forge changes no answer at the third, denies whose keys it wrote, and alarms', async () => {
    await send(home, 'enrollPatient', say.enroll('pat-2'));
    await caughtUp(home);
    const before = await dump(home);
    const known = home.alarms.length;
    const forgers = await Promise.all(['chaincode.beta', 'chaincode.gamma'].map((name) => replaceChaincode(network, name)));
    for (const one of forgers) closing.push({ close: () => one.kill() });
    const peers = connectPeers(await network.connection('beta'));
    closing.push(peers);
    const contract = (peers.all[0] ?? assert.fail()).network.getContract('oncobridge');
    const forge = async (name: string, args: readonly string[], by: readonly Site[]): Promise<boolean> => {
      const proposal = contract.newProposal(name, { arguments: [...args], endorsingOrganizations: by.map(({ msp }) => msp) });
      const submitted = await (await proposal.endorse()).submit();
      return (await submitted.getStatus()).successful;
    };
    const permission = `perm/${HOME}/pat-1/patient/role:insurer/laboratory/`;
    const writes = [
      [`${permission}head`, '{"sequence":1}'],
      [`${permission}v/0000000001`, '{}'],
    ];
    assert.ok(await forge('forge', [JSON.stringify(writes)], [away, third]), 'two of three endorse it: Fabric lets it pass');
    // Honest to look at: only the contract, run again, knows what it should have written.
    assert.ok(await forge('registerMember', say.member('mem-9', { key: keys.other, institution: AWAY }), [away, third]));
    // One alone does not pass, and stands in the block for ever with what it said.
    assert.equal(await forge('forge', [JSON.stringify([[`note/${CANARY}`, '{}']])], [away]), false);
    await Promise.all(forgers.map((one) => one.back()));

    await caughtUp(home, away, third);
    assert.deepEqual(
      home.alarms.slice(known).map(({ kind, stateKeys }) => [kind, [...stateKeys].sort()]),
      [
        ['write-set', [`${permission}head`, `${permission}v/0000000001`]],
        ['write-set', [`mem/${AWAY}/mem-9`]],
      ],
    );
    const rows = await dump(home);
    for (const table of ['permission', 'clause', 'member', 'document', 'state']) assert.deepEqual(rows[table], before[table], table);
    assert.deepEqual(await home.database.query(sql`select pat, status from projection.patient order by 1`), [
      { pat: 'pat-1', status: 'alarmed' },
      { pat: 'pat-2', status: 'active' },
    ]);
    // Their own oncobridge, where it is honest, comes to the same.
    assert.deepEqual(await dump(away), rows);
    assert.deepEqual(
      (await home.verify(receipts)).map((text) => text.split(':')[0]),
      ['effect', 'effect'],
    );
    await home.database.query(sql`update ledger_alarm set cleared_at = now()`);
    await home.projection.rebuild();
    assert.deepEqual(await home.verify(receipts), []);
    assert.equal((await home.database.query(sql`select 1 from projection.patient where status = 'alarmed'`)).length, 0);
  });

  test('no block of all this holds what is no ledger’s business, and what was put there is found', async () => {
    const linter = createBlockLinter([CANARY, 'Okafor-Lindqvist', '1949-07-30']);
    const blocks = await rawBlocks(await network.connection('alpha'), await home.ledger.height());
    assert.ok(blocks.length > 30);
    const found = blocks.flatMap((block) => linter.fabric(block));
    assert.deepEqual(new Set(found.map(({ canary }) => canary)), new Set([CANARY]));
    assert.equal(new Set(found.map(({ place }) => place)).size, 1);
  });
});
