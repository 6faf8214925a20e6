"""The recipes whose pages Chromium opens: Jupyter and noVNC. What it does there is in tests/interop/recipes/NAME.js."""

import functools
import os
import pathlib
import secrets as randoms

import harness
import leaks
from recipes_setting import PYTHON, behind, browser, directory, needs, node, on_free_ports, service, suite, tell

SIZE = "640x480"


def jupyter():
    needs("chromium")
    folder = directory / "notebooks"
    folder.mkdir()
    token = leaks.remember(randoms.token_hex(24))
    environment = {"JUPYTER_TOKEN": token, "PATH": f"{PYTHON.parent}:{os.environ['PATH']}"}
    # A root user is refused otherwise; all other settings are the defaults.
    (port,) = on_free_ports(1, lambda port: service(
        "jupyter", port, PYTHON, "-m", "notebook", "--no-browser", "--allow-root", f"--port={port}", "--port-retries=0",
        cwd=folder, environment=environment))
    program = node("jupyter.js", folder)
    tell(program, behind("jupyter", {"127.0.0.1:8888": port}, "notebooks.example.com"), token=token, **browser())
    return functools.partial(program.run_checks, suite, 180)


def free_display():
    """Returns the number of an X display that no server uses."""
    return next(number for number in range(71, 171) if not pathlib.Path(f"/tmp/.X11-unix/X{number}").exists()
                and not pathlib.Path(f"/tmp/.X{number}-lock").exists())


def novnc():
    needs("chromium", "Xtigervnc", "websockify", "xterm")
    web = pathlib.Path("/usr/share/novnc")
    if not (web / "vnc.html").exists():
        raise harness.Skip("novnc is not installed")
    folder, display = directory / "desktop", free_display()
    folder.mkdir()
    (vnc,) = on_free_ports(1, lambda vnc: service(
        "vnc", vnc, "Xtigervnc", f":{display}", "-rfbport", vnc, "-localhost", "-SecurityTypes", "None", "-geometry", SIZE))
    # It covers the desktop, and has the keyboard while the pointer is in it.
    harness.Process("xterm", ["xterm", "-geometry", "200x60+0+0", "-e", "sh"], directory, cwd=folder,
                    env={**os.environ, "DISPLAY": f":{display}", "HOME": str(folder)})
    (port,) = on_free_ports(1, lambda port: service(
        "websockify", port, "websockify", "--web", web, f"127.0.0.1:{port}", f"127.0.0.1:{vnc}"))
    program = node("novnc.js", folder, SIZE)
    tell(program, behind("novnc", {"127.0.0.1:6080": port}, "desk.example.com"), **browser())
    return functools.partial(program.run_checks, suite)


RECIPES = {"jupyter": jupyter, "novnc": novnc}
