/** One line of the bench's table. */
export interface BenchRow {
  name: string;
  ours: number;
  unit: string;
  /** What else was run beside it, in the same unit; absent where nothing can be. */
  baseline?: number;
  /** Ours divided by the baseline, or its inverse where less is better: each bench says which in its rows' names or docs. */
  ratio?: number;
  /** The figure of the design that this one is held to, as a person reads it. */
  target?: string;
  /** Whether the target is met; absent where the row has none. */
  met?: boolean;
}

/** Tells a person what is being done right now. */
export type Progress = (what: string) => void;

export interface BenchOptions {
  progress: Progress;
  /** Extra patients of the two pipeline runs, between which memory is compared. */
  patients: readonly [number, number];
  /** Documents of the two growth runs. */
  documents: readonly [number, number];
}
