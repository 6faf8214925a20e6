"""Shared parts of the interop suites: named checks, certificates, keys, tokens, backends, and the proxy itself.

A suite is a program. It makes one `Suite`, runs checks under `with suite.check("name"):`, and ends with `suite.finish()`,
which searches the logs of Tollgate for secrets (leaks.py), prints `NAME: N passed, M failed, K skipped` and exits. Every
process that a suite started is ended by its process id.

    TOLLGATE_BIN      the binary under test (default: target/release/tollgate of this checkout)
    TOLLGATE_INTEROP  the directory into which tests/run installs (default: target/interop of this checkout)
"""

import asyncio
import atexit
import contextlib
import http.client
import json
import os
import pathlib
import queue
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import leaks

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
INTEROP = pathlib.Path(os.environ.get("TOLLGATE_INTEROP", ROOT / "target" / "interop")).resolve()
BINARY = pathlib.Path(os.environ.get("TOLLGATE_BIN", TARGET / "release" / "tollgate")).resolve()
HERE = pathlib.Path(__file__).resolve().parent

READY_SECONDS = 15
STOP_SECONDS = 15
ISSUER = "https://id.example.test/"
AUDIENCE = "chat"

_proxies = []
_cleanup = contextlib.ExitStack()
atexit.register(_cleanup.close)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # sent by `timeout`: runs the cleanup of started processes


class Skip(Exception):
    """Raised in a check that cannot run on this machine; the summary counts it as skipped."""


def promtool():
    """Returns the path of promtool, installed or unpacked by tests/run."""
    found = shutil.which("promtool") or INTEROP / "prometheus/usr/bin/promtool"
    if not pathlib.Path(found).exists():
        raise Skip("promtool is not installed")
    return found


class Suite:
    """The checks of one suite. Each passes, fails or is skipped, independently of the ones before."""

    def __init__(self, name):
        self.name = name
        self.passed = self.failed = self.skipped = 0

    @contextlib.contextmanager
    def check(self, name):
        start = time.monotonic()
        try:
            yield
        except Skip as why:
            self.skip(name, why)
        except Exception as error:  # noqa: BLE001: a check may fail in any way, and the next one still runs
            place = traceback.extract_tb(error.__traceback__)
            print(*(f"        {step.filename}:{step.lineno} {step.line}" for step in place[1:]), sep="\n")
            self.fail(name, f"{type(error).__name__}: {error}")
        else:
            self.ok(f"{name} ({time.monotonic() - start:.2f} s)")

    def ok(self, name):
        self.passed += 1
        print(f"ok      {name}", flush=True)

    def fail(self, name, why):
        self.failed += 1
        print(f"FAILED  {name}: {why}", flush=True)

    def skip(self, name, why):
        self.skipped += 1
        print(f"skipped {name}: {why}", flush=True)

    def note(self, text):
        """Prints a note, which tests/run shows even if no check failed."""
        print(f"note    {text}", flush=True)

    def finish(self):
        for process in reversed(_proxies):
            process.stop()
        if leaks.watched():
            with self.check("no log of Tollgate has a token, cookie, query or key, and a planted one is found"):
                leaks.check()
        _cleanup.close()
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        print(f"{self.name}: {self.passed} passed, {self.failed} failed{skipped}", flush=True)
        sys.exit(1 if self.failed or self.passed + self.skipped == 0 else 0)


def equal(got, wanted):
    if got != wanted:
        raise AssertionError(f"got {got!r}, wanted {wanted!r}")


def work_dir(name):
    """Creates a directory below target/interop/run and removes it when the suite ends, unless TOLLGATE_KEEP is set."""
    base = INTEROP / "run"
    base.mkdir(parents=True, exist_ok=True)
    path = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=base))
    if not os.environ.get("TOLLGATE_KEEP"):
        _cleanup.callback(shutil.rmtree, path, ignore_errors=True)
    return path


def many_files():
    """Raises the descriptor limit of this process and its children to the hard limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def accepts(port):
    """Returns whether a connection to a local port is accepted."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def run(*command, seconds=60, **options):
    """Runs a command to its end. Raises with the end of its output if it fails, or if it takes longer than `seconds`."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=seconds, **options)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout[-800:]}{done.stderr[-800:]}")
    return done


def spki(certificate):
    """Returns the hash of the key of a certificate, which a browser can be told to trust."""
    return run("sh", "-c", 'openssl x509 -in "$1" -pubkey -noout | openssl pkey -pubin -outform der '
               "| openssl dgst -sha256 -binary | openssl base64", "sh", certificate).stdout.strip()


def build_load_generator():
    """Builds the load generator in the target directory of tests/bench/run.py, and returns its path."""
    home = TARGET / "bench/wsload"
    run("cargo", "build", "--quiet", "--release", "--locked", "--manifest-path", ROOT / "tests/bench/wsload/Cargo.toml",
        "--target-dir", home, seconds=600)
    return home / "release/wsload"


# ---------------------------------------------------------------------------------------------- certificates and tokens


class Secrets:
    """A CA, certificates signed by it, and an ES256 key pair for tokens, all made for one suite."""

    def __init__(self, directory):
        self.dir = directory
        self.leaf("localhost", "127.0.0.1", "::1")
        self.ca = self.dir / "ca.pem"
        self.key = self.make_key("token")
        self.public = self.dir / "token.pub.pem"

    def leaf(self, *names):
        """Makes a certificate for these names, and returns its entry for a listener's `certificates`."""
        run(ROOT / "certs" / "make-dev", self.dir, *names)
        stem = names[0].replace("*", "_")
        leaks.remember_pem(self.dir / f"{stem}.key")
        return f'{{ chain = "{self.dir}/{stem}.pem", key = "{self.dir}/{stem}.key" }}'

    def make_key(self, stem):
        key = self.dir / f"{stem}.pem"
        run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
        run("openssl", "pkey", "-in", key, "-pubout", "-out", self.dir / f"{stem}.pub.pem")
        leaks.remember_pem(key)
        return key

    def client_context(self):
        """Returns an SSL context that trusts the CA."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.set_alpn_protocols(["http/1.1"])
        return context

    def token(self, subject="ada", expires="1h", issuer=ISSUER, audience=AUDIENCE, key=None, **claims):
        """Returns a token made by `tollgate token`."""
        extra = [part for name, value in claims.items() for part in ("--claim", f"{name}={value}")]
        done = run(BINARY, "token", "--key", key or self.key, "--algorithm", "ES256", "--subject", subject,
                   "--issuer", issuer, "--audience", audience, "--expires", expires, *extra)
        return leaks.remember(done.stdout.strip())

    def foreign_token(self, headers=None, algorithm="ES256", key=None, is_remembered=True, **claims):
        """Returns a token made by another library, PyJWT, which may be invalid in any way. One of thousands is not remembered: the
        logs are not searched for each of them, but for anything that looks like a token."""
        import jwt

        payload = {"sub": "ada", "iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 3600, **claims}
        payload = {name: value for name, value in payload.items() if value is not None}
        token = jwt.encode(payload, (key or self.key).read_bytes(), algorithm=algorithm, headers=headers)
        return leaks.remember(token) if is_remembered else token


# ----------------------------------------------------------------------------------------------------------- processes


class Process:
    """A process that is stopped when the suite ends. Its output goes to a file."""

    def __init__(self, name, command, directory, **options):
        self.name = name
        self.log = directory / f"{name}.log"
        with open(self.log, "ab") as log:
            options.setdefault("stdout", log)
            self.popen = subprocess.Popen(
                [str(part) for part in command], stdin=options.pop("stdin", subprocess.DEVNULL), stderr=log, **options
            )
        self.pid = self.popen.pid
        if command[0] == BINARY:
            _proxies.append(self)
            leaks.watch(self.log)
        _cleanup.callback(self.stop)

    def stop(self, seconds=STOP_SECONDS, signal_number=signal.SIGTERM):
        """Sends the signal, kills the process if it has not exited in time, and returns its exit code."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal_number)
            try:
                self.popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait(5)
        return self.popen.returncode

    def wait(self, seconds):
        return self.popen.wait(seconds)

    def output(self):
        return self.log.read_text(errors="replace")

    def memory_kib(self):
        """Returns the resident memory from /proc."""
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError(f"{self.name} has no memory: has it ended?\n{self.output()[-2000:]}")

    def alive(self):
        return self.popen.poll() is None


class Proxy(Process):
    """`tollgate run`, with `@PORT@` in the configuration replaced by a free port. The constructor waits until it listens."""

    def __init__(self, config, directory, name="tollgate", **options):
        if not BINARY.exists():
            raise RuntimeError(f"{BINARY} is missing: cargo build --release")
        for _ in range(5):  # another process may take the port before the proxy binds it
            self.port = free_port()
            file = directory / f"{name}.toml"
            file.write_text(config.replace("@PORT@", str(self.port)))
            super().__init__(name, [BINARY, "run", "--config", file], directory, **options)
            if self._ready():
                return
            if "in use" not in self.output():
                break
        raise RuntimeError(f"{name} did not start (exit code {self.popen.poll()}):\n{self.output()[-4000:]}")

    def _ready(self):
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and self.alive():
            if accepts(self.port):
                return True
            time.sleep(0.02)
        return False

    def url(self, path="/", scheme="wss"):
        return f"{scheme}://localhost:{self.port}{path}"


class Lines:
    """The output lines of a process, read with a timeout for each line."""

    def __init__(self, stream):
        self._lines = queue.Queue(maxsize=10000)
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream):
        for line in stream:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def next(self, seconds):
        try:
            return self._lines.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise TimeoutError(f"no line within {seconds:.0f} s") from None


class Demo(Process):
    """`tollgate demo`, with the JSON that it prints in `facts`."""

    def __init__(self, directory):
        super().__init__("demo", [BINARY, "demo", "--port", "0", "--json"], directory,
                         stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(directory)})
        line = Lines(self.popen.stdout).next(READY_SECONDS)
        if line is None:
            raise RuntimeError(f"demo did not start:\n{self.output()[-4000:]}")
        self.facts = json.loads(line)
        leaks.remember(self.facts["token"])


def node(name, script, directory, *arguments, **options):
    """Starts a Node program with the packages that tests/run installed."""
    environment = {**os.environ, "NODE_PATH": str(INTEROP / "node" / "node_modules"),
                   "TMPDIR": str(directory), "HOME": str(directory)}  # a browser writes to both
    return Process(name, ["node", HERE / script, *arguments], directory, env=environment, **options)


class Program:
    """A program with checks of its own: it starts its servers, prints `{"port": N, ...}`, reads one line of JSON from the
    suite (URL of the proxy, tokens), and then prints `ok NAME` or `not ok NAME: why` for each check, and `note TEXT`."""

    def __init__(self, process):
        self.process = process
        self.lines = Lines(self.process.popen.stdout)
        line = self.lines.next(READY_SECONDS)
        if line is None:
            raise RuntimeError(f"{process.name} did not start:\n{self.process.output()[-4000:]}")
        self.facts = json.loads(line)

    def tell(self, **facts):
        self.process.popen.stdin.write(json.dumps(facts) + "\n")
        self.process.popen.stdin.flush()

    def run_checks(self, suite, seconds=120, actions=None):
        """Records its checks in `suite` until the program ends. `actions` has a function for each line with which it asks for one."""
        end = time.monotonic() + seconds
        try:
            while (line := self.lines.next(end - time.monotonic())) is not None:
                if line.startswith("ok "):
                    suite.ok(line[3:])
                elif line.startswith("not ok "):
                    suite.fail(*line[7:].split(": ", 1))
                elif line.startswith("note "):
                    suite.note(line[5:])
                elif line in (actions or {}):
                    actions[line]()
                else:
                    print(f"        {line}", flush=True)
            code = self.process.wait(5)
            if code:
                suite.fail(f"{self.process.name} exits with 0", f"exit code {code}: {self.process.output()[-2000:]}")
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            suite.fail(f"{self.process.name} exits in time", f"{error}\n{self.process.output()[-2000:]}")


class Node(Program):
    """A program of tests/interop/node."""

    def __init__(self, script, directory, *arguments):
        name = pathlib.Path(script).stem
        super().__init__(node(name, script, directory, *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))


def echo_backend():
    """Starts an echoing backend made of `websockets` in this process, and returns its port."""
    import websockets.sync.server

    def echo(connection):
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            for message in connection:
                connection.send(message)

    server = websockets.sync.server.serve(echo, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _cleanup.callback(server.shutdown)
    return server.socket.getsockname()[1]


def serve(handler, **options):
    """Starts a backend made of `websockets` in a thread of its own, with a coroutine for each session, and returns its port."""
    import websockets.asyncio.server

    started = queue.Queue()

    async def run():
        async with websockets.asyncio.server.serve(handler, "127.0.0.1", 0, backlog=1024, ping_interval=None, **options) as server:
            started.put(server.sockets[0].getsockname()[1])
            await asyncio.get_running_loop().create_future()

    threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()
    return started.get(timeout=READY_SECONDS)


class Api(http.client.HTTPConnection):
    """A connection to the admin API on a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = str(path)

    def connect(self):
        """Connects, also while a process that was started just now has not bound the socket."""
        end = time.monotonic() + READY_SECONDS
        while True:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            try:
                return self.sock.connect(self.path)
            except (FileNotFoundError, ConnectionRefusedError):
                self.sock.close()
                if time.monotonic() > end:
                    raise
            time.sleep(0.01)

    def ask(self, method, target, body=None):
        """Returns the status of the answer, and what its JSON says."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        self.request(method, target, None if body is None else json.dumps(body), headers)
        response = self.getresponse()
        content = response.read()
        return response.status, json.loads(content) if content else None


# ------------------------------------------------------------------------------------------------------------ raw clients


def raw(port, context=None, seconds=10, source="127.0.0.1"):
    """Returns a socket connected to the proxy, with TLS if a context is given."""
    plain = socket.create_connection(("127.0.0.1", port), seconds, (source, 0))
    plain.settimeout(seconds)
    return context.wrap_socket(plain, server_hostname="localhost") if context else plain


def read_all(connection, seconds):
    """Reads until the other end closes the connection; raises if that takes longer than `seconds`."""
    data = b""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection.settimeout(max(0.01, end - time.monotonic()))
        try:
            part = connection.recv(65536)
        except (ConnectionError, ssl.SSLEOFError):
            return data
        if not part:
            return data
        data += part
    raise TimeoutError(f"still open after {seconds} s, with {data[-200:]!r}")


def read_some(connection, seconds):
    """Reads up to the end of a head; returns nothing if the other end closes the connection without sending."""
    data = b""
    connection.settimeout(seconds)
    with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
        while b"\r\n\r\n" not in data and (part := connection.recv(65536)):
            data += part
    return data


# ------------------------------------------------------------------------------------------------------- configurations


def listener(secrets, *certificates, **keys):
    """Returns the `[[listener]]` section of a configuration."""
    lines = [f"{name} = {value}" for name, value in keys.items()]
    chains = ", ".join(certificates or [f'{{ chain = "{secrets.dir}/localhost.pem", key = "{secrets.dir}/localhost.key" }}'])
    return "\n".join(['[[listener]]', 'address = "127.0.0.1:@PORT@"', f"certificates = [{chains}]", *lines, ""])


def auth(secrets):
    """Returns an `[auth.users]` section that accepts the suite's tokens from every kind of source."""
    return f"""
[auth.users]
issuer = "{ISSUER}"
audience = ["{AUDIENCE}"]
algorithms = ["ES256"]
public_key_file = "{secrets.public}"
leeway = "0s"
token_from = ["header", "cookie:session", "query:token", "subprotocol:bearer"]
"""


def upstream(name, port):
    return f'\n[upstream.{name}]\nservers = ["127.0.0.1:{port}"]\n'


def route(name, path, upstream_name, limits=None, **keys):
    """Returns a `[[route]]` section, without tokens unless `auth` is given. Values are literal TOML."""
    keys = {"auth": '"none"', **keys}
    lines = ["", "[[route]]", f'name = "{name}"', f'path = "{path}"', f'upstream = "{upstream_name}"']
    lines += [f"{key} = {value}" for key, value in keys.items()]
    if limits:
        lines += ["[route.limits]", *(f"{key} = {value}" for key, value in limits.items())]
    return "\n".join(lines) + "\n"
