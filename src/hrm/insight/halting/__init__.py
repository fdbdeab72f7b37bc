"""`hrm analyze halting`: depth and quality against the most segments allowed (Fig. 5 of HRM), whether P(halt) can be
trusted, and what takes longer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hrm.files.reading import UserError
from hrm.insight.figures import Finding
from hrm.insight.halting.measuring import Measured, measure
from hrm.insight.halting.telling import finding
from hrm.insight.subject import Subject


def halting(
    subjects: Sequence[Subject],
    segments: int | None,
    limit: int,
    batch_size: int,
    progress: Callable[[float], None] = lambda share: None,
) -> Finding:
    """Each model over `limit` puzzles or windows, up to `segments`, or the largest limit of a training."""
    most = segments or max(one.max_segments for one in subjects)
    for subject in subjects:
        if subject.schedule.l_cycles < 1:
            raise UserError(f"{subject.name} is a plain Transformer: it is visited once, so that nothing halts")
        if subject.family != subjects[0].family:
            raise UserError(f"{subjects[0].name} and {subject.name} are of puzzles and text: compare runs of one kind")
    measured: list[Measured] = []
    for number, subject in enumerate(subjects):
        measured.append(measure(subject, most, limit, batch_size, lambda share, n=number: progress(n + share)))
    return finding(measured)
