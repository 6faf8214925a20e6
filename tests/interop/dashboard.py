"""Tests the dashboard in Chromium: what it shows and changes against the API, /metrics and real clients; its access, its
looks with axe-core, its speed with many sessions and its cost to the proxy.

    TOLLGATE_DASHBOARD=full   9,000 sessions (default: 300), and a picture of two minutes of `tollgate demo` for the README
"""

import os
import shutil
import ssl
import urllib.error
import urllib.request

import harness
import leaks
from crowd import Session, drive

FULL = os.environ.get("TOLLGATE_DASHBOARD") == "full"
SESSIONS = 9000 if FULL else 300
PICTURE_MINUTES = 2 if FULL else 0.25
OPENING = 256  # connections of the crowd without a session yet
RATE_BURST = 10
ORIGIN = "https://app.example.test"
USERS = ["ann", "bob", "cid", "dan", "eve"]
TOKENS = {"full": "full-token-of-the-suite-0123456789", "read": "read-token-of-the-suite-0123456789"}

suite = harness.Suite("dashboard")
executable = shutil.which("chromium")
if executable is None:
    suite.skip("Chromium on the dashboard", "chromium is not installed")
    suite.finish()

harness.many_files()
directory = harness.work_dir("dashboard")
screenshots = harness.INTEROP / "screenshots"
screenshots.mkdir(parents=True, exist_ok=True)
secrets = harness.Secrets(directory)
for name, token in TOKENS.items():
    (directory / f"{name}-token").write_text(token + "\n")
    (directory / f"{name}-token").chmod(0o600)
    leaks.remember(token)


def proxy_with(name, upstream, *routes):
    """Starts a proxy whose admin API is on TCP, and returns it with the address of the API."""
    port = harness.free_port()
    proxy = harness.Proxy("".join([
        f'[server]\nmax_sessions = {SESSIONS + 100}\nmax_handshakes = {OPENING * 2}\nhandshakes_per_address = "off"\n',
        'drain_timeout = "1s"\n[log]\nformat = "text"\n',
        f'[admin]\naddress = "127.0.0.1:{port}"\ntoken_file = "full-token"\nread_token_file = "read-token"\npayload = true\n',
        harness.listener(secrets, handshake_timeout='"60s"'), harness.auth(secrets), harness.upstream("echo", upstream),
        'connect_timeout = "20s"\nresponse_timeout = "20s"\n', *routes,
    ]), directory, name)
    return proxy, f"http://127.0.0.1:{port}"


def status(admin, token, query):
    """Returns the status of a tap on a session that does not exist."""
    target = f"{admin}/v1/sessions/{'0' * 32}/frames?{query}"
    request = urllib.request.Request(target, headers={"Authorization": f"Bearer {TOKENS[token]}"})
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


def functions():
    """What the page shows and changes."""
    program = harness.Node("node/dashboard.js", directory)
    limits = {"message_rate": '"20/s"', "message_burst": str(RATE_BURST)}
    proxy, admin = proxy_with("functions", program.facts["port"],
                              harness.route("live", "/live", "echo", limits, auth='"users"', origins=f'["{ORIGIN}"]'))
    program.tell(admin=admin, url=proxy.url(""), ca=str(secrets.ca), file=str(directory / "functions.toml"), origin=ORIGIN,
                 tokens=TOKENS | {user: secrets.token(user) for user in USERS}, chromium=executable,
                 screenshots=str(screenshots))
    program.run_checks(suite, seconds=300)


def crowd():
    """Its speed with many sessions, and its cost."""
    echo = harness.Node("autobahn/echo.js", directory)
    proxy, admin = proxy_with("crowd", echo.facts["port"],
                              harness.route("echo", "/echo", "echo", {"ping_interval": '"10m"'}))
    context, everyone = secrets.client_context(), []

    def arrivals():
        for _ in range(SESSIONS):
            everyone.append(Session(context, proxy.port, "127.0.0.2"))
            yield everyone[-1]

    with suite.check(f"{SESSIONS:,} sessions open"):
        drive(arrivals(), Session.open, OPENING)
    with suite.check("the read token sees no payloads, however the query is written"):
        for query in ["payload=true", "p%61yload=true", "payload=tru%65"]:
            harness.equal((status(admin, "read", query), status(admin, "full", query)), (403, 404))
    program = harness.Node("node/dashboard_crowd.js", directory)
    program.tell(admin=admin, token=TOKENS["full"], sessions=SESSIONS, pid=proxy.pid, chromium=executable)
    program.run_checks(suite, seconds=240)
    suite.note(f"{proxy.memory_kib() / 1024:.1f} MiB are resident with {SESSIONS:,} sessions and the page closed again")
    for session in everyone:
        session.socket.close()


def picture():
    """The picture of the README."""
    demo = harness.Demo(directory)
    leaks.remember(demo.facts["dashboard"].rpartition("=")[2])
    port = int(demo.facts["page"].rsplit(":", 1)[1].strip("/"))
    (directory / "demo.pem").write_text(ssl.get_server_certificate(("127.0.0.1", port), timeout=10))
    program = harness.Node("node/dashboard_picture.js", directory)
    program.tell(**demo.facts, spki=harness.spki(directory / "demo.pem"), chromium=executable, screenshots=str(screenshots),
                 minutes=PICTURE_MINUTES)
    program.run_checks(suite, seconds=240)


functions()
crowd()
picture()
suite.finish()
