// The last ends and rejections: the list, and the filter of it.

const EVENTS_MAX = 1000;
const EVENTS_MS = 5000;
const EVENTS_PAGE = 100;

/**
 * Cuts a list to the number that is kept, as the process does: the older events of the kind that has more are dropped,
 * so that a flood of rejections leaves the ends.
 */
function cutEvents(list) {
  const isEnd = ({ kind }) => kind === 'end';
  const ends = list.filter(isEnd).length;
  const half = EVENTS_MAX / 2;
  let endsLeft = Math.min(ends, Math.max(half, EVENTS_MAX - (list.length - ends)));
  let rejectionsLeft = EVENTS_MAX - endsLeft;
  return list.filter((event) => (isEnd(event) ? endsLeft-- > 0 : rejectionsLeft-- > 0));
}

/** The events that the page knows, newest first. A repeated load only asks for the newest. */
function createEvents() {
  let known = [];
  let generation = null;
  async function load(signal) {
    // Whether the configuration was reloaded since is part of an event, so that a reload changes all.
    const now = state.info?.generation;
    const isFirst = known.length === 0 || generation !== now;
    const { events: fresh } = await get('/v1/events', { limit: isFirst ? EVENTS_MAX : EVENTS_PAGE }, signal);
    generation = now;
    const newest = known[0]?.sequence ?? -1;
    const oldest = fresh.at(-1)?.sequence ?? 0;
    const isGap = fresh.length === EVENTS_PAGE && oldest > newest + 1;
    const isRestarted = (fresh[0]?.sequence ?? -1) < newest;
    if (isFirst) known = fresh;
    else if (isGap || isRestarted) known = (await get('/v1/events', { limit: EVENTS_MAX }, signal)).events;
    else {
      const isNew = new Set(fresh.map(({ sequence }) => sequence));
      known = cutEvents([...fresh, ...known.filter(({ sequence }) => !isNew.has(sequence))]);
    }
  }
  return {
    load,
    all: () => known,
    /** Forgets them, so that the next load asks for all. */
    reset: () => {
      known = [];
    },
  };
}

const events = createEvents();

const EVENT_COLUMNS = [
  {
    label: 'Time',
    kind: 'time',
    text: () => '',
    node: ({ time }, old) => (old?.dateTime === time ? old : timeElement(time)),
  },
  { label: 'Kind', kind: 'kind', text: ({ kind }) => (kind === 'end' ? 'end' : 'rejection') },
  {
    label: 'Cause',
    kind: 'cause',
    href: ({ sequence }) => `#/events/${sequence}`,
    text: eventCause,
    title: ({ cause }) => cause,
  },
  {
    label: 'Status',
    kind: 'value',
    text: ({ kind, status, code }) => (kind === 'rejection' ? status : (code ?? 'none')),
    title: ({ kind, code }) => (kind === 'end' ? codeText(code) : null),
  },
  { label: 'Route', kind: 'name', text: ({ route }) => route ?? 'none' },
  { label: 'Subject', kind: 'name', text: ({ subject }) => subject ?? NONE },
  { label: 'Address', kind: 'name', text: ({ address }) => address ?? NONE },
  { label: 'In words', kind: 'words', text: ({ explanation }) => explanation.text.replaceAll('`', '') },
];

/** Whether an event matches the filter of the list. */
function matchesEvent(event, query) {
  const is = (name) => !query.get(name) || event[name] === query.get(name);
  if (!is('kind') || !is('cause') || !is('route')) return false;
  const text = query.get('text')?.toLowerCase();
  if (!text) return true;
  const fields = [
    event.id,
    event.subject,
    event.address,
    event.host,
    event.path,
    event.origin,
    event.upstream,
    event.server,
    event.reason,
    event.cause,
    event.rule,
    event.detail,
    event.claim,
    event.trace_id,
    String(event.code ?? ''),
    String(event.status ?? ''),
    event.explanation.text,
  ];
  return fields.some((value) => value?.toLowerCase().includes(text));
}

function eventsView(_, query) {
  let shown = EVENTS_PAGE;
  const total = h('p.total', 'Loading');
  const error = h('div');
  const table = createTable({
    caption: 'Ends and rejections, newest first',
    columns: EVENT_COLUMNS,
    keyOf: ({ sequence }) => sequence,
    empty: 'No event matches.',
  });
  const more = h(
    'button',
    {
      type: 'button',
      hidden: true,
      on: {
        click: () => {
          shown += EVENTS_PAGE;
          render();
        },
      },
    },
    'Show 100 more',
  );
  const kind = select(
    [
      ['', 'any'],
      ['end', 'ends'],
      ['rejection', 'rejections'],
    ],
    query.get('kind') ?? '',
    (value) => set('kind', value),
    { name: 'kind' },
  );
  const cause = select([['', 'any']], query.get('cause') ?? '', (value) => set('cause', value), { name: 'cause' });
  const route = select([['', 'any']], query.get('route') ?? '', (value) => set('route', value), { name: 'route' });
  const text = h('input', {
    type: 'search',
    name: 'text',
    value: query.get('text') ?? '',
    autocomplete: 'off',
    placeholder: 'id, subject, address, origin, …',
    on: { input: debounce(SEARCH_WAIT_MS, () => set('text', text.value.trim())) },
  });
  setOptions(cause, [['', 'any']], query.get('cause') ?? '');
  setOptions(route, [['', 'any']], query.get('route') ?? '');
  const form = h(
    'form.filters',
    { role: 'search', 'aria-label': 'Filter of events', on: { submit: (event) => event.preventDefault() } },
    h('div.wide', field('Text', text)),
    field('Kind', kind),
    field('Cause', cause),
    field('Route', route),
  );

  function set(name, value) {
    if (value) query.set(name, value);
    else query.delete(name);
    window.history.replaceState(null, '', `#/events${query.size ? `?${query}` : ''}`);
    shown = EVENTS_PAGE;
    render(true);
  }
  function choices() {
    const all = events.all();
    const options = (values) => [['', 'any'], ...values];
    const causes = new Map(all.map((event) => [event.cause, causeText(event.kind, event.cause)]));
    if (document.activeElement !== cause)
      setOptions(cause, options([...causes].sort((a, b) => a[1].localeCompare(b[1]))), query.get('cause') ?? '');
    if (document.activeElement !== route)
      setOptions(
        route,
        options([...new Set(all.map((event) => event.route).filter(Boolean))].sort()),
        query.get('route') ?? '',
      );
  }
  function render(isAsked = false) {
    setAttribute(total, 'aria-live', isAsked ? 'polite' : 'off');
    const all = events.all().length;
    const matching = events.all().filter((event) => matchesEvent(event, query));
    table.update(matching.slice(0, shown));
    setText(
      total,
      (matching.length < all ? `${count(matching.length)} of ${plural(all, 'event')}` : plural(all, 'event')) +
        (matching.length > shown ? `, ${count(shown)} shown` : ''),
    );
    more.hidden = matching.length <= shown;
  }

  const list = poll(
    EVENTS_MS,
    async (signal) => {
      await events.load(signal);
      fill(error);
      choices();
      render();
    },
    (failure) => failure.status && fill(error, problemBlock(failure)),
  );
  return {
    title: 'Events',
    content: [
      h(
        'p.quiet',
        `The last ${count(EVENTS_MAX)} sessions that ended and requests that were rejected, each with the rule that decided. ${ZONE_NOTE}`,
      ),
      form,
      h('div.bar-top', total),
      error,
      h('div.list', table.element),
      h('div.pages', more),
    ],
    stop: () => list.stop(),
  };
}
