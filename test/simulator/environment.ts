import type { Simulator } from '../../simulator/simulator.ts';

/** Addresses and credentials of a simulator, under the names that the sample configuration reads. */
export function simulatorEnvironment({ ehr, aria }: Pick<Simulator, 'ehr' | 'aria'>): Record<string, string> {
  return {
    EHR_FHIR_URL: ehr.baseUrl,
    EHR_CLIENT_ID: ehr.clientId,
    EHR_CLIENT_KEY: JSON.stringify(ehr.privateKeyJwk),
    ARIA_FHIR_URL: aria.baseUrl,
    ARIA_TOKEN_URL: aria.tokenUrl,
    ARIA_CLIENT_ID: aria.clientId,
    ARIA_CLIENT_SECRET: aria.clientSecret,
  };
}
