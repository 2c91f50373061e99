import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gatewayIdentity } from '../../network/identities.ts';
import { placesIn } from '../../network/topology.ts';
import { CodedError, codeOf } from '../../src/errors.ts';
import { compareUtf8 } from '../../src/ledger/contract/bytes.ts';
import * as build from '../../src/ledger/contract/payloads.ts';
import { TYP } from '../../src/ledger/contract/shapes.ts';
import { createFabricLedger, type FabricEvent, type FabricLedgerOptions } from '../../src/ledger/fabric/fabric-ledger.ts';
import { connectPeers } from '../../src/ledger/fabric/peers.ts';
import type { Block, Ledger } from '../../src/ledger/ledger.ts';
import { MemoryState } from '../../src/ledger/memory-state.ts';
import { replayBlock } from '../../src/ledger/replay.ts';
import { fabricTest, type TestNetwork, withTestNetwork } from '../fabric/test-network.ts';
import { ledgerConformance, send } from './conformance.ts';
import { AWAY, CATEGORIES, cast, HOME, hex64, LEDGER, newKey, statements } from './world.ts';

const keys = cast();
let started: Promise<TestNetwork> | undefined;
/** One network for all of this file. Names and MSP ids are those that the statements of the tests name. */
function network(): Promise<TestNetwork> {
  const institution = (name: string, peers: 1 | 2) => ({ name, institution: `inst-${name}`, msp: `inst-${name}-msp`, peers });
  return (started ??= withTestNetwork({ institutions: [institution('home', 2), institution('away', 1), institution('third', 1)] }));
}
const node = async (name: string) => (await network()).node(name);
const say = statements(keys, LEDGER);
const closing: Ledger[] = [];
after(async () => {
  for (const one of closing.splice(0)) await one.close();
});

async function gateway(as: string = HOME, options: Partial<FabricLedgerOptions> = {}): Promise<Ledger> {
  const ledger = await createFabricLedger({ connection: await (await network()).connection(as), ledgerId: LEDGER, ...options });
  closing.push(ledger);
  return ledger;
}

/** Code and diagnostics of what is rejected. */
async function outcome(work: Promise<unknown>): Promise<string> {
  return await work.then(
    () => 'OK',
    (error: unknown) => (error instanceof CodedError ? `${error.code} ${error.detail.diagnostics ?? ''}`.trim() : String(error)),
  );
}

ledgerConformance(
  'fabric',
  async () => {
    const ledger = await gateway();
    const anchor = { name: 'anchorAudit', args: [build.anchorAuditArgument({ number: 1, root: hex64('1') })] };
    const unfounded: unknown = await ledger.endorse(anchor).catch((error: unknown) => error);
    await send(ledger, 'init', say.init([HOME, keys.home]));
    assert.match((await ledger.info()).consensus, /^Raft, 1 orderer$/);
    return {
      ledger,
      keys,
      unfounded,
      elsewhere: async ({ as = HOME, minutesLater = 0 }) =>
        gateway(as, minutesLater === 0 ? {} : { now: () => new Date(Date.now() + minutesLater * 60_000) }),
      async loseOutcomes() {
        const orderer = await node('orderer1');
        await orderer.kill();
        return () => orderer.start();
      },
    };
  },
  fabricTest(),
);

describe('on Fabric', fabricTest(), () => {
  let home: Ledger;
  let away: Ledger;
  const grantText = (patient: string, sequence = 1) => say.grantText(patient, [say.permission('role:carer', 'laboratory', sequence)]);
  const grant = (patient: string, by = keys.home, sequence = 1) => [by.jws(TYP.grantPermission, grantText(patient, sequence))];
  const revoke = (patient: string, by = keys.home) => [
    by.jws(TYP.revokePermission, say.revokeText(patient, [{ grantee: 'role:carer', category: 'laboratory' }])),
  ];
  before(async () => {
    home = await gateway();
    away = await gateway(AWAY);
    await send(home, 'enrollPatient', say.enroll('pat-f1'));
  });

  test('an institution registers only its own members and withdraws only its own entries', async () => {
    const forged = say.member('mem-f1', { key: keys.clinician, institution: HOME });
    assert.equal(await outcome(away.endorse({ name: 'registerMember', args: forged })), 'LEDGER_REFUSED SCHEMA proof');
    // Without a proof it is a member of whoever sends it.
    await send(away, 'registerMember', say.member('mem-f1'));
    const [there, here] = await Promise.all(
      [AWAY, HOME].map(async (of) => JSON.parse(await home.evaluate('member', [of, 'mem-f1'])) as unknown),
    );
    assert.ok(there !== null && here === null);
    // Its authority writes our institution into a certificate: the MSP id is still its own.
    const { folder } = await network();
    const elsewhere = { ...placesIn(folder), institution: () => join(folder, 'thief') };
    const connection = await (await network()).connection(AWAY);
    const stolen = await gatewayIdentity(elsewhere, { name: 'away', institution: HOME, msp: connection.msp, peers: [] });
    const thief = await gateway(AWAY, { connection: { ...connection, ...stolen, institution: HOME } });
    assert.equal(await outcome(thief.endorse({ name: 'registerMember', args: forged })), 'LEDGER_REFUSED CALLER_UNKNOWN');
    const suspend = build.suspendMemberPayload({ ...say.base(), institution: AWAY, member: 'mem-f1', version: 2 });
    assert.equal(
      await outcome(home.endorse({ name: 'suspendMember', args: [keys.home.jws(TYP.suspendMember, suspend)] })),
      'LEDGER_REFUSED JWS_KEY',
    );

    await send(home, 'recordDocuments', [build.recordDocumentsArgument([say.entry('pat-f1', 'doc-f1')])]);
    const withdrawal = [build.withdrawDocumentArgument({ ...say.of('pat-f1'), document: 'doc-f1' })];
    const withdrawn = async () =>
      (JSON.parse(await home.evaluate('documentsOf', [HOME, 'pat-f1'])) as { withdrawn: boolean }[]).map((one) => one.withdrawn);
    const { block } = await send(away, 'withdrawDocument', withdrawal);
    while ((await home.height()) <= block) await new Promise((resolve) => setTimeout(resolve, 20));
    assert.deepEqual(await withdrawn(), [false]);
    await send(home, 'withdrawDocument', withdrawal);
    assert.deepEqual(await withdrawn(), [true]);
  });

  test('nobody grants for a patient who signs for themself; any gateway carries what the patient signed', async () => {
    await send(home, 'enrollPatient', say.enroll('pat-f2'));
    assert.equal(await outcome(away.endorse({ name: 'enrollPatient', args: say.enroll('pat-f3', keys.away) })), 'LEDGER_REFUSED JWS_KEY');
    const claim = build.claimPatientPayload({
      ...say.base(),
      ...say.of('pat-f2'),
      encryption: keys.category.jwk,
      keys: CATEGORIES.map((category) => ({ category, envelopes: [], key: keys.category.jwk, version: 2 })),
      onBehalf: 'pat-f2',
      recovery: keys.recovery.thumbprint,
      signing: keys.patient.jwk,
      version: 2,
    });
    await send(away, 'claimPatient', [keys.patient.jws(TYP.claimPatient, claim), keys.home.jws(TYP.claimPatient, claim)]);
    for (const [ledger, key] of [
      [home, keys.home],
      [away, keys.away],
      [away, keys.home],
      [home, newKey()],
    ] as const)
      assert.equal(await outcome(ledger.endorse({ name: 'grantPermission', args: grant('pat-f2', key) })), 'LEDGER_REFUSED JWS_KEY');
    const own = say.grantText('pat-f2', [say.permission('role:carer', 'laboratory', 1)], { onBehalf: null });
    await send(home, 'grantPermission', [keys.patient.jws(TYP.grantPermission, own)]);
    const back = say.revokeText('pat-f2', [{ grantee: 'role:carer', category: 'laboratory' }], { onBehalf: null });
    const { block } = await send(away, 'revokePermission', [keys.patient.jws(TYP.revokePermission, back)]);
    while ((await home.height()) <= block) await new Promise((resolve) => setTimeout(resolve, 20));
    assert.deepEqual(
      (JSON.parse(await home.evaluate('permissionsOf', [HOME, 'pat-f2'])) as { status: string }[]).map((one) => one.status),
      ['revoked'],
    );
  });

  test('what the contract refuses for its form never leaves the process; a view that lies behind blocks nothing', async () => {
    const events: FabricEvent[] = [];
    const connection = await (await network()).connection(HOME);
    const nowhere = { ...connection, peers: connection.peers.map((peer) => ({ ...peer, endpoint: 'localhost:1' })) };
    const state = new MemoryState();
    const height = await home.height();
    for await (const block of home.blocks(0)) {
      state.apply((await replayBlock(state, block)).overlay);
      if (block.number === height - 1) break;
    }
    const cut = await gateway(HOME, { connection: nowhere, state });
    assert.equal(await outcome(cut.endorse({ name: 'grantPermission', args: ['Anna Example'] })), 'LEDGER_REFUSED JWS_MALFORMED');
    assert.match(await outcome(cut.endorse({ name: 'enrollPatient', args: say.enroll('pat-f4') })), /^LEDGER_UNAVAILABLE/);
    assert.match(await outcome(cut.height()), /^LEDGER_UNAVAILABLE/);

    // A view of the past knows no ledger at all.
    const behind = await gateway(HOME, { state: new MemoryState(), onEvent: (event) => events.push(event) });
    await send(behind, 'enrollPatient', say.enroll('pat-f4'));
    assert.deepEqual(events, [{ kind: 'projection-behind', transaction: 'enrollPatient', code: 'LEDGER_MISSING' }]);
    assert.match(await outcome(behind.endorse({ name: 'enrollPatient', args: say.enroll('pat-f4') })), /^LEDGER_REFUSED PATIENT_EXISTS/);
    await send(behind, 'revokePermission', revoke('pat-f4'));
  });

  test('a time that does not compare is endorsed by nobody', async () => {
    const late = await gateway(HOME, { now: () => new Date(Date.UTC(12_000, 0)) });
    assert.match(
      await outcome(late.endorse({ name: 'enrollPatient', args: say.enroll('pat-f5') })),
      /^INTERNAL Chaincode FAILED HOST_RULE/,
    );
  });

  test('the event wakes and tells nothing: version, name and a hash of what was written, in 256 bytes', async () => {
    const peers = connectPeers(await (await network()).connection(HOME));
    const blocks: Block[] = [];
    const height = await home.height();
    for await (const block of home.blocks(0)) if (blocks.push(block) === height) break;
    const written = new Map(blocks.flatMap((block) => block.transactions.map((one) => [one.txId, one] as const)));
    const events = await peers.all[0]?.network.getChaincodeEvents('oncobridge', { startBlock: 0n });
    let count = 0;
    const expected = [...written.values()].filter((one) => one.validation === 'VALID' && one.writes.size > 0).length;
    for await (const { eventName, payload, transactionId } of events ?? []) {
      const transaction = written.get(transactionId) ?? assert.fail();
      const sorted = [...transaction.writes].sort(([a], [b]) => compareUtf8(a, b));
      const h = createHash('sha256').update(JSON.stringify(sorted)).digest('hex');
      assert.equal(Buffer.from(payload).toString(), JSON.stringify({ v: 1, t: transaction.name, h }));
      assert.ok(payload.length <= 256 && eventName === 'oncobridge');
      if (++count === expected) break;
    }
    events?.close();
    peers.close();
    assert.ok(count > 40);
  });

  test('only our own organisation answers queries, and its refusal counts with everybody else away', async () => {
    const others = await Promise.all(['away', 'third'].map((name) => node(`peer1.${name}`)));
    await Promise.all(others.map((one) => one.kill()));
    const transaction = { name: 'enrollPatient', args: say.enroll('pat-f6') };
    assert.match(await outcome(home.endorse(transaction)), /^LEDGER_UNAVAILABLE/);
    assert.match(await outcome(home.endorse({ name: 'grantPermission', args: grant('pat-none') })), /^LEDGER_REFUSED PATIENT_UNKNOWN/);
    assert.equal(await home.evaluate('member', [HOME, 'mem-none']), 'null');
    await Promise.all(others.map((one) => one.start()));

    const servers = await Promise.all(['chaincode.home', 'chaincode.home.2'].map(node));
    await Promise.all(servers.map((one) => one.kill()));
    assert.match(await outcome(home.evaluate('member', [HOME, 'mem-none'])), /^LEDGER_UNAVAILABLE/);
    await Promise.all(servers.map((one) => one.start()));
    await patiently(() => home.evaluate('member', [HOME, 'mem-none']));
    await patiently(() => home.endorse(transaction));
  });

  test('the own peers away: the second one does it; both, nothing was sent, or nobody knows; back, the same bytes count once', async () => {
    const events: FabricEvent[] = [];
    const ledger = await gateway(HOME, { onEvent: (event) => events.push(event) });
    const reading = ledger.blocks(await ledger.height())[Symbol.asyncIterator]();
    const next = reading.next();
    await send(ledger, 'enrollPatient', say.enroll('pat-f7'));
    assert.equal((await next).done, false);
    const [first, second] = await Promise.all(['peer1.home', 'peer2.home'].map(node));
    await first?.kill();
    const later = reading.next();
    const receipt = await patiently(() => send(ledger, 'enrollPatient', say.enroll('pat-f8')));
    assert.deepEqual(await ledger.status(receipt.txId), receipt);
    assert.equal(await ledger.evaluate('member', [HOME, 'mem-none']), 'null');
    assert.equal((await later).value?.number, receipt.block);
    assert.ok(events.some((event) => event.kind === 'peer-failed' && event.peer === 'peer1.home'));
    const endorsed = await patiently(() => ledger.endorse({ name: 'enrollPatient', args: say.enroll('pat-f9') }));
    await second?.kill();
    assert.match(await outcome(ledger.endorse({ name: 'enrollPatient', args: say.enroll('pat-f10') })), /^LEDGER_UNAVAILABLE/);
    assert.match(await outcome(ledger.submit(endorsed.bytes)), /^LEDGER_(UNKNOWN|UNAVAILABLE)/);
    assert.match(await outcome(ledger.status(endorsed.txId)), /^LEDGER_UNAVAILABLE/);
    for (let i = 0; i < 3; i++) assert.match(await outcome(ledger.height()), /^LEDGER_UNAVAILABLE/);
    assert.ok(events.some((event) => event.kind === 'breaker' && event.state === 'open'));
    await Promise.all([first?.start(), second?.start()]);
    const settled = await patiently(() => ledger.submit(endorsed.bytes));
    assert.deepEqual(await patiently(() => ledger.status(endorsed.txId)), settled);
  });

  test('a peer that hangs costs one deadline, not one a call', async () => {
    const connection = await (await network()).connection(HOME);
    const ledger = await gateway(HOME, { connection: { ...connection, deadlines: { endorseMs: 3000, evaluateMs: 1000, submitMs: 3000 } } });
    await patiently(() => ledger.height());
    const hung = await node('peer1.home');
    await hung.pause();
    try {
      await patiently(() => send(ledger, 'enrollPatient', say.enroll('pat-f11')));
      const started = performance.now();
      for (const patient of ['pat-f12', 'pat-f13']) await send(ledger, 'enrollPatient', say.enroll(patient));
      assert.equal(await ledger.evaluate('member', [HOME, 'mem-none']), 'null');
      const tookMs = performance.now() - started;
      assert.ok(tookMs < 6000, `${tookMs} ms`);
    } finally {
      await hung.resume();
    }
  });

  test('what a peer refuses that lies behind is no refusal', async () => {
    const [first, second, orderer] = await Promise.all([node('peer1.home'), node('peer2.home'), node('orderer1')]);
    const ledger = await gateway();
    await second.kill();
    await patiently(() => send(ledger, 'enrollPatient', say.enroll('pat-f14')));
    await orderer.pause();
    await first.kill();
    await second.start();
    try {
      const refused = () => ledger.endorse({ name: 'grantPermission', args: grant('pat-f14') });
      const answers = new Set<string>();
      for (let i = 0; i < 100 && ![...answers].some((one) => one.includes('blocks of')); i++) {
        answers.add(await outcome(refused()));
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      assert.match([...answers].at(-1) ?? '', /^LEDGER_UNAVAILABLE peer2\.home has \d+ blocks of \d+/);
      assert.ok(
        [...answers].every((one) => one.startsWith('LEDGER_UNAVAILABLE')),
        [...answers].join('; '),
      );
    } finally {
      await orderer.resume();
      await first.start();
    }
    await patiently(() => ledger.endorse({ name: 'grantPermission', args: grant('pat-f14') }));
  });

  test('an upgrade keeps the state; old blocks replay under old rules with the new code', async () => {
    // The next version of the contract: under rules 2 an anchor of an empty tree is refused.
    const place = await mkdtemp(join(tmpdir(), 'oncobridge-upgrade-'));
    after(() => rm(place, { recursive: true }));
    const project = fileURLToPath(new URL('../../', import.meta.url));
    for (const part of ['chaincode', 'src']) await cp(join(project, part), join(place, part), { recursive: true });
    await writeFile(join(place, 'package.json'), '{"type":"module"}');
    await symlink(join(project, 'node_modules'), join(place, 'node_modules'));
    const file = join(place, 'src/ledger/contract/institutions.ts');
    const old = await readFile(file, 'utf8');
    const line = '  const key = keys.anchorKey(host.caller.institution);\n  const previous';
    const rule = "  must((await readLedger(host)).rules < 3 || anchor.root !== NO_ROOT, 'SCHEMA', 'root');\n";
    assert.ok(old.includes(line));
    await writeFile(file, old.replace(line, rule + line));
    const next = (await import(join(place, 'src/ledger/replay.ts'))) as { replayBlock: typeof replayBlock };

    let number = 2;
    const anchor = () => [build.anchorAuditArgument({ number: ++number, root: '0'.repeat(64) })];
    const beforeUpgrade = anchor();
    await patiently(() => send(home, 'anchorAudit', beforeUpgrade));
    // A query that somebody orders like a transaction: it is endorsed, and is nothing.
    await send(home, 'member', [HOME, 'mem-none']);
    const documents = await home.evaluate('documentsOf', [HOME, 'pat-1']);
    const before = await (await network()).packageId();
    await (await network()).upgrade({ folder: join(place, 'chaincode') });
    assert.notEqual(await (await network()).packageId(), before);
    assert.equal(await patiently(() => home.evaluate('documentsOf', [HOME, 'pat-1'])), documents);
    assert.ok(documents.length > 1000);

    // Under the rules in force nothing has changed, until every institution has said so.
    const afterUpgrade = anchor();
    await patiently(() => send(home, 'anchorAudit', afterUpgrade));
    const rules = build.raiseRulesPayload({ ...say.base(), rules: 3 });
    await send(
      home,
      'raiseRules',
      [keys.home, keys.away, keys.thirdNext].map((key) => key.jws(TYP.raiseRules, rules)),
    );
    assert.equal(await outcome(send(home, 'anchorAudit', anchor())), 'LEDGER_REFUSED SCHEMA root');
    await send(home, 'anchorAudit', [build.anchorAuditArgument({ number, root: hex64('a tree') })]);

    // Everybody who replays from block 0 with the new code finds every old block as it was.
    const state = new MemoryState();
    const height = await home.height();
    let empty = 0;
    for await (const block of home.blocks(0)) {
      const { replayed, overlay } = await next.replayBlock(state, block);
      for (const { transaction, agrees } of replayed) {
        assert.ok(agrees, `${transaction.name} in block ${block.number}`);
        if (transaction.name === 'anchorAudit' && transaction.args.some((arg) => arg.includes('0'.repeat(64)))) empty++;
      }
      state.apply(overlay);
      if (block.number === height - 1) break;
    }
    // More, where one had to be sent again.
    assert.ok(empty >= 2);
    assert.equal(JSON.parse((await state.get('ledger'))?.value ?? '').rules, 3);
  });
});

/** What comes back after a while: connections back off, peers find one another again. */
async function patiently<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      const passing = ['LEDGER_UNAVAILABLE', 'LEDGER_UNKNOWN', 'LEDGER_MISMATCH'].includes(codeOf(error) ?? '');
      if (!passing || attempt > 60) throw error;
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
  }
}
