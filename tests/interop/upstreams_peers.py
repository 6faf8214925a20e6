"""The clients of the suite upstreams.py, and one of its servers: each is a process of its own.

    upstreams_peers.py server PORT NAME   an echo server made of `websockets`, which names itself in its 101
    upstreams_peers.py clients CA         users that are driven by JSON lines: see `Clients`
"""

import asyncio
import contextlib
import dataclasses
import json
import random
import ssl
import sys
import time

import websockets
import websockets.asyncio.client
import websockets.asyncio.server
from reload_peers import NO_EXTRAS, PATIENCE_SECONDS, echo, exchange, serve_lines

OPENING = 32  # concurrent opening handshakes of one process of clients
RETRY_SECONDS = 0.5  # the pause of a user whose upgrade failed


@dataclasses.dataclass
class Life:
    """One connection of a user. All times are those of the system's monotonic clock, which all processes share."""

    user: str
    server: str
    opened_at: float
    end: str | None = None  # close code and reason, once it has ended
    end_time: float | None = None
    wrong: str | None = None  # a message that was lost, doubled, reordered or changed
    sent: int = 0
    received: int = 0


# --------------------------------------------------------------------------------------------------------- the connections
# Each returns every message that it sends, in order, and has the name of its server.


class Echo:
    """A connection to a server that echoes messages, and names itself in its 101."""

    def __init__(self, connection):
        self.connection = connection

    @classmethod
    async def open(cls, url, context):
        connection = await websockets.asyncio.client.connect(url, ssl=context, proxy=None, **NO_EXTRAS)
        link = cls(connection)
        await link.begin()
        return link

    async def begin(self):
        self.server = self.connection.response.headers["X-Server"]

    async def send(self, message):
        await self.connection.send(message)

    async def recv(self):
        return await self.connection.recv()

    async def close(self):
        await self.connection.close()

    async def closed(self):
        """Waits for the end, and returns its code and reason."""
        await self.connection.wait_closed()
        return f"{self.connection.close_code} {self.connection.close_reason}".strip()


class Nats(Echo):
    """A connection to a nats-server: what it publishes is delivered to its own subscription. The lines of the protocol are
    split over WebSocket messages in any way."""

    async def begin(self):
        self.buffer = b""
        verb, _, info = (await self.line()).partition(" ")
        if verb != "INFO":
            raise websockets.InvalidMessage(f"{verb} instead of INFO")
        info = json.loads(info)
        self.server, self.subject = info["server_name"], f"numbered.{info['client_id']}"
        await self.write('CONNECT {"verbose":false,"pedantic":true,"lang":"tollgate","version":"0"}', f"SUB {self.subject} 1", "PING")
        if (line := await self.line()) != "PONG":
            raise websockets.InvalidMessage(f"{line} instead of PONG")

    async def write(self, *lines):
        await self.connection.send("".join(f"{line}\r\n" for line in lines).encode())

    async def fill(self):
        message = await self.connection.recv()
        self.buffer += message.encode() if isinstance(message, str) else message

    async def line(self):
        while b"\r\n" not in self.buffer:
            await self.fill()
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line.decode()

    async def send(self, message):
        await self.write(f"PUB {self.subject} {len(message)}", message)

    async def recv(self):
        while (line := await self.line()) == "PING":
            await self.write("PONG")
        if not line.startswith(f"MSG {self.subject} 1 "):
            return line
        size = int(line.split(" ")[-1])
        while len(self.buffer) < size + 2:
            await self.fill()
        message, self.buffer = self.buffer[:size].decode(), self.buffer[size + 2:]
        return message


LINKS = {"echo": Echo, "nats": Nats}
FAILURES = (OSError, TimeoutError, websockets.WebSocketException, EOFError)


def failure(error):
    """Returns the status of an upgrade that failed, or the name of the error."""
    return str(error.response.status_code) if isinstance(error, websockets.InvalidStatus) else type(error).__name__


async def visit(kind, url, context):
    """Opens a session, exchanges a message and closes. Returns the server, the failure, and when and how long."""
    begun = time.monotonic()
    server = why = None
    try:
        link = await LINKS[kind].open(url, context)
        server = link.server
        await link.send("new")
        why = None if await asyncio.wait_for(link.recv(), PATIENCE_SECONDS) == "new" else "another message"
        seconds = time.monotonic() - begun
        await link.close()
    except FAILURES as error:
        seconds, why = time.monotonic() - begun, failure(error)
    return {"begun": begun, "seconds": seconds, "server": server, "failure": why}


# ------------------------------------------------------------------------------------------------- in the other processes


class User:
    """A client that sends numbered messages, checks that each is returned once and in order, and reconnects after a random
    part of `reconnect` seconds whenever its session ends."""

    def __init__(self, name, clients, kind, url, pause, reconnect):
        self.name, self.clients, self.kind, self.url = name, clients, kind, url
        self.pause, self.reconnect = pause, reconnect
        self.lives, self.failures = [], []
        self.talks, self.stopping = asyncio.Event(), asyncio.Event()

    async def run(self):
        while not self.stopping.is_set():
            try:
                async with self.clients.opening:
                    link = await LINKS[self.kind].open(self.url, self.clients.context)
            except FAILURES as error:
                self.failures.append([time.monotonic(), failure(error)])
                await self.wait(RETRY_SECONDS)
                continue
            life = Life(self.name, link.server, time.monotonic())
            self.lives.append(life)
            await self.live(life, link)
            await self.wait(random.random() * self.reconnect)

    async def live(self, life, link):
        closed = asyncio.create_task(link.closed())

        def note_end(_):  # `talk` may notice it only after its pause
            life.end_time = time.monotonic()

        closed.add_done_callback(note_end)
        with contextlib.suppress(websockets.ConnectionClosed):
            await self.talk(life, link, closed)
            await link.close()
        life.end = await closed

    async def talk(self, life, link, closed):
        name = f"{self.name}/{len(self.lives)}"
        while not self.stopping.is_set() and not closed.done():
            if not await exchange(link, name, life):
                return
            self.talks.set()
            with contextlib.suppress(TimeoutError):
                stopping = asyncio.create_task(self.stopping.wait())
                await asyncio.wait([stopping, closed], timeout=self.pause * (0.5 + random.random()),
                                   return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()

    async def wait(self, seconds):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)


class Clients:
    """The users of one process. Each command is answered with one line."""

    def __init__(self, ca):
        self.context = ssl.create_default_context(cafile=ca)
        self.opening = asyncio.Semaphore(OPENING)
        self.users = {}  # with their tasks

    async def command(self, name, **arguments):
        return await getattr(self, f"do_{name}")(**arguments)

    async def do_open(self, group, count, **options):
        """Starts users, and waits until each has received a message. Returns the number of those that have not in time."""
        new = [User(f"{group}/{number}", self, **options) for number in range(count)]
        self.users.update((user, asyncio.create_task(user.run())) for user in new)
        waits = [asyncio.create_task(user.talks.wait()) for user in new]
        _, pending = await asyncio.wait(waits, timeout=PATIENCE_SECONDS)
        for task in pending:
            task.cancel()
        return len(pending)

    async def do_report(self):
        return {"lives": [dataclasses.asdict(life) for user in self.users for life in user.lives],
                "failures": [failure for user in self.users for failure in user.failures]}

    async def do_stop(self):
        """Lets each user close its session with 1000 after its last message. Returns the number of those that do not end."""
        for user in self.users:
            user.stopping.set()
        _, pending = await asyncio.wait(self.users.values(), timeout=PATIENCE_SECONDS)
        for task in pending:
            task.cancel()
        return len(pending)


async def serve(port, name):
    def sign(_connection, _request, response):
        response.headers["X-Server"] = name

    async with websockets.asyncio.server.serve(echo, "127.0.0.1", int(port), process_response=sign, **NO_EXTRAS) as server:
        await server.serve_forever()


async def main(kind, *arguments):
    if kind == "server":
        await serve(*arguments)
        return
    clients = Clients(*arguments)
    await serve_lines(lambda command: clients.command(**command))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
