import { createHash } from 'node:crypto';
import { type Assembly, type AssemblyRecord, headerOf, NOT_PROVIDED, nameOf, namesOf, present, refOf } from './assembly.ts';
import { attachmentProblem, attachmentsOf, codedErrorText, type NoteFile } from './attachment.ts';
import { compareText, compareTimes, conceptText, displayOf, extensionOf, objectOf, objectsOf, stringOf, targetOf } from './elements.ts';
import type { JsonObject } from './lossless-json.ts';
import type { HistoryAndPhysicalDocument, NoteSection } from './model.ts';
import { decodeText, markupSections, plainSections, sniff } from './note-text.ts';
import { richText } from './rich-text.ts';

/** The document, and the source's files that ride inside the PDF byte for byte, in the order of `document.attachments`. */
export interface AssembledNote {
  document: HistoryAndPhysicalDocument;
  files: readonly { title: string; mediaType: string; bytes: Uint8Array }[];
}

/**
 * The note: the head of its chain (`own[0]`), whole and in the source's order, with what was added to it. Text, HTML, RTF and
 * C-CDA become text; every format but plain text is attached as it came as well, since a conversion may lose something.
 */
export function assembleHistoryAndPhysical(assembly: Assembly): AssembledNote {
  const head = assembly.own[0];
  if (head === undefined) throw new RangeError('a note without a record');
  const { resource } = head;
  const content = contentOf(head);
  const noteType = conceptText(resource['type']) ?? 'Clinical note';
  const description = stringOf(resource['description']) ?? stringOf(resource['title']);
  const added = assembly.own.filter((record) => record !== head && isAddendum(record.resource) && !isWithdrawn(record.resource));
  const addenda = [...added]
    .sort((a, b) => compareTimes(dateOf(a.resource), dateOf(b.resource)) || compareText(refOf(a.resource), refOf(b.resource)))
    .map((record) => ({ record, content: contentOf(record) }));
  const files = [content, ...addenda.map((addendum) => addendum.content)].flatMap((part) => part.files);
  const document: HistoryAndPhysicalDocument = {
    kind: 'history-and-physical',
    header: headerOf(assembly, {
      title: description === undefined || description === noteType ? noteType : `${noteType}: ${description}`,
      status: statusOf(resource),
      dateOfService: serviceDate(resource),
      author: namesOf(assembly, objectsOf(resource['author'])),
      signer: signerOf(assembly, resource),
    }),
    noteType,
    sections: content.sections.length > 0 ? content.sections : [{ paragraphs: [`Text ${NOT_PROVIDED}.`] }],
    attachments: files.map((file) => ({
      title: file.title,
      mediaType: file.mediaType,
      sizeBytes: file.bytes.length,
      sha256: createHash('sha256').update(file.bytes).digest('hex'),
    })),
    addenda: addenda.map(({ record, content: part }) => ({
      text: part.sections.flatMap((section) => [...(section.title === undefined ? [] : [section.title]), ...section.paragraphs]).join('\n'),
      ...present({ date: dateOf(record.resource), author: namesOf(assembly, objectsOf(record.resource['author'])) }),
    })),
    ...present({ encounter: encounterOf(assembly, resource) }),
  };
  return { document, files };
}

function isWithdrawn(resource: JsonObject): boolean {
  return resource['status'] === 'entered-in-error' || resource['docStatus'] === 'entered-in-error';
}
function isAddendum(resource: JsonObject): boolean {
  return objectsOf(resource['relatesTo']).some((related) => related['code'] === 'appends');
}

interface Content {
  sections: readonly NoteSection[];
  files: readonly { title: string; mediaType: string; bytes: Uint8Array }[];
}

function contentOf(record: AssemblyRecord): Content {
  if (record.resource['resourceType'] === 'Composition') {
    return { sections: objectsOf(record.resource['section']).flatMap((section) => compositionSections(section, 0)), files: [] };
  }
  const sections: NoteSection[] = [];
  const files: { title: string; mediaType: string; bytes: Uint8Array }[] = [];
  for (const file of attachmentsOf(record.resource, record.attachments ?? [])) {
    const problem = attachmentProblem(file);
    if (problem !== undefined) {
      sections.push({ paragraphs: [`The source's file "${file.title}" is not here: ${problem}`] });
      continue;
    }
    const { format, mediaType } = sniff(file.bytes, file.declaredType);
    const text = textOfFile(file, format);
    sections.push(...text);
    if (format === 'text') continue;
    files.push({ title: file.title, mediaType, bytes: file.bytes });
    if (text.length === 0)
      sections.push({ paragraphs: [`The note is the attached file "${file.title}" (${mediaType}, ${file.bytes.length} bytes).`] });
  }
  return { sections, files };
}

function textOfFile(file: NoteFile, format: ReturnType<typeof sniff>['format']): readonly NoteSection[] {
  try {
    if (format === 'text') return plainSections(decodeText(file.bytes));
    if (format === 'html' || format === 'xml') return markupSections(decodeText(file.bytes), format);
    if (format === 'rtf') return plainSections(richText(file.bytes));
  } catch (error) {
    return [{ paragraphs: [`The text of the attached file "${file.title}" could not be read (${codedErrorText(error)}).`] }];
  }
  return [];
}

function compositionSections(section: JsonObject, depth: number): readonly NoteSection[] {
  if (depth > 16) return [];
  const title = stringOf(section['title']) ?? conceptText(section['code']);
  const narrative = stringOf(objectOf(section['text'])?.['div']);
  const text = narrative === undefined ? [] : markupSections(narrative, 'html');
  const [first, ...rest] = text;
  const empty = conceptText(section['emptyReason']);
  const paragraphs = first?.title === undefined ? (first?.paragraphs ?? []) : [];
  return [
    { ...(title === undefined ? {} : { title }), paragraphs: paragraphs.length > 0 || empty === undefined ? paragraphs : [empty] },
    ...(first?.title === undefined ? rest : text),
    ...objectsOf(section['section']).flatMap((inner) => compositionSections(inner, depth + 1)),
  ];
}

/** The source's own word for how far the note is; a reader's word for a draft. */
function statusOf(resource: JsonObject): string {
  if (isWithdrawn(resource)) return 'entered-in-error';
  const status = stringOf(resource['docStatus']) ?? (resource['resourceType'] === 'Composition' ? stringOf(resource['status']) : undefined);
  if (status === 'preliminary') return 'draft';
  return status ?? stringOf(resource['status']) ?? NOT_PROVIDED;
}
function dateOf(resource: JsonObject): string | undefined {
  return stringOf(resource['date']);
}
function serviceDate(resource: JsonObject): string | undefined {
  const period = objectOf(objectOf(resource['context'])?.['period']);
  return stringOf(period?.['start']) ?? stringOf(period?.['end']) ?? dateOf(resource);
}

const ARIA = 'http://varian.com/fhir/v1/StructureDefinition/';
/** The authenticator or attester, else ARIA's signature extension with its time. */
function signerOf(assembly: Assembly, resource: JsonObject): string | undefined {
  const authenticator = nameOf(assembly, objectOf(resource['authenticator']));
  if (authenticator !== undefined) return authenticator;
  const attesters = objectsOf(resource['attester']).flatMap((attester) => nameOf(assembly, objectOf(attester['party'])) ?? []);
  if (attesters.length > 0) return attesters.join('; ');
  const signature = extensionOf(resource, `${ARIA}documentreference-signature`);
  if (signature === undefined) return undefined;
  const part = (name: string): JsonObject | undefined =>
    objectsOf(signature['extension']).find((extension) => stringOf(extension['url'])?.endsWith(`#${name}`));
  if (part('isSigned')?.['valueBoolean'] === false) return undefined;
  const signer = nameOf(assembly, objectOf(part('signer')?.['valueReference']));
  const signed = stringOf(part('signed')?.['valueDateTime']);
  return signer === undefined ? undefined : `${signer}${signed === undefined ? '' : `, ${signed}`}`;
}

function encounterOf(assembly: Assembly, resource: JsonObject): string | undefined {
  const references = [...objectsOf(objectOf(resource['context'])?.['encounter']), ...objectsOf(resource['encounter'])];
  for (const reference of references) {
    const target = targetOf(reference);
    const encounter = target === undefined ? undefined : assembly.lookup(target);
    const text = conceptText(encounter?.['type']) ?? stringOf(objectOf(encounter?.['class'])?.['display']) ?? displayOf(reference);
    if (text !== undefined) return text;
  }
  return undefined;
}
