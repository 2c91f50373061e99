/**
 * One question for many askers: what is asked in one turn of the event loop is fetched together. `fetch` answers in the order of
 * the asks. Where the whole fails each is asked alone, so that one bad ask is nobody else's error.
 */
export function gather<Ask, Answer>(fetch: (asks: readonly Ask[]) => Promise<readonly Answer[]>): (ask: Ask) => Promise<Answer> {
  let open: { ask: Ask; answer: PromiseWithResolvers<Answer> }[] = [];

  async function answer(batch: typeof open): Promise<void> {
    try {
      const answers = await fetch(batch.map((one) => one.ask));
      // As many answers as asks, by contract of `fetch`.
      for (const [index, one] of batch.entries()) one.answer.resolve(answers[index] as Answer);
    } catch (error) {
      if (batch.length === 1) batch[0]?.answer.reject(error);
      else for (const one of batch) await answer([one]);
    }
  }

  return (ask) => {
    const one = { ask, answer: Promise.withResolvers<Answer>() };
    if (open.push(one) === 1)
      setImmediate(() => {
        const batch = open;
        open = [];
        void answer(batch);
      });
    return one.answer.promise;
  };
}
