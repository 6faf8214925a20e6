"""Builds the Debian package of the binary, installs it in a clean root, runs the service from the installed files, and
removes it.

The clean root is made of the essential packages of this machine (clean_root.py), which needs root privileges and no network.
It has no systemd: a program in its place records what the maintainer scripts ask for.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import harness
from clean_root import CleanRoot
from harness import Skip, equal

SCRIPTS = ("postinst", "prerm", "postrm")
UNITS = ("tollgate.service", "tollgate.socket")
# The stand-in for systemctl. The service counts as active.
SYSTEMCTL = """#!/bin/sh
echo "$*" >>/systemctl.log
"""

suite = harness.Suite("package")
if shutil.which("dpkg-deb") is None or shutil.which("dpkg-shlibdeps") is None:
    suite.skip("the package", "dpkg-dev is not installed")
    suite.finish()

directory = harness.work_dir("package")
built = harness.run(sys.executable, harness.ROOT / "packaging" / "deb", "--binary", harness.BINARY, "--out", directory, seconds=120)
package = pathlib.Path(built.stdout.strip())
contents = harness.run("dpkg-deb", "--contents", package).stdout.splitlines()
files = {line.split()[5].removeprefix("./"): line.split()[:2] for line in contents if not line.startswith("d")}

# -------------------------------------------------------------------------------------------------------------- the package

with suite.check("it has a name, a version, a maintainer that is not a person, and its dependencies"):
    field = dict(re.findall(r"^ ?([\w-]+): (.*)$", harness.run("dpkg-deb", "--field", package).stdout, re.M))
    version = harness.run(harness.BINARY, "--version").stdout.split()[1]
    equal((field["Package"], field["Version"]), ("tollgate", f"{version}-1"))
    equal(field["Maintainer"].startswith("Tollgate developers <"), True)
    equal("libc6 (>= " in field["Depends"], True)

with suite.check("it has the program, units, man pages, completions, documents, and nothing in /etc"):
    subcommands = re.findall(r"^  (\w+) ", harness.run(harness.BINARY, "--help").stdout, re.M)
    wanted = {
        "usr/bin/tollgate",
        *(f"usr/lib/systemd/system/{unit}" for unit in UNITS),
        *(f"usr/share/man/man1/{name}.1.gz" for name in ["tollgate", *(f"tollgate-{one}" for one in subcommands)]),
        "usr/share/bash-completion/completions/tollgate",
        "usr/share/zsh/vendor-completions/_tollgate",
        "usr/share/fish/vendor_completions.d/tollgate.fish",
        *(f"usr/share/doc/tollgate/{name}" for name in
          ["README.md", "changelog.Debian.gz", "copyright", "third-party-notices.gz"]),
    }
    examples = {file for file in files if file.startswith("usr/share/doc/tollgate/examples/")}
    equal(set(files) - examples, wanted)
    names = {pathlib.PurePath(file).name for file in examples}
    equal(names >= {"tollgate.toml", "schema.json", "notify-reload.conf", "authentication.md", "identity-providers.md",
                    "load-balancers.md", "socket-io.toml"}, True)

with suite.check("every file belongs to root and is writable for root alone; only the program is executable"):
    modes = {file: "-rwxr-xr-x" if file == "usr/bin/tollgate" else "-rw-r--r--" for file in files}
    equal(files, {file: [mode, "root/root"] for file, mode in modes.items()})

with suite.check("the same sources give the same package"):
    again = directory / "again"
    harness.run(sys.executable, harness.ROOT / "packaging" / "deb", "--binary", harness.BINARY, "--out", again, seconds=120)
    equal((again / package.name).read_bytes() == package.read_bytes(), True)

with suite.check("lintian reports no error and no warning"):
    if shutil.which("lintian") is None:
        raise Skip("lintian is not installed")
    done = subprocess.run(["lintian", "--allow-root", "--suppress-tags", "initial-upload-closes-no-bugs", package],
                          capture_output=True, text=True, timeout=120)
    equal((done.returncode, done.stdout), (0, ""))

# ------------------------------------------------------------------------------------------------------------ the clean root

if os.geteuid() != 0:
    suite.skip("the package in a clean root", "this needs root privileges")
    suite.finish()

root = CleanRoot(directory / "root")
inside = lambda path: root.path / path.lstrip("/")
inside("/usr/bin/systemctl").write_text(SYSTEMCTL)
inside("/usr/bin/systemctl").chmod(0o755)
inside("/run/systemd/system").mkdir(parents=True)
inside("/systemctl.log").touch()
shutil.copy(package, inside("/tmp/tollgate.deb"))
before = root.paths()


def asked():
    """Returns what was asked of systemd since the last call."""
    lines = inside("/systemctl.log").read_text().splitlines()
    inside("/systemctl.log").write_text("")
    return [line.removeprefix("--system ") for line in lines]


with suite.check("it installs in a clean root, and the service is neither enabled nor started"):
    root.run("dpkg", "-i", "/tmp/tollgate.deb")
    equal(root.run("dpkg-query", "-W", "-f", "${Status}", "tollgate"), "install ok installed")
    equal(root.run("dpkg", "--audit"), "")
    equal(asked(), ["daemon-reload"])
    new = {path for path in root.paths() - before if not inside(path).is_dir()}
    equal(new - set(files), {path for path in new if path.startswith("var/lib/systemd/deb-systemd-helper")})

with suite.check("the unit is that of the sources, and starts the installed program"):
    unit = inside("/usr/lib/systemd/system/tollgate.service").read_text()
    source = (harness.ROOT / "systemd" / "tollgate.service").read_text()
    equal(unit, source.replace("/usr/local/bin/", "/usr/bin/"))
    start = re.search(r"^ExecStart=(.*)$", unit, re.M)[1].split()
    equal(start[0], "/usr/bin/tollgate")
    equal(root.run(start[0], "--version"), f"tollgate {version}\n")

with suite.check("bash completes subcommands and options"):
    script = 'source /usr/share/bash-completion/completions/tollgate; COMP_WORDS=(tollgate "$@"); COMP_CWORD=$#; '
    complete = lambda *words: root.run("bash", "-c", script + '_tollgate tollgate "${*: -1}" "${*: -2:1}"; echo "${COMPREPLY[@]}"',
                                       "bash", *words).split()
    equal("check" in complete("ch"), True)
    equal("--credentials" in complete("check", "--cr"), True)
    equal("zsh" in complete("completions", "z"), True)

# ------------------------------------------------------------------------------------------ the example of README.md, installed

blocks = dict(re.findall(r"^```(?:toml|python) (\S+)\n(.*?)^```$", (harness.ROOT / "README.md").read_text(), re.M | re.S))
secrets = harness.Secrets(directory)
ports = {"9001": harness.free_port(), "9443": harness.free_port()}
etc, credentials = inside("/etc/tollgate"), inside("/run/credentials/tollgate.service")


def with_ports(text):
    for written, port in ports.items():
        text = re.sub(rf"\b{written}\b", str(port), text)
    return text


def start_peer(name):
    (directory / name).write_text(with_ports(blocks[name]))
    return [sys.executable, directory / name]


with suite.check("`tollgate check` accepts the configuration of README.md, with its key as a credential"):
    etc.mkdir()
    credentials.mkdir(parents=True)
    shutil.copy(secrets.dir / "localhost.pem", etc / "tls.pem")
    shutil.copy(secrets.dir / "localhost.key", credentials / "tls.key")
    shutil.copy(secrets.public, etc / "token-public.pem")
    shutil.copy(secrets.key, inside("/tmp/token-key.pem"))
    certificate = 'certificates = [{ chain = "tls.pem", key = "credential:tls.key" }]'
    config, count = re.subn(r"^certificates = .*$", certificate, with_ports(blocks["tollgate.toml"]), flags=re.M)
    equal(count, 1)
    (etc / "tollgate.toml").write_text(config)
    said = root.run("tollgate", "check", "--credentials", "/run/credentials/tollgate.service")
    equal("/etc/tollgate/tollgate.toml: ok (1 listener, 1 route, 1 upstream)" in said, True)

with suite.check("the command of the unit serves the example of README.md: a client's message is answered"):
    service = harness.Process("service", start_peer("service.py"), directory)
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "CREDENTIALS_DIRECTORY": "/run/credentials/tollgate.service"}
    proxy = harness.Process("tollgate", root.command(*start), directory, env=environment)
    end = time.monotonic() + harness.READY_SECONDS
    while not (harness.accepts(ports["9001"]) and harness.accepts(ports["9443"])):
        equal((proxy.alive(), service.alive(), time.monotonic() < end), (True, True, True))
        time.sleep(0.05)
    token = root.run("tollgate", "token", "--key", "/tmp/token-key.pem", "--subject", "ann", "--issuer",
                     "https://id.example.com/", "--audience", "chat", "--claim", "room=blue").strip()
    environment = {**os.environ, "TOKEN": token, "SSL_CERT_FILE": str(secrets.ca)}
    equal(harness.run(*start_peer("client.py"), env=environment).stdout, "ann said hello\n")
    equal(proxy.stop(), 0)
    service.stop()

# -------------------------------------------------------------------------------------------------- upgrade, removal, purge

with suite.check("an upgrade restarts the service if it runs, and does not start or enable it"):
    asked()
    root.run("dpkg", "-i", "/tmp/tollgate.deb")
    equal(asked(), ["daemon-reload", "try-restart tollgate.service"])

with suite.check("a removal stops the service and the socket, and leaves the configuration"):
    # As `systemctl enable` does; the state is as the service leaves it under DynamicUser=.
    link = inside("/etc/systemd/system/multi-user.target.wants/tollgate.service")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to("/usr/lib/systemd/system/tollgate.service")
    inside("/var/lib/private/tollgate").mkdir(parents=True)
    inside("/var/lib/private/tollgate/revoked.json").write_text("[]")
    inside("/var/lib/tollgate").symlink_to("private/tollgate")
    root.run("dpkg", "--remove", "tollgate")
    equal(asked(), ["stop tollgate.socket tollgate.service", "daemon-reload"])
    equal([file for file in files if inside(file).exists()], [])
    equal((etc / "tollgate.toml").exists() and inside("/var/lib/tollgate/revoked.json").exists(), True)

with suite.check("after a purge nothing is left but the files of the administrator"):
    root.run("dpkg", "--purge", "tollgate")
    equal(subprocess.run(root.command("dpkg-query", "-s", "tollgate"), capture_output=True, timeout=20).returncode, 1)
    for path in [etc, inside("/run/credentials")]:
        shutil.rmtree(path)
    inside("/tmp/token-key.pem").unlink()
    left = sorted(root.paths() - before)
    equal(left, ["var/lib/private"] if "var/lib/private" in left else [])  # shared by all services of DynamicUser=
    equal(sorted(before - root.paths()), [])
suite.finish()
