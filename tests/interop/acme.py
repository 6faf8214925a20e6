"""Gets certificates from Pebble by both challenges, renews them under open sessions, and meets certificate authorities that are
down, slow, refuse or answer nonsense."""

import asyncio
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import time
import urllib.request

import harness
import websockets.asyncio.client
from acme_peers import FakeAuthority, NameServer, Pebble, issued, openssl, wait_until
from harness import equal

SESSIONS = 500
VALID_SECONDS = 40  # of the certificates that are renewed
NAME, OTHER = "chat.example.test", "api.example.test"

suite = harness.Suite("acme")
harness.many_files()
directory = harness.work_dir("acme")
secrets = harness.Secrets(directory)
backend = harness.echo_backend()
names = NameServer(directory)
http_port, tls_port = harness.free_port(), harness.free_port()
counter = iter(range(1000))


def config(authority, state, http=None, domains=None, keys="", hosts=(NAME,), server=""):
    """Returns a configuration whose certificates come from an authority. `http` is the port of a plain listener."""
    plain = f'[[listener]]\naddress = "127.0.0.1:{http}"\ntls = false\nredirect = "https"\n' if http else ""
    listed = f"domains = {json.dumps(domains)}\n" if domains else ""
    routes = "".join(harness.route(f"echo-{host}", "/echo", "echo", host=f'"{host}"') for host in hosts)
    return (f'[server]\nstate_dir = "{state}"\n{server}[[listener]]\naddress = "127.0.0.1:@PORT@"\nacme = "test"\n{plain}'
            f'[acme.test]\ndirectory = "{authority.directory_url}"\naccept_terms = true\nca = "{secrets.ca}"\n{listed}{keys}'
            + harness.upstream("echo", backend) + routes)


def new_state():
    state = directory / f"state-{next(counter)}"
    state.mkdir(mode=0o700)
    return state


class Tollgate(harness.Process):
    """`tollgate run`. Other ports than that of its first listener may listen later."""

    def __init__(self, text, port, name=None, **options):
        name = name or f"tollgate-{next(counter)}"
        file = directory / f"{name}.toml"
        file.write_text(text.replace("@PORT@", str(port)))
        self.file, self.port = file, port
        super().__init__(name, [harness.BINARY, "run", "--config", file], directory, **options)
        wait_until(lambda: harness.accepts(port) or not self.alive(), f"{name} listens")
        if not self.alive():
            raise RuntimeError(f"{name} did not start:\n{self.output()[-3000:]}")


def lines(proxy, message=None):
    """Returns the lines of its log, those with this message if there is one."""
    parsed = [json.loads(line) for line in proxy.output().splitlines() if line.startswith("{")]
    fields = [line.get("fields", line) for line in parsed]
    return [line for line in fields if message is None or message in line.get("message", "")]


def wait_for(proxy, message, count=1, seconds=20):
    return wait_until(lambda: (found := lines(proxy, message)) and len(found) >= count and found, f"{message!r} in the log\n" + proxy.output()[-3000:], seconds)


def files(state):
    """Returns the files of a state directory with their modes."""
    return {str(path.relative_to(state)): stat.S_IMODE(path.stat().st_mode) for path in sorted(state.rglob("*"))}


def handshake_alert(port, name, *arguments):
    return openssl(port, name, *arguments)


with suite.check("TLS-ALPN-01: the first certificate is issued, stored for the owner only, and serves a session"):
    pebble = Pebble(directory, secrets, names, http_port, tls_port)
    state = new_state()
    begun = time.monotonic()
    proxy = Tollgate(config(pebble, state), tls_port)
    wait_for(proxy, "a certificate was issued")
    suite.note(f"first certificate by TLS-ALPN-01 after {time.monotonic() - begun:.2f} s")
    issued(tls_port, NAME, pebble.client_context())
    equal(lines(proxy, "TLS-ALPN-01") != [], True)
suite.finish()
