"""The control that stands beside a solver that deduces makes certain kills only, and figures continue after a kill."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.sittings import add, rows_of
from hrm.puzzles.model import board_of
from hrm.puzzles.solving.engine import Deduce, Job, Rules, solve
from hrm.puzzles.tasks.sudoku import Sudoku

SCRIPT = Path(__file__).parents[1] / "benchmarks/deducing.py"
TASK = Sudoku(2, 3)


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("deducing", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_singles_kill_no_true_candidate_and_their_search_solves_every_puzzle(script: Any):
    control = script.Singles(board_of(TASK))
    table = control.lattice
    rng = np.random.default_rng(0)
    for _ in range(20):
        question, answer, _ = TASK.generate(rng)
        alive = table.start(torch.from_numpy(question.astype(np.int64))[None])
        truth = table.only(torch.from_numpy(answer.astype(np.int64))[None])
        for _ in range(5):
            _, (readout,) = control.deduce(None, table.pack(alive), 1, False)
            alive, before = alive & (readout.keep > 0), alive
            assert bool((alive | ~truth).all()) and alive.sum() <= before.sum()
        rules = Rules(1000, verify=TASK.verify, deduce=Deduce(1, 0.5))
        ((_, outcome),) = solve([control], [Job(question)], rules, 1)
        assert outcome is not None and outcome.accepted and np.array_equal(outcome.readout, answer)


def test_rows_continue_after_a_kill_and_another_run_is_refused(tmp_path: Path):
    file, facts = tmp_path / "solver.jsonl", {"run": "a"}
    assert rows_of(file, facts) == []
    add(file, {"puzzle": 3, "solved": True})
    with file.open("a") as out:
        out.write('{"puzzle": 4, "sol')
    assert rows_of(file, facts) == [{"puzzle": 3, "solved": True}]
    assert rows_of(file, facts) == [{"puzzle": 3, "solved": True}]
    with pytest.raises(SystemExit):
        rows_of(file, {"run": "b"})


@pytest.mark.parametrize("cut", ["", '{"run": "'])
def test_rows_whose_first_line_was_cut_short_begin_again(tmp_path: Path, cut: str):
    file = tmp_path / "solver.jsonl"
    file.write_text(cut)
    assert rows_of(file, {"run": "a"}) == [] == rows_of(file, {"run": "a"})


def test_figures_are_those_of_the_rows(script: Any):
    spent = {"ms": 10.0, "cpu_ms": 9.0, "wrong": False}
    rows = [{"puzzle": i, "solved": i < 3, "calls": 5 * (i + 1), "visits": 100 * (i + 1), "decisions": i} | spent
            for i in range(4)]  # fmt: skip
    told = script.told(rows)
    assert (told["solved"], told["within 10 calls"], told["within 240 visits"]) == (0.75, 0.5, 0.5)
    assert told["without a decision"] == 0.25 and told["ms"]["median"] == 10
    assert (
        told["visits needed by a share of all"]["75%"] == 300 and "80%" not in told["visits needed by a share of all"]
    )
    assert script.compared(rows, rows[1:])["n"] == 2 and "wrong" in script.table({"solver": told})


def test_a_side_of_an_earlier_sitting_stands_beside_that_of_this_one(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    answer = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
    question = "".join("." if at % 3 else digit for at, digit in enumerate(answer))
    data, out = tmp_path / "one.csv", tmp_path / "figures"
    data.write_text(f"question,answer\n{question},{answer}\n")
    for side in ("control", "solver"):
        monkeypatch.setattr("sys.argv", ["x", "sudoku", "--data", str(data), "--out", str(out), "--only", side])
        script.main()
    result = json.loads((out / "result.json").read_text())
    assert result["control"]["n"] == result["solver"]["n"] == result["decisions"]["n"] == 1
