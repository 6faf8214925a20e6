"""Upgrades at a fixed rate while one of two servers fails, for the suite upstreams.py: the servers that fail, and Tollgate,
nginx and HAProxy in front of them."""

import asyncio
import contextlib
import json
import resource
import shlex
import socket
import subprocess
import threading
import time

import harness
from harness import equal

PATIENCE_SECONDS = 60
CONNECT_SECONDS = 1
RETRIES = 2
EJECT_AFTER = 5  # consecutive failures, after which a server gets no requests for a while
LIMIT = min(3000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 5)  # each session and handshake needs two descriptors


# ------------------------------------------------------------------------------------------------------------- the servers


def dead(stack):
    """Returns a port that refuses connections and that no other process gets meanwhile."""
    holder = stack.enter_context(socket.socket())
    holder.bind(("127.0.0.1", 0))
    return holder.getsockname()[1]


def swallowing(stack):
    """Returns the port of a listener whose queue is full, so that the kernel drops further SYNs."""
    listener = stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for _ in range(16):
        waiting = stack.enter_context(socket.socket())
        waiting.settimeout(0.2)
        try:
            waiting.connect(listener.getsockname())
        except TimeoutError:
            return listener.getsockname()[1]
    raise RuntimeError("the queue does not fill")


def answers_500(stack):
    """Returns the port of a server that answers each request with 500."""
    started, loop = threading.Event(), asyncio.new_event_loop()
    port = None

    async def answer(reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    async def serve():
        nonlocal port
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
        port = server.sockets[0].getsockname()[1]
        started.set()

    def run():
        asyncio.set_event_loop(loop)
        loop.create_task(serve())
        loop.run_forever()

    threading.Thread(target=run, daemon=True).start()
    stack.callback(loop.call_soon_threadsafe, loop.stop)
    started.wait()
    return port


def healthy(stack):
    """Returns no port: the second server is the first one, under another address."""
    return None


# --------------------------------------------------------------------------------------------------------------- the proxies
# Each gets the ports of two servers, is new for each run, and has the same timeouts, retries and number of workers.


class Tollgate:
    name = "Tollgate"

    def __init__(self, directory, secrets, ports):
        self.process = harness.Proxy("".join([
            f'[server]\nworkers = 2\nmax_sessions = {LIMIT}\nmax_handshakes = {LIMIT}\n',
            'handshakes_per_address = "off"\n[log]\nlevel = "warn"\n', harness.listener(secrets),
            f'[upstream.pair]\nservers = [{", ".join(f"{address!r}" for address in ports)}]\n'.replace("'", '"'),
            f'connect_timeout = "{CONNECT_SECONDS}s"\nretries = {RETRIES}\nmax_pending_requests = {LIMIT}\n',
            f"[upstream.pair.health]\neject_after = {EJECT_AFTER}\n",
            harness.route("pair", "/{*rest}", "pair"),
        ]), directory, "storm")
        self.port = self.process.port


class Peer:
    """nginx or HAProxy with its configuration of the bench, for two servers."""

    def __init__(self, directory, secrets, addresses):
        text = (harness.ROOT / "tests/bench/peers" / self.template).read_text()
        for old, new in self.changes(addresses):
            equal(text.count(old), 1)
            text = text.replace(old, new)
        self.port, config = harness.free_port(), directory / self.template
        pem = directory / "both.pem"
        pem.write_text("".join((secrets.dir / f"localhost.{part}").read_text() for part in ("pem", "key")))
        values = {"DIR": directory, "CONFIG": config, "CERT": secrets.dir / "localhost.pem", "WORKERS": 2, "BUF": "4k",
                  "KEY": secrets.dir / "localhost.key", "PEM": pem, "PORT": self.port}

        def fill(text):
            for name, value in values.items():
                text = text.replace(f"@{name}@", str(value))
            return text

        config.write_text(fill(text))
        self.process = harness.Process(self.name, shlex.split(fill(self.command)), directory)
        end = time.monotonic() + harness.READY_SECONDS
        while not harness.accepts(self.port):
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name} did not start:\n{self.process.output()[-2000:]}")
            time.sleep(0.05)


class Nginx(Peer):
    """A server that answers 500 can be ejected only if such a request is repeated at the next server, too."""

    name, template, command = "nginx", "nginx.conf", "nginx -e @DIR@/nginx.err -c @CONFIG@"

    def changes(self, addresses):
        servers = "".join(f"server {address} max_fails={EJECT_AFTER} fail_timeout=5s; " for address in addresses)
        next_server = f"proxy_next_upstream error timeout http_500; proxy_next_upstream_tries {RETRIES + 1};"
        return [
            ("    server {\n", f"    upstream pair {{ zone pair 64k; least_conn; {servers}}}\n    server {{\n"),
            ("proxy_pass http://@UPSTREAM@;", f"proxy_pass http://pair; proxy_connect_timeout {CONNECT_SECONDS}s; {next_server}"),
        ]


class Haproxy(Peer):
    """Servers are checked by a connection, and ejected after failures of requests."""

    name, template, command = "haproxy", "haproxy.cfg", "haproxy -q -db -f @CONFIG@"

    def changes(self, addresses):
        health = f"check inter 5s observe layer7 error-limit {EJECT_AFTER} on-error mark-down"
        servers = "\n".join(f"    server s{number} {address} {health}" for number, address in enumerate(addresses))
        return [
            ("    timeout connect 5s", f"    timeout connect {CONNECT_SECONDS}s\n    retries {RETRIES}\n    option redispatch 1"),
            ("    server up @UPSTREAM@", f"    balance leastconn\n{servers}"),
        ]


# ------------------------------------------------------------------------------------------------------------------ the load


def upgrades(load, port, secrets, count, rate):
    """Makes upgrades at this rate, and returns the report of the load generator."""
    command = [str(load), "upgrades", "--url", f"wss://localhost:{port}/", "--ca", str(secrets.ca), "--messages", str(count),
               "--rate", str(rate)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as generator:
        lines = harness.Lines(generator.stdout)
        try:
            equal(lines.next(PATIENCE_SECONDS), "ready")
            generator.stdin.write("go\n")
            generator.stdin.flush()
            return json.loads(lines.next(PATIENCE_SECONDS))
        finally:
            generator.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                generator.wait(5)
            generator.kill()


def storm(suite, load, proxy_kind, fault, directory, secrets, count, rate):
    """Runs the load against a new proxy, with this fault of one of its two servers. Returns the number of failed upgrades."""
    with contextlib.ExitStack() as stack:
        port = harness.free_port()
        server = harness.Process("storm-upstream", [load, "echo", "--listen", f"127.0.0.1:{port}"], directory)
        stack.callback(server.stop)
        second = fault(stack) or port
        host = "127.0.0.1" if second != port else "127.0.0.2"
        if second == port:
            other = harness.Process("storm-second", [load, "echo", "--listen", f"{host}:{port}"], directory)
            stack.callback(other.stop)
        proxy = proxy_kind(directory, secrets, [f"127.0.0.1:{port}", f"{host}:{second}"])
        stack.callback(proxy.process.stop)
        done = upgrades(load, proxy.port, secrets, count, rate)
    equal(done["messages"] + done["failed"] <= count + rate / 10, True)
    failed, total = done["failed"], done["messages"] + done["failed"]
    suite.note(f"{proxy_kind.name}, one of two servers {fault.__name__}: {total:,} upgrades at {rate:,.0f}/s, {failed} failed"
               f" ({failed / total:.2%}) {json.dumps(done['failures'])}; p50 {done['p50_us'] / 1e3:.1f} ms,"
               f" p99 {done['p99_us'] / 1e3:.0f} ms, max {done['max_us'] / 1e3:.0f} ms")
    return failed
