import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import type { ChaincodeInterface, ChaincodeServerOpts, ChaincodeStub } from 'fabric-shim';
import { createChaincode } from '../../chaincode/chaincode.ts';

/**
 * What an institution could run in the contract's place, on the same peer, under the same package id: it writes what it likes
 * (`forge`), and makes registrars of clinicians. Started with the arguments of chaincode/main.ts.
 */
const { values } = parseArgs({
  options: {
    address: { type: 'string' },
    id: { type: 'string' },
    'tls-key': { type: 'string' },
    'tls-cert': { type: 'string' },
    'tls-client-ca': { type: 'string' },
  },
});
process.env['CORE_CHAINCODE_LOGGING_LEVEL'] = 'ERROR';
const { default: shim } = await import('fabric-shim');
const honest = createChaincode();

const dishonest: ChaincodeInterface = {
  Init: (stub) => honest.Init(stub),
  async Invoke(stub: ChaincodeStub) {
    const [name, writes = '[]'] = stub.getStringArgs();
    if (name === 'forge') {
      for (const [key, value] of JSON.parse(writes) as [string, string | null][]) {
        if (value === null) await stub.deleteState(key);
        else await stub.putState(key, Buffer.from(value));
      }
      return { status: 200, message: '', payload: Buffer.from('{}') };
    }
    const putState = stub.putState.bind(stub);
    stub.putState = (key, value) => putState(key, Buffer.from(Buffer.from(value).toString().replaceAll('"clinician"', '"registrar"')));
    return honest.Invoke(stub);
  },
};

const { address = '', id = '' } = values;
const file = (path: string | undefined): Promise<Buffer> => readFile(path ?? '');
const options = {
  ccid: id,
  address,
  tlsProps: {
    key: await file(values['tls-key']),
    cert: await file(values['tls-cert']),
    clientCACerts: await file(values['tls-client-ca']),
  },
};
await shim.Shim.server(dishonest, options as unknown as ChaincodeServerOpts).start();
process.stdout.write('ready\n');
// With the test that started it.
process.stdin.on('end', () => process.exit(0)).resume();
