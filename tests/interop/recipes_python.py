"""The recipes of services in Python: FastAPI, Django Channels and OCPP, each with clients of its own."""

import asyncio
import functools
import hashlib
import os
import re
import secrets as randoms
import sqlite3
import time

import aiohttp

import harness
import leaks
from harness import equal
from recipes_setting import (CLIENT, DIRECT, PROGRAMS, PYTHON, SECONDS, behind, directory, needs, nginx, on_free_ports,
                             python, service, session, suite, tell)

LARGE = 12 * 1024 * 1024
STATION_PASSWORD = leaks.remember(randoms.token_hex(16))
IDLE_SECONDS = (4.9, 5.0, 5.1)  # uvicorn closes idle connections after 5 s


def in_loop(checks, *arguments):
    """Runs checks that are a coroutine, with a limit of time for each."""
    asyncio.run(checks(*arguments))


# ------------------------------------------------------------------------------------------------------------- FastAPI


def fastapi_service(name):
    """Starts the service made with FastAPI in the default settings of uvicorn, and returns its port."""
    (port,) = on_free_ports(1, lambda port: service(
        name, port, PYTHON, "-m", "uvicorn", "--app-dir", PROGRAMS, "--port", port, "fastapi_service:app"))
    return port


def fastapi():
    port = fastapi_service("fastapi")
    proxy = behind("fastapi", {"127.0.0.1:8000": port}, "api.example.com")
    return functools.partial(in_loop, fastapi_checks, proxy)


async def fastapi_checks(proxy):
    async with session(proxy) as client:
        with suite.check("FastAPI: a JSON body is posted and validated"):
            async with client.post("/items/7", json={"name": "Grüße", "price": 1.5}) as answer:
                equal((answer.status, await answer.json()), (200, {"number": 7, "name": "Grüße", "price": 1.5}))
            async with client.post("/items/7", json={"name": "no price"}) as answer:
                equal((answer.status, (await answer.json())["detail"][0]["loc"]), (422, ["body", "price"]))
            async with client.get("/items/7") as answer:
                equal((answer.status, answer.headers["Allow"]), (405, "POST"))

        with suite.check("FastAPI: the pages of the documentation and HEAD are served"):
            async with client.get("/docs") as answer:
                equal((answer.status, "swagger" in await answer.text()), (200, True))
            async with client.head("/docs") as answer:
                equal((answer.status, int(answer.headers["Content-Length"]) > 500, await answer.read()), (200, True, b""))

        if not DIRECT:
            with suite.check("FastAPI: with uvicorn's defaults the service sees the client and https"):
                async with client.get("/whoami?a=b", headers={"X-Forwarded-For": "203.0.113.9"}) as answer:
                    equal(await answer.json(), {"client": CLIENT, "url": proxy.url("/whoami?a=b", "https"),
                                                "for": CLIENT, "user": None})

        with suite.check(f"FastAPI: an upload of {LARGE} bytes, and a download of as many"):
            content = randoms.token_bytes(LARGE)
            form = aiohttp.FormData()
            form.add_field("file", content, filename="large.bin")
            async with client.post("/upload", data=form) as answer:
                equal(await answer.json(), {"size": LARGE, "digest": hashlib.sha256(content).hexdigest(), "name": "large.bin"})
            async with client.get(f"/download/{LARGE}") as answer:
                equal(len(await answer.read()), LARGE)

        if not DIRECT:
            with suite.check("FastAPI: an upload beyond request_max_size is a 413"):
                async with client.post("/upload", data={"file": b"x" * (17 << 20)}) as answer:
                    equal(answer.status, 413)

        with suite.check("FastAPI: server-sent events are not buffered"):
            async with client.get("/events/one") as answer:
                equal(answer.content_type, "text/event-stream")
                equal(await answer.content.readuntil(b"\n\n"), b"data: ready\n\n")
                for number in range(3):
                    async with client.post("/next/one") as step:  # the next event is sent only now
                        equal(step.status, 200)
                    equal(await answer.content.readuntil(b"\n\n"), f"data: {number}\n\n".encode())
                equal(await answer.content.read(), b"")

        with suite.check("FastAPI: events without an end are ended at the service when the client is gone"):
            answer = await client.get("/forever/one")
            equal(await answer.content.readuntil(b"\n\n"), b"data: tick\n\n")
            answer.close()
            async with asyncio.timeout(SECONDS):
                gone = False
                while not gone:
                    async with client.get("/gone/one") as answer:
                        gone = await answer.json()

        with suite.check("FastAPI: a WebSocket"):
            async with client.ws_connect("/ws/blue", headers={"Origin": proxy.url("", "https")}) as socket:
                first = await socket.receive_json()
                equal((first["room"], first["client"]), ("blue", CLIENT))
                if not DIRECT:
                    equal(first["scheme"], "wss")
                for number in range(10):
                    await socket.send_str(f"Grüße {number}")
                    equal(await socket.receive_str(), f"blue: Grüße {number}")

        with suite.check("FastAPI: 200 requests of 20 clients at once"):
            async def ask(number):
                async with client.post(f"/items/{number}", json={"name": f"{number}", "price": 1}) as answer:
                    equal((answer.status, (await answer.json())["number"]), (200, number))

            for start in range(0, 200, 20):
                await asyncio.gather(*[ask(number) for number in range(start, start + 20)])

        with suite.check("FastAPI: a POST after the service has closed, or is closing, an idle connection"):
            for pause in IDLE_SECONDS:
                async with client.post("/items/1", json={"name": "a", "price": 1}) as answer:
                    equal(answer.status, 200)
                await asyncio.sleep(pause)
            async with client.post("/items/1", json={"name": "a", "price": 1}) as answer:
                equal(answer.status, 200)


# ------------------------------------------------------------------------------------------------------ Django Channels


def django_site(name):
    """Starts a site with the user `ada`, and returns its port and her password."""
    home = directory / name
    home.mkdir()
    password = leaks.remember(randoms.token_hex(16))
    environment = {"SITE_HOME": str(home), "SITE_SECRET": leaks.remember(randoms.token_hex(32)), "PYTHONPATH": str(PROGRAMS),
                   "SITE_IS_SECURE": "" if DIRECT else "1", "DJANGO_SUPERUSER_PASSWORD": password}
    setup = ("import django_site, django.core.management as m; m.call_command('migrate', verbosity=0); "
             "m.call_command('createsuperuser', '--no-input', username='ada', email='ada@example.com', verbosity=0)")
    harness.run(PYTHON, "-c", setup, env={**os.environ, **environment})
    (port,) = on_free_ports(1, lambda port: service(
        name, port, PYTHON, "-m", "daphne", "-b", "127.0.0.1", "-p", port, "--proxy-headers", "django_site:application",
        environment=environment))
    return port, password


def django_channels():
    port, password = django_site("django")
    proxy = behind("django-channels", {"127.0.0.1:8000": port}, "www.example.com")
    return functools.partial(in_loop, django_checks, proxy, password)


async def log_in(client, page, password, origin):
    """Logs in as a browser does with a form of Django, and returns the status of the answer and its `Location`."""
    async with client.get(page) as answer:
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', await answer.text()).group(1)
    form = {"csrfmiddlewaretoken": leaks.remember(token), "username": "ada", "password": password}
    headers = {"Origin": origin, "Referer": f"{origin}{page}"}
    async with client.post(page, data=form, headers=headers, allow_redirects=False) as answer:
        return answer.status, answer.headers.get("Location")


async def django_checks(proxy, password):
    origin = proxy.url("", "http" if DIRECT else "https")
    jar = aiohttp.CookieJar(unsafe=True)
    async with session(proxy, cookie_jar=jar) as client:
        with suite.check("Django: a form with CSRF protection logs in to the admin, whose pages are served"):
            equal(await log_in(client, "/admin/login/?next=/admin/", password, origin), (302, "/admin/"))
            async with client.get("/admin/auth/user/") as answer:
                equal((answer.status, "ada@example.com" in await answer.text()), (200, True))

        with suite.check("Django: the site sees https, its own name, and the client"):
            async with client.get("/") as answer:
                equal(await answer.json(), {"user": "ada", "secure": not DIRECT, "url": f"{origin}/", "address": CLIENT})

        with suite.check("Channels: two members of a room hear each other, with the user of the page's session"):
            async with client.ws_connect("/ws/blue/", headers={"Origin": origin}) as one, \
                    client.ws_connect("/ws/blue/", headers={"Origin": origin}) as two:
                for member in one, two:
                    equal(await member.receive_json(), {"client": CLIENT})
                for speaker in one, two:
                    await speaker.send_json({"text": "Grüße"})
                    for member in one, two:
                        equal(await member.receive_json(), {"user": "ada", "text": "Grüße"})

        with suite.check("Channels: a WebSocket without a login, and one of another origin, is rejected"):
            async with session(proxy) as stranger:
                for who, headers in (stranger, {"Origin": origin}), (client, {"Origin": "https://evil.example"}):
                    try:
                        async with who.ws_connect("/ws/blue/", headers=headers):
                            raise AssertionError("the WebSocket is open")
                    except aiohttp.WSServerHandshakeError as refused:
                        equal(refused.status, 403)

        with suite.check("Django: a form of another origin, and one without its token, is rejected"):
            for headers in {"Origin": "https://evil.example"}, {"Origin": origin, "Referer": origin}:
                async with client.post("/admin/logout/", headers=headers) as answer:
                    equal(answer.status, 403)

        with suite.check("Django: the 404 of an unknown page is that of the site"):
            async with client.get("/nowhere") as answer:
                equal((answer.status, "Not Found" in await answer.text()), (404, True))


# ---------------------------------------------------------------------------------------------------------------- OCPP


# As in the recipe: it checks passwords, and names the station that it admits.
STATIONS = """
location = /check {{
    auth_basic stations;
    auth_basic_user_file {passwords};
    add_header X-Station $remote_user;
    try_files /dev/null =204;
}}
"""


def ocpp():
    needs("nginx")
    passwords = directory / "stations"
    hashed = harness.run("openssl", "passwd", "-apr1", STATION_PASSWORD).stdout.strip()
    passwords.write_text(f"station-1:{hashed}\nstation-2:{hashed}\n")
    (port,) = on_free_ports(1, lambda port: nginx("stations", port, STATIONS.format(passwords=passwords)))
    program = python("ocpp_stations.py")
    servers = {"127.0.0.1:9000": program.facts["port"], "127.0.0.1:9100": port}
    tell(program, behind("ocpp", servers, "csms.example.com"), password=STATION_PASSWORD)
    return functools.partial(program.run_checks, suite)


RECIPES = {"fastapi": fastapi, "django-channels": django_channels, "ocpp": ocpp}
