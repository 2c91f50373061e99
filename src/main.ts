import { createProgram } from './cli/program.ts';
import { exitWith } from './cli/run.ts';

await createProgram().parseAsync().catch(exitWith);
