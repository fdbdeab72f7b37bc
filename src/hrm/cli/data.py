"""`hrm data build|check|show`: puzzle files; tokenizer and pack are in text_data.py, clean in clean.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hrm.cli import clean, text_data
from hrm.cli.clean import CleanOptions as CleanOptions
from hrm.cli.options import Positional, choose, parse
from hrm.cli.text_data import PackOptions as PackOptions
from hrm.cli.text_data import TokenizerOptions as TokenizerOptions
from hrm.console import Console
from hrm.files import names
from hrm.files.output import to_json
from hrm.files.reading import UserError
from hrm.puzzles import data, tasks
from hrm.puzzles.config import TaskConfig
from hrm.puzzles.data import npy_folder
from hrm.puzzles.data.storage import is_csv
from hrm.runs import lock
from hrm.settings import kind_of
from hrm.terminal import report

_SHOWN = 20  # problems printed one by one


@dataclass(frozen=True)
class TaskOptions:
    """What the puzzles of a file are."""

    task: str | None = None
    """sudoku, maze, grid or gym, with --box, --size, --vocabulary or --gym, or FILE.py:CLASS, a task of your own, whose
    code is run; default: what the file looks like."""
    box: tuple[int, int] = (3, 3)
    """Rows and columns of a Sudoku box: 2 2 is 4x4, 2 3 is 6x6, 3 3 is 9x9, 4 4 is 16x16."""
    size: tuple[int, int] = (30, 30)
    """Rows and columns of a maze or grid."""
    vocabulary: int = 12
    """Number of tokens of a grid task, padding included."""
    gym: str | None = None
    """Dataset of Reasoning Gym; means --task gym."""
    gym_options: tuple[str, ...] = ()
    """Its options, each as NAME=VALUE: n=6 max_remove=5."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions(TaskOptions):
    """Make puzzles, convert between CSV files and dataset folders, or join several into one."""

    out: str
    """A .csv or .csv.gz file (test puzzles go beside it as NAME_test.csv), or a dataset folder in HRM's form."""
    task: str | None = None
    """sudoku, maze, grid, gym (Reasoning Gym) or FILE.py:CLASS; default: what --convert looks like, or sudoku."""
    min_path: int = TaskConfig.min_path
    """Least number of steps on the shortest path of a maze."""
    puzzles: int = 1000
    """Training puzzles to make."""
    test: int = 0
    """Test puzzles to make; none is a symmetric variant of a training puzzle."""
    seed: int = 0
    """The same seed makes the same puzzles."""
    convert: tuple[str, ...] = ()
    """Read the puzzles from these files or dataset folders instead of making them. A question in several counts once;
    --test then sets some aside."""
    limit: int | None = None
    """Take only this many training puzzles of each --convert, the first ones."""
    overwrite: bool = False
    """Replace files that exist."""
    json: bool = False
    """Print the result as JSON."""


OfTask = Annotated[TaskOptions, tyro.conf.arg(name="")]
"""Its flags, without a prefix."""
TASK = tuple(item.name for item in fields(TaskOptions))


@dataclass(frozen=True)
class CheckOptions:
    """Find wrong shapes, values, questions and answers, duplicates, and overlap of test and training puzzles."""

    path: Positional[str]
    """File of puzzles, dataset folder or folder of packed text; or a run, to see whether its files are still intact."""
    against: str | None = None
    """Another file or folder that must share no puzzle with this one, symmetric variants included."""
    of: OfTask = field(default_factory=TaskOptions)
    json: bool = False
    """Print the problems as JSON."""


@dataclass(frozen=True)
class ShowOptions:
    """Draw puzzles with their answers, or print packed text."""

    path: Positional[str]
    """File of puzzles (text, CSV, XML) or dataset folder, or a folder of packed text."""
    row: int = 1
    """The first puzzle or document to show, counted from 1."""
    count: int = 1
    """How many to draw."""
    split: Literal["train", "test"] = "train"
    """Which split of a dataset folder."""
    of: OfTask = field(default_factory=TaskOptions)
    json: bool = False
    """Print question, answer and rating as one line of JSON each."""


def main(args: list[str]) -> int:
    text = {"tokenizer": text_data.tokenizer, "pack": text_data.pack, "clean": clean.clean}
    return choose("data", {"build": build, "check": check, "show": show, **text}, args)


def build(args: list[str]) -> int:
    """Make puzzles, convert between CSV and dataset folder, or join several."""
    example = "hrm data build --task sudoku --box 3 3 --puzzles 1000 --test 500 --out data/sudoku"
    options = parse("data build", BuildOptions, args, example=example)
    names.apart(options.out, options.convert)
    with lock.place(Path(options.out), "data build") as place:
        return _build(options, place)


def _build(options: BuildOptions, place: Path) -> int:
    for path in data.targets(options.out):
        if path.exists() and not options.overwrite:
            raise UserError(f"{path} exists: choose another --out or add --overwrite")
    if not is_csv(options.out) and os.path.lexists(options.out) and not npy_folder.splits(Path(options.out)):
        raise UserError(f"{options.out} is no dataset folder: choose another --out, it is not replaced")
    if options.limit is not None and not options.convert:
        raise UserError("--limit takes the first puzzles of each --convert: use it with --convert")
    task = _task(options, options.convert[0] if options.convert else None)
    console = Console(stderr=True)
    duplicates = 0
    if options.convert:
        train, test, duplicates = data.join(options.convert, task, options.limit)
        if options.test:
            if test is not None:
                raise UserError(f"{options.convert[0]} has a test split already: leave out --test")
            train, test = data.split(train, task, options.test, options.seed, console)
    else:
        train, test = data.generate(task, [options.puzzles, options.test], options.seed, console)
    test = test if test is not None and len(test.inputs) else None
    counts = {"train": len(train.inputs), "test": 0 if test is None else len(test.inputs)}
    if is_csv(options.out):
        written = [str(path) for path in data.write(options.out, task, train, test)]
    else:
        data.write_folder(place / "new", task, train, test)
        _replace(Path(options.out), place)
        written = [options.out]
    if options.json:
        print(to_json({"written": written, **counts, **({"duplicates": duplicates} if duplicates else {})}))
    else:
        left_out = f"; {duplicates:,} that ask the same as an earlier one left out" if duplicates else ""
        print(f"{' and '.join(written)}: {counts['train']} training and {counts['test']} test puzzles{left_out}")
    return 0


def _replace(out: Path, place: Path) -> None:
    """Replace a dataset folder with the finished new one; other files in it stay."""
    out.mkdir(parents=True, exist_ok=True)
    (place / "old").mkdir()
    for name in ("train", "test", "identifiers.json"):
        if os.path.lexists(out / name):
            os.rename(out / name, place / "old" / name)
        if os.path.lexists(place / "new" / name):
            os.rename(place / "new" / name, out / name)


def check(args: list[str]) -> int:
    """Find problems in a file or folder, and overlap with another."""
    example = "hrm data check test.csv --against train.csv"
    options = parse("data check", CheckOptions, args, example=example, main=TASK)
    if text_data.is_text(options.path):
        return text_data.check(options.path, options.json)
    if (Path(options.path) / "run.json").is_file():
        found = _problems_of_run(Path(options.path), options.against, options.of.task)
    else:
        found = data.problems(options.path, _task(options.of, options.path), options.against, Console(stderr=True))
    if options.json:
        everything = list(found)
        print(to_json({"path": options.path, "count": len(everything), "problems": everything}))
        return 2 if everything else 0
    count = 0
    for problem in found:
        count += 1
        if count <= _SHOWN:
            report(str(problem))
    if count > _SHOWN:
        report(f"... and {count - _SHOWN} more")
    if not count:
        print(f"{options.path}: no problems")
    return 2 if count else 0


def _problems_of_run(path: Path, against: str | None, task: str | None) -> Iterator[str]:
    """Changed files of a run, and problems with the puzzles stored in it."""
    from hrm import inspection
    from hrm.puzzles.config import Config
    from hrm.runs import Run

    yield from inspection.problems(path)
    if kind_of(path) is Config and npy_folder.splits(path / "data"):
        run = Run.open(path, Config)
        yield from data.problems(run.data, tasks.build(run.config.task, named=task), against, Console(stderr=True))
    elif against is not None:
        raise UserError(f"{path} keeps no puzzles: --against compares those of a run that does")


def show(args: list[str]) -> int:
    """Draw puzzles with their answers."""
    example = "hrm data show data/sudoku.csv --row 17 --count 2"
    options = parse("data show", ShowOptions, args, example=example, main=TASK)
    if text_data.is_text(options.path):
        return text_data.show(options.path, options.split, options.row, options.count, options.json)
    task = _task(options.of, options.path)
    puzzles = data.read(options.path, task, options.split)
    if not 1 <= options.row <= len(puzzles.inputs) or options.count < 1:
        raise UserError(f"--row must be from 1 to {len(puzzles.inputs)} and --count at least 1")
    console = Console()
    for row in range(options.row - 1, min(options.row - 1 + options.count, len(puzzles.inputs))):
        # -100 marks cells that do not count; drawn as padding.
        question, answer = puzzles.inputs[row], puzzles.labels[row].clip(0)
        rating = None if puzzles.ratings is None else puzzles.ratings[row].item()
        if options.json:
            facts = {"row": row + 1, "question": task.format(question), "answer": task.format(answer), "rating": rating}
            print(to_json(facts))
        else:
            console.print(f"puzzle {row + 1}" + ("" if rating is None else f", rating {rating}"), highlight=False)
            console.print(task.draw(question))
            console.print(task.draw(question, answer))
    return 0


def _task(options: TaskOptions, path: str | None) -> tasks.Task:
    """The task named by the flags, or the one recognised from the file."""
    if options.gym is not None and options.task not in (None, "gym"):
        raise UserError(f"--task {options.task} is no dataset of Reasoning Gym: leave out --gym, or use --task gym")
    if options.task == "gym" and options.gym is None:
        raise UserError("--task gym needs the dataset's name: add for example --gym n_queens")
    kind = "gym" if options.gym is not None else options.task
    if kind is None and path is not None:
        return tasks.build(data.infer(path))
    if kind == "arc":
        raise UserError("--task arc: tasks of ARC have verbs of their own, hrm arc build|check|show")
    config = TaskConfig(
        box=options.box, size=options.size, min_path=getattr(options, "min_path", TaskConfig.min_path),
        vocabulary=options.vocabulary, gym=options.gym or TaskConfig.gym, gym_options=options.gym_options,
    )  # fmt: skip
    return tasks.build(config, named=kind or "sudoku")
