"""Certificate authorities for the suite acme: Pebble with its name server, and a server that answers as a test says."""

import base64
import contextlib
import http.client
import http.server
import json
import os
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.request

import harness

WAIT_SECONDS = 20


def wait_until(condition, what, seconds=WAIT_SECONDS):
    """Returns the first value of the condition that is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.05)
    return value


class NameServer(harness.Process):
    """Answers every name with 127.0.0.1."""

    def __init__(self, directory):
        self.address = f"127.0.0.1:{free_udp_port()}"
        super().__init__("challtestsrv", ["pebble-challtestsrv", "-defaultIPv6", "", "-dns01", self.address, "-http01", "", "-https01",
                                          "", "-tlsalpn01", "", "-management", f"127.0.0.1:{harness.free_port()}"], directory)


def free_udp_port():
    """Returns a port that is free for TCP and UDP."""
    while True:
        port = harness.free_port()
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", port))
            return port


class Pebble(harness.Process):
    """Pebble, which validates challenges at these ports of 127.0.0.1."""

    def __init__(self, directory, secrets, names, http_port, tls_port, name="pebble", environment=None, **settings):
        self.port, self.management = harness.free_port(), harness.free_port()
        config = {"listenAddress": f"127.0.0.1:{self.port}", "managementListenAddress": f"127.0.0.1:{self.management}",
                  "certificate": f"{secrets.dir}/localhost.pem", "privateKey": f"{secrets.dir}/localhost.key",
                  "httpPort": http_port, "tlsPort": tls_port, **settings}
        file = directory / f"{name}.json"
        file.write_text(json.dumps({"pebble": config}))
        settings = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_AUTHZREUSE": "0", "PEBBLE_WFE_NONCEREJECT": "20", **(environment or {})}
        self.directory_url = f"https://localhost:{self.port}/dir"
        environment = {**os.environ, **{key: value for key, value in settings.items() if value is not None}}
        self.arguments = (name, ["pebble", "-config", file, "-dnsserver", names.address], directory)
        self.environment, self.context = environment, secrets.client_context()
        self.start()

    def start(self):
        """Starts it, without anything that it knew before."""
        super().__init__(*self.arguments, env=self.environment)
        wait_until(lambda: harness.accepts(self.port) and harness.accepts(self.management), "Pebble listens")
        with urllib.request.urlopen(f"https://localhost:{self.management}/roots/0", context=self.context) as answer:
            self.root = answer.read().decode()

    def client_context(self):
        """Returns an SSL context that trusts the certificates that it issues."""
        context = ssl.create_default_context(cadata=self.root)
        context.set_alpn_protocols(["http/1.1"])
        return context


class FakeAuthority:
    """A certificate authority that trusts every request. `answers` replaces its answers: by path, a status, headers and a
    body, or None for no answer at all."""

    def __init__(self, secrets, name):
        authority = self
        self.name, self.asked, self.answers, self.bodies = name, [], {}, {}

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                length = int(self.headers.get("Content-Length", 0))
                authority.bodies[self.path] = self.rfile.read(length)
                authority.asked.append(self.path)
                answer = {**authority.usual(), **authority.answers}.get(self.path, (404, {}, b"{}"))
                answer = answer() if callable(answer) else answer
                if answer is None:
                    authority.silence.wait(60)
                    self.close_connection = True
                    return
                status, headers, body = answer
                self.send_response(status)
                for key, value in {"Replay-Nonce": "bm9uY2U", "Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    with contextlib.suppress(OSError):
                        self.wfile.write(body)

            do_GET = do_HEAD = do_POST = answer

            def log_message(self, *_):
                pass

        self.silence = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{secrets.dir}/localhost.pem", f"{secrets.dir}/localhost.key")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        self.base = f"https://localhost:{self.port}"
        self.directory_url = f"{self.base}/dir"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def usual(self):
        """Returns the answers of an authority that has validated the name before."""
        return {
            "/dir": self.json(200, self.urls()),
            "/nonce": (200, {}, b""),
            "/account": self.json(201, {"status": "valid"}, Location=f"{self.base}/account/1"),
            "/order": self.json(201, self.order("ready"), Location=f"{self.base}/order/1"),
            "/order/1": self.json(200, self.order("ready")),
            "/authorization": self.json(200, {"status": "valid", "identifier": {"type": "dns", "value": self.name}, "challenges": []}),
            "/finalize": self.json(200, self.order("valid")),
            "/certificate": (200, {}, b""),
        }

    def urls(self):
        return {key: f"{self.base}/{path}" for key, path in [("newNonce", "nonce"), ("newAccount", "account"), ("newOrder", "order")]}

    def issues(self, chain):
        """Returns the answers of an authority that has issued this chain."""
        return {"/order/1": self.after_finalize(), "/certificate": (200, {}, chain)}

    def signs(self, ca, key, name):
        """Returns the answers of an authority that issues a certificate for this name, whatever the request says."""
        def sign():
            payload = json.loads(self.bodies["/finalize"])["payload"]
            request = json.loads(base64.urlsafe_b64decode(payload + "=="))["csr"]
            request = base64.urlsafe_b64decode(request + "==")
            with tempfile.NamedTemporaryFile("w", suffix=".cnf") as extensions:
                extensions.write(f"subjectAltName=DNS:{name}\n")
                extensions.flush()
                made = subprocess.run(["openssl", "x509", "-req", "-inform", "DER", "-CA", ca, "-CAkey", key, "-days", "1",
                                       "-extfile", extensions.name], input=request, capture_output=True, check=True)
            return 200, {}, made.stdout
        return {"/order/1": self.after_finalize(), "/certificate": sign}

    def after_finalize(self):
        """Returns an answer: the order is ready until the certificate was requested, and valid afterwards."""
        return lambda: self.json(200, self.order("valid" if "/finalize" in self.asked else "ready"))

    def close(self):
        self.silence.set()
        self.server.shutdown()
        self.server.server_close()

    def order(self, status):
        return {"status": status, "identifiers": [{"type": "dns", "value": self.name}], "authorizations": [f"{self.base}/authorization"],
                "finalize": f"{self.base}/finalize", "certificate": f"{self.base}/certificate"}

    @staticmethod
    def json(status, value, **headers):
        return status, headers, json.dumps(value).encode()

    @staticmethod
    def problem(status, kind, detail, **headers):
        return FakeAuthority.json(status, {"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail}, **headers)


def issued(port, name, context, seconds=10):
    """Returns the certificate for a name in DER, after a handshake that checks it."""
    with socket.create_connection(("127.0.0.1", port), seconds) as plain:
        with context.wrap_socket(plain, server_hostname=name) as connection:
            return connection.getpeercert(binary_form=True)


def openssl(port, name, *arguments):
    """Returns the output of `openssl s_client` for one handshake."""
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", name, *arguments], input=b"",
                          capture_output=True, timeout=20)
    return (done.stdout + done.stderr).decode(errors="replace")


def request(port, method, path, host):
    """Returns the status and the headers of the answer to a request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, {key.lower(): value for key, value in answer.getheaders()}
