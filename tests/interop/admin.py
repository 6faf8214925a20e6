"""Tests the admin API with curl and schemathesis, and the commands that use it, on a Unix socket and on TCP."""

import asyncio
import base64
import contextlib
import http.client
import json
import os
import pathlib
import socket
import stat
import subprocess
import time

import websockets.asyncio.client
import websockets.sync.client

import harness
import leaks
from harness import BINARY, Suite, equal

SESSIONS = 300
SECONDS = 10
TOKEN = "full-token-of-the-suite-0123456789"
READ_TOKEN = "read-token-of-the-suite-0123456789"

suite = Suite("admin")
directory = harness.work_dir("admin")
secrets = harness.Secrets(directory)
socket_path = directory / "admin.sock"
for file, token in {"token": TOKEN, "read-token": READ_TOKEN}.items():
    (directory / file).write_text(token + "\n")
    (directory / file).chmod(0o600)
    leaks.remember(token)


backend = harness.echo_backend()


def config(admin, more=""):
    return "".join([
        '[server]\nworkers = 2\nmax_sessions = 1000\nmax_handshakes = 400\nhandshakes_per_address = "off"\n',
        'drain_timeout = "2s"\nrecheck_max = "20%"\n',
        f'[log]\nformat = "text"\n[admin]\n{admin}\n',
        harness.listener(secrets), harness.upstream("echo", backend),
        harness.route("echo", "/echo", "echo"), harness.route("other", "/other", "echo"),
        more,
    ])


unix = harness.Proxy(config(f'address = "unix:{socket_path}"\npayload = true\n[metrics]\naddress = "127.0.0.1:0"'),
                     directory, "unix")
admin_port = harness.free_port()
tcp = harness.Proxy(
    config(f'address = "127.0.0.1:{admin_port}"\ntoken_file = "token"\nread_token_file = "read-token"'), directory, "tcp")
FULL = ["-H", f"Authorization: Bearer {TOKEN}"]
READ = ["-H", f"Authorization: Bearer {READ_TOKEN}"]


class Answer:
    """The status, the headers and the body of an answer."""

    def __init__(self, output):
        head, _, self.body = output.replace("\r\n", "\n").partition("\n\n")
        if head.startswith("HTTP/1.1 100 "):
            head, _, self.body = self.body.partition("\n\n")
        lines = head.split("\n")
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}

    @property
    def json(self):
        return json.loads(self.body)


def curl(target, *options, method="GET", body=None):
    """Makes a request by curl: on the Unix socket for a path, else to the URL."""
    command = ["curl", "-si", "--max-time", str(SECONDS), "-X", method, *options]
    if body is not None:
        command += ["-H", "Content-Type: application/json", "-d", body if isinstance(body, str) else json.dumps(body)]
    if target.startswith("/"):
        command += ["--unix-socket", str(socket_path), f"http://localhost{target}"]
    else:
        command.append(target)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"curl ended with {done.returncode}: {done.stderr}")
    return Answer(done.stdout)


def on_tcp(path, *options, **more):
    return curl(f"http://127.0.0.1:{admin_port}{path}", *options, **more)


def problem(answer, status):
    equal((answer.status, answer.headers.get("content-type")), (status, "application/problem+json"))
    equal(answer.json["status"], status)
    return answer.json


def command(*arguments, code=0, proxy=unix):
    """Runs a command of tollgate, and returns its output and its error output."""
    file = directory / f"{proxy.name}.toml"
    done = subprocess.run([str(BINARY), arguments[0], "--config", str(file), *map(str, arguments[1:])],
                          capture_output=True, text=True, timeout=60)
    if done.returncode != code:
        raise AssertionError(f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout, done.stderr


def connect(path="/echo", proxy=unix, **options):
    """Connects a client, which is closed at the end of a `with` block."""
    return websockets.sync.client.connect(proxy.url(path), ssl=secrets.client_context(), proxy=None, **options)


def opened(**options):
    """Connects a client that the caller closes."""
    return connect(legacy=True, **options)


def only_session():
    sessions = curl("/v1/sessions").json["sessions"]
    equal(len(sessions), 1)
    return sessions[0]


def until(wanted, what):
    end = time.monotonic() + SECONDS
    while not wanted():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {SECONDS} s: {what}")
        time.sleep(0.05)


def no_sessions():
    until(lambda: not curl("/v1/sessions").json["sessions"], "all sessions end")


@contextlib.contextmanager
def changed(proxy, edit):
    """Edits the configuration file of a process for some time."""
    file = directory / f"{proxy.name}.toml"
    before = file.read_text()
    file.write_text(edit(before))
    try:
        yield
    finally:
        file.write_text(before)


# ------------------------------------------------------------------------------------------------------------- access

until(lambda: "INFO metrics" in unix.output(), "the log has the address of the metrics")
METRICS = next(line.split("address=")[1].strip() for line in unix.output().splitlines() if "INFO metrics" in line)

with suite.check("the socket is for its owner alone"):
    equal(stat.S_IMODE(os.stat(socket_path).st_mode), 0o600)

with suite.check("every answer forbids caching and sniffing"):
    for answer in (curl("/v1/info"), curl("/nothing"), on_tcp("/v1/info"), curl(f"http://{METRICS}/metrics")):
        equal((answer.headers["cache-control"], answer.headers["x-content-type-options"]), ("no-store", "nosniff"))

with suite.check("on TCP everything but the start page and health needs a token"):
    for path in ("/", "/healthz", "/readyz"):
        equal(on_tcp(path).status, 200)
    for path in ("/metrics", "/v1/info", "/v1/sessions", "/v1/openapi.json", "/nothing"):
        answer = on_tcp(path)
        problem(answer, 401)
        equal(answer.headers["www-authenticate"], "Bearer")
    problem(on_tcp("/v1/info", "-H", "Authorization: Bearer wrong"), 401)
    equal(on_tcp("/v1/info", *FULL).status, 200)

with suite.check("the read token reads and changes nothing"):
    equal(on_tcp("/v1/sessions", *READ).status, 200)
    problem(on_tcp("/v1/reload", *READ, method="POST"), 403)
    problem(on_tcp("/v1/upgrade", *READ, method="POST"), 403)
    problem(on_tcp("/v1/log-level", *READ, method="PUT", body={"level": "info"}), 403)
    problem(on_tcp("/v1/sessions/close", *READ, method="POST", body={"filter": {"all": True}}), 403)

with suite.check("another host is rejected on TCP, whatever the token"):
    for host in ("evil.example", f"evil.example:{admin_port}", "192.0.2.1"):
        problem(on_tcp("/v1/info", *FULL, "-H", f"Host: {host}"), 403)
        problem(on_tcp("/healthz", "-H", f"Host: {host}"), 403)
    for host in ("localhost", f"localhost:{admin_port}", "127.0.0.1", "[::1]:1"):
        equal(on_tcp("/v1/info", *FULL, "-H", f"Host: {host}").status, 200)

with suite.check("another origin is rejected, and no origin is told that it may read"):
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{admin_port}"):
        problem(on_tcp("/v1/info", *FULL, "-H", f"Origin: {origin}"), 403)
        problem(curl("/v1/reload", "-H", f"Origin: {origin}", method="POST"), 403)
    answer = on_tcp("/v1/info", *FULL, "-H", f"Origin: http://127.0.0.1:{admin_port}")
    equal((answer.status, [name for name in answer.headers if name.startswith("access-control")]), (200, []))
    problem(on_tcp("/v1/info", *FULL, "-H", "Origin: http://evil.example", method="OPTIONS"), 403)

with suite.check("malformed requests are problems with the right status"):
    problem(curl("/nothing"), 404)
    answer = curl("/v1/info", method="DELETE")
    problem(answer, 405)
    equal("GET" in answer.headers["allow"], True)
    problem(curl("/v1/sessions?limit=0"), 400)
    problem(curl("/v1/sessions?limit=x"), 400)
    problem(curl("/v1/sessions?unknown=1"), 400)
    problem(curl("/v1/sessions?cursor=x"), 400)
    problem(curl("/v1/sessions?sort=x"), 400)
    problem(curl("/v1/sessions?address=x"), 400)
    close = "/v1/sessions/close"
    problem(curl(close, method="POST", body="{"), 400)
    problem(curl(close, method="POST", body={"filter": {}}), 400)
    problem(curl(close, method="POST", body={"filter": {"rout": "a"}}), 400)
    problem(curl(close, method="POST", body={"filter": {"route": "a"}, "cod": 1}), 400)
    problem(curl(close, method="POST", body={"filter": {"route": "a"}, "code": 1005}), 400)
    problem(curl(close, method="POST", body={"filter": {"route": "a"}, "reason": "x" * 124}), 400)
    problem(curl(close, "-d", '{"filter":{"route":"a"}}', method="POST"), 415)
    large = directory / "large.json"
    large.write_text(json.dumps({"filter": {"all": True}, "text": "x" * 2_000_000}))
    problem(curl("/v1/sessions/send", method="POST", body=f"@{large}"), 413)

with suite.check("the metrics listener has metrics and health, and nothing else"):
    for path in ("/metrics", "/healthz", "/readyz"):
        equal(curl(f"http://{METRICS}{path}").status, 200)
    for path in ("/", "/v1/info", "/v1/sessions", "/v1/openapi.json"):
        problem(curl(f"http://{METRICS}{path}"), 404)

with suite.check("promtool finds no fault in the metrics and the alerts"):
    promtool = harness.promtool()
    metrics = subprocess.run([promtool, "check", "metrics"], input=curl(f"http://{METRICS}/metrics").body.encode(),
                             capture_output=True, check=False)
    equal((metrics.returncode, metrics.stderr.decode()), (0, ""))
    rules = subprocess.run([promtool, "check", "rules", harness.ROOT / "config/alerts.yml"], capture_output=True, check=False)
    equal((rules.returncode, rules.stderr.decode()), (0, ""))
    suite.note(f"promtool check rules: {rules.stdout.decode().strip().splitlines()[-1].strip()}")

with suite.check("connections that send nothing do not keep others out"):
    idle = [harness.raw(admin_port) for _ in range(40)]
    equal(on_tcp("/healthz").status, 200)
    for connection in idle:
        connection.close()

# ----------------------------------------------------------------------------------------------------------- sessions


async def open_many(count):
    context = secrets.client_context()
    gate = asyncio.Semaphore(20)

    async def open_one(number):
        async with gate:
            path = "/echo" if number % 3 else "/other"
            return await websockets.asyncio.client.connect(unix.url(path), ssl=context, proxy=None)

    return await asyncio.gather(*map(open_one, range(count)))


def all_pages(query, limit=37):
    sessions, cursor = [], None
    while True:
        answer = curl(f"/v1/sessions?{query}&limit={limit}" + (f"&cursor={cursor}" if cursor else "")).json
        equal(len(answer["sessions"]) <= limit, True)
        sessions += answer["sessions"]
        cursor = answer["cursor"]
        if cursor is None:
            return sessions


async def paging():
    with suite.check(f"{SESSIONS} sessions are listed page by page, each once, in every order"):
        clients = await open_many(SESSIONS)
        for sort in ("age", "-age", "id", "-id", "messages", "-bytes"):
            ids = [session["id"] for session in await asyncio.to_thread(all_pages, f"sort={sort}")]
            equal((len(ids), len(set(ids))), (SESSIONS, SESSIONS))
            if sort.endswith("id"):
                equal(ids, sorted(ids, reverse=sort == "-id"))
        newest = [session["age_seconds"] for session in await asyncio.to_thread(all_pages, "sort=age", 1000)]
        equal(newest[0] <= newest[-1], True)

    with suite.check("a filter selects the sessions of a route"):
        equal(len(await asyncio.to_thread(all_pages, "route=other")), SESSIONS // 3)
        equal(len(await asyncio.to_thread(all_pages, "address=127.0.0.0/8&upstream=echo")), SESSIONS)
        equal(len(await asyncio.to_thread(all_pages, "address=192.0.2.1")), 0)

    with suite.check("a cursor stays valid when sessions end"):
        first = (await asyncio.to_thread(curl, "/v1/sessions?limit=100")).json
        for client in clients[:50]:
            await client.close()
        rest = (await asyncio.to_thread(curl, f"/v1/sessions?limit=1000&cursor={first['cursor']}")).json
        ids = [session["id"] for session in first["sessions"] + rest["sessions"]]
        equal((len(ids), rest["cursor"]), (len(set(ids)), None))

    with suite.check("`sessions` prints a table, and JSON for scripts"):
        out, _ = await asyncio.to_thread(command, "sessions", "--limit", 5)
        equal((len(out.splitlines()), out.split()[:3]), (7, ["ID", "ROUTE", "AUTH"]))
        out, _ = await asyncio.to_thread(command, "sessions", "--route", "other", "--limit", 1000, "--json")
        equal({session["route"] for session in json.loads(out)["sessions"]}, {"other"})

    with suite.check("a reload that would end too many sessions is refused with the numbers"):
        with changed(unix, lambda text: text.replace('name = "other"', 'name = "gone"').replace('"/other"', '"/gone"')):
            answer = await asyncio.to_thread(curl, "/v1/reload", method="POST")
            refused = problem(answer, 409)
            equal((refused["max_percent"], refused["summary"]["applied"]), (20, False))
            equal(sum(refused["summary"]["ended"].values()) > 50, True)
            _, error = await asyncio.to_thread(command, "reload", code=1)
            equal("recheck_max is 20%" in error, True)

    with suite.check("`kick --all` closes every session with its code and reason"):
        out, _ = await asyncio.to_thread(command, "kick", "--all", "--code", 4000, "--reason", "maintenance", "--spread", "1s")
        equal(out, f"closing {SESSIONS - 50} sessions\n")
        for client in clients[50:]:
            await asyncio.wait_for(client.wait_closed(), SECONDS)
            equal((client.close_code, client.close_reason), (4000, "maintenance"))


asyncio.run(paging())
no_sessions()

with suite.check("a session is described with its limits"):
    with connect() as client:
        client.send("hello")
        equal(client.recv(), "hello")
        listed = only_session()
        session = curl(f"/v1/sessions/{listed['id']}").json
        for name, value in {"route": "echo", "auth": None, "address": "127.0.0.1", "upstream": "echo", "path": "/echo",
                            "server": f"127.0.0.1:{backend}", "messages_in": 1, "messages_out": 1,
                            "activity": "open"}.items():
            equal((name, session[name]), (name, value))
        equal(session["limits"]["message_max_bytes"], 1 << 20)
        equal("limits" in listed, False)
no_sessions()

with suite.check("DELETE closes one session, and is 404 for another id"):
    with connect() as client, connect() as other:
        other.send("still open")
        ids = [session["id"] for session in curl("/v1/sessions?sort=age").json["sessions"]]
        answer = curl(f"/v1/sessions/{ids[1]}?code=4001&reason=one%20session", method="DELETE")
        equal((answer.status, answer.body), (204, ""))
        try:
            client.recv(timeout=SECONDS)
            raise AssertionError("the session is open")
        except websockets.exceptions.ConnectionClosed as closed:
            equal((closed.rcvd.code, closed.rcvd.reason), (4001, "one session"))
        equal(other.recv(), "still open")
    problem(curl("/v1/sessions/" + "0" * 32, method="DELETE"), 404)
    problem(curl("/v1/sessions/x"), 404)
no_sessions()

with suite.check("close by a filter closes those that match, by default with 1008 and a reason"):
    with connect() as client, connect("/other") as other:
        answer = curl("/v1/sessions/close", method="POST", body={"filter": {"route": "echo"}})
        equal((answer.status, answer.json), (202, {"selected": 1}))
        try:
            client.recv(timeout=SECONDS)
            raise AssertionError("the session is open")
        except websockets.exceptions.ConnectionClosed as closed:
            equal((closed.rcvd.code, closed.rcvd.reason != ""), (1008, True))
        other.send("open")
        equal(other.recv(), "open")
no_sessions()

with suite.check("messages reach the clients that match"):
    with connect() as client, connect("/other") as other:
        answer = curl("/v1/sessions/send", method="POST", body={"filter": {"route": "echo"}, "text": "grüße"})
        equal((answer.status, answer.json, client.recv(timeout=SECONDS)), (202, {"selected": 1}, "grüße"))
        binary = base64.b64encode(bytes(range(256))).decode()
        curl("/v1/sessions/send", method="POST", body={"filter": {"all": True}, "binary": binary})
        equal((client.recv(timeout=SECONDS), other.recv(timeout=SECONDS)), (bytes(range(256)), bytes(range(256))))
        equal(command("send", "--route", "other", "--text", "by command")[0], "sending to 1 session\n")
        equal(other.recv(timeout=SECONDS), "by command")
        (directory / "message.bin").write_bytes(b"\x00\x01")
        ids = {session["route"]: session["id"] for session in curl("/v1/sessions").json["sessions"]}
        command("send", ids["echo"], "--binary-file", directory / "message.bin")
        equal(client.recv(timeout=SECONDS), b"\x00\x01")
no_sessions()

# ---------------------------------------------------------------------------------------------------------------- taps


class Events:
    """The server-sent events of a tap. It has its place among the taps once it is constructed."""

    def __init__(self, path):
        self.connection = http.client.HTTPConnection("localhost", timeout=SECONDS)
        self.connection.sock = socket.socket(socket.AF_UNIX)
        self.connection.sock.settimeout(SECONDS)
        self.connection.sock.connect(str(socket_path))
        self.connection.request("GET", path)
        self.response = self.connection.getresponse()
        equal(self.response.status, 200)

    def next(self):
        name = None
        while line := self.response.readline().decode():
            if line.startswith("event:"):
                name = line[6:].strip()
            if line.startswith("data:"):
                return name, json.loads(line[5:])
        return None

    def close(self):
        self.response.close()
        self.connection.close()


with suite.check("a tap shows frames of both directions, and ends with the session"):
    client = opened()
    events = Events(f"/v1/sessions/{only_session()['id']}/frames?payload=true")
    time.sleep(0.5)  # until the tap is open; earlier frames are not shown
    client.send("hello")
    equal(client.recv(), "hello")
    for direction in ("in", "out"):
        name, frame = events.next()
        equal((name, frame["direction"], frame["opcode"], frame["fin"]), ("frame", direction, "text", True))
        if not frame["compressed"]:
            equal((frame["text"], base64.b64decode(frame["payload"])), ("hello", b"hello"))
    client.close()
    while (event := events.next()) is not None:
        equal(event[1]["opcode"], "close")
    events.close()
no_sessions()

with suite.check("`tap` prints frames as they pass"):
    client = opened()
    tap = subprocess.Popen([BINARY, "tap", "--config", directory / "unix.toml", only_session()["id"], "--payload"],
                           stdout=subprocess.PIPE, text=True)
    lines = harness.Lines(tap.stdout)
    time.sleep(0.5)
    client.send(b"\x01\x02")
    client.recv()
    line = lines.next(SECONDS)
    equal("->  binary" in line, True)
    client.close()
    equal(tap.wait(SECONDS), 0)
no_sessions()

with suite.check("payloads are only shown if the configuration allows it, and taps are limited"):
    with connect(proxy=tcp):
        identity = on_tcp("/v1/sessions", *READ).json["sessions"][0]["id"]
        problem(on_tcp(f"/v1/sessions/{identity}/frames?payload=true", *FULL), 403)
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(connect())
        paths = [f"/v1/sessions/{session['id']}/frames" for session in curl("/v1/sessions").json["sessions"]
                 if session["activity"] == "open"]
        taps = [Events(paths[number % 4]) for number in range(16)]
        status = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "1", "--unix-socket", str(socket_path),
                  f"http://localhost{paths[4]}"]
        until(lambda: subprocess.run(status, capture_output=True, text=True).stdout == "503", "the 17th tap is rejected")
        for tap in taps:
            tap.close()
no_sessions()

# ------------------------------------------------------------------------------------------------------ process, commands

with suite.check("the info names the process"):
    info = curl("/v1/info").json
    equal((info["pid"], info["workers"], info["phase"], info["sessions"]), (unix.pid, 2, "serving", 0))
    equal((info["max_sessions"], info["listeners"]), (1000, [f"127.0.0.1:{unix.port}"]))

with suite.check("a reload reports its effect, and a dry run changes nothing"):
    before = curl("/v1/info").json["generation"]
    with changed(unix, lambda text: text + harness.route("third", "/third", "echo")):
        summary = curl("/v1/reload?dry_run=true", method="POST").json
        equal((summary["applied"], curl("/v1/info").json["generation"]), (False, before))
        summary = curl("/v1/reload", method="POST").json
        equal((summary["applied"], summary["generation"], summary["ended"]), (True, before + 1, {}))
    info = curl("/v1/info").json
    equal((info["generation"], info["last_reload"]["successful"]), (before + 1, True))
    out, _ = command("reload")
    equal(out.splitlines()[0], f"generation {before + 2} is in use")

with suite.check("a reload of an invalid file reports its lines and changes nothing"):
    before = curl("/v1/info").json["generation"]
    with changed(unix, lambda text: text.replace("workers", "wrkers")):
        answer = problem(curl("/v1/reload", method="POST"), 422)
        equal("wrkers" in answer["report"] and "^" in answer["report"], True)
        _, error = command("reload", code=78)
        equal("wrkers" in error and "^" in error, True)
    equal(curl("/v1/info").json["generation"], before)

with suite.check("the log level changes at once"):
    equal(curl("/v1/log-level", method="PUT", body={"level": "debug"}).json, {"level": "debug"})
    with connect():
        until(lambda: "session started" in unix.output(), "a debug line")
    equal(curl("/v1/log-level", method="PUT", body={"level": "info"}).status, 200)
    problem(curl("/v1/log-level", method="PUT", body={"level": "loud"}), 400)
no_sessions()

with suite.check("an upgrade that cannot start changes nothing, and the command prints the reason"):
    wrong = {"binary": "/nonexistent/tollgate"}
    equal("cannot start /nonexistent/tollgate" in problem(curl("/v1/upgrade", method="POST", body=wrong), 422)["detail"], True)
    problem(curl("/v1/upgrade", method="POST", body={"binary": "tollgate"}), 400)
    _, error = command("upgrade", "--binary", wrong["binary"], code=1)
    equal("nothing was changed: cannot start /nonexistent/tollgate" in error, True)
    info = curl("/v1/info").json
    equal((info["pid"], info["upgrade"], info["handed_over_from"]), (unix.pid, None, None))

with suite.check("each change has an audit line, and no token is in the log"):
    lines = [line for line in unix.output().splitlines() if " admin who=" in line]
    for action in ("close", "send", "tap", "reload", "upgrade", "log-level"):
        equal((action, any(f'action="{action}"' in line and f"who=uid {os.getuid()}" in line for line in lines)), (action, True))
    for proxy in (unix, tcp):
        equal(TOKEN in proxy.output() or READ_TOKEN in proxy.output(), False)

with suite.check("commands work over TCP with the token of the configuration"):
    out, _ = command("status", proxy=tcp)
    equal(f"{tcp.pid}" in out, True)
    address = f"127.0.0.1:{admin_port}"
    equal(json.loads(command("status", "--admin", address, "--token-file", directory / "read-token", "--json")[0])["pid"], tcp.pid)
    _, error = command("status", "--admin", address, code=1)
    equal("--token-file" in error, True)
    _, error = command("kick", "--all", "--admin", address, "--token-file", directory / "read-token", code=1)
    equal("may only read" in error, True)

with suite.check("commands report errors in plain words, with the right exit code"):
    _, error = command("status", "--admin", f"unix:{directory}/nobody.sock", code=1)
    equal("no process serves this address" in error, True)
    command("status", "--admin", f"127.0.0.1:{harness.free_port()}", code=1)
    command("status", "--admin", "nonsense", code=64)
    command("kick", code=64)
    command("kick", "--all", "--code", 1005, code=64)
    command("send", "--all", code=64)
    command("sessions", "--sort", "colour", code=64)
    command("kick", "0" * 32, code=1)
    command("tap", "0" * 32, code=1)
    (directory / "token").chmod(0o644)
    _, error = command("status", proxy=tcp, code=78)
    equal("token_file" in error and "other users" in error, True)
    (directory / "token").chmod(0o600)
    done = subprocess.run([BINARY, "status", "--config", directory / "missing.toml"], capture_output=True, text=True)
    equal((done.returncode, "cannot read the configuration" in done.stderr), (78, True))

with suite.check("a second process does not take the socket over"):
    file = directory / "second.toml"
    file.write_text((directory / "unix.toml").read_text().replace(f"127.0.0.1:{unix.port}", "127.0.0.1:0"))
    done = subprocess.run([BINARY, "run", "--config", file], capture_output=True, text=True, timeout=30)
    equal((done.returncode, "another process serves this socket" in done.stderr), (1, True))
    equal(curl("/v1/info").json["pid"], unix.pid)

# -------------------------------------------------------------------------------------------------------- schemathesis

with suite.check("the API does what its OpenAPI document says"):
    # No session is open: a change selects none.
    tool = pathlib.Path(os.sys.executable).parent / "schemathesis"
    url = f"http://127.0.0.1:{admin_port}"
    done = subprocess.run(
        [tool, "run", f"{url}/v1/openapi.json", "--url", url, "-H", f"Authorization: Bearer {TOKEN}", "--max-examples", "20",
         "--seed", "1", "--no-color", "--generation-database", "none",
         # An upgrade would replace this process.
         "--exclude-path", "/v1/upgrade"],
        cwd=directory, capture_output=True, text=True, timeout=240)
    (directory / "schemathesis.log").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise AssertionError(done.stdout[-4000:])

# ----------------------------------------------------------------------------------------------------------------- end

with suite.check("during the drain readiness is 503, and the socket is removed at the end"):
    client = opened()
    events = Events(f"/v1/sessions/{only_session()['id']}/frames")
    unix.popen.send_signal(15)
    statuses = set()
    with contextlib.suppress(AssertionError):
        while unix.alive():
            statuses.add((curl("/healthz").status, curl("/readyz").status))
            time.sleep(0.01)
    equal(unix.wait(SECONDS), 0)
    equal(socket_path.exists(), False)
    equal(statuses - {(200, 200), (200, 503)}, set())
    events.close()
    client.close()

with suite.check("an open tap does not keep the process from ending"):
    client = opened(proxy=tcp)
    identity = on_tcp("/v1/sessions", *READ).json["sessions"][0]["id"]
    idle = [harness.raw(admin_port) for _ in range(3)]
    tap = subprocess.Popen(["curl", "-sN", *FULL, f"http://127.0.0.1:{admin_port}/v1/sessions/{identity}/frames"],
                           stdout=subprocess.DEVNULL)
    begun = time.monotonic()
    equal(tcp.stop(), 0)
    equal(time.monotonic() - begun < 6, True)
    tap.wait(SECONDS)
    client.close()

suite.finish()
