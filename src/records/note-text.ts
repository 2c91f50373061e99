import type { NoteSection } from './model.ts';

/** Bounds of everything below: a note is some pages, what exceeds this is an attack or no note. */
export const NOTE_LIMITS = { maxBytes: 8 * 1024 * 1024, maxNesting: 200, maxText: 2_000_000 } as const;

export type NoteFormat = 'text' | 'html' | 'rtf' | 'xml' | 'pdf' | 'image' | 'other' | 'empty';
export interface Sniffed {
  format: NoteFormat;
  /** What the bytes are, whatever the source calls them. */
  mediaType: string;
}

/** What the bytes are, by their beginning: a declared type is often wrong (edge case 43). */
export function sniff(bytes: Uint8Array, declared: string): Sniffed {
  if (bytes.length === 0) return { format: 'empty', mediaType: declared };
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 1024));
  const latin = head.toString('latin1');
  if (latin.slice(0, 1024).includes('%PDF-')) return { format: 'pdf', mediaType: 'application/pdf' };
  if (latin.startsWith('{\\rtf')) return { format: 'rtf', mediaType: 'application/rtf' };
  if (latin.startsWith('\xff\xd8\xff')) return { format: 'image', mediaType: 'image/jpeg' };
  if (latin.startsWith('\x89PNG\r\n')) return { format: 'image', mediaType: 'image/png' };
  if (latin.startsWith('II*\0') || latin.startsWith('MM\0*')) return { format: 'image', mediaType: 'image/tiff' };
  if (latin.startsWith('\xd0\xcf\x11\xe0')) return { format: 'other', mediaType: 'application/msword' };
  if (latin.startsWith('PK\x03\x04')) {
    return { format: 'other', mediaType: /word/.test(declared) ? declared : 'application/zip' };
  }
  const text = latin
    .replace(/^\xef\xbb\xbf/, '')
    .trimStart()
    .toLowerCase();
  // Comments are taken out first: matching around them would backtrack.
  const start = text
    .replace(/<!--[\s\S]*?-->/g, '')
    .replace(/^<\?xml[^>]*>/, '')
    .trimStart();
  if (/^<(!doctype html|html|body|div|p|span|h\d|table|br)\b/.test(start)) return { format: 'html', mediaType: 'text/html' };
  if (text.startsWith('<?xml') || text.includes('<clinicaldocument')) return { format: 'xml', mediaType: 'application/xml' };
  const declaredType = declared.split(';')[0]?.trim().toLowerCase() ?? '';
  if (latin.includes('\0') && !/^(\xff\xfe|\xfe\xff)/.test(latin))
    return { format: 'other', mediaType: declaredType === '' ? 'application/octet-stream' : declaredType };
  if (declaredType === 'text/html') return { format: 'html', mediaType: 'text/html' };
  // Bytes that read as text are shown as text, unless the source says that they are something we do not know.
  return declaredType === '' ||
    declaredType.startsWith('text/') ||
    declaredType === 'application/octet-stream' ||
    declaredType === 'application/msword' ||
    declaredType === 'application/pdf'
    ? { format: 'text', mediaType: 'text/plain' }
    : { format: 'other', mediaType: declaredType };
}

/** UTF-8 where it is, UTF-16 by its mark, else Windows-1252, which old systems send under any name. */
export function decodeText(bytes: Uint8Array): string {
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return new TextDecoder('utf-16le').decode(bytes);
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return new TextDecoder('utf-16be').decode(bytes);
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder('windows-1252').decode(bytes);
  }
}

/** Characters that no PDF prints and that could hide or reorder text. Tabs become spaces. */
function printable(line: string): string {
  return line
    .replace(/\t/g, '    ')
    .replace(/[\p{Cc}\u200b\u2028\u2029\u202a-\u202e\u2060\u2066-\u2069\ufeff\ufffe\uffff]/gu, '')
    .trimEnd()
    .normalize('NFC');
}

/**
 * Sections of a plain text, whole and in order: every line is kept as a paragraph. A line of its own that ends in a colon or
 * is all capitals is the title of what follows; nothing is moved.
 */
export function plainSections(text: string): readonly NoteSection[] {
  const lines = text
    .slice(0, NOTE_LIMITS.maxText)
    .split(/\r\n|\r|\n|\f/)
    .map(printable);
  const sections: { title?: string; paragraphs: string[] }[] = [];
  let current: { title?: string; paragraphs: string[] } | undefined;
  for (const line of lines) {
    if (line.trim() === '') continue;
    if (isHeading(line.trim())) {
      current = { title: line.trim(), paragraphs: [] };
      sections.push(current);
      continue;
    }
    if (current === undefined) {
      current = { paragraphs: [] };
      sections.push(current);
    }
    current.paragraphs.push(line);
  }
  return sections;
}
function isHeading(line: string): boolean {
  if (line.length > 60) return false;
  if (/^[\p{L}][\p{L}\p{N} ,/&()'-]*:$/u.test(line)) return true;
  return line.length >= 4 && /^[\p{Lu}][\p{Lu} /&-]+:?$/u.test(line) && /\p{Lu}{3}/u.test(line) && line !== line.toLowerCase();
}

const BLOCK = new Set([
  'p',
  'div',
  'br',
  'li',
  'tr',
  'table',
  'ul',
  'ol',
  'pre',
  'blockquote',
  'section',
  'article',
  'hr',
  'dl',
  'dt',
  'dd',
  'paragraph',
  'item',
  'list',
  'thead',
  'tbody',
  'address',
  'caption',
]);
const HEADING = new Set(['h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'title']);
const SILENT = new Set([
  'script',
  'style',
  'head',
  'template',
  'noscript',
  'iframe',
  'object',
  'embed',
  'svg',
  'math',
  'select',
  'textarea',
  'audio',
  'video',
  'canvas',
]);
const ENTITIES: Readonly<Record<string, string>> = {
  amp: '&',
  lt: '<',
  gt: '>',
  quot: '"',
  apos: "'",
  nbsp: ' ',
  ndash: '–',
  mdash: '—',
  hellip: '…',
  lsquo: '‘',
  rsquo: '’',
  ldquo: '“',
  rdquo: '”',
  bull: '•',
  middot: '·',
  deg: '°',
  plusmn: '±',
  micro: 'µ',
  times: '×',
  frac12: '½',
  le: '≤',
  ge: '≥',
  copy: '©',
  reg: '®',
  eacute: 'é',
  uuml: 'ü',
  ouml: 'ö',
  auml: 'ä',
  szlig: 'ß',
};

/**
 * The text of HTML or of a C-CDA body, read by a tokenizer of our own: nothing is run, nothing fetched, no entity but the
 * named characters above is known (an external one stays as its text). Linear in the input. Edge case 45.
 */
export function markupSections(markup: string, kind: 'html' | 'xml'): readonly NoteSection[] {
  const source = kind === 'xml' ? bodyOf(markup) : markup;
  const sections: { title?: string; paragraphs: string[] }[] = [];
  let current: { title?: string; paragraphs: string[] } | undefined;
  let line = '';
  let heading: string | undefined;
  let silent: string | undefined;
  let length = 0;
  // In C-CDA only <title> and <text> are narrative; entries beside them repeat it for machines.
  let narrative = kind === 'html' ? 1 : 0;
  const flush = (): void => {
    const text = printable(line.replace(/[ \u00a0]+/g, ' ')).trim();
    line = '';
    if (text === '') return;
    if (heading !== undefined) {
      current = { title: text, paragraphs: [] };
      sections.push(current);
      return;
    }
    if (current === undefined) {
      current = { paragraphs: [] };
      sections.push(current);
    }
    current.paragraphs.push(text);
  };
  let at = 0;
  while (at < source.length && length < NOTE_LIMITS.maxText) {
    const open = source.indexOf('<', at);
    const text = source.slice(at, open < 0 ? source.length : open);
    if (silent === undefined && narrative > 0 && text !== '') {
      line += entities(text.replace(/\s+/g, ' '));
      length += text.length;
    }
    if (open < 0) break;
    if (source.startsWith('<!--', open)) {
      const end = source.indexOf('-->', open + 4);
      at = end < 0 ? source.length : end + 3;
      continue;
    }
    if (source.startsWith('<![CDATA[', open)) {
      const end = source.indexOf(']]>', open + 9);
      if (silent === undefined && narrative > 0) line += source.slice(open + 9, end < 0 ? source.length : end);
      at = end < 0 ? source.length : end + 3;
      continue;
    }
    const next = source[open + 1] ?? '';
    if (!/[a-zA-Z/!?]/.test(next)) {
      // `a < b` in careless HTML is text.
      if (silent === undefined && narrative > 0) line += '<';
      at = open + 1;
      continue;
    }
    const close = endOfTag(source, open);
    if (close < 0) break;
    const tag = /^<(\/?)([a-zA-Z][a-zA-Z0-9:]*)/.exec(source.slice(open, Math.min(close, open + 64)));
    at = close + 1;
    if (!tag) continue; // a declaration or a processing instruction
    const ends = tag[1] === '/';
    const name = (tag[2] ?? '').toLowerCase();
    if (silent !== undefined) {
      if (ends && name === silent) silent = undefined;
      continue;
    }
    if (!ends && SILENT.has(name) && source[close - 1] !== '/') {
      silent = name;
      continue;
    }
    if (kind === 'xml' && (name === 'text' || name === 'title')) {
      if (!ends) flush();
      narrative = Math.max(0, narrative + (ends ? -1 : 1));
    }
    if (HEADING.has(name)) {
      flush();
      heading = ends ? undefined : name;
    } else if (BLOCK.has(name) || name === 'text') {
      flush();
      if (!ends && (name === 'li' || name === 'item')) line = '• ';
    } else if ((name === 'td' || name === 'th') && ends) line += '   ';
  }
  heading = undefined;
  flush();
  return sections;
}

/** The quote-aware end of a tag, so that a `>` inside an attribute does not end it. */
function endOfTag(source: string, open: number): number {
  let quote = '';
  for (let i = open + 1; i < source.length; i++) {
    const char = source[i] ?? '';
    if (quote !== '') {
      if (char === quote) quote = '';
    } else if ((char === '"' || char === "'") && source[i - 1] === '=') quote = char;
    else if (char === '>') return i;
  }
  return -1;
}
function bodyOf(xml: string): string {
  const start = xml.search(/<(\w+:)?(structuredBody|component)\b/);
  return start < 0 ? xml : xml.slice(start);
}
function entities(text: string): string {
  return text.replace(/&(#x[0-9a-fA-F]{1,6}|#\d{1,7}|[a-zA-Z][a-zA-Z0-9]{1,31});/g, (whole, name: string) => {
    if (!name.startsWith('#')) return ENTITIES[name] ?? whole;
    const code = name[1] === 'x' ? Number.parseInt(name.slice(2), 16) : Number.parseInt(name.slice(1), 10);
    return code > 0 && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff) ? String.fromCodePoint(code) : '';
  });
}
