"""Sets of questions and conversations in the forms in which they are published."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from hrm.files.reading import UserError
from hrm.text.data import ReadOptions, chat, documents
from tests.data import hrm_data
from tests.text.data.texts import lines

ASK = [{"role": "user", "content": "ab?"}, {"role": "assistant", "content": "ba"}]
ALPACA = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
DOLLY = {"instruction": "Who?", "context": "It was Ann.", "response": "Ann", "category": "closed_qa"}
SHARE = {"id": "x", "conversations": [{"from": "human", "value": "ab?"}, {"from": "gpt", "value": "ba"}]}


def read(file: Path) -> tuple[list[chat.Messages], str]:
    """The conversations, each read twice, and what is said of them, once."""
    said: list[str] = []
    found = chat.conversations(file, ReadOptions(said.append))
    assert list(found) == list(found) and len(said) == 1
    return list(found), said[0]


@pytest.mark.parametrize(
    ("row", "messages", "form"),
    [
        (ALPACA, ["Add.\n\n1 and 2", "3"], "1 rows read as Alpaca (instruction, input, output)"),
        ({**ALPACA, "input": ""}, ["Add.", "3"], "Alpaca"),
        (
            DOLLY,
            ["Who?\n\nIt was Ann.", "Ann"],
            "Dolly (instruction, context, response); columns that are not read: ca",
        ),
        (SHARE, ["ab?", "ba"], "ShareGPT; columns that are not read: id"),
        ({"messages": ASK}, ["ab?", "ba"], "read as messages"),
        ({"prompt": "ab?", "completion": "ba"}, ["ab?", "ba"], "question and answer (prompt, completion)"),
        ({"prompt": ASK[:1], "completion": ASK[1:]}, ["ab?", "ba"], "question and answer (prompt, completion)"),
        ({"Question": "ab?", "Answer": "ba"}, ["ab?", "ba"], "question and answer (question, answer)"),
        ({"system": "Be.", "question": "ab?", "response": "ba"}, ["Be.", "ab?", "ba"], "(system, question, response)"),
    ],
)
@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.json.gz", "lines.json", "list.jsonl", "around.json"])
def test_a_form_is_recognised_and_named(tmp_path: Path, name: str, row: dict[str, Any], messages: list[str], form: str):
    text = json.dumps([row], indent=1) if name in ("x.json", "x.json.gz", "list.jsonl") else json.dumps(row) + "\n"
    text = {"lines.json": text * 2, "around.json": json.dumps({"version": 1, "data": [row]})}.get(name, text)
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert chat.are_conversations(tmp_path / name)
    found, said = read(tmp_path / name)
    assert [[message["content"] for message in one] for one in found] == [messages] * (1 + (name == "lines.json"))
    assert form.removeprefix("1 rows ") in said and said.startswith(str(tmp_path / name))
    roles = [message["role"] for message in found[0]]
    assert roles == ["system", "user", "assistant"][-len(roles) :]


def test_rows_with_nothing_to_learn_are_left_out_and_counted(tmp_path: Path):
    rows = [ALPACA, {**ALPACA, "output": " "}, {**ALPACA, "output": ""}, {**ALPACA, "instruction": None}]
    rows += [{"messages": []}, {"messages": ASK[:1]}]
    found, said = read(lines(tmp_path / "x.jsonl", rows))
    assert len(found) == 1
    assert "4 rows read as Alpaca (instruction, input, output), 2 rows read as messages; left out: " in said
    assert "2 with an empty answer, 1 with an empty question, 1 with no messages, 1 with no answer" in said
    with pytest.raises(UserError, match=r"every row is left out .*1 with an empty answer"):
        list(chat.conversations(lines(tmp_path / "x.jsonl", rows[1:2])))


def message(name: str, parent: str | None, role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"message_id": name, "parent_id": parent, "role": role, "text": text, **more}


FLAT = [
    message("b2", "a", "assistant", "worse", rank=1),
    message("a", None, "prompter", "ab?"),
    message("b1", "a", "assistant", "ba", rank=0),
    message("b0", "a", "assistant", "deleted", rank=None, deleted=True),
    message("c", "b1", "prompter", "And?", rank=0),
    message("d", "c", "assistant", "so", rank=0),
    message("e", "d", "prompter", "unanswered"),
    message("f", None, "prompter", "nobody answers"),
    message("g", "lost", "assistant", "to nothing"),
]


def nested(name: str) -> dict[str, Any]:
    node = next(dict(row) for row in FLAT if row["message_id"] == name)
    return node | {"replies": [nested(row["message_id"]) for row in FLAT if row["parent_id"] == name]}


def test_a_tree_of_openassistant_gives_its_best_ranked_thread(tmp_path: Path):
    found, said = read(lines(tmp_path / "flat.jsonl", FLAT))
    assert [[one["role"][0] + one["content"] for one in messages] for messages in found] == [
        ["uab?", "aba", "uAnd?", "aso"]
    ]
    assert "9 rows read as messages of OpenAssistant's tree; left out: 3 messages that another reply" in said
    assert "1 messages of trees with no answer" in said and "1 messages whose parent is missing" in said
    trees = [{"message_tree_id": name, "tree_state": "ready", "prompt": nested(name)} for name in ("a", "f")]
    again, said = read(lines(tmp_path / "trees.jsonl", trees))
    assert again == found and "2 rows read as trees of OpenAssistant; left out: 1 with no answer" in said
    assert read(lines(tmp_path / "roots.jsonl", [nested("a")]))[0] == found
    assert chat.are_conversations(tmp_path / "flat.jsonl") and chat.are_conversations(tmp_path / "trees.jsonl")


def test_a_set_that_is_read_as_text_names_its_columns(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"'text': say which of instruction, input, output with --field, or read them as"
    ):
        list(documents(lines(tmp_path / "x.jsonl", [ALPACA])))


def test_published_sets_are_read_whole():
    folder = hrm_data() / "instruct"
    found, said = read(folder / "llms_from_scratch_1100.jsonl.gz")
    assert len(found) == 1100 and "Alpaca" in said and "left out" not in said
    assert any("\n\n" in messages[0]["content"] for messages in found)
    assert len(read(folder / "dolly_sample_151.jsonl.gz")[0]) == 151
    found, said = read(folder / "llms_from_scratch_preference_1100.jsonl.gz")
    assert len(found) == 1100 and "columns that are not read: rejected, chosen" in said
    with pytest.raises(UserError, match=r"line 1 has no answer in its columns id, name, instruction, instances"):
        list(chat.conversations(folder / "self_instruct_seed_tasks.jsonl.gz"))
