import { common, gateway, msp, peer } from '@hyperledger/fabric-protos';
import { readCreator } from './creator.ts';

/** What stands in the signed bytes that were journaled. */
export interface Submission {
  txId: string;
  channel: string;
  result: string;
  /** Whether the creator that it names has signed it: bytes from before a renewal carry the older certificate. */
  signed: boolean;
}

/** Reads what `endorse` handed out; undefined where the bytes are nothing of the kind. */
export function readSubmission(bytes: Uint8Array): Submission | undefined {
  try {
    const prepared = gateway.PreparedTransaction.deserializeBinary(bytes);
    const envelope = prepared.getEnvelope();
    if (envelope === undefined) return undefined;
    const header = common.Payload.deserializeBinary(envelope.getPayload_asU8()).getHeader();
    if (header === undefined) return undefined;
    const channelHeader = common.ChannelHeader.deserializeBinary(header.getChannelHeader_asU8());
    const creator = common.SignatureHeader.deserializeBinary(header.getSignatureHeader_asU8()).getCreator_asU8();
    const signed = readCreator(msp.SerializedIdentity.deserializeBinary(creator)).verify(
      envelope.getPayload_asU8(),
      envelope.getSignature_asU8(),
    );
    return { txId: channelHeader.getTxId(), channel: channelHeader.getChannelId(), result: resultOf(envelope), signed };
  } catch {
    return undefined;
  }
}

/** The contract's result, as the endorsers signed it into the transaction. */
export function resultOf(envelope: common.Envelope): string {
  const payload = common.Payload.deserializeBinary(envelope.getPayload_asU8());
  const [action] = peer.Transaction.deserializeBinary(payload.getData_asU8()).getActionsList();
  const endorsed = peer.ChaincodeActionPayload.deserializeBinary(action?.getPayload_asU8() ?? new Uint8Array()).getAction();
  const response = peer.ProposalResponsePayload.deserializeBinary(endorsed?.getProposalResponsePayload_asU8() ?? new Uint8Array());
  const effect = peer.ChaincodeAction.deserializeBinary(response.getExtension_asU8());
  return Buffer.from(effect.getResponse()?.getPayload_asU8() ?? new Uint8Array()).toString();
}

/** A request for a transaction's commit status by its id alone, as the gateway client takes it. */
export function commitRequest(channel: string, txId: string, mspId: string, certificatePem: string): Uint8Array {
  const identity = new msp.SerializedIdentity();
  identity.setMspid(mspId);
  identity.setIdBytes(Buffer.from(certificatePem));
  const request = new gateway.CommitStatusRequest();
  request.setChannelId(channel);
  request.setTransactionId(txId);
  request.setIdentity(identity.serializeBinary());
  const signed = new gateway.SignedCommitStatusRequest();
  signed.setRequest(request.serializeBinary());
  return signed.serializeBinary();
}

/** The same proposal with another time: the gateway client knows no clock but the machine's. */
export function atTime(proposal: Uint8Array, time: Date): Uint8Array {
  const proposed = gateway.ProposedTransaction.deserializeBinary(proposal);
  const signed = proposed.getProposal() ?? new peer.SignedProposal();
  const inner = peer.Proposal.deserializeBinary(signed.getProposalBytes_asU8());
  const header = common.Header.deserializeBinary(inner.getHeader_asU8());
  const channelHeader = common.ChannelHeader.deserializeBinary(header.getChannelHeader_asU8());
  channelHeader.getTimestamp()?.fromDate(time);
  header.setChannelHeader(channelHeader.serializeBinary());
  inner.setHeader(header.serializeBinary());
  signed.setProposalBytes(inner.serializeBinary());
  signed.setSignature(new Uint8Array());
  proposed.setProposal(signed);
  return proposed.serializeBinary();
}
