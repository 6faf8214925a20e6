"""Tests key updates within a session, made by `openssl s_client`: `K` updates its key and requests an update of the proxy's,
`k` only updates its own. With every cipher suite of TLS 1.3, messages pass before, between and after the updates."""

import re
import shutil
import subprocess
import threading

import harness
from harness import equal

SECONDS = 20
SUITES = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")

suite = harness.Suite("keyupdate")
directory = harness.work_dir("keyupdate")
demo = harness.Demo(directory)
port = int(re.search(r":(\d+)/", demo.facts["url"]).group(1))


def masked(opcode, payload):
    """Returns a frame of a client, with a masking key of zeros."""
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload


def plain(opcode, payload):
    """Returns the same frame as the server sends it, unmasked."""
    return bytes([0x80 | opcode, len(payload)]) + payload


class Client:
    """s_client with commands enabled: a line that starts with K or k and is read at once is a command."""

    def __init__(self, *options):
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", "-tls1_3",
                   "-CAfile", demo.facts["ca"], "-verify_return_error", *options]
        self.popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.watch = threading.Timer(SECONDS, self.popen.kill)
        self.watch.start()
        self.output = b""
        self.seen = 0

    def send(self, data):
        self.popen.stdin.write(data)
        self.popen.stdin.flush()

    def expect(self, wanted):
        """Waits for this output, after everything that was expected before."""
        while (at := self.output.find(wanted, self.seen)) < 0:
            part = self.popen.stdout.read1(65536)
            if not part:
                raise AssertionError(f"no {wanted!r} in {self.output[self.seen:]!r}")
            self.output += part
        self.seen = at + len(wanted)

    def close(self):
        self.popen.kill()
        self.popen.wait()
        self.watch.cancel()


def session(cipher):
    client = Client("-ciphersuites", cipher)
    try:
        # From here on s_client reads commands, and the output after this line belongs to the session.
        client.expect(b"Verify return code: 0 (ok)")
        client.send(
            f"GET /echo?token={demo.facts['token']} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
        client.expect(b"HTTP/1.1 101")
        client.expect(b"\r\n\r\n")
        number = 0
        for press in (b"", b"K", b"k", b"K", b"K", b"k"):
            if press:
                client.send(press + b"\n")
                client.expect(b"KEYUPDATE")
            for _ in range(2):
                number += 1
                message = f"message {number}".encode()
                client.send(masked(1, message))
                client.expect(plain(1, message))
        client.send(masked(8, b"\x03\xe8"))
        client.expect(plain(8, b"\x03\xe8"))
        equal(f"New, TLSv1.3, Cipher is {cipher}".encode() in client.output, True)
    finally:
        client.close()


for cipher in SUITES:
    with suite.check(f"{cipher}: messages pass before and after key updates of either kind"):
        if not shutil.which("openssl"):
            raise harness.Skip("openssl is not installed")
        session(cipher)

with suite.check("the demo is still running"):
    equal(demo.alive(), True)
suite.finish()
