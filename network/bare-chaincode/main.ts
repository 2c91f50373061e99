/**
 * The barest chaincode: puts and gets and nothing else. The bench measures the contract against it, and the tests of the
 * network need no more.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import shim from 'fabric-shim';

const { values } = parseArgs({
  options: {
    address: { type: 'string' },
    id: { type: 'string' },
    'tls-key': { type: 'string' },
    'tls-cert': { type: 'string' },
    'tls-client-ca': { type: 'string' },
  },
});
const file = (path: string | undefined): Buffer => readFileSync(path ?? '');

type Stub = Parameters<Parameters<typeof shim.Shim.server>[0]['Invoke']>[0];

async function invoke(stub: Stub): Promise<Uint8Array> {
  const { fcn, params } = stub.getFunctionAndParameters();
  const [first = '', second = ''] = params;
  switch (fcn) {
    case 'put':
      await stub.putState(first, Buffer.from(second));
      return Buffer.alloc(0);
    case 'putMany':
      for (const [key, value] of Object.entries(JSON.parse(first) as Record<string, string>)) await stub.putState(key, Buffer.from(value));
      return Buffer.alloc(0);
    case 'get':
      return await stub.getState(first);
    default:
      throw new Error(`no function ${fcn}`);
  }
}

const server = shim.Shim.server(
  {
    Init: async () => shim.Shim.success(),
    Invoke: async (stub) => {
      try {
        return shim.Shim.success(await invoke(stub));
      } catch (error) {
        return shim.Shim.error(Buffer.from((error as Error).message) as unknown as string);
      }
    },
  },
  {
    ccid: values.id ?? '',
    address: values.address ?? '127.0.0.1:0',
    ...(values['tls-key'] === undefined
      ? { tlsProps: undefined as never }
      : { tlsProps: { key: file(values['tls-key']), cert: file(values['tls-cert']), clientCACerts: file(values['tls-client-ca']) } }),
  },
);
await server.start();
