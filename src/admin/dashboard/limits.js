// The limits of a session against its use, as bars.

/** The entries: a name, the use, the limit, and how both are written. Those without a limit are shown as unlimited. */
function limitEntries(session, totals) {
  const { limits, rates } = session;
  const messages = limits.message_rate;
  const byteRate = limits.byte_rate;
  const shared = (key) => (key === 'session' ? '' : `; the quota is of the ${key}, so other sessions share it`);
  return [
    {
      name: 'Messages in',
      key: 'message_rate',
      use: rates.messages_in,
      limit: messages && messages.rate.count / messages.rate.period_seconds,
      format: perSecond,
      note: messages && `burst ${count(messages.rate.burst)}, beyond it: ${messages.on_excess}${shared(messages.key)}`,
    },
    ...['in', 'out'].map((side) => ({
      name: `Bytes ${side}`,
      key: 'byte_rate',
      use: rates[`bytes_${side}`],
      limit: byteRate && byteRate.bytes / byteRate.period_seconds,
      format: bytesPerSecond,
      note: byteRate && `burst ${bytes(byteRate.burst_bytes)}, beyond it: ${byteRate.on_excess}${shared(byteRate.key)}`,
    })),
    {
      name: 'Age',
      key: 'max_session_age',
      use: session.age_seconds,
      limit: limits.max_session_age_seconds,
      format: wholeDuration,
    },
    {
      name: 'Idle',
      key: 'idle_timeout',
      use: session.idle_seconds,
      limit: limits.idle_timeout_seconds,
      format: wholeDuration,
    },
    session.subject !== null && {
      name: 'Sessions of the subject',
      key: 'sessions_per_subject',
      use: totals.subject,
      limit: limits.sessions_per_subject,
      format: count,
      note: limits.sessions_per_subject && `beyond it: ${keyText(limits.on_session_limit)}`,
    },
    {
      name: 'Sessions of the address',
      key: 'sessions_per_address',
      use: totals.address,
      limit: limits.sessions_per_address,
      format: count,
      note: limits.sessions_per_address && `beyond it: ${keyText(limits.on_session_limit)}`,
    },
  ].filter(Boolean);
}

function createLimits() {
  const list = h('ul.bars.limits', { 'aria-label': 'Limits against use' });
  return {
    element: list,
    update(session, totals) {
      keyed(list, limitEntries(session, totals), ({ name }) => name, createLimitBar, updateLimitBar);
    },
  };
}

function createLimitBar() {
  return h('li', h('span.name'), h('span.days'), h('div.bar', { 'aria-hidden': true }, h('div')), h('span.note'));
}

function updateLimitBar(row, { name, key, use, limit, format, note }) {
  const [label, value, bar, more] = row.children;
  setText(label, name);
  setAttribute(label, 'title', key);
  const share = limit ? Math.min(1, (use ?? 0) / limit) : 0;
  setText(value, limit ? `${format(use ?? null)} of ${format(limit)}` : `${format(use ?? null)}, unlimited`);
  row.dataset.level = !limit ? 'none' : share >= 0.95 ? 'bad' : share >= 0.8 ? 'warn' : 'good';
  bar.firstChild.style.width = `${share * 100}%`;
  setText(more, note || '');
}

/** The fixed limits of a route, as `GET /v1/sessions/ID` and `/v1/routes` give them. */
function limitTerms(limits) {
  const optional = (value, format, none = 'off') => (value === null || value === undefined ? none : format(value));
  const messageRate = ({ rate, key, on_excess: excess }) =>
    `${count(rate.count)} in ${duration(rate.period_seconds)}, burst ${count(rate.burst)}, by ${key}: ${excess}`;
  const byteRate = (rate) =>
    `${bytes(rate.bytes)} in ${duration(rate.period_seconds)}, burst ${bytes(rate.burst_bytes)}, by ${rate.key}: ${rate.on_excess}`;
  const overhead = ({ count: number, period_seconds: period, burst }) =>
    `${count(number)} in ${duration(period)}, burst ${count(burst)}`;
  return terms([
    ['mode', limits.mode === 'report' ? 'report: limits are counted and have no effect' : 'enforce'],
    ['message_rate', optional(limits.message_rate, messageRate)],
    ['byte_rate', optional(limits.byte_rate, byteRate)],
    ['control frames and fragments', optional(limits.overhead_rate, overhead)],
    ['message_max_size', optional(limits.message_max_bytes, bytes)],
    ['frame_max_size', optional(limits.frame_max_bytes, bytes)],
    ['upstream_message_max_size', optional(limits.upstream_message_max_bytes, bytes)],
    ['sessions_per_subject', optional(limits.sessions_per_subject, count)],
    ['sessions_per_address', optional(limits.sessions_per_address, count)],
    ['on_session_limit', limits.on_session_limit],
    ['idle_timeout', optional(limits.idle_timeout_seconds, duration)],
    ['max_session_age', optional(limits.max_session_age_seconds, duration)],
    ['ping_interval', optional(limits.ping_interval_seconds, duration)],
    ['upstream_ping_interval', optional(limits.upstream_ping_interval_seconds, duration)],
    ['pong_timeout', optional(limits.pong_timeout_seconds, duration)],
    ['close_timeout', optional(limits.close_timeout_seconds, duration)],
    ['write_timeout', optional(limits.write_timeout_seconds, duration)],
    [
      'on_slow_client',
      limits.on_slow_client + optional(limits.slow_client_buffer_bytes, (size) => ` beyond ${bytes(size)}`, ''),
    ],
    ['check_utf8', limits.check_utf8 ? 'yes' : 'no'],
  ]);
}
