import type { SourceName } from './record-store.ts';

/** What can go wrong with the next answers. Page faults act only on searchset Bundles. */
export type FaultKind =
  | { kind: 'status'; status: number; issue?: string; text?: string }
  | { kind: 'throttle'; seconds: number; form?: 'seconds' | 'date' }
  | { kind: 'unauthorized' }
  | { kind: 'truncate' }
  | { kind: 'reset' }
  | { kind: 'slow'; delayMs: number }
  | { kind: 'redirect' }
  | { kind: 'foreign-next' }
  | { kind: 'http-next' }
  | { kind: 'warning-entry' }
  | { kind: 'empty-page' }
  | { kind: 'loop-self' }
  | { kind: 'loop-back' };

export type Fault = FaultKind & {
  server: SourceName;
  /** Which endpoint; 'fhir' unless told. */
  target?: 'fhir' | 'token';
  /** Acts only on URLs (path and query) that hold this text. */
  match?: string;
  /** Lets so many matching requests pass first. */
  after?: number;
  /** Acts so many times; 1 unless told; Infinity: until cleared. */
  times?: number;
};

const PAGE_KINDS = new Set<string>(['foreign-next', 'http-next', 'warning-entry', 'empty-page', 'loop-self', 'loop-back']);

export interface Faults {
  add(fault: Fault): void;
  clear(): void;
  /** The faults that act on this answer; each call counts. */
  take(server: SourceName, target: 'fhir' | 'token', url: string, stage: 'request' | 'page'): FaultKind[];
  /** How many faults have acted since the start. */
  acted(): number;
}

/** The faults switched on by a test, in the order of their adding. */
export function createFaults(): Faults {
  let armed: { fault: Fault; pass: number; left: number }[] = [];
  let acted = 0;
  return {
    add(fault) {
      armed.push({ fault, pass: fault.after ?? 0, left: fault.times ?? 1 });
    },
    clear() {
      armed = [];
    },
    take(server, target, url, stage) {
      const acting: FaultKind[] = [];
      for (const one of armed) {
        const { fault } = one;
        if (fault.server !== server || (fault.target ?? 'fhir') !== target) continue;
        if (PAGE_KINDS.has(fault.kind) !== (stage === 'page')) continue;
        if (fault.match !== undefined && !url.includes(fault.match)) continue;
        if (one.pass > 0) {
          one.pass -= 1;
          continue;
        }
        if (one.left <= 0) continue;
        one.left -= 1;
        acted += 1;
        acting.push(fault);
      }
      return acting;
    },
    acted: () => acted,
  };
}
