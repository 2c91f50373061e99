/** `npm run fabric -- up|down|status|logs|upgrade`: the trial network from the command line. */
import { readdir, readFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { print, table } from '../src/cli/run.ts';
import { CodedError } from '../src/errors.ts';
import { isId, newId } from '../src/ids.ts';
import { fabricBinaries } from './binaries.ts';
import { createNetwork, type FabricNetwork, type NetworkEvent, openNetwork } from './network.ts';
import { readTopology } from './record.ts';
import { type InstitutionOption, type Ordering, placesIn } from './topology.ts';

const NOT_RUNNING = 1;
const FAILED = 2;
const NO_NETWORK = 3;
const NO_BINARIES = 69;

interface FolderOption {
  folder: string;
}
interface UpOptions extends FolderOption {
  institution?: InstitutionOption[];
  ordering: Ordering;
  secondPeer?: boolean;
  batchTimeout: number;
  maxMessages: number;
}

const program = new Command('fabric')
  .description('A Hyperledger Fabric network of native processes on this machine, for trying out and for tests')
  .showHelpAfterError()
  .addHelpText(
    'after',
    `
Exit codes: 0 ok, 1 something of the network is down, 2 a step failed, 3 there is no network, 69 Fabric's commands are absent.
Examples:
  $ npm run fabric -- up
  $ npm run fabric -- status --json
  $ npm run fabric -- up --ordering raft3 --second-peer --folder /var/tmp/trial
  $ npm run fabric -- logs peer1.alpha
  $ npm run fabric -- down`,
  );

/** A command on a folder. */
function command(name: string, description: string): Command {
  return program
    .command(name)
    .description(description)
    .addOption(new Option('-f, --folder <folder>', 'where the network lies').default('.oncobridge/fabric').env('ONCOBRIDGE_FABRIC'));
}

command('up', 'bring the network up, or take over what stands and runs of it')
  .option('--institution <name[=id:MSP]>', 'an institution, three of them at least (default: alpha, beta, gamma)', institutionOf)
  .addOption(
    new Option('--ordering <kind>', 'orderers: one, three of raft, or four of BFT').choices(['raft', 'raft3', 'bft']).default('raft'),
  )
  .option('--second-peer', 'a second peer for the first institution')
  .option('--batch-timeout <ms>', 'when a block is cut at the latest', wholeNumber, 100)
  .option('--max-messages <n>', 'transactions in a block', wholeNumber, 100)
  .action(async (options: UpOptions) => {
    const began = Date.now();
    const network = await chosen(options);
    await network.up();
    const nodes = await network.status();
    process.stderr.write(`up in ${((Date.now() - began) / 1000).toFixed(1)} s: ${nodes.length} processes\n`);
    const names = (await readTopology(placesIn(network.folder)))?.institutions ?? [];
    for (const { name } of names) process.stdout.write(`${join(network.folder, name, 'connection.json')}\n`);
  });

command('down', 'end every process of the network and remove its folder')
  .option('--keep-data', 'keep keys, ledgers and logs; `up` goes on from there')
  .action(async (options: FolderOption & { keepData?: boolean }) => {
    const network = await openNetwork(options.folder, progress).catch((error: unknown) => {
      // What is not there is down.
      if (error instanceof CodedError && error.code === 'FABRIC_FOLDER') return undefined;
      throw error;
    });
    if (network === undefined) process.stderr.write('there is no network\n');
    else await network.down({ keepData: options.keepData === true });
  });

command('status', 'what runs, and where')
  .option('--json', 'as JSON')
  .action(async (options: FolderOption & { json?: boolean }) => {
    const nodes = await (await openNetwork(options.folder)).status();
    print(options.json, nodes, () =>
      table(
        ['node', 'state', 'pid', 'address'],
        nodes.map(({ name, state, pid, address }) => [name, state, pid, address]),
      ),
    );
    if (nodes.some(({ state }) => state !== 'up')) process.exitCode = NOT_RUNNING;
  });

command('logs', 'the last lines of one node’s log, or of each')
  .argument('[node]', 'orderer1, peer1.alpha, chaincode.alpha, …')
  .option('-n, --lines <n>', 'lines of each', wholeNumber, 20)
  .action(async (node: string | undefined, options: FolderOption & { lines: number }) => {
    const network = await openNetwork(options.folder);
    const folder = placesIn(network.folder).logs;
    const files = (await readdir(folder)).filter(
      (file) => file.endsWith('.log') && (node === undefined || basename(file, '.log') === node),
    );
    if (files.length === 0) throw new CodedError('FABRIC_FOLDER', { diagnostics: `It has no log of ${node}.` });
    for (const file of files.sort()) {
      const lines = (await readFile(join(folder, file), 'utf8')).trimEnd().split('\n').slice(-options.lines);
      process.stdout.write(`== ${join(folder, file)}\n${lines.join('\n')}\n`);
    }
  });

command('upgrade', 'install the chaincode anew, have all institutions approve it, commit the next sequence; state is kept')
  .option('--chaincode <folder>', 'folder with main.ts (default: the one installed)')
  .option('--label <label>', 'label of the package')
  .action(async (options: FolderOption & { chaincode?: string; label?: string }) => {
    const network = await openNetwork(options.folder, progress);
    const { chaincode, label } = options;
    await network.upgrade({ ...(chaincode !== undefined && { folder: resolve(chaincode) }), ...(label !== undefined && { label }) });
    process.stdout.write(`${await network.packageId()}\n`);
  });

program
  .command('binaries')
  .description("find Fabric's commands, or build them; prints their folder")
  .action(async () => {
    const { peer } = await fabricBinaries({ onProgress: (line) => process.stderr.write(`${line}\n`) });
    process.stdout.write(`${dirname(peer)}\n`);
  });

/** The recorded network where there is one and no other is asked for; else a new one. */
async function chosen(options: UpOptions): Promise<FabricNetwork> {
  const recorded = await readTopology(placesIn(resolve(options.folder)));
  const asked = options.institution ?? recorded?.institutions.map(({ name, institution, msp }) => ({ name, institution, msp }));
  const institutions = asked ?? ['alpha', 'beta', 'gamma'].map((name) => institutionOf(name, [])).flat();
  const given = process.argv.some((one) => /^--(institution|ordering|second-peer|batch-timeout|max-messages)/.test(one));
  if (recorded !== undefined && !given) return await openNetwork(options.folder, progress);
  return await createNetwork({
    folder: options.folder,
    institutions: institutions.map((one, i) => ({ ...one, peers: i === 0 && options.secondPeer === true ? 2 : 1 })),
    ordering: options.ordering,
    batchTimeoutMs: options.batchTimeout,
    maxMessages: options.maxMessages,
    onEvent: progress,
  });
}

function institutionOf(text: string, before: InstitutionOption[] = []): InstitutionOption[] {
  const [, name = '', id = newId('inst'), msp = `${name[0]?.toUpperCase()}${name.slice(1)}MSP`] =
    /^([^=:]+)(?:=([^:]+))?(?::(.+))?$/.exec(text) ?? [];
  if (name === '' || !isId('inst', id)) throw new InvalidArgumentError('write name, name=inst-… or name=inst-…:MSP');
  return [...before, { name, institution: id, msp }];
}

function wholeNumber(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('a whole number above 0');
  return value;
}

function progress({ kind, detail }: NetworkEvent): void {
  process.stderr.write(`${kind.padEnd(9)} ${detail}\n`);
}

await program.parseAsync().catch((error: unknown) => {
  if (!(error instanceof CodedError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = error.code === 'FABRIC_MISSING' ? NO_BINARIES : error.code === 'FABRIC_FOLDER' ? NO_NETWORK : FAILED;
});
