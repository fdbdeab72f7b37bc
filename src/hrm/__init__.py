"""Recursive reasoning models whose answers come back verified: `hrm.load("runs/sudoku").solve("53..7....")`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hrm import _auto

if TYPE_CHECKING:
    from hrm.config import Config as Config
    from hrm.config import UserError as UserError
    from hrm.config import load_preset as load_preset
    from hrm.evaluation import evaluate as evaluate
    from hrm.models.text import HRMConfig as HRMConfig
    from hrm.models.text import HRMForCausalLM as HRMForCausalLM
    from hrm.solving import Answer as Answer
    from hrm.solving import Solver as Solver
    from hrm.solving import load as load

__version__ = "0.1.0"

# torch takes a second to import, so every name is fetched when it is first asked for.
_HOME = {
    **dict.fromkeys(("Answer", "Solver", "load"), "hrm.solving"),
    **dict.fromkeys(("Config", "UserError", "load_preset"), "hrm.config"),
    "evaluate": "hrm.evaluation",
    **dict.fromkeys(("HRMConfig", "HRMForCausalLM"), "hrm.models.text"),
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
