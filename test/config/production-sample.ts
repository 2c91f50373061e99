import 'reflect-metadata';
import { webcrypto } from 'node:crypto';
import * as x509 from '@peculiar/x509';
import { newId } from '../../src/ids.ts';

x509.cryptoProvider.set(webcrypto);

/** A self-signed gateway identity whose attribute names the institution, as Fabric CA writes it. */
export async function gatewayIdentity(institution: string): Promise<{ certificate: string; key: string }> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const attributes = JSON.stringify({ attrs: { 'oncobridge.institution': institution } });
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    name: 'CN=gw-1, OU=client',
    keys,
    signingAlgorithm: algorithm,
    extensions: [new x509.Extension('1.2.3.4.5.6.7.8.1', false, Buffer.from(attributes))],
  });
  const key = x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey), 'PRIVATE KEY');
  return { certificate: certificate.toString('pem'), key };
}

type Variable = 'ONCOBRIDGE_INSTITUTION_ID' | 'FABRIC_MSP' | 'FABRIC_CERTIFICATE' | 'FABRIC_KEY' | 'FABRIC_PEER' | 'FABRIC_PEER_TLS_ROOT';

/** What the ledger of config/production.yaml takes from the environment; no network stands behind it. */
export async function fabricEnvironment(institution: string = newId('inst')): Promise<Record<Variable, string>> {
  const { certificate, key } = await gatewayIdentity(institution);
  return {
    ONCOBRIDGE_INSTITUTION_ID: institution,
    FABRIC_MSP: 'HospitalMSP',
    FABRIC_CERTIFICATE: certificate,
    FABRIC_KEY: key,
    FABRIC_PEER: 'peer.example.org:7051',
    FABRIC_PEER_TLS_ROOT: certificate,
  };
}

/** The production sample on the embedded ledger, for what no network is needed for. */
export function onEmbeddedLedger(sample: string): string {
  const changed = sample.replace(/^ledger:\n(?: +.*\n)+/m, 'ledger: { kind: embedded, anchorEvery: 60s }\n');
  if (changed === sample) throw new Error('the sample has no ledger to replace');
  return changed;
}
