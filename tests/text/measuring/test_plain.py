"""A causal model of transformers, measured by the same command as those that think in segments."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from hrm.cli.main import main
from hrm.text.load import silent
from hrm.text.measuring.losses import byte_lengths
from hrm.text.measuring.plain import evaluate_plain, load_plain
from tests.text.measuring.small import TEXT, packed, saved, saved_gpt2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_gpt2(tmp_path_factory.mktemp("gpt2"))


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert main(list(args)) == 2
    return capsys.readouterr().err


def log_p(model: Any, ids: list[int]) -> torch.Tensor:
    """[p, v]: what follows each token."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)


def test_each_document_is_read_alone_and_every_token_once(folder: Path, tmp_path: Path):
    model, tokenizer, *_ = load_plain(folder)
    texts = ("the cat sat", "the dog sat on the log.", TEXT[:60])
    found = evaluate_plain(model, tokenizer, packed(tmp_path / "text", tokenizer, *texts), length=40, batch_size=2)
    losses: list[float] = []
    right, size = 0, torch.zeros(2)
    ids: list[Any] = [token for text in texts for token in (*tokenizer(text)["input_ids"], tokenizer.eos_token_id)]
    ends = [i for i, token in enumerate(ids) if token == tokenizer.eos_token_id]
    for start in range(0, len(ids) - 1, 40):
        begin = start
        stop = min(start + 41, len(ids))
        for end in [*[end + 1 for end in ends if start <= end < stop], stop]:
            piece = ids[begin : min(end, stop)]
            begin = end
            if len(piece) > 1:
                table, own = log_p(model, piece)[:-1], torch.tensor(piece[1:])
                losses += (-table.gather(1, own[:, None])[:, 0]).tolist()
                right += int((table.argmax(-1) == own).sum())
                size += torch.from_numpy(byte_lengths(tokenizer)[piece[1:]].sum(0))
    assert found.n == len(losses) and (found.bytes, found.characters) == tuple(size.int().tolist())
    assert found.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert found.token_accuracy == pytest.approx(right / len(losses))
    assert found.mean_segments == 1 and len(found.fixed) == 1 and not found.adaptive and found.ece_q is None


def test_the_command_takes_it_as_a_run_or_as_a_model(folder: Path, tmp_path: Path, capsys: Any):
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    rest = ["--data", str(tmp_path / "text.txt"), "--length", "32", "--stride", "16", "--json"]
    results = []
    for named in ([str(folder), *rest], ["--model", str(folder), *rest], [*rest, f"--model={folder}"]):
        assert main(["eval", *named]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[0]["loss"] == results[1]["loss"] == results[2]["loss"] and results[0]["stride"] == 16
    assert results[0].keys() >= {"bits_per_byte", "perplexity", "data_sha256"} and "ece_q" not in results[0]
    words = ["--words", "ptb", "--length", "32"]
    assert main(["eval", str(folder), *rest[:2], *words]) == 0
    shown = capsys.readouterr().out
    assert "perplexity per word" in shown and "1 segment " in shown and "Q's ECE" not in shown


def test_it_answers_questions_greedily(folder: Path, tmp_path: Path, capsys: Any):
    questions = [{"question": "the", "answer": "cat"}, {"question": "the dog sat", "answer": "on"}]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, questions)))
    call = ["eval", str(folder), "--data", str(tmp_path / "q.jsonl"), "--task", "pairs", "--max-new-tokens", "6"]
    assert main([*call, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == 2 and not result.keys() & {"mean_segments", "ece_q", "halting"}
    model, tokenizer, *_ = load_plain(folder)
    for answer, question in zip(result["answers"], ("the\n\n", "the dog sat\n\n"), strict=True):
        ids: list[Any] = list(tokenizer(question)["input_ids"])
        start = len(ids)
        while len(ids) < start + 6 and ids[-1] != tokenizer.eos_token_id:
            ids.append(int(log_p(model, ids)[-1].argmax()))
        assert answer["said"] == tokenizer.decode(ids[start:], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("args", "flag"),
    [
        (["--halting", "q"], "--halting"),
        (["--max-segments", "2"], "--max-segments"),
        (["--exit-threshold", "0.5"], "--exit-threshold"),
        (["--schedule", "1", "1"], "--schedule"),
        (["--state", "carry"], "--state"),
        (["--plot", "depth.png"], "--plot"),
        (["--task", "pairs", "--best-of", "3"], "--best-of"),
        (["--fresh", "3"], "--fresh"),
    ],
)
def test_options_about_depth_are_refused(folder: Path, capsys: Any, args: list[str], flag: str):
    assert f"is a model without depth, a Q head or a run: leave out {flag}" in refused(
        capsys, "eval", str(folder), *args
    )


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_measured_gets_a_sentence(folder: Path, tmp_path: Path, capsys: Any):
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertForMaskedLM

    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    data = ["--data", str(tmp_path / "text.txt")]
    assert "holds no text to measure on" in refused(capsys, "eval", str(folder))
    bare = Path(shutil.copytree(folder, tmp_path / "bare"))
    weights = bare / "model.safetensors"
    kept = load_file(weights)
    weights.unlink()
    torch.save(kept, bare / "pytorch_model.bin")
    assert "pickled weights are never read" in refused(capsys, "eval", str(bare), *data)
    save_file({name: tensor for name, tensor in kept.items() if "h.1.mlp" not in name}, weights, {"format": "pt"})
    assert "lacks the weights transformer.h.1.mlp" in refused(capsys, "eval", str(bare), *data)
    (bare / "tokenizer.json").unlink()
    assert main(["eval", str(bare), *data]) == 2
    both = tmp_path / "both"
    shutil.copytree(folder, both)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    form: dict[str, Any] = {
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
    }
    BertForMaskedLM(BertConfig(vocab_size=vocabulary, **form)).save_pretrained(both)
    assert "reads in both directions" in refused(capsys, "eval", str(both), *data)
    config = json.loads((folder / "config.json").read_text())
    code = {"auto_map": {"AutoConfig": "x.C", "AutoModelForCausalLM": "x.M"}, "model_type": "strange"}
    (bare / "config.json").write_text(json.dumps(config | code))
    assert "Python code of its own, which is never run" in refused(capsys, "eval", str(bare), *data)


def test_our_own_folders_stay_what_they_are(folder: Path, tmp_path: Path):
    from hrm.text.measuring.plain import is_plain

    assert is_plain(folder) and not is_plain(saved(tmp_path / "own")) and not is_plain(tmp_path)


@pytest.mark.parametrize("make", [saved_gpt2, saved])
def test_a_model_without_a_tokenizer_is_not_measured(tmp_path: Path, capsys: Any, make: Any):
    made = make(tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    (made / "tokenizer.json").unlink()
    (made / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    said = f"{made} has no tokenizer: save the model's own there\n"
    assert refused(capsys, "eval", str(made), "--data", str(tmp_path / "text.txt")).endswith(said)
    (made / "tokenizer_config.json").unlink()
    assert refused(capsys, "eval", str(made), "--data", str(tmp_path / "text.txt")).endswith(said)


@pytest.mark.parametrize("make", [saved_gpt2, saved])
def test_weights_that_are_no_numbers_get_no_score(tmp_path: Path, capsys: Any, make: Any):
    from safetensors.torch import load_file, save_file

    made = make(tmp_path / "model")
    weights = load_file(made / "model.safetensors")
    name = sorted(weights)[0]
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    call = ["eval", str(made), "--data", str(tmp_path / "text.txt")]
    for changed, words in (
        ({}, f"lacks the weights {name}: save the model again\n"),
        ({name: torch.zeros(3)}, f"has the weights {name} in sizes that its config.json does not say: restore it\n"),
    ):
        rest = {other: tensor for other, tensor in weights.items() if other != name}
        save_file(rest | changed, made / "model.safetensors", {"format": "pt"})
        assert refused(capsys, *call) == f"hrm eval: {made} {words}"
    weights[name].view(-1)[-1] = torch.nan
    save_file(weights, made / "model.safetensors", {"format": "pt"})
    said = refused(capsys, *call)
    assert said.endswith(f"{made} gives no numbers (NaN) in '{name}': its weights are damaged\n")


def test_nothing_is_said_of_saving(tmp_path: Path, capsys: Any):
    capsys.readouterr()
    with silent():
        saved(tmp_path / "model")
    assert capsys.readouterr().err == ""
