// The servers of an upstream: the columns of their table, and the dialogs that drain them.

const SERVER_COLUMNS = [
  {
    label: 'Server',
    kind: 'address',
    title: ({ address }) => (address.length > 24 ? address : null),
    href: ({ upstream, address }) => `#/sessions?${new URLSearchParams({ upstream, server: address })}`,
    text: ({ address }) => address,
  },
  { label: 'State', kind: 'state', text: () => '', node: ({ state: own }, old) => stateTag(own, old) },
  {
    label: 'Sessions',
    kind: 'value',
    text: ({ sessions, max_sessions: max }) =>
      isNumber(max) ? `${count(sessions)} of ${count(max)}` : count(sessions),
    value: ({ sessions }) => sessions,
  },
  { label: 'Weight', kind: 'value', text: ({ weight }) => count(weight), value: ({ weight }) => weight },
  {
    label: 'Failed connects',
    kind: 'value',
    text: ({ connect_failures: failures }) => count(failures),
    value: ({ connect_failures: failures }) => failures,
  },
  { label: 'Last check', kind: 'last-check', text: ({ last_check: check }) => checkText(check) },
];

/** The outcome of the last check of a server; a check that failed has its error. */
function checkText(check) {
  if (!check) return NONE;
  const outcome = check.passed ? 'passed' : `failed: ${check.error}`;
  return `${outcome}, ${wholeDuration(check.age_seconds)} ago`;
}

/** The states that are good or bad; a server that drains or is full is neither. */
const STATE_CLASSES = { up: 'good', failing: 'bad', ejected: 'bad', down: 'bad' };

function stateTag(own, old) {
  const tag = old ?? h('span.tag');
  setText(tag, own);
  tag.className = `tag ${STATE_CLASSES[own] ?? ''}`;
  return tag;
}

/** The rows of an upstream: its servers, and those that were removed and still have sessions. */
function serverRows({ name, drain_rate: rate, servers, removed }) {
  const gone = removed.map((server) => ({ ...server, state: 'removed', isRemoved: true }));
  return [...servers, ...gone].map((server) => ({ ...server, upstream: name, upstreamRate: rate }));
}

/** The seconds in which a rate such as "20/s" closes this many sessions; null for another form. */
function closingSeconds(sessions, rate) {
  const [, number, unit] = /^(\d+)\/([smh])$/.exec(rate) ?? [];
  return unit ? (sessions * { s: 1, m: 60, h: 3600 }[unit]) / number : null;
}

/** The columns, with a button to drain a server if the token may change it. `onDone()` follows a change. */
function serverColumns(onDone) {
  if (!canChange()) return SERVER_COLUMNS;
  const button = (server, old) => {
    const kept = old?.localName === (server.isRemoved ? 'span' : 'button') ? old : null;
    // The API does not change servers that are not in the pool any more.
    if (server.isRemoved) return kept ?? h('span', NONE);
    const own = kept ?? h('button.small', { type: 'button' });
    // A server that is down by its checks does not drain.
    const isDraining = server.drain_rate !== null;
    setText(own, isDraining ? 'Undrain' : 'Drain');
    setAttribute(own, 'aria-label', `${isDraining ? 'Undrain' : 'Drain'} ${server.address} of ${server.upstream}`);
    own.onclick = () => (isDraining ? undrain : drain)(server, onDone);
    return own;
  };
  return [...SERVER_COLUMNS, { label: 'Change', text: () => '', node: button }];
}

function setServerState(upstream, address, own) {
  const path = `/v1/upstreams/${encodeURIComponent(upstream)}/servers/${encodeURIComponent(address)}`;
  return change('PATCH', path, { body: { state: own } });
}

function drain({ upstream, address, sessions, upstreamRate: rate }, onDone) {
  const seconds = closingSeconds(sessions, rate);
  ask({
    title: 'Drain this server?',
    confirm: 'Drain',
    isDanger: true,
    body: [
      h(
        'p',
        h('code', address),
        ` of ${upstream} gets no new sessions. Its `,
        h('strong', plural(sessions, 'session')),
        ', counted just now, are closed with 1012 at ',
        h('code', rate),
        seconds === null || !sessions ? '' : `, in about ${duration(Math.ceil(seconds))}`,
        '. The clients may connect again.',
      ),
      h('p', 'It drains until "Undrain", or until a reload changes ', h('code', 'drain'), ' of this server.'),
    ],
    async run() {
      const server = await setServerState(upstream, address, 'drain');
      onDone();
      const seconds = wholeDuration(server.drain_seconds);
      return `${address} drains; ${plural(server.sessions, 'session closes', 'sessions close')} at ${server.drain_rate}, in about ${seconds}.`;
    },
  });
}

function undrain({ upstream, address }, onDone) {
  ask({
    title: 'Undrain this server?',
    confirm: 'Undrain',
    body: h(
      'p',
      h('code', address),
      ` of ${upstream} gets new sessions again, also if the configuration drains it. Sessions that are left stay open.`,
    ),
    async run() {
      const server = await setServerState(upstream, address, 'ready');
      onDone();
      return `${address} gets new sessions, and keeps ${plural(server.sessions, 'session')}.`;
    },
  });
}
