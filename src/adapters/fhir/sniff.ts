/**
 * What bytes are, by their own beginning: a PDF named .doc is found (edge case 43). The declared type is kept where the
 * beginning cannot tell it from what was found (XML and its dialects, kinds of plain text).
 */
export function sniffMediaType(bytes: Uint8Array, declared: string | undefined): string {
  const said = declared?.split(';')[0]?.trim().toLowerCase() || 'application/octet-stream';
  if (bytes.length === 0) return said;
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 4096));
  const text = head.toString('latin1');
  // ISO 32000 lets a reader accept up to 1024 bytes before the header.
  if (text.slice(0, 1024).includes('%PDF-')) return 'application/pdf';
  for (const [magic, type] of MAGIC) if (text.startsWith(magic)) return type;
  if (text.startsWith('PK\x03\x04')) return zipType(bytes, said);
  if (text.startsWith('\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1'))
    return said.includes('excel') || said.includes('powerpoint') ? said : 'application/msword';
  const start = text
    .replace(/^\xef\xbb\xbf/, '')
    .trimStart()
    .slice(0, 512)
    .toLowerCase();
  if (start.startsWith('<!doctype html') || start.startsWith('<html')) return 'text/html';
  if (start.startsWith('<?xml') || start.startsWith('<clinicaldocument')) {
    if (start.includes('<html')) return 'application/xhtml+xml';
    return said.includes('xml') || said.includes('cda') ? said : 'application/xml';
  }
  if (isText(head)) return said.startsWith('text/') || said.includes('json') || said.includes('xml') ? said : 'text/plain';
  // Not text whatever it says, and nothing we know: binary types are believed, text types are not.
  return said.startsWith('text/') || BINARY_KNOWN.has(said) ? 'application/octet-stream' : said;
}

const MAGIC: readonly (readonly [string, string])[] = [
  ['{\\rtf', 'application/rtf'],
  ['\xff\xd8\xff', 'image/jpeg'],
  ['\x89PNG\r\n\x1a\n', 'image/png'],
  ['GIF8', 'image/gif'],
  ['II*\0', 'image/tiff'],
  ['MM\0*', 'image/tiff'],
];
/** Types that the beginning would have shown. */
const BINARY_KNOWN = new Set([
  'application/pdf',
  'application/rtf',
  'image/jpeg',
  'image/png',
  'image/gif',
  'image/tiff',
  'application/msword',
]);

function zipType(bytes: Uint8Array, said: string): string {
  if (Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).includes('word/document.xml')) {
    return 'application/vnd.openxmlformats-officedocument.wordprocessingml.document';
  }
  return said.startsWith('application/vnd.') || said.includes('zip') ? said : 'application/zip';
}

/** No control characters but the usual ones. High bytes may be UTF-8 or a Windows code page: text all the same. */
function isText(head: Uint8Array): boolean {
  return head.every((byte) => byte >= 0x20 || byte === 0x09 || byte === 0x0a || byte === 0x0d || byte === 0x0c);
}
