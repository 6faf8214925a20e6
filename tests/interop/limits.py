"""Limits of sessions with real clients: racing upgrades of one subject with `on_session_limit = "close_oldest"`, limits that
are only reported, and quotas of bytes.

    TOLLGATE_RACE=1000   racing upgrades (default: 300)
"""

import asyncio
import contextlib
import os
import random
import time
import urllib.request

import websockets.asyncio.client
import websockets.sync.client

import harness
from harness import equal

RACING = int(os.environ.get("TOLLGATE_RACE", "300"))
AT_ONCE = 100  # TLS handshakes of the race that are in progress at once
LIMIT = 3
SECONDS = 30
REPLACED = "replaced by a newer session"
# Each of them would act on the messages that the suite sends.
TIGHT = {
    "mode": '"report"', "message_rate": '"1/s"', "message_burst": "1", "byte_rate": '"1KiB/s"', "on_excess": '"drop"',
    "message_max_size": '"4KiB"', "frame_max_size": '"2KiB"', "upstream_message_max_size": '"4KiB"',
    "overhead_rate": '"1/s"', "overhead_burst": "1", "idle_timeout": '"100ms"', "max_session_age": '"1s"',
    "sessions_per_subject": "1", "sessions_per_address": "1", "on_session_limit": '"close_oldest"',
}

suite = harness.Suite("limits")
harness.many_files()
directory = harness.work_dir("limits")
secrets = harness.Secrets(directory)
metrics_port = harness.free_port()
users = {"auth": '"users"', "origins": '["https://localhost"]'}
per_subject = {"sessions_per_subject": str(LIMIT), "on_session_limit": '"close_oldest"'}
proxy = harness.Proxy("".join([
    f'[server]\nworkers = 2\nmax_sessions = {RACING + 100}\nmax_handshakes = {RACING + 100}\nhandshakes_per_address = "off"\n',
    f'[log]\nformat = "text"\n[metrics]\naddress = "127.0.0.1:{metrics_port}"\n',
    harness.listener(secrets), harness.auth(secrets),
    harness.upstream("echo", harness.echo_backend()), f"max_pending_requests = {RACING + 100}\n",
    harness.route("race", "/race", "echo", per_subject, **users),
    harness.route("plain", "/plain", "echo", {"message_max_size": '"1GiB"', "overhead_rate": '"1000000/s"'}, **users),
    harness.route("report", "/report", "echo", TIGHT, **users),
    harness.route("delay", "/delay", "echo", {"byte_rate": '"100KiB/s"', "on_excess": '"delay"'}),
]), directory)
context = secrets.client_context()


def options(subject):
    return {"ssl": context, "proxy": None, "additional_headers": {"Authorization": f"Bearer {secrets.token(subject)}"}}


def metrics():
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=SECONDS) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


def until(wanted, what):
    end = time.monotonic() + SECONDS
    while not wanted():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {SECONDS} s: {what}")
        time.sleep(0.05)


async def race():
    """Opens sessions of one subject as fast as possible, and then some more, one after the other."""
    turn, shared = asyncio.Semaphore(AT_ONCE), options("ada")

    async def open_one():
        async with turn:
            return await websockets.asyncio.client.connect(proxy.url("/race"), open_timeout=SECONDS, **shared)

    connections = await asyncio.gather(*(open_one() for _ in range(RACING)))
    waits = [asyncio.ensure_future(connection.wait_closed()) for connection in connections]
    done, pending = await asyncio.wait(waits, timeout=3)
    for task in pending:
        task.cancel()
    is_open = [connection for connection in connections if connection.close_code is None]
    reasons = {(one.close_code, one.close_reason) for one in connections if one.close_code is not None}
    equal((len(is_open), len(done), reasons), (LIMIT, RACING - LIMIT, {(1008, REPLACED)}))
    for connection in is_open:
        await connection.send("still open")
        equal(await connection.recv(), "still open")
    # One after the other, the oldest makes way for the newest.
    latest = []
    for _ in range(LIMIT):
        latest.append(await open_one())
    for connection in is_open:
        await asyncio.wait_for(connection.wait_closed(), SECONDS)
        equal((connection.close_code, connection.close_reason), (1008, REPLACED))
    for connection in latest:
        await connection.send("newest")
        equal(await connection.recv(), "newest")
        await connection.close()


with suite.check(f"{RACING} racing upgrades of one subject are all accepted, and all but the last {LIMIT} are closed with 1008"):
    begun = time.monotonic()
    asyncio.run(race())
    suite.note(f"{RACING} racing upgrades took {time.monotonic() - begun:.1f} s, 3 s of which are a wait for further closes")
    found = metrics()
    outcomes = {name: value for name, value in found.items() if name.startswith('tollgate_upgrades_total{route="race"')}
    equal(outcomes, {'tollgate_upgrades_total{route="race",outcome="accepted"}': RACING + LIMIT})
    until(lambda: metrics()['tollgate_sessions{route="race",upstream="echo"}'] == 0, "all sessions end")
    equal(metrics()['tollgate_closes_total{route="race",code="1008",by="tollgate"}'], RACING)


def messages():
    """Returns random messages, some of which exceed every size and rate of `TIGHT`."""
    source = random.Random(8)
    for _ in range(60):
        size = source.choice([0, 1, 125, 126, 1000, 5000, 70_000])
        yield source.randbytes(size) if source.random() < 0.5 else "ü" * (size // 2)


with suite.check("with mode = \"report\" a session receives what one without limits receives, and no session is closed"):
    received = {}
    for path in ("/plain", "/report"):
        with contextlib.ExitStack() as stack:
            connect = websockets.sync.client.connect
            several = [stack.enter_context(connect(proxy.url(path), **options("bob"))) for _ in range(3)]
            found = received[path] = []
            for connection in several:
                found.append(connection.protocol.extensions != [])
                for message in messages():
                    connection.send(message)
                    found.append(connection.recv(SECONDS))
                for payload in (b"", b"ping"):
                    equal(connection.ping(payload).wait(SECONDS), True)
            time.sleep(1.1)  # longer than the idle timeout and than the maximum age
            for connection in several:
                connection.send("end")
                found.append(connection.recv(SECONDS))
            found.append([connection.close_code for connection in several])
    equal(received["/report"] == received["/plain"], True)
    equal(received["/plain"][0], True)

with suite.check("each limit that is only reported is in the metrics, and the end of a session has its counts"):
    reported = {name.split('limit="')[1].split('"')[0]: value for name, value in metrics().items()
                if name.startswith('tollgate_reported_limits_total{route="report"') and value > 0}
    # A frame beyond both sizes counts for the smaller one, and this client does not fragment.
    expected = {"message_rate", "byte_rate", "upstream_byte_rate", "overhead_rate", "frame_max_size",
                "upstream_message_max_size", "idle_timeout", "max_session_age", "sessions_per_subject",
                "sessions_per_address"}
    equal(set(reported), expected)
    log = proxy.output()
    equal(log.count("limit exceeded, and only reported") <= 3 * len(TIGHT), True)
    equal("reported=\"message_rate " in log, True)

with suite.check("delayed bytes pass at the rate in both directions, whole and in order"):
    with websockets.sync.client.connect(proxy.url("/delay"), ssl=context, proxy=None, max_size=None) as connection:
        payload = random.Random(3).randbytes(300 * 1024)
        begun = time.monotonic()
        connection.send(payload)
        equal(connection.recv(SECONDS) == payload, True)
        # 200 KiB beyond the burst of 100 KiB, at 100 KiB/s; the backend answers once it has the whole message.
        seconds = time.monotonic() - begun
        equal((seconds > 3.9, seconds < 12), (True, True))
        suite.note(f"300 KiB took {seconds:.1f} s at 100 KiB/s")

suite.finish()
