"""Tests Chromium on the page of `tollgate demo`, on pages of another origin, and with forward authentication."""

import secrets as randoms
import shutil
import ssl
import time

import harness
import leaks

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
program = harness.Node("node/browser.js", directory)
program.tell(**demo.facts, spki=harness.spki(directory / "demo.pem"), chromium=executable, screenshots=str(screenshots))
program.run_checks(suite, seconds=180)

with suite.check("demo: exits with 0 on SIGTERM"):
    harness.equal(demo.stop(), 0)

# Pages of another origin renew their sessions.
LIFE_SECONDS = 6  # of the first tokens
secrets = harness.Secrets(directory)
chain, key = secrets.dir / "localhost.pem", secrets.dir / "localhost.key"
program = harness.Node("node/refresh.js", directory, executable, harness.spki(chain), chain, key)
proxy = harness.Proxy("".join([
    harness.listener(secrets), harness.auth(secrets), harness.upstream("echo", program.facts["port"]),
    harness.route("live", "/live/{room}", "echo", auth='"users"', refresh_path='"/live/refresh"',
                  origins=f'["https://localhost:{program.facts["pages"]}"]'),
]), directory)
now = int(time.time())
tokens = lambda expires: {name: secrets.foreign_token(sub=name, exp=expires) for name in ["ann", "bob", "cid"]}
program.tell(url=proxy.url("/live/blue"), refresh=proxy.url("/live/refresh", "https"), first=tokens(now + LIFE_SECONDS),
             fresh=tokens(now + 3600), expires=now + 3600)
program.run_checks(suite, seconds=120)


def forward_auth():
    """A page whose login is checked by a service that answers as oauth2-proxy does."""
    program = harness.Node("node/forward.js", directory, executable, harness.spki(chain), chain, key)
    section = f"""
[auth.sso]
kind = "forward"
url = "http://127.0.0.1:{program.facts["auth"]}/oauth2/auth"
response_headers = ["X-Auth-Request-User", "X-Auth-Request-Groups"]
subject_header = "X-Auth-Request-User"
recheck_interval = "1s"
"""
    proxy = harness.Proxy("".join([
        harness.listener(secrets), section, harness.upstream("echo", program.facts["port"]),
        harness.route("live", "/live", "echo", auth='"sso"', origins=f'["https://localhost:{program.facts["pages"]}"]',
                      require='{ "X-Auth-Request-Groups" = "dev" }'),
    ]), directory, name="forward")
    login = randoms.token_hex(16)
    cookies = [leaks.remember(f"{login}|{randoms.token_hex(16)}") for _ in range(2)]
    program.tell(url=proxy.url("/live"), cookies=cookies, recheckMs=1000)
    program.run_checks(suite, seconds=120)


def preflights():
    """A page of another origin uses an API with a token in `Authorization`."""
    program = harness.Node("node/preflight.js", directory, executable, harness.spki(chain), chain, key)
    keys = dict(auth='"users"', http="true", origins=f'["https://localhost:{program.facts["pages"]}"]',
                forward_claims='{ sub = "X-User-Id" }')
    proxy = harness.Proxy("".join([
        harness.listener(secrets), harness.auth(secrets), harness.upstream("api", program.facts["port"]),
        harness.route("passing", "/passing", "api", bypass_cors_preflight="true", **keys),
        harness.route("strict", "/strict", "api", **keys),
    ]), directory, name="preflight")
    program.tell(passing=proxy.url("/passing", "https"), strict=proxy.url("/strict", "https"),
                 token=secrets.foreign_token(sub="ann", exp=int(time.time()) + 3600))
    program.run_checks(suite, seconds=120)


forward_auth()
preflights()
suite.finish()
