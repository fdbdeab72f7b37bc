"""Who may come in: one browser on this machine, which brings a token once and has a cookie from then on."""

from __future__ import annotations

import hmac
import re
import secrets
import threading
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hrm.serve import errors
from hrm.serve.settings import LOOPBACK

_WEEK = 7 * 24 * 3600
_SAFE = ("GET", "HEAD", "OPTIONS")
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_CLOSED = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>hrm studio</title><main><h1>This page is closed</h1>
<p>Open it with the newest address that <code>hrm studio</code> has printed. Each address opens one browser.</p></main>
</html>"""


class Door:
    """Stands before an ASGI app. `opened` hears each time a browser has come in, with the token for the next one."""

    def __init__(self, app: ASGIApp, port: int = 0, opened: Callable[[str], None] = lambda token: None) -> None:
        self.app, self._opened = app, opened
        self.cookie = f"hrm-studio-{port}"  # a browser sends a host's cookies to each of its ports
        self.token, self._key = secrets.token_urlsafe(24), secrets.token_urlsafe(32)
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        answer = self._refused(scope, headers)
        if answer is not None:
            await answer(scope, receive, _dressed(send))
        else:
            await self.app(scope, receive, _dressed(send))

    def _refused(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer that stands for the app's, where there is one."""
        path, method = scope["path"], scope["method"]
        host = headers.get("host", "")
        if not is_loopback(host):
            return errors.answer(
                403, "hrm studio answers to the name of this machine alone: use the address that it printed"
            )
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if path == "/" and method == "GET" and given:
            return self._enter(given)
        if not self._known(headers):
            if method == "GET" and path == "/":
                return HTMLResponse(_CLOSED, 401)
            return errors.answer(401, "this browser is not let in: open the newest address that hrm studio has printed")
        if method not in _SAFE and headers.get("origin") != f"http://{host}":
            return errors.answer(403, "this was asked by another page: use the studio's own")
        return None

    def _enter(self, given: str) -> Response:
        """Exchange a token for the cookie; the token is spent."""
        with self._lock:
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                return HTMLResponse(_CLOSED, 401)
            self.token = secrets.token_urlsafe(24)
        self._opened(self.token)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self.cookie, self._key, max_age=_WEEK, httponly=True, samesite="strict", path="/")
        return answer

    def _known(self, headers: Headers) -> bool:
        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except CookieError:
            return False
        found = cookies.get(self.cookie)
        return found is not None and hmac.compare_digest(found.value.encode("utf-8", "replace"), self._key.encode())


def is_loopback(host: str) -> bool:
    """Whether a Host header names this machine, so that no page can reach it under a name of its own."""
    return re.sub(r":\d+$", "", host).lower() in LOOPBACK


def _dressed(send: Send) -> Send:
    """`send`, with the headers that keep a page to itself."""

    async def dressed(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if "cache-control" not in headers:
                headers["cache-control"] = "no-cache" if "etag" in headers else "no-store"
        await send(message)

    return dressed
