r"""The requests of the suite framing.

Each row has a name, the bytes (`~` is the line `Host: tollgate.test`), and whether Tollgate passes the request on. Most rows are
sent with a probe behind them in the same bytes, which a reader with another idea of the end takes for a part of the body, or
which it misses. Those of `CUT` are sent alone.
"""

HOST = "Host: tollgate.test\r\n"
PROBE = b"GET /probe HTTP/1.1\r\nHost: tollgate.test\r\nConnection: close\r\n\r\n"
HIDDEN = "GET /hidden HTTP/1.1\r\nHost: tollgate.test\r\n\r\n"

PASS, REFUSE = True, False

POST = "POST /a HTTP/1.1\r\n~"
CHUNKED = f"{POST}Transfer-Encoding: chunked\r\n"
LAST = "0\r\n\r\n"
ANNOUNCED = f"{CHUNKED}Trailer: X-T\r\n\r\n4\r\nbody\r\n0\r\nX-T: a\r\n\r\n"

LINES = [
    ("bare LF after the request line", "GET /a HTTP/1.1\n~\r\n", REFUSE),
    ("bare LF after a field", "GET /a HTTP/1.1\r\n~X-A: b\n\r\n", REFUSE),
    ("bare LF as the empty line", "GET /a HTTP/1.1\r\n~\n", REFUSE),
    ("bare LF everywhere", "GET /a HTTP/1.1\nHost: tollgate.test\n\n", REFUSE),
    ("bare CR in a value", "GET /a HTTP/1.1\r\n~X-A: a\rb\r\n\r\n", REFUSE),
    ("bare CR before a field", f"{POST}X-A: a\rTransfer-Encoding: chunked\r\n\r\n", REFUSE),
    ("bare CR in the request line", "GET /a\r HTTP/1.1\r\n~\r\n", REFUSE),
    ("bare CR as the line end", "GET /a HTTP/1.1\rHost: tollgate.test\r\r", REFUSE),
    ("CR CR LF", "GET /a HTTP/1.1\r\n~X-A: b\r\r\n\r\n", REFUSE),
    ("folded value", "GET /a HTTP/1.1\r\n~X-A: b\r\n folded\r\n\r\n", REFUSE),
    ("folded value, by a tab", "GET /a HTTP/1.1\r\n~X-A: b\r\n\tfolded\r\n\r\n", REFUSE),
    ("folded line with nothing", "GET /a HTTP/1.1\r\n~X-A: b\r\n \r\n\r\n", REFUSE),
    ("white space before the first field", "GET /a HTTP/1.1\r\n X-A: b\r\n~\r\n", REFUSE),
    ("space before the colon", "GET /a HTTP/1.1\r\n~X-A : b\r\n\r\n", REFUSE),
    ("tab before the colon", "GET /a HTTP/1.1\r\n~X-A\t: b\r\n\r\n", REFUSE),
    ("NUL in a value", "GET /a HTTP/1.1\r\n~X-A: a\0b\r\n\r\n", REFUSE),
    ("NUL in a name", "GET /a HTTP/1.1\r\n~X\0A: b\r\n\r\n", REFUSE),
    ("NUL in the target", "GET /a\0b HTTP/1.1\r\n~\r\n", REFUSE),
    ("control character in a value", "GET /a HTTP/1.1\r\n~X-A: a\x01b\r\n\r\n", REFUSE),
    ("DEL in a value", "GET /a HTTP/1.1\r\n~X-A: a\x7fb\r\n\r\n", REFUSE),
    ("byte beyond ASCII in a value", "GET /a HTTP/1.1\r\n~X-A: \xe9\r\n\r\n", PASS),
    ("tabs around a value", "GET /a HTTP/1.1\r\n~X-A:\tb\tc\t\r\n\r\n", PASS),
    ("empty name", "GET /a HTTP/1.1\r\n~: b\r\n\r\n", REFUSE),
    ("no colon", "GET /a HTTP/1.1\r\n~no colon\r\n\r\n", REFUSE),
    ("parenthesis in a name", "GET /a HTTP/1.1\r\n~X(A: b\r\n\r\n", REFUSE),
    ("one empty line first", "\r\nGET /a HTTP/1.1\r\n~\r\n", PASS),
    ("three empty lines first", "\r\n\r\n\r\nGET /a HTTP/1.1\r\n~\r\n", PASS),
    ("bare LF first", "\nGET /a HTTP/1.1\r\n~\r\n", PASS),
    ("bare CR first", "\rGET /a HTTP/1.1\r\n~\r\n", REFUSE),
    ("as many CR as LF: one too many, one missing", "GET /a HTTP/1.1\r\n~X-A: b\r\r\nX-B: c\n\r\n", REFUSE),
    ("as many CR as LF: a bare CR in a value", f"{POST}X-A: b\rContent-Length: 4\nX-B: c\r\n\r\nbody", REFUSE),
    ("as many CR as LF: a bare CR in the request line", "GET /a\r HTTP/1.1\n~\r\n", REFUSE),
    ("as many CR as LF: a bare CR at the start of a line", "GET /a HTTP/1.1\r\n~\rX-A: b\n\r\n", REFUSE),
    ("as many CR as LF: a bare CR in the empty line", "GET /a HTTP/1.1\n~\r\r\n", REFUSE),
    ("space first", " GET /a HTTP/1.1\r\n~\r\n", REFUSE),
    ("long target", f"GET /a?{'a' * 6000} HTTP/1.1\r\n~\r\n", PASS),
    ("very long target", f"GET /{'a' * 70000} HTTP/1.1\r\n~\r\n", REFUSE),
    ("very long value", f"GET /a HTTP/1.1\r\n~X-A: {'a' * 70000}\r\n\r\n", REFUSE),
    ("many fields", f"GET /a HTTP/1.1\r\n~{''.join(f'X-{number}: a{chr(13)}{chr(10)}' for number in range(300))}\r\n", REFUSE),
]

REQUEST_LINE = [
    ("two spaces after the method", "GET  /a HTTP/1.1\r\n~\r\n", REFUSE),
    ("two spaces before the version", "GET /a  HTTP/1.1\r\n~\r\n", REFUSE),
    ("tab in the request line", "GET\t/a HTTP/1.1\r\n~\r\n", REFUSE),
    ("space after the version", "GET /a HTTP/1.1 \r\n~\r\n", REFUSE),
    ("space within the target", "GET /a b HTTP/1.1\r\n~\r\n", REFUSE),
    ("method in lower case", "get /a HTTP/1.1\r\n~\r\n", PASS),
    ("method with a bad character", "G@T /a HTTP/1.1\r\n~\r\n", REFUSE),
    ("unknown method", "PURGE /a HTTP/1.1\r\n~\r\n", PASS),
    ("CONNECT", "CONNECT tollgate.test:80 HTTP/1.1\r\n~\r\n", REFUSE),
    ("TRACE", "TRACE /a HTTP/1.1\r\n~\r\n", REFUSE),
    ("HTTP/0.9", "GET /a\r\n", REFUSE),
    ("HTTP/0.9 with a version", "GET /a HTTP/0.9\r\n~\r\n", REFUSE),
    ("HTTP/1.0", "GET /a HTTP/1.0\r\n~\r\n", PASS),
    ("HTTP/1.0 kept", "GET /a HTTP/1.0\r\n~Connection: keep-alive\r\n\r\n", PASS),
    ("HTTP/1.0 without a host", "GET /a HTTP/1.0\r\n\r\n", REFUSE),
    ("HTTP/1.2", "GET /a HTTP/1.2\r\n~\r\n", REFUSE),
    ("HTTP/1.10", "GET /a HTTP/1.10\r\n~\r\n", REFUSE),
    ("HTTP/01.1", "GET /a HTTP/01.1\r\n~\r\n", REFUSE),
    ("HTTP/2.0", "GET /a HTTP/2.0\r\n~\r\n", REFUSE),
    ("http/1.1", "GET /a http/1.1\r\n~\r\n", REFUSE),
    ("preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", REFUSE),
]

TARGETS = [
    ("absolute form", "GET http://tollgate.test/a HTTP/1.1\r\n~\r\n", PASS),
    ("absolute form without a path", "GET http://tollgate.test HTTP/1.1\r\n~\r\n", PASS),
    ("absolute form without a path, with a query", "GET http://tollgate.test?q HTTP/1.1\r\n~\r\n", REFUSE),
    ("absolute form in upper case", "GET HTTP://TOLLGATE.TEST/a HTTP/1.1\r\n~\r\n", PASS),
    ("absolute form, another host", "GET http://other.test/a HTTP/1.1\r\n~\r\n", REFUSE),
    ("absolute form, no Host", "GET http://tollgate.test/a HTTP/1.1\r\n\r\n", REFUSE),
    ("absolute form, port", "GET http://tollgate.test:80/a HTTP/1.1\r\n~\r\n", REFUSE),
    ("absolute form, userinfo", "GET http://u:p@tollgate.test/a HTTP/1.1\r\n~\r\n", REFUSE),
    ("absolute form, another host as userinfo", "GET http://tollgate.test@other.test/a HTTP/1.1\r\n~\r\n", REFUSE),
    ("absolute form, backslash", "GET http://tollgate.test\\@other.test/a HTTP/1.1\r\n~\r\n", REFUSE),
    ("absolute form, another scheme", "GET ftp://tollgate.test/a HTTP/1.1\r\n~\r\n", REFUSE),
    ("OPTIONS *", "OPTIONS * HTTP/1.1\r\n~\r\n", REFUSE),
    ("GET *", "GET * HTTP/1.1\r\n~\r\n", REFUSE),
    ("OPTIONS of a path", "OPTIONS /a HTTP/1.1\r\n~\r\n", PASS),
    ("authority as target", "GET tollgate.test:80 HTTP/1.1\r\n~\r\n", REFUSE),
    ("target without a slash", "GET a/b HTTP/1.1\r\n~\r\n", REFUSE),
    ("target that is a query", "GET ?a HTTP/1.1\r\n~\r\n", REFUSE),
    ("fragment", "GET /a#b HTTP/1.1\r\n~\r\n", REFUSE),
    ("fragment before a query", "GET /a#?b HTTP/1.1\r\n~\r\n", REFUSE),
    ("encoded fragment", "GET /a%23b HTTP/1.1\r\n~\r\n", PASS),
    ("two slashes first", "GET //a HTTP/1.1\r\n~\r\n", REFUSE),
    ("two slashes and a host", "GET //other.test/a HTTP/1.1\r\n~\r\n", REFUSE),
    ("two slashes within", "GET /a//b HTTP/1.1\r\n~\r\n", REFUSE),
    ("dot segments", "GET /a/../b HTTP/1.1\r\n~\r\n", REFUSE),
    ("encoded dot segments", "GET /a/%2e%2e/b HTTP/1.1\r\n~\r\n", REFUSE),
    ("one dot", "GET /a/./b HTTP/1.1\r\n~\r\n", REFUSE),
    ("encoded slash", "GET /a%2fb HTTP/1.1\r\n~\r\n", REFUSE),
    ("encoded slash in a query", "GET /a?b%2fc HTTP/1.1\r\n~\r\n", PASS),
    ("encoded backslash", "GET /a%5cb HTTP/1.1\r\n~\r\n", REFUSE),
    ("backslash", "GET /a\\b HTTP/1.1\r\n~\r\n", REFUSE),
    ("encoded NUL", "GET /a%00b HTTP/1.1\r\n~\r\n", REFUSE),
    ("encoded CRLF", "GET /a%0d%0aX-A:%20b HTTP/1.1\r\n~\r\n", REFUSE),
    ("encoded CRLF in a query", "GET /a?%0d%0aX-A:%20b HTTP/1.1\r\n~\r\n", PASS),
    ("incomplete encoding", "GET /a%2 HTTP/1.1\r\n~\r\n", REFUSE),
    ("encoded letter", "GET /%61 HTTP/1.1\r\n~\r\n", PASS),
    ("byte beyond ASCII", "GET /\xe9 HTTP/1.1\r\n~\r\n", REFUSE),
    ("path parameter with dots", "GET /a/..;/b HTTP/1.1\r\n~\r\n", REFUSE),
    ("empty query", "GET /a? HTTP/1.1\r\n~\r\n", PASS),
]

HOSTS = [
    ("no Host", "GET /a HTTP/1.1\r\n\r\n", REFUSE),
    ("Host twice, equal", "GET /a HTTP/1.1\r\n~~\r\n", REFUSE),
    ("Host twice, different", "GET /a HTTP/1.1\r\n~Host: other.test\r\n\r\n", REFUSE),
    ("empty Host", "GET /a HTTP/1.1\r\nHost:\r\n\r\n", REFUSE),
    ("Host with a space", "GET /a HTTP/1.1\r\nHost: tollgate.test other.test\r\n\r\n", REFUSE),
    ("Host with a list", "GET /a HTTP/1.1\r\nHost: tollgate.test, other.test\r\n\r\n", REFUSE),
    ("Host with userinfo", "GET /a HTTP/1.1\r\nHost: u@tollgate.test\r\n\r\n", REFUSE),
    ("Host with a path", "GET /a HTTP/1.1\r\nHost: tollgate.test/x\r\n\r\n", REFUSE),
    ("Host with a bad port", "GET /a HTTP/1.1\r\nHost: tollgate.test:x\r\n\r\n", REFUSE),
    ("Host with a port", "GET /a HTTP/1.1\r\nHost: tollgate.test:8080\r\n\r\n", PASS),
    ("Host with an empty port", "GET /a HTTP/1.1\r\nHost: tollgate.test:\r\n\r\n", PASS),
    ("Host in upper case", "GET /a HTTP/1.1\r\nHOST: TOLLGATE.TEST\r\n\r\n", PASS),
    ("Host that is folded", "GET /a HTTP/1.1\r\nHost:\r\n tollgate.test\r\n\r\n", REFUSE),
    ("Host with a space before the colon", "GET /a HTTP/1.1\r\n~Host : other.test\r\n\r\n", REFUSE),
    ("Host named in Connection", "GET /a HTTP/1.1\r\n~Connection: Host\r\n\r\n", PASS),
]

LENGTHS = [
    ("length", f"{POST}Content-Length: 4\r\n\r\nbody", PASS),
    ("length with a zero in front", f"{POST}Content-Length: 04\r\n\r\nbody", PASS),
    ("length with many zeros in front", f"{POST}Content-Length: {'0' * 40}4\r\n\r\nbody", PASS),
    ("length between tabs", f"{POST}Content-Length:\t4\t\r\n\r\nbody", PASS),
    ("length twice, equal", f"{POST}Content-Length: 4\r\nContent-Length: 4\r\n\r\nbody", REFUSE),
    ("length twice, different", f"{POST}Content-Length: 4\r\nContent-Length: 0\r\n\r\nbody", REFUSE),
    ("length as a list, equal", f"{POST}Content-Length: 4, 4\r\n\r\nbody", REFUSE),
    ("length as a list, different", f"{POST}Content-Length: 4, 5\r\n\r\nbody", REFUSE),
    ("length as a list, with an empty part", f"{POST}Content-Length: 4,\r\n\r\nbody", REFUSE),
    ("length with a plus", f"{POST}Content-Length: +4\r\n\r\nbody", REFUSE),
    ("length with a minus", f"{POST}Content-Length: -4\r\n\r\nbody", REFUSE),
    ("length in hexadecimal", f"{POST}Content-Length: 0x4\r\n\r\nbody", REFUSE),
    ("length with a fraction", f"{POST}Content-Length: 4.0\r\n\r\nbody", REFUSE),
    ("length with a space", f"{POST}Content-Length: 4 4\r\n\r\nbody", REFUSE),
    ("length in quotes", f"{POST}Content-Length: \"4\"\r\n\r\nbody", REFUSE),
    ("length that is empty", f"{POST}Content-Length:\r\n\r\nbody", REFUSE),
    ("length of 2^63", f"{POST}Content-Length: 9223372036854775808\r\n\r\nbody", REFUSE),
    ("length of 2^64 + 4", f"{POST}Content-Length: 18446744073709551620\r\n\r\nbody", REFUSE),
    ("length with a space before the colon", f"{POST}Content-Length : 4\r\n\r\nbody", REFUSE),
    ("length with an underscore", f"{POST}Content_Length: 4\r\n\r\n", PASS),
    ("length named in Connection", f"{POST}Connection: Content-Length\r\nContent-Length: 4\r\n\r\nbody", PASS),
    ("length of a GET", "GET /a HTTP/1.1\r\n~Content-Length: 4\r\n\r\nbody", PASS),
    ("length of a HEAD", "HEAD /a HTTP/1.1\r\n~Content-Length: 4\r\n\r\nbody", PASS),
    ("length of a DELETE", "DELETE /a HTTP/1.1\r\n~Content-Length: 4\r\n\r\nbody", PASS),
    ("length of an OPTIONS", "OPTIONS /a HTTP/1.1\r\n~Content-Length: 4\r\n\r\nbody", PASS),
    ("length of 0 and a body", f"{POST}Content-Length: 0\r\n\r\n{HIDDEN}", PASS),
    ("no length and a body", f"{POST}\r\nbody", PASS),
    ("expectation", f"{POST}Content-Length: 4\r\nExpect: 100-continue\r\n\r\nbody", PASS),
    ("unknown expectation", f"{POST}Content-Length: 4\r\nExpect: other\r\n\r\nbody", PASS),
    ("length in HTTP/1.0", "POST /a HTTP/1.0\r\n~Content-Length: 4\r\n\r\nbody", PASS),
]

CODINGS = [
    ("chunked", f"{CHUNKED}\r\n4\r\nbody\r\n{LAST}", PASS),
    ("chunked in upper case", f"{POST}TRANSFER-ENCODING: CHUNKED\r\n\r\n4\r\nbody\r\n{LAST}", PASS),
    ("chunked between tabs", f"{POST}Transfer-Encoding:\tchunked\t\r\n\r\n4\r\nbody\r\n{LAST}", PASS),
    ("chunked, then a length", f"{CHUNKED}Content-Length: 4\r\n\r\n{LAST}", REFUSE),
    ("a length, then chunked", f"{POST}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n{LAST}", REFUSE),
    ("chunked and a length of 0", f"{CHUNKED}Content-Length: 0\r\n\r\n4\r\nbody\r\n{LAST}", REFUSE),
    ("chunked, chunked", f"{POST}Transfer-Encoding: chunked, chunked\r\n\r\n{LAST}", REFUSE),
    ("chunked twice", f"{CHUNKED}Transfer-Encoding: chunked\r\n\r\n{LAST}", REFUSE),
    ("chunked, identity", f"{POST}Transfer-Encoding: chunked, identity\r\n\r\n{LAST}", REFUSE),
    ("identity", f"{POST}Transfer-Encoding: identity\r\n\r\n", REFUSE),
    ("identity and a length", f"{POST}Transfer-Encoding: identity\r\nContent-Length: 4\r\n\r\nbody", REFUSE),
    ("identity, chunked", f"{POST}Transfer-Encoding: identity, chunked\r\n\r\n{LAST}", REFUSE),
    ("identity, then chunked", f"{POST}Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n{LAST}", REFUSE),
    ("gzip, chunked", f"{POST}Transfer-Encoding: gzip, chunked\r\n\r\n{LAST}", REFUSE),
    ("chunked, gzip", f"{POST}Transfer-Encoding: chunked, gzip\r\n\r\n{LAST}", REFUSE),
    ("gzip", f"{POST}Transfer-Encoding: gzip\r\n\r\n", REFUSE),
    ("xchunked", f"{POST}Transfer-Encoding: xchunked\r\n\r\n{LAST}", REFUSE),
    ("xchunked and a length", f"{POST}Transfer-Encoding: xchunked\r\nContent-Length: 4\r\n\r\nbody", REFUSE),
    ("chunked with a parameter", f"{POST}Transfer-Encoding: chunked;q=1\r\n\r\n{LAST}", REFUSE),
    ("chunked in quotes", f"{POST}Transfer-Encoding: \"chunked\"\r\n\r\n{LAST}", REFUSE),
    ("chunked after a comma", f"{POST}Transfer-Encoding: ,chunked\r\n\r\n{LAST}", REFUSE),
    ("chunked before a comma", f"{POST}Transfer-Encoding: chunked,\r\n\r\n{LAST}", REFUSE),
    ("chunked after a vertical tab", f"{POST}Transfer-Encoding: \x0bchunked\r\n\r\n{LAST}", REFUSE),
    ("chunked after a vertical tab, and a length", f"{POST}Transfer-Encoding: \x0bchunked\r\nContent-Length: 5\r\n\r\n{LAST}", REFUSE),
    ("chunked that is folded", f"{POST}Transfer-Encoding:\r\n chunked\r\n\r\n{LAST}", REFUSE),
    ("chunked with a space before the colon", f"{POST}Transfer-Encoding : chunked\r\n\r\n{LAST}", REFUSE),
    ("chunked with an underscore, and a length", f"{POST}Transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n{LAST}", PASS),
    ("empty coding", f"{POST}Transfer-Encoding:\r\n\r\n{LAST}", REFUSE),
    ("chunked in HTTP/1.0", f"POST /a HTTP/1.0\r\n~Transfer-Encoding: chunked\r\n\r\n{LAST}", REFUSE),
    ("chunked in HTTP/1.0, and a length", f"POST /a HTTP/1.0\r\n~Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n{LAST}", REFUSE),
    ("chunked named in Connection", f"{CHUNKED}Connection: Transfer-Encoding\r\n\r\n4\r\nbody\r\n{LAST}", PASS),
    ("chunked of a GET", f"GET /a HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n{LAST}", PASS),
    ("chunked of a GET, empty", f"GET /a HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n{LAST}", PASS),
    ("chunked of an OPTIONS", f"OPTIONS /a HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n{LAST}", PASS),
    ("chunked of a DELETE", f"DELETE /a HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n{LAST}", PASS),
    ("chunked of a HEAD", f"HEAD /a HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n{LAST}", PASS),
]

CHUNKS = [
    ("two chunks", f"{CHUNKED}\r\n4\r\nbody\r\nA\r\n0123456789\r\n{LAST}", PASS),
    ("size with zeros in front", f"{CHUNKED}\r\n0004\r\nbody\r\n000\r\n\r\n", PASS),
    ("size with many zeros in front", f"{CHUNKED}\r\n{'0' * 40}4\r\nbody\r\n{LAST}", PASS),
    ("extension", f"{CHUNKED}\r\n4;x=y\r\nbody\r\n0;z\r\n\r\n", PASS),
    ("extension in quotes", f"{CHUNKED}\r\n4;x=\"; 9\"\r\nbody\r\n{LAST}", PASS),
    ("extension with white space", f"{CHUNKED}\r\n4; x = y\r\nbody\r\n{LAST}", PASS),
    ("extension that is empty", f"{CHUNKED}\r\n4;\r\nbody\r\n{LAST}", PASS),
    ("extension with a bare LF", f"{CHUNKED}\r\n4;x\nbody\r\n{LAST}", REFUSE),
    ("extension with a bare CR", f"{CHUNKED}\r\n4;x\ry\r\nbody\r\n{LAST}", REFUSE),
    ("extension with NUL", f"{CHUNKED}\r\n4;x\0\r\nbody\r\n{LAST}", REFUSE),
    ("extension that is long", f"{CHUNKED}\r\n4;{'x' * 40000}\r\nbody\r\n{LAST}", REFUSE),
    ("space after the size", f"{CHUNKED}\r\n4 \r\nbody\r\n{LAST}", REFUSE),
    ("tab after the size", f"{CHUNKED}\r\n4\t\r\nbody\r\n{LAST}", REFUSE),
    ("space before the extension", f"{CHUNKED}\r\n4 ;x\r\nbody\r\n{LAST}", REFUSE),
    ("space before the size", f"{CHUNKED}\r\n 4\r\nbody\r\n{LAST}", REFUSE),
    ("size with a plus", f"{CHUNKED}\r\n+4\r\nbody\r\n{LAST}", REFUSE),
    ("size with a minus", f"{CHUNKED}\r\n-4\r\nbody\r\n{LAST}", REFUSE),
    ("size with 0x", f"{CHUNKED}\r\n0x4\r\nbody\r\n{LAST}", REFUSE),
    ("size with a letter behind", f"{CHUNKED}\r\n4g\r\nbody\r\n{LAST}", REFUSE),
    ("size with an underscore", f"{CHUNKED}\r\n0_4\r\nbody\r\n{LAST}", REFUSE),
    ("no size", f"{CHUNKED}\r\n\r\nbody\r\n{LAST}", REFUSE),
    ("no size, an extension", f"{CHUNKED}\r\n;x\r\nbody\r\n{LAST}", REFUSE),
    ("bare LF after the size", f"{CHUNKED}\r\n4\nbody\r\n{LAST}", REFUSE),
    ("bare CR after the size", f"{CHUNKED}\r\n4\rbody\r\n{LAST}", REFUSE),
    ("bare LF after the data", f"{CHUNKED}\r\n4\r\nbody\n{LAST}", REFUSE),
    ("other bytes after the data", f"{CHUNKED}\r\n4\r\nbodyXX{LAST}", REFUSE),
    ("no line end after the data", f"{CHUNKED}\r\n4\r\nbody{LAST}", REFUSE),
    ("bare LF after the last size", f"{CHUNKED}\r\n4\r\nbody\r\n0\n\r\n", REFUSE),
    ("bare LF at the end", f"{CHUNKED}\r\n4\r\nbody\r\n0\r\n\n", REFUSE),
    ("size of 2^64 + 4", f"{CHUNKED}\r\n10000000000000004\r\nbody\r\n{LAST}", REFUSE),
    ("size of 2^32 + 4", f"{CHUNKED}\r\n100000004\r\nbody\r\n{LAST}", REFUSE),
    ("size of 2^64 - 1", f"{CHUNKED}\r\nffffffffffffffff\r\nbody\r\n{LAST}", REFUSE),
    ("last chunk without the empty line", f"{CHUNKED}\r\n4\r\nbody\r\n0\r\n", REFUSE),
    ("trailer that was announced", ANNOUNCED, PASS),
    ("trailer that was not announced", f"{CHUNKED}\r\n4\r\nbody\r\n0\r\nX-T: a\r\n\r\n", PASS),
    ("trailer with a length", f"{CHUNKED}\r\n4\r\nbody\r\n0\r\nContent-Length: 0\r\n\r\n", PASS),
    ("trailer with a Host", f"{CHUNKED}\r\n4\r\nbody\r\n0\r\nHost: other.test\r\n\r\n", PASS),
    ("trailer with a coding", f"{CHUNKED}\r\n4\r\nbody\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", PASS),
    ("trailer with a length, announced", f"{CHUNKED}Trailer: Content-Length\r\n\r\n0\r\nContent-Length: 9\r\n\r\n", PASS),
    ("trailer with a Host, announced", f"{CHUNKED}Trailer: Host\r\n\r\n0\r\nHost: other.test\r\n\r\n", PASS),
    ("trailer with a coding, announced", f"{CHUNKED}Trailer: Transfer-Encoding\r\n\r\n0\r\nTransfer-Encoding: gzip\r\n\r\n", PASS),
    ("trailer with a bare LF", f"{CHUNKED}\r\n4\r\nbody\r\n0\r\nX-T: a\n\r\n", REFUSE),
    ("trailer with a bare CR", f"{CHUNKED}\r\n4\r\nbody\r\n0\r\nX-T: a\rb\r\n\r\n", REFUSE),
    ("trailer without a colon", f"{CHUNKED}\r\n4\r\nbody\r\n0\r\nX-T\r\n\r\n", REFUSE),
    ("trailer that is folded", f"{CHUNKED}\r\n4\r\nbody\r\n0\r\nX-T: a\r\n b\r\n\r\n", REFUSE),
    ("trailer with NUL", f"{CHUNKED}\r\n4\r\nbody\r\n0\r\nX-T: a\0b\r\n\r\n", REFUSE),
    ("trailer with a space before the colon", f"{CHUNKED}\r\n4\r\nbody\r\n0\r\nX-T : a\r\n\r\n", REFUSE),
]

UPGRADE = ("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
           "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
SIZE = f"{len(HIDDEN):x}"

# Two requests, the second of which some reader takes for a body, or finds within the body of the first.
SECOND = [
    ("a second request", f"{POST}Content-Length: 4\r\n\r\nbody{HIDDEN}", PASS),
    ("hidden in the body of a POST", f"{POST}Content-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}", PASS),
    ("hidden in the body of a GET", f"GET /a HTTP/1.1\r\n~Content-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}", PASS),
    ("hidden in a chunk", f"{CHUNKED}\r\n{SIZE}\r\n{HIDDEN}\r\n{LAST}", PASS),
    ("hidden in a chunk of a GET", f"GET /a HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n{SIZE}\r\n{HIDDEN}\r\n{LAST}", PASS),
    ("hidden by the length", f"{CHUNKED}Content-Length: {5 + len(HIDDEN)}\r\n\r\n{LAST}{HIDDEN}", REFUSE),
    ("hidden by the chunks", f"{CHUNKED}Content-Length: {len(SIZE) + 2}\r\n\r\n{SIZE}\r\n{HIDDEN}\r\n{LAST}", REFUSE),
    ("hidden by the first of two lengths", f"{POST}Content-Length: {len(HIDDEN)}\r\nContent-Length: 0\r\n\r\n{HIDDEN}", REFUSE),
    ("hidden by the second of two lengths", f"{POST}Content-Length: 0\r\nContent-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}", REFUSE),
    ("hidden by a length with a space before the colon", f"{POST}Content-Length : {len(HIDDEN)}\r\n\r\n{HIDDEN}", REFUSE),
    ("hidden by a folded length", f"{POST}Content-Length:\r\n {len(HIDDEN)}\r\n\r\n{HIDDEN}", REFUSE),
    ("hidden by a length after a bare CR", f"{POST}X-A: b\rContent-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}", REFUSE),
    ("hidden by a length after a bare LF", f"{POST}X-A: b\nContent-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}", REFUSE),
    ("hidden behind a bare LF in an extension", f"{CHUNKED}\r\n2;\nxx\r\n{SIZE}\r\n0\r\n\r\n{HIDDEN}\r\n{LAST}", REFUSE),
    ("hidden behind a size of 2^64", f"{CHUNKED}\r\n10000000000000000\r\n\r\n{HIDDEN}", REFUSE),
    ("hidden in the trailers", f"{CHUNKED}\r\n0\r\n{HIDDEN}", REFUSE),
    ("hidden by chunked in HTTP/1.0", f"POST /a HTTP/1.0\r\n~Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n{LAST}{HIDDEN}", REFUSE),
    ("hidden behind an upgrade to h2c", f"GET /a HTTP/1.1\r\n~Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n{HIDDEN}", REFUSE),
    ("hidden behind an unfinished upgrade", f"GET /a HTTP/1.1\r\n~Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n{HIDDEN}", REFUSE),
    ("hidden in the body of an upgrade", f"GET /a HTTP/1.1\r\n~{UPGRADE}Content-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}", REFUSE),
    ("hidden in a chunk of an upgrade", f"GET /a HTTP/1.1\r\n~{UPGRADE}Transfer-Encoding: chunked\r\n\r\n{SIZE}\r\n{HIDDEN}\r\n{LAST}", REFUSE),
    ("hidden behind an expectation", f"{POST}Content-Length: {len(HIDDEN)}\r\nExpect: 100-continue\r\n\r\n{HIDDEN}", PASS),
]

# Requests that never end.
CUT = [
    ("end within the head", "GET /a HTTP/1.1\r\n~X-A", REFUSE),
    ("end within a body", f"{POST}Content-Length: 9\r\n\r\nbody", REFUSE),
    ("end within a chunk", f"{CHUNKED}\r\n9\r\nbody", REFUSE),
    ("end after a chunk", f"{CHUNKED}\r\n4\r\nbody\r\n", REFUSE),
    ("end after the last size", f"{CHUNKED}\r\n4\r\nbody\r\n0\r\n", REFUSE),
    ("end within the trailers", f"{CHUNKED}\r\n4\r\nbody\r\n0\r\nX-T: a\r\n", REFUSE),
    ("end before the last LF", f"{CHUNKED}\r\n4\r\nbody\r\n0\r\n\r", REFUSE),
]


def rows():
    """Returns the name of each row, its bytes, and whether Tollgate passes the request on."""
    for name, text, passes in (*LINES, *REQUEST_LINE, *TARGETS, *HOSTS, *LENGTHS, *CODINGS, *CHUNKS, *SECOND):
        yield name, encode(text) + PROBE, passes
    for name, text, passes in CUT:
        yield name, encode(text), passes


def encode(text):
    # Targets contain no `~`, and the generated parts neither.
    return text.replace("~", HOST).encode("latin-1")
