import 'reflect-metadata';
import { createHash, createPrivateKey, type KeyObject, randomBytes, sign, webcrypto } from 'node:crypto';
import { common, ledger, msp as mspProtos, peer } from '@hyperledger/fabric-protos';
import * as x509 from '@peculiar/x509';
import { decodeBlock, type FabricBlock } from '../../src/ledger/fabric/block-decoder.ts';
import type { Ledger } from '../../src/ledger/ledger.ts';
import { MemoryState } from '../../src/ledger/memory-state.ts';
import { Overlay, simulate } from '../../src/ledger/simulation.ts';

/**
 * Blocks in Fabric's own form, made without a network: the honest ones by running the contract, the others as no network of honest
 * peers would ever commit them. The form is held against real blocks by the fixture of fabric-blocks.test.ts.
 */
export const CHAINCODE = 'oncobridge';
const ATTRIBUTES = '1.2.3.4.5.6.7.8.1';
const { kvrwset } = ledger.rwset;

export interface Gateway {
  msp: string;
  institution: string;
  certificatePem: string;
  key: KeyObject;
}

/** A gateway whose certificate says what it likes: the authority is its own. */
export async function newGateway(msp: string, institution: string, options: { attribute?: string } = {}): Promise<Gateway> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = (await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])) as webcrypto.CryptoKeyPair;
  const attribute = options.attribute ?? JSON.stringify({ attrs: { 'oncobridge.institution': institution } });
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: '01',
    name: `CN=gw-${randomBytes(4).toString('hex')}, OU=client`,
    notBefore: new Date('2026-01-01T00:00:00Z'),
    notAfter: new Date('2036-01-01T00:00:00Z'),
    keys: keys as unknown as Parameters<typeof x509.X509CertificateGenerator.createSelfSigned>[0]['keys'],
    signingAlgorithm: algorithm,
    extensions: [new x509.Extension(ATTRIBUTES, false, Buffer.from(attribute))],
  });
  const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey));
  return {
    msp,
    institution,
    certificatePem: certificate.toString('pem'),
    key: createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' }),
  };
}

export interface Forged {
  gateway: Gateway;
  name: string;
  args: readonly string[];
  time?: string | { seconds: number; nanos: number };
  /** In the order given; Buffer for bytes that are no text. */
  writes: readonly (readonly [string, string | Buffer | null])[];
  /** The chaincode that is invoked, where it is another. */
  invoked?: string;
  /** The chaincode whose state is written. */
  namespace?: string;
  /** A collection of private data written in the same namespace. */
  collection?: string;
  /** A key's own endorsement policy. */
  keyPolicy?: string;
  /** Whom the endorsers ran it for, where it is another. */
  endorsedFor?: Gateway;
  /** Rewrites the parts once all is put together. */
  spoil?: (parts: { payload: common.Payload; envelope: common.Envelope }) => void;
  sets?: readonly ledger.rwset.NsReadWriteSet[];
}

function sha256(...parts: Uint8Array[]): Buffer {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
}

function identity(gateway: Gateway): Uint8Array {
  const made = new mspProtos.SerializedIdentity();
  made.setMspid(gateway.msp);
  made.setIdBytes(Buffer.from(gateway.certificatePem));
  return made.serializeBinary();
}

function signatureHeader(gateway: Gateway): { bytes: Uint8Array; txId: string } {
  const made = new common.SignatureHeader();
  const nonce = randomBytes(24);
  const creator = identity(gateway);
  made.setCreator(creator);
  made.setNonce(nonce);
  return { bytes: made.serializeBinary(), txId: sha256(nonce, creator).toString('hex') };
}

function chaincodeId(name: string): peer.ChaincodeID {
  const made = new peer.ChaincodeID();
  made.setName(name);
  made.setVersion('1.0');
  return made;
}

/** Field `timestamp` of a channel header, by hand: the type of google-protobuf has no declaration here. */
function timestamp(time: NonNullable<Forged['time']>): Uint8Array {
  const ms = typeof time === 'string' ? new Date(time).getTime() : 0;
  const { seconds, nanos } = typeof time === 'string' ? { seconds: Math.floor(ms / 1000), nanos: (ms % 1000) * 1e6 } : time;
  const content = [0x08, ...varint(seconds), ...(nanos === 0 ? [] : [0x10, ...varint(nanos)])];
  return Buffer.from([0x1a, content.length, ...content]);
}

function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  for (; rest > 0x7fn; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80);
  return [...bytes, Number(rest)];
}

/** A write set of one namespace. */
export function writeSet(
  namespace: string,
  writes: Forged['writes'],
  extra: { keyPolicy?: string; collections?: readonly { name: string; writes: readonly [string, string][] }[] } = {},
): ledger.rwset.NsReadWriteSet {
  const set = new ledger.rwset.NsReadWriteSet();
  set.setNamespace(namespace);
  const keys = new kvrwset.KVRWSet();
  for (const [key, value] of writes) {
    const write = new kvrwset.KVWrite();
    write.setKey(key);
    write.setIsDelete(value === null);
    if (value !== null) write.setValue(Buffer.from(value as string));
    keys.addWrites(write);
  }
  if (extra.keyPolicy !== undefined) {
    const policy = new kvrwset.KVMetadataWrite();
    policy.setKey(extra.keyPolicy);
    keys.addMetadataWrites(policy);
  }
  set.setRwset(keys.serializeBinary());
  for (const { name, writes: hashed } of extra.collections ?? []) {
    const collection = new ledger.rwset.CollectionHashedReadWriteSet();
    collection.setCollectionName(name);
    const rwset = new kvrwset.HashedRWSet();
    for (const [key, value] of hashed) {
      const write = new kvrwset.KVWriteHash();
      write.setKeyHash(sha256(Buffer.from(key)));
      write.setValueHash(sha256(Buffer.from(value, 'latin1')));
      rwset.addHashedWrites(write);
    }
    collection.setHashedRwset(rwset.serializeBinary());
    set.addCollectionHashedRwset(collection);
  }
  return set;
}

/** The bytes of one transaction, as they stand in a block. */
export function makeEnvelope(forged: Forged): Uint8Array {
  const { gateway, invoked = CHAINCODE, namespace = CHAINCODE } = forged;
  const { bytes: outer, txId } = signatureHeader(gateway);
  const inner = forged.endorsedFor === undefined ? outer : signatureHeader(forged.endorsedFor).bytes;

  const channel = new common.ChannelHeader();
  channel.setType(common.HeaderType.ENDORSER_TRANSACTION);
  channel.setChannelId('oncobridge');
  channel.setTxId(txId);
  const extension = new peer.ChaincodeHeaderExtension();
  extension.setChaincodeId(chaincodeId(invoked));
  channel.setExtension$(extension.serializeBinary());

  const channelHeader = Buffer.concat([channel.serializeBinary(), timestamp(forged.time ?? '2026-11-23T10:00:00.000Z')]);

  const input = new peer.ChaincodeInput();
  input.setArgsList([forged.name, ...forged.args].map((text) => Buffer.from(text)));
  const spec = new peer.ChaincodeSpec();
  spec.setChaincodeId(chaincodeId(invoked));
  spec.setInput(input);
  const invocation = new peer.ChaincodeInvocationSpec();
  invocation.setChaincodeSpec(spec);
  const proposal = new peer.ChaincodeProposalPayload();
  proposal.setInput(invocation.serializeBinary());

  const sets = new ledger.rwset.TxReadWriteSet();
  const set = writeSet(namespace, forged.writes, {
    ...(forged.keyPolicy === undefined ? {} : { keyPolicy: forged.keyPolicy }),
    collections: forged.collection === undefined ? [] : [{ name: forged.collection, writes: [['k', 'v']] }],
  });
  sets.setNsRwsetList([set, ...(forged.sets ?? [])]);
  const effect = new peer.ChaincodeAction();
  effect.setResults(sets.serializeBinary());
  effect.setChaincodeId(chaincodeId(invoked));
  const response = new peer.ProposalResponsePayload();
  response.setProposalHash(sha256(channelHeader, inner, proposal.serializeBinary()));
  response.setExtension$(effect.serializeBinary());
  const endorsed = new peer.ChaincodeEndorsedAction();
  endorsed.setProposalResponsePayload(response.serializeBinary());
  const actionPayload = new peer.ChaincodeActionPayload();
  actionPayload.setChaincodeProposalPayload(proposal.serializeBinary());
  actionPayload.setAction(endorsed);
  const action = new peer.TransactionAction();
  action.setHeader(inner);
  action.setPayload(actionPayload.serializeBinary());
  const transaction = new peer.Transaction();
  transaction.addActions(action);

  const header = new common.Header();
  header.setChannelHeader(channelHeader);
  header.setSignatureHeader(outer);
  const payload = new common.Payload();
  payload.setHeader(header);
  payload.setData(transaction.serializeBinary());
  const envelope = new common.Envelope();
  envelope.setPayload(payload.serializeBinary());
  envelope.setSignature(sign('sha256', envelope.getPayload_asU8(), gateway.key));
  forged.spoil?.({ payload, envelope });
  return envelope.serializeBinary();
}

/** As an orderer configures a channel: nothing of ours. */
export function configEnvelope(): Uint8Array {
  const channel = new common.ChannelHeader();
  channel.setType(common.HeaderType.CONFIG);
  channel.setChannelId('oncobridge');
  const header = new common.Header();
  header.setChannelHeader(channel.serializeBinary());
  const payload = new common.Payload();
  payload.setHeader(header);
  const envelope = new common.Envelope();
  envelope.setPayload(payload.serializeBinary());
  return envelope.serializeBinary();
}

export interface Placed {
  bytes: Uint8Array;
  /** A name of Fabric's validation codes; VALID where none is given. */
  validation?: keyof peer.TxValidationCodeMap;
}

export function makeBlock(number: number, previousHash: string, placed: readonly Placed[]): common.Block {
  const data = new common.BlockData();
  data.setDataList(placed.map(({ bytes }) => bytes));
  const header = new common.BlockHeader();
  header.setNumber(number);
  header.setPreviousHash(Buffer.from(previousHash, 'hex'));
  header.setDataHash(sha256(...placed.map(({ bytes }) => bytes)));
  const metadata = new common.BlockMetadata();
  const codes = placed.map(({ validation = 'VALID' }) => peer.TxValidationCode[validation]);
  metadata.setMetadataList([Buffer.of(), Buffer.of(), Buffer.from(codes)]);
  const block = new common.Block();
  block.setHeader(header);
  block.setData(data);
  block.setMetadata(metadata);
  return block;
}

/** A channel in memory, from its configuration on; `ledger` is what a projection follows. */
export function createChain() {
  const state = new MemoryState();
  const blocks: common.Block[] = [];
  const waiting = new Set<() => void>();

  function append(...placed: Placed[]): FabricBlock {
    const previous = blocks.at(-1);
    const raw = makeBlock(blocks.length, previous === undefined ? '' : decodeBlock(previous, CHAINCODE).hash, placed);
    blocks.push(raw);
    for (const wake of waiting) wake();
    return decodeBlock(raw, CHAINCODE);
  }
  append({ bytes: configEnvelope() });

  return {
    state,
    raw: blocks as readonly common.Block[],
    append,
    /** Runs the contract as honest endorsers do, a block each. */
    async submit(gateway: Gateway, name: string, args: readonly string[], time = new Date().toISOString()): Promise<FabricBlock> {
      const caller = { msp: gateway.msp, institution: gateway.institution };
      const { writes } = await simulate(state, { name, args, caller, time });
      const overlay = new Overlay(state);
      overlay.apply(writes, [blocks.length, 0]);
      state.apply(overlay);
      return append({ bytes: makeEnvelope({ gateway, name, args, time, writes: [...writes] }) });
    },
    ledger: {
      height: async () => blocks.length,
      async *blocks(from, signal) {
        for (let next = from; signal?.aborted !== true; ) {
          const raw = blocks[next];
          if (raw !== undefined) {
            yield decodeBlock(raw, CHAINCODE);
            next++;
            continue;
          }
          await new Promise<void>((resolve) => {
            const wake = (): void => {
              waiting.delete(wake);
              signal?.removeEventListener('abort', wake);
              resolve();
            };
            waiting.add(wake);
            signal?.addEventListener('abort', wake);
            if (signal?.aborted === true) wake();
          });
        }
      },
    } satisfies Pick<Ledger, 'blocks' | 'height'>,
  };
}
