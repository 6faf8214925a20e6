"""The measurements of TOLLGATE_NETWORKS=full, for the suite networks.py: tables in Markdown, as config/networks.md has them.

They say what happened on this machine and assert nothing but that messages are neither reordered nor doubled.
"""

import asyncio
import statistics
import time

import harness
from fault_proxy import DOWN, FOREVER
from networks_peers import Setting, at_once, ladder, mass_return, quantiles, spread, until

KBIT = 1000
HOLE_SECONDS = 30
WATCH_SECONDS = 120  # for the end of sessions whose network never returns
GROUP, OPENING_SECONDS = 20, 60  # sessions of each kind, twice; they are opened over this time
STUCK, STUCK_MESSAGES = 40, 4000  # sessions, and messages of 1 KB for each
CLIENTS, SPREAD = 300, 10
FEED_SECONDS, FEED_RATE = 50, 64  # messages of 1 KB per second: twice of what 256 kbit/s takes
OFF = (None, None)

# Tollgate's ping_interval and pong_timeout, and the interval and timeout of the client's own pings.
HEARTBEATS = [((30, 10), OFF), ((30, 10), (20, 20)), ((20, 35), OFF), ((20, 35), (20, 20)), ((10, 5), OFF), ((10, 5), (5, 5)),
              ((10, 40), OFF), ((20, 60), (20, 60))]
BURSTS = [(30, 10), (10, 5), (5, 2)]


def limits(beat, **more):
    interval, timeout = beat
    return {"ping_interval": f'"{interval}s"', "pong_timeout": f'"{timeout}s"', **more}


def name(beat):
    return "beat-{}-{}".format(*beat)


ROUTES = {
    "plain": {},
    **{name(beat): limits(beat) for beat in {beat for beat, _ in HEARTBEATS} | set(BURSTS)},
    "block": {}, "close": {"on_slow_client": '"close"'}, "drop": {"on_slow_client": '"drop_oldest"', "slow_client_buffer": '"64KiB"'},
    "stuck": {"ping_interval": '"off"', "write_timeout": '"1h"'},
    "stuck-drop": {"ping_interval": '"off"', "write_timeout": '"1h"', "on_slow_client": '"drop_oldest"'},
}


def table(heads, rows):
    print("", "| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |", sep="\n")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print(flush=True)


def times(seconds):
    """Returns the least, the median and the longest time."""
    return "{:.0f}, {:.0f}, {:.0f} s".format(min(seconds), statistics.median(seconds), max(seconds)) if seconds else "-"


def measure(suite, secrets, directory):
    setting = Setting(secrets, directory, ROUTES, f'upstream_loss_close_code = 1012\nreconnect_spread = "{SPREAD}s"\n')
    for title, figures in (("round trips", round_trips), ("slow links", slow_links), ("bursts", bursts), ("black holes", holes),
                           ("stuck sessions", stuck), ("returns", returns)):
        with suite.check(title):
            setting.run(figures(setting))
    with suite.check("Tollgate is alive, and drains"):
        harness.equal(setting.proxy.stop(), 0)


async def round_trips(setting):
    """Round trips through the whole way: client, fault proxy, Tollgate, backend, and back."""
    kinds = [(added, jitter, rate) for added in (0, 50, 200, 600) for jitter in (0.0, 0.2) for rate in (None, 256)
             if added or not jitter]
    opened, paths = [], []
    for added, jitter, rate in kinds:
        one_way = added / 2000
        path = {"delay": one_way * (1 - jitter), "jitter": 2 * one_way * jitter, "rate": rate and rate * KBIT}
        setting.faults.set(**path)
        opened.append(await setting.open_many(4, "plain"))
        paths.append(path)
    setting.faults.set(delay=0, jitter=0, rate=None)  # also of the open sessions
    for path, sessions in zip(paths, opened, strict=True):
        for session in sessions:
            session.link.set(**path)
    taken = await asyncio.gather(*(asyncio.gather(*(session.talk(60, 0.25) for session in sessions)) for sessions in opened))
    rows = []
    for (added, jitter, rate), sessions, seconds in zip(kinds, opened, taken, strict=True):
        median, high = quantiles([one for session in seconds for one in session])
        upgrade = 1000 * statistics.median(session.opened_in for session in sessions)
        rows.append([f"{added} ms", f"±{added * jitter:.0f} ms", f"{rate} kbit/s" if rate else "none", f"{upgrade:.0f} ms",
                     f"{median:.1f} ms", f"{high:.0f} ms"])
        for session in sessions:
            await session.close()
    table(["round trip added", "jitter", "rate", "TLS handshake and upgrade", "message p50", "p99"], rows)


async def slow_links(setting):
    """A feed of 64 KB/s over a link of 32 KB/s, for each `on_slow_client`."""

    async def one(route):
        session = await setting.open(route)
        session.link.set(DOWN, rate=256 * KBIT)
        count = FEED_RATE * FEED_SECONDS
        begun = time.monotonic()
        await session.feed(count, 1000, 1 / FEED_RATE)
        await asyncio.sleep(FEED_SECONDS - 2)
        waiting = session.waiting()
        age = session.times[-1] - session.served.fed[session.numbers[-1]]
        rate = session.bytes / (time.monotonic() - begun)
        fed = len(session.served.fed)
        await until(lambda: session.end or session.numbers[-1:] == [count - 1], "the feed", 200)
        harness.equal(session.numbers, sorted(set(session.numbers)))
        last = session.times[-1] - begun
        end = session.end or "open"
        if not session.end:
            await session.close()
        line = await setting.log_line(session.path)
        served = f"{session.served.closed_at - begun:.0f} s" if end != "open" and session.served.closed_at else "-"
        return [f"`{route}`", f"{rate / 1000:.1f} KB/s", f"{age:.1f} s", f"{waiting['to the client'] // 1024} KiB",
                f"{waiting['from the server'] // 1024} KiB", f"{fed}", len(session.numbers), line.get("dropped", 0), end, served, f"{last:.0f} s"]

    rows = await asyncio.gather(*(one(route) for route in ("block", "close", "drop")))
    table(["`on_slow_client`", "rate at the client", "age of its newest message", "waits for the client in Tollgate's kernel",
           "waits on the server's side", f"sent after {FEED_SECONDS - 2} s", "messages received in all", "dropped", "end", "the server got it after",
           "last message after"], rows)


async def bursts(setting):
    """A burst to a client on 256 kbit/s, which gets a ping, and answers it, only behind the burst."""

    async def one(beat, size):
        session = await setting.open(name(beat))
        session.link.set(DOWN, rate=256 * KBIT)
        begun = time.monotonic()
        await session.feed(size // 1000, 1000)
        done = lambda: session.end or len(session.numbers) == size // 1000  # noqa: E731
        await until(done, "the burst", 120)
        if not session.end:
            await asyncio.sleep(2)
        waited = session.times[-1] - begun
        line = await setting.log_line(session.path) if session.end else {"cause": "-"}
        end, count = session.end or "open", len(session.numbers)
        await session.close()
        return ["{} s, {} s".format(*beat), f"{size // 1000} KB", f"{count} of {size // 1000}", f"{waited:.0f} s", end, line["cause"]]

    rows = await asyncio.gather(*(one(beat, size) for beat in BURSTS for size in (200_000, 1_000_000)))
    table(["`ping_interval`, `pong_timeout`", "burst", "messages received", "the last one after", "end at the client", "`cause`"], rows)


async def holes(setting):
    """Idle sessions in a black hole: for half of them it ends, for the others never; and a feed into it."""
    groups = [[] for _ in HEARTBEATS]
    for _ in range(2 * GROUP):  # over longer than any interval, so that the pings of each kind are spread evenly
        for (beat, own), group in zip(HEARTBEATS, groups, strict=True):
            group.append(await setting.open(name(beat), heartbeat=own))
            await asyncio.sleep(OPENING_SECONDS / (2 * GROUP * len(HEARTBEATS)))
    fed = await setting.open_many(4, name(HEARTBEATS[0][0]))
    for session in fed:
        await session.feed(FEED_SECONDS + HOLE_SECONDS, 100, 1)
    await asyncio.sleep(5)
    begun = time.monotonic()
    for group in groups:
        for number, session in enumerate(group):
            session.link.hole(*([HOLE_SECONDS] if number % 2 else []))
    for session in fed:
        session.link.hole()
    await asyncio.sleep(WATCH_SECONDS)
    rows = []
    for (beat, own), group in zip(HEARTBEATS, groups, strict=True):
        short, endless = group[1::2], group[::2]
        alive = [session for session in short if not session.end]
        for session in alive:
            await session.talk(3)
        codes = sorted({session.end.split(" ")[0] for session in short if session.end})
        served = [session.served.closed_at - begun for session in endless if session.served.closed_at]
        lines = [session.served.ended_at - begun for session in endless if session.served.ended_at]
        clients = [session.ended_at - begun for session in endless if session.ended_at]
        rows.append(["{} s, {} s".format(*beat), "{} s, {} s".format(*own) if own[0] else "none", f"{len(alive)} of {len(short)}",
                     ", ".join(codes) or "-", times(served), times(lines), times(clients) if len(clients) == len(endless) else "never"])
    table(["Tollgate: `ping_interval`, `pong_timeout`", "client: interval, timeout", f"sessions that outlive {HOLE_SECONDS} s",
           "end of the others at the client", "endless: the server gets the Close", "its connection ends", "the client notices"], rows)
    lost = [len(session.served.fed) - len(session.numbers) for session in fed]
    print(f"A feed of a message a second into the endless black hole, with the default heartbeat: {lost} messages were lost, and the server"
          f" got {sorted({str(session.served.end) for session in fed})} after {times([s.served.closed_at - begun for s in fed])}.\n")
    setting.faults.reset()
    await until(lambda: not setting.faults.links, "all have ended")


async def stuck(setting):
    """Sessions whose client takes nothing, and whose server goes on sending."""
    rows = []
    for route, action in (("stuck", "block"), ("stuck-drop", "drop_oldest")):
        sessions = await setting.open_many(STUCK, route)
        await asyncio.gather(*(session.talk(1) for session in sessions))
        idle = setting.proxy.memory_kib()
        for session in sessions:
            session.link.hole(FOREVER, DOWN)
            await session.feed(STUCK_MESSAGES, 1000)
        await asyncio.sleep(8)
        full = setting.proxy.memory_kib()
        waits = [session.waiting() for session in sessions]
        client, server = (statistics.median(wait[key] for wait in waits) // 1024 for key in ("to the client", "from the server"))
        fed = statistics.median(len(session.served.fed) for session in sessions)
        rows.append([f"`{action}`", f"{(full - idle) / STUCK:.1f} KiB", f"{client} KiB", f"{server} KiB", f"{fed:.0f}"])
        setting.faults.reset()
        await until(lambda: not setting.faults.links, "all have ended")
        await until(lambda: all(session.end for session in sessions), "all clients have ended")
    table(["`on_slow_client`", "memory of a stuck session, more than of an idle one", "in Tollgate's kernel, for the client", "on the server's side",
           f"messages of 1 KB that the server could send, of {STUCK_MESSAGES}"], rows)


async def returns(setting):
    """Many clients that lose their sessions together."""
    kinds = [("the server dies, and clients return at once", lambda: setting.backend.kill("/plain/"), at_once),
             ("resets, and clients return at once", setting.faults.reset, at_once),
             (f"resets, and clients wait a random time of up to {SPREAD} s", setting.faults.reset, ladder(SPREAD, 60))]
    rows = []
    for title, lose, wait in kinds:
        begun, ends, back, seconds = await mass_return(setting, CLIENTS, lose, wait)
        steps = spread(back, begun, 1)
        rows.append([title, ", ".join(sorted({end.split(" ")[0] for _, end in ends})), " ".join(map(str, steps)), max(steps),
                     "{:.0f} ms".format(quantiles(seconds)[0]), "{:.0f} ms".format(quantiles(seconds)[1])])
    table([f"{CLIENTS} clients", "end at the client", "returns in each second", "most", "upgrade p50", "p99"], rows)
