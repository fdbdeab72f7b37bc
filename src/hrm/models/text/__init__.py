"""HRM as a causal language model, native to transformers: configuration, models and cache."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from hrm.models.text.cache import HRMCache
from hrm.models.text.configuration import PRESETS, HRMConfig
from hrm.models.text.halting import Budget
from hrm.models.text.modeling import HRMForCausalLM, HRMForSequenceClassification, HRMModel, Thought

AutoConfig.register("hrm_lm", HRMConfig, exist_ok=True)
AutoModel.register(HRMConfig, HRMModel, exist_ok=True)
AutoModelForCausalLM.register(HRMConfig, HRMForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(HRMConfig, HRMForSequenceClassification, exist_ok=True)

__all__ = [
    "PRESETS",
    "Budget",
    "HRMCache",
    "HRMConfig",
    "HRMForCausalLM",
    "HRMForSequenceClassification",
    "HRMModel",
    "Thought",
]
