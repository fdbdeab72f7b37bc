"""The studio's server: loopback only, on the port asked for or any that is free."""

from __future__ import annotations

import socket
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn

from hrm.serve.studio.app import Studio
from hrm.serve.studio.door import Door
from hrm.training.interrupt import Terminated

HOST = "127.0.0.1"


def serve(folder: Path, port: int, say: Callable[[str, bool], None]) -> None:
    """Serve until Ctrl-C or another request to end. `say` gets each address that lets a browser in, the first one
    once the server listens."""
    with listening(port) as bound:
        number = bound.getsockname()[1]

        def address(token: str) -> str:
            return f"http://{HOST}:{number}/?token={token}"

        door = Door(Studio(folder), number, lambda token: say(address(token), False))
        config = uvicorn.Config(
            door, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=5, lifespan="on"
        )
        server = _Server(config, lambda: say(address(door.token), True))
        with suppress(KeyboardInterrupt, Terminated):  # Ctrl-C is how it is closed
            server.run(sockets=[bound])


def listening(port: int) -> socket.socket:
    """A socket of loopback on this port, or on a free one where it is taken."""
    for wanted in (port, 0):
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # on Windows, SO_REUSEADDR would share it
                bound.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_EXCLUSIVEADDRUSE"), 1)  # noqa: B009
            else:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((HOST, wanted))
            bound.listen(128)
            return bound
        except OSError:
            bound.close()
            if not wanted:
                raise
    raise AssertionError


def open_page(address: str) -> bool:
    """Open an address in the person's browser, if there is one."""
    try:
        return webbrowser.open(address)
    except webbrowser.Error:
        return False


class _Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._started()
