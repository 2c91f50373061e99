import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import type { ChaincodeServerOpts } from 'fabric-shim';

/** How every chaincode server of this tree is started. */
export const USAGE = `node <folder>/main.ts --address host:port --id <package id> [--tls-key file --tls-cert file [--tls-client-ca file]]`;

/** What the shim's server takes, from the command line; its declared type demands TLS, its code does not. Throws an Error with the usage. */
export async function serverOptions(args?: string[]): Promise<ChaincodeServerOpts> {
  const { values } = parseArgs({
    ...(args === undefined ? {} : { args }),
    options: {
      address: { type: 'string' },
      id: { type: 'string' },
      'tls-key': { type: 'string' },
      'tls-cert': { type: 'string' },
      'tls-client-ca': { type: 'string' },
    },
  });
  const { address, id, 'tls-key': key, 'tls-cert': cert, 'tls-client-ca': clientCa } = values;
  if (address === undefined || id === undefined) throw new Error(USAGE);
  const options = { ccid: id, address };
  if (key === undefined && cert === undefined && clientCa === undefined) return options as ChaincodeServerOpts;
  if (key === undefined || cert === undefined) throw new Error(`TLS needs a key and a certificate.\n${USAGE}`);
  const tlsProps = {
    key: await readFile(key),
    cert: await readFile(cert),
    ...(clientCa === undefined ? {} : { clientCACerts: await readFile(clientCa) }),
  };
  return { ...options, tlsProps } as ChaincodeServerOpts;
}
