// Findings that an operator has to look at first: failing servers, certificates, key sets, the last reload, limits and
// rejections.

const CERTIFICATE_WARN_DAYS = 21;
const CERTIFICATE_BAD_DAYS = 7;
const SESSIONS_WARN_SHARE = 0.9;
const RECENT_SECONDS = 300;
/** Fewer rejections or ends of a cause within that time are not worth a line. */
const RECENT_MIN = 10;
/** Ends that are part of normal operation. */
const NORMAL_ENDS = new Set([
  'closed',
  'client_gone',
  'drain',
  'command',
  'token_expired',
  'max_session_age',
  'idle_timeout',
  'replaced',
]);

/** Creates the list. `update` takes the facts that are known so far. */
function createAttention() {
  const list = h('ul');
  const quiet = h(
    'p.quiet',
    { hidden: true },
    'Servers, certificates, key sets, the last reload, the limit of sessions, and rejections and ends of the last 5 minutes are as they should be.',
  );
  const title = h('h2', { id: 'attention-title' }, 'Checking');
  const box = h('div.box', { tabindex: 0, role: 'group', 'aria-labelledby': 'attention-title' }, list, quiet);
  const element = h('section.attention', { 'aria-labelledby': 'attention-title' }, title, box);
  return {
    element,
    update(facts) {
      const items = findings(facts);
      setText(
        title,
        items.length ? `${plural(items.length, 'thing needs', 'things need')} attention` : 'Nothing needs attention',
      );
      element.dataset.level = items.some(({ level }) => level === 'bad') ? 'bad' : items.length ? 'warn' : 'good';
      quiet.hidden = items.length > 0;
      keyed(
        list,
        items,
        (item) => item.key,
        () => h('li', h('strong'), ' ', h('a')),
        (row, item) => {
          row.className = item.level;
          setText(row.firstChild, item.level === 'bad' ? 'Now:' : 'Watch:');
          setText(row.lastChild, item.text);
          setAttribute(row.lastChild, 'href', item.href);
        },
      );
    },
  };
}

function findings({ info, history, upstreams, certificates, auths }) {
  const found = [
    ...processFindings(info),
    ...(upstreams ?? []).flatMap(serverFindings),
    ...(certificates ?? []).flatMap(certificateFindings),
    ...(auths ?? []).flatMap(keySetFindings),
    ...recent(history, 'tollgate_upgrades_total', 'outcome', (outcome) => outcome !== 'accepted', 'rejection'),
    ...recent(history, 'tollgate_close_causes_total', 'cause', (cause) => !NORMAL_ENDS.has(cause), 'end'),
  ];
  return found.sort((a, b) => (a.level === b.level ? 0 : a.level === 'bad' ? -1 : 1));
}

function processFindings(info) {
  const found = [];
  if (!info) return found;
  if (info.phase === 'draining') {
    found.push({
      key: 'phase',
      level: 'bad',
      href: '#/config',
      text: 'The process drains: it admits no new sessions, and stops when the open ones have ended.',
    });
  }
  if (info.sessions >= info.max_sessions * SESSIONS_WARN_SHARE) {
    const level = info.sessions >= info.max_sessions ? 'bad' : 'warn';
    found.push({
      key: 'full',
      level,
      href: '#/sessions',
      text: `${count(info.sessions)} of at most ${count(info.max_sessions)} sessions are open; beyond max_sessions, requests get 503.`,
    });
  }
  if (info.last_reload && !info.last_reload.successful) {
    const reason = info.last_reload.error ? ` ${firstLine(info.last_reload.error)}` : '';
    found.push({
      key: 'reload',
      level: 'bad',
      href: '#/config',
      text: `The last reload failed at ${dateTime(info.last_reload.time)}; the configuration before it is in use.${reason}`,
    });
  }
  return found;
}

function firstLine(text) {
  const line = text.trim().split('\n')[0];
  return line.length > 160 ? `${line.slice(0, 160)}…` : line;
}

function serverFindings(upstream) {
  return upstream.servers
    .filter((server) => ['failing', 'ejected'].includes(server.state))
    .map((server) => ({
      key: `server ${upstream.name} ${server.address}`,
      level: 'bad',
      href: '#/config',
      text: `The server ${server.address} of the upstream ${upstream.name} fails: ${plural(server.connect_failures, 'failed connect')} since the start, ${plural(server.sessions, 'session')} open.`,
    }));
}

function certificateFindings({ names, days_left: days }) {
  if (days >= CERTIFICATE_WARN_DAYS) return [];
  const name = names[0] ?? 'without a name';
  const text =
    days <= 0
      ? `The certificate of ${name} has expired.`
      : `The certificate of ${name} expires in ${plural(Math.floor(days), 'day')}.`;
  return [{ key: `certificate ${name}`, level: days < CERTIFICATE_BAD_DAYS ? 'bad' : 'warn', href: '#/config', text }];
}

function keySetFindings({ name, key_set: keys }) {
  if (!keys || keys.usable) return [];
  const age = keys.age_seconds === null ? 'They were never fetched.' : `They are ${duration(keys.age_seconds)} old.`;
  return [
    {
      key: `keys ${name}`,
      level: 'bad',
      href: '#/config',
      text: `The keys of the auth section ${name} are not usable, so its tokens are rejected. ${age}`,
    },
  ];
}

/** The most frequent causes of the last minutes. */
function recent(history, metric, label, isWanted, kind) {
  const times = history?.times() ?? [];
  if (!times.length) return [];
  const sums = new Map();
  for (const one of history.all(metric)) {
    const cause = one.labels[label];
    if (isWanted(cause)) sums.set(cause, (sums.get(cause) ?? 0) + increaseOf(times, one.values, RECENT_SECONDS));
  }
  return [...sums]
    .filter(([, sum]) => sum >= RECENT_MIN)
    .sort(([, a], [, b]) => b - a)
    .slice(0, 3)
    .map(([cause, sum]) => ({
      key: `${kind} ${cause}`,
      level: 'warn',
      href: `#/events?kind=${kind}&cause=${cause}`,
      text:
        kind === 'rejection'
          ? `${count(sum)} requests were rejected in 5 minutes: ${causeText(kind, cause)}.`
          : `${count(sum)} sessions ended in 5 minutes: ${causeText(kind, cause)}.`,
    }));
}
