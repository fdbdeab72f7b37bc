"""The studio: who is let in, what it does with runs, and what becomes of books."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from hrm.files.output import Refused
from hrm.files.reading import UserError
from hrm.overview import listed
from hrm.runs import lock
from hrm.serve.studio import books
from hrm.serve.studio.app import PAGE, Studio
from hrm.serve.studio.door import Door
from hrm.serve.studio.following import lines_since
from hrm.serve.studio.jobs import Jobs, bare
from hrm.serve.studio.learning import Wish
from hrm.serve.studio.runs import Folder
from tests.serve.page import LEARNER

HOME = "http://127.0.0.1:8722"
ORIGIN = {"origin": HOME}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a learner."""
    shutil.copytree(LEARNER, tmp_path / "runs/reader")
    return tmp_path / "runs"


@pytest.fixture
def outside(folder: Path) -> Iterator[TestClient]:
    """A browser that was not let in."""
    door = Door(Studio(folder), 8722)
    with TestClient(door, HOME, follow_redirects=False) as client:
        client.door = door  # type: ignore[attr-defined]
        yield client


@pytest.fixture
def browser(outside: TestClient) -> TestClient:
    """One that was."""
    assert outside.get(f"/?token={outside.door.token}").status_code == 303  # type: ignore[attr-defined]
    return outside


def said(answer: Any) -> str:
    """The sentence of a refusal."""
    return answer.json()["error"]["message"]


def test_a_token_opens_one_browser(outside: TestClient) -> None:
    token = outside.door.token  # type: ignore[attr-defined]
    entered = outside.get(f"/?token={token}")
    assert entered.headers["location"] == "/" and token not in entered.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict"} <= {part.strip() for part in entered.headers["set-cookie"].split(";")}
    assert outside.get("/studio/runs").status_code == 200
    outside.cookies.clear()
    assert outside.get(f"/?token={token}").status_code == 401  # it is spent
    assert outside.get("/").status_code == 401
    assert outside.door.token != token  # type: ignore[attr-defined]


@pytest.mark.parametrize("cookie", [None, "wrong", "é", '"; x', "hrm-studio-8722"])
def test_without_the_cookie_there_is_nothing(outside: TestClient, cookie: str | None) -> None:
    headers: Any = ORIGIN | ({} if cookie is None else {"cookie": f"hrm-studio-8722={cookie}".encode()})
    for method, path in [
        ("GET", "/studio/runs"), ("GET", "/app.js"), ("GET", "/v1/models"), ("POST", "/studio/delete"),
        ("POST", "/v1/chat/completions"), ("PUT", "/studio/books?name=a.txt"), ("GET", "/nothing"), ("GET", "/metrics"),
    ]:  # fmt: skip
        answer = outside.request(method, path, headers=headers)
        assert answer.status_code == 401, path
        assert "hrm studio" in said(answer)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8722", "127.0.0.1.evil.example", "localhost.", "[::2]", ""]
)
def test_another_name_of_this_machine_is_refused(browser: TestClient, host: str) -> None:
    assert browser.get("/studio/runs", headers={"host": host}).status_code == 403
    assert browser.get(f"/?token={browser.door.token}", headers={"host": host}).status_code == 403  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "origin", [None, "null", "https://evil.example", "http://127.0.0.1:1", "https://127.0.0.1:8722"]
)
def test_another_page_changes_nothing(browser: TestClient, folder: Path, origin: str | None) -> None:
    headers = {} if origin is None else {"origin": origin}
    assert browser.post("/studio/delete", json={"run": "reader"}, headers=headers).status_code == 403
    assert browser.put("/studio/books?name=a.txt", content="abc", headers=headers).status_code == 403
    assert (folder / "reader").is_dir() and not (folder / "books").exists()


def test_answers_keep_to_themselves(browser: TestClient) -> None:
    for path in ("/", "/app.js", "/studio/runs", "/v1/models", "/nothing"):
        headers = browser.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy


def test_the_page_is_small_and_asks_nobody_else() -> None:
    files = [file for file in PAGE.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 150_000
    for file in files:
        found = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'`)]*", file.read_text("utf-8")))
        assert found <= {"http://www.w3.org/2000/svg"}, file


@pytest.mark.parametrize(
    "name",
    [
        "../reader", "..", "/etc", "reader/../../runs/reader", ".studio", "", "a\0b", "C:x", "reader\\..", "x" * 250,
        "nobody", "link", "-x",
    ],
)  # fmt: skip
def test_a_run_is_found_by_its_name_inside_the_folder_alone(browser: TestClient, folder: Path, name: str) -> None:
    (folder / "link").symlink_to(folder.parent)
    (folder.parent / "run.json").write_text("{}")
    for path in ("pause", "resume", "stop", "delete", "rename"):
        body = {"run": name, "to": "other"} if path == "rename" else {"run": name}
        assert browser.post(f"/studio/{path}", json=body, headers=ORIGIN).status_code == 400, path
    assert browser.get("/studio/training", params={"run": name}).status_code == 400
    assert (folder / "reader/run.json").is_file() and (folder.parent / "run.json").is_file()


def test_what_is_no_request_is_refused_in_a_sentence(browser: TestClient) -> None:
    asked = {"run": "reader", "path": 1}, {"run": ["reader"]}, {}, [], {"run": "\udc00"}
    for body in asked:
        answer = browser.post("/studio/pause", content=json.dumps(body), headers=ORIGIN)
        assert answer.status_code == 400 and said(answer), body
    assert "no field 'path'" in said(browser.post("/studio/pause", json=asked[0], headers=ORIGIN))


@pytest.mark.parametrize(
    "path", ["/../door.py", "/..%2fdoor.py", "/%2e%2e/door.py", "/....//door.py", "/page", "/app.py"]
)
def test_no_file_beside_the_page_is_served(browser: TestClient, path: str) -> None:
    assert browser.get(path).status_code == 404


def test_runs_are_listed_renamed_and_deleted(browser: TestClient, folder: Path) -> None:
    (run,) = browser.get("/studio/runs").json()["runs"]
    assert (run["name"], run["kind"], run["state"], run["can_pause"]) == ("reader", "learner", "paused", False)
    assert "reader" in [each["id"] for each in browser.get("/v1/models").json()["data"]]
    assert browser.post("/studio/rename", json={"run": "reader", "to": "my reader"}, headers=ORIGIN).json() == {
        "run": "my reader"
    }
    shutil.copytree(LEARNER, folder / "reader")
    taken = browser.post("/studio/rename", json={"run": "reader", "to": "my reader"}, headers=ORIGIN)
    assert taken.status_code == 400 and "already" in said(taken)
    assert browser.post("/studio/delete", json={"run": "my reader"}, headers=ORIGIN).status_code == 200
    assert [each["name"] for each in browser.get("/studio/runs").json()["runs"]] == ["reader"]
    assert sorted(path.name for path in folder.iterdir()) == ["reader"]


def test_what_is_kept_of_a_run_goes_with_its_name(folder: Path) -> None:
    own, jobs = Folder(folder), Jobs(folder)
    long = "\u4e2d" * 60  # bytes of a name, not characters, are counted by a file system
    for name, process in (("gone", 1 << 30), ("soon", os.getpid())):
        started = datetime.fromtimestamp(psutil.Process().create_time(), UTC).isoformat()
        (folder / ".studio").mkdir(exist_ok=True)
        facts = {"name": name, "books": ["/of/another"], "flags": [], "process": process, "started": started}
        (folder / f".studio/{name}.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="soon is being trained"):  # it has no folder yet
        own.rename("reader", "soon")
    own.rename("reader", "gone")
    assert jobs.job("gone") is None  # else it would go on with the books of another
    own.rename("gone", long)
    assert own.one(long).state == "paused"
    jobs.place.joinpath(f"{bare('a/b%2F')}.json").write_text("{}")
    assert "a/b%2F" in jobs.named()


def test_what_the_system_refuses_is_said(browser: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("hrm.serve.studio.books.os.fsync", full)
    refused = browser.put("/studio/books?name=a.txt", content=b"a", headers=ORIGIN)
    assert refused.status_code == 507 and "no space is left on the device" in said(refused)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes in folders")
def test_a_pipe_in_place_of_a_run_does_not_stop_the_list(folder: Path) -> None:
    (folder / "reader/run.json").unlink()
    os.mkfifo(folder / "reader/run.json")
    (shown,) = Folder(folder).shown()
    assert shown.state == "damaged"


def test_what_another_process_writes_into_is_left_alone(browser: TestClient, folder: Path) -> None:
    code = "import sys, time; from hrm.runs import lock; lock.own(sys.argv[1], 'learn'); print(1, flush=True)"
    code += "; time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(folder / "reader")], stdout=subprocess.PIPE)
    try:
        assert other.stdout and other.stdout.readline()
        for path in ("rename", "delete"):
            body = {"run": "reader", "to": "x"} if path == "rename" else {"run": "reader"}
            refused = browser.post(f"/studio/{path}", json=body, headers=ORIGIN)
            assert refused.status_code == 400 and f"process {other.pid}" in said(refused)
        (run,) = browser.get("/studio/runs").json()["runs"]
        assert run["state"] == "training" and run["can_pause"]
        if os.name != "nt":
            assert browser.post("/studio/pause", json={"run": "reader"}, headers=ORIGIN).status_code == 200
            assert other.wait(10) == -15
    finally:
        other.kill()
        other.communicate()
    assert browser.get("/studio/runs").json()["runs"][0]["state"] == "paused"


def test_a_process_of_a_former_owners_number_is_not_signalled(folder: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        owner = {"process": stranger.pid, "host": __import__("platform").node(), "verb": "learn"}
        (folder / "reader/.owner.json").write_text(
            str(owner | {"since": "2020-01-01T00:00:00+00:00"}).replace("'", '"')
        )
        assert lock.owner(folder / "reader") is None
        with pytest.raises(UserError, match="is not being trained"):
            Jobs(folder).pause("reader")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_training_that_fails_says_why(folder: Path) -> None:
    jobs, place = Jobs(folder), Folder(folder)
    jobs.start("new", "learn", [str(folder / "missing.txt")])
    end = time.monotonic() + 60
    while place.shown()[0].state == "starting" and time.monotonic() < end:
        time.sleep(0.1)
    (run,) = [each for each in place.shown() if each.name == "new"]
    assert run.state == "failed" and run.problem and "does not exist" in run.problem
    place.delete("new")
    assert [each.name for each in place.shown()] == ["reader"]


def test_a_wish_becomes_the_flags_of_the_command() -> None:
    from hrm.cli.learn import Options
    from hrm.cli.options import parse

    wish = Wish(
        run="new",
        fresh=True,
        size="tiny",
        books=["/a.txt"],
        epochs=2,
        eval_every=7,
        encoding="cp1251",
        tokens="bpe:2000",
    )
    options = parse("learn", Options, ["run", "/a.txt", *wish.flags()], example="")
    config = options.config
    assert (config.epochs, config.eval_every, config.arch.dim, config.tokenizer) == (2, 7, 64, "bpe:2000")
    assert options.encoding == "cp1251" and "--arch.dim" not in wish.model_copy(update={"fresh": False}).flags()


def test_lines_are_read_from_a_mark_on_and_anew_after_a_resume(folder: Path) -> None:
    run = folder / "reader"
    first = lines_since(run)
    assert first.fresh and first.points and first.measured and first.measured[-1].sample
    again = lines_since(run, first.mark)
    assert not again.fresh and not again.points and again.mark == first.mark
    record = {"step": 9, "book": "a", "book_step": 9, "bits": 1.5, "replayed_bits": None, "steps_per_second": 2.0}
    line = json.dumps(record | {"seconds": 3}) + "\n"
    with (run / "metrics.jsonl").open("a") as file:
        file.write(line + line[:20])  # the second is still being written
    more = lines_since(run, first.mark)
    assert [(point.step, point.bits) for point in more.points] == [(9, 1.5)]
    (run / "other").write_text((run / "metrics.jsonl").read_text() + "\n" + "[1]\n{\n" * 3)
    (run / "other").replace(run / "metrics.jsonl")
    assert lines_since(run, more.mark).fresh
    assert lines_since(folder / "nothing").points == []


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a.txt", "a.txt"), ("../../etc/passwd", "passwd"), ("C:\\books\\é.txt", "é.txt"), ("...", "book"),
        ("a\0\n.txt", "a.txt"), (".ssh", "ssh"), ("x" * 300 + ".txt", "x" * 146 + ".txt"), ("con.txt", None),
        ('a:b"?.txt', "a b.txt"), ("\u202egnp.txt", "gnp.txt"),
    ],
)  # fmt: skip
def test_a_book_gets_a_bare_name(given: str, kept: str | None) -> None:
    if kept is None:
        with pytest.raises(UserError):
            books.safe(given)
    else:
        assert books.safe(given) == kept


def test_no_book_is_put_over_another(browser: TestClient, folder: Path) -> None:
    names = []
    for text in ("one", "two", "one", "three", "two"):
        answer = browser.put("/studio/books?name=a.txt", content=text, headers=ORIGIN)
        names.append(answer.json()["name"])
    assert names == ["a.txt", "a 2.txt", "a.txt", "a 3.txt", "a 2.txt"]
    assert sorted(path.read_text() for path in (folder / "books").iterdir()) == ["one", "three", "two"]
    assert len(browser.get("/studio/books").json()["books"]) == 3
    assert browser.put("/studio/books?name=a.txt", content="", headers=ORIGIN).status_code == 400


def test_nothing_is_left_of_a_book_that_was_cut_off(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        asyncio.run(books.take(tmp_path / "books", "a.txt", chunks(), None))
    assert list((tmp_path / "books").iterdir()) == []


def looked(browser: TestClient, path: Path | str, encoding: str | None = None) -> dict[str, Any]:
    """The last line of a look at a book."""
    answer = browser.post("/studio/look", json={"path": str(path), "encoding": encoding}, headers=ORIGIN)
    return answer.json() if answer.status_code != 200 else json.loads(answer.text.splitlines()[-1])


def test_a_book_is_looked_at_as_the_learner_reads_it(browser: TestClient, tmp_path: Path) -> None:
    text = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n" * 30
    (tmp_path / "anna.txt").write_bytes(text.encode("cp1251"))
    found = looked(browser, tmp_path / "anna.txt")
    book = found["book"]
    assert (
        book["encoding"] == "cp1251" and book["characters"] == len(text) and book["sample"].startswith("Все счастливые")
    )
    assert book["kinds"] == len(set(text)) and "not UTF-8" in book["note"] and found["name"] == "anna"
    assert looked(browser, tmp_path / "anna.txt", "koi8_r")["book"]["sample"] != book["sample"]
    assert "is no encoding" in looked(browser, tmp_path / "anna.txt", "klingon")["error"]["message"]
    other = looked(browser, tmp_path / "anna.txt", "utf-8")["error"]["message"]
    assert "cannot be read as utf-8" in other and "--" not in other


def test_a_book_from_anywhere_is_read_as_text_alone(browser: TestClient, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    wrong = {
        tmp_path / "a.png": "not a plain text",
        tmp_path: "is a folder",
        tmp_path / "no.txt": "there is no file",
        "a.txt": "whole path",
        "": "no file",
    }
    for path, sentence in wrong.items():
        assert sentence in looked(browser, path)["error"]["message"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert "no file that stays" in looked(browser, tmp_path / "pipe")["error"]["message"]


def test_learners_say_what_they_have_read(browser: TestClient) -> None:
    (learner,) = browser.get("/studio/learners").json()["learners"]
    assert (
        learner["books"]
        and learner["vocabulary"]
        and learner["parameters"]
        and len(learner["books"][0]["sha256"]) == 64
    )
    told = browser.get("/studio/training?run=reader").json()
    assert told["run"]["state"] == "paused" and told["lines"]["measured"] and told["reader"]["books"]


def test_home_reads_again_only_what_has_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        shutil.copytree(LEARNER, folder / f"r{number}")
    seen: list[Path] = []
    from hrm.serve.studio import runs

    real = runs.listed
    monkeypatch.setattr(runs, "listed", lambda path: (seen.append(path), real(path))[1])
    place = Folder(folder)
    assert len(place.shown()) == 6 and len(seen) == 6
    place.shown()
    assert len(seen) == 6
    (folder / "r3/best.json").write_text("[")
    assert place.shown() and seen[6:] == [folder / "r3"]


@pytest.mark.slow
def test_a_large_book_comes_in_with_flat_memory(folder: Path) -> None:
    """100 MB here; benchmarks/studio.py does the same with 1 GB."""
    import psutil

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(1600):
            yield b"All work and no play makes Jack a dull boy.\n" * 1490

    process, before = psutil.Process(), psutil.Process().memory_info().rss
    path = asyncio.run(books.take(folder / "books", "big.txt", chunks(), None))
    found = books.look(path, None)
    assert found.characters == path.stat().st_size > 100_000_000
    assert process.memory_info().rss - before < 60 << 20


def test_a_training_whose_record_cannot_be_kept_does_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Any] = []

    def begin(jobs: Jobs, command: list[str], log: int) -> Any:
        begun.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return begun[0]

    def full(path: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Jobs, "_begin", begin)
    monkeypatch.setattr("hrm.serve.studio.jobs.durable.write_json", full)
    with pytest.raises(Refused, match="nothing was changed"):
        Jobs(folder).start("new", "learn", ["/a"])
    assert begun[0].poll() is not None


def test_a_further_book_that_could_not_begin_is_told_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Folder(folder)
    own.jobs.place.mkdir()
    (own.jobs.place / "reader.log").write_text("hrm learn: the book is too short\n")
    assert (own.one("reader").state, own.one("reader").problem) == ("failed", "the book is too short")
    finished = replace(listed(folder / "reader"), state="finished")
    monkeypatch.setattr("hrm.serve.studio.runs.listed", lambda path: finished)
    found = Folder(folder).one("reader")
    assert (found.state, found.problem, found.can_resume) == ("finished", "the book is too short", False)
