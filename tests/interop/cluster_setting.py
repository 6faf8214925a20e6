"""A Redis server, a link to it that can be cut, and the API of a node, for suites of clusters."""

import asyncio
import contextlib
import http.client
import json
import shutil
import socket
import threading
import time

import harness
from harness import Process, Skip, equal


class Redis:
    """`redis-server` without files on a free port, which can be ended and started again. `options` are added to its command;
    `socket` is the path of the Unix socket that they name."""

    def __init__(self, directory, *options, port=None, socket=None):
        if not shutil.which("redis-server"):
            raise Skip("redis-server is not installed")
        self.directory, self.options, self.port, self.socket = directory, options, port or harness.free_port(), socket
        self.start()

    def start(self):
        self.process = Process("redis", ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly",
                                         "no", "--dir", self.directory, *self.options], self.directory)
        end = time.monotonic() + harness.READY_SECONDS
        while not (self.socket.exists() if self.socket else harness.accepts(self.port)):
            if time.monotonic() > end or not self.process.alive():
                raise RuntimeError(f"redis-server did not start:\n{self.process.output()[-2000:]}")
            time.sleep(0.02)

    def ask(self, *command):
        return harness.run("redis-cli", "-p", self.port, *command).stdout.strip()


class CuttableLink:
    """A TCP relay on a free port to a local port. While it is cut, it closes all connections."""

    def __init__(self, target):
        self.target, self.is_cut, self.writers, ports = target, False, set(), []
        threading.Thread(target=lambda: asyncio.run(self.serve(ports)), daemon=True).start()
        while not ports:
            time.sleep(0.01)
        [self.port] = ports

    async def serve(self, ports):
        self.loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self.relay, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().create_future()

    async def relay(self, reader, writer):
        with contextlib.suppress(OSError):
            if not self.is_cut:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
                both = {writer, far_writer}
                self.writers |= both
                await asyncio.wait([asyncio.create_task(self.copy(reader, far_writer)),
                                    asyncio.create_task(self.copy(far_reader, writer))], return_when=asyncio.FIRST_COMPLETED)
                self.writers -= both
                far_writer.close()
        writer.close()

    async def copy(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    def cut(self):
        self.is_cut = True
        self.loop.call_soon_threadsafe(lambda: [writer.transport.abort() for writer in list(self.writers)])

    def restore(self):
        self.is_cut = False


class Api(http.client.HTTPConnection):
    """A connection to the admin API on a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))

    def ask(self, method, target, body=None):
        headers = {"Content-Type": "application/json"} if body is not None else {}
        self.request(method, target, None if body is None else json.dumps(body), headers)
        response = self.getresponse()
        content = response.read()
        return response.status, json.loads(content) if content else None


def wait_until(holds, what, seconds=15):
    """Waits until a condition holds, and returns the time that it took."""
    begun = time.monotonic()
    while not holds():
        if time.monotonic() - begun > seconds:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - begun


class Node:
    """A node of a cluster. `configuration` is its configuration without the sections of the API and of the cluster, and
    `keys` are further lines of the latter."""

    def __init__(self, number, configuration, directory, redis_port=None, keys="", section=None):
        self.number, self.directory = number, directory
        self.socket = directory / f"admin-{number}.sock"
        section = section or f'url = "redis://127.0.0.1:{redis_port}"\n{keys}'
        self.configuration = f'{configuration}\n[admin]\naddress = "unix:{self.socket}"\n[cluster]\nnode_timeout = "3s"\n{section}'
        self.start()

    def start(self):
        self.proxy = harness.Proxy(self.configuration, self.directory, name=f"node-{self.number}")
        wait_until(self.socket.exists, "the socket of the API")

    def api(self):
        return Api(self.socket)

    def ask(self, method, target, body=None):
        return self.api().ask(method, target, body)

    def nodes(self):
        status, answer = self.ask("GET", "/v1/nodes")
        equal(status, 200)
        return answer

    def lines(self):
        """Returns the number of lines of its log."""
        return self.proxy.output().count("\n")


def wait_for_nodes(nodes, count=None):
    """Waits until each node lists all nodes."""
    count = count or len(nodes)

    def complete():
        lists = [node.nodes() for node in nodes]
        known = {tuple(sorted(node["id"] for node in one["nodes"])) for one in lists if one["server_answers"]}
        return len(known) == 1 and len(next(iter(known))) == count and all(one["server_answers"] for one in lists)

    return wait_until(complete, f"{count} nodes in each list")
