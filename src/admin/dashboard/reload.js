// The reload: its dry run first, then the same file applied.

/** The number of sessions that a reload ends. */
function endedBy({ ended }) {
  return Object.values(ended).reduce((sum, value) => sum + value, 0);
}

/** The effect of a reload as terms. `isForced` is whether it was applied by force. */
function effect(result, isForced = false) {
  const causes = Object.entries(result.ended).filter(([, value]) => value > 0);
  const listOf = (values, none) =>
    values.length
      ? h(
          'ul',
          values.map((value) => h('li', value)),
        )
      : none;
  const entries = [
    ['Sessions kept unchanged', count(result.kept), { data: { fact: 'kept' } }],
    ['Sessions with new limits', count(result.changed), { data: { fact: 'changed' } }],
    [
      'Sessions ended',
      causes.length
        ? h(
            'ul',
            causes.map(([cause, value]) => h('li', `${count(value)}: ${recheckText(cause)}`)),
          )
        : '0',
      { data: { fact: 'ended' } },
    ],
    ['Listeners added', listOf(result.listeners_added, 'none')],
    ['Listeners removed', listOf(result.listeners_removed, 'none')],
    ['Warnings', listOf(result.warnings, 'none')],
  ];
  return [
    terms(entries),
    result.exceeds_recheck_max_percent !== null &&
      h(
        'p.warning',
        isForced
          ? `The reload was forced: it ends more than recheck_max (${result.exceeds_recheck_max_percent} %) of the open sessions.`
          : `More than recheck_max (${result.exceeds_recheck_max_percent} %) of the open sessions would end: Tollgate rejects this reload unless it is forced.`,
      ),
  ];
}

/** Creates the section. `onApplied` is called after a reload. */
function createReload(onApplied) {
  const last = h('p.quiet', 'Loading');
  const origin = h('p.quiet', { id: 'handed-over', hidden: true });
  const result = h('div.result', { 'aria-live': 'polite' });
  const check = h('button', { type: 'button', id: 'reload-check', on: { click: dryRun } }, 'Check');
  const apply = h(
    'button.primary',
    { type: 'button', id: 'reload-apply', disabled: true, on: { click: confirmApply } },
    'Apply',
  );
  const hint = h('span.quiet', 'Check first: it shows what a reload of the file would do, and changes nothing.');
  let checked = null;
  let failedAt; // the time of the failure that is shown, or null

  function setChecked(answer) {
    checked = answer;
    apply.disabled = answer === null;
    const ended = answer ? endedBy(answer) : 0;
    setText(apply, ended ? `Apply, ends ${plural(ended, 'session')}` : 'Apply');
  }
  async function dryRun() {
    clearNotice();
    check.disabled = true;
    setChecked(null);
    fill(result, h('p', 'Checking the file'));
    try {
      const answer = await change('POST', '/v1/reload', { query: { dry_run: true } });
      setChecked(answer);
      fill(result, h('h3', 'A reload now would have this effect'), effect(answer));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      fill(
        result,
        h('h3', 'The file cannot be applied'),
        problemBlock(error),
        error.problem.summary && effect(error.problem.summary),
      );
      if (isTooMany(error)) setChecked(error.problem.summary);
    } finally {
      check.disabled = false;
    }
  }
  const isTooMany = (error) => error.status === 409 && Boolean(error.problem.summary);

  function confirmApply() {
    const isForced = checked.exceeds_recheck_max_percent !== null;
    const ended = endedBy(checked);
    ask({
      title: isForced ? 'Force the reload?' : 'Apply the configuration?',
      isDanger: isForced || ended > 0,
      confirm: `${isForced ? 'Force it' : 'Apply'}${ended ? `, end ${plural(ended, 'session')}` : ''}`,
      body: [
        h(
          'p',
          'By the dry run this ends ',
          h('strong', plural(ended, 'session')),
          ` and changes the limits of ${plural(checked.changed, 'session')}.`,
        ),
        isForced && h('p.warning', 'That is more than recheck_max allows without force.'),
      ],
      run: () => applyNow(isForced),
      onError: (error) =>
        isTooMany(error) && !isForced
          ? [
              effect(error.problem.summary),
              h('button.danger', { type: 'button', on: { click: () => offerForce(error) } }, 'Force this reload'),
            ]
          : reportOf(error),
    });
  }
  const reportOf = (error) =>
    error.problem.report && h('pre', { tabindex: 0, 'aria-label': 'Report' }, error.problem.report);

  /** The file or the sessions changed since the dry run: asks again, with the new numbers. */
  function offerForce(error) {
    document.querySelector('dialog[open]')?.close();
    setChecked({ ...error.problem.summary, exceeds_recheck_max_percent: error.problem.max_percent });
    confirmApply();
  }
  async function applyNow(force) {
    const answer = await change('POST', '/v1/reload', { query: force ? { force: true } : {} });
    setChecked(null);
    fill(result, h('h3', `Generation ${count(answer.generation)} is in use`), effect(answer, force));
    onApplied();
    return `Reloaded: generation ${count(answer.generation)}, ${plural(endedBy(answer), 'session ends', 'sessions end')}.`;
  }

  return {
    element: h(
      'section',
      { 'aria-labelledby': 'reload' },
      h('h2', { id: 'reload' }, 'Reload'),
      last,
      origin,
      canChange() ? [h('div.buttons', check, apply, hint), result] : readOnlyNote('a reload'),
    ),
    update(info) {
      const { last_reload: own, handed_over_from: from } = info;
      setText(
        origin,
        from
          ? `Handed over from process ${from.pid} (version ${from.version}) at ${dateTime(from.at)}, with ${plural(from.sessions, 'session')}.`
          : '',
      );
      origin.hidden = !from;
      const failed = own && !own.successful ? own.time : null;
      if (failed && failedAt !== undefined && failed !== failedAt) clearNotice();
      failedAt = failed;
      setText(
        last,
        !own
          ? 'Not reloaded since the start.'
          : own.successful
            ? `Last reload: ${dateTime(own.time)}, applied.`
            : `Last reload: ${dateTime(own.time)}, failed; nothing was changed.${reloadReason(own)}`,
      );
    },
  };
}
