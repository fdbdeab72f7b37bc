"""From a model that has learned a text to one that others use: asked by a template, preferred, refitted, published."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrm.cli.main import main as hrm
from hrm.files.reading import UserError
from hrm.runs import Run
from hrm.text.config import TextConfig
from hrm.text.data import ReadOptions, make_tokenizer
from hrm.text.data.forms import preferences
from hrm.text.load import load_text, quantised
from hrm.text.training.preference import DrawnPairs, by_depth, preference_loss
from hrm.text.training.source import Source
from tests.text.data.texts import lines
from tests.text.model import small
from tests.text.training.test_text import FLAGS, SHAPE, last_weights

ROWS = [{"instruction": "double", "input": str(n), "output": str(2 * n)} for n in range(40)]
PROMPT = "### Instruction:\ndouble\n\n### Input:\n7\n\n### Response:\n"


def rows(folder: Path, name: str = "rows.jsonl", data: Any = ROWS) -> str:
    return str(lines(folder / name, data))


def train(out: Path, data: str, *more: str) -> Path:
    """A run of six steps."""
    shape = [] if "--model" in more else SHAPE.split()
    flags = [*shape, *FLAGS.split(), "--text.length", "256", *more]
    assert hrm(["train", "text-char", "--data", data, "--out", str(out), *flags]) == 0
    return out


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on questions in the form of Alpaca."""
    folder = tmp_path_factory.mktemp("asked")
    return train(folder / "run", rows(folder), "--text.kind", "chat", "--text.template", "alpaca")


@pytest.mark.slow
def test_a_run_remembers_its_template(asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = train(tmp_path / "again", rows(tmp_path), "--text.kind", "chat", "--model", str(asked))
    assert hrm(["convert", str(asked), str(tmp_path / "folder"), "--to", "hrm_lm"]) == 0
    questions: list[Any] = [{"role": "user", "content": "double\n\n7", "context": "7"}]
    for place in (asked, again, tmp_path / "folder"):
        tokenizer = load_text(place, device="cpu").tokenizer
        said = tokenizer.apply_chat_template(questions, tokenize=False, add_generation_prompt=True)
        assert str(said).endswith(PROMPT) and str(said).startswith("Below is an instruction that describes a task, ")
        capsys.readouterr()
        greedy = ["--greedy", "--max-new-tokens", "5", "--json"]
        assert hrm(["generate", str(place), "double", "--ask", *greedy]) == 0
        mine = json.loads(capsys.readouterr().out)
        written = tokenizer.apply_chat_template(
            [{"role": "user", "content": "double"}], tokenize=False, add_generation_prompt=True
        )
        assert hrm(["generate", str(place), str(written), *greedy]) == 0
        assert mine["prompt"] == "double" and mine["ids"] == json.loads(capsys.readouterr().out)["ids"]
        assert hrm(["eval", str(place), "--data", rows(tmp_path), "--task", "pairs", "--limit", "2"]) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_quantised_folder_is_smaller_and_does_all_but_learn(
    asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torchao", reason="needs the extra [quantize]")
    less, whole, again = (str(tmp_path / name) for name in ("small", "whole", "again"))
    assert hrm(["convert", str(asked), whole, "--to", "hrm_lm"]) == 0
    assert hrm(["convert", whole, less, "--to", "hrm_lm", "--quantize", "int8"]) == 0
    sizes = [(Path(folder) / "model.safetensors").stat().st_size for folder in (less, whole)]
    assert sizes[0] < 0.7 * sizes[1]
    assert json.loads((Path(less) / "config.json").read_text())["quantization_config"]["quant_method"] == "torchao"
    data = rows(tmp_path)
    assert hrm(["generate", less, "double", "--ask", "--max-new-tokens", "5"]) == 0
    assert hrm(["eval", less, "--data", data, "--limit", "50"]) == 0
    for args in (
        ["convert", less, again, "--to", "hrm_lm"],
        ["convert", less, again, "--to", "hrm_text"],
        ["train", "text-char", "--model", less, "--data", data, "--out", again, *FLAGS.split()],
        ["convert", whole, again, "--to", "hrm_text", "--quantize", "int8"],
    ):
        capsys.readouterr()
        assert hrm(args) == 2 and not Path(again).exists()
        assert "quanti" in capsys.readouterr().err.splitlines()[-1]


def test_quantising_without_torchao_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(UserError, match=r"--quantize needs torchao.*\.\[quantize\]"):
        quantised(small.model())


PAIRS = [
    {"instruction": "double", "input": str(n), "output": "?", "chosen": str(2 * n), "rejected": "0"}
    for n in range(1, 41)
]


def prefer(out: Path, model: Path, data: str, *more: str) -> Path:
    return train(out, data, "--text.kind", "preference", "--model", str(model), *more)


@pytest.mark.slow
def test_a_chosen_answer_gains_on_a_rejected_one(asked: Path, tmp_path: Path, capsys: Any) -> None:
    flags = ("--train.steps", "12", "--optim.lr", "3e-3", "--optim.schedule", "constant", "--train.accumulate", "2")
    straight = prefer(tmp_path / "straight", asked, rows(tmp_path, "pairs.jsonl", PAIRS), *flags)
    records = Run.open(straight, TextConfig).records()
    first, last = ([r for r in records if "reward_margin" in r and "event" not in r][i] for i in (0, -1))
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-5) and abs(first["reward_margin"]) < 1e-4
    assert last["loss"] < 0.6 and last["reward_margin"] > 0.2
    result = json.loads((straight / "result.json").read_text())
    assert result["n"] == 4 and 0 <= result["reward_accuracy"] <= 1 and len(result["preference_loss_by_depth"]) == 2
    assert "held-out pairs of answers" in (straight / "README.md").read_text()
    assert load_text(straight, device="cpu").tokenizer.chat_template and load_text(straight).held_out == ()
    paused = prefer(tmp_path / "paused", asked, rows(tmp_path, "pairs.jsonl", PAIRS), *flags, "--train.steps", "5")
    assert hrm(["train", "--resume", str(paused), "--train.steps", "12"]) == 0
    mine, theirs = (last_weights(path) for path in (paused, straight))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert hrm(["generate", str(straight), "double", "--ask", "--max-new-tokens", "3"]) == 0


@pytest.mark.slow
def test_adapters_learn_preferences_alone(asked: Path, tmp_path: Path) -> None:
    path = prefer(tmp_path / "run", asked, rows(tmp_path, "pairs.jsonl", PAIRS), "--lora", "2")
    before, after = last_weights(asked), last_weights(path)
    assert all(torch.equal(after[n], before[n.replace(".base_layer", "")]) for n in after if "lora" not in n)


def test_pairs_are_read_in_their_forms(tmp_path: Path) -> None:
    question, good, bad = ({"role": role, "content": role} for role in ("user", "assistant", "assistant"))
    bad = {**bad, "content": "no"}
    asked = [
        {"prompt": "user", "chosen": "assistant", "rejected": "no"},
        {"prompt": [question], "chosen": [good], "rejected": [bad]},
        {"chosen": [question, good], "rejected": [question, bad]},
    ]
    found = list(preferences(rows(tmp_path, data=asked)))
    assert found == [([question, good], [question, bad])] * 3
    said: list[str] = []
    twice = [*asked, {"prompt": "a", "chosen": "b", "rejected": "b"}, {"prompt": "a", "chosen": "", "rejected": "b"}]
    assert len(list(preferences(rows(tmp_path, data=twice), ReadOptions(said.append)))) == 3
    assert "1 the same answer twice, 1 with an empty answer" in said[0].replace("left out: ", "")
    other = [*asked, {"chosen": [question, good], "rejected": [{**question, "content": "else"}, bad]}]
    assert len(list(preferences(rows(tmp_path, data=other), ReadOptions(said.append)))) == 3
    assert "left out: 1 with no question in common" in said[1]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ([{"prompt": "a", "chosen": "b"}], "line 1 has no rejected in its columns prompt, chosen"),
        ([{"question": "a", "answer": "b"}], "line 1 has no chosen"),
        ([{"chosen": "a", "rejected": "b"}], "line 1 has no question"),
        ([{"prompt": "a", "chosen": "b", "rejected": "b"}], "every row is left out"),
        ([{"prompt": "a", "chosen": 3, "rejected": "b"}], "line 1: 'chosen' is not a text"),
    ],
)
def test_rows_that_are_no_pairs_end_in_one_sentence(tmp_path: Path, data: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        list(preferences(rows(tmp_path, data=data)))


def test_nothing_is_said_of_pairs_that_do_not_fit(tmp_path: Path) -> None:
    pairs = [{"prompt": "a", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(20)]
    said: list[str] = []
    nobody: Any = None
    settings = replace(TextConfig().text, kind="preference", length=8, holdout=0.5)
    source = Source(TextConfig(data=rows(tmp_path, data=pairs), text=settings), said.append)
    with pytest.raises(UserError, match="no pair of answers fits"):
        source.pack(make_tokenizer("char", ["abdgo 0123456789"]), tmp_path / "packed", nobody)
    assert len(said) == 1 and "20 rows of chosen" in said[0]


@pytest.mark.slow
def test_mistakes_with_preferences_end_in_one_sentence(asked: Path, tmp_path: Path, capsys: Any) -> None:
    data, out = rows(tmp_path, "pairs.jsonl", PAIRS), tmp_path / "out"
    call = ["train", "text-char", "--text.kind", "preference", "--out", str(out), *FLAGS.split(), "--data"]
    for words, reason in (
        ([data], "starts from a model that answers"),
        ([data, "--model", "text-char"], "starts from a model that answers"),
        ([data, "--model", str(asked), "--text.length", "8"], "no pair of answers fits into --text.length 8"),
        ([str(asked / "data/train"), "--model", str(asked)], "is packed"),
        ([data, "--model", str(asked), "--text.beta", "0"], "beta"),
    ):
        capsys.readouterr()
        assert hrm([*call, *words]) == 2 and reason in capsys.readouterr().err.splitlines()[-1]
        assert not out.exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("segments", [1, 3])
def test_the_loss_of_a_segment_is_that_of_trl(segments: int, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    datasets = pytest.importorskip("datasets", reason="needs the extra [data]")
    shape: Any = {"dtype": torch.float32, "halting": "fixed", "max_segments": segments}
    model, before = (small.model(seed, **shape) for seed in (0, 1))
    tokenizer = make_tokenizer("char", ["abcdefgh"])
    told = [{"prompt": "ab", "chosen": "cd", "rejected": "efgh"}, {"prompt": "abc", "chosen": "hg", "rejected": "a"}]
    arguments = trl.DPOConfig(
        str(tmp_path), per_device_train_batch_size=2, report_to=[], use_cpu=True, bf16=False, beta=0.3,
        gradient_checkpointing=False, dataloader_pin_memory=False,
    )  # fmt: skip
    theirs = trl.DPOTrainer(
        model, before, args=arguments, train_dataset=datasets.Dataset.from_list(told), processing_class=tokenizer
    )
    batch = next(iter(theirs.get_train_dataloader()))
    wanted = theirs.compute_loss(theirs.model, batch)
    wanted.backward()
    gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    ids, count = batch["input_ids"], len(batch["input_ids"]) // 2
    labels = torch.full_like(ids, -100)
    labels[:, :-1] = ids[:, 1:].masked_fill(batch["completion_mask"][:, 1:] == 0, -100)
    order = [i + other for i in range(count) for other in (0, count)]  # theirs are all chosen ones first
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    given = [t[order] for t in (ids, labels, positions, torch.zeros_like(ids))]
    found = []
    for each in (model, before):
        drawn: Any = DrawnPairs(*given, torch.zeros(0), each.budget())  # type: ignore[call-arg]
        said = [value for _, value in by_depth(each, drawn)]
        found.append(said[-1])
    losses, _ = preference_loss(found[0], found[1].detach(), 0.3)
    torch.testing.assert_close(losses.mean(), wanted)
    if segments == 1:  # later ones learn without the history of those before
        losses.mean().backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is None) == (name not in gradient)
            torch.testing.assert_close(parameter.grad, gradient.get(name))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["right", "improvement"])
def test_the_q_head_is_fitted_to_a_model_that_stays_as_it_is(
    target: str, asked: Path, tmp_path: Path, capsys: Any
) -> None:
    flags = ("--train.learn", "q", "--halting.target", target, "--train.steps", "40", "--train.eval-every", "40")
    data = ("--text.kind", "chat", "--model", str(asked), "--optim.lr", "0.3", "--optim.ema", "0.5")
    path = train(tmp_path / "run", rows(tmp_path), *data, *flags)
    said = capsys.readouterr().err
    assert "34 of them learning" in said and "the Q head is off by" in said
    before, after = (load_text(place, "latest", device="cpu").model.state_dict() for place in (asked, path))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and changed <= {"model.q_head.weight", "model.q_head.bias"}
    found = []
    for place in (asked, path):
        capsys.readouterr()
        assert hrm(["eval", str(place), "--data", rows(tmp_path), "--halting", "fixed", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    if target == "right":
        assert found[1]["ece_q"] < 0.5 * found[0]["ece_q"]
    else:
        assert found[1]["fixed"][0]["ece_q_target"] < 0.5 * found[0]["fixed"][0]["ece_q_target"]
    assert found[1]["loss"] == found[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "name its run with --model"),
        (["--model", "RUN", "--lora", "2"], "leave out --lora"),
        (["--model", "RUN", "--text.kind", "preference"], "leave out --text.kind preference"),
        (["--model", "RUN", "--halting.max-segments", "1"], "--halting.max-segments 2 or more"),
    ],
)
def test_what_fits_no_q_head_ends_in_one_sentence(
    words: list[str], reason: str, asked: Path, tmp_path: Path, capsys: Any
) -> None:
    words = [str(asked) if word == "RUN" else word for word in words]
    out = ["--out", str(tmp_path / "out"), *FLAGS.split()]
    assert hrm(["train", "text-char", "--data", rows(tmp_path), "--train.learn", "q", *out, *words]) == 2
    assert reason in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "out").exists()
