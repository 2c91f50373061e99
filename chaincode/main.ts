import type Shim from 'fabric-shim';
import { createChaincode } from './chaincode.ts';
import { serverOptions } from './server-options.ts';

/** The contract as a chaincode server: peers connect to it. See chaincode/README.md. */
async function main(): Promise<void> {
  const options = await serverOptions();
  // Read when the shim is loaded. Below this level it writes the keys and certificates it handles.
  process.env['CORE_CHAINCODE_LOGGING_LEVEL'] = 'ERROR';
  const { default: shim } = await import('fabric-shim');
  quieten(shim);
  const chaincode = createChaincode({ onFault: (fault) => process.stderr.write(`chaincode fault: ${fault}\n`) });
  const server = shim.Shim.server(chaincode, {
    ...options,
    // The contract limits sizes. A peer's connection may be idle for long, and must be found dead all the same.
    'grpc.max_send_message_length': -1,
    'grpc.max_receive_message_length': -1,
    'grpc.keepalive_time_ms': 110_000,
    'grpc.keepalive_timeout_ms': 20_000,
    'grpc.keepalive_permit_without_calls': 1,
  });
  await server.start();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(0));
  process.stdout.write(`chaincode ${options.ccid} at ${options.address}, ${'tlsProps' in options ? 'TLS' : 'no TLS'}\n`);
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

main().catch((error: unknown) => {
  process.stderr.write(`${(error as Error).message}\n`);
  process.exitCode = 1;
});
