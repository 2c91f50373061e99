import type { X509Certificate } from 'node:crypto';

/** One thing looked at: what was found, and what to do where it is not as it should be. */
export interface Finding {
  check: string;
  /** `unknown`: could not be looked at, because of what failed before or of what a client may not see. */
  state: 'ok' | 'warning' | 'failed' | 'unknown';
  found: string;
  todo?: string;
}

const DAY_MS = 86_400_000;
const SOON_DAYS = 30;

/** How long a certificate still holds. */
export function validity(check: string, certificate: X509Certificate, now: Date, todo: string): Finding {
  const days = Math.floor((certificate.validToDate.getTime() - now.getTime()) / DAY_MS);
  const until = certificate.validToDate.toISOString().slice(0, 10);
  if (certificate.validFromDate > now)
    return {
      check,
      state: 'failed',
      found: `holds only from ${certificate.validFromDate.toISOString()} on`,
      todo: "Check this machine's clock.",
    };
  if (days < 0) return { check, state: 'failed', found: `expired on ${until}`, todo };
  if (days < SOON_DAYS) return { check, state: 'warning', found: `expires in ${days} days, on ${until}`, todo };
  return { check, state: 'ok', found: `holds ${days} more days, to ${until}` };
}
