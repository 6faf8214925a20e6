"""What the recipes share: their configurations on free ports, the programs of tests/interop/recipes, and their services.

With `--direct` the clients connect to the services without Tollgate. A failure that remains is one of the service, the client
or the test.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import aiohttp

import harness

RECIPES = harness.ROOT / "config/recipes"
PROGRAMS = harness.HERE / "recipes"
PYTHON = harness.INTEROP / "recipes/bin/python"  # with the packages of recipes/requirements.txt
CLIENT = "127.0.0.7"  # the address of the clients; Tollgate connects from 127.0.0.1
SECONDS = 20
ATTEMPTS = 3
READY_SECONDS = 60  # the first start of a service compiles its modules
DIRECT = "--direct" in sys.argv

suite = harness.Suite("recipes")
directory = harness.work_dir("recipes")
secrets = harness.Secrets(directory)
# What the clients trust, without an option of theirs.
os.environ |= {"NODE_EXTRA_CA_CERTS": str(secrets.ca), "SSL_CERT_FILE": str(secrets.ca)}


def session(proxy, source=CLIENT, **options):
    """Returns an HTTP client that connects from this address."""
    connector = aiohttp.TCPConnector(ssl=secrets.client_context(), local_addr=(source, 0), family=socket.AF_INET)
    return aiohttp.ClientSession(proxy.url("", "https"), connector=connector, timeout=aiohttp.ClientTimeout(total=SECONDS),
                                 **options)


def needs(*programs):
    """Skips the rest of a recipe if a program is not installed."""
    for program in programs:
        if not shutil.which(program):
            raise harness.Skip(f"{program} is not installed")


def replaced(text, old, new):
    if old not in text:
        raise AssertionError(f"the recipe has no {old!r}")
    return text.replace(old, new)


def filled(name, servers, host, page=None, changes=(), public="@PORT@"):
    """Returns the text of a recipe in which only this machine's addresses, names and files are replaced.

    `servers` has the port for each address of an upstream or URL, `host` is the host of the routes, `page` the one of the
    pages in `origins`, if that is another one, and `public` the port that clients connect to, if that is another one."""
    text = (RECIPES / f"{name}.toml").read_text()
    text = replaced(text, '"0.0.0.0:443"', '"127.0.0.1:@PORT@"')
    text = replaced(text, '"fullchain.pem"', f'"{secrets.dir}/localhost.pem"')
    text = replaced(text, '"privkey.pem"', f'"{secrets.dir}/localhost.key"')
    for address, port in servers.items():
        text = replaced(text, address, f"127.0.0.1:{port}")
    if "\norigins = " in text:
        text = replaced(text, f'"https://{page or host}"', f'"https://localhost:{public}"')
    text = replaced(text, f'"{host}"', '"localhost"')
    for old, new in changes:
        text = replaced(text, old, new)
    return text


class Direct:
    """The service itself, in the place of the proxy."""

    def __init__(self, port):
        self.port = port

    def url(self, path="/", scheme="wss"):
        return f"{scheme.removesuffix('s')}://localhost:{self.port}{path}"


def behind(recipe, servers, host, name=None, **options):
    """Starts Tollgate with a recipe, or returns the first of the services with `--direct`."""
    if DIRECT:
        return Direct(next(iter(servers.values())))
    return harness.Proxy(filled(recipe, servers, host, **options), directory, name=name or recipe)


def ready(process, port):
    """Waits until a service listens."""
    end = time.monotonic() + READY_SECONDS
    while process.alive() and time.monotonic() < end:
        if harness.accepts(port):
            return process
        time.sleep(0.05)
    raise RuntimeError(f"{process.name} did not start:\n{process.output()[-3000:]}")


def on_free_ports(count, start):
    """Starts something on free ports, and again on others if another program took one of them first. Returns the ports."""
    for attempt in range(ATTEMPTS):
        ports = [harness.free_port() for _ in range(count)]
        try:
            start(*ports)
            return ports
        except RuntimeError as error:
            print(f"        {error}", flush=True)
            if attempt + 1 == ATTEMPTS:
                raise
    return None


def service(name, port, *command, environment=None, **options):
    """Starts a service, and waits until it listens. Its home and temporary files are in the directory of the suite."""
    home = directory / f"{name}-home"
    home.mkdir(exist_ok=True)
    variables = {**os.environ, "HOME": str(home), "TMPDIR": str(home), **(environment or {})}
    return ready(harness.Process(name, command, directory, env=variables, **options), port)


NGINX = """
daemon off;
pid {base}.pid;
error_log {base}.err;
user root;
worker_processes 1;
events {{ worker_connections 4000; }}
http {{
access_log off;
map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
{temporary}{lines}{server}}}
"""


def nginx(name, port, server, lines=""):
    """Starts nginx with the inner lines of a server on this port, and with lines beside it."""
    base = directory / f"nginx-{name}"
    temporary = "".join(f"{kind}_temp_path {base}-{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    block = f"server {{\nlisten 127.0.0.1:{port}{' ssl' if 'ssl_certificate' in server else ''};\n{server}\n}}\n"
    file = base.with_suffix(".conf")
    file.write_text(NGINX.format(base=base, temporary=temporary, lines=lines, server=block))
    return ready(harness.Process(base.name, ["nginx", "-e", f"{base}.err", "-c", file], directory), port)


def node(script, *arguments):
    return harness.Node(PROGRAMS / script, directory, *arguments)


def browser():
    """Returns the executable of Chromium and the key that it is to trust, or nothing without Chromium."""
    executable = shutil.which("chromium")
    return {"chromium": executable, "spki": harness.spki(secrets.dir / "localhost.pem")} if executable else {}


def python(script, *arguments):
    """Starts a program with the packages of the recipes, which has checks of its own."""
    return harness.Program(harness.Process(
        pathlib.Path(script).stem, [PYTHON, PROGRAMS / script, *arguments], directory, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True))


def tell(program, proxy, **facts):
    """Sends a program the address of the proxy, so that its checks begin."""
    program.tell(base=proxy.url("", "https"), proxied=not DIRECT, **facts)
