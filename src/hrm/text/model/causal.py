"""The causal language model: logits, losses, and the methods used by training, measuring and generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep

from hrm.core.halting import QHead
from hrm.core.layers import Linear
from hrm.core.recurrence import Recurrence, Schedule
from hrm.files.reading import UserError
from hrm.text.model.budget import Budget, Request
from hrm.text.model.configuration import HRMConfig
from hrm.text.model.generation import HRMGenerationMixin
from hrm.text.model.loss import token_loss
from hrm.text.model.masks import prefix_blocks, visible
from hrm.text.model.modeling import HRMModel, HRMPreTrainedModel, as_dict, refuse_arguments
from hrm.text.model.thought import Thought, VisitRecords


@dataclass
class HRMOutput(CausalLMOutputWithPast):
    """Logits, and for every token its depth in segments and the Q head's P(halt), both [b, p]; `retried`: whether low
    confidence gave it a second look, None if that is off."""

    # Accelerate builds one from a dict as its first argument, which jaxtyping's wrapper in the tests does not know.
    __no_type_check__ = True

    depth: Tensor | None = None
    confidence: Tensor | None = None
    retried: Tensor | None = None


class HRMForCausalLM(HRMPreTrainedModel, HRMGenerationMixin):
    """Predicts the next token after every token, with adaptive depth."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    _keys_to_ignore_on_load_missing = [r"model\.q_head\..*"]  # noqa: RUF012

    def __init__(self, config: HRMConfig, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.model = HRMModel(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=config.head_bias)
        if not self.lm_head.weight.is_meta:
            self.lm_head._is_hf_initialized = True  # type: ignore[assignment]
        self.post_init()

    @property
    def recurrence(self) -> Recurrence:
        """The two stacks and their loop."""
        return self.model.recurrence

    @property
    def q_head(self) -> QHead:
        """The Q head, which reads from a state whether more thought would help."""
        return self.model.q_head

    @property
    def compute_dtype(self) -> torch.dtype:
        """Dtype of states and activations: that of the weights, unless set to train float32 weights in bfloat16."""
        return self.model.compute_dtype or self.dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype) -> None:
        self.model.compute_dtype = None if dtype == torch.float32 else dtype

    def units(self) -> list[nn.Module]:
        """What may be split over processes: blocks, embedding and output layer; a matrix that is both stays whole."""
        stacks = (self.recurrence.fast, self.recurrence.slow)
        blocks = [layer for stack in stacks if stack is not None for layer in stack.layers]
        return [*blocks] if self.config.tie_word_embeddings else [*blocks, self.model.embed_tokens, self.lm_head]

    def compile_stacks(self) -> None:
        """Compile both stacks for the one shape of a training, in which halted tokens are computed too."""
        self.model.gathers = False
        for stack in (self.recurrence.fast, self.recurrence.slow):
            if stack is not None:
                stack.compile(dynamic=False)

    def budget(self, **request: Unpack[Request]) -> Budget:
        """`HRMModel.budget`."""
        return self.model.budget(**request)

    def begin(self, **tokens: Any) -> Thought:
        """`HRMModel.begin`, with the output layer ready for the thought's dtype."""
        self._refresh_head()
        return self.model.begin(**tokens)

    def segment(self, thought: Thought, schedule: Schedule | None = None) -> None:
        """`HRMModel.segment`."""
        self.model.segment(thought, schedule)

    def segments(self, thoughts: Sequence[Thought], schedule: Schedule) -> list[int]:
        """`HRMModel.segments`."""
        return self.model.segments(thoughts, schedule)

    def think(self, thought: Thought, budget: Budget) -> None:
        """`HRMModel.think`, with the output layer for criteria that compare predictions."""
        self.model.think(thought, budget, self.lm_head)

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
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        budget: Budget | None = None,
        trace: Any = None,
        return_dict: bool | None = None,
        **request: Any,
    ) -> HRMOutput | tuple[Any, ...]:
        """Logits of the next tokens, with a loss where there are labels (shifted here, as everywhere; ignored inside a
        prefix block). `request` names what differs from the configuration (`Budget`), such as max_segments=4, where no
        whole budget is given. While training the loss is the mean over the segments' losses plus the Q head's."""
        refuse_arguments(HRMForCausalLM.forward, request)
        budget, items = budget or self.budget(**request), request.get("num_items_in_batch")
        tokens = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
        tokens |= {"position_ids": position_ids, "token_type_ids": token_type_ids}
        shown = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        targets = None if labels is None else self._targets(labels, token_type_ids)
        if targets is not None and self.training:
            if past_key_values is not None:
                raise UserError("training reads whole texts, without past_key_values (prefix tuning): use LoRA")
            result = self._learn(tokens, budget, targets, items, self.model.watch(**shown), logits_to_keep)
            return result if as_dict(self.config, return_dict) else result.to_tuple()
        self._refresh_head()
        cache = {"past_key_values": past_key_values, "use_cache": use_cache}
        how: dict[str, Any] = {"head": self.lm_head, "budget": budget, "writes": trace is not None}
        out = dict(self.model(**tokens, **cache, **shown, **how, return_dict=True))
        z = out.pop("last_hidden_state")
        kept = slice_logits_to_keep(z, logits_to_keep)
        decoder = self.model.decoder
        logits = self.lm_head(kept) if decoder is None else decoder.head(kept)
        loss = None
        if targets is not None:
            losses = token_loss(self.lm_head(z) if kept.shape != z.shape else logits, targets)
            loss = losses.sum() / ((targets != -100).sum() if items is None else items)
        confidence = budget.probability(self.q_head(z))
        if trace is not None:
            trace.add(logits[:, -1], out["depth"][:, -1], confidence[:, -1], out.get("retried"))
        result = HRMOutput(loss=loss, logits=logits, confidence=confidence, **out)
        return result if as_dict(self.config, return_dict) else result.to_tuple()

    def _learn(
        self,
        tokens: dict[str, Any],
        budget: Budget,
        targets: Int[Tensor, "b p"],
        items: Any,
        watch: VisitRecords,
        logits_to_keep: int | Tensor,
    ) -> HRMOutput:
        """The loss of all segments in one graph, for `transformers.Trainer`."""
        from hrm.text.model.supervision import supervised_loss  # it knows this class

        budget = budget.learning()
        if self.config.depth_mean:
            budget = budget.poisson(float(torch.rand(())), self.config.depth_mean)
        elif self.config.depth_sampling:
            budget = budget.sampled(float(torch.rand(())))
        thought = self.begin(**tokens, budget=budget)
        thought.watch = watch
        loss = supervised_loss(self, thought, budget, targets, items)
        logits = thought.logits
        if logits is None:
            with torch.no_grad():
                logits = self.lm_head(thought.exited.z_h)
        logits = slice_logits_to_keep(logits, logits_to_keep)
        return HRMOutput(loss=loss, logits=logits, depth=thought.depth, **watch.found(thought))  # type: ignore[arg-type]

    def _refresh_head(self) -> None:
        dtype = self.model.compute_dtype
        if dtype is not None and isinstance(self.lm_head, Linear):
            self.lm_head.refresh(dtype, self.training and torch.is_grad_enabled())

    def _targets(self, labels: Int[Tensor, "b p"], token_types: Tensor | None) -> Int[Tensor, "b p"]:
        """The label of the next token at every position, -100 at the last one and inside prefixes."""
        targets = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
        blocks = self.model.blocks(token_types, labels.shape[1])
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
        """The complete mask [b, 1, p, k], for caches of fixed size."""
        assert past_key_values is not None
        length, past = inputs_embeds.shape[1], int(past_key_values.get_seq_length())
        keys = past_key_values.get_mask_sizes(length, 0)[0]
        padding = None if attention_mask is None else attention_mask.bool()
        blocks = None
        if token_type_ids is not None and config.prefix_lm:
            blocks = prefix_blocks(token_type_ids[:, -length:])
        return visible(length, past, keys, inputs_embeds.device, padding, blocks)
