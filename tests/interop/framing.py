"""Tests requests with odd framings: what Tollgate passes on is what nginx, HAProxy and a strict reader of RFC 9112 read.

Each request of framing_table.py goes, with a probe behind it, to nginx, to HAProxy and to Tollgate, each in front of a recorder of
its own, and to Tollgate in front of nginx and of HAProxy. The bytes that Tollgate forwarded are then sent to nginx and to HAProxy
once more, each with a probe behind them. The notes list the requests that nginx or HAProxy read in another way than the strict
reader, and what Tollgate did with them.
"""

import shutil
import time

import framing_reader
import framing_table
import harness
from framing_wire import Recorder, Wire
from harness import Process, Proxy, Suite, equal, free_port

SECONDS = 15
PEERS = ("nginx", "haproxy")
PROBE = framing_reader.read(framing_table.PROBE).requests
UNSAFE = (b"content-length", b"transfer-encoding", b"host")  # RFC 9110 section 6.5.1

suite = Suite("framing")
folder = harness.work_dir("framing")
# The recorders by the path of a request: through nginx or HAProxy, or through Tollgate and one of these, or through Tollgate alone.
recorders = {name: Recorder() for name in (*PEERS, "tollgate", *(f"tollgate to {peer}" for peer in PEERS))}
wire = Wire(recorders.values())
ports = {name: free_port() for name in recorders if name != "tollgate"}

# The times after which a proxy gives up a request that never ends.
TIMES = 'handshake_timeout = "1s"\nbody_timeout = "1s"\nkeep_alive_timeout = "1s"'

HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 1s
    timeout server 2s
    timeout http-request 1s
    timeout http-keep-alive 1s
    retries 0
"""


def haproxy_config():
    parts = [HAPROXY]
    for name, path in (("direct", "haproxy"), ("behind", "tollgate to haproxy")):
        parts.append(f"frontend {name}\n    bind 127.0.0.1:{ports[path]}\n    use_backend recorder_{name}\n"
                     f"backend recorder_{name}\n    server recorder 127.0.0.1:{recorders[path].port}\n")
    return "".join(parts)


def nginx_config():
    temporary = "".join(f"    {kind}_temp_path {folder}/nginx-{kind};\n"
                        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    servers = "".join(f"""
    server {{
        listen 127.0.0.1:{ports[path]};
        server_name nginx.test;
        location / {{
            proxy_pass http://127.0.0.1:{recorders[path].port};
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Connection "";
        }}
    }}
""" for path in ("nginx", "tollgate to nginx"))
    return f"""
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.err;
user root;
worker_processes 1;
events {{ worker_connections 500; }}
http {{
    access_log off;
    client_header_timeout 1s;
    client_body_timeout 1s;
    keepalive_timeout 1s;
    lingering_timeout 1s;
{temporary}{servers}
}}
"""


def start(name, *command):
    """Starts a peer, and waits until it listens."""
    if not shutil.which(command[0]):
        raise RuntimeError(f"{command[0]} is not installed")
    process = Process(name, command, folder)
    end = time.monotonic() + SECONDS
    while not all(harness.accepts(port) for path, port in ports.items() if path.endswith(name)):
        if time.monotonic() > end or not process.alive():
            raise RuntimeError(f"{name} did not start:\n{process.output()[-2000:]}")
        time.sleep(0.02)


def tollgate(name, port):
    config = "\n".join([
        "[server]\nworkers = 1\n",
        f'[[listener]]\naddress = "127.0.0.1:@PORT@"\ntls = false\n{TIMES}\n',
        harness.upstream("next", port),
        harness.route("all", "/{*rest}", "next", http="true"),
    ])
    return Proxy(config, folder, name)


class Outcome:
    """What one path made of the bytes of a client: the statuses that the client got, and the requests that arrived."""

    def __init__(self, statuses, records):
        self.statuses = statuses
        self.forwarded = [record for record in records if record]
        self.readings = [framing_reader.read(record) for record in self.forwarded]
        self.requests = [request for reading in self.readings for request in reading.requests]

    def is_start_of(self, expected):
        return len(self.requests) <= len(expected) and all(map(framing_reader.Request.same, self.requests, expected))

    def __str__(self):
        statuses = " ".join(map(str, self.statuses)) or "closed"
        arrived = [part for reading in self.readings for part in (*map(str, reading.requests), reading.rest) if part]
        return f"{statuses} ({'; '.join(arrived) or 'nothing'})"


def send(jobs):
    """Sends bytes along each of these paths at the same time, and returns the outcomes. `jobs` are of path and bytes."""
    for recorder in recorders.values():
        recorder.take()
    statuses = wire.exchange([(entries[path], data) for path, data in jobs])
    return [Outcome(got, recorders[path].take()) for (path, _), got in zip(jobs, statuses, strict=True)]


def check_hop(got, wanted, direct):
    """Raises unless a next hop reads the requests that it was sent. It may reject one that it rejects from a client, too."""
    rest = list(got)
    for request in wanted:
        if rest and request.same(rest[0]):
            rest.pop(0)
        elif any(map(request.same, direct)):
            break
    else:
        if not rest:
            return
    raise AssertionError(f"the next hop reads {'; '.join(map(str, got))}, and was sent {'; '.join(map(str, wanted))}")


def check(data, passes):
    """Sends a row along all paths. Returns what nginx, HAProxy and Tollgate made of it."""
    strict = framing_reader.read(data)
    outcomes = dict(zip(entries, send([(path, data) for path in entries]), strict=True))
    ours = outcomes["tollgate"]
    seen.update(outcomes=outcomes, strict=strict)
    # What arrived through Tollgate is what the strict reader reads in the client's bytes, with nothing before, between or behind.
    if not ours.is_start_of(strict.requests):
        raise AssertionError(f"Tollgate: {ours}; the strict reader: {'; '.join(map(str, strict.requests))} {strict.rest}")
    for reading in ours.readings:
        if reading.requests:
            equal((reading.rest, len(reading.requests)), ("", 1))
        else:
            equal(reading.rest, "incomplete")
    passed = [request for request in ours.requests if not request.same(PROBE[0])]
    if passes:
        equal((bool(passed), [status for status in ours.statuses if status not in (100, 200)]), (True, []))
        # A trailer that was not announced may be dropped, and one that a recipient could take for the framing has to be.
        for request, wanted in zip(ours.requests, strict.requests, strict=False):
            equal([field for field in request.trailers if field not in wanted.trailers or field[0] in UNSAFE], [])
        for peer in PEERS:
            if not outcomes[peer].is_start_of(strict.requests):
                raise AssertionError(f"Tollgate passes on what {peer} reads in another way: {outcomes[peer]}")
    else:
        equal(passed, [])
        equal([status for status in ours.statuses if status < 400], [])
    # The next hop reads the same, in what Tollgate sends itself, and in the same bytes with a probe behind them.
    for peer in PEERS:
        check_hop(outcomes[f"tollgate to {peer}"].requests, ours.requests, outcomes[peer].requests)
    for record, reading in zip(ours.forwarded, ours.readings, strict=True):
        if reading.requests:
            for peer, again in zip(PEERS, send([(peer, record + framing_table.PROBE) for peer in PEERS]), strict=True):
                try:
                    check_hop(again.requests, reading.requests + PROBE * bool(again.requests), outcomes[peer].requests)
                except AssertionError as error:
                    raise AssertionError(f"{peer}, sent {record[:400]!r}: {error}") from None


def differs(outcomes, strict):
    """Returns whether nginx or HAProxy reads other requests than the strict reader, or one passes what the other rejects."""
    for peer in PEERS:
        malformed = any(reading.is_malformed() for reading in outcomes[peer].readings)
        if malformed or not outcomes[peer].is_start_of(strict.requests):
            return True
    nginx, haproxy = (outcomes[peer].requests for peer in PEERS)
    return len(nginx) != len(haproxy)


(folder / "haproxy.cfg").write_text(haproxy_config())
(folder / "nginx.conf").write_text(nginx_config())
start("haproxy", "haproxy", "-q", "-f", folder / "haproxy.cfg")
start("nginx", "nginx", "-e", folder / "nginx.err", "-c", folder / "nginx.conf")
entries = {
    **{peer: ports[peer] for peer in PEERS},
    "tollgate": tollgate("tollgate", recorders["tollgate"].port).port,
    **{f"tollgate to {peer}": tollgate(f"tollgate-{peer}", ports[f"tollgate to {peer}"]).port for peer in PEERS},
}

seen, table = {}, []
for row, data, passes in framing_table.rows():
    seen.clear()
    with suite.check(row):
        check(data, passes)
    if seen and differs(**seen):
        table.append((row, *(str(seen["outcomes"][path]) for path in (*PEERS, "tollgate"))))

with suite.check("a trailer that was announced arrives"):
    data = framing_table.encode(framing_table.ANNOUNCED) + framing_table.PROBE
    [outcome] = send([("tollgate", data)])
    equal([request.trailers for request in outcome.requests], [((b"x-t", b"a"),), ()])

suite.note(f"{len(table)} requests that nginx and HAProxy, or one of them and the strict reader, read differently; each with the "
           "statuses, and the requests that arrived behind the proxy:")
for row, nginx, haproxy, ours in table:
    suite.note(f"{row}: nginx {nginx}, HAProxy {haproxy}, Tollgate {ours}")
suite.finish()
