"""What a talk promises: answers that follow from seed and conversation, a cache that changes nothing, honest memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hrm.files.reading import UserError
from hrm.text.chat.session import SENTENCE_END, Session, Settings
from hrm.text.data.chat import chat_prompt
from hrm.text.writing.generation import Sampling, complete, generate
from tests.text.chat.small import TEMPLATE, loaded, session

DRAWN = Settings(stop="length", sampling=Sampling(max_new_tokens=8, seed=3))


def reads(talk: Session, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each forward pass is given, from now on."""
    counts: list[int] = []
    begin = talk.model.model.begin

    def counted(*args, **kwargs):
        counts.append((args[0] if args else kwargs["input_ids"]).shape[1])
        return begin(*args, **kwargs)

    monkeypatch.setattr(talk.model.model, "begin", counted)
    return counts


@pytest.mark.slow
def test_the_first_answer_is_what_generate_writes_and_a_seed_means_a_talk():
    talks = [session(DRAWN) for _ in range(2)]
    first, again = ([talk.answer(text).text for text in ("the cat", "the dog", "")] for talk in talks)
    assert first == again and len(set(first)) == 3
    model, tokenizer, *_ = talks[0].loaded
    assert first[0] == generate(model, tokenizer, "the cat", DRAWN.sampling, **talks[0].modes["auto"]).text
    other = session(replace(DRAWN, sampling=replace(DRAWN.sampling, seed=4)))
    assert other.answer("the cat").text != first[0]


@pytest.mark.slow
@pytest.mark.parametrize("form", [{}, {"share_segments": True}, {"halting": "fixed"}, {"max_segments": 1}])
def test_answers_with_the_kept_cache_are_those_of_reading_everything_anew(form: dict):
    kept, anew = session(**form), session(**form)
    for mode in ("auto", "auto", "fast", "deep", "auto"):
        for talk in (kept, anew):
            talk.change(replace(talk.settings, mode=mode))
        anew._forget()
        a, b = kept.answer("the mat"), anew.answer("the mat")
        assert a.text == b.text
        assert [t.log_probability for t in a.tokens] == pytest.approx([t.log_probability for t in b.tokens], rel=1e-9)


def test_only_new_text_is_read_and_another_schedule_reads_all(monkeypatch: pytest.MonkeyPatch):
    talk = session(memory=64, max_position_embeddings=64)
    talk.answer("the cat sat")
    counts = reads(talk, monkeypatch)
    talk.answer("dog")
    assert counts == [5, 1, 1, 1, 1]  # the last token of the answer, a new line, three characters
    talk.change(replace(talk.settings, mode="deep"))
    talk.answer("dog")
    assert counts[5:] == [11 + 5 + 4 + 5 + 4, 1, 1, 1, 1]


def test_what_no_longer_fits_is_dropped_and_said():
    talk = session()
    before = talk.answer("the cat sat on the mat.\nthe dog sat")
    assert before.notices == [
        "the oldest 23 tokens are forgotten, and more as you continue: 24 tokens fit into the memory"
    ]
    text = ("the cat sat on the mat.\nthe dog sat")[-12:]
    model, tokenizer, *_ = talk.loaded
    assert before.text == generate(model, tokenizer, text, talk.settings.sampling, **talk.modes["auto"]).text
    assert talk.answer("").notices == [] and talk.remembered == 22
    # Once is enough: the memory of a character model is full after a line.
    assert talk.answer("").notices == [] and talk.remembered < 24
    talk.clear()
    assert "oldest 23 tokens" in talk.answer("the cat sat on the mat.\nthe dog sat").notices[0]
    assert talk.conversation.text.startswith("the cat sat")  # what is saved is everything


@pytest.mark.slow
def test_a_long_answer_goes_on_beyond_the_memory():
    talk = session(Settings(stop="length", sampling=Sampling(max_new_tokens=70, seed=1)))
    answer = talk.answer("the")
    assert len(answer.tokens) == 70 and answer.end == "length"
    assert answer.notices == [
        f"the oldest {talk.conversation.forgotten} tokens are forgotten, and more as you continue: "
        "24 tokens fit into the memory"
    ]
    assert talk.remembered == 73 - talk.conversation.forgotten < 24


@pytest.mark.slow
def test_an_unlimited_answer_ends_when_it_is_interrupted_and_the_talk_goes_on():
    one, two = session(replace(DRAWN, stop="unlimited")), session(replace(DRAWN, stop="unlimited"))
    for talk in (one, two):

        def interrupt(said, talk=talk, seen=[]):  # noqa: B006
            seen.append(said)
            if len(seen) == 40:
                talk.interrupt()

        answer = talk.answer("the", interrupt)
        assert answer.end == "interrupted" and len(answer.tokens) == 40
        talk.change(DRAWN)
    two._forget()
    assert one.answer("cat").text == two.answer("cat").text


def test_a_keyboard_interrupt_within_the_model_keeps_what_was_said(monkeypatch: pytest.MonkeyPatch):
    talk = session(replace(DRAWN, stop="unlimited"))
    segment, calls = talk.model.model.segment, []

    def broken(*args, **kwargs):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return segment(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(talk.model.model, "segment", broken)
        answer = talk.answer("the")
    assert answer.end == "interrupted" and answer.text
    assert talk.conversation.text == "the" + answer.text
    talk.change(DRAWN)
    assert len(talk.answer("").tokens) == 8


def test_natural_answers_stop_at_a_sentence_end():
    talk = session(
        Settings(stop="natural", min_characters=20, sampling=Sampling(max_new_tokens=400)),
        memory=64,
        max_position_embeddings=64,
    )
    with torch.no_grad():  # periods and spaces are likely
        for character in ". ":
            talk.model.lm_head.bias[talk.tokenizer(character)["input_ids"][0]] = 4.0  # type: ignore[index]
    answer = talk.answer("the cat")
    assert answer.end == "sentence" and len(answer.text) >= 20
    assert SENTENCE_END.search(answer.text) and not SENTENCE_END.search(answer.text[20:-1])


@pytest.mark.parametrize(
    "text", ["It is. ", "Is it?\u201d ", "\u305d\u3046\u3067\u3059\u3002", "a line\n\n", "So did I. ", "(Yes!)\n"]
)
def test_ends_of_sentences(text: str):
    assert SENTENCE_END.search(text)


@pytest.mark.parametrize("text", ["It is.", "Mr. ", "and Mrs. ", "J. ", "3.5", "a, ", "a line\n"])
def test_no_ends_of_sentences(text: str):
    assert not SENTENCE_END.search(text)


def test_the_end_token_ends_the_answer_and_stays_out_of_a_running_text():
    talk = session()
    with torch.no_grad():
        talk.model.lm_head.bias[talk.tokenizer.eos_token_id] = 1e4  # type: ignore[index]
    assert talk.answer("the cat").end == "end"
    assert talk.conversation.reading().tokens == talk.tokenizer("the cat")["input_ids"]


def test_questions_are_written_with_the_template_and_answers_stay_in_it(monkeypatch: pytest.MonkeyPatch):
    talk = session(memory=64, max_position_embeddings=64, talks=True)
    first = talk.answer("the cat")
    asked = [{"role": "user", "content": "the cat"}]
    ids = chat_prompt(talk.tokenizer, asked)
    assert talk.tokenizer.decode(ids) == "h?the cat\na?"
    (alone,) = complete(talk.model, talk.tokenizer, [ids], talk.settings.sampling, **talk.modes["auto"])
    assert first.text == alone.text
    counts = reads(talk, monkeypatch)
    talk.answer("the dog")
    asked += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "the dog"}]
    assert talk.conversation.reading().tokens[: len(ids) + 5] == ids + [t.id for t in first.tokens]
    assert counts[0] == len(chat_prompt(talk.tokenizer, asked)) - len(ids) - 4


def test_the_oldest_questions_are_dropped_whole():
    talk = session(memory=40, max_position_embeddings=64, talks=True)
    notices = [talk.answer(text).notices for text in ("the cat", "the dog", "sat on")]
    assert notices[:2] == [[], []] and "are forgotten" in notices[2][0]
    text = str(talk.tokenizer.decode(talk.conversation.reading().tokens))
    assert text.startswith("h?") and "the cat" not in text and "sat on" in text


def test_a_question_that_is_too_long_is_refused_and_taken_back():
    talk = session(memory=20, talks=True)
    talk.answer("the")
    with pytest.raises(UserError, match="26 tokens and the model reads 20: shorten it"):
        talk.answer("the cat the cat the c")
    assert talk.conversation.messages[0].content == "the" and len(talk.conversation.messages) == 2
    assert talk.answer("cat").tokens


@pytest.mark.slow
def test_an_answer_longer_than_the_memory_goes_on_from_its_end():
    talk = session(Settings(stop="length", sampling=Sampling(max_new_tokens=50)), memory=24, talks=True)
    answer = talk.answer("the")
    assert len(answer.tokens) == 50
    assert answer.notices == ["the answer outgrew the memory and continued from its last half"]


def test_plain_goes_on_with_the_text_where_there_is_a_template():
    assert Session(loaded(TEMPLATE), plain=True).conversation.talks is False
    assert Session(loaded(TEMPLATE)).conversation.talks is True
    assert Session(loaded(TEMPLATE)).settings.stop == "length" and Session(loaded()).settings.stop == "natural"


def test_a_prefix_model_reads_what_is_said_in_both_directions_and_its_answers_forwards():
    talk = session(memory=64, prefix_lm=True, max_position_embeddings=64)
    one = talk.answer("the cat")
    model, tokenizer, *_ = talk.loaded
    assert one.text == generate(model, tokenizer, "the cat", talk.settings.sampling).text
    talk.answer("sat on")
    assert talk._types[:7] == [1] * 7 and talk._types[7:12] == [0] * 5 and talk._types[12:19] == [1] * 7
    ids, types = talk.conversation.reading().tokens[:19], torch.tensor([talk._types[:19]])
    with torch.no_grad():
        best = model(torch.tensor([ids]), token_type_ids=types, use_cache=False).logits[0, -1].argmax()
    assert int(best) == talk.conversation.reading().tokens[19]


def test_debug_shows_what_the_next_token_is_drawn_from():
    talk = session(Settings(stop="length", debug=True, sampling=Sampling(max_new_tokens=6, greedy=True)))
    seen = []
    talk.answer("the cat", seen.append)
    assert len(seen) == 6
    for token, likeliest in seen:
        assert len(likeliest) == 5 and likeliest[0][0] == token.text
        assert likeliest[0][1] == pytest.approx(torch.tensor(token.log_probability).exp().item(), rel=1e-5)


def test_a_saved_talk_goes_on_as_if_it_had_not_been_left(tmp_path: Path):
    talk, other = session(DRAWN), session(DRAWN)
    for text in ("the cat sat on the mat", "the dog"):
        talk.answer(text)
    talk.conversation.save(tmp_path / "talk.json")
    other.conversation.load(tmp_path / "talk.json")
    assert other.conversation.text == talk.conversation.text
    assert other.answer("mer").text == talk.answer("mer").text


def test_unknown_characters_are_named():
    talk = session()
    assert talk.answer("\u4e2d the").notices[0] == "the vocabulary lacks '\u4e2d', read as <|unknown|>"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "depe"}, "did you mean 'deep'"),
        ({"stop": "never"}, "natural, length, unlimited"),
        ({"sampling": Sampling(top_p=0)}, "--top-p 0"),
        ({"min_characters": -1}, "-1"),
    ],
)
def test_settings_that_cannot_be_are_refused_and_the_old_ones_stay(changes: dict, words: str):
    talk = session()
    before = talk.settings
    with pytest.raises(UserError, match=words):
        talk.change(replace(before, **changes))
    assert talk.settings == before


def test_memory_is_the_length_of_training_rows_and_at_most_the_models():
    assert Session(loaded()).conversation.most == 24
    assert Session(loaded()._replace(length=10)).conversation.most == 10
    with pytest.raises(UserError, match="between 2 and 24"):
        Session(loaded(), memory=25)
