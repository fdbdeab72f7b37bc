"""Before any test: one torch thread per process, the same random examples every time."""

import os
import signal
import sys
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

settings.register_profile("hrm", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("hrm")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell does so with what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """What comes after a test that chose more threads would wait for them: two workers have two cores."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that start processes once for all their tests come first: later, a worker that takes over half of their
    tests from the other would start them again."""
    items.sort(key=lambda item: item.path.stem not in ("test_sharding", "test_processes", "test_clean"))
