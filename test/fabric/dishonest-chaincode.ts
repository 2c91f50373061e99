import type { ChaincodeInterface, ChaincodeStub } from 'fabric-shim';
import { createChaincode } from '../../chaincode/chaincode.ts';
import { serverOptions } from '../../chaincode/server-options.ts';

/**
 * What an institution could run in the contract's place, on the same peer, under the same package id: it writes what it likes
 * (`forge`), and makes registrars of clinicians. Started with the arguments of chaincode/main.ts.
 */
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

await shim.Shim.server(dishonest, await serverOptions()).start();
process.stdout.write('ready\n');
// With the test that started it.
process.stdin.on('end', () => process.exit(0)).resume();
