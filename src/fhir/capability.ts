import type { CapabilityStatement, CapabilityStatementRestResource } from 'fhir/r4.js';
import { SEARCH_PARAMETERS } from '../records/search-parameters.ts';
import type { FacadeSettings, SmartEndpoints } from './ports.ts';
import { isSearchable, SERVED_TYPES } from './served-types.ts';

/** What runs here, from the tables that run it. `date` is when the server started. */
export function capabilityStatement(settings: FacadeSettings, date: Date): CapabilityStatement {
  return {
    resourceType: 'CapabilityStatement',
    status: 'active',
    date: date.toISOString(),
    kind: 'instance',
    software: { name: settings.software.name, version: settings.software.version },
    implementation: { description: 'Radiation oncology records under permissions of the patient', url: settings.baseUrl },
    fhirVersion: '4.0.1',
    format: ['json', 'application/fhir+json'],
    rest: [
      {
        mode: 'server',
        documentation:
          'Every answer lies inside the readable scope of its caller; what is not readable and what does not exist answer alike.',
        security: security(settings.smart),
        resource: [...SERVED_TYPES.values()].map(({ type, interactions }): CapabilityStatementRestResource => {
          const parameters = [...(SEARCH_PARAMETERS.get(type)?.values() ?? [])];
          return {
            type: type as CapabilityStatementRestResource['type'],
            interaction: interactions.map((code) => ({ code })),
            versioning: 'versioned',
            readHistory: false,
            updateCreate: false,
            conditionalRead: ['Consent', 'AuditEvent', 'Patient'].includes(type) ? 'not-match' : 'full-support',
            ...(isSearchable(type)
              ? {
                  searchInclude: type === 'AuditEvent' || type === 'Consent' ? [] : includes(type),
                  searchRevInclude: type === 'AuditEvent' || type === 'Consent' ? [] : reverseIncludes(type),
                  searchParam: [
                    ...(type === 'AuditEvent' ? [] : COMMON),
                    ...parameters.map((p) => ({ name: p.name, type: p.type, documentation: `${p.class}: ${CLASS_NOTE[p.class]}` })),
                  ],
                }
              : {}),
          };
        }),
      },
    ],
  };
}

const CLASS_NOTE = {
  clear: 'answered by the index',
  blind: 'equality of system and value only',
  sealed: 'matched after opening, for few patients at a time',
} as const;

const COMMON = [
  { name: '_id', type: 'token' as const },
  { name: '_lastUpdated', type: 'date' as const },
];

function includes(type: string): string[] {
  return [...(SEARCH_PARAMETERS.get(type)?.values() ?? [])]
    .filter((p) => p.type === 'reference' && p.class === 'clear')
    .map((p) => `${type}:${p.name}`);
}

/** References of rows that may point at this type. */
function reverseIncludes(type: string): string[] {
  return [...SERVED_TYPES.values()]
    .filter((other) => other.shelf !== 'ledger' && isSearchable(other.type))
    .flatMap((other) =>
      [...(SEARCH_PARAMETERS.get(other.type)?.values() ?? [])]
        .filter((p) => p.type === 'reference' && p.class === 'clear' && (p.targets.length === 0 || p.targets.includes(type)))
        .map((p) => `${other.type}:${p.name}`),
    );
}

const OAUTH_URIS = 'http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris';

function security(smart: SmartEndpoints): NonNullable<NonNullable<CapabilityStatement['rest']>[number]['security']> {
  return {
    service: [
      {
        coding: [
          { system: 'http://terminology.hl7.org/CodeSystem/restful-security-service', code: 'SMART-on-FHIR', display: 'SMART-on-FHIR' },
        ],
      },
    ],
    extension: [
      {
        url: OAUTH_URIS,
        extension: [
          { url: 'token', valueUri: smart.tokenEndpoint },
          ...(smart.authorizationEndpoint !== undefined ? [{ url: 'authorize', valueUri: smart.authorizationEndpoint }] : []),
          ...(smart.introspectionEndpoint !== undefined ? [{ url: 'introspect', valueUri: smart.introspectionEndpoint }] : []),
        ],
      },
    ],
  };
}

/** `/.well-known/smart-configuration` (SMART App Launch 2.2, conformance). */
export function smartConfiguration(smart: SmartEndpoints): Record<string, unknown> {
  return {
    issuer: smart.issuer,
    ...(smart.jwksUri !== undefined ? { jwks_uri: smart.jwksUri } : {}),
    ...(smart.authorizationEndpoint !== undefined ? { authorization_endpoint: smart.authorizationEndpoint } : {}),
    ...(smart.introspectionEndpoint !== undefined ? { introspection_endpoint: smart.introspectionEndpoint } : {}),
    token_endpoint: smart.tokenEndpoint,
    grant_types_supported: ['client_credentials', ...(smart.authorizationEndpoint !== undefined ? ['authorization_code'] : [])],
    token_endpoint_auth_methods_supported: ['private_key_jwt'],
    token_endpoint_auth_signing_alg_values_supported: ['RS384', 'ES384'],
    ...(smart.authorizationEndpoint !== undefined
      ? { response_types_supported: ['code'], code_challenge_methods_supported: ['S256'] }
      : {}),
    scopes_supported: smart.scopesSupported,
    capabilities: smart.capabilities,
  };
}
