"""Tests what the nodes of a cluster tell each other over Redis: revocations, closes, messages, and lists of sessions.

TOLLGATE_CLUSTER=full measures 200 revocations, cuts a node off for a minute, and sends to 3,000 sessions.
"""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import statistics
import time

import websockets.asyncio.client
import websockets.exceptions

import harness
from cluster_nodes import Node, Redis, at, until, wait_for_nodes
from fault_proxy import FaultProxy
from harness import Suite, equal

FULL = os.environ.get("TOLLGATE_CLUSTER") == "full"
TRIALS = 200 if FULL else 20
SENT_TO = 3000 if FULL else 300
# The number of upgrades of a node, and of the closes during each.
UPGRADES, UPGRADED = (8, 200) if FULL else (3, 60)

suite = Suite("cluster_events")
harness.many_files()
directory = harness.work_dir("cluster-events")
secrets = harness.Secrets(directory)


async def hold(connection):
    await connection.wait_closed()


configuration = "".join([
    '[server]\nworkers = 2\nmax_sessions = 2000\nmax_handshakes = 2048\nhandshakes_per_address = "off"\n',
    '[log]\nsession_start = "trace"\n', harness.listener(secrets), harness.auth(secrets),
    harness.upstream("hold", harness.serve(hold)),
    harness.route("hold", "/hold", "hold", auth='"users"', origins='["https://chat.example.test"]', refresh_path='"/refresh"'),
    harness.route("one", "/one", "hold", {"sessions_per_subject": 1, "on_session_limit": '"close_oldest"'}, auth='"users"',
                  origins='["https://chat.example.test"]'),
])

secret = directory / "cluster-secret"
secret.write_text("5ec" * 22)
secret.chmod(0o600)

redis = Redis(directory)
link = FaultProxy(redis.port)
secret_key = f'secret_file = "{secret}"\n'
nodes = [Node(f"node-{number}", configuration, directory, at(redis.port if number < 2 else link.port) + secret_key) for number in range(3)]
first, second, third = nodes
tokens = {}


def token(subject):
    if subject not in tokens:
        tokens[subject] = secrets.foreign_token(sub=subject)
    return tokens[subject]


async def connect(node, subject, path="/hold"):
    return await websockets.asyncio.client.connect(
        node.proxy.url(path), ssl=secrets.client_context(), proxy=None, ping_interval=None, compression=None,
        open_timeout=60, additional_headers={"Authorization": f"Bearer {token(subject)}"})


async def connect_all(wanted):
    """Opens a session for each pair of a node and a subject, 50 at a time."""
    turns = asyncio.Semaphore(50)

    async def one(node, subject):
        async with turns:
            return await connect(node, subject)

    return await asyncio.gather(*(one(*pair) for pair in wanted))


async def closed(session, seconds=15):
    """Waits for the end of a session. Returns its code and reason, and the time."""
    with contextlib.suppress(websockets.exceptions.ConnectionClosed):
        async with asyncio.timeout(seconds):
            while True:
                await session.recv()
    return session.close_code, session.close_reason, time.monotonic()


async def is_open(session):
    await asyncio.wait_for(await session.ping(), 5)
    return True


async def admitted(node, subject):
    try:
        session = await connect(node, subject)
    except websockets.exceptions.InvalidStatus as error:
        equal(error.response.status_code, 401)
        return False
    await session.close()
    return True


async def ask(node, *request):
    return await asyncio.to_thread(node.ask, *request)


async def revoke(node, subject):
    status, answer = await ask(node, "POST", "/v1/revocations", {"auth": "users", "subject": subject})
    equal(status, 201)
    return answer


def counted(node):
    """Returns the numbers of events that a node has counted, by outcome."""
    api = harness.Api(node.socket)
    api.request("GET", "/metrics")
    lines = [line.split('"') for line in api.getresponse().read().decode().splitlines() if line.startswith("tollgate_cluster_events_total{")]
    return {outcome: int(number.split()[-1]) for _, outcome, number in lines}


def is_admitted(node, subject):
    return asyncio.run(admitted(node, subject))


def figures(seconds):
    ordered = sorted(seconds)
    return (f"p50 {statistics.median(ordered) * 1000:.1f} ms, p99 {ordered[int(len(ordered) * 0.99 - 0.01)] * 1000:.1f} ms, "
            f"longest {ordered[-1] * 1000:.1f} ms")


with suite.check("three nodes list each other"):
    wait_for_nodes(nodes)

with suite.check(f"{TRIALS} revocations at one node end the sessions of all nodes within a second"):
    async def trials():
        subjects = [f"trial-{number}" for number in range(TRIALS)]
        sessions = await connect_all([(node, subject) for subject in subjects for node in nodes])
        here, elsewhere, last = [], [], []
        for number, subject in enumerate(subjects):
            ending = [asyncio.create_task(closed(session)) for session in sessions[3 * number:3 * number + 3]]
            await asyncio.sleep(0)
            begun = time.monotonic()
            answer = await revoke(first, subject)
            equal((answer["ended"], answer["cluster"]), (1, True))
            ends = await asyncio.gather(*ending)
            equal([end[:2] for end in ends], [(1008, "revoked")] * 3)
            times = [end[2] - begun for end in ends]
            here.append(times[0])
            elsewhere += times[1:]
            last.append(max(times))
        return here, elsewhere, last

    here, elsewhere, last = asyncio.run(trials())
    suite.note(f"{TRIALS} revocations, from the request to the Close at the client: on the node itself {figures(here)}; "
               f"on the two others {figures(elsewhere)}; on the last one {figures(last)}")
    equal(max(last) < 1, True)

with suite.check("a removed revocation is removed at all nodes"):
    async def remove():
        answer = await revoke(first, "removed")
        equal([await admitted(node, "removed") for node in nodes], [False] * 3)
        equal((await ask(second, "DELETE", f"/v1/revocations/{answer['id']}"))[0], 204)

    asyncio.run(remove())
    until(lambda: all(is_admitted(node, "removed") for node in nodes), "the subject is admitted")


def cut():
    link.cut()
    until(lambda: not third.answers(), "the third node finds out that the server is away")


def restore():
    link.restore()
    return until(lambda: third.answers(), "the third node reaches the server")


with suite.check("a node that was cut off catches up, and its own revocations reach the others"):
    async def apart():
        sessions = await connect_all([(node, subject) for subject in ("away", "own") for node in nodes])
        cut()
        equal((await revoke(first, "away"))["cluster"], True)
        equal((await revoke(third, "own"))["cluster"], False)
        ends = [await closed(sessions[at]) for at in (0, 1, 5)]
        equal([end[:2] for end in ends], [(1008, "revoked")] * 3)
        equal([await is_open(sessions[at]) for at in (2, 3, 4)], [True] * 3)
        await asyncio.sleep(60 if FULL else 2)
        restored = time.monotonic()
        reconnected = await asyncio.to_thread(restore)
        ends = [await closed(sessions[at]) for at in (2, 3, 4)]
        equal([end[:2] for end in ends], [(1008, "revoked")] * 3)
        return reconnected, max(end[2] for end in ends) - restored

    reconnected, last = asyncio.run(apart())
    suite.note(f"a node that was cut off for {60 if FULL else 2} s: the server was reached after {reconnected:.2f} s, and the last session "
               f"ended after {last:.2f} s")

with suite.check("a node that was away for longer than the stream reaches loads the set, and forgets what was removed"):
    async def set_up():
        removed = await revoke(third, "returns")
        await revoke(third, "stays")
        sessions = await connect_all([(third, "missed")])
        equal(await admitted(third, "returns"), False)
        cut()
        equal((await ask(first, "DELETE", f"/v1/revocations/{removed['id']}"))[0], 204)
        await revoke(first, "missed")
        return sessions[0]

    async def all_of_it():
        session = await set_up()
        redis.call("XTRIM", "tollgate:1:{events}:control", "MAXLEN", "0")
        await asyncio.to_thread(restore)
        equal((await closed(session))[:2], (1008, "revoked"))

    asyncio.run(all_of_it())
    until(lambda: is_admitted(third, "returns"), "the removal is known")
    equal([is_admitted(node, "returns") for node in nodes], [True] * 3)
    equal([is_admitted(node, subject) for node in nodes for subject in ("missed", "stays")], [False] * 6)

with suite.check("a node that starts without a state directory knows all revocations"):
    equal(second.stop(), 0)
    second.start()
    # The kernel accepts connections before the node knows the revocations, and no request is answered until then.
    equal([is_admitted(second, subject) for subject in ("stays", "missed", "away", "own", "returns")], [False] * 4 + [True])

with suite.check("a server that loses its data gets the revocations again"):
    before = redis.call("HLEN", "tollgate:1:{events}:revocations")
    equal(redis.call("FLUSHALL"), "OK")
    took = until(lambda: redis.call("HLEN", "tollgate:1:{events}:revocations") == before, f"{before} revocations")
    suite.note(f"{before} revocations were restored {took:.1f} s after FLUSHALL, with "
               f"{redis.call('XLEN', 'tollgate:1:{events}:control')} events")
    second.stop()
    second.start()
    equal(is_admitted(second, "stays"), False)
    wait_for_nodes(nodes)

with suite.check("streams that begin anew with earlier entries are read on, and nothing is lost but what was sent meanwhile"):
    async def begin_anew():
        sessions = await connect_all([(node, subject) for subject in ("anew", "then") for node in nodes])
        later = int(time.time() * 1000) + 3_600_000
        for stream in ("control", "sends"):
            redis.call("XADD", f"tollgate:1:{{events}}:{stream}", f"{later}-0", "n", "other", "k", "load", "d", "")
        # All nodes have read the entries when they have done what follows them.
        await revoke(first, "read")
        await asyncio.to_thread(until, lambda: not any(is_admitted(node, "read") for node in nodes), "the revocation is known")
        redis.call("DEL", "tollgate:1:{events}:control", "tollgate:1:{events}:sends")
        begun = time.monotonic()
        await revoke(first, "anew")
        ends = [await closed(session) for session in sessions[:3]]
        equal([end[:2] for end in ends], [(1008, "revoked")] * 3)
        took = max(end[2] for end in ends) - begun
        await asyncio.sleep(max(0, begun + 6 - time.monotonic()))
        for number, node in enumerate(nodes):
            body = {"filter": {"subject": "then"}, "text": str(number)}
            equal((await ask(node, "POST", "/v1/sessions/send", body))[0], 202)
        for session in sessions[3:]:
            equal(sorted([await asyncio.wait_for(session.recv(), 5) for _ in nodes]), ["0", "1", "2"])
        equal((await ask(first, "POST", "/v1/sessions/close", {"filter": {"subject": "then"}}))[0], 202)
        equal([(await closed(session))[0] for session in sessions[3:]], [1008] * 3)
        return took

    suite.note(f"a revocation after the streams began anew with the clock an hour back reached the last node in {asyncio.run(begin_anew()):.1f} s")

with suite.check("a close by subject at one node closes the sessions of all nodes, and no others"):
    async def close_all():
        sessions = await connect_all([(node, subject) for subject in ("kicked", "other") for node in nodes])
        body = {"filter": {"subject": "kicked"}, "code": 4001, "reason": "moved"}
        status, answer = await ask(second, "POST", "/v1/sessions/close", body)
        equal((status, answer), (202, {"selected": 1, "nodes": 2}))
        ends = [await closed(session) for session in sessions[:3]]
        equal([end[:2] for end in ends], [(4001, "moved")] * 3)
        equal([await is_open(session) for session in sessions[3:]], [True] * 3)
        status, page = await ask(first, "GET", "/v1/sessions?scope=cluster&subject=other")
        equal((status, page["total"], page["missing"], page["cursor"]), (200, 3, [], None))
        ids = {node["id"] for node in first.nodes()["nodes"]}
        equal({session["node"] for session in page["sessions"]}, ids)
        own = next(node["id"] for node in third.nodes()["nodes"] if node["this"])
        id = next(session["id"] for session in page["sessions"] if session["node"] == own)
        equal((await ask(first, "DELETE", f"/v1/sessions/{id}?code=4002&reason=gone"))[0], 204)
        equal((await closed(sessions[5]))[:2], (4002, "gone"))
        equal((await ask(first, "DELETE", f"/v1/sessions/{id}"))[0], 404)
        done = harness.run(harness.BINARY, "kick", "--admin", f"unix:{third.socket}", "--subject", "other")
        equal(done.stdout, "closing 0 sessions of this node, and any that match at 2 other nodes\n")
        equal([(await closed(session))[:2] for session in sessions[3:5]], [(1008, "closed by an operator")] * 2)

    asyncio.run(close_all())

with suite.check("sessions of other nodes that are named as replaced end, and a list of ids is bounded"):
    async def replaced():
        old, other = await connect(third, "replaced", "/one"), await connect(third, "replaced-2", "/one")
        ids = [third.ask("GET", f"/v1/sessions?subject={subject}")[1]["sessions"][0]["id"] for subject in ("replaced", "replaced-2")]
        key = "tollgate:1:{events}:control"
        redis.call("XADD", key, "*", "n", "other", "k", "replaced", "d", " ".join([ids[1]] * 257))
        redis.call("XADD", key, "*", "n", "other", "k", "replaced", "d", f"{'0' * 32} {ids[0]}")
        equal((await closed(old))[:2], (1008, "replaced by a newer session"))
        equal(await is_open(other), True)
        new = await connect(first, "replaced-2", "/one")
        equal((await closed(other))[:2], (1008, "replaced by a newer session"))
        await new.close()

    asyncio.run(replaced())

with suite.check("a fresh token at one node renews the sessions of its client on all nodes, and the server never has the token"):
    async def refresh():
        soon = int(time.time()) + 4
        tokens["renewed"] = secrets.foreign_token(sub="renewed", exp=soon)
        tokens["expires"] = secrets.foreign_token(sub="expires", exp=soon)
        sessions = await connect_all([(node, subject) for subject in ("renewed", "expires") for node in nodes])
        fresh = secrets.foreign_token(sub="renewed", exp=soon + 600)

        def post():
            connection = http.client.HTTPSConnection("localhost", second.proxy.port, context=secrets.client_context(), timeout=30)
            connection.request("POST", "/refresh", headers={"Authorization": f"Bearer {fresh}"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())

        equal(await asyncio.to_thread(post), (200, {"renewed": 1, "expires": soon + 600, "nodes": 2}))
        equal([(await closed(session))[0] for session in sessions[3:]], [1008] * 3)
        await asyncio.sleep(1)
        equal([await is_open(session) for session in sessions[:3]], [True] * 3)
        await asyncio.gather(*(session.close() for session in sessions[:3]))
        entries = str(redis.call("XRANGE", "tollgate:1:{events}:control", "-", "+"))
        equal(("renew" in entries, fresh in entries), (True, False))

    asyncio.run(refresh())

with suite.check("a close that is read late spares the sessions that began after it, and a late message is not sent"):
    async def late():
        old = await connect(third, "late")
        before, sent = counted(third), counted(first)["sent"]
        cut()
        for target, body in (("close", {"filter": {"subject": "late"}}), ("send", {"filter": {"subject": "late"}, "text": "late"})):
            equal((await ask(first, "POST", f"/v1/sessions/{target}", body))[0], 202)
        new = await connect(third, "late")
        await asyncio.sleep(11)
        await asyncio.to_thread(restore)
        equal((await closed(old))[:2], (1008, "closed by an operator"))
        equal(await is_open(new), True)
        equal((await ask(first, "POST", "/v1/sessions/send", {"filter": {"subject": "late"}, "text": "now"}))[0], 202)
        equal(await asyncio.wait_for(new.recv(), 5), "now")
        await new.close()
        after = counted(third)
        equal((after["expired"] - before["expired"], after["received"] - before["received"]), (1, 3))
        equal(counted(first)["sent"] - sent, 3)

    asyncio.run(late())

with suite.check(f"messages to {SENT_TO} sessions of three nodes arrive exactly once"):
    async def send():
        wait_for_nodes(nodes)
        sessions = await connect_all([(nodes[at % 3], "crowd") for at in range(SENT_TO)])
        received = [[] for _ in sessions]
        times = []

        async def receive(at):
            with contextlib.suppress(websockets.exceptions.ConnectionClosed):
                async for message in sessions[at]:
                    received[at].append(message)
                    times.append(time.monotonic())

        receiving = [asyncio.create_task(receive(at)) for at in range(len(sessions))]
        begun = time.monotonic()
        for number, node in enumerate(nodes):
            body = {"filter": {"subject": "crowd"}, "text": f"message {number}"}
            status, answer = await ask(node, "POST", "/v1/sessions/send", body)
            equal((status, answer), (202, {"selected": SENT_TO // 3, "nodes": 2}))
        body = {"filter": {"subject": "crowd"}, "binary": "AP8K"}
        equal((await ask(first, "POST", "/v1/sessions/send", body))[0], 202)
        end = time.monotonic() + 30
        while len(times) < 4 * SENT_TO and time.monotonic() < end:
            await asyncio.sleep(0.05)
        last = max(times) - begun
        # A second copy would follow the first one.
        await asyncio.sleep(1)
        expected = sorted(["message 0", "message 1", "message 2", "\0\xff\n"])
        for messages in received:
            texts = [message if isinstance(message, str) else message.decode("latin-1") for message in messages]
            equal(sorted(texts), expected)
        await asyncio.gather(*(session.close() for session in sessions))
        await asyncio.gather(*receiving)
        return last

    last = asyncio.run(send())
    suite.note(f"4 messages to {SENT_TO} sessions each: the last one arrived {last * 1000:.0f} ms after the first request")

with suite.check("messages are gone from the server a minute after the last one, and closes are kept for longer"):
    lives = [redis.call("PTTL", f"tollgate:1:{{events}}:{stream}") for stream in ("sends", "control")]
    equal((0 < lives[0] <= 60_000, 60_000 < lives[1] <= 3_600_000), (True, True))

with suite.check("closes while a node is upgraded end all of its sessions"):
    async def close_during():
        subjects = [f"upgraded-{number}" for number in range(UPGRADED)]
        sessions = await connect_all([(upgraded, subject) for subject in subjects for _ in range(3)])
        ending = [asyncio.create_task(closed(session, 30)) for session in sessions]
        upgrading = asyncio.create_task(asyncio.to_thread(upgraded.upgrade))
        for subject in subjects:
            equal((await ask(first, "POST", "/v1/sessions/close", {"filter": {"subject": subject}, "code": 4003}))[0], 202)
        moved = await upgrading
        codes = [end[0] for end in await asyncio.gather(*ending)]
        equal(codes.count(4003), len(codes))
        return moved

    upgraded = Node("upgraded", configuration, directory, at(redis.port) + secret_key)
    wait_for_nodes([*nodes, upgraded])
    moved = [asyncio.run(close_during()) for _ in range(UPGRADES)]
    suite.note(f"{UPGRADES} upgrades, each with {UPGRADED} closes at another node meanwhile: {moved} of {3 * UPGRADED} sessions had moved")
    upgraded.kill()
    wait_for_nodes(nodes)

with suite.check("a message that is too large for a cluster is refused"):
    status, problem = first.ask("POST", "/v1/sessions/send", {"all": True, "text": "x" * (64 * 1024 + 1)})
    equal((status, problem["detail"]), (413, "a message to the sessions of a cluster may have at most 64 KiB"))
    equal(first.ask("POST", "/v1/sessions/send", {"all": True, "text": "x" * 64 * 1024})[0], 202)

with suite.check("the list of all nodes has each session once, in order, over pages of any size"):
    async def list_all():
        sessions = await connect_all([(nodes[at * 7 // 5 % 3], "listed") for at in range(40)])
        pages = {}
        for limit, sort in ((1, "age"), (7, "age"), (7, "-age"), (13, "id"), (1000, "-bytes")):
            ids, ages, query = [], [], f"scope=cluster&subject=listed&limit={limit}&sort={sort}"
            target = query
            while True:
                status, page = await ask(nodes[limit % 3], "GET", f"/v1/sessions?{target}")
                equal((status, page["total"], page["missing"]), (200, 40, []))
                ids += [session["id"] for session in page["sessions"]]
                ages += [session["started"] for session in page["sessions"]]
                if page["cursor"] is None:
                    break
                target = f"{query}&cursor={page['cursor']}"
            equal((len(ids), len(set(ids))), (40, 40))
            if sort.endswith("age"):
                # Times are shown in seconds.
                equal(ages, sorted(ages, reverse=sort == "age"))
            pages[limit, sort] = ids
        equal(pages[7, "-age"], pages[1, "age"][::-1])
        begun = time.monotonic()
        for _ in range(50):
            await ask(first, "GET", "/v1/sessions?scope=cluster&subject=listed&limit=100")
        taken = (time.monotonic() - begun) / 50
        text = harness.run(harness.BINARY, "sessions", "--admin", f"unix:{second.socket}", "--cluster", "--subject", "listed").stdout
        lines = text.splitlines()
        equal((lines[0].split()[:3], len(lines)), (["NODE", "ID", "ROUTE"], 41))
        equal({line.split()[0] for line in lines[1:]}, {node["id"] for node in first.nodes()["nodes"] if node["sessions"] is not None})
        await asyncio.gather(*(session.close() for session in sessions))
        return taken

    suite.note(f"a list of 40 sessions of three nodes took {asyncio.run(list_all()) * 1000:.1f} ms")
    equal(first.ask("GET", "/v1/sessions?scope=all")[0], 400)
    # The answers expire.
    time.sleep(0.1)
    suite.note(f"lists of answers that are left: {len(redis.keys('tollgate:1:reply:*'))}")

with suite.check("an idle cluster costs few commands, also where only sessions are shared"):
    def commands(seconds):
        """Returns the number of each command in this time."""
        redis.call("CONFIG", "RESETSTAT")
        time.sleep(seconds)
        return redis.calls()

    def readings(counts):
        return counts.get("xread", 0)

    idle = commands(10)
    suite.note(f"commands of three idle nodes in 10 s, with those within scripts: {idle}")
    equal(readings(idle) <= 9, True)
    fourth = Node("fourth", configuration, directory, at(redis.port) + 'share = ["sessions"]\nprefix = "other:"\n')
    until(lambda: fourth.answers(), "the server answers")
    equal(readings(commands(10)) <= 12, True)
    assert "cluster" not in fourth.ask("POST", "/v1/revocations", {"jti": "x"})[1]
    fourth.stop()

with suite.check("a node that does not answer is named"):
    cut()
    status, page = first.ask("GET", "/v1/sessions?scope=cluster")
    own = next(node["id"] for node in third.nodes()["nodes"] if node["this"])
    equal((status, page["missing"]), (200, [own]))
    status, page = third.ask("GET", "/v1/sessions?scope=cluster")
    equal((status, len(page["missing"])), (200, 2))
    restore()

with suite.check("entries that are not understood are skipped, and the log says so once"):
    before, unknown = first.lines(), counted(first)["unknown"]
    for number in range(50):
        redis.call("XADD", "tollgate:1:{events}:control", "*", "n", "other", "k", "close", "d", f"not JSON {number}")
        redis.call("XADD", "tollgate:1:{events}:sends", "*", "n", "other", "k", "unknown", "d", "{}")

    async def still_works():
        [session] = await connect_all([(third, "after")])
        await revoke(first, "after")
        equal((await closed(session))[:2], (1008, "revoked"))

    asyncio.run(still_works())
    until(lambda: counted(first)["unknown"] == unknown + 50, "all entries are read")
    equal(first.lines() - before <= 6, True)

with suite.check("without its server each node goes on by itself, with few lines in the log, and shares again when it returns"):
    wait_for_nodes(nodes)
    before = [node.lines() for node in nodes]
    redis.stop(signal.SIGKILL)
    for node in nodes:
        until(lambda node=node: not node.answers(), "the node finds out")

    async def alone():
        failed = [counted(node)["failed"] for node in nodes]
        sessions = await connect_all([(node, "alone") for node in nodes])
        status, answer = await ask(first, "POST", "/v1/sessions/close", {"filter": {"subject": "alone"}})
        equal((status, answer), (202, {"selected": 1, "unreached": "the cluster's server does not take the operation"}))
        equal((await closed(sessions[0]))[:2], (1008, "closed by an operator"))
        equal([await is_open(session) for session in sessions[1:]], [True] * 2)
        equal((await revoke(second, "alone"))["cluster"], False)
        equal((await closed(sessions[1]))[:2], (1008, "revoked"))
        equal([counted(node)["failed"] - count for node, count in zip(nodes, failed)], [1, 1, 0])
        await asyncio.sleep(5)
        lines = [node.lines() - count for node, count in zip(nodes, before)]
        suite.note(f"lines in the logs of the nodes while the server was away for some seconds: {lines}")
        equal(max(lines) <= 8, True)
        redis.start()
        begun = time.monotonic()
        end = await closed(sessions[2], 20)
        equal(end[:2], (1008, "revoked"))
        return end[2] - begun

    took = asyncio.run(alone())
    suite.note(f"a revocation that was made while the server was away reached another node {took:.1f} s after it returned")
    equal(wait_for_nodes(nodes) < 15, True)

with suite.check("all keys have the prefix, the version and a time to live"):
    keys = redis.keys()
    equal([key for key in keys if not key.startswith(("tollgate:1:", "other:1:"))], [])
    lives = {key: redis.call("PTTL", key) for key in keys}
    # A key may end between the two commands.
    equal({key: life for key, life in lives.items() if life == -1}, {})
    suite.note("keys: " + " ".join(sorted(key.removeprefix("tollgate:1:") for key in keys)))

suite.finish()
