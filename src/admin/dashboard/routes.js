// Upstreams, routes, auth sections and certificates: their configuration and their state.

const lineNote = (line) => (isNumber(line) ? h('span.line', `line ${line}`) : null);
const codeList = (values) =>
  values?.length ? values.map((value, index) => [index ? ', ' : '', h('code', value)]) : 'none';

/** Whether a route is not of the file: that of the demo's page. */
const isBuiltIn = ({ line, settings, upstream }) => line === null && !settings.length && upstream === null;

/** A block of the configuration: its heading with the line, live facts, fixed facts, and more. */
function block(title, line, ...content) {
  return h('article.block', h('h3', title, ' ', lineNote(line)), content);
}

/** The live facts of a block; `update` takes entries of a name, a text and an exact number. */
function liveTerms() {
  const list = h('dl.terms.live');
  return {
    element: list,
    update: (entries) =>
      keyed(
        list,
        entries,
        ([name]) => name,
        ([name]) => h('div', h('dt', name), h('dd', { data: { fact: name } })),
        (row, [, text, value]) => {
          setText(row.lastChild, text);
          setAttribute(row.lastChild, 'data-value', value ?? null);
        },
      ),
  };
}

const SETTING_COLUMNS = [
  { label: 'Key', kind: 'key', text: ({ key }) => key },
  { label: 'Value', kind: 'setting', text: ({ value }) => value },
  { label: 'Line', kind: 'value', text: ({ line }) => line },
];

/** The settings of a section as the file has them, or null if it has none. */
function settingTable(name, settings) {
  if (!settings.length) return null;
  const table = createTable({
    caption: `Settings of ${name} in the file`,
    columns: SETTING_COLUMNS,
    keyOf: ({ key, line }) => `${key} ${line}`,
  });
  table.element.classList.add('settings');
  table.update(settings);
  return table.element;
}

/** `onDone()` follows a change of one of its servers. */
function upstreamBlock(upstream, onDone) {
  const live = liveTerms();
  const table = createTable({
    caption: `Servers of ${upstream.name}`,
    columns: serverColumns(onDone),
    keyOf: ({ address }) => address,
  });
  const element = block(
    upstream.name,
    upstream.line,
    live.element,
    table.element,
    h('p', 'Routes: ', codeList(upstream.routes)),
    settingTable(upstream.name, upstream.settings),
  );
  element.dataset.upstream = upstream.name;
  return {
    element,
    update(now) {
      live.update([
        ['Sessions', count(now.sessions), now.sessions],
        [
          'Pending requests',
          `${count(now.pending_requests)} of ${count(now.max_pending_requests)}`,
          now.pending_requests,
        ],
        ['Queued requests', `${count(now.queued)} of ${count(now.queue_max)}`, now.queued],
        ...(now.discover ? [['Servers from', now.discover.source]] : []),
      ]);
      table.update(serverRows(now));
    },
  };
}

function routeBlock(route) {
  const live = liveTerms();
  const outcomes = h('ul.counts');
  const closes = h('ul.counts');
  const element = block(
    route.name,
    route.line,
    live.element,
    isBuiltIn(route)
      ? h('p', 'Built in: serves the page of the demo.')
      : h(
          'p',
          'Auth: ',
          codeList(route.auth),
          '. Upstream: ',
          route.upstream ? h('code', route.upstream) : 'none',
          '.',
        ),
    settingTable(route.name, route.settings),
    h('h4', 'Upgrades by outcome, and rejected requests'),
    outcomes,
    h('h4', 'Closes'),
    closes,
    h('details.limit-terms', h('summary', 'All limits, with defaults'), limitTerms(route.limits)),
  );
  element.dataset.route = route.name;
  return {
    element,
    update(now) {
      live.update([
        ['Sessions', count(now.sessions), now.sessions],
        ['Messages in', shortCount(now.messages_in), now.messages_in],
        ['Messages out', shortCount(now.messages_out), now.messages_out],
        ['Bytes in', bytes(now.bytes_in), now.bytes_in],
        ['Bytes out', bytes(now.bytes_out), now.bytes_out],
        ['Throttled', shortCount(now.throttled), now.throttled],
      ]);
      const named = Object.entries(now.outcomes).map(([outcome, value]) => [
        outcome === 'accepted' ? outcome : causeText('rejection', outcome),
        value,
      ]);
      countList(outcomes, named);
      countList(
        closes,
        now.closes.map(({ code, by, count: value }) => [`${code} by ${by}`, value]),
      );
    },
  };
}

/** Shows counts, the largest first. */
function countList(list, entries) {
  const shown = entries.filter(([, value]) => value > 0).sort(([, a], [, b]) => b - a);
  const items = shown.length ? shown : [['none since the start', null]];
  keyed(
    list,
    items,
    ([name]) => name,
    ([name]) => h('li', h('span', name), ' ', h('b')),
    (row, [, value]) => {
      setText(row.lastChild, value === null ? '' : count(value));
      row.dataset.value = value ?? 0;
    },
  );
}

function authBlock(auth) {
  const live = liveTerms();
  const keys = auth.key_set;
  const element = block(
    auth.name,
    auth.line,
    live.element,
    h(
      'p',
      auth.kind === 'jwt' ? 'JSON Web Tokens' : 'Forward authentication',
      '. Routes: ',
      codeList(auth.routes),
      '.',
      keys && [' Keys: ', h('code', keys.url), `, stale after ${duration(keys.stale_after_seconds)}.`],
    ),
    settingTable(auth.name, auth.settings),
  );
  element.dataset.auth = auth.name;
  return {
    element,
    update(now) {
      const set = now.key_set;
      live.update([
        ['Sessions', count(now.sessions), now.sessions],
        ...(set
          ? [
              [
                'Key set age',
                set.age_seconds === null ? 'never fetched' : wholeDuration(set.age_seconds),
                set.age_seconds,
              ],
              ['Keys', set.usable ? 'usable' : 'not usable'],
              ['Fetches', `${count(set.fetches_succeeded)} succeeded, ${count(set.fetches_failed)} failed`],
            ]
          : []),
        ...Object.entries(now.outcomes).map(([outcome, value]) => [
          capital(outcome.replaceAll('_', ' ')),
          count(value),
          value,
        ]),
      ]);
    },
  };
}

const CERTIFICATE_COLUMNS = [
  { label: 'Names', text: ({ names }) => names.join(', ') || 'none' },
  { label: 'Left', kind: 'value', text: ({ days_left: days }) => daysText(days), value: ({ days_left: days }) => days },
  {
    label: 'Expires',
    text: () => '',
    node: ({ expires }, old) => (old?.dateTime === expires ? old : timeElement(expires)),
  },
  { label: 'Listener', kind: 'server', text: ({ listener }) => listener },
  { label: 'Line', kind: 'value', text: ({ line }) => line ?? NONE },
];
