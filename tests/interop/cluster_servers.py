"""Tests each form of server that a cluster may have: TLS with users, a Unix socket, sentinels with a failover, and a Redis Cluster."""

import asyncio
import os
import subprocess
import signal
import time

import websockets.asyncio.client
import websockets.exceptions

import harness
from cluster_setting import Node, Redis, wait_for_nodes, wait_until
from harness import Process, Suite, equal

PASSWORD = "a-password-of-redis"
RATE = 50

suite = Suite("cluster_servers")
directory = harness.work_dir("cluster-servers")
secrets = harness.Secrets(directory)
backend = harness.echo_backend()
configuration = "".join(['[server]\nworkers = 1\n', harness.listener(secrets), harness.auth(secrets),
                         harness.upstream("echo", backend),
                         harness.route("echo", "/echo", "echo", {
                             "message_rate": f'"{RATE}/s"', "rate_key": '"subject"', "on_excess": '"delay"', "sessions_per_subject": 2}, auth='"users"',
                                       origins='["https://chat.example.test"]')])


def pair(name, cluster):
    """Starts two nodes with this section, and waits until each lists both."""
    pair = [Node(f"{name}-{number}", configuration, directory, section=cluster) for number in range(2)]
    wait_for_nodes(pair)
    return pair


def stop(nodes):
    for node in nodes:
        node.proxy.stop()


async def connect(node, token):
    return await websockets.asyncio.client.connect(
        node.proxy.url("/echo"), ssl=secrets.client_context(), origin="https://chat.example.test", ping_interval=None, proxy=None,
        additional_headers={"Authorization": f"Bearer {token}"})


def exercise(nodes, subject):
    """Checks that two nodes share slots, a quota, the list of sessions and revocations."""
    token = secrets.token(subject)

    async def run():
        sessions = [await connect(node, token) for node in nodes]
        for node in nodes:
            try:
                await connect(node, token)
            except websockets.exceptions.InvalidStatus as error:
                equal(error.response.status_code, 429)
            else:
                raise AssertionError("a third session was admitted")
        # More than the share that needs no lease, at both nodes.
        for number in range(RATE):
            await asyncio.gather(*(session.send(str(number)) for session in sessions))
        for session in sessions:
            async with asyncio.timeout(20):
                equal([await session.recv() for _ in range(RATE)], [str(number) for number in range(RATE)])
        status, listed = nodes[0].ask("GET", "/v1/sessions?scope=cluster")
        equal((status, len(listed["sessions"]), len({row["node"] for row in listed["sessions"]})), (200, 2, 2))
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


with suite.check("a server with TLS and a user that may use only keys with the prefix"):
    port = harness.free_port()
    (directory / "users.acl").write_text(
        f"user default off\nuser tollgate on >{PASSWORD} ~tollgate:* resetchannels -@all +@read +@write +@scripting "
        "+@connection +time -@dangerous\n")
    (directory / "redis-password").write_text(f"{PASSWORD}\n")
    os.chmod(directory / "redis-password", 0o600)
    tls = Redis(directory, "--port", 0, "--tls-port", port, "--tls-cert-file", directory / "localhost.pem", "--tls-key-file",
                directory / "localhost.key", "--tls-ca-cert-file", secrets.ca, "--tls-auth-clients", "no", "--aclfile",
                directory / "users.acl", port=port)
    section = (f'url = "rediss://localhost:{port}/0"\nusername = "tollgate"\npassword_file = "{directory}/redis-password"\n'
               f'ca = "{secrets.ca}"\n')
    nodes = pair("tls", section)
    check_online(nodes[0])
    exercise(nodes, "tls")
    stop(nodes)

with suite.check("another password is refused, and the log has no password"):
    (directory / "other-password").write_text("not-the-password-of-redis\n")
    os.chmod(directory / "other-password", 0o600)
    node = Node("refused", configuration, directory, section=section.replace("redis-password", "other-password"))
    wait_until(lambda: "server cannot be used" in node.proxy.output(), "the server refuses the password")
    equal(node.nodes()["server_answers"], False)
    assert "not-the-password" not in node.proxy.output()
    node.proxy.stop()
    tls.process.stop()

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
        text = configuration.replace("@PORT@", str(harness.free_port()))
        file.write_text(f'{text}\n[cluster]\nurl = "{scheme}://localhost:{few.port}"\n{keys}')
        done = subprocess.run([harness.BINARY, "check", "--online", "--config", file], capture_output=True, text=True, timeout=60)
        assert ("runs the commands of a node" in done.stdout) == (expected is None), done.stdout + done.stderr
        assert (expected or "") in done.stderr and PASSWORD not in done.stdout + done.stderr, done.stderr
    few.process.stop()

with suite.check("a Unix socket"):
    local = Redis(directory, "--port", 0, "--unixsocket", directory / "redis.sock", socket=directory / "redis.sock")
    nodes = pair("unix", f'url = "unix:{directory}/redis.sock"\n')
    check_online(nodes[0])
    exercise(nodes, "unix")
    stop(nodes)
    local.process.stop()

with suite.check("sentinels: nodes follow the master after its death"):
    ports = [harness.free_port() for _ in range(2)]
    master = Redis(directory, port=ports[0])
    replica = Redis(directory, "--replicaof", f"127.0.0.1 {ports[0]}", port=ports[1])
    wait_until(lambda: "state=online" in master.ask("info", "replication"), "the replica is online")
    sentinels = []
    for number in range(3):
        port, folder = harness.free_port(), directory / f"sentinel-{number}"
        folder.mkdir()
        (folder / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {ports[0]} 2\n"
            "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 3000\n")
        process = Process(f"sentinel-{number}", ["redis-server", folder / "sentinel.conf", "--sentinel"], directory)
        wait_until(lambda: harness.accepts(port), "the sentinel")
        sentinels.append(port)
    wait_until(lambda: all("num-other-sentinels\n2" in harness.run("redis-cli", "-p", port, "sentinel", "master", "main").stdout
                           for port in sentinels), "each sentinel knows the others")
    listed = ",".join(f"127.0.0.1:{port}" for port in sentinels)
    nodes = pair("sentinel", f'url = "redis+sentinel://{listed}/main"\n')
    check_online(nodes[0])
    exercise(nodes, "before")
    begun = time.monotonic()
    master.process.popen.send_signal(signal.SIGKILL)
    wait_until(lambda: not nodes[0].nodes()["server_answers"], "the node notices")
    wait_until(lambda: "role:master" in replica.ask("info", "replication"), "the replica is the master", 30)
    promoted = time.monotonic() - begun
    wait_for_nodes(nodes)
    suite.note(f"failover: a new master after {promoted:.1f} s, all nodes registered there after {time.monotonic() - begun:.1f} s")
    exercise(nodes, "after")
    stop(nodes)
    replica.process.stop()

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
        equal(master.ask("cluster", "addslotsrange", number * step, min((number + 1) * step, 16384) - 1), "OK")
    for port, bus in zip(ports[1:], buses[1:]):
        equal(masters[0].ask("cluster", "meet", "127.0.0.1", port, bus), "OK")
    wait_until(lambda: all("cluster_state:ok" in master.ask("cluster", "info") for master in masters), "the cluster is complete")
    nodes = pair("cluster", f'url = "redis+cluster://{",".join(addresses)}"\n')
    check_online(nodes[0])
    exercise(nodes, "cluster")
    stop(nodes)
    for master in masters:
        master.process.stop()

suite.finish()
