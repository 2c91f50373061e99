/**
 * The clinical model: what the renderer draws and what is said of a document elsewhere. Text of numbers is the source's
 * own (`2.00` stays `2.00`). Instants are ISO 8601 with offset or Z, dates are as precise as the source gave them.
 * A missing element is `undefined` and prints as "not provided by source", never as blank or zero.
 */

/** Category ids are data, not an enum: the registry in the config and contract names them. */
export type Category = string;

export interface SourceVersion {
  source: string;
  type: string;
  id: string;
  versionId: string;
}

export interface PatientHeader {
  name: string;
  /** As precise as known: `1958`, `1958-03`, `1958-03-14`. */
  birthDate?: string;
  sex?: string;
  /** MRN first, then others, each with its authority's name. */
  identifiers: readonly { value: string; authority: string }[];
  deceased?: string;
}

/** What every document shows on each page or at its end. */
export interface DocumentHeader {
  category: Category;
  title: string;
  documentId: string;
  version: number;
  /** `final`, `preliminary`, `corrected`, `amended`, `in-progress`, `stopped`, `completed`, `draft` … plain for the reader. */
  status: string;
  facility: string;
  patient: PatientHeader;
  dateOfService?: string;
  author?: string;
  signer?: string;
  /** Newest statement of the sources in the manifest, not the time of rendering. */
  asOf: string;
  /** IANA zone in which times are printed. */
  zone: string;
  sources: readonly SourceVersion[];
  /** SHA-256 of the manifest, hex: printed instead of the document's own hash. */
  manifestHash: string;
}

// -- laboratory ------------------------------------------------------------------------------------------------------

export interface LaboratoryDocument {
  header: DocumentHeader;
  kind: 'laboratory';
  reportName: string;
  specimen?: string;
  collected?: string;
  received?: string;
  reported?: string;
  orderedBy?: string;
  performer?: { name: string; director?: string; identifiers: readonly string[] };
  panels: readonly LaboratoryPanel[];
  cancelled: readonly { name: string; reason?: string }[];
  comments: readonly string[];
  /** The report's own conclusion. */
  conclusion?: string;
}
export interface LaboratoryPanel {
  name: string;
  analytes: readonly LaboratoryAnalyte[];
}
export interface LaboratoryAnalyte {
  name: string;
  /** LOINC or local code, `system|code`. */
  code?: string;
  current: LaboratoryResult;
  /** Context: earlier results of the same analyte and unit, newest first; never of this report. */
  earlier: readonly LaboratoryResult[];
  /** Footnotes: the value before a correction, a flag that disagrees with the range, a range inverted in the source. */
  notes: readonly string[];
  /** Results below this one (components: a blood pressure, a susceptibility). */
  components: readonly { name: string; current: LaboratoryResult }[];
}
export interface LaboratoryResult {
  /** As shown: `13.20`, `<10`, `1:80`, `Positive`, `not provided by source`. */
  value: string;
  /** For trends: the plain number, where the value is one (comparators excluded). */
  number?: number;
  unit?: string;
  /** As shown: `12.0 - 16.0`, `>= 60`. */
  range?: string;
  rangeLow?: number;
  rangeHigh?: number;
  /** The source's flag: `H` `L` `HH` `LL` `A` `AA` `N` …; never computed by us. */
  flag?: string;
  status: string;
  collected?: string;
}

// -- history and physical --------------------------------------------------------------------------------------------

export interface HistoryAndPhysicalDocument {
  header: DocumentHeader;
  kind: 'history-and-physical';
  /** The note's kind as the source names it: `History and physical note`, `Consultation`. */
  noteType: string;
  encounter?: string;
  /** Narrative, kept whole and in the source's order. */
  sections: readonly NoteSection[];
  /** Files of the source, attached byte for byte and named on the page; found among the attachments by `sha256`. */
  attachments: readonly { title: string; mediaType: string; sizeBytes: number; sha256: string }[];
  addenda: readonly { date?: string; author?: string; text: string }[];
}
export interface NoteSection {
  title?: string;
  paragraphs: readonly string[];
}

// -- radiation dose --------------------------------------------------------------------------------------------------

export interface RadiationDoseDocument {
  header: DocumentHeader;
  kind: 'radiation-dose';
  course: {
    name: string;
    diagnoses: readonly string[];
    /** Cancer stage with its staging system, as the source words it. */
    stage?: string;
    intent?: string;
    sites: readonly string[];
    modalities: readonly string[];
    techniques: readonly string[];
    start?: string;
    end?: string;
    sessionsGiven?: number;
    sessionsPlanned?: number;
    status: string;
    stopReason?: string;
    physician?: string;
    reirradiation?: boolean;
    concurrentTherapy?: string;
    tolerance?: string;
    followUp?: string;
    notes: readonly string[];
  };
  /** Per volume at course level. Doses of different volumes or levels are never added. */
  volumes: readonly DoseVolume[];
  /** Point doses stand apart. */
  points: readonly DoseVolume[];
  phases: readonly DosePhase[];
}
export interface DoseVolume {
  name: string;
  type?: string;
  site?: string;
  laterality?: string;
  /** cGy, the source's own digits. */
  deliveredCGy?: string;
  plannedCGy?: string;
  prescribedCGy?: string;
  fractionsDelivered?: number;
  fractionsPlanned?: number;
  uniformFractionation?: boolean;
  metric?: string;
  notes: readonly string[];
}
export interface DosePhase {
  level: 'phase' | 'plan';
  name: string;
  /** The phase that a plan belongs to. */
  parent?: string;
  status: string;
  modality?: string;
  techniques: readonly string[];
  energy?: string;
  machine?: string;
  imageGuidance?: string;
  motionManagement?: string;
  /** Brachytherapy. */
  isotope?: string;
  applicator?: string;
  start?: string;
  end?: string;
  fractionsDelivered?: number;
  fractionsPlanned?: number;
  /** cGy. */
  fractionDoseCGy?: string;
  volumes: readonly DoseVolume[];
  /** A revision: what it replaces and the reason, as the source says. */
  revision?: string;
  notes: readonly string[];
}

export type ClinicalDocument = LaboratoryDocument | HistoryAndPhysicalDocument | RadiationDoseDocument;

// -- manifest --------------------------------------------------------------------------------------------------------

/**
 * What a document is made from; kept in its sealed inner header. Same manifest, same bytes. JCS of it is hashed.
 * `own` are the record versions that the document is about, `context` those it only draws for comparison.
 */
export interface Manifest {
  format: 1;
  layout: string;
  category: Category;
  subject: string;
  document: string;
  version: number;
  patient: string;
  demographics: { recordSha256: string };
  own: readonly ManifestRecord[];
  context: readonly ManifestRecord[];
  zone: string;
  asOf: string;
  facility: string;
  configHash: string;
}
export interface ManifestRecord extends SourceVersion {
  record: string;
  sha256: string;
  resource?: string;
}
