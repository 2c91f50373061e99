import { importJWK, SignJWT } from 'jose';
import type { Simulator } from '../../simulator/simulator.ts';

export interface Answer {
  status: number;
  headers: Headers;
  text: string;
  /** The text parsed; undefined where it is no JSON. */
  json: Record<string, unknown> | undefined;
}
export type Get = (pathOrUrl: string, headers?: Record<string, string>) => Promise<Answer>;

export async function answerOf(response: Response): Promise<Answer> {
  const text = await response.text();
  let json: Record<string, unknown> | undefined;
  try {
    json = JSON.parse(text) as Record<string, unknown>;
  } catch {
    json = undefined;
  }
  return { status: response.status, headers: response.headers, text, json };
}

export async function ariaToken(simulator: Simulator, over: Record<string, string> = {}): Promise<Answer> {
  const { aria } = simulator;
  const form = {
    grant_type: 'client_credentials',
    client_id: aria.clientId,
    client_secret: aria.clientSecret,
    scope: aria.scopes.join(' '),
  };
  return answerOf(await fetch(aria.tokenUrl, { method: 'POST', body: new URLSearchParams({ ...form, ...over }) }));
}

export async function assertion(simulator: Simulator, jti: string, over: { audience?: string; minutes?: number } = {}): Promise<string> {
  const { ehr } = simulator;
  const key = await importJWK(ehr.privateKeyJwk, 'ES384');
  return new SignJWT({})
    .setProtectedHeader({ alg: 'ES384', typ: 'JWT', ...(ehr.privateKeyJwk.kid ? { kid: ehr.privateKeyJwk.kid } : {}) })
    .setIssuer(ehr.clientId)
    .setSubject(ehr.clientId)
    .setAudience(over.audience ?? ehr.tokenUrl)
    .setJti(jti)
    .setExpirationTime(`${over.minutes ?? 4}m`)
    .sign(key);
}

export async function ehrToken(simulator: Simulator, jwt: string): Promise<Answer> {
  const form = {
    grant_type: 'client_credentials',
    client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
    client_assertion: jwt,
    scope: simulator.ehr.scopes.join(' '),
  };
  return answerOf(await fetch(simulator.ehr.tokenUrl, { method: 'POST', body: new URLSearchParams(form) }));
}

function getter(baseUrl: string, token: string): Get {
  return async (path, headers = {}) => {
    const url = path.startsWith('http') ? path : `${baseUrl}/${path}`;
    return answerOf(await fetch(url, { redirect: 'manual', headers: { authorization: `Bearer ${token}`, ...headers } }));
  };
}

let signIns = 0;
/** Signed-in readers of both servers. */
export async function signIn(simulator: Simulator): Promise<{ aria: Get; ehr: Get }> {
  const aria = await ariaToken(simulator);
  const ehr = await ehrToken(simulator, await assertion(simulator, `sign-in ${signIns++}`));
  return {
    aria: getter(simulator.aria.baseUrl, String(aria.json?.access_token)),
    ehr: getter(simulator.ehr.baseUrl, String(ehr.json?.access_token)),
  };
}

export interface Found {
  resourceType: string;
  id: string;
  meta: { versionId: string; lastUpdated: string };
  [member: string]: unknown;
}
interface SearchBundle {
  link: { relation: string; url: string }[];
  entry?: { resource: Found; search: { mode: string } }[];
}

/** All matches of a search, its pages followed. */
export async function searchAll(get: Get, path: string): Promise<Found[]> {
  const found: Found[] = [];
  for (let url: string | undefined = path; url !== undefined; ) {
    const answer: Answer = await get(url);
    if (answer.status !== 200) throw new Error(`${answer.status} for ${path}`);
    const bundle = answer.json as unknown as SearchBundle;
    found.push(...(bundle.entry ?? []).filter((entry) => entry.search.mode === 'match').map((entry) => entry.resource));
    url = bundle.link.find((link) => link.relation === 'next')?.url;
  }
  return found;
}

export function nextOf(answer: Answer): string | undefined {
  return (answer.json as unknown as SearchBundle).link.find((link) => link.relation === 'next')?.url;
}
export function diagnosticsOf(answer: Answer): string {
  const issue = answer.json?.issue as { code: string; diagnostics: string }[] | undefined;
  return `${issue?.[0]?.code}: ${issue?.[0]?.diagnostics}`;
}
