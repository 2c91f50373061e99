/** Gets embedded files back out of a PDF: the FHIR Bundle that it was made with, and the source's own files. */
import { decodePDFRawStream, PDFArray, PDFDict, PDFDocument, PDFHexString, PDFName, PDFRawStream, PDFString } from 'pdf-lib';
import { CodedError } from '../errors.ts';
import { BUNDLE_NAME } from './pdf-file.ts';

export interface ExtractedFile {
  name: string;
  mediaType: string;
  /** `Data` or `Source` (ISO 19005-3, annex E). */
  relationship: string;
  bytes: Uint8Array;
}

/** The embedded FHIR Bundle's bytes, as they were given to the renderer. Throws `PDF_UNREADABLE` where there is none. */
export async function extractBundle(pdf: Uint8Array): Promise<Uint8Array> {
  const bundle = (await extractFiles(pdf)).find((file) => file.name === BUNDLE_NAME);
  if (bundle === undefined) throw new CodedError('PDF_UNREADABLE', { diagnostics: `It carries no ${BUNDLE_NAME}.` });
  return bundle.bytes;
}

/** All embedded files, in the order of their names. Throws `PDF_UNREADABLE` on what is no PDF. */
export async function extractFiles(pdf: Uint8Array): Promise<ExtractedFile[]> {
  try {
    const document = await PDFDocument.load(pdf, { updateMetadata: false });
    const names = document.catalog
      .lookupMaybe(PDFName.of('Names'), PDFDict)
      ?.lookupMaybe(PDFName.of('EmbeddedFiles'), PDFDict)
      ?.lookupMaybe(PDFName.of('Names'), PDFArray);
    const files: ExtractedFile[] = [];
    for (let index = 1; names !== undefined && index < names.size(); index += 2) {
      const file = fileOf(names.lookup(index, PDFDict));
      if (file !== undefined) files.push(file);
    }
    return files;
  } catch (cause) {
    throw new CodedError('PDF_UNREADABLE', { cause });
  }
}

function fileOf(specification: PDFDict): ExtractedFile | undefined {
  const name = specification.lookup(PDFName.of('UF'));
  const stream = specification.lookupMaybe(PDFName.of('EF'), PDFDict)?.lookup(PDFName.of('F'));
  if (!(name instanceof PDFHexString || name instanceof PDFString) || !(stream instanceof PDFRawStream)) return undefined;
  const filtered = stream.dict.has(PDFName.of('Filter'));
  return {
    name: name.decodeText(),
    mediaType: stream.dict.lookupMaybe(PDFName.of('Subtype'), PDFName)?.decodeText() ?? '',
    relationship: specification.lookupMaybe(PDFName.of('AFRelationship'), PDFName)?.decodeText() ?? '',
    bytes: filtered ? decodePDFRawStream(stream).decode() : stream.contents,
  };
}
