import type { Consent } from 'fhir/r4.js';
import { ENDED } from '../consent/ended.ts';
import { CodedError } from '../errors.ts';
import { access, RESOURCE_ID } from './access.ts';
import type { Answer, Caller, FacadeParts, FacadeSettings, ServedResource } from './ports.ts';
import { FHIR_JSON, versionHeaders } from './read.ts';

export interface ConsentWriter {
  /** 201 once the ledger holds it, 202 while it is on its way. `text` is the resource's JSON. */
  create(caller: Caller, text: string): Promise<Answer>;
  /** 200 or 202. `ifMatch` is the header as sent: required, so that nobody overwrites what they have not seen. */
  update(caller: Caller, id: string, text: string, ifMatch: string | undefined): Promise<Answer>;
}

export function createConsentWriter(parts: FacadeParts, settings: Pick<FacadeSettings, 'baseUrl'>): ConsentWriter {
  const answer = (resource: ServedResource, status: number): Answer => {
    const location = `${settings.baseUrl}/Consent/${resource.id}`;
    return {
      status,
      headers: {
        ...versionHeaders(resource.versionId, resource.lastUpdated),
        'Content-Type': FHIR_JSON,
        ...(status === 200 ? {} : { Location: location, 'Content-Location': location }),
      },
      body: resource.text,
    };
  };
  return {
    create: (caller, text) =>
      access(parts, caller, { interaction: 'create', needs: [{ type: 'Consent', interaction: 'c' }], type: 'Consent' }, async () => {
        const { resource, committed } = await parts.consents.createConsent(caller.actor, parseConsent(text), caller);
        return { answer: answer(resource, committed ? 201 : 202), patients: resource.patients, versionId: resource.versionId };
      }),
    update: (caller, id, text, ifMatch) => {
      const needs = [{ type: 'Consent', interaction: 'u' }] as const;
      const event = { interaction: 'update', needs, type: 'Consent', id, evenStale: ends(text) } as const;
      return access(parts, caller, event, async () => {
        const consent = parseConsent(text);
        if (!RESOURCE_ID.test(id) || consent.id !== id) {
          throw new CodedError('BAD_REQUEST', {
            diagnostics: 'The id of the resource and that of the address differ.',
            expression: ['Consent.id'],
          });
        }
        const version = ifMatch === undefined ? undefined : /^\s*(?:W\/)?"([^"]+)"\s*$/.exec(ifMatch)?.[1];
        if (ifMatch !== undefined && version === undefined)
          throw new CodedError('BAD_REQUEST', { diagnostics: 'If-Match takes one ETag.' });
        const { resource, committed } = await parts.consents.updateConsent(caller.actor, id, consent, version, caller);
        return { answer: answer(resource, committed ? 200 : 202), patients: resource.patients, versionId: resource.versionId };
      });
    },
  };
}

/** Whether the body asks for the end of a Consent and nothing else: the service then looks at the status alone. */
function ends(text: string): boolean {
  try {
    return ENDED.includes((JSON.parse(text) as { status?: unknown } | null)?.status as string);
  } catch {
    return false;
  }
}

function parseConsent(text: string): Consent {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new CodedError('BAD_REQUEST', { diagnostics: 'The body is no JSON.' });
  }
  if (typeof value !== 'object' || value === null || !('resourceType' in value) || value.resourceType !== 'Consent') {
    throw new CodedError('BAD_REQUEST', { diagnostics: 'The body is no Consent.', expression: ['resourceType'] });
  }
  requirePlain(value);
  return value as Consent;
}

/** A Consent is a dozen levels deep. */
const MAX_DEPTH = 64;

/**
 * What JSON can say and FHIR cannot: nesting that no reader survives, text that is no Unicode or holds a NUL, and a member that other
 * programs take for an object's prototype. Walked without recursion.
 */
function requirePlain(value: unknown): void {
  const refuse = (why: string): CodedError => new CodedError('BAD_REQUEST', { diagnostics: why });
  const requireText = (text: string): void => {
    if (!text.isWellFormed() || text.includes('\0')) throw refuse('A text holds what is no character.');
  };
  let level: unknown[] = [value];
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > MAX_DEPTH) throw refuse('The resource is nested too deeply.');
    const below: unknown[] = [];
    for (const one of level) {
      if (typeof one === 'string') requireText(one);
      else if (Array.isArray(one)) for (const item of one as unknown[]) below.push(item);
      else if (typeof one === 'object' && one !== null) {
        for (const [name, member] of Object.entries(one)) {
          requireText(name);
          if (name === '__proto__') throw refuse('A member has a name that is none of FHIR.');
          below.push(member);
        }
      }
    }
    level = below;
  }
}
