"""Threads on a CPU are chosen once: few enough not to wait for each other, and the same again when a run goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from hrm.files.reading import UserError
from hrm.runs import threads


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """A machine with four cores on which torch would use all of them; what `torch.set_num_threads` sets."""
    before = torch.get_num_threads()
    now = {"threads": 4}
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_settled", None)
    monkeypatch.setattr(threads, "_cores", lambda: 4)
    monkeypatch.setattr(threads, "free_cores", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: now["threads"])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: now.update(threads=number))
    yield now
    monkeypatch.undo()
    assert torch.get_num_threads() == before


def test_a_small_model_gets_one_thread_and_a_large_one_the_free_cores(
    four_cores: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert threads.settle(1000)[0] == four_cores["threads"] == 1
    number, said = threads.settle(10**9)
    assert number == four_cores["threads"] == 4 and said == "4 threads (as many as there are cores)"
    for free, expected in ((3, 3), (0, 1)):
        monkeypatch.setattr(threads, "free_cores", lambda free=free: free)
        assert threads.settle(10**9)[0] == expected
    assert "free cores" in threads.settle(10**9)[1]


def test_the_number_of_a_run_or_a_flag_counts_more_and_omp_num_threads_most(
    four_cores: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert threads.settle(1000, 3)[0] == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    four_cores["threads"] = 2  # as torch starts with it
    assert threads.settle(10**9, 3) == (2, "2 threads (OMP_NUM_THREADS says so)")


def test_what_whoever_imports_torch_has_set_is_the_most(four_cores: dict[str, int]) -> None:
    four_cores["threads"] = 2
    assert threads.settle(10**9)[0] == 2
    assert threads.settle(1000)[0] == 1
    assert threads.settle(10**9)[0] == 2, "one that was set for a small model is no wish"


@pytest.mark.parametrize("wrong", [-1, 10**9])
def test_an_impossible_number_is_refused(wrong: int) -> None:
    with pytest.raises(UserError, match="--threads"):
        threads.settle(1, wrong)


def test_cores_that_work_are_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(threads, "_allowed", lambda: [0, 2, 3])
    monkeypatch.setattr(threads.psutil, "cpu_percent", lambda *a, **k: [100.0, 100.0, 3.0, 12.0])
    assert threads.free_cores() == 2
