#!/usr/bin/env python3
"""Measures the admin API under load: what a scrape costs the sessions, and a message to thousands of them; see README.md.

usage: tests/bench/admin.py [--sessions N] [--receivers N]

Needs the venv of tests/run (PyPI `websockets`) and the load generator of run.py. Takes about two minutes.
"""

import argparse, asyncio, json, socket, ssl, statistics, subprocess, sys, tempfile, threading, time
from pathlib import Path

import websockets

from run import HERE, TOLLGATE, WSLOAD, free_port, make_certificate, spawn, stop

CONFIG = """
[server]
max_sessions = {max}
max_handshakes = 512
handshakes_per_address = "off"
[log]
level = "warn"
[admin]
address = "unix:{dir}/admin.sock"
[metrics]
address = "127.0.0.1:{metrics}"
[[listener]]
address = "127.0.0.1:{port}"
certificates = [{{ chain = "{dir}/cert.pem", key = "{dir}/key.pem" }}]
handshake_timeout = "1m"
[upstream.bench]
servers = ["127.0.0.1:{upstream}"]
[[route]]
name = "bench"
path = "/{{*rest}}"
upstream = "bench"
auth = "none"
"""


def request(path, target, method="GET", body=None):
    """Sends one request over a Unix socket, and returns the status, the body and the seconds that it took."""
    payload = json.dumps(body).encode() if body is not None else b""
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
    begun = time.perf_counter()
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(60)
        s.connect(path)
        s.sendall(head.encode() + b"\r\n" + payload)
        answer = b"".join(iter(lambda: s.recv(1 << 16), b""))
    status = int(answer.split(b" ", 2)[1])
    return status, answer.partition(b"\r\n\r\n")[2], time.perf_counter() - begun


class Proxy:
    def __init__(self, upstream):
        self.dir = tempfile.mkdtemp(prefix="adminbench-")
        make_certificate(self.dir)
        self.port, self.metrics = free_port(), free_port()
        config = Path(self.dir, "tollgate.toml")
        config.write_text(CONFIG.format(max=8300, dir=self.dir, metrics=self.metrics, port=self.port, upstream=upstream))
        self.log = open(f"{self.dir}/log", "w")
        self.process = spawn([TOLLGATE, "run", "--config", str(config)], stdout=self.log, stderr=self.log)
        self.socket = f"{self.dir}/admin.sock"
        self.url = ["--url", f"wss://localhost:{self.port}/x", "--ca", f"{self.dir}/cert.pem"]
        for _ in range(200):
            time.sleep(0.05)
            try:
                if request(self.socket, "/readyz")[0] == 200:
                    return
            except OSError:
                pass
        sys.exit(f"the proxy did not start: {Path(self.log.name).read_text()}")


def paced(proxy, conns, rate, messages):
    """Runs an open loop of echoes, and returns its latencies as the load generator reports them."""
    command = [WSLOAD, "paced", "--conns", str(conns), "--rate", str(rate), "--messages", str(messages), "--size", "64", *proxy.url]
    generator = spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert generator.stdout.readline().strip() == "ready"
    generator.stdin.write("\n")
    generator.stdin.flush()
    line = generator.stdout.readline()
    generator.stdin.close()
    generator.wait(30)
    return json.loads(line)


def scrape(proxy, sessions):
    idle = spawn([WSLOAD, "idle", "--size", "64", *proxy.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert idle.stdout.readline().strip() == "ready"
    idle.stdin.write(f"open {sessions}\n")
    idle.stdin.flush()
    idle.stdout.readline()
    open_now = json.loads(request(proxy.socket, "/v1/info")[1])["sessions"]
    print(f"sessions open: {open_now}")
    times = {}
    targets = ["/metrics", "/v1/sessions?limit=100", "/v1/sessions?limit=100&sort=-messages", "/v1/sessions?limit=1000"]
    for target in targets:
        taken = [request(proxy.socket, target) for _ in range(20)]
        assert all(status == 200 for status, _, _ in taken), taken[0]
        times[target] = taken
        seconds = sorted(second for _, _, second in taken)
        print(f"GET {target}: median {statistics.median(seconds) * 1e3:.1f} ms, max {seconds[-1] * 1e3:.1f} ms, {len(taken[0][1])} bytes")
    for name, what in [("no scrape", []), ("/metrics each second", targets[:1]), ("/v1/sessions?limit=100 each second", targets[1:2]),
                       ("both, ten times a second", targets[:2])]:
        over = threading.Event()

        def scraping(pause=0.1 if name.startswith("both") else 1.0):
            while not over.wait(pause):
                for target in what:
                    request(proxy.socket, target)

        thread = threading.Thread(target=scraping)
        thread.start()
        result = paced(proxy, 100, 2000, 20000)
        over.set()
        thread.join()
        print(f"live echoes, {name}: {json.dumps(result)}")
    idle.stdin.close()
    idle.wait(60)


async def receiver(number, proxy, context, deflate, state):
    compression = "deflate" if deflate else None
    async with websockets.connect(f"wss://localhost:{proxy.port}/{number}", ssl=context, compression=compression,
                                  open_timeout=120, ping_interval=None) as connection:
        state["open"] += 1
        await state["all_open"].wait()
        sent, got = 0, 0
        while not state["over"].is_set():
            message = f"{number} {sent} " + "x" * 40
            await connection.send(message)
            sent += 1
            while True:
                answer = await asyncio.wait_for(connection.recv(), 60)
                if answer == state["message"]:
                    got += 1
                    if got == 1:
                        state["received"] += 1
                    continue
                assert answer == message, (answer, message)
                break
            await asyncio.sleep(1.0 + (number % 97) / 97)
        # A message that was sent twice would precede this echo.
        await connection.send("last")
        while (answer := await asyncio.wait_for(connection.recv(), 60)) != "last":
            assert answer == state["message"]
            got += 1
        state["counts"].append(got)


async def send(proxy, receivers, deflate):
    context = ssl.create_default_context(cafile=f"{proxy.dir}/cert.pem")
    state = {"open": 0, "received": 0, "counts": [], "message": json.dumps({"notice": "deploy"}),
             "all_open": asyncio.Event(), "over": asyncio.Event()}
    tasks = []
    for number in range(receivers):
        tasks.append(asyncio.create_task(receiver(number, proxy, context, deflate, state)))
        if number % 50 == 49:
            while state["open"] < number - 100 and not any(task.done() for task in tasks):
                await asyncio.sleep(0.01)
    while state["open"] < receivers and not any(task.done() for task in tasks):
        await asyncio.sleep(0.05)
    state["all_open"].set()
    await asyncio.sleep(3)
    begun = time.perf_counter()
    body = {"filter": {"route": "bench"}, "text": state["message"]}
    status, answer, seconds = await asyncio.to_thread(request, proxy.socket, "/v1/sessions/send", "POST", body)
    assert status == 202, answer
    while state["received"] < receivers and time.perf_counter() - begun < 30:
        await asyncio.sleep(0.02)
    last = time.perf_counter() - begun
    state["over"].set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [result for result in results if result is not None]
    once = sum(count == 1 for count in state["counts"])
    failures = [line for line in request(proxy.socket, "/metrics")[1].decode().splitlines() if line.startswith("tollgate_send_failures")]
    print(f"send to {json.loads(answer)['selected']} sessions ({'deflate' if deflate else 'no compression'}): answer after {seconds * 1e3:.0f} ms, "
          f"last message after {last:.2f} s; {once} clients got it once, {len(state['counts']) - once} not, {len(errors)} errors; {failures}")
    for error in errors[:3]:
        print(repr(error))
    return not errors and once == receivers


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sessions", type=int, default=8000)
    parser.add_argument("--receivers", type=int, default=5000)
    args = parser.parse_args()
    upstream_port = free_port()
    upstream = spawn([WSLOAD, "echo", "--listen", f"127.0.0.1:{upstream_port}"])
    echo = None
    try:
        proxy = Proxy(upstream_port)
        scrape(proxy, args.sessions)
        stop(proxy.process)
        good = True
        # The load generator's upstream echoes only binary messages, and does not compress.
        echo_port = free_port()
        echo = spawn([sys.executable, str(HERE / "deflate_echo.py"), str(echo_port)])
        time.sleep(1)
        for deflate in (False, True):
            proxy = Proxy(echo_port)
            good &= asyncio.run(send(proxy, args.receivers, deflate))
            stop(proxy.process)
        sys.exit(0 if good else 1)
    finally:
        for process in (upstream, echo):
            if process:
                stop(process)


if __name__ == "__main__":
    main()
