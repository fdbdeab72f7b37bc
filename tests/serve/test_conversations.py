"""Conversations of the studio: kept whole, in the form of hrm chat, one window at a time, and nowhere else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from hrm.serve.studio import conversations
from hrm.serve.studio.app import Studio
from tests.text.chat.small import session

WINDOW, OTHER = "0" * 16, "1" * 16


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    shutil.copytree(Path(__file__).parents[1] / "golden/runs/learner", tmp_path / "reader")
    with TestClient(Studio(tmp_path), base_url="http://127.0.0.1", raise_server_exceptions=True) as made:
        yield made


def save(number: int = 1, after: int = 0, window: str = WINDOW, seen: str = "", **changes: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": " sat", "end": "length"}]
    body = {"after": after, "messages": said, "answers": 1, "window": window, "number": number, "seen": seen}
    return body | changes


def begun(client: TestClient) -> str:
    return client.post("/studio/conversations", json={"model": "reader", "talks": False}).json()["id"]


def test_it_is_kept_listed_renamed_exported_and_deleted(client: TestClient, tmp_path: Path) -> None:
    place = f"/studio/conversations/{begun(client)}"
    trace = [[" sat", 2, 0.5, -1.25, 0.75]]
    body = save()
    body["messages"][1]["trace"] = trace
    assert client.put(place, json=body).json() == {"state": f"{WINDOW}.1", "title": "the cat"}
    more = save(2, 2, messages=[{"role": "user", "content": "\non"}])
    assert client.put(place, json=more).status_code == 200
    found = client.get(place).json()
    assert [message["content"] for message in found["said"]] == ["the cat", " sat", "\non"]
    assert found["said"][1]["trace"] == trace and found["model"] == "reader"
    assert client.patch(place, json={"title": " About\n a cat "}).json()["title"] == "About a cat"
    second = begun(client)
    heads = client.get("/studio/conversations").json()
    assert [head["title"] for head in heads] == ["New conversation", "About a cat"] and heads[0]["id"] == second
    (tmp_path / "talk.json").write_text(client.get(f"{place}/file").text)
    for file in (tmp_path / "talk.json", tmp_path / f".studio/conversations/{place[-16:]}.json"):
        talk = session()
        talk.conversation.load(file)  # as hrm chat --load
        assert [message.content for message in talk.conversation.messages] == ["the cat", " sat", "\non"]
    assert client.delete(place).status_code == 204 and client.get(place).status_code == 404
    assert len(client.get("/studio/conversations").json()) == 1


def test_windows_do_not_overwrite_each_other(client: TestClient) -> None:
    place = f"/studio/conversations/{begun(client)}"
    assert client.put(place, json=save(3)).status_code == 200
    late = client.put(place, json=save(2, messages=[]))  # of the same window, overtaken by the one before
    assert late.json()["state"] == f"{WINDOW}.3" and len(client.get(place).json()["said"]) == 2
    stale = client.put(place, json=save(1, window=OTHER, seen="something else"))
    assert stale.status_code == 409 and "another window" in stale.json()["error"]["message"]
    assert client.put(place, json=save(1, window=OTHER, seen=f"{WINDOW}.3")).status_code == 200
    assert client.put(place, json=save(4, after=9, window=OTHER)).status_code == 409


def test_nothing_else_is_read_or_written(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    for id in ("..%2F..%2Fsecret", "secret", "A" * 16, "0" * 17, "con", "0" * 16):
        answer = client.get(f"/studio/conversations/{id}")
        assert answer.status_code in (400, 404), id
        assert client.put(f"/studio/conversations/{id}", json=save()).status_code in (400, 404, 405), id
    place = tmp_path / ".studio/conversations"
    place.mkdir(parents=True)
    (place / f"{'0' * 16}.json").symlink_to(tmp_path / "secret.json")
    assert client.get(f"/studio/conversations/{'0' * 16}").status_code == 400
    assert (tmp_path / "secret.json").read_text() == "{}"


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 2}', "\x00", "[" * 10_000, '{"format": 1, "messages": [{"role": 1}]}']
)
def test_a_damaged_file_is_named_and_left(client: TestClient, tmp_path: Path, content: str) -> None:
    id = begun(client)
    file = tmp_path / f".studio/conversations/{id}.json"
    file.write_text(content)
    answer = client.get(f"/studio/conversations/{id}")
    assert answer.status_code == 400 and "is damaged" in answer.json()["error"]["message"]
    assert client.get("/studio/conversations").json() == [] and file.read_text() == content
    assert client.put(f"/studio/conversations/{id}", json=save()).status_code == 400
    assert client.delete(f"/studio/conversations/{id}").status_code == 204


@pytest.mark.parametrize(
    "body",
    [
        save(messages=[{"role": "robot", "content": ""}]), save(messages=[{"role": "user"}]), save(window="../x"),
        save(after=-1), save(number=-1), save(answers=1 << 60), save(extra=1), [], {},
        save(messages=[{"role": "user", "content": "a", "trace": [["a", 1, 2, 3]]}]),
        save(messages=[{"role": "user", "content": "a", "seconds": -1}]),
        save(messages=[{"role": "user", "content": "\ud800"}]),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_refused(client: TestClient, body: Any) -> None:
    place = f"/studio/conversations/{begun(client)}"
    answer = client.put(place, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["message"]
    assert client.get(place).json()["said"] == []


def test_there_are_bounds(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"/studio/conversations/{begun(client)}"
    monkeypatch.setattr(conversations, "LARGEST", 1000)
    long = save(messages=[{"role": "user", "content": "the cat " * 200}])
    assert "begin another" in client.put(place, json=long).json()["error"]["message"]
    monkeypatch.setattr(conversations, "MOST", 1)
    refused = client.post("/studio/conversations", json={"model": "reader", "talks": False})
    assert refused.status_code == 400 and "delete some" in refused.json()["error"]["message"]


def test_a_model_is_described_and_its_modes_compared(client: TestClient, tmp_path: Path) -> None:
    about = client.get("/studio/chat/about", params={"model": "reader"}).json()
    assert about["knows"] == "2 books: first.txt, second.txt" and about["talks"] is False
    assert [mode["name"] for mode in about["modes"]] == ["fast", "normal", "deep", "extreme", "auto"]
    assert about["measured"] is False and about["training"] is False and about["checkpoint"].startswith("step_")
    lacks = client.post("/studio/chat/lacks", json={"model": "reader", "text": "Ж"}).json()
    assert lacks == {"notice": "the vocabulary lacks 'Ж', read as <|unknown|>"}
    compared = client.post("/studio/chat/modes", json={"model": "reader"}).json()
    assert compared["measured"] and all(mode["bits"] > 0 for mode in compared["modes"])
    assert (tmp_path / "reader/modes.json").is_file()
    assert client.get("/studio/chat/about", params={"model": "reader"}).json() == compared
    (tmp_path / "reader/modes.json").write_text(
        json.dumps(
            json.loads((tmp_path / "reader/modes.json").read_text()) | {"modes": {"deep": {"worse_than": "deep"}}}
        )
    )
    damaged = client.get("/studio/chat/about", params={"model": "reader"})
    assert damaged.status_code == 400 and "modes.json" in damaged.json()["error"]["message"]
    assert client.get("/studio/chat/about", params={"model": "sudoku"}).status_code == 400
    assert client.get("/studio/chat/about", params={"model": "none"}).status_code == 404


def test_one_that_could_not_be_read_again_is_not_saved(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    id = begun(client)
    monkeypatch.setattr(conversations, "LARGEST", 1000)
    long = [{"role": "user", "content": "\u4e2d" * 900}]  # three bytes each
    refused = client.put(f"/studio/conversations/{id}", json=save(messages=long))
    assert refused.status_code == 400 and "as long as one may be" in refused.json()["error"]["message"]
    assert client.get(f"/studio/conversations/{id}").json()["said"] == []


def test_one_without_a_fact_is_not_exported(client: TestClient, tmp_path: Path) -> None:
    id = begun(client)
    file = tmp_path / f".studio/conversations/{id}.json"
    file.write_text(file.read_text().replace("forgotten", "forgot"))
    answer = client.get(f"/studio/conversations/{id}/file")
    assert answer.status_code == 400 and "is damaged" in answer.json()["error"]["message"]
