"""Reasoning modes: how long a model thinks about a token, and whether thinking longer helps this model at all."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hrm.config import UserError
from hrm.data.text import Packed
from hrm.evaluation.text import read
from hrm.runs import durable

if TYPE_CHECKING:
    from hrm.models.text import HRMConfig, HRMForCausalLM
    from hrm.runs.text import TextModel

SCHEDULES = {"fast": (1, 1), "normal": (2, 2), "deep": (3, 2), "extreme": (6, 4)}
"""Cycles and steps of the modes of fixed depth, shallow to deep; each is one segment."""
TOKENS, SECONDS, ROWS = 2048, 20.0, 4
"""Held-out tokens that are read in every mode, the time after which fewer must do, and rows read at once."""
Modes = dict[str, dict[str, Any]]
"""What is known of each mode: `bits_per_character` of held-out text, and `worse_than`: a better shallower mode."""


def requests(config: HRMConfig) -> dict[str, dict[str, Any]]:
    """The budget that each mode asks of a model.

    `auto` is the model's own halting. A model that always runs its whole budget stops where its prediction settles
    (KL), and one with a single segment takes that cycle by cycle: as many cycles in one segment are the same
    computation.
    """
    if not config.hierarchy:
        return {"auto": {}}  # a plain Transformer has nothing to choose
    fixed = {
        name: {"schedule": schedule, "max_segments": 1, "halting": "fixed", "retry_confidence": 0.0}
        for name, schedule in SCHEDULES.items()
    }
    auto: dict[str, Any] = {}
    if config.max_segments == 1 and config.h_cycles > 1:
        auto = {"schedule": (1, config.l_cycles), "max_segments": config.h_cycles}
    if config.halting == "fixed" and (auto or config.max_segments > 1):
        auto |= {"halting": "kl", "halting_rule": "backfill", "exit_threshold": 0.01}
    return fixed | {"auto": auto}


def known_modes(loaded: TextModel) -> Modes | None:
    """What was measured before: kept in `modes.json`, or `modes` of the run's best or result file."""
    if loaded.run is None:
        return None
    kept = _read(loaded.run.path / "modes.json")
    if kept.get("checkpoint") == _checkpoint(loaded) and isinstance(kept.get("modes"), dict):
        return kept["modes"]
    for name in ("best.json", "result.json"):
        if modes := _modes_of(_read(loaded.run.path / name).get("modes")):
            return modes
    return None


def measure_modes(loaded: TextModel, progress: Callable[[float], None] | None = None) -> Modes:
    """Read some held-out text of a run in every mode, and keep the result in the run.

    A deeper mode is worse where its loss, token by token, is larger by more than two standard errors.
    UserError where a run has no held-out text.
    """
    run = loaded.run
    if run is None or not (run.data / "validation" / "index.json").is_file():
        raise UserError(f"{loaded.name} has no held-out text, on which the modes could be compared")
    packed = Packed.open(run.data / "validation", loaded.tokenizer)
    length = min(length_of(loaded), packed.count - 1)
    losses = _losses(loaded.model, packed, length, requests(loaded.model.config), progress)
    per_character = packed.count / max(1, packed.characters) / math.log(2)
    modes: Modes = {}
    for name, loss in losses.items():
        shallower = [other for other in modes if other in SCHEDULES and name in SCHEDULES]
        better = [other for other in shallower if _worse(loss - losses[other])]
        best = min(better, key=lambda other: float(losses[other].mean()), default=None)
        modes[name] = {"bits_per_character": float(loss.mean()) * per_character, "worse_than": best}
    found = {"checkpoint": _checkpoint(loaded), "tokens": len(losses["auto"]), "modes": modes}
    with suppress(OSError):  # a folder that cannot be written to is measured again next time
        durable.write_json(run.path / "modes.json", found)
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


def length_of(loaded: TextModel) -> int:
    """Tokens of the rows that a run was trained on, else the positions of the model."""
    most = loaded.model.config.max_position_embeddings
    if loaded.run is None:
        return most
    config: Any = loaded.run.config
    return min(most, config.text.length if hasattr(config, "text") else config.length)


def _losses(
    model: HRMForCausalLM,
    packed: Packed,
    length: int,
    modes: Mapping[str, Mapping[str, Any]],
    progress: Callable[[float], None] | None,
) -> dict[str, np.ndarray]:
    """Nats of the same tokens in every mode [n]; the rows are drawn from all of the text."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in modes}
    count = min(packed.epoch(length), -(-TOKENS // length))
    start = time.perf_counter()
    with torch.inference_mode():
        for first in range(0, count, ROWS):
            batch = packed.batch(0, 0, range(first, min(first + ROWS, count)), count, length)
            ids, labels, positions = (torch.from_numpy(column).to(model.device) for column in batch)
            for i, (name, request) in enumerate(modes.items()):
                budget = model.model.budget(**request)
                thought = model.begin(input_ids=ids, position_ids=positions, budget=budget)
                model.model.think(thought, budget, model.lm_head)
                found[name].append(read(model, thought, labels, budget).loss)
                if progress is not None:
                    progress((first + ROWS * (i + 1) / len(modes)) / count)
            if time.perf_counter() - start > SECONDS:
                break
    return {name: np.concatenate(parts).astype(np.float64) for name, parts in found.items()}


def _worse(more: np.ndarray) -> bool:
    """Whether a mean difference is above zero by more than two standard errors."""
    return bool(len(more) > 1 and more.mean() > 2 * more.std(ddof=1) / math.sqrt(len(more)) + 1e-6)


def _checkpoint(loaded: TextModel) -> str:
    """The checkpoint that was measured, and the training it is from."""
    assert loaded.run is not None
    return f"{Path(loaded.name).name} of {loaded.run.created}"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _modes_of(found: Any) -> Modes:
    """Bits per character by mode, as a training may have left them: a number each, or with more beside it."""
    modes: Modes = {}
    for name, value in found.items() if isinstance(found, dict) else ():
        bits = value.get("bits_per_character") if isinstance(value, dict) else value
        if not isinstance(bits, int | float) or (name not in SCHEDULES and name != "auto"):
            return {}
        modes[name] = {"bits_per_character": float(bits), "worse_than": None}
    order = [name for name in SCHEDULES if name in modes]
    for i, name in enumerate(order):
        best = min(order[:i], key=lambda other: modes[other]["bits_per_character"], default=name)
        if modes[name]["bits_per_character"] > 1.005 * modes[best]["bits_per_character"]:
            modes[name]["worse_than"] = best
    return modes
