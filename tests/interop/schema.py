"""Checks `tollgate schema` with an independent validator: it accepts the files that `tollgate check` accepts, and finds
errors in them. TOML is read by Python's tomllib."""

import copy
import json
import re
import tomllib

import harness
import jsonschema
from harness import equal

suite = harness.Suite("schema")
printed = harness.run(harness.BINARY, "schema").stdout
validator = jsonschema.Draft202012Validator(json.loads(printed))

FILES = [harness.ROOT / "config" / "example.toml", *sorted((harness.ROOT / "tests" / "config" / "valid").glob("*.toml"))]
EXAMPLE = tomllib.loads(FILES[0].read_text())


def errors(config):
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(config)]


with suite.check("it is a schema of draft 2020-12, whose title names `tollgate check`"):
    jsonschema.Draft202012Validator.check_schema(validator.schema)
    equal(validator.schema["$schema"], "https://json-schema.org/draft/2020-12/schema")
    equal("tollgate check" in validator.schema["title"], True)

for file in FILES:
    with suite.check(f"{file.relative_to(harness.ROOT)} validates"):
        equal(errors(tomllib.loads(file.read_text())), [])

with suite.check("every commented key of config/example.toml validates"):
    text = FILES[0].read_text()
    every = re.sub(r"^# (\w+ = |\[cluster\]$)", r"\1", text, flags=re.M)
    equal(len(every) < len(text), True)
    equal("cluster" in tomllib.loads(every), True)
    equal(errors(tomllib.loads(every)), [])

with suite.check("the TOML of README.md validates"):
    blocks = re.findall(r"^```toml \S+\n(.*?)^```$", (harness.ROOT / "README.md").read_text(), re.M | re.S)
    equal(len(blocks) > 0, True)
    for block in blocks:
        equal(errors(tomllib.loads(block)), [])

# Each breaks one value of the example: the path of the value, the value, and a part of the message.
PLANTED = [
    ("serve", {}, "'serve' was unexpected"),
    ("server.worker", 1, "'worker' was unexpected"),
    ("server.workers", "2", "is not of type 'integer'"),
    ("server.workers", 1025, "greater than the maximum"),
    ("server.max_sessions", 0, "less than the minimum"),
    ("server.drain_timeout", 30, "is not of type 'string'"),
    ("server.drain_timeout", "30 s", "does not match"),
    ("server.drain_timeout", "off", "does not match"),
    ("server.upgrade_rate", "50/d", "is not valid under any of the given schemas"),
    ("server.handshakes_per_address", "none", "is not valid under any of the given schemas"),
    ("server.host_fall_through", "true", "is not of type 'boolean'"),
    ("log.level", "verbose", "is not one of"),
    ("log", [], "is not of type 'object'"),
    ("listener", {}, "is not of type 'array'"),
    ("listener", [], "should be non-empty"),
    ("listener.0.address", None, "'address' is a required property"),
    ("listener.0.head_max_size", "16KB", "does not match"),
    ("listener.0.certificates.0.key", None, "'key' is a required property"),
    ("listener.0.certificates.0.file", "a", "'file' was unexpected"),
    ("auth.users.algorithms", "ES256", "is not of type 'array'"),
    ("auth.users.audience", [1], "is not of type 'string'"),
    ("upstream.chat", [], "is not of type 'object'"),
    ("upstream.chat.servers", None, "is not valid under any of the given schemas"),
    ("route", None, "'route' is a required property"),
    ("route.0.require", {"room": []}, "is not valid under any of the given schemas"),
    ("route.0.require", {"room": [["a"]]}, "is not valid under any of the given schemas"),
    ("route.0.require", {"room": {"present": False}}, "is not valid under any of the given schemas"),
    ("route.0.forward_claims", {"room": 1}, "is not of type 'string'"),
    ("route.0.limits.message_rte", "1/s", "'message_rte' was unexpected"),
    ("route.0.limits.message_max_size", "1TiB", "does not match"),
    ("cluster", {}, "'url' is a required property"),
    ("cluster", {"url": "redis://a", "timeout": 1}, "is not of type 'string'"),
]


def planted(path, value):
    """Returns the example with another value at a path; None removes the value."""
    config = copy.deepcopy(EXAMPLE)
    *parents, name = path.split(".")
    at = config
    for step in parents:
        at = at[int(step)] if isinstance(at, list) else at[step]
    if value is None:
        del at[name]
    else:
        at[name] = value
    return config


for path, value, message in PLANTED:
    with suite.check(f"an error is found: {path} = {value!r}"):
        found = errors(planted(path, value))
        equal([len(found), message in "".join(found)], [1, True])
suite.finish()
