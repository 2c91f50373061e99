import type { Command } from 'commander';
import type { ExplainReport } from '../pipeline/questions.ts';
import { print, table, withOperations } from './run.ts';

export function addExplainCommand(program: Command): void {
  program
    .command('explain <id>')
    .description('what became of a record (rec-…) or a document (doc-…), step by step; no patient data')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge explain doc-ew2nqk3pmbo5g7s6yxqf4jzh3a')
    .action(async (id: string, options: { json?: boolean }, command: Command) => {
      print(options.json, await withOperations(command, (operations) => operations.explain({ id })), explainText);
    });
}

function explainText({ record, document }: ExplainReport): string {
  const parts: string[] = [];
  if (record !== undefined)
    parts.push(
      table(
        ['record', ''],
        Object.entries(record).map(([key, value]) => [key, Array.isArray(value) ? value.join(', ') : String(value ?? '')]),
      ),
    );
  if (document !== undefined) {
    parts.push(
      `document ${document.document}, ${document.category}, ${document.patient}${document.withdrawn === null ? '' : `, WITHDRAWN ${document.withdrawn}, ${document.withdrawnBecause}`}`,
    );
    parts.push(
      table(
        ['version', 'filed', 'outbox', 'transaction', 'block', 'ciphertext SHA-256', 'records'],
        document.versions.map((v) => [v.version, v.filedAt, v.outboxState, v.transaction, v.block, v.ciphertextHash, v.records.length]),
      ),
    );
  }
  return parts.join('\n\n');
}
