import type { BinaryContent } from '../fhir-server.ts';
import type { Draft } from '../record-store.ts';
import { hyperText, NARRATIVES, pdfBytes, plainText, richText } from './note-bodies.ts';
import { DOCUMENT_TYPES, HISTORY_AND_PHYSICAL, type Note, noteDraft, noteSubject } from './notes.ts';
import { CLINICIANS, PEOPLE } from './people.ts';
import type { StepName } from './steps.ts';

/** PDFs are made once, before the stories are told. */
interface NoteFiles {
  seoyeon: Uint8Array;
  whitcombe: Uint8Array;
}
export async function noteFiles(): Promise<NoteFiles> {
  return { seoyeon: await pdfBytes(NARRATIVES.seoyeon), whitcombe: await pdfBytes(NARRATIVES.whitcombe) };
}

const utf8 = (text: string): Uint8Array => Buffer.from(text, 'utf8');

/** The notes of all stories at one moment. */
export function noteDrafts(
  done: ReadonlySet<StepName>,
  files: NoteFiles,
  binaries: { ehr: Map<string, BinaryContent>; aria: Map<string, BinaryContent> },
  baseUrls: { ehr: string; aria: string },
): Draft[] {
  return [...ehrNotes(done, files), ...ariaNotes(done, files)].map((note) => noteDraft(note, binaries[note.source], baseUrls[note.source]));
}

function ehrNotes(done: ReadonlySet<StepName>, files: NoteFiles): Note[] {
  const phuong: Note = {
    source: 'ehr',
    id: 'note-7002',
    person: PEOPLE.phuong,
    author: CLINICIANS.internist,
    date: '2026-01-26T10:31:00-05:00',
    recorded: '2026-01-26T15:32:10Z',
    docStatus: 'final',
    type: HISTORY_AND_PHYSICAL,
    description: 'History and physical',
    masterIdentifier: 'urn:uuid:5b6c1d52-0000-4000-8000-000000007002',
    attachment: { kind: 'inline', contentType: 'text/plain; charset=utf-8', bytes: utf8(plainText(NARRATIVES.phuong)), title: 'H&P' },
  };
  const notes: Note[] = [
    {
      source: 'ehr',
      id: 'note-7001',
      person: PEOPLE.seoyeon,
      author: CLINICIANS.oncologist,
      date: '2026-01-09T14:52:00-05:00',
      recorded: '2026-01-09T19:53:00Z',
      docStatus: 'final',
      type: HISTORY_AND_PHYSICAL,
      description: 'History and physical, radiation oncology',
      masterIdentifier: 'urn:uuid:5b6c1d52-0000-4000-8000-000000007001',
      attachment: { kind: 'binary', contentType: 'application/pdf', bytes: files.seoyeon, title: 'H&P.pdf', id: 'bin-7001' },
    },
    phuong,
    // Filed to Mr. Brennan while it speaks of another patient; the same document later belongs to her.
    {
      source: 'ehr',
      id: 'note-7003',
      person: done.has('note-moved') ? PEOPLE.whitcombe : PEOPLE.brennan,
      author: CLINICIANS.internist,
      date: '2026-02-10T16:20:00-05:00',
      recorded: '2026-02-10T21:20:30Z',
      docStatus: 'final',
      type: HISTORY_AND_PHYSICAL,
      description: 'History and physical',
      masterIdentifier: 'urn:uuid:5b6c1d52-0000-4000-8000-000000007003',
      attachment: { kind: 'inline', contentType: 'text/plain; charset=utf-8', bytes: utf8(plainText(NARRATIVES.moved)), title: 'H&P' },
    },
    {
      source: 'ehr',
      id: 'note-7004',
      person: PEOPLE.unnumbered,
      author: CLINICIANS.internist,
      date: '2026-02-24T03:00:00-05:00',
      recorded: '2026-02-24T08:00:30Z',
      docStatus: 'final',
      type: HISTORY_AND_PHYSICAL,
      description: 'History and physical, emergency',
      masterIdentifier: 'urn:uuid:5b6c1d52-0000-4000-8000-000000007004',
      attachment: {
        kind: 'inline',
        contentType: 'text/plain',
        bytes: utf8('Seen in the emergency room. Identity to be confirmed.\n'),
        title: 'H&P',
      },
      outcome: { outcome: 'quarantine', why: 'PATIENT_UNKNOWN' },
    },
    // A kind of note that no category covers.
    {
      source: 'ehr',
      id: 'note-7005',
      person: PEOPLE.okafor,
      author: CLINICIANS.internist,
      date: '2026-02-05T12:00:00-05:00',
      recorded: '2026-02-05T17:00:30Z',
      docStatus: 'final',
      type: { code: '18842-5', display: 'Discharge summary' },
      description: 'Discharge summary',
      masterIdentifier: 'urn:uuid:5b6c1d52-0000-4000-8000-000000007005',
      attachment: { kind: 'inline', contentType: 'text/plain', bytes: utf8('Discharged home on oral antibiotics.\n'), title: 'Discharge' },
      outcome: { outcome: 'skip', why: 'CATEGORY_NOT_CONFIGURED' },
    },
  ];
  if (done.has('note-addendum')) {
    notes.push({
      ...phuong,
      id: 'note-7006',
      date: '2026-03-02T08:15:00-05:00',
      recorded: '2026-03-02T13:15:00Z',
      description: 'Addendum',
      masterIdentifier: 'urn:uuid:5b6c1d52-0000-4000-8000-000000007006',
      relatesTo: { code: 'appends', id: phuong.id },
      subject: noteSubject(phuong),
      attachment: {
        kind: 'inline',
        contentType: 'text/plain',
        bytes: utf8('Addendum: HPV genotype 18 confirmed by the reference laboratory.\n'),
        title: 'Addendum',
      },
    });
  }
  return notes;
}

function ariaNotes(done: ReadonlySet<StepName>, files: NoteFiles): Note[] {
  const consultation = { type: DOCUMENT_TYPES.consultation, author: CLINICIANS.oncologist, source: 'aria' } as const;
  const examination = { ...consultation, type: DOCUMENT_TYPES.historyAndPhysical };
  const amended = done.has('note-amended');
  const signed = done.has('note-signed');
  const rtf = (text: string) =>
    ({ kind: 'inline', contentType: 'application/rtf', bytes: Buffer.from(text, 'latin1'), title: 'note.rtf' }) as const;
  return [
    {
      ...consultation,
      id: 'DocumentReference-20000000000000000103-2103-1',
      person: PEOPLE.volkov,
      date: '2025-10-22T11:04:00.300-04:00',
      recorded: '2025-10-22T11:05:00.300-04:00',
      docStatus: amended ? 'amended' : 'final',
      description: 'Consultation',
      masterIdentifier: '251022CST001',
      attachment: rtf(richText(amended ? NARRATIVES.volkovAmended : NARRATIVES.volkov)),
    },
    {
      ...examination,
      id: 'DocumentReference-20000000000000000104-2104-1',
      person: PEOPLE.okafor,
      date: '2025-12-22T09:00:00.000-05:00',
      recorded: '2025-12-22T09:02:00.120-05:00',
      docStatus: 'final',
      description: 'H&P',
      masterIdentifier: '251222CST014',
      attachment: {
        kind: 'binary',
        contentType: 'text/html',
        bytes: utf8(hyperText(NARRATIVES.okafor)),
        title: 'note.html',
        id: 'Binary-20000000000000000104',
        absolute: true,
      },
    },
    {
      ...examination,
      id: 'DocumentReference-20000000000000000102-2102-2',
      person: PEOPLE.phuong,
      date: '2026-02-26T17:30:00.000-05:00',
      recorded: '2026-02-26T17:31:00.640-05:00',
      docStatus: signed ? 'final' : 'preliminary',
      description: 'H&P, interval',
      masterIdentifier: '260226CST031',
      attachment: rtf(richText(NARRATIVES.draft)),
    },
    // The file calls itself a Word document; its bytes are a PDF.
    {
      ...examination,
      id: 'DocumentReference-20000000000000000106-2106-1',
      person: PEOPLE.whitcombe,
      date: '2026-02-09T15:00:00.000-05:00',
      recorded: '2026-02-09T15:01:00.010-05:00',
      docStatus: 'final',
      description: 'H&P',
      masterIdentifier: '260209CST022',
      attachment: {
        kind: 'binary',
        contentType: 'application/msword',
        bytes: files.whitcombe,
        title: '4410.doc',
        id: 'Binary-20000000000000000106',
      },
    },
    {
      ...consultation,
      id: 'DocumentReference-20000000000000000105-2105-1',
      person: PEOPLE.brennan,
      date: '2026-02-02T14:00:00.000-05:00',
      recorded: '2026-02-02T14:03:00.010-05:00',
      docStatus: 'final',
      description: 'Consultation',
      masterIdentifier: '260202CST020',
      attachment: {
        kind: 'inline',
        contentType: 'text/plain',
        bytes: utf8(plainText(NARRATIVES.brennan)),
        title: 'note.txt',
      },
    },
    {
      ...examination,
      id: 'DocumentReference-20000000000000000105-2105-2',
      person: PEOPLE.brennan,
      date: '2026-02-03T14:00:00.000-05:00',
      recorded: '2026-02-03T14:03:00.010-05:00',
      docStatus: 'final',
      description: 'H&P (file share)',
      masterIdentifier: '260203CST021',
      attachment: {
        kind: 'unc',
        contentType: 'application/msword',
        path: '\\\\CHRO-FILES1\\VA_DATA$\\FILEDATA\\DOCUMENTS\\2026Q1\\7711.doc',
        title: '7711.doc',
      },
      outcome: { outcome: 'quarantine', why: 'ATTACHMENT_REFUSED' },
    },
    {
      ...consultation,
      type: DOCUMENT_TYPES.outsideRecord,
      id: 'DocumentReference-20000000000000000105-2105-3',
      person: PEOPLE.brennan,
      date: '2026-02-04T14:00:00.000-05:00',
      recorded: '2026-02-04T14:03:00.010-05:00',
      docStatus: 'final',
      description: 'Outside record',
      masterIdentifier: '260204SCN003',
      attachment: {
        kind: 'inline',
        contentType: 'text/plain',
        bytes: utf8('Faxed summary of another hospital, 3 pages.\n'),
        title: 'fax.txt',
      },
      outcome: { outcome: 'quarantine', why: 'DOCUMENT_TYPE_UNKNOWN' },
    },
    {
      ...examination,
      id: 'DocumentReference-20000000000000000190-2190-1',
      person: PEOPLE.phantom,
      date: '2026-01-15T14:00:00.000-05:00',
      recorded: '2026-01-15T14:03:00.010-05:00',
      docStatus: 'final',
      description: 'H&P of a phantom',
      masterIdentifier: '260115TST001',
      attachment: { kind: 'inline', contentType: 'text/plain', bytes: utf8('Polystyrene, no complaints.\n'), title: 'note.txt' },
      outcome: { outcome: 'skip', why: 'TEST_PATIENT' },
    },
  ];
}
