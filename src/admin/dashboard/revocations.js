// Revocations: the list, a form to add one, and removal.

const REVOCATIONS_MS = 5000;
const REVOCATION_FIELDS = { subject: 'Subject', jti: 'Token id (jti)', sid: 'Session at the issuer (sid)' };

const targetOf = (one) => Object.keys(REVOCATION_FIELDS).find((name) => one[name] !== null) ?? 'subject';

function revocationColumns(onRemove) {
  const remove = (one, old) => {
    const button = old ?? h('button.small', { type: 'button' }, 'Remove');
    button.onclick = () => onRemove(one);
    setAttribute(button, 'aria-label', `Remove the revocation of ${targetOf(one)} ${one[targetOf(one)]}`);
    button.hidden = one.source === 'file';
    return button;
  };
  return [
    {
      label: 'Target',
      text: (one) => `${targetOf(one)} ${one[targetOf(one)]}${one.without_sid ? ', tokens without sid' : ''}`,
      kind: 'words',
    },
    { label: 'Auth', text: ({ auth }) => auth ?? 'any' },
    { label: 'Issued before', text: ({ issued_before: value }) => dateTime(value) },
    { label: 'Expires', text: ({ expires }) => dateTime(expires) },
    { label: 'Created', text: ({ created }) => dateTime(created) },
    { label: 'Reason', text: ({ reason }) => reason ?? NONE, kind: 'words' },
    { label: 'Source', text: ({ source }) => (source === 'file' ? 'revocations_file' : 'API or logout') },
    ...(canChange() ? [{ label: 'Change', text: () => '', node: remove }] : []),
  ];
}

/** Reads a local date and time as Unix seconds, or null. */
function unixOf(input) {
  if (!input.value) return null;
  return new Date(input.value).getTime() / 1000;
}

/** Returns the line that says how many open sessions a revocation of this subject matches. */
function matchLine() {
  const element = h('p.quiet.matches', { 'aria-live': 'polite' });
  let controller = null;
  return {
    element,
    /** Counts the sessions, unless a later call replaces this one. */
    async update({ isSubject, auth, subject }) {
      controller?.abort();
      controller = new AbortController();
      if (!isSubject) return setText(element, 'The answer says how many open sessions it ends.');
      if (!auth || !subject)
        return setText(element, 'Open sessions that match: those of the subject, once it is given.');
      try {
        const { total } = await get('/v1/sessions', { auth, subject, limit: 1 }, controller.signal);
        return setText(element, `${plural(total, 'open session matches', 'open sessions match')} now.`);
      } catch (error) {
        if (error instanceof ApiError) setText(element, capital(error.message));
        else if (!isAbort(error)) throw error;
      }
    },
  };
}

function revocationForm(onAdded) {
  const matches = matchLine();
  let isNew = true; // no auth section was offered yet
  const showMatches = () =>
    matches.update({ isSubject: target.value === 'subject', auth: auth.value, subject: value.value });
  const auth = select([['', 'any']], '', showMatches, { name: 'auth' });
  const value = h('input', {
    on: { input: debounce(SEARCH_WAIT_MS, showMatches) },
    type: 'text',
    name: 'value',
    required: true,
    maxlength: 256,
    autocomplete: 'off',
    spellcheck: 'false',
  });
  const target = select(Object.entries(REVOCATION_FIELDS), 'subject', showMatches, { name: 'target' });
  const issuedBefore = h('input', { type: 'datetime-local', name: 'issued_before', step: 1 });
  const expires = h('input', { type: 'datetime-local', name: 'expires', step: 1 });
  const reason = h('input', { type: 'text', name: 'reason', maxlength: 256, autocomplete: 'off' });
  const body = () =>
    Object.fromEntries(
      Object.entries({
        auth: auth.value || null,
        [target.value]: value.value,
        issued_before: unixOf(issuedBefore),
        expires: unixOf(expires),
        reason: reason.value || null,
      }).filter(([, own]) => own !== null),
    );
  function open() {
    showMatches();
    ask({
      title: 'Revoke tokens',
      confirm: 'Revoke',
      isDanger: true,
      body: [
        h(
          'p',
          'Tokens that match are rejected from now on, and the sessions that were admitted with them end with 1008.',
        ),
        h(
          'div.fields',
          field('Revoke by', target),
          field('Value', value),
          field('Auth section', auth, 'A subject needs one: the same name at another issuer is someone else'),
          field('Only tokens issued before', issuedBefore, 'Your local time. Empty: all, also those of a new login'),
          field('Until', expires, 'Your local time. Empty: as long as tokens are valid'),
          field('Reason', reason, 'A note for operators'),
        ),
        matches.element,
      ],
      async run() {
        if (target.value === 'subject' && !auth.value) throw invalid('A subject needs an auth section.');
        const made = await change('POST', '/v1/revocations', { body: body() });
        [value.value, reason.value, issuedBefore.value, expires.value] = ['', '', '', ''];
        onAdded();
        return `Revoked; ${plural(made.ended, 'session ends', 'sessions end')}.${made.durable ? '' : ' It does not outlive the process, because there is no state_dir.'}`;
      },
    });
  }
  return {
    element: h('button.primary', { type: 'button', id: 'revoke', on: { click: open } }, 'Revoke tokens'),
    /** Offers these auth sections, and chooses the only one, because a subject needs one. */
    setAuths(names) {
      const first = isNew && names.length === 1 ? names[0] : auth.value;
      isNew = false;
      setOptions(auth, [['', 'any'], ...names], first);
    },
  };
}

function revocationsView() {
  let cursors = [];
  let cursor = null;
  let next = null;
  const note = h('p.quiet', 'Loading');
  const error = h('div');
  const table = createTable({
    caption: 'Revocations in effect, those that end first are first',
    columns: revocationColumns(remove),
    keyOf: ({ id, source }) => `${id} ${source}`,
    empty: 'No revocation is in effect.',
  });
  const form = revocationForm(() => list.now());
  const back = h(
    'button',
    {
      type: 'button',
      disabled: true,
      on: {
        click: () => turn(cursors.pop() ?? null),
      },
    },
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

  function turn(to) {
    cursor = to;
    back.disabled = forth.disabled = true; // until its answer
    list.now();
  }
  function remove(one) {
    const target = targetOf(one);
    ask({
      title: 'Remove this revocation?',
      confirm: 'Remove 1 revocation',
      isDanger: true,
      body: [
        h(
          'p',
          'The tokens of ',
          h('strong', `${target} ${one[target]}`),
          one.auth ? ` of ${one.auth}` : '',
          ' are valid again, if they have not expired.',
        ),
      ],
      async run() {
        await change('DELETE', `/v1/revocations/${one.id}`);
        list.now();
        return 'The revocation is removed.';
      },
    });
  }
  const list = poll(
    REVOCATIONS_MS,
    async (signal) => {
      const answer = await get('/v1/revocations', { limit: PAGE_SIZE, cursor }, signal);
      fill(error);
      next = answer.cursor;
      table.update(answer.revocations);
      setText(
        note,
        answer.durable
          ? 'Revocations are on disk, and outlive the process.'
          : 'Not durable: there is no state_dir, so revocations made here end with the process.',
      );
      note.className = answer.durable ? 'quiet' : 'warning';
      back.disabled = cursor === null;
      forth.disabled = next === null;
    },
    (failure) => failure.status && fill(error, problemBlock(failure)),
  );
  const auths = poll(60_000, async (signal) =>
    form.setAuths((await get('/v1/auths', {}, signal)).auths.map(({ name }) => name)),
  );
  return {
    title: 'Revocations',
    content: [
      note,
      canChange() ? h('div.buttons', form.element) : readOnlyNote('making and removing revocations'),
      error,
      h('div.list', table.element),
      h('nav.pages', { 'aria-label': 'Pages' }, back, forth),
    ],
    stop() {
      list.stop();
      auths.stop();
    },
  };
}
