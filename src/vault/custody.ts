import { CodedError } from '../errors.ts';

/**
 * The custodian's own check before the institution's key signs for a patient (protocol section 1, custody). The
 * statement must be about this patient of this institution, and its `onBehalf` must name who asked: the patient's id,
 * or the registrar's (`mem-…`, alone or as `member:<inst>:<mem>`). Throws CUSTODY_REFUSED.
 */
export function requireOnBehalf(request: {
  institution: string;
  patient: string;
  actor: { kind: 'patient' | 'registrar'; id: string };
  payload: string;
}): void {
  const { institution, patient, actor } = request;
  const refuse = (diagnostics: string): never => {
    throw new CodedError('CUSTODY_REFUSED', { diagnostics });
  };
  if (actor.kind === 'patient' ? actor.id !== patient : actor.kind !== 'registrar')
    refuse('The actor is neither this patient nor a registrar.');
  const payload = parse(request.payload) ?? refuse('The statement is not a JSON object.');
  if (payload['institution'] !== institution || payload['patient'] !== patient) refuse('The statement is about another patient.');
  const onBehalf = payload['onBehalf'];
  const accepted = actor.kind === 'patient' ? [patient] : [actor.id, `member:${institution}:${actor.id}`];
  if (typeof onBehalf !== 'string' || !accepted.includes(onBehalf)) refuse('The statement does not say on whose behalf it is signed.');
}

/** The way around `requireOnBehalf` is closed: as itself the institution signs nothing that names an actor. Throws CUSTODY_REFUSED. */
export function refuseOnBehalf(payload: string): void {
  const statement = parse(payload);
  if (statement === undefined || (statement['onBehalf'] ?? null) !== null) {
    throw new CodedError('CUSTODY_REFUSED', { diagnostics: 'A statement on behalf of somebody is signed for its patient only.' });
  }
}

function parse(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
