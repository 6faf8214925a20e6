"""The recipes of services on Node: socket.io, SockJS and GraphQL; and those of SignalR and Phoenix, of which only the clients
are real. Their checks are in tests/interop/recipes/NAME.js."""

import functools

from recipes_setting import behind, node, suite, tell


def of_node(recipe, script, address, host):
    """Starts a program that is the service and its client, and returns its checks."""
    program = node(f"{script}.js")
    tell(program, behind(recipe, {address: program.facts["port"]}, host))
    return functools.partial(program.run_checks, suite)


RECIPES = {
    "socket-io": lambda: of_node("socket-io", "socketio", "127.0.0.1:3000", "chat.example.com"),
    "sockjs": lambda: of_node("sockjs", "sockjs", "127.0.0.1:9999", "chat.example.com"),
    "graphql": lambda: of_node("graphql", "graphql", "127.0.0.1:4000", "api.example.com"),
    "signalr": lambda: of_node("signalr", "signalr", "127.0.0.1:5000", "app.example.com"),
    "phoenix": lambda: of_node("phoenix", "phoenix", "127.0.0.1:4000", "www.example.com"),
}
