import type { common } from '@hyperledger/fabric-protos';
import { CodedError } from '../../errors.ts';
import { decodeBlock, type FabricBlock } from './block-decoder.ts';

/** One peer of the own organisation that blocks are read from. */
export interface BlockSource {
  readonly name: string;
  /**
   * Opens a stream of full blocks from this number on (`Network.getBlockEvents({ startBlock })` of a gateway to this peer). The
   * channel must allow messages of a block's size, which gRPC's default of 4 MiB does not.
   */
  open(startBlock: bigint): Promise<BlockStream>;
}
export interface BlockStream extends AsyncIterable<common.Block> {
  close(): void;
}

export type BlockReaderEvent =
  | { kind: 'connected'; peer: string; from: number }
  /** The stream ended or failed; the next peer goes on where it stopped. */
  | { kind: 'lost'; peer: string; at: number; error: Error }
  /** Nothing came for `stallMs`: on a quiet channel that is right, and of a peer that hangs nothing else tells. */
  | { kind: 'quiet'; peer: string; at: number };

export interface BlockReader {
  /**
   * Blocks from this number on, each once and in order, whichever peer they come from, until the signal or `close` ends it. A
   * peer's failure is waited out: it never rejects for one. Throws LEDGER_CORRUPT where a block cannot be read or does not follow
   * on the one before. The next block is asked for when the last one is done with.
   */
  blocks(from: number, signal?: AbortSignal): AsyncIterable<FabricBlock>;
  /** The same with the peer's own bytes, for whoever looks at what was decoded. */
  rawBlocks(from: number, signal?: AbortSignal): AsyncIterable<{ raw: common.Block; block: FabricBlock }>;
  close(): void;
}

const STALL_MS = 15_000;
const FIRST_RETRY_MS = 100;
const LAST_RETRY_MS = 5000;

export function createBlockReader(parts: {
  /** In the order in which they are tried. */
  sources: readonly BlockSource[];
  chaincode: string;
  /** After so long without a block the next peer is asked, or the same one anew. */
  stallMs?: number;
  onEvent?: (event: BlockReaderEvent) => void;
}): BlockReader {
  const { sources, chaincode, stallMs = STALL_MS } = parts;
  const onEvent = parts.onEvent ?? (() => {});
  const closing = new AbortController();
  /** All readers begin at the peer that served last. */
  let preferred = 0;

  async function* rawBlocks(from: number, signal?: AbortSignal): AsyncGenerator<{ raw: common.Block; block: FabricBlock }> {
    const either = signal === undefined ? closing.signal : AbortSignal.any([signal, closing.signal]);
    let next = from;
    let previous: string | undefined;
    let retryMs = FIRST_RETRY_MS;
    while (!either.aborted) {
      const at = preferred;
      const source = sources[at % sources.length];
      if (source === undefined) throw new CodedError('LEDGER_UNAVAILABLE', { diagnostics: 'No peer is configured.' });
      let stream: BlockStream | undefined;
      try {
        stream = await source.open(BigInt(next));
        onEvent({ kind: 'connected', peer: source.name, from: next });
        const incoming = stream[Symbol.asyncIterator]();
        for (;;) {
          const arrived = await withinStall(incoming.next(), either);
          if (either.aborted) return;
          if (arrived === undefined) {
            onEvent({ kind: 'quiet', peer: source.name, at: next });
            break;
          }
          if (arrived.done === true) throw new Error('the peer ended the stream');
          const block = decodeBlock(arrived.value, chaincode);
          if (block.number !== next || (previous !== undefined && block.previousHash !== previous))
            throw new CodedError('LEDGER_CORRUPT', { diagnostics: `Block ${next} of ${source.name} does not follow on the one before.` });
          previous = block.hash;
          next = block.number + 1;
          retryMs = FIRST_RETRY_MS;
          yield { raw: arrived.value, block };
          if (either.aborted) return;
        }
      } catch (error) {
        if (either.aborted) return;
        if (error instanceof CodedError) throw error;
        onEvent({ kind: 'lost', peer: source.name, at: next, error: error as Error });
        await pause(retryMs, either);
        retryMs = Math.min(retryMs * 2, LAST_RETRY_MS);
      } finally {
        stream?.close();
      }
      // Another reader may have moved on already.
      if (preferred === at) preferred = (at + 1) % sources.length;
    }
  }

  /** The next message; undefined after `stallMs` or where the reader ends. */
  function withinStall<T>(message: Promise<T>, signal: AbortSignal): Promise<T | undefined> {
    return new Promise((resolve, reject) => {
      const stop = (): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', stop);
        // Closing the stream rejects what is still awaited; that is no news any more.
        message.catch(() => {});
        resolve(undefined);
      };
      const timer = setTimeout(stop, stallMs);
      signal.addEventListener('abort', stop);
      if (signal.aborted) stop();
      message.then(
        (value) => {
          clearTimeout(timer);
          signal.removeEventListener('abort', stop);
          resolve(value);
        },
        (error: unknown) => {
          clearTimeout(timer);
          signal.removeEventListener('abort', stop);
          reject(error as Error);
        },
      );
    });
  }

  return {
    rawBlocks,
    async *blocks(from, signal) {
      for await (const { block } of rawBlocks(from, signal)) yield block;
    },
    close() {
      closing.abort();
    },
  };
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener('abort', end);
    if (signal.aborted) end();
  });
}
