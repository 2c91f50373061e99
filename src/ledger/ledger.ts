/** The ledger port: one contract, two hosts (embedded, Fabric), one conformance suite. architecture.md section 6. */
export interface Ledger {
  readonly kind: 'embedded' | 'fabric';
  /**
   * Runs the contract locally and has it endorsed. Nothing is ordered yet: a refusal (CodedError LEDGER_REFUSED with the
   * contract's code in `diagnostics`) has no effect. The bytes are journaled by the caller before `submit`.
   */
  endorse(transaction: LedgerTransaction): Promise<EndorsedTransaction>;
  /**
   * Orders the signed bytes and waits for the commit. The same bytes again are harmless. Rejects with LEDGER_UNKNOWN
   * where the outcome is not known (ask `status`, then submit the same bytes), LEDGER_CONFLICT where it was invalid by
   * a read conflict (endorse anew).
   */
  submit(bytes: Uint8Array): Promise<Receipt>;
  /** The receipt of a committed transaction, undefined where none is known. */
  status(txId: string): Promise<Receipt | undefined>;
  /** A query of the contract against the committed state; returns its JSON. */
  evaluate(query: string, args: readonly string[]): Promise<string>;
  /** Full blocks from this number on, then as they come, until closed or aborted. */
  blocks(from: number, signal?: AbortSignal): AsyncIterable<Block>;
  /** Number of blocks. */
  height(): Promise<number>;
  info(): Promise<LedgerInfo>;
  close(): Promise<void>;
}

export interface LedgerTransaction {
  name: string;
  args: readonly string[];
}
export interface EndorsedTransaction {
  txId: string;
  bytes: Uint8Array;
  result: string;
}
export interface Receipt {
  txId: string;
  block: number;
  result: string;
}
export interface LedgerInfo {
  kind: string;
  ledgerId: string;
  height: number;
  tip: string;
  consensus: string;
  nodes: number;
}

/** A block as the projection reads it: every transaction, invalid ones included. */
export interface Block {
  number: number;
  previousHash: string;
  hash: string;
  transactions: readonly BlockTransaction[];
  /** What it says of the contract's own definition, where the host has such a thing (Fabric). */
  lifecycle?: Lifecycle;
}
/** Fabric's chaincode lifecycle, as far as the contract's own definition goes; hashes are SHA-256 in hex. */
export interface Lifecycle {
  /** What an organisation wrote among its approvals, whatever chaincode they are of: Fabric shows hashes only. */
  approvals: readonly { msp: string; keyHash: string; valueHash: string }[];
  /** Definitions that came into force, with the hash of each field that changed. */
  commits: readonly { sequence: number; fields: ReadonlyMap<string, string> }[];
}
export interface BlockTransaction {
  txId: string;
  /** VALID, or why not (MVCC_READ_CONFLICT, PHANTOM_READ_CONFLICT, DUPLICATE_TXID, BAD_SIGNATURE …). */
  validation: string;
  name: string;
  args: readonly string[];
  caller: { msp: string; institution: string };
  /** ISO instant, as the submitter set it. */
  time: string;
  /** key -> value, null = deleted; as the endorsers saw it. */
  writes: ReadonlyMap<string, string | null>;
  /** Set where it did something that the contract never does, whatever it wrote besides: it agrees with no run of the contract. */
  irregular?: string;
}
