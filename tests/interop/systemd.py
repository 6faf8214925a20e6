"""Checks the units in systemd/ with systemd-analyze, and the behaviour of the binary that the unit relies on."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess

import harness
from harness import Skip, equal

EXPOSURE_MAX = 1.5

suite = harness.Suite("systemd")
directory = harness.work_dir("systemd")
text = (harness.ROOT / "systemd" / "tollgate.service").read_text()
setting = dict(re.findall(r"^(\w+)=(.*)$", text, re.M))
unit = directory / "tollgate.service"
unit.write_text(text.replace("/usr/local/bin/tollgate", str(harness.BINARY)))  # `verify` checks that the binary exists
socket_unit = directory / "tollgate.socket"
shutil.copy(harness.ROOT / "systemd" / "tollgate.socket", socket_unit)


def analyze(*arguments):
    if shutil.which("systemd-analyze") is None:
        raise Skip("systemd-analyze is not installed")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)


def verify(*units):
    done = analyze("verify", "--man=no", "--recursive-errors=no", *map(str, units))
    equal((done.returncode, done.stdout, done.stderr), (0, "", ""))


def exposure():
    done = analyze("security", "--offline=true", "--no-pager", str(unit))
    return float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)[1])


@contextlib.contextmanager
def drop_in(text):
    """Adds a drop-in to the unit."""
    folder = directory / "tollgate.service.d"
    folder.mkdir()
    (folder / "test.conf").write_text(text)
    try:
        yield
    finally:
        shutil.rmtree(folder)


with suite.check("systemd-analyze verify reports nothing about the service and the socket"):
    verify(unit, socket_unit)

with suite.check(f"systemd-analyze security gives {EXPOSURE_MAX} or better"):
    suite.note(f"exposure {exposure()}")
    equal(exposure() <= EXPOSURE_MAX, True)

with suite.check("the system call filter permits the calls of an upgrade that the unit lists"):
    def calls(group):
        listed = [line.strip() for line in analyze("syscall-filter", group).stdout.splitlines()[1:]]
        names = {name for name in listed if name and not name.startswith(("@", "#"))}
        return names.union(*(calls(part) for part in listed if part.startswith("@")))

    listed = re.search(r"^# It includes the calls of an upgrade: (.*)\.$", text, re.M)[1]
    filters = re.findall(r"^SystemCallFilter=(.*)$", text, re.M)
    permitted = calls(filters[0]).difference(*(calls(group) for group in filters[1].removeprefix("~").split()))
    equal(set(re.split(r", | and ", listed)) - permitted, set())

with suite.check("the drop-in that the socket unit documents is valid and lowers the exposure"):
    comment = re.findall(r"^#     (\[Service\]\n(?:#     \w+=.*\n)+)", socket_unit.read_text(), re.M)
    before = exposure()
    with drop_in(comment[0].replace("#     ", "")):
        verify(unit, socket_unit)
        equal(exposure() < before, True)

with suite.check("notify-reload.conf replaces the command for a reload by a signal of systemd"):
    conf = (harness.ROOT / "systemd" / "notify-reload.conf").read_text()
    equal(re.findall(r"^\w+=.*$", conf, re.M), ["Type=notify-reload", "ReloadSignal=SIGHUP", "ExecReload="])
    equal("kill -HUP $MAINPID" in setting["ExecReload"], True)

with suite.check("systemd-analyze verify reports nothing about notify-reload.conf"):
    version = int(re.search(r"systemd (\d+)", analyze("--version").stdout)[1])
    if version < 253:
        raise Skip(f"systemd {version} does not know Type=notify-reload")
    with drop_in(conf):
        verify(unit)

with suite.check("every credential in the comments is in the form of LoadCredential"):
    examples = re.findall(r"^#     LoadCredential(?:Encrypted)?=(.*)$", text, re.M)
    equal(len(examples) >= 4 and all(re.fullmatch(r"[\w.-]+:/\S+", example) for example in examples), True)

with suite.check("the unit's stop timeout is longer than the default drain_timeout"):
    equal(int(setting["TimeoutStopSec"].removesuffix("s")) > 30, True)

# ------------------------------------------------------------------------------------------- what the unit relies on

secrets = harness.Secrets(directory)
backend = harness.Node("autobahn/echo.js", directory)
body = harness.upstream("echo", backend.facts["port"]) + harness.route("echo", "/echo", "echo")


def exit_code(*arguments):
    done = subprocess.run([str(part) for part in (harness.BINARY, *arguments)], capture_output=True, text=True, timeout=20)
    return done.returncode, done.stdout + done.stderr


with suite.check("a bad argument exits with 64 and a bad configuration with 78: the unit does not restart after these"):
    equal(setting["RestartPreventExitStatus"].split(), ["64", "78"])
    bad = directory / "bad.toml"
    bad.write_text(harness.listener(secrets).replace("@PORT@", "0") + body + "nonsense = 1\n")
    equal(exit_code("run", "--no-such-option")[0], 64)
    for command in ("run", "check"):
        code, said = exit_code(command, "--config", bad)
        equal(code, 78)
        equal(re.search(r"bad\.toml:\d+:\d+", said) is not None, True)
    equal(exit_code("run", "--config", directory / "missing.toml")[0], 78)

with suite.check("a port in use exits with 1: the unit restarts after this"):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        file = directory / "taken.toml"
        file.write_text(harness.listener(secrets).replace("@PORT@", str(taken.getsockname()[1])) + body)
        equal(exit_code("run", "--config", file)[0], 1)

with suite.check("more sessions than the unit's descriptor limit allows exit with 78, and check warns of them"):
    file = directory / "many.toml"
    file.write_text("[server]\nmax_sessions = 9000000\n" + harness.listener(secrets).replace("@PORT@", "0") + body)
    limited = lambda command: subprocess.run(
        ["bash", "-c", f"ulimit -n {setting['LimitNOFILE']}; exec \"$@\"", "bash", harness.BINARY, command, "--config", file],
        capture_output=True, text=True, timeout=20)
    equal(limited("run").returncode, 78)
    checked = limited("check")
    equal((checked.returncode, "warning: " in checked.stderr and "LimitNOFILE" in checked.stderr), (0, True))

with suite.check("it sends READY=1 and STOPPING=1, reads its chain and key as credentials, and exits with 0"):
    credentials = directory / "credentials"
    credentials.mkdir(mode=0o700)
    shutil.move(secrets.dir / "localhost.key", credentials / "tls.key")
    shutil.move(secrets.dir / "localhost.pem", credentials / "tls.pem")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(directory / "notify"))
        notified.settimeout(10)
        environment = {**os.environ, "NOTIFY_SOCKET": str(directory / "notify"), "CREDENTIALS_DIRECTORY": str(credentials)}
        certificate = '{ chain = "credential:tls.pem", key = "credential:tls.key" }'
        proxy = harness.Proxy(harness.listener(secrets, certificate) + body, directory, env=environment)
        said = notified.recv(4096).decode().split("\n")
        equal("READY=1" in said, True)
        with harness.raw(proxy.port, secrets.client_context()) as connection:
            connection.sendall(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
            equal(harness.read_some(connection, 10).split(b" ")[1] in (b"404", b"426"), True)
        proxy.popen.send_signal(signal.SIGTERM)
        said = ""
        while "STOPPING=1" not in said.split("\n"):
            said = notified.recv(4096).decode()
        equal(proxy.wait(40), 0)
    file = directory / "credentials.toml"
    file.write_text(harness.listener(secrets, certificate).replace("@PORT@", "0") + body)
    equal(exit_code("check", "--config", file, "--credentials", credentials)[0], 0)
    code, said = exit_code("check", "--config", file)
    equal((code, '"credential:tls.key" is not checked' in said), (0, True))
suite.finish()
