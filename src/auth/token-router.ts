import express, { type Router } from 'express';
import type { Issuer } from './issuer.ts';

/** `POST token` and `GET jwks`, to be mounted at the issuer's URL. Public by nature; both carry no patient data. */
export function createTokenRouter(parts: { issuer: Pick<Issuer, 'token' | 'keys'> }): Router {
  const { issuer } = parts;
  const router = express.Router();
  router.post('/token', express.urlencoded({ extended: false, limit: '16kb', parameterLimit: 20 }), async (request, response) => {
    // Without a body of the right type there are no parameters, which the endpoint itself answers.
    const form = (request.body ?? {}) as Record<string, unknown>;
    const { status, body } = await issuer.token(form);
    response.status(status).set({ 'Cache-Control': 'no-store', Pragma: 'no-cache' }).json(body);
  });
  router.get('/jwks', (_request, response) => {
    response.set({ 'Cache-Control': 'public, max-age=300', 'Access-Control-Allow-Origin': '*' }).json(issuer.keys.jwks());
  });
  return router;
}
