import { SignJWT } from 'jose';
import { CodedError } from '../errors.ts';
import { newId } from '../ids.ts';
import type { Database } from '../store/database.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import { ASSERTION_ALGORITHMS, ASSERTION_TYPE, verifyAssertion } from './client-assertion.ts';
import { type Client, type Clients, createClients } from './clients.ts';
import { isEmergency, purposeOf } from './purposes.ts';
import { formatScope, grantScopes, parseScope } from './scopes.ts';
import { loadSigningKeys, type SigningKeys } from './signing-keys.ts';
import { ACCESS_TOKEN_TYPE } from './token-verifier.ts';

/** RFC 6749 sections 5.1 and 5.2, as JSON bodies with their status. */
export type TokenResponse =
  | { status: 200; body: { access_token: string; token_type: 'Bearer'; expires_in: number; scope: string } }
  | { status: 400 | 401; body: { error: string; error_description: string } };

/** Whom a user token is for. */
export type TokenSubject = { kind: 'patient'; patient: string } | { kind: 'member'; member: string };

export interface Issuer {
  readonly clients: Clients;
  readonly keys: Pick<SigningKeys, 'find' | 'jwks'>;
  /** The token endpoint: client_credentials with private_key_jwt. `form` is the parsed body; a repeated parameter is an array. */
  token(form: Readonly<Record<string, unknown>>): Promise<TokenResponse>;
  /**
   * A token for a person, as `oncobridge token --as` hands it out: development only, whoever may run commands on the
   * institution's machine is trusted. NOT_FOUND for a member who is not registered, UNPROCESSABLE for a scope or purpose not known.
   */
  issueUserToken(request: {
    as: TokenSubject;
    purpose?: string;
    scopes?: readonly string[];
    lifetimeSeconds?: number;
  }): Promise<{ accessToken: string; expiresInSeconds: number; scopes: readonly string[] }>;
  /** `.well-known/smart-configuration` (SMART App Launch 2.2). */
  smartConfiguration(): Readonly<Record<string, unknown>>;
  /** A new signing key. Older ones verify on while tokens of theirs live. */
  rotateKey(): Promise<void>;
}

/** SMART Backend Services: at most five minutes, no refresh token. Emergency tokens of persons as well. */
const SYSTEM_TOKEN_SECONDS = 300;
const SWEEP_EVERY_MS = 60_000;
/** The client that stands in tokens handed out on the command line. */
const COMMAND_LINE_CLIENT = 'cli-command-line';
const DEFAULT_SCOPES = { patient: ['patient/*.rs', 'patient/Consent.cu'], member: ['user/*.rs', 'user/Consent.cu'] };

/**
 * The development issuer. `issuerUrl` is where token-router.ts is mounted (`…/auth`); `audience` the FHIR base that tokens
 * are for; `memberRole` the role of an active member, from the projection.
 */
export async function createIssuer(parts: {
  database: Database;
  rows: SealedRows;
  institution: string;
  issuerUrl: string;
  audience: string;
  memberRole(institution: string, member: string): Promise<string | undefined>;
  userTokenLifetimeMs: number;
  now?: () => Date;
}): Promise<Issuer> {
  const { database, rows, institution, issuerUrl, audience, memberRole } = parts;
  const now = parts.now ?? (() => new Date());
  const tokenUrl = `${issuerUrl}/token`;
  const clients = createClients({ database });
  const keys = await loadSigningKeys({ database, rows });
  let sweptAt = 0;

  const sign = async (subject: string, claims: Record<string, unknown>, lifetimeSeconds: number): Promise<string> => {
    const { kid, key } = keys.current();
    const issuedAt = Math.floor(now().getTime() / 1000);
    return new SignJWT({ ...claims, institution })
      .setProtectedHeader({ alg: 'ES384', kid, typ: ACCESS_TOKEN_TYPE })
      .setIssuer(issuerUrl)
      .setAudience(audience)
      .setSubject(subject)
      .setIssuedAt(issuedAt)
      .setExpirationTime(issuedAt + lifetimeSeconds)
      .setJti(newId('req'))
      .sign(key);
  };

  return {
    clients,
    keys,
    async token(form) {
      const one = (name: string): string | undefined => (typeof form[name] === 'string' ? form[name] : undefined);
      if (Object.values(form).some((value) => typeof value !== 'string')) return failed('invalid_request', 'A parameter is repeated.');
      if (one('grant_type') !== 'client_credentials') return failed('unsupported_grant_type', 'Only client_credentials is supported.');
      const assertion = one('client_assertion');
      if (one('client_assertion_type') !== ASSERTION_TYPE || assertion === undefined) {
        return failed('invalid_client', 'A client assertion (private_key_jwt) is required.', 401);
      }
      const at = now();
      const verified = await verifyAssertion(assertion, { clients, tokenUrl, now: at });
      if (verified === undefined) return failed('invalid_client', 'The client assertion is not valid, or was used before.', 401);
      if (at.getTime() - sweptAt > SWEEP_EVERY_MS) {
        sweptAt = at.getTime();
        await clients.sweep(at);
      }
      const { client, claims } = verified;
      const requested = (one('scope') ?? '').split(' ').filter((text) => text !== '');
      const scopes = grantScopes(requested, client.scopes);
      if (scopes.length === 0) return failed('invalid_scope', 'None of the scopes asked for is registered for this client.');
      const named = await namedMember(client, claims['extensions']);
      if ('error' in named) return failed('invalid_grant', named.error);
      const { purpose, member, role } = named;
      const scope = scopes.join(' ');
      const claimsOut = { client_id: client.client, scope, purpose_of_use: purpose };
      const accessToken =
        member === undefined
          ? await sign(client.client, { ...claimsOut, actor: 'system' }, SYSTEM_TOKEN_SECONDS)
          : await sign(member, { ...claimsOut, actor: 'member', role, act: { sub: client.client } }, SYSTEM_TOKEN_SECONDS);
      return { status: 200, body: { access_token: accessToken, token_type: 'Bearer', expires_in: SYSTEM_TOKEN_SECONDS, scope } };
    },
    async issueUserToken(request) {
      const { as } = request;
      const purpose = purposeOf(request.purpose ?? (as.kind === 'patient' ? 'PATRQT' : 'TREAT'));
      if (purpose === undefined) throw new CodedError('UNPROCESSABLE', { diagnostics: 'The purpose is not known.' });
      const scopes = (request.scopes ?? DEFAULT_SCOPES[as.kind]).map((text) => {
        const scope = parseScope(text);
        if (scope === undefined) throw new CodedError('UNPROCESSABLE', { diagnostics: 'A scope is not known.' });
        return formatScope(scope);
      });
      const asked = Math.floor(request.lifetimeSeconds ?? parts.userTokenLifetimeMs / 1000);
      const longest = isEmergency(purpose) ? SYSTEM_TOKEN_SECONDS : 24 * 3600;
      const expiresInSeconds = Math.max(1, Math.min(asked, longest));
      const claims = { client_id: COMMAND_LINE_CLIENT, scope: scopes.join(' '), purpose_of_use: purpose };
      if (as.kind === 'patient') {
        const accessToken = await sign(as.patient, { ...claims, actor: 'patient', patient: as.patient }, expiresInSeconds);
        return { accessToken, expiresInSeconds, scopes };
      }
      const role = await memberRole(institution, as.member);
      if (role === undefined) throw new CodedError('NOT_FOUND', { diagnostics: 'No such member is registered and active.' });
      const accessToken = await sign(as.member, { ...claims, actor: 'member', role }, expiresInSeconds);
      return { accessToken, expiresInSeconds, scopes };
    },
    smartConfiguration: () => ({
      issuer: issuerUrl,
      jwks_uri: `${issuerUrl}/jwks`,
      token_endpoint: tokenUrl,
      grant_types_supported: ['client_credentials'],
      token_endpoint_auth_methods_supported: ['private_key_jwt'],
      token_endpoint_auth_signing_alg_values_supported: [...ASSERTION_ALGORITHMS],
      scopes_supported: ['system/*.rs', 'user/*.rs', 'user/Consent.cu', 'patient/*.rs', 'patient/Consent.cu'],
      capabilities: ['client-confidential-asymmetric', 'permission-v1', 'permission-v2', 'permission-patient', 'permission-user'],
    }),
    async rotateKey() {
      await keys.rotate(new Date(now().getTime() - 25 * 3600 * 1000));
    },
  };

  /**
   * Purpose and member of the HL7 B2B extension (UDAP Security IG, `extensions.hl7-b2b`), a part of the signed assertion:
   * `purpose_of_use`, `subject_id`. Both only as far as the registration allows.
   */
  async function namedMember(
    client: Client,
    extensions: unknown,
  ): Promise<{ error: string } | { purpose: string; member?: string; role?: string }> {
    const b2b = (extensions as { 'hl7-b2b'?: unknown } | undefined)?.['hl7-b2b'] as Record<string, unknown> | undefined;
    const claimed = b2b?.['purpose_of_use'];
    const [first] = Array.isArray(claimed) ? (claimed as unknown[]) : [claimed];
    const purpose = first === undefined ? client.purposes[0] : typeof first === 'string' ? purposeOf(first) : undefined;
    if (purpose === undefined || !client.purposes.includes(purpose)) return { error: 'The client is not registered for this purpose.' };
    const member = b2b?.['subject_id'];
    if (member === undefined) return { purpose };
    const refused = { error: 'The client is not registered to act for this member.' };
    if (typeof member !== 'string' || client.actsForRoles.length === 0) return refused;
    const role = await memberRole(institution, member);
    return role !== undefined && client.actsForRoles.includes(role) ? { purpose, member, role } : refused;
  }
}

function failed(error: string, description: string, status: 400 | 401 = 400): TokenResponse {
  return { status, body: { error, error_description: description } };
}
