import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { codeOf } from '../../src/errors.ts';
import * as build from '../../src/ledger/contract/payloads.ts';
import { TYP } from '../../src/ledger/contract/shapes.ts';
import type { Block, Ledger, LedgerTransaction, Receipt } from '../../src/ledger/ledger.ts';
import { type Cast, HOME, hex64, statements } from './world.ts';

/** A founded ledger of the institution HOME, with its signing key; every host of the port passes the same suite. */
export interface Hosted {
  ledger: Ledger;
  keys: Cast;
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

/** Validation codes of the program's transactions, in order. */
async function runProgram(
  ledger: Ledger,
  s: ReturnType<typeof statements>,
  keys: Cast,
  program: readonly Step[],
  run: string,
): Promise<string[]> {
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
  const settled = await Promise.allSettled(endorsed.map(({ bytes }) => ledger.submit(bytes)));
  return settled.map((one) =>
    one.status === 'fulfilled' ? 'VALID' : (/[A-Z_]+CONFLICT$/.exec(String(one.reason))?.[0] ?? String(one.reason)),
  );
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

export function ledgerConformance(name: string, open: () => Promise<Hosted>): void {
  describe(`ledger port: ${name}`, { concurrency: false }, () => {
    let hosted: Promise<Hosted> | undefined;
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

    test('random programs come to the same codes on every host', async () => {
      const { ledger } = await host();
      await fc.assert(
        fc.asyncProperty(fc.array(step, { minLength: 2, maxLength: 8 }), fc.uuid(), async (program, run) => {
          const codes = await runProgram(ledger, await say(), (await host()).keys, program, run);
          assert.deepEqual(codes, expectedCodes(program));
        }),
        { numRuns: 12, seed: 20261123 },
      );
    });

    test('bytes that were altered are not ordered', async () => {
      const { ledger } = await host();
      const s = await say();
      const { bytes, txId } = await ledger.endorse({
        name: 'recordDocuments',
        args: [build.recordDocumentsArgument([s.entry('pat-1', 'doc-altered')])],
      });
      const altered = Buffer.from(Buffer.from(bytes).toString().replaceAll('doc-altered', 'doc-changed'));
      assert.equal(codeOf(await ledger.submit(altered).catch((error: unknown) => error)), 'LEDGER_INVALID');
      assert.equal(await ledger.status(txId), undefined);
    });

    test('blocks come in order from 0, chained, and go on as they are made', async () => {
      const { ledger } = await host();
      const height = await ledger.height();
      const later = reading(0, height + 1);
      await new Promise((resolve) => setTimeout(resolve, 20));
      const s = await say();
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
