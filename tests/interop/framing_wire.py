"""Sends raw bytes to several ports at once and records what arrives behind them, for the suite framing.

One thread does all of it, and an exchange ends when every client has been disconnected and every connection to a recorder has
been closed: nothing waits for a fixed time. The proxies have short timeouts, so that each of them ends a request that never ends.
"""

import re
import selectors
import socket
import time

import framing_reader

SECONDS = 10
READ = 1 << 16


class Recorder:
    """A server that records all bytes of each of its connections. It answers the first request of a connection, and no other: with
    200, or with 400 if the strict reader rejects it."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.connections = []

    def take(self):
        """Returns what each connection has received since the last call."""
        taken, self.connections = [bytes(connection.data) for connection in self.connections], []
        return taken


class Accepted:
    """A connection to a recorder."""

    def __init__(self, plain):
        self.plain, self.data, self.answered = plain, bytearray(), False

    def ready(self, events):
        """Handles its events, and returns whether it is still open."""
        try:
            part = self.plain.recv(READ)
            self.data += part
            if part and not self.answered:
                self.answer(framing_reader.read(bytes(self.data)))
        except OSError:  # a proxy may close the connection as soon as it has the answer
            return False
        return bool(part)

    def answer(self, reading):
        if reading.requests or reading.is_malformed():
            self.answered = True
            status = b"200 OK" if reading.requests else b"400 Bad Request"
            body = b"" if reading.requests and reading.requests[0].method == b"HEAD" else b"recorded"
            self.plain.sendall(b"HTTP/1.1 %s\r\nContent-Length: 8\r\nConnection: close\r\n\r\n%s" % (status, body))
            self.plain.shutdown(socket.SHUT_WR)


class Client:
    """A client that sends its bytes, and reads until it is disconnected."""

    def __init__(self, port, data):
        self.plain = socket.create_connection(("127.0.0.1", port), SECONDS)
        self.plain.setblocking(False)
        self.left, self.answer = memoryview(data), b""

    def wanted(self):
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self.left else 0)

    def ready(self, events):
        if events & selectors.EVENT_WRITE and self.left:
            try:
                self.left = self.left[self.plain.send(self.left) :]
            except BlockingIOError:
                pass
            except ConnectionError:
                self.left = self.left[:0]  # an answer may still be there to read
        if not events & selectors.EVENT_READ:
            return True
        try:
            part = self.plain.recv(READ)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        self.answer += part
        return bool(part)

    def statuses(self):
        return [int(status) for status in re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", self.answer)]


class Wire:
    """The recorders, and the loop that serves them and the clients."""

    def __init__(self, recorders):
        self.selector = selectors.DefaultSelector()
        for recorder in recorders:
            self.selector.register(recorder.listener, selectors.EVENT_READ, recorder)
        self.open = 0

    def exchange(self, jobs):
        """Sends each job's bytes to its port. Returns the statuses that each of them got."""
        clients = [Client(port, data) for port, data in jobs]
        for client in clients:
            self.selector.register(client.plain, client.wanted(), client)
            self.open += 1
        deadline = time.monotonic() + SECONDS
        try:
            # The last step takes the connections that the system has accepted.
            while self.step(max(0, deadline - time.monotonic()) if self.open else 0) or self.open:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"a connection is still open after {SECONDS} s")
        finally:
            self.abandon()
        return [client.statuses() for client in clients]

    def step(self, seconds):
        events = self.selector.select(seconds)
        for key, mask in events:
            if isinstance(key.data, Recorder):
                accepted = Accepted(key.data.listener.accept()[0])
                accepted.plain.settimeout(SECONDS)
                key.data.connections.append(accepted)
                self.selector.register(accepted.plain, selectors.EVENT_READ, accepted)
                self.open += 1
            elif not key.data.ready(mask):
                self.close(key)
            elif isinstance(key.data, Client):
                self.selector.modify(key.fileobj, key.data.wanted(), key.data)
        return events

    def close(self, key):
        self.selector.unregister(key.fileobj)
        key.fileobj.close()
        self.open -= 1

    def abandon(self):
        """Closes all connections."""
        for key in list(self.selector.get_map().values()):
            if not isinstance(key.data, Recorder):
                self.close(key)
