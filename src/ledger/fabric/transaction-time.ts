/**
 * A transaction's time as every host has it: the proposal's timestamp as an ISO instant, cut to milliseconds. Undefined where
 * that is no instant with a year of four digits after 1970: such times do not compare as text, and no database takes them.
 */
export function transactionTime(timestamp: { seconds: number; nanos: number } | undefined): string | undefined {
  if (timestamp === undefined) return undefined;
  const ms = timestamp.seconds * 1000 + Math.floor(timestamp.nanos / 1e6);
  const date = new Date(ms);
  if (Number.isNaN(date.getTime()) || ms < 0) return undefined;
  const text = date.toISOString();
  return text.length === 24 ? text : undefined;
}
