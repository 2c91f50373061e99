/**
 * Dates and times as printed: `14 Mar 2026, 09:30 UTC−05:00`. English month names of our own and an explicit zone, so that neither
 * the machine's zone nor its locale changes a byte. A date is as precise as the source gave it; what is no date prints as it stands.
 */
const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];
const DATE = /^(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?$/;
const INSTANT = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:\d{2})$/;

export interface Clock {
  zone: string;
  /** Date, or date, time and offset. */
  moment(value: string): string;
  /** The two parts apart, for a column's head; `time` is empty for a date. */
  parts(value: string): { date: string; time: string; offset: string };
  /** Milliseconds since 1970 for ordering and for the time axis of a trend; undefined for what is no date. */
  order(value: string): number | undefined;
}

/** A clock for `zone` (IANA). An unknown zone falls back to UTC, and prints so. */
export function createClock(zone: string): Clock {
  const known = formatterOf(zone);
  const formatter = known ?? formatterOf('UTC');
  const parts: Clock['parts'] = (value) => {
    const date = DATE.exec(value);
    if (date !== null) return { date: spell(date[1] ?? '', date[2], date[3]), time: '', offset: '' };
    if (!INSTANT.test(value) || formatter === undefined || Number.isNaN(Date.parse(value))) return { date: value, time: '', offset: '' };
    const field: Record<string, string> = {};
    for (const part of formatter.formatToParts(Date.parse(value))) field[part.type] = part.value;
    const offset = (field['timeZoneName'] ?? 'GMT').slice(3).replace('-', '−');
    return {
      date: spell(field['year'] ?? '', field['month'], field['day']),
      time: `${field['hour']}:${field['minute']}`,
      offset: `UTC${offset === '+00:00' ? '' : offset}`,
    };
  };
  return {
    zone: known === undefined ? 'UTC' : zone,
    parts,
    moment(value) {
      const { date, time, offset } = parts(value);
      return time === '' ? date : `${date}, ${time} ${offset}`;
    },
    order(value) {
      if (!DATE.test(value) && !INSTANT.test(value)) return undefined;
      const time = Date.parse(value);
      return Number.isNaN(time) ? undefined : time;
    },
  };
}

function spell(year: string, month: string | undefined, day: string | undefined): string {
  const name = month === undefined ? undefined : (MONTHS[Number(month) - 1] ?? month);
  return [day === undefined ? undefined : String(Number(day)), name, year].filter((part) => part !== undefined).join(' ');
}

/** Making one costs as much as a table; there are at most as many as zones. */
const FORMATTERS = new Map<string, Intl.DateTimeFormat>();

function formatterOf(zone: string): Intl.DateTimeFormat | undefined {
  const known = FORMATTERS.get(zone);
  if (known !== undefined) return known;
  try {
    const formatter = new Intl.DateTimeFormat('en-US', {
      timeZone: zone,
      calendar: 'gregory',
      numberingSystem: 'latn',
      hourCycle: 'h23',
      year: 'numeric',
      month: '2-digit',
      day: '2-digit',
      hour: '2-digit',
      minute: '2-digit',
      timeZoneName: 'longOffset',
    });
    FORMATTERS.set(zone, formatter);
    return formatter;
  } catch {
    return undefined;
  }
}
