"""Fetched keys with two identity providers: discovery, rotation under load, faults of the provider, and made-up keys.

TOLLGATE_IDENTITY=full lets each fault last a minute. A fault proxy stands before the provider; the issuer is its URL.
"""

import base64
import json
import os
import secrets as randoms
import time

import harness
import leaks
from harness import equal
from identity_peers import AuthlibProvider, Front, MockServer, UpgradeClient
from reload_peers import Crowd, Upstream

FULL = os.environ.get("TOLLGATE_IDENTITY") == "full"
FAULT_SECONDS = 60 if FULL else 4
ROTATION_SECONDS = 8  # with a new key after each quarter but the last
SESSIONS = 200
UPGRADES_PER_SECOND = 50
FLOOD_SECONDS, FLOOD_RATE, FLOOD_PROCESSES = 4, 1000, 2
PATIENCE_SECONDS = 40
FAULTS = ["down", "500", "slow", "huge", "malformed", "redirecting"]

suite = harness.Suite("identity")
harness.many_files()
directory = harness.work_dir("identity")
secrets = harness.Secrets(directory)
upstream = Upstream(directory)


class Setting:
    """A provider behind a fault proxy, and a Tollgate that trusts it."""

    def __init__(self, kind, name, key="k1", mode="pass"):
        self.front = Front()
        self.provider = kind(directory, self.front.url)
        self.front.upstream = self.provider.port
        self.provider.add_key(key)
        self.front.set_mode(mode)
        self.proxy = harness.Proxy(self.config(), directory, name=name)

    def config(self):
        section = f"""
[auth.users]
issuer = "{self.front.url}"
audience = ["{harness.AUDIENCE}"]
algorithms = ["{self.provider.algorithm}"]
discovery = true
"""
        route = harness.route("chat", "/ws", "main", auth='"users"')
        return "".join([harness.listener(secrets), section, harness.upstream("main", upstream.port), route])

    def token(self, kid="k1"):
        return leaks.remember(self.provider.token(kid, sub="ada", aud=harness.AUDIENCE))

    def made_up(self, count):
        """Returns tokens, each of which names another key that does not exist."""
        rest = self.token().split(".")[1:]
        headers = [json.dumps({"alg": self.provider.algorithm, "kid": randoms.token_hex(8)}) for _ in range(count)]
        return [".".join([base64.urlsafe_b64encode(h.encode()).rstrip(b"=").decode(), *rest]) for h in headers]

    def upgrades(self, number=0):
        return UpgradeClient(f"upgrades-{self.proxy.name}-{number}", directory, str(secrets.ca), self.proxy.port)

    def log_has(self, text):
        """Waits until the log contains this text."""
        end = time.monotonic() + PATIENCE_SECONDS
        while text not in self.proxy.output():
            if time.monotonic() > end:
                raise TimeoutError(f"no {text!r} in the log of {self.proxy.name}")
            time.sleep(0.05)

    def stop(self):
        self.proxy.stop()
        self.front.set_mode("pass")


def ask(client, seconds, rate, *tokens):
    """Asks for upgrades until the end, and returns the numbers of answers by status."""
    client.tell(tokens=tokens, seconds=seconds, rate=rate)
    return client.result(seconds)["statuses"]


def once(client, token):
    """Returns the status of one upgrade."""
    (status,) = ask(client, 0, 1, token)
    return status


def discovery(kind):
    setting = Setting(kind, f"discovery-{kind.name}")
    with suite.check(f"{kind.name}: discovery finds the keys, and a token is accepted"):
        equal(once(setting.upgrades(), setting.token()), "101")
        equal(setting.front.paths[0], "/.well-known/openid-configuration")
        equal(len(setting.front.paths), 2)
    with suite.check(f"{kind.name}: check --online reports the keys, and an issuer that is down"):
        file = directory / f"{setting.proxy.name}.toml"
        done = harness.run(harness.BINARY, "check", "--online", "--config", file)
        if "1 keys, 1 for `algorithms`" not in done.stdout:
            raise AssertionError(done.stdout)
        setting.front.set_mode("down")
        try:
            harness.run(harness.BINARY, "check", "--online", "--config", file)
        except RuntimeError as error:
            if "ended with 1:" not in str(error) or "cannot connect" not in str(error):
                raise
        else:
            raise AssertionError("check --online succeeds without the issuer")
    setting.stop()


def start_without_issuer(kind):
    setting = Setting(kind, f"start-{kind.name}", mode="down")
    with suite.check(f"{kind.name}: a start without the issuer rejects with 503, and admits once the issuer is there"):
        client, token = setting.upgrades(), setting.token()
        equal(once(client, token), "503")
        setting.front.set_mode("pass")
        setting.log_has("key set fetched")
        equal(once(client, token), "101")
    setting.stop()


def rotation(kind):
    setting = Setting(kind, f"rotation-{kind.name}")
    with suite.check(f"{kind.name}: two rotations under {SESSIONS} sessions and {UPGRADES_PER_SECOND} upgrades a second "
                     "reject no good token"):
        crowd = Crowd(f"crowd-{kind.name}", directory, str(secrets.ca), 1.0)
        crowd.open("all", [setting.proxy.url("/ws")], SESSIONS, token=setting.token())
        before, client = setting.front.fetches(), setting.upgrades()
        client.tell(tokens=[setting.token()], seconds=ROTATION_SECONDS, rate=UPGRADES_PER_SECOND)
        for number in (2, 3):
            time.sleep(ROTATION_SECONDS / 4)
            setting.provider.add_key(f"k{number}")
            client.tell(token=setting.token(f"k{number}"))
        result = client.result(ROTATION_SECONDS)
        report = crowd.stop()
        statuses = result["statuses"]
        equal(set(statuses), {"101"})
        equal((report.failures, len(report.results), report.ends()), ([], SESSIONS, {"1000": SESSIONS}))
        fetches = setting.front.fetches() - before
        equal(fetches, 2)
        rate = statuses["101"] / result["seconds"]
        suite.note(f"{kind.name}: {statuses['101']} upgrades in two rotations, {rate:.0f} a second, the slowest "
                   f"{result['slowest']:.2f} s; {fetches} fetches")
    setting.stop()


def fault(kind, mode):
    setting = Setting(kind, f"{mode}-{kind.name}")
    with suite.check(f"{kind.name}: a provider that is {mode} for {FAULT_SECONDS} s rejects no good token"):
        client, token = setting.upgrades(), setting.token()
        equal(once(client, token), "101")
        before = setting.front.fetches()
        setting.front.set_mode(mode)
        # An unknown key makes Tollgate fetch now. The provider may have the key, so the token cannot be decided.
        equal(once(client, *setting.made_up(1)), "503")
        statuses = ask(client, FAULT_SECONDS, UPGRADES_PER_SECOND, token)
        equal(set(statuses), {"101"})
        setting.log_has("key set cannot be fetched")
        attempts = len(setting.front.paths)
        if "/elsewhere" in setting.front.paths:
            raise AssertionError("a redirect was followed")
        setting.front.set_mode("pass")
        setting.log_has("key set fetched again")
        equal(once(client, token), "101")
        suite.note(f"{kind.name}: {mode}: {statuses['101']} upgrades, {attempts} requests so far, "
                   f"{setting.front.fetches() - before} fetches of the set since")
    setting.stop()


def flood(kind):
    setting = Setting(kind, f"flood-{kind.name}")
    with suite.check(f"{kind.name}: made-up keys cause at most two fetches in 30 s"):
        clients = [setting.upgrades(number) for number in range(FLOOD_PROCESSES)]
        equal(once(clients[0], setting.token()), "101")
        before = setting.front.fetches()
        for client in clients:
            rate = FLOOD_RATE // FLOOD_PROCESSES
            client.tell(tokens=setting.made_up(FLOOD_SECONDS * rate), seconds=FLOOD_SECONDS, rate=rate)
        results = [client.result(FLOOD_SECONDS) for client in clients]
        asked = sum(sum(result["statuses"].values()) for result in results)
        equal({status for result in results for status in result["statuses"]}, {"401"})
        fetches = setting.front.fetches() - before
        equal(fetches, 2)
        rate = asked / max(result["seconds"] for result in results)
        suite.note(f"{kind.name}: {asked} made-up keys, {rate:.0f} a second: {fetches} fetches")
        equal(once(clients[0], setting.token()), "101")
    setting.stop()


for provider in (MockServer, AuthlibProvider):
    discovery(provider)
    start_without_issuer(provider)
    rotation(provider)
for position, each in enumerate(FAULTS):
    fault((MockServer, AuthlibProvider)[position % 2], each)
flood(AuthlibProvider)
suite.finish()
