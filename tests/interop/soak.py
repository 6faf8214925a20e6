"""Mixed traffic with faults for a long time: every echo is complete, and all resources are released at the end.

TOLLGATE_SOAK is the duration in minutes.
"""

import asyncio
import contextlib
import logging
import os
import random
import time

import harness
import websockets
from harness import equal

MINUTES = float(os.environ.get("TOLLGATE_SOAK") or 1)
CLIENTS = 60
MESSAGE_MAX = 256 * 1024
PATIENCE_SECONDS = 30
SETTLE_SECONDS = 60
GROWTH_MAX = 0.25  # relative to the memory after the first tenth of the time

suite = harness.Suite("soak")
logging.getLogger("websockets").setLevel(logging.CRITICAL)  # the faults are intended
harness.many_files()
directory = harness.work_dir("soak")
secrets = harness.Secrets(directory)
context = secrets.client_context()
dice = random.Random(1)
count = dict.fromkeys(["talked", "rejected", "vanished", "stalled", "broke a rule", "left the handshake", "lost its upstream",
                       "was throttled", "closed for its rate"], 0)


def some_bytes():
    """Returns a message of random size. Sizes are heavy-tailed: most messages are short, and some are long."""
    return dice.randbytes(min(int(dice.paretovariate(0.6) * 20), MESSAGE_MAX))


async def backend(connection):
    """Echoes messages; below /dies it aborts the connection after a few."""
    dies_after = dice.randrange(5) if connection.request.path.startswith("/dies") else None
    with contextlib.suppress(websockets.ConnectionClosed):
        async for message in connection:
            if dies_after == 0:
                connection.transport.abort()
                return
            dies_after = None if dies_after is None else dies_after - 1
            await connection.send(message)


def connect(path="/echo"):
    return websockets.connect(proxy.url(path), ssl=context, max_size=None, open_timeout=PATIENCE_SECONDS,
                              compression=dice.choice([None, "deflate"]))


async def talk():
    async with connect() as connection:
        for _ in range(dice.randrange(1, 40)):
            messages = [some_bytes() for _ in range(dice.randrange(1, 6))]
            for message in messages:
                # A message in one frame, or in fragments.
                await connection.send([message[:50], message[50:]] if dice.random() < 0.2 else message)
            for message in messages:
                equal(await asyncio.wait_for(connection.recv(), PATIENCE_SECONDS), message)
            # Some pauses are longer than the time until a session hibernates.
            await asyncio.sleep(dice.choice([0, 0.05, 0.2, 6 if dice.random() < 0.1 else 0.5]))
    equal(connection.close_code, 1000)
    return "talked"


async def refused():
    try:
        async with connect("/nowhere"):
            raise AssertionError("admitted")
    except websockets.InvalidStatus as error:
        equal(error.response.status_code, 404)
    return "rejected"


async def vanish():
    async with connect() as connection:
        await connection.send(some_bytes())
        connection.transport.abort()
    return "vanished"


async def stall():
    async with connect() as connection:
        connection.transport.pause_reading()
        with contextlib.suppress(TimeoutError, websockets.ConnectionClosed):
            async with asyncio.timeout(3):
                while True:
                    await connection.send(bytes(65536))
        connection.transport.abort()
    return "stalled"


async def break_a_rule():
    async with connect() as connection:
        connection.transport.write(b"\x83\x80\0\0\0\0")  # a reserved opcode
        try:
            await asyncio.wait_for(connection.recv(), PATIENCE_SECONDS)
        except websockets.ConnectionClosed:
            equal(connection.close_code, 1002)
    return "broke a rule"


async def leave_in_the_handshake():
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"\x16\x03\x01\x02\0"[:dice.randrange(6)])
    await asyncio.sleep(dice.random())
    writer.transport.abort()
    return "left the handshake"


async def lose_the_upstream():
    async with connect("/dies") as connection:
        try:
            for _ in range(8):
                await connection.send(b"?")
                await asyncio.wait_for(connection.recv(), PATIENCE_SECONDS)
            raise AssertionError("the upstream did not disconnect")
        except websockets.ConnectionClosed:
            equal(connection.close_code, 1014)
    return "lost its upstream"


async def be_throttled():
    async with connect("/slow") as connection:
        for number in range(30):
            await connection.send(str(number))
        for number in range(30):
            equal(await asyncio.wait_for(connection.recv(), PATIENCE_SECONDS), str(number))
    return "was throttled"


async def exceed_the_rate():
    async with connect("/strict") as connection:
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                await connection.send("!")
                await asyncio.sleep(0)
        await asyncio.wait_for(connection.wait_closed(), PATIENCE_SECONDS)
        equal(connection.close_code, 1008)
    return "closed for its rate"


WAYS = {talk: 8, refused: 1, vanish: 2, stall: 1, break_a_rule: 2, leave_in_the_handshake: 2, lose_the_upstream: 1,
        be_throttled: 1, exceed_the_rate: 1}


async def client(end):
    while time.monotonic() < end:
        way, = dice.choices(list(WAYS), WAYS.values())
        count[await way()] += 1
        await asyncio.sleep(dice.random())


async def watch(begun, end):
    """Returns the memory of the proxy at each tenth of the time, in KiB."""
    memory = []
    for tenth in range(1, 11):
        await asyncio.sleep(begun + (end - begun) * tenth / 10 - time.monotonic())
        memory.append(proxy.memory_kib())
    return memory


async def soak(seconds):
    async with websockets.serve(backend, "127.0.0.1", upstream_port, max_size=None, compression=None):
        begun = time.monotonic()
        end = begun + seconds
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch(begun, end))
            for _ in range(CLIENTS):
                group.create_task(client(end))
    return watching.result()


def settled():
    """Waits until the number of the proxy's descriptors is stable, and returns it."""
    counts, end = [], time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < end and not (len(counts) > 20 and min(counts[-20:]) == max(counts[-20:])):
        counts.append(len(os.listdir(f"/proc/{proxy.pid}/fd")))
        time.sleep(0.25)
    return counts[-1]


upstream_port = harness.free_port()
proxy = harness.Proxy("".join([
    "[log]\nformat = \"text\"\nlevel = \"warn\"\n\n",
    harness.listener(secrets),
    harness.upstream("soak", upstream_port),
    harness.route("echo", "/echo", "soak", {"write_timeout": '"2s"', "ping_interval": '"2s"'}),
    harness.route("dies", "/dies", "soak"),
    harness.route("slow", "/slow", "soak", {"message_rate": '"20/s"', "message_burst": 10, "on_excess": '"delay"'}),
    harness.route("strict", "/strict", "soak", {"message_rate": '"20/s"', "message_burst": 10, "on_excess": '"close"'}),
]), directory)
with suite.check("a short run to warm up"):
    asyncio.run(soak(2))
at_first = settled()
with suite.check(f"{CLIENTS} clients for {MINUTES:g} minutes: every echo is complete, and memory does not grow"):
    memory = asyncio.run(soak(MINUTES * 60))
    suite.note("sessions: " + ", ".join(f"{n:,} {what}" for what, n in count.items()))
    suite.note("resident memory at each tenth, MiB: " + ", ".join(f"{kib / 1024:.1f}" for kib in memory))
    equal(proxy.alive(), True)
    equal(min(count.values()) > 0, True)
    if memory[-1] > memory[0] * (1 + GROWTH_MAX):
        raise AssertionError("memory grows")
with suite.check("all descriptors are closed again"):
    equal(settled(), at_first)
suite.finish()
