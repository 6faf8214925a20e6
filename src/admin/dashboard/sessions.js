// The list of sessions: search, filters, order, pages; and changes to all that match.

const LIST_MS = 5000;
const PAGE_SIZE = 100;
const SEARCH_WAIT_MS = 250;
const FILTERS = ['search', 'route', 'auth', 'upstream', 'server', 'subject', 'address'];
const ORDERS = [
  ['age', 'newest first'],
  ['-age', 'oldest first'],
  ['-messages', 'most messages'],
  ['messages', 'fewest messages'],
  ['-bytes', 'most bytes'],
  ['bytes', 'fewest bytes'],
  ['id', 'id'],
  ['-id', 'id, reversed'],
];

const SESSION_COLUMNS = [
  {
    label: 'Session',
    kind: 'id',
    sort: 'id',
    href: ({ id }) => `#/sessions/${id}`,
    text: ({ id }) => id.slice(0, 8),
    title: ({ id }) => id,
  },
  { label: 'Route', kind: 'name', text: ({ route }) => route },
  {
    label: 'Subject',
    kind: 'name',
    text: ({ subject, auth }) => subject ?? (auth ? 'none' : NONE),
    title: ({ subject, auth }) => (auth ? `${subject ?? 'no subject'}, by ${auth}` : null),
  },
  { label: 'Address', kind: 'name', text: ({ address }) => address },
  { label: 'Server', kind: 'server', text: ({ upstream, server }) => `${upstream} ${server}` },
  {
    label: 'Age',
    kind: 'value',
    sort: 'age',
    text: ({ age_seconds: age }) => wholeDuration(age),
    value: ({ age_seconds: age }) => age,
  },
  {
    label: 'Messages',
    kind: 'value',
    sort: 'messages',
    text: (row) => shortCount(row.messages_in + row.messages_out),
    value: (row) => row.messages_in + row.messages_out,
    title: (row) => `${count(row.messages_in)} in, ${count(row.messages_out)} out`,
  },
  { label: 'Messages/s', kind: 'value', text: ({ rates }) => perSecond(rates.messages_in + rates.messages_out) },
  {
    label: 'Bytes',
    kind: 'value',
    sort: 'bytes',
    text: (row) => bytes(row.bytes_in + row.bytes_out),
    value: (row) => row.bytes_in + row.bytes_out,
    title: (row) => `${bytes(row.bytes_in)} in, ${bytes(row.bytes_out)} out`,
  },
  { label: 'Bytes/s', kind: 'value', text: ({ rates }) => bytesPerSecond(rates.bytes_in + rates.bytes_out) },
  {
    label: 'Throttled',
    kind: 'value',
    text: ({ throttled }) => shortCount(throttled),
    value: ({ throttled }) => throttled,
  },
  { label: 'State', kind: 'state', text: ({ activity }) => ACTIVITIES[activity] ?? activity },
];

/** The inputs of the filter. `onChange` gets the name and the new value. */
function createFilters(query, onChange, onSort) {
  const input = (name, type, hint) =>
    h('input', {
      type,
      name,
      value: query.get(name) ?? '',
      autocomplete: 'off',
      spellcheck: 'false',
      placeholder: hint,
      on: { input: debounce(SEARCH_WAIT_MS, (event) => onChange(name, event.target.value.trim())) },
    });
  const choice = (name) => select([['', 'any']], query.get(name) ?? '', (value) => onChange(name, value), { name });
  const selects = Object.fromEntries(['route', 'auth', 'upstream', 'server'].map((name) => [name, choice(name)]));
  for (const [name, element] of Object.entries(selects)) setOptions(element, [['', 'any']], query.get(name) ?? '');
  const order = select(ORDERS, query.get('sort') ?? 'age', onSort, { name: 'sort' });
  const element = h(
    'form.filters',
    { role: 'search', 'aria-label': 'Filter of sessions', on: { submit: (event) => event.preventDefault() } },
    h('div.wide', field('Search', input('search', 'search', 'id, subject, address, path, …'))),
    field('Route', selects.route),
    field('Auth', selects.auth),
    field('Upstream', selects.upstream),
    field('Server', selects.server),
    field('Subject', input('subject', 'text', 'exact')),
    field('Address', input('address', 'text', 'address or network')),
    field('Order', order),
  );
  const choices = (name, values) => setOptions(selects[name], [['', 'any'], ...new Set(values)], selects[name].value);
  return {
    element,
    showSort: (sort) => {
      order.value = sort;
    },
    setChoices({ routes, auths, upstreams }) {
      choices(
        'route',
        routes.map(({ name }) => name),
      );
      choices(
        'auth',
        auths.map(({ name }) => name),
      );
      choices(
        'upstream',
        upstreams.map(({ name }) => name),
      );
      choices(
        'server',
        upstreams.flatMap(({ servers }) => servers.map(({ address }) => address)),
      );
    },
  };
}

function sessionsView(_, query) {
  const filter = () => Object.fromEntries(FILTERS.map((name) => [name, query.get(name)]).filter(([, value]) => value));
  const sort = () => query.get('sort') ?? 'age';
  let cursors = []; // of the pages before this one; the first page has none
  let cursor = null;
  let next = null;
  let isAsked = false; // whether the operator asked for the answer, which is then read out

  const total = h('p.total', 'Loading');
  const error = h('div');
  const filters = createFilters(query, set, changeSort);
  const table = createTable({
    caption: 'Open sessions',
    columns: SESSION_COLUMNS,
    keyOf: ({ id }) => id,
    empty: 'No session matches.',
    onSort: (name) => changeSort(nextOrder(name, sort())),
  });
  const back = h(
    'button',
    { type: 'button', disabled: true, on: { click: () => turn(cursors.pop() ?? null) } },
    'Previous page',
  );
  const forth = h(
    'button',
    {
      type: 'button',
      disabled: true,
      on: {
        click: () => {
          cursors.push(cursor);
          turn(next);
        },
      },
    },
    'Next page',
  );
  const page = h('span.quiet');
  const close = h(
    'button.danger',
    { type: 'button', id: 'close-all', on: { click: () => closeMany(filter(), list.now) } },
    'Close all that match',
  );
  const message = h(
    'button',
    { type: 'button', id: 'send-all', on: { click: () => sendMany(filter()) } },
    'Send to all that match',
  );
  const operations = canChange()
    ? h('div.buttons', close, message)
    : readOnlyNote('closing sessions or sending to them');

  function set(name, value) {
    if (value) query.set(name, value);
    else query.delete(name);
    window.history.replaceState(null, '', `#/sessions${query.size ? `?${query}` : ''}`);
    restart();
  }
  function changeSort(value) {
    filters.showSort(value);
    table.showSort(value);
    set('sort', value === 'age' ? '' : value);
  }
  function restart() {
    isAsked = true;
    [cursors, cursor] = [[], null];
    list.now();
  }
  function turn(to) {
    cursor = to;
    back.disabled = forth.disabled = true; // until its answer, so that a second press is not another page
    list.now();
    document.getElementById('main').scrollIntoView();
  }
  function show(answer) {
    next = answer.cursor;
    table.update(answer.sessions);
    fill(error);
    const isFiltered = Object.keys(filter()).length > 0;
    setAttribute(total, 'aria-live', isAsked ? 'polite' : 'off');
    isAsked = false;
    setText(
      total,
      `${plural(answer.total, 'session')}${isFiltered ? ' match' + (answer.total === 1 ? 'es' : '') : ''}`,
    );
    total.dataset.value = answer.total;
    const first = cursors.length * PAGE_SIZE;
    setText(
      page,
      answer.sessions.length
        ? `${count(first + 1)} to ${count(first + answer.sessions.length)} of ${count(answer.total)}`
        : '',
    );
    back.disabled = cursor === null;
    forth.disabled = next === null;
    setText(close, `Close ${isFiltered ? `all ${count(answer.total)} that match` : `all ${count(answer.total)}`}`);
    setText(message, `Send to ${isFiltered ? `all ${count(answer.total)} that match` : `all ${count(answer.total)}`}`);
    close.disabled = message.disabled = answer.total === 0;
  }

  table.showSort(sort());
  const list = poll(
    LIST_MS,
    async (signal) => show(await get('/v1/sessions', { ...filter(), sort: sort(), limit: PAGE_SIZE, cursor }, signal)),
    (failure) => failure.status && fill(error, problemBlock(failure)),
  );
  const choices = poll(60_000, async (signal) => {
    const answers = await Promise.all(['routes', 'auths', 'upstreams'].map((name) => get(`/v1/${name}`, {}, signal)));
    filters.setChoices(Object.assign({}, ...answers));
  });
  return {
    title: 'Sessions',
    content: [
      filters.element,
      h('div.bar-top', total, operations),
      error,
      h('div.list', table.element),
      h('nav.pages', { 'aria-label': 'Pages' }, back, forth, page),
    ],
    stop() {
      list.stop();
      choices.stop();
    },
  };
}

/** The order after a press on a header: the direction that is wanted more often first, then the other. */
function nextOrder(name, sort) {
  const first = name === 'messages' || name === 'bytes' ? `-${name}` : name;
  if (sort !== first) return first;
  return first.startsWith('-') ? name : `-${name}`;
}
