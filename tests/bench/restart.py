#!/usr/bin/env python3
"""Measures a restart on an inherited socket, as with the socket unit: upgrades arrive at a constant rate meanwhile; see README.md.

usage: tests/bench/restart.py [--rate N] [--seconds N]

The script holds the listening socket as systemd does, and passes it to one process after the other. Needs the venv of tests/run.
"""

import argparse, asyncio, signal, socket, ssl, statistics, subprocess, sys, tempfile, time
from pathlib import Path

from run import TOLLGATE, WSLOAD, free_port, make_certificate, spawn, stop

CONFIG = """
[server]
max_sessions = 4000
max_handshakes = 1024
handshakes_per_address = "off"
drain_timeout = "1s"
[log]
level = "warn"
[[listener]]
address = "systemd:public"
certificates = [{{ chain = "{dir}/cert.pem", key = "{dir}/key.pem" }}]
handshake_timeout = "30s"
[upstream.bench]
servers = ["127.0.0.1:{upstream}"]
[[route]]
name = "bench"
path = "/{{*rest}}"
upstream = "bench"
auth = "none"
"""
REQUEST = (b"GET /x HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
           b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
CLOSE = b"\x88\x82\x00\x00\x00\x00\x03\xe8"
# systemd passes the socket as descriptor 3, and its own id of the process.
LAUNCH = 'exec 3<&"$0" && export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=public && exec "$@"'


def start(listener, config, log):
    descriptor = listener.fileno()
    return subprocess.Popen(["bash", "-c", LAUNCH, str(descriptor), TOLLGATE, "run", "--config", config], pass_fds=[descriptor],
                            stdout=log, stderr=log)


async def upgrade(port, context, results):
    begun = time.perf_counter()
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost"), 30)
        writer.write(REQUEST)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        results.append((head.split(b" ", 2)[1].decode(), time.perf_counter() - begun))
        writer.write(CLOSE)
        await asyncio.wait_for(reader.read(), 30)
        writer.close()
    except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, ssl.SSLError) as error:
        if len(results) and results[-1][0] == "101" and isinstance(error, asyncio.TimeoutError):
            return
        results.append((type(error).__name__, time.perf_counter() - begun))


async def load(port, context, rate, seconds, restart_at, restart):
    results, tasks = [], []
    begun = time.perf_counter()
    restarting = None
    for number in range(int(rate * seconds)):
        wait = begun + number / rate - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        if restarting is None and time.perf_counter() - begun >= restart_at:
            restarting = asyncio.create_task(asyncio.to_thread(restart))
        tasks.append(asyncio.create_task(upgrade(port, context, results)))
    await asyncio.gather(*tasks)
    return results, await restarting


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="restart-")
    make_certificate(folder)
    upstream_port = free_port()
    upstream = spawn([WSLOAD, "echo", "--listen", f"127.0.0.1:{upstream_port}"])
    Path(folder, "tollgate.toml").write_text(CONFIG.format(dir=folder, upstream=upstream_port))
    log = open(f"{folder}/log", "w")
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        running = [start(listener, f"{folder}/tollgate.toml", log)]

        def restart():
            begun = time.perf_counter()
            running[-1].send_signal(signal.SIGTERM)
            running[-1].wait(20)
            running.append(start(listener, f"{folder}/tollgate.toml", log))
            return time.perf_counter() - begun

        try:
            time.sleep(1)
            context = ssl.create_default_context(cafile=f"{folder}/cert.pem")
            results, took = asyncio.run(load(listener.getsockname()[1], context, args.rate, args.seconds, args.seconds / 3, restart))
        finally:
            stop(running[-1])
            stop(upstream)
    outcomes = {}
    for outcome, _ in results:
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    times = sorted(seconds for outcome, seconds in results if outcome == "101")
    p99 = times[min(len(times) - 1, len(times) * 99 // 100)]
    print(f"{len(results)} upgrades at {args.rate:.0f}/s, the old process ended after {took:.2f} s: {outcomes}; "
          f"time to the 101: median {statistics.median(times) * 1e3:.1f} ms, p99 {p99 * 1e3:.0f} ms, max {times[-1] * 1e3:.0f} ms")
    sys.exit(0 if set(outcomes) == {"101"} else 1)


if __name__ == "__main__":
    main()
