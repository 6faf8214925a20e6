"""Parts of the suite `cluster`: a Redis server, a proxy in front of it that can be cut, several nodes of Tollgate with one
backend, and a client that measures its upgrade."""

import asyncio
import base64
import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import threading
import time
import urllib.request

import harness

SECONDS = 30
NODE_TIMEOUT = 3  # the shortest that the configuration accepts
TIMEOUT = 0.2
SLOTS = "tollgate:*:slot:*"


def until(wanted, what, seconds=SECONDS):
    """Waits until `wanted` returns something true. Returns it with the seconds that this took."""
    begun = time.monotonic()
    while not (found := wanted()):
        if time.monotonic() - begun > seconds:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.02)
    return found, time.monotonic() - begun


class Redis(harness.Process):
    """`redis-server` on a free port, without persistence. It can be asked with `call`."""

    def __init__(self, directory, name="redis", *options):
        program = shutil.which("redis-server")
        if program is None:
            raise harness.Skip("redis-server is not installed")
        self.port = harness.free_port()
        super().__init__(name, [program, "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                                "--dir", directory, *options], directory)
        until(lambda: harness.accepts(self.port), "redis-server listens")

    def call(self, *words):
        """Sends a command, and returns its answer."""
        with socket.create_connection(("127.0.0.1", self.port), SECONDS) as connection, connection.makefile("rb") as answer:
            parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
            connection.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
            return self._read(answer)

    def _read(self, answer):
        line = answer.readline().rstrip(b"\r\n").decode()
        kind, rest = line[:1], line[1:]
        if kind == "-":
            raise RuntimeError(rest)
        if kind == ":":
            return int(rest)
        if kind == "*":
            return [self._read(answer) for _ in range(int(rest))]
        if kind == "$":
            return None if rest == "-1" else answer.read(int(rest) + 2)[:-2].decode()
        return rest

    def keys(self, pattern="*"):
        return sorted(self.call("KEYS", pattern))

    def members(self, pattern=SLOTS):
        """Returns the number of members of all slots that match."""
        return sum(self.call("ZCARD", key) for key in self.keys(pattern))

    def info(self, section):
        lines = self.call("INFO", section).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def calls(self):
        """Returns the number of calls of each command, without those of this suite."""
        stats = {name.removeprefix("cmdstat_"): int(value.split(",")[0].split("=")[1])
                 for name, value in self.info("commandstats").items()}
        return {name: calls for name, calls in stats.items() if name not in ("info", "keys", "zcard", "config|resetstat")}

    def pause(self, seconds):
        """Stops the process for a time. Returns a function that waits for its end."""
        os.kill(self.pid, signal.SIGSTOP)
        resume = threading.Timer(seconds, os.kill, (self.pid, signal.SIGCONT))
        resume.start()
        return resume.join


class Wire:
    """A TCP proxy in front of a server. While it is cut, it forwards nothing and closes nothing."""

    def __init__(self, port):
        self.target, self.is_cut = port, False
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.server = asyncio.run_coroutine_threadsafe(self._serve(), self.loop).result(SECONDS)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _serve(self):
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def _accept(self, reader, writer):
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            await asyncio.gather(self._copy(reader, back), self._copy(there, writer))

    async def _copy(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                while self.is_cut:
                    await asyncio.sleep(0.01)
                writer.write(data)
                await writer.drain()
        writer.close()


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


class Nodes:
    """Nodes of Tollgate with one backend. `wires` are the ports by which nodes reach the server, by their numbers."""

    def __init__(self, suite_secrets, directory, redis, count=3, wires=None, name="node", cluster="", limits=(50, 50),
                 scheme="redis", mode="refuse", sessions=4_000):
        self.secrets, self.backend, self.sessions = suite_secrets, Backend(), []
        self.context = suite_secrets.client_context()
        per_subject = {"sessions_per_subject": str(limits[0]), "on_session_limit": f'"{mode}"'}
        per_address = {"sessions_per_address": str(limits[1]), "on_session_limit": f'"{mode}"'}
        self.metrics_ports = [harness.free_port() for _ in range(count)]
        self.configs = []
        for number in range(count):
            port = (wires or {}).get(number, redis and redis.port)
            self.configs.append("".join([
                f"[server]\nworkers = 1\nmax_sessions = {sessions}\nmax_handshakes = 4000\nhandshakes_per_address = \"off\"\n",
                f'[log]\nformat = "text"\nlevel = "info"\n[admin]\naddress = "unix:{directory}/{name}{number}.sock"\n[metrics]\naddress = "127.0.0.1:{self.metrics_ports[number]}"\n',
                f'[cluster]\nurl = "{scheme}://127.0.0.1:{port}"\nnode_timeout = "{NODE_TIMEOUT}s"\n{cluster}\n' if redis else "",
                harness.listener(suite_secrets), harness.auth(suite_secrets),
                harness.upstream("backend", self.backend.port), "max_pending_requests = 4000\n",
                harness.route("subject", "/subject", "backend", per_subject, auth='"users"', origins='["https://localhost"]'),
                harness.route("address", "/address", "backend", per_address),
                harness.route("both", "/both", "backend", {**per_subject, **per_address}, auth='"users"',
                              origins='["https://localhost"]'),
                harness.route("plain", "/plain", "backend"),
            ]))
        self.directory, self.name, self.successors = directory, name, {}
        self.nodes = [harness.Proxy(config, directory, f"{name}{number}") for number, config in enumerate(self.configs)]
        if redis:
            self.meet()

    def meet(self):
        """Waits until all nodes know each other."""
        until(lambda: all(self.metric(number, "tollgate_cluster_nodes") == len(self.nodes) for number in range(len(self.nodes))),
              "the nodes know each other")

    def metric(self, number, name):
        """Returns the value of a metric of one node; `None` if it has none, or does not listen yet."""
        if not harness.accepts(self.metrics_ports[number]):
            return None
        url = f"http://127.0.0.1:{self.metrics_ports[number]}/metrics"
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f"{name} ") or line.startswith(name + "{"):
                    return float(line.rpartition(" ")[2])
        return None

    def upgrade(self, number):
        """Replaces the program of a node by another process, and returns the number of sessions that moved to it."""
        connection = http.client.HTTPConnection("localhost", timeout=SECONDS)
        with contextlib.closing(connection):
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(SECONDS)
            connection.sock.connect(f"{self.directory}/{self.name}{number}.sock")
            connection.request("POST", "/v1/upgrade", json.dumps({}), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        harness.equal((answer.status, text if answer.status != 200 else b""), (200, b""))
        report = json.loads(text)
        self.successors[number] = report["pid"]
        harness._cleanup.callback(kill, report["pid"])
        return report["moved"]

    def reload(self, number, old, new):
        """Changes the configuration of a node, and reads it again."""
        file, node = self.directory / f"{self.name}{number}.toml", self.nodes[number]
        before, text = node.output().count("reloaded"), file.read_text()
        assert old in text, old
        file.write_text(text.replace(old, new))
        os.kill(node.pid, signal.SIGHUP)
        until(lambda: node.output().count("reloaded") > before, "the node has reloaded")

    def stop(self):
        for node in self.nodes:
            node.stop(signal_number=signal.SIGKILL)
        for pid in self.successors.values():
            kill(pid)

    async def open(self, number, path, subject=None):
        """Opens a session on a node. Returns it with its status; a session of another status than 101 is closed."""
        token = f"Authorization: Bearer {self.token(subject)}\r\n" if subject else ""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.nodes[number].port, ssl=self.context,
                                                       server_hostname="localhost")
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

    async def settled(self, number, path, subject=None):
        """As `open`, and again if an answer of the cluster's server was late: it is, where other programs need the processors."""
        for _ in range(20):
            session = await self.open(number, path, subject)
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
            self._tokens[subject] = self.secrets.token(subject)
        return self._tokens[subject]

    async def fill(self, path, subject, counts):
        """Opens sessions, `counts[n]` on node n. All of them are accepted."""
        opened = []
        for number, count in enumerate(counts):
            opened += [await self.settled(number, path, subject) for _ in range(count)]
        harness.equal({session.status for session in opened}, {101})
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
        harness.equal(head[0], 0x88)
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
