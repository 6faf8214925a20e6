"""Counts the instructions of the pure core and the record layer for each frame, record, choice of a server or request head with callgrind, and
checks them against tests/gates/ceilings.toml.

Each case of tests/gates/cases.rs and choices.rs runs twice with different numbers of runs. The difference is the cost of the runs without
the preparation. Only Rust functions count: functions in C and assembly (libc, aws-lc) depend on the CPU, and the cost of a
cipher is not under our control. A note gives the total with them.
"""

import json
import re
import shutil
import tomllib

import harness

FEW, MANY = 16, 64
GROWTH_MAX = 5  # of the cost of a head of four times the size
RUST = re.compile(r"_R|_ZN.*17h[0-9a-f]{16}E")  # the two mangling schemes of rustc

suite = harness.Suite("instructions")
directory = harness.work_dir("instructions")
ceilings = tomllib.loads((harness.ROOT / "tests/gates/ceilings.toml").read_text())


def build():
    """Builds the program that runs the cases, with the profile of the binary, and returns its path."""
    built = harness.run("cargo", "build", "--release", "--bench", "instructions", "--message-format", "json",
                        cwd=harness.ROOT, seconds=900)
    for line in built.stdout.splitlines():
        artifact = json.loads(line)
        if artifact.get("executable") and artifact["target"]["name"] == "instructions":
            return artifact["executable"]
    raise RuntimeError("cargo built nothing")


def executed(program, case, runs):
    """Returns the number of instructions, in Rust functions and in total, of a process that runs a case `runs` times."""
    report = directory / f"{case}-{runs}"
    harness.run("valgrind", "--tool=callgrind", f"--callgrind-out-file={report}", "--compress-strings=no", "--compress-pos=no",
                "--demangle=no", program, case, runs, seconds=120)
    rust = whole = 0
    function, of_callee = "", False
    for line in report.read_text().splitlines():
        if line.startswith("fn="):
            function = line[3:]
        elif line.startswith("calls="):
            of_callee = True  # the next line repeats the cost of the callee, which is counted there
        elif line[:1].isdigit():
            cost = 0 if of_callee else int(line.split()[1])
            of_callee = False
            whole += cost
            rust += cost if RUST.match(function) else 0
    return rust, whole


if not shutil.which("valgrind"):
    suite.skip("all cases", "valgrind is not installed")
    suite.finish()
program = build()
costs = {}
for case, ceiling in (ceilings["instructions"] | ceilings["choices"] | ceilings["heads"]).items():
    with suite.check(f"{case}: at most {ceiling} instructions"):
        few, many = executed(program, case, FEW), executed(program, case, MANY)
        rust, whole = ((b - a) / (MANY - FEW) for a, b in zip(few, many))
        costs[case] = whole
        suite.note(f"{case}: {rust:.0f}, with libc and aws-lc {whole:.0f}")
        if not 0 < rust <= ceiling:
            raise AssertionError(f"{rust:.0f} instructions")
for case in ceilings["heads"]:
    kind, size = case.rsplit("_", 1)
    if size != "64k":
        continue
    with suite.check(f"{kind}: a head of 64 KiB costs at most {GROWTH_MAX} times as much as one of 16 KiB"):
        few, many = costs[f"{kind}_16k"], costs[case]
        if not many <= GROWTH_MAX * few:
            raise AssertionError(f"{few:.0f} and {many:.0f} instructions, with libc and aws-lc")
suite.finish()
