/** A whole server whose output can be read: `node canary-server.ts <config>`, with an IPC channel. */
import { type App, createApp } from '../../src/app.ts';
import { readSettings } from '../../src/cli/settings.ts';
import { sql } from '../../src/store/sql.ts';

export type Order = { do: 'pull' } | { do: 'questions' } | { do: 'member' } | { do: 'token'; as: string } | { do: 'close' };
export type Answer = { value: unknown } | { error: string };

const app = await createApp({ settings: await readSettings(process.argv[2] ?? ''), serve: true, logLevel: 'trace', schedule: false });
const { operations, core } = app;

async function answer(order: Order): Promise<unknown> {
  switch (order.do) {
    case 'pull': {
      const { streams } = await operations.pull({}, () => {});
      await app.settled();
      return streams;
    }
    case 'questions':
      return questions(app);
    case 'member':
      return (await operations.memberAdd({ name: 'Dr. Ines Calder', role: 'clinician' })).member;
    case 'token':
      return (await operations.token({ as: order.as })).token;
    case 'close':
      return undefined;
  }
}

/** Everything that an operator can ask for. */
async function questions({ operationsUrl }: App): Promise<unknown> {
  const ids = await core.database.query<{ id: string }>(
    sql`select rec as id from record union all select distinct document from document_version`,
  );
  const answers: unknown[] = [
    await operations.status({}),
    await operations.quarantineList({}),
    await operations.reconcile({}, () => {}),
    await operations.verify({}),
  ];
  for (const { id } of ids) answers.push(await operations.explain({ id }));
  answers.push(await (await fetch(`${operationsUrl}/metrics`)).text());
  return answers;
}

process.on('message', (order: Order) => {
  answer(order)
    .then(
      (value) => process.send?.({ value } satisfies Answer),
      (error: unknown) => process.send?.({ error: String(error) } satisfies Answer),
    )
    .then(async () => {
      if (order.do !== 'close') return;
      await app.close();
      process.disconnect();
    })
    .catch(() => process.exit(1));
});
process.on('disconnect', () => void app.close());
process.send?.({ value: { facadeUrl: app.facadeUrl } } satisfies Answer);
