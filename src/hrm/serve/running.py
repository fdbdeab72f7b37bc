"""The process of a server: the address at which it listens, its log, and an end that finishes what it can."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from hrm.files.reading import UserError
from hrm.training.interrupt import Terminated

log = logging.getLogger("hrm.serve")
_LAST = 5
"""Seconds after the grace in which streams that were ended are sent."""


class _Server(uvicorn.Server):
    """Ends the engines while the last answers are still being sent: uvicorn itself tells the application only after
    the last connection is closed."""

    def __init__(self, app: FastAPI, grace: float) -> None:
        super().__init__(
            uvicorn.Config(
                app, log_config=None, access_log=False, server_header=False, ws="none", timeout_keep_alive=15,
                timeout_graceful_shutdown=round(grace) + _LAST,
            )
        )  # fmt: skip
        self._models, self._grace = app.state.models, grace

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("ending: requests under way have %g seconds to finish", self._grace)
        ending = asyncio.get_running_loop().run_in_executor(None, self._models.close, self._grace)
        await super().shutdown(sockets)
        await ending


@contextmanager
def listening(host: str, port: int) -> Iterator[tuple[socket.socket, str]]:
    """A socket at an address, and the address as a browser takes it; UserError for one that is taken or not ours."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        found = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UserError(f"cannot listen at {host}, port {port} ({error.strerror}): choose another (--port)") from error
    with found:
        shown = f"[{host}]" if ":" in host else host
        yield found, f"http://{shown}:{found.getsockname()[1]}"


def serve(app: FastAPI, at: socket.socket, grace: float = 30.0) -> None:
    """Answer until a signal asks to end; requests under way then have `grace` seconds."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("hrm.serve", "uvicorn.error")]
    for logger, level in zip(loggers, (logging.INFO, logging.WARNING), strict=True):
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    try:
        _Server(app, grace).run([at])
    except (KeyboardInterrupt, Terminated):  # how uvicorn passes on the signal after which it has ended
        pass
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
