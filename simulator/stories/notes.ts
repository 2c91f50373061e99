import { createHash } from 'node:crypto';
import type { BinaryContent } from '../fhir-server.ts';
import type { JsonObject, Resource } from '../json.ts';
import type { Draft, Expectation } from '../record-store.ts';
import {
  ARIA_DEPARTMENT,
  ARIA_HOSPITAL,
  ariaClinician,
  ariaPatient,
  CLINICIANS,
  type Clinician,
  ehrClinician,
  ehrPatient,
  HOSPITAL,
  type Person,
} from './people.ts';

/** ARIA's document types are numbers of the site. The first two are to be mapped to H&P; the third is what nobody mapped. */
export const DOCUMENT_TYPES = {
  historyAndPhysical: { code: '572', display: 'History and Physical' },
  consultation: { code: '640', display: 'Radiation Oncology Consultation' },
  outsideRecord: { code: '989', display: 'Scanned Outside Record' },
} as const;
const DOCUMENT_TYPE_SYSTEM = 'http://varian.com/fhir/CodeSystem/DocumentReference/documentreference-type';

/** Where an attachment's bytes are: in the resource, behind a Binary, or at a path that only Windows knows. */
type Attachment =
  | { kind: 'inline'; contentType: string; bytes: Uint8Array; title: string }
  | { kind: 'binary'; contentType: string; bytes: Uint8Array; title: string; id: string; absolute?: boolean }
  | { kind: 'unc'; contentType: string; path: string; title: string };

export interface Note {
  source: 'ehr' | 'aria';
  id: string;
  person: Person;
  author: Clinician;
  date: string;
  recorded: string;
  /** current | superseded | entered-in-error */
  status?: 'current' | 'superseded' | 'entered-in-error';
  docStatus: 'preliminary' | 'final' | 'amended' | 'entered-in-error';
  /** LOINC at the EHR; a local type at ARIA. */
  type: { code: string; display: string };
  description: string;
  attachment: Attachment;
  /** ARIA: at most 20 characters. The EHR gives a uuid-like one. */
  masterIdentifier: string;
  relatesTo?: { code: 'appends' | 'replaces'; id: string };
  /** Name of the subject, where it is not the note's own. */
  subject?: string;
  outcome?: Extract<Expectation, { why: string }>;
}

export const HISTORY_AND_PHYSICAL = { code: '34117-2', display: 'History and physical note' };

export function noteSubject(note: { source: string; masterIdentifier: string; person: Person }): string {
  return `history-and-physical:${note.source}:${note.masterIdentifier}@${note.person.key}`;
}

/** The DocumentReference of a note; its Binary, if it has one, goes into `binaries`. */
export function noteDraft(note: Note, binaries: Map<string, BinaryContent>, baseUrl: string): Draft {
  const withdrawn = note.status === 'entered-in-error' || note.docStatus === 'entered-in-error';
  const expect: Expectation =
    note.docStatus === 'preliminary' && !note.outcome
      ? { outcome: 'skip', why: 'STATUS_NOT_FINAL' }
      : (note.outcome ?? {
          outcome: 'own',
          subject: note.subject ?? noteSubject(note),
          category: 'history-and-physical',
          patient: note.person.key,
          ...(withdrawn ? { withdraws: true as const } : {}),
        });
  const { attachment } = note;
  if (attachment.kind === 'binary') {
    binaries.set(attachment.id, {
      contentType: attachment.contentType,
      bytes: () => attachment.bytes,
      of: `DocumentReference/${note.id}`,
    });
  }
  return {
    source: note.source,
    stream: note.source === 'ehr' ? 'ehr/notes' : 'aria/notes',
    resource: note.source === 'ehr' ? ehrNote(note, baseUrl) : ariaNote(note, baseUrl),
    meta: {
      profile: [
        note.source === 'ehr'
          ? 'http://hl7.org/fhir/us/core/StructureDefinition/us-core-documentreference'
          : 'http://varian.com/fhir/v1/StructureDefinition/DocumentReference',
      ],
    },
    recorded: note.recorded,
    expect,
  };
}

function attachmentOf(note: Note, baseUrl: string): JsonObject {
  const { attachment } = note;
  if (attachment.kind === 'unc') {
    return { id: attachment.title, contentType: attachment.contentType, url: attachment.path };
  }
  const checks = {
    size: attachment.bytes.byteLength,
    // FHIR R4 fixes SHA-1 for attachment.hash.
    hash: createHash('sha1').update(attachment.bytes).digest('base64'),
    title: attachment.title,
  };
  if (attachment.kind === 'inline') {
    return { contentType: attachment.contentType, data: Buffer.from(attachment.bytes).toString('base64'), ...checks };
  }
  const url = attachment.absolute ? `${baseUrl}/Binary/${attachment.id}` : `Binary/${attachment.id}`;
  return { contentType: attachment.contentType, url, ...checks };
}

function relatesTo(note: Note): JsonObject {
  if (!note.relatesTo) return {};
  return { relatesTo: [{ code: note.relatesTo.code, target: { reference: `DocumentReference/${note.relatesTo.id}` } }] };
}

function ehrNote(note: Note, baseUrl: string): Resource {
  return {
    resourceType: 'DocumentReference',
    id: note.id,
    masterIdentifier: { system: 'urn:oid:2.16.840.1.113883.19.5.99.8', value: note.masterIdentifier },
    status: note.status ?? 'current',
    docStatus: note.docStatus,
    type: { coding: [{ system: 'http://loinc.org', code: note.type.code, display: note.type.display }], text: note.type.display },
    category: [
      {
        coding: [
          {
            system: 'http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category',
            code: 'clinical-note',
            display: 'Clinical Note',
          },
        ],
      },
    ],
    subject: ehrPatient(note.person),
    date: note.date,
    author: [ehrClinician(note.author)],
    custodian: { reference: `Organization/${HOSPITAL.id}`, display: HOSPITAL.name },
    ...relatesTo(note),
    description: note.description,
    content: [
      {
        attachment: attachmentOf(note, baseUrl),
        format: {
          system: 'http://ihe.net/fhir/ihe.formatcode.fhir/CodeSystem/formatcode',
          code: 'urn:ihe:iti:xds:2017:mimeTypeSufficient',
        },
      },
    ],
    context: { period: { start: note.date, end: note.date } },
  };
}

const VARIAN = 'http://varian.com/fhir/v1/StructureDefinition/';

function ariaNote(note: Note, baseUrl: string): Resource {
  const signed = note.docStatus !== 'preliminary';
  const local = { preliminary: 'Pending', final: 'Approved', amended: 'Approved', 'entered-in-error': 'Errored' }[note.docStatus];
  return {
    resourceType: 'DocumentReference',
    id: note.id,
    extension: [
      { url: `${VARIAN}documentreference-supervisor`, valueReference: ariaClinician(CLINICIANS.oncologist) },
      { url: `${VARIAN}documentreference-templateName`, valueString: 'Site template' },
      {
        extension: [
          { url: `${VARIAN}documentreference-signature#signed`, valueDateTime: note.date },
          { url: `${VARIAN}documentreference-signature#signer`, valueReference: ariaClinician(note.author) },
          { url: `${VARIAN}documentreference-signature#isSigned`, valueBoolean: signed },
        ],
        url: `${VARIAN}documentreference-signature`,
      },
      {
        url: `${VARIAN}login-institution`,
        valueReference: { reference: `Organization/${ARIA_DEPARTMENT.id}`, display: ARIA_DEPARTMENT.name },
      },
      { url: `${VARIAN}documentreference-documentLocation`, valueString: 'file-server' },
    ],
    masterIdentifier: { system: 'http://varian.com/fhir/identifier/DocumentReference/Id', value: note.masterIdentifier },
    status: note.status === 'entered-in-error' ? 'entered-in-error' : 'current',
    docStatus: note.docStatus,
    _docStatus: {
      extension: [
        {
          url: `${VARIAN}translation`,
          valueCodeableConcept: {
            coding: [{ system: 'http://varian.com/fhir/CodeSystem/DocumentReference/status', code: local, display: local }],
          },
        },
      ],
    },
    type: {
      coding: [
        {
          extension: [
            {
              url: 'http://hl7.org/fhir/StructureDefinition/valueset-reference',
              valueReference: {
                reference: `/fhir/ValueSet?url=http://varian.com/fhir/ValueSet/documentreference-type&publisher=${ARIA_HOSPITAL.id}`,
              },
            },
          ],
          system: DOCUMENT_TYPE_SYSTEM,
          code: note.type.code,
          display: note.type.display,
        },
      ],
      text: note.type.display,
    },
    category: [
      {
        coding: [{ system: 'http://varian.com/fhir/CodeSystem/DocumentReference/documentreference-class', code: 'Patient Document' }],
      },
    ],
    subject: ariaPatient(note.person),
    date: note.date,
    author: [ariaClinician(note.author)],
    ...(signed ? { authenticator: ariaClinician(note.author) } : {}),
    custodian: { reference: `Organization/${ARIA_HOSPITAL.id}`, display: ARIA_HOSPITAL.name },
    ...relatesTo(note),
    description: note.description,
    content: [{ attachment: attachmentOf(note, baseUrl) }],
  };
}
