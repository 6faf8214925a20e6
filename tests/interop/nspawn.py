"""Tests the units and the package under a real systemd, in a container with its own network, made by debootstrap and systemd-nspawn.

It needs root, debootstrap and systemd-container, and half a minute for the first run, so it runs only if TOLLGATE_NSPAWN=1.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import time

import harness
from harness import equal

BOOT_SECONDS = 60
UPGRADE = (
    "GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

suite = harness.Suite("nspawn")
for program in ("debootstrap", "systemd-nspawn", "nsenter"):
    if shutil.which(program) is None:
        suite.skip("the unit under a real systemd", f"{program} is not installed")
        suite.finish()

# ---------------------------------------------------------------------------------------------------------- the container

directory = harness.work_dir("nspawn")
root = harness.INTEROP / "nspawn" / "root"
if not (root / "made").exists():
    shutil.rmtree(root, ignore_errors=True)
    harness.run("debootstrap", "--variant=minbase", "--include=systemd,systemd-sysv,dbus", "bookworm", root, seconds=600)
    (root / "made").touch()

secrets = harness.Secrets(directory)
etc = root / "etc" / "tollgate"
shutil.rmtree(etc, ignore_errors=True)
etc.mkdir(mode=0o755)
shutil.copy(secrets.dir / "localhost.pem", etc / "fullchain.pem")
shutil.copy(secrets.dir / "localhost.key", etc / "tls.key")
(etc / "tls.key").chmod(0o600)
config = (
    "[server]\nupgrade_on_reload = true\n\n"
    + harness.listener(secrets, '{ chain = "fullchain.pem", key = "credential:tls.key" }').replace("@PORT@", "443")
    + harness.upstream("echo", 9001)
    + harness.route("echo", "/echo", "echo")
)
(etc / "tollgate.toml").write_text(config)
shutil.copy(harness.BINARY, root / "usr" / "local" / "bin" / "tollgate")
for unit in ("tollgate.service", "tollgate.socket"):
    shutil.copy(harness.ROOT / "systemd" / unit, root / "etc" / "systemd" / "system" / unit)

container = harness.Process("container", ["systemd-nspawn", "-D", root, "--register=no", "--keep-unit", "-b",
                                          "--private-network", "--console=pipe"], directory)
end = time.monotonic() + BOOT_SECONDS
leader = None
while leader is None and time.monotonic() < end and container.alive():
    children = pathlib.Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
    leader = int(children[0]) if children else None
    time.sleep(0.1)


def inside(*command, check=True):
    done = subprocess.run(["nsenter", "-t", str(leader), "-a", *command], capture_output=True, text=True, timeout=90)
    if check and done.returncode:
        raise AssertionError(f"{command}: {done.stdout}{done.stderr}\n{journal()}")
    return done.stdout.strip()


def journal():
    return inside("journalctl", "--no-pager", "-n", "30", "-u", "tollgate", check=False)


def shown(name):
    return inside("systemctl", "show", "--value", "-p", name, "tollgate")


def until(holds, seconds=10):
    end = time.monotonic() + seconds
    while not holds():
        equal(time.monotonic() < end, True)
        time.sleep(0.1)


def in_its_network(*command, **options):
    return ["nsenter", "-t", str(leader), "-n", *map(str, command)]


class Session:
    """A session opened by `openssl s_client` in the container's network."""

    def __init__(self):
        self.client = subprocess.Popen(
            in_its_network("openssl", "s_client", "-quiet", "-connect", "127.0.0.1:443", "-servername", "localhost",
                           "-CAfile", secrets.ca, "-verify_return_error"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.client.stdin.write(UPGRADE.encode())
        self.client.stdin.flush()
        equal(self.client.stdout.readline(), b"HTTP/1.1 101 Switching Protocols\r\n")

    def rest(self):
        try:
            return self.client.communicate(timeout=60)[0]
        finally:
            self.client.kill()


with suite.check("the container boots"):
    state = ""
    while state not in ("running", "degraded") and time.monotonic() < end and container.alive():
        state = inside("systemctl", "is-system-running", check=False)
        time.sleep(0.2)
    equal(state in ("running", "degraded"), True)

# The echo server runs outside the container but in its network, which harness.node does not support.
backend = harness.Process("echo", in_its_network("env", f"NODE_PATH={harness.INTEROP}/node/node_modules", "node", "-e", """
    const { WebSocketServer } = require('ws');
    new WebSocketServer({ host: '127.0.0.1', port: 9001 }).on('connection', (socket) => {
      socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
    });"""), directory)

with suite.check("the service becomes ready and serves a session on port 443 with a key that only root can read"):
    inside("systemctl", "start", "tollgate")
    equal(shown("ActiveState"), "active")
    time.sleep(1)  # for the echo server
    session = Session()

with suite.check("the service runs as a dynamic user with one capability and a system call filter"):
    status = pathlib.Path(f"/proc/{leader}/root/proc/{shown('MainPID')}/status").read_text()
    field = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.M))
    equal(field["Uid"].split()[0] != "0", True)
    equal({field[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")}, {f"{1 << 10:016x}"})
    equal((field["NoNewPrivs"], field["Seccomp"]), ("1", "2"))

with suite.check("`systemctl reload` signals the process, which keeps running and serving"):
    process = shown("MainPID")
    inside("systemctl", "reload", "tollgate")
    equal((shown("ActiveState"), shown("MainPID")), ("active", process))
    until(lambda: "SIGHUP" in journal() or "reload" in journal())
    Session().client.kill()

with suite.check("`systemctl reload` replaces the process if its program has changed, and the open session lives on"):
    earlier, restarts = shown("MainPID"), shown("NRestarts")
    program = root / "usr" / "local" / "bin" / "tollgate"
    beside = program.with_name("tollgate.new")
    shutil.copy(program, beside)
    with beside.open("ab") as file:
        file.write(b"\n")
    beside.replace(program)
    inside("systemctl", "reload", "tollgate")
    until(lambda: shown("MainPID") not in (earlier, "0"), 60)
    until(lambda: not pathlib.Path(f"/proc/{leader}/root/proc/{earlier}").exists(), 60)
    equal((shown("ActiveState"), shown("SubState"), shown("NRestarts")), ("active", "running", restarts))
    equal("handed over" in journal(), True)
    session.client.stdin.write(b"\x81\x85\0\0\0\0hello")
    session.client.stdin.flush()
    while session.client.stdout.readline() != b"\r\n":
        pass
    equal(session.client.stdout.read(7), b"\x81\x05hello")
    Session().client.kill()

# Without cgroup v2, systemd in a container waits at a stop for no process that it did not start.
if inside("stat", "-fc", "%T", "/sys/fs/cgroup") != "cgroup2fs":
    suite.skip("a stop after an upgrade drains", "this machine has cgroup v1")
    inside("systemctl", "restart", "tollgate")
    session = Session()

with suite.check("the state directory belongs to the service and is closed to others"):
    state = root / "var" / "lib" / "private" / "tollgate"
    equal((state.stat().st_uid != 0, state.stat().st_mode & 0o777), (True, 0o700))

with suite.check("`systemctl stop` drains: the session gets 1001, and the service ends with success"):
    inside("systemctl", "stop", "--no-block", "tollgate")
    rest = session.rest()
    equal(int.from_bytes(rest[rest.index(b"\x88"):][2:4], "big"), 1001)
    for _ in range(400):
        if shown("ActiveState") != "deactivating":
            break
        time.sleep(0.1)
    equal((shown("ActiveState"), shown("Result"), shown("ExecMainStatus")), ("inactive", "success", "0"))

with suite.check("the service is restarted after it was killed"):
    inside("systemctl", "start", "tollgate")
    inside("systemctl", "kill", "-s", "KILL", "tollgate")
    time.sleep(4)
    equal((shown("ActiveState"), shown("NRestarts")), ("active", "1"))
    Session().client.kill()

with suite.check("with a bad configuration the service fails with 78, logs the reason to the journal, and is not restarted"):
    inside("systemctl", "stop", "tollgate")
    (etc / "tollgate.toml").write_text(config + "nonsense = 1\n")
    inside("systemctl", "start", "tollgate", check=False)
    time.sleep(4)
    equal((shown("ActiveState"), shown("ExecMainStatus"), shown("NRestarts")), ("failed", "78", "0"))
    equal("nonsense" in journal(), True)

with suite.check("the socket unit listens on port 443 of IPv6 and IPv4"):
    inside("systemctl", "start", "tollgate.socket")
    equal(inside("systemctl", "is-active", "tollgate.socket"), "active")
    listening = pathlib.Path(f"/proc/{leader}/net/tcp6").read_text()
    equal(re.search(r" 0{32}:01BB 0{32}:0000 0A ", listening) is not None, True)
    ipv4 = in_its_network("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/443")
    equal(subprocess.run(ipv4, capture_output=True, timeout=20).returncode, 0)
    inside("systemctl", "stop", "tollgate.socket", "tollgate.service", check=False)

# ------------------------------------------------------------------------------------------------------------ the package


def enabled():
    return inside("systemctl", "is-enabled", "tollgate", check=False)


with suite.check("the installation of the package neither enables nor starts the service"):
    built = harness.run(sys.executable, harness.ROOT / "packaging" / "deb", "--binary", harness.BINARY, "--out", directory, seconds=120)
    shutil.copy(built.stdout.strip(), root / "root" / "tollgate.deb")
    for file in ("usr/local/bin/tollgate", "etc/systemd/system/tollgate.service", "etc/systemd/system/tollgate.socket"):
        (root / file).unlink()
    (etc / "tollgate.toml").write_text(config)
    inside("systemctl", "daemon-reload")
    inside("systemctl", "reset-failed")
    inside("dpkg", "-i", "/root/tollgate.deb")
    equal((shown("LoadState"), shown("ActiveState"), enabled()), ("loaded", "inactive", "disabled"))

with suite.check("the installed service serves, and an upgrade restarts it"):
    inside("systemctl", "enable", "--now", "tollgate")
    process = shown("MainPID")
    equal(inside("readlink", f"/proc/{process}/exe"), "/usr/bin/tollgate")
    Session().client.kill()
    inside("dpkg", "-i", "/root/tollgate.deb")
    equal((shown("ActiveState"), shown("MainPID") != process, enabled()), ("active", True, "enabled"))
    Session().client.kill()

with suite.check("a purge stops the service, and leaves neither unit nor state"):
    inside("dpkg", "--purge", "tollgate")
    equal((shown("LoadState"), shown("ActiveState")), ("not-found", "inactive"))
    links = [path for path in (root / "etc" / "systemd").rglob("*tollgate*")]
    equal((links, (root / "var" / "lib" / "private" / "tollgate").exists(), (etc / "tollgate.toml").exists()), ([], False, True))

backend.stop()
if leader:
    subprocess.run(["kill", "-s", "RTMIN+4", str(leader)], check=False)  # systemd powers off on this signal
    container.wait(30)
suite.finish()
