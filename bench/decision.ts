import { type ClauseFacts, decide, type HeadFacts, type Question } from '../src/ledger/contract/decision.ts';
import { createDecisionState, type HeldState } from '../src/ledger/contract/decision-state.ts';
import { collectGarbage, median, ownCpuMs, random } from './measure.ts';
import type { BenchRow, Progress } from './row.ts';

const PERMISSIONS = 1_000_000;
const PER_PATIENT = 10;
const MEMBERS = 5000;
const INSTITUTIONS = 10;
const CATEGORIES = ['laboratory', 'history-and-physical', 'radiation-dose'];
const ROLES = ['clinician', 'researcher', 'pharmacy'] as const;
const YEAR_MS = 365 * 86_400_000;
const NOW = Date.UTC(2026, 5, 1);
const ROUNDS = 60;
const DECISIONS_PER_ROUND = 5000;

/**
 * The pure decision over a million permissions held in memory: microseconds of CPU per decision, by kinds of question, and
 * the memory that the permissions take.
 */
export async function benchDecision({ progress }: { progress: Progress }): Promise<BenchRow[]> {
  progress(`holding ${PERMISSIONS.toLocaleString('en')} permissions`);
  collectGarbage();
  const before = process.memoryUsage().heapUsed;
  const state = fill();
  collectGarbage();
  const heldBytes = process.memoryUsage().heapUsed - before;

  const rows: BenchRow[] = [];
  const kinds: [string, (draw: () => number) => Question][] = [
    ['of a permission or none, mixed', mixed],
    ['through 16 clauses with data periods', (draw) => ({ ...question(draw), patient: at(0, 'pat-widest') })],
    ['of what was shared on twice', (draw) => ({ ...question(draw), patient: at(0, 'pat-shared'), purpose: 'TREAT', actor: actor(2) })],
  ];
  for (const [name, make] of kinds) {
    progress(`decisions ${name}`);
    const ours = microseconds(state, make);
    rows.push({ name: `decision ${name}`, ours, unit: 'µs CPU', target: '<= 20', met: ours <= 20 });
  }
  rows.push({
    name: 'decision: permissions held',
    ours: PERMISSIONS,
    unit: `in ${Math.round(heldBytes / 1e6)} MB`,
    target: '>= 1000000',
    met: true,
  });
  return rows;
}

/** Median over rounds, each with questions of its own that were made beforehand. */
function microseconds(state: HeldState, make: (draw: () => number) => Question): number {
  const draw = random(7);
  const samples: number[] = [];
  let permits = 0;
  for (let round = 0; round < ROUNDS; round += 1) {
    const questions = Array.from({ length: DECISIONS_PER_ROUND }, () => make(draw));
    const start = ownCpuMs();
    for (const one of questions) if (decide(state, one).decision === 'permit') permits += 1;
    samples.push(((ownCpuMs() - start) * 1000) / DECISIONS_PER_ROUND);
  }
  // Questions that all end at the first test would measure nothing.
  if (permits === 0) throw new Error('the bench asks only what is denied');
  return median(samples);
}

function fill(): HeldState {
  const state = createDecisionState('deny');
  const draw = random(1);
  for (let n = 0; n < INSTITUTIONS; n += 1) state.setInstitution(institution(n), 'active');
  for (let n = 0; n < MEMBERS; n += 1) {
    const role = ROLES[n % ROLES.length] ?? 'clinician';
    state.setMember(institution(n % INSTITUTIONS), `mem-${n}`, { role, status: 'active', validUntil: NOW + YEAR_MS });
  }
  let left = PERMISSIONS - 20;
  for (let patient = 0; left > 0; patient += 1) {
    const { institution: inst, patient: pat } = at(patient % INSTITUTIONS, `pat-${patient}`);
    state.setPatient(inst, pat, 'active');
    for (let n = 0; n < PER_PATIENT && left > 0; n += 1, left -= 1) {
      state.setHead(inst, pat, head({ grantee: granteeOf(patient, n), category: category(n), clauses: [clause(draw)] }));
    }
  }
  fillWidest(state);
  fillShared(state);
  state.height = 1;
  return state;
}

/** Member, organisation and role in turn, so that a decision has several heads to join. */
function granteeOf(patient: number, n: number): string {
  if (n === 0) return `organization:${institution(patient % INSTITUTIONS)}`;
  if (n === 1) return 'role:researcher';
  const member = (patient * 31 + n) % MEMBERS;
  return `member:${institution(member % INSTITUTIONS)}:mem-${member}`;
}

/** Every member holds sixteen clauses with data periods of a month each, some denied. */
function fillWidest(state: HeldState): void {
  const { institution: inst, patient: pat } = at(0, 'pat-widest');
  const draw = random(3);
  const clauses = Array.from({ length: 16 }, (_, n) => ({
    ...clause(draw),
    permit: n % 5 !== 4,
    purposes: null,
    dataFrom: NOW - (n + 1) * 30 * 86_400_000,
    dataBefore: NOW - n * 30 * 86_400_000,
  }));
  state.setPatient(inst, pat, 'active');
  for (let n = 0; n < INSTITUTIONS; n += 1)
    for (const one of CATEGORIES)
      state.setHead(inst, pat, head({ grantee: `organization:${institution(n)}`, category: one, clauses: clauses.slice(0, 16) }));
}

/** Patient to member 0, to member 1, to member 2. */
function fillShared(state: HeldState): void {
  const { institution: inst, patient: pat } = at(0, 'pat-shared');
  const draw = random(4);
  state.setPatient(inst, pat, 'active');
  for (const one of CATEGORIES) {
    let grantor = 'patient';
    let parent: HeadFacts['parent'] = null;
    for (let n = 0; n < 3; n += 1) {
      const grantee = `member:${institution(n)}:mem-${n}`;
      const clauses = [{ ...clause(draw), rights: ['read', 'share'] as const, purposes: null }];
      state.setHead(inst, pat, { ...head({ grantee, category: one, clauses }), grantor, parent });
      parent = { grantor, grantee };
      grantor = grantee;
    }
  }
}

function head({
  grantee,
  category: ofCategory,
  clauses,
}: {
  grantee: string;
  category: string;
  clauses: readonly ClauseFacts[];
}): HeadFacts {
  return { grantor: 'patient', grantee, category: ofCategory, sequence: 1, parent: null, clauses };
}

function clause(draw: () => number): ClauseFacts {
  return {
    permit: true,
    emergency: false,
    rights: ['read'],
    purposes: draw() < 0.5 ? null : ['TREAT', 'HPAYMT'],
    from: NOW - YEAR_MS,
    to: draw() < 0.9 ? NOW + YEAR_MS : NOW - 1,
    dataFrom: Number.NEGATIVE_INFINITY,
    dataBefore: Number.POSITIVE_INFINITY,
    consent: `con-${Math.floor(draw() * 1e9)}`,
  };
}

/** Half of the questions are about somebody who was granted something. */
function mixed(draw: () => number): Question {
  const patient = Math.floor(draw() * (PERMISSIONS / PER_PATIENT - 2));
  const n = 2 + Math.floor(draw() * (PER_PATIENT - 2));
  const member = draw() < 0.5 ? (patient * 31 + n) % MEMBERS : Math.floor(draw() * MEMBERS);
  return { ...question(draw), actor: actor(member), patient: at(patient % INSTITUTIONS, `pat-${patient}`), category: category(n) };
}

function question(draw: () => number): Question {
  return {
    actor: actor(Math.floor(draw() * MEMBERS)),
    patient: at(0, 'pat-0'),
    category: category(Math.floor(draw() * CATEGORIES.length)),
    right: 'read',
    purpose: draw() < 0.7 ? 'TREAT' : 'HRESCH',
    at: NOW,
  };
}

function actor(member: number): Question['actor'] {
  return { kind: 'member', institution: institution(member % INSTITUTIONS), member: `mem-${member}` };
}
function at(n: number, patient: string): Question['patient'] {
  return { institution: institution(n), patient };
}
function institution(n: number): string {
  return `inst-${n}`;
}
function category(n: number): string {
  return CATEGORIES[n % CATEGORIES.length] ?? '';
}
