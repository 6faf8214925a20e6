// Findings that an operator has to look at first: failing servers, certificates, key sets, the last reload, limits and
// rejections.

const CERTIFICATE_WARN_DAYS = 21;
const CERTIFICATE_BAD_DAYS = 7;
const SESSIONS_WARN_SHARE = 0.9;
const RECENT_SECONDS = 300;
/** Fewer rejections or ends of a cause within that time are not worth a line. */
const RECENT_MIN = 10;
/** The findings that are shown before a click. */
const FINDINGS_MAX = 6;
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
  const rare = h('ul');
  const quiet = h(
    'div.quiet',
    { hidden: true },
    h('p', 'Servers, certificates, key sets, the last reload and the limit of sessions are in order.'),
    rare,
  );
  const title = h('h2', { id: 'attention-title' }, 'Loading');
  const more = h('button.small', { type: 'button', hidden: true, on: { click: toggle } });
  const box = h('div.box', list, more, quiet);
  const element = h('section.attention', { 'aria-labelledby': 'attention-title' }, title, box);
  let items = [];
  let isWhole = false;

  function toggle() {
    isWhole = !isWhole;
    show();
  }
  function show() {
    // A single one more needs less space than the button.
    const isLong = items.length > FINDINGS_MAX + 1;
    more.hidden = !isLong;
    setText(more, isWhole ? 'Show fewer' : `and ${count(items.length - FINDINGS_MAX)} more`);
    setAttribute(more, 'aria-expanded', String(isWhole));
    keyed(
      list,
      isLong && !isWhole ? items.slice(0, FINDINGS_MAX) : items,
      (item) => item.key,
      () => h('li', h('strong'), ' ', h('a')),
      (row, item) => {
        row.className = item.level;
        setText(row.firstChild, item.level === 'bad' ? 'Now:' : 'Watch:');
        setText(row.lastChild, item.text);
        setAttribute(row.lastChild, 'href', item.href);
      },
    );
  }
  return {
    element,
    update(facts) {
      const recent = recentCauses(facts.history);
      items = findings(facts, recent);
      setText(
        title,
        items.length ? `${plural(items.length, 'thing needs', 'things need')} attention` : 'Nothing needs attention',
      );
      // The rare causes are named, because they are not judged.
      const few = Object.entries(recent).map(([kind, causes]) => [kind, rareSum(causes)]);
      quiet.hidden = items.length > 0;
      keyed(
        rare,
        few.filter(([, sum]) => sum > 0),
        ([kind]) => kind,
        ([kind]) => h('li', h('a', { href: eventsLink(kind) })),
        (row, [kind, sum]) => setText(row.firstChild, rareText(kind, sum)),
      );
      element.dataset.level = levelOf(
        items,
        few.some(([, sum]) => sum > 0),
      );
      show();
    },
  };
}

/** Events that are not judged are neither good nor bad. */
function levelOf(items, hasRare) {
  if (!items.length) return hasRare ? 'none' : 'good';
  return items.some(({ level }) => level === 'bad') ? 'bad' : 'warn';
}

function findings({ info, upstreams, certificates, auths, server_answers, server_error, nodes, unknown }, recent) {
  const found = [
    ...(unknown ? [{ key: 'unknown', level: 'warn', href: '#/config', text: unknown }] : []),
    ...processFindings(info),
    ...(upstreams ?? []).flatMap(serverFindings),
    ...(upstreams ?? []).flatMap(discoveryFindings),
    ...(certificates ?? []).flatMap(certificateFindings),
    ...(auths ?? []).flatMap(keySetFindings),
    ...nodeFindings({ server_answers, server_error, nodes }),
    ...recentFindings(recent),
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
      text: 'The process drains: after the stop signal it admits sessions only during shutdown_delay, and stops when all have ended.',
    });
  }
  if (info.upgrade) {
    const { pid, version, moved } = info.upgrade;
    found.push({
      key: 'upgrade',
      level: 'warn',
      href: '#/config',
      text: `An upgrade is in progress: process ${info.pid} (version ${info.version}) hands its sessions over to process ${pid} (version ${version}); ${plural(moved, 'session has', 'sessions have')} moved.`,
    });
  }
  if (info.handed_over_from && !info.handed_over_from.complete) {
    const { pid, version, sessions } = info.handed_over_from;
    found.push({
      key: 'handover',
      level: 'warn',
      href: '#/config',
      text: `An upgrade is in progress: process ${info.pid} (version ${info.version}) takes sessions over from process ${pid} (version ${version}); ${plural(sessions, 'session has', 'sessions have')} moved.`,
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
    found.push({
      key: 'reload',
      level: 'bad',
      href: '#/config',
      text: `The last reload failed at ${dateTime(info.last_reload.time)}; the configuration before it is in use.${reloadReason(info.last_reload)}`,
    });
  }
  return found;
}

/** The reason of a failed reload, which is the first line of its report. */
function reloadReason({ error }) {
  const reason = error ? ` ${error.replace(/[.\s]*$/, '')}.` : '';
  return reason + (canChange() ? ' "Check" shows all errors.' : '');
}

function serverFindings({ name, servers }) {
  const textOf = ({ address, state: own, last_check: check, connect_failures: failures, sessions }) =>
    [
      own === 'down'
        ? `The server ${address} of the upstream ${name} is down by its checks${check?.error ? `: ${check.error}` : ''}.`
        : `The last request to the server ${address} of the upstream ${name} failed, and none succeeded since.`,
      failures > 0 && `${plural(failures, 'connect')} failed since the start.`,
      sessions > 0 && `${plural(sessions, 'session is', 'sessions are')} open.`,
    ]
      .filter(Boolean)
      .join(' ');
  return servers
    .filter(({ state: own }) => ['failing', 'ejected', 'down'].includes(own))
    .map((server) => ({
      key: `server ${name} ${server.address}`,
      level: 'bad',
      href: '#/config',
      text: textOf(server),
    }));
}

function discoveryFindings({ name, discover, servers }) {
  if (!discover?.error) return [];
  const level = servers.length ? 'warn' : 'bad';
  const stay = servers.length ? `${plural(servers.length, 'server')} found earlier stay in use` : 'it has no server';
  const text = `The servers of the upstream ${name} cannot be read from ${discover.source}: ${discover.error}; ${stay}.`;
  return [{ key: `discover ${name}`, level, href: '#/config', text }];
}

function certificateFindings({ names, days_left: days, expires }) {
  if (expires === null) {
    const text = `${names[0]} has no certificate yet: its clients cannot connect. The log says why.`;
    return [{ key: `certificate ${names[0]}`, level: 'bad', href: '#/config', text }];
  }
  if (!isNumber(days) || days >= CERTIFICATE_WARN_DAYS) return [];
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

/** The rejections, and the ends that are not part of normal operation, of the last minutes: the sum of each cause. */
function recentCauses(history) {
  const times = history?.times() ?? [];
  const causesOf = (metrics, label, isWanted) => {
    const sums = new Map();
    for (const one of metrics.flatMap(history.all)) {
      const cause = one.labels[label];
      if (isWanted(cause)) sums.set(cause, (sums.get(cause) ?? 0) + increaseOf(times, one.values, RECENT_SECONDS));
    }
    return [...sums].filter(([, sum]) => sum > 0).sort(([, a], [, b]) => b - a);
  };
  if (!times.length) return { rejection: [], end: [] };
  return {
    rejection: causesOf(REJECTION_METRICS, 'outcome', (outcome) => outcome !== 'accepted'),
    end: causesOf(['tollgate_close_causes_total'], 'cause', (cause) => !NORMAL_ENDS.has(cause)),
  };
}

/** The number of events of this kind whose causes have no line of their own. */
function rareSum(causes) {
  return causes.filter(([, sum]) => sum < RECENT_MIN).reduce((total, [, sum]) => total + sum, 0);
}

/** The rare rejections or ends in words. */
function rareText(kind, sum, other = '') {
  const [one, many] = kind === 'end' ? ['session was', 'sessions were'] : ['request was', 'requests were'];
  const what = kind === 'end' ? 'ended by a rule or a fault' : 'rejected';
  const note = sum > 1 ? `, none of one cause ${RECENT_MIN} times or more` : '';
  return `${plural(sum, other + one, other + many)} ${what} in the last 5 minutes${note}.`;
}

/** The frequent causes, and the sum of the rare ones if it is large. */
function recentFindings(recent) {
  return Object.entries(recent).flatMap(([kind, causes]) => {
    const frequent = causes
      .filter(([, sum]) => sum >= RECENT_MIN)
      .map(([cause, sum]) => ({
        key: `${kind} ${cause}`,
        level: 'warn',
        href: eventsLink(kind, cause),
        text: `${count(sum)} ${kind === 'end' ? 'sessions ended' : 'requests were rejected'} in the last 5 minutes: ${causeText(kind, cause)}.`,
      }));
    const rare = rareSum(causes);
    if (rare < RECENT_MIN) return frequent;
    const text = rareText(kind, rare, frequent.length ? 'other ' : '');
    return [...frequent, { key: `${kind} rare`, level: 'warn', href: eventsLink(kind), text }];
  });
}
