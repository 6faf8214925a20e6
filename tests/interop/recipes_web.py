"""The recipes of services on Node: socket.io, SockJS and GraphQL; and those of SignalR and Phoenix, of which only the clients
are real. Their checks are in tests/interop/recipes/NAME.js."""

import functools

from recipes_setting import DIRECT, behind, browser, node, suite, tell


def of_node(recipe, script, address, host):
    """Starts a program that is the service and its client, and returns its checks."""
    program = node(f"{script}.js")
    tell(program, behind(recipe, {address: program.facts["port"]}, host))
    return functools.partial(program.run_checks, suite)


def socket_io():
    program = node("socketio.js")
    port, other = program.facts["port"], program.facts["other"]
    proxy = behind("socket-io", {"127.0.0.1:3000": port}, "chat.example.com")
    changes = [(f'["127.0.0.1:{port}"]', f'["127.0.0.1:{port}", "127.0.0.1:{other}"]'), ("# balance =", "balance =")]
    sticky = behind("socket-io", {"127.0.0.1:3000": port}, "chat.example.com", changes=changes, name="sticky")
    tell(program, proxy, sticky=sticky.url("", "https"), **browser())
    return functools.partial(program.run_checks, suite)


# The second route that the recipe describes.
BY_SESSION = """
[[route]]
name = "session"
host = "localhost"
path = "/echo/{server}/{session}/{transport}"
upstream = "echo"
auth = "none"
http = true
"""


def sockjs():
    program = node("sockjs.js")
    port, other = program.facts["port"], program.facts["other"]
    proxy = behind("sockjs", {"127.0.0.1:9999": port}, "chat.example.com")
    servers = f'["127.0.0.1:{port}"'
    changes = [(f"{servers}]", f'{servers}, "127.0.0.1:{other}"]\nbalance = "hash:path:session"'),
               ("\n# The application's pages.\n", f"{BY_SESSION}\n")]
    hashed = behind("sockjs", {"127.0.0.1:9999": port}, "chat.example.com", changes=changes, name="hashed")
    tell(program, proxy, hashed=None if DIRECT else hashed.url("", "https"), **browser())
    return functools.partial(program.run_checks, suite)


RECIPES = {
    "socket-io": socket_io,
    "sockjs": sockjs,
    "graphql": lambda: of_node("graphql", "graphql", "127.0.0.1:4000", "api.example.com"),
    "signalr": lambda: of_node("signalr", "signalr", "127.0.0.1:5000", "app.example.com"),
    "phoenix": lambda: of_node("phoenix", "phoenix", "127.0.0.1:4000", "www.example.com"),
}
