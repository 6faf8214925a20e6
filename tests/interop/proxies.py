"""Tests the address of the client behind HAProxy and nginx: by PROXY headers, and by the headers that they append; and the
PROXY headers that HAProxy and nginx get from Tollgate as its upstreams.

Clients connect from several addresses of 127.0.0.0/8, and the balancers connect to Tollgate from 127.0.0.1, or over a Unix
socket.
"""

import asyncio
import contextlib
import itertools
import json
import pathlib
import re
import shutil
import socket
import ssl
import tempfile
import threading
import time

import harness
import websockets.exceptions
from harness import Process, Proxy, Secrets, Suite, equal, free_port
from websockets.asyncio.client import connect
from websockets.sync.client import unix_connect
from websockets.sync.server import serve

SECONDS = 15
SHARE = 4  # handshakes_per_address
SPOOFED = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "ftp", "X-Real-IP": "203.0.113.9"}

suite = Suite("proxies")
folder = harness.work_dir("proxies")
secrets = Secrets(folder)
context = secrets.client_context()
numbers = itertools.count()
run = asyncio.new_event_loop().run_until_complete


def answer(websocket):
    """Sends the headers of the request, and then echoes."""
    websocket.send(json.dumps({name.lower(): value for name, value in websocket.request.headers.raw_items()}))
    for message in websocket:
        websocket.send(message)


backend = serve(answer, "127.0.0.1", 0)
threading.Thread(target=backend.serve_forever, daemon=True).start()
sockets = pathlib.Path(tempfile.mkdtemp(prefix="tollgate-"))  # the path of a socket is limited to 107 bytes

PORTS = {name: free_port() for name in ("proxied", "plain_proxied", "plain_trusted", "haproxy_v1", "haproxy_v2", "haproxy_tls",
                                        "haproxy_http", "nginx_tcp", "nginx_unix", "to_haproxy", "to_nginx", "ipv6")}

LISTENERS = f"""
[[listener]]
address = "127.0.0.1:{PORTS['plain_proxied']}"
tls = false
proxy_protocol_from = ["127.0.0.1"]

[[listener]]
address = "127.0.0.1:{PORTS['plain_trusted']}"
tls = false
trusted_proxies = ["127.0.0.1"]

[[listener]]
address = "unix:{sockets}/http.sock"
tls = false
trusted_proxies = ["unix"]

[[listener]]
address = "[::1]:{PORTS['ipv6']}"
tls = false
"""

# Servers that expect a PROXY header. The backend receives the ends of the client's connection as they read them.
PROXIED_UPSTREAMS = "".join(harness.upstream(name, PORTS[name]) + "proxy_protocol = true\n" for name in ("to_haproxy", "to_nginx"))

HAPROXY = f"""
global
    maxconn 4000
defaults
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
frontend v1
    mode tcp
    bind 127.0.0.1:{PORTS['haproxy_v1']}
    use_backend tollgate_v1
backend tollgate_v1
    mode tcp
    server tollgate 127.0.0.1:{PORTS['proxied']} send-proxy check check-send-proxy inter 100ms
frontend v2
    mode tcp
    bind 127.0.0.1:{PORTS['haproxy_v2']}
    use_backend tollgate_v2
backend tollgate_v2
    mode tcp
    server tollgate 127.0.0.1:{PORTS['proxied']} send-proxy-v2 check check-send-proxy inter 100ms
frontend tls
    mode tcp
    bind 127.0.0.1:{PORTS['haproxy_tls']} ssl crt {folder}/haproxy.pem
    use_backend tollgate_tls
backend tollgate_tls
    mode tcp
    server tollgate 127.0.0.1:{PORTS['plain_proxied']} send-proxy-v2 proxy-v2-options ssl,cert-cn,authority,crc32c
frontend http
    mode http
    bind 127.0.0.1:{PORTS['haproxy_http']} ssl crt {folder}/haproxy.pem
    option forwardfor
    http-request set-header X-Forwarded-Proto https
    use_backend tollgate_http
backend tollgate_http
    mode http
    server tollgate 127.0.0.1:{PORTS['plain_trusted']}
frontend from_tollgate
    mode http
    bind 127.0.0.1:{PORTS['to_haproxy']} accept-proxy
    http-request set-header X-Ends "%[src] %[src_port] %[dst] %[dst_port]"
    use_backend service
backend service
    mode http
    server service 127.0.0.1:{backend.socket.getsockname()[1]}
"""

NGINX_SERVER = """
    server {
        listen 127.0.0.1:@LISTEN@ ssl;
        ssl_certificate @DIR@/localhost.pem;
        ssl_certificate_key @DIR@/localhost.key;
        location / {
            proxy_pass http://@UPSTREAM@;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection Upgrade;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }
    }
"""

NGINX_PROXIED = f"""
    server {{
        listen 127.0.0.1:{PORTS['to_nginx']} proxy_protocol;
        location / {{
            proxy_pass http://127.0.0.1:{backend.socket.getsockname()[1]};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection Upgrade;
            proxy_set_header X-Ends "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port";
        }}
    }}
"""


def nginx_config():
    servers = [("nginx_tcp", f"127.0.0.1:{PORTS['plain_trusted']}"), ("nginx_unix", f"unix:{sockets}/http.sock")]
    servers = "".join(
        NGINX_SERVER.replace("@LISTEN@", str(PORTS[name])).replace("@DIR@", str(secrets.dir)).replace("@UPSTREAM@", upstream)
        for name, upstream in servers
    )
    temporary = "".join(f"    {kind}_temp_path {folder}/nginx-{kind};\n"
                        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return f"""
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.err;
user root;
worker_processes 1;
events {{ worker_connections 4000; }}
http {{
    access_log off;
{temporary}{servers}{NGINX_PROXIED}
}}
"""


def start(name, ports, *command):
    """Starts a balancer, and waits until it listens."""
    if not shutil.which(command[0]):
        raise RuntimeError(f"{command[0]} is not installed")
    process = Process(name, command, folder)
    end = time.monotonic() + SECONDS
    while not all(harness.accepts(port) for port in ports):
        if time.monotonic() > end or not process.alive():
            raise RuntimeError(f"{name} did not start:\n{process.output()[-2000:]}")
        time.sleep(0.02)
    return process


class Session:
    """A session through a balancer, with its request as the backend received it, and its path."""

    def __init__(self, name, path="open", source="127.0.0.7", headers=None):
        self.path = f"/{path}/{next(numbers)}"
        plain = harness.raw(PORTS[name], seconds=SECONDS, source=source)
        self.own = plain.getsockname()
        run(self.open(plain, headers))
        self.seen = json.loads(self.recv())

    async def open(self, plain, headers):
        plain.setblocking(False)
        self.session = await connect(f"wss://localhost{self.path}", sock=plain, ssl=context, compression=None,
                                     additional_headers=headers, open_timeout=SECONDS)

    def send(self, message):
        run(self.session.send(message))

    def recv(self):
        return run(asyncio.wait_for(self.session.recv(), SECONDS))

    def close(self):
        run(self.session.close())


def status_through(name, path, source, headers=None):
    """Returns the status of a request: 101 if a session was opened."""
    try:
        session = Session(name, path, source, headers)
    except websockets.exceptions.InvalidStatus as refused:
        return refused.response.status_code
    session.close()
    return 101


def lines(message, **fields):
    """Returns the lines with this message and these fields."""
    found = []
    for line in tollgate.output().splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if event.get("message") == message and all(event.get(name) == value for name, value in fields.items()):
                found.append(event)
    return found


def wait_for(message, **fields):
    end = time.monotonic() + SECONDS
    while not (found := lines(message, **fields)):
        if time.monotonic() > end:
            raise TimeoutError(f"the log has no line {message!r} with {fields}")
        time.sleep(0.02)
    return found


def check_session(name, source, headers=None, scheme="https"):
    session = Session(name, source=source, headers=headers)
    session.send("hello")
    equal(session.recv(), "hello")
    session.close()
    seen, path = session.seen, session.path
    equal((seen["x-forwarded-for"], seen["x-forwarded-proto"]), (source, scheme))
    equal(seen["forwarded"], f'for={source};host="localhost";proto={scheme}')
    equal("x-real-ip" in seen, False)
    equal([line["client"] for line in wait_for("session ended", path=path)], [source])


config = "\n".join([
    f"[server]\nhandshakes_per_address = {SHARE}\nmax_handshakes = 512\n\n[log]\nlevel = \"debug\"\n",
    harness.listener(secrets),
    harness.listener(secrets, proxy_protocol_from='["127.0.0.1"]').replace("@PORT@", str(PORTS["proxied"])),
    LISTENERS,
    harness.upstream("backend", backend.socket.getsockname()[1]),
    PROXIED_UPSTREAMS,
    harness.route("open", "/open/{case}", "backend"),
    harness.route("one", "/one/{case}", "backend", limits={"sessions_per_address": 1}),
    *(harness.route(name, f"/{name}/{{case}}", name) for name in ("to_haproxy", "to_nginx")),
    harness.route("denied", "/denied/{case}", "backend", deny_addresses='["127.0.0.66"]'),
])
tollgate = Proxy(config, folder)
(folder / "haproxy.pem").write_text((secrets.dir / "localhost.pem").read_text() + (secrets.dir / "localhost.key").read_text())
(folder / "haproxy.cfg").write_text(HAPROXY)
(folder / "nginx.conf").write_text(nginx_config())
start("haproxy", [port for name, port in PORTS.items() if name.startswith(("haproxy", "to_haproxy"))], "haproxy", "-q", "-f",
      folder / "haproxy.cfg")
start("nginx", [PORTS["nginx_tcp"], PORTS["nginx_unix"], PORTS["to_nginx"]], "nginx", "-e", folder / "nginx.err", "-c", folder / "nginx.conf")

# A balancer in TCP mode passes the TLS connection to Tollgate, or terminates it (`haproxy_tls`).
TCP = {"haproxy_v1": "https", "haproxy_v2": "https", "haproxy_tls": "http"}
HTTP = ("haproxy_http", "nginx_tcp", "nginx_unix")

for balancer in (*TCP, *HTTP):
    scheme = TCP.get(balancer, "https")
    with suite.check(f"{balancer}: log, headers and backend have the client's address"):
        for source in ("127.0.0.7", "127.0.0.8"):
            check_session(balancer, source, scheme=scheme)

    with suite.check(f"{balancer}: an address that the client writes into the headers is not believed"):
        check_session(balancer, "127.0.0.7", SPOOFED, scheme)
        check_session(balancer, "127.0.0.7", {"Forwarded": "for=203.0.113.9;proto=ftp"}, scheme)
        # The client claims to be one more trusted proxy.
        check_session(balancer, "127.0.0.7", {"X-Forwarded-For": "203.0.113.9, 127.0.0.1"}, scheme)

    with suite.check(f"{balancer}: sessions are limited by the client's address"):
        first = Session(balancer, "one", "127.0.0.7")
        equal(status_through(balancer, "one", "127.0.0.7"), 429)
        equal(status_through(balancer, "one", "127.0.0.7", {"X-Forwarded-For": "203.0.113.10"}), 429)
        equal(status_through(balancer, "one", "127.0.0.8"), 101)
        first.close()

    with suite.check(f"{balancer}: address lists are applied to the client's address"):
        equal(status_through(balancer, "denied", "127.0.0.66"), 403)
        equal(status_through(balancer, "denied", "127.0.0.66", {"X-Forwarded-For": "203.0.113.10"}), 403)
        equal(status_through(balancer, "denied", "127.0.0.67"), 101)

with suite.check("haproxy_v2: a PROXY header that the client sends is not believed"):
    with harness.raw(PORTS["haproxy_v2"], source="127.0.0.7") as client:
        client.sendall(b"PROXY TCP4 203.0.113.9 203.0.113.1 1 2\r\n")
        equal(b"HTTP" in harness.read_all(client, SECONDS), False)

with suite.check("a PROXY header of a client that connects directly is not believed"):
    for source in ("127.0.0.7", "127.0.0.8"):
        with harness.raw(PORTS["proxied"], source=source) as client:
            client.sendall(b"PROXY TCP4 203.0.113.9 203.0.113.1 1 2\r\n")
            equal(b"HTTP" in harness.read_all(client, SECONDS), False)
    equal([line for line in lines("session ended") if line["client"].startswith("203.")], [])

with suite.check("haproxy_v2: handshakes are limited by the client's address, and others are served"):
    idle = []
    for _ in range(SHARE):
        plain = harness.raw(PORTS["haproxy_v2"], seconds=SECONDS, source="127.0.0.70")
        idle.append(context.wrap_socket(plain, server_hostname="localhost"))
    waiting = harness.raw(PORTS["haproxy_v2"], seconds=1, source="127.0.0.70")
    try:
        context.wrap_socket(waiting, server_hostname="localhost")
        raise AssertionError("the share of the address is exhausted")
    except (TimeoutError, ssl.SSLError, socket.timeout):
        pass
    check_session("haproxy_v2", "127.0.0.71")
    for client in (*idle, waiting):
        client.close()

with suite.check("nginx_tcp and nginx_unix: the balancer's own connections do not count"):
    for balancer in ("nginx_tcp", "nginx_unix"):
        opened = [Session(balancer, source="127.0.0.7") for _ in range(4 * SHARE)]
        for session in opened:
            session.close()

# The ends without a client's address: HAProxy uses those of its own connection, here without Tollgate's end; nginx none.
UNKNOWN = {"to_haproxy": f"127.0.0.1 {PORTS['to_haproxy']}", "to_nginx": ""}


def ends_over(plain, path):
    """Opens a session on this connection to a plain listener, and returns the ends that the service was told."""
    async def seen():
        plain.setblocking(False)
        async with connect(f"ws://localhost{path}", sock=plain, compression=None, open_timeout=SECONDS) as session:
            return json.loads(await asyncio.wait_for(session.recv(), SECONDS))
    return run(seen())["x-ends"]


for upstream in ("to_haproxy", "to_nginx"):
    with suite.check(f"{upstream}: the PROXY header of Tollgate has both ends of the client's connection"):
        for source in ("127.0.0.7", "127.0.0.8"):
            plain = harness.raw(PORTS["plain_trusted"], seconds=SECONDS, source=source)
            expected = f"{source} {plain.getsockname()[1]} 127.0.0.1 {PORTS['plain_trusted']}"
            equal(ends_over(plain, f"/{upstream}/{next(numbers)}"), expected)
        plain = socket.create_connection(("::1", PORTS["ipv6"]), SECONDS)
        expected = f"::1 {plain.getsockname()[1]} ::1 {PORTS['ipv6']}"
        equal(ends_over(plain, f"/{upstream}/{next(numbers)}"), expected)

    with suite.check(f"{upstream}: the header of a balancer is passed on"):
        for balancer in ("haproxy_v1", "haproxy_v2", "haproxy_tls"):
            session = Session(balancer, upstream, "127.0.0.9")
            equal(session.seen["x-ends"], f"127.0.0.9 {session.own[1]} 127.0.0.1 {PORTS[balancer]}")
            session.close()

    with suite.check(f"{upstream}: a client that a trusted proxy names has no port"):
        for balancer in HTTP:
            session = Session(balancer, upstream, "127.0.0.7")
            # HAProxy and nginx show port 0 as an empty text.
            to = "0.0.0.0" if balancer == "nginx_unix" else f"127.0.0.1 {PORTS['plain_trusted']}"
            equal(session.seen["x-ends"], f"127.0.0.7  {to}")
            session.close()

    with suite.check(f"{upstream}: a client of a Unix socket is served without an address"):
        with unix_connect(f"{sockets}/http.sock", f"ws://localhost/{upstream}/{next(numbers)}", compression=None) as session:
            seen = json.loads(session.recv(SECONDS))["x-ends"]
            session.send("hello")
            equal(session.recv(SECONDS), "hello")
        equal(re.sub(r"^127.0.0.1 \d+ ", "", seen), UNKNOWN[upstream])

with suite.check("120 sessions at once from 120 addresses, each under its own"):
    opened = []
    for number in range(120):
        balancer = (*TCP, *HTTP)[number % 6]
        source = f"127.0.1.{number + 1}"
        opened.append((source, Session(balancer, source=source)))
    for source, session in opened:
        equal(session.seen["x-forwarded-for"], source)
        session.send(session.path)
        equal(session.recv(), session.path)
        session.close()
    for source, session in opened:
        equal([line["client"] for line in wait_for("session ended", path=session.path)], [source])

with suite.check("health checks with LOCAL headers and without any request are no warnings"):
    # Each check of HAProxy ends with the connection, before the TLS handshake.
    while len(wait_for("TLS handshake failed", client="127.0.0.1")) < 6:
        time.sleep(0.02)
    equal(lines("connection closed: no valid PROXY header"), [])

shutil.rmtree(sockets, ignore_errors=True)
suite.finish()
