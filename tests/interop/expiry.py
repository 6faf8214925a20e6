"""Many sessions whose tokens expire: when they end, and what the tokens that do not expire yet cost.

TOLLGATE_EXPIRY=full runs it with 5,000 tokens that expire within the same second, and with 9,000 pending expiries for a
minute. Otherwise there are fewer sessions, and the times are only notes where they depend on what else the machine does.
"""

import os
import pathlib
import resource
import statistics
import time

import harness
import leaks
from crowd import Session, drive
from harness import equal

FULL = os.environ.get("TOLLGATE_EXPIRY") == "full"
EXPIRING, PENDING = (5000, 9000) if FULL else (500, 500)
OPENING = 256  # concurrent connections without a session yet
OPEN_SECONDS = 40 if FULL else 6  # until all sessions are open, which is when the tokens expire
IDLE_SECONDS = 60 if FULL else 3
REST_SECONDS = 7  # after which an idle session has no timer but that of its expiry
LATE_MAX = 1.0  # seconds after `exp` + `leeway`
COST_MAX = 0.002  # CPU seconds per second beyond sessions without expiry
OTHER_DESCRIPTORS = 1500  # of the proxy, beyond two per session
CODE = 4403

suite = harness.Suite("expiry")
harness.many_files()
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
most = (limit - OTHER_DESCRIPTORS) // 2
directory = harness.work_dir("expiry")
secrets = harness.Secrets(directory)
context = secrets.client_context()
echo = harness.Node("autobahn/echo.js", directory)
proxy = harness.Proxy("".join([
    f"[server]\nmax_sessions = {most}\nmax_handshakes = 512\nhandshakes_per_address = \"off\"\n\n"
    "[log]\nformat = \"json\"\nlevel = \"info\"\n\n",
    harness.listener(secrets, handshake_timeout='"60s"'),
    harness.auth(secrets), f"expiry_close_code = {CODE}\n",
    harness.upstream("echo", echo.facts["port"]) + 'connect_timeout = "20s"\nresponse_timeout = "20s"\n',
    harness.route("expiring", "/expiring", "echo", {"ping_interval": '"off"'}, auth='"users"',
                  origins='["https://page.example"]'),
    harness.route("endless", "/endless", "echo", {"ping_interval": '"off"'}),
]), directory)


def open_all(path, tokens):
    """Opens one session with each token, or without one, and returns them."""
    everyone = []

    def arrivals():
        for token in tokens:
            lines = [f"Authorization: Bearer {token}"] if token else []
            everyone.append(Session(context, proxy.port, "127.0.0.2", path, lines))
            yield everyone[-1]

    drive(arrivals(), Session.open, OPENING, seconds=120)
    return everyone


def cpu_seconds():
    """Returns the CPU time of all threads of the proxy."""
    tasks = pathlib.Path(f"/proc/{proxy.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def idle_cost(path, tokens):
    """Returns the CPU time of the proxy while sessions of these tokens are idle, and closes them."""
    everyone = open_all(path, tokens)
    time.sleep(REST_SECONDS)
    before = cpu_seconds()
    time.sleep(IDLE_SECONDS)
    cost = cpu_seconds() - before
    drive(everyone, Session.close, seconds=120)
    return cost


count = min(EXPIRING, most)
with suite.check(f"{count:,} sessions whose tokens expire in the same second all end within {LATE_MAX:.0f} s of it"):
    begun, expires = time.monotonic(), int(time.time()) + OPEN_SECONDS
    sign = lambda number: secrets.foreign_token(sub=f"user-{number}", jti=f"token-{number}", exp=expires)
    everyone = open_all("/expiring", [sign(number) for number in range(count)])
    opened, left = time.monotonic() - begun, expires - time.time()
    suite.note(f"{count:,} sessions opened in {opened:.1f} s, {left:.1f} s before their tokens expire; "
               f"descriptor limit {limit:,}")
    assert left > 0, "the tokens expired before all sessions were open"
    drive(everyone, Session.wait_for_close, seconds=left + 30)
    drive(everyone, Session.answer_close)
    late = sorted(session.closed_at - expires for session in everyone)
    at = lambda share: late[min(len(late) - 1, int(share * len(late)))]
    suite.note(f"Close frames after exp, s: first {late[0]:.3f}, 10% {at(0.1):.3f}, half {statistics.median(late):.3f}, "
               f"90% {at(0.9):.3f}, 99% {at(0.99):.3f}, last {late[-1]:.3f}")
    equal({session.close_frame for session in everyone}, {(CODE, "token expired")})
    assert late[0] >= 0, f"a session ended {-late[0]:.3f} s before its token expired"
    assert late[-1] < LATE_MAX, f"the last session ended {late[-1]:.3f} s after its token expired"

count = min(PENDING, most)
if count < PENDING:
    suite.note(f"{count:,} sessions instead of {PENDING:,}: the limit is {limit:,} descriptors, two per session")
with suite.check(f"{count:,} pending expiries cost an idle proxy no more than as many sessions without expiry"):
    token = leaks.remember(secrets.token(expires="2h"))
    with_expiry, without = idle_cost("/expiring", [token] * count), idle_cost("/endless", [None] * count)
    suite.note(f"CPU of {IDLE_SECONDS} idle seconds, {count:,} sessions: {with_expiry * 1e3:.0f} ms with expiry, "
               f"{without * 1e3:.0f} ms without")
    assert with_expiry - without < COST_MAX * IDLE_SECONDS, f"{with_expiry:.3f} s against {without:.3f} s"
suite.finish()
