"""Clients and backends in two Python libraries, `websockets` and `aiohttp`, with the same interface and behaviour."""

import asyncio
import contextlib
import json

import aiohttp
import aiohttp.web
import websockets.asyncio.client
import websockets.asyncio.server
import websockets.exceptions

from harness import equal

SECONDS = 10  # timeout of each wait


class Refused(Exception):
    """The opening handshake was answered with a status other than 101."""

    def __init__(self, status, headers, body=None):
        super().__init__(f"rejected with {status}")
        self.status, self.headers, self.body = status, headers, body


# ------------------------------------------------------------------------------------------------------------- clients
# Both have the same interface: send, recv, ping, close(code, reason), closed() -> (code, reason), protocol, extensions.


class WebsocketsClient:
    name = "websockets"

    def __init__(self, context):
        self.context = context

    @contextlib.asynccontextmanager
    async def connect(self, url, protocols=(), headers=None, origin=None, compress=True):
        try:
            connection = await websockets.asyncio.client.connect(
                url, ssl=self.context, subprotocols=protocols or None, additional_headers=headers, origin=origin,
                compression="deflate" if compress else None, max_size=2**24, proxy=None, open_timeout=SECONDS,
            )
        except websockets.exceptions.InvalidStatus as error:
            answer = error.response
            raise Refused(answer.status_code, answer.headers, answer.body) from None
        async with connection:
            yield self.Connection(connection)

    class Connection:
        def __init__(self, connection):
            self.inner = connection
            self.protocol = connection.subprotocol
            self.extensions = connection.response.headers.get("Sec-WebSocket-Extensions", "")

        async def send(self, message):
            await self.inner.send(message)

        async def recv(self):
            return await asyncio.wait_for(self.inner.recv(), SECONDS)

        async def ping(self):
            await asyncio.wait_for(await self.inner.ping(b"are you there"), SECONDS)

        async def close(self, code, reason):
            await self.inner.close(code, reason)

        async def closed(self):
            with contextlib.suppress(websockets.exceptions.ConnectionClosed):
                while True:
                    await self.recv()
            return self.inner.close_code, self.inner.close_reason


class AiohttpClient:
    name = "aiohttp"

    def __init__(self, context):
        self.context = context

    @contextlib.asynccontextmanager
    async def connect(self, url, protocols=(), headers=None, origin=None, compress=True):
        async with aiohttp.ClientSession() as session:
            try:
                connection = await asyncio.wait_for(session.ws_connect(
                    url, ssl=self.context, protocols=protocols, headers=headers, origin=origin,
                    compress=15 if compress else 0, max_msg_size=2**24, autoping=False,
                ), SECONDS)
            except aiohttp.WSServerHandshakeError as error:
                raise Refused(error.status, error.headers) from None
            async with connection:
                yield self.Connection(connection)

    class Connection:
        def __init__(self, connection):
            self.inner = connection
            self.protocol = connection.protocol
            self.extensions = "permessage-deflate" if connection.compress else ""
            self.end = None

        async def send(self, message):
            await (self.inner.send_str if isinstance(message, str) else self.inner.send_bytes)(message)

        async def recv(self):
            while True:
                message = await self.inner.receive(SECONDS)
                if message.type is aiohttp.WSMsgType.PING:
                    await self.inner.pong(message.data)
                elif message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    return message.data
                else:
                    if message.type is aiohttp.WSMsgType.CLOSE:
                        self.end = message.data, message.extra
                    raise ConnectionError(f"{message.type.name} {message.data!r} {message.extra!r}")

        async def ping(self):
            await self.inner.ping(b"are you there")
            message = await self.inner.receive(SECONDS)
            equal((message.type, bytes(message.data)), (aiohttp.WSMsgType.PONG, b"are you there"))

        async def close(self, code, reason):
            await self.inner.close(code=code, message=reason.encode())

        async def closed(self):
            with contextlib.suppress(ConnectionError):
                while True:
                    await self.recv()
            return self.end or (1006, "")


# ------------------------------------------------------------------------------------------------------------ backends
# Both behave alike: they pick chat.v1 if it is offered, and react to a message as follows.
#   "tell"            send the received opening handshake as JSON
#   "close CODE WHY"  close with this code and reason
#   "ping"            ping the client, and send "ponged" after its pong
#   "fragments"       send "one two three" in three fragments
#   "quiet"           send nothing
#   anything else     echo the message
# A session with `case=NUMBER` in its query records its close code and reason and its number of messages.

ends = {}


def new_case():
    """Returns a number that identifies the session of one check in `ends`."""
    ends[str(len(ends))] = asyncio.Queue()
    return str(len(ends) - 1)


async def end_of(case):
    return await asyncio.wait_for(ends[case].get(), SECONDS)


def note_end(path, code, reason, messages):
    if case := path.partition("case=")[2]:
        ends[case].put_nowait((code, reason or "", messages))


def told(path, headers, protocol):
    return json.dumps({"path": path, "headers": [[n.lower(), v] for n, v in headers], "protocol": protocol})


async def websockets_backend(connection):
    request = connection.request
    messages = 0
    try:
        async for message in connection:
            messages += 1
            if message == "tell":
                await connection.send(told(request.path, request.headers.raw_items(), connection.subprotocol))
            elif message == "ping":
                await asyncio.wait_for(await connection.ping(b"and you"), SECONDS)
                await connection.send("ponged")
            elif message == "fragments":
                await connection.send(["one ", "two ", "three"])
            elif message == "quiet":
                pass
            elif isinstance(message, str) and message.startswith("close "):
                _, code, reason = message.split(" ", 2)
                await connection.close(int(code), reason)
            else:
                await connection.send(message)
    except websockets.exceptions.ConnectionClosed:
        pass
    await connection.wait_closed()
    note_end(request.path, connection.close_code, connection.close_reason, messages)


async def fragments_backend(connection):
    """Sends the list of fragments of each message."""
    with contextlib.suppress(websockets.exceptions.ConnectionClosed):
        while True:
            fragments = [fragment async for fragment in connection.recv_streaming()]
            await connection.send(json.dumps(fragments))


async def aiohttp_backend(request):
    response = aiohttp.web.WebSocketResponse(protocols=("chat.v1",), max_msg_size=2**24, autoping=False, autoclose=True)
    await response.prepare(request)
    code, reason, messages = 1006, "", 0
    while True:
        message = await response.receive()
        messages += message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY)
        if message.type is aiohttp.WSMsgType.PING:
            await response.pong(message.data)
        elif message.type is aiohttp.WSMsgType.PONG:
            equal(bytes(message.data), b"and you")
            await response.send_str("ponged")
        elif message.type is aiohttp.WSMsgType.BINARY:
            await response.send_bytes(message.data)
        elif message.type is aiohttp.WSMsgType.TEXT:
            if message.data == "tell":
                await response.send_str(told(request.raw_path, request.headers.items(), response.ws_protocol))
            elif message.data == "ping":
                await response.ping(b"and you")
            elif message.data.startswith("close "):
                _, number, why = message.data.split(" ", 2)
                await response.close(code=int(number), message=why.encode())
                code, reason = int(number), why
                break
            else:
                await response.send_str(message.data)
        else:
            if message.type is aiohttp.WSMsgType.CLOSE:
                code, reason = message.data, message.extra
            break
    note_end(request.raw_path, code, reason, messages)
    return response


@contextlib.asynccontextmanager
async def backends():
    """Yields the ports of both backends and of the one that lists fragments."""

    def pick(_, offered):
        return "chat.v1" if "chat.v1" in offered else None

    serve = websockets.asyncio.server.serve
    async with (
        serve(websockets_backend, "127.0.0.1", 0, select_subprotocol=pick, max_size=2**24) as first,
        serve(fragments_backend, "127.0.0.1", 0, max_size=2**24) as third,
    ):
        application = aiohttp.web.Application()
        application.router.add_get("/{rest:.*}", aiohttp_backend)
        runner = aiohttp.web.AppRunner(application)
        await runner.setup()
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=1)
        await site.start()
        try:
            second = runner.addresses[0][1]
            yield first.sockets[0].getsockname()[1], second, third.sockets[0].getsockname()[1]
        finally:
            await runner.cleanup()
