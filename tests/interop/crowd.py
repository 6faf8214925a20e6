"""Many WebSocket clients in one process, for the suites that open as many sessions as descriptors allow.

A client's steps are generators: each yields the socket event that it waits for, and `drive` runs them for all clients.
"""

import os
import select
import socket
import ssl
import time

from harness import equal

STEP_SECONDS = 60

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
MASK = os.urandom(4)


class Session:
    """A WebSocket client. `lines` are further lines of its request."""

    def __init__(self, context, port, address, path="/echo", lines=()):
        self.context, self.received = context, bytearray()
        self.request = "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", "Upgrade: websocket",
                                    "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                                    "Sec-WebSocket-Version: 13", *lines, "", ""]).encode()
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.bind((address, 0))
        self.socket.connect_ex(("127.0.0.1", port))

    def open(self):
        yield WRITE
        self.socket = self.context.wrap_socket(self.socket, server_hostname="localhost", do_handshake_on_connect=False)
        yield from self.until(self.socket.do_handshake)
        yield from self.send(self.request)
        while b"\r\n\r\n" not in self.received:
            yield from self.fill(len(self.received) + 1)
        head, _, rest = bytes(self.received).partition(b"\r\n\r\n")
        self.received = bytearray(rest)
        equal(head.split(b"\r\n")[0], b"HTTP/1.1 101 Switching Protocols")

    def talk(self, word, count):
        """Sends a message of `count` bytes, from 126 to 65,535, and waits for its echo."""
        message = (word * count)[:count].encode()
        yield from self.send(b"\x82\xfe" + count.to_bytes(2, "big") + MASK + masked(message))
        equal((yield from self.receive(4 + count)), b"\x82\x7e" + count.to_bytes(2, "big") + message)

    def close(self):
        yield from self.send(b"\x88\x82" + MASK + masked(b"\x03\xe8"))
        equal((yield from self.receive(4)), b"\x88\x02\x03\xe8")
        equal((yield from self.until(self.socket.recv, 1)), b"")
        self.socket.close()

    def wait_for_close(self):
        """Waits for a frame, and keeps the time."""
        yield from self.fill(2)
        self.closed_at = time.time()

    def answer_close(self):
        """Reads that frame, a Close of up to 125 bytes, keeps its code and reason, and answers it."""
        header = yield from self.receive(2)
        equal(header[0], 0x88)
        payload = yield from self.receive(header[1])
        self.close_frame = int.from_bytes(payload[:2], "big"), payload[2:].decode()
        yield from self.send(b"\x88\x82" + MASK + masked(payload[:2]))
        self.socket.close()

    def send(self, data):
        equal((yield from self.until(self.socket.send, data)), len(data))

    def fill(self, count):
        while len(self.received) < count:
            part = yield from self.until(self.socket.recv, 65536)
            if not part:
                raise ConnectionError(f"closed by the proxy, after {bytes(self.received)!r}")
            self.received += part

    def receive(self, count):
        yield from self.fill(count)
        data, self.received = bytes(self.received[:count]), self.received[count:]
        return data

    def until(self, call, *arguments):
        while True:
            try:
                return call(*arguments)
            except ssl.SSLWantReadError:
                yield READ
            except ssl.SSLWantWriteError:
                yield WRITE


def masked(data):
    key = MASK * (len(data) // 4 + 1)
    return (int.from_bytes(data, "big") ^ int.from_bytes(key[:len(data)], "big")).to_bytes(len(data), "big")


def drive(sessions, step, at_once=1_000_000, seconds=STEP_SECONDS):
    """Runs one step of each session, at most `at_once` concurrently, in the order of the sessions."""
    waiting, poll, end = {}, select.epoll(), time.monotonic() + seconds
    todo = iter(sessions)

    def go_on(session, steps, known):
        what = next(steps, None)
        if what is None:
            if known and session.socket.fileno() >= 0:
                poll.unregister(session.socket)
            return
        (poll.modify if known else poll.register)(session.socket, what)
        waiting[session.socket.fileno()] = session, steps

    while True:
        while len(waiting) < at_once and (session := next(todo, None)):
            go_on(session, step(session), False)
        if not waiting:
            return
        for descriptor, _ in poll.poll(1):
            go_on(*waiting.pop(descriptor), True)
        if time.monotonic() > end:
            raise TimeoutError(f"{len(waiting)} sessions made no progress within {seconds} s")
