import type { Projection } from '../ledger/projection.ts';
import type { Sql } from '../store/database.ts';

/** Requests of so short a time share one look at the checkpoint; between that look and the read itself lies as much anyway. */
const SHARED_MS = 20;

/** Whether the projection may answer (protocol, section 5), asked for every request and looked up for a few together. */
export function createFreshness(parts: {
  projection: Pick<Projection, 'freshness'>;
  /** Where it is asked, so that reads by id wait for no search; absent: on the projection's own connections. */
  reads?: Sql;
  maxStalenessMs: number;
}): () => Promise<boolean> {
  let at = Number.NEGATIVE_INFINITY;
  let look: Promise<{ fresh: boolean }> | undefined;
  return async () => {
    if (look === undefined || performance.now() - at > SHARED_MS) {
      at = performance.now();
      look = parts.projection.freshness(parts.maxStalenessMs, parts.reads);
    }
    return (await look).fresh;
  };
}
