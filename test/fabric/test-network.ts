import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { canHaveBinaries } from '../../network/binaries.ts';
import { createNetwork, type FabricNetwork, type NetworkOptions, openNetwork } from '../../network/network.ts';
import { newId } from '../../src/ids.ts';
import { isAlive } from '../../src/store/process-alive.ts';

/** Three institutions, the first of them ours in most tests. */
export interface TestNetwork extends FabricNetwork {
  institutions: readonly { name: string; institution: string; msp: string; peers: 1 | 2 }[];
}

export type TestNetworkOptions = Partial<Omit<NetworkOptions, 'folder' | 'institutions'>> & {
  /** Peers of the first institution. */
  firstPeers?: 1 | 2;
  /** Default `alpha`, `beta`, `gamma` with new ids. */
  institutions?: TestNetwork['institutions'];
};

const present = await canHaveBinaries();
const SKIPPED = "SKIPPED: neither Fabric's commands nor Go to build them; Fabric is NOT tested. REQUIRE_FABRIC=1 makes this fail.";
let guarded = false;
const PREFIX = 'oncobridge-fabric-';
const folders = new Set<string>();
let swept: Promise<void> | undefined;

/** Options of every test that needs a network: `test('…', fabricTest(), async () => …)`. Skips loudly; fails under REQUIRE_FABRIC=1. */
export function fabricTest(): { skip?: string } {
  if (present) return {};
  if (!guarded) {
    guarded = true;
    test("Fabric's commands are there where they are required", () => assert.notEqual(process.env['REQUIRE_FABRIC'], '1', SKIPPED));
  }
  return { skip: SKIPPED };
}

/**
 * A Fabric network from nothing, of its own, up: three institutions `alpha`, `beta`, `gamma` with a peer each and one
 * orderer. Taken down, folder and all, at the end of the test process at the latest.
 */
export async function withTestNetwork(options: TestNetworkOptions = {}): Promise<TestNetwork> {
  const { firstPeers = 1, ...rest } = options;
  const institutions =
    options.institutions ??
    ['alpha', 'beta', 'gamma'].map((name, i) => ({
      name,
      institution: newId('inst'),
      msp: `${name}MSP`,
      peers: i === 0 ? firstPeers : (1 as const),
    }));
  const network = await createNetwork({ ...rest, folder: await networkFolder(), institutions });
  await network.up();
  return { ...network, institutions };
}

/** A folder for a network of one's own, which is taken down and removed at the end of the test process. */
export async function networkFolder(): Promise<string> {
  await (swept ??= sweep());
  const folder = await mkdtemp(join(tmpdir(), `${PREFIX}${process.pid}-`));
  folders.add(folder);
  return folder;
}

/** Networks outlive their starter, so those of test processes that were killed are taken down by the next. */
async function sweep(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    const pid = name.startsWith(PREFIX) ? Number(name.slice(PREFIX.length).split('-')[0]) : 0;
    if (pid > 0 && !isAlive(pid)) await remove(join(tmpdir(), name)).catch(() => {});
  }
}

async function remove(folder: string): Promise<void> {
  await openNetwork(folder).then(
    (network) => network.down(),
    () => {},
  );
  await rm(folder, { recursive: true, force: true });
}

after(async () => {
  for (const folder of folders) await remove(folder);
});
