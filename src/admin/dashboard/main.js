// Starts the page: access, the state of the process, and the views by `location.hash`.

const INFO_MS = 2000;
const FRESH_MS = 1000;
/** Data that is older than this is shown as stale. */
const STALE_MS = 15_000;
/** What a view shows until its first answer. */
const WAITING = { true: 'No connection to Tollgate. The page tries again.', false: 'Loading' };

const ROUTES = [
  [/^\/$/, 'overview', overviewView],
  [/^\/sessions$/, 'sessions', sessionsView],
  [/^\/sessions\/([0-9a-fA-F]{32})$/, 'sessions', sessionView],
  [/^\/events$/, 'events', eventsView],
  [/^\/events\/([0-9]{1,15})$/, 'events', eventView],
  [/^\/config$/, 'config', configView],
  [/^\/revocations$/, 'revocations', revocationsView],
];

const main = document.getElementById('main');
let view = null;
let infoPoll = null;
let isOpen = false;

function notFoundView() {
  return {
    title: 'No such view',
    content: [h('p', 'The address names no view. ', h('a', { href: '#/' }, 'Overview'))],
    stop() {},
  };
}

/** Shows the view of the address. Focus goes to its heading, unless `hasFocus` is false. */
function navigate(hasFocus = true) {
  view?.stop();
  const [path, query = ''] = (location.hash.replace(/^#/, '') || '/').split('?');
  const [pattern, name, create] = ROUTES.find(([own]) => own.test(path)) ?? [null, '', notFoundView];
  const parameters = pattern ? path.match(pattern).slice(1) : [];
  view = create(parameters, new URLSearchParams(query));
  document.title = `${view.title} - Tollgate`;
  const heading = h('h1', { tabindex: -1 }, view.title);
  fill(main, heading, view.content);
  main.dataset.view = name;
  for (const link of document.querySelectorAll('#nav a'))
    setAttribute(link, 'aria-current', link.dataset.view === name ? 'page' : null);
  showWaiting();
  if (hasFocus) {
    window.scrollTo(0, 0);
    heading.focus({ preventScroll: true });
  }
}

/** A view without an answer yet shows whether it loads, or the connection is lost. */
function showWaiting() {
  for (const element of main.querySelectorAll('p, h2'))
    if (Object.values(WAITING).includes(element.textContent)) setText(element, WAITING[state.isLost]);
}

/** Notices another process at the same address. Figures and events of the one before are dropped. */
function noteProcess({ pid, version, started, handed_over_from: from }, before) {
  if (!before || (before.pid === pid && before.started === started)) return;
  history.reset();
  events.reset();
  notify(
    from?.pid === before.pid
      ? `Process ${pid} (version ${version}) has taken over from process ${before.pid} (version ${before.version}); events and figures begin anew.`
      : `Tollgate was restarted at ${dateTime(started)}; events and figures begin anew.`,
  );
}

/** Shows the phase, which is not known while the data is stale. */
function showPhase(isStale) {
  const phase = document.getElementById('phase');
  const isDraining = state.info?.phase === 'draining';
  setText(phase, isStale ? 'Unknown' : isDraining ? 'Draining' : 'Serving');
  phase.className = isStale ? 'unknown' : isDraining ? 'bad' : 'good';
}

/** The version, or while two processes overlap the versions of both: the one that ends first. */
function versions({ version, upgrade, handed_over_from: from }) {
  if (upgrade) return `${version} → ${upgrade.version ?? '…'}`;
  return from && !from.complete ? `${from.version} → ${version}` : version;
}

function showInfo() {
  const { info } = state;
  const sessions = document.getElementById('strip-sessions');
  setText(sessions, count(info.sessions));
  sessions.dataset.value = info.sessions;
  setText(document.getElementById('strip-max'), count(info.max_sessions));
  setText(document.getElementById('strip-generation'), count(info.generation));
  setText(document.getElementById('strip-version'), versions(info));
  setText(document.getElementById('strip-uptime'), wholeDuration(info.uptime_seconds));
}

/** Shows how old the data is. Only a change of the connection is read out by a screen reader. */
function showFresh() {
  const fresh = document.getElementById('fresh');
  const age = state.lastAnswerAt === null ? null : (Date.now() - state.lastAnswerAt) / 1000;
  const isStale = state.isLost || (age !== null && age * 1000 > STALE_MS);
  document.body.classList.toggle('lost', isStale);
  if (state.info) showPhase(isStale);
  const since = staleSince();
  fresh.className = isStale || since !== null ? 'bad' : '';
  if (age === null) setText(fresh, 'loading');
  else if (isStale) setText(fresh, `connection lost ${wholeDuration(age)} ago, retrying`);
  else if (since !== null) setText(fresh, `in part from ${clockTime(since / 1000)}, retrying`);
  else setText(fresh, `updated ${age < 1.5 ? 'now' : `${Math.floor(age)} s ago`}`);
}

/** Opens the page once the token is accepted. `hasFocus` is whether the focus goes to the heading. */
async function open(hasFocus = false) {
  try {
    state.info = await get('/v1/info');
    setAnswered(true);
  } catch (error) {
    if (!(error instanceof ApiError) || error.status === 401) return; // the handler of 401 shows the form
    if (error.status === 0) setAnswered(false);
    fill(main, h('h1', 'Tollgate'), problemBlock(error), h('p', 'Trying again.'));
    setTimeout(open, RETRY_MS * 2, hasFocus);
    return;
  }
  if (isOpen) return; // another call was faster
  isOpen = true;
  setChrome(true);
  showInfo();
  navigate(hasFocus);
  infoPoll = poll(INFO_MS, refreshInfo, (error) => setAnswered(error.status !== 0));
}

async function refreshInfo(signal) {
  const before = state.info;
  state.info = await get('/v1/info', {}, signal);
  setAnswered(true);
  noteProcess(state.info, before);
  showInfo();
  showFresh();
}

/** Forgets all data. */
function close() {
  infoPoll?.stop();
  view?.stop();
  [view, infoPoll, isOpen] = [null, null, false];
  state.info = null;
  history.reset();
  events.reset();
  document.querySelectorAll('dialog').forEach((dialog) => dialog.remove());
  document.body.classList.remove('lost');
}

/** Forgets all data and the token, and asks for another. */
function lock(message) {
  close();
  token.forget();
  document.title = 'Token - Tollgate';
  setChrome(false);
  showLogin((value) => {
    token.set(value);
    open(true);
  }, message);
}

function start() {
  takeTokenFromFragment();
  window.addEventListener('hashchange', () => {
    if (location.hash.startsWith('#token=')) {
      takeTokenFromFragment();
      close();
      open(true);
      return;
    }
    if (isOpen) navigate();
  });
  window.addEventListener('tollgate-unauthorized', () =>
    lock(token.get() ? 'Tollgate does not accept this token.' : null),
  );
  window.addEventListener('tollgate-connection', () => {
    showFresh();
    showWaiting();
    notify(
      state.isLost
        ? 'The connection to Tollgate is lost. The page keeps the last data and tries again.'
        : 'Connected again.',
      state.isLost,
    );
  });
  document.getElementById('skip').addEventListener('click', (event) => {
    event.preventDefault();
    main.focus();
  });
  document.getElementById('forget').addEventListener('click', () => {
    lock(null);
    notify('This tab has forgotten the token.');
  });
  setInterval(showFresh, FRESH_MS);
  open();
}

start();
