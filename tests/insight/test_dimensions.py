"""`hrm analyze dimensions`: the ratio of all states at once, and of disjoint parts of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrm.cli.main import main
from hrm.core.probe import Probe, States, probing
from hrm.insight.dimensions import dimensions
from hrm.insight.subject import Subject
from tests.insight.conftest import sudokus


def ratio(rows: np.ndarray) -> float:
    """(sum of eigenvalues)^2 / sum of squares of the covariance of [n, dim]."""
    values = np.linalg.eigvalsh(np.cov(rows, rowvar=False))
    return float(values.sum() ** 2 / (values**2).sum())


def gathered(subject: Subject, segments: int, count: int) -> dict[str, np.ndarray]:
    """All states [count, visits, positions, dim] of both kinds."""
    found: dict[str, list[np.ndarray]] = {"H": [], "L": []}
    for batch in subject.batches(count, count):
        states = States()
        with probing(subject.model, Probe(states)):
            list(subject.think(batch, segments))
        for role, kept in found.items():
            kept.append(np.stack([z.numpy() for moment, z in states.kept if moment.visit.role == role], 1))
    return {role: np.concatenate(kept) for role, kept in found.items()}


def test_the_ratio_is_that_of_all_states(subject: Subject) -> None:
    found = dimensions(subject, 2, 8, 3).numbers
    for which, one in (("trained", subject), ("untrained", subject.untrained(0))):
        for role, states in gathered(one, 2, 8).items():
            wanted = ratio(states.reshape(-1, states.shape[-1]))
            assert found[which][role]["ratio"] == pytest.approx(wanted, rel=1e-10)
            assert found[which][role]["states"] == states[..., 0].size
    assert found["trained"]["H"]["ratio"] != found["untrained"]["H"]["ratio"]


def test_smaller_numbers_are_disjoint_samples() -> None:
    puzzles = sudokus(rows=10)
    found = dimensions(puzzles, 1, 10, 4, seed=3).numbers["trained"]["H"]["levels"]
    assert [one["count"] for one in found] == [10 / 8, 2.5, 5, 10]
    places = np.random.default_rng(3).permutation(10) % 8
    states = gathered(puzzles, 1, 10)["H"]
    halves = [states[(places // 4) == half] for half in (0, 1)]
    ratios = [ratio(half.reshape(-1, half.shape[-1])) for half in halves]
    assert found[2]["mean"] == pytest.approx(np.mean(ratios), rel=1e-10)
    assert (found[2]["low"], found[2]["high"]) == (pytest.approx(min(ratios)), pytest.approx(max(ratios)))


def test_the_command_says_whether_the_hierarchy_appears(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "dimensions", str(run), "--limit", "8"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "hierarchy of dimensions" in out or "made this hierarchy" in out or "make this hierarchy" in out
    assert (run / "analysis/dimensions.svg").is_file()


def test_a_plain_transformer_has_no_two_states(tmp_path: Path) -> None:
    from hrm.files.reading import UserError

    with pytest.raises(UserError, match="plain Transformer"):
        dimensions(sudokus(hierarchy=False), 1, 4, 4)
