"""Tests a central system and charging stations made with `ocpp` and `websockets`, in the versions 1.6 and 2.0.1."""

import asyncio
import base64
import datetime
import http
import logging

import ocpp.routing
import ocpp.v16
import ocpp.v16.call
import ocpp.v16.call_result
import ocpp.v201
import ocpp.v201.call
import ocpp.v201.call_result
import websockets
from checks import check, equal, facts

logging.getLogger("ocpp").setLevel(logging.WARNING)

SUBPROTOCOLS = ["ocpp2.0.1", "ocpp1.6"]
STATIONS = 50
stations = {}  # of the central system, by identity
seen = {}  # the headers of their requests
facts_told = {}  # by the suite


def now():
    return datetime.datetime.now(datetime.UTC).isoformat()


class Central16(ocpp.v16.ChargePoint):
    @ocpp.routing.on("BootNotification")
    def on_boot(self, charge_point_vendor, charge_point_model, **_):
        return ocpp.v16.call_result.BootNotification(current_time=now(), interval=300, status="Accepted")

    @ocpp.routing.on("Heartbeat")
    def on_heartbeat(self):
        return ocpp.v16.call_result.Heartbeat(current_time=now())


class Central201(ocpp.v201.ChargePoint):
    @ocpp.routing.on("BootNotification")
    def on_boot(self, charging_station, reason, **_):
        return ocpp.v201.call_result.BootNotification(current_time=now(), interval=300, status="Accepted")

    @ocpp.routing.on("Heartbeat")
    def on_heartbeat(self):
        return ocpp.v201.call_result.Heartbeat(current_time=now())


class Station16(ocpp.v16.ChargePoint):
    @ocpp.routing.on("RemoteStartTransaction")
    def on_start(self, id_tag, **_):
        return ocpp.v16.call_result.RemoteStartTransaction(status="Accepted" if id_tag == "tag" else "Rejected")


class Station201(ocpp.v201.ChargePoint):
    @ocpp.routing.on("RequestStartTransaction")
    def on_start(self, id_token, **_):
        return ocpp.v201.call_result.RequestStartTransaction(status="Accepted")


def credentials(identity, password=None):
    password = password or facts_told["password"]
    return {"Authorization": "Basic " + base64.b64encode(f"{identity}:{password}".encode()).decode()}


def admit(connection, request):
    """Checks the password of a station before the 101, as a central system does."""
    folder, identity = request.path.rsplit("/", 1)
    if folder == "/ocpp" and request.headers.get("Authorization") != credentials(identity)["Authorization"]:
        refused = connection.respond(http.HTTPStatus.UNAUTHORIZED, "no such station\n")
        refused.headers["WWW-Authenticate"] = 'Basic realm="stations"'
        return refused
    return None


async def central(connection):
    identity = connection.request.path.rsplit("/", 1)[1]
    kind = {"ocpp1.6": Central16, "ocpp2.0.1": Central201}.get(connection.subprotocol)
    if kind is None:
        await connection.close(1002, "no subprotocol")
        return
    stations[identity], seen[identity] = kind(identity, connection), connection.request.headers
    try:
        await stations[identity].start()
    except websockets.ConnectionClosed:
        del stations[identity]


class Connected:
    """A station that is connected to the central system, which answers its calls."""

    def __init__(self, base, identity, offer, kind, folder="ocpp", **headers):
        self.url = f"{base.replace('http', 'ws', 1)}/{folder}/{identity}"
        self.identity, self.offer, self.kind = identity, offer, kind
        self.headers = headers or credentials(identity)

    async def __aenter__(self):
        self.connection = await websockets.connect(self.url, subprotocols=self.offer, additional_headers=self.headers)
        station = self.kind(self.identity, self.connection)
        self.task = asyncio.create_task(station.start())
        return self.connection, station

    async def __aexit__(self, *_):
        await self.connection.close()
        await asyncio.gather(self.task, return_exceptions=True)


def boot(version):
    if version == "ocpp1.6":
        return ocpp.v16.call.BootNotification(charge_point_model="Model", charge_point_vendor="Vendor")
    return ocpp.v201.call.BootNotification(charging_station={"model": "Model", "vendor_name": "Vendor"}, reason="PowerUp")


def remote_start(version):
    if version == "ocpp1.6":
        return ocpp.v16.call.RemoteStartTransaction(id_tag="tag")
    return ocpp.v201.call.RequestStartTransaction(id_token={"idToken": "tag", "type": "Central"}, remote_start_id=1)


async def checked_by_a_service(base):
    """The route whose passwords are checked by nginx, a file of which has `station-1` and `station-2`."""
    connected = lambda identity, **headers: Connected(base, identity, ["ocpp1.6"], Station16, "stations", **headers)

    async with check("OCPP: a station that a service admits is connected, and the central system gets no password"):
        async with connected("station-1") as (_, station):
            equal((await station.call(boot("ocpp1.6"))).status, "Accepted")
            equal(seen["station-1"].get("Authorization"), None)

    async with check("OCPP: a service's 401 has its challenge, and a station cannot connect as another one"):
        for user, password, status in ("station-1", "wrong", 401), ("nobody", None, 401), ("station-2", None, 403):
            try:
                async with connected("station-1", **credentials(user, password)):
                    raise AssertionError(f"{user} is connected")
            except websockets.InvalidStatus as refused:
                equal(refused.response.status_code, status)
                if status == 401:
                    equal(refused.response.headers.get("WWW-Authenticate"), 'Basic realm="stations"')

    async with check("OCPP: a station that returns replaces its earlier connection"):
        async with connected("station-1") as (before, _), connected("station-1") as (_, station):
            await before.wait_closed()
            equal(before.close_code, 1008)
            equal((await station.call(boot("ocpp1.6"))).status, "Accepted")


async def checks(told):
    base = told["base"]
    for version, kind in ("ocpp1.6", Station16), ("ocpp2.0.1", Station201):
        async with check(f"OCPP: {version} is selected, both ends call and answer"):
            identity = f"station-{version}"
            async with Connected(base, identity, [version], kind) as (connection, station):
                equal(connection.subprotocol, version)
                answer = await station.call(boot(version))
                equal((answer.status, answer.interval), ("Accepted", 300))
                equal((await stations[identity].call(remote_start(version))).status, "Accepted")
                for _ in range(10):
                    await station.call(ocpp.v16.call.Heartbeat() if version == "ocpp1.6" else ocpp.v201.call.Heartbeat())
                await (await connection.ping())
                headers = seen[identity]
                equal(headers["Authorization"], credentials(identity)["Authorization"])
                if told["proxied"]:
                    equal((headers["X-Forwarded-For"], headers["X-Forwarded-Proto"]), ("127.0.0.1", "https"))

    async with check("OCPP: of an offer of both versions the central system selects one"):
        async with Connected(base, "both", ["ocpp1.6", "ocpp2.0.1"], Station201) as (connection, station):
            equal(connection.subprotocol, "ocpp2.0.1")
            equal((await station.call(boot("ocpp2.0.1"))).status, "Accepted")

    async with check("OCPP: an offer of another version is not accepted"):
        try:
            async with Connected(base, "old", ["ocpp1.5"], Station16):
                raise AssertionError("the station is connected")
        except websockets.NegotiationError:
            pass  # the 101 names no subprotocol
        except websockets.InvalidStatus as refused:
            equal(refused.response.status_code, 400)

    async with check("OCPP: a wrong password is a 401 with its challenge"):
        try:
            async with Connected(base, "station-1", ["ocpp1.6"], Station16, **credentials("station-1", "wrong")):
                raise AssertionError("the station is connected")
        except websockets.InvalidStatus as refused:
            answer = refused.response
            equal((answer.status_code, answer.headers.get("WWW-Authenticate")), (401, 'Basic realm="stations"'))

    if told["proxied"]:
        await checked_by_a_service(base)

    async with check(f"OCPP: {STATIONS} stations are connected together"):
        async def one(number):
            async with Connected(base, f"depot-{number}", ["ocpp1.6"], Station16) as (_, station):
                equal((await station.call(boot("ocpp1.6"))).status, "Accepted")
                while len(stations) < STATIONS:
                    await asyncio.sleep(0.01)
                await station.call(ocpp.v16.call.Heartbeat())
        await asyncio.gather(*[one(number) for number in range(STATIONS)])


async def main():
    async with websockets.serve(central, "127.0.0.1", 0, subprotocols=SUBPROTOCOLS, process_request=admit) as server:
        facts_told.update(await facts(port=server.sockets[0].getsockname()[1]))
        await checks(facts_told)


asyncio.run(main())
