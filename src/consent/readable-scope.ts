import type { Actor } from '../auth/actor.ts';
import { isEmergency } from '../auth/purposes.ts';
import { hasFunction } from '../ledger/contract/decision.ts';
import { type Right, ROLES } from '../ledger/contract/shapes.ts';
import { join, raw, type SqlFragment, sql } from '../store/sql.ts';

export interface ScopeQuestion {
  actor: Actor;
  purpose: string;
  right: Right;
  /** One moment for the whole query. */
  now: Date;
  /**
   * `direct`: only what the patient themself granted the asker, in categories of which nothing at all is denied to them now. It is
   * part of the whole scope, never more, and one look at an index for each of its conjuncts instead of a plan of fourteen parts: what
   * a read by id asks first. Whoever finds nothing in it asks for the whole.
   * `emergency`: only what an emergency that was declared opens, and no ordinary permission, for of these the view may be too old to
   * know the end (protocol section 5).
   */
  extent?: 'whole' | 'direct' | 'emergency';
}

/** Patient to A, A to B, B to C (the contract's decision.ts). */
const MAX_DEPTH = 3;
const EMERGENCY_ROLES = ROLES.filter((role) => hasFunction(role, 'emergency'));
const ALL = sql`'{(,)}'::tstzmultirange`;
const NONE = sql`'{}'::tstzmultirange`;
const PERIOD = sql`tstzrange(c.data_start, c.data_end + interval '1 millisecond')`;

/**
 * The readable scope as the body of a CTE with the columns (inst, pat, category, data_start, data_end): every patient,
 * category and data period that this actor may read now. A row is readable where it lies wholly inside one of them.
 * `with scope as not materialized (${readableScope(q)}) select … join scope s on s.inst = … and s.pat = … and s.category = …`
 *
 * It is the contract's `decide` in SQL (architecture section 7), for the implicit policy `deny`: the differential test holds
 * the two together. Whoever may read anything of a patient also reads `core`, the Patient itself. Revocations that are not
 * projected yet are joined in the same snapshot. Multiranges join, meet and cut data periods as `decide` does; they are
 * half open here and end at the last whole millisecond outside. Needs PostgreSQL 15.
 *
 * Written so that the planner can pull it up (no grouping, union or CTE at its top): a read by id then probes the permissions
 * of its own patient, and a search of all patients starts at the grantee's.
 */
export function readableScope(question: ScopeQuestion): SqlFragment {
  const { actor, now, purpose, right } = question;
  const q = sql`(select ${now}::timestamptz as at, ${purpose}::text as purpose, ${right}::text as wanted) q`;
  if (actor.kind === 'patient') return question.extent === 'emergency' ? nothing(q) : ownRecord(q, actor.institution, actor.patient);
  if (question.extent === 'direct') return granted(q, actor);
  const member = actor.kind === 'member' ? actor.member : undefined;
  const declared = member !== undefined && right === 'read' && isEmergency(purpose);
  const brokenOnly = question.extent === 'emergency';
  if (brokenOnly && !declared) return nothing(q);
  const parties = member === undefined ? sql`` : sql`cross join projection.member m`;
  const actorHolds =
    member === undefined
      ? sql`i.inst = ${actor.institution} and i.status = 'active'`
      : sql`i.inst = ${actor.institution} and i.status = 'active'
    and m.inst = i.inst and m.mem = ${member} and m.status = 'active' and m.valid_until > q.at`;
  const name = `member:${actor.institution}:${member}`;
  // The role by a query of its own: as a column of `m` it would keep the planner from starting at the grantee's index.
  const grantees =
    member === undefined
      ? sql`array[${`organization:${actor.institution}`}]::text[]`
      : sql`array[${`organization:${actor.institution}`}, ${name}, 'role:' || (select role from projection.member where inst = ${actor.institution} and mem = ${member})]::text[]`;
  const emergency = sql`(m.role = any(${EMERGENCY_ROLES}::text[])
      and exists (select 1 from projection.emergency e where e.inst = p.inst and e.pat = p.pat and e.member = ${name} and e.from_time <= q.at and q.at < e.until_time))`;
  const concerned = sql`exists (select 1 from projection.permission h where h.inst = p.inst and h.pat = p.pat and h.grantee = any(${grantees}))`;
  const periods = brokenOnly
    ? broken(grantees, emergency)
    : declared
      ? sql`${permitted(grantees)} union all ${broken(grantees, emergency)}`
      : permitted(grantees);
  const opened = brokenOnly ? emergency : declared ? sql`(${concerned} or ${emergency})` : concerned;
  return sql`select p.inst, p.pat, c.category, lower(c.period) as data_start, upper(c.period) - interval '1 millisecond' as data_end
  from ${q} cross join projection.institution i ${parties} cross join projection.patient p
  cross join lateral (
    with periods as (${periods}),
    live as (select category, unnest(whole) as period from periods)
    select category, period from live${right === 'read' ? sql` union all select 'core', '(,)'::tstzrange where exists (select 1 from live)` : sql``}) c
  where ${actorHolds} and p.status = 'active' and ${opened}`;
}

function nothing(q: SqlFragment): SqlFragment {
  return sql`select ''::text as inst, ''::text as pat, ''::text as category, null::timestamptz as data_start, null::timestamptz as data_end from ${q} where false`;
}

/** The patient themself: everything, in every category that has a key. */
function ownRecord(q: SqlFragment, institution: string, patient: string): SqlFragment {
  return sql`select p.inst, p.pat, c.category, null::timestamptz as data_start, null::timestamptz as data_end
  from ${q} cross join projection.patient p
  cross join lateral (select k.category from projection.category_key k where k.inst = p.inst and k.pat = p.pat and k.version = 1 union all select 'core') c
  where p.inst = ${institution} and p.pat = ${patient} and p.status = 'active'`;
}

/** A clause of the patient's to the asker is one row; neither chains nor periods need to be put together. */
function granted(q: SqlFragment, actor: Exclude<Actor, { kind: 'patient' }>): SqlFragment {
  const organization = `organization:${actor.institution}`;
  const of = sql`i.inst = ${actor.institution} and i.status = 'active'`;
  const asker =
    actor.kind === 'member'
      ? {
          parties: sql`projection.institution i cross join projection.member m`,
          holds: sql`${of} and m.inst = i.inst and m.mem = ${actor.member} and m.status = 'active' and m.valid_until > q.at`,
          grantees: sql`array[${organization}, ${`member:${actor.institution}:${actor.member}`}, 'role:' || m.role]`,
        }
      : { parties: sql`projection.institution i`, holds: of, grantees: sql`array[${organization}]` };
  return sql`select c.inst, c.pat, c.category, c.data_start, c.data_end
  from ${q} cross join ${asker.parties} cross join projection.patient p cross join projection.clause c
  where ${asker.holds} and p.status = 'active'
    and c.inst = p.inst and c.pat = p.pat and c.grantor = 'patient' and c.grantee = any(${asker.grantees})
    and c.effect = 'permit' and q.wanted = any(c.rights) and ${live('c')}
    and not exists (select 1 from projection.clause d where d.inst = c.inst and d.pat = c.pat and d.grantor = 'patient' and d.grantee = any(${asker.grantees})
      and d.category = c.category and d.effect = 'deny' and q.wanted = any(d.rights) and ${live('d')})
    and not exists (${revoking('c')})`;
}

/** By category: what any chain of permissions grants, without what the patient denies. */
function permitted(grantees: SqlFragment): SqlFragment {
  return sql`select a.category, range_agg(${chain('a', 1)}) - coalesce(range_agg(${denied('a')}) filter (where a.grantor = 'patient'), ${NONE}) as whole
    from projection.permission a where a.inst = p.inst and a.pat = p.pat and a.grantee = any(${grantees}) group by a.category`;
}

/** Break-glass: everything but what the patient denies in emergencies too. */
function broken(grantees: SqlFragment, emergency: SqlFragment): SqlFragment {
  return sql`select k.category, ${ALL} - coalesce((
        select range_agg(${denied('a', sql` and c.emergency`)}) from projection.permission a
        where a.inst = p.inst and a.pat = p.pat and a.category = k.category and a.grantor = 'patient' and a.grantee = any(${grantees})), ${NONE}) as whole
    from projection.category_key k where k.inst = p.inst and k.pat = p.pat and k.version = 1 and ${emergency}`;
}

/**
 * The data periods for which head `alias` grants the right: met with those of every head above it, up to the patient's. Whoever
 * shares on must hold both the right and the right to share. Nothing while a revocation of the head is on its way.
 */
function chain(alias: string, depth: number): SqlFragment {
  const head = raw(alias);
  const parent = `${alias}${depth}`;
  const above = raw(parent);
  const rest =
    depth === MAX_DEPTH
      ? NONE
      : sql`coalesce((select ${chain(parent, depth + 1)} from projection.permission ${above}
          where ${above}.inst = ${head}.inst and ${above}.pat = ${head}.pat and ${above}.category = ${head}.category
            and ${above}.grantor = ${head}.parent_grantor and ${above}.grantee = ${head}.parent_grantee), ${NONE})`;
  const rights = depth === 1 ? [sql`q.wanted`] : [sql`q.wanted`, sql`'share'`];
  return sql`case when exists (${revoking(alias)}) then ${NONE}
      else (select ${join(rights.map(ownPeriods), ' * ')} from projection.clause c where ${holds(head)})
        * case when ${head}.grantor = 'patient' then ${ALL} else ${rest} end end`;
}

/** Of one head's clauses: what they permit without what they deny. */
function ownPeriods(right: SqlFragment): SqlFragment {
  const of = (effect: SqlFragment): SqlFragment =>
    sql`coalesce(range_agg(${PERIOD}) filter (where c.effect = ${effect} and ${right} = any(c.rights)), ${NONE})`;
  return sql`(${of(raw("'permit'"))} - ${of(raw("'deny'"))})`;
}

/** The data periods that the head's clauses deny. */
function denied(alias: string, further: SqlFragment = sql``): SqlFragment {
  return sql`(select coalesce(range_agg(${PERIOD}), ${NONE}) from projection.clause c
        where ${holds(raw(alias))} and c.effect = 'deny' and q.wanted = any(c.rights)${further})`;
}

/** Clause `c` is the head's, and holds for purpose and moment. */
function holds(head: SqlFragment): SqlFragment {
  return sql`c.inst = ${head}.inst and c.pat = ${head}.pat and c.grantor = ${head}.grantor and c.grantee = ${head}.grantee and c.category = ${head}.category
          and ${live('c')}`;
}

/** A clause holds for purpose and moment. */
function live(alias: string): SqlFragment {
  const c = raw(alias);
  return sql`(${c}.purposes is null or q.purpose = any(${c}.purposes))
          and (${c}.period_start is null or ${c}.period_start <= q.at) and (${c}.period_end is null or q.at <= ${c}.period_end)`;
}

/** A revocation of the head that the projection does not hold yet. */
function revoking(alias: string): SqlFragment {
  const head = raw(alias);
  return sql`select 1 from revocation v
        where v.inst = ${head}.inst and v.pat = ${head}.pat and v.grantor = ${head}.grantor and v.grantee = ${head}.grantee and v.category = ${head}.category
          and not exists (select 1 from projection.state s where s.key = v.used_key)`;
}
