"""Tests listeners with sslscan, sslyze and testssl.sh: what they accept, known vulnerabilities, certificates, and headers.

    TOLLGATE_SCANNERS=full   run testssl.sh on each listener, and not only on the first, and with its slow checks
"""

import concurrent.futures
import http.client
import http.server
import os
import ssl
import threading

import harness
import scanners_tools as tools
from harness import equal
from scanners_chain import Authority
from scanners_expected import ACCEPTED, GROUPS, LISTENERS, SIMULATED, SOUND, VULNERABILITIES, VULNERABILITIES_TLS12

FULL = os.environ.get("TOLLGATE_SCANNERS") == "full"
SECONDS = 20
HSTS = 730 * 86400  # what Mozilla's profiles recommend

suite = harness.Suite("scanners")
directory = harness.work_dir("scanners")
authority = Authority(directory)


class Page(http.server.BaseHTTPRequestHandler):
    """An upstream with the headers that testssl.sh looks for. `Server` is not to reach a client."""

    protocol_version = "HTTP/1.1"
    server_version = "upstream/1.0"

    def do_GET(self):
        body = b"hello\n"
        self.send_response(200)
        self.send_header("Content-Security-Policy", "default-src 'self'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def start(number, expected):
    """Starts Tollgate with this listener and a route for ordinary requests."""
    return harness.Proxy("".join([
        harness.listener(None, authority.leaf(expected.key), **expected.keys),
        harness.upstream("page", page.server_port),
        harness.route("page", "/", "page", http="true", hsts=f'"{HSTS // 86400}d"'),
    ]), directory, f"tollgate-{number}")


def severities(findings, *names):
    return {name: sorted({finding["severity"] for finding in findings.get(name, [])}) for name in names}


def texts(findings, name):
    return " ".join(finding["finding"] for finding in findings.get(name, []))


def check_sslscan(expected, scan):
    """Checks what sslscan found. Debian's cannot offer compression, SSLv2 and SSLv3; the other two scanners can."""
    with suite.check(f"{expected.name}, sslscan: versions, cipher suites and groups"):
        found = scan.result()
        enabled = {protocol.get("type").upper() + "v" + protocol.get("version"): protocol.get("enabled") == "1"
                   for protocol in found.iter("protocol")}
        equal({version for version, accepted in enabled.items() if accepted}, set(expected.versions))
        equal(len(enabled), 6)
        suites = {version: sorted(cipher.get("cipher") for cipher in found.iter("cipher") if cipher.get("sslversion") == version)
                  for version in {cipher.get("sslversion") for cipher in found.iter("cipher")}}
        equal(suites, expected.openssl())
        equal({group.get("name") for group in found.iter("group")}, {sslscan for sslscan, _ in GROUPS.values()})
    with suite.check(f"{expected.name}, sslscan: no renegotiation, no Heartbleed, no compression"):
        found = scan.result()
        equal([item.get("supported") for item in found.iter("renegotiation")], ["0"])
        equal({item.get("sslversion"): item.get("vulnerable") for item in found.iter("heartbleed")},
              {version: "0" for version in expected.versions})
        equal([item.get("supported") for item in found.iter("compression") if item.get("supported") != "0"], [])
    with suite.check(f"{expected.name}, sslscan: the key of the certificate"):
        found = scan.result()
        equal([item.get("type") for item in found.iter("pk")], [{"ECDSA": "EC", "RSA": "RSA"}[expected.key]])
        equal([item.text for item in found.iter("issuer")], ["Test Intermediate"])
        equal([item.text for name in ("self-signed", "expired") for item in found.iter(name)], ["false", "false"])


def check_sslyze(expected, scan):
    with suite.check(f"{expected.name}, sslyze: versions, cipher suites and groups"):
        found = scan.result()
        equal(found["versions"], expected.iana())
        equal(found["groups"], sorted(GROUPS))
    with suite.check(f"{expected.name}, sslyze: vulnerabilities"):
        found = scan.result()
        wrong = ("heartbleed", "ccs_injection", "client_renegotiation", "compression", "early_data")
        equal({name: found[name] for name in wrong}, {name: False for name in wrong})
        right = ("secure_renegotiation", "fallback_scsv", "extended_master_secret")
        equal({name: found[name] for name in right}, {name: True for name in right})
        equal(found["robot"], "NOT_VULNERABLE_RSA_NOT_SUPPORTED")
    with suite.check(f"{expected.name}, sslyze: a chain in order up to the root, which is not sent, for this name"):
        equal(scan.result()["certificates"], [{
            "key": {"ECDSA": "ECPublicKey", "RSA": "RSAPublicKey"}[expected.key],
            "length": 2, "ordered": True, "has_root": False, "sha1": False, "trusted": True, "ocsp_response": False,
        }])
    with suite.check(f"{expected.name}, sslyze: HSTS, and Mozilla's profile `{expected.profile}`"):
        found = scan.result()
        equal(found["hsts_seconds"], HSTS)
        equal(found["breaches"], {expected.profile: {}})


def check_testssl(expected, scan):
    with suite.check(f"{expected.name}, testssl.sh: versions, cipher suites and groups"):
        found = scan.result()
        names = ("SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2", "TLS1_3")
        offered = {name for name in names if texts(found, name) != "not offered"}
        equal(offered, {version.replace("v", "").replace(".", "_") for version in expected.versions})
        equal(sorted(texts(found, "PFS_ciphers").split()), sorted(sum(expected.openssl().values(), [])))
        equal(sorted(texts(found, "PFS_ECDHE_curves").split()), sorted(testssl for _, testssl in GROUPS.values()))
    names = VULNERABILITIES_TLS12 if "TLSv1.2" in expected.versions else VULNERABILITIES
    with suite.check(f"{expected.name}, testssl.sh: {len(names)} vulnerabilities"):
        equal(severities(scan.result(), *names), {name: ["OK"] for name in names})
    with suite.check(f"{expected.name}, testssl.sh: handshake, certificate and headers"):
        found = scan.result()
        equal(severities(found, *SOUND), {name: ["OK"] for name in SOUND})
        equal(texts(found, "ALPN"), "http/1.1")
        equal(texts(found, "certs_countServer"), "2")
        equal(texts(found, "certs_list_ordering_problem"), "no")
        equal(texts(found, "HSTS_time").split(" days")[0], str(HSTS // 86400))
        equal(texts(found, "HTTP_status_code"), "200 OK ('/')")
        equal("No Server banner" in texts(found, "banner_server"), True)
        if "TLSv1.2" in expected.versions:  # it knows no tickets of TLS 1.3
            equal(texts(found, "sessionresumption_ticket"), "supported")
    if FULL:
        with suite.check(f"{expected.name}, testssl.sh: {SIMULATED} simulated clients, and no bug of implementations"):
            found = scan.result()
            prefix = "clientsimulation-"
            clients = {name.removeprefix(prefix): texts(found, name) for name in found if name.startswith(prefix)}
            equal(len(clients), SIMULATED)
            equal({name for name, text in clients.items() if text == "No connection"}, expected.lost)
            equal(severities(found, "GREASE"), {"GREASE": ["OK"]})
    with suite.check(f"{expected.name}, testssl.sh: nothing else above `INFO`"):
        found = scan.result()
        above = {name: finding["severity"] for name, those in found.items() for finding in those
                 if finding["severity"] not in ("OK", "INFO") and ACCEPTED.get(name, ("",))[0] != finding["severity"]}
        equal({name: (severity, texts(found, name)) for name, severity in above.items()}, {})
        suite.note(f"{expected.name}: testssl.sh has {sum(map(len, found.values()))} findings in {texts(found, 'scanTime')} s")


def check_service(expected, proxy):
    """Checks that the listener is as it was before the scans."""
    with suite.check(f"{expected.name}: after the scans, two requests on one connection"):
        connection = http.client.HTTPSConnection("localhost", proxy.port, timeout=SECONDS,
                                                 context=ssl.create_default_context(cafile=str(authority.root)))
        sockets = set()
        for _ in range(2):
            connection.request("GET", "/")
            response = connection.getresponse()
            equal((response.status, response.read()), (200, b"hello\n"))
            equal(response.getheader("Strict-Transport-Security"), f"max-age={HSTS}")
            equal(response.getheader("Server"), None)
            sockets.add(connection.sock)
        equal(len(sockets), 1)
        connection.close()
        equal([line for line in proxy.output().splitlines() if "panic" in line or "ERROR" in line], [])


def begin(scanner, *arguments):
    """Starts a scan in a thread, which does not keep the suite from ending, and returns the future of what it finds."""
    def scan():
        try:
            future.set_result(scanner(*arguments))
        except Exception as error:  # noqa: BLE001: the checks that wait for the future report it
            future.set_exception(error)

    future = concurrent.futures.Future()
    threading.Thread(target=scan, daemon=True).start()
    return future


page = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
threading.Thread(target=page.serve_forever, daemon=True).start()
proxies = [start(number, expected) for number, expected in enumerate(LISTENERS)]
scans = []
for number, (expected, proxy) in enumerate(zip(LISTENERS, proxies)):
    scans.append((check_sslscan, expected, begin(tools.sslscan, proxy.port)))
    scans.append((check_sslyze, expected, begin(tools.sslyze, proxy.port, authority.root, expected.profile)))
    if FULL or number == 0:
        scans.append((check_testssl, expected, begin(tools.testssl, proxy.port, authority.root, directory,
                                                       *(tools.SLOW if FULL else []))))
for check, expected, found in scans:
    check(expected, found)
for expected, proxy in zip(LISTENERS, proxies):
    check_service(expected, proxy)
page.shutdown()
suite.finish()
