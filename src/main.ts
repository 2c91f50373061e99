import { enableCompileCache } from 'node:module';

// Compiled code is kept between runs: a command starts in about half the time.
enableCompileCache();
const [{ createProgram }, { exitWith }] = await Promise.all([import('./cli/program.ts'), import('./cli/run.ts')]);

await createProgram().parseAsync().catch(exitWith);
