// The figures of the overview: the metric, the unit and the words of each.

const direction = ({ direction: way }) => ({
  label: way === 'in' ? 'from clients' : 'to clients',
  key: way,
  rank: way === 'in' ? 2 : 1,
});
const plain = (label) => (labels) => ({ label: labels[label] });

const HTTP_REJECTIONS = 'tollgate_http_rejections_total';
/** The metrics of rejections: of upgrades, and of ordinary requests. */
const REJECTION_METRICS = ['tollgate_upgrades_total', HTTP_REJECTIONS];

function rejectionName({ outcome }, metric) {
  const label = causeText('rejection', outcome) + (metric === HTTP_REJECTIONS ? ' (ordinary)' : '');
  return { label, title: outcome, href: eventsLink('rejection', outcome) };
}

function endName({ cause, by }) {
  return { label: eventCause({ kind: 'end', cause, by }), title: `${cause}, by ${by}`, href: eventsLink('end', cause) };
}

function serverName({ upstream, server }) {
  return {
    label: `${upstream} ${server}`,
    href: `#/sessions?upstream=${encodeURIComponent(upstream)}&server=${encodeURIComponent(server)}`,
  };
}

/** Counts of single events are shown as the mean of a minute, so that rare ones are not spikes. */
const counted = { format: perSecond, axis: axisCount, total: shortCount };
const rare = { ...counted, mean: 60, gridNote: 'mean of a minute' };
const gauged = { format: shortCount, axis: axisCount, isWhole: true };

/**
 * The cards by section. `metric` is the name of the series, `also` that of further ones, `name` their label in words,
 * `rows` the space for them.
 */
const SECTIONS = [
  [
    'Traffic',
    [
      {
        id: 'sessions',
        title: 'Sessions',
        metric: 'tollgate_sessions',
        ...gauged,
        rows: 2,
        name: () => ({ label: 'open sessions' }),
        note: sessionsNote,
      },
      { id: 'messages', title: 'Messages', metric: 'tollgate_messages_total', ...counted, rows: 2, name: direction },
      {
        id: 'bytes',
        title: 'Bytes',
        metric: 'tollgate_bytes_total',
        format: bytesPerSecond,
        axis: axisBytes,
        base: 1024,
        total: bytes,
        rows: 2,
        name: direction,
      },
      {
        id: 'throttled',
        title: 'Throttled',
        metric: 'tollgate_throttled_total',
        ...rare,
        rows: 3,
        name: plain('action'),
      },
      {
        id: 'connections',
        title: 'Connections',
        metric: 'tollgate_connections',
        ...gauged,
        rows: 4,
        name: plain('state'),
      },
      {
        id: 'handshakes',
        title: 'TLS handshakes',
        metric: 'tollgate_tls_handshakes_total',
        ...rare,
        rows: 4,
        name: plain('outcome'),
      },
    ],
  ],
  [
    'Admission and ends',
    [
      { id: 'upgrades', title: 'Upgrades', metric: 'tollgate_upgrades_total', ...rare, rows: 3, name: upgradeName },
      {
        id: 'rejections',
        title: 'Rejections by cause',
        metric: 'tollgate_upgrades_total',
        also: HTTP_REJECTIONS,
        ...rare,
        rows: 3,
        name: rejectionName,
        isWanted: ({ outcome }) => outcome !== 'accepted',
      },
      {
        id: 'closes',
        title: 'Closes by code and side',
        metric: 'tollgate_closes_total',
        ...rare,
        rows: 3,
        name: ({ code, by }) => ({ label: `${code} by ${by}`, title: codeText(code) }),
      },
      { id: 'causes', title: 'Ends by cause', metric: 'tollgate_close_causes_total', ...rare, rows: 3, name: endName },
    ],
  ],
  [
    'Upstreams',
    [
      {
        id: 'servers',
        title: 'Sessions by server',
        metric: 'tollgate_upstream_sessions',
        ...gauged,
        rows: 3,
        name: serverName,
      },
      {
        id: 'failures',
        title: 'Failed connects by server',
        metric: 'tollgate_upstream_connect_failures_total',
        ...rare,
        rows: 3,
        name: serverName,
      },
    ],
  ],
  [
    'Process',
    [
      {
        id: 'generation',
        title: 'Generation',
        metric: 'tollgate_config_generation',
        ...gauged,
        rows: 3,
        name: () => ({ label: 'generation' }),
        note: reloadNote,
      },
      { id: 'reloads', title: 'Reloads', metric: 'tollgate_reloads_total', ...rare, rows: 3, name: plain('outcome') },
      {
        id: 'revocations',
        title: 'Revocations in effect',
        metric: 'tollgate_revocations',
        ...gauged,
        rows: 3,
        name: () => ({ label: 'revocations' }),
      },
      {
        id: 'cpu',
        title: 'CPU',
        metric: 'process_cpu_seconds_total',
        format: (value) => percent(value === null ? null : value * 100),
        axis: (value) => `${axisCount(value * 100)} %`,
        total: (seconds) => `${digits(seconds)} s`,
        rows: 3,
        name: () => ({ label: 'of one core' }),
      },
      {
        id: 'memory',
        title: 'Memory',
        metric: 'process_resident_memory_bytes',
        format: bytes,
        axis: axisBytes,
        base: 1024,
        rows: 3,
        name: () => ({ label: 'resident memory' }),
      },
    ],
  ],
];

function upgradeName({ outcome }) {
  return outcome === 'accepted'
    ? { label: 'accepted', key: 'ok' }
    : { label: causeText('rejection', outcome), title: outcome, href: eventsLink('rejection', outcome) };
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
