"""Runs the scanners on a listener at 127.0.0.1 whose name is `localhost`, and returns what they found."""

import json
import xml.etree.ElementTree

import harness

SECONDS = 400
PYTHON = harness.INTEROP / "scanners/bin/python"  # with the packages of scanners/requirements.txt

# Protocols, kinds of cipher suites, forward secrecy, preferences, handshake and certificate, header, vulnerabilities.
# No check asks a server elsewhere: there is no --phone-out, and no look-up of a name.
TESTSSL = ["--warnings", "off", "--color", "0", "--quiet", "--nodns", "none", "--ip", "127.0.0.1",
           "-p", "-s", "-f", "-P", "-S", "-h", "-U"]
SLOW = ["-g", "-c"]  # bugs of implementations, such as with GREASE (RFC 8701), and simulated clients


def sslscan(port):
    """Returns the `ssltest` element of sslscan."""
    output = harness.run("sslscan", "--xml=-", "--no-colour", "--sni-name=localhost", f"127.0.0.1:{port}", seconds=SECONDS)
    found = xml.etree.ElementTree.fromstring(output.stdout).find("ssltest")
    if found is None:
        raise RuntimeError(f"sslscan scanned nothing: {output.stdout[-500:]}{output.stderr[-500:]}")
    return found


def sslyze(port, root, *profiles):
    """Returns what `scanners/sslyze_scan.py` prints."""
    return json.loads(harness.run(PYTHON, harness.HERE / "scanners/sslyze_scan.py", port, root, *profiles, seconds=SECONDS).stdout)


def testssl(port, root, directory, *options):
    """Returns the findings of testssl.sh by their identifiers; some identifiers have several."""
    file = directory / f"testssl-{port}.json"
    command = ["testssl", *TESTSSL, *options, "--add-ca", root, "--jsonfile", file, f"localhost:{port}"]
    process = harness.Process(f"testssl-{port}", command, directory, cwd=directory)
    try:
        process.wait(SECONDS)
    finally:
        process.stop()
    findings = {}
    for finding in json.loads(file.read_text()) if file.exists() else []:
        findings.setdefault(finding["id"], []).append(finding)
    # The exit code is not 0 in more cases than errors; a complete scan ends with `scanTime`.
    if "scanTime" not in findings or "scanProblem" in findings:
        raise RuntimeError(f"testssl ended with {process.popen.returncode}: {process.output()[-1600:]}")
    return findings
