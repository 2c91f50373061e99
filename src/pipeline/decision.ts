import type { RawRecord } from '../adapters/source.ts';
import type { Classifier } from '../records/classify.ts';
import type { Description } from '../records/describe.ts';
import { millisOf } from '../records/elements.ts';
import type { JsonObject } from '../records/lossless-json.ts';
import type { Reason } from '../records/reasons.ts';
import type { RecordRow } from '../store/records.ts';

/** A raw record with what its text says, and the names under which it is looked up. */
export interface Seen {
  raw: RawRecord;
  rec: string;
  ref: string;
  key: string;
  versionKey: string;
  resource?: JsonObject;
  description?: Description;
  content: string;
  /** The resource cannot be read. */
  invalid: boolean;
}

/** What becomes of a record version (architecture section 3, step 3). */
export interface Decided {
  outcome: RecordRow['outcome'];
  reason: string | null;
  rule: string | null;
  category: string | null;
  pat: string | null;
  current: boolean;
}

/**
 * The stored decision on a record version: pure, so that the same facts always give the same one, at intake and at a replay.
 * `before`: the current version of the same fact, if there is one. `newest`: no newer one came in the same page.
 */
export function decide(
  s: Seen,
  before: { content: string; last_updated: Date | null; outcome: string; pat: string | null } | undefined,
  patient: { pat: string | null; reason: string | null } | undefined,
  newest: boolean,
  by: { source: string; stream: string; classify: Classifier },
): Decided {
  const pat = patient?.pat ?? null;
  const none = { rule: null, category: null, pat };
  const skip = (reason: Reason, current: boolean, rule: string | null = null): Decided => ({
    ...none,
    outcome: 'skip',
    reason,
    rule,
    current,
  });
  const hold = (reason: Reason, rule: string | null = null): Decided => ({
    ...none,
    outcome: 'quarantine',
    reason,
    rule,
    current: newest,
  });
  if (s.raw.deleted === true)
    return before === undefined
      ? skip('DELETED_AT_SOURCE', true)
      : { ...none, pat: before.pat, outcome: 'pending', reason: null, current: true };
  if (s.invalid || s.description === undefined || s.resource === undefined) return hold('CONTENT_INVALID');
  // An older statement that comes late never overwrites a newer one (edge case 33).
  if (!newest || (before?.last_updated && orderOf(s) !== 0 && orderOf(s) < before.last_updated.getTime())) return skip('SUPERSEDED', false);
  if (before !== undefined && before.content === s.content && before.outcome !== 'quarantine') return skip('DUPLICATE_HASH', false);
  if (s.description.role === 'patient' || s.description.role === 'directory' || s.description.role === 'appointment')
    return skip('NOT_CLINICAL', true);

  const classified = by.classify(s.resource, { source: by.source, stream: by.stream, description: s.description });
  // A rule that skips a withdrawn or drafted version must not leave the earlier one standing: assembly withdraws it.
  const wasOwn = before?.outcome === 'own' || before?.outcome === 'pending';
  if (classified.outcome === 'skip' && !(wasOwn && s.description.status === 'withdrawn'))
    return skip(classified.reason ?? 'NO_RULE_MATCH', true, classified.rule);
  if (classified.outcome === 'quarantine') return hold(classified.reason ?? 'NO_RULE_MATCH', classified.rule);
  // A note whose content cannot be had is no note: it is held with what there is.
  const problem = s.raw.attachments?.find((attachment) => attachment.problem !== undefined)?.problem;
  if (problem !== undefined) return hold(attachmentReason(problem), classified.rule);
  if (s.description.patient === undefined || patient === undefined) return hold('PATIENT_UNKNOWN', classified.rule);
  if (patient.pat === null) {
    const reason = (patient.reason ?? 'PATIENT_UNKNOWN') as Reason;
    // Filed by an earlier version: held, so that the document of the patient whom it has left is found and withdrawn.
    return (reason === 'TEST_PATIENT' || reason === 'PATIENT_REJECTED' || reason === 'ERASED') && !wasOwn
      ? skip(reason, true, classified.rule)
      : hold(reason, classified.rule);
  }
  return { outcome: 'pending', reason: null, rule: classified.rule, category: classified.category ?? null, pat, current: true };
}

/** Milliseconds of what orders versions of one fact: issued, else lastUpdated; 0 where the source says neither. */
export function orderOf(s: Seen | undefined): number {
  return millisOf(s?.description?.orderTime) ?? millisOf(s?.raw.lastUpdated) ?? 0;
}

/** The adapter's words for what is wrong with an attachment, as reasons of ours. */
function attachmentReason(problem: string): Reason {
  if (problem === 'too-large') return 'TOO_LARGE';
  return /refused|scheme|unc|file/.test(problem) ? 'ATTACHMENT_REFUSED' : 'ATTACHMENT_UNAVAILABLE';
}
