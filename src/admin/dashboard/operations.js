// The dialogs that close sessions and send messages to them, for one session or for all that match a filter.

const REASON_MAX_BYTES = 123;
const MESSAGE_MAX_BYTES = 1024 * 1024;
const SPREAD_PATTERN = /^([0-9]{1,6}ms|[0-9]{1,3}s|[1-5]?[0-9]m|1h)$/;

const codeIsAllowed = (code) => OPERATOR_CODES.includes(code) || (code >= 3000 && code <= 4999);

/** The fields of a close: code, reason, and `spread` if several sessions close. */
function closeFields(isMany) {
  const meaning = h('output', codeText(1008));
  const code = h('input', {
    type: 'number',
    min: 1000,
    max: 4999,
    value: 1008,
    required: true,
    name: 'code',
    on: {
      input: () =>
        setText(
          meaning,
          codeIsAllowed(Number(code.value)) ? codeText(Number(code.value)) : 'not a code that may be sent',
        ),
    },
  });
  const reason = h('input', { type: 'text', name: 'reason', autocomplete: 'off', value: 'closed by an operator' });
  const spread =
    isMany && h('input', { type: 'text', name: 'spread', autocomplete: 'off', placeholder: '10s', size: 8 });
  const fields = h(
    'div.fields',
    field('Close code', code, `${OPERATOR_CODES.join(', ')}, or from 3000 to 4999`),
    h('p.meaning', meaning),
    field('Reason, which the client gets', reason, `At most ${REASON_MAX_BYTES} bytes`),
    spread &&
      field(
        'Spread over',
        spread,
        'Such as 30s or 5m, at most 1h, so that the clients do not all reconnect at once. Empty: all at once',
      ),
  );
  return {
    fields,
    /** Returns the values, or throws an error that the dialog shows. */
    read() {
      const values = { code: Number(code.value), reason: reason.value };
      if (!codeIsAllowed(values.code)) throw invalid(`The code is ${OPERATOR_CODES.join(', ')}, or from 3000 to 4999.`);
      if (utf8Length(values.reason) > REASON_MAX_BYTES)
        throw invalid(
          `The reason has ${utf8Length(values.reason)} bytes; at most ${REASON_MAX_BYTES} fit into a Close.`,
        );
      if (spread && spread.value.trim()) {
        values.spread = spread.value.trim();
        if (!SPREAD_PATTERN.test(values.spread))
          throw invalid('The spread is a span such as 500ms, 30s or 5m, at most 1h.');
      }
      return values;
    },
  };
}

const invalid = (detail) => new ApiError(400, { detail });

function closeOne(id, onDone) {
  const { fields, read } = closeFields(false);
  ask({
    title: 'Close this session?',
    confirm: 'Close 1 session',
    isDanger: true,
    body: [h('p', 'This ends ', h('strong', '1 session'), `, ${id}. The client may connect again.`), fields],
    async run() {
      const values = read();
      await change('DELETE', `/v1/sessions/${id}`, { query: values });
      onDone();
      return `1 session closes with ${values.code}.`;
    },
  });
}

function closeMany(filter, onDone) {
  const { fields, read } = closeFields(true);
  askMany({
    filter,
    verb: 'Close',
    isDanger: true,
    fields,
    text: (sessions) => [
      'This ends ',
      h('strong', sessions),
      ', counted just now. Those that begin until you confirm are ended, too.',
    ],
    async run(isShared) {
      const answer = await change('POST', '/v1/sessions/close', {
        body: { ...selection(filter), ...read() },
      });
      onDone();
      return `${plural(answer.selected, 'session closes', 'sessions close')}${reached(isShared, answer)}.`;
    },
  });
}

/** The field of a message, and a function that returns its text. */
function messageField() {
  const text = h('textarea', { rows: 4, name: 'text', spellcheck: 'false', required: true });
  return {
    fields: h('div.fields', field('Text message', text, 'As the upstream would send it, at most 1 MiB')),
    read() {
      if (utf8Length(text.value) > MESSAGE_MAX_BYTES) throw invalid('A message may have at most 1 MiB.');
      return text.value;
    },
  };
}

function sendOne(id) {
  const { fields, read } = messageField();
  ask({
    title: 'Send a message',
    confirm: 'Send to 1 session',
    body: [h('p', `The client of the session ${id} gets it between two messages of the upstream.`), fields],
    async run() {
      const { selected } = await change('POST', '/v1/sessions/send', { body: { filter: { id }, text: read() } });
      return selected ? 'The message is sent to 1 session.' : 'The session has ended; the message was not sent.';
    },
  });
}

function sendMany(filter) {
  const { fields, read } = messageField();
  askMany({
    filter,
    verb: 'Send to',
    fields,
    text: (sessions) => ['The message goes to ', h('strong', sessions), ', counted just now.'],
    async run(isShared) {
      const answer = await change('POST', '/v1/sessions/send', {
        body: { ...selection(filter), text: read() },
      });
      return `The message is sent to ${plural(answer.selected, 'session')}${reached(isShared, answer)}.`;
    },
  });
}

/** The sessions of a change in words: their number at this node, and the other nodes whose sessions it reaches, too. */
const inWords = (total, others) => plural(total, 'session') + (others ? ` of this node${andThoseOf(others)}` : '');
const [allOfProcess, allOfCluster] = ['all sessions of the process', 'the sessions of all nodes'];
const andThoseOf = (nodes) => `, and those of ${plural(nodes, 'other node')}`;

/** What an answer says about the other nodes: their number in `nodes`, or in `unreached` why they did not get the change. */
function reached(isShared, { nodes, unreached }) {
  if (!isShared) return '';
  return isNumber(nodes) ? ` at this node${andThoseOf(nodes)}` : ` at this node. The other nodes were not reached: ${unreached}`;
}

/** Asks about all sessions that match, once their number is known. */
async function askMany({ filter, verb, isDanger = false, fields, text, run }) {
  try {
    const [{ total }, { shares_sessions: isShared, nodes }] = await Promise.all([
      get('/v1/sessions', { ...filter, limit: 1 }),
      get('/v1/nodes'),
    ]);
    const others = isShared ? nodes.filter((node) => !node.this).length : 0;
    if (total === 0 && !others) {
      notify('No session matches.');
      return;
    }
    const restrictions = Object.entries(filter);
    const words = restrictions.length
      ? h(
          'ul.filter',
          restrictions.map(([name, value]) => h('li', `${name}: `, h('code', value))),
        )
      : h('p.warning', `No filter is set: these are ${others ? allOfCluster : allOfProcess}.`);
    const sessions = inWords(total, others);
    ask({
      title: `${verb} ${sessions}?`,
      confirm: `${verb} ${sessions}`,
      isDanger,
      body: [h('p', text(sessions)), words, fields],
      run: () => run(isShared),
    });
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    notify(capital(error.message), true);
  }
}

function selection(filter) {
  return Object.keys(filter).length ? { filter } : { all: true };
}
