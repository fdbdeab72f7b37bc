"""`hrm analyze ablate`: what is knocked out is gone, and the rest is the model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hrm.cli.main import main
from hrm.core.layers import Context
from hrm.core.recurrence import Carry, Schedule
from hrm.files.reading import UserError
from hrm.insight.ablate import ablate, arms, blanked
from hrm.insight.subject import Puzzles, Subject, Text
from hrm.puzzles.measuring import evaluate
from hrm.text.data import Packed, encode, make_tokenizer
from hrm.text.load import TextModel
from tests.insight.conftest import PROSE, sudokus
from tests.text.model import small as text


def solving(rows: int = 12, **changes: Any) -> Puzzles:
    """A model that answers some puzzles after one segment and some after three."""
    puzzles = sudokus(rows, **changes)
    readings = list(puzzles.think(next(puzzles.batches(rows)), 3))
    for row in range(rows):
        puzzles.puzzles.labels[row] = readings[0 if row % 3 == 0 else 2].best[row].numpy()
    return puzzles


def by_name(subject: Subject, segments: int = 3) -> dict[str, float]:
    found = ablate(subject, [], segments, 12, 5).numbers["arms"]
    return {one["name"]: one["quality"] for one in found}


def test_the_whole_model_is_that_of_eval_at_the_same_depth() -> None:
    puzzles = solving()
    for segments in (1, 3):
        measured = evaluate(puzzles.solver, puzzles.puzzles, stop=(), max_segments=segments)
        whole = ablate(puzzles, [], segments, 12, 5).numbers["arms"][0]
        assert whole["quality"] == measured.exact_accuracy
        assert (whole["low"], whole["high"]) == pytest.approx(measured.exact_interval)
    assert by_name(puzzles)["whole"] > by_name(puzzles)["without carry: one segment"] > 0


def segment(puzzles: Puzzles, carry: Carry, x: Tensor, role: str) -> tuple[Carry, Tensor]:
    """A segment of HRM in equations, with one module knocked out; the state that is read out apart."""
    model = puzzles.model
    fast, slow = model.recurrence.fast, model.recurrence.slow

    def stack(which: torch.nn.Module, z: Tensor) -> Tensor:
        for layer in which.layers:  # type: ignore[union-attr]
            z = layer(z, Context(rope=None, causal=False), 0)
        return z

    z_h, z_l = carry
    for _ in range(puzzles.schedule.h_cycles):
        for _ in range(puzzles.schedule.l_cycles if role != "L" else 0):
            z_l = stack(fast, z_l + (z_h + x))
        z_h = stack(slow, z_h + z_l) if role != "H" else z_h
    return Carry(z_h, z_l), stack(slow, z_h + z_l) if role == "H" else z_h


@pytest.mark.parametrize("role", ["H", "L"])
def test_a_module_that_is_knocked_out_changes_nothing(role: str) -> None:
    puzzles = sudokus()
    batch = next(puzzles.batches(12))
    arm = next(arm for arm in arms(puzzles, 3) if arm.name == f"without {role}")
    thinking = puzzles.begin(batch, 3)
    first = thinking.carry
    with torch.no_grad():
        x = puzzles.model.embed(batch.inputs, batch.more["task_ids"])
        carry = first
        for number in range(3):
            if number and arm.carried is not None:
                thinking.carry = arm.carried(first, thinking.carry)
            reading = thinking.segment(arm.schedule)
            carry, read = segment(puzzles, carry, x, role)
            torch.testing.assert_close(reading.carry.z_h, read, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(reading.carry.z_l, carry.z_l, rtol=1e-10, atol=1e-10)
    kept = carry.z_h if role == "H" else carry.z_l
    assert torch.equal(kept, first.z_h if role == "H" else first.z_l)


def test_without_carry_is_one_segment() -> None:
    puzzles = sudokus()
    batch = next(puzzles.batches(12))
    thinking = puzzles.begin(batch, 3)
    first = thinking.carry
    one = thinking.segment()
    for _ in range(2):
        thinking.carry = first
        again = thinking.segment()
    assert torch.equal(one.carry.z_h, again.carry.z_h)


def test_a_state_that_is_not_carried_begins_as_at_first() -> None:
    puzzles = solving()
    batch = next(puzzles.batches(12))
    for name, fresh in (("z_h", 0), ("z_l", 1)):
        ids, carry = batch.more["task_ids"], puzzles.model.initial_carry(batch.inputs, batch.more["task_ids"])
        first = carry
        with torch.no_grad():
            for _ in range(3):
                states = list(carry)
                states[fresh] = first[fresh]
                carry, readout = puzzles.model.segment(Carry(*states), batch.inputs, ids)
        right = (readout.logits.argmax(-1) == batch.labels).all(1).double().mean()
        assert by_name(puzzles)[f"without carry of {name}"] == float(right)


def test_the_arms_fit_the_schedule() -> None:
    names = [arm.name for arm in arms(sudokus(h_cycles=1, l_cycles=4, task_positions=0), 2)]
    assert "1 cycle" not in names and "1 step a cycle" in names and "task embedding blanked" not in names
    names = [arm.name for arm in arms(sudokus(h_cycles=2, l_cycles=1), 1)]
    assert "1 cycle" in names and "1 step a cycle" not in names and not any("carry" in name for name in names)


def test_a_blank_task_embedding_is_one_of_zeros() -> None:
    puzzles = sudokus(task_positions=1)
    model = puzzles.model
    with torch.no_grad():
        model.task_embedding.weight.normal_()
    batch = next(puzzles.batches(12))
    with blanked(model):
        (there,) = puzzles.think(batch, 1)
    with torch.no_grad():
        (before,) = puzzles.think(batch, 1)
        model.task_embedding.weight.zero_()
    (zeroed,) = puzzles.think(batch, 1)
    assert torch.equal(there.carry.z_h, zeroed.carry.z_h) and not torch.equal(before.carry.z_h, there.carry.z_h)
    assert "task embedding blanked" in by_name(puzzles)


@pytest.mark.parametrize("form", text.FORMS)
def test_every_form_of_text_is_measured(form: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer("char", [PROSE])
    how = {**text.FORMS[form], "h_cycles": 2, "l_cycles": 2}
    model = text.model(5, vocab_size=len(tokenizer), max_position_embeddings=64, **how)
    packed = Packed.write(tmp_path / "packed", tokenizer, encode(tokenizer, [PROSE]))
    words = Text(TextModel(model, tokenizer, "random"), packed, 16, "text")
    found = ablate(words, [], 2, 4, 3).numbers["arms"]
    assert all(math.isfinite(one["quality"]) and one["low"] <= one["quality"] <= one["high"] for one in found)
    batch = next(words.batches(4, 4))
    for name, schedule in (("whole", None), ("1 cycle, 1 step", (1, 1))):
        with torch.no_grad():
            how = {} if schedule is None else {"schedule": schedule}
            logits = model(batch.inputs, **batch.more, max_segments=2, halting="fixed", **how).logits
        losses = torch.nn.functional.cross_entropy(logits.mT, batch.labels, reduction="none")
        bits = float(losses.sum()) / math.log(2) / int((batch.labels != -100).sum())
        assert next(one["quality"] for one in found if one["name"] == name) == pytest.approx(bits, rel=1e-10)
    # Without H or L the states that are kept stay those of the start.
    for role in "HL":
        arm = next(arm for arm in arms(words, 2) if arm.name == f"without {role}")
        thinking = words.begin(batch, 2)
        first = thinking.carry
        reading = thinking.segment(arm.schedule)
        if role == "L":
            assert torch.equal(reading.carry.z_l, first.z_l.expand_as(reading.carry.z_l))
        else:
            assert not torch.equal(reading.carry.z_l, first.z_l.expand_as(reading.carry.z_l))


def test_a_loss_has_the_interval_of_its_rows(words: Text) -> None:
    for subject, sign in ((solving(), -1), (words, 1)):
        found = ablate(subject, [], 2, 8, 3).numbers["arms"]
        arm = next(arm for arm in arms(subject, 2) if arm.name == "without L")
        (batch,) = subject.batches(8, 8)
        whole, thinking = list(subject.think(batch, 2))[-1], subject.begin(batch, 2)
        for _ in range(2):
            reading = thinking.segment(arm.schedule)
        if isinstance(subject, Puzzles):
            gaps, counts = subject.solved(batch, reading) * 1.0 - subject.solved(batch, whole), np.ones(8)
        else:
            gaps = ((reading.loss - whole.loss).sum(1) / math.log(2)).numpy()
            counts = (batch.labels != -100).sum(1).numpy()
        mean = gaps.sum() / counts.sum()
        told = next(one for one in found if one["name"] == "without L")
        assert told["loses"] == pytest.approx(sign * mean, rel=1e-10)
        error = 1.959964 * math.sqrt(((gaps - mean * counts) ** 2).sum()) / counts.sum()
        assert told["error"] == pytest.approx(error, rel=1e-10)


def test_retrained_models_stand_beside_as_they_were_trained() -> None:
    puzzles, other, plain = solving(), solving(h_cycles=1), sudokus(hierarchy=False)
    other.max_segments, other.name = 2, "runs/one/checkpoints/step_1"
    plain.max_segments, plain.name = 1, "runs/plain"
    found = ablate(puzzles, [other, plain], None, 12, 5)
    rows = [one for one in found.numbers["arms"] if one["kind"] == "retrained"]
    assert [one["name"] for one in rows] == ["one: h_cycles 1, max_segments 2", "plain: hierarchy off, max_segments 1"]
    (*_, last) = other.think(next(other.batches(12)), 2)
    assert rows[0]["quality"] == other.solved(next(other.batches(12)), last).mean() and rows[0]["segments"] == 2
    assert found.numbers["arms"][0]["kind"] == "whole"
    other.puzzles = other.puzzles._replace(inputs=np.ascontiguousarray(other.puzzles.inputs[::-1]))
    assert any("did not see the same" in sentence for sentence in ablate(puzzles, [other], 1, 4, 4).says)


def test_what_has_no_parts_is_refused(words: Text) -> None:
    with pytest.raises(UserError, match="plain Transformer"):
        ablate(sudokus(hierarchy=False), [], 1, 4, 4)
    with pytest.raises(UserError, match="of one kind"):
        ablate(sudokus(), [words], 1, 4, 4)


def test_the_visits_of_a_reduced_schedule() -> None:
    whole = Schedule(2, 3)
    assert [visit.role for visit in whole.without("L").visits(2, 1)] == ["H", "H"]
    visits = whole.without("H").visits(2, 1, 100)
    assert "".join(visit.role for visit in visits) == "LLLLLLH"
    assert visits[-1].slot == 106 and visits[-1].cycle == 1


def test_the_command(run: Path, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "ablate", str(run), "--retrained", str(run), "--limit", "6"]) == 0
    out = capsys.readouterr().out
    assert "without carry: one segment" in out and "knocked out" in out and "of the same form" in out
    assert "no task embedding" in out and (run / "analysis/ablate.svg").is_file()
    data = ["--data", str(saved.parent / "text.txt"), "--limit", "4", "--out", str(tmp_path / "new")]
    assert main(["analyze", "ablate", str(saved), *data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["arms"][0]["name"] == "whole"
