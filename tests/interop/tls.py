"""Tests the TLS of the listener with `openssl s_client`."""

import subprocess
import threading
import time

import harness
from harness import equal

SECONDS = 10
WEAK = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"

suite = harness.Suite("tls")
directory = harness.work_dir("tls")
secrets = harness.Secrets(directory)
certificates = [
    secrets.leaf("localhost", "127.0.0.1", "::1"),
    secrets.leaf("chat.example.test"),
    secrets.leaf("*.example.test"),
]
backend = harness.Node("autobahn/echo.js", directory)
proxy = harness.Proxy("".join([
    "[log]\nformat = \"text\"\n\n",
    harness.listener(secrets, *certificates),
    harness.upstream("echo", backend.facts["port"]),
    harness.route("echo", "/echo", "echo"),
]), directory)

UPGRADE = (
    "GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def s_client(*options, send=UPGRADE, until="HTTP/1.1 101", ca=True):
    """Runs `openssl s_client`, sends the upgrade, and returns its output up to `until` or the end."""
    trust = ["-CAfile", secrets.ca, "-verify_return_error"] if ca else []
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.port}", *trust, *options]
    client = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
    watch = threading.Timer(SECONDS, client.kill)
    watch.start()
    try:
        output = b""
        try:
            client.stdin.write(send.encode())
            client.stdin.flush()
        except BrokenPipeError:
            pass
        while until.encode() not in output:
            part = client.stdout.read1(65536)
            if not part:
                break
            output += part
        return output.decode(errors="replace")
    finally:
        client.kill()
        client.wait()
        watch.cancel()


def holds(output, *wanted):
    for text in wanted:
        if text not in output:
            raise AssertionError(f"no {text!r} in {output[-1500:]}")


def refused(output):
    if "HTTP/1.1 101" in output or not any(word in output for word in ("alert", "no protocols available")):
        raise AssertionError(f"not rejected: {output[-1500:]}")


for version, option in {"1.2": "-tls1_2", "1.3": "-tls1_3"}.items():
    with suite.check(f"TLS {version} is accepted"):
        output = s_client(option, "-servername", "localhost", "-alpn", "http/1.1")
        holds(output, f"TLSv{version}", "Verify return code: 0 (ok)", "ALPN protocol: http/1.1", "HTTP/1.1 101")

for version, option in {"1.0": "-tls1", "1.1": "-tls1_1"}.items():
    with suite.check(f"TLS {version} is rejected"):
        refused(s_client(option, "-cipher", WEAK, "-servername", "localhost"))

for cipher in ("AES128-SHA", "ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA", "NULL"):
    with suite.check(f"TLS 1.2 with {cipher} is rejected"):
        refused(s_client("-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0", "-servername", "localhost"))

with suite.check("the key exchange is X25519 or a NIST curve, with forward secrecy"):
    holds(s_client("-tls1_2", "-groups", "X25519:P-256", "-servername", "localhost"), "Server Temp Key: X25519", "HTTP/1.1 101")
    holds(s_client("-tls1_3", "-groups", "P-256", "-servername", "localhost"), "HTTP/1.1 101")

with suite.check("ALPN: http/1.1 is selected although h2 is offered first"):
    holds(s_client("-alpn", "h2,http/1.1", "-servername", "localhost"), "ALPN protocol: http/1.1", "HTTP/1.1 101")
with suite.check("ALPN: a client that offers only h2 is rejected"):
    # The alert `no_application_protocol` is sent only if the socket takes it at once; otherwise the connection just closes.
    output = s_client("-alpn", "h2", "-servername", "localhost")
    equal("ALPN protocol: h2" in output or "HTTP/1.1" in output, False)
    holds(output, "unexpected eof" if "alert" not in output else "no application protocol")
with suite.check("ALPN: a client without ALPN is served with HTTP/1.1"):
    holds(s_client("-servername", "localhost"), "No ALPN negotiated", "HTTP/1.1 101")

for name, subject in {
    "localhost": "localhost", "chat.example.test": "chat.example.test", "CHAT.example.TEST": "chat.example.test",
    "a.example.test": "*.example.test", "b.example.test": "*.example.test",
}.items():
    with suite.check(f"SNI {name} gets the certificate for {subject}"):
        holds(s_client("-servername", name, "-verify_hostname", name), f"subject=CN = {subject}\n", "(ok)")
for what, options in {
    "no SNI": ("-noservername",),
    "an SNI without a certificate": ("-servername", "elsewhere.test"),
    "a subdomain that the wildcard does not match": ("-servername", "a.b.example.test"),
}.items():
    with suite.check(f"{what} gets the first certificate"):
        holds(s_client(*options), "subject=CN = localhost\n")

for version, option in {"1.2": "-tls1_2", "1.3": "-tls1_3"}.items():
    with suite.check(f"a TLS {version} session is resumed by its ticket"):
        ticket = directory / f"session-{version}"
        holds(s_client(option, "-servername", "localhost", "-sess_out", ticket), "New, TLSv1", "HTTP/1.1 101")
        for _ in range(2):
            holds(s_client(option, "-servername", "localhost", "-sess_in", ticket), "Reused, TLSv1", "HTTP/1.1 101")
with suite.check("a TLS 1.3 session is not resumed for another name"):
    output = s_client("-tls1_3", "-servername", "chat.example.test", "-sess_in", directory / "session-1.3")
    holds(output, "New, TLSv1.3", "HTTP/1.1 101")

with suite.check("early data is neither offered nor accepted"):
    early = directory / "early"
    early.write_text(UPGRADE)
    ticket = directory / "session-1.3"
    text = harness.run("openssl", "sess_id", "-in", ticket, "-noout", "-text").stdout
    equal("Max Early Data: 0" in text or "Max Early Data" not in text, True)
    output = s_client("-tls1_3", "-servername", "localhost", "-sess_in", ticket, "-early_data", early)
    equal("Early data was accepted" in output, False)

with suite.check("a connection without TLS is closed at once, and the next client is served"):
    plain = harness.raw(proxy.port)
    plain.sendall(UPGRADE.encode())
    start = time.monotonic()
    data = harness.read_all(plain, SECONDS)
    equal(b"101" in data, False)
    equal(time.monotonic() - start < 2, True)
    holds(s_client("-servername", "localhost"), "HTTP/1.1 101")
suite.finish()
