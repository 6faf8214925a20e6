"""Two Python libraries, `websockets` and `aiohttp`, each as client and as backend, through the proxy."""

import asyncio
import contextlib
import json
import time

import aiohttp
import aiohttp.web
import websockets.asyncio.client
import websockets.asyncio.server
import websockets.exceptions

import harness
from harness import Suite, equal

SECONDS = 10  # for any one wait
ORIGIN = "https://chat.example.test"
TEXT = "Grüße, 世界 🎉"
BIG = bytes(range(256)) * (3 * 2**20 // 256)  # 3 MiB
COMPRESSIBLE = "tollgate " * 20_000

suite = Suite("python")


class Refused(Exception):
    """The opening handshake was answered with something else than 101."""

    def __init__(self, status, headers, body=None):
        super().__init__(f"refused with {status}")
        self.status, self.headers, self.body = status, headers, body


# ------------------------------------------------------------------------------------------------------------- clients
# Both wear the same clothes: send, recv, ping, close(code, reason), closed() -> (code, reason), protocol, extensions.


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
# Both do the same: pick chat.v1 if offered, and answer by the message.
#   "tell"            what the opening handshake looked like here, as JSON
#   "close CODE WHY"  close with that
#   "ping"            ping the client; answer "ponged" once it answered
#   "fragments"       "one two three" in three fragments
#   "quiet"           nothing
#   anything else     the same
# Every session whose query holds `case=NUMBER` leaves a note of how it ended, and after how many messages.

ends = {}


def new_case():
    """A number under which a check finds the end of its own session, and of no other."""
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
    """Says in how many fragments each message came."""
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
    """Yields the ports of both, and of the one that counts fragments."""

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


# -------------------------------------------------------------------------------------------------------------- checks


async def core(client, backend, url):
    """What has to work between every client and every backend."""
    pair = f"{client.name} to {backend}"

    with suite.check(f"{pair}: text, binary and empty messages come back as they went"):
        async with client.connect(url("echo")) as session:
            for message in (TEXT, b"\x00\xff" * 500, "", b"", "x" * 125, "x" * 126, "x" * 65535, "x" * 65536):
                await session.send(message)
                equal(await session.recv(), message)

    with suite.check(f"{pair}: 3 MiB come back as they went"):
        async with client.connect(url("echo"), compress=False) as session:
            await session.send(BIG)
            equal(await session.recv() == BIG, True)

    with suite.check(f"{pair}: 200 messages at once keep their order"):
        async with client.connect(url("echo")) as session:
            for number in range(200):
                await session.send(str(number))
            equal([await session.recv() for _ in range(200)], [str(number) for number in range(200)])

    with suite.check(f"{pair}: permessage-deflate is negotiated between the ends"):
        async with client.connect(url("echo")) as session:
            equal("permessage-deflate" in session.extensions, True)
            await session.send(COMPRESSIBLE)
            equal(await session.recv() == COMPRESSIBLE, True)

    with suite.check(f"{pair}: no extension is invented where the client offers none"):
        async with client.connect(url("echo"), compress=False) as session:
            equal(session.extensions, "")

    with suite.check(f"{pair}: a ping of the client is answered with its payload"):
        async with client.connect(url("echo")) as session:
            await session.ping()

    with suite.check(f"{pair}: a ping of the backend is answered with its payload"):
        async with client.connect(url("echo")) as session:
            await session.send("ping")
            equal(await session.recv(), "ponged")

    with suite.check(f"{pair}: close code and reason of the client reach the backend"):
        case = new_case()
        async with client.connect(url(f"echo?case={case}")) as session:
            await session.close(4001, "mein Grund: Ende")
        equal((await end_of(case))[:2], (4001, "mein Grund: Ende"))

    with suite.check(f"{pair}: close code and reason of the backend reach the client"):
        case = new_case()
        async with client.connect(url(f"echo?case={case}")) as session:
            await session.send("close 4002 its own reasons")
            equal(await session.closed(), (4002, "its own reasons"))
        await end_of(case)  # with the code of the client's answer, which is its own affair

    with suite.check(f"{pair}: the subprotocol that the backend picks reaches the client"):
        async with client.connect(url("echo"), protocols=["chat.v2", "chat.v1"]) as session:
            equal(session.protocol, "chat.v1")

    with suite.check(f"{pair}: path and query reach the backend, and that it was https"):
        async with client.connect(url("echo/a%20b?x=1&y=%C3%A4")) as session:
            await session.send("tell")
            seen = json.loads(await session.recv())
            equal(seen["path"].endswith("/echo/a%20b?x=1&y=%C3%A4"), True)
            headers = dict(seen["headers"])
            equal(headers["host"].startswith("localhost:"), True)
            equal((headers["x-forwarded-proto"], headers["x-forwarded-for"]), ("https", "127.0.0.1"))


async def fragments(client, url):
    with suite.check("websockets: three fragments stay three"):
        async with client.connect(url("/fragments"), compress=False) as session:
            await session.send(["one ", "two ", "three"])
            # The library closes a fragmented message with an empty final fragment.
            equal([part for part in json.loads(await session.recv()) if part], ["one ", "two ", "three"])

    with suite.check("websockets: a ping between fragments is answered at once"):
        async with client.connect(url("/fragments"), compress=False) as session:
            async def slowly():
                yield "one "
                await session.ping()
                yield "two"
            await session.send(slowly())
            equal("".join(json.loads(await session.recv())), "one two")


async def tokens(client, url, secrets):
    name = client.name
    token = secrets.token("ada", room="7", scope="chat:write")
    carriers = {
        "header": {"headers": {"Authorization": f"Bearer {token}"}},
        "cookie": {"headers": {"Cookie": f"theme=dark; session={token}; lang=de"}},
        "query": {"query": f"?a=1&token={token}&b=2"},
        "subprotocol": {"protocols": ["bearer", token, "chat.v1"]},
    }
    for carrier, options in carriers.items():
        with suite.check(f"{name}: a token in the {carrier} opens, and does not reach the backend"):
            options = dict(options)
            target = url("/users/7/echo") + options.pop("query", "")
            async with client.connect(target, origin=ORIGIN, **options) as session:
                await session.send("tell")
                seen = await session.recv()
                equal(token in seen, False)
                headers = json.loads(seen)["headers"]
                equal([value for key, value in headers if key == "x-user-id"], ["ada"])
                equal("authorization" in dict(headers), False)
                if carrier == "cookie":
                    equal(dict(headers)["cookie"], "theme=dark; lang=de")
                if carrier == "query":
                    equal(json.loads(seen)["path"].partition("?")[2], "a=1&b=2")
                if carrier == "subprotocol":
                    equal((session.protocol, dict(headers)["sec-websocket-protocol"]), ("chat.v1", "chat.v1"))

    with suite.check(f"{name}: where the backend picks no subprotocol the client hears `bearer`"):
        async with client.connect(url("/users/7/echo"), protocols=["bearer", token, "other"]) as session:
            equal(session.protocol, "bearer")

    with suite.check(f"{name}: a claim's header cannot be forged"):
        forged = {"Authorization": f"Bearer {token}", "X-User-Id": "root", "x_user_id": "root"}
        async with client.connect(url("/users/7/echo"), headers=forged) as session:
            await session.send("tell")
            headers = json.loads(await session.recv())["headers"]
            equal([value for key, value in headers if key.replace("_", "-") == "x-user-id"], ["ada"])

    with suite.check(f"{name}: a token of another library opens"):
        theirs = secrets.foreign_token(room="7", scope="chat:read chat:write")
        async with client.connect(url("/users/7/echo"), protocols=["bearer", theirs]) as session:
            await session.send(TEXT)
            equal(await session.recv(), TEXT)

    with suite.check(f"{name}: a session ends with 1008 when its token expires"):
        short = secrets.token("ada", room="7", scope="chat:write", expires="3s")
        case = new_case()
        async with client.connect(url(f"/users/7/echo?case={case}"), protocols=["bearer", short]) as session:
            start = time.monotonic()
            equal((await session.closed())[0], 1008)
            equal(0.5 < time.monotonic() - start < 5, True)
        equal((await end_of(case))[0], 1008)


async def refusals(client, url, secrets):
    name = client.name
    good = secrets.token("ada", room="7", scope="chat:write")
    other_key = secrets.make_key("other")
    room = {"room": "7", "scope": "chat:write"}
    public_pem_as_secret = secrets.dir / "confusion.key"
    public_pem_as_secret.write_bytes(b"a secret that an attacker chose, 32 bytes and more")
    bad = {
        "no token": None,
        "a token that is none": "a.b.c",
        "an expired token": secrets.foreign_token(**room, exp=int(time.time()) - 60),
        "a token without expiry": secrets.foreign_token(**room, exp=None),
        "a token that is not valid yet": secrets.foreign_token(**room, nbf=int(time.time()) + 600),
        "a token for another audience": secrets.foreign_token(**room, aud="mail"),
        "a token of another issuer": secrets.foreign_token(**room, iss="https://evil.example.test/"),
        "a token signed with another key": secrets.foreign_token(**room, key=other_key),
        "a token signed with HS256": secrets.foreign_token(**room, algorithm="HS256", key=public_pem_as_secret),
        "a token whose claims were changed": ".".join([good.split(".")[0], secrets.foreign_token(sub="root").split(".")[1],
                                                       good.split(".")[2]]),
    }
    for what, token in bad.items():
        with suite.check(f"{name}: {what} is refused with 401"):
            headers = {"Authorization": f"Bearer {token}"} if token else None
            answer = await refusal(client, url("/users/7/echo"), headers=headers)
            equal(answer.status, 401)
            equal(answer.headers["WWW-Authenticate"].split()[0].rstrip(","), "Bearer")

    bearer = {"Authorization": f"Bearer {good}"}
    others = {
        "another origin": (403, "/users/7/echo", {"headers": bearer, "origin": "https://evil.example.test"}),
        "the origin with another port": (403, "/users/7/echo", {"headers": bearer, "origin": ORIGIN + ":8443"}),
        "an origin that only begins so": (403, "/users/7/echo", {"headers": bearer, "origin": ORIGIN + ".evil.test"}),
        "the origin null": (403, "/users/7/echo", {"headers": bearer, "origin": "null"}),
        "a room that the token does not name": (403, "/users/8/echo", {"headers": bearer}),
        "a token without the scope": (403, "/users/7/echo", {
            "headers": {"Authorization": "Bearer " + secrets.token("ada", room="7", scope="chat:writer")}}),
        "an unknown path": (404, "/nowhere", {}),
        "a dead upstream": (502, "/dead", {}),
        "an upstream that is silent": (504, "/silent", {}),
    }
    for what, (status, path, options) in others.items():
        with suite.check(f"{name}: {what} is refused with {status}"):
            equal((await refusal(client, url(path), **options)).status, status)

    with suite.check(f"{name}: the answer of an upstream that refuses is passed on"):
        answer = await refusal(client, url("/teapot"))
        equal(answer.status, 418)
        if answer.body is not None:
            equal(answer.body, b"short and stout")


async def refusal(client, url, **options):
    try:
        async with client.connect(url, **options):
            raise AssertionError("it was let in")
    except Refused as answer:
        return answer


async def plain_http(context, url):
    async with aiohttp.ClientSession() as session:
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        for what, headers in {
            "a plain GET": {},
            "WebSocket version 8": {**upgrade, "Sec-WebSocket-Version": "8"},
        }.items():
            with suite.check(f"aiohttp: {what} is answered with 426 and what would have been right"):
                async with session.get(url("/ws/echo"), ssl=context, headers=headers) as answer:
                    equal(answer.status, 426)
                    equal(answer.headers["Upgrade"].lower(), "websocket")
                    equal(answer.headers["Sec-WebSocket-Version"], "13")


async def limits(client, url):
    name = client.name

    with suite.check(f"{name}: a message of exactly the limit passes"):
        async with client.connect(url("/small/echo"), compress=False) as session:
            await session.send("x" * 1024)
            equal(await session.recv(), "x" * 1024)

    with suite.check(f"{name}: a message that is too big ends the session with 1009 at both ends"):
        case = new_case()
        async with client.connect(url(f"/small/echo?case={case}"), compress=False) as session:
            await session.send("x" * 1025)
            equal((await session.closed())[0], 1009)
        equal((await end_of(case))[::2], (1009, 0))

    with suite.check(f"{name}: a client that sends too many messages hears 1008, and only its burst has passed"):
        case = new_case()
        async with client.connect(url(f"/rate/echo?case={case}")) as session:
            with contextlib.suppress(ConnectionError, websockets.exceptions.ConnectionClosed):
                for _ in range(30):
                    await session.send("quiet")
            equal((await session.closed())[0], 1008)
        equal((await end_of(case))[::2], (1008, 10))

    with suite.check(f"{name}: with on_excess = \"delay\" a client is slowed down and loses nothing"):
        async with client.connect(url("/delay/echo")) as session:
            start = time.monotonic()
            for number in range(30):
                await session.send(str(number))
            equal([await session.recv() for _ in range(30)], [str(number) for number in range(30)])
            equal(0.7 < time.monotonic() - start < 5, True)  # 10 at once, 20 at 20/s

    with suite.check(f"{name}: with on_excess = \"drop\" messages are dropped whole"):
        async with client.connect(url("/drop/echo")) as session:
            for number in range(30):
                await session.send(str(number))
            await asyncio.sleep(1)
            await session.send("last")
            got = []
            while not got or got[-1] != "last":
                got.append(await session.recv())
            equal(got[:10], [str(number) for number in range(10)])
            equal(len(got) < 25, True)

    with suite.check(f"{name}: an idle session ends with 1001"):
        case = new_case()
        async with client.connect(url(f"/idle/echo?case={case}")) as session:
            equal((await session.closed())[0], 1001)
        equal((await end_of(case))[0], 1001)


async def teapot(reader, writer):
    """An upstream that refuses every upgrade."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
        writer.write(b"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 15\r\nContent-Type: text/plain\r\n\r\nshort and stout")
        await writer.drain()
        writer.close()


async def silent(reader, writer):
    """An upstream that takes every request and answers none."""
    with contextlib.suppress(OSError):
        await reader.read(-1)
        writer.close()


async def main():
    directory = harness.work_dir("python")
    secrets = harness.Secrets(directory)
    context = secrets.client_context()
    async with (
        backends() as (websockets_port, aiohttp_port, fragments_port),
        await asyncio.start_server(teapot, "127.0.0.1", 0) as teapot_server,
        await asyncio.start_server(silent, "127.0.0.1", 0) as silent_server,
    ):
        big = {"message_max_size": '"4MiB"'}
        guarded = {
            "auth": '"users"', "origins": f'["{ORIGIN}"]', "require": '{ scope = "chat:write", room = "{room}" }',
            "forward_claims": '{ sub = "X-User-Id" }',
        }
        ten = {"message_rate": '"20/s"', "message_burst": "10"}
        route = harness.route
        config = "".join([
            "[log]\nformat = \"text\"\n\n",
            harness.listener(secrets),
            harness.auth(secrets),
            harness.upstream("websockets", websockets_port),
            harness.upstream("aiohttp", aiohttp_port),
            harness.upstream("fragments", fragments_port),
            harness.upstream("teapot", teapot_server.sockets[0].getsockname()[1]),
            harness.upstream("silent", silent_server.sockets[0].getsockname()[1]) + 'response_timeout = "500ms"\n',
            harness.upstream("dead", harness.free_port()),
            route("ws", "/ws/{*rest}", "websockets", big),
            route("aio", "/aio/{*rest}", "aiohttp", big),
            route("fragments", "/fragments", "fragments"),
            route("users", "/users/{room}/echo", "websockets", **guarded),
            route("small", "/small/echo", "websockets", {"message_max_size": '"1KiB"'}),
            route("rate", "/rate/echo", "websockets", {**ten, "message_rate": '"1/s"'}),
            route("delay", "/delay/echo", "websockets", {**ten, "on_excess": '"delay"'}),
            route("drop", "/drop/echo", "websockets", {**ten, "on_excess": '"drop"'}),
            route("idle", "/idle/echo", "websockets", {"idle_timeout": '"1s"'}),
            route("teapot", "/teapot", "teapot"),
            route("silent", "/silent", "silent"),
            route("dead", "/dead", "dead"),
        ])
        proxy = harness.Proxy(config, directory)
        clients = [WebsocketsClient(context), AiohttpClient(context)]
        for client in clients:
            for backend, prefix in (("websockets", "/ws/"), ("aiohttp", "/aio/")):
                await core(client, backend, lambda path, prefix=prefix: proxy.url(prefix + path))
            await tokens(client, proxy.url, secrets)
            await refusals(client, proxy.url, secrets)
            await limits(client, proxy.url)
        await fragments(clients[0], proxy.url)
        await plain_http(context, lambda path: proxy.url(path, "https"))

        with suite.check("SIGTERM drains: open sessions hear 1001, and the exit code is 0"):
            case = new_case()
            async with clients[0].connect(proxy.url(f"/ws/echo?case={case}")) as session:
                await session.send("still here")
                await session.recv()
                stopped = asyncio.create_task(asyncio.to_thread(proxy.stop, 40))
                equal((await session.closed())[0], 1001)
                equal((await end_of(case))[0], 1001)
            equal(await stopped, 0)
        with suite.check("no token in the log"):
            equal("eyJ" in proxy.output(), False)


asyncio.run(asyncio.wait_for(main(), 300))
suite.finish()
