"""Formats the tables that run.py prints: the machine, the measurements, and the ratios of the subjects to their peers."""

import os, statistics, subprocess

from workloads import COLUMNS, HIDDEN, WORKLOADS, main_of, user_of


def table(rows):
    head, *body = rows
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)] + body
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def facts(names, versions):
    run = lambda *cmd: (lambda r: (r.stdout + r.stderr).strip())(subprocess.run(cmd, capture_output=True, text=True))
    cpu = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    family = [next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith(k)) for k in ("cpu family", "model\t")]
    lines = [f"{cpu} (family {family[0]}, model {family[1]}), {os.cpu_count()} cores, "
             f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 30} GiB, Linux {os.uname().release}",
             run("openssl", "version")] + [f"{n}: {run(*versions[n]).splitlines()[0]}" for n in names if n in versions]
    return "\n".join(f"- {line}" for line in lines) + "\n"


def report(results, subjects):
    """Returns Markdown for results of the form {workload: {peer: [one dict per round, empty if it failed]}}."""
    def mid(runs, column):
        seen = [r[column] for r in runs if column in r]
        return COLUMNS[column][1].format(statistics.median(seen)) if seen else "–"

    peers = list(dict.fromkeys(p for w in results.values() for p in w))
    out = ["## Main figure (lower is better)\n",
           table([["workload", "unit"] + peers] + [
               [f"{k}: {WORKLOADS[k][0]}", COLUMNS[main_of(k)][0]] + [mid(results[k].get(p, []), main_of(k)) for p in peers] for k in results])]
    for s in subjects:
        for what, column in ("main figure", main_of), ("user CPU only, which depends on the proxy's own code", user_of):
            rows = []
            for k, by in results.items():
                c = column(k)
                pair = lambda p: [a[c] / b[c] for a, b in zip(by.get(s, []), by.get(p, [])) if c in a and b.get(c, 0) > 0]
                cells = [f"{statistics.median(pair(p)):.2f} ({len(pair(p))})" if pair(p) else "–" for p in peers if p != s]
                rows += [[k] + cells] if any(c != "–" for c in cells) else []
            out += [f"## {s} ÷ peer, {what} (median of the ratios per round, with the number of rounds)\n",
                    table([["workload"] + [p for p in peers if p != s]] + rows)]
    for k, by in results.items():
        columns = [c for c in COLUMNS if c not in HIDDEN.get(WORKLOADS[k][1], ()) and any(c in r for rs in by.values() for r in rs)]
        rows = [[p] + [mid(rs, c) for c in columns] for p, rs in by.items() if any(rs)]
        out += [f"## {k}: {WORKLOADS[k][0]}\n", table([["peer"] + [COLUMNS[c][0] for c in columns]] + rows)]
    return "\n".join(out)
