"""Tests npm libraries through the proxy: `ws` as client and backend, socket.io, graphql-ws, and messages of an operator."""

import harness

ORIGIN = "https://chat.example.test"

suite = harness.Suite("node")
directory = harness.work_dir("node")
secrets = harness.Secrets(directory)
programs = {name: harness.Node(f"node/{name}.js", directory) for name in ("ws", "socketio", "graphql", "notices")}
admin = directory / "admin.sock"

guarded = {"auth": '"users"', "origins": f'["{ORIGIN}"]'}
config = "".join([
    "[log]\nformat = \"text\"\n\n",
    f'[admin]\naddress = "unix:{admin}"\n',
    harness.listener(secrets),
    harness.auth(secrets),
    *(harness.upstream(name, program.facts["port"]) for name, program in programs.items()),
    harness.route("ws", "/ws/echo", "ws", {"message_max_size": '"4MiB"'}),
    harness.route("users", "/users/echo", "ws", **guarded),
    harness.route("small", "/small/echo", "ws", {"message_max_size": '"1KiB"'}),
    harness.route("rate", "/rate/echo", "ws", {"message_rate": '"1/s"', "message_burst": "10"}),
    harness.route("socketio", "/socket.io/{*rest}", "socketio", **guarded),
    harness.route("notices", "/notices", "notices"),
    harness.route("graphql", "/graphql", "graphql", **guarded),
])
proxy = harness.Proxy(config, directory)
for name, program in programs.items():
    program.tell(base=proxy.url(""), ca=str(secrets.ca), token=secrets.token("ada"), origin=ORIGIN, admin=str(admin),
                 short=secrets.token("ada", expires="3s"))
    program.run_checks(suite)
suite.finish()
