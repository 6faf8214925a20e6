"""Gets certificates from Pebble by both challenges, renews them under open sessions, and meets certificate authorities that are
down, slow, refuse or answer nonsense."""

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import time
import urllib.request

import harness
import leaks
import websockets.asyncio.client
from acme_peers import FakeAuthority, NameServer, Pebble, issued, openssl, request, wait_until
from harness import equal

SESSIONS = 500
VALID_SECONDS = 40  # of the certificates that are renewed under open sessions
NAME, OTHER = "chat.example.test", "api.example.test"
UNRECOGNIZED_NAME = "alert number 112"

suite = harness.Suite("acme")
harness.many_files()
directory = harness.work_dir("acme")
secrets = harness.Secrets(directory)
backend = harness.echo_backend()
names = NameServer(directory)
http_port, tls_port = harness.free_port(), harness.free_port()
counter = iter(range(1000))


def configuration(authority, state, http=False, domains=(), keys="", hosts=(NAME,), server=""):
    """Returns a configuration whose certificates come from an authority. With `http` there is a plain listener."""
    plain = f'[[listener]]\naddress = "127.0.0.1:{http_port}"\ntls = false\nredirect = "https"\n' if http else ""
    listed = f"domains = {json.dumps(domains)}\n" if domains else ""
    routes = "".join(harness.route(f"echo-{n}", "/echo", "echo", host=f'"{host}"') for n, host in enumerate(hosts))
    return (f'[server]\nstate_dir = "{state}"\n{server}[metrics]\naddress = "127.0.0.1:@METRICS@"\n'
            f'[[listener]]\naddress = "127.0.0.1:@PORT@"\nacme = "test"\n{plain}'
            f'[acme.test]\ndirectory = "{authority.directory_url}"\naccept_terms = true\nca = "{secrets.ca}"\n{listed}{keys}'
            + harness.upstream("echo", backend) + routes)


def new_state():
    state = directory / f"state-{next(counter)}"
    state.mkdir(mode=0o700)
    return state


class Tollgate(harness.Process):
    """`tollgate run`. The constructor waits until its first listener accepts."""

    def __init__(self, text, port=None, **options):
        name = f"tollgate-{next(counter)}"
        self.file, self.port, self.metrics_port = directory / f"{name}.toml", port or tls_port, harness.free_port()
        self.file.write_text(text.replace("@PORT@", str(self.port)).replace("@METRICS@", str(self.metrics_port)))
        super().__init__(name, [harness.BINARY, "run", "--config", self.file], directory, **options)
        wait_until(lambda: harness.accepts(self.port) or not self.alive(), f"{name} listens")
        if not self.alive():
            raise RuntimeError(f"{name} did not start:\n{self.output()[-3000:]}")

    def lines(self, message=""):
        """Returns the lines of its log whose message contains this text."""
        parsed = [json.loads(line) for line in self.output().splitlines() if line.startswith("{")]
        return [line for line in parsed if message in line["message"]]

    def wait_for(self, message, count=1, seconds=20):
        """Waits for so many lines of its log, and returns them."""
        def found():
            lines = self.lines(message)
            return lines if len(lines) >= count else None
        try:
            return wait_until(found, f"{message!r} in the log", seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.output()[-2000:]}") from None

    def metric(self, name):
        """Returns the values of a metric by its labels."""
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10).read().decode()
        return {labels: float(value) for labels, value in re.findall(rf"^{name}(\{{.*\}})? (\S+)$", text, re.M)}

    def signal(self, number):
        self.popen.send_signal(number)


@contextlib.contextmanager
def tollgate(*arguments, **options):
    process = Tollgate(*arguments, **options)
    try:
        yield process
    finally:
        process.stop()


@contextlib.contextmanager
def pebble(**options):
    process = Pebble(directory, secrets, names, http_port, tls_port, name=f"pebble-{next(counter)}", **options)
    try:
        yield process
    finally:
        process.stop()


def modes(state):
    """Returns the modes of the files and directories of a state directory, without the hash in a name."""
    found = {re.sub(r"-[0-9a-f]{8}", "", str(path.relative_to(state))): oct(stat.S_IMODE(path.stat().st_mode))
             for path in state.rglob("*") if path.relative_to(state).parts[0] == "acme"}
    for path in state.rglob("*.pem"):
        leaks.remember_pem(path)
    return found


async def talk(connection, text="hello"):
    await connection.send(text)
    return await asyncio.wait_for(connection.recv(), 20)


def connect(context, name=NAME):
    return websockets.asyncio.client.connect(f"wss://{name}:{tls_port}/echo", host="127.0.0.1", port=tls_port, ssl=context,
                                             open_timeout=20, ping_interval=None, proxy=None)


def session(context, name=NAME):
    async def once():
        async with connect(context, name) as connection:
            return await talk(connection)
    return asyncio.run(once())


# ------------------------------------------------------------------------------------------------------- the first certificate

with suite.check("TLS-ALPN-01: the first certificate is issued, is readable only for its owner, and serves a session"), \
        pebble() as authority:
    state, begun = new_state(), time.monotonic()
    with tollgate(configuration(authority, state)) as process:
        process.wait_for("a certificate was issued")
        suite.note(f"first certificate by TLS-ALPN-01 {time.monotonic() - begun:.2f} s after the start")
        equal(session(authority.client_context()), "hello")
        equal(process.lines("TLS-ALPN-01") != [], True)
        equal(modes(state), {"acme": "0o700", "acme/test": "0o700", "acme/test/account.json": "0o600",
                             f"acme/test/{NAME}.pem": "0o600"})
        first = issued(tls_port, NAME, authority.client_context())
    with tollgate(configuration(authority, state)) as process:
        equal(issued(tls_port, NAME, authority.client_context()), first)
        equal(process.lines("ordering"), [])

with suite.check("HTTP-01: a plain listener answers the challenge, and redirects everything else"), pebble() as authority:
    begun = time.monotonic()
    with tollgate(configuration(authority, new_state(), http=True)) as process:
        process.wait_for("a certificate was issued")
        suite.note(f"first certificate by HTTP-01 {time.monotonic() - begun:.2f} s after the start")
        equal((process.lines("HTTP-01") != [], process.lines("TLS-ALPN-01")), (True, []))
        equal(session(authority.client_context()), "hello")
        target = f"https://{NAME}:{tls_port}"
        for method, path, host, expected in [
            ("GET", "/echo?a=b%20c", NAME, (301, f"{target}/echo?a=b%20c")),
            ("HEAD", "/", NAME.upper() + ":80", (301, f"{target}/")),
            ("POST", "/", NAME, (308, f"{target}/")),
            ("GET", "/.well-known/acme-challenge/unknown", NAME, (301, f"{target}/.well-known/acme-challenge/unknown")),
            ("GET", "/", "evil.example", (421, None)),
            ("GET", "/", f"{NAME}@evil.example", (400, None)),
            ("GET", "//evil.example/", NAME, (301, f"{target}//evil.example/")),
        ]:
            status, headers = request(http_port, method, path, host)
            equal((method, path, host, status, headers.get("location")), (method, path, host, *expected))

with suite.check("a challenge that fails is followed by the other kind in the next order, which the renewal tries first"), \
        pebble(certificateValidityPeriod=15, environment={"PEBBLE_WFE_NONCEREJECT": "0"}) as authority:
    # Nothing listens at the port at which Pebble validates HTTP-01.
    text = configuration(authority, new_state(), http=True).replace(f"127.0.0.1:{http_port}", f"127.0.0.1:{harness.free_port()}")
    with tollgate(text) as process:
        failed = process.wait_for("no certificate: clients of this name cannot connect")[0]
        equal((failed["cause"].startswith("HTTP-01: "), authority.output().count("POST /order-plz")), (True, 1))
        process.wait_for("a certificate was issued", seconds=80)
        equal((process.lines("answered (HTTP-01)"), process.lines("answered (TLS-ALPN-01)") != []), ([], True))
        orders = authority.output().count("POST /order-plz")
        process.wait_for("a certificate was issued", count=2)
        equal((orders, authority.output().count("POST /order-plz")), (2, 3))

with suite.check("an account is bound to an external one, and refused without that"):
    key = base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
    (directory / "eab.key").write_text(leaks.remember(key) + "\n")
    (directory / "eab.key").chmod(0o600)
    with pebble(externalAccountBindingRequired=True, externalAccountMACKeys={"kid-1": key}) as authority:
        with tollgate(configuration(authority, new_state())) as process:
            failed = process.wait_for("no certificate: clients of this name cannot connect")
            equal("externalAccount" in failed[0]["cause"], True)
        bound = f'eab_key_id = "kid-1"\neab_key_file = "{directory}/eab.key"\n'
        with tollgate(configuration(authority, new_state(), keys=bound)) as process:
            process.wait_for("a certificate was issued")

with suite.check("each name has a certificate of its own, and one that is refused holds up no other"), \
        pebble(domainBlocklist=["blocked.example.net"]) as authority:
    hosts = (NAME, "blocked.example.net", OTHER)
    with tollgate(configuration(authority, new_state(), hosts=hosts)) as process:
        process.wait_for("a certificate was issued", count=2)
        wait_until(lambda: process.lines("no certificate: clients"), "the refusal")
        context = authority.client_context()
        equal(issued(tls_port, NAME, context) == issued(tls_port, OTHER, context), False)
        equal(UNRECOGNIZED_NAME in openssl(tls_port, "blocked.example.net"), True)
        valid = process.metric("tollgate_acme_certificate_valid")
        equal(valid, {f'{{acme="test",name="{name}"}}': float(name != "blocked.example.net") for name in hosts})
        orders = process.metric("tollgate_acme_orders_total")
        equal((orders['{acme="test",outcome="issued"}'], orders['{acme="test",outcome="failed"}'] >= 1), (2, True))
        expiries = process.metric("tollgate_certificate_expiry_timestamp_seconds")
        equal(sorted(expiries), sorted(f'{{name="{name}"}}' for name in (NAME, OTHER)))

with suite.check("without a certificate a handshake fails with unrecognized_name, whatever protocols it offers, and the log says so"):
    authority = FakeAuthority(secrets, NAME)
    authority.answers["/order"] = None
    with tollgate(configuration(authority, new_state())) as process:
        wait_until(lambda: "/order" in authority.asked, "an order")
        for offered in ([], ["-alpn", "http/1.1"], ["-alpn", "acme-tls/1"], ["-alpn", "acme-tls/1,http/1.1"], ["-tls1_2"]):
            equal((offered, UNRECOGNIZED_NAME in openssl(tls_port, NAME, *offered)), (offered, True))
        missing = process.wait_for("handshakes for this name fail")
        equal((len(missing), missing[0]["name"]), (1, NAME))
    authority.close()

# -------------------------------------------------------------------------------------------------------------------- renewal

with suite.check(f"a certificate is renewed under {SESSIONS} open sessions, and none of them is closed"), \
        pebble(certificateValidityPeriod=VALID_SECONDS) as authority, \
        tollgate(configuration(authority, new_state(), server="handshakes_per_address = 1000\n")) as process:
    process.wait_for("a certificate was issued")
    begun = time.monotonic()

    async def renew():
        context = authority.client_context()
        first = issued(tls_port, NAME, context)
        opened = []
        for batch in range(0, SESSIONS, 50):
            opened += await asyncio.gather(*(connect(context) for _ in range(50)))
        equal((len(opened), len(process.lines("a certificate was issued"))), (SESSIONS, 1))
        talked = 0
        while len(process.lines("a certificate was issued")) < 2:
            if time.monotonic() - begun > VALID_SECONDS:
                raise TimeoutError("the certificate expired before it was renewed")
            talked += len(await asyncio.gather(*(talk(connection) for connection in opened[::10])))
            await asyncio.sleep(0.2)
        suite.note(f"renewed after {time.monotonic() - begun:.1f} s of {VALID_SECONDS} s, {talked} messages meanwhile")
        equal(issued(tls_port, NAME, context) == first, False)
        answers = await asyncio.gather(*(talk(connection, f"after {n}") for n, connection in enumerate(opened)))
        equal(answers, [f"after {n}" for n in range(SESSIONS)])
        async with connect(context) as another:
            equal(await talk(another), "hello")
        suite.note(f"{sum(connection.close_code is None for connection in opened)} of {SESSIONS} sessions are open after the renewal")
        await asyncio.gather(*(connection.close() for connection in opened))

    asyncio.run(renew())
    equal([line for line in process.lines("session") if line.get("by") == "tollgate"], [])

with suite.check("a renewal that fails leaves the certificate in use"), pebble(certificateValidityPeriod=15) as authority, \
        tollgate(configuration(authority, new_state())) as process:
    process.wait_for("a certificate was issued")
    context = authority.client_context()
    first = issued(tls_port, NAME, context)
    authority.stop()
    process.wait_for("no renewed certificate: the one in use stays", seconds=30)
    equal(issued(tls_port, NAME, context), first)

# ---------------------------------------------------------------------------------------------------- authorities with faults


def refusal(answers, seconds=20):
    """Returns the log line about an order at an authority with these answers."""
    authority = FakeAuthority(secrets, NAME)
    authority.answers.update(answers(authority))
    with tollgate(configuration(authority, new_state())) as process:
        failed = process.wait_for("no certificate: clients of this name cannot connect", seconds=seconds)[0]
        equal(process.alive(), True)
        equal(UNRECOGNIZED_NAME in openssl(tls_port, NAME), True)
        equal(process.output().count("panicked"), 0)
    authority.close()
    return failed


with suite.check("a CA that is down: the log says so, the listener serves, and the certificate comes when the CA does"), \
        pebble() as authority:
    authority.stop()
    with tollgate(configuration(authority, new_state())) as process:
        failed = process.wait_for("no certificate: clients of this name cannot connect")[0]
        equal(("cannot connect" in failed["cause"], failed["retry_secs"] <= 60), (True, True))
        authority.start()
        begun = time.monotonic()
        process.wait_for("a certificate was issued", seconds=130)
        suite.note(f"the CA was back for {time.monotonic() - begun:.1f} s until the certificate was issued")
        equal(session(authority.client_context()), "hello")

with suite.check("a CA that does not answer: the request times out, and meanwhile the listener answers"):
    authority = FakeAuthority(secrets, NAME)
    authority.answers["/dir"] = None
    begun = time.monotonic()
    with tollgate(configuration(authority, new_state())) as process:
        equal(UNRECOGNIZED_NAME in openssl(tls_port, NAME), True)
        failed = process.wait_for("no certificate: clients of this name cannot connect", seconds=45)[0]
        suite.note(f"a CA that does not answer is given up after {time.monotonic() - begun:.1f} s")
        equal("no response within 30s" in failed["cause"], True)
    authority.close()

with suite.check("a slow CA issues the certificate"), pebble(environment={"PEBBLE_VA_NOSLEEP": None, "PEBBLE_VA_SLEEPTIME": "8"}) as authority:
    begun = time.monotonic()
    with tollgate(configuration(authority, new_state())) as process:
        process.wait_for("a certificate was issued", seconds=60)
        suite.note(f"a CA that sleeps up to 8 s before each validation issues after {time.monotonic() - begun:.1f} s")

with suite.check("a CA that refuses: its words are in the log, and its Retry-After is respected"):
    refused = refusal(lambda own: {"/order": own.problem(403, "rejectedIdentifier", "no names of this domain\r\n\x1b[31m")})
    equal(("no names of this domain" in refused["cause"], "\x1b" in refused["cause"]), (True, False))
    limited = refusal(lambda own: {"/order": own.problem(429, "rateLimited", "too many", **{"Retry-After": "7200"})})
    equal(("too many" in limited["cause"], limited["retry_secs"]), (True, 7200))
    far = {"Retry-After": "18446744073709551615"}
    limited = refusal(lambda own: {"/account": own.problem(503, "serverInternal", "later", **far)})
    equal(limited["retry_secs"], 86400)
    limited = refusal(lambda own: {"/dir": (503, {"Retry-After": "600"}, b"<html>")})
    equal(("503" in limited["cause"], limited["retry_secs"]), (True, 600))

def requests_for_orders(authority, state, path="/order"):
    """Returns how often an authority was asked at a path by a process with two names, of which the first order fails."""
    before = authority.asked.count(path)
    with tollgate(configuration(authority, state, hosts=(NAME, OTHER))) as process:
        process.wait_for("no certificate: clients of this name cannot connect")
        time.sleep(2)  # an order that may begin begins at once
        equal(process.lines("ordering a certificate") != [], True)
    return authority.asked.count(path) - before


with suite.check("a refusal of the authority or of the account holds up all names, and that of a name only this one"):
    later = {"Retry-After": "600"}
    for path, status, kind, expected in [
        ("/order", 429, "rateLimited", 1),
        ("/order", 503, "serverInternal", 1),
        ("/order", 401, "unauthorized", 1),  # RFC 8555 section 7.3.6: a deactivated account
        ("/account", 403, "userActionRequired", 1),
        ("/finalize", 429, "rateLimited", 1),
        ("/order", 403, "rejectedIdentifier", 2),
    ]:
        authority = FakeAuthority(secrets, NAME)
        authority.answers[path] = authority.problem(status, kind, "refused", **later)
        equal((path, kind, requests_for_orders(authority, new_state(), path)), (path, kind, expected))
        authority.close()

with suite.check("a refusal of the authority survives a restart, in a file for the owner only"):
    authority, state = FakeAuthority(secrets, NAME), new_state()
    authority.answers["/order"] = authority.problem(429, "rateLimited", "refused", **{"Retry-After": "600"})
    equal(requests_for_orders(authority, state), 1)
    equal(modes(state)["acme/test/refused.json"], "0o600")
    with tollgate(configuration(authority, state, hosts=(NAME, OTHER))) as process:
        waits = process.wait_for("orders wait: the certificate authority refused them before")[0]
        equal(590 < waits["retry_secs"] <= 600, True)
        time.sleep(2)
        equal((process.lines("ordering"), authority.asked.count("/order")), ([], 1))
    authority.close()

with suite.check("the wait ends with the refusal, and its file with the next certificate"), pebble() as authority:
    state = new_state()
    with tollgate(configuration(authority, state)) as process:
        process.wait_for("a certificate was issued")
    [certificate] = state.rglob(f"{NAME}.pem")
    certificate.unlink()
    refused = certificate.with_name("refused.json")
    refused.write_text(json.dumps({"count": 2, "until": int(time.time()) + 4}))
    with tollgate(configuration(authority, state)) as process:
        process.wait_for("orders wait: the certificate authority refused them before")
        process.wait_for("a certificate was issued")
        wait_until(lambda: not refused.exists(), "the end of the file")

NONSENSE = {
    "a page instead of the directory": lambda own: {"/dir": (200, {}, b"<html>hello</html>")},
    "an empty directory": lambda own: {"/dir": (200, {}, b"")},
    "a directory of wrong types": lambda own: {"/dir": own.json(200, {"newNonce": 1, "newAccount": [], "newOrder": None})},
    "a URL that is none": lambda own: {"/dir": own.json(200, {"newNonce": "https://a b", "newAccount": "x", "newOrder": ""})},
    "a URL of another scheme": lambda own: {"/dir": own.json(200, {**own.urls(), "newNonce": "file:///etc/passwd"})},
    "a plain URL elsewhere": lambda own: {"/dir": own.json(200, {**own.urls(), "newOrder": "http://192.0.2.1/"})},
    "a redirect": lambda own: {"/dir": (302, {"Location": "https://localhost:1/"}, b"")},
    "no nonce": lambda own: {"/nonce": (500, {}, b"")},
    "an account without a URL": lambda own: {"/account": own.json(201, {"status": "valid"})},
    "a page instead of an order": lambda own: {"/order": (201, {"Location": own.base + "/order/1"}, b"<html>")},
    "an order without a URL": lambda own: {"/order": own.json(201, own.order("ready"))},
    "an order in an unknown state": lambda own: {"/order/1": own.json(200, own.order("whatever"))},
    "an authorization of nothing": lambda own: {"/authorization": own.json(200, {})},
    "an answer without end": lambda own: {"/order": (201, {}, b"x" * (1 << 20))},
    "an order that becomes invalid": lambda own: {"/order/1": own.json(200, own.order("invalid"))},
    "an order that stays ready after its request": lambda own: {"/order/1": own.json(200, own.order("ready"))},
    "an empty chain": lambda own: own.issues(b""),
    "a chain of another key": lambda own: own.issues((directory / "localhost.pem").read_bytes()),
    "a chain that is not PEM": lambda own: own.issues(b"\xff\xfe\x00 certificate"),
    "a chain that is cut": lambda own: own.issues((directory / "localhost.pem").read_bytes()[:300]),
    "a Retry-After beyond all time": lambda own: {"/order/1": (200, {"Retry-After": "99999999999999999999"},
                                                               json.dumps(own.order("processing")).encode())},
}

with suite.check(f"a CA that answers nonsense ({len(NONSENSE)} kinds): each is an error in the log, and nothing else breaks"):
    for kind, answers in NONSENSE.items():
        begun = time.monotonic()
        try:
            failed = refusal(answers, seconds=130)
        except Exception as error:
            raise AssertionError(f"{kind}: {error}") from None
        suite.note(f"{kind}: {failed['cause'][:150]}")
        equal((kind, len(failed["cause"]) < 1000), (kind, True))

with suite.check("a certificate for another name is refused"):
    secrets.leaf("elsewhere.example.test")
    failed = refusal(lambda own: own.signs(f"{directory}/ca.pem", f"{directory}/ca.key", "elsewhere.example.test"))
    equal("it is a certificate for other names" in failed["cause"], True)

# --------------------------------------------------------------------------------------------------- restarts, files, upgrades

with suite.check("a process that is killed in mid-order uses its account again, and gets the certificate after the restart"), \
        pebble(environment={"PEBBLE_VA_NOSLEEP": None, "PEBBLE_VA_SLEEPTIME": "3"}) as authority:
    state = new_state()
    with tollgate(configuration(authority, state)) as process:
        process.wait_for("ACME account created")  # after its file was written
        process.signal(signal.SIGKILL)
        process.wait(5)
        equal(process.lines("a certificate was issued"), [])
        equal(len(list(state.rglob("account.json"))), 1)
    with tollgate(configuration(authority, state)) as process:
        process.wait_for("a certificate was issued", seconds=60)
        equal(process.lines("ACME account created"), [])
        equal(session(authority.client_context()), "hello")
    equal([path.name for path in state.rglob("*.new")], [])

with suite.check("damaged files are reported and kept under another name"), pebble() as authority:
    state = new_state()
    with tollgate(configuration(authority, state)) as process:
        process.wait_for("a certificate was issued")
    [account], [certificate] = state.rglob("account.json"), state.rglob(f"{NAME}.pem")
    modes(state)
    whole = certificate.read_text()
    certificate.write_text(whole[: len(whole) // 2])
    account.write_text(account.read_text()[:50])
    with tollgate(configuration(authority, state)) as process:
        process.wait_for("a certificate was issued")
        equal(len(process.lines("is damaged")), 2)
        equal(certificate.with_name(f"{NAME}.pem.damaged").read_text(), whole[: len(whole) // 2])
        equal(account.with_name("account.json.damaged").exists(), True)
        equal(set(modes(state).values()), {"0o700", "0o600"})

with suite.check("an account that the CA has lost is created again, and its file is kept"), pebble() as authority:
    state = new_state()
    with tollgate(configuration(authority, state)) as process:
        process.wait_for("a certificate was issued")
    authority.stop()
    next(state.rglob(f"{NAME}.pem")).unlink()
    authority.start()  # Pebble keeps nothing
    with tollgate(configuration(authority, state)) as process:
        process.wait_for("a certificate was issued", seconds=130)
        equal(len(process.lines("does not know the ACME account")), 1)
        equal(next(state.rglob("account.json.unknown")).exists(), True)

with suite.check("a state directory that cannot be written is an error before any order"):
    authority, state = FakeAuthority(secrets, NAME), new_state()
    (state / "acme").write_text("a file")
    with tollgate(configuration(authority, state)) as process:
        failed = process.wait_for("no certificate: clients of this name cannot connect")[0]
        equal(("cannot write to state_dir" in failed["cause"], authority.asked), (True, []))
    authority.close()

with suite.check("a reload adds a name, which gets its certificate while the other one is served"), pebble() as authority:
    state = new_state()
    with tollgate(configuration(authority, state)) as process:
        process.wait_for("a certificate was issued")
        context = authority.client_context()
        first = issued(tls_port, NAME, context)
        process.file.write_text(process.file.read_text() + harness.route("other", "/echo", "echo", host=f'"{OTHER}"'))
        process.signal(signal.SIGHUP)
        process.wait_for("a certificate was issued", count=2)
        equal(session(context, OTHER), "hello")
        equal(issued(tls_port, NAME, context), first)

with suite.check("an upgrade in mid-order: the order is given up, and the new process makes it"), \
        pebble(environment={"PEBBLE_VA_NOSLEEP": None, "PEBBLE_VA_SLEEPTIME": "5"}) as authority:
    state = new_state()
    socket_path = f"{directory}/a.sock"
    text = configuration(authority, state) + f'[admin]\naddress = "unix:{socket_path}"\n'
    with tollgate(text) as process:
        process.wait_for("ordering a certificate")
        wait_until(lambda: list(state.rglob("account.json")), "the account")
        done = subprocess.run([harness.BINARY, "upgrade", "--config", process.file], capture_output=True, text=True, timeout=60)
        equal((done.returncode, done.stderr), (0, ""))
        process.wait_for("a certificate was issued", seconds=90)
        equal(len(process.lines("is given up")), 1)
        equal(len(process.lines("ordering a certificate")) >= 2, True)
        wait_until(lambda: not process.alive(), "the end of the old process")
        equal(session(authority.client_context()), "hello")
        subprocess.run(["kill", str(json.loads(subprocess.run([harness.BINARY, "status", "--json", "--config", process.file],
                                                              capture_output=True, text=True, timeout=20).stdout)["pid"])], check=True)
        wait_until(lambda: not harness.accepts(tls_port), "the end of the new process")

# ---------------------------------------------------------------------------------------------------------------------- check


def check(text, *arguments):
    file = directory / f"check-{next(counter)}.toml"
    file.write_text(text.replace("@PORT@", "0").replace("@METRICS@", str(harness.free_port())))
    done = subprocess.run([harness.BINARY, "check", "--config", file, *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


with suite.check("check reports names that cannot get a certificate, with their place"), pebble() as authority:
    for hosts, said in [(("*.example.test",), "a wildcard certificate needs a challenge by DNS"),
                        (("192.0.2.1",), "an address cannot get a certificate")]:
        code, output = check(configuration(authority, new_state(), hosts=hosts))
        equal((code, said in output, re.search(r"\.toml:\d+:\d+", output) is not None), (78, True, True))
    equal(check(configuration(authority, new_state(), hosts=("*.example.test",), domains=[NAME]))[0], 0)
    code, output = check(configuration(authority, new_state()).replace("accept_terms = true", "accept_terms = false"))
    equal((code, "the terms of service are not accepted" in output), (78, True))

with suite.check("check --online fetches the directory and orders nothing"):
    authority = FakeAuthority(secrets, NAME)
    code, output = check(configuration(authority, new_state()), "--online")
    equal((code, "is an ACME directory" in output, authority.asked), (0, True, ["/dir"]))
    authority.answers["/dir"] = (200, {}, b"<html>")
    code, output = check(configuration(authority, new_state()), "--online")
    equal((code, "does not answer with an ACME directory" in output), (1, True))
    authority.close()

suite.finish()
