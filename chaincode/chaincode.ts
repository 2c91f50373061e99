import { createHash } from 'node:crypto';
import type { ChaincodeInterface, ChaincodeResponse, ChaincodeStub } from 'fabric-shim';
import { compareUtf8 } from '../src/ledger/contract/bytes.ts';
import { runQuery, TRANSACTIONS } from '../src/ledger/contract/contract.ts';
import { Refusal } from '../src/ledger/contract/refusals.ts';
import { callerOf } from '../src/ledger/fabric/caller.ts';
import { transactionTime } from '../src/ledger/fabric/transaction-time.ts';
import { HostRuleBroken, readHost, type StateReader, simulate, type Version } from '../src/ledger/simulation.ts';

/** What a transaction emits: it only wakes readers, who believe nothing but blocks (protocol section 4). */
const EVENT = 'oncobridge';
/** The peer keeps versions and checks them itself. */
const UNVERSIONED: Version = [0, 0];

export interface ChaincodeOptions {
  /** Told of what the contract never does: a fault in the code or an argument made to find one. Free of values. */
  onFault?: (fault: string) => void;
}

/**
 * The contract as chaincode: the function's name is the transaction's or the query's, its arguments are strings. A refusal is an
 * error response `REFUSED <code>[ member]`. The rules of the host (no read after a write, no empty value) are those of
 * `simulate`, the same function that the embedded ledger, the client's local run and every projection use.
 */
export function createChaincode(options: ChaincodeOptions = {}): ChaincodeInterface {
  const invoke = async (stub: ChaincodeStub): Promise<ChaincodeResponse> => {
    try {
      const [name = '', ...args] = stub.getStringArgs();
      const result = Object.hasOwn(TRANSACTIONS, name)
        ? await transact(stub, name, args)
        : await runQuery(readHost(peerState(stub)), name, args);
      return { status: 200, message: '', payload: Buffer.from(result) };
    } catch (error) {
      if (error instanceof Refusal) return failed(`REFUSED ${error.message}`);
      const fault = faultOf(error);
      options.onFault?.(`${fault}${placeOf(error)}`);
      return failed(`FAILED ${fault}`);
    }
  };
  // Definitions are committed without --init-required, so Init is never called.
  return { Init: async () => failed('FAILED Init'), Invoke: invoke };
}

async function transact(stub: ChaincodeStub, name: string, args: readonly string[]): Promise<string> {
  const { mspid, idBytes } = stub.getCreator();
  const timestamp = stub.getTxTimestamp();
  const time = transactionTime({ seconds: Number(timestamp.seconds), nanos: timestamp.nanos });
  if (time === undefined) throw new HostRuleBroken('the transaction has no time');
  const caller = callerOf(mspid, Buffer.from(idBytes).toString());
  const { result, writes } = await simulate(peerState(stub), { name, args, caller, time });
  for (const [key, value] of writes) {
    if (value === null) await stub.deleteState(key);
    else await stub.putState(key, Buffer.from(value));
  }
  if (writes.size > 0) stub.setEvent(EVENT, Buffer.from(JSON.stringify({ v: 1, t: name, h: effectsHash(writes) })));
  return result;
}

function peerState(stub: ChaincodeStub): StateReader {
  return {
    async get(key) {
      const value = await stub.getState(key);
      return value.length === 0 ? undefined : { value: Buffer.from(value).toString(), version: UNVERSIONED };
    },
    async scan(prefix) {
      const rows: Awaited<ReturnType<StateReader['scan']>>[number][] = [];
      const iterator = await stub.getStateByRange(prefix, prefixEnd(prefix));
      // To the last row, and never by page: what a page ends with is not checked at commit.
      for (;;) {
        const { value: row, done } = await iterator.next();
        if (row?.key !== undefined && row.key !== '')
          rows.push({ key: row.key, value: Buffer.from(row.value).toString(), version: UNVERSIONED });
        if (done || row === undefined || row === null) break;
      }
      await iterator.close();
      return rows;
    },
  };
}

/** The first key after all that begin so. */
function prefixEnd(prefix: string): string {
  const last = prefix.charCodeAt(prefix.length - 1);
  if (!(last < 0x7f)) throw new HostRuleBroken('a prefix to scan ends in "/"');
  return prefix.slice(0, -1) + String.fromCharCode(last + 1);
}

/** SHA-256 over what is written, by key. */
function effectsHash(writes: ReadonlyMap<string, string | null>): string {
  return createHash('sha256')
    .update(JSON.stringify([...writes].sort(([a], [b]) => compareUtf8(a, b))))
    .digest('hex');
}

function failed(message: string): ChaincodeResponse {
  return { status: 500, message, payload: new Uint8Array() };
}

/** Kind of error only: the text of a SyntaxError, say, quotes what it could not read. */
function faultOf(error: unknown): string {
  return error instanceof HostRuleBroken ? 'HOST_RULE' : error instanceof Error ? error.constructor.name : 'unknown';
}
function placeOf(error: unknown): string {
  const stack = error instanceof Error ? (error.stack ?? '') : '';
  return stack
    .split('\n')
    .filter((line) => /^\s+at /.test(line))
    .slice(0, 6)
    .join('');
}
