"""Measures a worker's longest time between two polls of its I/O driver, while four clients send as much as they can.

Data for any other session waits at least that long. The time is the CPU time of the thread, so that other load on the
machine does not count. driver_gap.c, preloaded, measures it. The load generator of tests/bench attacks in one way per case.
tests/gates/ceilings.toml has the ceilings, in milliseconds.
"""

import contextlib
import json
import mmap
import os
import shutil
import struct
import subprocess
import time
import tomllib

import harness

ATTACKERS = 4
SECONDS = 2
TRIES = 4  # the kernel's work for a connection counts as CPU time of the thread and sometimes takes milliseconds
PATIENCE_SECONDS = 30
LAYERS = ("own", "rustls")
# case: (attack kind of the load generator, suffix of the attackers' path, which selects the route)
CASES = {
    "tiny": ("tiny", ""),
    "bulk": ("bulk", ""),
    "utf8": ("text", "/utf8"),
    "drop": ("tiny", "/drop"),
    "key_updates": ("updates", ""),
    "key_updates_asked": ("updates-asked", ""),
    "padding": ("padding", ""),
    "empty_records": ("empty", ""),
    "heads": ("heads", ""),
    "to_client_tiny": ("from-tiny", ""),
    "to_client_bulk": ("from-bulk", ""),
}
# The layout of the file, as in driver_gap.c.
REPORT, GAPS, THREADS, BUCKETS, BUCKET_MS = "QQ", "16sQQQ", 64, 8192, 0.01

suite = harness.Suite("fairness")
harness.many_files()
directory = harness.work_dir("fairness")
secrets = harness.Secrets(directory)
ceilings = tomllib.loads((harness.ROOT / "tests/gates/ceilings.toml").read_text())["driver_gap_ms"]


def build_shim():
    library = directory / "driver_gap.so"
    harness.run("cc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, harness.HERE / "driver_gap.c", "-ldl")
    return library


class Watched:
    """A proxy with one worker, and the measurements of driver_gap.c in it."""

    def __init__(self, layer):
        path = directory / f"gaps-{layer}"
        path.touch()
        limits = {"ping_interval": '"off"'}
        config = f'[server]\nworkers = 1\nrecord_layer = "{layer}"\n[log]\nlevel = "warn"\n'
        config += harness.listener(secrets) + harness.upstream("main", upstream_port)
        config += harness.route("utf8", "/sink/utf8", "main", {**limits, "check_utf8": "true"})
        config += harness.route("drop", "/sink/drop", "main", {**limits, "message_rate": '"1/s"', "on_excess": '"drop"'})
        config += harness.route("sink", "/sink", "main", limits) + harness.route("all", "/", "main", limits)
        environment = {**os.environ, "LD_PRELOAD": str(shim), "DRIVER_GAP": str(path)}
        self.proxy = harness.Proxy(config, directory, name=f"tollgate-{layer}", env=environment)
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 0)

    def reset(self):
        """Starts a new measurement and returns its number."""
        generation = struct.unpack_from("Q", self.map)[0] + 1
        struct.pack_into("Q", self.map, 0, generation)
        return generation

    def gaps(self, generation):
        """Returns the number of the worker's polls, and the p99 and maximum of the gaps between them in milliseconds."""
        header, own = struct.calcsize(REPORT), struct.calcsize(GAPS)
        for thread in range(min(THREADS, struct.unpack_from(REPORT, self.map)[1])):
            at = header + thread * (own + 4 * BUCKETS)
            name, measured, polls, max_ns = struct.unpack_from(GAPS, self.map, at)
            if name.startswith(b"worker-") and measured == generation and polls:
                return polls, p99_ms(self.map, at + own, polls), max_ns / 1e6
        raise AssertionError("the worker did not poll: is epoll_wait called from libc?")


def p99_ms(data, at, polls):
    """Returns the upper bound of the bucket that holds the 99th percentile."""
    longer = 0
    for index, count in reversed(list(enumerate(struct.unpack_from(f"{BUCKETS}I", data, at)))):
        longer += count
        if longer > polls // 100:
            return (index + 1) * BUCKET_MS
    return 0.0


def sunk():
    """Returns the number of bytes that the upstream's sinks have received so far."""
    with harness.raw(upstream_port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        head = harness.read_some(connection, PATIENCE_SECONDS)
        body = head.partition(b"\r\n\r\n")[2] or connection.recv(4096)
    return int(body)


def attack(watched, case):
    """Makes one run. Returns the result of Watched.gaps, the bytes that passed, and the report of the attackers."""
    kind, path = CASES[case]
    command = [str(load), "attack", "--attack", kind, "--attackers", str(ATTACKERS), "--url", watched.proxy.url("/"),
               "--ca", str(secrets.ca), *(["--attack-path", path] if path else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as generator:
        lines = harness.Lines(generator.stdout)
        try:
            harness.equal(lines.next(PATIENCE_SECONDS), "ready")
            generation, before = watched.reset(), sunk()
            time.sleep(SECONDS)
            gaps = watched.gaps(generation)
            passed = sunk() - before
            generator.stdin.write("enough\n")
            generator.stdin.flush()
            ended = json.loads(lines.next(PATIENCE_SECONDS))
        finally:
            generator.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                generator.wait(5)
            generator.kill()
    return gaps, passed, ended


if not shutil.which("cc"):
    suite.skip("all cases", "no C compiler is installed")
    suite.finish()
begun = time.monotonic()
load, shim = harness.build_load_generator(), build_shim()
suite.note(f"built the load generator in {time.monotonic() - begun:.0f} s")
harness.equal(sorted(ceilings), sorted(CASES))
upstream_port = harness.free_port()
harness.Process("upstream", [load, "echo", "--listen", f"127.0.0.1:{upstream_port}"], directory)
for layer in LAYERS:
    watched = Watched(layer)
    for case, ceiling in ceilings.items():
        with suite.check(f"{layer}, {case}: at most {ceiling} ms between two polls"):
            least = float("inf")
            for _ in range(TRIES):
                (polls, p99, longest), passed, ended = attack(watched, case)
                suite.note(f"{layer}, {case}: p99 {p99:.2f} ms, max {longest:.2f} ms, {polls} polls; "
                           f"{passed / SECONDS / 1e6:.1f} MB/s passed, {ended['received'] / 1e6:.1f} MB received, "
                           f"{ended['upgraded'] + ended['refused']} upgrades answered, "
                           f"{ended['attackers_cut']} attackers disconnected")
                least = min(least, longest)
                if least <= ceiling:
                    break
            if least > ceiling:
                raise AssertionError(f"{least:.2f} ms")
    watched.proxy.stop()
suite.finish()
