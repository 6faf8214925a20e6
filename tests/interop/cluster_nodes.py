"""Parts of the suites of clusters: a Redis or Valkey server, a link to it that fails, nodes of Tollgate with their API, and clients
that measure their upgrades.

    TOLLGATE_CLUSTER_SERVER   the program of the server (default: redis-server)
"""

import asyncio
import base64
import contextlib
import hashlib
import os
import pathlib
import shutil
import signal
import socket
import threading
import time
import urllib.request

import harness
from harness import equal

SECONDS = 30
NODE_TIMEOUT = 3  # the shortest that the configuration accepts
TIMEOUT = 0.2
SLOTS = "tollgate:*:slot:*"
TOKENS_REMEMBERED = 50
SERVER = os.environ.get("TOLLGATE_CLUSTER_SERVER", "redis-server")
# The commands of the suites themselves.
OWN_COMMANDS = ("info", "keys", "zcard", "flushall", "config|resetstat")


def until(holds, what, seconds=SECONDS):
    """Waits until a condition holds, and returns the seconds that this took."""
    begun = time.monotonic()
    while not holds():
        if time.monotonic() - begun > seconds:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - begun


def server_program(name):
    """Returns the path of a server that is installed, or that tests/run has unpacked."""
    found = shutil.which(name) or harness.INTEROP / "valkey/usr/bin" / name
    if not pathlib.Path(found).exists():
        raise harness.Skip(f"{name} is not installed")
    return found


def call(port, *words):
    """Sends a command to a server on a local port, and returns its answer."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as connection, connection.makefile("rb") as answer:
        parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        connection.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
        return read_answer(answer)


def read_answer(answer):
    line = answer.readline().rstrip(b"\r\n").decode()
    kind, rest = line[:1], line[1:]
    if kind == "-":
        raise RuntimeError(rest)
    if kind == ":":
        return int(rest)
    if kind == "*":
        return [read_answer(answer) for _ in range(int(rest))]
    if kind == "$":
        return None if rest == "-1" else answer.read(int(rest) + 2)[:-2].decode(errors="backslashreplace")
    return rest


class Redis:
    """`redis-server` without files on a free port, which can be ended and started again. `options` are added to its command; `port`
    and `socket`, the path of a Unix socket, are those that they name."""

    def __init__(self, directory, *options, name="redis", port=None, socket=None, program=SERVER):
        self.program, self.directory, self.options, self.name = server_program(program), directory, options, name
        self.port, self.socket = port or harness.free_port(), socket
        self.start()

    def start(self):
        self.process = harness.Process(self.name, [self.program, "--port", self.port, "--bind", "127.0.0.1", "--save", "",
                                                   "--appendonly", "no", "--dir", self.directory, *self.options], self.directory)
        until(self._listens, f"{self.name} listens")

    def _listens(self):
        if not self.process.alive():
            raise RuntimeError(f"{self.name} did not start:\n{self.process.output()[-2000:]}")
        return self.socket.exists() if self.socket else harness.accepts(self.port)

    def stop(self, signal_number=signal.SIGTERM):
        self.process.stop(signal_number=signal_number)

    def send_signal(self, number):
        self.process.popen.send_signal(number)

    def pause(self, seconds):
        """Stops the process for a time. Returns a function that waits for its end."""
        self.send_signal(signal.SIGSTOP)
        resume = threading.Timer(seconds, self.send_signal, (signal.SIGCONT,))
        resume.start()
        return resume.join

    def call(self, *words):
        """Sends a command, and returns its answer."""
        return call(self.port, *words)

    def keys(self, pattern="*"):
        return sorted(self.call("KEYS", pattern))

    def members(self, pattern=SLOTS):
        """Returns the number of members of all slots that match."""
        return sum(self.call("ZCARD", key) for key in self.keys(pattern))

    def info(self, section):
        lines = self.call("INFO", section).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def calls(self):
        """Returns the number of calls of each command, with those of scripts, and without those of the suites."""
        stats = {name.removeprefix("cmdstat_"): int(value.split(",")[0].split("=")[1])
                 for name, value in self.info("commandstats").items()}
        return {name: calls for name, calls in stats.items() if name not in OWN_COMMANDS}


class Backend:
    """A WebSocket server that counts its sessions by path."""

    def __init__(self):
        self.open, self.peak = {}, {}
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.server = asyncio.run_coroutine_threadsafe(self._serve(), self.loop).result(SECONDS)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _serve(self):
        return await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)

    async def _accept(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ", 2)[1].split("?")[0]
            lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            key = next(value for name, value in lines.items() if name.lower() == "sec-websocket-key")
            accept = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()
            self.open[path] = self.open.get(path, 0) + 1
            self.peak[path] = max(self.peak.get(path, 0), self.open[path])
            try:
                writer.write(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode())
                while data := await reader.read(65_536):
                    if data[0] & 0x0F == 8:
                        break
                    writer.write(bytes([0x81, 0]))
            finally:
                self.open[path] -= 1
        writer.close()


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def at(port, scheme="redis"):
    """Returns the URL of a server on a local port, as a line of `[cluster]`."""
    return f'url = "{scheme}://127.0.0.1:{port}"\n'


class Node:
    """A node of a cluster. `configuration` is its configuration without the sections of the API and of the cluster, `cluster` the lines
    of the latter; without lines the process is alone."""

    def __init__(self, name, configuration, directory, cluster):
        self.name, self.directory, self.socket, self.successors = name, directory, directory / f"{name}.sock", []
        section = f'[cluster]\nnode_timeout = "{NODE_TIMEOUT}s"\n{cluster}' if cluster else ""
        self.configuration = f'{configuration}\n[admin]\naddress = "unix:{self.socket}"\n{section}'
        self.start()

    def start(self):
        self.proxy = harness.Proxy(self.configuration, self.directory, name=self.name)

    def ask(self, method, target, body=None):
        return harness.Api(self.socket).ask(method, target, body)

    def nodes(self):
        status, answer = self.ask("GET", "/v1/nodes")
        equal(status, 200)
        return answer

    def answers(self):
        """Returns whether the server of the cluster answers this node."""
        return self.nodes()["server_answers"]

    def lines(self):
        """Returns the number of lines of its log."""
        return self.proxy.output().count("\n")

    def upgrade(self):
        """Replaces the program by another process, and returns the number of sessions that moved to it."""
        status, report = self.ask("POST", "/v1/upgrade", {})
        equal(status, 200)
        self.successors.append(report["pid"])
        harness._cleanup.callback(kill, report["pid"])
        return report["moved"]

    def reload(self, old, new):
        """Changes the configuration, and reads it again."""
        file = self.directory / f"{self.name}.toml"
        before, text = self.proxy.output().count("reloaded"), file.read_text()
        assert old in text, old
        file.write_text(text.replace(old, new))
        os.kill(self.proxy.pid, signal.SIGHUP)
        until(lambda: self.proxy.output().count("reloaded") > before, "the node has reloaded")

    def stop(self):
        return self.proxy.stop()

    def kill(self):
        self.proxy.stop(signal_number=signal.SIGKILL)
        for pid in self.successors:
            kill(pid)


def wait_for_nodes(nodes):
    """Waits until each node lists all nodes, and no other one."""

    def complete():
        lists = [node.nodes() for node in nodes]
        known = {tuple(sorted(node["id"] for node in one["nodes"])) for one in lists}
        return len(known) == 1 and len(next(iter(known))) == len(nodes) and all(one["server_answers"] for one in lists)

    return until(complete, f"{len(nodes)} nodes in each list")


class Nodes:
    """Nodes of Tollgate with one backend. `links` are the ports by which nodes reach the server, by their numbers."""

    def __init__(self, suite_secrets, directory, redis, count=3, links=None, name="node", cluster="", limits=(50, 50),
                 scheme="redis", mode="refuse", sessions=4_000):
        self.secrets, self.backend, self.sessions = suite_secrets, Backend(), []
        self.context = suite_secrets.client_context()
        per_subject = {"sessions_per_subject": str(limits[0]), "on_session_limit": f'"{mode}"'}
        per_address = {"sessions_per_address": str(limits[1]), "on_session_limit": f'"{mode}"'}
        self.metrics_ports = [harness.free_port() for _ in range(count)]
        self.nodes = []
        for number in range(count):
            configuration = "".join([
                f"[server]\nworkers = 1\nmax_sessions = {sessions}\nmax_handshakes = 4000\nhandshakes_per_address = \"off\"\n",
                f'[log]\nformat = "text"\nlevel = "info"\n[metrics]\naddress = "127.0.0.1:{self.metrics_ports[number]}"\n',
                harness.listener(suite_secrets), harness.auth(suite_secrets),
                harness.upstream("backend", self.backend.port), "max_pending_requests = 4000\n",
                harness.route("subject", "/subject", "backend", per_subject, auth='"users"', origins='["https://localhost"]'),
                harness.route("address", "/address", "backend", per_address),
                # The clients answer no ping, and sessions at this route may be idle for longer than its default.
                harness.route("both", "/both", "backend", {**per_subject, **per_address, "ping_interval": '"1h"'}, auth='"users"',
                              origins='["https://localhost"]'),
                harness.route("plain", "/plain", "backend"),
            ])
            port = (links or {}).get(number, redis and redis.port)
            self.nodes.append(Node(f"{name}{number}", configuration, directory, redis and at(port, scheme) + cluster))
        if redis:
            self.meet()

    def meet(self):
        """Waits until all nodes know each other, and none counts with an earlier number of nodes, as it does after an outage."""
        wait_for_nodes(self.nodes)
        until(lambda: all(self.metric(number, "tollgate_cluster_nodes") == len(self.nodes) for number in range(len(self.nodes))),
              "each node counts the nodes")

    def metric(self, number, name):
        """Returns the value of a metric of one node."""
        url = f"http://127.0.0.1:{self.metrics_ports[number]}/metrics"
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f"{name} ") or line.startswith(name + "{"):
                    return float(line.rpartition(" ")[2])
        return None

    def kill(self):
        for node in self.nodes:
            node.kill()

    async def open(self, number, path, subject=None, address=None):
        """Opens a session on a node from an address. Returns it with its status; a session of another status than 101 is closed."""
        token = f"Authorization: Bearer {self.token(subject)}\r\n" if subject else ""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.nodes[number].proxy.port, ssl=self.context,
                                                       server_hostname="localhost", local_addr=address and (address, 0))
        begun = time.monotonic()
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{token}\r\n".encode())
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)).decode()
        session = Session(reader, writer, int(head.split(" ")[1]), head, time.monotonic() - begun)
        if session.status == 101:
            self.sessions.append(session)
        else:
            session.close()
        return session

    async def settled(self, number, path, subject=None, address=None):
        """As `open`, and again if an answer of the cluster's server was late: it is, where other programs need the processors."""
        for _ in range(20):
            session = await self.open(number, path, subject, address)
            if session.status != 503:
                break
        return session

    async def statuses(self, path, subject=None):
        """Opens a session on each node, and returns their statuses."""
        return [(await self.settled(number, path, subject)).status for number in range(len(self.nodes))]

    def run(self, steps):
        """Runs the steps of a check. At their end no session is open."""
        async def run():
            try:
                return await steps
            finally:
                close_all(self.sessions)

        return asyncio.run(run())

    _tokens = {}

    def token(self, subject):
        if subject not in self._tokens:
            self._tokens[subject] = self.secrets.foreign_token(sub=subject, is_remembered=len(self._tokens) < TOKENS_REMEMBERED)
        return self._tokens[subject]

    async def fill(self, path, subject, counts):
        """Opens sessions, `counts[n]` on node n. All of them are accepted."""
        opened = []
        for number, count in enumerate(counts):
            opened += [await self.settled(number, path, subject) for _ in range(count)]
        equal({session.status for session in opened}, {101})
        return opened

    async def race(self, path, subject, count, at_once=300):
        """Opens sessions on all nodes as fast as possible. Returns those that were accepted, and the statuses of all."""
        turn = asyncio.Semaphore(at_once)

        async def open_one(index):
            async with turn:
                return await self.open(index % len(self.nodes), path, subject)

        sessions = await asyncio.gather(*(open_one(index) for index in range(count)))
        statuses = {}
        for session in sessions:
            statuses[session.status] = statuses.get(session.status, 0) + 1
        return [session for session in sessions if session.status == 101], statuses


class Session:
    """A session as its client sees it."""

    def __init__(self, reader, writer, status, head, took):
        self.reader, self.writer, self.status, self.head, self.took = reader, writer, status, head, took

    def close(self):
        self.writer.transport.abort()

    async def close_code(self, seconds=SECONDS):
        """Reads a Close frame, and returns its code."""
        head = await asyncio.wait_for(self.reader.readexactly(4), seconds)
        equal(head[0], 0x88)
        return int.from_bytes(head[2:4], "big")

    async def is_open(self):
        """Returns whether the backend answers an empty message."""
        self.writer.write(bytes([0x81, 0x80, 1, 2, 3, 4]))
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            return await asyncio.wait_for(self.reader.readexactly(2), SECONDS) == bytes([0x81, 0])
        return False


def close_all(sessions):
    for session in sessions:
        session.close()
    sessions.clear()
