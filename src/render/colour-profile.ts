/**
 * A small sRGB profile of our own (ICC.1:2001-04, matrix and tone curve; IEC 61966-2-1): the output intent that PDF/A asks
 * for where colours are device RGB.
 */
const PRIMARIES: Record<'rXYZ' | 'gXYZ' | 'bXYZ' | 'wtpt', readonly [number, number, number]> = {
  // Adapted to D50 by Bradford, as version 2 profiles hold them.
  rXYZ: [0.43607, 0.22249, 0.01392],
  gXYZ: [0.38515, 0.71687, 0.09708],
  bXYZ: [0.14307, 0.06061, 0.7141],
  wtpt: [0.9642, 1, 0.82491],
};
const CURVE_POINTS = 256;

/** The profile's bytes, the same each time. */
export function sRgbProfile(): Uint8Array {
  const curve = Buffer.alloc(12 + CURVE_POINTS * 2);
  curve.write('curv', 0, 'latin1');
  curve.writeUInt32BE(CURVE_POINTS, 8);
  for (let index = 0; index < CURVE_POINTS; index += 1) {
    const value = index / (CURVE_POINTS - 1);
    const linear = value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    curve.writeUInt16BE(Math.round(linear * 65535), 12 + index * 2);
  }
  const bodies = new Map<string, Buffer>([
    ['desc', description('sRGB IEC61966-2.1')],
    ['cprt', textTag('No copyright, use freely')],
    ...Object.entries(PRIMARIES).map(([tag, xyz]) => [tag, xyzTag(xyz)] as const),
    ['rTRC', curve],
    ['gTRC', curve],
    ['bTRC', curve],
  ]);

  const header = Buffer.alloc(128);
  header.writeUInt32BE(0x02100000, 8);
  header.write('mntrRGB XYZ ', 12, 'latin1');
  // 1 January 2000: the date is part of the bytes and must not move.
  header.writeUInt16BE(2000, 24);
  header.writeUInt16BE(1, 26);
  header.writeUInt16BE(1, 28);
  header.write('acsp', 36, 'latin1');
  xyzTag([0.9642, 1, 0.82491]).copy(header, 68, 8);

  const directory = Buffer.alloc(4 + bodies.size * 12);
  directory.writeUInt32BE(bodies.size, 0);
  let offset = header.length + directory.length;
  const placed = new Map<Buffer, number>();
  const parts: Buffer[] = [];
  let entry = 4;
  for (const [tag, body] of bodies) {
    let at = placed.get(body);
    if (at === undefined) {
      at = offset;
      placed.set(body, at);
      const padded = Buffer.concat([body, Buffer.alloc((4 - (body.length % 4)) % 4)]);
      parts.push(padded);
      offset += padded.length;
    }
    directory.write(tag, entry, 'latin1');
    directory.writeUInt32BE(at, entry + 4);
    directory.writeUInt32BE(body.length, entry + 8);
    entry += 12;
  }
  header.writeUInt32BE(offset, 0);
  return Buffer.concat([header, directory, ...parts]);
}

function xyzTag(values: readonly [number, number, number]): Buffer {
  const body = Buffer.alloc(20);
  body.write('XYZ ', 0, 'latin1');
  values.forEach((value, index) => body.writeInt32BE(Math.round(value * 65536), 8 + index * 4));
  return body;
}

function textTag(text: string): Buffer {
  return Buffer.concat([Buffer.from('text\0\0\0\0', 'latin1'), Buffer.from(`${text}\0`, 'latin1')]);
}

/** textDescriptionType: ASCII, then an empty Unicode and an empty ScriptCode part. */
function description(text: string): Buffer {
  const ascii = Buffer.from(`${text}\0`, 'latin1');
  const length = Buffer.alloc(4);
  length.writeUInt32BE(ascii.length);
  return Buffer.concat([Buffer.from('desc\0\0\0\0', 'latin1'), length, ascii, Buffer.alloc(8 + 3 + 67)]);
}
