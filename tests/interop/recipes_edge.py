"""The recipes of what stands in front of Tollgate or beside it: a balancer in TCP mode (HAProxy), a CDN (nginx in its place),
and a login (Django's in the place of oauth2-proxy). The service is the one made with FastAPI."""

import contextlib
import functools
import hashlib
import secrets as randoms
import time

import aiohttp

import harness
from cluster_nodes import Redis
from harness import equal
from recipes_python import django_site, fastapi_service, in_loop, log_in
from recipes_setting import (CLIENT, DIRECT, SECONDS, Direct, behind, directory, needs, nginx, on_free_ports, ready, secrets,
                             session, suite)
from recipes_setting import RECIPES as RECIPES_DIRECTORY

OTHER = "127.0.0.8"
HOST = "app.example.com"
PER_ADDRESS = 5  # sessions, in the recipes
LARGE = 900_000  # bytes; the default of request_max_size is 1 MiB
RECHECK_SECONDS = 1

HAPROXY = """
global
    maxconn 4000
defaults
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
frontend https
    mode tcp
    bind 127.0.0.1:{port}
    default_backend tollgate
backend tollgate
    mode tcp
    balance leastconn
    server a 127.0.0.1:{tollgate} send-proxy-v2 check check-send-proxy inter 100ms
"""

# The same with the checks of config/recipes/cluster.toml, and a line for each node.
HAPROXY_CLUSTER = HAPROXY.replace("    server a 127.0.0.1:{tollgate} send-proxy-v2 check check-send-proxy inter 100ms\n",
                                  "    option httpchk GET /readyz\n    default-server send-proxy-v2 check inter 100ms\n{servers}\n")
NODES = 3

# A CDN as a server block: it keeps connections to the origin, and passes WebSockets and `Host` on.
CDN = """
ssl_certificate {dir}/localhost.pem;
ssl_certificate_key {dir}/localhost.key;
client_max_body_size 100m;
location / {{
    proxy_pass https://origin;
    proxy_ssl_verify on;
    proxy_ssl_trusted_certificate {ca};
    proxy_ssl_name localhost;
    proxy_ssl_server_name on;
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_buffering off;
    proxy_read_timeout 100s;
}}
"""


def l4_balancer():
    needs("haproxy")
    if DIRECT:
        raise harness.Skip("a balancer needs Tollgate")
    port = fastapi_service("l4-service")

    def start(public, metrics):
        changes = [('"10.0.0.0/24"', '"127.0.0.1"'), ('"127.0.0.1:9641"', f'"127.0.0.1:{metrics}"'),
                   ('shutdown_delay = "10s"', 'shutdown_delay = "0s"'), ('drain_timeout = "5m"', 'drain_timeout = "1s"')]
        tollgate = behind("l4-balancer", {"127.0.0.1:8000": port}, HOST, changes=changes, public=public)
        file = directory / "haproxy.cfg"
        file.write_text(HAPROXY.format(port=public, tollgate=tollgate.port))
        ready(harness.Process("haproxy", ["haproxy", "-q", "-f", file], directory), public)

    public, _ = on_free_ports(2, start)
    return functools.partial(in_loop, edge_checks, "HAProxy", Edge(public))


def cluster():
    needs("haproxy", "redis-server")
    if DIRECT:
        raise harness.Skip("a cluster needs Tollgate")
    port, redis_port = fastapi_service("cluster-service"), harness.free_port()
    password = randoms.token_hex(16)
    for name, content in ("redis-password", password), ("cluster-secret", randoms.token_hex(32)):
        (directory / name).write_text(f"{content}\n")
        (directory / name).chmod(0o600)
    # The user of the comment in the recipe.
    rules = next(line for line in (RECIPES_DIRECTORY / "cluster.toml").read_text().splitlines() if line.startswith("#   user tollgate "))
    (directory / "users.acl").write_text(f"user default off\n{rules.removeprefix('#   ').replace('PASSWORD', password)}\n")
    Redis(directory, "--port", 0, "--tls-port", redis_port, "--tls-cert-file", secrets.dir / "localhost.pem", "--tls-key-file",
          secrets.dir / "localhost.key", "--tls-ca-cert-file", secrets.ca, "--tls-auth-clients", "no", "--aclfile",
          directory / "users.acl", port=redis_port)

    def start(public, *checked):
        servers = []
        for number, metrics in enumerate(checked):
            changes = [('"10.0.0.0/24"', '"127.0.0.1"'), ('"0.0.0.0:9641"', f'"127.0.0.1:{metrics}"'),
                       ('shutdown_delay = "10s"', 'shutdown_delay = "0s"'), ('drain_timeout = "5m"', 'drain_timeout = "1s"'),
                       ("unix:/run/tollgate/admin.sock", f"unix:{directory}/node-{number}.sock"),
                       ("redis.internal:6379", f"localhost:{redis_port}"),
                       ('on_outage = "local"', f'on_outage = "local"\nca = "{secrets.ca}"')]
            tollgate = behind("cluster", {"127.0.0.1:8000": port}, HOST, name=f"cluster-{number}", changes=changes, public=public)
            servers.append(f"    server node{number} 127.0.0.1:{tollgate.port} port {metrics}")
        file = directory / "haproxy-cluster.cfg"
        file.write_text(HAPROXY_CLUSTER.format(port=public, servers="\n".join(servers)))
        ready(harness.Process("haproxy-cluster", ["haproxy", "-q", "-f", file], directory), public)

    public, *_ = on_free_ports(1 + NODES, start)
    return functools.partial(in_loop, edge_checks, "HAProxy with three nodes and Redis", Edge(public))


def cdn():
    needs("nginx")
    if DIRECT:
        raise harness.Skip("a CDN needs Tollgate")
    port = fastapi_service("cdn-service")
    block = CDN.format(dir=secrets.dir, ca=secrets.ca)
    changes = [('"192.0.2.0/24", "2001:db8::/32"', '"127.0.0.1"')]
    origins = []

    def start(public):
        origins.append(behind("cdn", {"127.0.0.1:8000": port}, HOST, changes=changes, public=public))
        nginx("cdn", public, block, f"upstream origin {{ server 127.0.0.1:{origins[-1].port}; keepalive 16; }}\n")

    (public,) = on_free_ports(1, start)
    return functools.partial(in_loop, cdn_checks, Edge(public), origins[-1])


class Edge(Direct):
    """What the clients connect to, by TLS."""

    def url(self, path="/", scheme="wss"):
        return f"{scheme}://localhost:{self.port}{path}"


async def edge_checks(name, edge):
    origin = edge.url("", "https")
    async with session(edge) as client, session(edge, OTHER) as other:
        with suite.check(f"{name}: the service sees each client's address, whatever the client writes"):
            for source, one in (CLIENT, client), (OTHER, other):
                for headers in {}, {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "ftp", "Forwarded": "for=203.0.113.9"}:
                    async with one.get("/whoami", headers=headers) as answer:
                        equal(await answer.json(), {"client": source, "url": f"{origin}/whoami", "for": source, "user": None})

        with suite.check(f"{name}: an upload, a download, and server-sent events that are not buffered"):
            content = randoms.token_bytes(LARGE)
            async with client.post("/upload", data={"file": content}) as answer:
                equal((await answer.json())["digest"], hashlib.sha256(content).hexdigest())
            async with client.get(f"/download/{8 << 20}") as answer:
                equal(len(await answer.read()), 8 << 20)
            async with client.get("/events/edge") as answer:
                equal(await answer.content.readuntil(b"\n\n"), b"data: ready\n\n")
                for number in range(3):
                    async with client.post("/next/edge") as step:
                        equal(step.status, 200)
                    equal(await answer.content.readuntil(b"\n\n"), f"data: {number}\n\n".encode())

        with suite.check(f"{name}: WebSockets are limited by the client's address"):
            async with contextlib.AsyncExitStack() as stack:
                connect = lambda one: one.ws_connect("/ws/blue", headers={"Origin": origin})
                sockets = [await stack.enter_async_context(connect(client)) for _ in range(PER_ADDRESS)]
                sockets.append(await stack.enter_async_context(connect(other)))
                for socket, source in zip(sockets, [CLIENT] * PER_ADDRESS + [OTHER]):
                    equal((await socket.receive_json())["client"], source)
                    await socket.send_str("Grüße")
                    equal(await socket.receive_str(), "blue: Grüße")
                try:
                    async with connect(client):
                        raise AssertionError("one session more is open")
                except aiohttp.WSServerHandshakeError as refused:
                    equal(refused.status, 429)

        with suite.check(f"{name}: 60 requests over kept connections"):
            for number in range(60):
                async with client.post(f"/items/{number}", json={"name": "a", "price": 1}) as answer:
                    equal((answer.status, (await answer.json())["number"]), (200, number))


async def cdn_checks(edge, tollgate):
    await edge_checks("CDN", edge)
    with suite.check("CDN: a client that connects to the origin by itself cannot choose its address"):
        async with session(tollgate, OTHER) as client:
            for headers in {}, {"X-Forwarded-For": "203.0.113.9"}, {"CF-Connecting-IP": "203.0.113.9"}:
                async with client.get("/whoami", headers=headers) as answer:
                    equal((await answer.json())["for"], OTHER)


# -------------------------------------------------------------------------------------------------- forward authentication


def forward_auth():
    if DIRECT:
        raise harness.Skip("forward authentication needs Tollgate")
    app = fastapi_service("forward-service")
    login, password = django_site("forward-login")
    # Django's login is at another path than oauth2-proxy's, and its decision, too.
    changes = [('"/oauth2/{*path}"', '"/accounts/{*path}"'), (f'"http://127.0.0.1:{login}/"', f'"http://127.0.0.1:{login}/auth"'),
               ('recheck_interval = "1m"', f'recheck_interval = "{RECHECK_SECONDS}s"'), ('cache_for = "5s"', 'cache_for = "off"')]
    proxy = behind("forward-auth", {"127.0.0.1:8000": app, "127.0.0.1:4180": login}, HOST, changes=changes)
    return functools.partial(in_loop, forward_checks, proxy, password)


async def forward_checks(proxy, password):
    origin = proxy.url("", "https")
    forged = {"X-Auth-Request-User": "root"}
    async with session(proxy, cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
        with suite.check("forward auth: a page without a login is redirected to it, other requests are a 401"):
            async with client.get("/whoami?a=b", headers={"Accept": "text/html"}, allow_redirects=False) as answer:
                equal((answer.status, answer.headers["Location"]), (302, f"/accounts/login/?next={origin}/whoami?a=b"))
            for method, path in ("GET", "/whoami"), ("POST", "/items/1"), ("GET", "/docs"):
                async with client.request(method, path, headers=forged) as answer:
                    equal((answer.status, await answer.text()), (401, "Unauthorized\n"))
            try:
                async with client.ws_connect("/ws/blue", headers={"Origin": origin, **forged}):
                    raise AssertionError("the WebSocket is open")
            except aiohttp.WSServerHandshakeError as refused:
                equal(refused.status, 401)

        with suite.check("forward auth: the login leads back to the page, and the service gets its user"):
            page = f"/accounts/login/?next={origin}/whoami"
            equal(await log_in(client, page, password, origin), (302, f"{origin}/whoami"))
            for headers in {}, forged:
                async with client.get("/whoami", headers=headers) as answer:
                    equal(((await answer.json())["user"], answer.status), ("ada", 200))

        with suite.check("forward auth: requests of other origins are refused, GET is not"):
            for method, status in ("POST", 403), ("GET", 405):
                async with client.request(method, "/items/1", headers={"Origin": "https://evil.example"}, json={}) as answer:
                    equal(answer.status, status)

        with suite.check("forward auth: a WebSocket has the user of the page, and ends after the logout"):
            async with client.ws_connect("/ws/blue", headers={"Origin": origin}) as socket:
                equal((await socket.receive_json())["user"], "ada")
                await log_out(client, origin)
                begun = time.monotonic()
                end = await socket.receive(timeout=SECONDS)
                equal((end.type, end.data), (aiohttp.WSMsgType.CLOSE, 1008))
                assert time.monotonic() - begun < RECHECK_SECONDS + 2, f"{time.monotonic() - begun:.1f} s"
            async with client.get("/whoami") as answer:
                equal(answer.status, 401)


async def log_out(client, origin):
    """Ends the login at Django."""
    async with client.post("/accounts/logout/", headers={"Origin": origin}, allow_redirects=False) as answer:
        equal(answer.status, 200)


RECIPES = {"l4-balancer": l4_balancer, "cluster": cluster, "cdn": cdn, "forward-auth": forward_auth}
