import assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fabricBinaries } from '../../network/binaries.ts';
import { packageChaincode } from '../../network/chaincode-package.ts';
import { CodedError } from '../../src/errors.ts';

const scratch = await mkdtemp(join(tmpdir(), 'oncobridge-binaries-'));
after(() => rm(scratch, { recursive: true, force: true }));
const COMMANDS = ['configtxgen', 'cryptogen', 'orderer', 'osnadmin', 'peer'];

/** A `go` that builds nothing slowly: it notes that it ran and puts down what the real one would. */
async function pretendGo(name: string, build: string): Promise<{ env: NodeJS.ProcessEnv; runs: () => Promise<number>; cache: string }> {
  const folder = join(scratch, name);
  const cache = join(folder, 'cache');
  await mkdir(folder);
  const go = join(folder, 'go');
  await writeFile(go, `#!/bin/sh\nif [ "$1" = env ]; then echo go1.26.0; exit 0; fi\necho run >> ${folder}/runs\n${build}\n`);
  await chmod(go, 0o755);
  const runs = async (): Promise<number> => (await readFile(join(folder, 'runs'), 'utf8').catch(() => '')).split('\n').length - 1;
  return { env: { PATH: `${folder}:/usr/bin:/bin`, ONCOBRIDGE_CACHE: cache }, runs, cache };
}
const MAKE = 'sleep 0.3; for c in peer orderer configtxgen cryptogen osnadmin; do echo "#!/bin/sh" > $GOBIN/$c; chmod 755 $GOBIN/$c; done';

const failsWith = (code: string, text: RegExp) => (error: unknown) =>
  error instanceof CodedError && error.code === code && text.test(error.message);

test('built once, also where two ask for it at once, and found again', async () => {
  const { env, runs, cache } = await pretendGo('both', MAKE);
  const said: string[] = [];
  const onProgress = (line: string): void => void said.push(line);
  const [one, other] = await Promise.all([fabricBinaries({ env, onProgress }), fabricBinaries({ env, onProgress })]);
  assert.deepEqual(one, other);
  // Whichever came first builds; the other waits for it, where it came early enough.
  assert.equal(said.filter((line) => line.startsWith('Building')).length, 1, said.join('; '));
  const found = await fabricBinaries({ env, onProgress: () => assert.fail('nothing is left to build') });
  assert.deepEqual(found, one);
  assert.equal(await runs(), 1);
  const [folder, ...others] = await readdir(cache);
  assert.match(folder ?? '', /^fabric-[0-9a-f]{16}$/);
  assert.deepEqual(others, []);
  assert.deepEqual((await readdir(join(cache, folder ?? ''))).sort(), COMMANDS);

  // A folder that lost a file is not believed.
  await rm(found.peer);
  assert.deepEqual(await fabricBinaries({ env }), one);
  assert.equal(await runs(), 2);
});

test('a build that fails leaves nothing and says what Go said', async () => {
  const { env, cache } = await pretendGo('fails', 'echo "dial tcp: no route" >&2; exit 1');
  await assert.rejects(fabricBinaries({ env }), failsWith('FABRIC_BUILD', /no route/));
  assert.deepEqual(await readdir(cache), []);
});

test('neither Go nor ready commands: what to install', async () => {
  const env = { PATH: '/nowhere', ONCOBRIDGE_CACHE: join(scratch, 'none') };
  await assert.rejects(fabricBinaries({ env, goFolders: [] }), failsWith('FABRIC_MISSING', /Install Go 1\.24 .* FABRIC_BIN/));
});

test('FABRIC_BIN is used as it is, and not replaced by a build where something lacks', async () => {
  const { env, runs } = await pretendGo('ready', MAKE);
  const folder = join(scratch, 'ready-commands');
  await mkdir(folder);
  for (const name of COMMANDS) {
    await assert.rejects(
      fabricBinaries({ env: { ...env, FABRIC_BIN: folder } }),
      failsWith('FABRIC_MISSING', new RegExp(`lacks: .*${name}`)),
    );
    await writeFile(join(folder, name), '#!/bin/sh\n');
    await chmod(join(folder, name), 0o755);
  }
  assert.equal((await fabricBinaries({ env: { ...env, FABRIC_BIN: folder } })).peer, join(folder, 'peer'));
  assert.equal(await runs(), 0);
});

test('a package is named by its sources, imported ones included, and by nothing else', async () => {
  const folder = join(scratch, 'chaincode');
  await mkdir(join(folder, 'rules'), { recursive: true });
  await writeFile(join(folder, 'main.ts'), "import { rule } from './rules/rule.ts';\nrule();\n");
  await writeFile(join(folder, 'rules', 'rule.ts'), 'export const rule = () => 1;\n');
  await writeFile(join(folder, 'aside.ts'), 'export const unused = 1;\n');
  const { id } = await packageChaincode(folder, 'one_1');
  assert.match(id, /^one_1:[0-9a-f]{64}$/);
  await writeFile(join(folder, 'aside.ts'), 'export const unused = 2;\n');
  assert.equal((await packageChaincode(folder, 'one_1')).id, id);
  assert.notEqual((await packageChaincode(folder, 'one_2')).id.slice(-64), id.slice(-64));
  await writeFile(join(folder, 'rules', 'rule.ts'), 'export const rule = () => 2;\n');
  assert.notEqual((await packageChaincode(folder, 'one_1')).id, id);
});
