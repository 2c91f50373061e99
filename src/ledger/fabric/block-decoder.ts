import { createHash } from 'node:crypto';
import { common, ledger, msp, peer } from '@hyperledger/fabric-protos';
import { CodedError } from '../../errors.ts';
import type { Block, BlockTransaction, Lifecycle } from '../ledger.ts';
import { readCreator } from './creator.ts';
import { transactionTime } from './transaction-time.ts';

/** A block of a Fabric channel, as the projection reads it. */
export interface FabricBlock extends Block {
  lifecycle: Lifecycle;
}

type NsReadWriteSet = ledger.rwset.NsReadWriteSet;

const LIFECYCLE = '_lifecycle';
const IMPLICIT_COLLECTION = '_implicit_org_';
const { TRANSACTIONS_FILTER } = common.BlockMetadataIndex;
const { ENDORSER_TRANSACTION } = common.HeaderType;
const VALIDATION_NAMES = new Map<number, string>(Object.entries(peer.TxValidationCode).map(([name, code]) => [code, name]));

/**
 * Decodes a full block of a channel: number, chain and hashes, and every transaction of this chaincode, invalid ones included.
 * Transactions of other chaincodes and configuration leave no trace, unless one of them writes into this chaincode's state or
 * changes its definition.
 *
 * What the peer has checked already is held against the bytes once more where it is cheap: the data hash, that an envelope is
 * nothing but an envelope, the proposal's hash, the transaction id, and the creator's signature. Endorsements are the own peer's
 * work (protocol section 9). Throws LEDGER_CORRUPT where anything of that is wrong, or a VALID transaction cannot be read: never
 * is one skipped. A transaction that its peers found valid and that the contract could not have made is `irregular`.
 */
export function decodeBlock(block: Uint8Array | common.Block, chaincode: string): FabricBlock {
  const message = block instanceof Uint8Array ? parse(() => common.Block.deserializeBinary(block), 'block') : block;
  const header = message.getHeader();
  const data = message.getData()?.getDataList_asU8() ?? [];
  if (header === undefined) throw corrupt('a block without header');
  const number = header.getNumber();
  const wrong = (what: string): CodedError => corrupt(`block ${number}: ${what}`);

  const dataHash = createHash('sha256');
  for (const item of data) dataHash.update(item);
  if (!dataHash.digest().equals(header.getDataHash_asU8())) throw wrong('its data are not those of the header');
  const codes = message.getMetadata()?.getMetadataList_asU8()[TRANSACTIONS_FILTER] ?? new Uint8Array();
  if (codes.length !== data.length) throw wrong('a validation code is missing');

  const transactions: BlockTransaction[] = [];
  const lifecycle = { approvals: [] as Lifecycle['approvals'][number][], commits: [] as Lifecycle['commits'][number][] };
  for (const [n, bytes] of data.entries()) {
    const code = codes[n] ?? 255;
    const validation = VALIDATION_NAMES.get(code) ?? `CODE_${code}`;
    let found: Found | undefined;
    try {
      found = readTransaction(bytes, chaincode, validation);
    } catch (error) {
      // What the peers threw out need not even be a message.
      if (validation === 'VALID') throw wrong(`transaction ${n}: ${(error as Error).message}`);
    }
    if (found?.transaction !== undefined) transactions.push(found.transaction);
    lifecycle.approvals.push(...(found?.approvals ?? []));
    lifecycle.commits.push(...(found?.commits ?? []));
  }
  return { number, previousHash: hex(header.getPreviousHash_asU8()), hash: hex(headerHash(header)), transactions, lifecycle };
}

interface Found {
  transaction?: BlockTransaction;
  approvals: Lifecycle['approvals'];
  commits: Lifecycle['commits'];
}
const NOTHING: Found = { approvals: [], commits: [] };

/** Throws an Error that names what is wrong, never a value. */
function readTransaction(bytes: Uint8Array, chaincode: string, validation: string): Found | undefined {
  const valid = validation === 'VALID';
  const envelope = common.Envelope.deserializeBinary(bytes);
  const payloadBytes = envelope.getPayload_asU8();
  // The data hash runs over the items joined: one that held more than its envelope could be cut elsewhere under the same hash.
  if (valid && bytes.length !== fieldLength(payloadBytes) + fieldLength(envelope.getSignature_asU8()))
    throw new Error('not just an envelope');
  const payload = common.Payload.deserializeBinary(payloadBytes);
  const header = payload.getHeader();
  if (header === undefined) throw new Error('no header');
  const channelHeader = common.ChannelHeader.deserializeBinary(header.getChannelHeader_asU8());
  if (channelHeader.getType() !== ENDORSER_TRANSACTION) return NOTHING;

  const [action, ...others] = peer.Transaction.deserializeBinary(payload.getData_asU8()).getActionsList();
  if (action === undefined || others.length > 0) throw new Error('not one action');
  const actionPayload = peer.ChaincodeActionPayload.deserializeBinary(action.getPayload_asU8());
  const proposal = actionPayload.getChaincodeProposalPayload_asU8();
  const response = peer.ProposalResponsePayload.deserializeBinary(
    actionPayload.getAction()?.getProposalResponsePayload_asU8() ?? new Uint8Array(),
  );
  const effect = peer.ChaincodeAction.deserializeBinary(response.getExtension_asU8());
  const invoked = peer.ChaincodeHeaderExtension.deserializeBinary(channelHeader.getExtension_asU8()).getChaincodeId()?.getName() ?? '';
  const sets = ledger.rwset.TxReadWriteSet.deserializeBinary(effect.getResults_asU8()).getNsRwsetList();
  const facts = valid ? readLifecycle(sets, chaincode) : NOTHING;
  const effects = readEffects(sets, chaincode);
  if (invoked !== chaincode && effects.writes.size === 0 && effects.irregular === undefined) return facts;

  const signatureHeader = common.SignatureHeader.deserializeBinary(header.getSignatureHeader_asU8());
  const creatorBytes = signatureHeader.getCreator_asU8();
  const creator = readCreator(msp.SerializedIdentity.deserializeBinary(creatorBytes));
  let irregular = effects.irregular;
  if (valid) {
    const txId = createHash('sha256').update(signatureHeader.getNonce_asU8()).update(creatorBytes).digest('hex');
    if (txId !== channelHeader.getTxId()) throw new Error('its id is not that of nonce and creator');
    const proposalHash = createHash('sha256').update(header.getChannelHeader_asU8()).update(action.getHeader_asU8()).update(proposal);
    if (!proposalHash.digest().equals(response.getProposalHash_asU8())) throw new Error('endorsed for another proposal');
    if (!creator.verify(payloadBytes, envelope.getSignature_asU8())) throw new Error('signature of its creator does not verify');
    // Fabric does not compare them: endorsers ran it for the one, and the other has signed it.
    if (!Buffer.from(action.getHeader_asU8()).equals(header.getSignatureHeader_asU8())) irregular ??= 'endorsed for another creator';
  }
  if (invoked !== chaincode) irregular ??= `written through chaincode ${invoked}`;
  const timestamp: { getSeconds(): number; getNanos(): number } | undefined = channelHeader.getTimestamp();
  const time = transactionTime(timestamp === undefined ? undefined : { seconds: timestamp.getSeconds(), nanos: timestamp.getNanos() });
  if (time === undefined) irregular ??= 'at no time that can be told';
  const [name = '', ...args] = invoked === chaincode ? readArguments(proposal) : [];
  return {
    ...facts,
    transaction: {
      txId: channelHeader.getTxId(),
      validation,
      name,
      args,
      caller: creator.caller,
      time: time ?? '',
      writes: effects.writes,
      ...(irregular === undefined ? {} : { irregular }),
    },
  };
}

/** Function name and arguments, as the chaincode shim hands them over: bytes that are no UTF-8 become U+FFFD there too. */
function readArguments(proposal: Uint8Array): string[] {
  const input = peer.ChaincodeProposalPayload.deserializeBinary(proposal).getInput_asU8();
  const args = peer.ChaincodeInvocationSpec.deserializeBinary(input).getChaincodeSpec()?.getInput()?.getArgsList_asU8() ?? [];
  return args.map((arg) => Buffer.from(arg).toString());
}

interface Effects {
  writes: Map<string, string | null>;
  irregular?: string;
}

/** What it writes into the chaincode's state, and whether it does there what the contract never does. */
function readEffects(sets: readonly NsReadWriteSet[], chaincode: string): Effects {
  const writes = new Map<string, string | null>();
  const irregular: string[] = [];
  for (const set of sets) {
    if (set.getNamespace() !== chaincode) continue;
    const keys = ledger.rwset.kvrwset.KVRWSet.deserializeBinary(set.getRwset_asU8());
    for (const write of keys.getWritesList()) {
      const key = write.getKey();
      if (writes.has(key)) irregular.push('one key written twice');
      const value = write.getValue_asU8();
      // Fabric takes an empty value for a deletion.
      const text = write.getIsDelete() || value.length === 0 ? null : strictUtf8(value);
      if (text === undefined) irregular.push('a value that is no text');
      writes.set(key, text ?? null);
    }
    if (keys.getMetadataWritesList().length > 0) irregular.push('an endorsement policy of a key');
    for (const collection of set.getCollectionHashedRwsetList()) {
      const hashed = ledger.rwset.kvrwset.HashedRWSet.deserializeBinary(collection.getHashedRwset_asU8());
      if (hashed.getHashedWritesList().length > 0 || hashed.getMetadataWritesList().length > 0) irregular.push('private data written');
    }
  }
  const [first] = irregular;
  return { writes, ...(first === undefined ? {} : { irregular: first }) };
}

/**
 * Approvals and commits in Fabric's own namespace. An organisation's approvals are private data that only it sees; their hashes
 * are in the block for everybody, so what follows from them follows from the blocks alone, again at every rebuild.
 */
function readLifecycle(sets: readonly NsReadWriteSet[], chaincode: string): Pick<Found, 'approvals' | 'commits'> {
  const set = sets.find((one) => one.getNamespace() === LIFECYCLE);
  if (set === undefined) return NOTHING;
  const approvals: Lifecycle['approvals'][number][] = [];
  for (const collection of set.getCollectionHashedRwsetList()) {
    const name = collection.getCollectionName();
    if (!name.startsWith(IMPLICIT_COLLECTION)) continue;
    const writes = ledger.rwset.kvrwset.HashedRWSet.deserializeBinary(collection.getHashedRwset_asU8()).getHashedWritesList();
    for (const write of writes)
      approvals.push({
        msp: name.slice(IMPLICIT_COLLECTION.length),
        keyHash: hex(write.getKeyHash_asU8()),
        valueHash: write.getIsDelete() ? '' : hex(write.getValueHash_asU8()),
      });
  }
  const prefix = `namespaces/fields/${chaincode}/`;
  const fields = new Map<string, string>();
  let sequence = 0;
  for (const write of ledger.rwset.kvrwset.KVRWSet.deserializeBinary(set.getRwset_asU8()).getWritesList()) {
    if (!write.getKey().startsWith(prefix)) continue;
    const field = write.getKey().slice(prefix.length);
    fields.set(field, sha256(write.getValue_asU8()));
    if (field === 'Sequence') sequence = peer.lifecycle.StateData.deserializeBinary(write.getValue_asU8()).getInt64();
  }
  return { approvals, commits: fields.size === 0 ? [] : [{ sequence, fields }] };
}

/** Fabric's hash of a block: SHA-256 over the DER of SEQUENCE { number INTEGER, previous OCTET STRING, data OCTET STRING }. */
function headerHash(header: common.BlockHeader): Uint8Array {
  const number = Buffer.alloc(9);
  number.writeBigUInt64BE(BigInt(header.getNumber()), 1);
  let from = 0;
  // The shortest form; a first byte above 0x7f would make it negative.
  while (from < 8 && number[from] === 0 && (number[from + 1] ?? 0) < 0x80) from++;
  const parts = [der(0x02, number.subarray(from)), der(0x04, header.getPreviousHash_asU8()), der(0x04, header.getDataHash_asU8())];
  return createHash('sha256')
    .update(der(0x30, Buffer.concat(parts)))
    .digest();
}

function der(tag: number, content: Uint8Array): Buffer {
  // Hashes and a number: never 128 bytes and more.
  if (content.length > 127) throw corrupt('a header of another form');
  return Buffer.concat([Buffer.of(tag, content.length), content]);
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
function strictUtf8(bytes: Uint8Array): string | undefined {
  try {
    return utf8.decode(bytes);
  } catch {
    return undefined;
  }
}

/** Length on the wire of a field of bytes with a one-byte tag; proto3 leaves out an empty one. */
function fieldLength(bytes: Uint8Array): number {
  if (bytes.length === 0) return 0;
  let prefix = 1;
  for (let rest = bytes.length; rest >= 128; rest = Math.floor(rest / 128)) prefix++;
  return 1 + prefix + bytes.length;
}

function parse<T>(read: () => T, what: string): T {
  try {
    return read();
  } catch (cause) {
    throw new CodedError('LEDGER_CORRUPT', { diagnostics: `a ${what} that is no ${what}`, cause });
  }
}

function corrupt(diagnostics: string): CodedError {
  return new CodedError('LEDGER_CORRUPT', { diagnostics });
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
