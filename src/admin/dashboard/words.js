// The labels of causes, codes and states in words.

/** The causes of rejections: `outcome` of tollgate_upgrades_total and tollgate_http_rejections_total. */
const REJECTIONS = {
  head: 'malformed or too large head',
  not_upgrade: 'not a WebSocket request',
  version: 'unknown WebSocket version',
  malformed: 'malformed opening handshake',
  host: 'invalid host',
  path: 'ambiguous path',
  no_route: 'no route',
  method: 'wrong method',
  address: 'address not allowed',
  upgrade_rate: 'too many requests from an address',
  request_rate: 'too many ordinary requests of a client',
  unsupported: 'unsupported method or protocol',
  framing: 'ambiguous HTTP framing',
  body_too_large: 'body too large',
  body_timeout: 'body too slow',
  misdirected: 'host not served',
  origin: 'origin not allowed',
  no_token: 'no token',
  token_ambiguous: 'more than one token',
  token: 'invalid token',
  revoked: 'revoked token',
  logout: 'logout failed',
  auth_status: 'rejected by the auth service',
  auth_unavailable: 'auth service unavailable',
  auth_busy: 'auth service busy',
  keys_unavailable: 'no usable keys',
  claims: 'claims not sufficient',
  address_sessions: 'too many sessions of an address',
  subject_sessions: 'too many sessions of a subject',
  cluster_unavailable: 'cluster unavailable',
  full: 'process is full',
  requests_full: 'too many ordinary requests in progress',
  address_requests: 'too many ordinary requests of an address in progress',
  memory: 'memory limit',
  draining: 'draining',
  upstream_busy: 'too many pending requests',
  upstream_full: 'every server full or draining',
  upstream_rate: 'more than admit_rate permits',
  unreachable: 'no server reachable',
  upstream_malformed: 'malformed upstream response',
  upstream_timeout: 'upstream timed out',
  upstream_answer: 'invalid upstream handshake',
  upstream_status: 'upstream rejected the upgrade',
  client_gone: 'client disconnected',
};

/** The causes of ends: `cause` of tollgate_close_causes_total. */
const ENDS = {
  closed: 'closed by client or upstream',
  client_violation: 'client broke the protocol',
  upstream_violation: 'upstream broke the protocol',
  message_rate: 'message rate exceeded',
  byte_rate: 'byte rate of the client exceeded',
  upstream_byte_rate: 'byte rate of the upstream exceeded',
  overhead_rate: 'frame rate exceeded',
  token_expired: 'token expired',
  max_session_age: 'maximum age',
  idle_timeout: 'idle timeout',
  client_no_pong: 'no pong from the client',
  upstream_no_pong: 'no pong from the upstream',
  drain: 'drain',
  client_gone: 'client disconnected',
  upstream_gone: 'upstream disconnected',
  client_write_stall: 'client does not read',
  upstream_write_stall: 'upstream does not read',
  slow_client: 'client too slow',
  command: 'closed by an operator',
  revoked: 'revoked',
  replaced: 'replaced by a newer session',
  not_admitted: 'no longer admitted after a reload',
  removed: 'route removed',
  server_drained: 'server drained or removed',
  rebalanced: 'moved from an overloaded server',
  cut: 'cut off',
};

/** The codes of RFC 6455 section 7.4.1 and of the IANA registry. */
const CODES = {
  1000: 'normal closure',
  1001: 'going away',
  1002: 'protocol error',
  1003: 'unsupported data',
  1005: 'no code',
  1006: 'cut off without a Close',
  1007: 'invalid payload',
  1008: 'policy violation',
  1009: 'message too big',
  1010: 'missing extension',
  1011: 'internal error',
  1012: 'service restart',
  1013: 'try again later',
  1014: 'bad gateway',
  1015: 'TLS failed',
  none: 'Close without a code',
  '3xxx': 'codes of libraries',
  '4xxx': 'codes of applications',
};

/** The codes that an operator may send. */
const OPERATOR_CODES = [1000, 1001, 1008, 1011, 1012, 1013];

const ACTIVITIES = {
  open: 'open',
  throttled: 'throttled',
  closing: 'closing',
  lingering: 'waiting for the end of the connection',
};

const LIMITS = {
  message_rate: 'message rate',
  byte_rate: 'byte rate of the client',
  upstream_byte_rate: 'byte rate of the upstream',
  overhead_rate: 'frame rate',
  message_max_size: 'message size',
  frame_max_size: 'frame size',
  upstream_message_max_size: 'message size of the upstream',
  idle_timeout: 'idle timeout',
  max_session_age: 'maximum age',
  slow_client: 'age of data for the client',
  sessions_per_subject: 'sessions per subject',
  sessions_per_address: 'sessions per address',
};

/** The cause of a rejection or an end in words, with the label as it is in logs and metrics. */
function causeText(kind, cause) {
  return (kind === 'rejection' ? REJECTIONS : ENDS)[cause] ?? cause.replaceAll('_', ' ');
}

/** The cause of an event in words. */
function eventCause({ kind, cause, by }) {
  return kind === 'end' && cause === 'closed' ? `closed by ${sideText(by)}` : causeText(kind, cause);
}

/** The address of the events of a kind, and of a cause. */
function eventsLink(kind, cause = null) {
  return `#/events?kind=${kind}${cause ? `&cause=${encodeURIComponent(cause)}` : ''}`;
}

function codeText(code) {
  if (code === null || code === undefined) return 'no code';
  const meaning = CODES[code] ?? (code >= 4000 ? 'code of the application' : code >= 3000 ? 'code of a library' : null);
  return meaning ? `${code}, ${meaning}` : String(code);
}

function sideText(by) {
  return by === 'tollgate' ? 'Tollgate' : `the ${by}`;
}

/** Why a reload ends sessions: the rule by which the request would be rejected now, or a cause of an end. */
function recheckText(cause) {
  return REJECTIONS[cause] ?? causeText('end', cause);
}

/** A key such as `idle_timeout` in words. */
function keyText(key) {
  return LIMITS[key] ?? key.replaceAll('_', ' ');
}

/** A text whose first letter is a capital. */
function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
