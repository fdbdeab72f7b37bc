"""What a text engine promises: the same text alone and in a crowd, fair turns, and an end for every request."""

from __future__ import annotations

import gc
import queue
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from hrm.files.reading import UserError
from hrm.serve.text.engine import CHUNK, TextEngine
from hrm.serve.text.writing import Step, Wish, Writing, Written
from hrm.serve.waiting import Busy, Limits, Ticket
from hrm.text.chat.session import SENTENCE_END
from hrm.text.load import TextModel
from hrm.text.writing.generation import Sampling, encode, generate
from tests.text.measuring.small import pair

ENDLESS = Sampling(max_new_tokens=10**6)


def made(**changes: Any) -> TextModel:
    """A model that never ends a text by itself."""
    model, tokenizer = pair(torch.float64, head_bias=True, max_position_embeddings=1 << 16, **changes)
    with torch.no_grad():
        model.lm_head.bias[tokenizer.eos_token_id] = -1e4  # type: ignore[index]
    return TextModel(model, tokenizer, "small")


class Crowd:
    """An engine, and the events of each request."""

    def __init__(self, loaded: TextModel, limits: Limits | None = None) -> None:
        self.loaded, self.steps = loaded, queue.SimpleQueue[Step]()
        self.engine = TextEngine(loaded, limits, self.steps.put)

    def ask(self, prompt: str, sampling: Sampling, owner: str = "", seconds: float = 60, **wish: Any) -> Asked:
        return self.submit(self.asked(prompt, sampling, owner, seconds, **wish))[0]

    def asked(self, prompt: str, sampling: Sampling, owner: str = "", seconds: float = 60, **wish: Any) -> Asked:
        return Asked(Wish(encode(self.loaded.tokenizer, prompt, 1 << 20), sampling, **wish), owner, seconds)

    def submit(self, *asked: Asked) -> tuple[Asked, ...]:
        self.engine.submit(*(each.writing for each in asked))
        return asked


class Asked:
    """A request and what came of it."""

    def __init__(self, wish: Wish, owner: str, seconds: float) -> None:
        self.events = queue.SimpleQueue[Written | Ticket[Written]]()
        self.writing = Writing(wish, self.events.put, owner, seconds)

    def tokens(self) -> Iterator[Written]:
        while not isinstance(event := self.events.get(timeout=30), Ticket):
            yield event

    def end(self) -> str | None:
        for _ in self.tokens():
            pass
        return self.writing.end


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    found = Crowd(made(), Limits(slots=6, waiting=20))
    yield found
    found.engine.close()


WISHES: list[tuple[str, Sampling, dict]] = [
    ("the cat", Sampling(max_new_tokens=20, greedy=True), {}),
    ("the dog sat on", Sampling(max_new_tokens=12, temperature=0.8, seed=3), {"max_segments": 1}),
    (
        "a",
        Sampling(max_new_tokens=25, top_k=5, top_p=0.9, min_p=0.05, seed=4),
        {"halting": "kl", "exit_threshold": 0.1},
    ),
    ("the cat sat", Sampling(max_new_tokens=9, repetition_penalty=1.5, seed=5), {"schedule": (3, 2)}),
    ("the dog", Sampling(max_new_tokens=15, seed=6), {"halting": "q", "halting_rule": "backfill"}),
    ("on the mat", Sampling(max_new_tokens=40, seed=7, stop=("e",)), {"halting": "change", "exit_threshold": 0.3}),
    ("the log", Sampling(max_new_tokens=15, seed=6), {"halting": "readout", "exit_threshold": 0.5}),
    ("the", Sampling(max_new_tokens=7, seed=8), {"retry_confidence": 0.9, "retry_segments": 2}),
    ("the cat sat on the mat", Sampling(max_new_tokens=11, seed=9), {"state": "carry"}),
]


def test_a_text_in_a_crowd_is_the_one_that_generate_writes_alone(crowd: Crowd) -> None:
    model, tokenizer = crowd.loaded.model, crowd.loaded.tokenizer
    asked = crowd.submit(*(crowd.asked(text, how, request=request) for text, how, request in WISHES * 2))
    for each, (text, how, request) in zip(asked, WISHES * 2, strict=True):
        streamed = [event.token for event in each.tokens()]
        found, alone = each.writing.completion, generate(model, tokenizer, text, how, **request)
        assert (each.writing.end, found.text, found.end) == ("done", alone.text, alone.end)
        assert streamed == found.tokens
        for a, b in zip(found.tokens, alone.tokens, strict=True):
            assert (a.id, a.text, a.depth, a.likeliest) == (b.id, b.text, b.depth, b.likeliest)
            assert a[3:6] == pytest.approx(b[3:6], rel=1e-6, abs=1e-9)


def test_in_float32_greedy_texts_differ_only_where_two_tokens_are_as_good() -> None:
    model, tokenizer = pair(torch.float32, max_position_embeddings=256)
    crowd = Crowd(TextModel(model, tokenizer, "small"), Limits(slots=8))
    how = Sampling(max_new_tokens=40, greedy=True)
    prompts = ["the", "the cat", "a mat", "the dog sat", "on the log", "sat", "la mer", "the cat sat on the mat"]
    for prompt, asked in zip(
        prompts, crowd.submit(*(crowd.asked(prompt, how, top=2) for prompt in prompts)), strict=True
    ):
        tops = [event.top for event in asked.tokens()]
        alone = generate(model, tokenizer, prompt, how)
        pairs = zip(asked.writing.completion.tokens, alone.tokens, tops, strict=False)
        parted = next((top for mine, single, top in pairs if mine.id != single.id), None)
        assert parted is None or parted[0][1] - parted[1][1] < 1e-4
    crowd.engine.close()


def test_a_long_prompt_is_read_in_pieces_while_others_write(crowd: Crowd) -> None:
    writes = crowd.ask("the cat", replace(ENDLESS, greedy=True))
    next(writes.tokens())
    prompt = "the cat sat on the mat " * (CHUNK // 8)
    long = crowd.ask(prompt, Sampling(max_new_tokens=3, greedy=True))
    assert long.end() == "done"
    model, tokenizer = crowd.loaded.model, crowd.loaded.tokenizer
    assert long.writing.completion.text == generate(model, tokenizer, prompt, long.writing.wish.sampling).text
    writes.writing.cancel()
    assert writes.end() == "cancelled"
    steps = [crowd.steps.get() for _ in range(crowd.steps.qsize())]
    assert max(step.tokens for step in steps) <= CHUNK + 1
    assert long.writing.segments >= len(long.writing.wish.ids)


def test_a_text_that_outgrows_its_memory_continues_from_its_last_half(crowd: Crowd) -> None:
    how = Sampling(max_new_tokens=40, seed=2)
    asked = crowd.ask("the cat", how, memory=12)
    assert asked.end() == "done"
    model, tokenizer = crowd.loaded.model, crowd.loaded.tokenizer
    assert asked.writing.completion.text == generate(model, tokenizer, "the cat", how, memory=12).text


def test_a_text_may_end_with_a_sentence(crowd: Crowd) -> None:
    free = crowd.ask("the cat", Sampling(max_new_tokens=150, seed=1))
    free.end()
    asked = crowd.ask("the cat", Sampling(max_new_tokens=150, seed=1), natural=5)
    assert asked.end() == "done" and asked.writing.completion.end == "sentence"
    text = asked.writing.completion.text
    assert free.writing.completion.text.startswith(text) and SENTENCE_END.search(text) and len(text) >= 5


def test_the_likeliest_tokens_are_told_where_each_was_drawn(crowd: Crowd) -> None:
    asked = crowd.ask("the cat", Sampling(max_new_tokens=6, greedy=True), top=3)
    for token, top in asked.tokens():
        assert top[0] == (token.id, pytest.approx(token.log_probability))
        assert [p for _, p in top] == sorted((p for _, p in top), reverse=True) and len(top) == 3


def test_under_backfill_a_prompt_takes_as_long_as_its_last_token(crowd: Crowd) -> None:
    request, deeper = {"halting": "q", "halting_rule": "backfill"}, 0
    for prompt in ("the cat", "the dog sat", "on the mat", "a log", "the cat sat on the mat", "la mer"):
        asked = crowd.ask(prompt, Sampling(max_new_tokens=1, greedy=True), request=request)
        assert asked.end() == "done"
        ids = torch.tensor([asked.writing.wish.ids])
        depth = crowd.loaded.model(ids, **request).depth[0]
        assert asked.writing.completion.tokens[0].depth == depth[-1] == crowd.steps.qsize()
        deeper += int(depth.max() > depth[-1])
        while not crowd.steps.empty():
            crowd.steps.get()
    assert deeper  # than the last one, and not waited for


def test_who_has_a_text_finds_its_steps_told() -> None:
    steps: list[Step] = []

    def slowly(step: Step) -> None:
        time.sleep(0.02)
        steps.append(step)

    crowd = Crowd(made())
    crowd.engine.on_step = slowly
    for prompt in ("the cat", "a mat"):
        steps.clear()
        assert crowd.ask(prompt, Sampling(max_new_tokens=3, greedy=True)).end() == "done"
        assert sum(step.written for step in steps) == 3
    crowd.engine.close()


@pytest.mark.parametrize("request_", [{}, {"halting_rule": "backfill"}, {"halting": "fixed", "schedule": (1, 2)}])
def test_the_next_turn_of_a_talk_is_not_read_again(crowd: Crowd, request_: dict) -> None:
    request = dict(request_)
    first = crowd.ask("the cat sat on the mat", Sampling(max_new_tokens=12, seed=1), request=request)
    first.end()
    talk = "the cat sat on the mat" + first.writing.completion.text + "the dog"
    how = Sampling(max_new_tokens=12, seed=2)
    others = [crowd.ask(talk, how, owner="other", request=request), crowd.ask(talk, how, request={"max_segments": 1})]
    for other in others:
        other.end()
        assert other.writing.cached == 0
    second = crowd.ask(talk, how, request=request)
    second.end()
    assert second.writing.cached == len(first.writing.wish.ids) + 11  # the last token of the first was not yet read
    alone = generate(crowd.loaded.model, crowd.loaded.tokenizer, talk, how, **request)
    assert second.writing.completion.text == alone.text == others[0].writing.completion.text
    assert second.writing.segments < others[0].writing.segments


def test_a_cut_cache_is_as_good_as_a_fresh_one(crowd: Crowd) -> None:
    how = Sampling(max_new_tokens=12, seed=2)
    crowd.ask("the cat sat on the mat and", how).end()
    asked = crowd.ask("the cat sat on the log", how)
    asked.end()
    assert asked.writing.cached == len("the cat sat on the ")
    alone = generate(crowd.loaded.model, crowd.loaded.tokenizer, "the cat sat on the log", how)
    assert asked.writing.completion.text == alone.text


def test_thought_is_counted_in_segments_and_operations(crowd: Crowd) -> None:
    asked = {most: crowd.ask("the cat", Sampling(max_new_tokens=5), request={"halting": "fixed", "max_segments": most})
             for most in (1, 3)}  # fmt: skip
    read = len(asked[1].writing.wish.ids) + 4  # the last token is drawn and never read
    for most, each in asked.items():
        each.end()
        assert each.writing.segments == most * read
    one, three = (asked[most].writing.flops - 5 * crowd.engine.cost.head for most in (1, 3))
    assert three == pytest.approx(3 * one) and one > 0


def test_owners_take_turns_and_a_full_queue_refuses() -> None:
    crowd = Crowd(made(), Limits(slots=1, waiting=4))
    busy = crowd.ask("the cat", ENDLESS)
    next(busy.tokens())
    short = Sampling(max_new_tokens=1)
    mine = [crowd.ask("the cat", short, owner="me") for _ in range(3)]
    yours = crowd.ask("the dog", short, owner="you")
    with pytest.raises(Busy) as refused:
        crowd.ask("the dog", short, owner="you")
    assert 1 <= refused.value.retry_after <= 60
    busy.writing.cancel()
    assert {each.end() for each in (busy, yours, *mine)} == {"cancelled", "done"}
    done = [each.writing.completion.seconds for each in (mine[0], yours, mine[1], mine[2])]
    assert done == sorted(done)
    crowd.engine.close()


def test_a_short_text_does_not_wait_for_deep_ones(crowd: Crowd) -> None:
    deep = [crowd.ask("the cat", ENDLESS, request={"schedule": (6, 6), "max_segments": 8}) for _ in range(4)]
    for each in deep:
        next(each.tokens())
    assert crowd.ask("the dog", Sampling(max_new_tokens=20), request={"max_segments": 1}).end() == "done"
    for each in deep:
        assert each.writing.end is None
        each.writing.cancel()
        assert each.end() == "cancelled"


def test_every_request_ends_and_leaves_nothing_behind() -> None:
    crowd = Crowd(made(), Limits(slots=2, waiting=9))
    late = crowd.ask("the cat", ENDLESS, seconds=0.2)
    left = crowd.ask("the cat", ENDLESS)
    never = crowd.ask("the cat", ENDLESS, seconds=0.1)  # its time is over while it waits
    assert (late.end(), never.end()) == ("deadline", "deadline")
    assert late.writing.completion.text  # what was written until then
    waits = [crowd.ask("the cat", ENDLESS) for _ in range(3)]
    left.writing.cancel()
    assert left.end() == "cancelled"
    crowd.engine.close(seconds=0.2)
    assert [each.end() for each in waits] == ["stopped"] * 3
    assert not crowd.engine.active and not len(crowd.engine.queue) and crowd.engine.cache_bytes == 0
    with pytest.raises(Busy):
        crowd.ask("the cat", ENDLESS)


def test_what_a_text_held_is_freed_when_it_ends(crowd: Crowd) -> None:
    gc.collect()
    gc.disable()  # caches are large and few, so the collector would come late
    try:
        asked = crowd.ask("the cat", ENDLESS)
        next(asked.tokens())
        (text,) = crowd.engine.active
        held = [weakref.ref(each) for each in (text, text.cache, text.row, asked.writing)]
        del text
        asked.writing.cancel()
        asked.end()
        del asked
        crowd.ask("the dog", Sampling(max_new_tokens=1)).end()
        assert [each() for each in held] == [None] * 4
    finally:
        gc.enable()


def test_closing_finishes_what_is_under_way() -> None:
    crowd = Crowd(made())
    asked = crowd.ask("the cat", Sampling(max_new_tokens=30))
    next(asked.tokens())
    crowd.engine.close(seconds=30)
    assert asked.end() == "done" and len(asked.writing.completion.tokens) == 30


def test_what_cannot_be_written_is_refused_before_it_waits(crowd: Crowd) -> None:
    for wish in (
        Wish([]), Wish([1] * (1 << 16)), Wish([1], Sampling(temperature=0)), Wish([1], request={"max_segments": 0}),
        Wish([1], request={"halting": "luck"}),
    ):  # fmt: skip
        with pytest.raises(UserError):
            crowd.engine.submit(Asked(wish, "", 1).writing)
    assert len(crowd.engine.queue) == 0


def test_an_error_fails_its_requests_and_the_engine_serves_the_next(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(crowd.engine.model, "segments", broken)
        asked = crowd.ask("the cat", Sampling(max_new_tokens=3))
        assert asked.end() == "failed" and str(asked.writing.error) == "out of memory"
        while crowd.engine.active:
            time.sleep(0.01)
    assert crowd.ask("the cat", Sampling(max_new_tokens=3)).end() == "done"


def test_damaged_weights_fail_with_a_sentence(crowd: Crowd) -> None:
    with torch.no_grad():
        crowd.loaded.model.lm_head.weight[0, 0] = float("nan")
    asked = crowd.ask("the cat", Sampling(max_new_tokens=3))
    assert asked.end() == "failed" and "NaN" in str(asked.writing.error)
