"""Growing a text model without changing its predictions: more tokens, more layers, and the optimizer state to match."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor, nn

from hrm.core.kernels import at_least_float32
from hrm.core.layers import Attention, Embedding, Linear
from hrm.core.recurrence import Block
from hrm.files.reading import UserError
from hrm.text.model import HRMForCausalLM

SHARE = 1e-9
"""The most probability that all new tokens together get.

The loss of old text changes by no more than that, far below what float32 resolves. New tokens can still be learned,
since the gradient of a token that appears is 1 - p. A smaller share would only need more updates to rise.
"""


def grow_vocabulary(model: HRMForCausalLM, size: int, share: float = SHARE, seed: int = 0) -> None:
    """Append tokens until there are `size`, in place; old ids, logits and, up to `share`, probabilities stay. New rows
    are the mean of the old ones and noise. Parameters are new objects, so optimizers and averages must be made again
    (`carry_over`). UserError where the vocabulary would shrink."""
    config, old = model.config, model.config.vocab_size
    table, head = model.get_input_embeddings(), model.lm_head
    if not (isinstance(table, Embedding) and isinstance(head, Linear)):
        raise UserError("a model with adapters on its embedding or head cannot grow: merge them first")
    if size < old:
        raise UserError(f"a vocabulary of {old} tokens cannot become one of {size}: tokens are only added")
    if size == old:
        return
    new, width = size - old, config.hidden_size
    with torch.no_grad(), _drawing(seed, size):
        grown, grown_head = Embedding(size, width, table.std), Linear(width, size, bias=True)
        # The head reads states of norm sqrt(width) at most, so noise of this length moves no logit by more than 1.
        noise = nn.functional.normalize(torch.randn(new, width), dim=-1) / math.sqrt(width)
        rows = head.weight.detach().to("cpu", torch.promote_types(head.weight.dtype, torch.float32))
        bias = torch.zeros(old) if head.bias is None else head.bias.detach().to("cpu", rows.dtype)
        # The mean row gives the mean of the old logits, and that of their exponentials is at least as large (Jensen):
        # with this bias the share is below the bound in every state, whatever the model has learned.
        low = bias.mean() - (math.log(new / old / share) + 1)
        # Embeddings of new tokens do not affect old text, so they may differ from the mean as much as old ones do.
        vectors = noise if config.tie_word_embeddings else grown.weight[old:].clone()
        _fill(grown, table.weight, vectors + table.weight.detach().to(rows).mean(0))
        _fill(grown_head, head.weight, rows.mean(0) + noise)
        grown_head.bias = nn.Parameter(torch.cat((bias, low.expand(new))).to(head.weight))
    if config.tie_word_embeddings:
        grown_head.weight = grown.weight
    model.set_input_embeddings(grown)
    model.set_output_embeddings(grown_head)
    model.train(model.training)
    config.vocab_size, config.head_bias = size, True


@torch.no_grad()
def admit(
    model: HRMForCausalLM, ids: Int[Tensor, "b p"], targets: Int[Tensor, "b p"], first: int, part: float = 0.1
) -> None:
    """The first step of learning tokens from id `first` on: biases that give each a part of its frequency in `targets`;
    -100 does not count. An optimizer moves a bias by a learning rate per step, however far it has to go; this goes most
    of the way in one."""
    counted = targets != -100
    log_p = torch.log_softmax(at_least_float32(model(ids, use_cache=False).logits[counted]), dim=-1)[:, first:]
    count = torch.bincount(targets[counted], minlength=model.config.vocab_size)[first:].to(log_p)
    raised = (part * count).log() - log_p.logsumexp(0)
    assert model.lm_head.bias is not None, "grow_vocabulary makes one"
    model.lm_head.bias[first:] += torch.where(count > 0, raised, 0).to(model.lm_head.bias)


def grow_depth(model: HRMForCausalLM, fast: int = 2, slow: int = 1, seed: int = 0) -> None:
    """Append blocks to the fast and the slow stack, in place, that return their input until they learn: their output
    matrices are zero and the others drawn. A model of one stack (shared, or a plain Transformer) gets all of them
    there. Caches that were filled before must be dropped."""
    if min(fast, slow) < 0 or fast + slow == 0:
        raise UserError(f"{fast} fast and {slow} slow layers are no growth: add at least one, and none less than none")
    config, recurrence = model.config, model.recurrence
    if recurrence.slow is None:
        fast, slow = fast + slow, 0
    like = recurrence.fast.layers[0].mlp.down.weight  # type: ignore[union-attr]
    config.fast_layers, config.slow_layers = config.fast_layers + fast, config.slow_layers + slow
    config.grown_fast, config.grown_slow = config.grown_fast + fast, config.grown_slow + slow
    with _drawing(seed, config.fast_layers + config.slow_layers):
        for stack, count in ((recurrence.fast, fast), (recurrence.slow, slow)):
            for _ in range(count):
                block = Block(config.arch, mixer := Attention(config.arch))
                block.grown = True
                nn.init.zeros_(mixer.out.weight)
                nn.init.zeros_(block.mlp.down.weight)
                stack.layers.append(block.to(like.device, like.dtype).train(model.training))  # type: ignore[union-attr]


def layers_for(model: HRMForCausalLM, parameters: int, ratio: tuple[int, int] = (2, 1)) -> tuple[int, int]:
    """Numbers of fast and slow layers, at least one, whose parameters come nearest to this many, close to the given
    ratio."""
    layer = model.recurrence.fast.layers[0]
    count = max(1, round(parameters / sum(p.numel() for p in layer.parameters())))
    slow = round(count * ratio[1] / sum(ratio))
    return count - slow, slow


def carry_over(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """An optimizer's state from before the growth, "<parameter>.<key>" to tensor, as the grown model needs it. What
    belongs to old rows stays, new rows have zeros, new parameters nothing. UserError where it fits no parameter."""
    parameters = dict(model.named_parameters())
    found: dict[str, Tensor] = {}
    for name, old in state.items():
        parameter = parameters.get(name.rpartition(".")[0])
        found[name] = old if parameter is not None and not old.ndim else _padded(name, old, parameter, torch.zeros_like)
    return found


def carry_over_average(average: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Averaged weights from before the growth, with the grown model's own values where it is new."""
    parameters = dict(model.named_parameters())
    found = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    return found | {name: _padded(name, old, parameters.get(name), torch.clone) for name, old in average.items()}


def _padded(name: str, old: Tensor, parameter: Tensor | None, background: Callable[[Tensor], Tensor]) -> Tensor:
    if parameter is None or old.shape[1:] != parameter.shape[1:] or len(old) > len(parameter):
        raise UserError(f"{name} {list(old.shape)} fits nothing in the grown model: it is of another one")
    new = background(parameter.detach()).to(old)
    new[: len(old)] = old
    return new


def _fill(layer: Linear | Embedding, old: Tensor, new: Tensor) -> None:
    """Make old rows and then new ones the weight, in the form of the old."""
    layer.weight = nn.Parameter(torch.cat((old.detach(), new.to(old))), old.requires_grad)


@contextmanager
def _drawing(seed: int, size: int) -> Iterator[None]:
    """Random numbers that depend on the seed and the new size only; the global generator is not used."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1_000_003 * seed + size)  # a CPU takes 32 bits of it
        yield
