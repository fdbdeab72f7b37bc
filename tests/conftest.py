"""Before any test: one torch thread per process, the same random examples every time."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

settings.register_profile("hrm", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("hrm")

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
"""Of Chromium: no rights that it lacks in a container, and no request of its own."""
SHAPES = [Path(__file__).parent / name for name in ("core", "text/model", "puzzles/training")]
"""Where all tests but the slow ones run with checks of shapes in `make test`."""

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell does so with what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """What comes after a test that chose more threads would wait for them: two workers have two cores."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


# Not for a whole session: while playwright is open, nothing else in this thread can run a loop of asyncio.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, without a window; skips where there is none."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium is installed: the page is not looked at")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=FLAGS.split())
        yield opened
        opened.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests for the checks of shapes are marked.

    Modules that start processes once for all their tests come first: later, a worker that takes over half of their
    tests from the other would start them again.
    """
    for item in items:
        if any(folder in item.path.parents for folder in SHAPES) and not item.get_closest_marker("slow"):
            item.add_marker("shapes")
    items.sort(key=lambda item: item.path.stem not in ("test_sharding", "test_processes", "test_clean"))
