"""Every setting of the causal model, under transformers' names where it has one."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from hrm import _auto
from hrm.core.arch import MOST_BLOCKS, ArchConfig, Join, Norm, Unit, blocks_of, parse_horizon
from hrm.core.recurrence import Schedule, slots_per_layer
from hrm.files import names
from hrm.files.reading import UserError, nearest, quoted
from hrm.settings import fit
from hrm.text.model.slots import Slots, slots_of

Halting = Literal["fixed", "q", "kl", "change"]
Rule = Literal["last_exited", "backfill"]
State = Literal["reset", "carry"]
ROPES = ("default", "linear", "yarn", "llama3")
"""The kinds of rotary positions, which leave old positions as they are while the text grows: caches rely on it."""
TRANSLATED = {
    "num_heads": "num_attention_heads",
    "H_layers": "slow_layers",
    "L_layers": "fast_layers",
    "H_cycles": "h_cycles",
    "L_cycles": "l_cycles",
    "halt_max_steps": "max_segments",
    "halt_exploration_prob": "exploration",
    "use_act": "halting",
    "use_hierarchical": "hierarchy",
}
"""Settings of the official HRM and its kin that have another name here, but for use_act with the same values."""
_OURS = {
    "dim": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
}
"""What the recurrence calls otherwise than transformers does."""
ELSEWHERE = {
    "num_layers_per_stack": "fast_layers and slow_layers",
    "num_hidden_layers": "fast_layers and slow_layers",
    "num_layers": "fast_layers and slow_layers",
    "n_layer": "fast_layers and slow_layers",
    "L_bp_cycles": "horizon, such as 'per_cycle([1, 2])'",
    "H_bp_cycles": "horizon",
    "max_steps": "max_segments",
    "no_ACT_continue": "q_continue",
    "use_hierarchy": "hierarchy",
    "n_head": "num_attention_heads",
    "heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "hidden_size and num_attention_heads, from which it follows",
    "dim": "hidden_size",
    "d_model": "hidden_size",
    "n_embd": "hidden_size",
    "expansion": "intermediate_size",
    "d_ff": "intermediate_size",
    "positions": "rope_parameters, for positions are always rotary",
    "pos_encodings": "rope_parameters, for positions are always rotary",
    "rope_base": "rope_theta",
    "seq_len": "max_position_embeddings",
    "block_size": "max_position_embeddings",
    "n_positions": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
    "forward_dtype": "dtype",
    "attention_dropout": "dropout",
    "hidden_dropout": "dropout",
}
"""How other code calls a setting that has no exact counterpart, and what comes nearest here."""
# Keys of transformers' own that it reads, or has written in files of its older versions.
_TRANSFORMERS = (
    "torch_dtype", "num_labels", "rope_scaling", "rope_theta", "partial_rotary_factor", "name_or_path",
    "output_attentions", "attn_implementation", "auto_map", "experts_implementation", "per_layer_config",
    "quantization_config", "model_type", "transformers_weights", "use_bfloat16", "torchscript", "pruned_heads",
    "tie_encoder_decoder", "is_decoder", "add_cross_attention", "cross_attention_hidden_size", "finetuning_task",
    "task_specific_params", "tokenizer_class", "prefix", "sep_token_id", "decoder_start_token_id", "tf_legacy_loss",
    "tie_last_hidden_states",
)  # fmt: skip


@strict
class HRMConfig(PreTrainedConfig):
    """A hierarchical reasoning model of text. `HRMConfig.preset("text-80m")` gives the published shapes.

    Architecture
    - `hidden_size`, `num_attention_heads`, `num_key_value_heads`, `intermediate_size`: as everywhere; the inner width
      of SwiGLU defaults to HRM's: 8/3 of the hidden size, up to a multiple of 256.
    - `fast_layers`, `slow_layers`: blocks of L and H; `shared`: one stack plays both roles (TRM); `hierarchy` off: a
      plain Transformer of fast + slow blocks.
    - `grown_fast`, `grown_slow`: how many of these were added to a trained model (hrm.text.learning.growth).
    - `h_cycles`, `l_cycles`: N and T of one segment; `horizon`: which visits are back-propagated.
    - `join`: where the input enters, at every step of L or once as the first slow state (HRM-Text).
    - `norm`, `gate`: post-norm (HRM) or pre-norm blocks; a sigmoid gate on the attention output (HRM-Text).
    - `unit`: of the feed-forward layers, `swiglu`, `bounded` or `conv` (see hrm.core.arch).
    - `embedding_scale`: what embeddings are multiplied by; default sqrt(hidden_size).
    - `prefix_lm`: positions with `token_type_ids == 1` that stand together see each other in both directions.
    - `share_cycles`: later visits of a segment read the keys and values of a layer's first; `share_segments`: all
      depths read those of depth 1.
    - `head_bias`: a bias per token on the output, needed to grow the vocabulary without changing old predictions.

    Depth
    - `max_segments`: the budget of a token; `min_segments`: the least it gets.
    - `halting`: `fixed` runs the budget; `q` stops at P(halt) > `exit_threshold`; `kl` when the prediction changes by
      less than `exit_threshold` nats, `change` when the state changes by less than this share of its norm.
    - `halting_rule`: what a deeper token reads of a halted one: its last keys and values, or those of the depth it
      would have had (`backfill`: computed when first needed).
    - `state`: a generated token starts fresh or from the last token's state.
    - `retry_confidence`: a halted token whose best next token is less probable than this goes on for up to
      `retry_segments` more segments.

    Training under `transformers.Trainer`
    - `q_weight`, `q_target`, `q_gamma`: weight and target of the Q head's loss; `exploration`: share of the tokens that
      ignore the Q head up to a random depth; `label_smoothing`, `z_loss`: of the token loss.
    - `dropout`: share of the embedding's and every block's additions that is left out, the same ones in all segments;
      `depth_sampling`: every batch gets a random number of segments up to `max_segments`.
    """

    model_type = "hrm_lm"
    # A configuration file may hold more than the fields; jaxtyping's wrapper of dataclasses in the tests does not know.
    __no_type_check__ = True
    # A list: transformers.Trainer adds others to it.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "depth", "confidence", "retried"]

    vocab_size: int = 50257
    hidden_size: int = 512
    num_attention_heads: int = 8
    num_key_value_heads: int | None = None
    intermediate_size: int | None = None
    fast_layers: int = 4
    slow_layers: int = 4
    grown_fast: int = 0
    grown_slow: int = 0
    shared: bool = False
    hierarchy: bool = True
    h_cycles: int = 2
    l_cycles: int = 2
    horizon: str = "last_step"
    join: Join = "every_step"
    norm: Norm = "post"
    gate: bool = False
    unit: Unit = "swiglu"
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 2048
    rope_parameters: dict[str, Any] | None = None
    embedding_scale: float | None = None
    tie_word_embeddings: bool = False
    head_bias: bool = False
    prefix_lm: bool = False
    share_cycles: bool = False
    share_segments: bool = False

    max_segments: int = 1
    min_segments: int = 1
    halting: Halting = "fixed"
    halting_rule: Rule = "last_exited"
    exit_threshold: float = 0.5
    q_continue: bool = False
    state: State = "reset"
    retry_confidence: float = 0.0
    retry_segments: int = 0

    q_weight: float = 0.1
    q_target: Literal["improvement", "right"] = "improvement"
    q_gamma: float = 0.01
    exploration: float = 0.1
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    dropout: float = 0.0
    depth_sampling: bool = False

    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        from transformers import GenerationConfig

        _auto.register_models()  # who has a configuration may ask an Auto class for its model
        taken = {*_TRANSFORMERS, *GenerationConfig._get_default_generation_params()}
        if self.horizon != "last_step":
            taken.add("L_bp_cycles")  # models that come from hrm_text keep it for the way back
        for name, value in self.translated({name: kwargs.pop(name) for name in TRANSLATED.keys() & kwargs}).items():
            setattr(self, name, value)
        self.refuse(name for name in kwargs if name not in taken and not name.startswith("_"))
        for name in ("attn_implementation", "_attn_implementation"):
            # transformers would take a name of the Hub, fetch the code there and run it.
            if kwargs.get(name) not in (None, "sdpa", "eager"):
                raise UserError(
                    f"{name} is {quoted(kwargs[name])}: this model has its own attention, leave the setting out"
                )
        part = kwargs.get("transformers_weights")
        if part is not None and (why := names.fault(part)) is not None:
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

    @staticmethod
    def translated(given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings with the names of other HRM code put into those of here; UserError where one is given by both."""
        found: dict[str, Any] = {}
        for name, value in given.items():
            ours = TRANSLATED.get(name, name)
            if ours in found or (ours != name and ours in given):
                raise UserError(f"{quoted(name)} is called {ours} here, and {ours} is given as well: give one of them")
            if name == "use_act" and isinstance(value, bool):
                value = "q" if value else "fixed"
            found[ours] = value
        return found

    @classmethod
    def refuse(cls, names: Iterable[str]) -> None:
        """UserError for the first of these names, none of which is a setting."""
        for name in names:
            raise UserError(f"a text model has no setting '{name}'{cls.instead(name)}")

    @classmethod
    def instead(cls, name: str) -> str:
        """The end of a sentence about a name that is no setting: which does the same, or is called nearly so."""
        return f": use {ELSEWHERE[name]}" if name in ELSEWHERE else nearest(name, [field.name for field in fields(cls)])

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
        cls.refuse(name for name in kwargs if name in ELSEWHERE)
        kwargs = cls.translated(kwargs)
        own = {field.name for field in fields(cls)} | {"rope_theta", "rope_scaling", "partial_rotary_factor"}
        changes = {name: kwargs.pop(name) for name in own & kwargs.keys() if name != "dtype"}
        if changes.keys() & {"rope_theta", "rope_scaling"} and "rope_parameters" not in changes:
            kept = dict(config_dict.get("rope_parameters") or {})
            if "rope_theta" in changes:
                kept["rope_theta"] = changes.pop("rope_theta")
            changes["rope_parameters"] = kept | dict(changes.pop("rope_scaling", None) or {})
        return super().from_dict(config_dict | changes, **kwargs)

    def _problems(self) -> list[str]:
        """One sentence per combination that cannot work: which settings, why, what to do."""
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads or self.num_attention_heads
        values = {name: getattr(self, name) for name in _COUNTS}
        found = [
            f"{name} is {quoted(values[name])}: use at least {least} and at most {most:,}"
            for name, (least, most) in _COUNTS.items()
            if not least <= values[name] <= most
        ]
        if found:
            return found
        if (visits := blocks_of(self)) > MOST_BLOCKS:
            return [f"h_cycles and l_cycles visit {visits:,} blocks in a segment: use at most {MOST_BLOCKS:,}"]
        if self.hidden_size % (2 * heads):
            found.append(
                f"hidden_size {self.hidden_size} does not give {heads} heads of an even width: "
                f"use a multiple of {2 * heads}"
            )
        if kv_heads < 1 or heads % kv_heads:
            found.append(f"num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}: use a divisor")
        if self.hierarchy and not self.shared and self.slow_layers < 1:
            found.append("slow_layers 0 leaves no slow module: use at least 1, or shared=True")
        if not self.hierarchy and (self.max_segments > 1 or self.shared):
            found.append("hierarchy=False is visited once: use max_segments=1 and shared=False")
        if not 1 <= self.min_segments <= self.max_segments:
            found.append(f"min_segments {self.min_segments} is not between 1 and max_segments {self.max_segments}")
        if not 0 <= self.dropout < 1:
            found.append(f"dropout {self.dropout} is not a share: use at least 0 and less than 1")
        name, steps = parse_horizon(self.horizon)
        if name == "per_cycle" and (len(steps) > self.h_cycles or max(steps) > self.l_cycles):
            found.append(f"horizon {self.horizon} does not fit h_cycles {self.h_cycles} and l_cycles {self.l_cycles}")
        rope = self.rope_parameters or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind in ("dynamic", "longrope"):
            found.append(
                f"rope_type '{kind}' turns old positions anew as the text grows, and cached keys cannot follow: "
                "use linear, yarn or llama3"
            )
        elif kind not in ROPES:
            found.append(f"rope_type '{kind}' is none of {', '.join(ROPES)}: use one of them")
        if rope.get("partial_rotary_factor", 1.0) not in (None, 1.0):
            found.append(
                "partial_rotary_factor turns a part of each head, and here whole heads are turned: leave it out"
            )
        return found

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
        """The same architecture in the words of the recurrence: what both have by one name, and what is called else."""
        assert self.intermediate_size is not None
        own = {field.name for field in fields(self)}
        names = {field.name: _OURS.get(field.name, field.name) for field in fields(ArchConfig)}
        same = {ours: getattr(self, name) for ours, name in names.items() if name in own}
        expansion = 1.5 * self.intermediate_size / self.hidden_size
        return ArchConfig(**same, attention="causal", expansion=expansion, expansion_multiple=1, task_positions=0)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> HRMConfig:
        """One of the `PRESETS` with some settings changed; UserError if there is no such preset."""
        if name not in PRESETS:
            raise UserError(f"no text preset is named '{name}': there are {', '.join(PRESETS)}")
        return cls(**(PRESETS[name] | changes))


@cache
def _kinds() -> dict[str, Any]:
    """The types of the settings that are one value each."""
    kinds = inspect.get_annotations(HRMConfig, eval_str=True)
    settings = {field.name for field in fields(HRMConfig)} - {"eos_token_id", "rope_parameters"}
    return {name: kind for name, kind in kinds.items() if name in settings}


_COUNTS = {
    "vocab_size": (1, 10_000_000),
    "hidden_size": (1, 65_536),
    "num_attention_heads": (1, 4096),
    "intermediate_size": (1, 1_000_000),
    "fast_layers": (1, 1000),
    "slow_layers": (0, 1000),
    "grown_fast": (0, 1000),
    "grown_slow": (0, 1000),
    "h_cycles": (1, 1000),
    "l_cycles": (1, 1000),
    "max_position_embeddings": (1, 100_000_000),
    "max_segments": (1, 1000),
    "retry_segments": (0, 1000),
}
"""Least and largest value of what makes the model large or slow."""
_GPT2 = {"vocab_size": 50257, "bos_token_id": 50256, "eos_token_id": 50256}
_HRM_TEXT = {"norm": "pre", "gate": True, "join": "first_state", "rms_norm_eps": 1e-6}
_THRIFTY = {"share_cycles": True, "share_segments": True}

PRESETS: dict[str, dict[str, Any]] = {
    # HRM's shape with the blocks of HRM-Text; 8 KiB of keys and values per token at any depth.
    "text-80m": _GPT2
    | _THRIFTY
    | {"norm": "pre", "gate": True, "num_key_value_heads": 4, "max_segments": 16, "halting": "q"},
    # The original form on RoBERTa's vocabulary: rows of 128 tokens, inputs [:-1], labels [1:].
    "text-roberta-78m": {
        "vocab_size": 50265,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "max_position_embeddings": 127,
        "max_segments": 16,
        "halting": "q",
    },
    "text-char": _THRIFTY
    | {
        "vocab_size": 256,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "fast_layers": 3,
        "slow_layers": 3,
        "norm": "pre",
        "gate": True,
        "head_bias": True,
        "max_position_embeddings": 1024,
        "max_segments": 8,
        "halting": "q",
    },
    # sapientinc/HRM-Text-1B, arXiv 2605.20613: two H cycles of three L steps; a segment is one H cycle.
    "hrm-text-1b": _HRM_TEXT
    | {
        "vocab_size": 65536,
        "bos_token_id": 6,
        "eos_token_id": 11,
        "pad_token_id": 5,
        "hidden_size": 1536,
        "num_attention_heads": 12,
        "intermediate_size": 4096,
        "fast_layers": 16,
        "slow_layers": 16,
        "h_cycles": 1,
        "l_cycles": 3,
        "max_segments": 2,
        "embedding_scale": 50.0,
        "horizon": "per_cycle([2])",
        "prefix_lm": True,
    },
    # The plan for GPT-2's size: 1.51 B parameters.
    "gpt2-1.5b": _GPT2
    | {
        "hidden_size": 3072,
        "num_attention_heads": 12,
        "intermediate_size": 8192,
        "fast_layers": 6,
        "slow_layers": 6,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "max_segments": 8,
        "halting": "q",
    },
}
