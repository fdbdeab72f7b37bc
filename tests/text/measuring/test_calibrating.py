"""Calibrating: the fit, the promise as the model really reads, and what `hrm calibrate` leaves in a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrm.cli.main import main
from hrm.files.digest import sha256
from hrm.text.data import Batch
from hrm.text.data.hops import Hops
from hrm.text.measuring.calibrating import Window, calibrate, fit, lost_between, settled_tokens
from hrm.text.model import HRMConfig, HRMForCausalLM
from tests.text.measuring.small import TEXT, pair, saved

ARGS = [
    "--arch.dim=32", "--arch.heads=2", "--arch.fast-layers=1", "--arch.slow-layers=1", "--halting.max-segments=2",
    "--halting.kind=q", "--arch.horizon=last_step", "--text.length=24", "--train.steps=2", "--train.batch-size=4",
    "--optim.warmup-steps=1",
]  # fmt: skip


class Echo:
    """Random rows whose labels are what the model says at full depth, so that every other answer is a loss."""

    def __init__(self, model: HRMForCausalLM, rows: int, length: int = 16) -> None:
        generator = torch.Generator().manual_seed(3)
        self.ids = torch.randint(1, model.config.vocab_size, (rows, length), generator=generator)
        self.count = rows * length
        with torch.no_grad():
            self.labels = model(self.ids, halting="fixed").logits.argmax(-1)

    def windows(self, length: int, stride: int | None = None, rows: int = 8, apart: int = 1) -> Iterator[Batch]:
        for start in range(0, len(self.ids), rows):
            ids, labels = (t[start : start + rows].numpy() for t in (self.ids, self.labels))
            yield Batch(ids, labels, np.broadcast_to(np.arange(length), ids.shape).copy())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, trained for two steps."""
    place = tmp_path_factory.mktemp("run")
    (place / "book.txt").write_text(TEXT * 10, "utf-8")
    assert main(["train", "text-char", "--data", str(place / "book.txt"), "--out", str(place / "book"), *ARGS]) == 0
    return place / "book"


def files(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): sha256(p) for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert main(["calibrate", *args]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("hrm ")]
    assert len(lines) == 1 and not captured.out
    return lines[0]


def test_the_fit_finds_what_separates_and_leaves_out_what_says_nothing():
    rng = np.random.default_rng(0)
    useful, idle = rng.normal(3, 2, 2000), rng.normal(size=2000)
    weights = fit(np.stack([np.ones(2000), useful, idle], 1), useful < 2)
    right = (np.stack([np.ones(2000), useful, idle], 1) @ weights > 0) == (useful < 2)
    assert right.mean() > 0.99 and weights[1] < -2 and abs(weights[2]) < 0.1 * abs(weights[1])


def test_the_fit_gives_back_the_chances_that_made_the_observations():
    rng = np.random.default_rng(1)
    x = np.stack([np.ones(40_000), rng.normal(2, 1, 40_000), rng.integers(0, 2, 40_000)], 1)
    true = np.array([1.5, -1.0, 0.7])
    assert fit(x, rng.random(40_000) < 1 / (1 + np.exp(-x @ true))) == pytest.approx(true, abs=0.08)


def test_observations_of_one_kind_give_a_finite_readout():
    found = fit(np.stack([np.ones(50), np.zeros(50)], 1), np.ones(50, bool))
    assert np.isfinite(found).all() and found[0] > 2


def test_a_token_is_settled_once_its_likeliest_stays_to_the_end():
    likeliest = np.array([[5, 5, 1], [5, 7, 2], [5, 5, 2]])
    assert settled_tokens(likeliest).tolist() == [[True, False, False], [True, False, True], [True, True, True]]


def test_a_loss_is_paired_and_few_observations_promise_little():
    full, halted = np.ones(1000, bool), np.ones(1000, bool)
    halted[:20] = False
    lost, most = lost_between(full, halted)
    assert lost == pytest.approx(2.0) and 2.5 < most < 3.5
    assert lost_between(halted, full)[1] < 0
    assert lost_between(full[:10], full[:10])[1] > 10 > 1 > lost_between(full, full)[1] > 0


@pytest.mark.parametrize("rule", ["last_exited", "backfill"])
def test_the_threshold_keeps_its_promise_where_the_model_really_reads(rule: str):
    model, tokenizer = pair(torch.float64, halting_rule=rule)
    echo = Echo(model, 64)
    found = calibrate(model, tokenizer, echo, 16, 12.0, batch_size=4)  # type: ignore[arg-type]
    assert found.chosen is not None and found.accuracy == 1.0 and found.fitted_on == found.n == 32 * 16
    model.config.readout = tuple(found.readout)
    right, depths = [], []
    for batch in echo.windows(16, None, 8):
        ids = torch.from_numpy(batch.input_ids[1::2])  # the half that it was not fitted to
        with torch.no_grad():
            out = model(ids, halting="readout", use_cache=False, exit_threshold=found.chosen.exit_threshold)
        right.append(out.logits.argmax(-1).numpy() == batch.labels[1::2])
        depths.append(out.depth.numpy())
    lost = 100 * (1 - np.mean(right))
    assert found.chosen.lost == pytest.approx(lost) and lost <= found.chosen.lost_at_most <= 12
    assert found.chosen.mean_segments == pytest.approx(np.mean(depths)) and 1 < np.mean(depths) < 3
    assert found.tried[-1].lost_at_most > 12 and found.chosen == found.tried[-2]
    assert found.random is not None and found.random.mean_segments == found.chosen.mean_segments
    assert found.random.lost > found.chosen.lost
    assert found.q is not None and found.q.mean_segments == pytest.approx(found.chosen.mean_segments, abs=0.2)


def test_a_promise_that_no_threshold_keeps_chooses_none():
    model, tokenizer = pair(torch.float64)
    found = calibrate(model, tokenizer, Echo(model, 16), 16, 0.0, batch_size=4)  # type: ignore[arg-type]
    assert found.chosen is None and len(found.tried) == 1


def test_a_run_is_calibrated_used_and_trained_on(run: Path, capsys: pytest.CaptureFixture[str]):
    before = files(run)
    assert main(["calibrate", str(run), "--loss", "50", "--json"]) == 0
    found, after = json.loads(capsys.readouterr().out), files(run)
    config = HRMConfig.from_pretrained(run / "model")
    assert (config.halting, list(config.readout)) == ("readout", found["readout"])
    assert config.exit_threshold == found["chosen"]["exit_threshold"]
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed == {"model/config.json", "calibration.json", "README.md"}
    card = (run / "README.md").read_text("utf-8")
    assert "| halting | readout |" in card and "measured before tokens halted by a calibrated readout" in card
    assert main(["status", str(run)]) == 0
    told = f"readout: {found['chosen']['mean_segments']:.2f} of 2 segments, at most 50 points lost"
    assert told in capsys.readouterr().out
    assert main(["generate", str(run), "the cat", "--max-new-tokens", "8", "--json"]) == 0
    own = json.loads(capsys.readouterr().out)
    flags = ["--halting", "readout", "--exit-threshold", str(found["chosen"]["exit_threshold"])]
    assert main(["generate", str(run), "the cat", "--max-new-tokens", "8", "--json", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["ids"] == own["ids"]
    assert main(["calibrate", str(run), "--loss", "50"]) == 0
    assert "stored: tokens halt by this readout" in capsys.readouterr().out and files(run) == after
    assert main(["train", "--resume", str(run), "--train.steps", "3"]) == 0
    assert "calibrate again" in capsys.readouterr().err
    config = HRMConfig.from_pretrained(run / "model")  # what was promised belonged to the weights of before
    assert (config.halting, config.exit_threshold) == ("q", 0.5) and not (run / "calibration.json").exists()
    assert main(["status", str(run)]) == 0 and "readout" not in capsys.readouterr().out
    assert main(["calibrate", str(run), "--loss", "50"]) == 0
    assert main(["train", "--resume", str(run), "--train.steps", "3"]) == 0  # which changes no weights
    kept = json.loads((run / "calibration.json").read_text())["before"]
    assert kept == {"halting": "q", "exit_threshold": 0.5}
    for damaged in ("[]", '{"before": {"halting": "never"}}', "{"):
        (run / "calibration.json").write_text(damaged)
        said = files(run)
        assert main(["calibrate", str(run), "--undo"]) == 2 and files(run) == said
        assert main(["train", "--resume", str(run), "--train.steps", "4"]) == 2
        assert "calibration.json" in capsys.readouterr().err
    (run / "calibration.json").unlink()  # then the settings of the run are known still
    assert main(["train", "--resume", str(run), "--train.steps", "4"]) == 0
    assert HRMConfig.from_pretrained(run / "model").halting == "q"
    assert "| halting | q |" in (run / "README.md").read_text("utf-8")


def test_a_promise_that_cannot_be_kept_changes_nothing(run: Path, capsys: pytest.CaptureFixture[str]):
    before = files(run)
    assert main(["calibrate", str(run), "--loss", "0"]) == 1
    assert "no threshold is sure to keep the loss within 0 points" in capsys.readouterr().out and files(run) == before


def test_a_saved_folder_is_calibrated_with_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = saved(tmp_path / "saved")
    (tmp_path / "book.txt").write_text(TEXT * 4, "utf-8")
    before = json.loads((folder / "config.json").read_text())
    args = [str(folder), "--data", str(tmp_path / "book.txt"), "--loss", "60", "--json-file", str(tmp_path / "c.json")]
    assert main(["calibrate", *args]) == 0
    found = json.loads((tmp_path / "c.json").read_text())
    after = json.loads((folder / "config.json").read_text())
    new = {"halting": "readout", "readout": found["readout"], "exit_threshold": found["chosen"]["exit_threshold"]}
    assert after == before | new and not (folder / "calibration.json").exists()
    assert HRMForCausalLM.from_pretrained(folder).budget().halting == "readout"


def test_of_questions_the_answers_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = saved(tmp_path / "saved", max_position_embeddings=64)
    talks = [[{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]] * 30
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    said = refused(capsys, str(folder), "--data", str(tmp_path / "talks.jsonl"), "--loss", "60")
    assert "none of 15 answers is right at full depth, so nothing could be lost" in said  # the other 15 are fitted to


def test_the_halves_of_a_batch_are_its_rows_in_turn_with_their_answers():
    labels = torch.tensor([[5, 6, -100], [-100, 7, 7], [8, -100, -100], [1, 2, 3]])
    answers = np.array([0, 0, 1, 2, 3, 4, 4, 5])
    one, other = Window({"input_ids": labels + 100}, labels, answers).halves()
    assert torch.equal(one.labels, labels[::2]) and torch.equal(one.tokens["input_ids"], labels[::2] + 100)
    assert torch.equal(other.labels, labels[1::2])
    assert one.answers is not None and one.answers.tolist() == [0, 0, 1]
    assert other.answers is not None and other.answers.tolist() == [0, 1, 2, 2, 3]


def test_questions_of_every_number_of_hops_are_in_both_halves():
    asked = Hops("sum", 3, 120, 0, 40, 0, held_out=True, alone=True)
    seen: list[set[int]] = [set(), set()]
    for batch in asked.windows(40, None, 6):
        columns = (torch.from_numpy(column) for column in (batch.input_ids, batch.labels))
        ids, labels = columns
        for half, window in zip(seen, Window({"input_ids": ids}, labels, None).halves(), strict=True):
            half.add(int((window.tokens["input_ids"] > 0).sum()))
    assert seen[0] == seen[1] and len(seen[0]) > 1


def test_what_cannot_be_calibrated_is_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    book = tmp_path / "book.txt"
    book.write_text(TEXT, "utf-8")
    one: Any = saved(tmp_path / "one", max_segments=1)
    assert "nothing to halt" in refused(capsys, str(one), "--data", str(book))
    plain = saved(tmp_path / "plain", max_segments=1, hierarchy=False)
    assert "nothing to halt" in refused(capsys, str(plain), "--data", str(book))
    deep = saved(tmp_path / "deep")
    assert "holds no text to measure on" in refused(capsys, str(deep))
    (tmp_path / "short.txt").write_text("the cat")
    assert "two parts" in refused(capsys, str(deep), "--data", str(tmp_path / "short.txt"))
    assert "--loss" in refused(capsys, str(deep), "--loss", "101")
    model = HRMForCausalLM.from_pretrained(deep)
    model.generation_config.halting = "fixed"  # pyright: ignore[reportAttributeAccessIssue]
    model.save_pretrained(deep)
    assert "overrule" in refused(capsys, str(deep), "--data", str(book))
    assert "there is no run" in refused(capsys, str(tmp_path / "nothing"))
