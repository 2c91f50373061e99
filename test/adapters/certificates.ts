import { createPrivateKey, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';

/** Just enough of X.509 (RFC 5280) to make certificates that are wrong in one way each; no file, no openssl. */
export interface Identity {
  key: string;
  cert: string;
}

export interface CertificateWish {
  commonName: string;
  issuer?: { commonName: string; key: string };
  authority?: boolean;
  /** dNSName, or iPAddress where it is one. */
  subjectAltName?: string;
  notBefore?: string;
  notAfter?: string;
}

const der = (tag: number, ...parts: Uint8Array[]): Buffer => {
  const body = Buffer.concat(parts);
  const length = body.length < 128 ? [body.length] : body.length < 256 ? [0x81, body.length] : [0x82, body.length >> 8, body.length & 255];
  return Buffer.concat([Buffer.from([tag, ...length]), body]);
};
const sequence = (...parts: Uint8Array[]): Buffer => der(0x30, ...parts);
const oid = (hex: string): Buffer => der(0x06, Buffer.from(hex, 'hex'));
const name = (commonName: string): Buffer => sequence(der(0x31, sequence(oid('550403'), der(0x0c, Buffer.from(commonName)))));
const time = (iso: string): Buffer => der(0x18, Buffer.from(`${iso.replace(/\D/g, '').slice(0, 14)}Z`));
const ECDSA_SHA256 = sequence(oid('2a8648ce3d040302'));

export function makeCertificate(wish: CertificateWish): Identity {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const signer: KeyObject = wish.issuer ? createPrivateKey(wish.issuer.key) : privateKey;
  const extensions = [
    sequence(oid('551d13'), der(0x01, Buffer.from([255])), der(0x04, sequence(...(wish.authority ? [der(0x01, Buffer.from([255]))] : [])))),
  ];
  if (wish.subjectAltName) {
    const address = /^[\d.]+$/.test(wish.subjectAltName);
    const value = address
      ? der(0x87, Buffer.from(wish.subjectAltName.split('.').map(Number)))
      : der(0x82, Buffer.from(wish.subjectAltName));
    extensions.push(sequence(oid('551d11'), der(0x04, sequence(value))));
  }
  const body = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, Buffer.from([1, ...generateSerial()])),
    ECDSA_SHA256,
    name(wish.issuer?.commonName ?? wish.commonName),
    sequence(time(wish.notBefore ?? '2020-01-01T00:00:00'), time(wish.notAfter ?? '2120-01-01T00:00:00')),
    name(wish.commonName),
    publicKey.export({ type: 'spki', format: 'der' }),
    der(0xa3, sequence(...extensions)),
  );
  const signature = sign('sha256', body, signer);
  const certificate = sequence(body, ECDSA_SHA256, der(0x03, Buffer.from([0]), signature));
  const lines = certificate.toString('base64').match(/.{1,64}/g) ?? [];
  return {
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }) as string,
    cert: `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`,
  };
}

let serial = 0;
function generateSerial(): number[] {
  serial += 1;
  return [serial >> 8, serial & 255];
}
