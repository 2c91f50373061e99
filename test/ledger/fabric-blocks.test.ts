import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import * as fabric from '@hyperledger/fabric-protos';
import fc from 'fast-check';
import { type CodedError, codeOf } from '../../src/errors.ts';
import { decodeBlock } from '../../src/ledger/fabric/block-decoder.ts';
import { type BlockReaderEvent, type BlockSource, createBlockReader } from '../../src/ledger/fabric/block-reader.ts';
import { MemoryState } from '../../src/ledger/memory-state.ts';
import { replayBlock } from '../../src/ledger/replay.ts';
import { CHAINCODE, configEnvelope, createChain, type Forged, makeBlock, makeEnvelope, newGateway } from './block-maker.ts';
import { cast, HOME, hex64, LEDGER, statements } from './world.ts';

const keys = cast();
const say = statements(keys, LEDGER);
const gateway = await newGateway(`${HOME}-msp`, HOME);
const other = await newGateway('other-msp', 'inst-other');
const anchor: Forged = { gateway, name: 'anchorAudit', args: ['{"number":1}'], writes: [[`anchor/${HOME}`, '{"number":1}']] };

/** The transaction of a block that holds this one alone. */
function decoded(forged: Partial<Forged>, validation?: 'MVCC_READ_CONFLICT' | 'BAD_PAYLOAD') {
  const block = makeBlock(7, hex64('before'), [
    { bytes: makeEnvelope({ ...anchor, ...forged }), ...(validation === undefined ? {} : { validation }) },
  ]);
  return decodeBlock(block.serializeBinary(), CHAINCODE);
}
function isCorrupt(about: RegExp) {
  return (error: unknown): boolean => codeOf(error) === 'LEDGER_CORRUPT' && about.test(String((error as CodedError).detail.diagnostics));
}

describe('blocks of a Fabric channel', () => {
  test('real ones: hashes as the peer computes them, approvals under the definition, transactions that the contract bears out', async () => {
    // The first five blocks of a network of three institutions: configuration, approvals, commit, `init`, two enrolments of one patient.
    const blocks = await Promise.all(
      [0, 1, 2, 3, 4].map(async (n) =>
        decodeBlock(await readFile(new URL(`../fixtures/ledger/fabric/block-${n}.bin`, import.meta.url)), CHAINCODE),
      ),
    );
    assert.equal(blocks[4]?.hash, '1fb2e99bc5eaa3cd996b78cd18dee82d45f18776359798c45024edf9191d8185');
    for (const [n, block] of blocks.entries()) assert.equal(block.previousHash, n === 0 ? '' : blocks[n - 1]?.hash);
    assert.deepEqual(
      blocks.map(({ transactions }) => transactions.map(({ name, validation }) => `${name} ${validation}`)),
      [[], [], [], ['init VALID'], ['enrollPatient VALID', 'enrollPatient MVCC_READ_CONFLICT']],
    );
    const approvals = blocks.flatMap(({ lifecycle }) => lifecycle.approvals);
    const [commit, ...more] = blocks.flatMap(({ lifecycle }) => lifecycle.commits);
    assert.ok(commit !== undefined && more.length === 0);
    assert.equal(commit.sequence, 1);
    for (const institution of [HOME, 'inst-away', 'inst-third'])
      for (const field of ['EndorsementInfo', 'ValidationInfo', 'Collections'])
        assert.ok(
          approvals.some(
            ({ msp, keyHash, valueHash }) =>
              msp === `${institution}-msp` &&
              keyHash === hex64(`namespaces/fields/${CHAINCODE}#1/${field}`) &&
              valueHash === commit.fields.get(field),
          ),
          `${institution} ${field}`,
        );
    const state = new MemoryState();
    for (const block of blocks) {
      const { replayed, overlay } = await replayBlock(state, block);
      assert.ok(replayed.every(({ agrees }) => agrees));
      state.apply(overlay);
    }
    assert.ok((await state.get(`pat/${HOME}/pat-1/core`)) !== undefined);
    assert.deepEqual(blocks[3]?.transactions[0]?.caller, { msp: `${HOME}-msp`, institution: HOME });
  });

  test('an honest transaction, as the contract made it', async () => {
    const chain = createChain();
    const before = chain.raw.length;
    const block = await chain.submit(gateway, 'init', say.init([HOME, keys.home]), '2026-11-23T10:00:00.123Z');
    const [transaction] = block.transactions;
    assert.equal(block.number, before);
    assert.equal(transaction?.validation, 'VALID');
    assert.equal(transaction.name, 'init');
    assert.equal(transaction.args.length, 2);
    assert.deepEqual(transaction.caller, { msp: `${HOME}-msp`, institution: HOME });
    assert.equal(transaction.time, '2026-11-23T10:00:00.123Z');
    assert.ok(transaction.writes.has(`inst/${HOME}`));
    assert.equal(transaction.irregular, undefined);
    assert.equal((await chain.submit(gateway, 'enrollPatient', say.enroll('pat-1'))).previousHash, block.hash);
  });

  test('time is cut to milliseconds, a deletion and an empty value are the same, and arguments are what the shim makes of them', () => {
    const [transaction] = decoded({
      time: { seconds: 1_795_000_000, nanos: 123_999_999 },
      args: ['ö', Buffer.from([0x61, 0xff]) as unknown as string],
      writes: [
        ['b', null],
        ['a', ''],
        ['\ufeffc', '\ufeffv'],
      ],
    }).transactions;
    assert.equal(transaction?.time, new Date(1_795_000_000_123).toISOString());
    assert.deepEqual(transaction.args, ['ö', 'a\ufffd']);
    assert.deepEqual(
      [...transaction.writes],
      [
        ['b', null],
        ['a', null],
        ['\ufeffc', '\ufeffv'],
      ],
    );
    assert.equal(transaction.irregular, undefined);
  });

  test('what is not ours leaves no trace, and the block still counts', () => {
    const strange = makeEnvelope({ ...anchor, invoked: 'trade', namespace: 'trade' });
    const block = decodeBlock(makeBlock(3, hex64('x'), [{ bytes: configEnvelope() }, { bytes: strange }]), CHAINCODE);
    assert.deepEqual([block.number, block.previousHash, block.transactions.length], [3, hex64('x'), 0]);
    assert.equal(decodeBlock(makeBlock(3, '', [{ bytes: strange }]), 'trade').transactions.length, 1);
  });

  test('invalid transactions stand in it under their code, as far as they can be read', () => {
    const bytes = makeEnvelope(anchor);
    const spoilt = makeEnvelope({ ...anchor, spoil: ({ envelope }) => envelope.setSignature(Buffer.from('no signature')) });
    const block = decodeBlock(
      makeBlock(3, '', [
        { bytes, validation: 'MVCC_READ_CONFLICT' },
        { bytes: spoilt, validation: 'BAD_CREATOR_SIGNATURE' },
        { bytes: Buffer.from('not even a message'), validation: 'BAD_PAYLOAD' },
        { bytes: Buffer.of(), validation: 'NIL_ENVELOPE' },
      ]),
      CHAINCODE,
    );
    assert.deepEqual(
      block.transactions.map(({ validation, name }) => [validation, name]),
      [
        ['MVCC_READ_CONFLICT', 'anchorAudit'],
        ['BAD_CREATOR_SIGNATURE', 'anchorAudit'],
      ],
    );
  });

  test('what cannot be right in a valid transaction is never skipped', () => {
    const block = makeBlock(3, '', [{ bytes: makeEnvelope(anchor) }]);
    const altered = (change: (block: fabric.common.Block) => void): (() => unknown) => {
      const copy = fabric.common.Block.deserializeBinary(block.serializeBinary());
      change(copy);
      return () => decodeBlock(copy, CHAINCODE);
    };
    assert.ok(altered(() => {})());
    assert.throws(
      altered((copy) => copy.getData()?.setDataList([makeEnvelope(anchor)])),
      isCorrupt(/not those of the header/),
    );
    assert.throws(
      altered((copy) => copy.getMetadata()?.setMetadataList([])),
      isCorrupt(/validation code/),
    );
    assert.throws(
      altered((copy) => copy.clearHeader()),
      isCorrupt(/without header/),
    );
    assert.throws(() => decodeBlock(Buffer.from('no block at all'), CHAINCODE), isCorrupt(/no block/));
    const spoilt = (about: RegExp, change: (bytes: Buffer) => Uint8Array): void => {
      const bytes = change(Buffer.from(makeEnvelope(anchor)));
      assert.throws(() => decodeBlock(makeBlock(3, '', [{ bytes }]), CHAINCODE), isCorrupt(about));
    };
    spoilt(/not just an envelope/, (bytes) => Buffer.concat([bytes, bytes]));
    spoilt(/transaction 0/, (bytes) => bytes.subarray(0, bytes.length - 3));
    spoilt(/transaction 0/, () => Buffer.from('not even a message'));
    const bad = (about: RegExp, spoil: Forged['spoil']): void =>
      assert.throws(() => decoded({ spoil } as Partial<Forged>), isCorrupt(about));
    bad(/signature/, ({ envelope }) => envelope.setSignature(Buffer.from('no signature')));
    bad(/proposal|id is not|creator/, ({ payload, envelope }) => {
      const theirs = makeEnvelope({ ...anchor, gateway: other });
      payload.setHeader(decodeHeader(theirs));
      envelope.setPayload(payload.serializeBinary());
    });
  });

  test('what the contract never does is marked, so that no run of it agrees', async () => {
    const cases: [Partial<Forged>, RegExp][] = [
      [{ keyPolicy: `inst/${HOME}` }, /endorsement policy/],
      [{ collection: 'hidden' }, /private data/],
      [{ invoked: 'trade' }, /through chaincode trade/],
      [{ endorsedFor: other }, /another creator/],
      [{ time: { seconds: 300_000_000_000, nanos: 0 } }, /no time/],
      [{ time: { seconds: -5, nanos: 0 } }, /no time/],
      [{ writes: [['a', Buffer.of(0xff)]] }, /no text/],
      [
        {
          writes: [
            ['a', '1'],
            ['a', '2'],
          ],
        },
        /twice/,
      ],
    ];
    for (const [forged, about] of cases) {
      const block = decoded(forged);
      assert.match(block.transactions[0]?.irregular ?? '', about);
      const { replayed } = await replayBlock({ get: async () => undefined, scan: async () => [] }, block);
      assert.deepEqual([replayed[0]?.agrees, replayed[0]?.writes.size], [false, 0]);
      assert.ok((replayed[0]?.keys.length ?? 0) > 0);
    }
    // Marked even where it writes exactly what the contract does.
    const chain = createChain();
    const init = await chain.submit(gateway, 'init', say.init([HOME, keys.home]));
    const transaction = init.transactions[0] ?? assert.fail();
    const empty = { get: async () => undefined, scan: async () => [] };
    const agrees = async (irregular?: string): Promise<boolean | undefined> =>
      (await replayBlock(empty, { ...init, transactions: [{ ...transaction, ...(irregular === undefined ? {} : { irregular }) }] }))
        .replayed[0]?.agrees;
    assert.deepEqual([await agrees(), await agrees('x')], [true, false]);
  });

  test('any altered byte is found, or lies outside what transactions say', async () => {
    const bytes = await readFile(new URL('../fixtures/ledger/fabric/block-4.bin', import.meta.url));
    const whole = decodeBlock(bytes, CHAINCODE);
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, by) => {
        const copy = Buffer.from(bytes);
        copy[at] = (copy[at] ?? 0) ^ by;
        try {
          const found = decodeBlock(copy, CHAINCODE);
          // The header's own hash and the code of the peer are all that is left to alter; the chain and the own peer stand for them.
          const same = ({ transactions }: typeof whole) => transactions.map((one) => ({ ...one, validation: '' }));
          if (found.hash === whole.hash) assert.deepEqual(same(found), same(whole));
        } catch (error) {
          if (codeOf(error) !== 'LEDGER_CORRUPT') throw error;
        }
      }),
      { numRuns: 2000 },
    );
  });
});

function decodeHeader(envelope: Uint8Array): fabric.common.Header | undefined {
  const { common: protos } = fabric;
  return protos.Payload.deserializeBinary(protos.Envelope.deserializeBinary(envelope).getPayload_asU8()).getHeader();
}

describe('reader of blocks', () => {
  const chain = createChain();
  for (let i = 0; i < 9; i++) chain.append({ bytes: makeEnvelope({ ...anchor, args: [String(i)] }) });

  /** A peer that serves what it has, up to `until` blocks a stream, then does what it is told. */
  function peerOf(
    name: string,
    then: 'fail' | 'hang' | 'end',
    until = Number.POSITIVE_INFINITY,
    blocks: readonly fabric.common.Block[] = chain.raw,
  ) {
    const log: number[] = [];
    let open = 0;
    const source: BlockSource = {
      name,
      async open(startBlock) {
        log.push(Number(startBlock));
        open++;
        let stop: (error: Error) => void = () => {};
        const closed = new Promise<never>((_, reject) => (stop = reject));
        closed.catch(() => {});
        return {
          close() {
            open--;
            stop(new Error('1 CANCELLED'));
          },
          async *[Symbol.asyncIterator]() {
            let sent = 0;
            for (let at = Number(startBlock); at < blocks.length && sent < until; at++, sent++) yield blocks[at] ?? assert.fail();
            if (then === 'fail') throw new Error('14 UNAVAILABLE');
            if (then === 'hang') await closed;
          },
        };
      },
    };
    return { source, log, open: () => open };
  }
  async function take(reader: ReturnType<typeof createBlockReader>, from: number, count: number): Promise<number[]> {
    const numbers: number[] = [];
    for await (const { number } of reader.blocks(from)) {
      numbers.push(number);
      if (numbers.length === count) break;
    }
    return numbers;
  }

  test('goes from peer to peer as they fail, end and hang, and loses and repeats nothing', async () => {
    const events: BlockReaderEvent[] = [];
    const peers = [peerOf('one', 'fail', 2), peerOf('two', 'hang', 3), peerOf('three', 'end', 1)];
    const sources = peers.map(({ source }) => source);
    const reader = createBlockReader({ sources, chaincode: CHAINCODE, stallMs: 30, onEvent: (event) => events.push(event) });
    assert.deepEqual(await take(reader, 1, 9), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert.deepEqual(
      peers.map(({ log }) => log),
      [[1, 7], [3, 9], [6]],
    );
    assert.deepEqual(new Set(events.map(({ kind }) => kind)), new Set(['connected', 'lost', 'quiet']));
    assert.deepEqual(
      peers.map(({ open }) => open()),
      [0, 0, 0],
    );
  });

  test('asks for no block before the last one is done with, and ends when told to, leaving no stream open', async () => {
    let asked = 0;
    const one = peerOf('one', 'hang');
    const source: BlockSource = {
      name: 'counting',
      async open(from) {
        const stream = await one.source.open(from);
        return {
          close: () => stream.close(),
          async *[Symbol.asyncIterator]() {
            for await (const block of stream) {
              asked++;
              yield block;
            }
          },
        };
      },
    };
    const reader = createBlockReader({ sources: [source], chaincode: CHAINCODE });
    const iterator = reader.blocks(0)[Symbol.asyncIterator]();
    await iterator.next();
    await iterator.next();
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.equal(asked, 2);
    const stop = new AbortController();
    const aborted = (async () => {
      const numbers: number[] = [];
      for await (const { number } of reader.blocks(0, stop.signal)) numbers.push(number);
      return numbers.length;
    })();
    const closed = take(reader, chain.raw.length, 1);
    setTimeout(() => stop.abort(), 20);
    assert.equal(await aborted, chain.raw.length);
    reader.close();
    assert.deepEqual(await closed, []);
    await iterator.return?.();
    assert.equal(one.open(), 0);
  });

  test('a block that does not follow on the one before, from whichever peer, ends it', async () => {
    const fork = createChain();
    for (let i = 0; i < 9; i++) fork.append({ bytes: makeEnvelope({ ...anchor, args: [`fork ${i}`] }) });
    const sources = [peerOf('one', 'fail', 4).source, peerOf('forked', 'hang', 9, fork.raw).source];
    const reader = createBlockReader({ sources, chaincode: CHAINCODE });
    await assert.rejects(take(reader, 0, 9), isCorrupt(/Block 4 of forked/));
    const gap = peerOf('gap', 'hang', 9, [...chain.raw.slice(0, 3), ...chain.raw.slice(4)]).source;
    await assert.rejects(take(createBlockReader({ sources: [gap], chaincode: CHAINCODE }), 0, 9), isCorrupt(/Block 3/));
  });
});
