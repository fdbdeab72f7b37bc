"""What every request passes before a route sees it: its key, its origin, its size; and what every answer carries."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hrm.serve import errors
from hrm.serve.metrics import Metrics
from hrm.serve.settings import Settings, digest
from hrm.terminal import clean

log = logging.getLogger("hrm.serve")


class _Stalled(OSError):
    """A client takes nothing of its answer: for all that can be known, it has left."""


class Guard:
    """Middleware that refuses strangers, limits bodies, adds headers, counts and logs. No request fails without an
    answer."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in self.settings.headers.items():
                    headers.setdefault(name, value)
            try:
                async with asyncio.timeout(self.settings.stall_seconds):
                    await send(message)
            except TimeoutError:
                raise _Stalled from None

        headers = Headers(scope=scope)
        owner = self._owner(headers)
        scope.setdefault("state", {})["owner"] = owner or ""
        try:
            refused = self._refuses(scope["path"], headers, owner)
            if refused is not None:
                await refused(scope, receive, answer)
            else:
                await self.app(scope, self._timed(receive), answer)
        except (_Stalled, ClientDisconnect):
            status = 0
        except Exception:
            log.exception("a request failed")
            if not status:
                await errors.answer(500, "the server has made a mistake: its log says where")(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(status or 499)).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            who = (owner or "nobody")[:8]
            what = clean(scope["path"])[:200].replace("\n", " ")
            log.info("%s %s %s %.0f ms, key %s", scope["method"], what, status or "left", 1000 * seconds, who)

    def _owner(self, headers: Headers) -> str | None:
        """The digest of the key of a request; None where it has no right one. Takes as long for any key."""
        kind, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip() if kind.lower() == "bearer" else ""
        if not given and self.settings.cookie:
            given = cookie_parser(headers.get("cookie", "")).get(self.settings.cookie, "")
        found, mine = None, digest(given)
        for known in self.settings.keys:
            if hmac.compare_digest(known, mine):
                found = known
        return found

    def _refuses(self, path: str, headers: Headers, owner: str | None) -> Response | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.settings.hosts and _name(host) not in self.settings.hosts:
            return errors.answer(403, "this server does not answer under that name: ask 127.0.0.1", "host")
        if origin is not None and origin not in self.settings.origins and origin.partition("://")[2] != host:
            return errors.answer(403, "pages of other sites may not ask: name them with --cors-origin", "origin")
        if self.settings.keys and owner is None and path not in self.settings.free:
            said = "the key is missing or wrong: send Authorization: Bearer KEY"
            return errors.answer(401, said, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        size = headers.get("content-length", "")
        if size.isdecimal() and (len(size) > 18 or int(size) > self.settings.body_bytes):
            return errors.answer(413, self._too_large)
        return None

    @property
    def _too_large(self) -> str:
        return f"the request is longer than {self.settings.body_bytes:,} bytes: shorten it"

    def _timed(self, receive: Receive) -> Receive:
        """The same with a deadline and a size for the body; whether the client is still there is asked without one."""
        arrived, came, deadline = False, 0, time.monotonic() + self.settings.body_seconds

        async def timed() -> Message:
            nonlocal arrived, came
            if arrived:
                return await receive()
            try:
                message: Any = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise HTTPException(408, "the request arrived too slowly") from None
            came += len(message.get("body", b""))
            if came > self.settings.body_bytes:
                raise HTTPException(413, self._too_large)
            arrived = not message.get("more_body", False)
            return message

        return timed


def _name(host: str) -> str:
    """A host without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()
