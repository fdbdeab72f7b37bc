"""HRM as a causal language model in transformers' terms: the recurrence, segment after segment, token by token."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.cache_utils import Cache
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel, slice_logits_to_keep

from hrm.core.halting import QHead
from hrm.core.layers import Context, Embedding, Linear, at_least_float32, truncated_normal_, weights
from hrm.core.recurrence import Carry, Recurrence, Schedule, Stack
from hrm.files.reading import UserError, nearest
from hrm.text.model.cache import HRMCache, Kept, Picked, slots_of
from hrm.text.model.compiled import Decoder
from hrm.text.model.configuration import HRMConfig
from hrm.text.model.generation import HRMGenerationMixin
from hrm.text.model.halting import REQUEST, Budget, stops
from hrm.text.model.loss import supervised_loss, token_loss
from hrm.text.model.masks import documents, prefix_blocks, visible


@dataclass
class HRMModelOutput(BaseModelOutputWithPast):
    """The slow state at which each token exited [b, p, d], and its depth in segments [b, p].

    `hidden_states` are the input and the state after every visit of a stack, segment by segment, `attentions` those of
    every layer of every visit; a token that has halted repeats what the same visit of its last segment gave.
    """

    depth: Tensor | None = None
    retried: Tensor | None = None


@dataclass
class HRMOutput(CausalLMOutputWithPast):
    """Logits, and for every token its depth in segments and the Q head's P(halt), both [b, p].

    `retried`: whether low confidence made it go on; None where that is off.
    """

    # Accelerate makes one from a dict, as its first argument, which jaxtyping's wrapper in the tests does not know.
    __no_type_check__ = True

    depth: Tensor | None = None
    confidence: Tensor | None = None
    retried: Tensor | None = None


class Rotary:
    """Cosines and signed sines of any position, scaled as `rope_parameters` say.

    Plain numbers and no buffers: a model cast to bfloat16 keeps exact angles.
    """

    def __init__(self, config: HRMConfig) -> None:
        self.config = config
        self._at: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, positions: Int[Tensor, "#b p"]) -> tuple[Tensor, Tensor]:
        """Angles [b, p, head_dim] of positions, in float32."""
        if positions.device not in self._at:
            self._at[positions.device] = self._constants(positions.device)
        frequencies, scale, sign = self._at[positions.device]
        angles = positions[..., None] * frequencies
        return angles.cos() * scale, angles.sin() * sign

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        parameters, width = self.config.rope_parameters or {}, self.config.head_dim
        kind, scale = parameters.get("rope_type", "default"), 1.0
        with torch.device(device), torch.inference_mode(False):
            if kind == "default":
                base = parameters.get("rope_theta", 10000.0)
                half = 1.0 / base ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
            else:
                half, scale = ROPE_INIT_FUNCTIONS[kind](self.config, device)
            ones = torch.ones(width // 2)
            return torch.cat((half, half)), torch.tensor(scale), torch.cat((-ones, ones)) * scale


class Dropout:
    """Dropout whose masks are drawn once and serve every visit and segment of a forward pass."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._masks: dict[nn.Module, Tensor] = {}

    def __call__(self, new: Tensor, part: nn.Module) -> Tensor:
        """What a part of the model adds to the state, some of it left out and the rest scaled up."""
        if part not in self._masks:
            self._masks[part] = torch.empty_like(new).bernoulli_(1 - self.rate).div_(1 - self.rate)
        return new * self._masks[part]

    def of(self, picked: Picked) -> Callable[[Tensor, nn.Module], Tensor]:
        """The same for some of the tokens."""
        return lambda new, part: new * picked.of(self._masks[part])


class Watch:
    """What is kept of every visit, where someone asks: states [b, new, d], attention [b, new, heads, keys]."""

    def __init__(self, states: bool, attentions: bool) -> None:
        self.states: list[Tensor] | None = [] if states else None
        self.attentions: list[Tensor] | None = [] if attentions else None

    def keep(self, kept: list[Tensor], each: int, thought: Thought, picked: Picked | None, new: Tensor) -> None:
        """Add [b', p', ...] of the tokens that were computed; the others keep what they had `each` entries before."""
        if picked is not None:
            new = picked.into(kept[-each], new)
        else:
            new = new[:, -thought.new :]
            if not thought.all_live and len(kept) >= each:
                live = thought.live[:, -thought.new :]
                new = torch.where(live.view(*live.shape, *[1] * (new.ndim - 2)), new, kept[-each])
        kept.append(new)

    def hidden_states(self, thought: Thought) -> tuple[Tensor, ...] | None:
        """The input and the states."""
        return None if self.states is None else (thought.x[:, -thought.new :], *self.states)

    def attention_maps(self) -> tuple[Tensor, ...] | None:
        """The shares of attention, [b, heads, new, keys] each."""
        return None if self.attentions is None else tuple(shares.transpose(1, 2) for shares in self.attentions)


@dataclass
class Thought:
    """One forward pass under way: what all its tokens have thought so far."""

    inputs: dict[str, Tensor]
    """input_ids [b, p], or inputs_embeds [b, p, d] before scaling."""
    x: Tensor
    carry: Carry
    exited: Carry
    """The states at which tokens exited; of live tokens, the newest."""
    rope: tuple[Tensor, Tensor]
    causal: bool
    mask: Tensor | None
    kept: Kept | None
    depth: Tensor
    live: Tensor
    """[b, p]: tokens that go on."""
    retried: Tensor
    all_live: bool = True
    segment: int = 0
    new: int = 0
    """The last so many tokens are new; those before them may have to run deeper (rule `backfill`)."""
    blocks: Tensor | None = None
    """[b, p]: the prefix block of each token, -1 outside."""
    previous: Any = None
    """What the halting criterion compares with."""
    drop: Dropout | None = None
    logits: Tensor | None = None
    """Of the last segment, where supervision has asked for all of them."""
    watch: Watch | None = None

    @property
    def length(self) -> int:
        """Tokens held."""
        return self.x.shape[1]

    def detach(self) -> None:
        """Cut the history between two segments, after the first one's backward pass (deep supervision)."""
        self.carry, self.exited = self.carry.detach(), self.exited.detach()
        if self.kept is not None:
            self.kept.detach()
            self.kept.forget()

    def halt(self, tokens: Tensor) -> None:
        """These tokens [b, p] go no deeper."""
        self.live = self.live & ~tokens
        self.all_live = False

    def shorten(self, length: int) -> None:
        """Forget all but the first tokens."""
        self.map(lambda t: t[:, :length])

    def map(self, function: Callable[[Tensor], Tensor]) -> None:
        """Select or repeat rows, or positions, of everything that is kept between forward passes."""
        self.x, self.live, self.retried = function(self.x), function(self.live), function(self.retried)
        self.carry = Carry(*map(function, self.carry))
        self.exited = Carry(*map(function, self.exited))
        self.rope = (function(self.rope[0]), function(self.rope[1]))
        self.depth = function(self.depth)
        self.blocks = None if self.blocks is None else function(self.blocks)

    def after(self, old: Thought) -> Thought:
        """This thought of new tokens behind an old one, whose tokens have halted; masks and keys are this one's."""

        def join(a: Tensor, b: Tensor) -> Tensor:
            return torch.cat((a, b.expand(len(a), *b.shape[1:])), dim=1)

        assert self.blocks is not None and old.blocks is not None
        return replace(
            self,
            x=join(old.x, self.x),
            carry=Carry(*map(join, old.carry, self.carry)),
            exited=Carry(*map(join, old.exited, self.exited)),
            rope=(join(old.rope[0], self.rope[0]), join(old.rope[1], self.rope[1])),
            depth=join(old.depth, self.depth),
            live=join(torch.zeros_like(old.live), self.live),
            retried=join(old.retried, self.retried),
            blocks=join(old.blocks, self.blocks),
            all_live=False,
        )


class HRMPreTrainedModel(PreTrainedModel):
    """What all models of this family share: configuration, initialisation, saving."""

    config_class = HRMConfig
    config: HRMConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = False

    def __init__(self, config: HRMConfig, **settings: Any) -> None:
        """UserError for settings that nobody knows: `from_pretrained` hands on what the configuration leaves."""
        HRMConfig.refuse(settings)
        super().__init__(config)
        config.check()

    if TYPE_CHECKING:  # transformers wraps it so that its type is lost

        def to(self, *args: Any, **kwargs: Any) -> Any: ...

    def _init_weights(self, module: nn.Module) -> None:
        # transformers guards torch.nn.init: what came from a checkpoint is left alone.
        if isinstance(module, Linear | Embedding):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            truncated_normal_(module.weight, module.in_features**-0.5)
        elif isinstance(module, HRMModel):
            module.reset_states()

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Also write the one-line file that lets `trust_remote_code=True` find the installed package."""
        self.config.auto_map = {
            "AutoConfig": "modeling_hrm.HRMConfig",
            "AutoModel": "modeling_hrm.HRMModel",
            "AutoModelForCausalLM": "modeling_hrm.HRMForCausalLM",
            "AutoModelForSequenceClassification": "modeling_hrm.HRMForSequenceClassification",
        }
        generation = getattr(self, "generation_config", None)
        if generation is not None and any(getattr(generation, name, None) is not None for name in REQUEST):
            generation._from_model_config = False  # else transformers drops what it does not know when it loads it
        result = super().save_pretrained(save_directory, *args, **kwargs)
        names = ", ".join(sorted({name.split(".")[1] for name in self.config.auto_map.values()}))
        Path(save_directory, "modeling_hrm.py").write_text(f"from hrm.text.model import {names}  # noqa: F401\n")
        return result


class HRMModel(HRMPreTrainedModel):
    """Embedding, recurrence and Q head: tokens in, the slow state of each at its exit out."""

    def __init__(self, config: HRMConfig, **settings: Any) -> None:
        super().__init__(config, **settings)
        assert config.embedding_scale is not None
        self.compute_dtype: torch.dtype | None = None
        """Of states and activations where it is not the weights': set it to train float32 weights in bfloat16."""
        self.gradient_checkpointing = False
        self.gathers = True
        """Compute with gradient only the tokens that have not halted. Shapes vary: off for stacks compiled for one."""
        self.decoder: Decoder | None = None
        """Runs single new tokens in compiled code, while `generate` was asked for that."""
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, 1 / config.embedding_scale)
        self.recurrence = Recurrence(config.arch, positions=0)
        for stack, count in ((self.recurrence.fast, config.grown_fast), (self.recurrence.slow, config.grown_slow)):
            for block in list(stack.layers)[-count:] if stack is not None and count else ():
                block.grown = True  # type: ignore[assignment]
        self.q_head = QHead(config.hidden_size)
        self.z_h_init: Tensor
        self.z_l_init: Tensor
        self.register_buffer("z_h_init", torch.empty(config.hidden_size))
        self.register_buffer("z_l_init", torch.empty(config.hidden_size))
        self.reset_states()
        self.rotary = Rotary(config)
        if not self.z_h_init.is_meta:
            for module in self.modules():
                module._is_hf_initialized = True  # type: ignore[assignment]
        self.post_init()

    def reset_states(self) -> None:
        """Draw the initial states; where the input is the first slow state, the fast one begins at zero (HRM-Text)."""
        truncated_normal_(self.z_h_init, 1.0)
        if self.recurrence.first_state:
            nn.init.zeros_(self.z_l_init)
        else:
            truncated_normal_(self.z_l_init, 1.0)

    def budget(self, **request: Any) -> Budget:
        """What a request may spend: the configuration's settings, where the request does not say otherwise."""
        return Budget.of(self.config, **request)

    def begin(
        self,
        input_ids: Int[Tensor, "b p"] | None = None,
        inputs_embeds: Float[Tensor, "b p d"] | None = None,
        attention_mask: Tensor | dict[str, Tensor] | None = None,
        position_ids: Int[Tensor, "#b p"] | None = None,
        token_type_ids: Int[Tensor, "b _"] | None = None,
        past_key_values: Cache | None = None,
        budget: Budget | None = None,
    ) -> Thought:
        """Embed the tokens and find out who sees whom; nothing is computed yet.

        UserError where a cache was filled under another schedule or rule.
        """
        budget = budget or self.budget()
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        self._refresh()
        inputs = {"ids": input_ids} if input_ids is not None else {"embeds": inputs_embeds}
        learns = self.training and torch.is_grad_enabled()
        drop = Dropout(self.config.dropout) if self.config.dropout and learns else None
        x = self._embed(inputs, drop)  # type: ignore[arg-type]
        rows, length = x.shape[:2]
        cache = past_key_values
        if isinstance(cache, HRMCache):
            if cache.key not in (None, budget.key):
                raise UserError(f"the cache was filled under {cache.key}, not {budget.key}: reset it, pass all tokens")
            cache.key = budget.key
        whole = isinstance(attention_mask, dict) or (attention_mask is not None and attention_mask.ndim == 4)
        past = 0 if cache is None or (whole and position_ids is not None) else int(cache.get_seq_length())
        sight = self._sight(attention_mask, token_type_ids, position_ids, length, past, cache, x.device)
        causal, mask, blocks, padding = sight
        if position_ids is None:
            position_ids = torch.arange(past, past + length, device=x.device)[None]
        carry = self._first_carry(x, cache, budget)
        slots = slots_of(self.config, budget.schedule)
        # Where all depths read the keys of depth 1, the two rules are one.
        fills = budget.adaptive and budget.rule == "backfill" and not slots.share_segments
        kept = None
        if cache is not None or slots.shared or (budget.adaptive and not fills):
            kept = Kept(slots, cache, last_exited=budget.adaptive and not fills)
            kept.past, kept.fills = past, fills
        cos, sin = self.rotary(position_ids)
        blank = torch.zeros(rows, length, dtype=torch.bool, device=x.device)
        thought = Thought(
            inputs=inputs,  # type: ignore[arg-type]
            x=x,
            carry=carry,
            exited=carry,
            rope=(cos, sin),
            causal=causal,
            mask=mask,
            kept=kept,
            depth=blank.long(),
            live=~blank,
            retried=blank,
            new=length,
            drop=drop,
        )
        if fills and isinstance(cache, HRMCache):
            thought.rope = (cos.expand(rows, -1, -1), sin.expand(rows, -1, -1))
            thought.blocks = torch.full_like(thought.depth, -1) if blocks is None else blocks
            if cache.thought is not None:
                thought.blocks = torch.where(thought.blocks < 0, -1, thought.blocks + past)  # unlike the old numbers
                thought = thought.after(cache.thought)
            thought.causal = False
            thought.mask = visible(past + length, 0, past + length, x.device, padding, thought.blocks)
            cache.thought = thought
        return thought

    def _sight(
        self,
        attention_mask: Tensor | dict[str, Tensor] | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        length: int,
        past: int,
        cache: Cache | None,
        device: torch.device,
    ) -> tuple[bool, Tensor | None, Tensor | None, Tensor | None]:
        """Who sees whom: whether plainly causal, else the mask, with the prefix blocks and the padding it came from."""
        if isinstance(attention_mask, dict) or (attention_mask is not None and attention_mask.ndim == 4):
            mask = next(iter(attention_mask.values())) if isinstance(attention_mask, dict) else attention_mask
            return False, mask if mask is None or mask.dtype == torch.bool else mask == 0, None, None
        blocks = self._blocks(token_type_ids, length)
        padding = None if attention_mask is None or bool(attention_mask.all()) else attention_mask.bool()
        packed = None
        if position_ids is not None and attention_mask is None and cache is None:
            packed = documents(position_ids)
        keys = past + length
        if cache is not None and cache.is_compileable:
            keys = cache.get_mask_sizes(length, 0)[0]
        if blocks is None and padding is None and packed is None and keys == past + length and not past and length > 1:
            return True, None, None, None
        mask = None
        if length > 1 or padding is not None or keys > past + length:
            mask = visible(length, past, keys, device, padding, blocks, packed)
        return False, mask, blocks, padding

    def segment(self, thought: Thought, schedule: Schedule | None = None) -> None:
        """One segment of the live tokens; the halted ones keep what they have."""
        schedule = schedule or self.config.schedule
        for stack in (self.recurrence.fast, self.recurrence.slow):
            if stack is not None:
                cached = thought.kept is not None and thought.kept.cache is not None
                stack.recompute = self.gradient_checkpointing and self.training and not cached
        if thought.segment and torch.is_grad_enabled():
            thought.x = self._embed(thought.inputs, thought.drop)
        live = None if thought.all_live else thought.live
        kept = thought.kept
        first_slot = 0
        if kept is not None:
            first_slot = thought.segment * len(kept.slots.homes)
            kept.live, kept.picked = live, None
        gathers = self.gathers or not torch.is_grad_enabled()
        if live is None or kept is None or not kept.last_exited or not gathers:
            carry = self._whole(thought, schedule, first_slot)
            if live is None:
                thought.carry = thought.exited = carry
            else:
                chosen = live[..., None]
                thought.exited = Carry(*(torch.where(chosen, a, b) for a, b in zip(carry, thought.exited, strict=True)))
                # Under `backfill` the halted tokens think on, for those that look back at them.
                thought.carry = thought.exited if kept is not None and kept.last_exited else carry
        else:
            picked = _pick(live)
            kept.picked = picked
            rope = tuple(picked.of(t.expand(len(live), -1, -1)) for t in thought.rope)
            mask = _picked_mask(thought, picked)
            some = Carry(picked.of(thought.carry.z_h), picked.of(thought.carry.z_l))
            drop = None if thought.drop is None else thought.drop.of(picked)
            some = self._run(thought, some, picked.of(thought.x), rope, False, mask, schedule, first_slot, drop, picked)  # type: ignore[arg-type]
            thought.carry = thought.exited = Carry(
                picked.into(thought.carry.z_h, some.z_h), picked.into(thought.carry.z_l, some.z_l)
            )
        thought.depth = thought.depth + thought.live
        thought.segment += 1

    def think(self, thought: Thought, budget: Budget, head: Callable[[Tensor], Tensor] | None = None) -> None:
        """Segments until every token has halted or spent its budget."""
        if not budget.adaptive:
            for _ in range(budget.max_segments):
                self.segment(thought, budget.schedule)
            return
        # A cache of transformers can only be appended to: under `backfill` it gets every token at full depth.
        foreign = (
            thought.kept is not None and thought.kept.fills and not isinstance(thought.kept.cache, HRMCache | None)
        )
        while bool(thought.live.any()) or (foreign and thought.segment < budget.limit):
            before = thought.exited.z_h
            self.segment(thought, budget.schedule)
            if not bool(thought.live.any()):
                continue
            stop = stops(thought, before, budget, self.q_head, head)
            thought.halt(stop)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict[str, Tensor] | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        max_segments: int | None = None,
        halting: str | None = None,
        halting_rule: str | None = None,
        exit_threshold: float | None = None,
        min_segments: int | None = None,
        schedule: tuple[int, int] | None = None,
        state: str | None = None,
        retry_confidence: float | None = None,
        retry_segments: int | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        head: Callable[[Tensor], Tensor] | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> HRMModelOutput | tuple[Any, ...]:
        """Think about every token as long as its budget and the halting criterion say."""
        refuse_arguments(HRMModel.forward, kwargs)
        budget = self.budget(
            max_segments=max_segments,
            halting=halting,
            halting_rule=halting_rule,
            exit_threshold=exit_threshold,
            min_segments=min_segments,
            schedule=schedule,
            state=state,
            retry_confidence=retry_confidence,
            retry_segments=retry_segments,
        )
        use_cache = self.config.use_cache and not self.training if use_cache is None else use_cache
        if past_key_values is None and use_cache:
            past_key_values = HRMCache()
        budget.check(past_key_values, slots_of(self.config, budget.schedule).count(budget.limit), head)
        thought = self.begin(
            input_ids, inputs_embeds, attention_mask, position_ids, token_type_ids, past_key_values, budget
        )
        thought.watch = watch = self.watch(output_hidden_states, output_attentions)
        self.think(thought, budget, head)
        if thought.kept is not None:
            thought.kept.fill(thought.segment, budget.limit)
        if isinstance(past_key_values, HRMCache):
            past_key_values.carry = Carry(*(z[:, -1:] for z in thought.exited))
        result = HRMModelOutput(
            last_hidden_state=thought.exited.z_h[:, -thought.new :],  # type: ignore[arg-type]
            past_key_values=past_key_values,
            hidden_states=None if watch is None else watch.hidden_states(thought),  # type: ignore[arg-type]
            attentions=None if watch is None else watch.attention_maps(),  # type: ignore[arg-type]
            depth=thought.depth[:, -thought.new :],
            retried=thought.retried[:, -thought.new :] if budget.retry_confidence > 0 else None,
        )
        return result if _as_dict(self.config, return_dict) else result.to_tuple()

    def watch(self, output_hidden_states: bool | None = None, output_attentions: bool | None = None) -> Watch | None:
        """What a forward pass keeps of its visits; None for nothing."""
        states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        shares = self.config.output_attentions if output_attentions is None else output_attentions
        return Watch(bool(states), bool(shares)) if states or shares else None

    def _whole(self, thought: Thought, schedule: Schedule, first_slot: int) -> Carry:
        """A segment of all tokens, or under `backfill` of those that have not run this segment before."""
        kept, mask = thought.kept, thought.mask
        start = 0
        if kept is not None and kept.fills and isinstance(kept.cache, HRMCache):
            start = kept.past = kept.cache.layer(thought.segment * kept.slots.size).length
            assert mask is not None
            mask = mask[:, :, start:]
        late = Carry(thought.carry.z_h[:, start:], thought.carry.z_l[:, start:])
        rope = (thought.rope[0][:, start:], thought.rope[1][:, start:])
        late = self._run(
            thought, late, thought.x[:, start:], rope, thought.causal, mask, schedule, first_slot, thought.drop
        )
        if not start:
            return late
        return Carry(*(torch.cat((old[:, :start], new), dim=1) for old, new in zip(thought.carry, late, strict=True)))

    def _run(
        self,
        thought: Thought,
        carry: Carry,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        causal: bool,
        mask: Tensor | None,
        schedule: Schedule,
        first_slot: int,
        drop: Callable[[Tensor, nn.Module], Tensor] | None = None,
        picked: Picked | None = None,
    ) -> Carry:
        watch, attend, note = thought.watch, None, None
        if watch is not None and watch.attentions is not None:
            each = len(slots_of(self.config, schedule).homes)
            note = partial(watch.keep, watch.attentions, each, thought, picked)
        if note is not None or self.config._attn_implementation != "sdpa":
            attend = _Attend(self, mask, causal, note)
        context = Context(rope=rope, causal=causal, mask=mask, keys_values=thought.kept, attend=attend, drop=drop)
        visit: Callable[[Stack, Tensor, Context, int], Tensor] = Stack.__call__
        if self.decoder is not None and self.decoder.can(context, x):
            visit = self.decoder
        if watch is None or watch.states is None:
            return self.recurrence(carry, x, context, schedule, first_slot, visit)
        keep = partial(watch.keep, watch.states, schedule.h_cycles * (schedule.l_cycles + 1), thought, picked)

        def watched(stack: Stack, z: Tensor, context: Context, slot: int) -> Tensor:
            z = visit(stack, z, context, slot)
            keep(z)
            return z

        return self.recurrence(carry, x, context, schedule, first_slot, watched)

    def _embed(self, inputs: dict[str, Tensor], drop: Dropout | None = None) -> Tensor:
        embeds = self.embed_tokens(inputs["ids"]) if "ids" in inputs else inputs["embeds"]
        x = embeds * self.config.embedding_scale  # type: ignore[operator]
        return x if drop is None else drop(x, self.embed_tokens)

    def _first_carry(self, x: Tensor, cache: Cache | None, budget: Budget) -> Carry:
        if budget.state == "carry" and x.shape[1] == 1 and isinstance(cache, HRMCache) and cache.carry is not None:
            return Carry(x, cache.carry.z_l) if self.recurrence.first_state else cache.carry
        z_l = self.z_l_init.to(x.dtype).expand_as(x)
        return Carry(x if self.recurrence.first_state else self.z_h_init.to(x.dtype).expand_as(x), z_l)

    def _blocks(self, token_types: Tensor | None, length: int) -> Tensor | None:
        if token_types is None or not self.config.prefix_lm or not bool((token_types[:, -length:] == 1).any()):
            return None
        return prefix_blocks(token_types[:, -length:])

    def _refresh(self) -> None:
        if self.compute_dtype is None:
            return
        changed = self.training and torch.is_grad_enabled()
        for part in weights(self):
            part.refresh(self.compute_dtype, changed)


class HRMForCausalLM(HRMPreTrainedModel, HRMGenerationMixin):
    """The next token after every token, each thought about as long as it needs."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    _keys_to_ignore_on_load_missing = [r"model\.q_head\..*"]  # noqa: RUF012

    def __init__(self, config: HRMConfig, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.model = HRMModel(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=config.head_bias)
        if not self.lm_head.weight.is_meta:
            self.lm_head._is_hf_initialized = True  # type: ignore[assignment]
        self.post_init()

    def begin(self, **tokens: Any) -> Thought:
        """`HRMModel.begin`, with the output layer ready for the thought's dtype."""
        dtype = self.model.compute_dtype
        if dtype is not None and isinstance(self.lm_head, Linear):
            self.lm_head.refresh(dtype, self.training and torch.is_grad_enabled())
        return self.model.begin(**tokens)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict[str, Tensor] | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        max_segments: int | None = None,
        halting: str | None = None,
        halting_rule: str | None = None,
        exit_threshold: float | None = None,
        min_segments: int | None = None,
        schedule: tuple[int, int] | None = None,
        state: str | None = None,
        retry_confidence: float | None = None,
        retry_segments: int | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        trace: Any = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> HRMOutput | tuple[Any, ...]:
        """Logits of the next tokens, with a loss where there are labels (shifted here, as everywhere).

        While training the loss is the mean over the segments' losses plus the Q head's; memory grows with segments.
        Labels inside a prefix block are ignored, because its tokens see each other.
        """
        refuse_arguments(HRMForCausalLM.forward, kwargs)
        request: dict[str, Any] = {
            "max_segments": max_segments,
            "halting": halting,
            "halting_rule": halting_rule,
            "exit_threshold": exit_threshold,
            "min_segments": min_segments,
            "schedule": schedule,
            "state": state,
            "retry_confidence": retry_confidence,
            "retry_segments": retry_segments,
        }
        tokens: dict[str, Any] = {
            "input_ids": input_ids,
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "token_type_ids": token_type_ids,
        }
        if labels is not None:
            labels = self._targets(labels, token_type_ids)
        if labels is not None and self.training:
            if past_key_values is not None:
                raise UserError("training reads whole texts, without past_key_values (prefix tuning): use LoRA")
            budget = self.model.budget(**request)
            if self.config.depth_sampling:
                budget = budget.sampled(float(torch.rand(())))
            thought = self.begin(**tokens, budget=budget)
            thought.watch = watch = self.model.watch(output_hidden_states, output_attentions)
            loss = supervised_loss(self, thought, budget, labels, kwargs.get("num_items_in_batch"))
            logits = thought.logits
            if logits is None:
                with torch.no_grad():
                    logits = self.lm_head(thought.exited.z_h)
            logits = slice_logits_to_keep(logits, logits_to_keep)
            result = HRMOutput(loss=loss, logits=logits, depth=thought.depth)  # type: ignore[arg-type]
            if watch is not None:
                result.hidden_states, result.attentions = watch.hidden_states(thought), watch.attention_maps()  # type: ignore[assignment]
            return result if _as_dict(self.config, return_dict) else result.to_tuple()
        if self.model.compute_dtype is not None and isinstance(self.lm_head, Linear):
            self.lm_head.refresh(self.model.compute_dtype)
        out = self.model(
            **tokens,
            past_key_values=past_key_values,
            use_cache=use_cache,
            head=self.lm_head,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            **request,
        )
        z = out.last_hidden_state
        kept = slice_logits_to_keep(z, logits_to_keep)
        decoder = self.model.decoder
        logits = self.lm_head(kept) if decoder is None else decoder.head(kept)
        loss = None
        if labels is not None:
            losses = token_loss(self.lm_head(z) if kept.shape != z.shape else logits, labels)
            counted = (labels != -100).sum() if (items := kwargs.get("num_items_in_batch")) is None else items
            loss = losses.sum() / counted
        confidence = self.model.budget(**request).probability(self.model.q_head(z))
        if trace is not None:
            trace.add(logits[:, -1], out.depth[:, -1], confidence[:, -1], out.retried)
        result = HRMOutput(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            depth=out.depth,
            confidence=confidence,
            retried=out.retried,
        )
        return result if _as_dict(self.config, return_dict) else result.to_tuple()

    def _targets(self, labels: Int[Tensor, "b p"], token_types: Tensor | None) -> Int[Tensor, "b p"]:
        """The label of the next token at every position, -100 at the last one and inside prefixes."""
        targets = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
        blocks = self.model._blocks(token_types, labels.shape[1])
        if blocks is None:
            return targets
        following = nn.functional.pad(blocks, (0, 1), value=-1)[:, 1:]
        return targets.masked_fill((blocks >= 0) & (blocks == following), -100)

    @staticmethod
    def create_masks_for_generate(
        config: HRMConfig,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """The whole mask [b, 1, p, k], for caches of fixed size."""
        assert past_key_values is not None
        length, past = inputs_embeds.shape[1], int(past_key_values.get_seq_length())
        keys = past_key_values.get_mask_sizes(length, 0)[0]
        padding = None if attention_mask is None else attention_mask.bool()
        blocks = None
        if token_type_ids is not None and config.prefix_lm:
            blocks = prefix_blocks(token_type_ids[:, -length:])
        return visible(length, past, keys, inputs_embeds.device, padding, blocks)


_NO_EFFECT = (
    "num_items_in_batch", "cache_position", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx",
    "output_router_logits",
)  # fmt: skip
"""What libraries pass to every model: known otherwise here, such as where documents begin, or not there."""


def refuse_arguments(function: Callable[..., Any], given: dict[str, Any]) -> None:
    """UserError for the first argument of a forward pass that would be ignored."""
    for name, value in given.items():
        if value is None or name in _NO_EFFECT:
            continue
        if name == "is_causal":
            raise UserError("is_causal changes nothing here: give prefix_lm=True and token_type_ids for a prefix")
        raise UserError(f"a text model takes no '{name}'{nearest(name, signature(function).parameters)}")


def _as_dict(config: HRMConfig, wish: bool | None) -> bool:
    return (config.return_dict if wish is None else wish) is not False


class HRMForSequenceClassification(GenericForSequenceClassification, HRMPreTrainedModel):
    """transformers' generic head on the last token's state."""


class _Attend(NamedTuple):
    """An attention function of transformers' registry, as the recurrence calls it; `note` hears of the shares."""

    model: HRMModel
    mask: Tensor | None
    causal: bool
    note: Callable[[Tensor], None] | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from transformers.models.llama.modeling_llama import eager_attention_forward

        mask = visible(q.shape[2], 0, k.shape[2], q.device) if self.mask is None and self.causal else self.mask
        if self.note is not None:
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
            scores = q @ k.mT * q.shape[-1] ** -0.5
            scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
            shares = torch.softmax(at_least_float32(scores), dim=-1).to(q.dtype)
            self.note(shares.transpose(1, 2))
            return shares @ v
        name = str(self.model.config._attn_implementation)
        if name == "eager" and mask is not None:
            mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, torch.finfo(q.dtype).min)
        function = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)
        layer = _Layer(q.shape[1] // k.shape[1])
        return function(layer, q, k, v, mask, scaling=q.shape[-1] ** -0.5, dropout=0.0)[0].transpose(1, 2)


class _Layer(nn.Module):
    """What attention functions ask of the layer that calls them."""

    is_causal = False

    def __init__(self, num_key_value_groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = num_key_value_groups


def _pick(live: Bool[Tensor, "b p"]) -> Picked:
    """The live tokens as a rectangle of rows and columns."""
    counts = live.sum(1)
    rows = counts.nonzero()[:, 0]
    width = int(counts.max())
    columns = torch.sort((~live[rows]).to(torch.uint8), dim=1, stable=True).indices[:, :width]
    last = (counts[rows] - 1)[:, None]
    counter = torch.arange(width, device=live.device)[None]
    real = (counter <= last).flatten().nonzero()[:, 0]
    columns = columns.gather(1, counter.minimum(last))
    return Picked(rows, columns, (rows[:, None] * live.shape[1] + columns).flatten(), real)


def _picked_mask(thought: Thought, picked: Picked) -> Tensor | None:
    mask, columns = thought.mask, picked.columns
    if mask is not None:
        return mask.expand(len(thought.live), -1, -1, -1)[picked.rows[:, None], 0, columns][:, None]
    if not thought.causal:
        return None
    return (torch.arange(thought.length, device=columns.device) <= columns[..., None])[:, None]


AutoConfig.register(HRMConfig.model_type, HRMConfig, exist_ok=True)
AutoModel.register(HRMConfig, HRMModel, exist_ok=True)
AutoModelForCausalLM.register(HRMConfig, HRMForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(HRMConfig, HRMForSequenceClassification, exist_ok=True)
