"""What the routes for text promise: clients work unchanged, and the answers are those of the command line."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from hrm.cli.main import main
from tests.serve.server import HEADERS, KEY, app_of, running
from tests.text.chat import small

ASKED: dict[str, Any] = {"model": "tiny", "prompt": "the cat", "seed": 5, "max_tokens": 20, "temperature": 0.7}
TALK: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "the cat"}],
    "seed": 5,
    "max_tokens": 20,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.saved(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with running(app_of({"tiny": folder, "sudoku": "sudoku"})) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, headers=HEADERS, timeout=60) as client:
        yield client


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def cli(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*args, "--json", "--device", "cpu"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        ({}, []),
        ({"temperature": 0, "repetition_penalty": 1.3}, ["--greedy", "--repetition-penalty", "1.3"]),
        ({"top_p": 0.8, "top_k": 9, "min_p": 0.01}, ["--top-p", "0.8", "--top-k", "9", "--min-p", "0.01"]),
        ({"max_segments": 2, "halting": "fixed"}, ["--max-segments", "2", "--halting", "fixed"]),
        ({"halting": "kl", "exit_threshold": 0.1}, ["--halting", "kl", "--exit-threshold", "0.1"]),
        ({"halting": "readout", "exit_threshold": 0.6}, ["--halting", "readout", "--exit-threshold", "0.6"]),
        ({"schedule": [1, 2], "stop": ["e", "t"]}, ["--schedule", "1", "2", "--stop", "e", "t"]),
        ({"prompt": "the cat sat on the mat."}, []),
    ],
)
def test_a_completion_is_what_generate_writes(
    client: httpx.Client, folder: Path, capsys: pytest.CaptureFixture[str], fields: dict, flags: list[str]
):
    asked = ASKED | fields
    said = post(client, "/v1/completions", asked | {"logprobs": 2})
    drawn = [] if fields.get("temperature") == 0 else ["--temperature", "0.7"]
    how = ["--seed", "5", "--max-new-tokens", "20", *drawn, *flags]
    expected = cli(capsys, "generate", str(folder), str(asked["prompt"]), *how)
    (choice,) = said["choices"]
    assert (choice["text"], choice["end"]) == (expected["text"], expected["end"])
    assert choice["logprobs"]["tokens"] == expected["tokens"] and choice["logprobs"]["depth"] == expected["depth"]
    assert choice["logprobs"]["confidence"] == pytest.approx(expected["confidence"], abs=1e-6)
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(expected["log_probability"], abs=1e-6)
    assert choice["logprobs"]["entropy"] == pytest.approx(expected["entropy"], abs=1e-6)
    assert all(len(top) == 2 for top in choice["logprobs"]["top_logprobs"])
    assert said["usage"]["segments"] >= sum(expected["depth"]) and said["usage"]["flops"] > 0


@pytest.mark.parametrize("mode", [None, "fast", "deep"])
@pytest.mark.parametrize("natural", [True, False])
def test_an_answer_is_what_chat_says(
    client: httpx.Client,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    mode,
    natural,
):
    """Also one that outgrows the memory, and continues with another seed."""
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat\n"))
    asked = TALK | {"natural": natural, "max_tokens": 60} | ({} if mode is None else {"mode": mode})
    said = post(client, "/v1/chat/completions", asked)
    stop = ["--stop", "natural" if natural else "length"]
    how = ["--seed", "5", "--max-new-tokens", "60", *stop, *([] if mode is None else ["--mode", mode])]
    expected = cli(capsys, "chat", str(folder), "--batch", "-", *how)
    (choice,) = said["choices"]
    assert (choice["message"]["content"], choice["end"]) == (expected["text"], expected["end"])


def test_an_answer_is_continued_where_it_is_the_last_message(tmp_path: Path):
    asker = small.saved(tmp_path / "asker", template=small.TEMPLATE)
    with running(app_of({"asker": asker})) as address, httpx.Client(base_url=address, headers=HEADERS) as client:
        asked: dict[str, Any] = {"model": "asker", "temperature": 0, "messages": [{"role": "user", "content": "hat"}]}
        said = [post(client, "/v1/chat/completions", asked | {"max_tokens": n})["choices"][0] for n in (5, 12)]
        first, whole = (choice["message"]["content"] for choice in said)
        messages = [*asked["messages"], {"role": "assistant", "content": first}]
        more = post(client, "/v1/chat/completions", asked | {"messages": messages, "max_tokens": 7})
        assert len(first) == 5 and first + more["choices"][0]["message"]["content"] == whole
        alone = asked | {"messages": messages[1:]}
        assert client.post("/v1/chat/completions", json=alone).json()["error"]["message"] == "say something first"


def test_the_openai_client_works_unchanged(address: str):
    client: Any
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY) as client:
        assert [model.id for model in client.models.list()] == ["tiny", "sudoku"]
        assert client.models.retrieve("tiny").id == "tiny"
        whole = client.completions.create(**ASKED, n=2, logprobs=1, user="me")
        assert whole.choices[0].text != whole.choices[1].text and whole.choices[0].finish_reason == "length"
        parts = list(client.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
        assert "".join(part.choices[0].text for part in parts[:-1]) == whole.choices[0].text
        assert parts[-1].usage is not None and parts[-1].usage.completion_tokens == 20
        talk = client.chat.completions.create(**TALK, logprobs=True, top_logprobs=3, extra_body={"mode": "deep"})
        assert talk.choices[0].logprobs is not None and talk.choices[0].logprobs.content is not None
        assert len(talk.choices[0].logprobs.content[0].top_logprobs) == 3
        said = [part.choices[0].delta.content or "" for part in client.chat.completions.create(**TALK, stream=True)]
        again = client.chat.completions.create(**TALK)
        assert "".join(said) == again.choices[0].message.content
        assert again.model_extra is not None and again.model_extra["seed"] == 5
        with pytest.raises(openai.NotFoundError, match="there is no model 'none'"):
            client.chat.completions.create(**TALK | {"model": "none"})
        with pytest.raises(openai.BadRequestError, match="call no tools"):
            client.chat.completions.create(**TALK, tools=[{"type": "function", "function": {"name": "x"}}])
    with openai.OpenAI(base_url=f"{address}/v1", api_key="wrong") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_choice_i_has_a_seed_of_its_own(client: httpx.Client):
    several = post(client, "/v1/completions", ASKED | {"n": 3})["choices"]
    alone = [post(client, "/v1/completions", ASKED | {"seed": 5 + 1_000_003 * i})["choices"][0] for i in range(3)]
    assert [choice["text"] for choice in several] == [choice["text"] for choice in alone]


def test_without_a_seed_the_answer_says_which_was_drawn(client: httpx.Client):
    first = post(client, "/v1/completions", {key: ASKED[key] for key in ("model", "prompt")} | {"max_tokens": 9})
    again = post(client, "/v1/completions", ASKED | {"seed": first["seed"], "max_tokens": 9, "temperature": 0.8})
    assert first["choices"][0]["text"] == again["choices"][0]["text"]


def test_prompts_may_be_several_or_tokens_and_be_repeated(client: httpx.Client):
    texts = post(client, "/v1/completions", ASKED | {"prompt": ["the cat", "the dog"], "echo": True})["choices"]
    assert texts[0]["text"].startswith("the cat") and texts[1]["text"].startswith("the dog")
    same = post(client, "/v1/completions", ASKED | {"prompt": [2, 3, 4]})
    assert same == same | {"choices": post(client, "/v1/completions", ASKED | {"prompt": [[2, 3, 4]]})["choices"]}


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_gets_a_stream_of_events(address: str):
    body = json.dumps(TALK | {"stream": True})
    head = ["-H", f"Authorization: Bearer {KEY}", "-H", "Content-Type: application/json"]
    said = subprocess.run(
        ["curl", "-sSN", f"{address}/v1/chat/completions", *head, "-d", body],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in said.stdout.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: {") for line in lines[:-1])


@pytest.mark.parametrize(
    ("path", "fields", "said"),
    [
        ("completions", {"model": "sudoku"}, "solves puzzles and does not write"),
        ("completions", {"prompt": ""}, "at least 1 character"),
        ("completions", {"prompt": "a" * 2000}, "shorten it"),
        ("completions", {"prompt": [10**6]}, "tokens that are none"),
        ("completions", {"tempratur": 1}, "there is no field 'tempratur'"),
        ("completions", {"suffix": "end"}, "do not fill gaps"),
        ("completions", {"n": 100}, "ask for fewer"),
        ("completions", {"top_p": 0}, "top_p: "),
        ("completions", {"temperature": "hot"}, "temperature: "),
        ("completions", {"halting": "never"}, "halting: "),
        ("chat/completions", {"messages": []}, "messages: "),
        ("chat/completions", {"messages": [{"role": "user", "content": ""}]}, "at least 1 character"),
        ("chat/completions", {"messages": [{"role": "assistant", "content": None}]}, "write a beginning"),
        ("chat/completions", {"messages": [{"role": "tool", "content": "x"}]}, "the role is none of"),
        ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "'text'"),
        ("chat/completions", {"response_format": {"type": "json_object"}}, "answers are plain text"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(client: httpx.Client, path: str, fields: dict, said: str):
    answer = client.post(f"/v1/{path}", json=(ASKED if path == "completions" else TALK) | fields)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"] and "\n" not in answer.json()["error"]["message"]
    if "tempratur" in fields:
        assert answer.json()["error"]["param"] == "tempratur"
