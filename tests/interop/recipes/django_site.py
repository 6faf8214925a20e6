"""A site made with Django and Channels in one file, run by Daphne as `daphne django_site:application`.

The environment names the directory of its database, its secret, and whether its clients use TLS.
"""

import os
import pathlib

import django
from django.conf import settings

HOME = pathlib.Path(os.environ["SITE_HOME"])

settings.configure(
    DEBUG=False,
    SECRET_KEY=os.environ["SITE_SECRET"],
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
                    "django.contrib.messages", "channels"],
    MIDDLEWARE=["django.middleware.security.SecurityMiddleware", "django.contrib.sessions.middleware.SessionMiddleware",
                "django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware",
                "django.contrib.auth.middleware.AuthenticationMiddleware",
                "django.contrib.messages.middleware.MessageMiddleware"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True,
                "OPTIONS": {"context_processors": [
                    "django.template.context_processors.request", "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages"]}}],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": HOME / "db.sqlite3"}},
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    STATIC_URL="/static/",
    LOGIN_REDIRECT_URL="/",
    SESSION_COOKIE_SECURE=bool(os.environ["SITE_IS_SECURE"]),
    CSRF_COOKIE_SECURE=bool(os.environ["SITE_IS_SECURE"]),
)
django.setup()

from channels.auth import AuthMiddlewareStack  # noqa: E402: after the settings
from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.contrib import admin  # noqa: E402
from django.contrib.auth import logout  # noqa: E402
from django.contrib.auth.views import LoginView  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import HttpResponse, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402


class Room(AsyncJsonWebsocketConsumer):
    """A chat room, whose members see the name of each speaker."""

    async def connect(self):
        self.room = self.scope["url_route"]["kwargs"]["room"]
        if not self.scope["user"].is_authenticated:
            await self.close(code=4401)
            return
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()
        await self.send_json({"client": self.scope["client"][0]})

    async def receive_json(self, content):
        said = {"type": "said", "text": content["text"], "user": self.scope["user"].username}
        await self.channel_layer.group_send(self.room, said)

    async def said(self, event):
        await self.send_json({"user": event["user"], "text": event["text"]})

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.room, self.channel_name)


def whoami(request):
    return JsonResponse({"user": request.user.username, "secure": request.is_secure(), "url": request.build_absolute_uri(),
                         "address": request.META["REMOTE_ADDR"]})


def decide(request):
    """Decides about a request for Tollgate's forward authentication, as oauth2-proxy does."""
    if not request.user.is_authenticated:
        if "text/html" in request.headers.get("Accept", ""):
            where = f'https://{request.headers["X-Forwarded-Host"]}{request.headers["X-Forwarded-Uri"]}'
            return HttpResponse(status=302, headers={"Location": f"/accounts/login/?next={where}"})
        return HttpResponse("Unauthorized\n", status=401)
    return HttpResponse(status=202, headers={"X-Auth-Request-User": request.user.username})


@csrf_exempt
def leave(request):
    logout(request)
    return HttpResponse("logged out")


urlpatterns = [
    path("", whoami),
    path("auth", decide),
    path("accounts/login/", LoginView.as_view(template_name="admin/login.html")),
    path("accounts/logout/", leave),
    path("admin/", admin.site.urls),
]
application = ProtocolTypeRouter({
    "http": get_asgi_application(),
    "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter([path("ws/<str:room>/", Room.as_asgi())]))),
})
