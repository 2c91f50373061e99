import { renderSVG, renderUnicodeCompact } from 'uqr';

/**
 * A linking code as a QR code, two modules a character. It is drawn light on dark, as terminals mostly are; with `colours` it says so
 * itself, for a terminal that is dark on light, where cameras would meet it inverted.
 */
export function linkQrForTerminal(text: string, colours: boolean): string {
  const lines = renderUnicodeCompact(text, { ecc: 'L', border: 2 }).split('\n');
  return (colours ? lines.map((line) => `\u001b[97;40m${line}\u001b[0m`) : lines).join('\n');
}

/** The same to print: more of it may be stained (error correction M), with the quiet zone of four modules that the standard asks for. */
export function linkQrSvg(text: string): string {
  return renderSVG(text, { ecc: 'M', border: 4, pixelSize: 4 });
}
