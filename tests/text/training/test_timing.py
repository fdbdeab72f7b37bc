"""`hrm plan --time` measures each schedule once, as deep as it is, and marks the recipe's own."""

from __future__ import annotations

import json

import pytest

from hrm.cli.main import main as hrm
from hrm.core.recurrence import Schedule
from hrm.files.reading import UserError
from hrm.settings import changed, load_preset
from hrm.text.config import TextConfig
from hrm.text.training import timing
from hrm.text.training.timing import timed

SMALL = "--arch.dim 16 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 --text.length 8 --train.batch-size 2"


def recipe(**changes: object) -> TextConfig:
    small: dict[str, object] = {
        "arch.dim": 16,
        "arch.heads": 2,
        "arch.fast_layers": 1,
        "arch.slow_layers": 1,
        "text.length": 8,
    }
    small |= {key.replace("__", "."): value for key, value in changes.items()}
    return changed(load_preset("text-char", TextConfig), small)


def test_the_recipes_own_is_among_the_schedules_and_each_is_as_long_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    visits = Schedule.visits

    def counting(self: Schedule, n_fast: int, n_slow: int, first_slot: int = 0):
        found = visits(self, n_fast, n_slow, first_slot)
        seen.append(len(found))
        return found

    monkeypatch.setattr(Schedule, "visits", counting)
    shares: list[float] = []
    found = timed(recipe(), [Schedule(6, 4), Schedule(1, 1), Schedule(1, 1)], 0.0, shares.append)
    rows = [(row.h_cycles, row.l_cycles, row.own) for row in found.schedules]
    assert rows == [(1, 1, False), (2, 2, True), (6, 4, False)]
    assert all(row.training > 0 and row.generating > 0 for row in found.schedules)
    assert {1 * 2, 2 * 3, 6 * 5} <= set(seen) and shares == [1 / 3, 2 / 3, 1.0] and found.device == "cpu"


def test_a_plain_transformer_has_one_row_and_no_schedules() -> None:
    plain = recipe(arch__hierarchy=False, halting__max_segments=1, arch__horizon="last_step")
    (row,) = timed(plain, (), 0.0).schedules
    assert row.own and row.training > 0
    with pytest.raises(UserError, match="has no schedule"):
        timed(plain, [Schedule(1, 1)], 0.0)


def test_what_this_machine_has_no_room_for_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Free", (), {"available": 1000})())
    with pytest.raises(UserError, match="are free here"):
        timed(recipe(), (), 0.0)


def test_the_table_and_the_json_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    words = ["plan", "text-char", *SMALL.split()]
    assert hrm([*words, "--schedules", "1x1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    one, own = found["timed"]["schedules"]
    assert (one["h_cycles"], one["l_cycles"], own["own"]) == (1, 1, True)
    assert own["hours"] == pytest.approx(found["tokens"] / own["training"] / 3600)
    assert hrm([*words, "--time"]) == 0
    shown = capsys.readouterr().out
    assert "2x2*" in shown and "6x4 " in shown and "training, tokens/s" in shown
    assert hrm([*words, "--json"]) == 0 and "timed" not in json.loads(capsys.readouterr().out)
    assert hrm([*words, "--schedules", "two"]) == 2 and "is no schedule" in capsys.readouterr().err
