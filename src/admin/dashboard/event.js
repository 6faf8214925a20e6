// One event: its explanation, the settings that decided, and all fields.

function settingItem({ key, section, line, is_set: isSet }, file) {
  const isGone = isSet && line === null;
  const where = isGone
    ? 'no longer in the file'
    : isSet
      ? `line ${line}`
      : line === null
        ? 'default'
        : `default; the section is at line ${line}`;
  return h(
    'li',
    { data: { line: isSet ? line : null } },
    h('code', key),
    ' in ',
    h('code', section),
    ', ',
    isSet ? h('strong', where) : where,
    isSet && !isGone && file && h('span.quiet', ` of ${file}`),
  );
}

/** The settings that the file has, and the others behind a click, unless there are no other ones. */
function settingLists(settings, file) {
  const items = (list) =>
    h(
      'ul',
      list.map((setting) => settingItem(setting, file)),
    );
  const own = settings.filter(({ is_set: isSet }) => isSet);
  const defaults = settings.filter(({ is_set: isSet }) => !isSet);
  if (!settings.length) return null;
  if (!own.length) return [h('h3', 'Settings that decided'), items(defaults)];
  return [
    h('h3', 'Settings that decided'),
    items(own),
    defaults.length > 0 &&
      h('details', h('summary', `${plural(defaults.length, 'more setting')}, at the default`), items(defaults)),
  ];
}

function explanationSection({ cause, explanation, generation }) {
  const { text, advice, settings, file, is_current: isCurrent } = explanation;
  return h(
    'section.explanation',
    { 'aria-labelledby': 'explanation' },
    h('h2', { id: 'explanation' }, 'What happened'),
    h('p.lead', prose(text)),
    h('h2', 'What to change'),
    h('p', prose(advice)),
    cause === 'revoked' && h('p', h('a', { href: '#/revocations' }, 'The revocations in effect')),
    settingLists(settings, file),
    !isCurrent &&
      h(
        'p.warning',
        `The configuration was reloaded since (this was generation ${generation}), so the lines may differ.`,
      ),
  );
}

function eventTerms(event) {
  const shared = [
    ['Time', timeElement(event.time)],
    ['Kind', event.kind === 'end' ? 'end of a session' : 'rejection of a request'],
    ['Cause', h('code', event.cause)],
    ['Id', h('code', event.id)],
    ['Trace', event.trace_id && h('code', event.trace_id)],
    ['Generation', event.generation],
    ['Route', event.route],
    ['Auth', event.auth],
    ['Subject', event.subject],
    ['Address', event.address],
    ['Host', event.host],
    ['Path', event.path],
    ['Origin', event.origin],
    ['Upstream', event.upstream],
    ['Server', event.server],
  ];
  if (event.kind === 'rejection') {
    return terms([
      ...shared,
      ['Status', event.status],
      ['Rule', event.rule && h('code', event.rule)],
      ['Claim', event.claim && h('code', event.claim)],
      ['Detail', event.detail],
    ]);
  }
  const reported = Object.entries(event.reported ?? {})
    .map(([limit, number]) => `${keyText(limit)} ${count(number)} times`)
    .join(', ');
  return terms([
    ...shared,
    ['Ended by', sideText(event.by)],
    ['Code', codeText(event.code)],
    ['Reason', event.reason || 'none'],
    ['Lasted', duration(event.age_seconds)],
    ['Messages in', count(event.messages_in)],
    ['Messages out', count(event.messages_out)],
    ['Bytes in', bytes(event.bytes_in)],
    ['Bytes out', bytes(event.bytes_out)],
    ['Throttled', count(event.throttled)],
    ['Limits only reported', reported || null],
  ]);
}

function eventHeading(event) {
  const what = capital(eventCause(event));
  if (event.cause === 'upstream_status') return `The upstream answered ${event.status}`;
  if (event.cause === 'auth_status') return `The auth service answered ${event.status}`;
  if (event.kind === 'rejection') return `${what}: rejected with ${event.status}`;
  return event.cause === 'closed'
    ? `${what}: ${codeText(event.code)}`
    : `${what}: ended by ${sideText(event.by)}, ${codeText(event.code)}`;
}

/** Links to the events beside this one. */
function neighbours(sequence) {
  const all = events.all();
  const place = all.findIndex((event) => event.sequence === sequence);
  const link = (event, text) => event && h('a', { href: `#/events/${event.sequence}` }, text);
  return h(
    'nav.pages',
    { 'aria-label': 'Events beside this one' },
    link(all[place - 1], 'Newer event'),
    link(all[place + 1], 'Older event'),
  );
}

function eventView([text]) {
  const sequence = Number(text);
  const holder = h('div', h('p.quiet', 'Loading'));
  let shown = null; // the generation at which the event was shown
  function show() {
    const event = events.all().find((one) => one.sequence === sequence);
    if (!event) {
      fill(holder, h('div.banner', h('p', 'This event is not among the ends and rejections that this process keeps.')));
      return;
    }
    shown = state.info.generation;
    fill(
      holder,
      h('p.event-title', h(`span.tag.${event.kind}`, event.kind), ' ', eventHeading(event)),
      explanationSection(event),
      h(
        'section.panel',
        { 'aria-labelledby': 'event-fields' },
        h('h2', { id: 'event-fields' }, 'All fields'),
        eventTerms(event),
      ),
      neighbours(sequence),
    );
  }
  const load = poll(
    EVENTS_MS,
    async (signal) => {
      if (shown === state.info.generation) return;
      await events.load(signal);
      show();
    },
    (error) => error.status && fill(holder, problemBlock(error)),
  );
  if (events.all().some((event) => event.sequence === sequence)) show();
  return {
    title: `Event ${sequence}`,
    content: [h('p', h('a', { href: '#/events' }, 'All events')), holder],
    stop: () => load.stop(),
  };
}
