// Requests to the API: the token, time limits, and errors as problems (RFC 9457).

const TOKEN_KEY = 'tollgate-token';
const REQUEST_TIMEOUT_MS = 10_000;
const CHANGE_TIMEOUT_MS = 60_000;
const RETRY_MS = 1000;

/** The facts of the last `GET /v1/info`, and the state of the connection. */
const state = { info: null, lastAnswerAt: null, isLost: false };

/** An error of a request. `status` is 0 if the process did not answer. */
class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `status ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

/** The token, which this tab keeps. */
const token = {
  get: () => sessionStorage.getItem(TOKEN_KEY),
  set: (value) => sessionStorage.setItem(TOKEN_KEY, value),
  forget: () => sessionStorage.removeItem(TOKEN_KEY),
};

const canChange = () => state.info?.rights === 'all';

function url(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== '');
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

function headers(hasBody) {
  const result = { Accept: 'application/json' };
  if (token.get()) result.Authorization = `Bearer ${token.get()}`;
  if (hasBody) result['Content-Type'] = 'application/json';
  return result;
}

/** Makes a request, and returns its response if the status is a success. `signal` cancels it. */
async function send(method, target, { body, signal, timeout } = {}) {
  const controller = new AbortController();
  const cancel = () => controller.abort();
  signal?.addEventListener('abort', cancel);
  if (signal?.aborted) cancel();
  const timer = timeout && setTimeout(cancel, timeout);
  try {
    const options = {
      method,
      headers: headers(body !== undefined),
      signal: controller.signal,
      cache: 'no-store',
      credentials: 'omit',
      redirect: 'error',
    };
    if (body !== undefined) options.body = JSON.stringify(body);
    const response = await fetch(target, options);
    if (!response.ok) throw new ApiError(response.status, await problemOf(response));
    return { response, text: timeout ? await response.text() : null };
  } catch (error) {
    if (error instanceof ApiError) {
      if (error.status === 401)
        window.dispatchEvent(new CustomEvent('tollgate-unauthorized', { detail: error.message }));
      throw error;
    }
    if (signal?.aborted) throw new DOMException('cancelled', 'AbortError');
    throw new ApiError(0, { detail: 'Tollgate does not answer.' });
  } finally {
    clearTimeout(timer);
    if (timeout) signal?.removeEventListener('abort', cancel);
  }
}

async function problemOf(response) {
  try {
    return await response.json();
  } catch {
    return { title: response.statusText, status: response.status };
  }
}

/** Reads JSON. Only one `get` of a kind runs at once, because each poller waits for its answer. */
async function get(path, query, signal) {
  const { text } = await send('GET', url(path, query), { signal, timeout: REQUEST_TIMEOUT_MS });
  return JSON.parse(text);
}

/** Makes a change, and returns the JSON of the answer, or null if it has no body. */
async function change(method, path, { query, body } = {}) {
  const { text } = await send(method, url(path, query), { body, timeout: CHANGE_TIMEOUT_MS });
  return text ? JSON.parse(text) : null;
}

/** Notes whether the process answers, by its last `GET /v1/info`. */
function setAnswered(isAnswered) {
  if (isAnswered) state.lastAnswerAt = Date.now();
  if (state.isLost !== isAnswered) return;
  state.isLost = !isAnswered;
  window.dispatchEvent(new Event('tollgate-connection'));
}

const isAbort = (error) => error?.name === 'AbortError';
