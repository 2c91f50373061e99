import { createPrivateKey, randomBytes, webcrypto } from 'node:crypto';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
// The certificate library's injection needs it, and before itself.
import 'reflect-metadata';
import * as x509 from '@peculiar/x509';
import { domainOf, type Institution, type Places } from './topology.ts';

/** Fabric CA's extension of attributes: JSON, bare in the octet string. */
const ATTRIBUTES_OID = '1.2.3.4.5.6.7.8.1';
const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const YEAR_MS = 365 * 86_400_000;

export interface IssuedIdentity {
  certificatePem: string;
  privateKeyPem: string;
}

/**
 * The gateway identity of an institution, issued by its organisation's own authority as fabric-ca would: OU client, an opaque
 * name, the institution's id as an attribute. Made once and kept.
 */
export async function gatewayIdentity(places: Places, institution: Institution): Promise<IssuedIdentity> {
  const folder = join(places.institution(institution.name), 'gateway');
  return await keep(folder, async () => {
    const authority = await readAuthority(join(places.organisation(institution.name), 'ca'), `ca.${domainOf(institution.name)}-cert.pem`);
    return await issue(authority, {
      // Says nothing about who it is: certificates stand in every block.
      subject: `CN=gw-${randomBytes(10).toString('hex')},OU=client`,
      extensions: [
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.Extension(
          ATTRIBUTES_OID,
          false,
          new TextEncoder().encode(JSON.stringify({ attrs: { 'oncobridge.institution': institution.institution } })),
        ),
      ],
    });
  });
}

/** Files of the TLS identity of a peer's chaincode servers. Only that organisation's own nodes get in. */
export function chaincodeTlsFiles(places: Places, institution: string, peer: string): { key: string; cert: string; authority: string } {
  const folder = join(places.node(peer), 'chaincode-tls');
  const authority = join(places.organisation(institution), 'tlsca', `tlsca.${domainOf(institution)}-cert.pem`);
  return { key: join(folder, 'key.pem'), cert: join(folder, 'cert.pem'), authority };
}

/** Makes that identity where there is none, from the organisation's TLS authority. */
export async function makeChaincodeTls(places: Places, institution: string, peer: string): Promise<void> {
  await keep(join(places.node(peer), 'chaincode-tls'), async () => {
    const authority = await readAuthority(join(places.organisation(institution), 'tlsca'), `tlsca.${domainOf(institution)}-cert.pem`);
    return await issue(authority, {
      subject: 'CN=localhost',
      extensions: [
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
        new x509.SubjectAlternativeNameExtension([
          { type: 'dns', value: 'localhost' },
          { type: 'ip', value: '127.0.0.1' },
        ]),
      ],
    });
  });
}

interface Authority {
  certificate: x509.X509Certificate;
  key: webcrypto.CryptoKey;
}

async function readAuthority(folder: string, certificate: string): Promise<Authority> {
  const key = createPrivateKey(await readFile(join(folder, 'priv_sk'), 'utf8')).export({ type: 'pkcs8', format: 'der' });
  return {
    certificate: new x509.X509Certificate(await readFile(join(folder, certificate), 'utf8')),
    key: await webcrypto.subtle.importKey('pkcs8', key, ALGORITHM, false, ['sign']),
  };
}

async function issue(authority: Authority, wish: { subject: string; extensions: x509.Extension[] }): Promise<IssuedIdentity> {
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const now = Date.now();
  const certificate = await x509.X509CertificateGenerator.create({
    // Positive by RFC 5280 section 4.1.2.2: the first bit is clear.
    serialNumber: Buffer.concat([Buffer.from([0x40]), randomBytes(15)]).toString('hex'),
    subject: wish.subject,
    issuer: authority.certificate.subject,
    notBefore: new Date(Math.max(now - 5 * 60_000, authority.certificate.notBefore.getTime())),
    notAfter: new Date(Math.min(now + YEAR_MS, authority.certificate.notAfter.getTime())),
    publicKey: keys.publicKey,
    signingKey: authority.key,
    signingAlgorithm: ALGORITHM,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      await x509.AuthorityKeyIdentifierExtension.create(authority.certificate),
      ...wish.extensions,
    ],
  });
  const key = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey));
  return {
    certificatePem: `${certificate.toString('pem')}\n`,
    privateKeyPem: createPrivateKey({ key, format: 'der', type: 'pkcs8' }).export({ type: 'pkcs8', format: 'pem' }) as string,
  };
}

/** Reads the pair that lies in `folder`, or makes it there; the folder appears whole or not at all. */
async function keep(folder: string, make: () => Promise<IssuedIdentity>): Promise<IssuedIdentity> {
  const read = async (): Promise<IssuedIdentity> => ({
    certificatePem: await readFile(join(folder, 'cert.pem'), 'utf8'),
    privateKeyPem: await readFile(join(folder, 'key.pem'), 'utf8'),
  });
  try {
    return await read();
  } catch {
    const made = await make();
    const half = `${folder}.new`;
    await rm(half, { recursive: true, force: true });
    await rm(folder, { recursive: true, force: true });
    await mkdir(dirname(folder), { recursive: true });
    await mkdir(half, { mode: 0o700 });
    await writeFile(join(half, 'cert.pem'), made.certificatePem);
    await writeFile(join(half, 'key.pem'), made.privateKeyPem, { mode: 0o600 });
    await rename(half, folder);
    return made;
  }
}
