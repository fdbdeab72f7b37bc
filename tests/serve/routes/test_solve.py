"""Puzzles over HTTP: the answers of the command line, streams, what is refused, and what is left behind."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from hrm.cli.main import main
from hrm.puzzles.solving import load
from hrm.serve.app import create_app
from hrm.serve.models import Models
from hrm.serve.settings import Settings, digest
from hrm.serve.waiting import Limits
from tests.puzzles.solving.small import questions, run_folder

KEY = "a-key-for-the-tests-0123456789"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="module")
def models(run: Path) -> Iterator[Models]:
    offered = Models({"small": run, "sudoku": "sudoku"}, Limits(slots=4))
    yield offered
    offered.close(0)


@pytest.fixture(scope="module")
def client(models: Models) -> TestClient:
    return TestClient(create_app(models), raise_server_exceptions=False)  # without `with`: the models outlive it


def solved(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/solve", json={"model": "small"} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def lines(client: TestClient, **body: Any) -> list[dict[str, Any]]:
    answer = client.post("/v1/solve", json={"model": "small"} | body)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def refused(client: TestClient, status: int, **body: Any) -> str:
    answer = client.post("/v1/solve", json={"model": "small"} | body)
    assert answer.status_code == status, answer.text
    return answer.json()["error"]["message"]


def told(answer: dict[str, Any]) -> dict[str, Any]:
    """As the command line has it, but for the last bits of what is rounded."""
    kept = {
        key: answer[key] for key in ("status", "question", "answer", "reason", "segments", "attempts", "guess", "grid")
    }
    return kept | {"confidence": round(answer["confidence"], 5)}


def test_answers_are_those_of_the_command_line(
    client: TestClient, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    texts = [*questions(12), "1234"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(texts) + "\n"))
    assert main(["solve", str(run), "-", "--json", "--guesses", "3"]) == 0
    output = capsys.readouterr().out
    found = solved(client, puzzles=texts, guesses=3)
    assert [told(answer) for answer in found["answers"]] == [told(json.loads(line)) for line in output.splitlines()]
    assert [answer["index"] for answer in found["answers"]] == list(range(13))
    assert {answer["status"] for answer in found["answers"]} >= {"solved", "invalid"}
    usage = found["usage"]
    assert usage["segments"] == sum(answer["segments"] for answer in found["answers"]) > 0
    assert usage["puzzles"] == 13 and usage["flops"] == usage["segments"] * load(run).flops


def test_a_crowd_gets_the_answers_that_each_gets_alone(client: TestClient, run: Path):
    texts, alone = questions(8), load(run)
    tries: list[dict[str, Any]] = [
        {},
        {"max_segments": 1},
        {"restarts": 2},
        {"budget": 3},
        {"stop": ["q"]},
        {"views": 2},
        {"guesses": 2},
        {},
    ]
    found: list[Any] = [None] * 8

    def ask(i: int) -> None:
        found[i] = solved(client, puzzle=texts[i], **tries[i])["answers"][0]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for text, answer, own in zip(texts, found, tries, strict=True):
        expected = next(alone.solve_many([text], **own))
        assert told(answer) == told(expected.to_dict())


def test_a_puzzle_may_be_text_rows_or_lists(client: TestClient):
    text = questions(1)[0]
    rows = [text[i : i + 4] for i in range(0, 16, 4)]
    cells = [[None if cell == "." else int(cell) for cell in row] for row in rows]
    grids = [answer["grid"] for answer in solved(client, puzzles=[text, "\n".join(rows), rows, cells])["answers"]]
    assert grids == [grids[0]] * 4


def test_a_stream_tells_each_answer_as_it_is_there_or_in_order(client: TestClient):
    texts = questions(12)
    whole = solved(client, puzzles=texts)
    *answers, end = lines(client, puzzles=texts, stream=True)
    assert end == {"object": "end", "usage": whole["usage"]}
    assert sorted(answers, key=lambda line: line["index"]) == whole["answers"] != answers
    assert lines(client, puzzles=texts, stream=True, ordered=True)[:-1] == whole["answers"]


def test_thinking_can_be_watched(client: TestClient, run: Path):
    (text,) = questions(1)
    *segments, answer, _ = lines(client, puzzle=text, watch=True, probabilities=True)
    expected = load(run).solve(text, trace=True).to_dict()
    assert [line["grid"] for line in segments] == [step["grid"] for step in expected["trace"]]
    assert [line["wrong"] for line in segments] == [step["wrong"] for step in expected["trace"]]
    assert answer["object"] == "answer" and answer["segments"] == len(segments)
    for line in segments:
        assert line["object"] == "segment" and 0 <= line["confidence"] < 1 and len(line["q"]) == 2
        assert len(line["probabilities"]) == 16 and all(abs(sum(cell) - 1) < 0.01 for cell in line["probabilities"])
    traced = solved(client, puzzle=text, trace=True)["answers"][0]["trace"]
    assert [step["grid"] for step in traced] == [line["grid"] for line in segments]
    assert "probabilities" not in traced[0]


def test_what_cannot_be_asked_is_refused_in_a_sentence(client: TestClient):
    text = questions(1)[0]
    assert "either puzzle or puzzles" in refused(client, 400)
    assert "either puzzle or puzzles" in refused(client, 400, puzzle=text, puzzles=[text])
    assert "puzzles" in refused(client, 400, puzzles=[])
    assert "max_segments" in refused(client, 400, puzzle=text, max_segments=0)
    assert "'deeper'" in refused(client, 400, puzzle=text, deeper=True)
    assert "there is no model 'other'" in refused(client, 404, puzzle=text, model="other")
    assert "copies" in refused(client, 400, puzzle=text, copies=3)
    assert refused(client, 400, puzzle=5)


@pytest.mark.parametrize(
    "puzzle",
    ["", "x" * 16, "1" * 16, "9" * 200_000, [], [[]], [{}], {"a": 1}, [[1, 2], 3], ["\ud800" * 4], [[1e400] * 16],
     [[[[[1]]]]], [None] * 16, "\0", [True] * 16],
)  # fmt: skip
def test_a_wrong_question_is_invalid_and_says_why(client: TestClient, puzzle: Any):
    body = json.dumps({"model": "small", "puzzle": puzzle}).encode()
    answer = client.post("/v1/solve", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    found = answer.json()["answers"][0]
    assert (found["status"], found["segments"]) == ("invalid", 0) and found["reason"]


def test_a_key_is_needed_where_there_are_keys(models: Models):
    client = TestClient(create_app(models, Settings(frozenset({digest(KEY)}))))
    body = {"model": "small", "puzzle": questions(1)[0]}
    assert client.post("/v1/solve", json=body).status_code == 401
    assert client.post("/v1/solve", json=body, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.post("/v1/solve", json=body, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_frees_the_slots(models: Models, monkeypatch: pytest.MonkeyPatch, stream: bool):
    engine = models.get("small").engine
    monkeypatch.setattr(engine.solver.task, "verify", lambda question, answer: False)
    body = {"model": "small", "puzzle": questions(1)[0], "max_segments": 100_000, "stream": stream}

    async def leave() -> None:
        """The server's side of a request whose client leaves after a moment."""
        sent: list[dict[str, Any]] = []
        inbox = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive() -> dict[str, Any]:
            if inbox:
                return inbox.pop()
            while not len(engine._batches):
                await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", b"testserver"), (b"content-type", b"application/json")]
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
                 "path": "/v1/solve", "raw_path": b"/v1/solve", "query_string": b"", "headers": headers,
                 "client": ("test", 1), "server": ("test", 80), "root_path": ""}  # fmt: skip
        await create_app(models)(scope, receive, send)
        for _ in range(500):
            if not len(engine._batches) and not engine._open:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the slot is still taken")

    asyncio.run(leave())
    assert models.get("small").users == 0


def test_a_request_out_of_time_says_so(run: Path, monkeypatch: pytest.MonkeyPatch):
    models = Models({"small": run}, Limits(slots=1, seconds=0.3))
    try:
        monkeypatch.setattr(models.get("small").solver.task, "verify", lambda question, answer: False)  # type: ignore[union-attr]
        client, body = TestClient(create_app(models)), {"puzzle": questions(1)[0], "max_segments": 100_000}
        assert "took longer" in refused(client, 408, **body)
        (line,) = lines(client, **body, stream=True)
        assert line["error"]["code"] == "deadline"
    finally:
        models.close(0)


def test_models_say_what_they_solve(client: TestClient):
    found = {each["id"]: each for each in client.get("/v1/models").json()["data"]}
    small, shipped = found["small"]["puzzles"], found["sudoku"]["puzzles"]
    assert small == {
        "task": "sudoku", "shape": [4, 4], "symbols": ["1", "2", "3", "4"], "blank": ".", "guesses": True,
        "blocks": [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3], "copies": None, "verified": True,
    }  # fmt: skip
    assert shipped["shape"] == [9, 9] and "path" not in found["small"]


def test_the_schema_describes_the_stream(client: TestClient):
    schema = create_app(Models({})).openapi()
    content = schema["paths"]["/v1/solve"]["post"]["responses"]["200"]["content"]
    one_of = content["application/x-ndjson"]["schema"]["oneOf"]
    for each in one_of:
        if "$ref" in each:
            assert each["$ref"].rpartition("/")[2] in schema["components"]["schemas"]
    assert {each.get("title") for each in one_of} == {"SeenSegment", "SolveEnd", None}
