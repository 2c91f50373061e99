import type { VerifyReport } from '../ledger/verify.ts';
import type { VerifyResult } from './operations.ts';

/** The report as commands print it. */
export function verifyResult({ ok, blocks, transactions, problems }: VerifyReport): VerifyResult {
  return {
    ok,
    blocks,
    transactions,
    problems: problems.map(({ kind, what, block }) => `${kind}${block === undefined ? '' : ` (block ${block})`}: ${what}`),
  };
}
