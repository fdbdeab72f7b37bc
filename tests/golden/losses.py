"""The losses of three tiny trainings. A change that does not touch the computation leaves them as they are.

After a change that is meant to touch it, write them anew and commit the difference with the reason:

    PYTHONPATH=src:. python -m tests.golden.losses
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.training import small

FILE = Path(__file__).parent / "losses.json"
STEPS = 20
NAMES = ("loss", "token_loss", "halt_loss", "continue_loss")
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "HRM, attention, Q-continue, stablemax, AdamATan2": {
        "arch": {"positions": "rope", "h_cycles": 2, "l_cycles": 2},
        "task": {"reveal": 0.5},
        "loss": {"label_smoothing": 0.1},
    },
    "TRM, MLP, last cycle, averaging": {
        "arch": {
            "shared": True, "fast_layers": 1, "h_cycles": 1, "l_cycles": 2, "horizon": "last_cycle", "mixer": "mlp",
            "positions": "none", "task_positions": 2, "tied": True,
        },
        "halting": {"q_continue": False},
        "optim": {"name": "adamw", "ema": 0.99, "clip": 1.0, "schedule": "cosine", "lr": 1e-4},
    },
    "candidates pooled over groups, softmax, Muon": {
        "arch": {
            "shared": True, "h_cycles": 1, "l_cycles": 4, "horizon": "last_cycle", "mixer": "groups",
            "tokens": "candidates", "positions": "none", "task_positions": 0, "q_from": "mean",
        },
        "halting": {"q_continue": False},
        "loss": {"kind": "softmax", "z_loss": 1e-4},
        "optim": {"name": "muon", "muon_lr": 2e-3},
    },
}  # fmt: skip


def losses(name: str) -> dict[str, list[float]]:
    """The losses of every step of one of the configurations."""
    trainer = small.trainer(small.config(**CONFIGURATIONS[name]))
    steps = []
    for _ in range(STEPS):
        trainer.step()
        steps.append(trainer.metrics())
    return {key: [step[key] for step in steps] for key in NAMES}


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: losses(name) for name in CONFIGURATIONS}, indent=1) + "\n")
