"""Tests that the nodes of a cluster share quotas over Redis: what passes in each second and in total, with one busy node and with
several, and through deaths, outages and losses of data.

TOLLGATE_CLUSTER=full runs each part for 60 s, and the outage for 30 s, and adds a part with six nodes.
"""

import asyncio
import contextlib
import http.client
import itertools
import json
import os
import signal
import threading
import time

import websockets.asyncio.client
import websockets.exceptions
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


SUBJECTS = "one", "all", "six", "idle", "strict", "uneven", "patient", "moves", "dies", "away", "lost", "cut", "reader", "late"
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

if FULL:
    with suite.check("six busy nodes together pass the quota, and at most 20 % more"):
        six = [Node(f"six-{number}", configuration, directory, at(redis.port) + 'prefix = "six:"\n') for number in range(6)]
        wait_for_nodes(six)
        hammer = Hammer("six", six)
        time.sleep(SECONDS + 2)
        # One message of each node beside the burst, three of which `judge` allows.
        judge("six busy nodes, with their start", "six", hammer.begun, hammer.begun + 2 + SECONDS, 0.8, burst=BURST + NODES)
        judge("six busy nodes", "six", hammer.begun + 2, hammer.begun + 2 + SECONDS, 0.8, burst=BURST + NODES)
        hammer.stop()
        for node in six:
            node.stop()

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

with suite.check("clients that use the quota unevenly over the nodes, and stay within it, are not closed"):
    PARTS = 55, 15, 15  # messages per second at each node

    async def uneven(node, rate):
        """Sends at this rate. Returns how the session has ended, if it has."""
        connection = await connect(node, "uneven", "/strict")
        begun = time.monotonic()
        with contextlib.suppress(ConnectionClosed):
            for number in range(rate * SECONDS):
                await asyncio.sleep(begun + number / rate - time.monotonic())
                await connection.send("x")
            await asyncio.sleep(1)
            assert connection.close_code is None, connection.close_code
            await connection.close()
        return connection.close_code

    async def all_parts():
        return await asyncio.gather(*(uneven(node, rate) for node, rate in zip(nodes, PARTS)))

    begun = time.monotonic()
    equal(asyncio.run(all_parts()), [1000] * NODES)
    equal(passed("uneven", begun, time.monotonic()), sum(PARTS) * SECONDS)

UPGRADES = 30  # of an address: the burst. One more a minute is less than a check notices
PART = UPGRADES // NODES  # of a node, while the server is away
# The longest wait of the program for a share, and the time that a machine with other work for its processors may add.
WAIT, SLACK = 0.5, 4


def answer(connection, request):
    """Answers an ordinary request."""
    return None if "Upgrade" in request.headers else connection.respond(200, "page")


class Newcomers:
    """Nodes with quotas of upgrades by address and of ordinary requests by subject, and their clients."""

    def __init__(self):
        configuration = "".join([
            f'[server]\nworkers = 1\nupgrade_rate = "1/m"\nupgrade_burst = {UPGRADES}\n', harness.listener(secrets), harness.auth(secrets),
            harness.upstream("count", harness.serve(receive, process_request=answer)),
            harness.route("plain", "/plain", "count"),
            harness.route("page", "/page", "count", {"request_rate": f'"{UPGRADES}/m"'}, auth='"users"', http="true",
                          origins='["https://chat.example.test"]')])
        self.link = FaultProxy(redis.port)
        cluster = at(self.link.port) + 'prefix = "newcomers:"\n'
        self.nodes = [Node(f"newcomers-{number}", configuration, directory, cluster) for number in range(NODES)]
        self.addresses = (f"127.0.{part // 200 + 1}.{part % 200 + 1}" for part in itertools.count())
        wait_for_nodes(self.nodes)

    def connect(self, address, number=0):
        return websockets.asyncio.client.connect(self.nodes[number].proxy.url("/plain"), ssl=secrets.client_context(), proxy=None,
                                                 ping_interval=None, open_timeout=60, local_addr=(address, 0))

    async def upgrade(self, address, number=0):
        """Opens and closes a session from an address. Returns the status of the answer, when it came, and after how many seconds."""
        begun = time.monotonic()
        try:
            session = await self.connect(address, number)
        except websockets.exceptions.InvalidStatus as error:
            answered = time.monotonic()
            return error.response.status_code, answered, answered - begun
        answered = time.monotonic()
        await session.close()
        return 101, answered, answered - begun

    async def upgrades(self, address, count):
        """Makes upgrades at once. Returns what `upgrade` does for those with 101, and for those with 429."""
        answers = await asyncio.gather(*(self.upgrade(address) for _ in range(count)))
        found = [[answer for answer in answers if answer[0] == status] for status in (101, 429)]
        equal(sum(map(len, found)), count)
        return found

    def page(self, subject, number=0):
        """Makes an ordinary request from a new address. Returns the status, and the seconds until the answer."""
        begun = time.monotonic()
        connection = http.client.HTTPSConnection("localhost", self.nodes[number].proxy.port, context=secrets.client_context(), timeout=60,
                                                 source_address=(next(self.addresses), 0))
        with contextlib.closing(connection):
            connection.request("GET", "/page", headers={"Authorization": f"Bearer {tokens[subject]}"})
            return connection.getresponse().status, time.monotonic() - begun

    def cut_off(self):
        """Holds back what the nodes and the server send, until the nodes use their parts: more than the share without a lease."""
        self.link.hole()
        until(lambda: len(asyncio.run(self.upgrades(next(self.addresses), 3))[0]) == 3, "the nodes use their parts")

    def restore(self):
        self.link.hole(0)
        until(lambda: all(node.answers() for node in self.nodes), "the server answers")


newcomers = Newcomers()

with suite.check("upgrades and requests that need a greater share of the quota wait for it, and are admitted"):
    # Without a lease, a node has a fifteenth of the quota: two upgrades, or two requests.
    count = UPGRADES * 4 // 5
    admitted, refused = asyncio.run(newcomers.upgrades("127.0.0.2", count))
    equal((len(admitted), len(refused)), (count, 0))
    longest = max(took for *_, took in admitted)
    pages = [newcomers.page("reader") for _ in range(count)]
    equal({status for status, _ in pages}, {200})
    longest_page = max(took for _, took in pages)
    assert max(longest, longest_page) < WAIT + SLACK, (admitted, pages)
    suite.note(f"{count} upgrades of an address at once, of a burst of {UPGRADES}: the last was admitted after {longest * 1000:.0f} ms; of {count} "
               f"requests of a subject one after another the longest took {longest_page * 1000:.0f} ms")

with suite.check("an upgrade is refused while other nodes have used up the quota, and all nodes together keep to the bound"):
    async def use_up():
        answers = [await newcomers.upgrade("127.0.0.2", number) for number in range(NODES) for _ in range(UPGRADES // 2)]
        equal({status for status, *_ in answers}, {101, 429})
        assert max(took for *_, took in answers) < WAIT + SLACK, answers
        return count + sum(status == 101 for status, *_ in answers)

    total = asyncio.run(use_up())
    suite.note(f"{total} upgrades of an address were admitted at {NODES} nodes, with a burst of {UPGRADES}")
    assert total <= EXCESS * UPGRADES + NODES, total

with suite.check("an upgrade or a request whose share never comes gets a 429 after half a second, and delays no other client"):
    async def beside(address):
        """Makes upgrades that wait. Returns how many seconds before the first of their answers those to other clients came."""
        other = next(newcomers.addresses)
        async with newcomers.connect(other) as session:
            waiting = asyncio.create_task(newcomers.upgrades(address, 2 * PART))
            # The waiting ones have sent their requests when the session of the second one of these has opened and closed.
            answers = [await newcomers.upgrade(other) for _ in range(4)]
            for _ in range(10):
                await (await session.ping())
            answered = time.monotonic()
            admitted, refused = await waiting
        equal(([status for status, *_ in answers], admitted, len(refused)), ([101] * 4, [], 2 * PART))
        assert min(took for *_, took in refused) >= WAIT, refused
        return min(at for _, at, _ in refused) - answered

    newcomers.cut_off()
    try:
        admitted, refused = asyncio.run(newcomers.upgrades("127.0.0.3", 2 * PART))
        equal((len(admitted), len(refused)), (PART, PART))
        waits = [took for *_, took in refused]
        assert WAIT <= min(waits) and max(waits) < WAIT + SLACK, waits
        # On a busy machine the clients of this process are slow, too: then another attempt counts.
        ahead = [asyncio.run(beside("127.0.0.3"))]
        while ahead[-1] <= 0 and len(ahead) < 5:
            ahead.append(asyncio.run(beside("127.0.0.3")))
        assert ahead[-1] > 0, ahead
        pages = []
        while not pages or pages[-1][0] == 200 and len(pages) < UPGRADES:
            pages.append(newcomers.page("late"))
        status, took = pages[-1]
        equal((status, len(pages) - 1 >= PART), (429, True))
        assert WAIT <= took < WAIT + SLACK, took
    finally:
        newcomers.restore()
    suite.note(f"an outage: {PART} of {2 * PART} upgrades were admitted, the others refused after {min(waits):.2f} to {max(waits):.2f} s; a request "
               f"after {took:.2f} s; 4 upgrades and 10 pings of others were answered {ahead[-1]:.2f} s before the first refusal")

for node in newcomers.nodes:
    node.stop()

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
