"""`hrm analyze answers`: what is said after every step of L is head(H(z_h, z_l)), by the equations, cached or not."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hrm.cli.main import main
from hrm.core.recurrence import Schedule
from hrm.files.reading import UserError
from hrm.insight import heat
from hrm.insight.answers import answers, moments_of, readings
from hrm.insight.story import Story
from hrm.insight.subject import Batch, Reading, Subject, Text
from hrm.text.data import make_tokenizer
from hrm.text.load import TextModel
from hrm.text.model import HRMForCausalLM
from hrm.text.model.cache import HRMCache
from tests.insight.conftest import PROSE, sudokus
from tests.reference.blocks import post_norm, pre_norm, rms
from tests.reference.net import Net, net_of
from tests.reference.puzzles import embed, readout, start
from tests.text.model import small

CLOSE: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}


def said(subject: Subject, batch: Batch, segments: int) -> list[Reading]:
    return [reading for _, reading, _ in readings(subject.begin(batch, segments), subject.schedule, segments)]


def interrupted(stacks: Any, z_h: Tensor, z_l: Tensor, x: Tensor | float, schedule: Schedule, segments: int) -> Any:
    """H(z_h, z_l) after every step of L, by the equations of HRM."""
    fast, slow = stacks
    for _ in range(segments * schedule.h_cycles):
        for _ in range(schedule.l_cycles):
            z_l = fast(z_l + z_h + x)
            answer = slow(z_h + z_l)
            yield answer
        z_h = answer


@pytest.mark.parametrize("changes", [{}, {"h_cycles": 3, "l_cycles": 1}, {"shared": True, "l_cycles": 3}], ids=str)
def test_answers_to_puzzles_are_those_of_the_equations(changes: dict[str, Any]) -> None:
    puzzles = sudokus(**changes)
    model, batch = puzzles.model, next(puzzles.batches(3, 3))
    net = net_of({name: tensor.detach() for name, tensor in model.state_dict().items()})
    x = embed(net, batch.inputs, batch.more["task_ids"], model.arch.task_positions)

    def stack(name: str) -> Any:
        def through(z: Tensor) -> Tensor:
            for layer in net[name] or net["fast"]:
                z = post_norm(z, layer, model.arch.heads, None)
            return z

        return through

    wanted = list(interrupted((stack("fast"), stack("slow")), *start(net, x), x, puzzles.schedule, 2))
    found = said(puzzles, batch, 2)
    assert len(found) == len(wanted) == 2 * puzzles.schedule.h_cycles * puzzles.schedule.l_cycles
    for reading, z_h in zip(found, wanted, strict=True):
        torch.testing.assert_close(reading.carry.z_h, z_h, **CLOSE)
        logs = readout(net, z_h, model.arch.task_positions)[0].log_softmax(-1)
        torch.testing.assert_close(reading.loss, -logs.gather(-1, batch.labels[..., None])[..., 0], **CLOSE)
        assert torch.equal(reading.best, logs.argmax(-1))


def written(**changes: Any) -> tuple[Text, Batch]:
    """A model of text with exact angles, and tokens for it."""
    tokenizer = make_tokenizer("char", [PROSE])
    model = small.model(3, vocab_size=len(tokenizer), max_position_embeddings=64, **changes)
    width = model.config.hidden_size // model.config.num_attention_heads

    def rotary(positions: Tensor) -> tuple[Tensor, Tensor]:
        turns = positions[..., None].double() / 1e4 ** (torch.arange(0, width, 2).double() / width)
        cos, sin = turns.cos(), turns.sin()
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)

    model.model.rotary = rotary  # type: ignore[assignment]
    ids = small.tokens(2, 10) % len(tokenizer)
    labels = torch.cat((ids[:, 1:], torch.full((2, 1), -100)), 1)
    more = {"position_ids": torch.arange(10)[None], "token_type_ids": torch.zeros_like(ids)}
    packed: Any = type("Packed", (), {"count": 20})()
    return Text(TextModel(model, tokenizer, "random"), packed, 10, "text"), Batch(0, ids, labels, more)


@pytest.mark.parametrize("form", ["original", "hrm_text"])
def test_answers_to_a_text_are_those_of_the_equations(form: str) -> None:
    text, batch = written(**(small.FORMS[form] | {"h_cycles": 2}))
    model: HRMForCausalLM = text.model
    named = {name: t.detach() for name, t in model.model.state_dict().items()} | {"head": model.lm_head.weight.detach()}
    net: Net = net_of(named)
    heads, eps = model.config.num_attention_heads, model.config.arch.norm_eps

    def stack(name: str) -> Any:
        def through(z: Tensor) -> Tensor:
            for layer in net[name]:
                if form == "original":
                    z = post_norm(z, layer, heads, 1e4, causal=True)
                else:
                    z = pre_norm(z, layer, heads, 1e4, True, eps)
            return z if form == "original" else rms(z, eps)

        return through

    x = net["embed_tokens"][batch.inputs] * model.config.embedding_scale
    z_h, z_l = (torch.zeros_like(x) + net[f"z_{which}_init"] for which in "hl")
    first = (x, z_l, 0.0) if form == "hrm_text" else (z_h, z_l, x)
    wanted = list(interrupted((stack("fast"), stack("slow")), *first, text.schedule, 2))
    for reading, state in zip(said(text, batch, 2), wanted, strict=True):
        torch.testing.assert_close(reading.carry.z_h, state, **CLOSE)
        logs = (state @ net["head"].T).log_softmax(-1)
        loss = -logs.gather(-1, batch.labels.clamp(min=0)[..., None])[..., 0] * (batch.labels != -100)
        torch.testing.assert_close(reading.loss, loss, **CLOSE)


@pytest.mark.parametrize("form", small.FORMS)
def test_answers_to_a_text_are_the_same_token_by_token_with_a_cache(form: str) -> None:
    """Also where slots of attention are shared: nothing that an interrupted segment wrote may stay."""
    text, batch = written(**small.FORMS[form])
    how: Any = {"max_segments": 2, "halting": "fixed"}
    model, budget = text.model, text.model.budget(**how)
    for moment, reading, _ in readings(text.begin(batch, 2), text.schedule, 2):
        cache, states = HRMCache(), []
        with torch.no_grad():
            for place in range(batch.inputs.shape[1]):
                token = batch.inputs[:, place : place + 1]
                thought = model.begin(input_ids=token, past_key_values=cache, budget=budget)
                for _ in range(moment.segment - 1):
                    model.segment(thought, budget.schedule)
                model.segment(thought, budget.schedule.until(moment.visit.cycle, moment.visit.step))
                states.append(thought.exited.z_h)
        torch.testing.assert_close(torch.cat(states, 1), reading.carry.z_h, **CLOSE)


def test_the_last_answer_of_a_segment_is_its_readout(subject: Subject) -> None:
    batch = next(subject.batches(4, 4))
    steps = len(moments_of(subject.schedule, 1))
    ends = said(subject, batch, 3)[steps - 1 :: steps]
    for end, reading in zip(ends, subject.think(batch, 3), strict=True):
        assert end.segment == reading.segment
        torch.testing.assert_close(end.loss, reading.loss, **CLOSE)


def test_shares_and_changes_are_counted_over_all_batches(subject: Subject) -> None:
    found = answers(subject, 2, 6, 4, row=5).numbers
    (batch,) = subject.batches(6, 6)
    seen = said(subject, batch, 2)
    open_cells = batch.labels != -100
    if subject.family == "puzzle":
        open_cells &= batch.inputs == subject.task.blank  # type: ignore[attr-defined]
    for i, (one, reading) in enumerate(zip(found["visits"], seen, strict=True)):
        assert one["right"] == pytest.approx(float(reading.right[open_cells].double().mean()))
        if subject.family == "text":
            bits = float(reading.loss.sum()) / math.log(2) / int(open_cells.sum())
            assert one["bits"] == pytest.approx(bits, rel=1e-10)
        if i:
            assert one["changed"] == pytest.approx(float((reading.best != seen[i - 1].best).sum()) / 6)
    shown = found["shown"]
    assert [one["answer"] for one in shown] == [reading.best[4].tolist() for reading in seen]
    assert shown[-1]["right"] == int(seen[-1].right[4].sum())


def test_a_prompt_is_asked_in_place_of_the_data(words: Text) -> None:
    found = answers(words, 2, 6, 4, prompt="The cat ran").numbers
    assert found["count"] == 1 and found["row"] is None and found["shown"][0]["of"] == 10
    puzzles = sudokus()
    asked = answers(puzzles, 1, 6, 4, prompt="12.434.22.434.21").numbers
    assert asked["shown"][0]["of"] == 16


def test_chosen_visits_begin_and_end_the_story(words: Text) -> None:
    batch = next(words.batches(2, 2))
    story = Story(words.schedule, batch, 0)
    for moment, reading, thinking in readings(words.begin(batch, 3), words.schedule, 3):
        story.add(moment, reading, thinking, None)
    for most in (3, 5, 8):
        chosen = story.chosen(most)
        assert len(chosen) <= most and (chosen[0], chosen[-1]) == (0, len(story.scenes) - 1)


def data(page: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(found)


def test_the_pages_tell_every_visit_and_ask_for_nothing(subject: Subject) -> None:
    finding = answers(subject, 2, 4, 4, row=2)
    page = finding.more["answers.html"].decode()
    told, shown = data(page), finding.numbers["shown"]
    assert not re.search(r"https?:|@import|url\(|src=", page)
    if subject.family == "text":
        assert [visit["name"] for visit in told["visits"]] == [one["visit"] for one in shown]
        assert [sum(visit["right"]) for visit in told["visits"]] == [one["right"] for one in shown]
    else:
        assert told["unit"] == "visit" and len(told["places"]) == len(told["steps"]) == len(shown)
        assert [16 - len(step["wrong"]) for step in told["steps"]] == [one["right"] for one in shown]
        assert finding.more["answers.gif"].startswith(b"GIF")


def test_a_text_cannot_break_out_of_its_page(words: Text) -> None:
    (batch,) = words.batches(1, 1)
    words.tokenizer = type("Tokenizer", (), {"decode": lambda self, ids: "</script><b>"})()  # type: ignore[assignment]
    story = Story(words.schedule, batch, 0)
    for moment, reading, thinking in readings(words.begin(batch, 1), words.schedule, 1):
        story.add(moment, reading, thinking, None)
    page = heat.page(words, story)
    assert page.count("</script>") == 2 and data(page)["read"][0] == "</script><b>"


def test_the_command_draws_puzzles_and_text(
    run: Path, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", "answers", str(run), "--limit", "3", "--segments", "2", "--row", "2"]) == 0
    assert "cells changed" in capsys.readouterr().out
    assert all((run / "analysis" / f"answers.{form}").is_file() for form in ("json", "png", "svg", "html", "gif"))
    flags = ["--data", str(saved.parent / "text.txt"), "--out", str(tmp_path / "new"), "--json"]
    assert main(["analyze", "answers", str(saved), *flags, "--prompt", "The cat sat"]) == 0
    assert json.loads(capsys.readouterr().out)["shown"][0]["of"] == 10


def test_what_has_no_answers_between_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="plain Transformer"):
        answers(sudokus(hierarchy=False), 1, 4, 4)
    for words, said in (
        ("--row 99", "--row 99 is not among the"),
        ("--prompt 1234", "--prompt is no puzzle of this run"),
        ("--row 0", "--row"),
    ):
        assert main(["analyze", "answers", str(run), "--limit", "4", *words.split(" ", 1)]) == 2
        error = capsys.readouterr().err
        assert said in error and "Traceback" not in error
