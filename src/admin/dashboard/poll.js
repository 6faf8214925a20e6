// Repeats requests: one at a time, not while the page is hidden, and less often while the process does not answer.

const BACKOFF_MAX_MS = 30_000;

/**
 * Calls `run(signal)` now and then `every` milliseconds after each result. Returns `stop` and `now`, which runs it at
 * once and drops the answer of a run in progress. Errors other than "no answer" go to `onError`, and do not end it.
 */
function poll(every, run, onError = () => {}) {
  let timer = null;
  let controller = null;
  let failures = 0;
  let isStopped = false;

  async function go() {
    clearTimeout(timer);
    controller?.abort();
    if (isStopped || document.hidden) return;
    const own = new AbortController();
    controller = own;
    try {
      await run(own.signal);
      failures = 0;
    } catch (error) {
      if (isAbort(error) || own.signal.aborted) return;
      failures += 1;
      if (error instanceof ApiError) {
        if (error.status === 0) unanswered();
        onError(error);
      } else throw error;
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

  /** Another request was answered: the wait after a failure is over. */
  function onConnection() {
    if (!state.isLost && failures) go();
  }

  document.addEventListener('visibilitychange', onVisibility);
  window.addEventListener('tollgate-connection', onConnection);
  go();
  return {
    now: go,
    stop() {
      isStopped = true;
      clearTimeout(timer);
      controller?.abort();
      document.removeEventListener('visibilitychange', onVisibility);
      window.removeEventListener('tollgate-connection', onConnection);
    },
  };
}

/** Returns a function that calls `run` once no call was made for `wait` milliseconds. */
function debounce(wait, run) {
  let timer = null;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...values), wait);
  };
}
