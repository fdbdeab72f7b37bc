"""`hrm data clean`: from raw text to a corpus."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hrm.cli.options import Positional, parse
from hrm.console import Console
from hrm.files.output import to_json


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
        for step in facts["steps"]:
            cut = f", {step['lines_cut']:,} lines cut" if step.get("lines_cut") else ""
            print(f"{step['step']:18} {step['removed']:>12,} of {step['seen']:>12,} documents removed{cut}")
        for name, source in facts["sources"].items():
            if not source["kept"]:
                hint = "see the reasons in the report; separator: cuts a text file into documents"
                print(f"{name}: none of {source['read']:,} documents is kept ({hint})", file=sys.stderr)
        if not facts["held_out"]:
            print("nothing is held out: use more documents or a larger holdout", file=sys.stderr)
        kept = f"{facts['kept']:,} of {facts['read']:,} documents kept, {facts['tokens']:,} tokens"
        print(f"{options.out}: {kept}; {facts['held_out']:,} documents held out; see {options.out / 'report.html'}")
    return 0
