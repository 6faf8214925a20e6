"""The providers of the suite identity.py, a fault proxy in front of them, and clients in processes of their own.

    identity_peers.py upgrades CA PORT      asks for upgrades, as JSON lines tell it: see `Upgrades`
"""

import collections
import http.client
import http.server
import json
import socket
import ssl
import subprocess
import sys
import threading
import time

import harness

# Only `Upgrades` runs in another process; it needs no provider.
if __name__ != "__main__":
    from authlib.oidc.discovery import OpenIDProviderMetadata
    from joserfc import jwt
    from joserfc.jwk import ECKey, KeySet

HOST = "127.0.0.1"
DISCOVERY = "/.well-known/openid-configuration"
PATIENCE_SECONDS = 30
HUGE_BYTES = 4 * 2**20


# ----------------------------------------------------------------------------------------------------------- providers


class Server(http.server.ThreadingHTTPServer):
    """An HTTP server on a thread of its own. `answer(path)` returns status, headers and body, or nothing."""

    daemon_threads = True

    def __init__(self, answer, port=0):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                reply = answer(self.path)
                if reply is None:
                    self.close_connection = True
                    return
                status, headers, body = reply
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def handle(self):
                try:
                    super().handle()
                except ConnectionError:  # the proxy does not read an answer that is too large
                    pass

            def log_message(self, *_):
                pass

        super().__init__((HOST, port), Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def port(self):
        return self.server_address[1]

    def stop(self):
        self.shutdown()
        self.server_close()


class Front:
    """A proxy in front of a provider, by whose URL the provider is known. `mode` is `pass`, or a fault."""

    def __init__(self):
        self.mode, self.paths, self.upstream, self.released = "pass", [], None, threading.Event()
        self.server = Server(self.answer)
        self.port = self.server.port
        self.url = f"http://{HOST}:{self.port}"

    def answer(self, path):
        self.paths.append(path)
        json_type = {"Content-Type": "application/json"}
        if self.mode == "500":
            return 500, json_type, b"{}"
        if self.mode == "redirecting":
            return 302, {"Location": f"{self.url}/elsewhere"}, b""
        if self.mode == "malformed":
            return 200, json_type, b'{"keys": ['
        if self.mode == "huge":
            return 200, json_type, b" " * HUGE_BYTES
        if self.mode == "slow":
            self.released.wait(PATIENCE_SECONDS)
            return None
        connection = http.client.HTTPConnection(HOST, self.upstream, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            names = ("Content-Type", "Cache-Control")
            headers = {name: value for name in names if (value := response.getheader(name))}
            return response.status, headers, response.read()
        finally:
            connection.close()

    def set_mode(self, mode):
        """Changes the mode. `down` refuses connections."""
        if self.mode == "down" and mode != "down":
            self.server = Server(self.answer, self.port)
        if mode == "down" and self.mode != "down":
            self.server.stop()
        if self.mode == "slow":
            self.released.set()
            self.released = threading.Event()
        self.mode = mode

    def fetches(self):
        """Returns the number of requests for the key set."""
        return sum(path not in (DISCOVERY, "/elsewhere") for path in self.paths)


class MockServer:
    """npm `oauth2-mock-server`."""

    name = "oauth2-mock-server"
    algorithm = "RS256"

    def __init__(self, directory, url):
        self.process = harness.node("mock-server", "node/identity.js", directory, stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE, text=True)
        self.lines = harness.Lines(self.process.popen.stdout)
        self.port = self._read()["port"]
        self._tell(name="issuer", url=url)

    def _read(self):
        line = self.lines.next(PATIENCE_SECONDS)
        if line is None:
            raise RuntimeError(f"oauth2-mock-server has ended:\n{self.process.output()[-2000:]}")
        return json.loads(line)

    def _tell(self, **command):
        self.process.popen.stdin.write(json.dumps(command) + "\n")
        self.process.popen.stdin.flush()
        return self._read()

    def add_key(self, kid):
        self._tell(name="key", kid=kid, algorithm=self.algorithm)

    def token(self, kid, **claims):
        return self._tell(name="token", kid=kid, claims=claims, seconds=3600)


class AuthlibProvider:
    """A provider whose metadata is authlib's, and whose keys and tokens are made by joserfc, authlib's own library."""

    name = "authlib"
    algorithm = "ES256"

    def __init__(self, _, url):
        self.url, self.keys = url, {}
        self.metadata = OpenIDProviderMetadata(
            issuer=url, jwks_uri=f"{url}/jwks.json", authorization_endpoint=f"{url}/authorize",
            token_endpoint=f"{url}/token", response_types_supported=["code"], subject_types_supported=["public"],
            id_token_signing_alg_values_supported=["RS256", self.algorithm])
        self.metadata.validate_jwks_uri = lambda: None  # it demands https, which a loopback host does not need
        self.port = Server(self.answer).port

    def answer(self, path):
        if path == DISCOVERY:
            body = dict(self.metadata)
        elif path == "/jwks.json":
            body = KeySet(list(self.keys.values())).as_dict(private=False)
        else:
            return 404, {}, b""
        headers = {"Content-Type": "application/json", "Cache-Control": "public, max-age=3600"}
        return 200, headers, json.dumps(body).encode()

    def add_key(self, kid):
        self.keys[kid] = ECKey.generate_key("P-256", parameters={"kid": kid, "use": "sig", "alg": self.algorithm})

    def token(self, kid, **claims):
        now = int(time.time())
        payload = {"iss": self.url, "iat": now, "exp": now + 3600, **claims}
        return jwt.encode({"alg": self.algorithm, "kid": kid}, payload, self.keys[kid])


# ------------------------------------------------------------------------------------------------------------- clients


class Upgrades:
    """Asks for upgrades at a rate, each on a connection of its own, and counts the answers by status.

    Each line of the input is {"tokens": [...], "seconds": N, "rate": N}, or {"token": T} while such a run lasts: it replaces
    the tokens. Each run is answered with {"statuses": {...}, "seconds": N, "slowest": N}.
    """

    THREADS = 24
    REQUEST = ("GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
               "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
               "Authorization: Bearer {}\r\n\r\n")

    def __init__(self, ca, port):
        self.port = int(port)
        self.context = ssl.create_default_context(cafile=ca)
        self.lock, self.tokens = threading.Lock(), []

    def ask(self, token, session):
        plain = socket.create_connection((HOST, self.port), PATIENCE_SECONDS)
        with self.context.wrap_socket(plain, server_hostname="localhost", session=session) as connection:
            connection.sendall(self.REQUEST.format(token).encode())
            head = connection.recv(4096)
            return head.split(b" ", 2)[1].decode() if head else "none", connection.session

    def run(self, seconds, rate):
        statuses, slowest, number = collections.Counter(), 0.0, 0
        start = time.monotonic()

        def work():
            nonlocal slowest, number
            session = None
            while True:
                with self.lock:
                    mine, number = number, number + 1
                at = start + mine / rate
                if mine and max(at, time.monotonic()) > start + seconds:  # the first is always sent
                    return
                time.sleep(max(0.0, at - time.monotonic()))
                begun = time.monotonic()
                with self.lock:  # the latest token
                    token = self.tokens[mine % len(self.tokens)]
                try:
                    status, session = self.ask(token, session)
                except OSError as error:
                    status, session = type(error).__name__, None
                with self.lock:
                    statuses[status] += 1
                    slowest = max(slowest, time.monotonic() - begun)

        threads = [threading.Thread(target=work) for _ in range(self.THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"statuses": statuses, "seconds": time.monotonic() - start, "slowest": slowest}

    def serve(self):
        running = None
        for line in sys.stdin:
            command = json.loads(line)
            if "token" in command:
                with self.lock:
                    self.tokens = [command["token"]]
                continue
            if running:
                running.join()
            self.tokens = command["tokens"]
            arguments = command["seconds"], command["rate"]
            running = threading.Thread(target=lambda args=arguments: print(json.dumps(self.run(*args)), flush=True))
            running.start()


class UpgradeClient(harness.Process):
    """A process of `Upgrades`."""

    def __init__(self, name, directory, ca, port):
        super().__init__(name, [sys.executable, __file__, "upgrades", ca, str(port)], directory, stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True)
        self.lines = harness.Lines(self.popen.stdout)

    def tell(self, **command):
        self.popen.stdin.write(json.dumps(command) + "\n")
        self.popen.stdin.flush()

    def result(self, seconds):
        line = self.lines.next(seconds + 2 * PATIENCE_SECONDS)
        if line is None:
            raise RuntimeError(f"{self.name} has ended:\n{self.output()[-2000:]}")
        return json.loads(line)


if __name__ == "__main__":
    Upgrades(*sys.argv[2:]).serve()
