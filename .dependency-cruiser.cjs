/** Who may import whom: docs/architecture.md. test/architecture/imports.test.ts plants a violation to prove that this runs. */
const only = (name, from, allowed, comment) => ({
  name,
  severity: 'error',
  comment,
  from: { path: from },
  to: { path: '^(src|simulator)/', pathNot: allowed },
});
module.exports = {
  forbidden: [
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true } },
    {
      name: 'contract-imports-nothing',
      severity: 'error',
      comment: 'Every host runs the same contract: it imports nothing outside its folder, not even from Node.',
      from: { path: '^src/ledger/contract/' },
      to: { pathNot: '^src/ledger/contract/' },
    },
    only('records-are-pure', '^src/records/', '^src/(records/|errors\\.ts|ids\\.ts|canonical-json\\.ts)', 'The clinical model knows no room but itself.'),
    {
      name: 'records-do-no-io',
      severity: 'error',
      from: { path: '^src/records/' },
      to: { path: '^(node:)?(fs|net|http|https|dns|child_process|worker_threads|fs/promises)$' },
    },
    only('adapters-know-records', '^src/adapters/', '^src/(adapters|records)/|^src/(errors|ids)\\.ts', 'A source knows records and nothing of what becomes of them.'),
    only('render-knows-records', '^src/render/', '^src/(render|records)/|^src/(errors|ids)\\.ts', 'A layout draws a model.'),
    only('vault-stands-alone', '^src/vault/', '^src/(vault|store)/|^src/(errors|ids|canonical-json)\\.ts', 'Keys know neither HTTP nor sources.'),
    only('store-stands-alone', '^src/store/', '^src/(store|vault|records)/|^src/(errors|ids)\\.ts', 'Rows know neither HTTP nor sources.'),
    only('queue-stands-alone', '^src/queue/', '^src/(queue|store)/|^src/(errors|ids)\\.ts', 'Jobs know neither HTTP nor sources.'),
    only('sharing-stands-apart', '^src/sharing/', '^src/(sharing|vault|store|ledger|records|audit|outbox)/|^src/(errors|ids|canonical-json)\\.ts', 'What other institutions share knows keys, rows, ledger and audit; the facade reads its tables, and nothing wakes it but the ledger and the clock.'),
    { name: 'pipeline-not-fhir', severity: 'error', comment: 'app.ts hands each what it needs of the other.', from: { path: '^src/pipeline/' }, to: { path: '^src/(fhir|http)/' } },
    { name: 'fhir-not-pipeline', severity: 'error', from: { path: '^src/fhir/' }, to: { path: '^src/pipeline/' } },
    { name: 'device-knows-neither-facade-nor-pipeline', comment: 'What a device signs goes to the ledger; app.ts hands it what it needs.', severity: 'error', from: { path: '^src/device/' }, to: { path: '^src/(fhir|pipeline|http)/' } },
    { name: 'only-cli-and-app-know-all', severity: 'error', from: { path: '^src/', pathNot: '^src/(cli/|main\\.ts|app\\.ts|app/)' }, to: { path: '^src/(cli/|main\\.ts|app\\.ts|app/)' } },
    { name: 'src-not-simulator', severity: 'error', from: { path: '^src/', pathNot: '^src/cli/' }, to: { path: '^(simulator|bench|test|network|chaincode)/' } },
    only('network-stands-alone', '^network/', '^src/(errors|ids)\\.ts|^src/store/(folder-lock|process-alive)\\.ts|^src/cli/run\\.ts|^src/ledger/fabric/connection\\.ts', 'It runs any chaincode, and knows no client but the shape of a connection.'),
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: { extensions: ['.ts', '.js', '.json'] },
  },
};
