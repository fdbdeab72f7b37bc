"""Every setting of the causal model, under transformers' names where it has one."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from hrm import _auto
from hrm.core.arch import MOST_BLOCKS, ArchConfig, CommonArch, TokenLoss, blocks_of, parse_horizon
from hrm.core.recurrence import Schedule, slots_per_layer
from hrm.files import names as files
from hrm.files.ranges import Range
from hrm.files.reading import UserError, quoted
from hrm.settings import fit, load_preset, presets, ranges
from hrm.text import names
from hrm.text.arch import GROUPS, READOUT, HaltingConfig, TextArch
from hrm.text.config import TextConfig, groups_of
from hrm.text.model.slots import Slots, slots_of

ROPES = ("default", "linear", "yarn", "llama3")
"""The kinds of rotary positions, which leave old positions as they are while the text grows: caches rely on it."""
# Keys of transformers' own that it reads, or has written in files of its older versions.
_TRANSFORMERS = (
    "torch_dtype", "num_labels", "rope_scaling", "rope_theta", "partial_rotary_factor", "name_or_path",
    "output_attentions", "attn_implementation", "auto_map", "experts_implementation", "per_layer_config",
    "quantization_config", "model_type", "transformers_weights", "use_bfloat16", "torchscript", "pruned_heads",
    "tie_encoder_decoder", "is_decoder", "add_cross_attention", "cross_attention_hidden_size", "finetuning_task",
    "task_specific_params", "tokenizer_class", "prefix", "sep_token_id", "decoder_start_token_id", "tf_legacy_loss",
    "tie_last_hidden_states",
)  # fmt: skip


def _settings() -> dict[str, tuple[Any, Any]]:
    """Type and default of every setting that a recipe has as well, under its name here."""
    found = {}
    for group, kind in GROUPS.items():
        hints = get_type_hints(kind)
        for field in fields(kind):
            if (name := names.NAMES.get(f"{group}.{field.name}")) is not None:
                found[name] = hints[field.name], field.default
    return found


_SETTINGS = _settings()
# Types as text: transformers would refuse a 0 for a float, which is made one here.
_Settings = type(
    "_Settings",
    (PreTrainedConfig,),
    {name: default for name, (_, default) in _SETTINGS.items()}
    | {"__annotations__": {name: inspect.formatannotation(kind) for name, (kind, _) in _SETTINGS.items()}}
    | {"__module__": __name__},
)


@strict
class HRMConfig(_Settings):
    """A hierarchical reasoning model of text. `HRMConfig.preset("text-80m")` gives the published shapes. Its settings
    are those of `hrm.text.arch`, where each is explained, under transformers' names where there are (`hidden_size`;
    `hrm.text.names` has the table): the architecture (`TextArch`), the depth of tokens and the Q head (`HaltingConfig`)
    and the token loss. The inner width defaults to 8/3 of the hidden size, up to a multiple of 256, `embedding_scale`
    to its root. `grown_fast` and `grown_slow` blocks were added to a trained model (hrm.text.learning.growth).
    """

    model_type = "hrm_lm"
    # A configuration file may hold more than the fields; jaxtyping's wrapper of dataclasses in the tests does not know.
    __no_type_check__ = True
    # A list: transformers.Trainer adds others to it.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "depth", "confidence", "retried"]

    vocab_size: int = 50257
    grown_fast: int = 0
    grown_slow: int = 0
    rope_parameters: dict[str, Any] | None = None
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    if TYPE_CHECKING:

        def __init__(self, **settings: Any) -> None: ...

    def __post_init__(self, **kwargs: Any) -> None:
        from transformers import GenerationConfig

        _auto.register_models()  # who has a configuration may ask an Auto class for its model
        taken = {*_TRANSFORMERS, *GenerationConfig._get_default_generation_params()}
        if self.horizon != "last_step":
            taken.add("L_bp_cycles")  # models that come from hrm_text keep it for the way back
        foreign = {name: kwargs.pop(name) for name in names.TRANSLATED.keys() & kwargs}
        for name, value in names.translated(foreign).items():
            setattr(self, name, value)
        self.refuse(name for name in kwargs if name not in taken and not name.startswith("_"))
        for name in ("attn_implementation", "_attn_implementation"):
            # transformers would take a name of the Hub, fetch the code there and run it.
            if (asked := kwargs.get(name)) not in (None, "sdpa", "eager"):
                raise UserError(f"{name} is {quoted(asked)}: this model has its own attention, leave the setting out")
        part = kwargs.get("transformers_weights")
        if part is not None and (why := files.fault(part)) is not None:
            raise UserError(f"transformers_weights names no file of the model's folder: {why}")
        for name, kind in _kinds().items():
            try:
                setattr(self, name, fit(kind, getattr(self, name)))
            except ValueError as error:
                raise UserError(f"{name} {error}") from None
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.intermediate_size is None:
            self.intermediate_size = math.ceil(round(self.hidden_size * 8 / 3) / 256) * 256
        if self.embedding_scale is None:
            self.embedding_scale = math.sqrt(self.hidden_size)
        super().__post_init__(**kwargs)
        self.check()

    @classmethod
    def refuse(cls, given: Iterable[str]) -> None:
        """UserError for the first of these names, none of which is a setting."""
        for name in given:
            near = names.instead(name, [field.name for field in fields(cls)])
            raise UserError(f"a text model has no setting '{name}'{near}")

    def check(self) -> None:
        """UserError for the first combination of settings that cannot work."""
        for problem in self._problems():
            raise UserError(problem)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """As in transformers, but a name that is none is refused unless `return_unused_kwargs` asks for it."""
        asked = kwargs.pop("return_unused_kwargs", False)
        found, unused = super().from_pretrained(pretrained_model_name_or_path, return_unused_kwargs=True, **kwargs)
        if asked:
            return found, unused
        cls.refuse(name for name in unused if not name.startswith("_"))
        return found

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """As in transformers, but what is changed is checked like the rest, and follows it where it depends on it."""
        cls.refuse(name for name in kwargs if name in names.ELSEWHERE)
        kwargs = names.translated(kwargs)
        own = {field.name for field in fields(cls)} | {"rope_theta", "rope_scaling", "partial_rotary_factor"}
        changes = {name: kwargs.pop(name) for name in own & kwargs.keys() if name != "dtype"}
        if changes.keys() & {"rope_theta", "rope_scaling"} and "rope_parameters" not in changes:
            kept = dict(config_dict.get("rope_parameters") or {})
            if "rope_theta" in changes:
                kept["rope_theta"] = changes.pop("rope_theta")
            changes["rope_parameters"] = kept | dict(changes.pop("rope_scaling", None) or {})
        return super().from_dict(config_dict | changes, **kwargs)

    def _problems(self) -> Iterator[str]:
        """One sentence per combination that cannot work: which settings, why, what to do."""
        for name, allowed in _ranges().items():
            value = getattr(self, name)
            for each in value if isinstance(value, tuple) else () if value is None else (value,):
                if not allowed.least <= each <= allowed.most:
                    yield f"{name} is {quoted(each)}: use {allowed}"
        if (visits := blocks_of(self)) > MOST_BLOCKS:
            yield f"h_cycles and l_cycles visit {visits:,} blocks in a segment: use at most {MOST_BLOCKS:,}"
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads or self.num_attention_heads
        if (width := self.hidden_size) % (2 * heads):
            yield f"hidden_size {width} does not give {heads} heads of an even width: use a multiple of {2 * heads}"
        if kv_heads < 1 or heads % kv_heads:
            yield f"num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}: use a divisor"
        if self.hierarchy and not self.shared and self.slow_layers < 1:
            yield "slow_layers 0 leaves no slow module: use at least 1, or shared=True"
        if not self.hierarchy and (self.max_segments > 1 or self.shared):
            yield "hierarchy=False is visited once: use max_segments=1 and shared=False"
        if not 1 <= self.min_segments <= self.max_segments:
            yield f"min_segments {self.min_segments} is not between 1 and max_segments {self.max_segments}"
        whole, last = self.gradient == "whole", self.supervise == "last"
        for name, given in (("gradient 'whole'", whole), ("supervise 'last'", last)):
            if given and self.halting == "q":
                yield f"{name} needs tokens that do not halt in training: use halting='fixed'"
        if self.halting == "readout" and len(self.readout) != READOUT:
            yield "halting 'readout' is what hrm calibrate fits to a model: use it on a run, or halting='fixed'"
        name, steps = parse_horizon(self.horizon)
        if name == "per_cycle" and (len(steps) > self.h_cycles or max(steps) > self.l_cycles):
            yield f"horizon {self.horizon} does not fit h_cycles {self.h_cycles} and l_cycles {self.l_cycles}"
        rope = self.rope_parameters or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind in ("dynamic", "longrope"):
            why = "turns old positions as the text grows, and cached keys cannot follow"
            yield f"rope_type '{kind}' {why}: use linear, yarn or llama3"
        elif kind not in ROPES:
            yield f"rope_type '{kind}' is none of {', '.join(ROPES)}: use one of them"
        if rope.get("partial_rotary_factor", 1.0) not in (None, 1.0):
            yield "partial_rotary_factor turns a part of each head, and here whole heads are turned: leave it out"

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def schedule(self) -> Schedule:
        """The cycles of one segment."""
        return Schedule(self.h_cycles, self.l_cycles) if self.hierarchy else Schedule(1, 0)

    @property
    def num_hidden_layers(self) -> int:
        """Slots of keys and values at the full budget, which is what caches and memory estimates call layers."""
        again = self.retry_segments if self.retry_confidence > 0 else 0
        return self.slots().count(self.max_segments + again)

    def slots(self, schedule: Schedule | None = None) -> Slots:
        """Where the visits of a segment keep keys and values, under this schedule or the configuration's."""
        n_fast = self.fast_layers + (0 if self.hierarchy else self.slow_layers)
        n_slow = n_fast if self.shared or not self.hierarchy else self.slow_layers
        each = slots_per_layer(self.unit)
        return slots_of(each * n_fast, each * n_slow, schedule or self.schedule, self.share_cycles, self.share_segments)

    @property
    def arch(self) -> ArchConfig:
        """The same architecture in the words of the recurrence."""
        assert self.intermediate_size is not None
        places = {field.name: names.NAMES.get(f"arch.{field.name}") for field in fields(CommonArch)}
        same = {ours: getattr(self, name) for ours, name in places.items() if name is not None}
        expansion = 1.5 * self.intermediate_size / self.hidden_size
        return ArchConfig(**same, attention="causal", expansion=expansion, expansion_multiple=1, task_positions=0)

    @classmethod
    def of(
        cls, arch: TextArch, halting: HaltingConfig | None = None, loss: TokenLoss | None = None, **others: Any
    ) -> HRMConfig:
        """The model of a recipe's groups; `others` are settings they lack, or other values."""
        groups = {"arch": arch, "halting": halting or HaltingConfig(), "loss": loss or TokenLoss()}
        return cls(**(names.to_model(groups) | others))

    @classmethod
    def preset(cls, name: str, **changes: Any) -> HRMConfig:
        """The model of a text preset with some settings changed; UserError if there is no such preset."""
        if name not in (known := presets(TextConfig)):
            raise UserError(f"no text preset is named '{name}': there are {', '.join(known)}")
        config = load_preset(name, TextConfig)
        return cls.of(**groups_of(config), **(names.TOKENIZERS.get(config.text.tokenizer, {}) | changes))


@cache
def _kinds() -> dict[str, Any]:
    """The types of the settings that are one value each."""
    own = {"vocab_size": int, "grown_fast": int, "grown_slow": int, "use_cache": bool}
    ids = dict.fromkeys(("pad_token_id", "bos_token_id"), int | None)
    return {name: kind for name, (kind, _) in _SETTINGS.items()} | own | ids


@cache
def _ranges() -> dict[str, Range]:
    """The ranges of numbers, which stand beside the settings of a recipe, under the names of here."""
    own = {"vocab_size": Range(1, 10_000_000), "grown_fast": Range(0, 1000), "grown_slow": Range(0, 1000)}
    shared = {f"{group}.{name}": each for group, kind in GROUPS.items() for name, each in ranges(kind).items()}
    return own | {names.NAMES[place]: each for place, each in shared.items() if place in names.NAMES}
