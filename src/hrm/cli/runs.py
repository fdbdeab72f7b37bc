"""hrm runs: every run below a folder in one table."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hrm.cli.options import Positional, parse
from hrm.files.output import to_json
from hrm.files.reading import UserError

if TYPE_CHECKING:
    from hrm.overview import Listed

Sort = Literal["changed", "name", "kind", "task", "size", "step", "score", "state"]


@dataclass(frozen=True)
class Options:
    """List the runs below a folder: what they learn, size, step, best score on what they held out, and state."""

    folder: Positional[Path] = Path("runs")
    """Folder in which runs are looked for, at any depth."""
    sort: Sort = "changed"
    """changed: the newest first; size and step: the largest first; score: the best of each kind of score first."""
    json: bool = False
    """Print it as JSON."""


def main(args: list[str]) -> int:
    """Run the verb."""
    options = parse("runs", Options, args, example="hrm runs runs --sort score")
    if not options.folder.is_dir() and options.folder != Options.folder:
        raise UserError(f"{options.folder} is no folder: name one in which runs lie")
    return show(options.folder, options.sort, options.json)


def show(folder: Path, sort: Sort = "changed", as_json: bool = False) -> int:
    """Print what lies below a folder."""
    from hrm.overview import listed, runs

    found = sorted(map(listed, runs(folder)), key=lambda run: run.run)
    found.sort(key=_ORDER[sort])
    if as_json:
        print(to_json(found))
    elif found:
        _print(found, folder)
    else:
        print(f"no runs in {folder}", file=sys.stderr)
    return 0


def _print(found: list[Listed], folder: Path) -> None:
    from rich.table import Table

    from hrm.console import Console

    console = Console(highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("run", "kind", "task", "size", "step", "best", "state", "changed"):
        right, folds = name in ("size", "step"), name in ("run", "task")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=not folds)
    for run in found:
        table.add_row(
            str(Path(run.run).relative_to(folder)), run.kind, run.task, _size(run.parameters), _step(run),
            str(run.score or "").replace("/character", "/char"), run.state, _when(run),
            style={"damaged": "red", "training": "green"}.get(run.state, ""),
        )  # fmt: skip
    console.print(table)
    counts = Counter(run.state for run in found)
    each = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    console.print(f"\n{len(found)} run{'s'[: len(found) != 1]} in {folder}: {each}", soft_wrap=True)
    for run in found:
        if run.problem:
            console.print(
                run.problem if run.run in run.problem else f"{run.run}: {run.problem}", style="red", soft_wrap=True
            )


def _size(parameters: int | None) -> str:
    """Parameters in three digits: 14.5K, 5.55M."""
    if parameters is None:
        return ""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if parameters >= size:
            return f"{parameters / size:#.3g}".rstrip(".") + unit
    return str(parameters)


def _step(run: Listed) -> str:
    if run.step is None:
        return ""
    return f"{run.step:,}" + (f"/{run.steps:,}" if run.steps is not None else "")


def _when(run: Listed) -> str:
    """The time of a change of today, the day of an older one."""
    at = datetime.fromisoformat(run.changed).astimezone()
    return f"{at:%H:%M}" if at.date() == datetime.now().date() else f"{at:%Y-%m-%d}"


def _by_score(run: Listed) -> tuple[bool, str, float]:
    """The best first among scores of one name; those without one last."""
    score = run.score
    if score is None:
        return True, "", 0.0
    return False, score.name + score.unit, -score.value if score.better == "higher" else score.value


_ORDER: dict[str, Callable[[Listed], Any]] = {
    "changed": lambda run: -datetime.fromisoformat(run.changed).timestamp(),
    "name": lambda run: run.run,
    "kind": lambda run: run.kind or "~",
    "task": lambda run: run.task or "~",
    "size": lambda run: -(run.parameters or 0),
    "step": lambda run: -(run.step or 0),
    "score": _by_score,
    "state": lambda run: run.state,
}
