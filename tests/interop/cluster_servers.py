"""Tests each form of server that a cluster may have: Redis and Valkey with TLS and users, a Unix socket, sentinels with a failover, and
a Redis Cluster."""

import asyncio
import os
import subprocess
import signal
import time

import websockets.asyncio.client
import websockets.exceptions

import harness
from cluster_nodes import SERVER, Node, Nodes, Redis, call, close_all, until, wait_for_nodes
from harness import Process, Suite, equal

PASSWORD = "a-password-of-redis"
NODES = 3
RATE = 50  # also the burst
EXCESS = 1.2  # what shares without a lease may add
RACING, LIMIT = 600, 50

suite = Suite("cluster_servers")
directory = harness.work_dir("cluster-servers")
secrets = harness.Secrets(directory)
backend = harness.echo_backend()


def configuration(sessions=NODES):
    """Returns the configuration of a node without the cluster, with a limit of sessions by subject."""
    limits = {"message_rate": f'"{RATE}/s"', "rate_key": '"subject"', "on_excess": '"delay"', "sessions_per_subject": sessions}
    return "".join(['[server]\nworkers = 1\n', harness.listener(secrets), harness.auth(secrets), harness.upstream("echo", backend),
                    harness.route("echo", "/echo", "echo", limits, auth='"users"', origins='["https://chat.example.test"]')])


def start(name, cluster, count=NODES):
    """Starts nodes with this section, whose limit of sessions of a subject is their number, and waits until each lists all."""
    started = [Node(f"{name}-{number}", configuration(count), directory, cluster) for number in range(count)]
    wait_for_nodes(started)
    return started


def stop(nodes):
    for node in nodes:
        node.stop()


async def connect(node, token):
    return await websockets.asyncio.client.connect(
        node.proxy.url("/echo"), ssl=secrets.client_context(), origin="https://chat.example.test", ping_interval=None, proxy=None,
        additional_headers={"Authorization": f"Bearer {token}"})


def exercise(nodes, subject):
    """Checks that nodes share slots, a quota, the list of sessions and revocations."""
    token, count = secrets.token(subject), len(nodes)

    async def run():
        sessions = [await connect(node, token) for node in nodes]
        for node in nodes:
            try:
                await connect(node, token)
            except websockets.exceptions.InvalidStatus as error:
                equal(error.response.status_code, 429)
            else:
                raise AssertionError("a session beyond the limit was admitted")
        # The whole quota at each node.
        begun = time.monotonic()
        for number in range(RATE):
            await asyncio.gather(*(session.send(str(number)) for session in sessions))
        for session in sessions:
            async with asyncio.timeout(20):
                equal([await session.recv() for _ in range(RATE)], [str(number) for number in range(RATE)])
        took, least = time.monotonic() - begun, (count * RATE - EXCESS * RATE - count) / (EXCESS * RATE)
        assert took >= least, f"{count * RATE} messages passed in {took:.2f} s, of which {RATE} and {RATE} a second are within the quota"
        status, listed = nodes[0].ask("GET", "/v1/sessions?scope=cluster")
        equal((status, len(listed["sessions"]), len({row["node"] for row in listed["sessions"]})), (200, count, count))
        status, _ = nodes[0].ask("POST", "/v1/revocations", {"auth": "users", "subject": subject})
        assert status in (200, 201), status
        for session in sessions:
            async with asyncio.timeout(10):
                await session.wait_closed()
            equal(session.close_code, 1008)

    asyncio.run(run())


def check_online(node):
    file = directory / f"{node.proxy.name}.toml"
    done = harness.run(harness.BINARY, "check", "--online", "--config", file)
    assert "answers, and runs the commands of a node" in done.stdout, done.stdout + done.stderr


def start_with_tls(program, name):
    """Starts a server with TLS and a user. Returns it with the section of a node."""
    port = harness.free_port()
    (directory / "users.acl").write_text(
        f"user default off\nuser tollgate on >{PASSWORD} ~tollgate:* resetchannels -@all +@read +@write +@scripting "
        "+@connection +time -@dangerous\n")
    (directory / "redis-password").write_text(f"{PASSWORD}\n")
    os.chmod(directory / "redis-password", 0o600)
    server = Redis(directory, "--port", 0, "--tls-port", port, "--tls-cert-file", directory / "localhost.pem", "--tls-key-file",
                   directory / "localhost.key", "--tls-ca-cert-file", secrets.ca, "--tls-auth-clients", "no", "--aclfile",
                   directory / "users.acl", port=port, name=name, program=program)
    return server, (f'url = "{name}s://localhost:{port}/0"\nusername = "tollgate"\npassword_file = "{directory}/redis-password"\n'
                    f'ca = "{secrets.ca}"\n')


with suite.check("Valkey with TLS and a user that may use only keys with the prefix"):
    valkey, section = start_with_tls("valkey-server", "valkey")
    suite.note(harness.run(valkey.program, "--version").stdout.strip())
    nodes = start("valkey", section)
    check_online(nodes[0])
    exercise(nodes, "valkey")
    stop(nodes)
    valkey.stop()

with suite.check(f"Valkey: {RACING} racing upgrades over {NODES} nodes never exceed {LIMIT} sessions, and their slots are free at once"):
    valkey = Redis(directory, name="valkey-slots", program="valkey-server")
    crowd = Nodes(secrets, directory, valkey, name="crowd", scheme="valkey", limits=(LIMIT, LIMIT))

    async def race():
        sessions, statuses = await crowd.race("/subject", "ada", RACING)
        late = statuses.pop(503, 0)
        # The server may have taken slots for upgrades that its answer reached too late, until they are released.
        assert LIMIT - late <= statuses[101] <= LIMIT and set(statuses) == {101, 429}, (statuses, late)
        assert max(crowd.backend.peak["/subject"], valkey.members()) <= LIMIT, (crowd.backend.peak, valkey.members())
        close_all(sessions)
        await asyncio.to_thread(until, lambda: valkey.members() == 0, "no slot is taken")

    crowd.run(race())
    crowd.kill()
    valkey.stop()

with suite.check("a server with TLS and a user that may use only keys with the prefix"):
    tls, section = start_with_tls(SERVER, "redis")
    nodes = start("tls", section)
    check_online(nodes[0])
    exercise(nodes, "tls")
    stop(nodes)

with suite.check("another password is refused, and the log has no password"):
    (directory / "other-password").write_text("not-the-password-of-redis\n")
    os.chmod(directory / "other-password", 0o600)
    node = Node("refused", configuration(), directory, section.replace("redis-password", "other-password"))
    until(lambda: "server cannot be used" in node.proxy.output(), "the server refuses the password")
    equal(node.answers(), False)
    assert "not-the-password" not in node.proxy.output()
    node.stop()
    tls.stop()

with suite.check("check --online says what a server refuses"):
    (directory / "few.acl").write_text(
        f"user default on >{PASSWORD} ~* +@all\nuser no-xread on >{PASSWORD} ~tollgate:* +@all -xread\n"
        f"user no-hgetall on >{PASSWORD} ~tollgate:* +@all -hgetall\nuser elsewhere on >{PASSWORD} ~other:* +@all\n")
    few = Redis(directory, "--aclfile", directory / "few.acl")
    login = f'password_file = "{directory}/redis-password"\n'
    for scheme, keys, expected in (
            ("redis", login, None), ("redis", "", "`password_file`"), ("rediss", f'ca = "{secrets.ca}"\n', "without TLS"),
            ("redis", f'username = "no-xread"\n{login}', "'xread'"), ("redis", f'username = "no-hgetall"\n{login}', "HGETALL"),
            ("redis", f'username = "elsewhere"\n{login}', "the ACL of the user"),
            ("redis", f'username = "nobody"\n{login}', "no such user")):
        file = directory / "few.toml"
        text = configuration().replace("@PORT@", str(harness.free_port()))
        file.write_text(f'{text}\n[cluster]\nurl = "{scheme}://localhost:{few.port}"\n{keys}')
        done = subprocess.run([harness.BINARY, "check", "--online", "--config", file], capture_output=True, text=True, timeout=60)
        assert ("runs the commands of a node" in done.stdout) == (expected is None), done.stdout + done.stderr
        assert (expected or "") in done.stderr and PASSWORD not in done.stdout + done.stderr, done.stderr
    few.stop()

with suite.check("a Unix socket"):
    local = Redis(directory, "--port", 0, "--unixsocket", directory / "redis.sock", socket=directory / "redis.sock")
    nodes = start("unix", f'url = "unix:{directory}/redis.sock"\n')
    check_online(nodes[0])
    exercise(nodes, "unix")
    stop(nodes)
    local.stop()

def others(port):
    """Returns how many other sentinels a sentinel knows."""
    facts = call(port, "SENTINEL", "MASTER", "main")
    return dict(zip(facts[::2], facts[1::2]))["num-other-sentinels"]


with suite.check("sentinels: nodes follow the master after its death"):
    ports = [harness.free_port() for _ in range(2)]
    master = Redis(directory, port=ports[0])
    replica = Redis(directory, "--replicaof", f"127.0.0.1 {ports[0]}", port=ports[1])
    until(lambda: "state=online" in master.call("INFO", "replication"), "the replica is online")
    sentinels = []
    for number in range(3):
        port, folder = harness.free_port(), directory / f"sentinel-{number}"
        folder.mkdir()
        (folder / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {ports[0]} 2\n"
            "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 3000\n")
        process = Process(f"sentinel-{number}", [master.program, folder / "sentinel.conf", "--sentinel"], directory)
        until(lambda: harness.accepts(port), "the sentinel")
        sentinels.append(port)
    until(lambda: all(others(port) == "2" for port in sentinels), "each sentinel knows the others")
    listed = ",".join(f"127.0.0.1:{port}" for port in sentinels)
    nodes = start("sentinel", f'url = "redis+sentinel://{listed}/main"\n')
    check_online(nodes[0])
    exercise(nodes, "before")
    begun = time.monotonic()
    master.stop(signal.SIGKILL)
    until(lambda: not nodes[0].answers(), "the node notices")
    until(lambda: "role:master" in replica.call("INFO", "replication"), "the replica is the master", 30)
    promoted = time.monotonic() - begun
    wait_for_nodes(nodes)
    suite.note(f"failover: a new master after {promoted:.1f} s, all nodes registered there after {time.monotonic() - begun:.1f} s")
    exercise(nodes, "after")
    stop(nodes)
    replica.stop()

with suite.check("a Redis Cluster of three masters"):
    ports = [harness.free_port() for _ in range(3)]
    buses = [harness.free_port() for _ in range(3)]
    masters = []
    for port, bus in zip(ports, buses):
        folder = directory / f"cluster-{port}"
        folder.mkdir()
        masters.append(Redis(folder, "--cluster-enabled", "yes", "--cluster-port", bus, port=port))
    addresses = [f"127.0.0.1:{port}" for port in ports]
    step = 16384 // 3 + 1
    for number, master in enumerate(masters):
        equal(master.call("CLUSTER", "ADDSLOTSRANGE", number * step, min((number + 1) * step, 16384) - 1), "OK")
    for port, bus in zip(ports[1:], buses[1:]):
        equal(masters[0].call("CLUSTER", "MEET", "127.0.0.1", port, bus), "OK")
    until(lambda: all("cluster_state:ok" in master.call("CLUSTER", "INFO") for master in masters), "the cluster is complete")
    nodes = start("cluster", f'url = "redis+cluster://{",".join(addresses)}"\n')
    check_online(nodes[0])
    exercise(nodes, "cluster")
    stop(nodes)
    for master in masters:
        master.stop()

suite.finish()
