// Repeats requests: one at a time, not while the page is hidden, and less often while the process does not answer.

const BACKOFF_MAX_MS = 30_000;
/** The polls whose last run failed, with the time of their last success, or null. */
const failing = new Map();

/** The time (in ms) from which the oldest data of the view is, if a part of it cannot be refreshed; else null. */
function staleSince() {
  const times = [...failing.values()].filter((time) => time !== null);
  return times.length ? Math.min(...times) : null;
}

/**
 * Calls `run(signal)` now and then `every` milliseconds after each result. Returns `stop` and `now`, which runs it at
 * once and drops the answer of a run in progress. Errors of requests go to `onError`, and do not end it.
 */
function poll(every, run, onError = () => {}) {
  let timer = null;
  let controller = null;
  let failures = 0;
  let succeededAt = null;
  let isStopped = false;
  const self = { now: go, stop };

  function succeeded() {
    const wasFailing = failures > 0;
    failures = 0;
    succeededAt = Date.now();
    failing.delete(self);
    if (wasFailing) window.dispatchEvent(new Event('tollgate-answer'));
  }
  function failed(error) {
    failures += 1;
    if (!isStopped) failing.set(self, succeededAt);
    if (!(error instanceof ApiError)) throw error;
    onError(error);
  }

  async function go() {
    clearTimeout(timer);
    controller?.abort();
    if (isStopped || document.hidden) return;
    const own = new AbortController();
    controller = own;
    try {
      await run(own.signal);
      succeeded();
    } catch (error) {
      if (isAbort(error) || own.signal.aborted) return;
      failed(error);
    } finally {
      if (controller === own && !isStopped && !own.signal.aborted) {
        const wait = failures ? Math.min(Math.max(every, RETRY_MS) * 2 ** (failures - 1), BACKOFF_MAX_MS) : every;
        timer = setTimeout(go, wait);
      }
    }
  }

  function onVisibility() {
    if (document.hidden) {
      clearTimeout(timer);
      controller?.abort();
    } else go();
  }

  /** Another poll was answered again: the wait after a failure is over. */
  function onAnswer() {
    if (failures) go();
  }

  function stop() {
    isStopped = true;
    failing.delete(self);
    clearTimeout(timer);
    controller?.abort();
    document.removeEventListener('visibilitychange', onVisibility);
    window.removeEventListener('tollgate-answer', onAnswer);
  }

  document.addEventListener('visibilitychange', onVisibility);
  window.addEventListener('tollgate-answer', onAnswer);
  go();
  return self;
}

/** Returns a function that calls `run` once no call was made for `wait` milliseconds, if its view is still there. */
function debounce(wait, run) {
  let timer = null;
  return (event) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (event.target.isConnected) run(event);
    }, wait);
  };
}
