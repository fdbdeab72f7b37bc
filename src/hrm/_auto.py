"""`import hrm` makes transformers know the model type `hrm_lm`, without importing transformers.

transformers finds configurations by name in one module. Where that is loaded, the name is entered at once; else right
after it is first imported. The models follow when the first configuration is made (HRMConfig).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_MODULE = "transformers.models.auto.configuration_auto"


class _AfterImport(MetaPathFinder):
    """Stands in the search for modules until the one module has been imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_register(module: ModuleType) -> None:
            run(module)
            _register(module)

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def _register(module: Any) -> None:
    from hrm.text.model.configuration import HRMConfig

    module.AutoConfig.register(HRMConfig.model_type, HRMConfig, exist_ok=True)


@cache
def register_models() -> None:
    """Enter the models. Not sooner: importing them takes parts of transformers that may still be under way."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    from hrm.text.model import HRMConfig, HRMForCausalLM, HRMForSequenceClassification, HRMModel

    AutoModel.register(HRMConfig, HRMModel, exist_ok=True)
    AutoModelForCausalLM.register(HRMConfig, HRMForCausalLM, exist_ok=True)
    AutoModelForSequenceClassification.register(HRMConfig, HRMForSequenceClassification, exist_ok=True)


def register() -> None:
    """Enter the name now, or as soon as transformers has the place for it."""
    if _MODULE in sys.modules:
        _register(sys.modules[_MODULE])
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())
