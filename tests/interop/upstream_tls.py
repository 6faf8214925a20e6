"""Tests TLS towards servers on OpenSSL: `websockets` on Python's `ssl`, and npm `ws` on Node's `https`."""

import contextlib
import json
import os
import ssl
import threading

import harness
import websockets.exceptions
import websockets.sync.client
import websockets.sync.server
from harness import equal

suite = harness.Suite("upstream_tls")
directory = harness.work_dir("upstream_tls")
secrets = harness.Secrets(directory)
secrets.leaf("chat.internal", "127.0.0.1")
chain, key = directory / "chat.internal.pem", directory / "chat.internal.key"
context = secrets.client_context()
VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def client_certificate():
    """Makes a client certificate of the CA, and returns its chain and key."""
    own, own_key = directory / "own.pem", directory / "own.key"
    request, extensions = directory / "own.csr", directory / "own.ext"
    extensions.write_text("basicConstraints = critical,CA:FALSE\nextendedKeyUsage = clientAuth\n")
    harness.run("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", own_key,
                "-subj", "/CN=tollgate.internal", "-out", request)
    harness.run("openssl", "x509", "-req", "-in", request, "-CA", secrets.ca, "-CAkey", directory / "ca.key", "-days", "30",
                "-set_serial", "7", "-extfile", extensions, "-out", own)
    os.chmod(own_key, 0o600)
    harness.leaks.remember_pem(own_key)
    return own, own_key


def python_server(version, ca=None):
    """Starts an echo server in this process. It demands a client certificate of the CA, if one is given."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca and str(ca))
    tls.load_cert_chain(chain, key)
    tls.minimum_version = tls.maximum_version = VERSIONS[version]
    tls.set_alpn_protocols(["http/1.1"])
    if ca:
        tls.verify_mode = ssl.CERT_REQUIRED
    names = {}
    tls.sni_callback = lambda connection, name, _: names.update({id(connection): name})

    def echo(connection):
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            for message in connection:
                if message == "tls?":
                    own = connection.socket
                    subject = [value for part in (own.getpeercert() or {}).get("subject", ()) for _, value in part]
                    message = json.dumps({"version": own.version(), "resumed": own.session_reused, "sni": names.get(id(own)),
                                          "subject": next(iter(subject), None)})
                connection.send(message)

    server = websockets.sync.server.serve(echo, "127.0.0.1", 0, ssl=tls, max_size=2**26)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.socket.getsockname()[1]


def node_server(version, ca=None):
    arguments = [chain, key, version, version] + ([ca] if ca else [])
    backend = harness.Node("node/tls_echo.js", directory, *arguments)
    return backend.facts["port"]


def upstream(name, port, *settings):
    tls = ", ".join([f'ca = "{secrets.ca}"', *settings])
    return harness.upstream(name, port) + f"tls = {{ {tls} }}\n" + harness.route(
        name, f"/{name}", name, {"message_max_size": '"64MiB"'})


SERVERS = {"python": python_server, "node": node_server}
cases = [(kind, version) for kind in SERVERS for version in VERSIONS]
own, own_key = client_certificate()
parts = ["[log]\nlevel = \"debug\"\n\n", harness.listener(secrets)]
for kind, version in cases:
    name = f"{kind}-{version}".replace(".", "_")
    port = SERVERS[kind](version)
    parts.append(upstream(name, port, 'server_name = "chat.internal"'))
    parts.append(upstream(f"{name}-ip", port))
    parts.append(upstream(f"{name}-wrong", port, 'server_name = "other.internal"'))
    port = SERVERS[kind](version, secrets.ca)
    parts.append(upstream(f"{name}-own", port, 'server_name = "chat.internal"', f'certificate = "{own}"', f'key = "{own_key}"'))
    parts.append(upstream(f"{name}-none", port, 'server_name = "chat.internal"'))
proxy = harness.Proxy("".join(parts), directory)


def connect(route):
    return websockets.sync.client.connect(proxy.url(f"/{route}"), ssl=context, compression=None, max_size=2**26, proxy=None)


def facts(route):
    """Returns the parameters of the connection to the server of a new session."""
    with connect(route) as session:
        session.send("tls?")
        return json.loads(session.recv(10))


def status(route):
    try:
        with connect(route):
            return 101
    except websockets.exceptions.InvalidStatus as refused:
        return refused.response.status_code


for kind, version in cases:
    name = f"{kind}-{version}".replace(".", "_")
    with suite.check(f"{name}: the first session has the version and the name"):
        found = facts(name)
        equal((found["version"], found["sni"], found["resumed"]), (version, "chat.internal", False))
    with suite.check(f"{name}: messages of any size pass in both directions"):
        with connect(name) as session:
            for size in [0, 1, 125, 126, 16_383, 16_384, 16_385, 65_536, 8_000_000]:
                message = os.urandom(size)
                session.send(message)
                equal(session.recv(30) == message, True)
    with suite.check(f"{name}: the next session is resumed"):
        found = facts(name)
        equal((found["version"], found["resumed"]), (version, True))
    with suite.check(f"{name}: an IP address is verified, and is not sent as SNI"):
        equal(facts(f"{name}-ip")["sni"], None)
    with suite.check(f"{name}: a certificate for another name is rejected"):
        equal(status(f"{name}-wrong"), 502)
        equal("not valid for name" in proxy.output(), True)
    with suite.check(f"{name}: the client certificate is presented"):
        equal(facts(f"{name}-own")["subject"], "tollgate.internal")
        equal(facts(f"{name}-own")["resumed"], True)
    with suite.check(f"{name}: without a client certificate the request fails"):
        equal(status(f"{name}-none"), 502)
suite.finish()
