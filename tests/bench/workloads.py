"""Defines the workloads, and the figures that are reported for each."""

IDLE = (1000, 8000)  # numbers of connections; the memory of an idle one is the difference per connection
HIBERNATED = 10  # seconds without traffic; Tollgate's sessions hibernate after 5

# key: (description, wsload mode, options, messages)
WORKLOADS = {
    "a": ("64 B echo, 100 connections, window 1", "msgs", "--conns 100 --size 64", 120_000),
    "b": ("64 B echo, 100 connections, window 32", "msgs", "--conns 100 --size 64 --window 32", 1_200_000),
    "c": ("1 KiB echo, 500 connections, window 1", "msgs", "--conns 500 --size 1024", 100_000),
    "d": ("16 KiB echo, 50 connections, window 1", "msgs", "--conns 50 --size 16384", 30_000),
    "e64k": ("64 KiB messages, server to client, 16 connections", "flood", "--conns 16 --size 65536", 16_000),
    "e1m": ("1 MiB messages, server to client, 16 connections", "flood", "--conns 16 --size 1048576", 1_000),
    "f": ("64 B echo, 1000 connections, paced 20 000/s", "paced", "--conns 1000 --size 64 --rate 20000", 80_000),
    "g": ("idle connections", "idle", "", 0),
    "g1": ("idle after one 1 KiB echo", "idle", "--size 1024", 0),
    "gh": ("idle for 10 s, opened 1,000 at a time", "idle", "", 0),
    "h": ("full handshake and upgrade, 32 at once", "handshakes", "--conns 32", 6_000),
    "hr": ("resumed handshake and upgrade, 32 at once", "handshakes", "--conns 32 --resume", 6_000),
    "i": ("256 B fan-out to 1000 connections", "fanout", "--conns 1000 --size 256", 120_000),
    "u": ("64 B to 64 KiB echo, heavy-tailed, 100 connections, window 1", "uneven", "--conns 100 --size 64 --max 65536", 80_000),
    "n": ("noisy neighbours: 495 connections at 25/s, next to 5 at 2,500/s", "live",
          "--conns 500 --rate 12375 --noisy 5 --noisy-rate 12500", 75_000),
    "s": ("stalled readers: 450 connections at 20/s, next to 50 that do not read 64 KiB messages", "live",
          "--conns 500 --rate 9000 --stalled 50", 54_000),
    "hs": ("handshake storm: 500 connections at 18/s, next to 300 full handshakes per second", "live",
           "--conns 500 --rate 9000 --storm 300", 72_000),
    "burst": ("4000 upgrades at once, which stay connected", "burst", "", 4_000),
}

# Template values that some workloads override. These workloads have one worker, on a CPU of its own if there are several.
SETTINGS = {}
for key, kind, what in (("at", "tiny", "messages of 1 B"), ("ab", "bulk", "messages of 64 KiB"),
                        ("au", "updates", "1 MiB in records of 1 B, a key update before each"),
                        ("aq", "updates-asked", "the same, each requesting a key update of the proxy"),
                        ("ah", "heads", "upgrades with 16 KiB of subprotocols")):
    for n in 1, 4, 16:
        WORKLOADS[f"{key}{n}"] = (f"4 light clients at 100/s each, next to {n} that send {what}", "live",
                                  f"--conns 4 --size 64 --rate 400 --attack {kind} --attackers {n}", 3_200)
        SETTINGS[f"{key}{n}"] = {"WORKERS": "1", "METER": 'message_rate = "off"'}
for key, n in ("bh", 1024), ("bhx", 2048):
    WORKLOADS[key] = (f"20 upgrades per second, next to {n:,} that wait for another route's upstream", "newcomers",
                      f"--rate 20 --hang {n}", 200)
    SETTINGS[key] = {"WORKERS": "1", "SESSIONS": "4000", "HANDSHAKES": "1024"}

# key: (heading, format)
COLUMNS = {
    "cpu_s_per_m": ("proxy CPU s/M msg", "{:.2f}"),
    "cpu_s_per_gb": ("proxy CPU s/GB", "{:.3f}"),
    "cpu_ms_per_handshake": ("proxy CPU ms/handshake", "{:.3f}"),
    "user_s_per_m": ("user CPU s/M", "{:.2f}"),
    "user_s_per_gb": ("user CPU s/GB", "{:.3f}"),
    "user_ms_per_handshake": ("user CPU ms/handshake", "{:.3f}"),
    "all_s_per_m": ("proxy, client and upstream s/M", "{:.2f}"),
    "all_s_per_gb": ("proxy, client and upstream s/GB", "{:.3f}"),
    "switches_per_k": ("switches/k msg", "{:.0f}"),
    "per_s": ("per s", "{:.0f}"),
    "mb_s": ("MB/s", "{:.0f}"),
    "p50_us": ("p50 µs", "{:.0f}"),
    "p99_us": ("p99 µs", "{:.0f}"),
    "p999_us": ("p99.9 µs", "{:.0f}"),
    "max_us": ("max µs", "{:.0f}"),
    "alone_p50_us": ("alone: p50 µs", "{:.0f}"),
    "alone_p99_us": ("alone: p99 µs", "{:.0f}"),
    "alone_p999_us": ("alone: p99.9 µs", "{:.0f}"),
    "alone_max_us": ("alone: max µs", "{:.0f}"),
    "sunk_mb_s": ("attackers' MB/s", "{:.1f}"),
    "upgraded": ("attackers upgraded", "{:.0f}"),
    "refused": ("refused", "{:.0f}"),
    "attackers_cut": ("attackers disconnected", "{:.0f}"),
    "hung": ("waiting upgrades", "{:.0f}"),
    "noisy_due_s": ("noisy messages due, per s", "{:.0f}"),
    "noisy_s": ("noisy messages passed, per s", "{:.0f}"),
    "cut": ("noisy or stalled clients disconnected", "{:.0f}"),
    "served": ("handshakes served", "{:.0f}"),
    "failed": ("failed", "{:.0f}"),
    "storm_p99_us": ("handshake p99 µs", "{:.0f}"),
    "open_s": ("all open after s", "{:.2f}"),
    "pss_mib_before": ("PSS MiB before", "{:.1f}"),
    "pss_mib_stalled": ("PSS MiB, stalled", "{:.1f}"),
    "resumed_share": ("resumed", "{:.0%}"),
    "pss_kib_per_conn": ("PSS KiB/connection", "{:.1f}"),
    "pss_mib_empty": ("PSS MiB, empty", "{:.0f}"),
    "pss_mib_8000": (f"PSS MiB, {IDLE[1]}", "{:.0f}"),
    "peak_rss_mib": ("peak RSS MiB", "{:.0f}"),
    "proxy_busy": ("proxy cores", "{:.2f}"),
    "gen_busy": ("generator cores", "{:.2f}"),
    "gen_cpu_s_per_m": ("generator s/M", "{:.2f}"),
    "up_cpu_s_per_m": ("upstream s/M", "{:.2f}"),
    "other_busy": ("others' CPU", "{:.0%}"),
}
PER_MESSAGE = {"cpu_s_per_m", "user_s_per_m", "all_s_per_m", "gen_cpu_s_per_m", "up_cpu_s_per_m"}
# mode: columns without meaning for it
HIDDEN = {
    "flood": PER_MESSAGE | {"p50_us", "p99_us", "p999_us"},
    "handshakes": PER_MESSAGE | {"mb_s"},
    "burst": PER_MESSAGE | {"mb_s", "per_s", "switches_per_k"},
    "live": PER_MESSAGE | {"mb_s", "switches_per_k"},
    "newcomers": PER_MESSAGE | {"mb_s", "switches_per_k"},
    "msgs": {"mb_s"}, "paced": {"mb_s"}, "fanout": {"mb_s"},
}
# workload or mode: its main figure; below, the user CPU part of it
MAIN = {"hs": "p999_us", "live": "p99_us", "newcomers": "p99_us", "flood": "cpu_s_per_gb", "idle": "pss_kib_per_conn", "handshakes": "cpu_ms_per_handshake",
        "burst": "cpu_ms_per_handshake"}
USER = {"flood": "user_s_per_gb", "handshakes": "user_ms_per_handshake", "burst": "user_ms_per_handshake", "live": None,
        "newcomers": None}


def main_of(key):
    return MAIN.get(key) or MAIN.get(WORKLOADS[key][1], "cpu_s_per_m")


def user_of(key):
    return USER.get(WORKLOADS[key][1], "user_s_per_m")
