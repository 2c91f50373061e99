/** What of an OperationOutcome may be repeated: its codes. Its texts may quote a patient's name or value, so they stay. */
export interface OutcomeSummary {
  /** IssueType codes, and HAPI's own (`HAPI-1953`) where a text begins with one. */
  codes: readonly string[];
}

const HAPI = /\bHAPI-\d{4}\b/;
const CODE = /^[a-z][a-z-]{1,30}$/;

/** Codes of the OperationOutcome in `bytes`; none where it is something else. */
export function outcomeOf(bytes: Uint8Array): OutcomeSummary {
  try {
    return summariseOutcome(JSON.parse(new TextDecoder().decode(bytes)));
  } catch {
    return { codes: [] };
  }
}

/** The same for a resource already parsed. */
export function summariseOutcome(resource: unknown): OutcomeSummary {
  const codes = new Set<string>();
  const outcome = resource as { resourceType?: unknown; issue?: unknown } | null;
  if (outcome?.resourceType === 'OperationOutcome' && Array.isArray(outcome.issue)) {
    for (const issue of outcome.issue as { code?: unknown; diagnostics?: unknown }[]) {
      if (typeof issue?.code === 'string' && CODE.test(issue.code)) codes.add(issue.code);
      const known = typeof issue?.diagnostics === 'string' ? HAPI.exec(issue.diagnostics)?.[0] : undefined;
      if (known) codes.add(known);
    }
  }
  return { codes: [...codes] };
}
