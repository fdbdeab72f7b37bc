"""Reasoning modes are budgets of the model, measured once on a run's held-out text and kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hrm.files.reading import UserError
from hrm.text.chat import commands, modes
from hrm.text.chat.session import Session
from hrm.text.load import TextModel, load_text
from hrm.text.measuring.losses import evaluate
from tests.text.chat.small import loaded, run, session
from tests.text.measuring.small import packed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    return load_text(run(tmp_path_factory.mktemp("run")), device="cpu")


def test_each_mode_runs_its_schedule_in_one_segment():
    talk = session()
    for name, schedule in {"fast": (1, 1), "normal": (2, 2), "deep": (3, 2), "extreme": (6, 4)}.items():
        budget = talk.model.budget(**talk.modes[name])
        assert (tuple(budget.schedule), budget.limit, budget.adaptive) == (schedule, 1, False)


@pytest.mark.parametrize(
    ("form", "schedule", "segments", "halting", "rule"),
    [
        ({"halting": "q"}, (2, 2), 3, "q", "last_exited"),
        ({"halting": "fixed"}, (2, 2), 3, "kl", "backfill"),
        ({"halting": "fixed", "max_segments": 1, "h_cycles": 4}, (1, 2), 4, "kl", "backfill"),
        ({"halting": "fixed", "max_segments": 1, "h_cycles": 1}, (1, 2), 1, "fixed", "last_exited"),
    ],
)
def test_auto_halts_as_the_model_can(form: dict, schedule: tuple, segments: int, halting: str, rule: str):
    model = loaded(**form)
    budget = model.model.budget(**modes.requests(model)["auto"])
    assert (tuple(budget.schedule), budget.limit, budget.halting, budget.halting_rule) == (
        schedule,
        segments,
        halting,
        rule,
    )


def test_a_plain_transformer_has_one_mode():
    talk = session(hierarchy=False, max_segments=1)
    assert list(talk.modes) == ["auto"] and talk.answer("the").tokens
    with pytest.raises(UserError, match="a plain Transformer has no cycles"):
        commands.run(commands.CommandContext(talk), "/mode deep")


@pytest.mark.slow
def test_the_modes_are_measured_once_and_kept_for_the_checkpoint(trained: TextModel, monkeypatch: pytest.MonkeyPatch):
    assert modes.known_modes(trained) is None
    shares: list[float] = []
    found = modes.measure_modes(trained, shares.append)
    assert list(found) == ["fast", "normal", "deep", "extreme", "auto"] and shares[-1] == 1.0
    assert modes.known_modes(trained) == found
    kept = Path(trained.name).parents[1] / "modes.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"checkpoint": "another"}))
    assert modes.known_modes(trained) is None


def test_bits_per_character_are_those_of_hrm_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Where the sample is all of the text, read once.
    model = loaded()
    held = packed(tmp_path / "held", model.tokenizer)
    (tmp_path / "run/checkpoints/step_1").mkdir(parents=True)
    for name in ("run.json", "checkpoints/step_1/manifest.json"):
        (tmp_path / "run" / name).write_text("{}")
    there = model._replace(name=str(tmp_path / "run/checkpoints/step_1"), held_out=(tmp_path / "held",), length=23)
    monkeypatch.setattr(modes, "TOKENS", held.count - 1)
    found = modes.measure_modes(there)
    for name in ("fast", "deep"):
        measured = evaluate(model.model, model.tokenizer, held, 23, control=False, **modes.requests(model)[name])
        # The rows of a sample begin at a random place; their contexts are not quite those of the windows.
        assert found[name]["bits_per_character"] == pytest.approx(measured["bits_per_character"], rel=0.03)


def test_a_deeper_mode_that_is_worse_is_said_to_be(trained: TextModel):
    known = {
        "fast": {"bits_per_character": 2.0, "worse_than": None},
        "deep": {"bits_per_character": 2.5, "worse_than": "fast"},
    }
    assert "deep predicts this run's held-out text worse than fast does (2.500 against 2.000" in str(
        modes.warning("deep", known)
    )
    assert modes.warning("fast", known) is None and modes.warning("extreme", known) is None
    talk = commands.CommandContext(Session(trained), known=known)
    assert "worse than fast" in commands.run(talk, "/mode deep")
    assert "worse" not in commands.run(talk, "/mode normal")


def test_a_difference_counts_beyond_two_standard_errors():
    import numpy as np

    noise = np.random.default_rng(0).normal(size=400)
    assert modes._worse(noise - noise.mean() + 0.2) and not modes._worse(noise - noise.mean() + 0.05)
    assert not modes._worse(-np.ones(10)) and not modes._worse(np.zeros(10))


def test_auto_is_the_cheapest_mode_that_no_dearer_one_beats():
    import numpy as np

    noise = np.random.default_rng(0).normal(size=400)
    costs = {"fast": 2.0, "normal": 6.0, "deep": 9.0, "extreme": 30.0, "auto": 12.0}
    losses = {name: noise + 2 for name in costs}
    assert modes._best_for_its_time(losses, costs) == "fast"
    assert modes._best_for_its_time(losses | {"normal": noise + 1.9, "extreme": noise + 1.9}, costs) == "normal"
    assert modes._best_for_its_time(losses | {"normal": noise + 1.9, "auto": noise + 1.8}, costs) == "auto"


def test_auto_takes_what_was_measured_and_says_so(trained: TextModel):
    talk = commands.CommandContext(Session(trained))
    modes.measure_modes(trained)
    kept = Path(trained.name).parents[1] / "modes.json"
    known = json.loads(kept.read_text())
    known["modes"]["auto"]["takes"] = "normal"
    kept.write_text(json.dumps(known))
    assert "as normal, the best for its time" in commands.run(talk, "/mode auto")
    again = Session(trained)
    assert again.modes["auto"] is again.modes["normal"] and again.deepest == 1
    known["modes"]["auto"]["takes"] = "auto"
    kept.write_text(json.dumps(known))
    assert Session(trained).modes["auto"] == modes.requests(trained)["auto"]


def test_without_held_out_text_nothing_is_compared_and_that_is_said_once():
    talk = commands.CommandContext(session())
    assert "has no held-out text" in commands.run(talk, "/mode deep")
    assert commands.run(talk, "/mode normal") == "mode normal: schedule 2x2, 1 segment"
    assert "6x4" in commands.run(talk, "/modes")
