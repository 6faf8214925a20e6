"""Opens as many concurrent sessions as descriptors allow, as fast as they are accepted. Each echoes 1 KiB and idles, then
all close at once. After a warm-up round there are three more, and after each the resident memory of the proxy returns to
its value after the warm-up."""

import resource
import time

import harness
from crowd import Session, drive
from harness import equal

SESSIONS = 9000
ROUNDS = 3
TALKS = 2
BYTES = 1024
OPENING = 512  # concurrent connections without a session yet
HANDSHAKES = 900  # max_handshakes, unless the descriptor limit requires less
OTHER_DESCRIPTORS = 200  # of the proxy, beyond two per session and two per handshake
IDLE_SECONDS = 2
SETTLE_SECONDS = 30  # for memory to be returned after the last close: the allocator returns unused memory within 10 s
SESSION_MAX_KIB = 48  # resident, with its buffers: a coarse alarm, not a measurement
LEFT_MAX = 0.10

suite = harness.Suite("load")
harness.many_files()
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
handshakes = min(HANDSHAKES, limit // 20)
sessions = min(SESSIONS, (limit - OTHER_DESCRIPTORS) // 2 - handshakes)
if sessions < SESSIONS:
    suite.note(f"{sessions:,} sessions instead of {SESSIONS:,}: the limit is {limit:,} descriptors, two per session")
directory = harness.work_dir("load")
secrets = harness.Secrets(directory)
context = secrets.client_context()
echo = harness.Node("autobahn/echo.js", directory)
proxy = harness.Proxy("".join([
    f"[server]\nmax_sessions = {sessions}\nmax_handshakes = {handshakes}\nhandshakes_per_address = \"off\"\n\n[log]\nformat = \"text\"\nlevel = \"warn\"\n\n",
    harness.listener(secrets, handshake_timeout='"60s"'),
    harness.upstream("echo", echo.facts["port"]) + 'connect_timeout = "20s"\nresponse_timeout = "20s"\n',
    harness.route("echo", "/echo", "echo", limits={"ping_interval": '"10m"'}),
]), directory)


def crowd(count, address):
    """Makes one round. Returns the memory of the proxy after each step, and the duration of each step."""
    begun, memory, seconds = time.monotonic(), {"before": proxy.memory_kib()}, {}

    def took(what):
        nonlocal begun
        memory[what], seconds[what] = proxy.memory_kib(), time.monotonic() - begun
        begun = time.monotonic()

    everyone = []

    def arrivals():
        for _ in range(count):
            everyone.append(Session(context, proxy.port, address))
            yield everyone[-1]

    drive(arrivals(), Session.open, OPENING)
    took("open")
    for talk in range(TALKS):
        drive(everyone, lambda session: session.talk(f"{talk}/{session.socket.fileno()} ", BYTES))
    took("talked")
    time.sleep(IDLE_SECONDS)
    took("idle")
    drive(everyone, Session.close)
    took("closed")
    return memory, seconds


def settle(goal_kib):
    """Waits until the proxy's memory has fallen to `goal_kib` or the time is up, and returns the memory."""
    end = time.monotonic() + SETTLE_SECONDS
    while (kib := proxy.memory_kib()) > goal_kib and time.monotonic() < end:
        time.sleep(0.1)
    return kib


mib = lambda kib: f"{kib / 1024:.1f}"
empty = proxy.memory_kib()
with suite.check(f"{sessions:,} sessions to warm up"):
    crowd(sessions, "127.0.0.2")
# A goal of 0 waits for the whole time, so that no memory is counted that would still be returned.
began = settle(0)
bound = began * (1 + LEFT_MAX)
suite.note(f"resident memory is {mib(empty)} MiB at the start and {mib(began)} MiB {SETTLE_SECONDS} s after the warm-up:"
           " grown tables and the allocator's own memory remain")
for number in range(1, ROUNDS + 1):
    with suite.check(f"round {number}: {sessions:,} concurrent sessions, each echoes {BYTES} bytes {TALKS} times, all close with 1000, "
                     f"and resident memory returns to within {LEFT_MAX:.0%} of its initial value"):
        memory, seconds = crowd(sessions, f"127.0.0.{2 + number}")
        begun = time.monotonic()
        memory["at last"], seconds["at last"] = settle(bound), time.monotonic() - begun
        suite.note(f"round {number}, MiB: " + ", ".join(f"{mib(kib)} {what}" for what, kib in memory.items())
                   + f"; a session {(memory['idle'] - memory['before']) / sessions:.1f} KiB; seconds: "
                   + ", ".join(f"{took:.1f} {what}" for what, took in seconds.items()))
        equal(max(memory.values()) - memory["before"] < sessions * SESSION_MAX_KIB, True)
        if memory["at last"] > bound:
            raise AssertionError(f"{mib(memory['at last'])} MiB remain, {memory['at last'] / began - 1:+.0%}")
suite.finish()
