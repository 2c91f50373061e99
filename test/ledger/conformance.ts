import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { type CodedError, codeOf } from '../../src/errors.ts';
import { TRANSACTIONS } from '../../src/ledger/contract/contract.ts';
import * as build from '../../src/ledger/contract/payloads.ts';
import { REFUSALS } from '../../src/ledger/contract/refusals.ts';
import { TYP } from '../../src/ledger/contract/shapes.ts';
import type { Block, Ledger, LedgerTransaction, Receipt } from '../../src/ledger/ledger.ts';
import { catalogue } from './catalogue.ts';
import { AWAY, type Cast, HOME, hex64, statements } from './world.ts';

/** A founded ledger of the institution HOME, with its signing key; every host of the port passes the same suite. */
export interface Hosted {
  ledger: Ledger;
  keys: Cast;
  /** What an anchor was answered before the ledger was founded. */
  unfounded: unknown;
  /** The same ledger at another institution's gateway, or later. Only to endorse there: not every host lets another submit. */
  elsewhere(view: { as?: typeof AWAY; minutesLater?: number }): Promise<Pick<Ledger, 'endorse'>>;
  /** Outcomes are unknown from now on, until what it returns is called. */
  loseOutcomes(): Promise<() => Promise<void>>;
}

/** What comes of asking for endorsement: the contract's code, of the whole or of entries of a batch, or nothing. */
async function refusalsOf(ledger: Pick<Ledger, 'endorse'>, transaction: LedgerTransaction): Promise<string[]> {
  try {
    const { result } = await ledger.endorse({ name: transaction.name, args: transaction.args });
    return ((JSON.parse(result) as { refused?: { code: string }[] }).refused ?? []).map((one) => one.code);
  } catch (error) {
    assert.equal(codeOf(error), 'LEDGER_REFUSED', String(error));
    return [/\b[A-Z]+(?:_[A-Z]+)*\b/.exec((error as CodedError).detail.diagnostics ?? '')?.[0] ?? String(error)];
  }
}

export async function send(ledger: Ledger, name: string, args: readonly string[]): Promise<Receipt> {
  const endorsed = await ledger.endorse({ name, args });
  return ledger.submit(endorsed.bytes);
}

/** One transaction of a random program, on keys that only this run uses: all are endorsed on the same state, then ordered. */
type Step = { what: 'record' | 'withdraw' | 'grant' | 'revoke' | 'key' | 'reseal'; n: number };
const step: fc.Arbitrary<Step> = fc.record({
  what: fc.constantFrom('record' as const, 'withdraw' as const, 'grant' as const, 'revoke' as const, 'key' as const, 'reseal' as const),
  n: fc.integer({ min: 0, max: 1 }),
});

/** In which order the ledger took these transactions. */
async function orderOf(ledger: Ledger, from: number, txIds: readonly string[]): Promise<number[]> {
  const order: number[] = [];
  for await (const block of ledger.blocks(from, AbortSignal.timeout(10_000))) {
    for (const { txId } of block.transactions) if (txIds.includes(txId)) order.push(txIds.indexOf(txId));
    if (order.length === txIds.length) break;
  }
  return order;
}

/** The program's steps with their validation codes, in the order in which the ledger took them. */
async function runProgram(
  ledger: Ledger,
  s: ReturnType<typeof statements>,
  keys: Cast,
  program: readonly Step[],
  run: string,
): Promise<{ steps: Step[]; codes: string[]; blocks: number }> {
  const pat = `pat-${run}`;
  const first = s.entry(pat, 'doc-first');
  await send(ledger, 'enrollPatient', s.enroll(pat));
  await send(ledger, 'recordDocuments', [build.recordDocumentsArgument([first])]);
  const [{ entryHash } = { entryHash: '' }] = JSON.parse(await ledger.evaluate('documentsOf', [HOME, pat])) as { entryHash: string }[];
  const { permission: _, ...resealed } = first;
  const grantees = ['role:carer', 'role:pharmacy'] as const;
  const endorsed = [];
  for (const [i, { what, n }] of program.entries()) {
    const grantee = grantees[n] ?? '';
    const hash = hex64(`${run} ${i}`);
    const sign = (typ: string, payload: string) => [keys.home.jws(typ, payload)];
    const args = {
      record: () => [build.recordDocumentsArgument([s.entry(pat, `doc-${n}`)])],
      withdraw: () => [build.withdrawDocumentArgument({ ...s.of(pat), document: `doc-${n}` })],
      grant: () => sign(TYP.grantPermission, s.grantText(pat, [s.permission(grantee, 'laboratory', 1)])),
      revoke: () => sign(TYP.revokePermission, s.revokeText(pat, [{ grantee, category: 'laboratory' }])),
      key: () =>
        sign(
          TYP.publishCategoryKey,
          build.publishCategoryKeyPayload({
            ...s.base(),
            ...s.of(pat),
            category: 'laboratory',
            envelopes: [],
            key: keys.category.jwk,
            onBehalf: pat,
            version: 2,
          }),
        ),
      reseal: () => [
        build.resealDocumentsArgument([{ ...resealed, ciphertextHash: hash, n: 1, pointer: `${HOME}/${hash}`, previous: entryHash }]),
      ],
    }[what]();
    const name = {
      record: 'recordDocuments',
      withdraw: 'withdrawDocument',
      grant: 'grantPermission',
      revoke: 'revokePermission',
      key: 'publishCategoryKey',
      reseal: 'resealDocuments',
    }[what];
    endorsed.push(await ledger.endorse({ name, args }));
  }
  const height = await ledger.height();
  const settled = await Promise.allSettled(endorsed.map(({ bytes }) => ledger.submit(bytes)));
  const codes = settled.map((one) =>
    one.status === 'fulfilled' ? 'VALID' : (/[A-Z_]+CONFLICT$/.exec(String(one.reason))?.[0] ?? String(one.reason)),
  );
  const order = await orderOf(
    ledger,
    height,
    endorsed.map(({ txId }) => txId),
  );
  const inOrder = <T>(items: readonly T[]): T[] => order.flatMap((i) => items[i] ?? []);
  return { steps: inOrder(program), codes: inOrder(codes), blocks: (await ledger.height()) - height };
}

/**
 * Fabric's rule said once more, without the code under test: what reads something that an earlier valid transaction of the program
 * wrote is invalid, point reads before ranges.
 */
function expectedCodes(program: readonly Step[]): string[] {
  const written = new Set<string>();
  return program.map(({ what, n }) => {
    const touches = {
      record: { reads: ['key'], ranges: [], writes: [] },
      withdraw: { reads: [], ranges: [], writes: [] },
      grant: { reads: [`perm${n}`], ranges: [], writes: [`perm${n}`] },
      revoke: { reads: [`perm${n}`], ranges: [], writes: [`perm${n}`] },
      key: { reads: ['key'], ranges: [], writes: ['key'] },
      reseal: { reads: ['key'], ranges: ['entry'], writes: ['entry'] },
    }[what] satisfies { reads: string[]; ranges: string[]; writes: string[] };
    if (touches.reads.some((one) => written.has(one))) return 'MVCC_READ_CONFLICT';
    if (touches.ranges.some((one) => written.has(one))) return 'PHANTOM_READ_CONFLICT';
    for (const one of touches.writes) written.add(one);
    return 'VALID';
  });
}

export function ledgerConformance(name: string, open: () => Promise<Hosted>, options: { skip?: string } = {}): void {
  describe(`ledger port: ${name}`, { concurrency: false, ...options }, () => {
    let hosted: Promise<Hosted> | undefined;
    let table: ReturnType<typeof catalogue> | undefined;
    const host = () => (hosted ??= open());
    const say = async () => {
      const { ledger, keys } = await host();
      return statements(keys, (await ledger.info()).ledgerId);
    };
    const reading = async (from: number, count: number): Promise<Block[]> => {
      const { ledger } = await host();
      const stop = AbortSignal.timeout(10_000);
      const blocks: Block[] = [];
      for await (const block of ledger.blocks(from, stop)) {
        blocks.push(block);
        if (blocks.length === count) break;
      }
      return blocks;
    };

    test('a refusal has no effect and names the code of the contract', async () => {
      const { ledger } = await host();
      const before = await ledger.height();
      const refused = await ledger.endorse({ name: 'anchorAudit', args: ['{}'] }).catch((error: unknown) => error);
      assert.equal(codeOf(refused), 'LEDGER_REFUSED');
      assert.match(String(refused), /SCHEMA/);
      assert.equal(await ledger.height(), before);
    });

    test('who is no institution of the ledger is refused', async () => {
      const { elsewhere } = await host();
      const anchor = { name: 'anchorAudit', args: [build.anchorAuditArgument({ number: 1, root: hex64('1') })] };
      assert.deepEqual(await refusalsOf(await elsewhere({ as: AWAY }), anchor), ['CALLER_UNKNOWN']);
    });

    test('what is submitted has a receipt, a status, and stands in a block with its writes', async () => {
      const { ledger } = await host();
      const s = await say();
      const endorsed = await ledger.endorse({ name: 'enrollPatient', args: s.enroll('pat-1') });
      assert.equal(await ledger.status(endorsed.txId), undefined);
      const receipt = await ledger.submit(endorsed.bytes);
      assert.equal(receipt.txId, endorsed.txId);
      assert.equal(receipt.result, '{"categories":3}');
      assert.deepEqual(await ledger.status(endorsed.txId), receipt);
      const [block] = await reading(receipt.block, 1);
      const found = block?.transactions.find((one) => one.txId === receipt.txId);
      assert.equal(found?.validation, 'VALID');
      assert.equal(found?.caller.institution, HOME);
      assert.ok(found?.writes.has(`pat/${HOME}/pat-1/core`));
      assert.ok((await ledger.height()) > receipt.block);
    });

    test('the same bytes again are harmless', async () => {
      const { ledger } = await host();
      const s = await say();
      const endorsed = await ledger.endorse({
        name: 'recordDocuments',
        args: [build.recordDocumentsArgument([s.entry('pat-1', 'doc-twice')])],
      });
      const receipts = await Promise.all([ledger.submit(endorsed.bytes), ledger.submit(endorsed.bytes)]);
      const again = await ledger.submit(endorsed.bytes);
      assert.deepEqual([receipts[1], again], [receipts[0], receipts[0]]);
    });

    test('of two that read what the other writes one counts; endorsed anew the other sees it', async () => {
      const { ledger, keys } = await host();
      const s = await say();
      const grant = () => keys.home.jws(TYP.grantPermission, s.grantText('pat-1', [s.permission('role:carer', 'laboratory', 1)]));
      const transactions: LedgerTransaction[] = [0, 1, 2].map(() => ({ name: 'grantPermission', args: [grant()] }));
      const endorsed = [];
      for (const one of transactions) endorsed.push(await ledger.endorse(one));
      const settled = await Promise.allSettled(endorsed.map((one) => ledger.submit(one.bytes)));
      assert.equal(settled.filter((one) => one.status === 'fulfilled').length, 1);
      const lost = settled.findIndex((one) => one.status === 'rejected');
      assert.equal(codeOf((settled[lost] as PromiseRejectedResult).reason), 'LEDGER_CONFLICT');
      assert.equal(
        codeOf(await ledger.submit(endorsed[lost]?.bytes ?? new Uint8Array()).catch((error: unknown) => error)),
        'LEDGER_CONFLICT',
      );
      assert.equal(codeOf(await ledger.status(endorsed[lost]?.txId ?? '').catch((error: unknown) => error)), 'LEDGER_CONFLICT');
      const anew = await ledger.endorse(transactions[lost] ?? { name: '', args: [] }).catch((error: unknown) => error);
      assert.match(String(anew), /SEQUENCE_STALE/);
    });

    test('a grant kept back dies when an anchor moves, or when a revoke came first', async () => {
      const { ledger, keys } = await host();
      const s = await say();
      const kept = (grantee: string) =>
        ledger.endorse({
          name: 'grantPermission',
          args: [keys.home.jws(TYP.grantPermission, s.grantText('pat-1', [s.permission(grantee, 'laboratory', 1)]))],
        });
      const first = await kept('role:insurer');
      await send(ledger, 'anchorAudit', [build.anchorAuditArgument({ number: 1, root: hex64('1') })]);
      assert.equal(codeOf(await ledger.submit(first.bytes).catch((error: unknown) => error)), 'LEDGER_CONFLICT');
      const second = await kept('role:researcher');
      await send(ledger, 'revokePermission', [
        keys.home.jws(TYP.revokePermission, s.revokeText('pat-1', [{ grantee: 'role:researcher', category: 'laboratory' }])),
      ]);
      assert.equal(codeOf(await ledger.submit(second.bytes).catch((error: unknown) => error)), 'LEDGER_CONFLICT');
    });

    test('batches of entries commute: all of one block count', async () => {
      const { ledger } = await host();
      const s = await say();
      const endorsed = await Promise.all(
        Array.from({ length: 12 }, (_, i) =>
          ledger.endorse({ name: 'recordDocuments', args: [build.recordDocumentsArgument([s.entry('pat-1', `doc-c${i}`)])] }),
        ),
      );
      const receipts = await Promise.all(endorsed.map((one) => ledger.submit(one.bytes)));
      assert.equal(new Set(receipts.map((one) => one.txId)).size, 12);
      const documents = JSON.parse(await ledger.evaluate('documentsOf', [HOME, 'pat-1'])) as { document: string }[];
      assert.equal(documents.filter((one) => one.document.startsWith('doc-c')).length, 12);
    });

    test('random programs, several transactions a block, come to the same codes on every host', async () => {
      const { ledger } = await host();
      let blocks = 0;
      let transactions = 0;
      await fc.assert(
        fc.asyncProperty(fc.array(step, { minLength: 2, maxLength: 8 }), fc.uuid(), async (program, run) => {
          const done = await runProgram(ledger, await say(), (await host()).keys, program, run);
          assert.deepEqual(done.codes, expectedCodes(done.steps));
          blocks += done.blocks;
          transactions += done.codes.length;
        }),
        { numRuns: 12, seed: 20261123 },
      );
      assert.ok(blocks * 2 <= transactions, `${transactions} transactions in ${blocks} blocks`);
    });

    test('every transaction of the contract counts', async () => {
      const { ledger, keys } = await host();
      const s = await say();
      table ??= catalogue(keys, s, { anchor: 2 });
      const seen = new Set(['init']);
      let documents: { document: string; entryHash: string }[] = [];
      for (const call of table.tour(() => documents.find(({ document }) => document === 'doc-t1')?.entryHash ?? '')) {
        const receipt = await send(ledger, call.name, call.args).catch((error: unknown) => assert.fail(`${call.name}: ${String(error)}`));
        assert.deepEqual((JSON.parse(receipt.result) as { refused?: unknown[] }).refused ?? [], [], call.name);
        seen.add(call.name);
        if (call.name === 'recordDocuments')
          documents = JSON.parse(await ledger.evaluate('documentsOf', [HOME, 'pat-t1'])) as typeof documents;
      }
      assert.deepEqual([...seen].sort(byText), Object.keys(TRANSACTIONS).sort(byText));
    });

    test('every refusal of the contract is named by its code, and has no effect', async () => {
      const { ledger, unfounded, elsewhere } = await host();
      assert.match(String(unfounded), /LEDGER_REFUSED.*LEDGER_MISSING/);
      const documents = JSON.parse(await ledger.evaluate('documentsOf', [HOME, 'pat-t1'])) as {
        document: string;
        n: number;
        entryHash: string;
      }[];
      const hash = (number: number) => documents.find(({ document, n }) => document === 'doc-t1' && n === number)?.entryHash ?? '';
      const before = await ledger.height();
      const provoked = new Set<string>(['LEDGER_MISSING', 'CALLER_UNKNOWN']);
      const answers = (table ?? assert.fail('the tour first')).refusals(hash(0), hash(1)).map(async ([code, call]) => {
        const at = call.as === undefined && call.minutesLater === undefined ? ledger : await elsewhere(call);
        provoked.add(code);
        return [call.name, code, await refusalsOf(at, call)];
      });
      assert.deepEqual(
        (await Promise.all(answers)).filter(([, code, answered]) => String(answered) !== code),
        [],
      );
      assert.deepEqual([...provoked].sort(byText), Object.keys(REFUSALS).sort(byText));
      assert.equal(await ledger.height(), before);
    });

    test('history: each version stands; an old grant sent again after its revocation is refused', async () => {
      const { ledger, keys } = await host();
      const s = await say();
      const grantee = 'role:registrar';
      const grant = (sequence: number) =>
        keys.home.jws(TYP.grantPermission, s.grantText('pat-1', [s.permission(grantee, 'laboratory', sequence)]));
      const first = grant(1);
      await send(ledger, 'grantPermission', [first]);
      const revoke = keys.home.jws(TYP.revokePermission, s.revokeText('pat-1', [{ grantee, category: 'laboratory' }]));
      await send(ledger, 'revokePermission', [revoke]);
      assert.deepEqual(await refusalsOf(ledger, { name: 'grantPermission', args: [first] }), ['SEQUENCE_STALE']);
      // The same revocation again is success without effect.
      assert.equal((await send(ledger, 'revokePermission', [revoke])).result, '{"permissions":[]}');
      await send(ledger, 'grantPermission', [grant(3)]);
      const asked = ['permissionHistory', 'permissionsOf'].map((query) => ledger.evaluate(query, [HOME, 'pat-1']));
      const [history = [], heads = []] = (await Promise.all(asked)).map(
        (text) => JSON.parse(text) as { grantee: string; sequence: number; status: string }[],
      );
      const of = (versions: typeof history) =>
        versions.filter((one) => one.grantee === grantee).map(({ sequence, status }) => [sequence, status]);
      assert.deepEqual(of(history), [
        [1, 'active'],
        [2, 'revoked'],
        [3, 'active'],
      ]);
      assert.deepEqual(of(heads), [[3, 'active']]);
      assert.equal(codeOf(await ledger.evaluate('decide', ['{}']).catch((error: unknown) => error)), 'LEDGER_REFUSED');
      assert.equal(codeOf(await ledger.evaluate('nothing', []).catch((error: unknown) => error)), 'LEDGER_REFUSED');
    });

    test('an outcome that nobody knows is settled by the same bytes, once', async () => {
      const { ledger, loseOutcomes } = await host();
      const s = await say();
      const endorsed = await ledger.endorse({
        name: 'recordDocuments',
        args: [build.recordDocumentsArgument([s.entry('pat-1', 'doc-lost')])],
      });
      const find = await loseOutcomes();
      assert.equal(codeOf(await ledger.submit(endorsed.bytes).catch((error: unknown) => error)), 'LEDGER_UNKNOWN');
      await find();
      // What was accepted and then lost is sent again until it stands, as the writer does.
      let receipt: Receipt | undefined;
      for (let attempt = 0; receipt === undefined; attempt++) {
        receipt =
          (await ledger.status(endorsed.txId)) ??
          (await ledger.submit(endorsed.bytes).catch((error: unknown) => {
            assert.ok(attempt < 20 && codeOf(error) === 'LEDGER_UNKNOWN', String(error));
            return undefined;
          }));
        if (receipt === undefined) await new Promise((resolve) => setTimeout(resolve, 200));
      }
      assert.deepEqual(await ledger.submit(endorsed.bytes), receipt);
      assert.deepEqual(await ledger.status(endorsed.txId), receipt);
      const valid: string[] = [];
      for (const block of await reading(receipt.block, (await ledger.height()) - receipt.block))
        for (const one of block.transactions) if (one.txId === endorsed.txId) valid.push(one.validation);
      assert.deepEqual(
        valid.filter((validation) => validation === 'VALID'),
        ['VALID'],
      );
    });

    test('bytes that were altered are not ordered', async () => {
      const { ledger } = await host();
      const s = await say();
      const { bytes, txId } = await ledger.endorse({
        name: 'recordDocuments',
        args: [build.recordDocumentsArgument([s.entry('pat-1', 'doc-altered')])],
      });
      const altered = Buffer.from(Buffer.from(bytes).toString('latin1').replaceAll('doc-altered', 'doc-changed'), 'latin1');
      assert.equal(codeOf(await ledger.submit(altered).catch((error: unknown) => error)), 'LEDGER_INVALID');
      assert.equal(await ledger.status(txId), undefined);
    });

    test('blocks come in order from 0, chained, and go on as they are made', async () => {
      const { ledger } = await host();
      const s = await say();
      // Whatever an earlier test still has under way, the copy of some bytes, is ordered before this one.
      await send(ledger, 'enrollPatient', s.enroll('pat-before'));
      const height = await ledger.height();
      const later = reading(0, height + 1);
      await new Promise((resolve) => setTimeout(resolve, 20));
      await send(ledger, 'enrollPatient', s.enroll('pat-later'));
      const blocks = await later;
      assert.deepEqual(
        blocks.map((one) => one.number),
        Array.from({ length: height + 1 }, (_, i) => i),
      );
      for (const [i, block] of blocks.entries()) if (i > 0) assert.equal(block.previousHash, blocks[i - 1]?.hash);
      const info = await ledger.info();
      assert.equal(info.height, height + 1);
      assert.equal(info.tip, blocks.at(-1)?.hash);
    });

    test('closed', async () => {
      const { ledger } = await host();
      const endless = (async () => {
        let count = 0;
        for await (const _ of ledger.blocks(0)) count++;
        return count;
      })();
      await ledger.close();
      assert.ok((await endless) >= 0);
    });
  });
}

function byText(a: string, b: string): number {
  return a < b ? -1 : 1;
}
