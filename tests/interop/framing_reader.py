"""A strict reader of HTTP/1.1 requests (RFC 9112), for the suite framing. It shares no code with any proxy.

What the RFC lets a recipient repair is malformed here, except empty lines before a request. The extensions of a chunk may be any
text without control characters.
"""

import dataclasses
import re

TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
TARGET = re.compile(rb"[!\"$-\x7e]+")  # no fragment, and no byte beyond ASCII
HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~%!$&'()*+,;=-]+)(?::[0-9]*)?")
ABSOLUTE = re.compile(rb"https?://([^/?]*)(/[^?]*)?(\?.*)?", re.IGNORECASE)
VERSION = re.compile(rb"HTTP/1\.([0-9])")
SIZE = re.compile(rb"([0-9A-Fa-f]+)(;[\t\x20-\x7e\x80-\xff]*)?")


class Malformed(Exception):
    """The bytes are no request."""


class Incomplete(Exception):
    """The bytes end within a request."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A request. Its target is the path, and its host has no port: what two readers have to agree on."""

    method: bytes
    target: bytes
    host: bytes
    body: bytes
    trailers: tuple

    def same(self, other):
        """Returns whether it is the same request, except for trailers, which a proxy may drop."""
        return dataclasses.replace(self, trailers=()) == dataclasses.replace(other, trailers=())

    def __str__(self):
        def short(text):
            text = ascii(text.decode("latin-1"))[1:-1]
            return text if len(text) <= 40 else f"{text[:18]}...({len(text)})"

        host = "" if self.host == b"tollgate.test" else f" @{short(self.host)}"
        return f"{self.method.decode('latin-1')} {short(self.target)}{host}" + (f" [{short(self.body)}]" if self.body else "")


@dataclasses.dataclass
class Reading:
    """The requests in some bytes, and what follows them: nothing, or the reason why it is no request."""

    requests: list
    rest: str = ""

    def is_malformed(self):
        return self.rest.startswith("malformed")


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def line(self):
        end = self.data.find(b"\n", self.at)
        line = self.data[self.at : end if end >= 0 else len(self.data)]
        if b"\r" in line[:-1] or end >= 0 and not line.endswith(b"\r"):
            raise Malformed("a line end other than CRLF")
        if end < 0:
            raise Incomplete
        self.at = end + 1
        return line[:-1]

    def take(self, count):
        part = self.data[self.at : self.at + count]
        if len(part) < count:
            raise Incomplete
        self.at += count
        return part

    def fields(self):
        fields = []
        while line := self.line():
            name, colon, value = line.partition(b":")
            value = value.strip(b" \t")
            if not (colon and TOKEN.fullmatch(name) and VALUE.fullmatch(value)):
                raise Malformed("a field")
            fields.append((name.lower(), value))
        return fields

    def chunks(self):
        body = b""
        while True:
            size = SIZE.fullmatch(self.line())
            if not size:
                raise Malformed("the size of a chunk")
            if not (size := int(size[1], 16)):
                return body, tuple(self.fields())
            body += self.take(size)
            if self.take(2) != b"\r\n":
                raise Malformed("the end of a chunk")

    def request(self):
        while self.data.startswith((b"\r\n", b"\n"), self.at):
            self.at = self.data.index(b"\n", self.at) + 1
        parts = self.line().split(b" ")
        if len(parts) != 3:
            raise Malformed("the request line")
        method, target, version = parts
        version = VERSION.fullmatch(version)
        if not (TOKEN.fullmatch(method) and TARGET.fullmatch(target) and version):
            raise Malformed("the request line")
        fields = self.fields()
        all_of = lambda name: [value for field, value in fields if field == name]
        hosts, codings, lengths = all_of(b"host"), all_of(b"transfer-encoding"), all_of(b"content-length")
        if len(hosts) > 1 or not hosts and version[1] != b"0" or hosts and not HOST.fullmatch(hosts[0]):
            raise Malformed("the host")
        host = hosts[0] if hosts else b""
        if absolute := ABSOLUTE.fullmatch(target):
            host, target = absolute[1], (absolute[2] or b"/") + (absolute[3] or b"")
            if not HOST.fullmatch(host):
                raise Malformed("the host of the target")
        elif not (target.startswith(b"/") or (method, target) == (b"OPTIONS", b"*")):
            raise Malformed("the target")
        body, trailers = b"", ()
        if codings:
            if lengths or version[1] == b"0" or [coding.lower() for coding in codings] != [b"chunked"]:
                raise Malformed("the transfer coding")
            body, trailers = self.chunks()
        elif lengths:
            if len(lengths) > 1 or not re.fullmatch(rb"[0-9]+", lengths[0]):
                raise Malformed("the length")
            body = self.take(int(lengths[0]))
        host = re.sub(rb":[0-9]*$", b"", host).lower()
        return Request(method, target, host, body, trailers)


def read(data):
    """Reads all requests in these bytes."""
    reader, reading = Reader(data), Reading([])
    while reader.at < len(data):
        try:
            reading.requests.append(reader.request())
        except Malformed as why:
            reading.rest = f"malformed: {why}"
            break
        except Incomplete:
            reading.rest = "incomplete"
            break
    return reading
