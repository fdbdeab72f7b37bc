"""Reasoning modes: how long a model thinks about a token, and whether thinking longer helps this model at all."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrm.files import names
from hrm.files.reading import UserError
from hrm.runs import durable, lock
from hrm.settings import kind_of
from hrm.text.config import LearnConfig
from hrm.text.data import Packed
from hrm.text.load import TextModel
from hrm.text.measuring.losses import read
from hrm.text.model.budget import Request

SCHEDULES = {"fast": (1, 1), "normal": (2, 2), "deep": (3, 2), "extreme": (6, 4)}
"""Cycles and steps of the modes of fixed depth, shallow to deep; each is one segment."""
TOKENS, SECONDS, ROWS = 2048, 20.0, 4
"""Held-out tokens that are read in every mode, the time after which fewer must do, and rows read at once."""
Modes = dict[str, dict[str, Any]]
"""What is known of each mode: `bits_per_character` of held-out text, and `worse_than`: a better shallower mode.
`auto` may have `takes`: the mode that is the best for its time."""


def requests(loaded: TextModel) -> dict[str, Request]:
    """The budget that each mode asks of a model. `auto` is the model's own halting, until `settle` knows better; one
    that always runs its whole budget stops where its prediction settles (KL) or, in a learner's run, its Q head says
    so, and one with a single segment takes that cycle by cycle, which is the same computation."""
    config = loaded.model.config
    if not config.hierarchy:
        return {"auto": {}}  # a plain Transformer has nothing to choose
    fixed: dict[str, Request] = {
        name: {"schedule": schedule, "max_segments": 1, "halting": "fixed", "retry_confidence": 0.0}
        for name, schedule in SCHEDULES.items()
    }
    auto: Request = {}
    if config.max_segments == 1 and config.h_cycles > 1:
        auto = {"schedule": (1, config.l_cycles), "max_segments": config.h_cycles}
    if config.halting == "fixed" and (auto or config.max_segments > 1):
        learned = (folder := _folder(loaded)) is not None and kind_of(folder) is LearnConfig
        auto |= {"halting": "q"} if learned else {"halting": "kl", "exit_threshold": 0.01}
        auto["halting_rule"] = "backfill"  # it was trained at fixed depth
    return fixed | {"auto": auto}


def settle(modes: dict[str, Request], known: Modes | None) -> dict[str, Request]:
    """The requests with that of `auto` replaced by what was measured to be the best for its time."""
    takes = (known or {}).get("auto", {}).get("takes")
    return modes | {"auto": modes[takes]} if takes in modes else modes


def known_modes(loaded: TextModel) -> Modes | None:
    """What was measured of this checkpoint before, as the run's `modes.json` has it."""
    if (folder := _folder(loaded)) is None:
        return None
    try:
        kept = json.loads(names.read_text(folder / "modes.json"))
    except (OSError, ValueError, RecursionError, UserError):
        return None
    known = isinstance(kept, dict) and kept.get("checkpoint") == _checkpoint(loaded)
    return kept["modes"] if known and isinstance(kept.get("modes"), dict) else None


def measure_modes(loaded: TextModel, progress: Callable[[float], None] | None = None) -> Modes:
    """Read some held-out text of a run in every mode, and keep the result in the run; UserError where there is none. A
    deeper mode is worse where its loss, token by token, is larger by more than two standard errors."""
    folder, held = _folder(loaded), [Packed.open(path).verify() for path in loaded.held_out]
    if folder is None or not held:
        raise UserError(f"{loaded.name} has no held-out text, on which the modes could be compared")
    losses, costs = _losses(loaded, held, progress)
    per_character = sum(p.count for p in held) / max(1, sum(p.characters for p in held)) / math.log(2)
    modes: Modes = {}
    for name, loss in losses.items():
        shallower = [other for other in modes if other in SCHEDULES and name in SCHEDULES]
        better = [other for other in shallower if _worse(loss - losses[other])]
        best = min(better, key=lambda other: float(losses[other].mean()), default=None)
        modes[name] = {"bits_per_character": float(loss.mean()) * per_character, "worse_than": best}
    modes["auto"]["takes"] = _best_for_its_time(losses, costs)
    found = {"checkpoint": _checkpoint(loaded), "tokens": len(losses["auto"]), "modes": modes}
    # A folder that cannot be written into, or is another process's just now, is measured again next time.
    with suppress(OSError, UserError), lock.own(folder, "chat"):
        durable.write_json(folder / "modes.json", found)
    return modes


def warning(mode: str, modes: Modes) -> str | None:
    """A sentence where a shallower mode predicts this run's text better."""
    other = modes.get(mode, {}).get("worse_than")
    if other not in modes:
        return None
    bits, less = modes[mode]["bits_per_character"], modes[other]["bits_per_character"]
    return (
        f"{mode} predicts this run's held-out text worse than {other} does ({bits:.3f} against {less:.3f} bits a "
        f"character): /mode {other} is faster and better"
    )


def _losses(
    loaded: TextModel, held: Sequence[Packed], progress: Callable[[float], None] | None
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Nats of the same tokens in every mode [n], and what a token costs there in visits of a stack; from each text as
    many rows, drawn from all of it."""
    model, modes, length = loaded.model, requests(loaded), loaded.length or loaded.model.config.max_position_embeddings
    found: dict[str, list[np.ndarray]] = {name: [] for name in modes}
    depths: dict[str, list[float]] = {name: [] for name in modes}
    rows = -(-TOKENS // length // len(held))
    parts = [(packed, range(i, min(i + ROWS, rows))) for packed in held for i in range(0, rows, ROWS)]
    start = time.perf_counter()
    with torch.inference_mode(), ExitStack() as end:
        if progress is not None:
            end.callback(progress, 1.0)
        for done, (packed, some) in enumerate(parts):
            batch = packed.batch(0, 0, some, rows, length)
            ids, labels, positions = (torch.from_numpy(column).to(model.device) for column in batch)
            for i, (name, request) in enumerate(modes.items()):
                budget = model.budget(**request)
                thought = model.begin(input_ids=ids, position_ids=positions, budget=budget)
                model.think(thought, budget)
                found[name].append(read(model, thought, labels, budget).loss)
                depths[name].append(float(thought.depth.float().mean()))
                if progress is not None:
                    progress((done + i / len(modes)) / len(parts))
            if time.perf_counter() - start > SECONDS:
                break
    schedules = {name: model.budget(**request).schedule for name, request in modes.items()}
    costs = {name: float(np.mean(depths[name])) * (h * (1 + l)) for name, (h, l) in schedules.items()}  # noqa: E741
    return {name: np.concatenate(parts).astype(np.float64) for name, parts in found.items()}, costs


def _best_for_its_time(losses: dict[str, np.ndarray], costs: dict[str, float]) -> str:
    """The cheapest mode that no dearer one beats by more than two standard errors."""
    best, *dearer = sorted(losses, key=lambda name: costs[name])
    for name in dearer:
        if _worse(losses[best] - losses[name]):
            best = name
    return best


def _worse(more: np.ndarray) -> bool:
    """Whether a mean difference is above zero by more than two standard errors."""
    return bool(len(more) > 1 and more.mean() > 2 * more.std(ddof=1) / math.sqrt(len(more)) + 1e-6)


def _folder(loaded: TextModel) -> Path | None:
    """The run of a model that is from a checkpoint."""
    folder = Path(loaded.name).parent.parent
    return folder if (folder / "run.json").is_file() else None


def _checkpoint(loaded: TextModel) -> str:
    """What was measured: the checksum of a checkpoint's list of checksums, and of what was calibrated since."""
    found, config = hashlib.sha256((Path(loaded.name) / "manifest.json").read_bytes()), loaded.model.config
    if config.halting == "readout":
        found.update(repr((config.readout, config.exit_threshold)).encode())
    return found.hexdigest()
