"""Proxies whose program is replaced while sessions talk, and the load on them, for the suite handover.py."""

import contextlib
import ctypes
import http.client
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import harness
from harness import equal

sys.path.append(str(harness.ROOT / "tests/bench"))
import run as bench  # noqa: E402: the configurations of nginx and HAProxy, and functions for process trees

PATIENCE_SECONDS = 60
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: processes whose parent has ended become children of the suite
SAMPLE_SECONDS = 0.05
# The time after which the peers end old processes with their sessions, where they are told to.
CUT_SECONDS = 2

ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


def until(condition, what, seconds=PATIENCE_SECONDS):
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.01)
    return value


# ----------------------------------------------------------------------------------------------------------- processes


def state(pid):
    """Returns the name and the state of a process, or None if there is none."""
    try:
        name, _, rest = pathlib.Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return name, rest.split()[0]


def alive(pid):
    found = state(pid)
    return found is not None and found[1] not in "ZX"


def command_line(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return []


def descendants(name):
    """Returns the running processes below the suite whose name begins with `name`."""
    found = ((pid, state(pid)) for pid in bench.tree(os.getpid()))
    return [pid for pid, value in found if value and value[0].startswith(name) and value[1] not in "ZX"]


def end(pid, signal_number=signal.SIGTERM, seconds=harness.STOP_SECONDS):
    """Ends a process that the suite started, or that became its child. Returns its status if it was a child."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal_number)
    deadline = time.monotonic() + seconds
    while alive(pid):
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            deadline += PATIENCE_SECONDS
        time.sleep(0.01)
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[1]
    return None


def pss_kib(pids):
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            total += bench.pss([pid])
    return total


class Memory:
    """Samples the memory of all processes of a proxy while it is replaced, and keeps the sample with the largest sum."""

    def __init__(self, proxy):
        self.proxy, self.peak, self.over = proxy, {}, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.over.wait(SAMPLE_SECONDS):
            sample = {pid: pss_kib([pid]) for pid in self.proxy.pids()}
            if sum(sample.values()) > sum(self.peak.values()):
                self.peak = sample

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def __str__(self):
        parts = " + ".join(f"{kib / 1024:.0f}" for kib in self.peak.values())
        return f"{sum(self.peak.values()) / 1024:.0f} MiB PSS ({parts})"


# ------------------------------------------------------------------------------------------------------------ the load


class Load:
    """Sessions that exchange numbered messages (`wsload numbered`)."""

    def __init__(self, program, directory, url, ca, conns, rate, probes, probe_rate, updates=0, keylog=None):
        command = [program, "numbered", "--url", url, "--ca", ca, "--conns", conns, "--rate", rate, "--probes", probes,
                   "--probe-rate", probe_rate, "--updates", updates, "--size", 64, *(["--keylog", keylog] if keylog else [])]
        self.process = harness.Process("load", command, directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines = harness.Lines(self.process.popen.stdout)
        self.total = conns
        self.expect_ready()

    def line(self):
        line = self.lines.next(PATIENCE_SECONDS * 2)
        if line is None:
            raise RuntimeError(f"the load generator has ended: {self.process.output()[-2000:]}")
        return line

    def expect_ready(self):
        equal(self.line(), "ready")

    def tell(self, text):
        self.process.popen.stdin.write(text + "\n")
        self.process.popen.stdin.flush()

    def open(self, count):
        """Opens this many further sessions."""
        self.total += count
        self.tell(f"open {self.total}")
        self.expect_ready()

    def report(self):
        """Returns the counts so far, and the latencies since the last report."""
        self.tell("report")
        return json.loads(self.line())

    def stop(self):
        """Waits for outstanding echoes, closes all sessions, and returns the last report with the result of the closes."""
        self.tell("stop")
        report = {**json.loads(self.line()), **json.loads(self.line())}
        self.process.popen.stdin.close()
        self.process.wait(PATIENCE_SECONDS)
        return report


# --------------------------------------------------------------------------------------------------------- the proxies
# Each has a method that replaces its program, and a name with which its processes begin.


def builds(directory):
    """Returns two builds of Tollgate, which differ in one byte that has no effect."""
    paths = [directory / "tollgate-a", directory / "tollgate-b"]
    if not paths[1].exists():
        for path in paths:
            shutil.copy(harness.BINARY, path)
        with paths[1].open("ab") as file:
            file.write(b"\n")
    return paths


class Tollgate(harness.Proxy):
    """Tollgate, which is replaced by two builds in turn."""

    process_name = "tollgate"

    def __init__(self, directory, secrets, upstream_port, sessions, name="tollgate", level="info", **options):
        self.socket, self.file = directory / f"{name}.sock", directory / f"{name}.toml"
        self.builds = builds(directory)
        handshakes = min(850, 100 + sessions // 10)
        super().__init__("".join([
            f"[server]\nworkers = 2\nmax_sessions = {sessions}\nmax_handshakes = {handshakes}\n",
            f'handshakes_per_address = "off"\n[log]\nlevel = "{level}"\n[admin]\naddress = "unix:{self.socket}"\n',
            harness.listener(secrets),
            harness.upstream("echo", upstream_port) + 'connect_timeout = "20s"\nresponse_timeout = "20s"\n',
            "max_pending_requests = 1000\n",
            harness.route("echo", "/{*rest}", "echo", limits={"message_rate": '"1000/s"'}),
        ]), directory, name, **options)
        self.upgrades = 0

    def ask(self, method, target, body=None):
        """Returns the status and the JSON of the answer."""
        connection = http.client.HTTPConnection("localhost", timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(PATIENCE_SECONDS)
            connection.sock.connect(str(self.socket))
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, target, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def upgrade(self):
        """Replaces the program. Returns the answer."""
        self.upgrades += 1
        status, answer = self.ask("POST", "/v1/upgrade", {"binary": str(self.builds[self.upgrades % 2])})
        if status != 200:
            raise AssertionError(f"upgrade {self.upgrades}: {status} {answer}")
        self.follow(answer["pid"])
        return answer

    def follow(self, pid):
        """Acts on this process from now on."""
        self.pid = pid

    def info(self):
        status, answer = self.ask("GET", "/v1/info")
        equal(status, 200)
        return answer

    def settle(self):
        """Waits until the earlier processes have ended."""
        until(lambda: self.pids() == [self.pid], "the earlier processes end")

    def pids(self):
        """Returns the running processes that have the configuration file of this proxy."""
        return [pid for pid in descendants(self.process_name) if str(self.file) in command_line(pid)]

    def stop(self, seconds=harness.STOP_SECONDS, signal_number=signal.SIGTERM):
        if getattr(self, "pid", self.popen.pid) != self.popen.pid:
            for pid in {self.pid, *self.pids()} - {self.popen.pid}:
                end(pid, signal_number, seconds)
        return super().stop(seconds, signal_number)


class Peer:
    """nginx or HAProxy with its configuration of the bench, and changes to it."""

    def __init__(self, directory, secrets, upstream_port, is_cut):
        text = (harness.ROOT / "tests/bench/peers" / self.template).read_text()
        for old, new in [*self.changes, *([self.cut] if is_cut else [])]:
            equal(text.count(old), 1)
            text = text.replace(old, new)
        self.directory = directory / f"{self.process_name}{'-cut' if is_cut else ''}"
        self.directory.mkdir()
        self.port, pem = harness.free_port(), self.directory / "both.pem"
        pem.write_text("".join((secrets.dir / f"localhost.{part}").read_text() for part in ("pem", "key")))
        values = {"DIR": self.directory, "CONFIG": self.directory / self.template, "CERT": secrets.dir / "localhost.pem",
                  "WORKERS": 2, "BUF": "4k", "KEY": secrets.dir / "localhost.key", "PEM": pem, "PORT": self.port,
                  "UPSTREAM": f"127.0.0.1:{upstream_port}", "PROGRAM": shutil.which(self.process_name)}

        def fill(text):
            for name, value in values.items():
                text = text.replace(f"@{name}@", str(value))
            return text

        values["CONFIG"].write_text(fill(text))
        self.process = harness.Process(self.process_name, shlex.split(fill(self.command)), self.directory)
        until(lambda: harness.accepts(self.port), f"{self.process_name} listens")
        self.ignored = 0

    def url(self):
        return f"wss://localhost:{self.port}/"

    def pids(self):
        return descendants(self.process_name)

    def settle(self):
        """The earlier processes stay as long as they have sessions: waits as long as they may."""
        time.sleep(CUT_SECONDS + 1 if self.is_cut else 0.5)

    def stop(self):
        for pid in self.pids():
            end(pid, signal.SIGKILL)
        self.process.stop()


class Nginx(Peer):
    """USR2 starts the new program, WINCH ends the workers of the old one, and QUIT its master, each when it has no sessions."""

    process_name, template, command = "nginx", "nginx.conf", "@PROGRAM@ -e @DIR@/nginx.err -c @CONFIG@"
    # Without a new parent process, as after the start of a daemon, nginx ignores USR2.
    changes = [("daemon off;", "daemon on;")]
    cut = "daemon on;", f"daemon on;\nworker_shutdown_timeout {CUT_SECONDS}s;"

    def __init__(self, directory, secrets, upstream_port, is_cut=False):
        super().__init__(directory, secrets, upstream_port, is_cut)
        self.is_cut, self.pid_file = is_cut, self.directory / "nginx.pid"

    def master(self):
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(self.pid_file.read_text())
        return None

    def upgrade(self):
        old = self.master()
        os.kill(old, signal.SIGUSR2)
        try:
            until(lambda: self.master() not in (None, old), "the new master starts", 5)
        except TimeoutError:
            self.ignored += 1  # as long as the old process of the last upgrade runs, since it has sessions
            return
        new = self.master()
        until(lambda: len(bench.tree(new)) > 1, "the new workers start")
        os.kill(old, signal.SIGWINCH)
        os.kill(old, signal.SIGQUIT)


class Haproxy(Peer):
    """USR2 makes the master start the new program, and the old workers end when they have no sessions."""

    process_name, template, command = "haproxy", "haproxy.cfg", "@PROGRAM@ -q -W -f @CONFIG@"
    changes = []
    cut = "global\n", f"global\n    hard-stop-after {CUT_SECONDS}s\n"

    def __init__(self, directory, secrets, upstream_port, is_cut=False):
        super().__init__(directory, secrets, upstream_port, is_cut)
        self.is_cut = is_cut

    def upgrade(self):
        before = set(self.pids())
        self.process.popen.send_signal(signal.SIGUSR2)
        until(lambda: set(self.pids()) - before, "the new worker starts")
