"""Questions and conversations: what is written, what counts, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrm.files.reading import UserError
from hrm.text.data import Packed, chat, forms, make_tokenizer
from tests.data import hrm_data
from tests.text.data.texts import lines

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASK = [{"role": "user", "content": "ab?"}, {"role": "assistant", "content": "ba"}]
LONG = [{"role": "system", "content": "be"}, *ASK, {"role": "user", "content": "b?"}, ASK[1]]


def tokenizer(template: str | None = None) -> Any:
    made = make_tokenizer("char", ["abcdefghijklmnopqrstuvwxyz_<|>?\n 0123456789ABQ:#"])
    made.chat_template = template
    return made


def shown(template: str | None, messages: chat.Messages, plain: str | None = None) -> tuple[str, str]:
    """The text of an example, and of it the part that counts."""
    made = tokenizer(template)
    (example,) = chat.examples(made, [messages], plain)
    assert example.mask is not None
    return made.decode(example.tokens), made.decode(example.tokens[example.mask])


def test_a_pair_is_written_by_the_plain_template_and_only_the_answer_counts():
    assert shown(None, ASK) == ("ab?\n\nba", "ba")
    assert shown(None, ASK, "Q: {question} A: {answer}#") == ("Q: ab? A: ba#", "ba#")


def test_every_answer_of_a_conversation_ends_and_counts():
    assert shown(None, LONG) == ("be\n\nab?\n\nba<|end|>b?\n\nba", "ba<|end|>ba")


def test_a_chat_template_says_how_a_conversation_is_written():
    text, counted = shown(CHATML, LONG)
    assert text == tokenizer(CHATML).apply_chat_template(LONG, tokenize=False)
    assert counted == "ba<|im_end|>\nba<|im_end|>\n"
    assert shown(CHATML, ASK, "{question}{answer}")[0] == "ab?ba"


def test_a_question_without_an_answer_at_the_end_is_left_out():
    assert shown(None, [*ASK, ASK[0]]) == shown(None, ASK)


def test_alpaca_keeps_instruction_and_input_apart(tmp_path: Path):
    rows = [
        {"instruction": "Add.", "input": "1 and 1", "output": "2"},
        {"instruction": "Say it.\n\nNone", "input": "", "output": "yes"},
        {"instruction": "Sum up.", "context": " a\n\nb", "response": "ab"},
    ]
    talks = list(chat.conversations(lines(tmp_path / "x.jsonl", rows)))
    first, second, third = (chat.written(messages, "alpaca") for messages in talks)
    assert first == [
        (
            "Below is an instruction that describes a task, paired with an input that provides further context. Write "
            "a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 and 1\n\n"
            "### Response:\n",
            False,
        ),
        ("2", True),
    ]
    assert second[0][0] == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSay it.\n\nNone\n\n### Response:\n"
    )
    assert third[0][0].endswith("### Instruction:\nSum up.\n\n### Input:\n a\n\nb\n\n### Response:\n")
    assert chat.written(talks[0]) == [("Add.\n\n1 and 1\n\n", False), ("2", True)]


def test_roles_are_lines_of_who_says_what():
    assert chat.written(LONG, "roles") == [
        ("System: be\nUser: ab?\nAssistant: ", False),
        ("ba", True),
        ("\nUser: b?\nAssistant: ", False),
        ("ba", True),
    ]
    assert chat.written(ASK[:1], "roles") == [("User: ab?\nAssistant: ", False)]


@pytest.mark.parametrize("template", [None, "alpaca", "roles", 'é{question}"\n{{ {question} }} A: {answer} 😀\\'])
def test_a_chat_template_writes_what_the_plain_template_does(template: str | None):
    words, by = "".join(text for text, _ in chat.written(LONG, template)), template or chat.TEMPLATE
    plain, kept = (make_tokenizer("char", ["abcdefghijklmnopqrstuvwxyz?\n ", words]) for _ in range(2))
    kept.chat_template = chat.chat_template(template)
    given = [{"role": "user", "content": "ab?\n\nba\n\nb", "context": "ba\n\nb"}, ASK[1]]
    for messages in (ASK, LONG, given, [*LONG, *given], [*given, *given]):
        (mine,), (other,) = chat.examples(plain, [messages], by), chat.examples(kept, [messages])
        assert plain.decode(mine.tokens) == plain.decode(other.tokens)
        assert mine.mask is not None and other.mask is not None and mine.mask.tolist() == other.mask.tolist()
        assert chat.chat_prompt(plain, messages[:-1], by) == chat.chat_prompt(kept, messages[:-1])


@pytest.mark.parametrize("template", [None, CHATML])
def test_the_prompt_is_what_the_model_was_trained_to_go_on_from(template: str | None):
    made = tokenizer(template)
    (example,) = chat.examples(made, [LONG])
    start = chat.chat_prompt(made, LONG[:-1])
    assert example.tokens[: len(start)].tolist() == start
    assert made.decode(example.tokens[len(start) :]).startswith("ba")


def test_the_end_token_counts_once(tmp_path: Path):
    made = tokenizer()
    packed = Packed.write(tmp_path / "packed", made, chat.examples(made, [ASK]))
    assert made.decode(packed.tokens) == "ab?\n\nba<|end|>"
    assert packed.mask is not None and packed.mask.tolist() == [0] * 5 + [1] * 3
    assert (packed.characters, packed.bytes, packed.whole) == (2, 2, True)
    (batch,) = packed.windows(16)
    assert batch.labels[0, :8].tolist() == [-100] * 4 + packed.tokens[5:].tolist() + [-100]


def test_a_template_that_rewrites_the_past_or_lacks_a_place_is_refused():
    with pytest.raises(UserError, match="rewrites earlier messages"):
        shown("{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}", LONG)
    for plain in ("{question}", "{answer}{question}", "{question}{answer}{answer}"):
        with pytest.raises(UserError, match="--template"):
            shown(None, ASK, plain)


@pytest.mark.parametrize("question", forms.QUESTIONS)
@pytest.mark.parametrize("answer", forms.ANSWERS)
def test_pairs_are_read_by_any_of_their_names(tmp_path: Path, question: str, answer: str):
    file = lines(tmp_path / "x.jsonl", [{question: "a", answer: "b"}])
    assert chat.are_conversations(file)
    assert list(chat.conversations(file)) == [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]


def test_an_input_joins_the_instruction_and_conversations_are_read(tmp_path: Path):
    other = [{"from": "human", "value": "ab?"}, {"from": "gpt", "value": "ba"}]
    rows = [{"instruction": "a", "input": "b", "output": "c"}, {"messages": ASK}, {"conversations": other}]
    first, *rest = chat.conversations(lines(tmp_path / "x.jsonl", rows))
    assert first[0]["content"] == "a\n\nb" and rest == [ASK, ASK]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"question": "a"}, "line 2 has no answer in its columns question; the nearest form .* question and answer"),
        ({"answer": "a"}, "line 2 has no question"),
        (
            {"instruction": "a", "inputs": "b", "outputs": "c"},
            "line 2 has no answer .* Alpaca .*instruction, input, outp",
        ),
        ({"question": "a", "answer": 3}, "line 2: 'answer'"),
        ({"messages": "a"}, "line 2: 'messages'"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "line 2: message 1"),
    ],
)
def test_a_row_that_is_no_conversation_is_refused_with_its_line(tmp_path: Path, row: dict[str, Any], what: str):
    file = lines(tmp_path / "x.jsonl", [{"question": "a", "answer": "b"}, row])
    with pytest.raises(UserError, match=f"x.jsonl {what}"):
        list(chat.conversations(file))


def test_a_text_is_not_taken_for_conversations(tmp_path: Path):
    assert not chat.are_conversations(lines(tmp_path / "x.jsonl", [{"text": "a"}]))
    (tmp_path / "x.txt").write_text("a question")
    assert not chat.are_conversations(tmp_path / "x.txt") and not chat.are_conversations(tmp_path)


@pytest.mark.slow
def test_gsm8k_answers_are_learned_and_its_questions_are_not(tmp_path: Path):
    file, gpt2 = hrm_data() / "instruct/gsm8k_test.jsonl.gz", make_tokenizer(hrm_data() / "tokenizers/gpt2")
    with gzip.open(file) as raw:
        rows = [json.loads(line) for line in raw]
    assert chat.are_conversations(file)
    packed = Packed.write(tmp_path / "packed", gpt2, chat.examples(gpt2, chat.conversations(file)))
    assert packed.facts["documents"] == len(rows)
    assert packed.characters == sum(len(row["answer"]) for row in rows)
    start, end = packed.documents[:2]
    document, mask = packed.tokens[start:end], np.asarray(packed.mask)[start:end] == 1
    assert gpt2.decode(document) == f"{rows[0]['question']}\n\n{rows[0]['answer']}<|endoftext|>"
    assert gpt2.decode(document[mask]) == f"{rows[0]['answer']}<|endoftext|>"
    batch = packed.batch(0, 0, range(8), 8, 512)
    for row in batch.labels:
        assert gpt2.decode(row[row != -100]).count("####") == (row == gpt2.eos_token_id).sum()


def test_a_template_names_the_flags_that_give_it():
    with pytest.raises(
        UserError, match=r"^--template \(of hrm train: --text.template\) '{answer}{question}' should be"
    ):
        chat.chat_template("{answer}{question}")
