"""A studio in a thread and a browser before it, for tests of its pages."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from hrm.serve.studio.app import Studio
from hrm.serve.studio.door import Door
from hrm.serve.studio.server import listening

LEARNER = Path(__file__).parents[1] / "golden/runs/learner"
"""A tiny learner that has read a book."""


@dataclass
class Opened:
    """A studio that listens."""

    studio: Studio
    door: Door
    port: int

    @property
    def home(self) -> str:
        """Its address, for those who are in."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def address(self) -> str:
        """The one that lets a browser in, once."""
        return f"{self.home}?token={self.door.token}"


@contextmanager
def opened(folder: Path) -> Iterator[Opened]:
    """The studio of a folder."""
    with closing(listening(0)) as bound:
        port = bound.getsockname()[1]
        studio = Studio(folder)
        door = Door(studio, port)
        server = uvicorn.Server(uvicorn.Config(door, log_config=None, access_log=False, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield Opened(studio, door, port)
        finally:
            server.should_exit = True
            thread.join()


@dataclass
class Watched:
    """A page of the browser, and all that should not happen on it."""

    page: Any
    messages: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def serious(self) -> list[str]:
        """What axe finds that is serious."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright")
        found = axe.Axe().run(self.page).response["violations"]
        bad = [each for each in found if each["impact"] in ("serious", "critical")]
        return [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in bad]


@contextmanager
def watched(browser: Any, address: str, **context: Any) -> Iterator[Watched]:
    """A page at an address; what it says to the console and what it asks of other places is kept."""
    made = browser.new_context(**context)
    page = made.new_page()
    page.set_default_timeout(20_000)
    found = Watched(page)
    page.on("console", lambda message: found.messages.append(message.text))
    page.on("pageerror", lambda error: found.messages.append(str(error)))
    home = address.split("?")[0]
    page.on("request", lambda asked: found.outside.append(asked.url) if not _is_own(asked.url, home) else None)
    page.goto(address)
    yield found
    made.close()


def _is_own(url: str, home: str) -> bool:
    return url.startswith((home, "data:", "blob:"))
