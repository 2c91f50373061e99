import type { Actor } from './actor.ts';

/** create, read (with vread and instance history), update, delete, search (with type history): SMART App Launch 2.2, scopes v2. */
export type Interaction = 'c' | 'r' | 'u' | 'd' | 's';

export interface Scope {
  context: 'patient' | 'user' | 'system';
  /** FHIR resource type, or `*`. */
  resource: string;
  /** In the order of `cruds`. */
  interactions: readonly Interaction[];
}

const PATTERN = /^(patient|user|system)\/(\*|[A-Z][A-Za-z]{1,63})\.(\*|read|write|c?r?u?d?s?)$/;
const ALL: readonly Interaction[] = ['c', 'r', 'u', 'd', 's'];
const VERSION_1: Readonly<Record<string, readonly Interaction[]>> = { read: ['r', 's'], write: ['c', 'u', 'd'], '*': ALL };

/**
 * A resource scope, v2 (`user/Observation.rs`) or v1 (`user/Observation.read`, which is `rs`). Undefined for anything else:
 * launch and OpenID scopes, and scopes with a query (`?category=…`), which would promise a filter that nothing enforces.
 */
export function parseScope(text: string): Scope | undefined {
  const [, context, resource, letters] = PATTERN.exec(text) ?? [];
  if (context === undefined || resource === undefined || !letters) return undefined;
  const interactions = VERSION_1[letters] ?? ALL.filter((one) => letters.includes(one));
  return { context: context as Scope['context'], resource, interactions };
}

export function formatScope(scope: Scope): string {
  return `${scope.context}/${scope.resource}.${scope.interactions.join('')}`;
}

/** What is granted: the requested scopes as far as the registered ones reach, in v2 form, without doubles. */
export function grantScopes(requested: readonly string[], registered: readonly string[]): string[] {
  const granted = new Map<string, Set<Interaction>>();
  for (const wanted of parsed(requested)) {
    for (const allowed of parsed(registered)) {
      if (wanted.context !== allowed.context) continue;
      if (wanted.resource !== '*' && allowed.resource !== '*' && wanted.resource !== allowed.resource) continue;
      const resource = wanted.resource === '*' ? allowed.resource : wanted.resource;
      const key = `${wanted.context}/${resource}`;
      const interactions = granted.get(key) ?? new Set<Interaction>();
      for (const one of wanted.interactions) if (allowed.interactions.includes(one)) interactions.add(one);
      if (interactions.size > 0) granted.set(key, interactions);
    }
  }
  return [...granted].map(([key, interactions]) => `${key}.${ALL.filter((one) => interactions.has(one)).join('')}`);
}

/**
 * Does the actor's token allow this interaction with this type? `patient/` counts for a patient only, `system/` for a
 * system (one that acts for a member included), `user/` for persons. Whose data is in reach is the consent room's matter.
 */
export function scopeAllows(actor: Actor, resource: string, interaction: Interaction): boolean {
  const contexts = contextsOf(actor);
  return parsed(actor.scopes).some(
    (scope) =>
      contexts.includes(scope.context) &&
      (scope.resource === '*' || scope.resource === resource) &&
      scope.interactions.includes(interaction),
  );
}

function contextsOf(actor: Actor): readonly Scope['context'][] {
  if (actor.kind === 'patient') return ['patient', 'user'];
  if (actor.kind === 'system') return ['system'];
  return actor.system === undefined ? ['user'] : ['user', 'system'];
}

function parsed(texts: readonly string[]): Scope[] {
  return texts.map(parseScope).filter((scope) => scope !== undefined);
}
