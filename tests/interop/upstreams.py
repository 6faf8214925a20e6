"""Servers of upstreams that are killed, stopped and restarted in turn while many sessions exchange numbered messages; npm `ws`,
Python `websockets` and `nats-server` are the servers. Then storms of upgrades while one of two servers fails, and a rolling
replacement of all servers.

TOLLGATE_UPSTREAMS=full runs it with 500 sessions, 5,000 upgrades in 2 s and 2,000 sessions, and with nginx and HAProxy for
comparison. Times depend on what else the machine does, so that most of them are only notes.
"""

import asyncio
import collections
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import sys
import time
import urllib.parse

import harness
import upstreams_storm
from harness import equal
from reload_peers import Peer
from upstreams_peers import Life, visit

FULL = os.environ.get("TOLLGATE_UPSTREAMS") == "full"
SESSIONS = 500 if FULL else 60  # half of them of each upstream
STORM, STORM_RATE = (5000, 2500) if FULL else (300, 150)
REPLACED = 2000 if FULL else 90
DRAIN_RATE = 100 if FULL else 15  # sessions per second
PAUSE, ROLLING_PAUSE = (1.0, 3.0) if FULL else (0.3, 0.5)  # mean seconds between two messages of a session
RECONNECT_SECONDS = 1.0  # within which a client reconnects, at random
RESPONSE_SECONDS = 1
PONG_MS = 1500
# A server that stops answering is noticed by its checks and by the requests that wait for it, within this time.
# Without active checks, twice that many requests get a 504 at any time before it is ejected.
EJECT_AFTER = 2
SETTLE_SECONDS = 2 * RESPONSE_SECONDS + 1
VISITS = 5  # new connections per second while a server is down
DOWN_SECONDS = SETTLE_SECONDS + 2
PATIENCE_SECONDS = 60
# A binary without these keys has no active checks, and closes at once with 1001 where pongs are missing.
SCHEMA = harness.run(harness.BINARY, "schema").stdout
HAS_CHECKS, HAS_SPREAD, HAS_DRAIN_RATE = (f'"{key}"' in SCHEMA for key in ("interval", "reconnect_spread", "drain_rate"))
KILLED, STOPPED = "1014 upstream went away", "1014 no pong" if HAS_SPREAD else "1001 no pong"
CHECKS = 'check = "websocket:/check"\ninterval = "500ms"\nfall = 2' if HAS_CHECKS else ""
LATE_MAX = 0 if HAS_CHECKS else 2 * EJECT_AFTER

suite = harness.Suite("upstreams")
harness.many_files()
directory = harness.work_dir("upstreams")
secrets = harness.Secrets(directory)
context = secrets.client_context()


def until(condition, what, seconds=PATIENCE_SECONDS):
    """Waits for a condition, and returns its value and the seconds that it took."""
    begun = time.monotonic()
    while not (value := condition()):
        if time.monotonic() > begun + seconds:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.1)
    return value, time.monotonic() - begun


# ------------------------------------------------------------------------------------------------------------- the servers


class Server:
    """A server on a fixed port, which can be killed, stopped and started again. `start` returns its process."""

    def __init__(self, name, kind, start):
        self.name, self.kind, self.launch = name, kind, start
        self.port = harness.free_port()
        self.start()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        self.process = self.launch(self.name, self.port)
        until(lambda: harness.accepts(self.port), f"{self.name} accepts connections")

    def kill(self):
        self.process.stop(signal_number=signal.SIGKILL)

    def stop(self):
        self.process.popen.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.popen.send_signal(signal.SIGCONT)


def npm_ws(name, port):
    return harness.node(name, "node/numbered.js", directory, str(port), name)


def python_websockets(name, port):
    return harness.Process(name, [sys.executable, harness.HERE / "upstreams_peers.py", "server", str(port), name], directory)


def nats_server(name, port):
    config = directory / f"{name}.conf"
    config.write_text(f'server_name: "{name}"\nlisten: "127.0.0.1:-1"\nwebsocket {{ listen: "127.0.0.1:{port}", no_tls: true }}\n')
    return harness.Process(name, [os.path.join(os.path.dirname(sys.executable), "nats-server"), "-c", config], directory)


# ------------------------------------------------------------------------------------------------------------- the clients


class Report:
    """The connections and the failed upgrades of all users so far."""

    def __init__(self, answers):
        self.lives = [Life(**fields) for answer in answers for fields in answer["lives"]]
        self.failures = [tuple(failure) for answer in answers for failure in answer["failures"]]

    def open(self, server=None):
        return [life for life in self.lives if life.end is None and server in (None, life.server)]


class Crowd:
    """Users in several processes, who reconnect whenever their session ends."""

    def __init__(self, name, processes=2):
        program = harness.HERE / "upstreams_peers.py"
        self.peers = [Peer(f"{name}-{n}", directory, "clients", str(secrets.ca), program=program) for n in range(processes)]

    def ask(self, **command):
        for peer in self.peers:
            peer.tell(**command)
        return [peer.answer() for peer in self.peers]

    def open(self, group, kind, url, count, pause):
        for number, peer in enumerate(self.peers):
            share = (count + number) // len(self.peers)
            peer.tell(name="open", group=f"{group}-{number}", count=share, kind=kind, url=url, pause=pause,
                      reconnect=RECONNECT_SECONDS)
        equal([peer.answer() for peer in self.peers], [0] * len(self.peers))

    def report(self):
        return Report(self.ask(name="report"))

    def stop(self):
        """Closes all sessions, and returns the last report."""
        equal(self.ask(name="stop"), [0] * len(self.peers))
        report = self.report()
        for peer in self.peers:
            peer.popen.stdin.close()
            peer.wait(PATIENCE_SECONDS)
        return report


def visits(kind, url, rate, seconds):
    """Opens new sessions at a fixed rate, and returns the result of each."""

    async def all_of_them():
        begun, tasks = time.monotonic(), []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
            tasks.append(asyncio.create_task(visit(kind, url, context)))
        return await asyncio.gather(*tasks)

    return asyncio.run(all_of_them())


def pool(name, servers, *keys):
    return "\n".join([f"\n[upstream.{name}]", f"servers = {json.dumps([server.address for server in servers])}", *keys, ""])


# ----------------------------------------------------------------------------------------------- killed, stopped, restarted


class Outages:
    """Sessions of two upstreams, whose servers fail one after the other."""

    def __init__(self):
        self.servers = {server.name: server for server in [
            Server("ws", "echo", npm_ws), Server("websockets", "echo", python_websockets),
            Server("nats-1", "nats", nats_server), Server("nats-2", "nats", nats_server)]}
        keys = [f'connect_timeout = "1s"\nresponse_timeout = "{RESPONSE_SECONDS}s"', "max_pending_requests = 1000",
                *(['reconnect_spread = "1s"'] if HAS_SPREAD else [])]
        limits = {"upstream_ping_interval": f'"{PONG_MS}ms"', "pong_timeout": f'"{PONG_MS}ms"', "close_timeout": '"1s"'}
        parts = [f'[server]\nworkers = 2\nmax_sessions = {SESSIONS + 500}\nhandshakes_per_address = "off"\n', harness.listener(secrets)]
        for kind in ("echo", "nats"):
            servers = [server for server in self.servers.values() if server.kind == kind]
            parts += [pool(kind, servers, *keys, f"[upstream.{kind}.health]\neject_after = {EJECT_AFTER}", 'slow_start = "0s"', CHECKS),
                      harness.route(kind, f"/{kind}", kind, limits)]
        self.proxy = harness.Proxy("".join(parts), directory, "outages")
        self.crowd = Crowd("outages")
        for kind in ("echo", "nats"):
            self.crowd.open(kind, kind, self.url(kind), SESSIONS // 2, PAUSE)
        self.expected = collections.Counter()  # the ends by server and code

    def url(self, kind):
        return self.proxy.url(f"/{kind}")

    def victims(self, name):
        return {(life.user, life.opened_at) for life in self.crowd.report().open(name)}

    def outage(self, name, act, undo, end):
        """Lets a server fail, and checks its sessions and new connections. Then the server returns."""
        server = self.servers[name]
        victims = self.victims(name)
        equal(len(victims) > 0, True)
        begun = time.monotonic()
        act(server)
        new = visits(server.kind, self.url(server.kind), VISITS, DOWN_SECONDS)
        failed = [one for one in new if one["failure"]]
        late = [one for one in failed if one["begun"] - begun > SETTLE_SECONDS]
        equal((failed if end == KILLED else []) + late[LATE_MAX:], [])
        until(lambda: not self.victims(name), f"the sessions of {name} end")
        self.expected[name, end] += len(victims)
        report = self.crowd.report()
        equal({life.end for life in report.lives if (life.user, life.opened_at) in victims}, {end})
        until(lambda: len(self.crowd.report().open()) == SESSIONS, "every client has reconnected")
        back = [life.opened_at for life in self.crowd.report().lives if life.opened_at > begun]
        undo(server)
        served = lambda: any(one["server"] == name for one in visits(server.kind, self.url(server.kind), 10, 0.5))
        _, returned_after = until(served, f"{name} is used again")
        waits = sorted(one["seconds"] for one in new if not one["failure"])
        last = max(life.end_time for life in report.lives if (life.user, life.opened_at) in victims)
        suite.note(f"{name} {'killed' if end == KILLED else 'stopped'}: {len(victims)} sessions ended within {last - begun:.1f} s,"
                   f" and all clients were back after {max(back) - begun:.1f} s; of {len(new)} new connections {len(failed)} failed"
                   f" {sorted({one['failure'] for one in failed})}, the others took {1000 * statistics.median(waits):.0f} ms (median),"
                   f" {1000 * waits[-1]:.0f} ms (maximum); the server was used again after {returned_after:.1f} s")

    def finish(self):
        report = self.crowd.stop()
        equal([life.wrong for life in report.lives if life.wrong], [])
        ended = collections.Counter((life.server, life.end) for life in report.lives if life.end != "1000")
        equal(ended, self.expected)
        whole = [life for life in report.lives if life.end == "1000"]
        equal((len(whole), sum(life.sent - life.received for life in whole)), (SESSIONS, 0))
        equal(report.failures[LATE_MAX * len(self.servers):], [])
        lost = [life for life in report.lives if life.end != "1000"]
        suite.note(f"{sum(life.received for life in report.lives):,} numbered messages returned, each once and in order; of the"
                   f" {len(lost)} sessions whose server failed, {sum(life.sent - life.received for life in lost)} messages had no answer;"
                   f" {len(report.failures)} upgrades of clients that reconnected failed")
        equal(self.proxy.stop(), 0)
        for server in self.servers.values():
            server.kill()


with suite.check(f"{SESSIONS} sessions exchange numbered messages with npm ws, Python websockets and nats-server, which are killed, "
                 f"stopped and restarted in turn: no message is lost, doubled or reordered where the server lives, sessions end with "
                 f"\"{KILLED}\" or \"{STOPPED}\" where it does not, and new connections are served by the others"):
    outages = Outages()
    try:
        for name in ("ws", "nats-1", "websockets", "nats-2"):
            outages.outage(name, Server.kill, Server.start, KILLED)
        for name in ("ws", "nats-1", "websockets", "nats-2"):
            outages.outage(name, Server.stop, Server.resume, STOPPED)
    finally:
        for server in outages.servers.values():
            server.resume()
    outages.finish()

# -------------------------------------------------------------------------------------------------------- storms of upgrades

load = harness.build_load_generator()
PROXIES = [upstreams_storm.Tollgate, *([upstreams_storm.Nginx, upstreams_storm.Haproxy] if FULL else [])]
FAULTS = {upstreams_storm.healthy: 0, upstreams_storm.dead: 0, upstreams_storm.swallowing: 0,
          # The status is final, so some clients get it before the server is ejected: those that asked together, too.
          upstreams_storm.answers_500: upstreams_storm.EJECT_AFTER + STORM_RATE // 10}
for fault, failed_max in FAULTS.items():
    for kind in PROXIES:
        with suite.check(f"{kind.name}: {STORM:,} upgrades at {STORM_RATE:,} per second, one of two servers {fault.__name__}"):
            if kind is not upstreams_storm.Tollgate and not shutil.which(kind.name):
                raise harness.Skip("it is not installed")
            failed = upstreams_storm.storm(suite, load, kind, fault, directory, secrets, STORM, STORM_RATE)
            if kind is upstreams_storm.Tollgate and not FULL:
                equal(failed <= failed_max, True)

# ------------------------------------------------------------------------------------------------------- rolling replacement


class Api:
    """The admin API on a Unix socket."""

    def __init__(self, path):
        self.path = path

    def ask(self, method, target, body=None):
        connection = http.client.HTTPConnection("localhost", timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(PATIENCE_SECONDS)
            connection.sock.connect(str(self.path))
            headers = {"Content-Type": "application/json"} if body else {}
            connection.request(method, target, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        equal((answer.status, text) if answer.status >= 300 else None, None)
        return json.loads(text)

    def server(self, address):
        upstream, = self.ask("GET", "/v1/upstreams")["upstreams"]
        return next(server for server in upstream["servers"] if server["address"] == address)

    def set_state(self, address, state):
        target = f"/v1/upstreams/rolling/servers/{urllib.parse.quote(address, safe='')}"
        return self.ask("PATCH", target, {"state": state})


def replace(api, server, by_command):
    """Drains a server, replaces its process and lets it serve again. Returns the number of its sessions and the seconds."""
    config = directory / "rolling.toml"
    sessions, begun = api.server(server.address)["sessions"], time.monotonic()
    if by_command:
        harness.run(harness.BINARY, "upstreams", "drain", "rolling", server.address, "--config", config)
    else:
        api.set_state(server.address, "drain")
    patience = PATIENCE_SECONDS + 2 * sessions / DRAIN_RATE
    until(lambda: api.server(server.address)["sessions"] == 0, f"{server.name} has no sessions", patience)
    seconds = time.monotonic() - begun
    server.kill()
    server.start()
    if by_command:
        harness.run(harness.BINARY, "upstreams", "undrain", "rolling", server.address, "--config", config)
    else:
        api.set_state(server.address, "ready")
    until(lambda: api.server(server.address)["state"] in ("up", "slow start"), f"{server.name} is up")
    return sessions, seconds


@contextlib.contextmanager
def needs(condition, key):
    if not condition:
        raise harness.Skip(f"this binary has no {key}")
    yield


with suite.check(f"three servers with {REPLACED:,} sessions are replaced one after the other at drain_rate = \"{DRAIN_RATE}/s\": each "
                 "moved session ends with 1012, and no client sees a failure"), needs(HAS_DRAIN_RATE, "drain_rate"):
    servers = [Server("rolling-1", "echo", npm_ws), Server("rolling-2", "echo", python_websockets),
               Server("rolling-3", "echo", npm_ws)]
    socket_path = directory / "rolling.sock"
    proxy = harness.Proxy("".join([
        f'[server]\nworkers = 2\nmax_sessions = {REPLACED + 500}\nhandshakes_per_address = "off"\n',
        f'[admin]\naddress = "unix:{socket_path}"\n', harness.listener(secrets),
        pool("rolling", servers, f'drain_rate = "{DRAIN_RATE}/s"', '[upstream.rolling.health]\nslow_start = "1s"'),
        harness.route("rolling", "/rolling", "rolling", {"message_rate": '"1000/s"'}),
    ]), directory, "rolling")
    api, crowd = Api(socket_path), Crowd("rolling")
    crowd.open("rolling", "echo", proxy.url("/rolling"), REPLACED, ROLLING_PAUSE)
    begun, drained = time.monotonic(), []
    for number, server in enumerate(servers):
        drained.append((server.name, *replace(api, server, number == 1)))
    until(lambda: len(crowd.report().open()) == REPLACED, "every client has reconnected")
    report = crowd.stop()
    moved = [life for life in report.lives if life.end != "1000"]
    again = collections.Counter(int(life.opened_at - begun) for life in report.lives if life.opened_at > begun)
    rates = [again[second] for second in range(max(again) + 1)]
    for name, sessions, seconds in drained:
        suite.note(f"{name}: its {sessions:,} sessions were closed within {seconds:.1f} s")
    suite.note(f"{len(moved):,} sessions moved; reconnects in each second: {' '.join(map(str, rates))}; highest {max(rates)}, with"
               f" drain_rate = \"{DRAIN_RATE}/s\"; {len(report.failures)} failed upgrades;"
               f" {sum(life.sent - life.received for life in moved)} messages of moved sessions had no answer")
    equal((report.failures, [life.wrong for life in report.lives if life.wrong]), ([], []))
    equal({life.end.split(" ")[0] for life in moved}, {"1012"})
    whole = [life for life in report.lives if life.end == "1000"]
    equal((len(whole), sum(life.sent - life.received for life in whole)), (REPLACED, 0))
    # Reconnects are spread at random over a second, and the rate counts from the first close.
    equal(max(rates) <= 2 * DRAIN_RATE, True)
    equal(proxy.stop(), 0)
suite.finish()
