"""Replaces the running program while sessions exchange numbered messages and update their keys. No session ends, no message is
lost, doubled or reordered, and no secret is in a file. Processes that are killed meanwhile corrupt no session.

TOLLGATE_HANDOVER_SIZE=full runs it with 9,000 sessions, and with nginx and HAProxy for comparison. Times depend on what else the
machine does, so that they are only notes.
"""

import contextlib
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import handover_proxies
import harness
import traffic_secrets
from handover_proxies import Haproxy, Load, Memory, Nginx, Tollgate, alive, end, until
from harness import equal

FULL = os.environ.get("TOLLGATE_HANDOVER_SIZE") == "full"
SESSIONS = 9000 if FULL else 300
UPGRADES = 10
RATE = 3000 if FULL else 600  # messages per second of all sessions but the probes
PROBES, PROBE_RATE = (60, 50) if FULL else (20, 50)  # sessions whose messages show a pause, and their messages per second
UPDATES = 3  # each session updates its keys at every third message
TALK_SECONDS = 2.0  # between two upgrades
KILLS = 12 if FULL else 6  # rounds in which a process is killed
LOAD_MAX = 16_000  # connections that one load generator opens: it keeps their descriptors
SEARCHED = 30  # connections whose secrets are searched for
MEMORY_UPGRADES = 2  # at the end, during which memory is sampled: reading it delays the processes
# How a session may end whose process was killed: everything else means that its stream was corrupt.
CUT_ENDS = ("unexpected end of file", "Connection reset by peer", "Broken pipe")

suite = harness.Suite("handover")
harness.many_files()
random.seed(13)
directory = harness.work_dir("handover")
secrets = harness.Secrets(directory)
load_program = harness.build_load_generator()
upstream_port = harness.free_port()
upstream = harness.Process("upstream", [load_program, "echo", "--listen", f"127.0.0.1:{upstream_port}"], directory)
until(lambda: harness.accepts(upstream_port), "the upstream listens")
# The key log of the clients has the secrets, so it is outside of the directory that is searched.
key_logs = pathlib.Path(tempfile.mkdtemp(prefix="tollgate-keys-"))
harness._cleanup.callback(shutil.rmtree, key_logs, ignore_errors=True)


def start_load(proxy, sessions, name, **options):
    url = proxy.url("/") if isinstance(proxy, Tollgate) else proxy.url()
    folder = directory / f"load-{name}"
    folder.mkdir()
    return Load(load_program, folder, url, secrets.ca, sessions, RATE, min(PROBES, sessions), PROBE_RATE, **options)


def milliseconds(part):
    return f"p50 {part['p50_ms']:.1f} ms, p99 {part['p99_ms']:.1f} ms, max {part['max_ms']:.1f} ms"


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def expect_whole(report):
    """Checks that no session has ended, and that each message has arrived once and in order."""
    equal((report["lost"], report["ends"], report["wrong"], report["first_wrong"]), (0, {}, 0, ""))
    equal((report["in_flight"], report["sent"] - report["received"]), (0, 0))


def descriptors(pid):
    """Returns what the descriptors of a process refer to."""
    names = []
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.append(os.readlink(entry))
    return names


# ------------------------------------------------------------------------------------------------- nothing is lost


def replace_all_the_time(proxy, load):
    """Replaces the program under load. Returns the answers and the reports."""
    time.sleep(TALK_SECONDS)
    alone = load.report()
    answers, reports, memory = [], [], Memory(proxy)
    before = handover_proxies.pss_kib(proxy.pids())
    with contextlib.ExitStack() as stack:
        for number in range(UPGRADES):
            if number == UPGRADES - MEMORY_UPGRADES:
                stack.enter_context(memory)
            answers.append(proxy.upgrade())
            equal((answers[-1]["moved"], answers[-1]["drained"], answers[-1]["failed"]), (SESSIONS, 0, 0))
            time.sleep(TALK_SECONDS)
            reports.append(load.report())
    proxy.settle()
    return alone, answers, reports, before, memory


def note_pauses(alone, answers, reports, before, memory):
    timed = reports[:UPGRADES - MEMORY_UPGRADES]
    worst = {share: max(report["probes"][f"{share}_ms"] for report in timed) for share in ("p50", "p99", "max")}
    others = max(report["others"]["max_ms"] for report in timed)
    own, took = [answer["longest_pause_ms"] for answer in answers], [answer["took_ms"] for answer in answers]
    suite.note(f"longest delay of an echo in each of {PROBES} sessions that send every {1000 / PROBE_RATE:.0f} ms, in the worst of"
               f" {len(timed)} upgrades: {milliseconds({f'{share}_ms': value for share, value in worst.items()})};"
               f" of all {SESSIONS:,} sessions: max {others:.1f} ms; without an upgrade: {milliseconds(alone['probes'])}")
    suite.note(f"longest pause that the proxy reports: median {percentile(own, 0.5):.1f} ms, max {max(own):.1f} ms; an upgrade took"
               f" {percentile(took, 0.5):.0f} ms (median), {max(took):.0f} ms (maximum)")
    suite.note(f"memory: {before / 1024:.0f} MiB PSS before; both processes at the peak of an upgrade {memory}")


def search_files(key_log, updates):
    """Searches the secrets of clients in every file of the run."""
    values = traffic_secrets.read(key_log, SEARCHED, updates)
    equal(len(values) >= SEARCHED * 2 * 3, True)
    planted = directory / "planted"
    for form in traffic_secrets.forms(next(iter(values))):
        planted.write_bytes(b"x" + form + b"x")
        equal(traffic_secrets.find([planted], values), {str(planted)})
    planted.unlink()
    programs = handover_proxies.builds(directory)
    files = [file for file in traffic_secrets.files_below(directory, "/dev/shm") if file not in programs]
    equal(traffic_secrets.find(files, values), set())
    return len(values), len(files)


def dumps_core(pid):
    """Aborts a process that is or became a child, and returns whether it left a core file."""
    os.kill(pid, signal.SIGABRT)
    return os.WCOREDUMP(os.waitpid(pid, 0)[1])


def allow_core_files():
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


with suite.check(f"{SESSIONS:,} sessions talk and update their keys while the program is replaced {UPGRADES} times: none ends, no "
                 "message is lost, doubled or reordered, and no secret is in a file or a core file"):
    proxy = Tollgate(directory, secrets, upstream_port, SESSIONS, preexec_fn=allow_core_files, cwd=directory)
    first = proxy.pid
    key_log = key_logs / "all"
    load = start_load(proxy, SESSIONS, "all", updates=UPDATES, keylog=key_log)
    open_descriptors = len(descriptors(proxy.pid))
    figures = replace_all_the_time(proxy, load)
    note_pauses(*figures)
    equal(proxy.pid != first and proxy.info()["pid"] == proxy.pid, True)
    names = descriptors(proxy.pid)
    equal([name for name in names if "memfd" in name], [])
    equal(abs(len(names) - open_descriptors) <= 8, True)
    last = load.stop()
    expect_whole(last)
    equal((last["closed"], last["not_closed"]), (SESSIONS, 0))
    equal(last["updates"] > UPGRADES, True)
    suite.note(f"{last['received']:,} numbered messages returned, with {last['updates']:,} key updates of the clients")
    until(lambda: proxy.info()["sessions"] == 0, "the sessions are counted out")
    updates = last["sent"] // SESSIONS // UPDATES + 2
    count, files = search_files(key_log, updates)
    suite.note(f"{count:,} secrets, keys and IVs of {SEARCHED} connections searched for in {files} files")
    control = subprocess.Popen(["sleep", "60"], cwd=directory, preexec_fn=allow_core_files)
    leaves_core = dumps_core(control.pid)
    equal(dumps_core(proxy.pid), False)
    if not leaves_core:
        suite.note("core files: not tested, since this machine writes none")
    proxy.stop()

# ----------------------------------------------------------------------------------------------------------- faults


class Moving(threading.Thread):
    """An upgrade in another thread, and the new process while it receives sessions."""

    def __init__(self, proxy):
        super().__init__(daemon=True)
        self.proxy, self.old, self.answer = proxy, proxy.pid, None
        self.start()
        self.new = until(self.find_new, "the new process starts")

    def find_new(self):
        if self.answer is not None:
            raise AssertionError(f"the upgrade was over before it could be disturbed: {self.answer}")
        return next((pid for pid in self.proxy.pids() if pid != self.old), None)

    def run(self):
        with contextlib.suppress(OSError, ValueError, handover_proxies.http.client.HTTPException):
            self.answer = self.proxy.ask("POST", "/v1/upgrade", {})

    def wait_for(self, share):
        """Waits until the new process has about this share of the sessions, or until the upgrade is over."""
        wanted = share * 2 * SESSIONS
        while self.is_alive() and alive(self.new):
            with contextlib.suppress(FileNotFoundError, PermissionError):
                if len(os.listdir(f"/proc/{self.new}/fd")) > wanted:
                    return


def expect_no_corruption(report):
    equal((report["wrong"], report["first_wrong"]), (0, ""))
    equal([text for text in report["ends"] if not text.startswith(CUT_ENDS)], [])


def serves(proxy, pid):
    """Whether this process answers. One that leaves resets the connections that nobody accepts any more."""
    with contextlib.suppress(OSError):
        return proxy.info()["pid"] == pid
    return False


def kill_one(proxy, load, is_new, share):
    """Kills one of the two processes in the middle of an upgrade. Returns what became of the sessions."""
    lost = load.report()["lost"]
    moving = Moving(proxy)
    moving.wait_for(share)
    victim, other = (moving.new, moving.old) if is_new else (moving.old, moving.new)
    with contextlib.suppress(ProcessLookupError):
        if random.random() < 0.5:
            os.kill(victim, signal.SIGSTOP)
            time.sleep(random.random() * 0.05)
        os.kill(victim, signal.SIGKILL)
    moving.join(harness.STOP_SECONDS * 4)
    equal(moving.is_alive(), False)
    until(lambda: not alive(victim), "the process that was killed ends")
    proxy.follow(other)
    if until(lambda: not alive(other) and "none" or serves(proxy, other), "the process that is left serves") == "none":
        # The upgrade was complete before the new process was killed, or had not begun before the old one was.
        return None
    time.sleep(TALK_SECONDS)
    report = load.report()
    expect_no_corruption(report)
    gone = report["lost"] - lost
    until(lambda: proxy.info()["sessions"] == report["open"], "the sessions that are left are counted")
    return gone


def finish(proxy, load):
    """Replaces the program of a proxy that has lost a process, and closes its sessions."""
    equal(proxy.upgrade()["failed"], 0)
    expect_no_corruption(load.stop())
    proxy.settle()
    proxy.stop()


for is_new in (True, False):
    which = "new" if is_new else "earlier"
    with suite.check(f"the {which} process is killed in the middle of {KILLS} upgrades of {SESSIONS:,} sessions: each session continues "
                     "correctly or ends, and the process that is left serves"):
        proxy = load = None
        results = []
        for number in range(KILLS):
            if proxy is None:
                name = f"kill-{which}-{number}"
                proxy = Tollgate(directory, secrets, upstream_port, SESSIONS, name=name, level="warn")
                load = start_load(proxy, SESSIONS, name, updates=UPDATES)
            gone = kill_one(proxy, load, is_new, (number + 0.2) / KILLS)
            results.append("all" if gone is None else gone)
            if gone is None:
                expect_no_corruption(load.report())
                load.process.stop(signal_number=signal.SIGKILL)
                proxy.stop()
                proxy = None
            elif number == KILLS - 1 or load.total + gone > LOAD_MAX:
                finish(proxy, load)
                proxy = None
            else:
                load.open(gone)
        suite.note(f"sessions that ended with the {which} process: {results}")

# ------------------------------------------------------------------------------------------------------- comparison


def compare(kind, **options):
    """Replaces a proxy while its number of sessions grows, and notes what is lost and what is left."""
    label = f"{kind.__name__}{' that ends old processes after ' + str(handover_proxies.CUT_SECONDS) + ' s' if options else ''}"
    name = label.replace(" ", "-")
    if kind is Tollgate:
        proxy = Tollgate(directory, secrets, upstream_port, SESSIONS, name="compared")
    else:
        proxy = kind(directory, secrets, upstream_port, **options)
    added = SESSIONS // 2 // UPGRADES
    load = start_load(proxy, SESSIONS - added * UPGRADES, name)
    before, seconds = len(proxy.pids()), 0.0
    with Memory(proxy) as memory:
        for _ in range(UPGRADES):
            load.open(added)
            begun = time.monotonic()
            proxy.upgrade()
            seconds = max(seconds, time.monotonic() - begun)
            proxy.settle()
    processes = len(proxy.pids())
    report = load.report()
    ignored = getattr(proxy, "ignored", 0)
    note = f", {ignored} of the upgrades ignored while old sessions live" if ignored else ""
    suite.note(f"{label}: {UPGRADES} upgrades with {SESSIONS:,} sessions, of which half were opened in between: {report['lost']:,} sessions lost"
               f" {report['ends'] or ''}, {processes} processes at last ({before} at first){note}; memory at the peak {memory}")
    load.process.stop(signal_number=signal.SIGKILL)
    proxy.stop()
    return report, processes, before


with suite.check("after ten upgrades one process is left, with all sessions"):
    report, processes, before = compare(Tollgate)
    equal((report["lost"], report["wrong"], processes, before), (0, 0, 1, 1))

for kind in (Nginx, Haproxy) if FULL else ():
    for options in ({}, {"is_cut": True}):
        with suite.check(f"{kind.__name__} for comparison{', whose old processes end after a time' if options else ''}"):
            if shutil.which(kind.process_name) is None:
                raise harness.Skip("it is not installed")
            compare(kind, **options)
suite.finish()
