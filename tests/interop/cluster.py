"""Several nodes of Tollgate that share a Redis server: slots of subjects and addresses, exact over the nodes, through deaths of
nodes, outages of the server, and lost data. The bounds that the documentation states are measured.

    TOLLGATE_CLUSTER=full   an outage of 30 s (default: 4 s), six nodes, and 9,000 sessions for the use of memory (default: 600)
"""

import asyncio
import contextlib
import http.client
import os
import resource
import statistics
import time

import cluster_nodes
import harness
from cluster_nodes import NODE_TIMEOUT, TIMEOUT, Nodes, Redis, close_all, until
from fault_proxy import FaultProxy
from harness import equal

FULL = os.environ.get("TOLLGATE_CLUSTER") == "full"
RACING, LIMIT = 2_000, 50
OUTAGE = 30 if FULL else 4
MANY = 9_000 if FULL else 600
IDLE = 20 if FULL else 5  # seconds
LATENCIES = 1_000 if FULL else 300
# A node sees the death of another one at its next heartbeat, of which there are three within `node_timeout`.
DEATH_SEEN = NODE_TIMEOUT * 4 / 3 + 1

suite = harness.Suite("cluster")
harness.many_files()
directory = harness.work_dir("cluster")
secrets = harness.Secrets(directory)
redis = Redis(directory)
link = FaultProxy(redis.port)
nodes = Nodes(secrets, directory, redis, links={2: link.port})
backend = nodes.backend
script = (harness.ROOT / "src/cluster/slots.lua").read_text()


def at_most(got, most, what):
    if got > most:
        raise AssertionError(f"{what}: {got} > {most}")


def take(member, most, closes=0, heartbeat="", live=(), removed=()):
    return redis.call("EVAL", script, 1, "script", member, most, closes, 60_000, heartbeat, len(live), *live, *removed)


def free_all(seconds=cluster_nodes.SECONDS):
    """Waits until no session has a slot, and returns the seconds that this took."""
    try:
        return until(lambda: redis.members() == 0, "no slot is taken", seconds)
    except TimeoutError as error:
        taken = {key: redis.call("ZRANGE", key, 0, -1) for key in redis.keys(cluster_nodes.SLOTS)}
        raise TimeoutError(f"{error}: {taken}, {redis.keys()}") from None


with suite.check("the script takes a slot if one is free, once for each member, and keeps none of a dead node"):
    equal([take("100-a/x", 2), take("100-a/x", 2), take("200-b/y", 2)], [["1"]] * 3)
    equal([take("100-a/z", 2), redis.call("ZCARD", "script")], [["0"], 2])
    # Node a is dead: it is not listed, and older than the heartbeat. One that is newer may be alive.
    equal(take("300-c/z", 2, 0, 100, ["200-b"]), ["0"])
    equal(take("300-c/z", 2, 0, 101, ["200-b"]), ["1"])
    equal(sorted(redis.call("ZRANGE", "script", 0, -1)), ["200-b/y", "300-c/z"])
    equal(take("300-c/1", 2, 1), ["1", "200-b/y"])
    equal(sorted(take("300-c/2", 1, 1, 400, ["300-c"])), ["1", "300-c/1", "300-c/z"])
    # Those that make way stay until the node has the answer. Those that it names are not counted.
    equal(sorted(redis.call("ZRANGE", "script", 0, -1)), ["300-c/1", "300-c/2", "300-c/z"])
    equal(take("300-c/3", 1, 1, 400, ["300-c"], ["300-c/1", "300-c/2", "300-c/z"]), ["1"])
    equal(redis.call("ZCARD", "script"), 4)
    # The clock of the server was set back by an hour after node d was registered.
    hour = int(redis.call("TIME")[0]) * 1_000 + 3_600_000
    redis.call("DEL", "script")
    redis.call("ZADD", "script", 1, f"{hour}-d/z")
    equal([take("300-c/4", 1), take("300-c/4", 1, 0, 400, [f"{hour}-d"]), take("300-c/4", 1, 0, 400, ["300-c"])], [["0"], ["0"], ["1"]])
    equal(redis.call("ZRANGE", "script", 0, -1), ["300-c/4"])
    at_most(abs(redis.call("PTTL", "script") - 60_000), 5_000, "milliseconds from the time to live")
    redis.call("DEL", "script")

with suite.check("the script counts a session once that two processes have registered, and frees both members"):
    for number, member in enumerate(("100-a/x", "100-a/y", "200-b/x", "200-b/y")):
        redis.call("ZADD", "script", number, member)
    equal([take("300-c/z", 3), redis.call("ZCARD", "script")], [["1"], 5])
    equal([take("300-c/v", 3), take("300-c/x", 3)], [["0"], ["1"]])
    equal(take("300-c/w", 3, 1), ["1", "100-a/x", "200-b/x", "300-c/x"])
    equal(take("", 1, 0, 200, ["200-b"]), ["0"])
    equal(sorted(redis.call("ZRANGE", "script", 0, -1)), ["200-b/x", "200-b/y", "300-c/w", "300-c/x", "300-c/z"])
    redis.call("DEL", "script")

beat = (harness.ROOT / "src/cluster/heartbeat.lua").read_text()


def heartbeat(node, is_id):
    return redis.call("EVAL", beat, 2, "seen", "said", node, is_id, "{}", 3_000, 60_000, 3)


with suite.check("a process that registers several times, as when its answers are late, is one node"):
    first = heartbeat("ab", 0)[1]
    equal([heartbeat("ab", 0)[2::3], heartbeat("100-ab", 1)[2::3]], [[first]] * 2)  # its id of before is dead
    other = heartbeat("b", 0)[1]
    equal(sorted([heartbeat("b", 0)[1], heartbeat(first, 1)[1]]), sorted([other, first]))
    until(lambda: heartbeat("cd", 0)[0] != first.split("-")[0], "a millisecond passes")
    redis.call("ZADD", "seen", 1, first)
    again = heartbeat(first, 1)[1]
    equal([again == first, again.endswith("-ab"), heartbeat(first, 1)[1]], [False, True, again])
    redis.call("DEL", "seen", "said")

with suite.check("a heartbeat in the future says nothing, and a server without free memory denies heartbeats"):
    first = heartbeat("ab", 0)[1]
    now = int(first.split("-")[0])
    for score, node in ((now + 1_500, "1-soon"), (now + 60_000, "1-later"), ("inf", "1-never"), (now - 60_000, "1-old")):
        redis.call("ZADD", "seen", score, node)
    answer = heartbeat(first, 1)
    equal((answer[1], answer[2::3], [int(silent) >= 0 for silent in answer[3::3]]), (first, [first, "1-soon"], [True] * 2))
    until(lambda: heartbeat(first, 1)[0] != first.split("-")[0], "a millisecond passes")
    redis.call("ZADD", "seen", "inf", first)
    equal(heartbeat(first, 1)[1] == first, False)
    equal(redis.call("ZSCORE", "seen", first), None)
    redis.call("ZADD", "seen", 1, "1-old")  # a heartbeat would remove it
    redis.call("CONFIG", "SET", "maxmemory", 1)
    try:
        heartbeat("cd", 0)
    except RuntimeError as error:
        equal(str(error).split(" ")[0], "OOM")
    else:
        raise AssertionError("the heartbeat was accepted")
    finally:
        redis.call("CONFIG", "SET", "maxmemory", 0)
    redis.call("DEL", "seen", "said")

for path, subject in (("/subject", "ada"), ("/address", None)):
    with suite.check(f"{RACING} racing upgrades over three nodes at {path} never exceed {LIMIT} sessions"):
        async def race_all():
            backend.peak.pop(path, None)
            begun = time.monotonic()
            for _ in range(2):
                sessions, statuses = await nodes.race(path, subject, RACING // 2)
                late.append(statuses.pop(503, 0))
                # The server may have taken slots for upgrades that its answer reached too late, until they are released.
                assert LIMIT - late[-1] <= statuses[101] <= LIMIT and set(statuses) == {101, 429}, (statuses, late)
                equal((backend.open[path], backend.peak[path]), (len(sessions), max(len(sessions), backend.peak[path])))
                at_most(max(backend.peak[path], redis.members()), LIMIT, "sessions")
                close_all(sessions)
                await asyncio.to_thread(free_all)
                await asyncio.to_thread(until, lambda: backend.open[path] == 0, "the backend has no session")
            return time.monotonic() - begun

        late = []
        took = nodes.run(race_all())
        suite.note(f"{RACING} racing upgrades at {path} took {took:.1f} s: at most {backend.peak[path]} sessions, and {sum(late)} "
                   "got a 503 because an answer was late")

with suite.check("sessions that come and go never exceed the limit, and leave no slot behind"):
    async def churn():
        most, is_done = 0, False

        async def look():
            nonlocal most
            while not is_done:
                most = max(most, await asyncio.to_thread(redis.members))

        async def come_and_go(index):
            for _ in range(20):
                session = await nodes.open(index % 3, "/subject", "ada")
                await asyncio.sleep(0.01)
                session.close()

        looking = asyncio.create_task(look())
        await asyncio.gather(*(come_and_go(index) for index in range(100)))
        is_done = True
        await looking
        return most

    most = nodes.run(churn())
    at_most(most, LIMIT, "slots")
    took = free_all()
    suite.note(f"2,000 sessions that come and go: at most {most} slots, the last was free {took:.2f} s after the last close")

with suite.check("the keys of slots contain no subject, and end by themselves"):
    async def look_at_keys():
        sessions = await nodes.fill("/both", "ada", (1, 0, 0))
        keys = redis.keys(cluster_nodes.SLOTS)
        equal([key.rsplit(":", 1)[0] for key in keys], ["tollgate:1:slot:a:both", "tollgate:1:slot:s"])
        assert not any("ada" in key for key in keys), keys
        for key in keys:
            at_most(abs(redis.call("PTTL", key) - 3_600_000), 60_000, "milliseconds from the time to live")
        close_all(sessions)

    nodes.run(look_at_keys())
    free_all()

with suite.check("a refused session of one limit holds no slot of the other one"):
    async def refuse():
        sessions = await nodes.fill("/both", "ada", (20, 20, 10))
        refused = await nodes.statuses("/both", "ada")
        other = await nodes.settled(1, "/both", "bob")  # the limit of the address
        equal((refused, other.status), ([429] * 3, 429))
        await asyncio.to_thread(until, lambda: redis.members() == 2 * LIMIT, "only the sessions have slots")
        close_all(sessions)

    nodes.run(refuse())
    free_all()


async def cut_off():
    """Cuts node 2 off for longer than `node_timeout`."""
    await asyncio.to_thread(nodes.meet)
    sessions = await nodes.fill("/subject", "ada", (10, 20, 20))
    equal((await nodes.settled(0, "/subject", "ada")).status, 429)
    link.hole()
    begun, more = time.monotonic(), []
    while not more:
        session = await nodes.settled(0, "/subject", "ada")
        more += [session] if session.status == 101 else []
        await asyncio.sleep(0.05)
    free = time.monotonic() - begun
    at_most(free, DEATH_SEEN, "seconds until the slots are free")
    more += await nodes.fill("/subject", "ada", (19,))
    # The node that is cut off enforces its share: a third. It has 20 sessions, so it refuses.
    equal((await nodes.settled(2, "/subject", "ada")).status, 429)
    equal((await nodes.settled(0, "/subject", "ada")).status, 429)
    link.hole(0)
    back = await asyncio.to_thread(until, lambda: redis.members() == 70, "the node has its slots again")
    equal([await session.is_open() for session in sessions + more], [True] * 70)
    equal(await nodes.statuses("/subject", "ada"), [429] * 3)
    close_all(sessions + more)
    return free, back


with suite.check("a node that is cut off loses its slots within a bound, keeps its sessions, and reconciles when it returns"):
    free, back = nodes.run(cut_off())
    suite.note(f"a node that is cut off: 20 of 50 slots were free after {free:.2f} s (bound {DEATH_SEEN:.1f} s), and its sessions "
               f"were registered again {back:.2f} s after its return; the excess was 20")
    free_all()

with suite.check("FLUSHALL closes nothing, and the counts are restored"):
    async def flush():
        sessions = await nodes.fill("/subject", "ada", (20, 20, 10))
        redis.call("FLUSHALL")
        took = await asyncio.to_thread(until, lambda: redis.members() == LIMIT, "all sessions have slots")
        equal(await nodes.statuses("/subject", "ada"), [429] * 3)
        equal([await session.is_open() for session in sessions], [True] * LIMIT)
        close_all(sessions)
        return took

    took = nodes.run(flush())
    at_most(took, NODE_TIMEOUT / 3 + 1, "seconds until the counts are restored")
    suite.note(f"FLUSHALL: the counts of {LIMIT} sessions were restored after {took:.2f} s")
    free_all()


async def outage():
    """Stops the server for `OUTAGE` seconds, in which sessions open and close."""
    await asyncio.to_thread(nodes.meet)
    sessions = await nodes.fill("/subject", "ada", (10, 10, 10))
    done, waits, statuses, begun = redis.pause(OUTAGE), [], [], time.monotonic()
    while time.monotonic() < begun + OUTAGE - 1:
        session = await nodes.open(len(waits) % 3, "/subject", "ada")
        waits.append(session.took)
        statuses.append(session.status)
        sessions += [session] if session.status == 101 else []
        await asyncio.sleep(0.02)
    equal([await session.is_open() for session in sessions], [True] * len(sessions))
    close_all(sessions[:5])
    del sessions[:5]
    await asyncio.to_thread(done)
    back = await asyncio.to_thread(until, lambda: redis.members() == len(sessions), "the slots are those of the sessions")
    after = await nodes.settled(0, "/subject", "ada")
    equal(after.status, 429 if len(sessions) >= LIMIT else 101)
    opened = statuses.count(101)
    close_all(sessions + [after])
    return waits, statuses, opened, back


with suite.check(f"while the server stands still for {OUTAGE} s, each node enforces its share, and no client waits long"):
    waits, statuses, opened, back = nodes.run(outage())
    late = sum(wait > TIMEOUT / 2 for wait in waits)
    # A third of 50 for each of three nodes, which had 10 sessions each.
    equal((opened, set(statuses) <= {101, 429, 503}), (3 * (17 - 10), True))
    at_most(statuses.count(503), 3 * 3, "upgrades that were refused before the server was taken for away")
    at_most(max(waits), 2 * TIMEOUT, "seconds that an upgrade took")
    at_most(late, 3 * (3 + 1), "upgrades that waited")
    suite.note(f"an outage of {OUTAGE} s: {len(waits)} upgrades, of which {late} waited and {statuses.count(503)} got a 503, "
               f"{max(waits) * 1000:.0f} ms at most; {30 + opened} sessions with a limit of {LIMIT}; the slots were right "
               f"{back:.2f} s after its end")
    free_all()

with suite.check("with on_outage = \"refuse\" new sessions get a 503 with Retry-After while the server is away"):
    other = Redis(directory, name="redis-refuse")
    strict = Nodes(secrets, directory, other, count=1, name="strict", cluster='on_outage = "refuse"')
    loose = Nodes(secrets, directory, other, count=1, name="oldest", cluster='prefix = "oldest:"\non_outage = "refuse"', mode="close_oldest")

    def readiness(some):
        """Returns the status of `/readyz`, and whether it names the key that decided it."""
        connection = http.client.HTTPConnection("127.0.0.1", some.metrics_ports[0], timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            return answer.status, b"on_outage" in answer.read()

    async def refuse_all():
        equal([readiness(some) for some in (strict, loose)], [(200, False)] * 2)
        session = await strict.open(0, "/subject", "ada")
        equal(session.status, 101)
        other.stop()
        for some in (strict, loose):
            await asyncio.to_thread(until, lambda: some.metric(0, "tollgate_cluster_up") == 0, "the node notices")
            refused = await some.open(0, "/subject", "ada")
            equal(refused.status, 503)
            assert "\r\nretry-after: " in refused.head.lower(), refused.head
            equal((await some.settled(0, "/plain")).status, 101)
            equal(await asyncio.to_thread(readiness, some), (503, True))
        equal(await session.is_open(), True)

    nodes.run(refuse_all())
    assert 'cause="cluster_unavailable"' in strict.nodes[0].proxy.output(), strict.nodes[0].proxy.output()[-1000:]
    strict.kill()
    loose.kill()


with suite.check("with on_session_limit = \"close_oldest\" the oldest sessions of any node make way"):
    closing = Nodes(secrets, directory, redis, name="closing", cluster='prefix = "closing:"', limits=(3, 6), mode="close_oldest")

    async def replace():
        oldest = await closing.fill("/subject", "ada", (1, 1, 1))
        newest, times = [], []
        for number in (1, 2, 0):
            newest.append(await closing.settled(number, "/subject", "ada"))
            begun = time.monotonic()
            equal((newest[-1].status, await oldest[len(times)].close_code()), (101, 1008))
            times.append(time.monotonic() - begun)
        equal([await session.is_open() for session in newest], [True] * 3)
        await asyncio.to_thread(until, lambda: redis.members("closing:*:slot:*") == 3, "the others have no slot")
        # Subject and address: the limit of the address closes none while that of the subject makes way.
        sessions = [await closing.settled(index % 3, "/both", f"user-{index % 2}") for index in range(6)]
        last = await closing.settled(0, "/both", "user-0")
        equal((last.status, await sessions[0].close_code()), (101, 1008))
        equal([await session.is_open() for session in sessions[1:]], [True] * 5)
        raced, statuses = await closing.race("/subject", "bob", 300)
        late = statuses.pop(503, 0)
        equal((len(raced), statuses), (300 - late, {101: 300 - late}))
        codes = asyncio.gather(*(session.close_code(5) for session in raced), return_exceptions=True)
        codes = [code for code in await codes if not isinstance(code, TimeoutError)]
        equal((len(codes), set(codes)), (300 - late - 3, {1008}))
        return max(times), late

    took, late = closing.run(replace())
    suite.note(f"the oldest session, on another node, was closed within {took * 1000:.0f} ms; 300 racing upgrades left 3 sessions, and "
               f"{late} got a 503 because an answer was late")
    until(lambda: redis.members("closing:*:slot:*") == 0, "no slot is taken")
    closing.kill()

with suite.check("a reload that adds a limit counts the open sessions, and an upgrade of the program keeps the counts"):
    changing = Nodes(secrets, directory, redis, name="changing", cluster='prefix = "changing:"')
    slots = "changing:*:slot:*"

    async def change():
        open_before = await changing.fill("/plain", None, (4, 3, 3))
        limit = '\n[[route]]\nname = "plain"\npath = "/plain"\nupstream = "backend"\nauth = "none"\n'
        for number in range(3):
            await asyncio.to_thread(changing.nodes[number].reload, limit, limit + "[route.limits]\nsessions_per_address = 8\n")
        await asyncio.to_thread(until, lambda: redis.members(slots) == 10, "the open sessions have slots")
        equal(await changing.statuses("/plain"), [429] * 3)
        open_before.pop().close()
        open_before.pop().close()
        await asyncio.to_thread(until, lambda: redis.members(slots) == 8, "two slots are released")
        equal((await changing.settled(1, "/plain")).status, 429)
        moved = await asyncio.to_thread(changing.nodes[0].upgrade)
        equal(moved, 4)
        # The sessions that moved are counted twice for a time, and at no time less than once.
        begun, counts = time.monotonic(), set()
        while time.monotonic() < begun + 2:
            counts.add(redis.members(slots))
            equal((await changing.settled(1, "/plain")).status, 429)
        equal(counts <= set(range(8, 13)), True)
        equal([await session.is_open() for session in open_before], [True] * 8)
        open_before.pop(0).close()
        begun, newest = time.monotonic(), None
        while newest is None or newest.status != 101:
            newest = await changing.settled(0, "/plain")
            at_most(time.monotonic() - begun, DEATH_SEEN, "seconds until the slot that the new process has released is free")
        equal((redis.members(slots), (await changing.open(1, "/plain")).status), (8, 429))

    changing.run(change())
    changing.kill()

with suite.check("a server that accepts no writes is away, whatever the reason: on_outage decides, and the log has few lines"):
    full = Redis(directory, name="redis-full")
    shared = Nodes(secrets, directory, full, count=1, name="shared")
    strict = Nodes(secrets, directory, full, count=1, name="full", cluster='prefix = "full:"\non_outage = "refuse"')
    both = (shared, strict)

    def warnings(some):
        return [line for line in some.nodes[0].proxy.output().splitlines() if "WARN" in line and "the cluster's server" in line]

    async def refuse_writes(begin, end):
        sessions = await shared.fill("/subject", "ada", (3,))
        before = [len(warnings(some)) for some in both]
        full.call(*begin)
        statuses = []
        for _ in range(5):
            sessions.append(await shared.open(0, "/subject", "ada"))
            statuses.append((sessions[-1].status, (await strict.open(0, "/subject", "ada")).status))
        equal(statuses, [(101, 503)] * 5)
        for some in both:
            await asyncio.to_thread(until, lambda: some.metric(0, "tollgate_cluster_up") == 0, "the node notices")
        connections = int(full.info("stats")["total_connections_received"])
        await asyncio.sleep(4)  # the time for which connections are counted
        connections = int(full.info("stats")["total_connections_received"]) - connections
        full.call(*end)
        for some in both:
            await asyncio.to_thread(until, lambda: some.metric(0, "tollgate_cluster_up") == 1, "the node notices")
        at_most(connections, 2 * 7 + 1, "connections within 4 s")
        for some, earlier in zip(both, before):
            lines = warnings(some)[earlier:]
            assert 1 <= len(lines) <= 3, lines
        await asyncio.to_thread(until, lambda: full.members() == 8, "all sessions have slots")
        close_all(sessions)
        await asyncio.to_thread(until, lambda: full.members() == 0, "no session has a slot")

    shared.run(refuse_writes(("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0)))
    shared.run(refuse_writes(("REPLICAOF", "127.0.0.1", harness.free_port()), ("REPLICAOF", "NO", "ONE")))

    async def break_key():
        sessions = await shared.fill("/subject", "bob", (1,))
        [key] = full.keys(cluster_nodes.SLOTS)
        full.call("SET", key, "x")
        sessions += await shared.fill("/subject", "ada", (2,))
        sessions += await shared.fill("/subject", "bob", (2,))  # the server answers with an error
        close_all(sessions)
        full.call("CONFIG", "RESETSTAT")
        free = "the releases of other keys do not wait for those that fail"
        await asyncio.to_thread(until, lambda: full.keys(cluster_nodes.SLOTS) == [key], free)
        await asyncio.sleep(1)  # the time for which commands are counted
        at_most(full.calls().get("zrem", 0), 12, "releases")
        equal(shared.nodes[0].proxy.output().count("answers with an error"), 1)
        full.call("DEL", key)

    shared.run(break_key())
    shared.kill()
    strict.kill()

for mode in ("refuse", "close_oldest"):
    with suite.check(f"with on_session_limit = \"{mode}\" an upgrade of the program takes no slot of a session"):
        moving = Nodes(secrets, directory, redis, count=2, name=f"moving-{mode}", cluster=f'prefix = "{mode}:"', limits=(4, 9), mode=mode)

        async def move():
            sessions = await moving.fill("/subject", "ada", (3, 0))
            equal(await asyncio.to_thread(moving.nodes[0].upgrade), 3)
            await asyncio.to_thread(until, lambda: redis.members(f"{mode}:*:slot:*") > 3, "the other process has registered them")
            sessions.append(await moving.settled(1, "/subject", "ada"))
            equal(sessions[-1].status, 101)
            equal([await session.is_open() for session in sessions], [True] * 4)
            last = await moving.settled(1, "/subject", "ada")
            if mode == "refuse":
                equal(last.status, 429)
            else:
                equal((last.status, await sessions.pop(0).close_code()), (101, 1008))
            equal([await session.is_open() for session in sessions], [True] * len(sessions))

        moving.run(move())
        moving.kill()


with suite.check("a server whose answers take more than half of the timeout has the slots of a dead node freed, too"):
    slow = FaultProxy(redis.port)
    far = Nodes(secrets, directory, redis, count=2, links={1: slow.port}, name="far", cluster='prefix = "far:"', limits=(5, 9))

    async def wait_for_slot():
        await far.fill("/subject", "ada", (5, 0))
        slow.set(delay=0.7 * TIMEOUT / 2)
        far.nodes[0].kill()
        begun, statuses = time.monotonic(), []
        while 101 not in statuses:
            at_most(time.monotonic() - begun, 3 * DEATH_SEEN, f"seconds until a slot is free: {statuses[-20:]}")
            session = await far.open(1, "/subject", "ada")
            statuses.append(session.status)
            at_most(session.took, 2 * TIMEOUT, "seconds that an upgrade took")
            await asyncio.sleep(0.1)
        return statuses

    statuses = far.run(wait_for_slot())
    suite.note(f"over a link with a delay of {0.7 * TIMEOUT:.2f} s: {statuses.count(429)} upgrades got a 429 and {statuses.count(503)} a "
               "503 before the slots of a dead node were free")
    far.kill()

with suite.check("a Redis Cluster counts the slots, too: the keys of one session are on several of its servers"):
    buses = [harness.free_port() for _ in range(2)]
    servers = [Redis(directory, "--cluster-enabled", "yes", "--cluster-config-file", f"nodes{number}.conf", "--cluster-port", bus,
                     name=f"redis-cluster{number}") for number, bus in enumerate(buses)]
    for number, server in enumerate(servers):
        server.call("CLUSTER", "ADDSLOTSRANGE", *((0, 8191) if number == 0 else (8192, 16_383)))
        server.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    servers[0].call("CLUSTER", "MEET", "127.0.0.1", servers[1].port, buses[1])
    until(lambda: all("cluster_state:ok" in server.call("CLUSTER", "INFO") for server in servers), "the servers know each other")
    spread = Nodes(secrets, directory, servers[0], count=2, name="spread", scheme="redis+cluster", limits=(20, 20))

    def taken():
        return sum(server.members() for server in servers)

    async def count_spread():
        begun = []
        for index in range(6):  # six subjects, so that both servers have keys
            begun += await spread.fill("/subject", f"user-{index}", (10, 10))
            equal(await spread.statuses("/subject", f"user-{index}"), [429] * 2)
        equal([taken(), all(server.keys(cluster_nodes.SLOTS) for server in servers)], [120, True])
        close_all(begun)
        await asyncio.to_thread(until, lambda: taken() == 0, "no slot is taken")
        for server in servers:
            server.call("FLUSHALL")
        # Before the nodes have registered again, a limit may be exceeded.
        seen = [(server, "tollgate:1:{nodes}:seen") for server in servers]
        await asyncio.to_thread(until, lambda: any(key in server.keys() and server.call("ZCARD", key) == 2 for server, key in seen),
                                "the nodes have registered again")
        raced, statuses = await spread.race("/both", "ada", 200)
        equal((len(raced) <= 20, set(statuses) <= {101, 429, 503}, taken() >= 2 * len(raced)), (True, True, True))

    spread.run(count_spread())
    spread.kill()


async def measure(some, path, subject, count):
    times = []
    for index in range(count):
        session = await some.settled(index % len(some.nodes), path, subject)
        equal(session.status, 101)
        times.append(session.took)
        session.close()
    return [1000 * time for time in (statistics.median(times), statistics.quantiles(times, n=100)[98])]


with suite.check("an upgrade needs two commands for each limit, and takes little longer than without a cluster"):
    alone = Nodes(secrets, directory, None, count=3, name="alone")
    for some in (alone, nodes):
        some.run(measure(some, "/both", "ada", 50))
    free_all()
    redis.call("CONFIG", "RESETSTAT")
    with_cluster = nodes.run(measure(nodes, "/both", "ada", LATENCIES))
    free_all()
    calls = redis.calls()
    without = alone.run(measure(alone, "/both", "ada", LATENCIES))
    alone.kill()
    equal(calls["evalsha"] >= 2 * LATENCIES, True)
    of_scripts = {name: calls.get(name, 0) / LATENCIES for name in ("evalsha", "zrem", "zadd", "pexpire")}
    equal(of_scripts["zrem"] <= 2.1, True)
    suite.note(f"commands per upgrade with two limits: {of_scripts['evalsha']:.2f} EVALSHA, {of_scripts['zrem']:.2f} ZREM at its end")
    suite.note(f"an upgrade with two limits on loopback: p50 {with_cluster[0]:.2f} ms, p99 {with_cluster[1]:.2f} ms; without a "
               f"cluster p50 {without[0]:.2f} ms, p99 {without[1]:.2f} ms")

with suite.check(f"the memory of {MANY} sessions at the server, and the commands of idle ones"):
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2 * MANY + 1_000:  # clients and backend are in this process
        raise harness.Skip("the descriptor limit is too low")
    large = Redis(directory, name="redis-large")
    crowd = Nodes(secrets, directory, large, count=3, name="crowd", limits=(10_000, 10_000))

    async def fill_memory(subjects, addresses):
        """Opens sessions, and returns the bytes for each of them. Then it counts the commands while they are idle."""
        before, sessions = int(large.info("memory")["used_memory"]), []
        for start in range(0, MANY, 100):
            sessions += await asyncio.gather(*(
                crowd.settled(index % 3, "/both", f"user-{index % subjects}",
                              f"127.1.{index % addresses // 200}.{index % addresses % 200 + 1}")
                for index in range(start, start + 100)))
        equal({session.status for session in sessions}, {101})
        equal(large.members(), 2 * MANY)
        after = int(large.info("memory")["used_memory"])
        large.call("CONFIG", "RESETSTAT")
        await asyncio.sleep(IDLE)
        calls = {name: count for name, count in large.calls().items() if count}
        close_all(sessions)
        await asyncio.to_thread(until, lambda: large.members() == 0, "no slot is taken")
        return (after - before) / MANY, calls

    for name, subjects, addresses in (("of 100 subjects at one address", 100, 1), ("each of its own subject at its own address", MANY, MANY)):
        each, calls = crowd.run(fill_memory(subjects, addresses))
        suite.note(f"memory of the server: {each:.0f} bytes for each of {MANY} sessions with two limits, {name}, together "
                   f"{each * MANY / 2**20:.2f} MiB; commands within {IDLE} idle seconds: {calls}")
    crowd.kill()

if FULL:
    with suite.check(f"{RACING} racing upgrades over six nodes never exceed {LIMIT} sessions, also while one is killed"):
        six = Nodes(secrets, directory, redis, count=6, name="six", cluster='prefix = "six:"')

        async def race_six():
            late = 0
            for path, subject in (("/subject", "ada"), ("/address", None)):
                sessions, statuses = await six.race(path, subject, RACING)
                late += (unanswered := statuses.pop(503, 0))
                assert LIMIT - unanswered <= statuses[101] <= LIMIT and set(statuses) == {101, 429}, statuses
                at_most(max(six.backend.peak[path], redis.members("six:*:slot:*")), LIMIT, "sessions")
                close_all(sessions)
                await asyncio.to_thread(until, lambda: redis.members("six:*:slot:*") == 0, "no slot is taken")
            await six.fill("/subject", "ada", (10, 10, 10, 10, 5, 5))
            six.nodes[5].kill()
            begun = time.monotonic()
            while (await six.settled(0, "/subject", "ada")).status != 101:
                at_most(time.monotonic() - begun, DEATH_SEEN, "seconds until the slots are free")
                await asyncio.sleep(0.05)
            return late, time.monotonic() - begun

        late, free = six.run(race_six())
        suite.note(f"six nodes: 2 times {RACING} racing upgrades left at most {LIMIT} sessions, and {late} got a 503 because an answer was late; "
                   f"the slots of one that was killed were free after {free:.2f} s")
        six.kill()

with suite.check("the slots of a node that is killed are free within a bound"):
    async def kill():
        sessions = await nodes.fill("/subject", "ada", (10, 20, 20))
        nodes.nodes[2].kill()
        begun, more = time.monotonic(), []
        while not more:
            session = await nodes.open(0, "/subject", "ada")
            more += [session] if session.status == 101 else []
            await asyncio.sleep(0.05)
        free = time.monotonic() - begun
        at_most(free, DEATH_SEEN, "seconds until the slots are free")
        more += await nodes.fill("/subject", "ada", (19,))
        equal((await nodes.settled(1, "/subject", "ada")).status, 429)
        equal(redis.members(), LIMIT)
        close_all(sessions + more)
        return free

    free = nodes.run(kill())
    suite.note(f"kill -9 of a node: its 20 slots were free after {free:.2f} s (node_timeout {NODE_TIMEOUT} s, bound {DEATH_SEEN:.1f} s)")

suite.finish()
