import { createPrivateKey, X509Certificate } from 'node:crypto';
import { callerOf } from '../ledger/fabric/caller.ts';
import type { ServerConfig } from './schema.ts';

type Found = { path: readonly PropertyKey[]; message: string };

/**
 * What an identity on Fabric needs that no schema can say: the institution's id, which the certificate must name too, and keys
 * that belong to their certificates. Days left are not looked at here (an expired certificate must not keep the view from being
 * read): `oncobridge doctor ledger` does.
 */
export function checkFabric(server: ServerConfig): Found[] {
  const { ledger, institution } = server;
  if (ledger.kind !== 'fabric') return [];
  const found: Found[] = [];
  if (institution.id === undefined)
    found.push({
      path: ['institution', 'id'],
      message: 'required with a Fabric ledger, for the certificate names it; `oncobridge config institution-id` makes one',
    });
  found.push(...checkPair(['ledger', 'certificate'], ledger.certificate, ['ledger', 'privateKey'], ledger.privateKey));
  if (found.length === 0) {
    const named = callerOf(ledger.msp, ledger.certificate).institution;
    if (named !== institution.id)
      found.push({
        path: ['ledger', 'certificate'],
        message:
          named === ''
            ? 'has no attribute oncobridge.institution: register the identity with --id.attrs "oncobridge.institution=<institution.id>:ecert"'
            : `its attribute oncobridge.institution is ${named}, not institution.id`,
      });
  }
  for (const [n, peer] of ledger.peers.entries()) {
    const at = (key: string): readonly PropertyKey[] => ['ledger', 'peers', n, key];
    if (certificateOf(peer.tlsRootCertificate) === undefined) found.push({ path: at('tlsRootCertificate'), message: NOT_A_CERTIFICATE });
    if ((peer.clientCertificate === undefined) !== (peer.clientKey === undefined))
      found.push({ path: ['ledger', 'peers', n], message: 'clientCertificate and clientKey belong together' });
    else if (peer.clientCertificate !== undefined && peer.clientKey !== undefined)
      found.push(...checkPair(at('clientCertificate'), peer.clientCertificate, at('clientKey'), peer.clientKey));
  }
  return found;
}

const NOT_A_CERTIFICATE = 'cannot be read as a certificate';

/** Says nothing of what the key's text is. */
function checkPair(certificateAt: readonly PropertyKey[], certificate: string, keyAt: readonly PropertyKey[], key: string): Found[] {
  const parsed = certificateOf(certificate);
  if (parsed === undefined) return [{ path: certificateAt, message: NOT_A_CERTIFICATE }];
  try {
    const privateKey = createPrivateKey(key);
    return parsed.checkPrivateKey(privateKey) ? [] : [{ path: keyAt, message: `does not belong to ${String(certificateAt.at(-1))}` }];
  } catch {
    return [{ path: keyAt, message: 'cannot be read as a private key in PEM' }];
  }
}

/** What stands for a certificate where values are printed. */
export function describeCertificate(pem: string): string {
  const certificate = certificateOf(pem);
  if (certificate === undefined) return '(certificate)';
  return `(certificate of ${certificate.subject.replaceAll('\n', ', ')}, to ${certificate.validToDate.toISOString().slice(0, 10)})`;
}

function certificateOf(pem: string): X509Certificate | undefined {
  try {
    return new X509Certificate(pem);
  } catch {
    return undefined;
  }
}
