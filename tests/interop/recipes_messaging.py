"""The recipes of message brokers: NATS and MQTT. Their clients are in tests/interop/recipes/NAME.js."""

import functools
import pathlib
import sys

from harness import equal
from recipes_setting import CLIENT, DIRECT, behind, directory, needs, node, on_free_ports, service, suite, tell

NATS = """
host: "127.0.0.1"
port: {clients}
debug: true
websocket {{ host: "127.0.0.1", port: {websocket}, no_tls: true }}
"""

# Mosquitto 2.0.11 does not start with a listener for WebSockets alone.
MOSQUITTO = """
listener {plain} 127.0.0.1
listener {port} 127.0.0.1
protocol websockets
allow_anonymous true
"""


def nats():
    def start(clients, websocket):
        file = directory / "nats-server.conf"
        file.write_text(NATS.format(clients=clients, websocket=websocket))
        service("nats", websocket, pathlib.Path(sys.executable).with_name("nats-server"), "-c", file)

    _, port = on_free_ports(2, start)
    program = node("nats.js")
    tell(program, behind("nats", {"127.0.0.1:8080": port}, "nats.example.com", page="app.example.com"))
    return functools.partial(nats_checks, program)


def nats_checks(program):
    program.run_checks(suite)
    if not DIRECT:
        with suite.check("NATS: the log of the server has the client's address"):
            equal(f"{CLIENT}/127.0.0.1:" in (directory / "nats.log").read_text(), True)


def mqtt():
    needs("mosquitto")

    def start(plain, port):
        file = directory / "mosquitto.conf"
        file.write_text(MOSQUITTO.format(port=port, plain=plain))
        service("mosquitto", port, "mosquitto", "-c", file)

    _, port = on_free_ports(2, start)
    program = node("mqtt.js")
    tell(program, behind("mqtt", {"127.0.0.1:9001": port}, "mqtt.example.com", page="app.example.com"))
    return functools.partial(program.run_checks, suite)


RECIPES = {"nats": nats, "mqtt": mqtt}
