/** Tags of a narrative that format text (R4 2.4.0); those that load something (img) are not among them. */
const TAGS =
  'a|abbr|b|big|blockquote|br|caption|cite|code|col|colgroup|dd|dfn|div|dl|dt|em|h[1-6]|hr|i|li|ol|p|pre|q|s|samp|small|span|strong|sub|sup|table|tbody|td|tfoot|th|thead|tr|tt|ul|var';
const PLAIN = '(?:class|dir|id|lang|title|xml:lang|xmlns|align|valign|colspan|rowspan|border|scope)="[^"<>]*"';
const LINK = 'href="(?:#|https?://)[^"<>]*"';
const TAG = new RegExp(`</?(?:${TAGS})(?:\\s+(?:${PLAIN}|${LINK}))*\\s*/?>`, 'g');

/**
 * True where a narrative can do nothing but show text, wherever a page puts it: known tags with harmless attributes, nothing that
 * runs, loads or hides. R4 forbids the rest (txt-1 to txt-3), and a Consent is shown to people who rely on what it says.
 */
export function isPlainNarrative(div: string): boolean {
  return div.startsWith('<div') && !/[<>]/.test(div.replaceAll(TAG, ''));
}
