"""hrm report: one page about runs that anyone can open."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from hrm.cli.options import Positional, parse
from hrm.console import Console
from hrm.files import output
from hrm.files.output import to_json
from hrm.files.reading import UserError
from hrm.progress import share


@dataclass(frozen=True)
class Options:
    """Write one page about runs: what was trained, how good it is, what it does inside, samples, how to repeat it.

    Figures are those that `hrm analyze` left in the run.
    """

    runs: Positional[tuple[str, ...]]
    """Run folders; several stand side by side."""
    out: Path = Path("report.html")
    """File for the page, which needs no other file; its numbers go into a .json file of the same name."""
    price: float | None = None
    """Of an hour of the device, to say what the training cost."""
    no_samples: bool = False
    """Leave out puzzles to step through and text."""
    device: str | None = None
    """Where samples are made: cpu, cuda, mps ...; default: the accelerator, if there is one."""
    json: bool = False
    """Print the numbers."""


def main(args: list[str]) -> int:
    """Run the verb."""
    options = parse("report", Options, args, example="hrm report runs/sudoku --out report.html")
    if not options.runs:
        raise UserError("nothing to report: name run folders")
    if options.out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {options.out} must end in .html")
    numbers = options.out.with_suffix(".json")
    for file in (options.out, numbers):
        output.check("--out", file, options.runs)

    from hrm.core.devices import device_of
    from hrm.insight.figures import svg
    from hrm.insight.training import training
    from hrm.report.page import page
    from hrm.report.samples import samples
    from hrm.report.story import story

    runs = [Path(run) for run in options.runs]
    if not options.no_samples:
        device_of(options.device)
    stories = [story(path, options.price) for path in runs]
    if not options.no_samples:
        for path, told in zip(runs, stories, strict=True):
            try:
                with share(f"samples of {told.name}", Console(stderr=True)) as report:
                    told.samples = samples(path, options.device, report)
            except UserError as error:  # such as a task of one's own, whose code is not run here, or data that is gone
                print(f"no samples of {told.name}: {error}", file=sys.stderr)
    curves = []
    for family in dict.fromkeys(told.family for told in stories):  # those of one kind share a picture
        try:
            curves.append(svg(training([told.path for told in stories if told.family == family])))
        except UserError as error:
            print(f"no curves: {error}", file=sys.stderr)
    command = shlex.join(["hrm", "report", *options.runs, "--out", str(options.out)])
    found = {"command": command, "runs": [told.plain() for told in stories]}
    output.write(options.out, page(stories, curves, command))
    output.write_json(numbers, found)
    if options.json:
        print(to_json(found, indent=2))
    else:
        print(f"{options.out} ({options.out.stat().st_size / 1e6:.1f} MB) and {numbers}")
    return 0
