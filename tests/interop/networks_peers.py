"""The backend, the clients and the setting of the suite networks.py. All run in one event loop, Tollgate and the fault proxy
beside it."""

import asyncio
import contextlib
import itertools
import json
import pathlib
import random
import socket
import statistics
import time

import harness
import websockets
import websockets.asyncio.client
import websockets.asyncio.server
from fault_proxy import FaultProxy, small

PATIENCE_SECONDS = 60
POLL_SECONDS = 0.02
MESSAGE_BYTES = 100
# What each client gets beside its heartbeat. The backend has none, so that Tollgate's are seen alone.
PLAIN = {"compression": None, "proxy": None, "open_timeout": PATIENCE_SECONDS, "max_queue": 1024}


async def until(condition, what, seconds=PATIENCE_SECONDS):
    """Waits for a condition, and returns its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s: {what}")
        await asyncio.sleep(POLL_SECONDS)
    return value


def numbered(number, size=MESSAGE_BYTES):
    return f"{number} ".ljust(size, ".")


def number_of(message):
    return int(message.split(" ", 1)[0])


def quantiles(seconds):
    """Returns the median and the 99th percentile, in milliseconds."""
    ordered = sorted(seconds)
    return 1000 * statistics.median(ordered), 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


class Served:
    """A session as the backend sees it."""

    def __init__(self, connection):
        self.connection = connection
        self.fed = []  # when each message of a feed was taken by the connection
        self.end = self.ended_at = None

    @property
    def closed_at(self):
        """When the Close arrived."""
        return self.connection.closed_at

    def code(self):
        """Returns the code and reason of the Close, or 1006."""
        got = self.connection.protocol.close_rcvd
        return f"{got.code} {got.reason}".strip() if got else "1006"


class Connection(websockets.asyncio.server.ServerConnection):
    """Notes when a Close arrives, which the library itself reports only at the end of the connection."""

    closed_at = None

    def data_received(self, data):
        super().data_received(data)
        if self.closed_at is None and self.protocol.close_rcvd:
            self.closed_at = time.monotonic()


class Backend:
    """An echo server. After `feed COUNT SIZE PAUSE` it sends numbered messages, without a pause as fast as they are taken."""

    def __init__(self):
        self.sessions = {}  # by path

    async def start(self):
        options = {"compression": None, "ping_interval": None, "max_queue": 1024, "create_connection": Connection}
        listener = small(socket.socket())  # on loopback, the kernel would take megabytes from the backend at once
        listener.bind(("127.0.0.1", 0))
        await websockets.asyncio.server.serve(self.serve, sock=listener, **options)
        return listener.getsockname()[1]

    async def serve(self, connection):
        served = self.sessions[connection.request.path] = Served(connection)
        try:
            async for message in connection:
                if message.startswith("feed "):
                    count, size, pause = message.split()[1:]
                    await self.feed(served, int(count), int(size), float(pause))
                else:
                    await connection.send(message)
        except (websockets.ConnectionClosed, AttributeError):  # the library fails so if a connection is lost while it sends
            pass
        finally:
            await connection.wait_closed()
            served.ended_at, served.end = time.monotonic(), served.code()

    async def feed(self, served, count, size, pause):
        begun = time.monotonic()
        for number in range(count):
            await served.connection.send(numbered(number, size))
            served.fed.append(time.monotonic())
            if pause:
                await asyncio.sleep(begun + (number + 1) * pause - time.monotonic())

    def kill(self, prefix):
        """Resets the connections of some paths, as the end of a process does."""
        lost = [served for path, served in self.sessions.items() if path.startswith(prefix) and served.end is None]
        for served in lost:
            served.connection.transport.abort()
        return len(lost)


class Setting:
    """Tollgate with a backend behind it and a fault proxy in front of it."""

    def __init__(self, secrets, directory, routes, sections="", handshake_seconds=10):
        """`routes` has the limits of each route, whose path begins with its name; `sections` the keys of the upstream."""
        self.loop, self.secrets, self.context = asyncio.new_event_loop(), secrets, secrets.client_context()
        self.backend, self.cases = Backend(), itertools.count()
        self.tokens = {}
        port = self.run(self.backend.start())
        parts = ['[server]\nworkers = 2\nhandshakes_per_address = "off"\n', harness.listener(secrets, handshake_timeout=f'"{handshake_seconds}s"'),
                 harness.auth(secrets), harness.upstream("chat", port), "max_pending_requests = 1000\n", sections]
        for name, limits in routes.items():
            keys = {"auth": '"users"', "origins": '["https://localhost"]'} if "sessions_per_subject" in limits else {}
            parts.append(harness.route(name, f"/{name}/{{case}}", "chat", limits, **keys))
        self.proxy = harness.Proxy("".join(parts), directory)
        self.faults = FaultProxy(self.proxy.port)
        self._lines, self._read = {}, 0

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    async def open(self, route, subject=None, heartbeat=(None, None), **options):
        """Opens a session through the fault proxy."""
        path = f"/{route}/{next(self.cases)}"
        if subject:
            token = self.tokens[subject] = self.tokens.get(subject) or self.secrets.token(subject)
            options["additional_headers"] = {"Authorization": f"Bearer {token}"}
        interval, timeout = heartbeat
        options = {**PLAIN, "ssl": self.context, "ping_interval": interval, "ping_timeout": timeout, **options}
        begun = time.monotonic()
        connection = await websockets.asyncio.client.connect(
            f"wss://localhost:{self.faults.port}{path}", host="127.0.0.1", port=self.faults.port, **options)
        served = await until(lambda: self.backend.sessions.get(path), f"{path} is served")
        return Session(self, path, connection, served, time.monotonic() - begun)

    async def open_many(self, count, route, **options):
        return await asyncio.gather(*(self.open(route, **options) for _ in range(count)))

    async def log_line(self, path):
        """Returns Tollgate's line about the end of a session."""

        def find():
            with open(self.proxy.log, "rb") as log:
                log.seek(self._read)
                for line in log:
                    if not line.endswith(b"\n"):
                        break
                    self._read += len(line)
                    facts = json.loads(line) if line.startswith(b"{") else {}
                    if facts.get("message") == "session ended":
                        self._lines[facts["path"]] = facts
            return self._lines.get(path)

        return await until(find, f"the line of {path}")


class Session:
    """A session of a client. A task of its own reads it, as in an application."""

    def __init__(self, setting, path, connection, served, seconds):
        self.setting, self.path, self.connection, self.served, self.opened_in = setting, path, connection, served, seconds
        self.link = setting.faults.link(connection.local_address[1])
        self.numbers, self.times, self.bytes, self.sent_at = [], [], 0, []
        self.end = self.ended_at = None
        self.reading = asyncio.create_task(self._read())

    async def _read(self):
        try:
            async for message in self.connection:
                self.numbers.append(number_of(message))
                self.times.append(time.monotonic())
                self.bytes += len(message)
        except websockets.ConnectionClosed:
            pass
        self.ended_at = time.monotonic()
        await self.connection.wait_closed()
        self.end = f"{self.connection.close_code} {self.connection.close_reason}".strip()

    async def feed(self, count, size, pause=0.0):
        """Lets the backend send messages."""
        await self.connection.send(f"feed {count} {size} {pause}")

    def waiting(self):
        """Returns the bytes in the kernel's queues of Tollgate's two connections, by /proc/net/tcp."""
        client = self.setting.proxy.port, self.link.target.getsockname()[1]
        server = self.served.connection.remote_address[1], self.served.connection.local_address[1]
        queues = kernel_queues()
        return {"to the client": queues[client][0], "from the server": queues[server][1] + queues[server[::-1]][0]}

    async def talk(self, count, pause=0.0, size=MESSAGE_BYTES):
        """Sends numbered messages, and waits until all have returned. Returns the seconds of each."""
        first = len(self.sent_at)
        for number in range(first, first + count):
            self.sent_at.append(time.monotonic())
            await self.connection.send(numbered(number, size))
            await asyncio.sleep(pause * (0.5 + random.random()))
        await until(lambda: len(self.numbers) >= len(self.sent_at) or self.end, f"echoes of {self.path}")
        harness.equal((self.end, self.numbers), (None, list(range(len(self.sent_at)))))
        return [back - sent for sent, back in zip(self.sent_at[first:], self.times[first:], strict=True)]

    async def close(self):
        await self.connection.close()
        await self.reading

    async def served_end(self):
        """Waits until the backend has seen the end, and returns its code and reason."""
        return await until(lambda: self.served.end, f"the backend sees the end of {self.path}")


def kernel_queues():
    """Returns the unsent or unacknowledged, and the unread bytes of each connection, by its two ports."""
    queues = {}
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, remote, _, both = line.split()[1:5]
        queues[tuple(int(address.split(":")[1], 16) for address in (local, remote))] = [int(queue, 16) for queue in both.split(":")]
    return queues


class Returning:
    """A client that connects again whenever its session ends, after a time that its `wait` returns for the number of failed
    attempts."""

    def __init__(self, setting, route, wait):
        self.setting, self.route, self.wait = setting, route, wait
        self.opened, self.ended, self.opened_in, self.failures = [], [], [], []
        self.task = asyncio.create_task(self._run())

    async def _run(self):
        failed = 0
        while True:
            try:
                session = await self.setting.open(self.route)
            except (OSError, TimeoutError, EOFError, websockets.WebSocketException) as error:
                failed += 1
                self.failures.append(type(error).__name__)
                await asyncio.sleep(self.wait(failed))
                continue
            failed = 0
            self.opened.append(time.monotonic())
            self.opened_in.append(session.opened_in)
            await session.reading
            self.ended.append((session.ended_at, session.end))
            await asyncio.sleep(self.wait(0))

    def stop(self):
        self.task.cancel()


async def mass_return(setting, count, lose, wait):
    """All clients lose their sessions, and return. Returns the time of the loss, the ends, when the clients were back, and the
    seconds that their upgrades took."""
    clients = [Returning(setting, "plain", wait) for _ in range(count)]
    try:
        await until(lambda: all(client.opened for client in clients), "all are open")
        begun = time.monotonic()
        harness.equal(lose(), count)
        await until(lambda: all(len(client.opened) == 2 for client in clients), "all have returned")
        harness.equal([failure for client in clients for failure in client.failures], [])
        ends = [client.ended[0] for client in clients]
        return begun, ends, [client.opened[1] for client in clients], [client.opened_in[1] for client in clients]
    finally:
        for client in clients:
            client.stop()
        setting.faults.reset()
        await until(lambda: all(served.end for served in setting.backend.sessions.values()), "all have ended")


def spread(times, begun, width):
    """Returns how many of the times are in each step of `width` seconds."""
    steps = [int((at - begun) / width) for at in times]
    return [steps.count(step) for step in range(max(steps) + 1)]


def ladder(first, cap):
    """Returns the waits of exponential back-off with full jitter: a random part of a time that doubles with each failure."""
    return lambda failed: random.random() * min(cap, first * 2**failed)


def at_once(failed):
    return 0.0 if failed == 0 else 0.2
