"""`hrm data clean`: from raw text to a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from hrm.cli.options import Positional, parse
from hrm.console import Console
from hrm.files.output import to_json
from hrm.files.records import Json


@dataclass(frozen=True)
class CleanOptions:
    """Filter, deduplicate, decontaminate and pack raw text into a corpus, as a recipe says."""

    recipe: Positional[Path]
    """File in YAML that names the sources and how they are cleaned."""
    out: Path
    """Folder to write: train, validation, tokenizer, recipe.yaml, report.json and report.html. What is not complete
    lies in OUT.work, and the same command continues from there."""
    executor: Literal["local", "slurm", "ray"] = "local"
    """Where the tasks run: in processes of this machine, or on a cluster."""
    workers: int = 0
    """Tasks at once; 0: one for each core."""
    tasks: int = 64
    """Most tasks of a source; each reads a share of its files."""
    partition: str | None = None
    """Of Slurm, where the tasks run."""
    time: str = "24:00:00"
    """Of Slurm, the most that a task takes."""
    memory: int = 4
    """Of Slurm, GB for a task."""
    dry_run: bool = False
    """Print the scripts for Slurm and submit nothing."""
    keep_work: bool = False
    """Keep OUT.work, with all that was removed, after the corpus is complete."""
    overwrite: bool = False
    """Start over, and replace OUT where it exists."""
    json: bool = False
    """Print the report as JSON."""


def clean(args: list[str]) -> int:
    """Filter, deduplicate, decontaminate and pack raw text, as a recipe says."""
    example = "hrm data clean recipe.yaml --out corpus"
    options = parse("data clean", CleanOptions, args, example=example)
    from hrm.text.data.clean import How, Recipe
    from hrm.text.data.clean import clean as run

    how = How(
        options.executor, options.workers, options.tasks, options.keep_work, options.overwrite, options.partition,
        options.time, options.memory, options.dry_run,
    )  # fmt: skip
    facts = run(Recipe.read(options.recipe), options.out, how, Console(stderr=True))
    if options.json:
        print(to_json(facts))
    elif "scripts" in facts:
        print("\n".join(facts["scripts"]))
    elif "submitted" in facts:
        print(
            f"submitted; job {facts['submitted']} is the last: then the same command puts the corpus in {options.out}"
        )
    else:
        _show(options.out, facts)
    return 0


def _show(out: Path, facts: Json) -> None:
    """What each step removed and what came out, in lines for a terminal of 80 columns."""
    result, note = (partial(Console(stderr=err).print, highlight=False, soft_wrap=True) for err in (False, True))
    wide = len(f"{facts['read']:,}")
    for step in facts["steps"]:
        result(f"{step['step']:18} {step['removed']:>{wide},} of {step['seen']:>{wide},} documents removed")
        if step.get("lines_cut"):
            result(f"{'':18} {step['lines_cut']:>{wide},} lines cut out of documents")
    for name, source in facts["sources"].items():
        if not source["kept"]:
            note(f"{name}: none of {source['read']:,} documents is kept")
            note("(the report has the reasons; separator: cuts a text file into documents)")
    kept = f"{facts['kept']:,} of {facts['read']:,} documents kept, {facts['held_out']:,} held out"
    result(f"{kept}; {facts['tokens']:,} tokens")
    if not facts["held_out"]:
        note("nothing is held out: use more documents or a larger holdout")
    result(f"written to {out}")
    result(f"{out / 'report.html'} says what was removed, and why")
