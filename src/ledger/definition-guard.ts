import { CodedError } from '../errors.ts';
import type { Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import { sha256Hex } from './host-crypto.ts';
import type { Block, Ledger } from './ledger.ts';

/** Keeps the projection from following a contract that its own institution has not approved (protocol section 4). */
export interface DefinitionGuard {
  /** Notes what the block says of definitions, in its transaction. Throws LEDGER_DEFINITION where one is not approved by us. */
  admit(tx: Sql, block: Block): Promise<void>;
  /** After a refusal: whether we approved later, in a block beyond this one. Reads each block once. */
  lookAhead(block: number, signal: AbortSignal): Promise<void>;
}
/** A row of projection.definition. */
export interface DefinitionRow {
  block: number;
  n: number;
  kind: 'approved' | 'committed';
  /** Of an approval the hash of its key, for Fabric shows no more; of a commit the field. */
  name: string;
  hash: string;
  sequence: number | null;
}

/** What an organisation approves: `ChaincodeParameters` of Fabric's lifecycle. */
const FIELDS = ['EndorsementInfo', 'ValidationInfo', 'Collections'];
/** So many definitions ahead an approval is looked for. */
const LATER = 100;

/**
 * Fabric lets a definition into force that a majority has approved, us or not. Our own approvals lie in the organisation's private
 * data, and their hashes in the blocks: so the blocks alone say whether a definition that is committed is one that we approved,
 * with the same policy and collections, at this sequence. A definition that we never saw in time is followed too, once we have
 * approved it late, or a later one: an institution that joins replays what was before it.
 */
export function createDefinitionGuard(parts: {
  /** The own organisation. */
  msp: string;
  chaincode: string;
  ledger: Pick<Ledger, 'blocks' | 'height'>;
}): DefinitionGuard {
  const { msp, chaincode, ledger } = parts;
  /** Own approvals beyond the projection: hash of the key -> hash of the value. */
  const ahead = new Map<string, string>();
  let lookedUntil = 0;

  async function newest(tx: Sql, kind: DefinitionRow['kind'], name: string): Promise<string | undefined> {
    const [row] = await tx.query<{ hash: string }>(
      sql`select hash from projection.definition where kind = ${kind} and name = ${name} order by block desc, n desc limit 1`,
    );
    return row?.hash;
  }

  async function approves(tx: Sql, sequence: number): Promise<boolean> {
    for (const field of FIELDS) {
      const key = sha256Hex(`namespaces/fields/${chaincode}#${sequence}/${field}`);
      const approved = ahead.get(key) ?? (await newest(tx, 'approved', key));
      if (approved === undefined || approved !== (await newest(tx, 'committed', field))) return false;
    }
    return true;
  }

  function approvedLater(sequence: number): boolean {
    for (let later = sequence + 1; later <= sequence + LATER; later++) {
      if (ahead.has(sha256Hex(`namespaces/fields/${chaincode}#${later}/ValidationInfo`))) return true;
    }
    return false;
  }

  return {
    async admit(tx, block) {
      const rows = definitionRows(block, msp);
      for (const { n, kind, name, hash, sequence } of rows)
        await tx.query(sql`insert into projection.definition (block, n, kind, name, hash, sequence)
          values (${block.number}, ${n}, ${kind}, ${name}, ${hash}, ${sequence})`);
      for (const { sequence } of block.lifecycle?.commits ?? []) {
        if ((await approves(tx, sequence)) || approvedLater(sequence)) continue;
        throw new CodedError('LEDGER_DEFINITION', {
          diagnostics: `Block ${block.number} puts definition ${sequence} of ${chaincode} into force.`,
        });
      }
    },
    async lookAhead(block, signal) {
      lookedUntil = Math.max(lookedUntil, block + 1);
      const height = await ledger.height();
      if (lookedUntil >= height) return;
      for await (const next of ledger.blocks(lookedUntil, signal)) {
        for (const row of definitionRows(next, msp)) if (row.kind === 'approved') ahead.set(row.name, row.hash);
        lookedUntil = next.number + 1;
        if (signal.aborted || lookedUntil >= height) return;
      }
    },
  };
}

/** The rows that follow from a block. */
export function definitionRows({ number, lifecycle }: Block, msp: string): DefinitionRow[] {
  const rows: Omit<DefinitionRow, 'block' | 'n'>[] = [];
  for (const one of lifecycle?.approvals ?? [])
    if (one.msp === msp) rows.push({ kind: 'approved', name: one.keyHash, hash: one.valueHash, sequence: null });
  for (const { sequence, fields } of lifecycle?.commits ?? [])
    for (const [name, hash] of fields) rows.push({ kind: 'committed', name, hash, sequence });
  return rows.map((row, n) => ({ block: number, n, ...row }));
}
