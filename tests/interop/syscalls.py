"""Counts the system calls per message of the release binary under the loads of tests/bench, and checks them against
tests/gates/ceilings.toml.

perf counts them at the kernel's tracepoints without slowing the proxy down. If perf is not available, strace counts them. It
stops the proxy at each call, so more sockets are ready at each poll and the measured share of epoll_wait is too low. This
can hide an excess up to that share; one additional call per message is still detected. SYSCALLS_BY=strace forces strace.
"""

import collections
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
import tomllib

import harness

# key: (mode of the load generator, options, messages); the loads of tests/bench/run.py with fewer messages
LOADS = {
    "a": ("msgs", "--conns 100 --size 64", 40_000),
    "b": ("msgs", "--conns 100 --size 64 --window 32", 400_000),
    "d": ("msgs", "--conns 50 --size 16384", 10_000),
    "i": ("fanout", "--conns 1000 --size 256", 40_000),
}
# The calls that perf counts separately, besides the total. Each event takes time to set up.
NAMED = ["epoll_*wait", "futex", "read", "readv", "recv*", "send*", "write", "writev"]
TRIES = 3
PATIENCE_SECONDS = 60
BENCH = harness.ROOT / "tests/bench"
ORIGIN = "https://bench.example"

suite = harness.Suite("syscalls")
harness.many_files()
directory = harness.work_dir("syscalls")
secrets = harness.Secrets(directory)
ceilings = tomllib.loads((harness.ROOT / "tests/gates/ceilings.toml").read_text())["syscalls"]


def perf_works():
    """Returns whether perf is installed and can use the tracepoints."""
    if os.environ.get("SYSCALLS_BY") == "strace" or not shutil.which("perf"):
        return False
    probe = subprocess.run(["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "true"], capture_output=True, text=True)
    return probe.returncode == 0 and re.match(r"[1-9]\d*,", probe.stderr) is not None


@contextlib.contextmanager
def counted_by_perf(pid, calls):
    """Adds the calls that a process makes within the block to `calls`, counted by perf."""
    report = directory / "perf"
    events = ["raw_syscalls:sys_enter", *(f"syscalls:sys_enter_{name}" for name in NAMED)]
    # perf starts the command when it counts, and stops counting when the command exits.
    command = ["perf", "stat", "-x,", "-o", report, "-e", ",".join(events), "-p", str(pid), "--", "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as perf:
        perf.stdin.write(b"counting?\n")
        perf.stdin.flush()
        if not perf.stdout.readline():
            raise RuntimeError("perf does not count")
        yield
        perf.stdin.close()
    named = {name: int(n) for n, name in re.findall(r"^(\d+),[^,]*,syscalls:sys_enter_(\w+)", report.read_text(), re.MULTILINE)}
    total = int(re.search(r"^(\d+),[^,]*,raw_syscalls:", report.read_text(), re.MULTILINE)[1])
    calls.update(named, others=total - sum(named.values()))


@contextlib.contextmanager
def counted_by_strace(pid, calls):
    """Adds the calls that a process makes within the block to `calls`, counted by strace."""
    report = directory / "strace"
    command = ["strace", "-f", "-c", "-U", "calls,name", "-o", report, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        if "attached" not in (line := strace.stderr.readline()):
            raise harness.Skip(f"neither perf nor strace can trace a process here: {line.strip()}")
        try:
            yield
        finally:
            strace.send_signal(signal.SIGINT)
    for count, name in re.findall(r"^\s*(\d+) (\w+)$", report.read_text(), re.MULTILINE):
        calls[name] += int(count) if name != "total" else 0


def start_proxy(upstream_port):
    """Starts the proxy with the configuration of the bench, which is a realistic one."""
    values = {"CERT": directory / "localhost.pem", "KEY": directory / "localhost.key", "TOKEN_PUBLIC": secrets.public,
              "METRICS": 0, "UPSTREAM": f"127.0.0.1:{upstream_port}", "SECTIONS": "", "AUTH": 'auth = "users"', "WORKERS": 2, "SESSIONS": 9000, "HANDSHAKES": 850,
              "METER": 'message_rate = "1000000/s"\nmessage_burst = 1000000\non_excess = "close"', "RECORD_LAYER": "own"}
    config = (BENCH / "peers/tollgate.toml").read_text()
    for name, value in values.items():
        config = config.replace(f"@{name}@", str(value))
    return harness.Proxy(config, directory)


def count(counted, load, key):
    """Makes one run, and returns its calls per message by name."""
    mode, options, messages = LOADS[key]
    command = [str(load), mode, *options.split(), "--messages", str(messages), *target]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as generator:
        lines = harness.Lines(generator.stdout)

        def expect():
            line = lines.next(PATIENCE_SECONDS)
            if line is None:
                raise RuntimeError("the load generator ended early")
            return line

        try:
            harness.equal(expect(), "ready")
            calls = collections.Counter()
            with counted(proxy.pid, calls):
                generator.stdin.write("go\n")
                generator.stdin.flush()
                done = json.loads(expect())["messages"]
        finally:
            generator.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                generator.wait(10)
            generator.kill()
    return {name: number / done for name, number in calls.most_common() if number}


counted = counted_by_perf if perf_works() else counted_by_strace
suite.note("counted by perf" if counted is counted_by_perf else "counted by strace")
begun = time.monotonic()
load = harness.build_load_generator()
suite.note(f"built the load generator in {time.monotonic() - begun:.0f} s")
upstream_port = harness.free_port()
harness.Process("upstream", [load, "echo", "--listen", f"127.0.0.1:{upstream_port}"], directory)
proxy = start_proxy(upstream_port)
token = secrets.token(issuer=f"{ORIGIN}/", audience="bench")
target = ["--url", proxy.url(), "--ca", str(secrets.ca), "--header", f"Origin: {ORIGIN}", "--header", f"Authorization: Bearer {token}"]

for key, ceiling in ceilings.items():
    with suite.check(f"workload {key}: at most {ceiling} system calls per message"):
        # Other load on the machine makes each poll return fewer events, and so increases the share of epoll_wait. The lowest
        # result counts.
        least = float("inf")
        for _ in range(TRIES):
            calls = count(counted, load, key)
            total = sum(calls.values())
            suite.note(f"{key}: {total:.3f} per message: " + ", ".join(f"{name} {n:.3f}" for name, n in calls.items() if n >= 0.001))
            least = min(least, total)
            if least <= ceiling:
                break
        if not 0 < least <= ceiling:
            raise AssertionError(f"{least:.3f} per message")
suite.finish()
