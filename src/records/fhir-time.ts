/**
 * FHIR dates as ranges (R4 3.1.1.4.7): `2026-03` is the whole month. Bounds are ISO instants in UTC, milliseconds,
 * both inclusive; an open end is `-infinity` or `infinity`, which PostgreSQL reads as well. A value without a zone is
 * taken as UTC, the stored one and the asked one alike, so that equal text always matches.
 */
export interface TimeRange {
  start: string;
  end: string;
}

export const ALWAYS: TimeRange = { start: '-infinity', end: 'infinity' };

const DATE_TIME =
  /^(\d{4})(?:-(0[1-9]|1[0-2])(?:-(0[1-9]|[12]\d|3[01])(?:T([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d|60)(?:\.(\d{1,9}))?)?(Z|[+-](?:0\d|1[0-4]):[0-5]\d)?)?)?)?$/;

/** The range that a date, dateTime or instant stands for; undefined where the text is none. */
export function timeRange(text: string): TimeRange | undefined {
  const m = DATE_TIME.exec(text);
  if (m === null) return undefined;
  const [, year, month, day, hour, minute, second, fraction, zone] = m;
  const y = Number(year);
  const mo = month === undefined ? 0 : Number(month) - 1;
  const start = new Date(0);
  start.setUTCFullYear(y, mo, day === undefined ? 1 : Number(day));
  // 31 February rolls over into March: no date.
  if (start.getUTCMonth() !== mo) return undefined;
  const end = new Date(start);
  if (month === undefined) end.setUTCFullYear(y + 1);
  else if (day === undefined) end.setUTCMonth(mo + 1);
  else if (hour === undefined) end.setUTCDate(end.getUTCDate() + 1);
  else {
    const ms = fraction === undefined ? 0 : Number(fraction.slice(0, 3).padEnd(3, '0'));
    start.setUTCHours(Number(hour), Number(minute), second === undefined ? 0 : Number(second), ms);
    start.setTime(start.getTime() - offsetMs(zone));
    const width = second === undefined ? 60_000 : fraction === undefined ? 1000 : fraction.length < 3 ? 10 ** (3 - fraction.length) : 1;
    end.setTime(start.getTime() + width);
  }
  end.setTime(end.getTime() - 1);
  // Years of four digits from 0001 on, in UTC as well: neither text order nor PostgreSQL knows the others.
  if (start.getUTCFullYear() < 1 || end.getUTCFullYear() > 9999) return undefined;
  return { start: start.toISOString(), end: end.toISOString() };
}

/** The range of a Period's bounds; an absent bound is open. */
export function periodRange(start: string | undefined, end: string | undefined): TimeRange | undefined {
  const from = start === undefined ? ALWAYS : timeRange(start);
  const until = end === undefined ? ALWAYS : timeRange(end);
  if (from === undefined || until === undefined || (start === undefined && end === undefined)) return undefined;
  return { start: from.start, end: until.end };
}

/** The smallest range that holds all of them; undefined for none. */
export function hull(ranges: Iterable<TimeRange>): TimeRange | undefined {
  let all: TimeRange | undefined;
  for (const range of ranges) {
    all =
      all === undefined
        ? { ...range }
        : {
            start: compareBounds(range.start, all.start) < 0 ? range.start : all.start,
            end: compareBounds(range.end, all.end) > 0 ? range.end : all.end,
          };
  }
  return all;
}

/** Order of two bounds: ISO instants of four-digit years sort as text, the infinities outside them. */
export function compareBounds(a: string, b: string): number {
  const [x, y] = [rank(a), rank(b)];
  return x !== y ? x - y : a < b ? -1 : a > b ? 1 : 0;
}

function rank(bound: string): number {
  return bound === '-infinity' ? -1 : bound === 'infinity' ? 1 : 0;
}

function offsetMs(zone: string | undefined): number {
  if (zone === undefined || zone === 'Z') return 0;
  const minutes = Number(zone.slice(1, 3)) * 60 + Number(zone.slice(4, 6));
  return (zone.startsWith('-') ? -minutes : minutes) * 60_000;
}
