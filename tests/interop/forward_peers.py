"""Authentication services for the suite forward.py, which answer as oauth2-proxy and Authelia do.

The answers are those of their manuals and source code (November 2026).
"""

import asyncio
import secrets
import urllib.parse

import aiohttp.web

import leaks


class Service:
    """An HTTP service, which keeps its port when it is stopped and started again."""

    def __init__(self):
        self.port = 0
        self.logins = {}  # the user and the groups of each login, by its id
        self.questions = 0
        self.fast = asyncio.Event()  # while it is not set, requests are not answered
        self.fast.set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}{self.path}"

    async def start(self):
        application = aiohttp.web.Application()
        application.router.add_get(self.path, self._answer)
        self._runner = aiohttp.web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await aiohttp.web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self):
        """Closes the listener and all connections."""
        await self._runner.cleanup()

    async def _answer(self, request):
        self.questions += 1
        await self.fast.wait()
        return self.decide(request)

    def log_in(self, user, *groups):
        """Returns the `Cookie` header of a new login."""
        login = secrets.token_hex(16)
        self.logins[login] = user, groups
        return f"{self.cookie}={self.value(login)}"

    def log_out(self, cookie):
        del self.logins[self.login(cookie.partition("=")[2])]

    def login(self, value):
        """Returns the id of the login of a cookie."""
        return value.partition("|")[0]


class OAuth2Proxy(Service):
    """oauth2-proxy's `/oauth2/auth` with `--set-xauthrequest`, `--pass-access-token` and sessions in Redis.

    A cookie is the id of a login with a signature. A refresh changes the signature, and earlier cookies stay valid.
    """

    name, path, cookie = "oauth2-proxy", "/oauth2/auth", "_oauth2_proxy"
    prefix = "x-auth-request-"
    headers = ["X-Auth-Request-User", "X-Auth-Request-Email", "X-Auth-Request-Groups"]

    def __init__(self):
        super().__init__()
        self.refreshes = set()  # logins whose cookie is refreshed at the next request

    def value(self, login):
        return leaks.remember(f"{login}|{secrets.token_hex(16)}")

    def refresh(self, cookie):
        """Refreshes this cookie at the next request."""
        self.refreshes.add(self.login(cookie.partition("=")[2]))

    def decide(self, request):
        login = self.login(request.cookies.get(self.cookie, ""))
        attributes = {"path": "/", "secure": True, "httponly": True}
        if login not in self.logins:
            response = aiohttp.web.Response(status=401, text="Unauthorized\n")
            if login:
                response.set_cookie(self.cookie, "", max_age=0, **attributes)
            return response
        user, groups = self.logins[login]
        access_token = leaks.remember(secrets.token_hex(16))
        headers = {**self.granted(user, groups), "X-Auth-Request-Access-Token": access_token, "GAP-Auth": user}
        response = aiohttp.web.Response(status=202, headers=headers)
        if login in self.refreshes:
            self.refreshes.remove(login)
            response.set_cookie(self.cookie, self.value(login), **attributes)
        return response

    @staticmethod
    def granted(user, groups):
        """Returns the headers about a user."""
        headers = {"X-Auth-Request-User": user, "X-Auth-Request-Email": f"{user}@example.test"}
        return {**headers, "X-Auth-Request-Groups": ",".join(groups)} if groups else headers


class Authelia(Service):
    """Authelia's `/api/authz/forward-auth`. `denied` are users whose access its rules deny.

    A client without a login gets 302 if it accepts HTML, and otherwise, as with most WebSocket clients, 401 with a `Location`.
    """

    name, path, cookie = "Authelia", "/api/authz/forward-auth", "authelia_session"
    prefix = "remote-"
    headers = ["Remote-User", "Remote-Groups", "Remote-Name", "Remote-Email"]
    portal = "https://auth.example.test/"

    def __init__(self):
        super().__init__()
        self.denied = set()

    def value(self, login):
        return leaks.remember(login)

    def decide(self, request):
        about = [request.headers.get(f"X-Forwarded-{name}", "") for name in ("Proto", "Host", "URI", "Method")]
        scheme, host, uri, method = about
        if scheme not in ("https", "wss") or not all(about):
            return aiohttp.web.Response(status=400, text="400 Bad Request")
        login = request.cookies.get(self.cookie, "")
        if login not in self.logins:
            target = urllib.parse.quote(f"{scheme}://{host}{uri}", safe="")
            where = f"{self.portal}?rd={target}&rm={method}"
            status, text = (302, "Found") if "text/html" in request.headers.get("Accept", "") else (401, "Unauthorized")
            body = f'<a href="{where}">{status} {text}</a>'
            return aiohttp.web.Response(status=status, headers={"Location": where}, text=body, content_type="text/html")
        user, groups = self.logins[login]
        if user in self.denied:
            return aiohttp.web.Response(status=403, text="403 Forbidden")
        return aiohttp.web.Response(status=200, headers=self.granted(user, groups))

    @staticmethod
    def granted(user, groups):
        """Returns the headers about a user."""
        return {"Remote-User": user, "Remote-Groups": ",".join(groups), "Remote-Name": user.title(),
                "Remote-Email": f"{user}@example.test"}
