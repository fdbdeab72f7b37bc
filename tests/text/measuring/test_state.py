"""Fresh and carried states, token by token, beside each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hrm.cli.main import main
from hrm.text.data import Packed, chat
from hrm.text.measuring.losses import evaluate
from hrm.text.measuring.state import evaluate_states
from hrm.text.model import HRMCache
from tests.text.data.texts import lines
from tests.text.measuring.small import TEXT, packed, pair, saved


@pytest.mark.parametrize("halting", ["fixed", "q"])
def test_fresh_states_read_token_by_token_are_those_read_at_once(tmp_path: Path, halting: str):
    model, tokenizer = pair(torch.float64, halting=halting)
    data = packed(tmp_path / "packed", tokenizer)
    at_once = evaluate(model, tokenizer, data, 12, control=False)
    found = evaluate_states(model, tokenizer, data, 12)
    for name in ("loss", "token_accuracy", "mean_segments", "bits_per_byte", "ece_q"):
        assert found["states"]["reset"][name] == pytest.approx(at_once[name]), name
    assert found["n"] == at_once["n"] and found["state"] == "carry"
    assert found["loss"] == found["states"]["carry"]["loss"] != found["states"]["reset"]["loss"]


def test_a_carried_state_is_the_last_tokens(tmp_path: Path):
    model, tokenizer = pair(torch.float64, halting="fixed")
    data = packed(tmp_path / "packed", tokenizer, "the cat sat")
    found = evaluate_states(model, tokenizer, data, 12)
    cache, losses = HRMCache(), []
    with torch.no_grad():
        for token, label in zip(data.tokens[:-1].tolist(), data.tokens[1:].tolist(), strict=True):
            logits = model(torch.tensor([[token]]), past_key_values=cache, state="carry").logits[0, -1]
            losses.append(float(-logits.log_softmax(-1)[label]))
    assert found["loss"] == pytest.approx(sum(losses) / len(losses))


def test_answers_are_counted_by_rows(tmp_path: Path):
    model, tokenizer = pair()
    ask = [{"role": "user", "content": "cat"}, {"role": "assistant", "content": "dog"}]
    data = Packed.write(tmp_path / "packed", tokenizer, chat.examples(tokenizer, [ask] * 5))
    found = evaluate_states(model, tokenizer, data, 12)
    assert found["answers"] == 5 and found["n"] == 20 and {"exact_match"} <= set(found["states"]["reset"])


def test_the_flag_measures_both_and_generates(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = str(saved(tmp_path / "model"))
    data = str(lines(tmp_path / "a.jsonl", [{"text": TEXT[:60]}]))
    assert main(["eval", model, "--data", data, "--state", "carry", "--json", "--length", "16"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["states"]) == {"reset", "carry"} and result["loss"] == result["states"]["carry"]["loss"]
    assert main(["eval", model, "--data", data, "--state", "carry", "--length", "16"]) == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert rows[:3] == ["state", "reset", "carry"]
    assert main(["eval", model, "--data", data, "--state", "carry", "--plot", str(tmp_path / "x.png")]) == 2
    assert "--state carry measures one budget" in capsys.readouterr().err
    texts = []
    for state in ("reset", "carry"):
        assert main(["generate", model, "the", "--greedy", "--max-new-tokens", "12", "--state", state]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] != texts[1]
