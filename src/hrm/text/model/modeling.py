"""HRM as a causal language model in transformers' terms: the recurrence, segment after segment, token by token."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import PreTrainedModel

from hrm.core.halting import QHead
from hrm.core.kernels import weights
from hrm.core.layers import Context, Embedding, Linear, truncated_normal_
from hrm.core.probe import Probe
from hrm.core.recurrence import Carry, Recurrence, Schedule, Stack, every_visit
from hrm.files.reading import UserError, nearest
from hrm.text.model.attention import RecordedAttention, RegisteredAttention
from hrm.text.model.budget import REQUEST, Budget, Request
from hrm.text.model.cache import HRMCache
from hrm.text.model.compiled import Decoder
from hrm.text.model.configuration import HRMConfig
from hrm.text.model.crowd import Crowd, Part
from hrm.text.model.dropout import Dropout
from hrm.text.model.halting import stops
from hrm.text.model.key_values import KeyValueStore
from hrm.text.model.masks import prefix_blocks, visibility, visible, whole
from hrm.text.model.rotary import Rotary
from hrm.text.model.selection import AllTokens, picks
from hrm.text.model.thought import Thought, VisitRecords

_AUTO = {
    "AutoConfig": "HRMConfig",
    "AutoModel": "HRMModel",
    "AutoModelForCausalLM": "HRMForCausalLM",
    "AutoModelForSequenceClassification": "HRMForSequenceClassification",
}


@dataclass
class HRMModelOutput(BaseModelOutputWithPast):
    """The slow state at which each token halted [b, p, d], and its depth in segments [b, p]. `hidden_states` are the
    input and the state after every visit of a stack, `attentions` those of every layer of every visit; a token that has
    halted repeats what the same visit of its last segment gave."""

    depth: Tensor | None = None
    retried: Tensor | None = None


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
        """UserError for unknown settings: `from_pretrained` passes on what the configuration does not take."""
        HRMConfig.refuse(settings)
        super().__init__(config)
        config.check()

    if TYPE_CHECKING:  # transformers wraps it so that its type is lost

        def to(self, *args: Any, **kwargs: Any) -> Any: ...

    def _init_weights(self, module: nn.Module) -> None:
        # transformers patches torch.nn.init, so that weights from a checkpoint are not overwritten.
        if isinstance(module, Linear | Embedding):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            truncated_normal_(module.weight, module.in_features**-0.5)
        elif isinstance(module, HRMModel):
            module.reset_states()

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Also write the one-line file that lets `trust_remote_code=True` find the installed package."""
        self.config.auto_map = {kind: f"modeling_hrm.{name}" for kind, name in _AUTO.items()}
        generation = getattr(self, "generation_config", None)
        if generation is not None and any(getattr(generation, name, None) is not None for name in REQUEST):
            generation._from_model_config = False  # otherwise transformers drops names that it does not know on loading
        result = super().save_pretrained(save_directory, *args, **kwargs)
        # transformers' own hook would copy the whole source instead.
        self.write_code(Path(save_directory))
        return result

    @staticmethod
    def write_code(folder: Path) -> None:
        """Write the one line of code that lies beside a saved model."""
        names = ", ".join(sorted(_AUTO.values()))
        (folder / "modeling_hrm.py").write_text(f"from hrm import {names}  # noqa: F401\n")


class HRMModel(HRMPreTrainedModel):
    """Embedding, recurrence and Q head: from tokens to the slow state at which each halted."""

    def __init__(self, config: HRMConfig, **settings: Any) -> None:
        super().__init__(config, **settings)
        assert config.embedding_scale is not None
        self.compute_dtype: torch.dtype | None = None
        """Dtype of states and activations; None for that of the weights. Set it to train float32 weights in bfloat16.
        """
        self.gradient_checkpointing = False
        self.gathers = True
        """In training, compute only live tokens. Turn it off for compiled stacks: the shapes vary."""
        self.probe: Probe | None = None
        """Told the states after every visit (`hrm.core.probe.probing`)."""
        self.decoder: Decoder | None = None
        """Runs single new tokens in compiled code, during a `generate` with `compile_config`."""
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, 1 / config.embedding_scale)
        self.recurrence = Recurrence(config.arch, positions=0)
        if config.gradient == "whole":
            self.recurrence.horizon = every_visit
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

    def budget(self, **request: Unpack[Request]) -> Budget:
        """The budget of a request: the configuration's settings with the request's changes."""
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
        """Embed the tokens and build the mask; no segment is computed yet. UserError for another schedule's cache."""
        budget, cache = budget or self.budget(), past_key_values
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        self.refresh()
        inputs: dict[str, Any] = {"ids": input_ids} if input_ids is not None else {"embeds": inputs_embeds}
        learns = self.training and torch.is_grad_enabled()
        drop = Dropout(self.config.dropout) if self.config.dropout and learns else None
        x = self._embed(inputs, drop)
        rows, length = x.shape[:2]
        if isinstance(cache, HRMCache):
            if cache.key not in (None, budget.key):
                raise UserError(f"the cache was filled under {cache.key}, not {budget.key}: reset it, pass all tokens")
            cache.key = budget.key
        known = whole(attention_mask) and position_ids is not None
        past = 0 if cache is None or known else int(cache.get_seq_length())
        blocks = self.blocks(token_type_ids, length)
        seen = visibility(x, attention_mask, blocks, position_ids, past, cache)
        if position_ids is None:
            position_ids = torch.arange(past, past + length, device=x.device)[None]
        carry = self._first_carry(x, cache, budget)
        blank = torch.zeros(rows, length, dtype=torch.bool, device=x.device)
        thought = Thought(
            inputs=inputs,
            x=x,
            carry=carry,
            exited=carry,
            rope=self.rotary(position_ids),
            causal=seen.causal,
            mask=seen.mask,
            keys_values=self._keys_values(cache, past, budget),
            depth=blank.long(),
            live=~blank,
            retried=blank,
            new=length,
            drop=drop,
            watch=VisitRecords(probe=self.probe),
        )
        if self.probe is not None:
            self.probe.begin(carry)
        if thought.keys_values is not None and thought.keys_values.lags:
            thought.rope = tuple(t.expand(rows, -1, -1) for t in thought.rope)  # type: ignore[assignment]
            thought.blocks = torch.full_like(thought.depth, -1) if seen.blocks is None else seen.blocks
            if (old := cache.thought) is not None:  # type: ignore[union-attr]
                # Shifted, to differ from the block numbers of old tokens.
                thought.blocks = torch.where(thought.blocks < 0, -1, thought.blocks + past)
                thought = thought.after(old)
            if old is not None or not seen.causal:
                thought.causal = False
                thought.mask = visible(past + length, 0, past + length, x.device, seen.padding, thought.blocks)
            cache.thought = thought  # type: ignore[union-attr]
        return thought

    def segment(self, thought: Thought, schedule: Schedule | None = None) -> None:
        """Compute one segment for the live tokens; halted ones keep their states."""
        schedule, keys_values = schedule or self.config.schedule, thought.keys_values
        for stack in (self.recurrence.fast, self.recurrence.slow):
            if stack is not None:
                cached = keys_values is not None and keys_values.cache is not None
                stack.recompute = self.gradient_checkpointing and self.training and not cached
        if thought.segment and torch.is_grad_enabled():
            thought.x = self._embed(thought.inputs, thought.drop)
        part, visit = self.part(thought, schedule), Stack.__call__
        if self.decoder is not None and self.decoder.can(part.context, part.x):
            visit = self.decoder
        watch = thought.watch.watch(thought, part.selection, schedule)
        new = self.recurrence(part.carry, part.x, part.context, schedule, part.first_slot, visit, watch)
        thought.advance(part.selection, new)

    def part(self, thought: Thought, schedule: Schedule) -> Part:
        """What the thought's next segment computes, and with what."""
        keys_values, first_slot = thought.keys_values, 0
        selection = thought.selection(self._gathers(thought, schedule))
        if keys_values is not None:
            keys_values.selection, first_slot = selection, thought.segment * len(keys_values.slots.homes)
        carry = Carry(selection.of(thought.carry.z_h), selection.of(thought.carry.z_l))
        context = self._context(thought, selection, schedule)
        return Part(selection, carry, selection.of(thought.x), context, first_slot)

    def _gathers(self, thought: Thought, schedule: Schedule) -> bool:
        """Whether a segment computes live tokens alone: where that saves more than picking them out takes."""
        if torch.is_grad_enabled():
            return self.gathers
        if thought.all_live or thought.keys_values is None or not thought.keys_values.last_exited:
            return False  # all are computed
        if self.decoder is not None:
            return True  # it writes the keys of all that it computes
        steps, updates = schedule.h_cycles * schedule.l_cycles, schedule.h_cycles
        fast, slow = self._sizes
        return picks(thought.live, 2 * (steps * fast + updates * slow))

    @cached_property
    def _sizes(self) -> tuple[int, int]:
        """Weights of the fast and the slow stack."""
        stacks = (self.recurrence.fast, self.recurrence.slow or self.recurrence.fast)
        fast, slow = (sum(p.numel() for p in stack.parameters()) for stack in stacks)
        return fast, slow

    def segments(self, thoughts: Sequence[Thought], schedule: Schedule) -> list[int]:
        """Compute one segment for each of several thoughts of one row each, without gradient: what does not mix
        positions is one product for all of them. They may differ in length and in the segment they are at. Returns how
        many tokens each computed."""
        parts = [self.part(thought, schedule) for thought in thoughts]
        crowd = Crowd(parts)
        new = self.recurrence(crowd.carry, crowd.x, crowd.context(), schedule)
        for thought, part, carry in zip(thoughts, parts, crowd.split(new), strict=True):
            thought.advance(part.selection, carry)
        return crowd.sizes

    def think(
        self,
        thought: Thought,
        budget: Budget,
        head: Callable[[Tensor], Tensor] | None = None,
        writes: bool = False,
    ) -> None:
        """Segments until every token has halted or spent its budget; `writes`: until the text can be continued."""
        if not budget.adaptive:
            for _ in range(budget.max_segments):
                self.segment(thought, budget.schedule)
            return
        # A cache of transformers can only be appended to, so under `backfill` every token is stored at full depth.
        store = thought.keys_values
        at_once = store is not None and store.fills and not isinstance(store.cache, HRMCache | None)
        least = budget.limit if at_once else 0
        while not (thought.written if writes else thought.all_halted) or thought.segment < least:
            before = thought.exited.z_h
            self.segment(thought, budget.schedule)
            if not thought.all_halted:
                thought.halt(stops(thought, before, budget, self.q_head, head))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict[str, Tensor] | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        budget: Budget | None = None,
        head: Callable[[Tensor], Tensor] | None = None,
        writes: bool = False,
        return_dict: bool | None = None,
        **request: Any,
    ) -> HRMModelOutput | tuple[Any, ...]:
        """Run each token until the halting criterion or its budget ends it; returns the states at which they halted.
        `writes`: the last token alone counts, as far as that leaves what follows the same. `request` names what differs
        from the configuration (`Budget`), where no whole budget is given."""
        refuse_arguments(HRMModel.forward, request)
        budget = budget or self.budget(**request)
        use_cache = self.config.use_cache and not self.training if use_cache is None else use_cache
        if past_key_values is None and use_cache:
            past_key_values = HRMCache()
        budget.check(past_key_values, self.config.slots(budget.schedule).count(budget.limit), head)
        tokens = (input_ids, inputs_embeds, attention_mask, position_ids, token_type_ids)
        thought = self.begin(*tokens, past_key_values, budget)  # type: ignore[arg-type]
        thought.watch = watch = self.watch(output_hidden_states, output_attentions)
        self.think(thought, budget, head, writes)
        if thought.keys_values is not None:
            thought.keys_values.fill(thought.segment, budget.limit)
        if isinstance(past_key_values, HRMCache):
            past_key_values.carry = Carry(*(z[:, -1:] for z in thought.exited))
        result = HRMModelOutput(
            last_hidden_state=thought.exited.z_h[:, -thought.new :],  # type: ignore[arg-type]
            past_key_values=past_key_values,
            depth=thought.depth[:, -thought.new :],
            retried=thought.retried[:, -thought.new :] if budget.retry_confidence > 0 else None,
            **watch.found(thought),  # type: ignore[arg-type]
        )
        return result if as_dict(self.config, return_dict) else result.to_tuple()

    def watch(self, output_hidden_states: bool | None, output_attentions: bool | None) -> VisitRecords:
        """The records that a forward pass keeps of its visits: those asked for here, or else by the settings."""
        states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        shares = self.config.output_attentions if output_attentions is None else output_attentions
        return VisitRecords(bool(states), bool(shares), self.probe)

    def blocks(self, token_types: Tensor | None, length: int) -> Int[Tensor, "b p"] | None:
        """The prefix block of each of the last tokens, -1 outside; None where there is no prefix."""
        if token_types is None or not self.config.prefix_lm or not bool((token_types[:, -length:] == 1).any()):
            return None
        return prefix_blocks(token_types[:, -length:])

    def refresh(self) -> None:
        """Update the low-precision copies of the weights, if states have another dtype."""
        if self.compute_dtype is None:
            return
        changed = self.training and torch.is_grad_enabled()
        for part in weights(self):
            part.refresh(self.compute_dtype, changed)

    def _keys_values(self, cache: Cache | None, past: int, budget: Budget) -> KeyValueStore | None:
        """The store of keys and values that outlast a visit; None if every visit computes its own."""
        slots = self.config.slots(budget.schedule)
        # If all depths read the keys of depth 1, the two halting rules are the same.
        fills = budget.adaptive and budget.halting_rule == "backfill" and not slots.share_segments
        last_exited = budget.adaptive and not fills
        needed = cache is not None or slots.shared or last_exited
        return KeyValueStore(slots, cache, past, last_exited, fills) if needed else None

    def _context(self, thought: Thought, selection: AllTokens, schedule: Schedule) -> Context:
        causal, mask = selection.visibility(thought.causal, thought.mask)
        cos, sin = thought.rope
        attend, watch, name = None, thought.watch, self.config._attn_implementation
        if watch.attentions is not None:
            each = len(self.config.slots(schedule).homes)
            attend = RecordedAttention(causal, mask, watch.keeper(watch.attentions, each, thought.new, selection))
        elif name != "sdpa":
            attend = RegisteredAttention(causal, mask, str(name))
        drop = None if thought.drop is None else selection.dropping(thought.drop)
        rope = (selection.of(cos), selection.of(sin))
        keys_values, places = thought.keys_values, selection.places_from_end
        return Context(rope, causal, mask, keys_values, attend=attend, drop=drop, places=places)

    def _embed(self, inputs: dict[str, Tensor], drop: Dropout | None = None) -> Tensor:
        embeds = self.embed_tokens(inputs["ids"]) if "ids" in inputs else inputs["embeds"]
        x = embeds * self.config.embedding_scale  # type: ignore[operator]
        return x if drop is None else drop(x, self.embed_tokens)

    def _first_carry(self, x: Tensor, cache: Cache | None, budget: Budget) -> Carry:
        if budget.state == "carry" and x.shape[1] == 1 and isinstance(cache, HRMCache) and cache.carry is not None:
            return Carry(x, cache.carry.z_l) if self.recurrence.first_state else cache.carry
        z_l = self.z_l_init.to(x.dtype).expand_as(x)
        return Carry(x if self.recurrence.first_state else self.z_h_init.to(x.dtype).expand_as(x), z_l)


_NO_EFFECT = (
    "num_items_in_batch", "cache_position", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx",
    "output_router_logits",
)  # fmt: skip
"""Arguments that libraries pass to every model and that this one does without: it finds document starts by itself."""


def refuse_arguments(function: Callable[..., Any], given: dict[str, Any]) -> None:
    """UserError for the first argument of a forward pass that would be ignored."""
    for name, value in given.items():
        if value is None or name in REQUEST or name in _NO_EFFECT:
            continue
        if name == "is_causal":
            raise UserError("is_causal changes nothing here: give prefix_lm=True and token_type_ids for a prefix")
        raise UserError(f"a text model takes no '{name}'{nearest(name, [*signature(function).parameters, *REQUEST])}")


def as_dict(config: HRMConfig, wish: bool | None) -> bool:
    """Whether to return an object with names instead of a tuple: `wish`, or else the configuration."""
    return (config.return_dict if wish is None else wish) is not False


class HRMForSequenceClassification(GenericForSequenceClassification, HRMPreTrainedModel):
    """transformers' generic head on the last token's state."""
