"""A TCP proxy on loopback with the faults of networks: delay, jitter, a rate, black holes, resets, half closes.

    proxy = FaultProxy(target_port)             # listens on a free port, `proxy.port`
    proxy.set(delay=0.1, jitter=0.05)           # both directions of every connection, also of later ones
    proxy.set(DOWN, rate=256_000)               # bits per second to the clients
    link = proxy.link(client_port)              # one connection, by the port of its client; `link.set` changes it alone
    link.hole(30)                               # forwards nothing for 30 s, then goes on
    link.reset()                                # RST to both ends
    proxy.cut()                                 # RST to all of them, and to new ones until `proxy.restore()`

It has a thread and an event loop of its own, so that any suite may use it. All methods may be called from any thread.

Bytes are never lost or reordered, as TCP does not let an application see that either: loss and retransmissions are delays.
A black hole also holds back the end of a connection, and a new connection reaches the target only after the hole.
Each direction holds up to `BUFFER` bytes, and reads no more beyond that, so that back-pressure reaches the sender; the
kernel's buffers of the proxy's sockets are as small, and its segments are as small as those of Ethernet. With the sizes of
loopback the kernel would hide megabytes from both ends.
"""

import asyncio
import collections
import contextlib
import random
import socket
import struct
import threading

BUFFER = 64 * 1024  # bytes that one direction holds
SEGMENT = 1400  # bytes
UNIT_SECONDS = 0.005  # of a rate, if more than a segment passes in this time
BACKLOG = 1024
LATE_SECONDS = 0.05  # by which timers may be late without an effect on the rate
ANSWER_SECONDS = 10  # for the proxy's own thread
UP, DOWN = "up", "down"  # from the client to the target, and back
BOTH = (UP, DOWN)
RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close(2) sends RST
FOREVER = float("inf")


class FaultProxy:
    """Forwards connections to a local port."""

    def __init__(self, target, host="127.0.0.1"):
        self.address = (host, target)
        self.settings = {direction: {"delay": 0.0, "jitter": 0.0, "rate": None} for direction in BOTH}
        self.links, self.accepted = {}, 0  # open connections by the port of the client; all so far
        self._hole_ends, self._is_cut = dict.fromkeys(BOTH, 0.0), False
        self._listener = small(socket.socket())
        self._listener.bind((host, 0))
        self._listener.listen(BACKLOG)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def set(self, *directions, **settings):
        """Changes `delay`, `jitter` (seconds) and `rate` (bits per second, or None) of open and later connections."""
        self._call(self._set, directions or BOTH, settings)

    def hole(self, seconds=FOREVER, *directions):
        """Forwards nothing, of open and later connections."""
        self._call(self._hole, seconds, directions or BOTH)

    def reset(self):
        """Resets all open connections, and returns their number."""
        return self._call(lambda: len([link._reset() for link in list(self.links.values())]))

    def cut(self):
        """Resets all connections, also new ones as soon as they are accepted, until `restore`."""
        self._is_cut = True
        return self.reset()

    def restore(self):
        self._is_cut = False

    def link(self, client_port):
        """Returns the open connection of the client with this local port."""
        return self._call(self.links.__getitem__, client_port)

    def close(self):
        """Resets all connections, and ends the thread."""
        self.reset()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(ANSWER_SECONDS)

    # The rest runs in the thread of the proxy.

    def _run(self):
        asyncio.set_event_loop(self.loop)
        accepting = self.loop.create_task(self._accept())
        self.loop.run_forever()
        accepting.cancel()
        self.loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(self.loop), return_exceptions=True))
        self._listener.close()
        self.loop.close()

    def _call(self, function, *arguments):
        async def call():
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(ANSWER_SECONDS)

    def _set(self, directions, settings):
        for direction in directions:
            self.settings[direction].update(settings)
        for link in self.links.values():
            link._set(directions, settings)

    def _hole(self, seconds, directions):
        for direction in directions:
            self._hole_ends[direction] = self.loop.time() + seconds
        for link in self.links.values():
            link._hole(seconds, directions)

    async def _accept(self):
        while True:
            client, (_, port) = await self.loop.sock_accept(self._listener)
            self.accepted += 1
            if self._is_cut:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                client.close()
                continue
            self.links[port] = link = Link(self, client, port)
            link.start()


class Link:
    """A connection through the proxy."""

    def __init__(self, proxy, client, port):
        self.proxy, self.loop, self.port = proxy, proxy.loop, port
        self.connected = False  # to the target
        self.client, self.target = client, small(socket.socket())
        self.pipes = {UP: Pipe(self, UP, self.client, self.target), DOWN: Pipe(self, DOWN, self.target, self.client)}
        for end in (self.client, self.target):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def set(self, *directions, **settings):
        self.proxy._call(self._set, directions or BOTH, settings)

    def hole(self, seconds=FOREVER, *directions):
        """Forwards nothing for some time, and then goes on with the bytes that were held back."""
        self.proxy._call(self._hole, seconds, directions or BOTH)

    def reset(self):
        """Sends RST to both ends, even in a black hole."""
        self.proxy._call(self._reset)

    def half_close(self, direction):
        """Ends one direction: its receiver gets FIN, and what its sender sends is not read any more."""
        self.proxy._call(self.pipes[direction]._end)

    def forwarded(self, direction):
        """Returns the number of bytes that were forwarded in a direction."""
        return self.pipes[direction].bytes

    # The rest runs in the thread of the proxy.

    def start(self):
        self.task = self.loop.create_task(self._run())

    async def _run(self):
        try:
            await self.pipes[UP].open()  # in a black hole no SYN arrives either
            await self.loop.sock_connect(self.target, self.proxy.address)
            self.connected = True
            await asyncio.gather(*(pipe.run() for pipe in self.pipes.values()))
        except OSError:  # of either end; the other one gets it, too
            self._linger()
        finally:
            for pipe in self.pipes.values():
                pipe.cancel()
            for end in (self.client, self.target):
                end.close()
            self.proxy.links.pop(self.port, None)

    def _set(self, directions, settings):
        for direction in directions:
            self.pipes[direction].set(**settings)

    def _hole(self, seconds, directions):
        for direction in directions:
            self.pipes[direction].hole(self.loop.time() + seconds)

    def _linger(self):
        for end in (self.client, self.target):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def _reset(self):
        self._linger()
        self.task.cancel()


class Pipe:
    """One direction of a connection."""

    def __init__(self, link, direction, source, sink):
        self.loop, self.source, self.sink = link.loop, source, sink
        self.delay = self.jitter = 0.0
        self.rate = None
        self.bytes = 0
        self._held, self._held_bytes = collections.deque(), 0  # parts with the time at which each arrives; None is the end
        self._last_due = self._free_at = 0.0
        self._changed = asyncio.Event()
        self._hole_end = link.proxy._hole_ends[direction]
        self._tasks = []
        self.set(**link.proxy.settings[direction])

    def set(self, **settings):
        for name, value in settings.items():
            if name not in ("delay", "jitter", "rate"):
                raise TypeError(f"a direction has no {name}")
            setattr(self, name, value)

    def hole(self, end):
        self._hole_end = end
        self._changed.set()

    async def run(self):
        self._tasks = [self.loop.create_task(self._read()), self.loop.create_task(self._write())]
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            if not task.cancelled():  # a half close ends reading
                task.result()

    def cancel(self):
        for task in self._tasks:
            task.cancel()

    async def open(self):
        """Waits for the end of a black hole, which may be moved meanwhile."""
        while (left := self._hole_end - self.loop.time()) > 0:
            await self._change(None if left == FOREVER else left)

    async def _change(self, seconds=None):
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    def _unit(self):
        return max(SEGMENT, int(self.rate / 8 * UNIT_SECONDS)) if self.rate else BUFFER

    async def _read(self):
        part = b"begin"
        while part:
            while self._held_bytes >= BUFFER:
                await self._change()
            try:
                part = await self.loop.sock_recv(self.source, min(self._unit(), BUFFER - self._held_bytes))
            except OSError:
                await self.open()
                raise
            due = self.loop.time() + self.delay + random.random() * self.jitter
            self._last_due = max(self._last_due, due)
            self._held.append((self._last_due, part or None))
            self._held_bytes += len(part)
            self._changed.set()

    async def _write(self):
        while True:
            while not self._held:
                await self._change()
            due, part = self._held[0]
            await asyncio.sleep(due - self.loop.time())
            await self.open()
            if part is None:
                self.sink.shutdown(socket.SHUT_WR)
                return
            if self.rate:
                now = self.loop.time()
                self._free_at = max(self._free_at, now - LATE_SECONDS) + 8 * len(part) / self.rate
                await asyncio.sleep(self._free_at - now)
                await self.open()
            await self.loop.sock_sendall(self.sink, part)
            self.bytes += len(part)
            self._held.popleft()
            self._held_bytes -= len(part)
            self._changed.set()

    def _end(self):
        reading, _ = self._tasks
        reading.cancel()
        self._held.append((self._last_due, None))
        self._changed.set()


def small(end):
    """Gives a socket the buffers and segments of a path outside of this machine."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER // 2)  # the kernel doubles both
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER // 2)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
    return end
