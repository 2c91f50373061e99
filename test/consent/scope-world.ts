import fc from 'fast-check';
import type { Actor } from '../../src/auth/actor.ts';
import { isEmergency } from '../../src/auth/purposes.ts';
import { type Decision, decide, type HeadFacts, type Question } from '../../src/ledger/contract/decision.ts';
import { clauseFacts, createDecisionState, type HeldState } from '../../src/ledger/contract/decision-state.ts';
import { type Clause, RIGHTS, ROLES, type Role } from '../../src/ledger/contract/shapes.ts';
import type { Database } from '../../src/store/database.ts';
import { raw, sql } from '../../src/store/sql.ts';

/** Random states of the ledger, written to the projection's tables and to the contract's own decision state alike. */
export const INST = 'inst-a';
export const OTHER = 'inst-b';
export const CATEGORIES = ['laboratory', 'radiation-dose'] as const;
/** Moments are few, so that bounds meet them exactly. */
export const at = (n: number): Date => new Date(Date.UTC(2026, 5, 1) + n * 1000);
const PURPOSES = ['TREAT', 'HRESCH', 'BTG'] as const;
const MEMBERS = ['mem-1', 'mem-2', 'mem-3'] as const;

export interface World {
  institutions: { inst: string; status: 'active' | 'alarmed' }[];
  members: { inst: string; mem: string; role: Role; status: 'active' | 'suspended' | 'alarmed'; validUntil: number }[];
  patients: Patient[];
}
interface Patient {
  inst: string;
  pat: string;
  status: 'active' | 'erased' | 'alarmed';
  heads: Head[];
  /** Categories that have a key: what there can be documents of. */
  keys: readonly string[];
  emergencies: { member: string; from: number; until: number }[];
}
interface Head {
  grantor: string;
  grantee: string;
  category: string;
  parent: { grantor: string; grantee: string } | null;
  clauses: readonly Clause[];
  /** A local revocation, and whether the ledger has it already. */
  revoking: 'none' | 'pending' | 'projected';
}

const memberName = fc.constantFrom(...MEMBERS).map((mem) => `member:${INST}:${mem}`);
const grantee = fc.oneof(
  { weight: 3, arbitrary: memberName },
  fc.constantFrom(`organization:${INST}`, 'role:clinician', 'role:researcher', `organization:${OTHER}`),
);
const moment = fc.integer({ min: 0, max: 6 });
const bound = fc.option(moment, { nil: null, freq: 2 });
const span = fc
  .tuple(bound, bound)
  .map(([a, b]) => (a !== null && b !== null && a > b ? [b, a] : [a, b]) as [number | null, number | null]);
const iso = (n: number | null): string | null => (n === null ? null : at(n).toISOString());
const clause: fc.Arbitrary<Clause> = fc
  .record({
    permit: fc.oneof({ weight: 3, arbitrary: fc.constant(true) }, fc.constant(false)),
    rights: fc.oneof({ weight: 2, arbitrary: fc.constant(['read', 'share'] as const) }, fc.subarray([...RIGHTS], { minLength: 1 })),
    purposes: fc.option(fc.subarray([...PURPOSES], { minLength: 1 }), { nil: null, freq: 2 }),
    period: span,
    data: span,
    emergency: fc.boolean(),
  })
  .map((c) => ({
    consent: 'con-1',
    effect: c.permit ? ('permit' as const) : ('deny' as const),
    emergency: !c.permit && c.emergency,
    rights: [...c.rights],
    purposes: c.purposes,
    periodStart: iso(c.period[0]),
    periodEnd: iso(c.period[1]),
    dataStart: iso(c.data[0]),
    dataEnd: iso(c.data[1]),
  }));
const rarely = <T>(arbitrary: fc.Arbitrary<T>, usual: T): fc.Arbitrary<T> =>
  fc.oneof({ weight: 5, arbitrary: fc.constant(usual) }, arbitrary);
const category = fc.constantFrom(...CATEGORIES);
const revoking = rarely(fc.constantFrom('pending' as const, 'projected' as const), 'none' as const);
const granted = fc.record({
  grantor: fc.constant('patient'),
  grantee,
  category,
  parent: fc.constant(null),
  clauses: fc.array(clause, { maxLength: 3 }),
  revoking,
});
const wide: Clause = {
  consent: 'con-1',
  effect: 'permit',
  emergency: false,
  rights: [...RIGHTS],
  purposes: null,
  periodStart: null,
  periodEnd: null,
  dataStart: null,
  dataEnd: null,
};
const links = fc.oneof({ weight: 2, arbitrary: fc.constant([wide]) }, fc.array(clause, { minLength: 1, maxLength: 2 }));
/** A denial of all that a person does, in emergencies too or not. */
const denial = fc.record({ grantee, category, emergency: fc.boolean(), data: span }).map(
  ({ emergency, data, ...of }): Head => ({
    ...of,
    grantor: 'patient',
    parent: null,
    clauses: [{ ...wide, effect: 'deny', emergency, dataStart: iso(data[0]), dataEnd: iso(data[1]) }],
    revoking: 'none',
  }),
);
/** Patient to A, A to B, B to C and once more, so that one chain is too long. */
const chain = fc
  .record({
    category,
    first: fc.integer({ min: 0, max: 3 }),
    heads: fc.array(fc.record({ clauses: links, revoking }), { minLength: 2, maxLength: 4, size: 'max' }),
  })
  .map(({ category: of, first, heads }) =>
    heads.map((head, i): Head => {
      const name = (n: number): string => (n === 0 ? 'patient' : `member:${INST}:mem-${((n - 1 + first) % 4) + 1}`);
      return {
        ...head,
        category: of,
        grantor: name(i),
        grantee: name(i + 1),
        parent: i === 0 ? null : { grantor: name(i - 1), grantee: name(i) },
      };
    }),
  );
/** A head whose name differs in one part from that of another: what tells every part of a name from one that is not looked at. */
const shadow = fc.record({
  of: fc.nat(7),
  change: fc.constantFrom('grantor' as const, 'grantee' as const, 'category' as const),
  clauses: links,
  revoking,
});
function withShadows(
  heads: readonly Head[],
  shadows: readonly { of: number; change: 'grantor' | 'grantee' | 'category'; clauses: readonly Clause[]; revoking: Head['revoking'] }[],
): Head[] {
  return shadows.flatMap(({ of, change, clauses, revoking: how }) => {
    const head = heads[of % Math.max(1, heads.length)];
    if (head === undefined) return [];
    const named = { ...head, clauses, revoking: how };
    if (change === 'category') return [{ ...named, category: CATEGORIES.find((one) => one !== head.category) ?? '' }];
    if (change === 'grantee') return [{ ...named, grantee: `member:${INST}:mem-2` }];
    const grantor = `member:${INST}:mem-3`;
    return [{ ...named, grantor, parent: { grantor: 'patient', grantee: grantor } }];
  });
}
const patient: fc.Arbitrary<Patient> = fc
  .record({
    status: rarely(fc.constantFrom('erased' as const, 'alarmed' as const), 'active' as const),
    heads: fc.array(
      fc.oneof(
        granted.map((head): Head[] => [head]),
        denial.map((head): Head[] => [head]),
        { weight: 2, arbitrary: chain },
      ),
      { maxLength: 4, size: 'max' },
    ),
    emergencies: fc.array(fc.record({ member: memberName, from: moment, until: moment.map((n) => n + 2) }), { maxLength: 2, size: 'max' }),
    keys: fc.subarray([...CATEGORIES]),
    shadows: fc.array(shadow, { maxLength: 4, size: 'max' }),
  })
  .map(({ heads, keys, shadows, ...rest }) => {
    const drawn = heads.flat();
    const all = [
      ...new Map(
        [...withShadows(drawn, shadows), ...drawn].map((head) => [`${head.grantor}/${head.grantee}/${head.category}`, head]),
      ).values(),
    ];
    return {
      inst: '',
      pat: '',
      ...rest,
      heads: all,
      keys: CATEGORIES.filter((of) => keys.includes(of) || all.some((head) => head.category === of)),
    };
  });
export const worlds = (fewest: number, most: number): fc.Arbitrary<World> =>
  fc.record({
    institutions: rarely(fc.constant('alarmed' as const), 'active' as const).map((status) => [
      { inst: INST, status },
      { inst: OTHER, status: 'active' as const },
    ]),
    // Another institution may give its members the ids of ours.
    members: fc.tuple(
      ...[INST, OTHER]
        .flatMap((inst) => MEMBERS.map((mem) => ({ inst, mem })))
        .map(({ inst, mem }) =>
          fc.record({
            inst: fc.constant(inst),
            mem: fc.constant(mem),
            role: rarely(fc.constantFrom(...ROLES), 'clinician'),
            status: rarely(fc.constantFrom('suspended' as const, 'alarmed' as const), 'active' as const),
            validUntil: rarely(moment, 100),
          }),
        ),
    ),
    patients: fc
      .array(
        fc.tuple(patient, patient, fc.array(links, { minLength: 8, maxLength: 8 }), fc.array(revoking, { minLength: 8, maxLength: 8 })),
        { minLength: fewest, maxLength: most, size: 'max' },
      )
      // The other institution has a patient of the same id, to whom the same persons were granted other things.
      .map((all) =>
        all.flatMap(([p, twin, clauses, how], n) => [
          { ...p, inst: INST, pat: pat(n) },
          {
            ...twin,
            inst: OTHER,
            pat: pat(n),
            keys: [...CATEGORIES],
            heads: p.heads.map((head, i) => ({ ...head, clauses: clauses[i % 8] ?? [], revoking: how[i % 8] ?? 'none' })),
          },
        ]),
      ),
  });

export const pat = (n: number): string => `pat-${n}`;

/** Questions that between them reach every branch. */
export interface Asked {
  actor: Actor;
  purpose: string;
  right: (typeof RIGHTS)[number];
  now: Date;
}
const facts = { client: 'cli-1', scopes: [], tokenId: 'jti' };
export const actors: readonly Actor[] = [
  ...[...MEMBERS, 'mem-4'].map(
    (member): Actor => ({ ...facts, kind: 'member', institution: INST, member, role: 'clinician', purpose: '' }),
  ),
  { ...facts, kind: 'system', institution: INST, purpose: '' },
  { ...facts, kind: 'system', institution: OTHER, purpose: '' },
  { ...facts, kind: 'patient', institution: INST, patient: pat(0), purpose: '' },
];
export const asked: fc.Arbitrary<Asked> = fc.record({
  actor: fc.constantFrom(...actors),
  purpose: fc.constantFrom(...PURPOSES),
  right: rarely(fc.constantFrom(...RIGHTS), 'read'),
  now: moment.map(at),
});

export async function writeWorld(database: Database, world: World): Promise<void> {
  await database.transaction(async (tx) => {
    await tx.query(
      raw(
        'truncate projection.institution, projection.member, projection.patient, projection.category_key, projection.permission, projection.clause, projection.emergency, projection.state, revocation',
      ),
    );
    const insert = async (table: string, values: readonly object[]): Promise<void> => {
      if (values.length > 0)
        await tx.query(
          sql`insert into ${raw(table)} select * from jsonb_populate_recordset(null::${raw(table)}, ${JSON.stringify(values)}::jsonb)`,
        );
    };
    await insert(
      'projection.institution',
      world.institutions.map((i) => ({ ...i, msp: i.inst, signing_jwk: {}, encryption_jwk: {}, block: 0 })),
    );
    await insert(
      'projection.member',
      world.members.map((m) => ({ ...m, valid_until: at(m.validUntil), block: 0 })),
    );
    const patients = world.patients.map((p) => ({ ...p, custody: true, block: 0 }));
    await insert('projection.patient', patients);
    await insert(
      'projection.category_key',
      patients.flatMap((p) =>
        p.keys.flatMap((c) => [1, 2].map((version) => ({ inst: p.inst, pat: p.pat, category: c, version, public_jwk: {}, block: 0 }))),
      ),
    );
    await insert(
      'projection.emergency',
      patients.flatMap((p) =>
        p.emergencies.map((e, i) => ({
          inst: p.inst,
          pat: p.pat,
          id: `emg-${i}`,
          member: e.member,
          from_time: at(e.from),
          until_time: at(e.until),
          block: 0,
        })),
      ),
    );
    const heads = patients.flatMap((p) =>
      p.heads.map((h) => ({
        ...h,
        inst: p.inst,
        pat: p.pat,
        seq: 1,
        status: 'active',
        parent_grantor: h.parent?.grantor ?? null,
        parent_grantee: h.parent?.grantee ?? null,
        recorded_at: at(0),
        tx_id: 'tx',
        block: 0,
      })),
    );
    await insert('projection.permission', heads);
    await insert(
      'projection.clause',
      heads.flatMap((h) =>
        h.clauses.map((c, n) => ({
          ...c,
          inst: h.inst,
          pat: h.pat,
          grantor: h.grantor,
          grantee: h.grantee,
          category: h.category,
          n,
          period_start: c.periodStart,
          period_end: c.periodEnd,
          data_start: c.dataStart,
          data_end: c.dataEnd,
        })),
      ),
    );
    const revoked = heads
      .filter((h) => h.revoking !== 'none')
      .map((h, n) => ({ ...h, used_key: `used/${n}`, outbox: 'obx', created_at: at(0) }));
    await insert('revocation', revoked);
    await insert(
      'projection.state',
      revoked.filter((h) => h.revoking === 'projected').map((h) => ({ key: h.used_key, block: 0, tx: 0, value: '{}' })),
    );
  });
}

export function decisionState(world: World): HeldState {
  const state = createDecisionState();
  for (const { inst, status } of world.institutions) state.setInstitution(inst, status);
  for (const m of world.members) state.setMember(m.inst, m.mem, { role: m.role, status: m.status, validUntil: at(m.validUntil).getTime() });
  for (const p of world.patients) {
    state.setPatient(p.inst, p.pat, p.status);
    for (const h of p.heads) {
      const head: HeadFacts = {
        grantor: h.grantor,
        grantee: h.grantee,
        category: h.category,
        sequence: 1,
        parent: h.parent,
        clauses: h.clauses.map(clauseFacts),
        revoking: h.revoking === 'pending',
      };
      state.setHead(p.inst, p.pat, head);
    }
    for (const e of p.emergencies)
      state.addEmergency(p.inst, p.pat, { member: e.member, from: at(e.from).getTime(), until: at(e.until).getTime() });
  }
  return state;
}

export function questionOf(q: Asked, p: { inst: string; pat: string }, of: string): Question {
  const { actor } = q;
  const { institution } = actor;
  return {
    actor:
      actor.kind === 'patient'
        ? { kind: 'patient', institution, patient: actor.patient }
        : actor.kind === 'member'
          ? { kind: 'member', institution, member: actor.member }
          : { kind: 'organization', institution },
    patient: { institution: p.inst, patient: p.pat },
    category: of,
    right: q.right,
    purpose: q.purpose,
    at: q.now.getTime(),
    emergency: isEmergency(q.purpose),
  };
}

/** What the decision lets through, as the scope says it: `patient/category: periods`, and `core` for readers of anything. */
export function expectedScope(world: World, state: HeldState, q: Asked): Map<string, string> {
  const expected = new Map<string, string>();
  for (const p of world.patients) {
    const key = `${p.inst}/${p.pat}`;
    const decisions = CATEGORIES.map((of): [string, Decision] => [of, decide(state, questionOf(q, p, of))]);
    for (const [of, decision] of decisions) {
      // A category exists by its key.
      const everything = decision.reason === 'EMERGENCY' || decision.reason === 'OWN_RECORD';
      if (decision.decision === 'permit' && (!everything || p.keys.includes(of)))
        expected.set(`${key}/${of}`, decision.dataPeriods.map(({ start, end }) => `${start}..${end}`).join(' '));
    }
    const own = q.actor.kind === 'patient' && q.actor.institution === p.inst && q.actor.patient === p.pat && p.status === 'active';
    if (own || (q.right === 'read' && CATEGORIES.some((of) => expected.has(`${key}/${of}`)))) expected.set(`${key}/core`, 'null..null');
  }
  return expected;
}
