"""`hrm analyze halting`: one pass tells what running each limit by itself gives."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrm.cli.main import main
from hrm.core.calibration import Reliability, expected_calibration_error
from hrm.files.reading import UserError
from hrm.insight.halting import halting
from hrm.insight.halting.difficulty import KINDS, Tokens
from hrm.insight.subject import Puzzles, Text
from hrm.puzzles.measuring import evaluate
from hrm.text.data import Packed, encode, make_tokenizer
from hrm.text.load import TextModel
from tests.insight.conftest import PROSE, sudokus
from tests.text.model import small as text


def undecided(rows: int = 24) -> Puzzles:
    """A model whose Q head halts here and there, on puzzles of which it answers some at one depth and some at
    another."""
    puzzles = sudokus(rows)
    with torch.no_grad():
        puzzles.model.q_head.weight.normal_(std=0.4)
        puzzles.model.q_head.bias.zero_()
    batch = next(puzzles.batches(rows))
    readings = list(puzzles.think(batch, 3))
    with torch.no_grad():
        q = torch.cat([puzzles.model.q_head(reading.carry.z_h.mean(1)) for reading in readings])
        puzzles.model.q_head.bias[1] = (q[:, 0] - q[:, 1]).quantile(0.7)
    for row in range(rows):
        puzzles.puzzles.labels[row] = readings[row % 3].best[row].numpy()
    return puzzles


def test_every_limit_is_that_of_a_measurement_with_it() -> None:
    puzzles = undecided()
    found = halting([puzzles], 4, 24, 5).numbers
    assert [row["max_segments"] for row in found["curve"]] == [1, 2, 3, 4]
    for row in found["curve"]:
        for name, stop in (("halting", ("q",)), ("fixed", ())):
            measured = evaluate(puzzles.solver, puzzles.puzzles, stop=stop, max_segments=row["max_segments"])
            assert row[name] == measured.exact_accuracy
            if name == "halting":
                assert row["mean_segments"] == measured.mean_segments
                assert row["interval"] == pytest.approx(measured.exact_interval)
    assert 1 < found["curve"][-1]["mean_segments"] < 4 and 0 < found["curve"][-1]["halting"] < 1


@pytest.mark.parametrize("rule", ["last_exited", "backfill"])
@pytest.mark.parametrize("kind", ["q", "kl", "change", "readout"])
def test_text_is_that_of_the_model_with_each_limit(kind: str, rule: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer("char", [PROSE])
    threshold = {"q": 0.5, "kl": 0.6, "change": 0.9, "readout": 0.5}[kind]
    model = text.model(5, vocab_size=len(tokenizer), max_position_embeddings=64, halting=kind, halting_rule=rule,
                       exit_threshold=threshold, readout=(24.2, -10.0, 26.5, -10.0, -4.0, 1.5))  # fmt: skip
    packed = Packed.write(tmp_path / "packed", tokenizer, encode(tokenizer, [PROSE]))
    words = Text(TextModel(model, tokenizer, "random"), packed, 16, "text")
    found = halting([words], 3, 6, 4).numbers
    depths = []
    for row in found["curve"]:
        nats = segments = count = fixed = 0.0
        for batch in words.batches(6, 6):
            counted = batch.labels != -100
            for how in (kind, "fixed"):
                with torch.no_grad():
                    out = model(batch.inputs, **batch.more, max_segments=row["max_segments"], halting=how)
                losses = torch.nn.functional.cross_entropy(out.logits.mT, batch.labels, reduction="none")
                if how == "fixed":
                    fixed += float(losses.sum())
                else:
                    nats, segments = nats + float(losses.sum()), segments + float(out.depth[counted].sum())
            count += int(counted.sum())
        assert row["halting"] == pytest.approx(nats / count / math.log(2), rel=1e-10)
        assert row["fixed"] == pytest.approx(fixed / count / math.log(2), rel=1e-10)
        assert row["mean_segments"] == pytest.approx(segments / count, rel=1e-12)
        depths.append(row["mean_segments"])
    assert 1 < depths[-1] < 3


def test_the_q_head_is_judged_by_what_it_was_taught(words: Text) -> None:
    for target in ("right", "improvement"):
        words.model.config.q_target, words.model.config.q_gamma = target, 0.02
        found = halting([words], 3, 4, 4).numbers["calibration"]
        batch = next(words.batches(4, 4))
        readings = list(words.think(batch, 3))
        counted = batch.labels != -100
        assert len(found) == (3 if target == "right" else 2)
        for depth, bins in enumerate(found):
            right = readings[depth].right[counted].numpy()
            if target == "improvement":
                right = (readings[depth].loss - readings[depth + 1].loss < 0.02)[counted].numpy()
            halt = readings[depth].halt[counted].numpy()
            assert bins["ece"] == pytest.approx(expected_calibration_error(halt, right), abs=1e-12)
            assert bins["count"] == len(right) == sum(each["count"] for each in bins["bins"])
            assert bins["right"] == pytest.approx(right.mean())


def test_reliability_is_the_calibration_error_of_all() -> None:
    rng = np.random.default_rng(0)
    confidence, right = rng.random(1000), rng.random(1000) < 0.6
    bins = Reliability()
    for part in np.array_split(np.arange(1000), 7):
        bins.add(confidence[part], right[part])
    assert bins.ece == pytest.approx(expected_calibration_error(confidence, right), abs=1e-12)


def test_groups_of_difficulty_are_those_of_the_puzzles() -> None:
    puzzles = undecided()
    puzzles.puzzles.inputs[:, :8] = puzzles.task.blank or 0
    ratings = np.arange(24, dtype=np.int32)
    puzzles.puzzles = puzzles.puzzles._replace(ratings=ratings)
    found = halting([puzzles], 3, 24, 7).numbers["difficulty"]
    batch = next(puzzles.batches(24))
    stops = torch.cat([reading.stops for reading in puzzles.think(batch, 3)], 1)
    depth = np.array([next((i for i, stop in enumerate(row, 1) if stop), 3) for row in stops.tolist()])
    clues = (puzzles.puzzles.inputs != puzzles.task.blank).sum(1)
    assert {group["group"]: group["count"] for group in found["clues"]} == {
        f"{value}": int((clues == value).sum()) for value in np.unique(clues)
    }
    for group in found["clues"]:
        assert group["mean_segments"] == pytest.approx(depth[clues == int(group["group"])].mean())
    assert [group["count"] for group in found["rating"]] == [3] * 8
    third = found["rating"][2]
    assert third["group"] == "6 to 8" and third["mean_segments"] == pytest.approx(depth[6:9].mean())
    assert third["standard_error"] == pytest.approx(depth[6:9].std() / math.sqrt(3))


def test_tokens_are_sorted_by_kind_and_place_in_the_word(words: Text) -> None:
    batch = next(words.batches(1, 1))
    first = next(words.think(batch, 1))
    entropy, place, kind = Tokens(words).of(batch, first)
    inputs, labels = (words.tokenizer.convert_ids_to_tokens(row[0].tolist()) for row in (batch.inputs, batch.labels))
    assert "".join(inputs) == "an. The cat sat " and "".join(labels) == "n. The cat sat o"
    kinds = {" ": "space", ".": "punctuation"}
    assert [KINDS[int(value)] for value in kind.values] == [kinds.get(sign, "letter") for sign in labels]
    told = [None if math.isnan(value) else int(value) + 1 for value in place.values]
    assert told == [None, None, None, 1, 2, 3, None, 1, 2, 3, None, 1, 2, 3, None, 1]
    assert entropy.labels is not None and len(entropy.labels) == 6
    for value, nats in zip(entropy.values, first.entropy[0].tolist(), strict=True):
        assert value == sum(nats / math.log(2) >= edge for edge in (0.5, 1, 2, 3, 4))


def test_pieces_of_words_begin_a_word_or_go_on_in_it(words: Text) -> None:
    pairs = make_tokenizer("char", [PROSE])
    pairs.add_tokens([" cat", "at"])
    words.tokenizer = pairs
    tokens = Tokens(words)
    assert not tokens.characters
    ids = torch.tensor([pairs.convert_tokens_to_ids([" ", " cat", "at", "."])])
    batch = next(words.batches(1, 1))._replace(inputs=ids, labels=ids)
    measure = tokens.of(batch, next(words.think(next(words.batches(1, 1)), 1))._replace(entropy=torch.zeros(1, 4)))[1]
    assert measure.labels == ("begins a word", "inside a word")
    assert str(measure.values.tolist()) == "[nan, 0.0, 1.0, nan]"


def test_runs_with_limits_of_their_own_stand_beside_each_other() -> None:
    one, other = undecided(), undecided()
    other.max_segments, other.name = 2, "runs/two/checkpoints/step_1"
    found = halting([one, other], None, 24, 8)
    own = found.tables["each at its own limit"].rows
    assert [row[:2] for row in own] == [["model", 3], ["two", 2]]
    assert own[1][3] == found.numbers["runs"][1]["curve"][1]["halting"]
    assert any("Figure 5" in sentence for sentence in found.says)
    assert not any("did not see the same" in sentence for sentence in found.says)
    other.puzzles = other.puzzles._replace(inputs=other.puzzles.inputs[::-1].copy())
    assert any("did not see the same" in sentence for sentence in halting([one, other], None, 24, 8).says)


def test_a_q_head_that_was_never_taught_is_said(run: Path, words: Text) -> None:
    assert any("never taught" in sentence for sentence in halting([sudokus()], 2, 4, 4).says)
    with torch.no_grad():
        words.model.q_head.weight.zero_()
    found = halting([words], 2, 4, 4)
    assert found.numbers["rule"] is None and any("nothing halts" in sentence for sentence in found.says)
    assert found.numbers["curve"][1]["mean_segments"] == 2


def test_what_does_not_halt_or_fit_together_is_refused(words: Text) -> None:
    with pytest.raises(UserError, match="plain Transformer"):
        halting([sudokus(hierarchy=False)], 1, 4, 4)
    with pytest.raises(UserError, match="of one kind"):
        halting([sudokus(), words], 1, 4, 4)


def test_the_command(run: Path, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "halting", str(run), str(run), "--limit", "8", "--segments", "2"]) == 0
    assert "depth by clues" in capsys.readouterr().out
    assert (run / "analysis/halting.png").is_file()
    data = ["--data", str(saved.parent / "text.txt"), "--limit", "4", "--out", str(tmp_path / "new")]
    assert main(["analyze", "halting", str(saved), *data, "--json"]) == 0
    said: Any = json.loads(capsys.readouterr().out)
    assert {"place in the word", "kind of token"} <= said["difficulty"].keys()
    assert main(["analyze", "halting"]) == 2
    assert "name a run" in capsys.readouterr().err
