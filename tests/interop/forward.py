"""Forward authentication with services that answer as oauth2-proxy and Authelia do, and with the client of `websockets`."""

import asyncio
import collections
import concurrent.futures
import contextlib
import http.client
import json
import statistics
import time

import websockets.asyncio.server

import harness
from forward_peers import Authelia, OAuth2Proxy
from harness import equal
from python_peers import SECONDS, WebsocketsClient, websockets_backend

RECONNECTS = 200
REUSE_SECONDS = 5  # the default of cache_for
HANGING, HANG_SECONDS = 60, 6  # 64 requests of one address may wait
UPGRADES = 30
DELAY_MAX = 0.25  # seconds that a median upgrade may take longer beside upgrades that hang
RECHECK_SECONDS = 2
LATE_MAX = 1.0  # seconds after recheck_interval, for the question and the Close frame
SLOW_SESSIONS = 40

suite = harness.Suite("forward")
directory = harness.work_dir("forward")
secrets = harness.Secrets(directory)
context = secrets.client_context()
client = WebsocketsClient(context)


class Answer:
    """The response to an upgrade request, with its body if it is not a 101."""

    def __init__(self, port, path, headers):
        connection = http.client.HTTPSConnection("localhost", port, timeout=SECONDS, context=context)
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                   "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        with contextlib.closing(connection):
            connection.request("GET", path, headers={**upgrade, **headers})
            response = connection.getresponse()
            self.status, self.headers, self.body = response.status, response.headers, response.read().decode()


class Setting:
    """The services and the proxy, with a section or more for each service, and a route for each section."""

    def __init__(self, backend_port, sso, authelia, slow):
        self.sso, self.authelia, self.slow = sso, authelia, slow
        parts = ["[log]\nformat = \"text\"\nlevel = \"trace\"\n\n",  # every line that could contain a secret
                 harness.listener(secrets), harness.upstream("echo", backend_port), harness.route("open", "/open", "echo")]
        recheck = f'recheck_interval = "{RECHECK_SECONDS}s"\n'
        for name, service, lines in (
            ("sso", sso, ""),
            ("uncached", sso, 'cache_for = "off"\n'),
            ("rechecked", sso, f'cache_for = "1h"\n{recheck}'),
            ("authelia", authelia, 'cache_for = "off"\n'),
            ("slow", slow, f'cache_for = "off"\ntimeout = "{HANG_SECONDS}s"\n{recheck}'),
        ):
            parts.append(f'\n[auth.{name}]\nkind = "forward"\nurl = "{service.url}"\n'
                         f"response_headers = {json.dumps(service.headers)}\n"
                         f'subject_header = "{service.headers[0]}"\n{lines}')
            parts.append(harness.route(name, f"/{name}", "echo", auth=f'"{name}"'))
        for name, service in ("sso", sso), ("authelia", authelia):
            group = next(header for header in service.headers if header.endswith("-Groups"))
            parts.append(harness.route(f"{name}-admins", f"/{name}/admins", "echo", auth=f'"{name}"',
                                       require=f'{{ "{group}" = ["admins", "owners"] }}'))
        self.proxy = harness.Proxy("".join(parts), directory)

    async def ask(self, path, cookie=None, **headers):
        """Returns the answer to an upgrade request, and closes its connection."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return await asyncio.to_thread(Answer, self.proxy.port, path, {**headers, **({"Cookie": cookie} if cookie else {})})

    def connect(self, path, cookie=None, **headers):
        return client.connect(self.proxy.url(path), headers={**headers, **({"Cookie": cookie} if cookie else {})})

    async def seen(self, path, prefix, cookie, **forged):
        """Returns the headers with this prefix that the upstream gets, with `-` for `_`."""
        async with self.connect(path, cookie, **forged) as session:
            await session.send("tell")
            pairs = [(name.replace("_", "-"), value) for name, value in json.loads(await session.recv())["headers"]]
        return sorted(pair for pair in pairs if pair[0].startswith((prefix, "gap-")))


async def echo(sessions):
    for session in sessions:
        await session.send("still here")
        equal(await session.recv(), "still here")


async def end_of(session):
    """Returns the time, the code and the reason of the end of a session."""
    code, reason = await session.closed()
    return time.monotonic(), code, reason


async def until(what, happened):
    end = time.monotonic() + SECONDS
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {SECONDS} s")
        await asyncio.sleep(0.01)


# -------------------------------------------------------------------------------------------------------------- checks


def lower(headers):
    return sorted((name.lower(), value) for name, value in headers.items())


async def headers_of(setting, service, path):
    name, prefix = service.name, service.prefix
    ada, bob = service.log_in("ada", "dev", "admins"), service.log_in("bob")
    forged = {header: "root,admins" for header in service.headers}
    forged |= {header.replace("-", "_").upper(): "root,admins" for header in service.headers}
    for case, headers in ("", {}), (", and none that the client wrote", forged):
        with suite.check(f"{name}: the upstream gets the listed headers of the service{case}"):
            for cookie, user, groups in (ada, "ada", ["dev", "admins"]), (bob, "bob", []):
                equal(await setting.seen(path, prefix, cookie, **headers), lower(service.granted(user, groups)))

    with suite.check(f"{name}: `require` admits the members of a group, and a client cannot write its groups"):
        admins = f"{path}/admins"
        equal((await setting.ask(admins, ada)).status, 101)
        for other in bob, service.log_in("eve", "administrators", "dev"):
            equal((await setting.ask(admins, other)).status, 403)
            equal((await setting.ask(admins, other, **forged)).status, 403)


async def rejections(setting):
    sso, authelia = setting.sso, setting.authelia
    with suite.check("oauth2-proxy: 401 is passed back with its body, and with the cookie that it clears"):
        answer = await setting.ask("/sso")
        equal((answer.status, answer.body, answer.headers["Set-Cookie"]), (401, "Unauthorized\n", None))
        cookie = sso.log_in("ada")
        sso.log_out(cookie)
        answer = await setting.ask("/sso", cookie)
        equal((answer.status, answer.headers["Set-Cookie"].startswith('_oauth2_proxy="";')), (401, True))

    with suite.check("oauth2-proxy: a refreshed cookie is in the 101, and admits the next client"):
        cookie = sso.log_in("ada")
        sso.refresh(cookie)
        fresh = (await setting.ask("/uncached", cookie)).headers["Set-Cookie"].partition(";")[0]
        equal((fresh.partition("|")[0], fresh == cookie), (cookie.partition("|")[0], False))
        equal((await setting.ask("/uncached", fresh)).status, 101)

    with suite.check("Authelia: 302 and 401 are passed back with Location and body, and a denied user's 403"):
        target = f"https%3A%2F%2Flocalhost%3A{setting.proxy.port}%2Fauthelia%3Froom%3Dblue"
        for accept, status, text in ("text/html", 302, "302 Found"), ("*/*", 401, "401 Unauthorized"):
            answer = await setting.ask("/authelia?room=blue", Accept=accept)
            where = f"{authelia.portal}?rd={target}&rm=GET"
            equal((answer.status, answer.headers["Location"], answer.body), (status, where, f'<a href="{where}">{text}</a>'))
        authelia.denied.add("mallory")
        answer = await setting.ask("/authelia", authelia.log_in("mallory"))
        equal((answer.status, answer.body), (403, "403 Forbidden"))


async def reuse(setting):
    for path, most in ("/sso", None), ("/uncached", RECONNECTS):
        with suite.check(f"the questions to the service for {RECONNECTS} connections with one cookie to {path}"):
            cookie, before, begun = setting.sso.log_in("ada", "dev"), setting.sso.questions, time.monotonic()
            for _ in range(RECONNECTS):
                async with setting.connect(path, cookie) as session:
                    await echo([session])
            took, asked = time.monotonic() - begun, setting.sso.questions - before
            suite.note(f"{path}: {RECONNECTS} connections in {took:.1f} s, {asked} questions")
            if most is None:
                assert asked <= 1 + took // REUSE_SECONDS, f"{asked} questions in {took:.1f} s"
            else:
                equal(asked, most)


async def upgrade_times(setting):
    times = []
    for _ in range(UPGRADES):
        begun = time.monotonic()
        async with setting.connect("/open"):
            times.append(time.monotonic() - begun)
    return times


async def slow_service(setting):
    slow = setting.slow
    with suite.check(f"{HANGING} upgrades that wait for a slow service do not delay another route, and get 503 in the end"):
        alone = await upgrade_times(setting)
        slow.fast.clear()
        before = slow.questions
        hanging = [asyncio.create_task(setting.ask("/slow", slow.log_in("ada"))) for _ in range(HANGING)]
        await until(f"{HANGING} questions", lambda: slow.questions - before == HANGING)
        beside = await upgrade_times(setting)
        equal(sum(task.done() for task in hanging), 0)
        text = [f"median {statistics.median(times) * 1e3:.1f} ms, slowest {max(times) * 1e3:.1f} ms" for times in (alone, beside)]
        suite.note(f"upgrades on an open route: {text[0]}; beside {HANGING} that hang: {text[1]}")
        assert statistics.median(beside) < statistics.median(alone) + DELAY_MAX, f"{text[1]}, alone {text[0]}"
        answers = await asyncio.gather(*hanging)
        equal({(answer.status, answer.headers["Retry-After"]) for answer in answers}, {(503, "5")})
        slow.fast.set()

    with suite.check("a service that ends before it answers is a 503, and the next client is admitted once it is back"):
        slow.fast.clear()
        before, cookie = slow.questions, slow.log_in("ada")
        asked = asyncio.create_task(setting.ask("/slow", cookie))
        await until("a question", lambda: slow.questions > before)
        await slow.stop()
        answer = await asked
        equal((answer.status, answer.headers["Retry-After"]), (503, "5"))
        slow.fast.set()
        await slow.start()
        equal((await setting.ask("/slow", cookie)).status, 101)


async def open_all(stack, setting, path, cookies, each=1):
    """Returns sessions with these cookies, by cookie."""
    sessions = collections.defaultdict(list)
    for cookie in cookies:
        for _ in range(each):
            sessions[cookie].append(await stack.enter_async_context(setting.connect(path, cookie)))
    return sessions


async def ends_in_time(sessions, begun):
    """Returns how long after this time the last of these sessions ended, all of them with 1008."""
    ends = await asyncio.gather(*[end_of(session) for session in sessions])
    equal({end[1:] for end in ends}, {(1008, "no longer admitted")})
    took = max(end[0] for end in ends) - begun
    assert took < RECHECK_SECONDS + LATE_MAX, f"the last session ended after {took:.2f} s"
    return took


async def logout(setting):
    with suite.check("a logout at the service ends the open sessions of that login within recheck_interval, and no others"):
        async with contextlib.AsyncExitStack() as stack:
            ada, bob, again = (setting.sso.log_in(user, "dev") for user in ("ada", "bob", "bob"))
            sessions = await open_all(stack, setting, "/rechecked", (ada, bob, again), each=4)
            begun = time.monotonic()
            setting.sso.log_out(bob)
            took = await ends_in_time(sessions[bob], begun)
            suite.note(f"recheck_interval {RECHECK_SECONDS} s: the last session ended {took:.2f} s after the logout")
            await echo(sessions[ada] + sessions[again])
            equal([(await setting.ask("/rechecked", cookie)).status for cookie in (ada, bob, again)], [101, 401, 101])

    with suite.check("a slow service of another section does not delay the end of logged-out sessions"):
        async with contextlib.AsyncExitStack() as stack:
            ada, slow = setting.sso.log_in("ada"), setting.slow
            sessions = await open_all(stack, setting, "/rechecked", [ada], each=4)
            others = await open_all(stack, setting, "/slow", [slow.log_in("ada") for _ in range(SLOW_SESSIONS)])
            before = slow.questions
            slow.fast.clear()
            await until("a question about a session", lambda: slow.questions > before)
            begun = time.monotonic()
            setting.sso.log_out(ada)
            try:
                took = await ends_in_time(sessions[ada], begun)
            finally:
                slow.fast.set()
            suite.note(f"beside a slow service: the last session ended {took:.2f} s after the logout")
            await echo([session for of_one in others.values() for session in of_one])


async def death(setting):
    sso = setting.sso
    with suite.check("the service ends in mid-run: open sessions stay, new ones get 503, and a logout ends them later"):
        async with contextlib.AsyncExitStack() as stack:
            ada, bob = sso.log_in("ada"), sso.log_in("bob")
            sessions = await open_all(stack, setting, "/rechecked", (ada, bob), each=4)
            statuses, stopped = collections.Counter(), asyncio.Event()

            async def knock():
                while not stopped.is_set():
                    statuses[(await setting.ask("/uncached", ada)).status] += 1

            knocking = asyncio.create_task(knock())
            await until("an admitted client", lambda: statuses[101])
            await sso.stop()
            sso.log_out(bob)
            answer = await setting.ask("/uncached", ada)
            equal((answer.status, answer.headers["Retry-After"]), (503, "5"))
            warning = "the service does not decide about open sessions"
            await until("a warning", lambda: warning in setting.proxy.output())
            await asyncio.sleep(RECHECK_SECONDS)  # every session has been checked without an answer
            await echo(sessions[ada] + sessions[bob])
            begun, before = time.monotonic(), statuses[101]
            await sso.start()
            await until("an admitted client", lambda: statuses[101] > before)
            recovered = time.monotonic() - begun
            took = await ends_in_time(sessions[bob], begun)
            stopped.set()
            await knocking
            await echo(sessions[ada])
            equal(set(statuses), {101, 503})
            equal("the service decides about open sessions again" in setting.proxy.output(), True)
            suite.note(f"{statuses[101]} upgrades admitted and {statuses[503]} rejected with 503 over the death; the first was "
                       f"admitted {recovered:.2f} s after it, a session logged out meanwhile ended {took:.2f} s after it")


async def main():
    asyncio.get_running_loop().set_default_executor(concurrent.futures.ThreadPoolExecutor(HANGING + 8))
    async with contextlib.AsyncExitStack() as stack:
        backend = await stack.enter_async_context(websockets.asyncio.server.serve(websockets_backend, "127.0.0.1", 0))
        services = [OAuth2Proxy(), Authelia(), OAuth2Proxy()]
        for service in services:
            await service.start()
            stack.push_async_callback(service.stop)
        setting = Setting(backend.sockets[0].getsockname()[1], *services)
        await headers_of(setting, setting.sso, "/sso")
        await headers_of(setting, setting.authelia, "/authelia")
        await rejections(setting)
        await reuse(setting)
        await slow_service(setting)
        await logout(setting)
        await death(setting)


asyncio.run(asyncio.wait_for(main(), 240))
suite.finish()
