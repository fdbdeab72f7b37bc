"""Models to look into: puzzles and text, small and untrained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hrm.cli.main import main
from hrm.insight.subject import Puzzles, Subject, Text
from hrm.puzzles import tasks
from hrm.puzzles.config import TaskConfig
from hrm.puzzles.data import PuzzleSet
from hrm.puzzles.model import PuzzleModel, board_of
from hrm.puzzles.solving import Solver
from hrm.text.data import Packed, encode, make_tokenizer
from hrm.text.load import TextModel
from tests.core import small as core
from tests.text.model import small as text

PROSE = "The cat sat on the mat and saw the rat that ran. " * 40


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 4x4 Sudokus, of two steps."""
    path = tmp_path_factory.mktemp("runs") / "four"
    words = "--task.puzzles 60 --task.holdout 20 --train.steps 2 --train.eval-every 2 --train.checkpoint-every 2"
    assert main(["train", "sudoku-4x4", *words.split(), "--optim.warmup-steps", "1", "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved character model, beside a text."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    tokenizer = make_tokenizer("char", [PROSE])
    made = text.model(vocab_size=len(tokenizer), max_position_embeddings=64, eos_token_id=tokenizer.eos_token_id)
    made.float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder.parent / "text.txt").write_text(PROSE)
    return folder


def sudokus(rows: int = 12, dtype: torch.dtype = torch.float64, **changes: object) -> Puzzles:
    """A model with random weights on 4x4 Sudokus."""
    task = tasks.build(TaskConfig(kind="sudoku", box=(2, 2)))
    torch.manual_seed(5)
    arch = core.arch(positions="none", **changes)
    model = PuzzleModel(arch, board_of(task)).to(dtype).eval()
    model.dtype = dtype
    rng = np.random.default_rng(0)
    inputs = rng.integers(1, len(task.vocabulary), (rows, 16))
    labels = rng.integers(task.symbols.start, task.symbols.stop, (rows, 16))
    ids, groups = np.zeros(rows, np.int32), np.arange(rows, dtype=np.int32)
    return Puzzles(Solver(model, task, max_segments=3), PuzzleSet(inputs, labels, ids, groups, None, "random"))


@pytest.fixture
def words(tmp_path: Path) -> Iterator[Text]:
    """A model with random weights on a text."""
    tokenizer = make_tokenizer("char", [PROSE])
    model = text.model(5, vocab_size=len(tokenizer), max_position_embeddings=64)
    packed = Packed.write(tmp_path / "packed", tokenizer, encode(tokenizer, [PROSE]))
    yield Text(TextModel(model, tokenizer, "random"), packed, 16, "text")


@pytest.fixture(params=["puzzles", "text"])
def subject(request: pytest.FixtureRequest) -> Subject:
    """Both families."""
    return sudokus() if request.param == "puzzles" else request.getfixturevalue("words")
