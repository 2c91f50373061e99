/** How an institution reaches its Fabric network: what `ledger` in the config becomes, with files read. architecture.md section 6. */
export interface FabricConnection {
  /** The own MSP id and institution id; the certificate's attribute `oncobridge.institution` names the latter. */
  readonly msp: string;
  readonly institution: string;
  readonly channel: string;
  readonly chaincode: string;
  /** Gateway identity, PEM. The key signs proposals, transactions and status requests; it is no key of any person. */
  readonly certificatePem: string;
  readonly privateKeyPem: string;
  /** Peers of the own organisation, in the order in which they are tried. */
  readonly peers: readonly FabricPeer[];
  readonly deadlines?: Partial<FabricDeadlines>;
}

export interface FabricPeer {
  readonly name: string;
  /** `host:port`; a host name, for TLS names the server by it. */
  readonly endpoint: string;
  readonly tlsRootPem: string;
  /** Where the certificate names another host than the endpoint's. */
  readonly serverName?: string;
  /** Client side of mutual TLS, where the peer asks for it. */
  readonly clientCertificatePem?: string;
  readonly clientKeyPem?: string;
}

export interface FabricDeadlines {
  readonly evaluateMs: number;
  readonly endorseMs: number;
  readonly submitMs: number;
  readonly commitMs: number;
}
