import { Command } from 'commander';
import { addAuditCommand } from './audit.ts';
import { addClientCommand } from './client.ts';
import { addConfigCommand } from './config.ts';
import { addDirectoryCommand } from './directory.ts';
import { addDoctorCommand } from './doctor.ts';
import { addExplainCommand } from './explain.ts';
import { addInstitutionCommand } from './institution.ts';
import { addLedgerCommand } from './ledger.ts';
import { addLinkCommand } from './link.ts';
import { addMemberCommand } from './member.ts';
import { addPatientCommand } from './patient.ts';
import { addPullCommand } from './pull.ts';
import { addQuarantineCommand } from './quarantine.ts';
import { addReconcileCommand } from './reconcile.ts';
import { DEFAULT_CONFIG } from './settings.ts';
import { addSharingCommand } from './sharing.ts';
import { addStartCommand } from './start.ts';
import { addStatusCommand } from './status.ts';
import { addStopCommand } from './stop.ts';
import { addTokenCommand } from './token.ts';

/** The command line: one line per command. Throws CommanderError at a wrong word, and where help was asked for and shown. */
export function createProgram(): Command {
  const program = new Command('oncobridge')
    .description('FHIR R4 integration server for radiation oncology: sealed records, permissions of the patient on a ledger')
    .option('-c, --config <file>', 'configuration file', process.env['ONCOBRIDGE_CONFIG'] ?? DEFAULT_CONFIG)
    .showHelpAfterError()
    .exitOverride()
    .addHelpText(
      'after',
      '\nExit codes: 0 ok, 1 problems found, 64 a wrong command or option, 78 bad configuration.\nExample:\n  $ oncobridge --config config/embedded.yaml start\n  $ oncobridge pull --source ehr --json',
    );

  addStartCommand(program);
  addStatusCommand(program);
  addPullCommand(program);
  addQuarantineCommand(program);
  addExplainCommand(program);
  addReconcileCommand(program);
  addLedgerCommand(program);
  addInstitutionCommand(program);
  addDoctorCommand(program);
  addAuditCommand(program);
  addMemberCommand(program);
  addDirectoryCommand(program);
  addPatientCommand(program);
  addLinkCommand(program);
  addSharingCommand(program);
  addClientCommand(program);
  addTokenCommand(program);
  addConfigCommand(program);
  addStopCommand(program);
  return program;
}
