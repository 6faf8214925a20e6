"""Clients behind bad networks, made by fault_proxy.py: delay, jitter, a slow link, black holes, resets, and the return of many
clients at once.

TOLLGATE_NETWORKS=full measures instead, with black holes of 30 s and a link of 256 kbit/s, and prints the tables of
config/networks.md.
"""

import asyncio
import os
import time

import harness
import networks_figures
import websockets
from fault_proxy import DOWN, FOREVER, UP, FaultProxy
from harness import equal
from networks_peers import PATIENCE_SECONDS, Setting, at_once, ladder, mass_return, quantiles, spread, until

FULL = os.environ.get("TOLLGATE_NETWORKS") == "full"
SLACK = 3  # seconds that a busy machine may add to a timeout
CLIENTS = 100  # that lose their sessions together
SPREAD = 4  # seconds
HANDSHAKE_SECONDS = 5
STEP = 0.5  # seconds
KBIT = 1000

BEAT = {"ping_interval": '"1s"', "pong_timeout": '"1s"', "close_timeout": '"1s"'}
ONE = {**BEAT, "sessions_per_subject": "1"}
ROUTES = {
    "plain": {},
    "block": {"on_slow_client": '"block"'},
    "close": {"on_slow_client": '"close"', "write_timeout": '"2s"', "close_timeout": '"1s"'},
    "drop": {"on_slow_client": '"drop_oldest"', "slow_client_buffer": '"64KiB"'},
    "patient": {"ping_interval": '"1s"', "pong_timeout": '"4s"'},
    "beat": BEAT,
    "full": {**BEAT, "write_timeout": '"3s"'},
    "oldest": {**ONE, "on_session_limit": '"close_oldest"'},
    "refuse": {**ONE, "on_session_limit": '"refuse"'},
}
SECTIONS = f'upstream_loss_close_code = 1012\nreconnect_spread = "{SPREAD}s"\n'

suite = harness.Suite("networks")
harness.many_files()
directory = harness.work_dir("networks")
secrets = harness.Secrets(directory)
if FULL:
    networks_figures.measure(suite, secrets, directory)
    suite.finish()
setting = Setting(secrets, directory, ROUTES, SECTIONS, HANDSHAKE_SECONDS)


def within(seconds, low, high):
    if not low <= seconds <= high:
        raise AssertionError(f"{seconds:.2f} s, not {low:.2f} to {high:.2f} s")


async def closed(*sessions):
    await asyncio.gather(*(session.close() for session in sessions))


# ------------------------------------------------------------------------------------------------------- delay, rate, stalls


async def slow_paths():
    kinds = {"100 ms each way": {"delay": 0.1}, "20 to 120 ms each way": {"delay": 0.02, "jitter": 0.1},
             "256 kbit/s": {"rate": 256 * KBIT}, "all of it": {"delay": 0.05, "jitter": 0.05, "rate": 256 * KBIT}}
    sessions = await setting.open_many(2 * len(kinds), "plain")
    for session, settings in zip(sessions, [*kinds.values()] * 2, strict=True):
        session.link.set(**settings)
    seconds = await asyncio.gather(*(session.talk(100, 0.02) for session in sessions))
    for kind, taken in zip(kinds, seconds, strict=False):
        suite.note(f"{kind}: a message returns in {quantiles(taken)[0]:.0f} ms (median), {quantiles(taken)[1]:.0f} ms (p99)")
    await closed(*sessions)


with suite.check("sessions with delay, jitter and 256 kbit/s lose and reorder nothing"):
    setting.run(slow_paths())


async def slow_client(route, count, size, rate, finished):
    session = await setting.open(route)
    session.link.set(DOWN, rate=rate)
    begun = time.monotonic()
    await session.feed(count, size)
    await until(lambda: finished(session), f"the feed of {session.path}")
    return session, begun


async def blocked():
    """The feed is read no faster than the client takes it, and all of it arrives."""
    count, size, rate = 8000, 1000, 16_000 * KBIT
    session, begun = await slow_client("block", count, size, rate, lambda session: len(session.numbers) > count // 8)
    waiting = session.waiting()
    await until(lambda: len(session.numbers) == count, "all of the feed")
    equal(session.numbers, list(range(count)))
    least = 8 * count * size / rate
    taken, given = session.times[-1] - begun, session.served.fed[-1] - begun
    within(taken, 0.8 * least, 1.5 * least + SLACK)
    within(given, 0.2 * least, 1.5 * least + SLACK)
    await closed(session)
    return (f"block: 8 MB at 16 Mbit/s arrived in {taken:.1f} s, and the server had sent them after {given:.1f} s; meanwhile"
            f" {waiting['to the client'] // 1024} KiB waited for the client and {waiting['from the server'] // 1024} KiB on the server's side")


async def closed_as_slow():
    session, begun = await slow_client("close", 4000, 1000, 400 * KBIT, lambda session: session.served.end)
    equal(session.served.end, "1008 slow consumer")
    line = await setting.log_line(session.path)
    equal((line["code"], line["by"]), (1008, "tollgate"))
    # The kernel holds up to 64 KiB unsent. At this rate these and the bytes on their way take more than write_timeout.
    within(session.served.ended_at - begun, 2, 20 + SLACK)
    await until(lambda: session.end, "the client sees the end")
    equal(session.numbers, list(range(len(session.numbers))))
    return (f"close: after {session.served.ended_at - begun:.1f} s at 400 kbit/s the server saw {session.served.end!r}, and the client"
            f" {session.end!r} after {session.ended_at - begun:.1f} s and {len(session.numbers)} whole messages")


async def dropped():
    count = 3000
    session, begun = await slow_client("drop", count, 1000, 2000 * KBIT, lambda session: session.numbers[-1:] == [count - 1])
    equal(session.numbers, sorted(set(session.numbers)))
    await closed(session)
    line = await setting.log_line(session.path)
    equal((line["dropped"] > 0, line["dropped"] + len(session.numbers)), (True, count))
    return f"drop_oldest: of {count:,} messages {len(session.numbers)} arrived, in order and with the last; {line['dropped']} were dropped"


async def slow_clients():
    for note in await asyncio.gather(blocked(), closed_as_slow(), dropped()):
        suite.note(note)


with suite.check("a download over a slow link: on_slow_client = \"block\" delivers all, \"close\" ends with 1008, \"drop_oldest\" delivers the "
                 "newest, and counts the others"):
    setting.run(slow_clients())


async def short_holes():
    sessions = await setting.open_many(4, "patient", heartbeat=(1, 4))
    talks = [asyncio.create_task(session.talk(200, 0.02)) for session in sessions]
    await until(lambda: all(len(session.numbers) > 20 for session in sessions), "the first messages")
    for session, directions in zip(sessions, [(), (), (UP,), (DOWN,)], strict=True):
        session.link.hole(2.5, *directions)
    seconds = [max(taken) for taken in await asyncio.gather(*talks)]
    within(min(seconds), 2, 2.5 + SLACK)
    await closed(*sessions)
    equal([await session.served_end() for session in sessions], ["1000"] * 4)


with suite.check("a black hole of 2.5 s that pong_timeout = \"4s\" outlasts: the sessions stay open, and nothing is lost"):
    setting.run(short_holes())


async def long_holes():
    kinds = {"both ways": (), "from the client": (UP,), "to the client": (DOWN,)}
    # A client without pings gets the Close of Tollgate, which a client with pings does not wait for.
    own = {"both ways": (1, 1), "from the client": (None, None), "to the client": (1, 1)}
    sessions = [await setting.open("beat", heartbeat=own[kind], close_timeout=1) for kind in kinds]
    for session in sessions:
        await session.talk(3)
    begun = time.monotonic()
    for session, directions in zip(sessions, kinds.values(), strict=True):
        session.link.hole(8, *directions)
    for kind, session in zip(kinds, sessions, strict=True):
        served = await session.served_end()
        line = await setting.log_line(session.path)
        await until(lambda session=session: session.end, "the client sees the end")
        suite.note(f"black hole {kind}: the server saw {served!r} after {session.served.closed_at - begun:.1f} s, the client {session.end!r}"
                   f" after {session.ended_at - begun:.1f} s; log: by {line['by']}, {line['code']}, {line['cause']}")
        within(session.ended_at - begun, 0.5, 3 + SLACK)
        within(session.served.closed_at - begun, 0.5, 2 + SLACK)
    both, up, down = sessions
    line = await setting.log_line(both.path)
    equal((both.served.end, line["by"], line["code"], line["cause"]), ("1001 no pong", "tollgate", 1001, "client_no_pong"))
    equal((both.end, up.end, up.served.end), ("1006", "1001 no pong", "1001 no pong"))
    equal(down.served.end.split(" ")[0], "1011")  # the client's own Close still arrives


with suite.check("a longer black hole: Tollgate ends the session with 1001 \"no pong\", and the client by its own ping"):
    setting.run(long_holes())


async def full_queue():
    """A client that takes nothing more of a feed is not pinged behind it: it is given up after write_timeout."""
    session = await setting.open("full")
    session.link.hole(FOREVER, DOWN)
    begun = time.monotonic()
    await session.feed(8000, 1000)
    served = await session.served_end()
    line = await setting.log_line(session.path)
    seconds = session.served.closed_at - begun
    suite.note(f"a feed into a black hole: the server saw {served!r} after {seconds:.1f} s with write_timeout = \"3s\"; log: by {line['by']},"
               f" {line['code']}, {line['cause']}")
    equal((served.split(" ")[0], line["by"], line["code"]), ("1001", "tollgate", 1001))
    within(seconds, 2, 3 + SLACK)
    session.link.reset()


with suite.check("a feed into a black hole ends with 1001 after write_timeout"):
    setting.run(full_queue())


async def lost_connections():
    first, second, half = sessions = await setting.open_many(3, "plain")
    await asyncio.gather(*(session.talk(3) for session in sessions))
    begun = time.monotonic()
    first.link.reset()
    second.connection.transport.abort()
    half.link.half_close(UP)
    ends = [await session.served_end() for session in sessions]
    for session in sessions:
        within(session.served.ended_at - begun, 0, SLACK)
        await until(lambda session=session: session.end, "the client sees the end")
    lines = [await setting.log_line(session.path) for session in sessions]
    for name, session, line in zip(("reset by the network", "reset by the client", "FIN without a Close"), sessions, lines, strict=True):
        suite.note(f"{name}: the server saw {session.served.end!r} after {1000 * (session.served.ended_at - begun):.0f} ms, the client"
                   f" {session.end!r}; log: by {line['by']}, {line['code']}, {line['cause']}")
    equal([end.split(" ")[0] for end in ends], ["1001"] * 3)
    equal(first.end, "1006")


with suite.check("a connection that is reset or closed: the server gets a Close at once"):
    setting.run(lost_connections())

# ------------------------------------------------------------------------------------------------------------------- npm ws


def npm_clients():
    """Runs clients made of npm `ws` behind a fault proxy of their own."""
    if not (harness.INTEROP / "node/node_modules/ws").exists():
        raise harness.Skip("npm ws is not installed")
    faults = FaultProxy(setting.proxy.port)
    faults.set(delay=0.02, jitter=0.05, rate=256 * KBIT)
    program = harness.Node("node/faults.js", directory)

    def heal():
        end = time.monotonic() + PATIENCE_SECONDS
        while setting.backend.sessions["/beat/npm"].end is None and time.monotonic() < end:
            time.sleep(0.02)
        faults.hole(0)

    program.tell(base=f"wss://localhost:{faults.port}", ca=str(secrets.ca), pingMs=1000, lateMs=2000)
    actions = {"hole": faults.hole, "heal": heal, "reset": faults.reset}
    setting.run(asyncio.to_thread(program.run_checks, suite, 60, actions))
    faults.close()


async def ends_of_npm_clients():
    paths = ("/plain/npm", "/beat/npm", "/beat/npm-next", "/plain/npm-reset", "/plain/npm-last")
    served = [await until(lambda path=path: setting.backend.sessions[path], path) for path in paths]
    ends = [await until(lambda one=one: one.end, "the backend sees the end") for one in served]
    equal([ends[0], ends[1], ends[2], ends[3].split(" ")[0]], ["1000", "1001 no pong", "1005", "1001"])


with suite.check("npm ws: the server sees why each of its sessions ended"):
    npm_clients()
    setting.run(ends_of_npm_clients())

# ------------------------------------------------------------------------------------------- new sessions beside a dead one


async def replaced():
    old = await setting.open("oldest", "ann")
    await old.talk(3)
    begun = time.monotonic()
    old.link.hole(10)
    new = await setting.open("oldest", "ann")
    seconds = time.monotonic() - begun
    equal(await old.served_end(), "1008 replaced by a newer session")
    within(seconds, 0, SLACK)
    await new.talk(3)
    line = await setting.log_line(old.path)
    suite.note(f"close_oldest: the new session was open after {1000 * seconds:.0f} ms; the server saw the end of the old one after"
               f" {1000 * (old.served.closed_at - begun):.0f} ms; log: {line['code']}, {line['cause']}")
    await closed(new)


async def refused():
    old = await setting.open("refuse", "bob")
    await old.talk(3)
    begun, answers = time.monotonic(), []
    old.link.hole(20)
    while True:
        try:
            new = await setting.open("refuse", "bob")
            break
        except websockets.InvalidStatus as error:
            answers.append(error.response.status_code)
            await asyncio.sleep(0.1)
    seconds = time.monotonic() - begun
    equal(set(answers), {429})
    equal(await old.served_end(), "1001 no pong")
    # The ping, the pong, and the closing handshake; the ping may come as late as an interval after the last message.
    within(seconds, 1, 3 + SLACK)
    suite.note(f"refuse: {len(answers)} attempts got 429, and the client was locked out for {seconds:.1f} s with 1 s each of ping_interval,"
               f" pong_timeout and close_timeout; the server saw the end of the old session after {old.served.closed_at - begun:.1f} s")
    await closed(new)


with suite.check("one session a subject, and the old one in a black hole: close_oldest admits the new one at once"):
    setting.run(replaced())
with suite.check("one session a subject, and the old one in a black hole: refuse locks the client out until the old one has ended"):
    setting.run(refused())

# --------------------------------------------------------------------------------------------------------------- handshakes


async def handshakes():
    setting.faults.set(delay=0.3, jitter=0.1)
    delayed = await setting.open_many(5, "plain")
    setting.faults.set(delay=0.1, jitter=0)
    opening = asyncio.create_task(setting.open("plain"))
    link = await until(lambda: next((link for link in list(setting.faults.links.values()) if link.forwarded(DOWN) == 0), None), "a link")
    link.hole(1.5)
    stalled = await opening
    setting.faults.set(delay=0)
    within(stalled.opened_in, 1.5, HANDSHAKE_SECONDS)
    suite.note(f"an upgrade took {max(session.opened_in for session in delayed):.1f} s with 300 to 400 ms each way, and"
               f" {stalled.opened_in:.1f} s with a stall of 1.5 s")
    await asyncio.gather(*(session.talk(3) for session in (*delayed, stalled)))
    await closed(*delayed, stalled)


async def stopped_handshake():
    reader, writer = await asyncio.open_connection("127.0.0.1", setting.faults.port)
    begun = time.monotonic()
    link = await until(lambda: setting.faults.links.get(writer.get_extra_info("sockname")[1]), "a link")
    await until(lambda: link.connected, "the connection to Tollgate")
    writer.write(b"\x16\x03\x01\x02\x00")  # the header of a record, and never its content
    other = await setting.open("plain")
    within(other.opened_in, 0, SLACK)
    try:
        await asyncio.wait_for(reader.read(), HANDSHAKE_SECONDS + SLACK)
    except ConnectionResetError:
        pass
    within(time.monotonic() - begun, HANDSHAKE_SECONDS - 0.5, HANDSHAKE_SECONDS + SLACK)
    writer.close()
    await closed(other)


with suite.check("TLS handshakes with delays and stalls succeed within handshake_timeout"):
    setting.run(handshakes())
with suite.check("a TLS handshake that stops ends at handshake_timeout, and delays no other one"):
    setting.run(stopped_handshake())

# ------------------------------------------------------------------------------------------------------------- mass returns


def note_return(name, begun, times, seconds):
    steps = spread(times, begun, STEP)
    suite.note(f"{name}: {CLIENTS} clients returned within {max(times) - begun:.1f} s, per {STEP} s: {' '.join(map(str, steps))}; an upgrade took"
               f" {quantiles(seconds)[0]:.0f} ms (median), {quantiles(seconds)[1]:.0f} ms (p99)")
    return steps


with suite.check(f"{CLIENTS} clients whose server dies are closed with 1012 over reconnect_spread = \"{SPREAD}s\""):
    begun, ends, times, seconds = setting.run(mass_return(setting, CLIENTS, lambda: setting.backend.kill("/plain/"), at_once))
    steps = note_return("the server died, and clients return at once", begun, times, seconds)
    equal({end.split(" ")[0] for _, end in ends}, {"1012"})
    within(max(at for at, _ in ends) - begun, 0.7 * SPREAD, SPREAD + SLACK)
    equal(max(spread([at for at, _ in ends], begun, STEP)) <= 3 * CLIENTS * STEP / SPREAD, True)

with suite.check(f"{CLIENTS} clients whose connections are reset return at once, or with a random wait of up to {SPREAD} s over this time"):
    peaks = []
    for name, wait in (("resets, and clients return at once", at_once), ("resets, and clients wait at random", ladder(SPREAD, 60))):
        begun, ends, times, seconds = setting.run(mass_return(setting, CLIENTS, setting.faults.reset, wait))
        equal({end for _, end in ends}, {"1006"})
        within(max(at for at, _ in ends) - begun, 0, SLACK)
        note_return(name, begun, times, seconds)
        peaks.append(max(spread(times, begun, 2 * STEP)))
    equal(peaks[1] <= 3 * CLIENTS * 2 * STEP / SPREAD, True)

with suite.check("Tollgate is alive, and drains"):
    equal(setting.proxy.stop(), 0)
suite.finish()
