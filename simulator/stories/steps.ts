/**
 * What happens after the first day, by name, and to whom: the patients get another appointment, which is how a puller that asks ARIA for
 * changed appointments learns of it. `applyCorrections` takes those of CORRECTIONS in this order.
 */
export const STEPS = {
  /** The potassium of a metabolic panel: final -> corrected. */
  'lab-corrected': ['phuong'],
  /** A coagulation report: final -> cancelled, values gone. */
  'lab-cancelled': ['okafor'],
  /** preliminary -> final with another digit. */
  'lab-finalized': ['whitcombe'],
  /** One more PSA. */
  'new-lab': ['volkov'],
  /** Two more fractions of a course in progress. */
  'course-advanced': ['phuong'],
  /** ARIA note: final -> amended, same document. */
  'note-amended': ['volkov'],
  /** EHR note: the same document now belongs to another patient. */
  'note-moved': ['brennan', 'whitcombe'],
  /** ARIA note: draft -> final. */
  'note-signed': ['phuong'],
  /** lastUpdated and version rise, the content stays. */
  'meta-touched': ['seoyeon'],
  // -- not among the corrections: for tests that ask for them --
  /** A second EHR note that appends to an existing one. */
  'note-addendum': ['phuong'],
  /** The Completed click: status only, no new fraction. */
  'course-completed': ['phuong'],
  /** A whole course: entered-in-error. */
  'course-entered-in-error': ['okafor'],
  /** A report and its results are gone: 410 and absent from searches. */
  'lab-deleted': ['brennan'],
} as const satisfies Record<string, readonly string[]>;
export type StepName = keyof typeof STEPS;

export const CORRECTIONS = [
  'lab-corrected',
  'lab-cancelled',
  'lab-finalized',
  'new-lab',
  'course-advanced',
  'note-amended',
  'note-moved',
  'note-signed',
  'meta-touched',
] as const satisfies readonly StepName[];
