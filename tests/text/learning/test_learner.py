"""A learner: books in a row, growth that changes nothing, pauses and kills that cost nothing, and what it remembers."""

from __future__ import annotations

import bz2
import json
import random
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from types import SimpleNamespace
from typing import Any

import filelock
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hrm.cli.main import main as hrm
from hrm.files.reading import UserError
from hrm.settings import changed
from hrm.text.config import LearnConfig, is_text
from hrm.text.learning.learner import Learner
from hrm.text.learning.memory import Memory, Reservoir
from hrm.text.learning.trainer import row_weights
from hrm.text.load import load_text
from hrm.text.model import HRMForCausalLM
from hrm.text.names import shown

SHAPE: dict[str, Any] = {
    "arch.dim": 16, "arch.heads": 2, "arch.fast_layers": 1, "arch.slow_layers": 1, "arch.intermediate_size": 32,
    "halting.max_segments": 2,
}  # fmt: skip
FLAGS = [*shown(SHAPE), "--epochs", "1", "--length", "24", "--stride", "12", "--batch-size", "4"]
FLAGS += ["--checkpoint-every", "20", "--log-every", "5", "--eval-characters", "200", "--device", "cpu"]


def config(**changes: Any) -> LearnConfig:
    """Settings of a learner that needs milliseconds for an update."""
    tiny: dict[str, Any] = dict(epochs=1, length=24, stride=12, batch_size=4, device="cpu")
    tiny |= dict(checkpoint_every=20, log_every=5, eval_characters=200)
    return changed(LearnConfig(), SHAPE | tiny | changes)


def book(folder: Path, name: str, words: str, count: int = 300, seed: int = 0) -> Path:
    """Words in random order."""
    rng = random.Random(seed)
    path = folder / name
    path.write_text(" ".join(rng.choice(words.split()) for _ in range(count)))
    return path


def first(folder: Path, count: int = 300) -> Path:
    """A book of one language."""
    return book(folder, "first.txt", "the cat sat on a mat and the dog ate it", count)


def second(folder: Path, count: int = 300) -> Path:
    """A book of another, with new characters."""
    return book(folder, "second.txt", "ÄPFEL UND BÄUME, ZWÖLF KÜHE!", count, seed=1)


def weights(learner: Learner) -> dict[str, Tensor]:
    """The model's weights."""
    return {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def logits(model: HRMForCausalLM, ids: Tensor, **request: Any) -> Tensor:
    """What a model says of all next tokens."""
    with torch.no_grad():
        return model.eval()(ids, max_segments=1, halting="fixed", **request).logits


@given(st.integers(1, 400), st.floats(0.01, 1.0), st.integers(2, 30), st.integers(0, 5))
def test_a_reservoir_keeps_its_share_and_survives_packing(size: int, share: float, length: int, seed: int) -> None:
    memory, model = Reservoir(share), SimpleNamespace(config=SimpleNamespace(vocab_size=2000))
    for number in range(2):
        memory.remember(number, np.arange(size) + 1000 * number, size, length, seed, model)  # type: ignore[arg-type]
    packed = memory.pack()["reservoir"].numel()
    smallest = 2 * len(bz2.compress(np.arange(4 * length + 1, dtype="<u4").tobytes())) + 100
    assert packed <= max(2 * share * size, smallest) + 100, "the share is that of what is stored"
    other = Reservoir(share)
    other.unpack(memory.pack(), model)  # type: ignore[arg-type]
    assert len(other.books) == len(memory.books)
    assert all(np.array_equal(memory.books[number], other.books[number]) for number in memory.books)
    rows = memory.rows(8, length, np.random.default_rng(seed), 0)
    if rows is not None:
        assert rows.ids.shape == (8, length) and (rows.labels == rows.ids + 1).all(), "rows are stretches of a book"
        assert (rows.ids >= 1000).all(), "a book is not repeated beside itself"


@pytest.mark.parametrize("share", [0.02, 0.05, 0.2])
def test_what_is_kept_of_a_book_fits_compressed_into_its_share_and_fills_it(share: float) -> None:
    text = (" ".join(topics.values()))[:200_000]
    memory = Reservoir(share)
    memory.remember(0, np.frombuffer(text.encode("latin-1", "replace"), np.uint8), len(text), 80, 0, Any)  # type: ignore[arg-type]
    assert 0.9 * share * len(text) <= memory.pack()["reservoir"].numel() <= share * len(text) + 100
    assert memory.books[0].size > 1.8 * share * len(text), "compressed, more than the share of the text itself"


@pytest.mark.parametrize(("old", "recall", "share"), [(1, 4.5, 1.5), (2, 4.5, 3.0), (9, 4.5, 4.5), (9, 2.0, 2.0)])
def test_old_books_count_half_as_much_again_each_up_to_a_limit(old: int, recall: float, share: float) -> None:
    weights = row_weights(16, 24, old, recall)
    assert weights[16:].sum() / weights[:16].sum() == pytest.approx(share)
    assert weights.mean() == pytest.approx(1.0), "the size of an update does not change"


@pytest.mark.slow
def test_new_characters_leave_the_old_book_as_it_was_at_the_moment_of_growth(tmp_path: Path) -> None:
    learner = Learner.create(tmp_path / "run", config(epochs=4))
    known = learner.learn(first(tmp_path))
    before = learner.bits(known)
    learner._learn_alphabet([second(tmp_path).read_text("utf-8")])
    assert len(learner.tokenizer) == learner.model.config.vocab_size > 20
    assert learner.bits(known) == pytest.approx(before, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "tolerance"), [("pre", 1e-6), ("post", 1e-4)])
def test_new_layers_change_nothing_at_any_schedule(tmp_path: Path, norm: str, tolerance: float) -> None:
    learner = Learner.create(tmp_path / "run", config(**{"arch.norm": norm}))
    learner.learn(first(tmp_path, 100))
    ids = torch.randint(2, len(learner.tokenizer), (2, 24), generator=torch.Generator().manual_seed(0))
    before = [logits(learner.model, ids, schedule=schedule) for schedule in ((1, 1), (2, 2), (6, 4))]
    entry = learner.grow()
    after = [logits(learner.model, ids, schedule=schedule) for schedule in ((1, 1), (2, 2), (6, 4))]
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=tolerance)
    assert (learner.model.config.fast_layers, learner.model.config.slow_layers) == (3, 2)
    assert entry["parameters"][1] > entry["parameters"][0]
    opened = Learner.open(tmp_path / "run")
    assert same(weights(opened), weights(learner)) and opened.growth == learner.growth
    assert opened.learn(second(tmp_path, 100))["state"] == "finished", "a grown model goes on learning"


@pytest.mark.slow
def test_it_grows_by_itself_after_so_many_characters_each_book_counted_once(tmp_path: Path) -> None:
    learner = Learner.create(tmp_path / "run", config(grow_every=1000))
    sizes = [learner.learn(first(tmp_path, 150))["characters"], learner.learn(second(tmp_path, 150))["characters"]]
    assert sizes[0] < 1000 < sum(sizes)
    depths = [entry for entry in learner.growth if entry["kind"] == "depth"]
    assert len(depths) == 1 and depths[0]["characters"] == sum(sizes)
    learner.learn(first(tmp_path, 150), epochs=2)
    assert sum(entry["kind"] == "depth" for entry in learner.growth) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("share", "grows"), [(0.0, False), (1e-9, False), (1.0, True)])
def test_layers_come_where_the_last_epoch_of_a_book_brought_less_than_a_share(
    tmp_path: Path, share: float, grows: bool
) -> None:
    learner = Learner.create(tmp_path / "run", config(epochs=2, lr=5e-3, grow_plateau=share))
    learner.learn(first(tmp_path, 150))
    depth = [entry["why"] for entry in learner.growth if entry["kind"] == "depth"]
    assert depth == ["plateau"] * grows
    learner.asked = lambda: "stop"  # one update says nothing of a plateau
    learner.learn(second(tmp_path, 150))
    assert len([entry for entry in learner.growth if entry["kind"] == "depth"]) == grows


def test_measuring_more_often_changes_nothing_but_the_measurements(tmp_path: Path) -> None:
    often = {"eval_every": 3, "grow_plateau": 1e-9}
    runs = {name: Learner.create(tmp_path / name, config(epochs=2, **more)) for name, more in (("a", {}), ("b", often))}
    for learner in runs.values():
        learner.learn(first(tmp_path))
        learner.learn(second(tmp_path))
    assert same(*map(weights, runs.values()))
    measured = [[score.step for score in learner.books[0].scores] for learner in runs.values()]
    steps = runs["b"].books[0].step
    assert measured[1] == sorted({*range(3, steps, 3), steps}) and len(measured[0]) < len(measured[1])
    records = [record for record in runs["b"].run.records() if record.get("event") == "eval"]
    assert all(record["sample"] for record in records) and len(records) == sum(len(b.scores) for b in runs["b"].books)


def test_layers_by_command_do_not_count_as_those_that_reading_brings(tmp_path: Path) -> None:
    learner = Learner.create(tmp_path / "run", config(grow_every=800))
    learner.grow()
    learner.learn(first(tmp_path))  # more than 800 characters, less than 1,600
    assert [entry["why"] for entry in learner.growth if entry["kind"] == "depth"] == ["command", "characters"]


def test_a_plain_transformer_learns_at_its_only_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, seen = HRMForCausalLM.begin, set()

    def watched(model: HRMForCausalLM, **tokens: Any) -> Any:
        seen.add((*tokens["budget"].schedule, tokens["budget"].max_segments))
        return begin(model, **tokens)

    monkeypatch.setattr(HRMForCausalLM, "begin", watched)
    plain = config(**{"arch.hierarchy": False, "halting.max_segments": 1})
    Learner.create(tmp_path / "run", plain).learn(first(tmp_path))
    assert seen == {(1, 0, 1)}


def paused_at(path: Path, files: list[Path], when: Callable[[int], bool], **changes: Any) -> Learner:
    """Learn books, opening the run anew after every pause; a wish to pause is made once at a step."""
    learner, wished = Learner.create(path, config(**changes)), set[int]()

    def asked() -> str | None:
        step = learner.step_number
        if not when(step) or step in wished:
            return None
        wished.add(step)
        return "pause"

    for file in files:
        while True:
            learner.asked = asked
            if learner.learn(file)["state"] == "finished":
                break
            learner = Learner.open(path)
    return learner


@pytest.mark.slow
def test_pauses_change_nothing(tmp_path: Path) -> None:
    files = [first(tmp_path, 120), second(tmp_path, 120)]
    straight = paused_at(tmp_path / "straight", files, lambda step: False, grow_every=800)
    paused = paused_at(tmp_path / "paused", files, lambda step: step % 7 == 1, grow_every=800)
    assert same(weights(straight), weights(paused)) and straight.step_number == paused.step_number > 10
    for one, other in zip(straight.books, paused.books, strict=True):
        assert one["scores"] == other["scores"] and one["bits_per_character_now"] == other["bits_per_character_now"]


@pytest.mark.slow
def test_a_memory_keeps_the_first_book_alive(tmp_path: Path) -> None:
    rises = {}
    for name, memory in (("naive", Memory()), ("default", None)):
        learner = Learner.create(
            tmp_path / name, config(epochs=3, lr=5e-3, embedding_lr=5e-3, memory=0.3, checkpoint_every=1000), memory
        )
        for file in (first(tmp_path, 150), second(tmp_path)):
            learner.learn(file)
        old = learner.books[0]
        rises[name] = old["bits_per_character_now"] / old["bits_per_character_then"] - 1
    assert rises["default"] < 0.2 < rises["naive"]


@pytest.mark.slow
def test_reading_an_old_book_again_repeats_the_others_and_may_be_paused_too(tmp_path: Path) -> None:
    ends = []
    for name, pause in (("straight", 0), ("paused", 5)):
        learner = Learner.create(tmp_path / name, config())
        for file in (first(tmp_path, 120), second(tmp_path, 120)):
            learner.learn(file)
        start = learner.step_number
        replayed: list[dict[str, Any]] = []
        if pause:
            learner.asked = lambda learner=learner, stop=start + pause: "pause" if learner.step_number == stop else None
            assert learner.learn(first(tmp_path, 120), epochs=2)["state"] == "learning"
            learner = Learner.open(tmp_path / name)
        learner.learn(first(tmp_path, 120), say=replayed.append, epochs=2)
        bits = [event["replayed_bits"] for event in replayed if event["event"] == "step"]
        assert learner.step_number > start + 5 and bits and not np.isnan(bits).any()
        ends.append(weights(learner))
    assert same(*ends)


@pytest.mark.slow
def test_a_known_book_is_not_learned_twice_and_an_unfinished_one_comes_first(tmp_path: Path) -> None:
    learner = Learner.create(tmp_path / "run", config())
    learner.asked = lambda: "pause"
    assert learner.learn(first(tmp_path, 100))["state"] == "learning" and learner.step_number == 0
    with pytest.raises(UserError, match=r"first\.txt is not finished"):
        learner.learn(second(tmp_path, 100))
    learner.asked = lambda: None
    steps = learner.learn(first(tmp_path, 100))["step"]
    assert learner.learn(first(tmp_path, 100))["step"] == steps and len(learner.books) == 1
    more = learner.learn(first(tmp_path, 100), epochs=2)
    assert more["step"] > steps and more["state"] == "finished"


@pytest.mark.slow
def test_measuring_reads_as_the_learner_does_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learner = Learner.create(tmp_path / "run", config())
    learner.learn(first(tmp_path, 100))
    own = [learner.bits(learner.books[0], 10**6, max_segments=depth) for depth in (1, 2)]
    assert hrm(["eval", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["length"] == learner.config.length
    assert [row["bits_per_character"] for row in found["fixed"]] == pytest.approx(own, rel=1e-5)
    learner.learn(second(tmp_path, 100))
    assert hrm(["eval", str(tmp_path / "run")]) == 2
    assert "each of its 2 books: name one" in (error := capsys.readouterr().err) and "--data" in error


@pytest.mark.slow
def test_a_book_may_be_ended_where_it_stands(tmp_path: Path) -> None:
    learner = Learner.create(tmp_path / "run", config())
    learner.asked = lambda: "stop" if learner.step_number >= 3 else None
    entry = learner.learn(first(tmp_path))
    assert entry["state"] == "stopped" and entry["step"] == 3 < entry["steps"]
    assert Learner.open(tmp_path / "run").books[0]["state"] == "stopped"


@pytest.mark.parametrize("flags", [["--device", "meta"], ["--tokenizer", "none/tokenizer.json"], ["--length", "9999"]])
def test_a_start_that_fails_leaves_nothing(
    tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "new/run"
    assert hrm(["learn", str(run), str(first(tmp_path)), *FLAGS, *flags]) == 2
    assert not run.parent.exists()
    old = tmp_path / "old"
    learner = Learner.create(old, config())
    learner.close()
    (old / "note.txt").write_text("mine")
    assert hrm(["learn", str(old), str(first(tmp_path)), *flags]) == 2
    assert {"run.json", "note.txt"} <= {path.name for path in old.iterdir()}  # another process made it
    if flags[0] != "--length":  # a book's is known once it is read
        assert hrm(["learn", str(old), str(first(tmp_path)), "--fresh", *flags]) == 2
        assert (old / "note.txt").is_file() and "is kept as" not in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_line_learns_shows_repairs_and_starts_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert hrm(["learn", str(run), str(first(tmp_path, 100)), str(second(tmp_path, 100)), *FLAGS]) == 0
    said = capsys.readouterr()
    assert "updates" in said.err and "held-out bits a character: first.txt" in said.err and str(run) in said.out
    assert hrm(["status", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [b["name"] for b in found["books"]] == ["first.txt", "second.txt"]
    for key in ("characters", "learned_at", "bits_per_character_then", "bits_per_character_now"):
        assert found["books"][0][key]
    assert {"vocabulary", "parameters", "layers", "growth"} <= found.keys()
    assert hrm(["status", str(run)]) == 0 and "second.txt" in capsys.readouterr().out
    assert hrm(["status", str(run), "--repair"]) == 0
    assert "is intact" in capsys.readouterr().err and not (run / "tokenizer-old-1").exists()
    tokens = (run / "tokenizer/tokenizer.json").read_text()
    (run / "tokenizer/tokenizer.json").write_text("damaged")
    assert hrm(["status", str(run), "--repair"]) == 0
    capsys.readouterr()
    assert json.loads((run / "tokenizer/tokenizer.json").read_text())["model"] == json.loads(tokens)["model"]
    assert (run / "tokenizer-old-1/tokenizer.json").read_text() == "damaged"
    assert hrm(["status", "--folder", str(tmp_path)]) == 0 and "learner" in capsys.readouterr().out
    assert hrm(["learn", str(run), str(second(tmp_path, 80))]) == 0  # with the run's own settings
    assert len(Learner.open(run).books) == 3
    capsys.readouterr()
    assert hrm(["learn", str(run), str(second(tmp_path, 80)), "--arch.fast-layers", "1", "--arch.dropout", "0.5"]) == 2
    assert "--arch.dropout 0.5: " in (error := capsys.readouterr().err) and "--fresh" in error
    assert hrm(["learn", str(run), str(first(tmp_path, 100)), "--fresh", *FLAGS]) == 0
    assert (tmp_path / "run-1/run.json").is_file() and len(Learner.open(run).books) == 1
    loaded = load_text(run, device="cpu")
    assert is_text(run) and len(loaded.held_out) == 1 and loaded.length == 24


def test_mistakes_end_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    (tmp_path / "short.txt").write_text("ab")
    (tmp_path / "empty.txt").write_text("")
    for args, words in (
        (["learn", run], "needs a book"),
        (["learn", run, str(tmp_path / "none.txt")], "none.txt"),
        (["learn", run, str(tmp_path / "short.txt"), *FLAGS], "short.txt"),
        (["learn", run, str(tmp_path / "empty.txt"), *FLAGS], "empty.txt"),
        (["learn", run, str(first(tmp_path)), "--stride", "100"], "--stride"),
        (["learn", run, str(first(tmp_path)), "--epochs", "0"], "--epochs"),
        (["status", str(tmp_path / "nothing")], "nothing"),
    ):
        assert hrm(args) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and words in error[0]


def test_a_run_that_was_killed_while_it_was_made_can_be_made_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    Learner.create(run, config())
    (run / ".tmp-run-new").mkdir()
    for name in ("books", "checkpoints", "config.yaml", "model", "run.json", "tokenizer", "metrics.jsonl"):
        (run / name).rename(run / ".tmp-run-new" / name)  # where it is until it is complete
    Learner.create(run, config()).learn(first(tmp_path, 100))
    with pytest.raises(UserError, match="already holds a run"):
        Learner.create(run, config())


class Later:
    """Asks to pause at the n-th time that it is asked whether anybody wants to."""

    def __init__(self, when: int) -> None:
        self.left = when

    def __call__(self) -> str | None:
        self.left -= 1
        return "pause" if self.left == 0 else None


@pytest.mark.slow
def test_a_pause_while_it_prepares_or_measures_costs_nothing(tmp_path: Path) -> None:
    files = first(tmp_path, 60), second(tmp_path, 60)
    straight = Learner.create(tmp_path / "straight", config(epochs=1))
    for file in files:
        straight.learn(file)
    asked = Later(10**9)
    paused, pauses = Learner.create(tmp_path / "paused", config(epochs=1)), []
    for file in files:
        moment = 1
        while True:
            paused.asked = asked = Later(moment)
            book = paused.learn(file)
            if book["state"] != "learning":
                break
            pauses.append((book["number"], book["step"]))
            moment *= 3
            if len(pauses) % 2:  # also by another process
                paused.close()
                paused = Learner.open(tmp_path / "paused")
    assert (0, 0) in pauses and (1, 0) in pauses and asked.left != 0
    assert same(weights(straight), weights(paused))
    told = [
        [{k: v for k, v in b.plain().items() if k[-3:] != "_at"} for b in learner.books]
        for learner in (straight, paused)
    ]
    assert told[0] == told[1]


@pytest.mark.slow
def test_a_paused_book_goes_on_without_being_named_and_a_stopped_one_is_not_called_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = tmp_path / "run", first(tmp_path, 100)
    learner = Learner.create(run, config())
    learner.asked = lambda: "pause" if learner.step_number == 2 else None
    assert learner.learn(file)["state"] == "learning"
    assert all("NaN" not in line for line in (run / "metrics.jsonl").read_text().splitlines())
    file.rename(tmp_path / "moved.txt")  # nor is the file needed
    assert hrm(["learn", str(run)]) == 0
    assert hrm(["learn", str(run)]) == 2 and "no paused book: give it the next one" in capsys.readouterr().err
    assert hrm(["learn", str(run), str(tmp_path / "moved.txt")]) == 0
    assert "moved.txt holds the text of first.txt, which is learned already" in capsys.readouterr().err
    learner = Learner.open(run)
    learner.asked = lambda: "stop"
    entry = learner.learn(second(tmp_path, 100))
    assert entry["state"] == "stopped" and entry["step"] == 0 < entry["steps"]
    assert hrm(["status", str(run), "--json"]) == 0
    book = json.loads(capsys.readouterr().out)["books"][1]
    assert (book["state"], book["step"], book["steps"]) == ("stopped", 0, entry["steps"])
    assert hrm(["learn", str(run), str(second(tmp_path, 100))]) == 0
    said = f"second.txt was stopped after 0 of {entry['steps']} updates and counts as learned: --epochs 1 resumes it"
    assert said in capsys.readouterr().err
    assert hrm(["learn", str(run), str(second(tmp_path, 100)), "--epochs", "1"]) == 0
    assert Learner.open(run).books[1]["state"] == "finished"


@pytest.mark.slow
def test_a_run_of_books_is_one_process_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    Learner.create(run, config()).close()
    verbs = (["learn", str(run), str(first(tmp_path))], ["learn", str(run), "--stop"], ["learn", str(run), "--grow"])
    with filelock.FileLock(run / ".lock"):
        for args in (*verbs, ["learn", str(run), str(first(tmp_path)), "--fresh"], ["status", str(run), "--repair"]):
            assert hrm(args) == 2
            assert f"{run} is in use" in capsys.readouterr().err
        assert hrm(["status", "--folder", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.txt", "run"]
