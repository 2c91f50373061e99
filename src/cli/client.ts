import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { CodedError } from '../errors.ts';
import { print, withOperations } from './run.ts';

export function addClientCommand(program: Command): void {
  program
    .command('client')
    .description('systems that sign in with SMART Backend Services')
    .command('add')
    .description('register a system; without --jwk a key pair is made and its private half shown once')
    .requiredOption('--name <name>', 'what it is')
    .option('--scope <scope...>', 'SMART v2 scopes it may ask for', ['system/*.rs'])
    .option('--jwk <file>', 'its public key as a JWK (ES384 or RS384)')
    .option('--acts-for-members', 'it may act for a named member by a signed claim')
    .option('--json', 'for machines')
    .addHelpText(
      'after',
      '\nExample:\n  $ oncobridge client add --name "Hospital EHR" --jwk ehr-public.jwk --scope system/DocumentReference.rs system/Binary.r',
    )
    .action(
      async (options: { name: string; scope: string[]; jwk?: string; actsForMembers?: boolean; json?: boolean }, command: Command) => {
        const input = {
          name: options.name,
          scopes: options.scope,
          ...(options.jwk === undefined ? {} : { publicKeyJwk: readJwk(options.jwk) }),
          ...(options.actsForMembers === true ? { actsFor: true } : {}),
        };
        print(options.json, await withOperations(command, (operations) => operations.clientAdd(input)), (added) =>
          [
            `client id       ${added.clientId}`,
            `token endpoint  ${added.tokenEndpoint}`,
            ...(added.privateKeyJwk === undefined ? [] : [`private key     ${JSON.stringify(added.privateKeyJwk)}  (shown once; keep it)`]),
          ].join('\n'),
        );
      },
    );
}

/** What is wrong with it is said without a word of the file: it may be the private half. */
function readJwk(file: string): object {
  try {
    const jwk = JSON.parse(readFileSync(file, 'utf8')) as unknown;
    if (typeof jwk === 'object' && jwk !== null) return jwk;
  } catch {
    // below
  }
  throw new CodedError('BAD_REQUEST', { diagnostics: `${file} cannot be read as a JWK.` });
}
