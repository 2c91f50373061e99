import { Command } from 'commander';
import { addClientCommand } from './cli/client.ts';
import { addConfigCommand } from './cli/config.ts';
import { addExplainCommand } from './cli/explain.ts';
import { addLedgerCommand } from './cli/ledger.ts';
import { addMemberCommand } from './cli/member.ts';
import { addPatientCommand } from './cli/patient.ts';
import { addPullCommand } from './cli/pull.ts';
import { addQuarantineCommand } from './cli/quarantine.ts';
import { addReconcileCommand } from './cli/reconcile.ts';
import { exitWith } from './cli/run.ts';
import { DEFAULT_CONFIG } from './cli/settings.ts';
import { addStartCommand } from './cli/start.ts';
import { addStatusCommand } from './cli/status.ts';
import { addStopCommand } from './cli/stop.ts';
import { addTokenCommand } from './cli/token.ts';

const program = new Command('oncobridge')
  .description('FHIR R4 integration server for radiation oncology: sealed records, permissions of the patient on a ledger')
  .option('-c, --config <file>', 'configuration file', process.env['ONCOBRIDGE_CONFIG'] ?? DEFAULT_CONFIG)
  .showHelpAfterError()
  .addHelpText(
    'after',
    '\nExit codes: 0 ok, 1 problems found, 78 bad configuration.\nExample:\n  $ oncobridge --config config/embedded.yaml start\n  $ oncobridge pull --source ehr --json',
  );

addStartCommand(program);
addStatusCommand(program);
addPullCommand(program);
addQuarantineCommand(program);
addExplainCommand(program);
addReconcileCommand(program);
addLedgerCommand(program);
addMemberCommand(program);
addPatientCommand(program);
addClientCommand(program);
addTokenCommand(program);
addConfigCommand(program);
addStopCommand(program);

await program.parseAsync().catch(exitWith);
