"""How long a book would take: a process of its own begins to learn a piece of it for about ten seconds.

python -m hrm.serve.studio.probing < WISH.json > TIMED.json
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from hrm.files.output import to_json
from hrm.files.reading import UserError
from hrm.files.records import Json, Record, taken

SECONDS = 10.0
"""How long updates are counted where the learner does not try one by itself: on accelerators."""
_FIRST = 3
"""Updates that are not counted: they prepare what later ones use."""


@dataclass(frozen=True)
class Probe(Record):
    """What is to be tried, in an empty folder `place` that holds the piece `head.txt`."""

    place: str
    run: str
    """The learner that would read it; empty: a new one of this shape."""
    arch: dict[str, int]
    settings: dict[str, object]


@dataclass(frozen=True)
class Timed(Record):
    """What it found."""

    seconds_per_update: float
    """Of the new book's rows alone."""
    measuring: float
    """Seconds of a measurement of one book."""
    parameters: int
    replay: float
    """Rows of older books for each of the new one."""
    books: int
    """That the learner has read."""
    stride: int
    batch_size: int


class _Enough(Exception):
    """The probe knows what it wanted to."""


def timed(probe: Probe) -> Timed:
    """Try it; UserError for a model that cannot be made."""
    from hrm.runs import Run, checkpoint
    from hrm.settings import changed
    from hrm.text import learned
    from hrm.text.config import LearnConfig
    from hrm.text.learning.learner import Learner

    books, config = 0, LearnConfig()
    if probe.run:
        run = Run.open(probe.run, LearnConfig)
        config = run.config
        where = checkpoint.newest(run.checkpoints, lambda text: None)
        if where is not None:
            state = learned.load(where, ())[1]
            grown = {f"{kind}_layers": state.model[f"{kind}_layers"] for kind in ("fast", "slow")}
            config, books = replace(config, arch=replace(config.arch, **grown)), len(state.books)  # type: ignore[arg-type]
    arch = {f"arch.{name}": value for name, value in probe.arch.items()}
    config = changed(config, {**arch, **probe.settings, "epochs": 1})
    begun: Json = {}
    found = {"measuring": 0.0, "each": 0.0}
    since, updates = time.perf_counter(), 0

    def hear(event: Json) -> None:
        nonlocal since, updates
        now = time.perf_counter()
        if event["event"] == "begin":
            begun.update(event)
        elif event["event"] == "estimate":
            found["each"] = event["seconds"] / max(1, int(begun["steps"]))
        elif event["event"] == "before":
            found["measuring"] = now - since
            if found["each"]:
                raise _Enough
        elif event["event"] == "update":
            updates += 1
            if updates > _FIRST:
                found["each"] = (now - since) / (updates - _FIRST)
                if now - since > SECONDS:
                    raise _Enough
                return
        since = now

    learner = Learner.create(Path(probe.place) / "run", config)
    try:
        learner.learn(Path(probe.place) / "head.txt", 1, hear)
    except _Enough:
        pass
    finally:
        learner.close()
    return Timed(
        found["each"], found["measuring"], int(begun["parameters"]), config.replay if books else 0.0, books,
        config.stride, config.batch_size,
    )  # fmt: skip


def main() -> int:
    """Read the wish, print what was found or {"error": sentence}."""
    try:
        probe: Probe = taken(Probe, json.load(sys.stdin), lambda place, value: ValueError(place))
        print(to_json(timed(probe)))
        return 0
    except UserError as error:
        print(to_json({"error": str(error)}))
        return 2


if __name__ == "__main__":
    sys.exit(main())
