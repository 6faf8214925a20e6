"""Tests two Python libraries, `websockets` and `aiohttp`, each as client and as backend, through the proxy."""

import asyncio
import contextlib
import json
import os
import time

import aiohttp
import websockets.exceptions

import harness
import leaks
from harness import Suite, equal
from python_peers import SECONDS, AiohttpClient, Refused, WebsocketsClient, backends, end_of, new_case

ORIGIN = "https://chat.example.test"
TEXT = "Grüße, 世界 🎉"
BIG = bytes(range(256)) * (3 * 2**20 // 256)  # 3 MiB
COMPRESSIBLE = "tollgate " * 20_000

suite = Suite("python")


# -------------------------------------------------------------------------------------------------------------- checks


async def core(client, backend, url):
    """Checks that run between every client and every backend."""
    pair = f"{client.name} to {backend}"

    with suite.check(f"{pair}: text, binary and empty messages are echoed unchanged"):
        async with client.connect(url("echo")) as session:
            for message in (TEXT, b"\x00\xff" * 500, "", b"", "x" * 125, "x" * 126, "x" * 65535, "x" * 65536):
                await session.send(message)
                equal(await session.recv(), message)

    with suite.check(f"{pair}: 3 MiB are echoed unchanged"):
        async with client.connect(url("echo"), compress=False) as session:
            await session.send(BIG)
            equal(await session.recv() == BIG, True)

    with suite.check(f"{pair}: 200 messages at once keep their order"):
        async with client.connect(url("echo")) as session:
            for number in range(200):
                await session.send(str(number))
            equal([await session.recv() for _ in range(200)], [str(number) for number in range(200)])

    with suite.check(f"{pair}: permessage-deflate is negotiated end to end"):
        async with client.connect(url("echo")) as session:
            equal("permessage-deflate" in session.extensions, True)
            await session.send(COMPRESSIBLE)
            equal(await session.recv() == COMPRESSIBLE, True)

    with suite.check(f"{pair}: no extension is negotiated if the client offers none"):
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
        await end_of(case)  # the code of the client's answer is up to the client

    with suite.check(f"{pair}: the subprotocol that the backend picks reaches the client"):
        async with client.connect(url("echo"), protocols=["chat.v2", "chat.v1"]) as session:
            equal(session.protocol, "chat.v1")

    with suite.check(f"{pair}: path, query and X-Forwarded headers reach the backend"):
        async with client.connect(url("echo/a%20b?x=1&y=%C3%A4")) as session:
            await session.send("tell")
            seen = json.loads(await session.recv())
            equal(seen["path"].endswith("/echo/a%20b?x=1&y=%C3%A4"), True)
            headers = dict(seen["headers"])
            equal(headers["host"].startswith("localhost:"), True)
            equal((headers["x-forwarded-proto"], headers["x-forwarded-for"]), ("https", "127.0.0.1"))


async def fragments(client, url):
    with suite.check("websockets: three fragments are forwarded as three"):
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
        with suite.check(f"{name}: a token in the {carrier} is accepted, and does not reach the backend"):
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

    with suite.check(f"{name}: if the backend picks no subprotocol the client gets `bearer`"):
        async with client.connect(url("/users/7/echo"), protocols=["bearer", token, "other"]) as session:
            equal(session.protocol, "bearer")

    with suite.check(f"{name}: another cookie and another value of the query reach the backend"):
        cookie, ticket = leaks.remember(os.urandom(16).hex()), leaks.remember(os.urandom(16).hex())
        headers = {"Authorization": f"Bearer {token}", "Cookie": f"id={cookie}"}
        async with client.connect(url(f"/users/7/echo?ticket={ticket}"), headers=headers) as session:
            await session.send("tell")
            seen = await session.recv()
            equal((cookie in seen, ticket in seen), (True, True))

    with suite.check(f"{name}: a claim's header cannot be forged"):
        forged = {"Authorization": f"Bearer {token}", "X-User-Id": "root", "x_user_id": "root"}
        async with client.connect(url("/users/7/echo"), headers=forged) as session:
            await session.send("tell")
            headers = json.loads(await session.recv())["headers"]
            equal([value for key, value in headers if key.replace("_", "-") == "x-user-id"], ["ada"])

    with suite.check(f"{name}: a token made by another library is accepted"):
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
    public_pem_as_secret.write_text(leaks.remember("a secret that an attacker chose, 32 bytes and more"))
    bad = {
        "no token": None,
        "a malformed token": "a.b.c",
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
        with suite.check(f"{name}: {what} is rejected with 401"):
            headers = {"Authorization": f"Bearer {token}"} if token else None
            answer = await refusal(client, url("/users/7/echo"), headers=headers)
            equal(answer.status, 401)
            equal(answer.headers["WWW-Authenticate"].split()[0].rstrip(","), "Bearer")

    bearer = {"Authorization": f"Bearer {good}"}
    others = {
        "another origin": (403, "/users/7/echo", {"headers": bearer, "origin": "https://evil.example.test"}),
        "the origin with another port": (403, "/users/7/echo", {"headers": bearer, "origin": ORIGIN + ":8443"}),
        "an origin with an allowed prefix": (403, "/users/7/echo", {"headers": bearer, "origin": ORIGIN + ".evil.test"}),
        "the origin null": (403, "/users/7/echo", {"headers": bearer, "origin": "null"}),
        "a room that the token is not for": (403, "/users/8/echo", {"headers": bearer}),
        "a token without the scope": (403, "/users/7/echo", {
            "headers": {"Authorization": "Bearer " + secrets.token("ada", room="7", scope="chat:writer")}}),
        "an unknown path": (404, "/nowhere", {}),
        "a dead upstream": (502, "/dead", {}),
        "an upstream that is silent": (504, "/silent", {}),
    }
    for what, (status, path, options) in others.items():
        with suite.check(f"{name}: {what} is rejected with {status}"):
            equal((await refusal(client, url(path), **options)).status, status)

    with suite.check(f"{name}: the response of an upstream that rejects the upgrade is forwarded"):
        answer = await refusal(client, url("/teapot"))
        equal(answer.status, 418)
        if answer.body is not None:
            equal(answer.body, b"short and stout")


async def refusal(client, url, **options):
    try:
        async with client.connect(url, **options):
            raise AssertionError("the upgrade was accepted")
    except Refused as answer:
        return answer


async def plain_http(context, url):
    async with aiohttp.ClientSession() as session:
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        for what, headers in {
            "a plain GET": {},
            "WebSocket version 8": {**upgrade, "Sec-WebSocket-Version": "8"},
        }.items():
            with suite.check(f"aiohttp: {what} is answered with 426 and the supported protocol and version"):
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

    with suite.check(f"{name}: a message over the size limit ends the session with 1009 at both ends"):
        case = new_case()
        async with client.connect(url(f"/small/echo?case={case}"), compress=False) as session:
            await session.send("x" * 1025)
            equal((await session.closed())[0], 1009)
        equal((await end_of(case))[::2], (1009, 0))

    with suite.check(f"{name}: a client that exceeds the message rate gets 1008, and only its burst has passed"):
        case = new_case()
        async with client.connect(url(f"/rate/echo?case={case}")) as session:
            with contextlib.suppress(ConnectionError, websockets.exceptions.ConnectionClosed):
                for _ in range(30):
                    await session.send("quiet")
            equal((await session.closed())[0], 1008)
        equal((await end_of(case))[::2], (1008, 10))

    with suite.check(f"{name}: with on_excess = \"delay\" messages are delayed and none is lost"):
        async with client.connect(url("/delay/echo")) as session:
            start = time.monotonic()
            for number in range(30):
                await session.send(str(number))
            equal([await session.recv() for _ in range(30)], [str(number) for number in range(30)])
            equal(0.7 < time.monotonic() - start < 5, True)  # 10 at once, 20 at 20/s

    with suite.check(f"{name}: with on_excess = \"drop\" excess messages are dropped"):
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
    """An upstream that answers every request with 418."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
        writer.write(b"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 15\r\nContent-Type: text/plain\r\n\r\nshort and stout")
        await writer.drain()
        writer.close()


async def silent(reader, writer):
    """An upstream that reads every request and answers none."""
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
            "[log]\nformat = \"text\"\nlevel = \"trace\"\n\n",  # every line that could contain a secret
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

        with suite.check("SIGTERM drains: open sessions get 1001, and the exit code is 0"):
            case = new_case()
            async with clients[0].connect(proxy.url(f"/ws/echo?case={case}")) as session:
                await session.send("still here")
                await session.recv()
                stopped = asyncio.create_task(asyncio.to_thread(proxy.stop, 40))
                equal((await session.closed())[0], 1001)
                equal((await end_of(case))[0], 1001)
            equal(await stopped, 0)
        with suite.check("the log contains no token"):
            equal("eyJ" in proxy.output(), False)


asyncio.run(asyncio.wait_for(main(), 300))
suite.finish()
