"""Tests that the nodes of a cluster share quotas over Redis: what passes in each second and in total, with one busy node and with
several, and through deaths, outages and losses of data.

TOLLGATE_CLUSTER=full runs each part for 60 s, and the outage for 30 s.
"""

import asyncio
import contextlib
import json
import os
import signal
import threading
import time

import websockets.asyncio.client
from websockets.exceptions import ConnectionClosed

import harness
from cluster_nodes import NODE_TIMEOUT, Node, Redis, at, until, wait_for_nodes
from fault_proxy import FaultProxy
from harness import Suite, equal

FULL = os.environ.get("TOLLGATE_CLUSTER") == "full"
SECONDS = 60 if FULL else 8
OUTAGE_SECONDS = 30 if FULL else 5
RATE, BURST = 100, 20
NODES = 3
SESSIONS = 2  # of the subject at each node
EXCESS = 1.2  # what shares without a lease may add

suite = Suite("cluster_quotas")
harness.many_files()
directory = harness.work_dir("cluster-quotas")
secrets = harness.Secrets(directory)


arrivals = {}  # the times of the messages of each subject, which is in the query


async def receive(connection):
    times = arrivals.setdefault(connection.request.path.split("=")[-1], [])
    with contextlib.suppress(ConnectionClosed):
        async for _ in connection:
            times.append(time.monotonic())


def passed(subject, begin, end):
    return sum(begin <= arrival < end for arrival in list(arrivals.get(subject, [])))


limits = {"message_rate": f'"{RATE}/s"', "message_burst": BURST, "rate_key": '"subject"', "on_excess": '"delay"'}
configuration = "".join([
    '[server]\nworkers = 1\n', harness.listener(secrets), harness.auth(secrets), harness.upstream("count", harness.serve(receive)),
    harness.route("count", "/count", "count", limits, auth='"users"', origins='["https://chat.example.test"]'),
    harness.route("strict", "/strict", "count", {**limits, "on_excess": '"close"'}, auth='"users"',
                  origins='["https://chat.example.test"]'),
])
redis = Redis(directory)
link = FaultProxy(redis.port)
nodes = [Node(f"node-{number}", configuration, directory, at(redis.port if number < 2 else link.port)) for number in range(NODES)]


async def connect(node, subject, path="/count"):
    return await websockets.asyncio.client.connect(
        node.proxy.url(f"{path}?who={subject}"), ssl=secrets.client_context(), origin="https://chat.example.test", ping_interval=None,
        additional_headers={"Authorization": f"Bearer {tokens[subject]}"})


async def send(connection, pause=0.0):
    """Sends as fast as the proxy reads, until the connection ends."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await connection.send("x" * 2000)
            await asyncio.sleep(pause)


class Hammer:
    """Sessions of one subject at some nodes that send as fast as they can, in a thread of their own."""

    def __init__(self, subject, at):
        self.subject, self.at, self.is_ready = subject, at, threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run()), daemon=True)
        self.thread.start()
        self.is_ready.wait(20)
        self.begun = time.monotonic()

    async def run(self):
        connections = [await connect(node, self.subject) for node in self.at for _ in range(SESSIONS)]
        self.loop, self.ended = asyncio.get_running_loop(), asyncio.Event()
        sending = [asyncio.create_task(send(connection)) for connection in connections]
        self.is_ready.set()
        await self.ended.wait()
        for connection in connections:
            connection.transport.abort()
        await asyncio.wait(sending)

    def stop(self):
        self.loop.call_soon_threadsafe(self.ended.set)
        self.thread.join(20)


def windows(subject, begin, end):
    """Returns what passed in each whole second."""
    return [passed(subject, begin + second, begin + second + 1) for second in range(int(end - begin))]


def judge(name, subject, begin, end, least, most=EXCESS, burst=BURST):
    """Checks what passed of a subject between two times against the quota, and notes it."""
    seconds = end - begin
    total, each = passed(subject, begin, end), windows(subject, begin, end)
    suite.note(f"{name}: {total / seconds / RATE:.3f} of the quota in {seconds:.0f} s; per second {min(each)} to {max(each)}")
    assert total <= most * RATE * seconds + burst * most + NODES, f"{total} in {seconds:.1f} s"
    assert total >= least * RATE * seconds, f"{total} in {seconds:.1f} s"
    assert max(each) <= most * (RATE + burst) + NODES, each


def commands():
    """Returns how many commands of any kind Redis has executed, without those of this suite."""
    return sum(redis.calls().values())


SUBJECTS = "one", "all", "idle", "strict", "patient", "moves", "dies", "away", "lost", "cut"
tokens = {subject: secrets.token(subject) for subject in SUBJECTS}
wait_for_nodes(nodes)

with suite.check("sessions within the share that needs no lease cost no command"):
    async def trickle():
        connections = [await connect(node, "idle") for node in nodes]
        before = commands()
        sending = [asyncio.create_task(send(connection, pause=0.25)) for connection in connections]
        await asyncio.sleep(SECONDS)
        # The heartbeats of each node, of which each is a script of at most 12 commands.
        beats = NODES * (SECONDS / (NODE_TIMEOUT / 3) + 2)
        spent = commands() - before
        suite.note(f"{len(connections)} sessions with 4 messages/s: {spent} commands in {SECONDS} s, heartbeats only")
        assert spent <= beats * (12 + 2 * NODES), spent
        for connection in connections:
            await connection.close()
        await asyncio.wait(sending)

    asyncio.run(trickle())

with suite.check("one busy node alone passes at least 80 % of the quota"):
    hammer = Hammer("one", nodes[:1])
    time.sleep(SECONDS + 2)
    judge("one busy node", "one", hammer.begun + 2, hammer.begun + 2 + SECONDS, 0.8)
    hammer.stop()

with suite.check("three busy nodes together pass the quota, and at most 20 % more"):
    hammer = Hammer("all", nodes)
    time.sleep(SECONDS + 2)
    judge("three busy nodes, with their start", "all", hammer.begun, hammer.begun + 2 + SECONDS, 0.8)
    judge("three busy nodes", "all", hammer.begun + 2, hammer.begun + 2 + SECONDS, 0.8)
    hammer.stop()

with suite.check("demand that moves from node to node takes its share with it"):
    begun = time.monotonic()
    for turn in range(4):
        hammer = Hammer("moves", [nodes[turn % NODES]])
        time.sleep(SECONDS / 4)
        hammer.stop()
    judge("demand that moves", "moves", begun, time.monotonic(), 0.4, burst=2 * BURST)

with suite.check("a client within the quota is not closed while its lease is on the way, and one beyond it is closed"):
    async def strict():
        connection = await connect(nodes[0], "strict", "/strict")
        # A burst at once, which is more than the share that needs no lease.
        for _ in range(BURST):
            await connection.send("x")
        await asyncio.sleep(1)
        assert connection.close_code is None, connection.close_code
        with contextlib.suppress(ConnectionClosed):
            for _ in range(3 * RATE):
                await connection.send("x")
                await asyncio.sleep(0)
            async with asyncio.timeout(10):
                await connection.recv()

    asyncio.run(strict())
    # A client that still sends may lose the Close to a reset, so the log tells.
    ends = []

    def ended():
        ends[:] = [line for line in nodes[0].proxy.output().splitlines() if '"session ended"' in line and '"strict"' in line]
        return ends

    until(ended, "the end of the session in the log")
    end = json.loads(ends[-1])
    equal((end["code"], end["cause"]), (1008, "message_rate"))

with suite.check("an outage of Redis: each node enforces its part, and nothing is closed"):
    hammer = Hammer("away", nodes)
    time.sleep(2)
    redis.send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    time.sleep(OUTAGE_SECONDS)
    end = time.monotonic()
    redis.send_signal(signal.SIGCONT)
    judge("outage", "away", begin, end, 0.7, most=1.0 + EXCESS - 1.0)
    until(lambda: all(node.answers() for node in nodes), "the server answers")
    begin = time.monotonic()
    time.sleep(SECONDS / 2)
    judge("after the outage", "away", begin, time.monotonic(), 0.5, burst=2 * BURST)
    hammer.stop()

with suite.check("an outage of Redis closes no session that is within its quota, whatever on_excess says"):
    async def patient():
        connection = await connect(nodes[0], "patient", "/strict")
        redis.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        try:
            # A burst at once, and then four fifths of the rate.
            for _ in range(BURST):
                await connection.send("x")
            for _ in range(int(0.8 * RATE * OUTAGE_SECONDS / 2)):
                await connection.send("x")
                await asyncio.sleep(1 / (0.8 * RATE))
            await asyncio.sleep(max(0, begun + OUTAGE_SECONDS - time.monotonic()))
        finally:
            redis.send_signal(signal.SIGCONT)
        assert connection.close_code is None, connection.close_code
        await connection.close()

    asyncio.run(patient())
    wait_for_nodes(nodes)

with suite.check("a loss of all data: leases may exist twice for as long as one is valid"):
    hammer = Hammer("lost", nodes)
    time.sleep(2)
    redis.call("FLUSHALL")
    begin = time.monotonic()
    time.sleep(SECONDS)
    judge("loss of data", "lost", begin, time.monotonic(), 0.7, most=EXCESS + 1.0 * 2 / SECONDS, burst=3 * BURST)
    hammer.stop()
    wait_for_nodes(nodes)

with suite.check("a node that is cut off enforces its part, and the others share the rest"):
    hammer = Hammer("cut", nodes)
    time.sleep(2)
    link.cut()
    begin = time.monotonic()
    time.sleep(SECONDS)
    judge("one node of three cut off", "cut", begin, time.monotonic(), 0.7, most=EXCESS + 1 / NODES, burst=2 * BURST)
    link.restore()
    until(lambda: nodes[2].answers(), "the server answers")
    hammer.stop()
    wait_for_nodes(nodes)

with suite.check("a node that is killed: the others take over its share"):
    hammer = Hammer("dies", nodes)
    time.sleep(2)
    nodes[2].kill()
    begin = time.monotonic()
    time.sleep(SECONDS)
    judge("one node of three killed", "dies", begin, time.monotonic(), 0.8, burst=2 * BURST)
    hammer.stop()

suite.finish()
