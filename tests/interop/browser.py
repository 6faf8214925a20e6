"""Tests Chromium on the page of `tollgate demo`."""

import shutil
import ssl

import harness

suite = harness.Suite("browser")
executable = shutil.which("chromium")
if executable is None:
    suite.skip("Chromium on the demo page", "chromium is not installed")
    suite.finish()

directory = harness.work_dir("browser")
screenshots = harness.INTEROP / "screenshots"
screenshots.mkdir(parents=True, exist_ok=True)
demo = harness.Demo(directory)
port = int(demo.facts["page"].rsplit(":", 1)[1].strip("/"))

# The browser trusts only this key, as it would after an import of the CA.
(directory / "demo.pem").write_text(ssl.get_server_certificate(("127.0.0.1", port), timeout=10))
spki = harness.run("sh", "-c", 'openssl x509 -in "$1" -pubkey -noout | openssl pkey -pubin -outform der '
                   "| openssl dgst -sha256 -binary | openssl base64", "sh", directory / "demo.pem").stdout.strip()

program = harness.Node("node/browser.js", directory)
program.tell(**demo.facts, spki=spki, chromium=executable, screenshots=str(screenshots))
program.run_checks(suite, seconds=180)

with suite.check("demo: exits with 0 on SIGTERM"):
    harness.equal(demo.stop(), 0)
suite.finish()
