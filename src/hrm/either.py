"""What asks which family a run is of, for those who do not: `hrm.load`, `hrm.train`, `hrm.evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hrm.files.records import Json
from hrm.puzzles.config import Config
from hrm.settings import Recipe, load_preset


def load(path: Path | str, **options: Any) -> Any:
    """The Solver of a run on puzzles (or of a shipped solver's name), or the TextModel of a run on text. `options` are
    those of hrm.puzzles.solving.load and hrm.text.load.load_text, such as device="cpu"."""
    from hrm.text.config import is_text

    if is_text(path):
        from hrm.text.load import load_text

        return load_text(path, **options)
    from hrm.puzzles.solving import load

    return load(path, **options)


def train(config: Recipe | str, path: Path | str, **options: Any) -> Json:
    """Train into the run folder `path`; returns the result. `config` is a Config, a TextConfig or a preset's name."""
    if isinstance(config, str):
        config = load_preset(config)
    if isinstance(config, Config):
        from hrm.puzzles.training.session import train

        return train(config, Path(path), **options)
    from hrm.text.config import TextConfig
    from hrm.text.training.session import train_text

    if not isinstance(config, TextConfig):
        raise TypeError(f"{type(config).__name__} is no Config and no TextConfig: use hrm.Learner for a LearnConfig")
    return train_text(config, Path(path), **options)


def solve(run: Path | str, puzzle: str, **strategy: Any) -> Any:
    """The Answer of a run, or of a shipped solver's name, to one puzzle; `strategy` such as restarts=8."""
    return load(run).solve(puzzle, **strategy)


def evaluate(model: Any, *data: Any, **options: Any) -> dict[str, Any]:
    """Measure a Solver on a PuzzleSet, or a text model with its tokenizer on packed text."""
    from hrm.puzzles.measuring import evaluate as puzzles
    from hrm.puzzles.solving import Solver
    from hrm.text.measuring.losses import evaluate as text

    measure: Any = puzzles if isinstance(model, Solver) else text
    return measure(model, *data, **options)
