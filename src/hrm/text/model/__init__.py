"""HRM as a causal language model, native to transformers: configuration, models and cache."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hrm.text.model.budget import Budget as Budget
    from hrm.text.model.cache import HRMCache as HRMCache
    from hrm.text.model.causal import HRMForCausalLM as HRMForCausalLM
    from hrm.text.model.configuration import HRMConfig as HRMConfig
    from hrm.text.model.modeling import HRMForSequenceClassification as HRMForSequenceClassification
    from hrm.text.model.modeling import HRMModel as HRMModel
    from hrm.text.model.thought import Thought as Thought

# hrm._auto imports the configuration while transformers itself is being imported; the models have to wait.
_HOME = {
    "Budget": "budget",
    "HRMCache": "cache",
    "HRMConfig": "configuration",
    "HRMForCausalLM": "causal",
    "HRMForSequenceClassification": "modeling",
    "HRMModel": "modeling",
    "Thought": "thought",
}
__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hrm.text.model' has no attribute '{name}'")
    return getattr(import_module(f"hrm.text.model.{_HOME[name]}"), name)
