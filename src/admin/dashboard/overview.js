// The overview: every figure of the process with its chart over the last hour.

const HISTORY_MS = 2000;
const STATE_MS = 15_000;

/** The figures outlive the view, so that a return to it shows them at once. */
const history = createHistory();

/** Makes the series of a card from those of the history. Unnamed counters that never counted are left out. */
function seriesOf(config, slots) {
  const list = [config.metric, ...(config.also ? [config.also] : [])]
    .flatMap(history.all)
    .filter(({ labels }) => !config.isWanted || config.isWanted(labels))
    .map((one) => {
      const total = one.values.at(-1) ?? 0;
      const values = config.total ? history.rates(one, config.mean) : one.values;
      return {
        values,
        total,
        rank: config.total ? total : Math.max(0, ...one.values.filter(isNumber)),
        metric: seriesKey(one.name, one.labels),
        ...config.name(one.labels, one.name),
      };
    });
  const series = largest(
    list.filter((one) => one.total > 0 || one.rank > 0 || list.length <= 4),
    slots,
  );
  return series.length > 1
    ? series.map((one) => ({ ...one, key: one.key ?? (one.isOther ? '+' : String(one.slot + 1)) }))
    : series;
}

function updateCard({ config, card, slots }) {
  const series = seriesOf(config, slots);
  const parts = series.map((one) => one.values.at(-1)).filter(isNumber);
  const now = parts.length ? parts.reduce((a, b) => a + b, 0) : null;
  card.update(
    { times: history.times(), series },
    {
      value: now,
      text: series.length || !history.times().length ? config.format(now) : config.format(0),
      noteText: config.note?.() ?? config.gridNote ?? '',
    },
  );
}

function overviewView() {
  const cursor = createCursor();
  const attention = createAttention();
  const certificateCard = createCertificateCard();
  const cards = [];
  const facts = { history };
  const sections = SECTIONS.map(([title, configs]) => {
    const own = configs.map((config) => {
      const figureMetric = config.total ? null : config.metric;
      const entry = { config, card: createCard({ ...config, cursor, figureMetric }), slots: new Map() };
      cards.push(entry);
      return entry.card.element;
    });
    if (title === 'Process') own.splice(3, 0, certificateCard.element);
    const id = uniqueId('section');
    return h('section', { 'aria-labelledby': id }, h('h2', { id }, title), h(`div.grid.of-${own.length}`, own));
  });

  // All cards appear at once, so that none moves another.
  const rest = h('div.rest', { hidden: true }, sections);
  const refresh = () => {
    cards.forEach(updateCard);
    if (!facts.upstreams && !facts.unknown) return;
    attention.update({ ...facts, info: state.info });
    if (history.times().length) rest.hidden = false;
  };
  const polls = [
    poll(HISTORY_MS, async (signal) => {
      history.merge(await get('/v1/history', { since: history.since() }, signal));
      refresh();
    }),
    poll(
      STATE_MS,
      async (signal) => {
        const answers = await Promise.all(
          ['upstreams', 'certificates', 'auths', 'nodes'].map((name) => get(`/v1/${name}`, {}, signal)),
        );
        Object.assign(facts, ...answers, { unknown: null });
        certificateCard.update(facts.certificates);
        refresh();
      },
      (error) => {
        facts.unknown = `Not known at present: servers, certificates and key sets. ${capital(error.message)}`;
        refresh();
      },
    ),
  ];
  if (history.times().length) refresh();
  return {
    title: 'Overview',
    content: [attention.element, rest],
    stop() {
      polls.forEach((one) => one.stop());
      cards.forEach(({ card }) => card.stop());
    },
  };
}
