import type { Actor } from '../auth/actor.ts';
import { hasFunction } from '../ledger/contract/decision.ts';
import { type Right, ROLES } from '../ledger/contract/shapes.ts';
import { type SqlFragment, sql } from '../store/sql.ts';

const REVIEWERS = ROLES.filter((role) => hasFunction(role, 'misfiled-review'));

/**
 * Whose misfiled documents this actor may read now, as a query with the one column `producer`; undefined: nobody's. A withdrawn
 * document is outside of every scope, and one that was filed to the wrong person opens to a privacy officer of its producer alone:
 * neither permissions nor purposes count (architecture section 7). It is the contract's `decide` of a withdrawn document in SQL,
 * and the differential test holds the two together.
 */
export function misfiledScope({ actor, right, now }: { actor: Actor; right: Right; now: Date }): SqlFragment | undefined {
  if (actor.kind !== 'member' || right !== 'read') return undefined;
  return sql`select m.inst as producer from projection.member m
    where m.inst = ${actor.institution} and m.mem = ${actor.member} and m.status = 'active' and m.valid_until > ${now} and m.role = any(${REVIEWERS}::text[])`;
}
