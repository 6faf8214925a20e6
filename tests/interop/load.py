"""2,000 sessions at once, each of which echoes 1 KiB, ten times; and what they cost in memory."""

import time

import harness
from harness import equal

SESSIONS = 2000
ROUNDS = 10
BYTES = 1024
STEP_SECONDS = 60
SESSION_MAX_KIB = 48  # resident, with its buffers: an alarm, no measurement
LEFT_MAX_KIB = 64 * 1024

suite = harness.Suite("load")
harness.many_files()
directory = harness.work_dir("load")
secrets = harness.Secrets(directory)
echo = harness.Node("autobahn/echo.js", directory)
client = harness.Node("node/load.js", directory)
proxy = harness.Proxy("".join([
    "[server]\nmax_handshakes = 4096\n\n[log]\nformat = \"text\"\nlevel = \"warn\"\n\n",
    harness.listener(secrets, handshake_timeout='"60s"'),
    harness.upstream("echo", echo.facts["port"]) + 'connect_timeout = "20s"\nresponse_timeout = "20s"\n',
    harness.route("echo", "/echo", "echo"),
]), directory)

memory = {"before": proxy.memory_kib()}
client.tell(base=proxy.url(""), ca=str(secrets.ca), sessions=SESSIONS, rounds=ROUNDS, bytes=BYTES, parallel=64)
for step, what in {
    "idle": f"{SESSIONS:,} sessions open at once",
    "busy": f"each of them echoes {BYTES} bytes, {ROUNDS} times, whole",
    "closed": "each of them closes with 1000",
}.items():
    with suite.check(what):
        equal(client.lines.next(STEP_SECONDS), f"step {step}")
        if step == "closed":
            time.sleep(1)
        memory[step] = proxy.memory_kib()
        client.tell(go_on=True)

with suite.check(f"a session costs at most {SESSION_MAX_KIB} KiB of resident memory, and leaves nothing much behind"):
    suite.note("resident memory: " + ", ".join(f"{kib} KiB {when}" for when, kib in memory.items()))
    suite.note(f"a session: {(memory['idle'] - memory['before']) / SESSIONS:.1f} KiB idle, "
               f"{(memory['busy'] - memory['before']) / SESSIONS:.1f} KiB after it was busy")
    equal(max(memory.values()) - memory["before"] < SESSIONS * SESSION_MAX_KIB, True)
    equal(memory["closed"] - memory["before"] < LEFT_MAX_KIB, True)
suite.finish()
