/**
 * The file around the pages: PDF/A-3b (ISO 19005-3) with XMP metadata, sRGB output intent, embedded files with their
 * relationship, and a file id that follows from the document. Same input, same bytes: nothing here asks a clock, a locale
 * or a random source, and streams are deflated by pako (plain JavaScript), for zlib's output varies with the processor.
 */
import { createHash } from 'node:crypto';
import { PDFContext, PDFHexString, type PDFRef, PDFString, PDFWriter } from 'pdf-lib';
import type { DocumentHeader } from '../records/model.ts';
import { sRgbProfile } from './colour-profile.ts';
import type { Sheet } from './sheet.ts';

/** Name of the FHIR Bundle among the embedded files. */
export const BUNDLE_NAME = 'fhir-bundle.json';
export const BUNDLE_TYPE = 'application/fhir+json';
/** Raw size above which a text file is stored as it is: deflating it in JavaScript would hold the worker. */
const DEFLATE_LIMIT = 2_000_000;
const PRODUCER = 'oncobridge';

export interface EmbeddedSource {
  /** As it stands among the embedded files: unique, without path or control characters. */
  name: string;
  mediaType: string;
  bytes: Uint8Array;
  /** Hex. */
  sha256: string;
}

/** Gives source files the names under which they are embedded, in the order given. */
export function embeddedSources(sources: readonly { name: string; mediaType: string; bytes: Uint8Array }[]): EmbeddedSource[] {
  const taken = new Set([BUNDLE_NAME]);
  return sources.map(({ name, mediaType, bytes }, index) => {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is removed
    const plain = (name.normalize('NFC').split(/[/\\]/).at(-1) ?? '')
      .replaceAll(/[\u0000-\u001f\u007f-\u009f<>:"|?*\u202a-\u202e]/g, '_')
      .trim();
    let unique = plain === '' || /^\.+$/.test(plain) ? `source-${index + 1}` : plain.slice(0, 120);
    if (taken.has(unique)) unique = `${index + 1}-${unique}`;
    taken.add(unique);
    const type = /^[a-z0-9][\w.+-]*\/[\w.+-]+/i.exec(mediaType)?.[0].toLowerCase() ?? 'application/octet-stream';
    return { name: unique, mediaType: type, bytes, sha256: createHash('sha256').update(bytes).digest('hex') };
  });
}

export interface PdfParts {
  header: DocumentHeader;
  bundle: Uint8Array;
  sources: readonly EmbeddedSource[];
  /** Part of the file id: a new layout of one manifest is another file. */
  layout: string;
}

/** Writes the pages of `sheet` as one file. */
export async function writePdf(sheet: Sheet, parts: PdfParts): Promise<Uint8Array> {
  const { header } = parts;
  const context = PDFContext.create();
  const created = new Date(Number.isNaN(Date.parse(header.asOf)) ? 0 : Date.parse(header.asOf));
  const fonts = await sheet.book.embed(context);
  const resources = context.register(context.obj({ Font: fonts }));

  const tree = context.nextRef();
  const pages: PDFRef[] = sheet.contents().map((content) =>
    context.register(
      context.obj({
        Type: 'Page',
        Parent: tree,
        MediaBox: [0, 0, sheet.width, sheet.height],
        Resources: resources,
        Contents: context.register(context.flateStream(content)),
      }),
    ),
  );
  context.assign(tree, context.obj({ Type: 'Pages', Kids: pages, Count: pages.length }));

  const files = embedFiles(context, parts, created);
  const profile = context.register(context.stream(deflatedProfile(), { N: 3, Filter: 'FlateDecode' }));
  const metadata = Buffer.from(xmp(header, created), 'utf8');
  const catalog = context.obj({
    Type: 'Catalog',
    Pages: tree,
    Lang: PDFString.of('en'),
    Metadata: context.register(context.stream(metadata, { Type: 'Metadata', Subtype: 'XML' })),
    OutputIntents: [
      context.obj({
        Type: 'OutputIntent',
        S: 'GTS_PDFA1',
        OutputConditionIdentifier: PDFString.of('sRGB IEC61966-2.1'),
        Info: PDFString.of('sRGB IEC61966-2.1'),
        DestOutputProfile: profile,
      }),
    ],
    ViewerPreferences: { DisplayDocTitle: true },
    AF: files.map(({ ref }) => ref),
    Names: {
      EmbeddedFiles: { Names: files.flatMap(({ name, ref }) => [PDFHexString.fromText(name), ref]) },
    },
  });
  context.trailerInfo.Root = context.register(catalog);
  context.trailerInfo.Info = context.register(
    context.obj({
      Title: PDFHexString.fromText(header.title),
      Author: PDFHexString.fromText(header.facility),
      Creator: PDFString.of(PRODUCER),
      Producer: PDFString.of(PRODUCER),
      CreationDate: PDFString.fromDate(created),
      ModDate: PDFString.fromDate(created),
    }),
  );
  const id = createHash('sha256')
    .update(JSON.stringify([header.documentId, header.version, header.manifestHash, parts.layout]))
    .digest('hex')
    .slice(0, 32);
  context.trailerInfo.ID = context.obj([PDFHexString.of(id), PDFHexString.of(id)]);
  return PDFWriter.forContext(context, Number.POSITIVE_INFINITY).serializeToBuffer();
}

/** The same bytes in every file, so deflated once per thread. */
let profileBytes: Uint8Array | undefined;
function deflatedProfile(): Uint8Array {
  profileBytes ??= PDFContext.create().flateStream(sRgbProfile()).getContents();
  return profileBytes;
}

interface EmbeddedFile {
  name: string;
  mediaType: string;
  bytes: Uint8Array;
  /** ISO 19005-3, annex E. */
  relationship: 'Data' | 'Source';
  description: string;
}

/** File specifications, sorted by name as a name tree must be. */
function embedFiles(context: PDFContext, parts: PdfParts, date: Date): { name: string; ref: PDFRef }[] {
  const files: EmbeddedFile[] = [
    {
      name: BUNDLE_NAME,
      mediaType: BUNDLE_TYPE,
      bytes: parts.bundle,
      relationship: 'Data',
      description: 'The FHIR R4 resources that this document shows',
    },
    ...parts.sources.map(
      (source): EmbeddedFile => ({ ...source, relationship: 'Source', description: 'File of the source, byte for byte' }),
    ),
  ];
  return files
    .map((file) => ({ name: file.name, key: PDFHexString.fromText(file.name).asString(), ref: embedFile(context, file, date) }))
    .sort((a, b) => (a.key < b.key ? -1 : 1));
}

function embedFile(context: PDFContext, file: EmbeddedFile, date: Date): PDFRef {
  const dictionary = {
    Type: 'EmbeddedFile',
    Subtype: file.mediaType,
    Params: {
      Size: file.bytes.length,
      CreationDate: PDFString.fromDate(date),
      ModDate: PDFString.fromDate(date),
      CheckSum: PDFHexString.of(createHash('md5').update(file.bytes).digest('hex')),
    },
  };
  const text = /json|xml|text|html|rtf/.test(file.mediaType) && file.bytes.length <= DEFLATE_LIMIT;
  const stream = context.register(text ? context.flateStream(file.bytes, dictionary) : context.stream(file.bytes, dictionary));
  return context.register(
    context.obj({
      Type: 'Filespec',
      F: PDFHexString.fromText(file.name),
      UF: PDFHexString.fromText(file.name),
      Desc: PDFString.of(file.description),
      AFRelationship: file.relationship,
      EF: { F: stream, UF: stream },
    }),
  );
}

/** Metadata as ISO 19005-3, 6.6 asks for; equal to the Info dictionary. */
function xmp(header: DocumentHeader, created: Date): string {
  const date = `${created.toISOString().slice(0, 19)}Z`;
  return `<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:pdfaid="http://www.aiim.org/pdfa/ns/id/" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:pdf="http://ns.adobe.com/pdf/1.3/">
<pdfaid:part>3</pdfaid:part>
<pdfaid:conformance>B</pdfaid:conformance>
<dc:format>application/pdf</dc:format>
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">${escapeXml(header.title)}</rdf:li></rdf:Alt></dc:title>
<dc:creator><rdf:Seq><rdf:li>${escapeXml(header.facility)}</rdf:li></rdf:Seq></dc:creator>
<dc:language><rdf:Bag><rdf:li>en</rdf:li></rdf:Bag></dc:language>
<xmp:CreatorTool>${PRODUCER}</xmp:CreatorTool>
<xmp:CreateDate>${date}</xmp:CreateDate>
<xmp:ModifyDate>${date}</xmp:ModifyDate>
<pdf:Producer>${PRODUCER}</pdf:Producer>
</rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>`;
}

function escapeXml(text: string): string {
  return (
    text
      .normalize('NFC')
      // biome-ignore lint/suspicious/noControlCharactersInRegex: XML 1.0 knows no control characters
      .replaceAll(
        /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g,
        ' ',
      )
      .replaceAll('&', '&amp;')
      .replaceAll('<', '&lt;')
      .replaceAll('>', '&gt;')
  );
}
