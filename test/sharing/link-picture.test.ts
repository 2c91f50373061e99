import assert from 'node:assert/strict';
import { test } from 'node:test';
import { newId } from '../../src/ids.ts';
import { formatLinkCode, makeLinkCode, parseLinkCode } from '../../src/sharing/link-code.ts';
import { linkQrForTerminal, linkQrSvg } from '../../src/sharing/link-picture.ts';

/** Dark modules of a QR code, without its quiet zone. */
type Matrix = readonly (readonly boolean[])[];

/** The two sizes that a code comes in (ISO/IEC 18004 table 9, annex E): data words of each block, alignment patterns. */
const FORMS: Readonly<Record<string, { blocks: readonly number[]; aligned: readonly number[] }>> = {
  '12-1': { blocks: [92, 92, 93, 93], aligned: [6, 32, 58] },
  '14-0': { blocks: [40, 40, 40, 40, 41, 41, 41, 41, 41], aligned: [6, 26, 46, 66] },
};
const MASKS: readonly ((row: number, column: number) => boolean)[] = [
  (i, j) => (i + j) % 2 === 0,
  (i) => i % 2 === 0,
  (_, j) => j % 3 === 0,
  (i, j) => (i + j) % 3 === 0,
  (i, j) => (Math.floor(i / 2) + Math.floor(j / 3)) % 2 === 0,
  (i, j) => ((i * j) % 2) + ((i * j) % 3) === 0,
  (i, j) => (((i * j) % 2) + ((i * j) % 3)) % 2 === 0,
  (i, j) => (((i + j) % 2) + ((i * j) % 3)) % 2 === 0,
];

/** Reads a clean QR code: one segment of bytes, nothing to correct. */
function read(matrix: Matrix): string {
  const size = matrix.length;
  const at = (row: number, column: number): boolean => matrix[row]?.[column] ?? assert.fail('outside');
  const format = [0, 1, 2, 3, 4].reduce((bits, column) => bits * 2 + Number(at(8, column)), 0) ^ 0b10101;
  const version = (size - 17) / 4;
  const { blocks, aligned } = FORMS[`${version}-${format >> 3}`] ?? assert.fail(`version ${version}, level ${format >> 3}`);
  const mask = MASKS[format & 7] ?? assert.fail('no mask');
  const isAlignment = (row: number, column: number): boolean =>
    aligned.some((i) =>
      aligned.some((j) => {
        const isFinder = (i === 6 && (j === 6 || j === size - 7)) || (i === size - 7 && j === 6);
        return !isFinder && Math.abs(row - i) <= 2 && Math.abs(column - j) <= 2;
      }),
    );
  const isFunction = (row: number, column: number): boolean =>
    (row < 9 && (column < 9 || column >= size - 8)) ||
    (row >= size - 8 && column < 9) ||
    row === 6 ||
    column === 6 ||
    (row < 6 && column >= size - 11) ||
    (column < 6 && row >= size - 11) ||
    isAlignment(row, column);

  const bits: boolean[] = [];
  let up = true;
  for (let right = size - 1; right > 0; right -= 2) {
    if (right === 6) right = 5;
    for (let step = 0; step < size; step++) {
      const row = up ? size - 1 - step : step;
      for (const column of [right, right - 1]) if (!isFunction(row, column)) bits.push(at(row, column) !== mask(row, column));
    }
    up = !up;
  }
  const words = Array.from({ length: Math.floor(bits.length / 8) }, (_, i) =>
    bits.slice(i * 8, i * 8 + 8).reduce((word, bit) => word * 2 + Number(bit), 0),
  );
  const data: number[][] = blocks.map(() => []);
  for (let n = 0, next = 0; n < Math.max(...blocks); n++)
    blocks.forEach((length, block) => {
      if (n < length) data[block]?.push(words[next++] ?? assert.fail('too short'));
    });
  const stream = Buffer.from(data.flat()).toString('hex');
  assert.equal(stream[0], '4', 'a segment of bytes');
  const length = Number.parseInt(stream.slice(1, 5), 16);
  return Buffer.from(stream.slice(5, 5 + length * 2), 'hex').toString('latin1');
}

function withoutZone(matrix: Matrix, zone: number): Matrix {
  const inner = matrix.slice(zone, -zone).map((row) => row.slice(zone, -zone));
  const dark = (rows: Matrix): number => rows.flat().filter(Boolean).length;
  assert.equal(dark(inner), dark(matrix), 'the quiet zone is quiet');
  return inner;
}

function ofTerminal(text: string): Matrix {
  const lines = text.split('\n').map((line) => Array.from(line));
  const width = lines[0]?.length ?? 0;
  const rows = lines.flatMap((line) => [line.map((one) => one === ' ' || one === '▄'), line.map((one) => one === ' ' || one === '▀')]);
  return rows.slice(0, width);
}

function ofSvg(svg: string): Matrix {
  const size = Number(/viewBox="0 0 (\d+) \1"/.exec(svg)?.[1]) / 4;
  const matrix = Array.from({ length: size }, () => Array<boolean>(size).fill(false));
  const drawn = [...svg.matchAll(/M(\d+),(\d+)h4v4h-4z/g)];
  for (const [, x, y] of drawn) (matrix[Number(y) / 4] ?? [])[Number(x) / 4] = true;
  return matrix;
}

test('the QR codes for a terminal and for paper read back as the code', () => {
  for (let i = 0; i < 5; i++) {
    const code = makeLinkCode({
      institution: newId('inst'),
      clinician: newId('mem'),
      key: 'NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs',
      expires: new Date(),
    });
    const text = formatLinkCode(code);
    const terminal = linkQrForTerminal(text, false);
    assert.ok(Math.max(...terminal.split('\n').map((line) => line.length)) <= 80, 'fits a terminal');
    for (const matrix of [withoutZone(ofTerminal(terminal), 2), withoutZone(ofSvg(linkQrSvg(text)), 4)]) {
      assert.equal(read(matrix), text);
      assert.deepEqual(parseLinkCode(read(matrix)), code);
    }
    // oxlint-disable-next-line no-control-regex
    assert.equal(linkQrForTerminal(text, true).replaceAll(/\u001b\[[0-9;]*m/g, ''), terminal);
  }
});

test('a picture holds nothing that runs or is fetched', () => {
  assert.match(
    linkQrSvg('x'),
    /^<svg xmlns="http:\/\/www.w3.org\/2000\/svg" viewBox="[\d ]+"><rect [^<>]+\/><path fill="black" d="[Mhvz\d,-]+"\/><\/svg>$/,
  );
});
