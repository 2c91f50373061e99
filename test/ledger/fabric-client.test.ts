import 'reflect-metadata';
import assert from 'node:assert/strict';
import { createPublicKey, generateKeyPairSync, verify, webcrypto } from 'node:crypto';
import { describe, test } from 'node:test';
import * as x509 from '@peculiar/x509';
import { codeOf } from '../../src/errors.ts';
import { callerOf } from '../../src/ledger/fabric/caller.ts';
import {
  commitUnknown,
  endorseFailure,
  evaluateFailure,
  invalidated,
  peerIsSilent,
  submitFailure,
} from '../../src/ledger/fabric/failures.ts';
import { connectPeers } from '../../src/ledger/fabric/peers.ts';
import { createSigner } from '../../src/ledger/fabric/signer.ts';
import { transactionTime } from '../../src/ledger/fabric/transaction-time.ts';

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

describe('signatures of the gateway identity', () => {
  const ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
  test('verify, are the shortest DER, and keep s in the lower half', async () => {
    for (const namedCurve of ['P-256', 'P-384']) {
      const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve });
      const signMessage = createSigner(privateKey.export({ format: 'pem', type: 'pkcs8' }).toString());
      for (let i = 0; i < 200; i++) {
        const message = Buffer.from(`message ${i}`);
        const signature = await signMessage(message);
        // OpenSSL refuses DER that is not minimal.
        assert.ok(verify('sha256', message, publicKey, signature));
        const rLength = signature[3] ?? 0;
        const s = BigInt(`0x${Buffer.from(signature.subarray(6 + rLength)).toString('hex')}`);
        if (namedCurve === 'P-256') assert.ok(s <= ORDER / 2n);
      }
    }
  });
  test('a key of another kind, or none, is refused without being quoted', () => {
    const { privateKey } = generateKeyPairSync('ed25519');
    for (const pem of [privateKey.export({ format: 'pem', type: 'pkcs8' }).toString(), 'secret-words'])
      assert.throws(
        () => createSigner(pem),
        (error: unknown) => codeOf(error) === 'CONFIG_INVALID' && !String(error).includes('secret-words'),
      );
  });
  test('key, certificate and institution must belong together', async () => {
    const privateKeyPem = `-----BEGIN PRIVATE KEY-----\n${Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)).toString('base64')}\n-----END PRIVATE KEY-----`;
    assert.equal(createPublicKey(privateKeyPem).asymmetricKeyType, 'ec');
    const connection = {
      msp: 'Org1MSP',
      institution: 'inst-a',
      channel: 'c',
      chaincode: 'c',
      certificatePem: await certificate(attributes('{"attrs":{"oncobridge.institution":"inst-a"}}')),
      privateKeyPem,
      peers: [],
    };
    const peers = connectPeers(connection);
    assert.equal(codeOf(await peers.query('qscc', 'GetChainInfo', []).catch((error: unknown) => error)), 'LEDGER_UNAVAILABLE');
    peers.close();
    assert.throws(() => connectPeers({ ...connection, institution: 'inst-b' }), /CONFIG_INVALID.*another institution/);
    const other = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'pem', type: 'pkcs8' }).toString();
    assert.throws(() => connectPeers({ ...connection, privateKeyPem: other }), /CONFIG_INVALID.*does not belong/);
  });
});

describe('the failure table', () => {
  const failure = (code: number, message: string, ...details: [mspId: string, message: string][]) =>
    Object.assign(new Error(message), { code, details: details.map(([mspId, text]) => ({ address: 'peer:1', mspId, message: text })) });
  const OWN = 'OwnMSP';

  test('endorse', () => {
    const cases: [string, Error][] = [
      ['LEDGER_REFUSED SEQUENCE_STALE', failure(10, 'failed to endorse', [OWN, 'chaincode response 500, REFUSED SEQUENCE_STALE'])],
      [
        'LEDGER_REFUSED SCHEMA permissions[0].grantee',
        failure(10, 'x', [OWN, 'chaincode response 500, REFUSED SCHEMA permissions[0].grantee']),
      ],
      ['LEDGER_MISMATCH', failure(10, 'failed', ['OtherMSP', 'chaincode response 500, REFUSED SEQUENCE_STALE'])],
      ['LEDGER_MISMATCH', failure(10, 'failed to assemble transaction: ProposalResponsePayloads do not match')],
      [
        'LEDGER_MISMATCH',
        failure(
          10,
          'failed to collect enough transaction endorsements, see attached details for more info',
          [OWN, 'ProposalResponsePayloads do not match'],
          ['ThirdMSP', 'ProposalResponsePayloads do not match'],
        ),
      ],
      ['INTERNAL', failure(10, 'failed', [OWN, 'chaincode response 500, FAILED HOST_RULE'])],
      ['LEDGER_UNAVAILABLE', failure(10, 'failed to collect enough transaction endorsements', ['OtherMSP', 'connection refused'])],
      ['LEDGER_UNAVAILABLE', failure(9, 'no combination of peers can be derived which satisfy the endorsement policy')],
      ['LEDGER_UNAVAILABLE', failure(14, 'ECONNREFUSED')],
      ['LEDGER_UNAVAILABLE', failure(1, 'cancelled')],
      ['LEDGER_UNAVAILABLE', new Error('The client has been closed')],
    ];
    for (const [expected, error] of cases) {
      const coded = endorseFailure(error, OWN);
      assert.equal([coded.code, ...(coded.code === 'LEDGER_REFUSED' ? [coded.detail.diagnostics] : [])].join(' '), expected, error.message);
    }
    assert.equal(
      evaluateFailure(failure(2, 'evaluate call', ['AnyMSP', 'chaincode response 500, REFUSED ARGUMENTS_WRONG'])).code,
      'LEDGER_REFUSED',
    );
    assert.equal(evaluateFailure(failure(2, 'could not launch chaincode')).code, 'LEDGER_UNAVAILABLE');
  });

  test('submit and commit', () => {
    for (const code of [14, 4, 1]) {
      assert.equal(submitFailure(failure(code, 'no orderers could successfully process transaction')).code, 'LEDGER_UNKNOWN');
      assert.equal(commitUnknown(failure(code, 'gone')).code, 'LEDGER_UNKNOWN');
    }
    assert.equal(submitFailure(failure(10, 'x', ['', 'status=SERVICE_UNAVAILABLE, info=no leader'])).code, 'LEDGER_UNKNOWN');
    assert.equal(submitFailure(failure(10, 'x', ['', 'status=FORBIDDEN, info=signature'])).code, 'LEDGER_INVALID');
    assert.deepEqual(
      [11, 12, 10, 9, 200].map((code) => [invalidated(code).code, invalidated(code).detail.diagnostics]),
      [
        ['LEDGER_CONFLICT', 'MVCC_READ_CONFLICT'],
        ['LEDGER_CONFLICT', 'PHANTOM_READ_CONFLICT'],
        ['LEDGER_INVALID', 'ENDORSEMENT_POLICY_FAILURE'],
        ['LEDGER_INVALID', 'DUPLICATE_TXID'],
        ['LEDGER_INVALID', 'CODE_200'],
      ],
    );
  });

  test('only a peer that does not answer is passed over', () => {
    assert.ok(peerIsSilent(failure(14, 'ECONNREFUSED'), true));
    assert.ok(peerIsSilent(failure(4, 'deadline'), true) && !peerIsSilent(failure(4, 'deadline'), false));
    assert.ok(!peerIsSilent(failure(14, 'no orderers could successfully process transaction'), true));
    assert.ok(!peerIsSilent(failure(10, 'x', [OWN, 'chaincode response 500, REFUSED SCHEMA']), true));
  });
});

describe('transactionTime', () => {
  test('is cut to milliseconds, and undefined where it does not compare as text', () => {
    assert.equal(transactionTime({ seconds: 1_795_428_000, nanos: 123_999_999 }), '2026-11-23T10:00:00.123Z');
    for (const timestamp of [undefined, { seconds: -1, nanos: 0 }, { seconds: 253_402_300_800, nanos: 0 }, { seconds: 1e18, nanos: 0 }])
      assert.equal(transactionTime(timestamp), undefined);
  });
});
