import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import type { FabricNetwork } from '../../network/network.ts';

/** A dishonest chaincode in the place of this node's, where the peer dials it, until it is put back. */
export async function replaceChaincode(network: FabricNetwork, name: string): Promise<{ back(): Promise<void>; kill(): void }> {
  const pid = (await network.status()).find((node) => node.name === name)?.pid ?? assert.fail(name);
  const line = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0');
  const args = line.slice(line.indexOf('--address'), -1);
  await network.node(name).kill();
  const main = fileURLToPath(new URL('./dishonest-chaincode.ts', import.meta.url));
  const child: ChildProcess = spawn(process.execPath, [main, ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, NODE_NO_WARNINGS: '1' },
  });
  const ended = once(child, 'exit');
  await Promise.race([once(child.stdout ?? assert.fail(), 'data'), ended.then(() => assert.fail(`${name} ended`))]);
  return {
    kill: () => void child.kill('SIGKILL'),
    async back() {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill('SIGKILL');
        await ended;
      }
      await network.node(name).start();
    },
  };
}
