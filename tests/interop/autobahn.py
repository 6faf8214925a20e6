"""Compares Autobahn's verdicts on RFC 6455, per case, with those pinned in autobahn/expected.json.

Makes three runs at once: the fuzzing client through the proxy to npm `ws`; the same client directly to `ws`, so that a
verdict can be attributed to the proxy or to `ws`; and the fuzzing server behind the proxy, with `ws` as the client.

    autobahn.py          compares
    autobahn.py --pin    also rewrites autobahn/expected.json if no case failed, for a new version of the suite or of `ws`
"""

import collections
import json
import sys
import time

import harness

CASES = "1.*,2.*,3.*,4.*,5.*,6.*,7.*,10.*"
CASE_COUNT = 247
RUN_SECONDS = 400
EXPECTED = harness.HERE / "autobahn" / "expected.json"
RANK = {"OK": 2, "INFORMATIONAL": 2, "NON-STRICT": 1}  # every other verdict is a failure

suite = harness.Suite("autobahn")
python2 = harness.INTEROP / "autobahn" / "py2" / "bin" / "python"
if not python2.exists():
    suite.skip("the fuzzing client", "Autobahn needs Python 2.7, which is not installed")
    suite.skip("the fuzzing server", "Autobahn needs Python 2.7, which is not installed")
    suite.finish()


def by_number(case):
    return [int(part) for part in case.split(".")]


def verdicts(directory):
    """Returns case -> "behavior/behaviorClose", in the order of the cases."""
    (cases,) = json.loads((directory / "index.json").read_text()).values()
    return {case: f'{cases[case]["behavior"]}/{cases[case]["behaviorClose"]}' for case in sorted(cases, key=by_number)}


def failures(found):
    return [f"{case} {verdict}" for case, verdict in found.items() if any(part not in RANK for part in verdict.split("/"))]


def weaker(found, direct):
    def ranks(verdict):
        return [RANK.get(part, 0) for part in verdict.split("/")]

    return [f"{case}: {found[case]}, and {direct[case]} without the proxy" for case in found
            if any(ours < theirs for ours, theirs in zip(ranks(found[case]), ranks(direct[case])))]


def wait_for_port(process, port):
    end = time.monotonic() + harness.READY_SECONDS
    while time.monotonic() < end and process.alive():
        if harness.accepts(port):
            return
        time.sleep(0.1)
    raise RuntimeError(f"{process.name} did not start:\n{process.output()[-2000:]}")


directory = harness.work_dir("autobahn")
secrets = harness.Secrets(directory)
out = {name: harness.INTEROP / "autobahn" / "reports" / name for name in ("client", "direct", "server")}
for path in out.values():
    path.mkdir(parents=True, exist_ok=True)
    for report in [*path.glob("*.json"), *path.glob("*.html")]:
        report.unlink()

echo = harness.Node("autobahn/echo.js", directory)
echo_port = echo.facts["port"]
fuzzing_port = harness.free_port()
unmetered = {"message_max_size": '"64MiB"', "overhead_rate": '"1000000/s"', "overhead_burst": "1000000"}
proxy = harness.Proxy("".join([
    "[log]\nformat = \"text\"\nlevel = \"warn\"\n\n",
    harness.listener(secrets),
    harness.upstream("echo", echo_port),
    harness.upstream("fuzzing", fuzzing_port),
    harness.route("echo", "/echo", "echo", unmetered),
    harness.route("fuzzing", "/{*rest}", "fuzzing", unmetered),
]), directory)


def python(name, script, *arguments):
    return harness.Process(name, [python2, "-W", "ignore", harness.HERE / "autobahn" / script, *arguments], directory)


server = python("fuzzingserver", "fuzzingserver.py", fuzzing_port, out["server"], CASES, proxy.port)
wait_for_port(server, fuzzing_port)
runs = {
    "client": python("client", "fuzzingclient.py", proxy.url("/echo"), out["client"], CASES),
    "direct": python("direct", "fuzzingclient.py", f"ws://127.0.0.1:{echo_port}/echo", out["direct"], CASES),
    "server": harness.node("testee", "autobahn/testee.js", directory, proxy.url(""), secrets.ca),
}
end = time.monotonic() + RUN_SECONDS
found = {}
for name, process in runs.items():
    with suite.check(f"{name}: all {CASE_COUNT} cases ran"):
        code = process.wait(end - time.monotonic())
        if code:
            raise AssertionError(f"exit code {code}: {process.output()[-2000:]}")
        found[name] = verdicts(out[name])
        suite.note(f"{name}: {dict(collections.Counter(found[name].values()))}")
        harness.equal(len(found[name]), CASE_COUNT)

for name in ("client", "server"):
    with suite.check(f"{name}: no case failed, every close was clean"):
        harness.equal(failures(found[name]), [])
with suite.check("client: no verdict is weaker than without the proxy"):
    harness.equal(weaker(found["client"], found["direct"]), [])

if "--pin" in sys.argv and not suite.failed:
    EXPECTED.write_text(json.dumps({name: found[name] for name in ("client", "server")}, indent=1) + "\n")
pinned = json.loads(EXPECTED.read_text())
for name in ("client", "server"):
    with suite.check(f"{name}: the verdicts equal the pinned ones"):
        changed = {case: f"{found[name].get(case)}, pinned {verdict}" for case, verdict in pinned[name].items()
                   if found[name].get(case) != verdict}
        harness.equal(changed, {})
        harness.equal(len(pinned[name]), CASE_COUNT)
with suite.check("the proxy is still running"):
    harness.equal(proxy.alive(), True)
suite.finish()
