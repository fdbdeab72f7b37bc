"""`hrm analyze steps`: the motion is that of the states, and the readouts are those of the model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from hrm.cli.main import main
from hrm.core.probe import Probe, States, probing
from hrm.core.recurrence import Schedule
from hrm.insight.steps import steps
from hrm.insight.subject import Subject
from tests.insight.conftest import sudokus


def test_motion_is_that_of_the_states(subject: Subject) -> None:
    found = steps(subject, 2, 6, 4).numbers
    sums: dict[int, list[float]] = {}
    for batch in subject.batches(6, 6):
        states = States()
        with probing(subject.model, Probe(states)):
            list(subject.think(batch, 2))
        assert states.first is not None
        last = {"H": states.first.z_h, "L": states.first.z_l}
        for i, (moment, z) in enumerate(states.kept):
            before = last[moment.visit.role]
            change = (z - before).norm(dim=-1) / before.norm(dim=-1)
            sums.setdefault(i, []).extend(change.flatten().tolist())
            last[moment.visit.role] = z
    assert len(found["visits"]) == len(sums)
    for one, changes in zip(found["visits"], sums.values(), strict=True):
        assert one["change"] == pytest.approx(math.fsum(changes) / len(changes), rel=1e-10)


def test_every_schedule_is_measured_and_the_own_one_first(subject: Subject) -> None:
    own = subject.schedule
    found = steps(subject, 2, 4, 4, [Schedule(1, 1), own, Schedule(3, 1), Schedule(1, 1)]).numbers["schedules"]
    assert [(one["h_cycles"], one["l_cycles"]) for one in found] == [tuple(own), (1, 1), (3, 1)]
    batch = next(subject.batches(4, 4))
    *_, last = subject.think(batch, 2, Schedule(3, 1))
    if subject.family == "text":
        bits = float(last.loss.sum()) / math.log(2) / int((batch.labels != -100).sum())
        assert found[2]["quality"] == pytest.approx(bits, rel=1e-10)


def test_readings_are_those_of_the_model() -> None:
    puzzles = sudokus()
    batch = next(puzzles.batches(5))
    *_, last = puzzles.think(batch, 3)
    with torch.no_grad():
        carry = puzzles.model.initial_carry(batch.inputs, batch.more["task_ids"])
        for _ in range(3):
            carry, readout = puzzles.model.segment(carry, batch.inputs, batch.more["task_ids"])
    logs = readout.logits.log_softmax(-1)
    assert torch.equal(last.best, readout.logits.argmax(-1))
    torch.testing.assert_close(last.loss, torch.nn.functional.nll_loss(logs.mT, batch.labels, reduction="none"))
    torch.testing.assert_close(last.entropy, torch.distributions.Categorical(logits=readout.logits).entropy())
    torch.testing.assert_close(last.carry.z_h, carry.z_h)


def test_the_command_writes_table_numbers_and_pictures(
    run: Path, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", "steps", str(run), "--limit", "6", "--segments", "2", "--schedules", "1x1"]) == 0
    assert "states at every visit" in capsys.readouterr().out
    assert all((run / "analysis" / f"steps.{form}").is_file() for form in ("json", "png", "svg"))
    data = ["--data", str(saved.parent / "text.txt"), "--limit", "4", "--out", str(tmp_path / "new")]
    assert main(["analyze", "steps", str(saved), *data, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((tmp_path / "new/steps.json").read_text())
    assert said["about"]["family"] == "text" and len(said["visits"]) == 3 * 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("steps RUN --schedules 2", "cycles x steps, such as 2x2"),
        ("steps RUN --schedules 0x1", "cycles x steps, such as 2x2"),
        ("steps RUN --out RUN/checkpoints/a", "belongs to the run"),
        ("steps RUN --out RUN/config.yaml", "is a file"),
        ("steps nowhere", "nowhere"),
        ("steps RUN --limit 0", "--limit"),
    ],
)
def test_a_mistake_is_said_in_one_sentence(
    words: str, said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", *words.replace("RUN", str(run)).split()]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_a_folder_of_transformers_own_hrm_text_is_looked_into(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hrm.text import hrm_text
    from tests.text.model import small

    model = small.model(dtype=torch.float32, **small.FORMS["hrm_text"], rms_norm_eps=1e-6, vocab_size=50, slow_layers=2)
    hrm_text.write(tmp_path / "theirs", model, 2, saved)
    data = ["--data", str(saved.parent / "text.txt"), "--limit", "2", "--json"]
    assert main(["analyze", "steps", str(tmp_path / "theirs"), *data]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["segment"] for one in found["visits"]} == {1, 2}
