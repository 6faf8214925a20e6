"""The traffic secrets of TLS 1.3 connections, from the key log of their clients, and the search for them in files.

The proxy must have them in memory only. `derived` computes what follows from a secret: the secrets after key updates, and
the key and the IV of each (RFC 8446 sections 7.2 and 7.3).
"""

import base64
import hashlib
import hmac
import itertools
import pathlib

TRAFFIC = ("CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0")
KEY_BYTES, IV_BYTES = 16, 12  # of TLS_AES_128_GCM_SHA256, the only cipher suite of the load generator


def expand_label(secret, label, length):
    """HKDF-Expand-Label of RFC 8446 section 7.1, with an empty context and at most one block."""
    name = b"tls13 " + label
    info = length.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0"
    return hmac.digest(secret, info + b"\1", hashlib.sha256)[:length]


def derived(secret, updates):
    """Yields the secret and its keys, and those after each of this many key updates."""
    for _ in range(updates + 1):
        yield secret
        yield expand_label(secret, b"key", KEY_BYTES)
        yield expand_label(secret, b"iv", IV_BYTES)
        secret = expand_label(secret, b"traffic upd", 32)


def read(key_log, connections, updates):
    """Returns the secrets of the first connections in a key log, and what is derived from them."""
    lines = (line.split() for line in key_log.read_text().splitlines())
    found = (bytes.fromhex(secret) for label, _, secret in lines if label in TRAFFIC)
    chosen = itertools.islice(found, connections * len(TRAFFIC))
    return {value for secret in chosen for value in derived(secret, updates)}


def forms(value):
    """Returns a secret as it could be in a file: raw, in hex, in base64 without the last characters, as a list of numbers."""
    encoded = base64.b64encode(value).rstrip(b"=")[:-1]
    listed = ", ".join(map(str, value)).encode()
    return [value, value.hex().encode(), value.hex().upper().encode(), encoded, listed]


def find(files, secrets):
    """Returns the files that contain a secret in any form."""
    needles = [form for secret in secrets for form in forms(secret)]
    hits = set()
    for file in files:
        data = file.read_bytes()
        if any(needle in data for needle in needles):
            hits.add(str(file))
    return hits


def files_below(*directories):
    """Returns the regular files below directories."""
    found = (path for directory in directories for path in pathlib.Path(directory).rglob("*"))
    return [path for path in found if path.is_file() and not path.is_symlink()]
