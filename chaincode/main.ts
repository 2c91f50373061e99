import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import type Shim from 'fabric-shim';
import type { ChaincodeServerOpts } from 'fabric-shim';
import { createChaincode } from './chaincode.ts';

const USAGE = `node chaincode/main.ts --address host:port --id <package id> [--tls-key file --tls-cert file [--tls-client-ca file]]`;

/** The contract as a chaincode server: peers connect to it. See chaincode/README.md. */
async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      address: { type: 'string' },
      id: { type: 'string' },
      'tls-key': { type: 'string' },
      'tls-cert': { type: 'string' },
      'tls-client-ca': { type: 'string' },
    },
  });
  const { address, id } = values;
  if (address === undefined || id === undefined) throw new Error(USAGE);
  const tls = await tlsFiles(values['tls-key'], values['tls-cert'], values['tls-client-ca']);

  // Read when the shim is loaded. Below this level it writes the keys and certificates it handles.
  process.env['CORE_CHAINCODE_LOGGING_LEVEL'] = 'ERROR';
  const { default: shim } = await import('fabric-shim');
  quieten(shim);
  const chaincode = createChaincode({ onFault: (fault) => process.stderr.write(`chaincode fault: ${fault}\n`) });
  const options = {
    ccid: id,
    address,
    ...tls,
    // The contract limits sizes. A peer's connection may be idle for long, and must be found dead all the same.
    'grpc.max_send_message_length': -1,
    'grpc.max_receive_message_length': -1,
    'grpc.keepalive_time_ms': 110_000,
    'grpc.keepalive_timeout_ms': 20_000,
    'grpc.keepalive_permit_without_calls': 1,
  };
  // Its declared type demands TLS, its code does not.
  await shim.Shim.server(chaincode, options as ChaincodeServerOpts).start();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(0));
  process.stdout.write(`chaincode ${id} at ${address}, ${'tlsProps' in tls ? 'TLS' : 'no TLS'}\n`);
}

/**
 * The shim formats what it would say at every message, with colours and the time, before the level throws it away: a fifth of the
 * server's CPU. Its loggers are kept by name, so these are the very ones that it uses.
 */
function quieten(shim: typeof Shim): void {
  for (const name of ['lib/handler.js', 'lib/stub.js', 'lib/iterators.js']) {
    const logger = shim.Shim.newLogger(name);
    const nothing = () => logger;
    Object.assign(logger, { debug: nothing, info: nothing });
  }
}

async function tlsFiles(key: string | undefined, cert: string | undefined, clientCa: string | undefined): Promise<object> {
  if (key === undefined && cert === undefined && clientCa === undefined) return {};
  if (key === undefined || cert === undefined) throw new Error(`TLS needs a key and a certificate.\n${USAGE}`);
  const tlsProps = {
    key: await readFile(key),
    cert: await readFile(cert),
    ...(clientCa === undefined ? {} : { clientCACerts: await readFile(clientCa) }),
  };
  return { tlsProps };
}

main().catch((error: unknown) => {
  process.stderr.write(`${(error as Error).message}\n`);
  process.exitCode = 1;
});
