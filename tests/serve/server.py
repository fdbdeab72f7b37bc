"""A server in a thread of the tests, which real clients reach over a socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from hrm.serve.app import create_app
from hrm.serve.models import Models
from hrm.serve.running import listening
from hrm.serve.settings import Settings, digest

KEY = "a key for the tests"
HEADERS = {"Authorization": f"Bearer {KEY}"}
SETTINGS = Settings(frozenset({digest(KEY)}))


def app_of(runs: dict[str, Any], settings: Settings = SETTINGS, **options: Any) -> FastAPI:
    """The API of these runs, on the CPU."""
    return create_app(Models(runs, device="cpu", **options), settings)


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The address of a server of this app."""
    with listening("127.0.0.1", 0) as (socket, address):
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=5))
        thread = threading.Thread(target=server.run, args=([socket],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield address
        finally:
            server.should_exit = True
            thread.join()
