"""A root file system with the essential Debian packages of this machine, for tests of packages.

debootstrap needs the network and a minute. This root is made in seconds of the files that dpkg lists for the essential
packages and their dependencies, with their entries in dpkg's database, so that dpkg works inside it as on a new system.
"""

import os
import pathlib
import re
import shutil
import stat
import subprocess

DPKG = pathlib.Path("/var/lib/dpkg")
LEFT_OUT = re.compile(r"/usr/share/(doc|man|locale|info|i18n|perl|zoneinfo)/|/(boot|dev|proc|sys|run|tmp)/|/usr/lib/.*/(gconv|perl)/")
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


def installed():
    """Returns the entry of each package that is installed on this machine, by name."""
    entries = {}
    for entry in (DPKG / "status").read_text().split("\n\n"):
        field = dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", entry, re.M))
        if field.get("Status") == "install ok installed":
            entries[field["Package"]] = (field, entry)
    return entries


def closure(entries):
    """Returns the names of the essential packages and of what they depend on."""
    found, queue = set(), [name for name, (field, _) in entries.items() if field.get("Essential") == "yes"]
    while queue:
        name = queue.pop()
        if name in found:
            continue
        found.add(name)
        field = entries[name][0]
        for group in f"{field.get('Depends', '')},{field.get('Pre-Depends', '')}".split(","):
            alternatives = [re.split(r"[\s:(]", one.strip())[0] for one in group.split("|")]
            queue += [one for one in alternatives if one in entries][:1]
    return found


class CleanRoot:
    """The root below `path`. It needs root privileges."""

    def __init__(self, path):
        self.path = path
        entries = installed()
        packages = closure(entries)
        for name, target in LINKS.items():
            (path / target).mkdir(parents=True, exist_ok=True)
            (path / name).symlink_to(target)
        for name in ("dev", "etc", "proc", "run", "tmp", "var/log", "var/lib/dpkg/info", "var/lib/dpkg/updates"):
            (path / name).mkdir(parents=True, exist_ok=True)
        for name, minor in (("null", 3), ("urandom", 9)):
            os.mknod(path / "dev" / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
            (path / "dev" / name).chmod(0o666)
        for package in sorted(packages):
            for info in [*DPKG.glob(f"info/{package}.*"), *DPKG.glob(f"info/{package}:*.*")]:
                shutil.copy2(info, path / "var/lib/dpkg/info")
                if info.suffix == ".list":
                    self.copy(info.read_text().splitlines())
        status = "\n\n".join(entries[package][1].strip() for package in sorted(packages))
        (path / "var/lib/dpkg/status").write_text(status + "\n\n")
        for name in ("passwd", "group"):
            shutil.copy(f"/etc/{name}", path / "etc")
        self.run("dpkg", "--triggers-only", "--pending")  # of the packages themselves, such as ldconfig

    def copy(self, files):
        for file in files:
            source, target = pathlib.Path(file), self.path / file.lstrip("/")
            if LEFT_OUT.search(file + "/") or target.is_symlink():
                continue
            if source.is_symlink() and file.lstrip("/") not in LINKS:
                target.symlink_to(os.readlink(source))
            elif source.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            elif source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)

    def command(self, *command):
        """Returns the command that runs `command` inside."""
        return ["chroot", str(self.path), *map(str, command)]

    def run(self, *command, seconds=60):
        """Runs a command inside to its end, and returns its output. Raises if it fails."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(self.command(*command), env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=seconds)
        if done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stdout[-800:]}{done.stderr[-800:]}")
        return done.stdout + done.stderr

    def paths(self):
        """Returns every path inside, except those that dpkg keeps about itself."""
        found = set()
        for folder, folders, files in os.walk(self.path):
            found |= {os.path.relpath(os.path.join(folder, name), self.path) for name in folders + files}
        return {path for path in found if not re.match(r"var/(lib/dpkg|log|cache)(/|$)", path)}
