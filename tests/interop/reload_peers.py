"""The clients and the upstream of the suite reload.py: each is a process of its own, since one process is too slow for all.

    reload_peers.py echo                  an upstream that echoes; prints its port
    reload_peers.py clients CA PAUSE      clients that are driven by JSON lines: see `Clients`

Both end when their input ends.
"""

import asyncio
import collections
import contextlib
import dataclasses
import json
import random
import ssl
import statistics
import subprocess
import sys
import time

import harness
import websockets
import websockets.asyncio.client
import websockets.asyncio.server

AT_ONCE = 2  # messages that a session sends before it waits for their echoes
OPENING = 16  # concurrent opening handshakes of one process of clients
PATIENCE_SECONDS = 40
NO_EXTRAS = {"compression": None, "ping_interval": None, "open_timeout": PATIENCE_SECONDS, "close_timeout": 10}


@dataclasses.dataclass
class Result:
    """The state of one session."""

    group: str
    end: str | None = None  # close code and reason, once it has ended
    end_time: float | None = None  # by the system's monotonic clock, which all processes share
    failure: str | None = None  # of its opening handshake
    wrong: str | None = None  # a message that was lost, doubled, reordered or changed
    sent: int = 0
    received: int = 0
    gap: float = 0.0  # the longest time between two steps of echoes, less the planned pause


# ------------------------------------------------------------------------------------------------- in the other processes


async def exchange(connection, name, result):
    """Sends numbered messages, and returns whether each is returned once and in order."""
    for _ in range(AT_ONCE):
        await connection.send(f"{name} {result.sent}")
        result.sent += 1
    for _ in range(AT_ONCE):
        message = await connection.recv()
        if message != f"{name} {result.received}":
            result.wrong = f"{message!r} instead of '{name} {result.received}'"
            return False
        result.received += 1
    return True


class Session:
    """A client that sends numbered messages, and checks that each is echoed once and in order."""

    def __init__(self, group, name):
        self.result, self.name = Result(group), name
        self.opened, self.stopping = asyncio.Event(), asyncio.Event()
        self.last = None

    async def run(self, opening, pause, **options):
        try:
            async with opening:
                connection = await websockets.asyncio.client.connect(proxy=None, **NO_EXTRAS, **options)
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            self.result.failure = f"{type(error).__name__}: {error}"
            return
        closed = asyncio.create_task(connection.wait_closed())
        closed.add_done_callback(self.note_end)  # `talk` may notice it only after its pause
        try:
            await self.talk(connection, pause)
            await connection.close()
        except websockets.ConnectionClosed:
            pass
        await closed
        self.result.end = f"{connection.close_code} {connection.close_reason}".strip()

    def note_end(self, _):
        self.result.end_time = time.monotonic()

    async def talk(self, connection, pause):
        result = self.result
        while not self.stopping.is_set():
            if not await exchange(connection, self.name, result):
                return
            now = time.monotonic()
            if self.last is None:
                self.opened.set()
                pause_now = random.random() * pause  # so that the sessions do not send at the same time
            else:
                result.gap = max(result.gap, now - self.last - pause_now)
                pause_now = pause
            self.last = now
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), pause_now)


class Clients:
    """The sessions of one process. Each command is answered with one line."""

    def __init__(self, ca, pause):
        self.context = ssl.create_default_context(cafile=ca)
        self.pause, self.opening = float(pause), asyncio.Semaphore(OPENING)
        self.sessions = {}  # with their tasks, in the order of their opening

    async def command(self, name, **arguments):
        return await getattr(self, f"do_{name}")(**arguments)

    async def do_open(self, group, urls, count, token):
        """Opens sessions, and waits for the first echo of each. Returns the failures."""
        headers = {"Authorization": f"Bearer {token}"} if token else None
        new = {}
        for number in range(count):
            session = Session(group, f"{group}/{len(self.sessions)}")
            steps = session.run(self.opening, self.pause, uri=urls[number % len(urls)], ssl=self.context,
                                additional_headers=headers)
            self.sessions[session] = new[session] = asyncio.create_task(steps)
        opened = [asyncio.create_task(session.opened.wait()) for session in new]
        for task, event in zip(new.values(), opened):
            await asyncio.wait([task, event], timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            event.cancel()
        return [s.result.failure or s.result.end or "no echo" for s in new if not s.opened.is_set()]

    async def do_close(self, count):
        """Closes the oldest open sessions with 1000, after their last echo. Returns the number of those that do not end."""
        chosen = [session for session, task in self.sessions.items() if not task.done()][:count]
        for session in chosen:
            session.stopping.set()
        tasks = [self.sessions[session] for session in chosen]
        if not tasks:
            return 0
        _, pending = await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)
        for task in pending:
            task.cancel()
        return len(pending)

    async def do_report(self):
        results = [dataclasses.asdict(session.result) for session in self.sessions]
        for session in self.sessions:
            session.result.gap = 0.0
        return results


async def serve_lines(answer):
    """Answers each line of the input until it ends."""
    reader = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print(json.dumps(await answer(json.loads(line))), flush=True)


async def echo(connection):
    try:
        async for message in connection:
            await connection.send(message)
    except websockets.ConnectionClosed:
        pass


async def main(kind, *arguments):
    if kind == "clients":
        clients = Clients(*arguments)
        await serve_lines(lambda command: clients.command(**command))
        return
    async with websockets.asyncio.server.serve(echo, "127.0.0.1", 0, **NO_EXTRAS) as server:
        print(json.dumps(server.sockets[0].getsockname()[1]), flush=True)
        await serve_lines(echo)


# ------------------------------------------------------------------------------------------------------------ in the suite


class Peer(harness.Process):
    """A process of this program, or of another one that answers lines as `serve_lines` does."""

    def __init__(self, name, directory, *arguments, program=__file__):
        super().__init__(name, [sys.executable, program, *arguments], directory, stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True)
        self.lines = harness.Lines(self.popen.stdout)

    def tell(self, **command):
        self.popen.stdin.write(json.dumps(command) + "\n")
        self.popen.stdin.flush()

    def answer(self):
        line = self.lines.next(PATIENCE_SECONDS * 3)
        if line is None:
            raise RuntimeError(f"{self.name} has ended:\n{self.output()[-2000:]}")
        return json.loads(line)


class Upstream(Peer):
    def __init__(self, directory):
        super().__init__("upstream", directory, "echo")
        self.port = self.answer()


class Crowd:
    """Sessions in several processes."""

    def __init__(self, name, directory, ca, pause, processes=2):
        self.peers = [Peer(f"{name}-clients-{n}", directory, "clients", ca, str(pause)) for n in range(processes)]

    def start_opening(self, group, urls, count, token=None):
        for number, peer in enumerate(self.peers):
            share = (count + number) // len(self.peers)
            # Each process starts with another URL, so that a few sessions do not all get the same one.
            first = number % len(urls)
            peer.tell(name="open", group=group, urls=urls[first:] + urls[:first], count=share, token=token)

    def finish_opening(self):
        """Waits for the sessions of `start_opening`, and returns the failures."""
        return [failure for peer in self.peers for failure in peer.answer()]

    def open(self, *arguments, **options):
        self.start_opening(*arguments, **options)
        harness.equal(self.finish_opening(), [])

    def close(self, count):
        """Closes the oldest sessions of each process, and returns the number of those that did not end."""
        for number, peer in enumerate(self.peers):
            peer.tell(name="close", count=(count + number) // len(self.peers))
        return sum(peer.answer() for peer in self.peers)

    def report(self):
        """Returns the sessions that were opened. Their gaps count from the last report."""
        for peer in self.peers:
            peer.tell(name="report")
        return Report([Result(**fields) for peer in self.peers for fields in peer.answer()])

    def stop(self):
        """Closes all sessions, and returns the last report."""
        stuck = self.close(10**6)
        report = self.report()
        report.stuck = stuck
        for peer in self.peers:
            peer.popen.stdin.close()
            peer.wait(PATIENCE_SECONDS)
        return report


class Report:
    """The results of all sessions of a crowd whose opening handshake succeeded."""

    def __init__(self, results):
        self.failures = [result.failure for result in results if result.failure]
        self.results = [result for result in results if not result.failure]
        self.stuck = 0

    def open(self, group=None):
        return [result for result in self.results if result.end is None and group in (None, result.group)]

    def ended(self, group=None):
        return [result for result in self.results if result.end is not None and group in (None, result.group)]

    def ends(self, group=None):
        return dict(collections.Counter(result.end for result in self.ended(group)))

    def wrong(self):
        return [result.wrong for result in self.results if result.wrong]

    def sent(self):
        return sum(result.sent for result in self.results)

    def lost(self):
        return sum(result.sent - result.received for result in self.results)

    def gaps(self):
        """Returns the median over the sessions of their longest gap, and the longest gap of all, in milliseconds."""
        gaps = [1000 * result.gap for result in self.open()]
        return f"{statistics.median(gaps):.0f} ms median, {max(gaps):.0f} ms maximum"


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
