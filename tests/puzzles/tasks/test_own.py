"""The promises to a task from outside: every verb takes it, and its code runs only where this command line names it."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import pytest

import hrm
from hrm.cli.main import main
from hrm.files.reading import UserError
from hrm.puzzles.config import Config, TaskConfig
from hrm.puzzles.kinds import KINDS, bare
from hrm.puzzles.tasks import build
from tests.puzzles.solving.small import run_folder

ROOT = Path(__file__).parents[3]
NONOGRAM = f"{ROOT / 'examples/nonogram.py'}:Nonogram"
LATIN = f"{ROOT / 'examples/latin_squares.py'}:LatinSquare"
TINY = [
    *("--task.puzzles", "40", "--task.holdout", "8", "--train.steps", "2", "--train.batch-size", "8"),
    *("--optim.warmup-steps", "1", "--train.checkpoint-every", "1", "--train.device", "cpu"),
]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What stands on stderr."""
    return capsys.readouterr().err


@pytest.mark.slow
def test_wrong_cells_are_counted_only_by_a_task_that_knows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "sudoku-4x4", "--task.kind", LATIN, "--out", "run", *TINY]) == 0
    assert said(capsys).endswith(f"try: hrm solve run PUZZLE --task {LATIN}\n")
    assert main(["solve", "run", "1" + "." * 24, "--task", LATIN, "--watch", "--max-segments", "1"]) == 0
    drawn = capsys.readouterr().out
    assert "confidence" in drawn and "wrong cells" not in drawn


@pytest.mark.slow
def test_a_nonogram_is_trained_solved_drawn_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "build", "--task", NONOGRAM, "--puzzles", "4", "--test", "4", "--out", "p.csv"]) == 0
    assert main(["data", "check", "p.csv", "--against", "p_test.csv", "--task", NONOGRAM]) == 0
    assert main(["train", "gym-kakurasu", "--task.kind", NONOGRAM, "--out", "run", *TINY]) == 0
    assert "kind: nonogram.py:Nonogram\n" in Path("run/config.yaml").read_text("utf-8")

    capsys.readouterr()
    assert main(["data", "show", "p.csv", "--task", NONOGRAM, "--json"]) == 0
    question = json.loads(capsys.readouterr().out)["question"]
    assert main(["solve", "run", question, "--task", NONOGRAM, "--watch", "--html", "out.html", "--views", "2"]) == 0
    drawn, page = capsys.readouterr().out, Path("out.html").read_text("utf-8")
    assert "wrong cells" in drawn and "!" in drawn and "8x8 Nonogram" in page and '"rules":true' in page
    assert main(["eval", "run", "--data", "p_test.csv", "--task", NONOGRAM, "--json", "--allow-overlap"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == 4 and result["solved"] + result["unsolved"] == 4 and result["wrong"] == 0

    # Wherever the file lies, the run is gone on with when the command line names it.
    shutil.copy(ROOT / "examples/nonogram.py", "nonogram.py")
    assert main(["train", "--resume", "run", "--task.kind=nonogram.py:Nonogram", "--train.steps", "3"]) == 0
    assert main(["train", "--resume", "run", "--train.steps", "4"]) == 2
    assert "--task.kind" in said(capsys)
    assert main(["data", "check", "run", "--task", "nonogram.py:Nonogram"]) == 0


def test_a_nonogram_knows_its_rules_and_its_symmetry():
    task = build(TaskConfig(), named=NONOGRAM)
    puzzle = task.generate(np.random.default_rng(0))
    task.check(puzzle.question)
    assert task.verify(puzzle.question, puzzle.answer) and task.judge(puzzle.question, puzzle.answer)
    assert np.array_equal(task.parse(task.format(puzzle.answer)), puzzle.answer)
    filled, empty = task.names.index("#"), task.names.index("x")
    for cell in np.flatnonzero(puzzle.question == task.blank):
        other = puzzle.answer.copy()
        other[cell] = filled + empty - other[cell]
        assert not task.verify(puzzle.question, other) and task.wrong(puzzle.question, other)
    with pytest.raises(hrm.PuzzleError, match="row 1"):
        wrong = puzzle.question.copy()
        wrong[3 * 8 : 3 * 8 + 3] = task.names.index("5")
        task.check(wrong)


EVIL = """\
from pathlib import Path
from hrm.puzzles.tasks.sudoku import Sudoku
Path({mark!r}).write_text("ran")
class X(Sudoku): pass
"""


@pytest.mark.parametrize("kind", ["evil.py:X", "./evil.py:X", "run/evil.py:X", "{folder}/evil.py:X", "evil:X", "evil"])
def test_the_code_that_a_run_or_recipe_names_is_never_loaded(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    run, mark = run_folder(tmp_path / "run"), tmp_path / "mark"
    for place in (tmp_path, run):
        (place / "evil.py").write_text(EVIL.format(mark=str(mark)), "utf-8")
    kind = kind.format(folder=tmp_path)
    config = run / "config.yaml"
    config.write_text(config.read_text("utf-8").replace("kind: sudoku", f"kind: {kind}"), "utf-8")
    (tmp_path / "recipe.yaml").write_text(f"parent: sudoku-4x4\ntask: {{kind: '{kind}'}}\n", "utf-8")
    (tmp_path / "p.csv").write_text("question,answer\n2..14..232.41.2.,2341413232141423\n", "utf-8")
    (run / "data/train").mkdir(parents=True)
    (run / "data/train/dataset.json").write_text("{}", "utf-8")
    commands = [
        ["solve", "run", "2..14..232.41.2."],
        ["eval", "run", "--data", "p.csv"],
        ["data", "check", "run"],
        ["train", "--resume", "run"],
        ["train", "recipe.yaml", "--out", "new"],
        ["train", "recipe.yaml", "--out", "new", "--dry-run"],
    ]
    for command in commands:
        assert main(command) == 2, command
        lines = said(capsys).splitlines()
        # The check of a run says first that its data is not what was written.
        assert "evil" in lines[-1] and len(lines) == 1 + (command[0] == "data"), (command, lines)
    with pytest.raises(UserError, match="evil"):
        hrm.load(run)
    with pytest.raises(UserError, match="evil"):
        hrm.train(hrm.load_preset(tmp_path / "recipe.yaml"), tmp_path / "new")
    main(["config", "check", "recipe.yaml"])
    assert not mark.exists()
    # The same file, named by the one who types.
    assert main(["solve", "run", "2..14..232.41.2.", "--task", "evil.py:X"]) == 0 and mark.exists()


def test_a_file_that_is_no_task_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("import hrm\nclass Mine(hrm.Task): pass\nclass Other: pass\n", "utf-8")
    Path("broken.py").write_text("def (", "utf-8")
    for name, words in {
        "missing.py:Mine": "no file missing.py",
        "broken.py:Mine": "broken.py cannot be loaded",
        "mine.py:Min": "did you mean",
        "mine.py:Other": "extends hrm.Task",
        "sudoko": "did you mean 'sudoku'",
        "arc": "hrm arc",
    }.items():
        assert main(["data", "build", "--task", name, "--out", "p.csv"]) == 2
        error = said(capsys)
        assert words in error and error.count("\n") == 1
    assert main(["train", "sudoku-4x4", "--task.kind", "missing.py:Mine", "--out", "run"]) == 2
    assert "missing.py" in said(capsys) and not Path("run").exists()


def test_another_task_than_the_run_was_trained_on_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="trained on 16 cells and 6 tokens, and latin square has 25 and 7"):
        hrm.load(run_folder(tmp_path / "run"), task=LATIN)


def test_an_installed_package_provides_tasks_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    package = tmp_path / "latin_package"
    package.mkdir()
    shutil.copy(ROOT / "examples/latin_squares.py", package / "__init__.py")
    facts = tmp_path / "latin_package-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: latin-package\nVersion: 1.0\n", "utf-8")
    points = "latin = latin_package:LatinSquare\nsudoku = latin_package:LatinSquare\nodd = latin_package:np\n"
    (facts / "entry_points.txt").write_text(f"[hrm.tasks]\n{points}", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert any(found.name == "latin-package" for found in distributions())
    task = build(TaskConfig(kind="latin"))
    assert task.name == "latin square" and task.shape == (5, 5)
    # Ours come first, and what is no task is refused.
    assert build(TaskConfig(kind="sudoku")).name == "sudoku"
    with pytest.raises(UserError, match="extends"):
        build(TaskConfig(kind="odd"))
    assert main(["train", "sudoku-4x4", "--task.kind", "latin", "--dry-run"]) == 0
    assert main(["data", "build", "--task", "latin", "--puzzles", "3", "--out", str(tmp_path / "p.csv")]) == 0


def test_every_kind_of_the_list_is_made_and_named_in_the_help_and_the_guide():
    told = (ROOT / "src/hrm/puzzles/config.py").read_text("utf-8").partition("kind: str")[2].partition("box:")[0]
    guide = (ROOT / "docs/your-own-task.md").read_text("utf-8")
    for kind in KINDS:
        assert isinstance(build(TaskConfig(kind=kind, size=(6, 6))), hrm.Task)
        assert kind in told and kind in guide
    assert Config().task.kind in KINDS
    assert bare("a/b/mine.py:Mine") == "mine.py:Mine" and bare("sudoku") == "sudoku"


class Bare(hrm.Task):
    """Nothing but a grid."""

    def __init__(self) -> None:
        super().__init__(2, 3, ["?", "red", "10", "11", "a"])


class Still(Bare):
    """One rule: no cell changes."""

    verifies = True

    def conflicts(self, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
        return question != answer


def test_every_part_of_a_task_has_a_default():
    task, rng = Bare(), np.random.default_rng(0)
    question = task.parse("red 10 11 a red 10")
    assert question.tolist() == [1, 2, 3, 4, 1, 2] and task.format(question) == "red 10 11 a red 10"
    assert task.name == "bare" and len(set(task.vocabulary)) == 5 and task.symbols == range(1, 5)
    assert not task.verify(question, question) and task.wrong(question, question[::-1]) == [] and not task.marks
    assert task.judge(question, question) is None and task.verdicts(question, question, question) == {}
    assert task.solution(question) is None and task.blank is None
    with pytest.raises(UserError, match="--data"):
        task.generate(rng)
    assert np.array_equal(task.augment(question[None], question[None], rng.random((1, 0)))[0][0], question)
    assert np.array_equal(task.view(rng.random(0)).apply(question), question)
    assert task.look().labels == ["", "red", "10", "11", "a"] and task.look().blocks == []
    task.check(question)


def test_conflicts_alone_are_rules_enough():
    task = Still()
    question = task.parse("red red red red red red")
    other = task.parse("red red red red red a")
    assert task.marks and task.verify(question, question)
    assert not task.verify(question, other) and task.wrong(question, other) == [5]


OWN = """import hrm, numpy as np
class X(hrm.Task):
    verifies = True
    def __init__(s{init}): super().__init__(2, 2, "?.12")
    def generate(s, rng): {generate}
    def verify(s, question, answer): return {{}}["key"]
"""
SOUND = "return hrm.Puzzle(np.array([1, 2, 3, 2]), np.array([2, 2, 3, 2]))"


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (OWN.format(init="", generate="raise ValueError('oops')"), "e.py: X.generate failed (oops): correct it"),
        (OWN.format(init="", generate="return None"), "e.py: X.generate gives None, no hrm.Puzzle: correct it"),
        (OWN.format(init="", generate=SOUND.replace(", 2])", "])")), "gives a wrong question (shape (3,), int"),
        (OWN.format(init="", generate=SOUND.replace("[2,", "[9,")), "gives the token 9 in its answer: use 0 to 3"),
        (OWN.format(init=", n", generate=SOUND), "e.py: X cannot be made (TypeError: "),
        (OWN.format(init="", generate=SOUND).replace("super().__init__", "print"), "does not call super().__init__("),
        ("import sys; sys.exit(7)", "e.py cannot be loaded: it calls exit(7); correct it"),
    ],
)
def test_a_mistake_in_a_task_is_named_with_file_and_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: str, sentence: str
):
    monkeypatch.chdir(tmp_path)
    Path("e.py").write_text(code)
    build_one = ["data", "build", "--task", "e.py:X", "--puzzles", "1", "--out", "x.csv"]
    assert main(build_one) == 2
    found = said(capsys)
    assert sentence in found and found.count("\n") == 1 and "--debug" not in found
    assert main([*build_one, "--debug"]) == 2 and "Traceback" in said(capsys)


def test_a_mistake_in_the_rules_of_a_task_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("e.py").write_text(OWN.format(init="", generate=SOUND))
    assert main(["data", "build", "--task", "e.py:X", "--puzzles", "1", "--out", "x.csv"]) == 0
    assert main(["data", "check", "x.csv", "--task", "e.py:X"]) == 2
    assert "e.py: X.verify failed (KeyError: 'key'): correct it" in said(capsys)
