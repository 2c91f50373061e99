import {
  BrokenCircuitError,
  bulkhead,
  type CircuitBreakerPolicy,
  ConsecutiveBreaker,
  circuitBreaker,
  DelegateBackoff,
  handleWhen,
  retry,
  TaskCancelledError,
} from 'cockatiel';
import { CodedError, codeOf } from '../../errors.ts';
import type { LimitOptions } from './options.ts';

/**
 * Waiting, retrying and giving up (queue-and-reliability.md section 9). One breaker per host; one pace, one bulkhead and
 * one retry budget per source, so that many small retries cannot become a storm.
 */
export interface Resilience {
  /** Runs `attempt` under pace, bulkhead, breaker and retry. */
  run<T>(host: string, signal: AbortSignal | undefined, attempt: () => Promise<T>): Promise<T>;
}

export function createResilience(limits: LimitOptions): Resilience {
  const breakers = new Map<string, CircuitBreakerPolicy>();
  const lanes = bulkhead(limits.concurrency, Number.MAX_SAFE_INTEGER);
  const pace = createPace(limits.requestsPerSecond);
  let budget = limits.retryBudget;

  const breakerOf = (host: string): CircuitBreakerPolicy => {
    const known = breakers.get(host);
    if (known) return known;
    // A refusal, a wrong password or a busy server is not a host that is down.
    const made = circuitBreaker(
      handleWhen((error) => codeOf(error) === 'SOURCE_UNREACHABLE'),
      { breaker: new ConsecutiveBreaker(limits.breaker.failures), halfOpenAfter: limits.breaker.halfOpenAfterMs },
    );
    breakers.set(host, made);
    return made;
  };

  const worthRetrying = (error: unknown): boolean => {
    const code = codeOf(error);
    if (code !== 'SOURCE_UNREACHABLE' && code !== 'SOURCE_THROTTLED') return false;
    const waitMs = retryAfterMs(error);
    // Longer than the cap: the scheduler waits, not a pull that holds its lease.
    if (waitMs !== undefined && waitMs > limits.retryCapMs) return false;
    if (budget < 1) return false;
    return true;
  };

  return {
    run: async (host, signal, attempt) => {
      const breaker = breakerOf(host);
      let previousMs = limits.retryBaseMs;
      const retrying = retry(handleWhen(worthRetrying), {
        maxAttempts: limits.maxRetries,
        backoff: new DelegateBackoff((context) => {
          budget -= 1;
          const wanted = 'error' in context.result ? retryAfterMs(context.result.error) : undefined;
          // Decorrelated jitter; a Retry-After is a floor, with jitter above it so that clients do not return at once.
          const spread = previousMs * 3 - limits.retryBaseMs;
          previousMs = Math.min(limits.retryCapMs, limits.retryBaseMs + Math.random() * spread);
          return wanted === undefined ? previousMs : wanted + Math.random() * limits.retryBaseMs;
        }),
      });
      try {
        const result = await abortable(
          signal,
          retrying.execute(
            () =>
              breaker.execute(
                () =>
                  lanes.execute(async () => {
                    await pace(signal);
                    return attempt();
                  }, signal),
                signal,
              ),
            signal,
          ),
        );
        budget = Math.min(limits.retryBudget, budget + 0.2);
        return result;
      } catch (error) {
        if (error instanceof BrokenCircuitError) {
          const retryAfterSeconds = Math.ceil(limits.breaker.halfOpenAfterMs / 1000);
          throw new CodedError('SOURCE_UNREACHABLE', { diagnostics: `${host} failed too often and rests for a while.`, retryAfterSeconds });
        }
        if (error instanceof TaskCancelledError && signal?.aborted) throw signal.reason;
        throw error;
      }
    },
  };
}

function retryAfterMs(error: unknown): number | undefined {
  const seconds = error instanceof CodedError ? error.detail.retryAfterSeconds : undefined;
  return seconds === undefined ? undefined : seconds * 1000;
}

/** cockatiel's retry sleeps through an abort (4.0.0); a stop must not wait for a backoff. */
async function abortable<T>(signal: AbortSignal | undefined, work: Promise<T>): Promise<T> {
  if (!signal) return work;
  const aborted = Promise.withResolvers<never>();
  const abort = (): void => aborted.reject(signal.reason);
  if (signal.aborted) abort();
  signal.addEventListener('abort', abort, { once: true });
  // Whichever loses the race is still observed.
  work.catch(() => undefined);
  try {
    return await Promise.race([work, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

/** Evenly spaced starts: the n-th request starts no sooner than n / rps after the first of a burst. */
function createPace(requestsPerSecond: number): (signal: AbortSignal | undefined) => Promise<void> {
  const intervalMs = 1000 / requestsPerSecond;
  let nextMs = 0;
  return async (signal) => {
    const now = performance.now();
    const slot = Math.max(now, nextMs);
    nextMs = slot + intervalMs;
    if (slot > now) await new Promise<void>((resolve) => setTimeout(resolve, slot - now));
    signal?.throwIfAborted();
  };
}

/**
 * `Retry-After` as seconds from now: delta-seconds, or an HTTP date counted from the answer's own `Date`, for our clock
 * may be wrong (RFC 9110 section 10.2.3). Undefined where absent or unreadable.
 */
export function readRetryAfter(value: string | undefined, serverDate: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  if (/^\s*\d+\s*$/.test(value)) return Number(value);
  const at = Date.parse(value);
  if (Number.isNaN(at)) return undefined;
  const from = serverDate === undefined ? Number.NaN : Date.parse(serverDate);
  return Math.max(0, Math.ceil((at - (Number.isNaN(from) ? Date.now() : from)) / 1000));
}
