"""`hrm analyze paths`: planes, ends and disturbances are those of the states."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hrm.cli.main import main
from hrm.core.calibration import interval
from hrm.core.recurrence import Carry
from hrm.files.reading import UserError
from hrm.insight.paths import LEVELS, Ends, Start, _follow, counted, kinds_of, paths, periods, plane, shaken
from hrm.insight.subject import Puzzles, Subject, Text
from hrm.puzzles.config import Strategy
from hrm.puzzles.solving import engine
from hrm.puzzles.solving.engine import NOISE, Attempt, Job, Rules
from tests.insight.conftest import sudokus


def by_svd(states: np.ndarray) -> np.ndarray:
    """Coordinates [n, 2] of states [n, dim] on their first two components, each with its largest weight positive."""
    centred = states - states.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    axes = np.array([axis * np.sign(axis[np.abs(axis).argmax()]) for axis in axes])
    return centred @ axes.T


def test_the_plane_is_that_of_the_two_widest_directions() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(200, 7)) * [5, 3, 1, 1, 1, 0.5, 0.1] @ np.linalg.qr(rng.normal(size=(7, 7)))[0] + 3
    found = plane(states)
    np.testing.assert_allclose(found(states), by_svd(states), rtol=1e-10, atol=1e-10)
    values = np.linalg.eigvalsh(np.cov(states.T))[::-1]
    np.testing.assert_allclose(found.shares, values[:2] / values.sum(), rtol=1e-10)


def test_paths_lie_in_the_plane_of_all_of_them(subject: Subject) -> None:
    found = paths(subject, 4, 6, 6, restarts=0, views=0 if subject.family == "puzzle" else None).numbers
    (batch,) = subject.batches(6, 6)
    states = np.stack([reading.carry.z_h.numpy() for reading in subject.think(batch, 4)], 1)  # row, segment, position
    if subject.family == "puzzle":
        ways = states.mean(2)
    else:
        ways = states.transpose(0, 2, 1, 3).reshape(-1, 4, states.shape[-1])[counted(subject, batch)]
    ways = ways.astype(np.float32).astype(np.float64)  # as they are kept
    wanted = by_svd(ways.reshape(-1, ways.shape[-1])).reshape(len(ways), 4, 2)
    for one, way in zip(found["paths"], wanted, strict=False):
        np.testing.assert_allclose(one["plane"], way, atol=1e-5)
    assert found["units"] == len(ways)
    *_, last = subject.think(batch, 4)
    right = subject.solved(batch, last) if isinstance(subject, Puzzles) else last.right.numpy()
    assert found["right"]["as asked"] == int(right.sum())


def test_ends_are_told_apart() -> None:
    """A state at rest, cycles of 2, 3 and 5, one that drifts slowly, and one that never comes back."""
    rng = np.random.default_rng(1)
    places = rng.normal(size=(40, 30))
    turns = [lambda t: 0, lambda t: t % 2, lambda t: t % 3, lambda t: t % 5, None, lambda t: t]
    rows = [
        [places[0] + 0.02 * t * places[1] if turn is None else places[turn(t)] for t in range(17)] for turn in turns
    ]
    states = [torch.tensor(np.array([row[t] for row in rows]))[:, None] for t in range(17)]
    assert periods(states).tolist() == [1, 2, 3, 5, 0, 0]
    assert periods(states[-5:]).tolist() == [1, 2, 0, 0, 0, 0]
    assert periods(states[:1]).tolist() == [0] * 6
    kinds = kinds_of(np.array([1, 1, 2, 0]), np.array([True, False, False, True]))
    assert kinds == {("right", "fixed"): 1, ("wrong", "fixed"): 1, ("wrong", "cycle"): 1, ("right", "moving"): 1}


def test_a_restart_begins_where_that_of_solving_begins() -> None:
    puzzles = sudokus(dtype=torch.float32)
    (batch,) = puzzles.batches(4, 4)
    seen = []
    jobs = [Job(question) for question in batch.inputs.numpy()]
    rules = Rules(2, [Attempt(noise=2)], seed=7)
    for _ in engine.solve(puzzles.model, jobs, rules, 4, observe=lambda row, segment: seen.append((row, segment))):
        pass
    thinking = puzzles.begin(batch, 2)
    thinking.carry = shaken(thinking.carry, batch, NOISE, 7, 2)
    for number in (1, 2):
        best = thinking.segment().best.numpy()
        for row, segment in seen:
            if segment.segment == number:
                assert np.array_equal(segment.readout, best[row])


def test_noise_has_the_scale_that_it_says() -> None:
    puzzles = sudokus()
    (batch,) = puzzles.batches(3, 3)
    carry = Carry(torch.full((3, 17, 32), 2.0), torch.full((3, 17, 32), -3.0))
    found = shaken(carry, batch, 0.5, 0, 1)
    for z, before in zip(found, carry, strict=True):
        size = (z - before).square().mean((1, 2)).sqrt() / before.abs().mean()
        torch.testing.assert_close(size, torch.full((3,), 0.5), rtol=0.1, atol=0)


def test_solved_states_are_disturbed_and_go_on(words: Text) -> None:
    """Without noise, the share that stays is that of the segments that follow; the keys of shared slots go on too."""
    found = paths(words, 3, 4, 4, restarts=0).numbers
    (batch,) = words.batches(4, 4)
    readings = list(words.think(batch, 6))
    right, later = readings[2].right, readings[5].right
    assert found["after"] == 3 and [one["noise"] for one in found["stable"]] == list(LEVELS)
    still = found["stable"][0]
    assert (still["of"], still["back"]) == (int(right.sum()), int((right & later).sum()))
    assert still["interval"] == list(interval(still["back"], still["of"]))
    thinking = words.begin(batch, 2)
    thinking.segment()
    other = thinking.copy()
    other.carry = shaken(other.carry, batch, 2.0, 0, 1)
    assert not torch.equal(other.segment().loss, thinking.segment().loss)


def test_views_are_turned_back() -> None:
    """Groups are pooled, so that digits and rows may change places: such views must end as the puzzle itself."""
    puzzles = sudokus(mixer="groups", tokens="candidates", task_positions=0, q_from="mean")
    (batch,) = puzzles.batches(6, 6)
    see = puzzles.solver.rules(Strategy()).view
    assert see is not None
    asked, moved = Ends(), 0
    _follow(puzzles, batch, 2, Start("as asked"), 0, asked, 0)
    for number in range(1, 5):
        seen = Ends()
        _follow(puzzles, batch, 2, Start("views", view=number), 0, seen, 0)
        for row, question in enumerate(batch.inputs.numpy()):
            turn = see(question, number)
            if turn.source[0] // 4 == turn.source[1] // 4:  # rows stay rows
                assert np.array_equal(seen.answer[0][row], asked.answer[0][row])
                assert seen.right[0][row] == asked.right[0][row]
                moved += not np.array_equal(turn.apply(question), question)
    assert moved > 5
    share = paths(puzzles, 2, 6, 4, restarts=1, views=2).numbers["views_as_asked"]
    assert 0 <= share <= 1


def test_the_command_says_how_they_end(run: Path, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--limit", "6", "--segments", "6", "--restarts", "1", "--views", "1"]
    assert main(["analyze", "paths", str(run), *flags]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Of 6 puzzles" in out and "right again" in out
    assert all((run / "analysis" / f"paths.{form}").is_file() for form in ("json", "png", "svg"))
    text = ["--data", str(saved.parent / "text.txt"), "--out", str(saved.parent / "new")]
    assert main(["analyze", "paths", str(saved), *text, "--limit", "2", "--segments", "4", "--json"]) == 0
    kinds = json.loads(capsys.readouterr().out)["kinds"]
    assert set(kinds) == {"as asked", "restarts"}


def test_what_has_no_paths_or_views_says_so(words: Text) -> None:
    with pytest.raises(UserError, match="plain Transformer"):
        paths(sudokus(hierarchy=False), 2, 4, 4)
    with pytest.raises(UserError, match="symmetric views"):
        paths(words, 2, 4, 4, views=2)
    with pytest.raises(UserError, match="--restarts 0"):
        paths(sudokus(join="first_state"), 2, 4, 4, restarts=2)
