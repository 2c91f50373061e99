/**
 * The barest chaincode: puts and gets and nothing else. The bench measures the contract against it, and the tests of the
 * network need no more.
 */
import shim from 'fabric-shim';
import { serverOptions } from '../../chaincode/server-options.ts';

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
  await serverOptions(),
);
await server.start();
