#!/usr/bin/env python3
"""Measures workloads h and hr with each kind of authentication, and the ratio to `auth = "none"`; see README.md."""

import argparse, base64, http.server, json, secrets, shutil, statistics, subprocess, sys, threading
from pathlib import Path

from report import facts, table
from run import HERE, ORIGIN, OURS, TOLLGATE, Bench, build, stop
from workloads import WORKLOADS

ROWS = ("h", "hr")
FIGURES = ("cpu_ms_per_handshake", "user_ms_per_handshake")
# The sections of all kinds are in each configuration, which differ in the route's `auth` alone.
SECTIONS = """
[auth.secret]
issuer = "https://bench.example/"
audience = ["bench"]
algorithms = ["HS256"]
secret_file = "{dir}/secret"

[auth.fetched]
issuer = "https://bench.example/"
audience = ["bench"]
algorithms = ["ES256"]
jwks_url = "http://127.0.0.1:{keys}/jwks.json"

[auth.other]
issuer = "https://other.example/"
audience = ["bench"]
algorithms = ["ES256"]
public_key_file = "{dir}/token-public.pem"

[auth.service]
kind = "forward"
url = "http://127.0.0.1:{upstream}/auth"
response_headers = ["X-Auth-Request-User"]
subject_header = "X-Auth-Request-User"

[auth.service-uncached]
kind = "forward"
url = "http://127.0.0.1:{upstream}/auth"
response_headers = ["X-Auth-Request-User"]
subject_header = "X-Auth-Request-User"
cache_for = "off"
"""
# name: (description, value of the route's `auth`, credential)
KINDS = {
    "none": ("none", '"none"', None),
    "hs256": ("JWT, HS256, secret in a file", '"secret"', "hs256"),
    "es256": ("JWT, ES256, key in a file", '"users"', "es256"),
    "jwks": ("JWT, ES256, key from `jwks_url`", '"fetched"', "es256"),
    "list": ("two sections of JWTs, the second recognises it", '["other", "users"]', "es256"),
    "forward": ("forward, answers reused", '"service"', "cookie"),
    "forward-uncached": ("forward, asked each time", '"service-uncached"', "cookie"),
}


def serve_keys(public):
    """Serves a key set with the P-256 key of this file on a thread, and returns its port."""
    der = subprocess.run(["openssl", "pkey", "-pubin", "-in", public, "-outform", "der"], check=True, capture_output=True).stdout
    point = [base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (der[-64:-32], der[-32:])]
    keys = json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "x": point[0], "y": point[1]}]}).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(keys)))
            self.end_headers()
            self.wfile.write(keys)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def prepare(bench, kinds):
    """Makes these kinds the peers of the bench."""
    secret = Path(bench.dir, "secret")
    secret.touch(0o600)
    secret.write_text(secrets.token_hex(32))
    credentials = {
        None: [], "es256": [f"Authorization: Bearer {bench.token}"], "cookie": [f"Cookie: session={secrets.token_hex(16)}"],
        "hs256": [f"Authorization: Bearer {bench.sign(str(secret), 'HS256')}"],
    }
    keys = serve_keys(f"{bench.dir}/token-public.pem")
    sections = SECTIONS.format(dir=bench.dir, keys=keys, upstream=bench.upstream_port)
    for kind in kinds:
        _, auth, credential = KINDS[kind]
        # Requests that wait for keys or for a service need descriptors of their own.
        values = {**OURS, "SESSIONS": 4000, "SECTIONS": sections, "AUTH": f"auth = {auth}"}
        bench.peers[kind] = (HERE / "peers/tollgate.toml", f"{TOLLGATE} run --config @CONFIG@", values, "wss://localhost:@PORT@/",
                             [f"Origin: {ORIGIN}", *credentials[credential]])


def report(results):
    """Returns a table of the medians, and of the ratios to none within a round, with the user CPU in brackets."""
    def cells(key, kind):
        runs, base = results[key][kind], results[key]["none"]
        pairs = [(run, none) for run, none in zip(runs, base) if run and none]
        if not pairs:
            return ["–", "–"]
        own = [statistics.median(run[figure] for run, _ in pairs) for figure in FIGURES]
        ratios = [statistics.median(run[figure] / none[figure] for run, none in pairs) for figure in FIGURES]
        return [f"{own[0]:.3f} ({own[1]:.3f})", "{:.2f} ({:.2f})".format(*ratios)]

    head = ["auth"] + [text for key in ROWS for text in (f"{key}: CPU ms (user)", "÷ none")]
    return table([head] + [[KINDS[kind][0], *(cell for key in ROWS for cell in cells(key, kind))] for kind in results["h"]])


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    words = lambda text: text.split(",")
    ap.add_argument("--kinds", type=words, default=list(KINDS), help="of " + ",".join(KINDS) + "; none is always measured")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--scale", type=float, default=1, help="multiplies the number of handshakes")
    ap.add_argument("--max-other", type=float, default=0.1, help="repeat a run if other processes use more of the machine")
    ap.add_argument("--retries", type=int, default=2)
    args = ap.parse_args(namespace=argparse.Namespace(peers=[], candidate=[]))
    build()
    bench = Bench(args)
    kinds = list(dict.fromkeys(["none", *args.kinds]))
    results = {key: {kind: [] for kind in kinds} for key in ROWS}
    try:
        prepare(bench, kinds)
        for number in range(args.rounds):
            turn = number % len(kinds)
            for key in ROWS:
                for kind in kinds[turn:] + kinds[:turn]:
                    try:
                        result = bench.measure_quietly(kind, key)
                        print(f"{number + 1} {key:2} {kind:16} {result[FIGURES[0]]:.3f} per_s {result['per_s']:.0f} "
                              f"others {result['other_busy']:.0%}", file=sys.stderr, flush=True)
                    except (RuntimeError, OSError) as error:
                        result = {}
                        print(f"{number + 1} {key:2} {kind:16} FAILED: {error}", file=sys.stderr, flush=True)
                    results[key][kind].append(result)
    finally:
        stop(bench.upstream)
        shutil.rmtree(bench.dir)
    print(facts([], {}))
    print(f"{', '.join(f'{key}: {WORKLOADS[key][0]}' for key in ROWS)}; {args.rounds} rounds.\n")
    print(report(results))


if __name__ == "__main__":
    main()
