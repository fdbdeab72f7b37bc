"""`hrm data clean` from files to a corpus; the few runs of this module share their documents."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from hrm.cli.clean import _show
from hrm.cli.main import main
from hrm.files.output import Refused
from hrm.files.reading import UserError
from hrm.text.data import Packed, load_tokenizer, train_bpe
from hrm.text.data.clean import run

pytest.importorskip("datatrove")
pytest.importorskip("spacy")

_draw = random.Random(0)
WORDS = ["".join(_draw.choice("bdfglmnprst") + _draw.choice("aeiou") for _ in range(_draw.randint(2, 4)))
         for _ in range(900)]  # fmt: skip
QUESTION = "Which of the seven hills of the old town was built upon first, and by whom was it named?"


def article(number: int, sentences: int = 12) -> str:
    """A text that no filter has anything against."""
    draw = random.Random(number)
    lines = []
    for _ in range(sentences):
        first, *rest = draw.sample(WORDS, 9)
        lines.append(f"The {first} of {' '.join(rest[:4])} and the {rest[4]} have {' '.join(rest[5:])} with it.")
    return " ".join(lines)


def near(text: str) -> str:
    """Almost the same text."""
    return text.replace("The", "A", 1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    first = [{"text": article(number)} for number in range(20)]
    first += [{"text": article(100) + f" {QUESTION}"}, {"text": "Too short."}, {"text": article(3)}]
    first += [{"text": article(101) + " Write to someone@company.com, weâ€™re there."}]
    with gzip.open(folder / "first.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in first)
    second = [article(number) for number in range(200, 210)] + [article(5), near(article(7))]
    (folder / "second.txt").write_text("\n%%\n".join(second), "utf-8")
    (folder / "test.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "the first"}))
    (folder / "recipe.yaml").write_text(
        """sources:
  - {name: second, path: second.txt, separator: "\\n%%\\n", licence: CC0-1.0}
  - {name: first, path: first.jsonl.gz, origin: "<script>alert(1)</script>"}
decontaminate: {files: [test.jsonl]}
tokenizer: tokenizer
holdout: 0.2
shard_tokens: 1000
""",
        "utf-8",
    )
    return folder


@pytest.fixture(scope="module")
def corpus(home: Path) -> Path:
    """The corpus, made by a command that was killed and given again."""
    train_bpe([article(number) for number in range(20)], 400).save_pretrained(home / "tokenizer")
    command = ["data", "clean", str(home / "recipe.yaml"), "--out", str(home / "corpus"), "--workers", "1"]
    process = subprocess.Popen([sys.executable, "-m", "hrm", *command], stderr=subprocess.PIPE)
    work = home / "corpus.work"
    while not (work / "logs" / "clusters" / "completions" / "00000").exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    done = {path: path.stat().st_mtime_ns for path in work.glob("logs/[cs]*/completions/*")}
    (work / "corpus" / "train" / "first" / ".tmp-00001-00000-1").mkdir(parents=True)  # what a killed task leaves
    (work / "corpus" / "train" / "first" / "00001-00099").mkdir()
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert main([*command, "--keep-work"]) == 0
    (home / "said").write_text(said.getvalue(), "utf-8")
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    return home / "corpus"


def documents(folder: Path, corpus: Path) -> list[str]:
    tokenizer = load_tokenizer(corpus / "tokenizer")
    found = []
    for index in sorted(folder.glob("**/index.json")):
        packed = Packed.open(index.parent, tokenizer)
        starts = packed.documents.tolist()
        found += [tokenizer.decode(packed.tokens[a : b - 1]) for a, b in pairwise(starts)]
    return found


def test_what_stays_and_what_goes(corpus: Path) -> None:
    first, second = (documents(corpus / "train" / name, corpus) for name in ("first", "second"))
    held = documents(corpus / "validation", corpus)
    every = [*first, *second, *held]
    assert len(every) == len(set(every)) == 20 + 1 + 10  # articles, the one with an address, the second source
    assert article(5) in [*second, *held] and near(article(7)) in [*second, *held]  # of the earlier source
    assert article(5) not in first and article(7) not in every
    assert not any(QUESTION in text for text in every)
    repaired = next(text for text in every if "there." in text)
    assert "someone@company.com" not in repaired and "we’re there" in repaired
    assert 0 < len(held) < len(every) / 2


def test_each_step_is_told_where_there_is_no_terminal(corpus: Path, home: Path) -> None:
    lines = (home / "said").read_text("utf-8").splitlines()
    assert lines[0] == "1/9 clean: 2 tasks, 2 done before" and lines[-1] == "9/9 finish: 1 task"


def test_a_summary_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    step = {"step": "gopher_repetition", "removed": 123_456_789, "seen": 2_000_000_000, "lines_cut": 987_654_321}
    facts = {"read": 2_000_000_000, "kept": 123_456_789, "tokens": 150_000_000_000, "held_out": 0, "steps": [step],
             "sources": {"a-rather-long-name": {"read": 1_000_000_000, "kept": 0}}}  # fmt: skip
    _show(Path("corpora/web"), facts)
    out, err = capsys.readouterr()
    assert "987,654,321 lines cut" in out and "none of 1,000,000,000 documents" in err
    assert max(map(len, (out + err).splitlines())) <= 80


def test_report(corpus: Path) -> None:
    report = json.loads((corpus / "report.json").read_text("utf-8"))
    removed = {step["step"]: step["removed"] for step in report["steps"]}
    assert removed == {
        "gopher_repetition": 1, "gopher_quality": 0, "c4": 0, "fineweb_quality": 0, "contamination": 1,
        "duplicate": 2, "near_duplicate": 1,
    }  # fmt: skip
    assert report["read"] == 36 and report["kept"] + report["held_out"] == 31
    (found,) = [step for step in report["steps"] if step["step"] == "contamination"]
    assert found["reasons"] == {"test.jsonl": 1} and QUESTION[:20] not in found["samples"][0]["reason"]
    page = (corpus / "report.html").read_text("utf-8")
    assert "<script>" not in page and "&lt;script&gt;" in page and "http" not in page


def test_manifest(corpus: Path) -> None:
    from hrm.text.data.corpus import Corpus

    opened = Corpus.open(corpus / "train", load_tokenizer(corpus / "tokenizer"))
    assert [(source.name, source.licence) for source in opened.sources] == [("second", "CC0-1.0"), ("first", "")]
    assert all(source.weight == source.count for source in opened.sources)
    assert len(opened.sources[1].shards) > 1  # of a thousand tokens and the rest of a document
    assert not list(opened.check())
    assert all(
        main(["data", "check", str(folder)]) == 0 for folder in (corpus, corpus / "train", corpus / "validation")
    )
    assert not list((corpus / "train").glob("*/.tmp*")) and not (corpus / "train" / "first" / "00001-00099").exists()


def test_a_corpus_is_not_replaced_by_accident(corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "clean", str(home / "recipe.yaml"), "--out", str(corpus)]) == 2
    assert "exists: choose another --out, or add --overwrite" in capsys.readouterr().err


@pytest.fixture
def beside() -> Iterator[Callable[[str], int]]:
    """Runs lines of Python in another process, which lives until the end of the test; gives its number."""
    with contextlib.ExitStack() as stack:

        def run(lines: str) -> int:
            program = f"{lines}\nprint(flush=True)\ninput()"
            command, pipe = [sys.executable, "-c", program], subprocess.PIPE
            process = stack.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe))
            stack.callback(process.kill)
            assert process.stdout is not None and process.stdout.readline() == b"\n"
            return process.pid

        yield run


@pytest.mark.skipif(not hasattr(psutil.Process, "memory_maps"), reason="the system does not say who reads a file")
def test_a_corpus_that_is_being_read_is_not_replaced(
    corpus: Path, home: Path, beside: Callable[[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    opened = f"Corpus.open(Path({str(corpus / 'train')!r}))"
    number = beside(f"from pathlib import Path\nfrom hrm.text.data.corpus import Corpus\n"
                    f"read = {opened}\nread.batch(0, 0, range(1), 1, 8)")  # fmt: skip
    kept = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    assert main(["data", "clean", str(home / "recipe.yaml"), "--out", str(corpus), "--overwrite"]) == 2
    assert f"{corpus} is in use: process {number} (" in (said := capsys.readouterr().err)
    assert "wait until that has ended, or choose another --out" in said
    assert kept == {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}


def test_a_second_command_for_the_same_place_is_refused(
    home: Path, beside: Callable[[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = home / "both"
    number = beside(f"from pathlib import Path\nfrom hrm.runs import lock\n"
                    f"held = lock.place(Path({str(out)!r}), 'data clean')\nheld.__enter__()")  # fmt: skip
    assert main(["data", "clean", str(home / "recipe.yaml"), "--out", str(out)]) == 2
    assert f"{out} is in use: hrm data clean (process {number} on" in capsys.readouterr().err
    assert not list(home.glob("both*"))


@pytest.mark.parametrize("keep", [False, True])
def test_the_old_corpus_makes_room_at_once(tmp_path: Path, keep: bool) -> None:
    out, work = tmp_path / "corpus", tmp_path / "corpus.work"
    for folder, facts in ((out, {"kept": 1}), (work / "corpus", {"kept": 2})):
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(facts))
    plan: Any = SimpleNamespace(work=work)
    assert run._put(plan, out, run.How(overwrite=True, keep_work=keep)) == {"kept": 2}
    assert work.exists() == keep and not (work / "before").exists()


def test_begun_work_is_kept_until_the_plan_is_known_to_work(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = home / "begun.work" / "plan.json"
    begun.parent.mkdir()
    begun.write_text("{}")
    (home / "none.yaml").write_text("sources: [{name: a, path: none}]")
    command = ["--out", str(home / "begun"), "--overwrite"]
    assert main(["data", "clean", str(home / "none.yaml"), *command]) == 2
    assert "there is no file none" in capsys.readouterr().err
    (home / "dry.yaml").write_text("sources: [{name: a, path: second.txt}]\ntokenizer: bpe:400")
    far = ["--executor", "slurm", "--partition", "cpu", "--dry-run"]
    assert main(["data", "clean", str(home / "dry.yaml"), *command, *far]) == 0
    assert begun.read_text() == "{}"


@pytest.mark.parametrize("name", ["k[1]", "p[1]/k", "k*", "k::x"])
def test_places_that_look_like_patterns(
    home: Path, capsys: pytest.CaptureFixture[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = (home / name).parent
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    assert main(["data", "clean", str(home / "recipe.yaml"), "--out", Path(name).name]) == 2
    assert "in its path, a sign of patterns: choose a place without it" in capsys.readouterr().err
    assert not (folder / f"{Path(name).name}.work").exists()


def test_a_tokenizer_without_an_end(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(home / "endless.json"))
    (home / "endless.yaml").write_text("sources: [{name: a, path: second.txt}]\ntokenizer: endless.json")
    far = ["--executor", "slurm", "--partition", "cpu", "--dry-run"]
    assert main(["data", "clean", str(home / "endless.yaml"), "--out", str(home / "far"), *far]) == 2
    assert "has no end token" in capsys.readouterr().err


def test_a_full_disk_is_named(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run, "_pool", ThreadPoolExecutor)
    monkeypatch.setattr(run, "_spell", lambda _: None)
    monkeypatch.setattr(run, "_task", full)
    assert main(["data", "clean", str(home / "recipe.yaml"), "--out", str(home / "full")]) == 1
    said = capsys.readouterr().err
    assert f"working in {home / 'full.work'}: no space is left on the device; what is complete is kept" in said


def test_scripts_for_slurm(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "clean", str(home / "recipe.yaml"), "--out", str(home / "far"), "--executor", "slurm"]
    assert main(command) == 2
    assert "--partition" in capsys.readouterr().err
    assert main([*command, "--partition", "cpu", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.count("#!/bin/bash") == 9 and said.count("#SBATCH --partition=cpu") == 9
    assert "#SBATCH --array=0-13" in said and "launch_pickled_pipeline" in said  # a task for each bucket
    assert not (home / "far.work").exists()


@pytest.mark.skipif(os.name == "nt", reason="the commands of Slurm are scripts of a shell")
def test_tasks_are_handed_to_slurm_once(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = {
        "sbatch": f'echo "$@" >> {home}/submitted; echo Submitted batch job $(wc -l < {home}/submitted)',
        "squeue": f"cat {home}/queue",
    }
    for name, line in commands.items():
        (home / "bin").mkdir(exist_ok=True)
        (home / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (home / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (home / "queue").write_text("17 cpu hrm-finish\n")
    command = ["data", "clean", str(home / "recipe.yaml"), "--out", str(home / "far"), "--executor", "slurm"]
    assert main([*command, "--partition", "cpu"]) == 0
    lines = (home / "submitted").read_text().splitlines()
    assert sum("--dependency=afterok:" in line for line in lines) == 8  # each stage waits for the one before
    assert "submitted; job 17 is the last" in capsys.readouterr().out
    assert main([*command, "--partition", "cpu"]) == 2
    assert "still in the queue" in capsys.readouterr().err


def test_ray_is_refused_where_it_is_missing(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(run, "find_spec", lambda name: None if name == "ray" else object())
    assert main(["data", "clean", str(home / "recipe.yaml"), "--out", str(home / "far"), "--executor", "ray"]) == 2
    assert "pip install ray" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="a process is killed by a signal")
def test_a_killed_task_ends_the_command_in_a_sentence(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(run, "_task", _killed)
    assert main(["data", "clean", str(home / "recipe.yaml"), "--out", str(home / "ended")]) == 1
    assert "a task of the stage clean was killed, perhaps for want of memory" in capsys.readouterr().err


def _killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_languages_are_told_by_a_model_of_this_machine(tmp_path: Path) -> None:
    fasttext = pytest.importorskip("fasttext")
    from datatrove.data import Document

    from hrm.text.data.clean.recipe import Language, Recipe
    from hrm.text.data.clean.steps import IsLanguage

    lines = [f"__label__en {article(number, 2)}\n__label__xx {' '.join('qzjxk' * 4)}\n" for number in range(50)]
    (tmp_path / "train.txt").write_text("".join(lines))
    training = {"verbose": 0, "thread": 1, "epoch": 20, "lr": 0.1, "minn": 2, "maxn": 4, "dim": 16}
    model = fasttext.train_supervised(str(tmp_path / "train.txt"), **training)
    model.save_model(str(tmp_path / "lid.bin"))
    keep = IsLanguage(Recipe(language=Language(str(tmp_path / "lid.bin"))), None)
    assert keep.filter(Document(text=article(60), id="")) is True
    assert keep.filter(Document(text="q z j x k q z j", id="")) == (False, "xx")


def test_the_text_of_pages(tmp_path: Path) -> None:
    pytest.importorskip("lxml_html_clean")
    pytest.importorskip("trafilatura")
    from hrm.text.data.clean.read import Read
    from hrm.text.data.clean.recipe import Source

    page = f"<html><body><nav><a href=/>Menu</a></nav><article><p>{article(1)}</p></article></body></html>"
    (tmp_path / "pages.jsonl").write_text(json.dumps({"html": page}) + "\n" + json.dumps({"html": "<p></p>"}) + "\n")
    source = Source(name="pages", field="html", extract=True)
    (found,) = Read([(source, [str(tmp_path / "pages.jsonl")], 0, 1)]).run()
    assert found.text == article(1) and found.metadata == {"source": "pages"}


def test_a_data_set_of_the_hub_is_streamed(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    from datasets import Dataset

    from hrm.text.data.clean.read import Read
    from hrm.text.data.clean.recipe import Source

    for part in range(2):  # a folder in place of a name
        rows = [{"id": n, "content": f"text {part}.{n}" if n else ""} for n in range(4)]
        Dataset.from_list(rows).to_parquet(tmp_path / f"train-{part:05d}-of-00002.parquet")
    hub = str(tmp_path)

    def texts(source: Source, number: int = 0, count: int = 1) -> list[str]:
        return [document.text for document in Read([(source, [], number, count)] * 2).run(rank=number)]

    source = Source(name="far", hub=hub, field="content")
    assert texts(source) == [f"text {part}.{n}" for part in range(2) for n in (1, 2, 3)]
    assert [texts(source, part, 2) for part in range(2)] == [
        [f"text {part}.{n}" for n in (1, 2, 3)] for part in range(2)
    ]
    assert texts(Source(name="far", hub=f"{hub}:train", field="content", limit=3)) == ["text 0.1", "text 0.2"]
    (document, *_) = Read([(source, [], 0, 1)]).run()
    assert document.id == f"{hub} 1"  # text, since 0 would be left out of what is written
    with pytest.raises(UserError, match="has no text in a field 'text': say which of id, content"):
        texts(Source(name="far", hub=hub))
    with pytest.raises(UserError, match=r"a data set of the Hub, cannot be read .*look at its name and at the network"):
        texts(Source(name="far", hub="nobody/no-such-data-set"))


def test_a_task_that_fails_on_ray_ends_the_work(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hrm.text.data.clean import How, Recipe
    from hrm.text.data.clean.plan import Plan
    from hrm.text.data.clean.run import _ray

    ran = []

    class Executor:
        def __init__(self, pipeline: object, tasks: int, workers: int, logging_dir: str) -> None:
            self.folder, self.tasks = Path(logging_dir), tasks

        def run(self) -> None:
            """As datatrove's, which says of a task that it failed, and returns."""
            ran.append(self.folder.name)
            (self.folder / "completions").mkdir(parents=True)
            for task in range(self.tasks - (len(ran) == 2)):
                (self.folder / "completions" / f"{task:05d}").touch()

    monkeypatch.setitem(sys.modules, "datatrove.executor.ray", SimpleNamespace(RayPipelineExecutor=Executor))
    plan = Plan.make(Recipe.read(home / "recipe.yaml"), tmp_path / "work", 1)
    with pytest.raises(Refused, match=r"1 of 1 tasks of the stage duplicates failed: .*the same command continues"):
        _ray(plan, How(executor="ray"))
    assert ran == ["clean", "duplicates"]
