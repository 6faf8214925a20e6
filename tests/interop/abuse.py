"""Slow, greedy and hostile clients: the response or close code of each, and that other clients are not affected."""

import contextlib
import os
import socket
import ssl
import struct
import time

import harness
from harness import equal

HANDSHAKE_SECONDS = 2
GROWTH_MAX_KIB = 32 * 1024
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

suite = harness.Suite("abuse")
harness.many_files()
directory = harness.work_dir("abuse")
secrets = harness.Secrets(directory)
context = secrets.client_context()
backend = harness.Node("autobahn/echo.js", directory)
proxy = harness.Proxy("".join([
    "[log]\nformat = \"text\"\n\n",
    harness.listener(secrets, handshake_timeout=f'"{HANDSHAKE_SECONDS}s"'),
    harness.upstream("echo", backend.facts["port"]),
    harness.route("echo", "/echo", "echo"),
    harness.route("stalled", "/stalled", "echo", {"write_timeout": '"1s"', "ping_interval": '"off"'}),
    harness.route("mute", "/mute", "echo", {"ping_interval": '"500ms"', "pong_timeout": '"500ms"'}),
]), directory)


def head(path="/echo", *extra, host="Host: localhost", first=None, key=f"Sec-WebSocket-Key: {KEY}"):
    lines = [first or f"GET {path} HTTP/1.1", host, "Connection: Upgrade", "Upgrade: websocket",
             "Sec-WebSocket-Version: 13", key, *extra]
    return ("\r\n".join(line for line in lines if line is not None) + "\r\n\r\n").encode()


def frame(opcode, payload=b"", fin=True, length=None, mask=True, reserved=0):
    """Returns a frame. `length` overrides the payload length in its header."""
    length = len(payload) if length is None else length
    bits = 0x80 if mask else 0
    first = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    if length < 126:
        sized = first + bytes([bits | length])
    elif length < 2**16:
        sized = first + bytes([bits | 126]) + struct.pack(">H", length)
    else:
        sized = first + bytes([bits | 127]) + struct.pack(">Q", length)
    if not mask:
        return sized + payload
    return sized + b"\0\0\0\0" + payload  # a masking key of zeros is valid


class Session:
    """An open session whose frames are read and written as raw bytes."""

    def __init__(self, path="/echo", receive_buffer=None):
        plain = socket.socket()
        if receive_buffer:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.settimeout(10)
        plain.connect(("127.0.0.1", proxy.port))
        self.socket = context.wrap_socket(plain, server_hostname="localhost")
        self.socket.sendall(head(path))
        self.data = b""
        answer = self._until(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 101"):
            raise AssertionError(answer[:200])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def _more(self):
        part = self.socket.recv(65536)
        if not part:
            raise ConnectionError("closed without a Close")
        self.data += part

    def _until(self, mark):
        while mark not in self.data:
            self._more()
        found, _, self.data = self.data.partition(mark)
        return found

    def _take(self, count):
        while len(self.data) < count:
            self._more()
        found, self.data = self.data[:count], self.data[count:]
        return found

    def send(self, data):
        self.socket.sendall(data)

    def send_much(self, data):
        """Sends as much as the other end accepts before it closes the connection."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def frame(self):
        first, second = self._take(2)
        equal(second & 0x80, 0)  # a server does not mask frames
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self._take(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self._take(8))
        return first & 0x0F, self._take(length)

    def close_code(self):
        """Skips frames up to a Close, answers it, waits for the end of the connection, and returns the code."""
        for _ in range(100_000):
            opcode, payload = self.frame()
            if opcode == CLOSE:
                code = struct.unpack(">H", payload[:2])[0] if payload else None
                self.send_much(frame(CLOSE, payload[:2]))
                harness.read_all(self.socket, 10)
                return code
        raise AssertionError("no Close within 100,000 frames")

    def echoes(self, text):
        self.send(frame(TEXT, text))
        equal(self.frame(), (TEXT, text))


def answer(request, seconds=10):
    """Returns the status of the response, or None if the connection is closed without one."""
    with harness.raw(proxy.port, context) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(request)
        data = harness.read_some(connection, seconds)
        return int(data.split(b" ")[1]) if data.startswith(b"HTTP/1.") else None


def timed(body):
    start = time.monotonic()
    body()
    return time.monotonic() - start


def others_are_served():
    with Session() as session:
        session.echoes(b"still there")


others_are_served()
before_kib = proxy.memory_kib()

# ---------------------------------------------------------------------------------------------- before a session starts

with suite.check("a client that never starts the TLS handshake is disconnected at handshake_timeout"):
    with harness.raw(proxy.port) as connection:
        seconds = timed(lambda: harness.read_all(connection, 10))
        equal(HANDSHAKE_SECONDS - 0.5 < seconds < HANDSHAKE_SECONDS + 1.5, True)

with suite.check("a client that sends its head byte by byte gets 408, or no response, at handshake_timeout"):
    with harness.raw(proxy.port, context) as connection:
        start = time.monotonic()
        data = b""
        with contextlib.suppress(OSError):
            for byte in head("/echo", "X-Long: " + "x" * 200):
                connection.settimeout(0.1)
                try:
                    connection.sendall(bytes([byte]))
                    data = connection.recv(1000)
                    break
                except (TimeoutError, ssl.SSLWantReadError):
                    continue
        seconds = time.monotonic() - start
        equal(data == b"" or data.startswith(b"HTTP/1.1 408"), True)
        equal(HANDSHAKE_SECONDS - 0.5 < seconds < HANDSHAKE_SECONDS + 2, True)

with suite.check("300 silent clients of other addresses do not block others"):
    silent = [harness.raw(proxy.port, source=f"127.0.1.{number % 8 + 1}") for number in range(300)]
    equal(timed(others_are_served) < 1, True)
    for connection in silent:
        connection.close()

with suite.check("500 clients that connect and reset do not block others"):
    for _ in range(500):
        connection = harness.raw(proxy.port)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    others_are_served()

refusals = {
    "a head of 100 KiB": (431, head("/echo", "X-Big: " + "x" * 100 * 1024)),
    "200 header fields": (431, head("/echo", *(f"X-{number}: x" for number in range(200)))),
    "a body by Content-Length": (400, head("/echo", "Content-Length: 5") + b"hello"),
    "a body by Transfer-Encoding": (400, head("/echo", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n"),
    "both body headers": (400, head("/echo", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n"),
    "two Hosts": (400, head("/echo", "Host: elsewhere")),
    "a Host with a space": (400, head(host="Host: local host")),
    "a Host with a user": (400, head(host="Host: user@localhost")),
    "no Host": (400, head(host=None)),
    "an empty Host": (400, head(host="Host:")),
    "a space before the colon": (400, head("/echo", "X-Space : x")),
    "a folded header line": (400, head("/echo", "X-Folded: a\r\n b")),
    "a NUL in a header": (400, head("/echo", "X-Nul: a\0b")),
    "a bare CR in a header": (400, head("/echo", "X-Cr: a\rb")),
    "a space in the path": (400, head(first="GET /echo here HTTP/1.1")),
    "POST": (400, head(first="POST /echo HTTP/1.1")),
    "HTTP/1.0": (426, head(first="GET /echo HTTP/1.0")),
    "no key": (400, head(key=None)),
    "a key that is too short": (400, head(key="Sec-WebSocket-Key: c2hvcnQ=")),
    "two keys": (400, head("/echo", f"Sec-WebSocket-Key: {KEY}")),
    "a subprotocol twice": (400, head("/echo", "Sec-WebSocket-Protocol: chat, chat")),
    "a subprotocol that is not a token": (400, head("/echo", "Sec-WebSocket-Protocol: a b")),
    "a path with ..": (400, head("/a/../echo")),
    "a path with an encoded ..": (400, head("/a/%2e%2e/echo")),
    "a path with .. and a parameter": (400, head("/a/..;x=1/echo")),
    "a path with an encoded slash": (400, head("/a%2fecho")),
    "a path that is encoded twice": (400, head("/%2565cho")),
    "a path with an empty segment": (400, head("//echo")),
    "a path with a NUL": (400, head("/echo%00")),
    "a path with a backslash": (400, head("/a\\..\\echo")),
    "another upgrade": (426, head("/echo").replace(b"Upgrade: websocket", b"Upgrade: h2c")),
    "random bytes instead of HTTP": ((400, None), os.urandom(2000).replace(b"\n", b"\r") + b"\r\n\r\n"),
}
for what, (wanted, request) in refusals.items():
    shown = " or ".join(map(str, wanted)) if isinstance(wanted, tuple) else wanted
    with suite.check(f"{what}: {shown}"):
        status = answer(request)
        equal(status in wanted if isinstance(wanted, tuple) else status, True if isinstance(wanted, tuple) else wanted)

with suite.check("a request after a rejected one is not forwarded"):
    with harness.raw(proxy.port, context) as connection:
        smuggled = head("/echo").replace(b"Version: 13", b"Version: 777")
        connection.sendall(smuggled + b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
        data = harness.read_some(connection, 3)
        equal(data.split(b" ")[1], b"426")
        equal(data.count(b" 101 "), 0)

# ------------------------------------------------------------------------------------------------------------ in a session

with suite.check("half a frame does not block others, and its other half is accepted"):
    with Session() as session:
        whole = frame(TEXT, b"x" * 1000)
        session.send(whole[:500])
        for _ in range(4):
            time.sleep(0.5)
            others_are_served()
        session.send(whole[500:])
        equal(session.frame(), (TEXT, b"x" * 1000))

with suite.check("a frame sent byte by byte is forwarded"):
    with Session() as session:
        for byte in frame(TEXT, b"slow and steady"):
            session.send(bytes([byte]))
            time.sleep(0.002)
        equal(session.frame(), (TEXT, b"slow and steady"))

floods = {
    "1,000 pings at once": frame(PING, b"x") * 1000,
    "1,000 unsolicited pongs": frame(PONG, b"x") * 1000,
    "100,000 fragments of one byte": frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", fin=False) * 99_999,
    "100,000 empty fragments": frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 99_999,
}
for what, data in floods.items():
    with suite.check(f"{what}: 1008"):
        with Session() as session:
            session.send_much(data)
            equal(session.close_code(), 1008)

violations = {
    "a frame that announces 2^63-1 bytes": (1009, frame(BINARY, b"x", length=2**63 - 1)),
    "a frame that announces 2^62 bytes": (1009, frame(BINARY, b"x", length=2**62)),
    "a message of 1 MiB + 1 B": (1009, frame(BINARY, b"x" * 1000, length=2**20 + 1)),
    "a length with its highest bit set": (1002, frame(BINARY, b"x", length=2**63)),
    "a length that is not minimally encoded": (1002, bytes([0x82, 0x80 | 126]) + struct.pack(">H", 5) + b"\0\0\0\0hello"),
    "a frame that is not masked": (1002, frame(TEXT, b"bare", mask=False)),
    "a reserved bit": (1002, frame(TEXT, b"x", reserved=1)),
    "a reserved opcode": (1002, frame(3, b"x")),
    "a reserved control opcode": (1002, frame(11, b"x")),
    "a fragmented ping": (1002, frame(PING, b"x", fin=False)),
    "a ping of 126 bytes": (1002, frame(PING, b"x" * 126)),
    "a continuation without a message": (1002, frame(CONTINUATION, b"x")),
    "a message within a message": (1002, frame(TEXT, b"x", fin=False) + frame(TEXT, b"x")),
    "a close with a code of one byte": (1002, frame(CLOSE, b"\x03")),
    "a close with code 1005": (1002, frame(CLOSE, struct.pack(">H", 1005))),
    "a close with code 999": (1002, frame(CLOSE, struct.pack(">H", 999))),
}
for what, (code, data) in violations.items():
    with suite.check(f"{what}: {code}"):
        with Session() as session:
            session.echoes(b"before")
            session.send(data)
            equal(session.close_code(), code)

with suite.check("a client that does not answer pings is closed with 1001"):
    with Session("/mute") as session:
        equal(timed(lambda: equal(session.close_code(), 1001)) < 5, True)

with suite.check("a client that never reads is disconnected at write_timeout, and its messages are not buffered"):
    with Session("/stalled", receive_buffer=16 * 1024) as session:
        session.socket.settimeout(10)
        message = frame(BINARY, b"x" * 2**20)
        start_kib = most_kib = proxy.memory_kib()
        start = time.monotonic()
        ended = False
        while not ended and time.monotonic() < start + 10:
            try:
                session.socket.sendall(message)
                time.sleep(0.05)
            except OSError:
                ended = True
            most_kib = max(most_kib, proxy.memory_kib())
        suite.note(f"ended after {time.monotonic() - start:.1f} s; resident memory grew by {most_kib - start_kib} KiB")
        equal(ended, True)
        equal(most_kib - start_kib < 8 * 1024, True)

with suite.check("after all of the above other clients are served, and memory has not grown"):
    others_are_served()
    time.sleep(1)
    after_kib = proxy.memory_kib()
    suite.note(f"resident memory: {before_kib} KiB before, {after_kib} KiB after")
    equal(after_kib - before_kib < GROWTH_MAX_KIB, True)
suite.finish()
