"""Recursive reasoning models whose answers come back verified: `hrm.load("runs/sudoku").solve("53..7....")`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hrm import _auto

if TYPE_CHECKING:
    from hrm.files.reading import UserError as UserError
    from hrm.puzzles.config import Config as Config
    from hrm.puzzles.measuring import evaluate as evaluate
    from hrm.puzzles.solving import Answer as Answer
    from hrm.puzzles.solving import Solver as Solver
    from hrm.puzzles.solving import load as load
    from hrm.settings import load_preset as load_preset
    from hrm.text.model import HRMConfig as HRMConfig
    from hrm.text.model import HRMForCausalLM as HRMForCausalLM

__version__ = "0.1.0"

# torch takes a second to import, so every name is fetched when it is first asked for.
_HOME = {
    **dict.fromkeys(("Answer", "Solver", "load"), "hrm.puzzles.solving"),
    "Config": "hrm.puzzles.config",
    "UserError": "hrm.files.reading",
    "load_preset": "hrm.settings",
    "evaluate": "hrm.puzzles.measuring",
    **dict.fromkeys(("HRMConfig", "HRMForCausalLM"), "hrm.text.model"),
}
__all__ = [
    "Answer",
    "Config",
    "HRMConfig",
    "HRMForCausalLM",
    "Solver",
    "UserError",
    "__version__",
    "evaluate",
    "load",
    "load_preset",
]
_auto.register()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hrm' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
