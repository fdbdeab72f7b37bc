"""Generation: `transformers.GenerationMixin` with a budget per request and a record of depth and confidence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin

from hrm.core.kernels import at_least_float32, packed
from hrm.files.reading import UserError
from hrm.text.model.budget import REQUEST, Budget
from hrm.text.model.cache import HRMCache
from hrm.text.model.compiled import Decoder


class Trace:
    """Records depth in segments, the Q head's P(halt) and the entropy in nats of each generated token."""

    def __init__(self) -> None:
        self.steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def add(self, logits: Tensor, depth: Tensor, confidence: Tensor, retried: Tensor | None) -> None:
        """Record one step of a batch: logits [b, v], depth and confidence [b]."""
        log_p = torch.log_softmax(at_least_float32(logits), dim=-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        again = torch.zeros_like(depth, dtype=torch.bool) if retried is None else retried[:, -1]
        self.steps.append((depth, confidence, entropy, again))

    def columns(self, count: int) -> dict[str, Tensor]:
        """The records of the first `count` tokens, each [b, count]."""
        names = ("depth", "confidence", "entropy", "retried")
        columns = zip(*self.steps[:count], strict=True)
        return {name: torch.stack(column, dim=1) for name, column in zip(names, columns, strict=False)}


class HRMGenerationMixin(GenerationMixin):
    """`generate` that takes the settings of a `Budget` as arguments or from the `GenerationConfig`."""

    _decoder: Decoder | None = None

    def generate(  # type: ignore[override]
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, **kwargs: Any
    ) -> Any:
        """As in transformers; `output_depth=True` adds `depth`, `confidence`, `entropy` and `retried`, each [b, new]. A
        prefix model takes the prompt as its prefix unless `token_type_ids` say otherwise. `compile_config` compiles the
        steps of single tokens: seconds at first, then a token takes about half the time (see `Decoder`)."""
        output_depth = kwargs.pop("output_depth", False)
        prompt = inputs if inputs is not None else kwargs.get("input_ids")
        beams = kwargs.get("num_beams") or getattr(generation_config, "num_beams", None) or 1
        if output_depth and beams > 1:
            raise UserError("output_depth follows one text per row: leave num_beams at 1")
        budget = self._requested(generation_config, kwargs)
        if budget.state == "carry" and kwargs.get("use_cache") is False:
            raise UserError("state 'carry' hands the last token's state on in the cache: leave use_cache on")
        cache = kwargs.get("past_key_values")
        if isinstance(cache, HRMCache) and cache.key not in (None, budget.key):
            cache.reset()  # another schedule makes other keys, so the whole text is read again
        if self.config.prefix_lm and prompt is not None:  # type: ignore[attr-defined]
            types = kwargs.get("token_type_ids")
            # Many tokenizers return zeros when they have no types to report.
            if types is None or not bool(types.any()):
                mask = kwargs.get("attention_mask")
                kwargs["token_type_ids"] = torch.ones_like(prompt) if mask is None else mask.to(prompt.dtype)
        compiles, generation_config = self._compiles(generation_config, kwargs)
        self.model.refresh()  # type: ignore[attr-defined]
        with packed(self), self._decoding(compiles):  # type: ignore[arg-type]
            if not output_depth:
                return super().generate(inputs, generation_config, **kwargs)  # type: ignore[misc]
            trace = Trace()
            kwargs |= {"trace": trace, "return_dict_in_generate": True}
            out = super().generate(inputs, generation_config, **kwargs)  # type: ignore[misc]
        for name, column in trace.columns(out.sequences.shape[1] - (0 if prompt is None else prompt.shape[1])).items():
            out[name] = column
        return out

    def _compiles(
        self, config: GenerationConfig | None, kwargs: dict[str, Any]
    ) -> tuple[bool, GenerationConfig | None]:
        """Whether single tokens are compiled here, and the configuration without `compile_config` in that case. With a
        cache of fixed size transformers compiles the whole forward pass instead, so the setting stays."""
        used, cache = config or self.generation_config, kwargs.get("past_key_values")
        fixed = (kwargs.get("cache_implementation") or used.cache_implementation) is not None
        ours = kwargs.get("use_cache", used.use_cache) is not False if cache is None else isinstance(cache, HRMCache)
        wish = kwargs.get("compile_config") or used.compile_config
        if wish is None or fixed or not ours or kwargs.get("disable_compile", used.disable_compile):
            return False, config
        kwargs.pop("compile_config", None)
        if used.compile_config is not None:
            config = copy(used)
            config.compile_config = None
        return True, config

    @contextmanager
    def _decoding(self, compiles: bool) -> Iterator[None]:
        if not compiles:
            yield
            return
        model: Any = self.model  # type: ignore[attr-defined]
        # Compiled again only if the weights have changed.
        if self._decoder is None or not self._decoder.current:
            self._decoder = Decoder(model.recurrence, self.lm_head)  # type: ignore[attr-defined]
        with self._decoder.at_work() as model.decoder:
            try:
                yield
            finally:
                model.decoder = None

    def _requested(self, generation_config: GenerationConfig | None, kwargs: dict[str, Any]) -> Budget:
        request: dict[str, Any] = {}
        for source in (self.generation_config, generation_config):
            request |= {name: getattr(source, name) for name in REQUEST if getattr(source, name, None) is not None}
        return Budget.of(self.config, **(request | {name: kwargs[name] for name in REQUEST if name in kwargs}))  # type: ignore[attr-defined]

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        """Allow the names of a request: transformers checks argument names against the signature of `forward`."""
        super()._validate_model_kwargs({k: v for k, v in model_kwargs.items() if k not in REQUEST})  # type: ignore[misc]

    def _prepare_generation_config(self, generation_config: GenerationConfig | None, **kwargs: Any) -> Any:
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)  # type: ignore[misc]
        # Settings of a budget in a GenerationConfig are passed on to the forward pass.
        own = {name: value for name in REQUEST if (value := getattr(generation_config, name, None)) is not None}
        return generation_config, own | model_kwargs

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], is_encoder_decoder: bool = False, num_new_tokens: int = 1
    ) -> dict[str, Any]:
        types, how = model_kwargs.pop("token_type_ids", None), (is_encoder_decoder, num_new_tokens)
        model_kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *how)
        if types is not None:
            # Generated tokens are no prefix, even after a prompt that is one.
            model_kwargs["token_type_ids"] = torch.nn.functional.pad(types, (0, num_new_tokens))
        return model_kwargs

    def _prepare_cache_for_generation(
        self, config: GenerationConfig, model_kwargs: dict[str, Any], *sizes: Any
    ) -> None:
        """The last of `sizes` is the length of the whole text."""
        given = model_kwargs.get("past_key_values") is not None
        if given or config.use_cache is False or config.cache_implementation is not None:
            super()._prepare_cache_for_generation(config, model_kwargs, *sizes)  # type: ignore[misc]
        else:
            model_kwargs["past_key_values"] = HRMCache(room=sizes[-1] + 1)
