import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { appendFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { type CodedError, codeOf } from '../../src/errors.ts';
import { canonicalize } from '../../src/ledger/contract/jcs.ts';
import * as build from '../../src/ledger/contract/payloads.ts';
import { TYP } from '../../src/ledger/contract/shapes.ts';
import { createEmbeddedLedger, type EmbeddedLedgerOptions } from '../../src/ledger/embedded/embedded-ledger.ts';
import { decodeEnvelope, encodeEnvelope } from '../../src/ledger/embedded/envelope.ts';
import type { Fault } from '../../src/ledger/embedded/faults.ts';
import { foundLedger } from '../../src/ledger/embedded/first-start.ts';
import { encodeBlock } from '../../src/ledger/embedded/stored-block.ts';
import { readTip } from '../../src/ledger/embedded/tip-file.ts';
import type { Block, Ledger } from '../../src/ledger/ledger.ts';
import { createProjection, type Projection } from '../../src/ledger/projection.ts';
import { checkProjection } from '../../src/ledger/self-check.ts';
import { verifyLedger } from '../../src/ledger/verify.ts';
import type { Database } from '../../src/store/database.ts';
import { raw, sql } from '../../src/store/sql.ts';
import { until } from '../queue/conformance.ts';
import { type TestDatabase, withTestDatabase } from '../store/test-database.ts';
import { ledgerConformance, send } from './conformance.ts';
import { cast, HOME, hex64, statements } from './world.ts';

const keys = cast();
const folder = await mkdtemp(join(tmpdir(), 'oncobridge-ledger-'));
const closing: { close(): Promise<void> }[] = [];
/** Before the databases go, which the end of the process drops. */
async function closeAll(): Promise<void> {
  for (const one of closing.splice(0).toReversed()) await one.close();
}
after(() => rm(folder, { recursive: true }));
let count = 0;

interface House {
  db: TestDatabase;
  tipFile: string;
  ledger: Ledger;
  unfounded: unknown;
  say: ReturnType<typeof statements>;
  open(options?: Partial<EmbeddedLedgerOptions>): Promise<Ledger>;
  projection(of?: Pick<Ledger, 'blocks' | 'height'>): Projection;
  record(...documents: string[]): Promise<void>;
}
/** A founded embedded ledger with one patient and one member, in a database of its own. */
async function house(options: Partial<EmbeddedLedgerOptions> = {}): Promise<House> {
  const db = await withTestDatabase();
  const tipFile = join(folder, `tip-${count++}`);
  const open = async (more: Partial<EmbeddedLedgerOptions> = {}): Promise<Ledger> => {
    const ledger = await createEmbeddedLedger({
      database: db.database,
      tipFile,
      institution: HOME,
      msp: `${HOME}-msp`,
      publicKey: keys.home.jwk,
      sign: keys.home.sign,
      blockDelayMs: 1,
      onError: (error) => console.error(error),
      ...options,
      ...more,
    });
    closing.push(ledger);
    return ledger;
  };
  const ledger = await open();
  const anchor = { name: 'anchorAudit', args: [build.anchorAuditArgument({ number: 1, root: hex64('1') })] };
  const unfounded: unknown = await ledger.endorse(anchor).catch((error: unknown) => error);
  const found = { institution: HOME, msp: `${HOME}-msp`, keys: { signing: keys.home.jwk, encryption: keys.category.jwk } };
  await foundLedger({ ledger, ...found, signAsInstitution: async (typ, payload) => keys.home.jws(typ, payload) });
  const say = statements(keys, (await ledger.info()).ledgerId);
  return {
    db,
    tipFile,
    ledger,
    unfounded,
    say,
    open,
    projection(of = ledger) {
      const one = createProjection({ database: db.database, ledger: of, institution: HOME, onError: (error) => console.error(error) });
      closing.push(one);
      return one;
    },
    async record(...documents) {
      await send(ledger, 'recordDocuments', [build.recordDocumentsArgument(documents.map((document) => say.entry('pat-1', document)))]);
    },
  };
}
async function furnished(options: Partial<EmbeddedLedgerOptions> = {}): Promise<House> {
  const one = await house(options);
  await send(one.ledger, 'enrollPatient', one.say.enroll('pat-1'));
  await send(one.ledger, 'registerMember', one.say.member('mem-1', { key: keys.clinician }));
  return one;
}
function grantTo(one: House, grantee: string, sequence: number): Promise<unknown> {
  return send(one.ledger, 'grantPermission', [
    keys.home.jws(TYP.grantPermission, one.say.grantText('pat-1', [one.say.permission(grantee, 'laboratory', sequence)])),
  ]);
}
const TABLES = [
  'state',
  'institution',
  'member',
  'patient',
  'category_key',
  'permission',
  'clause',
  'entry',
  'document',
  'emergency',
  'anchor',
  'checkpoint',
];
async function dump(database: Database): Promise<Record<string, unknown[]>> {
  const rows: Record<string, unknown[]> = {};
  for (const table of TABLES)
    rows[table] = (await database.query<{ row: string }>(raw(`select t::text as row from projection.${table} t order by 1`))).map(
      ({ row }) => row,
    );
  return rows;
}

ledgerConformance('embedded', async () => {
  const lost = new Set<true>();
  const one = await house({ faults: (stage) => (stage === 'submit' && lost.has(true) ? 'lost' : undefined) });
  return {
    ledger: one.ledger,
    keys,
    unfounded: one.unfounded,
    async elsewhere({ as = HOME, minutesLater = 0 }) {
      const key = as === HOME ? keys.home : keys.away;
      const now = () => new Date(Date.now() + minutesLater * 60_000);
      return one.open({ institution: as, msp: `${as}-msp`, publicKey: key.jwk, sign: key.sign, now });
    },
    async loseOutcomes() {
      lost.add(true);
      return async () => lost.clear();
    },
  };
});

describe('embedded ledger', () => {
  after(closeAll);
  test('says plainly what it is; the tip file follows, and another start goes on', async () => {
    const one = await furnished();
    const info = await one.ledger.info();
    assert.deepEqual([info.kind, info.nodes, info.height], ['embedded', 1, 3]);
    assert.match(info.consensus, /^none: one node/);
    const tip = await readTip(one.tipFile);
    assert.deepEqual([tip?.ledger, tip?.height, tip?.hash], [info.ledgerId, 3, info.tip]);
    await appendFile(one.tipFile, '{"height":4,"ha');
    const second = await one.open();
    await foundLedger({
      ledger: second,
      institution: HOME,
      msp: 'x',
      keys: { signing: keys.home.jwk, encryption: keys.category.jwk },
      signAsInstitution: async () => assert.fail('founded already'),
    });
    const last = await send(second, 'enrollPatient', one.say.enroll('pat-2'));
    assert.equal((await readTip(one.tipFile))?.height, 4);
    assert.doesNotMatch(await readFile(one.tipFile, 'utf8'), /"ha\{/);
    // Killed between commit and tip file: legal, and the receipt is handed out only once the file names the block.
    const lines = (await readFile(one.tipFile, 'utf8')).trimEnd().split('\n');
    await writeFile(one.tipFile, `${lines.slice(0, -1).join('\n')}\n`);
    const third = await one.open();
    assert.equal((await readTip(one.tipFile))?.height, 3);
    assert.ok(await third.status(last.txId));
    assert.equal((await readTip(one.tipFile))?.height, 4);
  });

  test('a ledger without its tip file does not start, says what to do, and writes nothing; the restored copy counts', async () => {
    const one = await furnished();
    await one.ledger.close();
    const kept = await readFile(one.tipFile, 'utf8');
    const away = join(folder, 'away');
    await mkdir(away);
    for (const tipFile of [join(away, 'tip'), join(away, 'not-there', 'tip')]) {
      await assert.rejects(
        one.open({ tipFile }),
        (error: unknown) => codeOf(error) === 'LEDGER_CORRUPT' && /backup/.test(String((error as CodedError).detail.diagnostics)),
      );
    }
    assert.deepEqual(await readdir(away), []);
    await rm(one.tipFile);
    await assert.rejects(one.open(), /LEDGER_CORRUPT/);
    await assert.rejects(readFile(one.tipFile), /ENOENT/);
    // Of another ledger: refused as well, and left as it is.
    const other = join(away, 'tip');
    await writeFile(other, '{"format":"oncobridge-tip/1","ledger":"ledger-other"}\n');
    await assert.rejects(one.open({ tipFile: other }), /LEDGER_CORRUPT/);
    assert.equal(await readFile(other, 'utf8'), '{"format":"oncobridge-tip/1","ledger":"ledger-other"}\n');
    await writeFile(one.tipFile, kept);
    const again = await one.open();
    await send(again, 'enrollPatient', one.say.enroll('pat-2'));
    assert.ok((await readFile(one.tipFile, 'utf8')).startsWith(kept));
    assert.deepEqual((await verifyLedger({ database: one.db.database, tipFile: one.tipFile })).problems, []);
  });

  test('a block that somebody else signed and appended is not followed', async () => {
    const one = await furnished();
    const errors: string[] = [];
    const projection = createProjection({
      database: one.db.database,
      ledger: one.ledger,
      institution: HOME,
      onError: (error) => errors.push(codeOf(error) ?? ''),
    });
    closing.push(projection);
    await projection.start();
    const height = await one.ledger.height();
    // What whoever writes to the database can do without the key: the chain is right, the signature is their own.
    const stranger = { signer: keys.away.jwk, sign: keys.away.sign };
    const simulated = { result: '{}', reads: new Map(), ranges: [], writes: new Map() };
    const { ledgerId, tip } = await one.ledger.info();
    const time = new Date().toISOString();
    const proposal = {
      name: 'registerMember',
      args: one.say.member('mem-9', { role: 'registrar' }),
      caller: { msp: `${HOME}-msp`, institution: HOME },
      time,
      ledger: ledgerId,
      nonce: hex64('n').slice(0, 32),
    };
    const envelope = await encodeEnvelope(proposal, simulated, stranger.sign);
    const facts = { ledger: ledgerId, number: height, previous: tip, time, signer: stranger.signer };
    const row = await encodeBlock(facts, [{ envelope, validation: 'VALID' }], stranger.sign);
    await one.db.database.query(sql`insert into embedded.block (number, previous_hash, hash, header, signature, body)
      values (${row.number}, ${row.previous_hash}, ${row.hash}, ${row.header}, ${row.signature}, ${row.body})`);
    // Nor built upon: a block of ours on top of it would vouch for it.
    await assert.rejects(send(one.ledger, 'enrollPatient', one.say.enroll('pat-2')), /LEDGER_UNKNOWN/);
    assert.equal((await one.open()).kind, 'embedded');
    assert.equal((await readTip(one.tipFile))?.height, height);
    const reading = one.ledger.blocks(height)[Symbol.asyncIterator]();
    await assert.rejects(reading.next(), /LEDGER_CORRUPT/);
    assert.ok(!(await projection.waitFor(height, 300)));
    assert.deepEqual(await one.db.database.query(sql`select mem from projection.member where mem = 'mem-9'`), []);
    await until('the alarm', async () => (await one.db.database.query(sql`select 1 from ledger_alarm where kind = 'chain'`)).length > 0);
    assert.deepEqual(new Set(errors), new Set(['LEDGER_CORRUPT']));
    await projection.close();
    assert.equal((await checkProjection({ database: one.db.database, tipFile: one.tipFile })).length, 1);
  });

  test('two processes submit at once: every block follows the one before, every receipt stands', async () => {
    const one = await furnished();
    const second = await one.open();
    const work = async (ledger: Ledger, name: string) => {
      const receipts = [];
      for (let i = 0; i < 15; i++)
        receipts.push(await send(ledger, 'recordDocuments', [build.recordDocumentsArgument([one.say.entry('pat-1', `doc-${name}${i}`)])]));
      return receipts;
    };
    const receipts = (await Promise.all([work(one.ledger, 'a'), work(second, 'b')])).flat();
    assert.equal(new Set(receipts.map((receipt) => receipt.txId)).size, 30);
    const report = await verifyLedger({ database: one.db.database, tipFile: one.tipFile, receipts });
    assert.deepEqual(report.problems, []);
    assert.equal(report.tip?.height, await one.ledger.height());
  });

  test('kill -9 at any moment: every receipt handed out stands, the chain is whole, and the same bytes settle what was open', async () => {
    const one = await furnished();
    const receipts: { txId: string; block: number }[] = [];
    for (let round = 0; round < 3; round++) {
      const child = fork(new URL('./submitter.ts', import.meta.url), {
        env: { ...process.env, KEY: keys.home.privateKey.export({ format: 'pem', type: 'pkcs8' }).toString() },
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      });
      const open = new Map<string, string>();
      child.on('message', (message: { sent?: string; bytes?: string; txId: string; block: number }) => {
        if (message.bytes === undefined) {
          receipts.push({ txId: message.txId, block: message.block });
          open.delete(message.txId);
        } else open.set(message.txId, message.bytes);
      });
      const ended = once(child, 'exit');
      const before = receipts.length;
      child.send({ url: one.db.url, tipFile: one.tipFile, round });
      while (receipts.length < before + 5) await new Promise((resolve) => setTimeout(resolve, 5));
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 30));
      child.kill('SIGKILL');
      await ended;
      const again = await one.open();
      for (const [txId, bytes] of open) assert.equal((await again.submit(Buffer.from(bytes, 'base64'))).txId, txId);
      await again.close();
    }
    const report = await verifyLedger({ database: one.db.database, tipFile: one.tipFile, receipts });
    assert.deepEqual(report.problems, []);
    assert.ok(receipts.length >= 15);
  });

  test('many transactions share a block', async () => {
    const one = await furnished({ blockDelayMs: 10 });
    const before = await one.ledger.height();
    const endorsed = await Promise.all(
      Array.from({ length: 40 }, (_, i) =>
        one.ledger.endorse({ name: 'recordDocuments', args: [build.recordDocumentsArgument([one.say.entry('pat-1', `doc-${i}`)])] }),
      ),
    );
    await Promise.all(endorsed.map(({ bytes }) => one.ledger.submit(bytes)));
    assert.ok((await one.ledger.height()) - before <= 3);
  });

  test('the fault hook produces each row of the failure table', async () => {
    let fault: { stage: string; kind: Fault } | undefined;
    const one = await furnished({ faults: (stage) => (fault?.stage === stage ? fault.kind : undefined) });
    const transaction = { name: 'recordDocuments', args: [build.recordDocumentsArgument([one.say.entry('pat-1', 'doc-1')])] };
    const outcome = async (work: () => Promise<unknown>) =>
      codeOf(
        await work().then(
          () => undefined,
          (error: unknown) => error,
        ),
      );
    const rows: [Fault, string, string, boolean][] = [
      ['refused', 'endorse', 'LEDGER_REFUSED', false],
      ['mismatch', 'endorse', 'LEDGER_MISMATCH', false],
      ['unavailable', 'endorse', 'LEDGER_UNAVAILABLE', false],
      ['lost', 'submit', 'LEDGER_UNKNOWN', false],
      ['committed-unknown', 'submit', 'LEDGER_UNKNOWN', true],
      ['read-conflict', 'submit', 'LEDGER_CONFLICT', false],
      ['phantom-conflict', 'submit', 'LEDGER_CONFLICT', false],
      ['invalid', 'submit', 'LEDGER_INVALID', false],
      ['unknown', 'status', 'LEDGER_UNKNOWN', false],
    ];
    for (const [kind, stage, code, committed] of rows) {
      fault = undefined;
      const endorsed = stage === 'endorse' ? undefined : await one.ledger.endorse(transaction);
      fault = { stage, kind };
      assert.equal(
        await outcome(() =>
          endorsed === undefined
            ? one.ledger.endorse(transaction)
            : stage === 'submit'
              ? one.ledger.submit(endorsed.bytes)
              : one.ledger.status(endorsed.txId),
        ),
        code,
        kind,
      );
      fault = undefined;
      if (endorsed === undefined || code === 'LEDGER_CONFLICT' || code === 'LEDGER_INVALID') continue;
      assert.equal((await one.ledger.status(endorsed.txId)) !== undefined, committed, kind);
      // The same bytes again settle whatever was not known.
      assert.equal((await one.ledger.submit(endorsed.bytes)).txId, endorsed.txId);
    }
  });
});

describe('projection', () => {
  after(closeAll);
  test('follows the ledger, knows how fresh it is, and answers from its own state', async () => {
    const one = await furnished();
    const projection = one.projection();
    await projection.start();
    const applied: number[] = [];
    projection.onApplied((block) => applied.push(block.number));
    await grantTo(one, `member:${HOME}:mem-1`, 1);
    await one.record('doc-1', 'doc-2');
    const height = await one.ledger.height();
    assert.ok(await projection.waitFor(height - 1, 5000));
    assert.ok(!(await projection.waitFor(height, 30)));
    assert.deepEqual(applied.slice(-2), [height - 2, height - 1]);
    assert.ok((await projection.freshness(10_000)).fresh);
    assert.ok(!(await projection.freshness(-1)).fresh);
    const rows = await one.db.database.query(
      sql`select seq, status, effect, rights, period_end, consent from projection.permission join projection.clause using (inst, pat, grantor, grantee, category)`,
    );
    assert.deepEqual(rows, [{ seq: 1, status: 'active', effect: 'permit', rights: ['read'], period_end: null, consent: 'con-1' }]);
    const question = build.questionArgument({
      actorId: 'mem-1',
      actorInstitution: HOME,
      actorKind: 'member',
      at: new Date().toISOString(),
      category: 'laboratory',
      emergency: null,
      institution: HOME,
      patient: 'pat-1',
      purpose: 'TREAT',
      right: 'read',
    });
    const decision = async (at?: number) =>
      (JSON.parse(await projection.evaluate('decide', [question], at)) as { decision: string }).decision;
    assert.equal(await decision(), 'permit');
    assert.equal(await decision(height - 2), 'deny', 'as it stood before the grant');
    await send(one.ledger, 'revokePermission', [
      keys.home.jws(TYP.revokePermission, one.say.revokeText('pat-1', [{ grantee: `member:${HOME}:mem-1`, category: 'laboratory' }])),
    ]);
    assert.ok(await projection.waitFor(height, 5000));
    assert.equal(await decision(), 'deny');
    assert.equal(await decision(height), 'permit', 'history stays');
    assert.deepEqual(await one.db.database.query(sql`select status from projection.permission`), [{ status: 'revoked' }]);
  });

  test('a rebuild gives identical rows, and two that follow one database apply each block once', async () => {
    const one = await furnished();
    const [projection, beside] = [one.projection(), one.projection()];
    await Promise.all([projection.start(), beside.start()]);
    await grantTo(one, 'role:clinician', 1);
    await one.record('doc-1', 'doc-2');
    const entry = one.say.entry('pat-1', 'doc-1', { ciphertextHash: hex64('forked'), pointer: `${HOME}/${hex64('forked')}` });
    await send(one.ledger, 'recordDocuments', [build.recordDocumentsArgument([entry, one.say.entry('pat-1', 'doc-2', { version: 2 })])]);
    await send(one.ledger, 'withdrawDocument', [build.withdrawDocumentArgument({ ...one.say.of('pat-1'), document: 'doc-2' })]);
    await send(one.ledger, 'withdrawDocument', [build.withdrawDocumentArgument({ ...one.say.of('pat-1'), document: 'doc-3' })]);
    await one.record('doc-3');
    await send(one.ledger, 'anchorAudit', [build.anchorAuditArgument({ number: 1, root: hex64('1') })]);
    const newest = (await one.ledger.height()) - 1;
    assert.ok((await projection.waitFor(newest, 5000)) && (await beside.waitFor(newest, 5000)));
    const before = await dump(one.db.database);
    const documents = await one.db.database.query<{ doc: string }>(
      sql`select doc, version, withdrawn, ciphertext_hash = ${hex64('pat-1/doc-1/1')} as first from projection.document order by doc`,
    );
    assert.deepEqual(documents, [
      { doc: 'doc-1', version: 1, withdrawn: false, first: true },
      { doc: 'doc-2', version: 2, withdrawn: true, first: false },
      { doc: 'doc-3', version: 1, withdrawn: true, first: false },
    ]);
    const alarms = sql`select kind, array_length(state_keys, 1) as keys from ledger_alarm`;
    assert.deepEqual(await one.db.database.query(alarms), [{ kind: 'entry-conflict', keys: 1 }]);
    await projection.rebuild();
    assert.deepEqual(await dump(one.db.database), before);
    assert.deepEqual(await one.db.database.query(alarms), [{ kind: 'entry-conflict', keys: 1 }]);
    await one.record('doc-4');
    assert.ok(await beside.waitFor(newest + 1, 5000));
    assert.deepEqual((await verifyLedger({ database: one.db.database, tipFile: one.tipFile })).problems, []);
  });

  test('a forged write set has no effect, alarms, and denies whose key it wrote', async () => {
    const one = await furnished();
    await send(one.ledger, 'enrollPatient', one.say.enroll('pat-2'));
    const forged: Block[] = [];
    // What a colluding pair of endorsers could put into a block: a permission that nobody signed, a member's role.
    const corrupted: Pick<Ledger, 'blocks' | 'height'> = {
      height: async () => (await one.ledger.height()) + forged.length,
      async *blocks(from, signal) {
        const honest = await one.ledger.height();
        for await (const block of one.ledger.blocks(from, signal)) {
          yield block;
          if (block.number === honest - 1) break;
        }
        for (const block of forged) if (block.number >= from) yield block;
      },
    };
    const height = await one.ledger.height();
    const prefix = `perm/${HOME}/pat-1/patient/role:insurer/laboratory/`;
    const version = canonicalize({
      at: new Date().toISOString(),
      clauses: [build.clause({ consent: 'con-x', rights: ['read'] })],
      envelope: null,
      evidence: null,
      onBehalf: null,
      parentGrantee: null,
      parentGrantor: null,
      statement: hex64('x'),
      status: 'active',
    });
    forged.push({
      number: height,
      previousHash: (await one.ledger.info()).tip,
      hash: hex64('forged'),
      transactions: [
        {
          txId: hex64('tx-1'),
          validation: 'VALID',
          name: 'anchorAudit',
          args: [build.anchorAuditArgument({ number: 1, root: hex64('1') })],
          caller: { msp: `${HOME}-msp`, institution: HOME },
          time: new Date().toISOString(),
          writes: new Map([
            [`${prefix}v/0000000001`, version],
            [`${prefix}head`, '{"sequence":1}'],
          ]),
        },
        {
          txId: hex64('tx-2'),
          validation: 'VALID',
          name: 'grantPermission',
          args: ['not.a.statement'],
          caller: { msp: `${HOME}-msp`, institution: HOME },
          time: new Date().toISOString(),
          writes: new Map([[`mem/${HOME}/mem-1`, '{}']]),
        },
      ],
    });
    const projection = one.projection(corrupted);
    await projection.start();
    assert.deepEqual(await one.db.database.query(sql`select * from projection.permission`), []);
    const alarms = await one.db.database.query<{ kind: string; state_keys: string[] }>(
      sql`select kind, state_keys from ledger_alarm order by tx_id = ${hex64('tx-1')} desc`,
    );
    assert.deepEqual(
      alarms.map(({ kind }) => kind),
      ['write-set', 'write-set'],
    );
    assert.ok(alarms[0]?.state_keys.includes(`${prefix}head`));
    const status = sql`select pat as id, status from projection.patient union all select mem, status from projection.member union all select inst, status from projection.institution order by 1`;
    // The first also wrote an anchor that it did not name, here: the institution is in doubt, and all that is its own with it.
    assert.deepEqual(
      await one.db.database.query(status),
      [HOME, 'mem-1', 'pat-1', 'pat-2'].map((id) => ({ id, status: 'alarmed' })),
    );
    await one.db.database.query(sql`update ledger_alarm set cleared_at = now() where ${hex64('tx-1')} = tx_id`);
    await projection.rebuild();
    assert.deepEqual(await one.db.database.query(status), [
      { id: HOME, status: 'active' },
      { id: 'mem-1', status: 'alarmed' },
      { id: 'pat-1', status: 'active' },
      { id: 'pat-2', status: 'active' },
    ]);
  });
});

describe('ledger verify', () => {
  after(closeAll);
  test('finds any altered byte of any stored block, outcome and state, and names the place', async () => {
    const one = await furnished();
    const projection = one.projection();
    await projection.start();
    await grantTo(one, 'role:clinician', 1);
    await one.record('doc-1');
    const newest = (await one.ledger.height()) - 1;
    assert.ok(await projection.waitFor(newest, 5000));
    await projection.close();
    const { database } = one.db;
    const verify = () => verifyLedger({ database, tipFile: one.tipFile });
    assert.deepEqual((await verify()).problems, []);
    const columns: [string, string, string, string][] = [
      ['embedded.block', 'body', 'number = 1', 'block'],
      ['embedded.block', 'header', 'number = 2', 'block'],
      ['embedded.block', 'signature', 'number = 0', 'block'],
      ['embedded.block', 'hash', 'number = 3', 'block'],
      ['embedded.block', 'previous_hash', 'number = 3', 'chain'],
      ['embedded.transaction', 'result', 'block = 1', 'transaction'],
      ['embedded.transaction', 'validation', 'block = 2', 'transaction'],
      ['embedded.state', 'value', `key like 'ent/%'`, 'state'],
      ['embedded.state', 'key', `key like 'mem/%'`, 'state'],
      ['projection.state', 'value', `key like 'perm/%/v/%'`, 'projection'],
    ];
    for (const [table, column, where, kind] of columns) {
      const [row] = await database.query<{ value: string }>(raw(`select ${column} as value from ${table} where ${where} limit 1`));
      const value = row?.value ?? assert.fail(`${table}.${column}`);
      // A byte at the start, in the middle and at the end.
      for (const at of [0, Math.floor(value.length / 2), value.length - 1]) {
        const altered = value.slice(0, at) + (value[at] === 'x' ? 'y' : 'x') + value.slice(at + 1);
        await database.query(sql`update ${raw(table)} set ${raw(column)} = ${altered} where ${raw(column)} = ${value} and ${raw(where)}`);
        const report = await verify();
        assert.ok(
          !report.ok && report.problems.some((problem) => problem.kind === kind),
          `${table}.${column} at ${at}: ${JSON.stringify(report.problems.slice(0, 3))}`,
        );
        await database.query(sql`update ${raw(table)} set ${raw(column)} = ${value} where ${raw(column)} = ${altered}`);
      }
    }
    assert.deepEqual((await verify()).problems, []);
  });

  test('finds whatever is forged in the tables derived for the readable scope; so does the check of the running server', async () => {
    const one = await furnished();
    const projection = one.projection();
    await projection.start();
    await grantTo(one, 'role:clinician', 1);
    await one.record('doc-1', 'doc-2');
    await send(one.ledger, 'withdrawDocument', [build.withdrawDocumentArgument({ ...one.say.of('pat-1'), document: 'doc-2' })]);
    const emergency = build.emergencyPayload({
      ...one.say.base(),
      institution: HOME,
      patient: 'pat-1',
      member: `member:${HOME}:mem-1`,
      id: 'emg-1',
      from: new Date().toISOString(),
      until: new Date(Date.now() + 3_600_000).toISOString(),
    });
    await send(one.ledger, 'recordEmergencyAccess', [keys.home.jws(TYP.recordEmergencyAccess, emergency)]);
    await send(one.ledger, 'anchorAudit', [build.anchorAuditArgument({ number: 1, root: hex64('1') })]);
    assert.ok(await projection.waitFor((await one.ledger.height()) - 1, 5000));
    await projection.close();
    const { database } = one.db;
    const alarms: string[] = [];
    const found = async () => ({
      verify: (await verifyLedger({ database, tipFile: one.tipFile })).problems,
      check: await checkProjection({ database, tipFile: one.tipFile, onAlarm: ({ kind }) => alarms.push(kind) }),
    });
    assert.deepEqual(await found(), { verify: [], check: [] });
    const before = await dump(database);
    const name = `${HOME}/pat-1/patient/role:clinician/laboratory`;
    const rows: [string, string, string, RegExp][] = [
      ['institution', `update projection.institution set status = 'alarmed'`, HOME, /is not what the blocks wrote/],
      ['member', `update projection.member set valid_until = valid_until + interval '1 year'`, `${HOME}/mem-1`, /is not what/],
      [
        'member',
        `insert into projection.member select inst, 'mem-9', 'registrar', null, null, 'active', valid_until, block from projection.member`,
        `${HOME}/mem-9`,
        /by no block/,
      ],
      ['patient', `delete from projection.patient`, `${HOME}/pat-1`, /is missing/],
      [
        'category_key',
        `update projection.category_key set public_jwk = '{}' where category = 'laboratory'`,
        `${HOME}/pat-1/laboratory/1`,
        /is not what/,
      ],
      [
        'permission',
        `insert into projection.permission select inst, pat, grantor, 'member:${HOME}:mem-1', category, 1, 'active', null, null, recorded_at, tx_id, block from projection.permission`,
        `${HOME}/pat-1/patient/member:${HOME}:mem-1/laboratory`,
        /by no block/,
      ],
      ['permission', `update projection.permission set parent_grantor = 'patient'`, name, /is not what/],
      ['clause', `update projection.clause set rights = '{read,upload}'`, `${name}/0`, /is not what/],
      ['clause', `update projection.clause set purposes = '{TREAT}'`, `${name}/0`, /is not what/],
      [
        'clause',
        `insert into projection.clause select inst, pat, grantor, grantee, category, 1, effect, rights, purposes, null, null, null, null, 'con-9', false from projection.clause`,
        `${name}/1`,
        /by no block/,
      ],
      [
        'entry',
        `update projection.entry set commitment = ciphertext_hash where doc = 'doc-1'`,
        `${HOME}/pat-1/${HOME}/doc-1/1/0/`,
        /is not what/,
      ],
      ['document', `update projection.document set withdrawn = false`, `${HOME}/doc-2`, /is not what/],
      ['document', `update projection.document set pat = 'pat-2' where doc = 'doc-1'`, `${HOME}/doc-1`, /is not what/],
      ['emergency', `update projection.emergency set until_time = 'infinity'`, `${HOME}/pat-1/emg-1`, /is not what/],
      ['anchor', `update projection.anchor set time = time + interval '1 hour'`, HOME, /is not what/],
      [
        'state',
        `insert into projection.state values ('wd/${HOME}/pat-1/${HOME}/doc-1', 1, 0, '{}')`,
        `wd/${HOME}/pat-1/${HOME}/doc-1/1/0`,
        /by no block/,
      ],
      ['checkpoint', `update projection.checkpoint set own_seen_at = now() + interval '1 year'`, '', /no block holds/],
    ];
    for (const [table, statement, key, how] of rows) {
      const kept = await database.query<{ text: string }>(raw(`select t::text as text from projection.${table} t`));
      const clauses = await database.query<{ text: string }>(raw(`select t::text as text from projection.clause t`));
      await database.query(raw(statement));
      const { verify, check } = await found();
      for (const problems of [verify, check]) {
        assert.ok(
          problems.some(({ kind, what }) => kind === 'projection' && what.startsWith(`projection.${table} ${key}`) && how.test(what)),
          `${statement}: ${JSON.stringify(problems)}`,
        );
        // Names of rows, never what stands in them.
        assert.doesNotMatch(JSON.stringify(problems), /con-9|registrar|upload/);
      }
      await database.query(raw(`truncate projection.${table} cascade`));
      for (const [of, texts] of table === 'clause'
        ? [['clause', clauses] as const]
        : [[table, kept] as const, ['clause', clauses] as const]) {
        if (of === 'clause' && table !== 'permission' && table !== 'clause') continue;
        for (const { text } of texts)
          await database.query(sql`insert into projection.${raw(of)} select (${text}::projection.${raw(of)}).*`);
      }
    }
    assert.deepEqual(await dump(database), before);
    assert.deepEqual(await found(), { verify: [], check: [] });
    // One alarm for the same names (two of the above alter one clause); the same again is no new one, until somebody has cleared it.
    const [{ count } = { count: 0 }] = await database.query<{ count: number }>(
      sql`select count(*) as count from ledger_alarm where kind = 'projection' and cleared_at is null`,
    );
    assert.equal(count, rows.length - 1);
    assert.deepEqual(new Set(alarms), new Set(['projection']));
    await database.query(sql`update projection.document set withdrawn = false`);
    const known = alarms.length;
    await found();
    assert.equal(alarms.length, known);
    await database.query(sql`update ledger_alarm set cleared_at = now()`);
    await found();
    assert.equal(alarms.length, known + 1);
    // What docs/ledger.md says to do then.
    const text = await readFile(new URL('../../docs/ledger.md', import.meta.url), 'utf8');
    await database.query(raw(/```sql\n([\s\S]+?);\n```/.exec(text)?.[1] ?? assert.fail('no statement')));
    const anew = one.projection();
    await anew.start();
    await anew.close();
    assert.deepEqual(await dump(database), before);
    assert.deepEqual(await found(), { verify: [], check: [] });
  });

  test('the check of the running server binds what it compares with to the tip file', async () => {
    const one = await furnished();
    const projection = one.projection();
    await projection.start();
    await grantTo(one, 'role:clinician', 1);
    await one.record('doc-1');
    assert.ok(await projection.waitFor((await one.ledger.height()) - 1, 5000));
    await projection.close();
    const { database } = one.db;
    const check = () => checkProjection({ database, tipFile: one.tipFile });
    assert.deepEqual(await check(), []);
    // Both copies alike: only the blocks know better.
    for (const table of ['embedded', 'projection'])
      await database.query(sql`update ${raw(table)}.state set value = replace(value, '"clinician"', '"registrar"') where key like 'mem/%'`);
    await database.query(sql`update projection.member set role = 'registrar'`);
    assert.deepEqual(
      (await check()).map(({ kind, what }) => [kind, what.split(' ')[0]]),
      [
        ['projection', 'projection.state'],
        ['projection', 'projection.member'],
        ['state', 'embedded.state'],
      ],
    );
    // And the newest block with its hash, rewritten whole.
    const [row] = await database.query<{ header: string; body: string }>(
      sql`select header, body from embedded.block order by number desc limit 1`,
    );
    const body = (row?.body ?? '').replace('doc-1', 'doc-9');
    const header = (row?.header ?? '').replace(hex64(row?.body ?? ''), hex64(body));
    await database.query(
      sql`update embedded.block set body = ${body}, header = ${header}, hash = ${hex64(header)} where number = (select max(number) from embedded.block)`,
    );
    assert.match((await check())[0]?.what ?? '', /is not the one handed out/);
  });

  test('finds a missing tail by tip file and receipt; start refuses it too', async () => {
    const one = await furnished();
    const receipt = await send(one.ledger, 'enrollPatient', one.say.enroll('pat-2'));
    await one.ledger.close();
    const { database } = one.db;
    const newest = (await one.ledger.height()) - 1;
    await database.query(sql`delete from embedded.transaction where block = ${newest}`);
    await database.query(sql`delete from embedded.state where block = ${newest}`);
    await database.query(sql`delete from embedded.block where number = ${newest}`);
    const report = await verifyLedger({ database, tipFile: one.tipFile, receipts: [receipt] });
    assert.deepEqual(
      report.problems.map(({ kind }) => kind),
      ['tip', 'receipt'],
    );
    await assert.rejects(one.open(), /LEDGER_CORRUPT/);
    await rm(one.tipFile);
    assert.deepEqual(
      (await verifyLedger({ database, tipFile: one.tipFile })).problems.map(({ kind }) => kind),
      ['tip'],
    );
  });

  test('a chain signed anew by another key is found, however whole it looks', async () => {
    const one = await furnished();
    const { database } = one.db;
    const [row] = await database.query<{ number: number; previous_hash: string; body: string; header: string }>(
      sql`select * from embedded.block order by number desc limit 1`,
    );
    const body = row?.body ?? '';
    const envelope = decodeEnvelope(body.slice(body.indexOf(' ') + 1));
    const stored = JSON.parse(envelope.text.slice(envelope.text.indexOf('.') + 1)) as { proposal: Parameters<typeof encodeEnvelope>[0] };
    const simulated = {
      result: envelope.result,
      reads: new Map(envelope.reads),
      ranges: envelope.ranges,
      writes: new Map(envelope.writes),
    };
    const forged = await encodeEnvelope(stored.proposal, simulated, keys.away.sign);
    const facts = {
      ledger: envelope.ledger,
      number: row?.number ?? 0,
      previous: row?.previous_hash ?? '',
      time: new Date().toISOString(),
      signer: keys.away.jwk,
    };
    const block = await encodeBlock(facts, [{ envelope: forged, validation: 'VALID' }], keys.away.sign);
    await database.query(
      sql`update embedded.block set hash = ${block.hash}, header = ${block.header}, signature = ${block.signature}, body = ${block.body} where number = ${block.number}`,
    );
    const report = await verifyLedger({ database, tipFile: one.tipFile });
    assert.deepEqual(report.problems.map(({ kind }) => kind).sort(), ['signer', 'tip']);
  });
});
