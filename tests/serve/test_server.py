"""What the server promises whatever is asked: only those with a key are answered, limits hold, nothing leaks."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fastapi.testclient import TestClient

from hrm.cli.main import main
from hrm.files.reading import UserError
from hrm.serve.models import Models, names_of
from hrm.serve.running import listening
from hrm.serve.settings import Settings, keys_in
from hrm.serve.waiting import Limits
from tests.serve.server import HEADERS, KEY, SETTINGS, app_of, running
from tests.text.chat import small

LONG = {"model": "tiny", "prompt": "the cat", "seed": 1, "max_tokens": 10**6, "stream": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.saved(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(app_of({"tiny": folder})) as client:
        yield client


def routes(client: TestClient) -> list[tuple[str, str]]:
    paths = client.get("/openapi.json", headers=HEADERS).json()["paths"]
    return [(method, path) for path, methods in paths.items() for method in methods]


def test_a_load_balancer_may_ask_for_the_head_of_health_alone(client: TestClient) -> None:
    assert client.head("/health").status_code == 200


@pytest.mark.parametrize("header", ["", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer \xff", "Bearer"])
def test_every_route_but_health_wants_the_key(client: TestClient, header: str):
    for method, path in [*routes(client), ("get", "/openapi.json"), ("get", "/none"), ("post", "/v1/none")]:
        answer = client.request(method, path, headers={b"Authorization": header.encode("latin-1")})
        if path == "/health":
            assert answer.status_code == 200
            continue
        assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer", path
        assert answer.json()["error"]["code"] == "invalid_api_key"


def test_every_route_with_the_key_answers_in_its_form_and_with_the_headers(client: TestClient):
    for method, path in [*routes(client), ("get", "/none"), ("patch", "/v1/models")]:
        answer = client.request(method, path.replace("{name}", "tiny"), headers=HEADERS)
        assert answer.status_code in (200, 400, 404, 405), path
        if answer.status_code != 200:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "no-referrer" and "server" not in answer.headers


def test_pages_of_other_sites_may_ask_only_if_named(folder: Path):
    settings = Settings(hosts=("testserver",), origins=("https://good.org",))
    with TestClient(app_of({"tiny": folder}, settings)) as client:
        for origin, status in (
            ("https://good.org", 200),
            ("http://testserver", 200),
            ("https://bad.org", 403),
            ("null", 403),
        ):
            assert client.get("/v1/models", headers={"Origin": origin}).status_code == status
        ask = {"Origin": "https://good.org", "Access-Control-Request-Method": "POST"}
        assert (
            client.options("/v1/completions", headers=ask).headers["access-control-allow-origin"] == "https://good.org"
        )
        assert (
            "access-control-allow-origin" not in client.get("/v1/models", headers={"Origin": "https://bad.org"}).headers
        )
        assert client.get("/v1/models", headers={"Host": "evil.org:8000"}).status_code == 403
        assert client.get("/v1/models", headers={"Host": "testserver:8000"}).status_code == 200


DAMAGED = (
    b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 100_000, b'{"model": NaN}', b"1" * 5000, b'{"model": "\\ud800"}',
    b'{"\\ud800": 1}', b'{"model": "tiny", "prompt": "\\ud800"}', b'{"model": "tiny", "prompt": "a", "seed": 1e400}',
    b'{"stop": ' + 600 * b"[" + 600 * b"]" + b"}", b'{"stop": ' + 10**5 * b"[" + 10**5 * b"]" + b"}",
    b'{"seed": 1' + 5000 * b"0" + b"}",
)  # fmt: skip


@pytest.mark.parametrize("body", DAMAGED, ids=map(str, range(len(DAMAGED))))
def test_a_body_that_is_none_is_refused(client: TestClient, body: bytes):
    for path in ("/v1/completions", "/v1/chat/completions"):
        answer = client.post(path, content=body, headers=HEADERS | {"Content-Type": "application/json"})
        assert answer.status_code == 400 and answer.json()["error"]["message"], answer.text


def test_a_body_has_a_size_and_a_time(folder: Path):
    settings = Settings(SETTINGS.keys, body_bytes=1000, body_seconds=0.2)
    head = HEADERS | {"Content-Type": "application/json"}

    def slowly() -> Iterator[bytes]:
        yield b"{"
        time.sleep(0.6)
        yield b"}"

    with running(app_of({"tiny": folder}, settings)) as address, httpx.Client(base_url=address, headers=head) as client:
        for body in (b" " * 1001, iter([b" " * 600] * 2)):
            long = client.post("/v1/completions", content=body)
            assert long.status_code == 413 and "longer than 1,000 bytes" in long.json()["error"]["message"]
        assert client.post("/v1/completions", content=slowly()).status_code == 408


def test_more_than_may_wait_is_refused_and_told_when_to_come_back(folder: Path):
    app = app_of({"tiny": folder}, limits=Limits(slots=1, waiting=1, seconds=60))
    with running(app) as address, httpx.Client(base_url=address, headers=HEADERS, timeout=30) as client:
        with client.stream("POST", "/v1/completions", json=LONG) as first:
            lines = first.iter_lines()
            next(lines)
            waits = threading.Thread(
                target=client.post, args=("/v1/completions",), kwargs={"json": LONG | {"max_tokens": 1}}
            )
            waits.start()
            until(lambda: len(app.state.models.get("tiny").engine.queue) == 1)
            refused = client.post("/v1/completions", json=LONG)
            assert refused.status_code == 429 and int(refused.headers["Retry-After"]) > 0
            assert refused.json()["error"]["type"] == "rate_limit_error"
        waits.join()


def test_a_request_has_a_time_and_what_was_written_by_then_is_told(folder: Path):
    with TestClient(app_of({"tiny": folder}, limits=Limits(1, 2, seconds=1.0))) as client:
        post = lambda **more: client.post("/v1/completions", json=LONG | {"stream": False} | more, headers=HEADERS)  # noqa: E731
        post(max_tokens=1)
        said = post().json()["choices"][0]
        assert said["finish_reason"] == "length" and said["end"] == "deadline" and said["text"]
        waits = post(n=2)  # in one slot, so that the second has not begun in time
        assert waits.status_code == 408 and waits.json()["error"]["code"] == "deadline"


def test_clients_that_leave_free_their_slots_and_leave_nothing_behind(folder: Path):
    app = app_of({"tiny": folder}, limits=Limits(slots=2, waiting=8, seconds=60))

    async def leave(address: str, count: int) -> None:
        async with httpx.AsyncClient(base_url=address, headers=HEADERS, timeout=30) as client:
            for number in range(count):
                path = "/v1/completions" if number % 2 else "/v1/chat/completions"
                asked: dict[str, Any] = {**LONG, "stream": number % 3 != 0}
                if number % 2 == 0:
                    asked["messages"] = [{"role": "user", "content": asked.pop("prompt")}]
                with pytest.raises((TimeoutError, httpx.HTTPError)):
                    await asyncio.wait_for(drain(client, path, asked), 0.02 * (number % 4))

    async def drain(client: httpx.AsyncClient, path: str, asked: dict[str, Any]) -> None:
        async with client.stream("POST", path, json=asked) as answer:
            async for _ in answer.aiter_lines():
                pass

    with running(app) as address:
        asyncio.run(leave(address, 2))
        served = app.state.models.get("tiny")
        until(lambda: not served.engine.active and not served.users)
        before = open_files()
        asyncio.run(leave(address, 12))
        until(lambda: not served.engine.active and not len(served.engine.queue) and not served.users)
        until(lambda: open_files() <= before)
        assert httpx.get(f"{address}/health").status_code == 200
        assert 'hrm_waiting{model="tiny"} 0.0' in httpx.get(f"{address}/metrics", headers=HEADERS).text


def test_a_client_that_takes_nothing_of_its_answer_has_left(folder: Path, caplog: pytest.LogCaptureFixture):
    """Else it would keep its model and its answer for ever."""
    caplog.set_level("INFO", "hrm.serve")
    app = app_of({"tiny": folder}, Settings(stall_seconds=0.05))
    body = json.dumps(LONG).encode()
    scope = {
        "type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"host", b"x")], "scheme": "http",
    }  # fmt: skip
    asked = [{"type": "http.request", "body": body}]

    async def receive() -> Any:
        return asked.pop() if asked else await asyncio.sleep(60)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(60)

    asyncio.run(asyncio.wait_for(app(scope, receive, send), 30))
    assert not app.state.models.get("tiny").users
    assert "left" in caplog.text and "Traceback" not in caplog.text
    app.state.models.close(0)


def open_files() -> int:
    process: Any = psutil.Process()
    return process.num_fds() if hasattr(process, "num_fds") else process.num_handles()


def until(true: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_metrics_count_what_happened(client: TestClient):
    client.post("/v1/completions", json=LONG | {"max_tokens": 5}, headers=HEADERS)
    client.get("/v1/models/none", headers=HEADERS)
    text = client.get("/metrics", headers=HEADERS).text
    numbers = {name: float(value) for name, value in re.findall(r"^(\w+(?:\{.*\})?) (\S+)$", text, re.M)}
    assert numbers['hrm_requests_total{route="/v1/completions",status="200"}'] == 1
    assert numbers['hrm_requests_total{route="/v1/models/{name}",status="404"}'] == 1
    assert numbers['hrm_time_to_first_token_seconds_count{model="tiny"}'] == 1
    assert numbers['hrm_time_between_tokens_seconds_count{model="tiny"}'] == 4
    assert numbers['hrm_tokens_total{model="tiny"}'] == 5
    assert numbers['hrm_mean_depth_segments{model="tiny"}'] >= 1
    for name in ("hrm_batch_size_count", "hrm_waiting", "hrm_cache_bytes"):
        assert f'{name}{{model="tiny"}}' in numbers


@pytest.mark.parametrize("wanted", [False, True])
def test_the_log_has_contents_only_where_asked_for(folder: Path, caplog: pytest.LogCaptureFixture, wanted: bool):
    caplog.set_level(logging.INFO, "hrm.serve")
    with TestClient(app_of({"tiny": folder}, Settings(SETTINGS.keys, log_contents=wanted))) as client:
        said = client.post("/v1/completions", json=LONG | {"stream": False, "max_tokens": 9}, headers=HEADERS).json()
    assert "POST /v1/completions 200" in caplog.text and KEY not in caplog.text
    assert ("the cat" in caplog.text) == wanted
    assert (json.dumps(said["choices"][0]["text"])[1:-1] in caplog.text) == wanted


def test_keys_are_long_and_there_are_some(tmp_path: Path):
    file = tmp_path / "keys"
    for text, said in (
        ("", "holds no key"),
        ("# none\n", "holds no key"),
        ("short\n", "is no key"),
        ("a b" * 9, "no key"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=said):
            keys_in(file)
    file.write_text(f"# ours\n{'k' * 16}\n\n{'l' * 20}\n")
    assert len(keys_in(file)) == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "name run folders"),
        (["runs/none"], "there is no run at"),
        (["sudoku", "--host", "0.0.0.0"], "name a file of keys"),
        (["sudoku", "--host", "example.org"], "name a file of keys"),
        (["sudoku", "--cors-origin", "*"], "is no site"),
        (["sudoku", "--port", "70000"], "at most 65,535"),
        (["sudoku", "--api-key-file", "none.txt"], "none.txt cannot be read"),
    ],
)
def test_a_server_that_should_not_be_does_not_start(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["serve", *flags]) == 2
    assert said in capsys.readouterr().err


def test_a_port_that_is_taken_is_said_to_be(capsys: pytest.CaptureFixture[str]):
    with listening("127.0.0.1", 0) as (_, address):
        assert main(["serve", "sudoku", "--port", address.rpartition(":")[2]]) == 2
    assert "choose another (--port)" in capsys.readouterr().err


def test_names_are_those_of_the_folders_or_as_given(folder: Path, tmp_path: Path):
    assert names_of((str(folder), "sudoku", f"other={folder}")).keys() == {"tiny", "sudoku", "other"}
    with pytest.raises(UserError, match="two models would be named tiny"):
        names_of((str(folder), str(folder)))
    with pytest.raises(UserError, match="there is no run at"):
        names_of((str(tmp_path / "none"),))


def test_the_least_recently_used_model_leaves_when_another_needs_its_memory(folder: Path):
    one = Models({"a": folder}, device="cpu")
    size = one.get("a").bytes
    one.close(0)
    models = Models(dict.fromkeys("abc", folder), device="cpu", memory=2 * size)
    with models.lend("a") as first:
        models.get("b")
        models.get("c")
        assert [models.about(name)["loaded"] for name in "abc"] == [True, False, True]
        with models.lend("c"), pytest.raises(UserError, match="as many requests as it takes"):
            models.get("b")
        assert first.engine._thread.is_alive()
    models.close(0)
    assert not first.engine._thread.is_alive()
    with pytest.raises(UserError, match="the server is ending"):
        models.get("a")


def test_a_run_that_is_damaged_or_gone_is_said_to_be(tmp_path: Path):
    folder = small.saved(tmp_path / "tiny")
    with TestClient(app_of({"tiny": folder})) as client:
        (folder / "model.safetensors").write_bytes(b"nothing")
        damaged = client.post("/v1/completions", json=LONG, headers=HEADERS)
        assert damaged.status_code == 503 and "cannot be loaded" in damaged.json()["error"]["message"]
        folder.rename(tmp_path / "elsewhere")
        assert client.post("/v1/completions", json=LONG, headers=HEADERS).status_code == 404
        assert client.get("/v1/models/tiny", headers=HEADERS).status_code == 404
        assert client.get("/v1/models", headers=HEADERS).json()["data"] == []


def test_a_run_in_training_is_served_from_its_newest_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import shutil

    run = small.run(tmp_path)
    monkeypatch.setattr("hrm.serve.models.LOOK_SECONDS", 0)
    training = [False]
    monkeypatch.setattr("hrm.serve.models.lock.writer", lambda path: "someone" if training[0] else None)
    models = Models({"run": run}, device="cpu")
    with models.lend("run") as first:
        assert models.get("run") is first
        training[0] = True
        newer = run / "checkpoints/step_00000002"
        again(run / "checkpoints/step_00000001", newer)
        with models.lend("run") as second:
            assert Path(second.checkpoint).name == newer.name
            assert first.engine._thread.is_alive()  # somebody uses it
        shutil.rmtree(newer)
        assert Path(models.get("run").checkpoint).name == "step_00000001"
    assert not first.engine._thread.is_alive()
    models.close(0)


def test_a_run_that_was_trained_while_nobody_asked_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = small.run(tmp_path)
    monkeypatch.setattr("hrm.serve.models.LOOK_SECONDS", 0)
    models = Models({"run": run}, device="cpu", checkpoint="latest")
    first = models.get("run")
    assert models.get("run") is first
    newer = run / "checkpoints/step_00000002"
    again(run / "checkpoints/step_00000001", newer)
    second = models.get("run")
    assert Path(second.checkpoint).name == newer.name
    for each in (run / "checkpoints").iterdir():
        (each / "manifest.json").write_text("{")
    (run / "best.json").unlink(missing_ok=True)
    (run / "checkpoints/step_00000003").mkdir()
    assert models.get("run") is second  # nothing that can be read is newer
    models.close(0)


def again(old: Path, new: Path) -> None:
    """A checkpoint of another step with the same contents."""
    from hrm.runs import checkpoint

    tensors, state = checkpoint.load(old)
    checkpoint.save(new.parent, checkpoint.step_of(new), tensors, state)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
@pytest.mark.slow
def test_a_server_that_is_asked_to_end_finishes_what_it_can(folder: Path):
    """A short text is whole; a long one ends properly after the grace, with what took part in it said."""
    command = [
        sys.executable,
        "-m",
        "hrm",
        "serve",
        str(folder),
        "--port",
        "0",
        "--grace-seconds",
        "1",
        "--device",
        "cpu",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        address = next(found[1] for line in server.stderr if (found := re.search(r" at (http\S+)$", line)))
        with httpx.Client(base_url=address, timeout=60) as client:
            usage = {"stream_options": {"include_usage": True}}
            with client.stream("POST", "/v1/completions", json=LONG | usage) as answer:
                lines = (line for line in answer.iter_lines() if line)
                next(lines)
                server.send_signal(signal.SIGTERM)
                *_, last, said, done = lines
        ended = json.loads(last.removeprefix("data: "))["choices"][0]
        assert (ended["finish_reason"], ended["end"]) == ("length", "stopped")
        assert json.loads(said.removeprefix("data: "))["usage"]["completion_tokens"] > 1 and done == "data: [DONE]"
        server.stderr.read()
        assert server.wait() == 0
