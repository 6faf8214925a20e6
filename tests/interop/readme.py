"""Runs the commands in README.md.

README.md has to follow these rules:

- Every block fenced as ```sh runs, in order, in a `bash -euo pipefail` of its own: variables do not carry over to the next
  block. It must exit with 0 within 120 seconds, without input.
- Blocks run in a fresh copy of the checkout, in which `tollgate` is on the PATH and `cargo` builds the original checkout, so
  nothing is built twice. A block may write files for the blocks after it.
- A block whose only line starts `demo` or `run` (`cargo run --release -- demo`, `tollgate run --config ...`) or a Python
  script (`venv/bin/python service.py`) keeps running in the background during the blocks after it. Within 30 seconds it must
  print the port on which it listens (`https://localhost:PORT`, `wss://localhost:PORT` or `ws://localhost:PORT`), or accept
  connections on the port of `address = "..."` in its --config file. It gets SIGTERM at the end, and must then exit with 0
  unless it is a script.
- Blocks fenced as ```sh no-run do not run: they need root, change the machine, or take long. `tests/run` must be in such a
  block.
- Blocks fenced as ```toml FILE and ```python FILE are written to FILE in the copy, for the blocks after it. A client
  (`client.py`) needs a block of its own that runs it.
- All other blocks are ignored.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import harness
import leaks

BLOCK_SECONDS = 120
START_SECONDS = 30
BACKGROUND = re.compile(r"^(exec )?((cargo run --release (--quiet )?--|(\./)?(target/release/)?tollgate) (demo|run)( |$)|venv/bin/python )")
CARGO = """#!/bin/sh
# In the copy, cargo builds the original checkout.
case ${{1:--}} in -*) exec {cargo} "$@" ;; esac
command=$1; shift
exec {cargo} "$command" --manifest-path {manifest} "$@"
"""

suite = harness.Suite("readme")
readme = harness.ROOT / "README.md"
if not readme.exists():
    suite.skip("README.md", "README.md does not exist")
    suite.finish()

blocks = re.findall(r"^```([^\n]*)\n(.*?)^```$", readme.read_text(), re.M | re.S)
directory = harness.work_dir("readme")
copy = directory / "tollgate"
for name in harness.run("git", "-C", harness.ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout.split("\0"):
    source = harness.ROOT / name
    if name and source.is_file():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, copy / name)

programs = directory / "bin"
programs.mkdir()
(programs / "tollgate").symlink_to(harness.BINARY)
if shutil.which("cargo"):
    shim = programs / "cargo"
    shim.write_text(CARGO.format(cargo=shutil.which("cargo"), manifest=harness.ROOT / "Cargo.toml"))
    shim.chmod(0o755)
(copy / "target" / "release").mkdir(parents=True)
(copy / "target" / "release" / "tollgate").symlink_to(harness.BINARY)
environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "CARGO_TARGET_DIR": str(harness.TARGET)}
background = []


def foreground(script):
    shell = subprocess.Popen(["bash", "-euo", "pipefail", "-c", script], cwd=copy, env=environment, text=True,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             start_new_session=True)
    try:
        output, _ = shell.communicate(timeout=BLOCK_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)  # the shell's own group
        raise AssertionError(f"not finished after {BLOCK_SECONDS} s: {shell.communicate()[0][-1000:]}") from None
    print(*(f"        {line}" for line in output.splitlines()[-15:]), sep="\n")
    harness.equal(shell.returncode, 0)


def in_background(script):
    process = harness.Process(f"background-{len(background)}", ["bash", "-euo", "pipefail", "-c", f"exec {script}"],
                              directory, cwd=copy, env=environment)
    background.append(process)
    if script.startswith("tollgate run"):
        leaks.watch(process.log)
    config = re.search(r"--config[ =](\S+)", script)
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.alive():
        said = process.output()
        if config and (copy / config[1]).exists():
            said += (copy / config[1]).read_text()
        ports = re.findall(r"(?:(?:https|wss?)://localhost|^address = \"[^\"]*):(\d+)", said, re.M)
        if ports and harness.accepts(int(ports[0])):
            return
        time.sleep(0.1)
    raise AssertionError(f"it does not listen (exit code {process.popen.poll()}): {process.output()[-1000:]}")


ran = 0
for info, script in blocks:
    script = script.strip()
    kind, _, rest = info.strip().partition(" ")
    title = script.splitlines()[0][:100] if script else "an empty block"
    if kind in ("toml", "python") and rest:
        file = copy / pathlib.PurePosixPath(rest)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(script + "\n")
    elif kind == "sh" and rest == "":
        ran += 1
        with suite.check(title):
            if "tests/run" in script:
                raise AssertionError("a block with tests/run must be `sh no-run`: this suite is a part of it")
            if BACKGROUND.match(script) and "\n" not in script:
                in_background(script)
            else:
                foreground(script)
    elif kind == "sh" and rest != "no-run":
        suite.fail(title, f"unknown mark {rest!r} after ```sh")
with suite.check("README.md has blocks to run"):
    harness.equal(ran > 0, True)
for process in reversed(background):
    if "python" in process.popen.args[-1]:
        process.stop(40)
        continue
    with suite.check(f"{process.popen.args[-1]}: exits with 0 on SIGTERM"):
        harness.equal(process.stop(40), 0)
suite.finish()
