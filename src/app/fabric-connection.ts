import { parseDurationMs, type ServerConfig } from '../config/schema.ts';
import { CodedError } from '../errors.ts';
import type { FabricConnection } from '../ledger/fabric/connection.ts';

/** What the configuration says of Fabric, as the client takes it, and the pinned ledger id. BAD_REQUEST where the ledger is another one. */
export function fabricConnection({ ledger, institution }: ServerConfig): { connection: FabricConnection; pinned: string | undefined } {
  if (ledger.kind !== 'fabric')
    throw new CodedError('BAD_REQUEST', { diagnostics: 'The embedded ledger is founded at its first start, and nobody joins it.' });
  // config/load.ts has said it with its line already.
  if (institution.id === undefined)
    throw new CodedError('CONFIG_INVALID', { diagnostics: 'institution.id is required with a Fabric ledger.' });
  const { deadlines } = ledger;
  const connection: FabricConnection = {
    msp: ledger.msp,
    institution: institution.id,
    channel: ledger.channel,
    chaincode: ledger.chaincode,
    certificatePem: ledger.certificate,
    privateKeyPem: ledger.privateKey,
    peers: ledger.peers.map((peer) => ({
      name: peer.name ?? peer.endpoint,
      endpoint: peer.endpoint,
      tlsRootPem: peer.tlsRootCertificate,
      ...(peer.serverName === undefined ? {} : { serverName: peer.serverName }),
      ...(peer.clientCertificate === undefined ? {} : { clientCertificatePem: peer.clientCertificate }),
      ...(peer.clientKey === undefined ? {} : { clientKeyPem: peer.clientKey }),
    })),
    deadlines: {
      evaluateMs: parseDurationMs(deadlines.evaluate),
      endorseMs: parseDurationMs(deadlines.endorse),
      submitMs: parseDurationMs(deadlines.submit),
      commitMs: parseDurationMs(deadlines.commit),
    },
  };
  return { connection, pinned: ledger.id };
}
