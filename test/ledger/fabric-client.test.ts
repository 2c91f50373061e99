import 'reflect-metadata';
import assert from 'node:assert/strict';
import { webcrypto } from 'node:crypto';
import { describe, test } from 'node:test';
import * as x509 from '@peculiar/x509';
import { callerOf } from '../../src/ledger/fabric/caller.ts';

x509.cryptoProvider.set(webcrypto);
const ATTRIBUTES = '1.2.3.4.5.6.7.8.1';
const keys = await webcrypto.subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, true, ['sign', 'verify']);

async function certificate(...extensions: x509.Extension[]): Promise<string> {
  const made = await x509.X509CertificateGenerator.createSelfSigned({
    name: 'CN=gw-1, OU=client',
    keys,
    signingAlgorithm: { name: 'ECDSA', hash: 'SHA-256' },
    extensions: [new x509.BasicConstraintsExtension(false), ...extensions],
  });
  return made.toString('pem');
}
const attributes = (text: string, critical = false) => new x509.Extension(ATTRIBUTES, critical, Buffer.from(text));

describe('callerOf', () => {
  test('takes the institution from the attribute of the certificate', async () => {
    for (const critical of [false, true]) {
      const pem = await certificate(attributes('{"attrs":{"hf.Type":"client","oncobridge.institution":"inst-abc"}}', critical));
      assert.deepEqual(callerOf('Org1MSP', pem), { msp: 'Org1MSP', institution: 'inst-abc' });
    }
    const long = await certificate(
      attributes(JSON.stringify({ attrs: { padding: 'x'.repeat(70_000), 'oncobridge.institution': 'inst-b' } })),
    );
    assert.equal(callerOf('Org1MSP', long).institution, 'inst-b');
  });

  test('a certificate that names none, or more than one, names nobody', async () => {
    const nobody = [
      await certificate(),
      await certificate(attributes('{"attrs":{"role":"inst-abc"}}')),
      await certificate(attributes('{"attrs":{"oncobridge.institution":7}}')),
      await certificate(attributes('{"attrs":null}')),
      await certificate(attributes('null')),
      await certificate(attributes('not json')),
      await certificate(new x509.Extension('1.2.3.4.5.6.7.8.2', false, Buffer.from('{"attrs":{"oncobridge.institution":"inst-abc"}}'))),
      await certificate(
        attributes('{"attrs":{"oncobridge.institution":"inst-a"}}'),
        attributes('{"attrs":{"oncobridge.institution":"inst-b"}}'),
      ),
      '',
      'no certificate',
    ];
    for (const pem of nobody) assert.deepEqual(callerOf('Org1MSP', pem), { msp: 'Org1MSP', institution: '' });
  });
});
