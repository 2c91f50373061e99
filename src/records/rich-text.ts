import { CodedError } from '../errors.ts';
import { NOTE_LIMITS } from './note-text.ts';

/** Groups whose content is no text of the note: fonts, colours, styles, pictures, embedded objects, field instructions, metadata. */
const SILENT = new Set([
  'fonttbl',
  'colortbl',
  'stylesheet',
  'info',
  'pict',
  'object',
  'objdata',
  'fldinst',
  'filetbl',
  'listtable',
  'listoverridetable',
  'revtbl',
  'rsidtbl',
  'generator',
  'themedata',
  'colorschememapping',
  'datastore',
  'latentstyles',
  'xmlnstbl',
  'template',
  'mmathpr',
  'bkmkstart',
  'bkmkend',
  'nonshppict',
  'blipuid',
  'sp',
  'shpinst',
]);
const CHARACTERS: Readonly<Record<string, string>> = {
  par: '\n',
  line: '\n',
  sect: '\n',
  page: '\n',
  row: '\n',
  pard: '',
  tab: '\t',
  cell: '   ',
  emdash: '—',
  endash: '–',
  bullet: '•',
  lquote: '‘',
  rquote: '’',
  ldblquote: '“',
  rdblquote: '”',
  emspace: ' ',
  enspace: ' ',
  '~': '\u00a0',
  _: '-',
  '-': '',
};
/** \ansicpg of the code pages that a WHATWG decoder knows. */
const CODE_PAGES: Readonly<Record<string, string>> = {
  '1250': 'windows-1250',
  '1251': 'windows-1251',
  '1252': 'windows-1252',
  '1253': 'windows-1253',
  '1254': 'windows-1254',
  '1255': 'windows-1255',
  '1256': 'windows-1256',
  '1257': 'windows-1257',
  '1258': 'windows-1258',
  '932': 'shift_jis',
  '936': 'gbk',
  '949': 'euc-kr',
  '950': 'big5',
  '65001': 'utf-8',
  '10000': 'macintosh',
  '437': 'windows-1252',
  '850': 'windows-1252',
};

interface Group {
  silent: boolean;
  /** How many characters after \uN stand in for it (\ucN). */
  fallback: number;
}

/**
 * The text of an RTF note. Tolerant (a missing brace, an unknown word), never recursive, linear in the input: a bomb of
 * braces or \bin ends in CONTENT_INVALID. Pictures are left out here; the source file itself is attached.
 */
export function richText(bytes: Uint8Array): string {
  if (bytes.length > NOTE_LIMITS.maxBytes) throw new CodedError('CONTENT_INVALID', { diagnostics: 'The RTF is too large.' });
  const source = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1');
  const groups: Group[] = [{ silent: false, fallback: 1 }];
  let out = '';
  let raw: number[] = [];
  let decoder = new TextDecoder('windows-1252');
  let skip = 0;
  const top = (): Group => groups[groups.length - 1] ?? { silent: true, fallback: 1 };
  const flush = (): void => {
    if (raw.length === 0) return;
    out += decoder.decode(Uint8Array.from(raw));
    raw = [];
  };
  const emit = (text: string): void => {
    flush();
    if (!top().silent) out += text;
  };
  const emitByte = (byte: number): void => {
    if (skip > 0) skip--;
    else if (!top().silent) raw.push(byte);
  };

  for (let i = 0; i < source.length && out.length + raw.length < NOTE_LIMITS.maxText; ) {
    const char = source[i] ?? '';
    if (char === '{') {
      flush();
      if (groups.length > NOTE_LIMITS.maxNesting) throw new CodedError('CONTENT_INVALID', { diagnostics: 'The RTF is nested too deep.' });
      groups.push({ ...top() });
      skip = 0;
      i++;
    } else if (char === '}') {
      flush();
      if (groups.length > 1) groups.pop();
      skip = 0;
      i++;
    } else if (char === '\\') {
      const control = CONTROL.exec(source.slice(i, i + 48));
      if (control !== null) {
        i += control[0].length;
        const word = control[1] ?? '';
        const number = control[2] === undefined ? undefined : Number(control[2]);
        if (word === 'bin') i += Math.max(0, number ?? 0);
        else if (word === 'u' && number !== undefined) {
          emit(String.fromCharCode(number < 0 ? number + 65536 : number));
          skip = top().fallback;
        } else if (word === 'uc') top().fallback = Math.min(Math.max(number ?? 1, 0), 16);
        else if (word === 'ansicpg') {
          flush();
          decoder = new TextDecoder(CODE_PAGES[String(number)] ?? 'windows-1252');
        } else if (SILENT.has(word)) {
          flush();
          top().silent = true;
        } else if (CHARACTERS[word] !== undefined) emit(CHARACTERS[word]);
        continue;
      }
      const symbol = source[i + 1] ?? '';
      if (symbol === "'") {
        const byte = Number.parseInt(source.slice(i + 2, i + 4), 16);
        if (!Number.isNaN(byte)) emitByte(byte);
        i += 4;
      } else if (symbol === '*') {
        // A destination that a reader need not know: what we do not know we do not show.
        flush();
        top().silent = true;
        i += 2;
      } else {
        if (symbol === '\\' || symbol === '{' || symbol === '}') emitByte(symbol.charCodeAt(0));
        else if (symbol === '\n' || symbol === '\r') emit('\n');
        else if (CHARACTERS[symbol] !== undefined) emit(CHARACTERS[symbol]);
        i += 2;
      }
    } else {
      if (char !== '\r' && char !== '\n') emitByte(char.charCodeAt(0));
      i++;
    }
  }
  flush();
  return out;
}

const CONTROL = /^\\([a-zA-Z]{1,32})(-?\d{1,10})? ?/;
