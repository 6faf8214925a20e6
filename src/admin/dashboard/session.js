// One session: all that the API knows, its rates, its limits against use, its tap, and changes to it.

const SESSION_MS = 1000;
const TOTALS_MS = 10_000;
const RATE_POINTS_MAX = 120;
const REASON_WAIT_MS = 1000;

/** The rates of the last two minutes, from the counts at each poll. */
function createRates() {
  const points = [];
  return {
    add(session) {
      const time = Date.now() / 1000;
      const last = points.at(-1);
      const rate = (name) =>
        last && time > last.time ? Math.max(0, session[name] - last.counts[name]) / (time - last.time) : null;
      const names = ['messages_in', 'messages_out', 'bytes_in', 'bytes_out'];
      points.push({
        time,
        counts: Object.fromEntries(names.map((name) => [name, session[name]])),
        rates: Object.fromEntries(names.map((name) => [name, rate(name)])),
      });
      if (points.length > RATE_POINTS_MAX) points.shift();
    },
    data: (kind) => ({
      times: points.map(({ time }) => time),
      series: ['in', 'out'].map((way, slot) => ({
        label: way,
        key: way,
        slot,
        values: points.map(({ rates }) => rates[`${kind}_${way}`]),
      })),
    }),
  };
}

function rateFigure(title, kind, format, axis, base, cursor) {
  const chart = createChart({ title, format, axis, base, span: 120, cursor });
  const values = h('p.figure.pair');
  const element = h(
    'figure.card.small',
    { 'aria-label': title },
    h('figcaption', h('h3', title), values),
    chart.element,
  );
  return {
    element,
    stop: () => chart.stop(),
    update(data) {
      chart.update(data);
      const time = cursor.get();
      const index = time === null ? data.times.length - 1 : nearest(data.times, time);
      setText(values, data.series.map((one) => `${one.label} ${format(one.values[index] ?? null)}`).join('  ·  '));
    },
  };
}

function sessionTerms(session) {
  const link = (name, value) => h('a', { href: `#/sessions?${new URLSearchParams({ [name]: value })}` }, value);
  return [
    [
      'Client',
      [
        ['Subject', session.subject && link('subject', session.subject)],
        ['Auth', session.auth ? link('auth', session.auth) : 'none: this route asks for no token'],
        ['Address', link('address', session.address)],
        ['Origin', session.origin ?? 'none'],
      ],
    ],
    [
      'Destination',
      [
        ['Route', link('route', session.route)],
        ['Host', session.host],
        ['Path', session.path],
        ['Upstream', link('upstream', session.upstream)],
        ['Server', link('server', session.server)],
        [
          'TLS',
          session.tls_version
            ? `${session.tls_version.replace('v', ' ').replace('_', '.')}, ${session.cipher}`
            : 'none',
        ],
      ],
    ],
  ].map(([title, entries]) => h('section.group', h('h3', title), terms(entries)));
}

/** The facts that change, in the order of the page: a key, a name and a text. */
function liveFacts(session) {
  const reported = Object.entries(session.reported)
    .map(([limit, number]) => `${keyText(limit)} ${count(number)} times`)
    .join(', ');
  return [
    ['state', 'State', ACTIVITIES[session.activity] ?? session.activity],
    ['age', 'Age', wholeDuration(session.age_seconds)],
    ['idle', 'Last message', `${wholeDuration(session.idle_seconds)} ago`],
    [
      'deadline',
      'Next deadline',
      session.next_deadline
        ? `${keyText(session.next_deadline.kind)} in ${wholeDuration(session.next_deadline.in_seconds)}`
        : 'none',
    ],
    ['messages_in', 'Messages in', count(session.messages_in), session.messages_in],
    ['messages_out', 'Messages out', count(session.messages_out), session.messages_out],
    ['bytes_in', 'Bytes in', bytes(session.bytes_in), session.bytes_in],
    ['bytes_out', 'Bytes out', bytes(session.bytes_out), session.bytes_out],
    ['throttled', 'Throttled', count(session.throttled), session.throttled],
    ['dropped', 'Dropped, client too slow', count(session.dropped), session.dropped],
    ['buffered_in', 'Buffered for the upstream', bytes(session.buffered_in_bytes)],
    ['buffered_out', 'Buffered for the client', bytes(session.buffered_out_bytes)],
    ['reported', 'Limits only reported', reported || 'none'],
  ];
}

/** The facts of a session at its end: those of its event if it is known, else those of the last answer. */
function finalFacts(session, event) {
  const { age_seconds: age, messages_in, messages_out, bytes_in, bytes_out, throttled, reported } = event ?? session;
  const changing = new Set(['state', 'idle', 'deadline', 'buffered_in', 'buffered_out']);
  return [
    ['state', 'State', 'ended'],
    ...(event ? [['ended', 'Ended at', dateTime(event.time)]] : []),
    ...liveFacts({
      ...session,
      age_seconds: age,
      messages_in,
      messages_out,
      bytes_in,
      bytes_out,
      throttled,
      reported: reported ?? {},
    }).filter(([key]) => !changing.has(key)),
  ];
}

function showFacts(list, entries) {
  keyed(
    list,
    entries,
    ([key]) => key,
    ([key, name]) => h('div', h('dt', name), h('dd', { data: { fact: key } })),
    (row, [, , text, value]) => {
      setText(row.lastChild, text);
      setAttribute(row.lastChild, 'data-value', value ?? null);
    },
  );
}

function sessionView([id]) {
  const cursor = createCursor();
  const rates = createRates();
  const figures = [
    rateFigure('Messages per second, last 2 minutes', 'messages', perSecond, axisCount, 1000, cursor),
    rateFigure('Bytes per second, last 2 minutes', 'bytes', bytesPerSecond, axisBytes, 1024, cursor),
  ];
  const limits = createLimits();
  const tap = createTap(id);
  const live = h('dl.terms.live', { 'aria-label': 'Now' });
  const facts = h('div.groups');
  const fixed = h('div');
  const ended = h('div', { role: 'status' });
  const operations = canChange()
    ? h(
        'div.buttons',
        h(
          'button.danger',
          { type: 'button', id: 'close-one', on: { click: () => closeOne(id, onClosed) } },
          'Close this session',
        ),
        h('button', { type: 'button', id: 'send-one', on: { click: () => sendOne(id) } }, 'Send a message'),
      )
    : readOnlyNote('closing a session or sending to it');
  const totals = {};
  let session = null;
  let isClosedHere = false;
  function onClosed() {
    isClosedHere = true;
    details.now();
  }
  const show = () => figures.forEach((figure, index) => figure.update(rates.data(index === 0 ? 'messages' : 'bytes')));
  cursor.listen(show);

  function update(answer) {
    if (session === null) {
      fill(
        facts,
        sessionTerms(answer),
        h(
          'section.group',
          h('h3', 'Session'),
          terms([
            ['Started', timeElement(answer.started)],
            ['Id', h('code', answer.id)],
          ]),
        ),
      );
      fill(fixed, limitTerms(answer.limits));
    }
    session = answer;
    rates.add(answer);
    show();
    showFacts(live, liveFacts(answer));
    limits.update(answer, totals);
    waiting.hidden = true;
    rest.hidden = false;
  }

  /** Shows that the session has ended: what is only true of an open session goes. */
  async function end() {
    const hasFocus = isClosedHere || operations.contains(document.activeElement);
    details.stop();
    counts.stop();
    operations.remove();
    waiting.remove();
    usage.remove();
    if (tap.end()) setText(tapSection.firstChild, 'Frames of the tap');
    else tapSection.remove();
    setText(now.firstChild, 'At its end');
    if (session) showFacts(live, finalFacts(session, null));
    const banner = h('div.banner', { tabindex: -1 });
    fill(ended, banner);
    fill(banner, h('p', session ? 'This session has ended.' : 'No open session has this id.'));
    if (hasFocus) banner.focus();
    const event = await showReason(id, banner);
    if (session && event) showFacts(live, finalFacts(session, event));
  }

  const details = poll(
    SESSION_MS,
    async (signal) => update(await get(`/v1/sessions/${id}`, {}, signal)),
    (error) => {
      if (error.status === 404) end();
    },
  );
  const counts = poll(TOTALS_MS, async (signal) => {
    if (session === null) return;
    const total = async (filter) => (await get('/v1/sessions', { ...filter, limit: 1 }, signal)).total;
    totals.address = await total({ address: session.address });
    if (session.subject !== null) totals.subject = await total({ subject: session.subject, auth: session.auth });
    limits.update(session, totals);
  });
  const firstTotals = setTimeout(() => counts.now(), 1200);
  const section = (title, ...content) => {
    const heading = uniqueId('section');
    return h('section', { 'aria-labelledby': heading }, h('h2', { id: heading }, title), content);
  };
  const now = section(
    'Now',
    live,
    h(
      'div.grid.of-2',
      figures.map(({ element }) => element),
    ),
  );
  const usage = section('Limits against use', limits.element);
  const tapSection = section('Tap', tap.element);
  const waiting = h('p.quiet', 'Loading');
  // The parts appear at once, so that none moves another; an unknown session has none.
  const rest = h(
    'div.rest',
    { hidden: true },
    operations,
    now,
    usage,
    section('Facts', facts),
    tapSection,
    h('details.more.limit-terms', h('summary', 'All limits of this session'), fixed),
  );
  return {
    title: `Session ${id.slice(0, 8)}`,
    content: [h('p', h('a', { href: '#/sessions' }, 'All sessions')), waiting, ended, rest],
    stop() {
      clearTimeout(firstTotals);
      details.stop();
      counts.stop();
      tap.stop();
      figures.forEach((figure) => figure.stop());
    },
  };
}

/** Adds to the banner why the session ended, and returns the event. The event may follow the end at a distance. */
async function showReason(id, banner) {
  const find = () => events.all().find((one) => one.kind === 'end' && one.id === id);
  try {
    await events.load();
    if (!find()) {
      await new Promise((resolve) => setTimeout(resolve, REASON_WAIT_MS));
      events.reset();
      await events.load();
    }
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
  }
  const event = find();
  banner.append(
    event
      ? h('p', prose(event.explanation.text), ' ', h('a', { href: `#/events/${event.sequence}` }, 'Why it ended'))
      : h('p', 'Its end is not among the ends that this process keeps.'),
  );
  return event ?? null;
}
