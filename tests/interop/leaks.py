"""The secrets that a suite made or sent, and the search for them in the logs of Tollgate.

Tokens, cookies, values of queries, keys and shared secrets count. A log must contain none of them, neither as a whole nor its
last 16 characters, since a log line may be truncated. The code that makes a secret calls `remember`, and `Suite.finish` calls
`check`.
"""

import pathlib
import re
import tempfile

TAIL = 16
# The start of a JSON object in base64url, twice: a token that the suite does not know, as of a command in README.md.
ANY_TOKEN = re.compile(r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}")

_secrets = set()
_logs = set()


def remember(secret):
    """Records a secret of at least 16 characters, and returns it. Other text could contain a shorter one by chance."""
    if len(secret) < TAIL:
        raise ValueError(f"a secret of {len(secret)} characters is too short to search for")
    _secrets.add(secret)
    return secret


def remember_pem(path):
    """Records the lines of a private key, except a last one that is too short."""
    lines = path.read_text().splitlines()
    _secrets.update(line for line in lines if len(line) >= TAIL and not line.startswith("-----"))


def watch(log):
    """Records a file to which a process of Tollgate writes its log."""
    _logs.add(log)


def watched():
    """Returns whether the suite has started a process of Tollgate."""
    return bool(_logs)


def find(logs, secrets):
    """Returns the logs that contain a secret, each with the first characters of those secrets."""
    hits = {}
    for log in sorted(logs):
        text = log.read_text(errors="replace")
        found = [secret for secret in secrets if secret in text or secret[-TAIL:] in text] + ANY_TOKEN.findall(text)
        if found:
            hits[log.name] = sorted({f"{secret[:6]}..." for secret in found})
    return hits


def check():
    """Raises if a log contains a secret."""
    check_planted()
    if hits := find(_logs, _secrets):
        raise AssertionError(f"logs with secrets, of which the first characters are: {hits}")


def check_planted():
    """Raises if `find` misses a secret in a log: a recorded one, its end, or a token that is not recorded."""
    secret = "planted-0123456789abcdef"
    with tempfile.TemporaryDirectory() as directory:
        log = pathlib.Path(directory, "planted.log")
        for text in (secret, secret[-TAIL:], "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ"):
            log.write_text(f'{{"message":"listening"}}\n{{"message":"refused","detail":"{text}"}}\n')
            if list(find([log], {secret})) != [log.name]:
                raise AssertionError(f"a planted secret is not found: {text}")
        log.write_text(f'{{"message":"refused","detail":"{secret[:TAIL]}"}}\n')
        if find([log], {secret}):
            raise AssertionError("the first characters of a secret alone count as the secret")
