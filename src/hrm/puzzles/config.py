"""Settings of a run on puzzles: frozen dataclasses, the one source of flags, presets and `config.yaml`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

from hrm.core import arch as architecture
from hrm.core.arch import ArchConfig, HaltingConfig, TokenLoss
from hrm.files.ranges import MANY, Range
from hrm.files.reading import nearest
from hrm.puzzles import kinds
from hrm.settings import Recipe
from hrm.training import config as training
from hrm.training.config import OptimConfig, TrainConfig

_INTERCHANGEABLE = ("sudoku", "mini_sudoku")
"""Tasks, and datasets of Reasoning Gym, whose symbols could change places."""


@dataclass(frozen=True)
class TaskConfig:
    """Which puzzles, and how many are made when no data is given."""

    kind: str = "sudoku"
    """sudoku, maze, arc, gym (Reasoning Gym), grid (any grid-to-grid data set, without augmentation or verifier), one
    that an installed package provides, or FILE.py:CLASS, a hrm.Task of your own, whose code is run."""
    box: Annotated[tuple[int, int], Range(2, 8)] = (3, 3)
    """Rows and columns of a Sudoku box: 2 2 is 4x4, 2 3 is 6x6, 3 3 is 9x9, 4 4 is 16x16."""
    size: Annotated[tuple[int, int], Range(1, 1024)] = (30, 30)
    """Rows and columns of a maze or grid, or of the board that ARC's grids stand on."""
    extra_clues: Annotated[float, Range(0, 1)] = 0.0
    """Up to this share of a generated Sudoku's blanks, drawn per puzzle, is given as well; 0 keeps it minimal."""
    min_path: Annotated[int, Range(1, 1 << 20)] = 110
    """Least number of steps on the shortest path of a generated maze."""
    least_size: Annotated[tuple[int, int] | None, Range(2, 1024)] = None
    """Rows and columns of the smallest generated mazes, which stand among walls; default: all have the same size."""
    corridors: Annotated[float, Range(0, 1)] = 0.0
    """Share of the generated mazes that are winding corridors with few, long loops; the others have random walls."""
    waves: bool = False
    """Mazes are learned as a wave: after every segment the model should say as much as can be known by then, first
    arrows towards the goal, then the marks that follow them from the start."""
    vocabulary: Annotated[int, Range(2, 1_000_000)] = 12
    """Number of tokens of a grid task, padding included."""
    gym: str = "n_queens"
    """Dataset of Reasoning Gym."""
    gym_options: tuple[str, ...] = ()
    """Its options, each as NAME=VALUE: n=6 max_remove=5."""
    puzzles: Annotated[int, Range(1, 10**9)] = 1000
    """Training puzzles to generate when no data is given."""
    holdout: Annotated[int, Range(0, 10**9)] = 500
    """Puzzles set aside (whole symmetry classes) to measure and to choose the best checkpoint."""
    augment: bool = True
    """Draw a random symmetry of the puzzle each time it is shown."""
    reveal: Annotated[float, Range(0, 1)] = 0.0
    """Share of the shown puzzles that get a random share of their blanks filled in."""
    copies: Annotated[int, Range(1, 100_000)] = 1000
    """Augmented copies of each ARC task, the first as it is; each has a task embedding of its own."""
    dihedral: bool = True
    """Turn and mirror the copies of ARC tasks."""
    colours: bool = True
    """Exchange colours 1 to 9 in the copies of ARC tasks."""
    translate: Annotated[float, Range(0, 1)] = 0.7
    """Share of the shown ARC pairs that stand at a random place of the board instead of in its corner."""
    leaks: Literal["refuse", "drop", "allow"] = "refuse"
    """What happens to ARC training tasks that hold a test pair of the tasks to answer (--validation)."""


@dataclass(frozen=True)
class LossConfig(TokenLoss):
    """The token loss of puzzles."""

    kind: Literal["stablemax", "softmax"] = "stablemax"
    """Stablemax for small data, softmax for large."""


@dataclass(frozen=True)
class DeductionConfig:
    """How a model learns to deduce (--arch.deduces): it kills candidates, call by call, in states that it has made
    itself (lattice deduction, arXiv 2605.08605)."""

    segments: Annotated[int, Range(1, 1000)] = 6
    """Segments of a call, each with a readout and a loss."""
    solving_segments: Annotated[int, Range(1, 1000)] = 2
    """Segments of a call when puzzles are solved."""
    first_segments: Annotated[int, Range(1, 1000)] = 2
    """Those of the first calls; they grow over the first third of the training."""
    kill: Annotated[float, Range(0, 1)] = 0.1
    """A candidate that is less likely true than this is killed after a call; when puzzles are solved, the first kills
    need to be surer (docs/deducing.md)."""
    true_weight: Annotated[float, Range(0, 10**6)] = 4.0
    """Weight of the loss of true candidates."""
    false_weight: Annotated[float, Range(0, 10**6)] = 0.5
    """Weight of the loss of the others."""
    symbol_weight: Annotated[float, Range(0, 10**6)] = 1.0
    """Weight of the cross-entropy of each cell's symbol."""
    contradiction_weight: Annotated[float, Range(0, 10**6)] = 0.3
    """Weight of the loss of the value that says whether a true candidate is dead."""
    temperature: Annotated[float, Range(0.01, 100)] = 1.5
    """Of the probabilities from which a decision is drawn when a call kills nothing."""
    on_policy: bool = True
    """Off: every call begins with a puzzle as it is shown."""
    carry: bool = True
    """The states go from call to call; off: only the candidates do."""
    linger: Annotated[float, Range(0, 1)] = 0.7
    """Chance to stay of a state that contradicts the answer, at each call."""


@dataclass(frozen=True)
class Config(Recipe):
    """A whole run on puzzles. Order of precedence: class default < preset < file < flag."""

    family: ClassVar = "puzzle"
    told: ClassVar = "on puzzles"
    use: ClassVar = "solve it with hrm solve, measure it with hrm eval"
    folder: ClassVar = ""
    lists: ClassVar = {"task.gym_options": "task.gym"}
    fixed: ClassVar = ("arch.", "task.", "seed", "optim.name")

    task: TaskConfig = field(default_factory=TaskConfig)
    arch: ArchConfig = field(default_factory=ArchConfig)
    halting: HaltingConfig = field(default_factory=HaltingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    data: str | None = None
    """File of puzzles or dataset folder to train on; ARC: task files, joined by commas; default: puzzles are made."""
    validation: str | None = None
    """File of puzzles or dataset folder to measure on; default: puzzles set aside from the training data. For ARC the
    tasks to answer: their demonstrations are trained on, their test pairs never."""
    allow_overlap: bool = False
    """Measure also on puzzles of which symmetric variants are trained on."""
    seed: Annotated[int, Range(0, MANY)] = 0
    """Everything random follows from it."""
    deduction: DeductionConfig = field(default_factory=DeductionConfig)

    def problems(self) -> Iterator[str]:
        """One sentence per combination that cannot work: the flag, why, and what to use."""
        task, arch, train = self.task, self.arch, self.train
        box, size = (" ".join(map(str, sides)) for sides in (task.box, task.size))

        if sentence := kinds.problem(task.kind):
            yield sentence
        if task.kind == "sudoku" and math.prod(task.box) > 16:
            yield f"--task.box {box} makes boxes of {math.prod(task.box)} cells: use at most 16, such as 3 3"
        if task.kind == "maze" and task.min_path >= math.prod(task.size):
            yield f"--task.min-path {task.min_path} does not fit into --task.size {size}: lower it or enlarge the maze"
        if task.least_size is not None and any(a > b for a, b in zip(task.least_size, task.size, strict=True)):
            least = " ".join(map(str, task.least_size))
            yield f"--task.least-size {least} is larger than --task.size {size}: lower it or enlarge the maze"
        if task.kind == "maze" and task.waves and arch.mixer != "neighbours":
            yield "--task.waves teaches what a cell can know from its neighbours: use --arch.mixer neighbours"
        if task.kind == "maze" and task.waves and arch.tied:
            yield "--arch.tied has no weights for the arrows of --task.waves: use --arch.no-tied"
        if task.kind == "arc":
            yield from _arc_problems(self)
        for flag, share in (("--task.reveal", task.reveal), ("--task.extra-clues", task.extra_clues)):
            if task.kind in kinds.KINDS and task.kind != "sudoku" and share > 0:
                yield f"{flag} {share} fills in blanks of a Sudoku, and a {task.kind} has none: set it to 0"

        yield from architecture.problems(arch, self.halting)
        if arch.tokens == "candidates":
            alike = task.kind not in kinds.KINDS or (task.gym if task.kind == "gym" else task.kind) in _INTERCHANGEABLE
            if not alike:
                yield f"--arch.tokens candidates needs interchangeable symbols, and a {task.kind} has none: use cells"
            if self.loss.label_smoothing:
                what = "tokens that --arch.tokens candidates rules out"
                yield f"--loss.label-smoothing spreads over {what}: use 0 or cells"
        yield from training.problems(self.optim, train)
        if train.learn == "q":
            yield "--train.learn q is for models of text: use all, or embedding"
        if train.target_accuracy > 0 and train.eval_puzzles == 0:
            yield "--train.target-accuracy is measured on held-out puzzles: use --train.eval-puzzles 500, not 0"
        if train.patience > 0 and train.eval_puzzles == 0:
            yield "--train.patience counts measurements of held-out puzzles: use --train.eval-puzzles 500, not 0"
        for flag, path in (("--data", self.data), ("--validation", self.validation)):
            if path is not None and not path.strip():
                yield f"{flag} is empty: name a file of puzzles or a dataset folder, or leave the flag out"


@dataclass(frozen=True)
class Strategy:
    """What is tried for a puzzle at test time, and when it is enough."""

    max_segments: Annotated[int | None, Range(1, 100_000)] = None
    """Segments after which an attempt is given up; default: as in training, 3,000 where the model deduces, or the
    shipped solver's own."""
    restarts: Annotated[int | None, Range(0, 100_000)] = None
    """New attempts from other initial states for puzzles that were given up; default: 0, or the shipped solver's."""
    views: Annotated[int | None, Range(1, 100_000)] = None
    """Ways to look at a puzzle, taken in turn: 1 is as asked, more are random symmetries, mapped back; default: 1, or
    the shipped solver's."""
    guesses: Annotated[int | None, Range(0, 100_000)] = None
    """After these, attempts with a blank or two filled in as the model guesses;
    where it deduces, the most decisions it may make; default: 0, 100,000 where it deduces, or the shipped solver's."""
    budget: Annotated[int | None, Range(1, 10**12)] = None
    """Segments that all attempts at a puzzle may take together."""
    stop: tuple[Literal["verifier", "q", "residual"], ...] = ("verifier",)
    """What ends an attempt early: the verifier, the Q head (always without verifier), a state that no longer moves."""
    margin: Annotated[float, Range(-(10**6), 10**6)] = 0.0
    """How much more halting must be worth than continuing before the Q head stops."""
    residual: Annotated[float, Range(0, 10**6)] = 0.01
    """Relative change of the slow state below which it no longer moves."""
    vote: Literal["majority", "q", "first"] = "majority"
    """Which readout counts when none is verified: the most frequent, the most believed, or the first to halt."""

    @classmethod
    def of(cls, named: Mapping[str, Any]) -> Strategy:
        """The strategy with these fields; TypeError that names the nearest for one that there is not."""
        known = [each.name for each in fields(cls)]
        for name in named:
            if name not in known:
                raise TypeError(f"there is no option '{name}'{nearest(name, known) or ': use ' + ', '.join(known)}")
        return cls(**named)


def _arc_problems(config: Config) -> Iterator[str]:
    task = config.task
    rows, columns = task.size
    if rows != columns:
        yield f"--task.size {rows} {columns} has no room for turned copies of ARC tasks: use {max(rows, columns)} twice"
    most = 8 if task.dihedral else 1
    if task.augment and task.copies > most and not task.colours:
        yield f"--task.copies {task.copies} differ by nothing but {most} symmetries: use {most}, or --task.colours"
    if config.arch.task_positions < 1:
        yield "--arch.task-positions 0 leaves no task embedding, without which ARC cannot be answered: use 1"
