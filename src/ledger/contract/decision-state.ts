import type { ClauseFacts, DecisionState, HeadFacts, ImplicitPolicy, MemberFacts, PatientFacts } from './decision.ts';
import type { Clause } from './shapes.ts';

/** A decision state held in memory: the contract's queries fill one for a patient, a bench holds a million permissions in one. */
export interface HeldState extends DecisionState {
  height: number | null;
  setInstitution(institution: string, status: 'active' | 'alarmed'): void;
  setMember(institution: string, member: string, facts: MemberFacts): void;
  setPatient(institution: string, patient: string, status: PatientFacts['status']): void;
  setHead(institution: string, patient: string, head: HeadFacts): void;
  addEmergency(institution: string, patient: string, emergency: { member: string; from: number; until: number }): void;
}

class HeldPatient implements PatientFacts {
  status: PatientFacts['status'] = 'active';
  readonly #heads = new Map<string, HeadFacts[]>();
  readonly #emergencies: { member: string; from: number; until: number }[] = [];

  heads(category: string, grantee: string): readonly HeadFacts[] {
    return this.#heads.get(`${category}/${grantee}`) ?? [];
  }
  emergency(member: string, at: number): boolean {
    return this.#emergencies.some((one) => one.member === member && one.from <= at && at < one.until);
  }
  set(head: HeadFacts): void {
    const key = `${head.category}/${head.grantee}`;
    const others = (this.#heads.get(key) ?? []).filter((one) => one.grantor !== head.grantor);
    this.#heads.set(key, [...others, head]);
  }
  declare(emergency: { member: string; from: number; until: number }): void {
    this.#emergencies.push(emergency);
  }
}

export function createDecisionState(implicit: ImplicitPolicy = 'deny'): HeldState {
  const patients = new Map<string, HeldPatient>();
  const members = new Map<string, MemberFacts>();
  const institutions = new Map<string, 'active' | 'alarmed'>();
  const held = (institution: string, patient: string): HeldPatient => {
    const key = `${institution}/${patient}`;
    const found = patients.get(key) ?? new HeldPatient();
    patients.set(key, found);
    return found;
  };
  return {
    height: null,
    implicit,
    patient: (institution, patient) => patients.get(`${institution}/${patient}`),
    member: (institution, member) => members.get(`${institution}/${member}`),
    institution: (institution) => institutions.get(institution),
    setInstitution: (institution, status) => void institutions.set(institution, status),
    setMember: (institution, member, facts) => void members.set(`${institution}/${member}`, facts),
    setPatient(institution, patient, status) {
      held(institution, patient).status = status;
    },
    setHead: (institution, patient, head) => held(institution, patient).set(head),
    addEmergency: (institution, patient, emergency) => held(institution, patient).declare(emergency),
  };
}

/** A clause as signed -> as decided on. */
export function clauseFacts(clause: Clause): ClauseFacts {
  return {
    permit: clause.effect === 'permit',
    emergency: clause.emergency,
    rights: clause.rights,
    purposes: clause.purposes,
    from: clause.periodStart === null ? Number.NEGATIVE_INFINITY : Date.parse(clause.periodStart),
    to: clause.periodEnd === null ? Number.POSITIVE_INFINITY : Date.parse(clause.periodEnd),
    dataFrom: clause.dataStart === null ? Number.NEGATIVE_INFINITY : Date.parse(clause.dataStart),
    dataBefore: clause.dataEnd === null ? Number.POSITIVE_INFINITY : Date.parse(clause.dataEnd) + 1,
    consent: clause.consent,
  };
}
