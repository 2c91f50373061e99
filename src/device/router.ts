import express, { type Request, type RequestHandler, type Response, type Router } from 'express';
import { rateLimit } from 'express-rate-limit';
import { z } from 'zod';
import type { Audit } from '../audit/audit.ts';
import type { Actor, PatientActor } from '../auth/actor.ts';
import type { Interaction } from '../auth/scopes.ts';
import { CodedError, codeOf } from '../errors.ts';
import type { Directories } from '../membership/directory.ts';
import { linkQrSvg } from '../sharing/link-picture.ts';
import type { Links } from '../sharing/links.ts';
import type { Claim } from './claim.ts';
import type { StateReading } from './state.ts';
import type { Statements } from './statements.ts';

/** Of a statement with its envelopes; a grant's are a few KiB each. */
const MAX_BODY = '1mb';
const MAX_CLAIM = '32kb';
const NAME = /^[a-z0-9][a-z0-9-]{0,63}$/;
/** Whom the patient means to let read, and for how long the code is good; without it as long as `Links` says. */
const linkBody = z.strictObject({
  clinician: z.string().regex(NAME),
  expiresInSeconds: z
    .int()
    .min(60)
    .max(30 * 24 * 3600)
    .optional(),
});
const claimBody = z.strictObject({ proof: z.string().min(1).max(16_384) });
/** It names every version of every category's key. */
const MAX_FINISH = '512kb';
const finishBody = z.strictObject({ proof: z.string().min(1).max(400_000) });

/**
 * The door for what patients sign on their own device (docs/patient-device.md), to be mounted at `/device`. Statements need no
 * token, for their signature is the authority; what concerns one patient of ours needs that patient's token.
 */
export function createDeviceRouter(parts: {
  statements: Statements;
  claim: Claim;
  state: StateReading;
  directories: Pick<Directories, 'holding'>;
  links: Pick<Links, 'makeCode'>;
  audit: Pick<Audit, 'record'>;
  /** The actor of a bearer token; UNAUTHENTICATED. */
  verifyToken(token: string): Promise<Actor>;
  allows(actor: Actor, resource: string, interaction: Interaction): boolean;
  institution: string;
  /** Statements a minute and address, beside the limit of all requests; 0: no limit. */
  statementsPerMinute: number;
}): Router {
  const { statements, claim, state, links, audit } = parts;
  const router = express.Router({ caseSensitive: true, strict: true });
  router.use((_req, res, next) => {
    res.set('Cache-Control', 'no-store');
    next();
  });

  /** Runs what concerns the token's own patient; the event is committed before the answer leaves. */
  async function asPatient<T>(
    req: Request,
    res: Response,
    needs: readonly Interaction[],
    work: (actor: PatientActor) => Promise<T>,
  ): Promise<T> {
    let actor: Actor | undefined;
    const event = {
      interaction: 'operation',
      ...from(req, res),
      query: `${req.method} /device${req.path}`,
    } as const;
    try {
      const token = /^Bearer ([A-Za-z0-9._~+/-]+=*)$/i.exec(req.get('authorization') ?? '')?.[1];
      if (token === undefined) throw new CodedError('UNAUTHENTICATED');
      actor = await parts.verifyToken(token);
      const patient = actor;
      if (
        patient.kind !== 'patient' ||
        patient.institution !== parts.institution ||
        !needs.every((one) => parts.allows(patient, 'Consent', one))
      )
        throw new CodedError('FORBIDDEN', {
          diagnostics: `A token of the patient is needed that allows patient/Consent.${needs.join('')}.`,
        });
      const answer = await work(patient);
      const of = { institution: patient.institution, patient: patient.patient };
      await audit.record({ ...event, actor, purpose: actor.purpose, outcome: 'permitted', reason: 'OWN_RECORD', patients: [of] });
      return answer;
    } catch (error) {
      const reason = codeOf(error) ?? 'INTERNAL';
      const outcome = ['UNAUTHENTICATED', 'FORBIDDEN', 'LEDGER_REFUSED'].includes(reason) ? 'denied' : 'failed';
      await audit.record({ ...event, actor, outcome, reason, patients: [] });
      throw error;
    }
  }

  const limited: RequestHandler =
    parts.statementsPerMinute > 0
      ? rateLimit({
          windowMs: 60_000,
          limit: parts.statementsPerMinute,
          standardHeaders: 'draft-8',
          legacyHeaders: false,
          handler: (_req, _res, next) => next(new CodedError('THROTTLED', { retryAfterSeconds: 60 })),
        })
      : (_req, _res, next) => next();
  const json = (limit: string): RequestHandler[] => [
    (req, _res, next) => {
      if (req.is('application/json') === false) throw new CodedError('UNSUPPORTED_MEDIA');
      next();
    },
    express.json({ limit, strict: true }),
  ];

  router.post('/statements', limited, ...json(MAX_BODY), async (req, res) => {
    const carried = await statements.submit(req.body, from(req, res));
    if (carried.state === 'committed') res.status(200).json({ txId: carried.txId, block: carried.block });
    else res.status(202).json({ id: carried.id });
  });

  router.post('/claim', limited, ...json(MAX_CLAIM), async (req, res) => {
    const claimed = await asPatient(req, res, ['c', 'u'], (actor) => {
      const body = claimBody.safeParse(req.body);
      if (!body.success) throw new CodedError('BAD_REQUEST', { diagnostics: 'A claim is {proof}.' });
      return claim.claim(actor, body.data.proof);
    });
    if ('state' in claimed) res.status(202).json({ id: claimed.id });
    else res.json({ receipt: { txId: claimed.receipt.txId, block: claimed.receipt.block }, envelopes: claimed.envelopes });
  });
  router.post('/claim/envelopes', limited, async (req, res) => {
    res.json({ envelopes: await asPatient(req, res, ['c', 'u'], (actor) => claim.envelopes(actor)) });
  });
  router.post('/claim/finish', limited, ...json(MAX_FINISH), async (req, res) => {
    await asPatient(req, res, ['c', 'u'], (actor) => {
      const body = finishBody.safeParse(req.body);
      if (!body.success) throw new CodedError('BAD_REQUEST', { diagnostics: 'A claim is finished with {proof}.' });
      return claim.finish(actor, body.data.proof);
    });
    res.status(204).end();
  });

  // The patient at the institution that is to receive: a code to carry into a permission at another (protocol section 8).
  router.post('/link', limited, ...json(MAX_CLAIM), async (req, res) => {
    const made = await asPatient(req, res, ['c'], ({ patient }) => {
      const body = linkBody.safeParse(req.body);
      if (!body.success) throw new CodedError('BAD_REQUEST', { diagnostics: 'A code is asked for with {clinician, expiresInSeconds?}.' });
      const { clinician, expiresInSeconds } = body.data;
      const life = expiresInSeconds === undefined ? {} : { expiresInMs: expiresInSeconds * 1000 };
      return links.makeCode({ patient, clinician, by: patient, ...life });
    });
    const { link, text, expires } = made;
    res.status(201).json({ link, text, expires, svg: linkQrSvg(text) });
  });

  router.get('/state', async (req, res) => {
    res.json(await asPatient(req, res, ['r'], (actor) => state.patient(actor.patient)));
  });
  router.get('/', async (_req, res) => {
    res.json(await state.about());
  });
  router.get('/institutions/:institution', async (req, res) => {
    res.json(await state.institution(nameOf(req)));
  });
  router.get('/directory/:institution', async (req, res) => {
    const institution = nameOf(req);
    res.json({ institution, directory: await parts.directories.holding(institution) });
  });
  return router;
}

function nameOf(req: Request): string {
  const name = req.params['institution'];
  if (typeof name !== 'string' || !NAME.test(name)) throw new CodedError('NOT_FOUND');
  return name;
}

function from(req: Request, res: Response): { requestId: string; address?: string } {
  return { requestId: String(res.getHeader('X-Request-Id') ?? ''), ...(req.ip === undefined ? {} : { address: req.ip }) };
}
