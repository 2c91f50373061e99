import type { Right, Role } from './shapes.ts';

/**
 * The decision (architecture section 7): one pure, synchronous function. `consent` says the same in SQL, and a differential
 * test compares the two.
 */
export function decide(state: DecisionState, question: Question): Decision {
  return new Deciding(state, question).decide();
}

export interface Question {
  /** A person (patient or member), or a system acting as its organisation. */
  readonly actor:
    | { readonly kind: 'patient'; readonly institution: string; readonly patient: string }
    | { readonly kind: 'member'; readonly institution: string; readonly member: string }
    | { readonly kind: 'organization'; readonly institution: string };
  readonly patient: { readonly institution: string; readonly patient: string };
  readonly category: string;
  readonly right: Right;
  /** HL7 v3 PurposeOfUse code. */
  readonly purpose: string;
  /** Moment, in milliseconds since 1970 UTC. */
  readonly at: number;
  /** The actor declares an emergency (break-glass); it counts only with a live declaration in the state. */
  readonly emergency?: boolean;
  /** Set where one document is asked for. `misfiled`: filed to the wrong person, which its producer alone knows. */
  readonly document?: { readonly withdrawn: boolean; readonly misfiled?: { readonly producer: string } };
}

export const REASONS = {
  OWN_RECORD: 'The patient reads their own record.',
  PERMISSION: 'A live permission covers the question.',
  EMERGENCY: 'Emergency access was declared.',
  IMPLICIT: 'The configured implicit policy permits.',
  MISFILED_REVIEW: "The producer's privacy officer reviews a misfiled document.",
  WITHDRAWN: 'The document has been withdrawn.',
  PATIENT_UNKNOWN: 'The patient is not enrolled.',
  PATIENT_ERASED: 'The patient has been erased.',
  LEDGER_ALARM: 'The ledger holds something about patient or actor that does not follow from its own rules.',
  ACTOR_UNKNOWN: 'The member or organisation is not registered.',
  MEMBER_SUSPENDED: 'The member is suspended.',
  MEMBER_EXPIRED: "The member's registration has expired.",
  DENIED_ALWAYS: 'The patient denies this, in emergencies too.',
  DENIED: 'The patient denies this.',
  NO_PERMISSION: 'No live permission covers category, right, purpose and moment.',
} as const;
export type Reason = keyof typeof REASONS;

/** What would change a denial. `WAIT`: a period begins later. */
export type Change =
  | 'GRANT'
  | 'GRANT_RIGHT'
  | 'GRANT_PURPOSE'
  | 'RENEW_PERIOD'
  | 'WAIT'
  | 'END_DENY'
  | 'RENEW_MEMBER'
  | 'ENROLL'
  | 'DECLARE_EMERGENCY'
  | 'CLEAR_ALARM';

export interface Decision {
  readonly decision: 'permit' | 'deny';
  readonly reason: Reason;
  /** The first permission that permits, or that denies. */
  readonly permission: { grantor: string; grantee: string; category: string; sequence: number; consent: string } | null;
  /**
   * A row may be served where it lies wholly inside one of these. Disjoint and in order; what overlaps or touches has been
   * joined, and denied data periods have been cut out. Ends count in, null is open. Empty on a denial.
   */
  readonly dataPeriods: readonly { start: string | null; end: string | null }[];
  /** Blocks applied to the state that decided; null where the host does not say. */
  readonly height: number | null;
  readonly change: readonly Change[];
}

/** What a decision needs to know, found in constant time. decision-state.ts builds one. */
export interface DecisionState {
  readonly height: number | null;
  readonly implicit: ImplicitPolicy;
  patient(institution: string, patient: string): PatientFacts | undefined;
  member(institution: string, member: string): MemberFacts | undefined;
  institution(institution: string): 'active' | 'alarmed' | undefined;
}
export type ImplicitPolicy = 'deny' | 'permit' | 'permit-treatment';

export interface PatientFacts {
  readonly status: 'active' | 'erased' | 'alarmed';
  /** Heads of this category and grantee, whoever granted. */
  heads(category: string, grantee: string): readonly HeadFacts[];
  /** Whether this member has declared an emergency that is live at the moment. */
  emergency(member: string, at: number): boolean;
}
export interface MemberFacts {
  readonly role: Role;
  readonly status: 'active' | 'suspended' | 'alarmed';
  /** Milliseconds; from this moment on the registration has expired. */
  readonly validUntil: number;
}
export interface HeadFacts {
  readonly grantor: string;
  readonly grantee: string;
  readonly category: string;
  readonly sequence: number;
  readonly parent: { readonly grantor: string; readonly grantee: string } | null;
  readonly clauses: readonly ClauseFacts[];
  /** A revocation that this institution has accepted and not yet seen on the ledger: permits nothing any more. */
  readonly revoking?: boolean;
}
export interface ClauseFacts {
  readonly permit: boolean;
  readonly emergency: boolean;
  readonly rights: readonly Right[];
  /** null: any. */
  readonly purposes: readonly string[] | null;
  /** Milliseconds, both ends count in; infinite where open. */
  readonly from: number;
  readonly to: number;
  /** Data period in milliseconds, half open; infinite where open. */
  readonly dataFrom: number;
  readonly dataBefore: number;
  readonly consent: string;
}

/** Functions of roles that the decision asks for; a role is a set of functions, never a name in logic. */
const FUNCTIONS: Readonly<Record<Role, readonly ('emergency' | 'misfiled-review')[]>> = {
  clinician: ['emergency'],
  carer: [],
  researcher: [],
  insurer: [],
  pharmacy: [],
  registrar: [],
  'privacy-officer': ['misfiled-review'],
};
export function hasFunction(role: Role, wanted: 'emergency' | 'misfiled-review'): boolean {
  return FUNCTIONS[role].includes(wanted);
}

/** How far a permission may be shared on: patient to A, A to B, B to C. */
const MAX_DEPTH = 3;

type Period = readonly [from: number, before: number];
const ALL: readonly Period[] = [[Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY]];
const NONE: readonly Period[] = [];

class Deciding {
  readonly #state: DecisionState;
  readonly #q: Question;
  constructor(state: DecisionState, question: Question) {
    this.#state = state;
    this.#q = question;
  }

  decide(): Decision {
    const q = this.#q;
    const { actor } = q;
    const member = actor.kind === 'member' ? this.#state.member(actor.institution, actor.member) : undefined;
    if (q.document?.withdrawn) {
      const producer = q.document.misfiled?.producer;
      const officer = member !== undefined && this.#inForce(member) === undefined && hasFunction(member.role, 'misfiled-review');
      return officer && producer === actor.institution && q.right === 'read'
        ? this.#permit('MISFILED_REVIEW', ALL)
        : this.#deny('WITHDRAWN', []);
    }
    const patient = this.#state.patient(q.patient.institution, q.patient.patient);
    if (patient === undefined) return this.#deny('PATIENT_UNKNOWN', ['ENROLL']);
    if (patient.status === 'erased') return this.#deny('PATIENT_ERASED', []);
    if (patient.status === 'alarmed') return this.#deny('LEDGER_ALARM', ['CLEAR_ALARM']);
    if (actor.kind === 'patient') {
      const own = actor.institution === q.patient.institution && actor.patient === q.patient.patient;
      return own ? this.#permit('OWN_RECORD', ALL) : this.#deny('NO_PERMISSION', ['GRANT']);
    }

    const institution = this.#state.institution(actor.institution);
    if (institution === undefined) return this.#deny('ACTOR_UNKNOWN', ['RENEW_MEMBER']);
    if (institution === 'alarmed') return this.#deny('LEDGER_ALARM', ['CLEAR_ALARM']);
    const grantees = [`organization:${actor.institution}`];
    if (actor.kind === 'member') {
      if (member === undefined) return this.#deny('ACTOR_UNKNOWN', ['RENEW_MEMBER']);
      const fault = this.#inForce(member);
      if (fault !== undefined) return this.#deny(fault, [fault === 'LEDGER_ALARM' ? 'CLEAR_ALARM' : 'RENEW_MEMBER']);
      grantees.push(`member:${actor.institution}:${actor.member}`, `role:${member.role}`);
    }
    const heads = grantees.flatMap((grantee) => patient.heads(q.category, grantee));
    return this.#byPermissions(patient, heads, actor, member);
  }

  #byPermissions(
    patient: PatientFacts,
    heads: readonly HeadFacts[],
    actor: Exclude<Question['actor'], { kind: 'patient' }>,
    member: MemberFacts | undefined,
  ): Decision {
    const q = this.#q;
    let denied = NONE;
    let deniedAlways = NONE;
    let denying: Decision['permission'] = null;
    for (const head of heads) {
      // Only the patient denies: what is shared on can but narrow its own tree.
      if (head.grantor !== 'patient') continue;
      for (const clause of head.clauses) {
        if (clause.permit || !this.#matches(clause, q.right)) continue;
        denied = join(denied, [[clause.dataFrom, clause.dataBefore]]);
        if (clause.emergency) deniedAlways = join(deniedAlways, [[clause.dataFrom, clause.dataBefore]]);
        denying ??= named(head, clause);
      }
    }
    if (cut(ALL, deniedAlways).length === 0) return this.#deny('DENIED_ALWAYS', ['END_DENY'], denying);
    const declared =
      q.emergency === true &&
      q.right === 'read' &&
      actor.kind === 'member' &&
      member !== undefined &&
      hasFunction(member.role, 'emergency');
    if (declared && actor.kind === 'member' && patient.emergency(`member:${actor.institution}:${actor.member}`, q.at)) {
      return this.#permit('EMERGENCY', cut(ALL, deniedAlways));
    }
    if (cut(ALL, denied).length === 0) return this.#deny('DENIED', ['END_DENY'], denying);

    let permitted = NONE;
    let permitting: Decision['permission'] = null;
    for (const head of heads) {
      const periods = this.#effective(patient, head, q.right, 1);
      if (periods.length === 0) continue;
      permitted = join(permitted, periods);
      const clause = head.clauses.find((one) => one.permit && this.#matches(one, q.right));
      if (clause !== undefined) permitting ??= named(head, clause);
    }
    const left = cut(permitted, denied);
    if (left.length > 0) return this.#permit('PERMISSION', left, permitting);
    if (permitted.length > 0) return this.#deny('DENIED', ['END_DENY'], denying);
    const implicit = this.#state.implicit === 'permit' || (this.#state.implicit === 'permit-treatment' && q.purpose === 'TREAT');
    if (implicit && q.right === 'read') return this.#permit('IMPLICIT', cut(ALL, denied));
    return this.#deny('NO_PERMISSION', this.#missing(heads, member));
  }

  /** The data periods for which this head grants the right: intersected with every head above it, up to the patient's. */
  #effective(patient: PatientFacts, head: HeadFacts, right: Right, depth: number): readonly Period[] {
    if (head.revoking) return NONE;
    let permitted = NONE;
    let denied = NONE;
    for (const clause of head.clauses) {
      if (!this.#matches(clause, right)) continue;
      const period: readonly Period[] = [[clause.dataFrom, clause.dataBefore]];
      if (clause.permit) permitted = join(permitted, period);
      else denied = join(denied, period);
    }
    // What the patient denies the asker has been cut out for all heads together.
    if (head.grantor === 'patient' && depth === 1) return permitted;
    const own = cut(permitted, denied);
    if (head.grantor === 'patient' || own.length === 0) return own;
    if (head.parent === null || depth >= MAX_DEPTH) return NONE;
    const { grantor, grantee } = head.parent;
    const parent = patient.heads(head.category, grantee).find((one) => one.grantor === grantor);
    if (parent === undefined) return NONE;
    const above = meet(this.#effective(patient, parent, right, depth + 1), this.#effective(patient, parent, 'share', depth + 1));
    return meet(own, above);
  }

  #matches(clause: ClauseFacts, right: Right): boolean {
    const { at, purpose } = this.#q;
    return (
      clause.from <= at &&
      at <= clause.to &&
      clause.rights.includes(right) &&
      (clause.purposes === null || clause.purposes.includes(purpose))
    );
  }

  #inForce(member: MemberFacts): 'MEMBER_SUSPENDED' | 'MEMBER_EXPIRED' | 'LEDGER_ALARM' | undefined {
    if (member.status === 'alarmed') return 'LEDGER_ALARM';
    if (member.status === 'suspended') return 'MEMBER_SUSPENDED';
    return this.#q.at >= member.validUntil ? 'MEMBER_EXPIRED' : undefined;
  }

  /** Names the nearest miss among what was granted; else a grant is what is missing. */
  #missing(heads: readonly HeadFacts[], member: MemberFacts | undefined): Change[] {
    const { at, purpose, right, emergency } = this.#q;
    const change = new Set<Change>();
    for (const clause of heads.flatMap((head) => (head.revoking ? [] : head.clauses))) {
      if (!clause.permit) continue;
      if (!clause.rights.includes(right)) change.add('GRANT_RIGHT');
      else if (clause.purposes !== null && !clause.purposes.includes(purpose)) change.add('GRANT_PURPOSE');
      else if (at < clause.from) change.add('WAIT');
      else if (at > clause.to) change.add('RENEW_PERIOD');
    }
    if (change.size === 0) change.add('GRANT');
    if (emergency === true && member !== undefined && hasFunction(member.role, 'emergency')) change.add('DECLARE_EMERGENCY');
    return [...change];
  }

  #permit(reason: Reason, periods: readonly Period[], permission: Decision['permission'] = null): Decision {
    const dataPeriods = periods.map(([from, before]) => ({ start: iso(from), end: iso(before - 1) }));
    return { decision: 'permit', reason, permission, dataPeriods, height: this.#state.height, change: [] };
  }
  #deny(reason: Reason, change: readonly Change[], permission: Decision['permission'] = null): Decision {
    return { decision: 'deny', reason, permission, dataPeriods: [], height: this.#state.height, change };
  }
}

function named(head: HeadFacts, clause: ClauseFacts): Decision['permission'] {
  return { grantor: head.grantor, grantee: head.grantee, category: head.category, sequence: head.sequence, consent: clause.consent };
}

function iso(time: number): string | null {
  return Number.isFinite(time) ? new Date(time).toISOString() : null;
}

/** Union; disjoint, in order, touching ones joined. */
function join(a: readonly Period[], b: readonly Period[]): readonly Period[] {
  if (a.length === 0) return b;
  if (b.length === 0 || a === ALL) return a;
  const joined: Period[] = [];
  for (const period of [...a, ...b].sort((x, y) => x[0] - y[0] || x[1] - y[1])) {
    const last = joined.at(-1);
    if (last !== undefined && period[0] <= last[1]) joined[joined.length - 1] = [last[0], Math.max(last[1], period[1])];
    else joined.push(period);
  }
  return joined;
}

function meet(a: readonly Period[], b: readonly Period[]): readonly Period[] {
  const met: Period[] = [];
  for (const [from, before] of a) {
    for (const other of b) {
      const start = Math.max(from, other[0]);
      const end = Math.min(before, other[1]);
      if (start < end) met.push([start, end]);
    }
  }
  return met;
}

/** `a` without `b`. */
function cut(a: readonly Period[], b: readonly Period[]): readonly Period[] {
  let left = a;
  for (const [from, before] of b) {
    left = left.flatMap(([start, end]): Period[] => {
      if (before <= start || end <= from) return [[start, end]];
      const parts: Period[] = [];
      if (start < from) parts.push([start, from]);
      if (before < end) parts.push([before, end]);
      return parts;
    });
  }
  return left;
}
