import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { codeOf } from '../../src/errors.ts';
import * as build from '../../src/ledger/contract/payloads.ts';
import { TYP } from '../../src/ledger/contract/shapes.ts';
import { createDefinitionGuard } from '../../src/ledger/definition-guard.ts';
import type { Ledger } from '../../src/ledger/ledger.ts';
import { createProjection, type Projection, type ProjectionOptions } from '../../src/ledger/projection.ts';
import type { Alarm } from '../../src/ledger/projection-alarms.ts';
import { projectedState } from '../../src/ledger/projection-state.ts';
import { checkChannelProjection } from '../../src/ledger/self-check.ts';
import { simulate } from '../../src/ledger/simulation.ts';
import { verifyChannel } from '../../src/ledger/verify-channel.ts';
import type { Database } from '../../src/store/database.ts';
import { raw, sql } from '../../src/store/sql.ts';
import { until } from '../queue/conformance.ts';
import { withTestDatabase } from '../store/test-database.ts';
import { CHAINCODE, createChain, type Forged, type Gateway, makeEnvelope, newGateway, writeSet } from './block-maker.ts';
import { AWAY, cast, HOME, hex64, LEDGER, statements } from './world.ts';

/** For a machine that does much else. */
const WAIT_MS = 20_000;
const THIRD = 'inst-third';
const keys = cast();
const say = statements(keys, LEDGER);
const mspOf = (institution: string): string => `${institution}-msp`;
const closing: { close(): Promise<void> }[] = [];
async function closeAll(): Promise<void> {
  for (const one of closing.splice(0).toReversed()) await one.close();
}

interface Site {
  database: Database;
  projection: Projection;
  alarms: Alarm[];
  errors: string[];
  rows(text: string): Promise<unknown[]>;
  verify(more?: Partial<Parameters<typeof verifyChannel>[0]>): Promise<string[]>;
}
/** One institution's view of a channel. */
async function site(ledger: Pick<Ledger, 'blocks' | 'height'>, more: Partial<ProjectionOptions> = {}, institution = HOME): Promise<Site> {
  const { database } = await withTestDatabase();
  const alarms: Alarm[] = [];
  const errors: string[] = [];
  const msp = mspOf(institution);
  const projection = createProjection({
    database,
    ledger,
    institution,
    msp,
    definitions: createDefinitionGuard({ msp, chaincode: CHAINCODE, ledger }),
    approvalRetryMs: 100,
    onAlarm: (alarm) => alarms.push(alarm),
    onError: (error) => errors.push(codeOf(error) ?? String(error)),
    ...more,
  });
  closing.push(projection);
  return {
    database,
    projection,
    alarms,
    errors,
    rows: (text) => database.query(raw(text)),
    async verify(options = {}) {
      const { problems } = await verifyChannel({ database, ledger, institution, msp, lagMs: 100, ...options });
      return problems.map(({ kind, what }) => `${kind}: ${what}`);
    },
  };
}
async function dump(database: Database): Promise<Record<string, string[]>> {
  const tables = await database.query<{ name: string }>(
    sql`select table_name as name from information_schema.tables where table_schema = 'projection' order by 1`,
  );
  const rows: Record<string, string[]> = {};
  for (const { name } of tables)
    rows[name] = (await database.query<{ row: string }>(raw(`select t::text as row from projection.${name} t order by 1`))).map(
      ({ row }) => row,
    );
  return rows;
}
async function statusOf(database: Database): Promise<Record<string, string>> {
  const rows = await database.query<{ id: string; status: string }>(
    raw(`select inst as id, status from projection.institution union all select inst || '/' || mem, status from projection.member
      union all select inst || '/' || pat, status from projection.patient`),
  );
  return Object.fromEntries(rows.map(({ id, status }) => [id, status]));
}

describe('projection of a channel', () => {
  after(closeAll);

  /** Three institutions, two patients and a member at home. */
  async function channel() {
    const chain = createChain();
    const [home, away, third] = await Promise.all([HOME, AWAY, THIRD].map((name) => newGateway(mspOf(name), name)));
    assert.ok(home && away && third);
    await chain.submit(home, 'init', say.init([HOME, keys.home], [AWAY, keys.away], [THIRD, keys.third]));
    await chain.submit(home, 'enrollPatient', say.enroll('pat-1'));
    await chain.submit(home, 'enrollPatient', say.enroll('pat-2'));
    await chain.submit(home, 'registerMember', say.member('mem-1', { key: keys.clinician }));
    return {
      chain,
      home,
      away,
      third,
      anchor: (gateway: Gateway, number: number, time?: string) =>
        chain.submit(gateway, 'anchorAudit', [build.anchorAuditArgument({ number, root: hex64(String(number)) })], time),
      record: (document: string) => chain.submit(home, 'recordDocuments', [build.recordDocumentsArgument([say.entry('pat-1', document)])]),
      grant: () =>
        chain.submit(home, 'grantPermission', [
          keys.home.jws(TYP.grantPermission, say.grantText('pat-1', [say.permission('role:clinician', 'laboratory', 1)])),
        ]),
      forge: (forged: Partial<Forged> & Pick<Forged, 'writes'>) =>
        chain.append({
          bytes: makeEnvelope({ gateway: away, name: 'anchorAudit', args: ['{}'], time: new Date().toISOString(), ...forged }),
        }),
    };
  }

  test('follows it, gives the same rows again from block 0, and holds', async () => {
    const one = await channel();
    const { projection, database, verify } = await site(one.chain.ledger);
    await projection.start();
    await one.grant();
    await one.record('doc-1');
    const stale = makeEnvelope({
      gateway: one.home,
      name: 'enrollPatient',
      args: say.enroll('pat-9'),
      writes: [[`pat/${HOME}/pat-9/core`, '{}']],
    });
    one.chain.append({ bytes: stale, validation: 'MVCC_READ_CONFLICT' });
    await one.anchor(one.home, 1);
    const newest = one.chain.raw.length - 1;
    assert.ok(await projection.waitFor(newest, WAIT_MS));
    assert.ok((await projection.freshness(10_000)).fresh);
    const rows = await dump(database);
    assert.deepEqual([rows['patient']?.length, rows['entry']?.length, rows['clause']?.length, rows['anchor']?.length], [2, 1, 1, 3]);
    await projection.rebuild();
    assert.deepEqual(await dump(database), rows);
    assert.deepEqual(await verify(), []);
    assert.deepEqual(await verify({ rerun: false }), []);
    // Where the contract is run before others are asked: on the rows, as they are now.
    const proposal = {
      name: 'anchorAudit',
      args: [build.anchorAuditArgument({ number: 2, root: hex64('2') })],
      caller: { msp: mspOf(HOME), institution: HOME },
      time: new Date().toISOString(),
    };
    assert.equal((await simulate(projectedState(database), proposal)).writes.size, 1);
    await assert.rejects(
      simulate(projectedState(database), { ...proposal, caller: { msp: mspOf(AWAY), institution: HOME } }),
      /CALLER_UNKNOWN/,
    );
  });

  test('a write set that two institutions forged changes no answer, denies whose keys it wrote, and alarms', async () => {
    const one = await channel();
    await one.record('doc-1');
    const { projection, database, alarms, errors, verify, rows } = await site(one.chain.ledger);
    await projection.start();
    const before = await dump(database);
    const permission = `perm/${HOME}/pat-1/patient/role:insurer/laboratory/`;
    one.forge({
      writes: [
        [`${permission}head`, '{"sequence":1}'],
        [`${permission}v/0000000001`, '{}'],
      ],
    });
    // The member's role, through another chaincode; and what no text column takes, which must not stop us either.
    one.forge({ invoked: 'trade', writes: [[`mem/${HOME}/mem-1`, '{"role":"registrar"}']] });
    const nul = one.forge({ writes: [['pat/inst-x/pat-\0/core', '{}']] });
    // A query that somebody had ordered, and a refused transaction without effect: noise, and no more.
    one.forge({ name: 'decide', args: ['{}'], writes: [] });
    await one.anchor(one.third, 1);
    const newest = one.chain.raw.length - 1;
    assert.ok(await projection.waitFor(newest, WAIT_MS), errors.join());
    assert.deepEqual(
      alarms.map(({ kind, stateKeys }) => [kind, stateKeys.length]),
      [
        ['write-set', 2],
        ['write-set', 1],
        ['write-set', 1],
      ],
    );
    assert.deepEqual(await statusOf(database), {
      [HOME]: 'active',
      [AWAY]: 'active',
      [THIRD]: 'active',
      [`${HOME}/mem-1`]: 'alarmed',
      [`${HOME}/pat-1`]: 'alarmed',
      [`${HOME}/pat-2`]: 'active',
    });
    for (const table of ['permission', 'clause', 'entry', 'document'])
      assert.deepEqual((await dump(database))[table], before[table], table);
    assert.deepEqual(await rows(`select role from projection.member`), [{ role: 'clinician' }]);
    // It is told until somebody has looked into it.
    const problems = await verify();
    assert.deepEqual(
      problems.map((text) => text.split(':')[0]),
      ['effect', 'effect', 'effect'],
    );
    assert.match(problems[1] ?? '', /through chaincode trade/);
    await database.query(sql`update ledger_alarm set cleared_at = now() where tx_id is distinct from ${nul.transactions[0]?.txId}`);
    await projection.rebuild();
    assert.deepEqual((await verify()).length, 1);
    assert.equal((await statusOf(database))[`${HOME}/pat-1`], 'active');
  });

  test('nobody else can make the view look fresh', async () => {
    const one = await channel();
    const { projection } = await site(one.chain.ledger, { now: () => new Date() });
    await projection.start();
    const { ownSeenAt } = await projection.freshness(1000);
    const future = new Date(Date.now() + 3_600_000).toISOString();
    // Another authority writes our institution into a certificate; our own word, unsigned; theirs, which says nothing of us.
    const pretender = await newGateway(mspOf(AWAY), HOME);
    const args = [build.anchorAuditArgument({ number: 1, root: hex64('1') })];
    one.forge({ gateway: pretender, args, time: future, writes: [[`anchor/${HOME}`, '{}']] });
    one.forge({ gateway: pretender, name: 'decide', time: future, writes: [] });
    const unsigned = makeEnvelope({
      gateway: one.home,
      name: 'anchorAudit',
      args,
      time: future,
      writes: [],
      spoil: ({ envelope }) => envelope.setSignature(Buffer.from('x')),
    });
    one.chain.append({ bytes: unsigned, validation: 'BAD_CREATOR_SIGNATURE' });
    await one.anchor(one.away, 1, future);
    assert.ok(await projection.waitFor(one.chain.raw.length - 1, WAIT_MS));
    assert.deepEqual((await projection.freshness(1000)).ownSeenAt, ownSeenAt);
    await one.anchor(one.home, 1);
    assert.ok(await projection.waitFor(one.chain.raw.length - 1, WAIT_MS));
    assert.ok(((await projection.freshness(1000)).ownSeenAt ?? 0) > (ownSeenAt ?? 0));
  });

  describe('definitions of the contract', () => {
    const state = (text: string): string => `\n${String.fromCharCode(text.length)}${text}`;
    const FIELDS = { EndorsementInfo: state('1.0'), ValidationInfo: state('vscc'), Collections: state('') };
    /** Of one organisation, as `approveformyorg` leaves it in a block: hashes of its private data. */
    function approval(gateway: Gateway, sequence: number, fields: Record<string, string> = FIELDS): Uint8Array {
      const writes = Object.entries(fields).map(([field, value]): [string, string] => [
        `namespaces/fields/${CHAINCODE}#${sequence}/${field}`,
        value,
      ]);
      const collections = [{ name: `_implicit_org_${gateway.msp}`, writes }];
      return lifecycle(gateway, 'ApproveChaincodeDefinitionForMyOrg', writeSet('_lifecycle', [], { collections }));
    }
    function commit(gateway: Gateway, sequence: number, fields: Record<string, string> = FIELDS): Uint8Array {
      const all: [string, Buffer][] = [
        ['Sequence', Buffer.from([0x08, sequence])],
        ...Object.entries(fields).map(([field, value]): [string, Buffer] => [field, Buffer.from(value, 'latin1')]),
      ];
      const writes = all.map(([field, value]) => [`namespaces/fields/${CHAINCODE}/${field}`, value] as const);
      return lifecycle(gateway, 'CommitChaincodeDefinition', writeSet('_lifecycle', writes));
    }
    function lifecycle(gateway: Gateway, name: string, set: ReturnType<typeof writeSet>): Uint8Array {
      return makeEnvelope({ gateway, name, args: [], writes: [], invoked: '_lifecycle', namespace: 'none', sets: [set] });
    }

    test('one that we approved is followed; one that others put into force stops the view before it, until we approve it', async () => {
      const one = await channel();
      const { projection, alarms, errors, database, verify } = await site(one.chain.ledger);
      for (const gateway of [one.home, one.away]) one.chain.append({ bytes: approval(gateway, 1) });
      one.chain.append({ bytes: commit(one.away, 1) });
      await one.record('doc-1');
      await projection.start();
      assert.deepEqual([alarms, errors], [[], []]);

      for (const gateway of [one.away, one.third]) one.chain.append({ bytes: approval(gateway, 2) });
      // Of the fields only the sequence changes: the rest stands as it was.
      const { number } = one.chain.append({ bytes: commit(one.away, 2, {}) });
      await one.record('doc-2');
      await until('the alarm', () => alarms.length > 0);
      assert.deepEqual(alarms, [{ kind: 'definition', block: number, stateKeys: [] }]);
      assert.ok(!(await projection.waitFor(number, 300)));
      assert.equal(await projection.height(), number);
      assert.deepEqual(errors, ['LEDGER_DEFINITION']);
      // Ours, late and of other parameters: that is not it.
      one.chain.append({ bytes: approval(one.home, 2, { ...FIELDS, ValidationInfo: state('other') }) });
      assert.ok(!(await projection.waitFor(number, 500)));
      one.chain.append({ bytes: approval(one.home, 2) });
      assert.ok(await projection.waitFor(one.chain.raw.length - 1, WAIT_MS));
      const rows = await dump(database);
      assert.equal(rows['document']?.length, 2);
      await projection.rebuild();
      assert.deepEqual(await dump(database), rows);
      assert.deepEqual(await verify(), []);
      assert.equal(errors.length, 1, 'said once');
      await database.query(
        raw(
          `update projection.definition set hash = 'x' where kind = 'approved' and n = 0 and block = (select min(block) from projection.definition)`,
        ),
      );
      assert.match((await verify()).join(), /projection\.definition \d+\/0 is not what the blocks say/);
    });

    test('who joins later has approved the definition of today, and follows what was before', async () => {
      const one = await channel();
      one.chain.append({ bytes: commit(one.away, 1) });
      await one.record('doc-1');
      one.chain.append({ bytes: commit(one.away, 2, { ...FIELDS, EndorsementInfo: state('1.1') }) });
      const { projection, alarms, database } = await site(one.chain.ledger);
      const started = projection.start();
      await until('the alarm', () => alarms.length > 0);
      one.chain.append({ bytes: approval(one.home, 2, { ...FIELDS, EndorsementInfo: state('1.1') }) });
      await started;
      assert.ok(await projection.waitFor(one.chain.raw.length - 1, WAIT_MS));
      // Who begins then finds the approval further on, and nothing to alarm anybody with.
      const later = await site(one.chain.ledger);
      await later.projection.start();
      assert.deepEqual([later.alarms, later.errors], [[], []]);
      assert.deepEqual(await dump(later.database), await dump(database));
    });
  });
});

describe('ledger verify of a channel', () => {
  after(closeAll);

  test('finds forged rows, receipts that the blocks do not bear out, and a peer whose tail is gone', async () => {
    const chain = createChain();
    const home = await newGateway(mspOf(HOME), HOME);
    await chain.submit(home, 'init', say.init([HOME, keys.home]));
    await chain.submit(home, 'enrollPatient', say.enroll('pat-1'));
    const block = await chain.submit(home, 'recordDocuments', [build.recordDocumentsArgument([say.entry('pat-1', 'doc-1')])]);
    const { projection, database, verify, rows } = await site(chain.ledger);
    await projection.start();
    await projection.close();
    const receipt = { txId: block.transactions[0]?.txId ?? '', block: block.number };
    assert.deepEqual(await verify({ receipts: [receipt] }), []);
    assert.match((await verify({ receipts: [{ ...receipt, block: 1 }] })).join(), /^receipt:/);
    // Those on record count without being handed in.
    await database.query(sql`insert into outbox_batch (id, job, state, transaction, priority, check_at, tx_id, block)
      values ('batch-1', 'batch-1', 'committed', 'recordDocuments', 1, now(), ${receipt.txId}, ${receipt.block})`);
    assert.deepEqual(await verify(), []);
    const before = await dump(database);
    const alarms: string[] = [];
    for (const [statement, about] of [
      [`update projection.document set withdrawn = true`, /projection\.document .* is not what/],
      [`delete from projection.entry`, /projection\.entry .* is missing/],
      [`update projection.state set value = '{}' where key like 'ent/%'`, /projection\.state/],
      [`update projection.checkpoint set own_seen_at = now() + interval '1 day'`, /no block holds/],
      [`update projection.checkpoint set tip = 'x'`, /ahead of the ledger, or beside it/],
      [`update projection.checkpoint set height = height + 1`, /ahead of the ledger, or beside it/],
    ] as const) {
      await database.query(raw(statement));
      const found = await checkChannelProjection({
        database,
        ledger: chain.ledger,
        institution: HOME,
        msp: mspOf(HOME),
        lagMs: 100,
        onAlarm: ({ kind }) => alarms.push(kind),
      });
      assert.match(found.map(({ what }) => what).join(), about, statement);
      assert.match((await verify()).join(), about, statement);
      await rows('truncate projection.document, projection.entry, projection.state, projection.checkpoint');
      for (const table of ['document', 'entry', 'state', 'checkpoint'])
        for (const text of before[table] ?? [])
          await database.query(sql`insert into projection.${raw(table)} select (${text}::projection.${raw(table)}).*`);
      assert.deepEqual(await dump(database), before);
    }
    // Each once, of the same words.
    assert.deepEqual(alarms, Array(5).fill('projection'));
    // A peer that joined from a snapshot has no old blocks, and its stream only waits.
    const silent: Pick<Ledger, 'blocks' | 'height'> = {
      height: chain.ledger.height,
      async *blocks(_from, signal) {
        yield* [];
        await new Promise<void>((resolve) => signal?.addEventListener('abort', () => resolve()));
      },
    };
    await assert.rejects(verify({ ledger: silent, stallMs: 50 }), (error) => codeOf(error) === 'LEDGER_UNAVAILABLE');
    // The own peer came back without its newest block: its receipt and the view know better.
    const cut = chain.raw.length - 1;
    const ledger: Pick<Ledger, 'blocks' | 'height'> = {
      height: async () => cut,
      async *blocks(from, signal) {
        for await (const one of chain.ledger.blocks(from, signal)) {
          if (one.number < cut) yield one;
          else await new Promise<void>((resolve) => signal?.addEventListener('abort', () => resolve()));
        }
      },
    };
    const found = await verify({ ledger });
    assert.deepEqual(
      found.map((text) => text.split(':')[0]),
      ['projection', 'receipt'],
    );
  });
});
