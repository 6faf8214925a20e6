// One session: all that the API knows, its rates, its limits against use, its tap, and changes to it.

const SESSION_MS = 1000;
const TOTALS_MS = 10_000;
const RATE_POINTS_MAX = 120;

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
    ['buffered_in', 'Waits for the upstream', bytes(session.buffered_in_bytes)],
    ['buffered_out', 'Waits for the client', bytes(session.buffered_out_bytes)],
    ['reported', 'Limits only reported', reported || 'none'],
  ];
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
          { type: 'button', id: 'close-one', on: { click: () => closeOne(id, () => details.now()) } },
          'Close this session',
        ),
        h('button', { type: 'button', id: 'send-one', on: { click: () => sendOne(id) } }, 'Send a message'),
      )
    : readOnlyNote('closing a session or sending to it');
  const totals = {};
  let session = null;
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
    keyed(
      live,
      liveFacts(answer),
      ([key]) => key,
      ([key, name]) => h('div', h('dt', name), h('dd', { data: { fact: key } })),
      (row, [, , text, value]) => {
        setText(row.lastChild, text);
        setAttribute(row.lastChild, 'data-value', value ?? null);
      },
    );
    limits.update(answer, totals);
  }

  const details = poll(
    SESSION_MS,
    async (signal) => update(await get(`/v1/sessions/${id}`, {}, signal)),
    (error) => {
      if (error.status !== 404) return;
      details.stop();
      counts.stop();
      operations.remove();
      showEnd(id, ended, session !== null);
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
  return {
    title: `Session ${id.slice(0, 8)}`,
    content: [
      h('p', h('a', { href: '#/sessions' }, 'All sessions')),
      ended,
      operations,
      section(
        'Now',
        live,
        h(
          'div.grid.of-2',
          figures.map(({ element }) => element),
        ),
      ),
      section('Limits against use', limits.element),
      section('Facts', facts),
      section('Tap', tap.element),
      h('details.more', h('summary', 'All limits of this session'), fixed),
    ],
    stop() {
      clearTimeout(firstTotals);
      details.stop();
      counts.stop();
      tap.stop();
      figures.forEach((figure) => figure.stop());
    },
  };
}

/** Says that the session has ended, with a link to its event. */
async function showEnd(id, holder, wasOpen) {
  fill(holder, h('div.banner', h('p', wasOpen ? 'This session has ended.' : 'No open session has this id.')));
  try {
    await events.load();
    const event = events.all().find((one) => one.kind === 'end' && one.id === id);
    holder.firstChild.append(
      event
        ? h('p', prose(event.explanation.text), ' ', h('a', { href: `#/events/${event.sequence}` }, 'Why it ended'))
        : h('p', 'Its event is not among the last 1,000 ends and rejections.'),
    );
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
  }
}
