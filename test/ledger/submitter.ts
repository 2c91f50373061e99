import { createPrivateKey, createPublicKey, sign } from 'node:crypto';
import * as build from '../../src/ledger/contract/payloads.ts';
import { createEmbeddedLedger } from '../../src/ledger/embedded/embedded-ledger.ts';
import { createDatabase } from '../../src/store/database.ts';
import { HOME, hex64 } from './world.ts';

/** A process to be killed: submits without end, telling its parent the bytes before it sends them and the receipt after. */
process.once('message', (work: { url: string; tipFile: string; round: number }) => {
  void submitForever(work);
});
process.once('disconnect', () => process.exit(0));

async function submitForever({ url, tipFile, round }: { url: string; tipFile: string; round: number }): Promise<void> {
  const key = createPrivateKey(process.env['KEY'] ?? '');
  const database = createDatabase({ url, maxConnections: 4 });
  const ledger = await createEmbeddedLedger({
    database,
    tipFile,
    institution: HOME,
    msp: `${HOME}-msp`,
    publicKey: createPublicKey(key).export({ format: 'jwk' }),
    sign: async (bytes) => sign('sha256', bytes, { key, dsaEncoding: 'ieee-p1363' }),
    blockDelayMs: 0,
  });
  for (let i = 0; ; i++) {
    const ciphertextHash = hex64(`${round}/${i}`);
    const entry = { ciphertextHash, pointer: `${HOME}/${ciphertextHash}`, commitment: ciphertextHash };
    const facts = {
      category: 'laboratory',
      clinician: null,
      document: `doc-k${round}-${i}`,
      institution: HOME,
      keyVersion: 1,
      patient: 'pat-1',
      permission: null,
      version: 1,
    };
    const endorsed = await ledger.endorse({ name: 'recordDocuments', args: [build.recordDocumentsArgument([{ ...facts, ...entry }])] });
    process.send?.({ txId: endorsed.txId, bytes: Buffer.from(endorsed.bytes).toString('base64') });
    const { txId, block } = await ledger.submit(endorsed.bytes);
    process.send?.({ txId, block });
  }
}
