import type { Description } from './describe.ts';
import { compareText, compareTimes } from './elements.ts';

/**
 * What one document is about, out of the links of the records of one patient at one source (architecture.md section 1):
 * one laboratory report, else an orphan result's specimen and collection time; one note with what replaces and amends it;
 * one course with its phases, plans, requests and volumes.
 */
export interface Subject {
  category: 'laboratory' | 'history-and-physical' | 'radiation-dose';
  /**
   * Names the subject at its source; hash it before storing. For a course that carries a database id or a DICOM UID it
   * never changes; where only a request is known, it changes once to the course's own when that arrives.
   */
  key: string;
  /** Earlier or other names that records of this subject may have been filed under while less was known. */
  aliases: readonly string[];
  /** The record that stands for the subject: its withdrawal withdraws the document. */
  anchor: string;
  /** Refs of the records that the document is about, the anchor first, then by ref. */
  own: readonly string[];
  /** Volumes that belong to an earlier course's document and are only drawn here. */
  context: readonly string[];
  /** False while only volumes are known: nothing was delivered, planned or prescribed that a document could be about. */
  fileable: boolean;
}

/**
 * The subjects of the current records of ONE patient at ONE source, in a fixed order. Pure and total: dangling links are
 * ignored, cycles end. Every record with a role of a category is own in exactly one subject.
 * A caller that assembles only one subject passes what is reachable over ASSEMBLING links in both directions.
 */
export function subjectsOf(records: readonly Description[]): readonly Subject[] {
  const byRef = new Map(records.map((record) => [record.ref, record]));
  const ordered = [...byRef.values()].sort((a, b) => compareText(a.ref, b.ref));
  return [...laboratorySubjects(ordered, byRef), ...noteSubjects(ordered, byRef), ...courseSubjects(ordered, byRef)];
}

function laboratorySubjects(records: readonly Description[], byRef: ReadonlyMap<string, Description>): readonly Subject[] {
  const reports = records
    .filter((record) => record.role === 'laboratory-report')
    .sort((a, b) => compareTimes(a.orderTime, b.orderTime) || compareText(a.ref, b.ref));
  const claimed = new Set<string>();
  const subjects: Subject[] = [];
  const claim = (ref: string, into: string[]): void => {
    const record = byRef.get(ref);
    if (record?.role !== 'laboratory-result' || claimed.has(ref)) return;
    claimed.add(ref);
    into.push(ref);
    for (const link of record.links) if (link.relation === 'member') claim(link.target, into);
  };
  // The earliest report owns a result that several list; a withdrawn one owns nothing that another still reports.
  for (const withdrawn of [false, true]) {
    for (const report of reports) {
      if ((report.status === 'withdrawn') !== withdrawn) continue;
      const own: string[] = [];
      for (const link of report.links) if (link.relation === 'result') claim(link.target, own);
      subjects.push({
        category: 'laboratory',
        key: report.ref,
        aliases: [],
        anchor: report.ref,
        own: [report.ref, ...own.sort(compareText)],
        context: [],
        fileable: true,
      });
    }
  }
  const orphans = new Map<string, string[]>();
  for (const record of records) {
    if (record.role !== 'laboratory-result' || claimed.has(record.ref)) continue;
    const key = record.orphanKey ?? record.ref;
    orphans.set(key, [...(orphans.get(key) ?? []), record.ref]);
  }
  for (const [key, own] of orphans) {
    const anchor = own.find((ref) => byRef.get(ref)?.status !== 'withdrawn') ?? own[0] ?? key;
    subjects.push({
      category: 'laboratory',
      key,
      aliases: [],
      anchor,
      own: [anchor, ...own.filter((ref) => ref !== anchor)],
      context: [],
      fileable: true,
    });
  }
  return subjects;
}

function noteSubjects(records: readonly Description[], byRef: ReadonlyMap<string, Description>): readonly Subject[] {
  const notes = records.filter((record) => record.role === 'note');
  return components(notes, new Set(['replaces', 'appends', 'identity'])).map((members) => {
    const replaced = new Set<string>();
    for (const member of members) for (const link of member.links) if (link.relation === 'replaces') replaced.add(link.target);
    const isAddendum = (note: Description): boolean => note.links.some((link) => link.relation === 'appends');
    // The head is what nothing replaces and what amends nothing; the newest of those that still stand.
    const heads = members.filter((note) => !replaced.has(note.ref) && !isAddendum(note));
    const pool = heads.length > 0 ? heads : members;
    const standing = pool.filter((note) => note.status !== 'withdrawn' && !note.sourceStatus.startsWith('superseded'));
    const head = newest(standing.length > 0 ? standing : pool);
    const names = namesOf(members, 'identity');
    const root = rootOf(members, byRef);
    const key = names[0] ?? root;
    return {
      category: 'history-and-physical',
      key,
      aliases: [...new Set([...names, ...members.map((member) => member.ref), root])].filter((name) => name !== key).sort(compareText),
      anchor: head.ref,
      own: [head.ref, ...members.map((member) => member.ref).filter((ref) => ref !== head.ref)],
      context: [],
      fileable: true,
    };
  });
}

function courseSubjects(records: readonly Description[], byRef: ReadonlyMap<string, Description>): readonly Subject[] {
  const treatment = records.filter((record) => ['course', 'phase', 'plan', 'radiotherapy-request'].includes(record.role));
  const claimedVolumes = new Set<string>();
  const subjects = components(treatment, new Set(['partOf', 'basedOn', 'replaces', 'identity']))
    .map((members) => ({ members, anchor: courseAnchor(members) }))
    .sort((a, b) => compareTimes(a.anchor.clinicalTime, b.anchor.clinicalTime) || compareText(a.anchor.ref, b.anchor.ref))
    .map(({ members, anchor }): Subject => {
      const names = namesOf(members, 'identity');
      const key =
        names.find((name) => name.includes('/RadiotherapyCourse/RadOnc-Id|')) ??
        anchor.links.find((link) => link.relation === 'identity')?.target ??
        anchor.ref;
      const volumes = new Set<string>();
      for (const member of members) for (const link of member.links) if (link.relation === 'volume') volumes.add(link.target);
      const present = [...volumes].filter((ref) => byRef.get(ref)?.role === 'volume').sort(compareText);
      const context = present.filter((ref) => claimedVolumes.has(ref));
      const ownVolumes = present.filter((ref) => !claimedVolumes.has(ref));
      for (const ref of ownVolumes) claimedVolumes.add(ref);
      return {
        category: 'radiation-dose',
        key,
        aliases: [...new Set([...names, anchor.ref])].filter((name) => name !== key).sort(compareText),
        anchor: anchor.ref,
        own: [anchor.ref, ...members.map((member) => member.ref).filter((ref) => ref !== anchor.ref), ...ownVolumes],
        context,
        fileable: true,
      };
    });
  // A volume that no course names yet is not lost: it waits as the only record of a subject of its own.
  for (const record of records) {
    if (record.role !== 'volume' || claimedVolumes.has(record.ref)) continue;
    subjects.push({
      category: 'radiation-dose',
      key: record.ref,
      aliases: [],
      anchor: record.ref,
      own: [record.ref],
      context: [],
      fileable: false,
    });
  }
  return subjects;
}

/** The newest standing course summary; without one the planned course, the prescription, then any level down. */
function courseAnchor(members: readonly Description[]): Description {
  const rank = (record: Description): number => {
    const level = record.level === 'course' ? 0 : record.level === 'phase' ? 1 : 2;
    return level * 4 + (record.role === 'radiotherapy-request' ? 2 : 0) + (record.status === 'withdrawn' ? 1 : 0);
  };
  const best = Math.min(...members.map(rank));
  return newest(members.filter((member) => rank(member) === best));
}

/** Groups connected by these relations; a target that no record is (an identity, an absent parent) connects all the same. */
function components(records: readonly Description[], relations: ReadonlySet<string>): readonly (readonly Description[])[] {
  const parent = new Map<string, string>();
  const find = (node: string): string => {
    let root = node;
    for (let next = parent.get(root); next !== undefined && next !== root; next = parent.get(root)) root = next;
    parent.set(node, root);
    return root;
  };
  for (const record of records) {
    for (const link of record.links) {
      if (!relations.has(link.relation)) continue;
      const [a, b] = [find(record.ref), find(link.target)];
      if (a !== b) parent.set(a < b ? b : a, a < b ? a : b);
    }
  }
  const groups = new Map<string, Description[]>();
  for (const record of records) {
    const root = find(record.ref);
    const group = groups.get(root);
    if (group) group.push(record);
    else groups.set(root, [record]);
  }
  return [...groups.values()];
}

function namesOf(members: readonly Description[], relation: 'identity'): readonly string[] {
  const names = new Set<string>();
  for (const member of members) for (const link of member.links) if (link.relation === relation) names.add(link.target);
  return [...names].sort(compareText);
}

/** The first note of a chain, by ref; it may be one that never arrived. */
function rootOf(members: readonly Description[], byRef: ReadonlyMap<string, Description>): string {
  let ref = [...members].sort((a, b) => compareTimes(a.orderTime, b.orderTime) || compareText(a.ref, b.ref))[0]?.ref ?? '';
  for (const seen = new Set<string>(); !seen.has(ref); ) {
    seen.add(ref);
    ref = byRef.get(ref)?.links.find((link) => link.relation === 'replaces' || link.relation === 'appends')?.target ?? ref;
  }
  return ref;
}

function newest(records: readonly Description[]): Description {
  let best = records[0];
  for (const record of records) {
    if (best === undefined || compareTimes(record.orderTime, best.orderTime) > 0) best = record;
  }
  if (best === undefined) throw new RangeError('newest of nothing');
  return best;
}
