import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { serverOptions } from '../../chaincode/server-options.ts';

const where = ['--address', 'localhost:9999', '--id', 'oncobridge_1:aa'];

test('what a chaincode server must be told, and what it says where it is not', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'oncobridge-chaincode-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const [key, cert, ca] = ['key', 'cert', 'ca'].map((name) => {
    writeFileSync(join(folder, name), name);
    return join(folder, name);
  }) as [string, string, string];

  assert.deepEqual(await serverOptions(where), { ccid: 'oncobridge_1:aa', address: 'localhost:9999' });
  const tls = { key: Buffer.from('key'), cert: Buffer.from('cert') };
  assert.deepEqual((await serverOptions([...where, '--tls-key', key, '--tls-cert', cert])).tlsProps, tls);
  const mutual = await serverOptions([...where, '--tls-key', key, '--tls-cert', cert, '--tls-client-ca', ca]);
  assert.deepEqual(mutual.tlsProps, { ...tls, clientCACerts: Buffer.from('ca') });

  await assert.rejects(serverOptions([]), /--address host:port --id/);
  await assert.rejects(serverOptions(where.slice(0, 2)), /--address host:port --id/);
  // Never without TLS where part of it was asked for.
  await assert.rejects(serverOptions([...where, '--tls-key', key]), /needs a key and a certificate/);
  await assert.rejects(serverOptions([...where, '--tls-client-ca', ca]), /needs a key and a certificate/);
  await assert.rejects(serverOptions([...where, '--tls-key', key, '--tls-cert', join(folder, 'absent')]), /ENOENT/);
  await assert.rejects(serverOptions([...where, '--port', '1']), /--port/);
});
