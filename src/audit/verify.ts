import { anchorKey } from '../ledger/contract/keys.ts';
import type { AnchorState } from '../ledger/contract/state.ts';
import type { Database } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import { anchorRoot, headerLeaf, readHeader } from './anchoring.ts';
import { merklePath } from './merkle.ts';
import { AUDIT_PURPOSE, type EventRow, eventPlace, leafOf } from './stored-event.ts';

export type EventProof =
  /** Under a root that the ledger holds; `path` leads from `leaf` (at `index` of `count`) to `root`. */
  | { state: 'anchored'; anchor: number; root: string; leaf: string; index: number; count: number; path: string[] }
  /** Not anchored yet, or its anchor is not on the ledger yet. */
  | { state: 'open' }
  /** No such row. */
  | { state: 'missing' }
  /** The row itself is not what was recorded. */
  | { state: 'altered' }
  /** Its anchor cannot be built again from the rows: see the finding. */
  | { state: 'unproven'; finding: AnchorFinding };

export interface AnchorFinding {
  anchor: number;
  /**
   * `rows`: another number of events than was anchored (deleted or moved). `altered`: a leaf or the header was changed.
   * `root`: the ledger holds another root. `chain`: the root before is not the one named. `missing`: the ledger has this
   * anchor and the table does not.
   */
  problem: 'rows' | 'altered' | 'root' | 'chain' | 'missing';
  expected?: number;
  found?: number;
}

interface AnchorRow {
  number: number;
  root: string;
  header: string;
}
interface Parts {
  database: Pick<Database, 'query'>;
  rows: Pick<SealedRows, 'openPurpose'>;
  institution: string;
}

/** Whether an event is, unaltered, under the root that the ledger holds for it. */
export async function verifyAuditEvent(parts: Parts, id: string): Promise<EventProof> {
  const { database, institution } = parts;
  const [row] = await database.query<EventRow & { anchor: number | null; seq: number }>(
    sql`select id, recorded, inst, pat, leaf, detail, anchor, seq from audit_event where id = ${id}`,
  );
  if (row === undefined) return { state: 'missing' };
  if (!(await isIntact(parts, row))) return { state: 'altered' };
  if (row.anchor === null) return { state: 'open' };
  const [anchor] = await database.query<AnchorRow>(sql`select number, root, header from audit_anchor where number = ${row.anchor}`);
  const held = await ledgerRoot(database, institution, row.anchor);
  if (held === undefined) return { state: 'open' };
  if (anchor === undefined) return { state: 'unproven', finding: { anchor: row.anchor, problem: 'missing' } };
  const leaves = await leavesOf(database, anchor.number);
  const finding = compare(
    anchor,
    leaves.map(({ leaf }) => leaf),
    held,
    institution,
  );
  if (finding !== undefined) return { state: 'unproven', finding };
  const all = [headerLeaf(anchor.header), ...leaves.map(({ leaf }) => leaf)];
  const index = leaves.findIndex(({ seq }) => seq === row.seq) + 1;
  return {
    state: 'anchored',
    anchor: anchor.number,
    root: held,
    leaf: row.leaf.toString('hex'),
    index,
    count: all.length,
    path: merklePath(all, index).map((hash) => hash.toString('hex')),
  };
}

/**
 * Every anchor that the ledger holds, built again from the rows: deleted, added and altered events, deleted anchors. With
 * `contents` each row is opened too, and compared with its leaf.
 */
export async function verifyAudit(
  parts: Parts,
  options: { contents?: boolean } = {},
): Promise<{ anchors: number; events: number; findings: AnchorFinding[]; altered: string[] }> {
  const { database, institution } = parts;
  const findings: AnchorFinding[] = [];
  const altered: string[] = [];
  let events = 0;
  const held = await ledgerRoots(database, institution);
  let previous: string | undefined;
  for (const [number, root] of held) {
    const [anchor] = await database.query<AnchorRow>(sql`select number, root, header from audit_anchor where number = ${number}`);
    if (anchor === undefined) findings.push({ anchor: number, problem: 'missing' });
    else {
      const leaves = await leavesOf(database, number);
      events += leaves.length;
      const finding = compare(
        anchor,
        leaves.map(({ leaf }) => leaf),
        root,
        institution,
      );
      if (finding !== undefined) findings.push(finding);
      else if (previous !== undefined && readHeader(anchor.header).previous !== previous)
        findings.push({ anchor: number, problem: 'chain' });
      if (options.contents === true) {
        const rows = await database.query<EventRow>(
          sql`select id, recorded, inst, pat, leaf, detail from audit_event where anchor = ${number} order by seq`,
        );
        for (const row of rows) if (!(await isIntact(parts, row))) altered.push(row.id);
      }
    }
    previous = root;
  }
  return { anchors: held.size, events, findings, altered };
}

async function isIntact({ rows }: Parts, row: EventRow): Promise<boolean> {
  try {
    return leafOf(await rows.openPurpose(AUDIT_PURPOSE, eventPlace(row), row.detail)).equals(row.leaf);
  } catch {
    return false;
  }
}

function compare(anchor: AnchorRow, leaves: readonly Buffer[], held: string, institution: string): AnchorFinding | undefined {
  const at = { anchor: anchor.number };
  const header = safeHeader(anchor.header);
  if (header === undefined || header.number !== anchor.number || header.institution !== institution) return { ...at, problem: 'altered' };
  if (header.count !== leaves.length) return { ...at, problem: 'rows', expected: header.count, found: leaves.length };
  if (anchorRoot(anchor.header, leaves) !== held) return { ...at, problem: anchor.root === held ? 'altered' : 'root' };
  return undefined;
}

function safeHeader(text: string): ReturnType<typeof readHeader> | undefined {
  try {
    return readHeader(text);
  } catch {
    return undefined;
  }
}

function leavesOf(database: Pick<Database, 'query'>, anchor: number): Promise<{ seq: number; leaf: Buffer }[]> {
  return database.query(sql`select seq, leaf from audit_event where anchor = ${anchor} order by seq`);
}

/** As the ledger's projection has it; state values are JCS, so the number stands first. */
async function ledgerRoot(database: Pick<Database, 'query'>, institution: string, number: number): Promise<string | undefined> {
  const [row] = await database.query<{ value: string }>(
    sql`select value from projection.state where key = ${anchorKey(institution)} and value like ${`{"number":${number},%`} limit 1`,
  );
  return row === undefined ? undefined : (JSON.parse(row.value) as AnchorState).root;
}

async function ledgerRoots(database: Pick<Database, 'query'>, institution: string): Promise<Map<number, string>> {
  const rows = await database.query<{ value: string }>(
    sql`select value from projection.state where key = ${anchorKey(institution)} and value is not null order by block, tx`,
  );
  const roots = rows.map(({ value }) => JSON.parse(value) as AnchorState);
  // Number 0 is written as the institution joins and covers nothing.
  return new Map(roots.filter(({ number }) => number > 0).map(({ number, root }) => [number, root]));
}
