// The overview: every figure of the process with its chart over the last hour.

const HISTORY_MS = 2000;
const STATE_MS = 15_000;

const direction = ({ direction: way }) => ({ label: way === 'in' ? 'from clients' : 'to clients', key: way, rank: way === 'in' ? 2 : 1 });
const plain = (label) => (labels) => ({ label: labels[label] });
const eventsLink = (kind, cause) => `#/events?kind=${kind}&cause=${encodeURIComponent(cause)}`;

function rejectionName({ outcome }) {
  return { label: causeText('rejection', outcome), title: outcome, href: eventsLink('rejection', outcome) };
}

function endName({ cause, by }) {
  return { label: `${causeText('end', cause)}${cause === 'closed' ? `, ${by}` : ''}`, title: `${cause}, by ${by}`, href: eventsLink('end', cause) };
}

function serverName({ upstream, server }) {
  return { label: `${upstream} ${server}`, href: `#/sessions?upstream=${encodeURIComponent(upstream)}&server=${encodeURIComponent(server)}` };
}

/** Counts of single events are shown as the mean of a minute, so that rare ones are not spikes. */
const counted = { format: perSecond, axis: axisCount, total: shortCount };
const rare = { ...counted, window: 60, gridNote: 'mean of a minute' };
const gauged = { format: shortCount, axis: axisCount, isWhole: true };

/** The cards by section. `metric` is the name of the series, `name` their label in words, `rows` the space for them. */
const SECTIONS = [
  ['Traffic', [
    { id: 'sessions', title: 'Sessions', metric: 'tollgate_sessions', ...gauged, rows: 2, name: () => ({ label: 'open sessions' }), note: sessionsNote },
    { id: 'messages', title: 'Messages', metric: 'tollgate_messages_total', ...counted, rows: 2, name: direction },
    { id: 'bytes', title: 'Bytes', metric: 'tollgate_bytes_total', format: bytesPerSecond, axis: axisBytes, base: 1024, total: bytes, rows: 2, name: direction },
    { id: 'throttled', title: 'Throttled', metric: 'tollgate_throttled_total', ...rare, rows: 3, name: plain('action') },
    { id: 'connections', title: 'Connections', metric: 'tollgate_connections', ...gauged, rows: 4, name: plain('state') },
    { id: 'handshakes', title: 'TLS handshakes', metric: 'tollgate_tls_handshakes_total', ...rare, rows: 4, name: plain('outcome') },
  ]],
  ['Admission and ends', [
    { id: 'upgrades', title: 'Upgrades', metric: 'tollgate_upgrades_total', ...rare, rows: 3, name: upgradeName },
    { id: 'rejections', title: 'Rejections by cause', metric: 'tollgate_upgrades_total', ...rare, rows: 3, name: rejectionName,
      isWanted: ({ outcome }) => outcome !== 'accepted' },
    { id: 'closes', title: 'Closes by code and side', metric: 'tollgate_closes_total', ...rare, rows: 3,
      name: ({ code, by }) => ({ label: `${code} by ${by}`, title: codeText(code) }) },
    { id: 'causes', title: 'Ends by cause', metric: 'tollgate_close_causes_total', ...rare, rows: 3, name: endName },
  ]],
  ['Upstreams', [
    { id: 'servers', title: 'Sessions by server', metric: 'tollgate_upstream_sessions', ...gauged, rows: 3, name: serverName },
    { id: 'failures', title: 'Failed connects by server', metric: 'tollgate_upstream_connect_failures_total', ...rare, rows: 3, name: serverName },
  ]],
  ['Process', [
    { id: 'generation', title: 'Configuration generation', metric: 'tollgate_config_generation', ...gauged, rows: 3, name: () => ({ label: 'generation' }), note: reloadNote },
    { id: 'reloads', title: 'Reloads', metric: 'tollgate_reloads_total', ...rare, rows: 3, name: plain('outcome') },
    { id: 'revocations', title: 'Revocations in effect', metric: 'tollgate_revocations', ...gauged, rows: 3, name: () => ({ label: 'revocations' }) },
    { id: 'cpu', title: 'CPU', metric: 'process_cpu_seconds_total', format: (value) => percent(value === null ? null : value * 100),
      axis: (value) => `${axisCount(value * 100)} %`, total: (seconds) => `${digits(seconds)} s`, rows: 3, name: () => ({ label: 'of one core' }) },
    { id: 'memory', title: 'Memory', metric: 'process_resident_memory_bytes', format: bytes, axis: axisBytes, base: 1024, rows: 3, name: () => ({ label: 'resident memory' }) },
  ]],
];

function upgradeName({ outcome }) {
  return outcome === 'accepted' ? { label: 'accepted', key: 'ok' } : { label: causeText('rejection', outcome), title: outcome, href: eventsLink('rejection', outcome) };
}

function sessionsNote() {
  return state.info ? `of at most ${count(state.info.max_sessions)}` : '';
}

function reloadNote() {
  const last = state.info?.last_reload;
  if (!state.info) return '';
  if (!last) return 'not reloaded since the start';
  return last.successful ? `reloaded ${dateTime(last.time)}` : `the reload of ${dateTime(last.time)} failed`;
}

/** The figures outlive the view, so that a return to it shows them at once. */
const history = createHistory();
let historyProcess = null;

/** Makes the series of a card from those of the history. Unnamed counters that never counted are left out. */
function seriesOf(config, slots) {
  const list = history.all(config.metric).filter(({ labels }) => !config.isWanted || config.isWanted(labels)).map((one) => {
    const total = one.values.at(-1) ?? 0;
    const values = config.total ? history.rates(one, config.window) : one.values;
    return { values, total, rank: config.total ? total : Math.max(0, ...one.values.filter(isNumber)),
      metric: seriesKey(one.name, one.labels), ...config.name(one.labels) };
  });
  const series = largest(list.filter((one) => one.total > 0 || one.rank > 0 || list.length <= 4), slots);
  return series.length > 1 ? series.map((one) => ({ ...one, key: one.key ?? (one.isOther ? '+' : String(one.slot + 1)) })) : series;
}

function updateCard({ config, card, slots }) {
  const series = seriesOf(config, slots);
  const parts = series.map((one) => one.values.at(-1)).filter(isNumber);
  const now = parts.length ? parts.reduce((a, b) => a + b, 0) : null;
  card.update({ times: history.times(), series },
    { value: now, text: series.length || !history.times().length ? config.format(now) : config.format(0), noteText: config.note?.() ?? config.gridNote ?? '' });
}

/** The bars of certificates by days left. */
function createCertificateCard() {
  const list = h('ul.bars', { 'aria-label': 'Certificates by days left' });
  const number = h('span.number', NONE);
  const element = h('figure.card.certificates', { id: 'certificates', 'aria-labelledby': 'certificates-title' },
    h('figcaption', { id: 'certificates-title' }, h('h3', 'Certificates'), h('p.figure', number, ' ', h('span.note', 'until the first expires'))),
    h('div.scroll', { tabindex: 0, role: 'region', 'aria-label': 'Certificates' }, list));
  return {
    element,
    update(certificates) {
      const sorted = certificates.slice().sort((a, b) => (a.days_left ?? Infinity) - (b.days_left ?? Infinity));
      setText(number, sorted.length && isNumber(sorted[0].days_left) ? daysText(sorted[0].days_left) : 'none');
      keyed(list, sorted, (one) => `${one.listener} ${one.names.join()}`, () => certificateBar(), updateBar);
    },
  };
}

function certificateBar() {
  return h('li', h('span.name'), h('span.days'), h('div.bar', { 'aria-hidden': true }, h('div')));
}

function updateBar(row, { names, days_left: days, listener }) {
  const more = names.length > 1 ? ` and ${names.length - 1} more` : '';
  setText(row.children[0], `${names[0] ?? 'no name'}${more}, ${listener}`);
  setAttribute(row.children[0], 'title', names.join(', '));
  setText(row.children[1], daysText(days));
  row.dataset.level = days < CERTIFICATE_BAD_DAYS ? 'bad' : days < CERTIFICATE_WARN_DAYS ? 'warn' : 'good';
  row.dataset.value = days;
  row.querySelector('.bar > div').style.width = `${Math.max(1, Math.min(100, ((days ?? 0) / 90) * 100))}%`;
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
    attention.update({ ...facts, info: state.info });
    rest.hidden = false;
  };
  const polls = [
    poll(HISTORY_MS, async (signal) => {
      const process = state.info && `${state.info.pid} ${state.info.started}`;
      if (historyProcess !== null && historyProcess !== process) history.reset();
      historyProcess = process;
      history.merge(await get('/v1/history', { since: history.since() }, signal));
      refresh();
    }),
    poll(STATE_MS, async (signal) => {
      const answers = await Promise.all(['upstreams', 'certificates', 'auths'].map((name) => get(`/v1/${name}`, {}, signal)));
      Object.assign(facts, ...answers);
      certificateCard.update(facts.certificates);
      refresh();
    }),
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
