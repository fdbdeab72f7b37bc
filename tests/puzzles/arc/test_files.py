"""ARC's task files: every form holds the same tasks, and what is wrong is named."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrm.files.reading import UserError
from hrm.puzzles.arc import files as arc
from hrm.puzzles.arc.files import ArcTask, Pair
from tests.data import hrm_data

TREES: dict[str, Any] = {
    "aaaa": {
        "train": [{"input": [[0, 1]], "output": [[1, 0]]}, {"input": [[2]], "output": [[3], [4]]}],
        "test": [{"input": [[5, 6]], "output": [[6, 5]]}, {"input": [[7]], "output": [[8]]}],
    },
    "bbbb": {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3, 3, 3]], "output": [[4]]}]},
}


def same(first: list[ArcTask], second: list[ArcTask]) -> bool:
    def plain(tasks: list[ArcTask]) -> object:
        return [
            (t.id, [[None if g is None else g.tolist() for g in pair] for pair in (*t.train, *t.test)], len(t.test))
            for t in tasks
        ]

    return plain(first) == plain(second)


def folder(path: Path) -> Path:
    path.mkdir()
    for name, tree in TREES.items():
        (path / f"{name}.json").write_text(json.dumps(tree))
    return path


def challenges(path: Path, solutions: bool = True) -> Path:
    path.mkdir()
    asked = {
        name: {**tree, "test": [{"input": pair["input"]} for pair in tree["test"]]} for name, tree in TREES.items()
    }
    (path / "arc_challenges.json").write_text(json.dumps(asked))
    if solutions:
        answers = {name: [pair["output"] for pair in tree["test"]] for name, tree in TREES.items()}
        (path / "arc_solutions.json").write_text(json.dumps(answers))
    return path / "arc_challenges.json"


def lines(path: Path) -> Path:
    text = "\n".join(json.dumps({"id": name, "split": "x", **tree}) for name, tree in TREES.items())
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_every_form_holds_the_same_tasks(tmp_path: Path):
    tasks = arc.read(folder(tmp_path / "folder"))
    assert [task.id for task in tasks] == ["aaaa", "bbbb"] and len(tasks[0].test) == 2
    assert tasks[0].train[1].output is not None and tasks[0].train[1].output.tolist() == [[3], [4]]
    assert [task.largest for task in tasks] == [2, 3]
    for other in (challenges(tmp_path / "c"), lines(tmp_path / "t.jsonl"), lines(tmp_path / "t.jsonl.gz")):
        assert same(arc.read(other), tasks), other
    assert same(arc.read(tmp_path / "folder/aaaa.json"), tasks[:1])
    assert same(arc.read(f"{tmp_path / 'folder/bbbb.json'}, {tmp_path / 't.jsonl'}"), tasks[::-1])


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str):
    tasks = [*arc.read(folder(tmp_path / "folder")), ArcTask("c", (Pair(*[np.eye(2, dtype=np.uint8)] * 2),), ())]
    tasks[-1] = tasks[-1]._replace(test=(Pair(np.zeros((1, 1), np.uint8), None),))
    for _ in range(2):
        arc.write(tmp_path / name, tasks)
        assert same(arc.read(tmp_path / name), tasks)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [name]


def test_challenges_without_solutions_have_no_outputs(tmp_path: Path):
    tasks = arc.read(challenges(tmp_path / "c", solutions=False))
    assert [pair.output for task in tasks for pair in task.test] == [None] * 3


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    tree = json.loads(json.dumps(TREES["aaaa"]))
    change(tree)
    return tree


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (changed(lambda t: t["train"][1].pop("output")), ["demonstration 2", "no output"]),
        (changed(lambda t: t["test"][1].update(output=[[1], [2, 3]])), ["test pair 2, output", "row 2 has 2 cells"]),
        (changed(lambda t: t["train"][0].update(input=[[0, 12]])), ["demonstration 1, input", "12", "0 to 9"]),
        (changed(lambda t: t["train"][0].update(input=[[0]] * 31)), ["31x1 is larger"]),
        (changed(lambda t: t["train"][0].update(input="x")), ["not a list of rows"]),
        (changed(lambda t: t.update(test=[])), ["no list 'test'"]),
        ({"train": 3, "test": 4}, ["no list 'train'"]),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, tree: Any, words: list[str]):
    (tmp_path / "t.jsonl").write_text("\n" + json.dumps({"id": "aaaa", **tree}))
    with pytest.raises(UserError) as error:
        arc.read(tmp_path / "t.jsonl")
    for word in ["t.jsonl, line 2", "aaaa", *words]:
        assert word in str(error.value), error.value


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.jsonl", '{"id": "a"', "line 1 is not valid JSON"),
        ("t.jsonl", '{"train": []}', "line 1 has no task with an id"),
        ("t.jsonl", "", "holds no tasks"),
        ("t.json", "[1]", "neither a task nor a file of challenges"),
        ("t.csv", "a,b", "must end in .json"),
        ("t.json.gz", "not packed", "cannot be read"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, name: str, text: str, words: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        arc.read(tmp_path / name)


def test_missing_files_doubles_and_unfitting_solutions_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="there is no file or folder"):
        arc.read(tmp_path / "none.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.json files"):
        arc.read(tmp_path / "empty")
    text = lines(tmp_path / "t.jsonl").read_text()
    (tmp_path / "t.jsonl").write_text(text + "\n" + text)
    with pytest.raises(UserError, match="line 3: task aaaa is there twice"):
        arc.read(tmp_path / "t.jsonl")
    file = challenges(tmp_path / "c")
    (tmp_path / "c/arc_solutions.json").write_text(json.dumps({"aaaa": [[[1]]]}))
    with pytest.raises(UserError, match="task aaaa has not as many solutions"):
        arc.read(file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("arc_agi_1/training", (400, 416)),
        ("arc_agi_1/evaluation", (400, 419)),
        ("arc_agi_2/training", (1000, 1076)),
        ("arc_agi_2/evaluation", (120, 167)),
        ("concept_arc/corpus", (160, 480)),
        ("concept_arc/minimal", (16, 48)),
    ],
)
def test_the_real_tasks_are_those_of_the_official_files(tmp_path: Path, name: str, counts: tuple[int, int]):
    source, split = (hrm_data() / name).parent, name.split("/")[1]
    tasks = arc.read(source / f"{split}.jsonl.gz")
    assert (len(tasks), sum(len(task.test) for task in tasks)) == counts
    part = {"corpus": "corpus/", "minimal": "MinimalTasks/"}.get(split, f"data/{split}/")
    with tarfile.open(source / "raw_files.tar.xz") as packed:
        files = [m for m in packed.getmembers() if m.name.startswith(part) and m.name.endswith(".json")]
        for member in files:
            content = packed.extractfile(member)
            assert content is not None
            (tmp_path / Path(member.name).name).write_bytes(content.read())
    assert same(sorted(tasks, key=lambda t: t.id), sorted(arc.read(tmp_path), key=lambda t: t.id))
