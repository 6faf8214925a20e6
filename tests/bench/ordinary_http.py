#!/usr/bin/env python3
"""Compares ordinary HTTP through Tollgate and nginx: requests per CPU second, memory of an idle connection; see README.md."""

import argparse, contextlib, json, os, re, resource, shutil, signal, socket, ssl, statistics, subprocess, sys, tempfile, time
from pathlib import Path

from report import facts, table
from run import TOLLGATE, free_port, machine_busy, make_certificate, pss, spawn, stop, tree, usage

SIZES = {"1k": 1 << 10, "64k": 64 << 10}
CONNECTIONS = 100
IDLE = (1000, 5000)
WORKERS = 2

NGINX = """
daemon off;
worker_processes {workers};
worker_rlimit_nofile 20000;
pid {dir}/{name}.pid;
error_log {dir}/{name}.err crit;
events {{ worker_connections 9500; }}
http {{
    access_log off;
    client_body_temp_path {dir}/{name}-b;
    proxy_temp_path {dir}/{name}-p;
    fastcgi_temp_path {dir}/{name}-f;
    uwsgi_temp_path {dir}/{name}-u;
    scgi_temp_path {dir}/{name}-s;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
{rest}
}}
"""
FILES = """
    sendfile on;
    server {{
        listen 127.0.0.1:{port} reuseport backlog=4096;
        root {dir}/files;
        open_file_cache max=10;
    }}
"""
PROXY = """
    upstream files {{
        server 127.0.0.1:{files};
        keepalive 128;
        keepalive_requests 1000000000;
        keepalive_timeout 1h;
    }}
    server {{
        listen 127.0.0.1:{port} ssl reuseport backlog=4096;
        ssl_certificate {dir}/cert.pem;
        ssl_certificate_key {dir}/key.pem;
        ssl_protocols TLSv1.3;
        location / {{
            proxy_pass http://files;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_buffer_size {buffer};
            proxy_buffers 8 {buffer};
        }}
    }}
"""
TOLLGATE_CONFIG = """
[server]
workers = {workers}
# All clients have the same address, as behind a load balancer.
handshakes_per_address = "off"
max_handshakes = 512
max_http_requests = 6000
max_sessions = 100
[log]
level = "warn"
[[listener]]
address = "127.0.0.1:{port}"
certificates = [{{ chain = "{dir}/cert.pem", key = "{dir}/key.pem" }}]
keep_alive_timeout = "1h"
requests_per_connection = 1000000
[upstream.files]
servers = ["127.0.0.1:{files}"]
[[route]]
name = "files"
path = "/{{*rest}}"
upstream = "files"
auth = "none"
http = true
"""
# What the clients offer, so that all peers encrypt in the same way.
CLIENTS = """
openssl_conf = init
[init]
ssl_conf = ssl
[ssl]
system_default = clients
[clients]
MinProtocol = TLSv1.3
Ciphersuites = TLS_AES_128_GCM_SHA256
Groups = X25519
"""
PEERS = ("tollgate", "nginx", "nginx-16k")


class Bench:
    """The server of the files, and a directory with the configurations."""

    def __init__(self, args):
        self.args, self.dir = args, tempfile.mkdtemp(prefix="httpbench-")
        os.chmod(self.dir, 0o755)  # the workers of nginx have another user
        make_certificate(self.dir)
        self.context = ssl.create_default_context(cafile=f"{self.dir}/cert.pem")
        Path(self.dir, "files").mkdir()
        for name, size in SIZES.items():
            Path(self.dir, "files", name).write_bytes(os.urandom(size))
        Path(self.dir, "clients.cnf").write_text(CLIENTS)
        os.environ["OPENSSL_CONF"] = f"{self.dir}/clients.cnf"
        self.files = free_port()
        self.server = self.nginx("files", self.files, FILES.format(port=self.files, dir=self.dir))

    def nginx(self, name, port, rest):
        config = Path(self.dir, f"{name}.conf")
        config.write_text(NGINX.format(workers=WORKERS, dir=self.dir, name=name, rest=rest))
        return self.wait(name, port, ["nginx", "-e", f"{self.dir}/{name}.err", "-c", str(config)])

    def wait(self, name, port, command):
        """Starts a server, and waits until it accepts connections."""
        log = Path(self.dir, f"{name}.log")
        with open(log, "w") as output:
            process = spawn(command, stdout=output, stderr=output)
        for _ in range(200):
            time.sleep(0.05)
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                time.sleep(0.3)
                return process
            if process.poll() is not None:
                break
        stop(process)
        raise RuntimeError(f"{name} did not start: {log.read_text()[-2000:]}")

    def start(self, name):
        """Starts a peer, and returns its process and its port."""
        port = free_port()
        if name != "tollgate":
            buffer = "16k" if name == "nginx-16k" else "4k"
            rest = PROXY.format(files=self.files, port=port, dir=self.dir, buffer=buffer)
            return self.nginx(name, port, rest), port
        config = Path(self.dir, "tollgate.toml")
        config.write_text(TOLLGATE_CONFIG.format(workers=WORKERS, port=port, dir=self.dir, files=self.files))
        return self.wait(name, port, [TOLLGATE, "run", "--config", str(config)]), port

    def requests(self, name, row):
        """Measures the requests for a file on kept connections."""
        process, port = self.start(name)
        try:
            self.check(port, row)
            pids = tree(process.pid)
            before, busy, began = usage(pids), machine_busy(), time.monotonic()
            command = ["wrk", "-t", "2", "-c", str(CONNECTIONS), "-d", f"{self.args.seconds}s", f"https://127.0.0.1:{port}/{row}"]
            others = tree(self.server.pid)
            served = usage(others)
            children = resource.getrusage(resource.RUSAGE_CHILDREN)
            output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60 + self.args.seconds).stdout
            wall, busy, after = time.monotonic() - began, machine_busy() - busy, usage(pids)
            if "Socket errors" in output or "Non-2xx" in output:
                raise RuntimeError(f"{name}: {output}")
            count = int(re.search(r"(\d+) requests in", output)[1])
            user, system = after[0] - before[0], after[1] - before[1]
            ended = resource.getrusage(resource.RUSAGE_CHILDREN)
            known = user + system + sum(usage(others)[:2]) - sum(served[:2])
            known += ended.ru_utime + ended.ru_stime - children.ru_utime - children.ru_stime
            return {"per_cpu_s": count / (user + system), "per_user_s": count / max(user, 0.01), "per_s": count / wall,
                    "busy": (user + system) / wall, "other_busy": max(0, busy - known) / wall / os.cpu_count()}
        finally:
            stop(process)

    def idle(self, name, _):
        """Measures the memory of connections that have carried a request for the small file."""
        process, port = self.start(name)
        connections, seen = [], []
        try:
            for total in IDLE:
                while len(connections) < total:
                    connections.append(self.connect(port))
                    self.ask(connections[-1], "1k")
                time.sleep(2)
                seen.append(pss(tree(process.pid)))
            for connection in connections[:: len(connections) // 100]:  # they are all still open
                self.ask(connection, "1k")
            return {"kib_per_conn": (seen[1] - seen[0]) / (IDLE[1] - IDLE[0]), "pss_mib": seen[1] / 1024, "other_busy": 0}
        finally:
            for connection in connections:
                connection.close()
            stop(process)

    def connect(self, port):
        return self.context.wrap_socket(socket.create_connection(("127.0.0.1", port), 30), server_hostname="localhost")

    def ask(self, connection, row):
        """Sends a request, and compares the body of the response with the file."""
        connection.sendall(f"GET /{row} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        while len(answer.partition(b"\r\n\r\n")[2]) < SIZES[row]:
            part = connection.recv(1 << 16)
            if not part:
                raise RuntimeError(f"the connection was closed after {answer[:200]!r}")
            answer += part
        if answer.partition(b"\r\n\r\n")[2] != Path(self.dir, "files", row).read_bytes():
            raise RuntimeError(f"the response is not the file: {answer[:200]!r}")

    def check(self, port, row):
        """Checks the first responses of a peer, and that it uses the cipher suite that the clients offer."""
        with self.connect(port) as connection:
            for _ in range(2):
                self.ask(connection, row)
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}"]  # reads the same configuration as wrk
        output = subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL).stdout
        if "Cipher is TLS_AES_128_GCM_SHA256" not in output or "X25519" not in output:
            raise RuntimeError(f"another cipher suite or group: {output[-2000:]}")

    def measure_quietly(self, name, row):
        """Measures again, up to --retries times, while other processes use more than --max-other; returns the quietest run."""
        tries = []
        for _ in range(1 + self.args.retries):
            tries.append(self.idle(name, row) if row == "idle" else self.requests(name, row))
            if tries[-1]["other_busy"] <= self.args.max_other:
                break
        return min(tries, key=lambda result: result["other_busy"])


def report(results, peers):
    """Returns a table of the medians, and of the ratios to Tollgate within a round."""
    lines = [["", *peers, *(f"Tollgate ÷ {peer}" for peer in peers if peer != "tollgate")]]
    figures = {"1k": ("per_cpu_s", "requests of 1 KiB per CPU second"), "64k": ("per_cpu_s", "requests of 64 KiB per CPU second"),
               "idle": ("kib_per_conn", "KiB per idle connection")}
    for row, runs in results.items():
        figure, title = figures[row]
        for figure, title in [(figure, title)] + [("per_user_s", f"{title}, user CPU alone")] * (row != "idle"):
            middle = lambda values: f"{statistics.median(values):,.{2 if row == 'idle' else 0}f}"
            line = [title, *(middle([run[figure] for run in runs[peer]]) for peer in peers)]
            for peer in peers:
                if peer != "tollgate" and "tollgate" in peers:
                    ratios = [own[figure] / other[figure] for own, other in zip(runs["tollgate"], runs[peer])]
                    line.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
            lines.append(line)
    return table(lines)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    words = lambda text: text.split(",")
    ap.add_argument("--peers", type=words, default=list(PEERS), help="of " + ",".join(PEERS))
    ap.add_argument("--rows", type=words, default=[*SIZES, "idle"], help="of " + ",".join([*SIZES, "idle"]))
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--seconds", type=int, default=8, help="length of each run of wrk")
    ap.add_argument("--max-other", type=float, default=0.1, help="repeat a run if other processes use more of the machine")
    ap.add_argument("--retries", type=int, default=2)
    ap.add_argument("--json", help="write the results to this file, too")
    args = ap.parse_args()
    if missing := [name for name in ("wrk", "nginx", TOLLGATE) if not shutil.which(name)]:
        sys.exit(f"not installed or built: {', '.join(missing)} (apt-get install wrk nginx; cargo build --release)")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    bench = Bench(args)
    results = {row: {peer: [] for peer in args.peers} for row in args.rows}
    try:
        for number in range(args.rounds):
            turn = number % len(args.peers)
            for row in args.rows:
                for peer in args.peers[turn:] + args.peers[:turn]:
                    result = bench.measure_quietly(peer, row)
                    results[row][peer].append(result)
                    text = " ".join(f"{name} {value:.2f}" for name, value in result.items())
                    print(f"{number + 1} {row:4} {peer:10} {text}", file=sys.stderr, flush=True)
            if args.json:
                Path(args.json).write_text(json.dumps(results, indent=1))
    finally:
        stop(bench.server)
        shutil.rmtree(bench.dir)
    print(facts(["nginx"], {"nginx": ["nginx", "-v"]}))
    print(report(results, args.peers))


if __name__ == "__main__":
    main()
