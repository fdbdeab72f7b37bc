"""Measuring text: every number against a second way to compute it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hrm.core.calibration import expected_calibration_error
from hrm.text.data import train_bpe
from hrm.text.measuring import losses as text
from hrm.text.measuring.losses import WindowsRead
from tests.text.measuring.small import TEXT, packed, pair

LENGTH = 16


def by_hand(model, data, **request):
    """Losses, hits, top probabilities and P(halt) of every counted token from plain forward passes, row by row."""
    losses, hits, top, confidence = [], [], [], []
    for batch in data.windows(LENGTH, None, 1):
        ids, labels, positions = map(torch.from_numpy, batch)
        with torch.no_grad():
            out = model(ids, position_ids=positions, use_cache=False, **request)
        log_p, counted = out.logits.log_softmax(-1)[0], labels[0] != -100
        losses.append(F.nll_loss(log_p[counted], labels[0][counted], reduction="none"))
        hits.append(log_p.argmax(-1)[counted] == labels[0][counted])
        top.append(log_p.amax(-1).exp()[counted])
        confidence.append(out.confidence[0][counted])
    return tuple(torch.cat(column).float().numpy() for column in (losses, hits, top, confidence))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"norm": "pre", "share_segments": True, "share_cycles": True}])
def test_fixed_depths_are_those_of_forward_passes_with_so_many_segments(tmp_path: Path, changes: dict):
    model, tokenizer = pair(torch.float64, **changes)
    data = packed(tmp_path / "data", tokenizer, TEXT, "another document. ", "a")
    result = text.evaluate(model, tokenizer, data, LENGTH, batch_size=3)
    assert [row["segments"] for row in result["fixed"]] == [1, 2, 3]
    for row in result["fixed"]:
        loss, hit, top, q = by_hand(model, data, max_segments=row["segments"], halting="fixed")
        assert len(loss) == result["n"] and row["mean_segments"] == row["segments"]
        assert row["loss"] == pytest.approx(loss.mean(), rel=1e-6)
        assert row["perplexity"] == pytest.approx(math.exp(loss.mean(dtype=np.float64)), rel=1e-6)
        assert row["token_accuracy"] == pytest.approx(hit.mean())
        assert row["ece"] == pytest.approx(expected_calibration_error(top, hit), abs=1e-6)
        assert row["ece_q"] == pytest.approx(expected_calibration_error(q, hit), abs=1e-6)


@pytest.mark.slow
def test_adaptive_depth_is_the_models_own_and_comes_first(tmp_path: Path):
    model, tokenizer = pair(torch.float64)
    data = packed(tmp_path / "data", tokenizer)
    result = text.evaluate(model, tokenizer, data, LENGTH, thresholds=(0.4, 0.5, 0.6))
    rows = {row["exit_threshold"]: row for row in result["adaptive"]}
    assert list(rows) == [0.4, 0.5, 0.6]
    for threshold, row in rows.items():
        loss, *_ = by_hand(model, data, exit_threshold=threshold)
        assert row["loss"] == pytest.approx(loss.mean(), rel=1e-6)
        assert 1 < row["mean_segments"] < 3
        assert sum(i * n for i, n in enumerate(row["depths"], 1)) / result["n"] == pytest.approx(row["mean_segments"])
    assert rows[0.4]["mean_segments"] < rows[0.6]["mean_segments"]
    assert (result["loss"], result["exit_threshold"]) == (rows[0.5]["loss"], 0.5)


@pytest.mark.parametrize("rule", ["last_exited", "backfill"])
def test_halting_at_random_gives_the_same_depths_to_other_tokens(tmp_path: Path, rule: str):
    model, tokenizer = pair()
    data = packed(tmp_path / "data", tokenizer)
    (row,) = text.evaluate(model, tokenizer, data, LENGTH, halting_rule=rule)["adaptive"]
    assert row["random"]["mean_segments"] == row["mean_segments"]
    assert row["random"]["loss"] != row["loss"]


def test_halting_at_given_depths_where_the_criterion_halts_is_the_same():
    model, _ = pair(torch.float64)
    ids = torch.randint(2, 20, (2, 12), generator=torch.Generator().manual_seed(0))
    budget = model.budget()
    with torch.no_grad():
        first, second = (model.begin(input_ids=ids, budget=budget) for _ in range(2))
        model.think(first, budget)
        text.halt_at(model, second, first.depth, budget)
    assert len(first.depth.unique()) > 1
    torch.testing.assert_close(second.exited.z_h, first.exited.z_h)
    assert torch.equal(second.depth, first.depth)


def test_a_model_of_fixed_depth_has_no_adaptive_rows(tmp_path: Path):
    model, tokenizer = pair(halting="fixed")
    result = text.evaluate(model, tokenizer, packed(tmp_path / "data", tokenizer), LENGTH, max_segments=2)
    assert result["adaptive"] == [] and result["halting"] == "fixed"
    assert result["loss"] == result["fixed"][1]["loss"] and result["max_segments"] == 2


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_bits_per_byte_and_character_count_the_text_that_is_predicted(tmp_path: Path, kind: str):
    model, tokenizer = pair(vocab_size=300)
    if kind == "bpe":
        tokenizer = train_bpe([TEXT], 290)
    data = packed(tmp_path / "data", tokenizer, TEXT, TEXT[5:])
    result = text.evaluate(model, tokenizer, data, LENGTH)
    first = [tokenizer.decode([int(data.tokens[at])]) for at in data.documents[:-1]]
    read = [t[len(f) :] for t, f in zip((TEXT, TEXT[5:]), first, strict=True)]  # nothing predicts the first token
    assert result["bytes"] == sum(len(t.encode()) for t in read) > result["characters"] == sum(map(len, read))
    bits = result["loss"] * result["n"] / math.log(2)
    assert result["bits_per_byte"] == pytest.approx(bits / result["bytes"])
    assert result["bits_per_character"] == pytest.approx(bits / result["characters"])
    assert result["n"] == data.count - 2 and result["unknown"] == 0


def test_every_byte_of_a_byte_level_vocabulary_counts_once():
    tokenizer = train_bpe([TEXT], 300)
    table = text.byte_lengths(tokenizer)
    for words in (TEXT, "\u65e5\u672c\u8a9e \U0001f600 na\u00efve\n\t  x"):
        sizes = table[tokenizer(words)["input_ids"]].sum(0)
        assert sizes.tolist() == [len(words.encode()), len(words)]
    assert table[tokenizer.eos_token_id].tolist() == [0, 0]


def test_an_unknown_character_counts_as_one_and_is_reported(tmp_path: Path):
    model, tokenizer = pair()
    result = text.evaluate(model, tokenizer, packed(tmp_path / "data", tokenizer, "the \u4e2d\u6587 mat"), LENGTH)
    assert (result["unknown"], result["characters"]) == (2, 9)


@pytest.mark.slow
def test_the_q_heads_calibration_towards_its_own_target(tmp_path: Path):
    model, tokenizer = pair(torch.float64, q_gamma=0.01)
    data = packed(tmp_path / "data", tokenizer)
    rows = text.evaluate(model, tokenizer, data, LENGTH)["fixed"]
    losses, q = zip(*(by_hand(model, data, max_segments=k, halting="fixed")[::3] for k in (1, 2, 3)), strict=True)
    for depth in (0, 1):
        wanted = expected_calibration_error(q[depth], losses[depth] - losses[depth + 1] < 0.01)
        assert rows[depth]["ece_q_target"] == pytest.approx(wanted, abs=1e-3)
    assert "ece_q_target" not in rows[2]


def test_calibration_is_what_it_is_by_definition():
    tally = text.LossTotals()
    sure = np.array([0.95, 0.95, 0.95, 0.95, 0.05, 0.05], np.float32)
    right = np.array([1, 1, 1, 0, 0, 1], bool)
    for part in (slice(0, 2), slice(2, 6)):
        some = len(sure[part])
        tally.add(text.TokenScores(np.zeros(some), right[part], sure[part], np.full(some, 0.5)), np.full(some, 2))
    found = tally.result(text.TextSize(1, 1, 0))
    assert found["ece"] == pytest.approx((4 * abs(0.95 - 0.75) + 2 * abs(0.05 - 0.5)) / 6)
    assert found["ece_q"] == pytest.approx(abs(0.5 - 4 / 6)) and found["mean_segments"] == 2


def test_a_limit_stops_early_and_progress_reaches_the_end(tmp_path: Path):
    model, tokenizer = pair(halting="fixed")
    data, shares = packed(tmp_path / "data", tokenizer), []
    result = text.evaluate(model, tokenizer, data, LENGTH, batch_size=1, limit=40, progress=shares.append)
    assert 40 <= result["n"] < 60 and shares[-1] == 1.0 and shares == sorted(shares)


def test_a_stride_gives_every_token_a_context_and_counts_it_once(tmp_path: Path):
    model, tokenizer = pair(halting="fixed")
    data = packed(tmp_path / "data", tokenizer)
    plain, strided = (text.evaluate(model, tokenizer, data, LENGTH, stride) for stride in (None, 4))
    assert plain["n"] == strided["n"] == data.count - 1 and plain["loss"] != strided["loss"]


def test_rows_of_a_dataset_folder_are_measured_like_the_text_they_came_from(tmp_path: Path):
    from hrm.text.data import open_text, write_rows

    model, tokenizer = pair()
    data = packed(tmp_path / "data", tokenizer)
    write_rows(tmp_path / "rows", {"validation": data}, LENGTH, len(tokenizer))
    rows = open_text(tmp_path / "rows", tokenizer, "validation")
    one, other = (text.evaluate(model, tokenizer, each, LENGTH) for each in (data, rows))
    assert one["n"] == other["n"] and one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert one["bits_per_byte"] == pytest.approx(other["bits_per_byte"], rel=1e-5)


def test_a_limit_reads_windows_from_all_over_the_text(tmp_path: Path):
    _, tokenizer = pair()
    data = packed(tmp_path / "long", tokenizer, *([TEXT] * 6))
    for limit in (1, 24, 100, data.count, 10 * data.count):
        windows = WindowsRead(tokenizer, data, 24, None, limit, None)
        seen = [labels[labels != -100] for _, labels, _ in windows.batches(2, torch.device("cpu"))]
        assert min(limit, windows.seen) <= sum(map(len, seen)) <= limit + 3 * 24 and sum(map(len, seen)) > 0
    every = WindowsRead(tokenizer, data, 24, None, None, None)
    whole = torch.cat([labels for _, labels, _ in every.batches(1, torch.device("cpu"))])
    some = WindowsRead(tokenizer, data, 24, None, data.count // 4, None)
    found = torch.cat([labels for _, labels, _ in some.batches(2, torch.device("cpu"))])
    places = [next(at for at, row in enumerate(whole) if at > before and bool((row == one).all()))
              for before, one in zip(range(-1, 10**6, 3), found)]  # fmt: skip # noqa: B905
    assert len(places) > 4 and max(places) > 0.7 * len(whole)
