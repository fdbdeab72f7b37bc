"""The optimizers number by number, averaging, and the learning-rate schedule."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hrm.puzzles.model import TaskEmbedding
from hrm.training.config import OptimConfig
from hrm.training.optim import EMA, AdamATan2, SignSGD, build_optimizers, lr_factor
from tests.core import small
from tests.reference import optim


def grads_like(shape: tuple[int, ...], count: int, seed: int = 0) -> list[Tensor]:
    """Gradients of very different sizes, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        size = 10.0 ** torch.randint(-9, 4, shape, generator=generator)
        made.append(torch.randn(shape, generator=generator) * size * (torch.rand(shape, generator=generator) > 0.1))
    return made


@pytest.mark.parametrize("decay", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_adam_atan2_equals_the_published_update(steps: int, decay: float) -> None:
    start = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    parameter = torch.nn.Parameter(start.clone())
    optimizer = AdamATan2([parameter], lr=0.01, betas=(0.9, 0.95), weight_decay=decay)
    grads = grads_like((3, 4), steps)
    for grad in grads:
        parameter.grad = grad.clone()
        optimizer.step()
    for i, before in enumerate(start.flatten().tolist()):
        expected = optim.adam_atan2(before, [g.flatten()[i].item() for g in grads], 0.01, 0.9, 0.95, decay)
        assert parameter.flatten()[i].item() == pytest.approx(expected, abs=1e-6)


def test_adam_atan2_leaves_parameters_without_gradient_alone() -> None:
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = AdamATan2([used, unused], lr=0.1, weight_decay=1.0)
    used.grad = torch.ones(2)
    optimizer.step()
    assert unused.tolist() == [1, 1] and used[0].item() < 1
    assert unused not in optimizer.state


def test_adam_atan2_gives_the_same_whatever_pieces_it_works_in(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for piece in (1 << 16, 7):
        monkeypatch.setattr("hrm.training.optim._PIECE", piece)
        parameter = torch.nn.Parameter(torch.linspace(-1, 1, 60).view(6, 10))
        optimizer = AdamATan2([parameter], lr=0.1)
        for grad in grads_like((6, 10), 3):
            parameter.grad = grad
            optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results, atol=1e-6, rtol=0)


def test_sign_sgd_sums_equal_ids_and_moves_touched_rows_only() -> None:
    table = TaskEmbedding(5, 3)
    table.weight.normal_(generator=torch.Generator().manual_seed(0))
    before = table.weight.tolist()
    ids = [4, 1, 4, 2, 4]
    grads = [[1.0, -2.0, 0.0], [0.0, 5.0, -1e-9], [-1.0, -1.0, 0.0], [1e-9, 0.0, 3.0], [0.5, 4.0, 0.0]]
    SignSGD("table", table).step(torch.tensor(ids), torch.tensor(grads), lr=0.01, weight_decay=0.1)
    expected = optim.sign_sgd(before, ids, grads, 0.01, 0.1)
    torch.testing.assert_close(table.weight, torch.tensor(expected), atol=1e-6, rtol=0)
    assert table.weight[0].tolist() == before[0] and table.weight[3].tolist() == before[3]


def test_sign_sgd_moves_the_embeddings_of_a_model_against_its_gradient() -> None:
    model = small.model()
    embedding = model.task_embedding
    assert embedding is not None
    optimizer = SignSGD("task_embedding.weight", embedding)
    inputs, _ = small.batch()
    ids = torch.tensor([0, 2, 2, 0])
    before = embedding.weight.clone()
    for half in (slice(0, 2), slice(2, 4)):  # a batch in two parts counts as one
        carry = model.initial_carry(inputs[half], ids[half])
        model.segment(carry, inputs[half], ids[half])[1].logits.square().sum().backward()
    found, grads = optimizer.collect()
    assert embedding.used == [] and len(found) == len(grads)
    optimizer.step(found, grads, lr=0.01, weight_decay=0.0)
    summed = torch.zeros_like(before).index_add_(0, found, grads)
    torch.testing.assert_close(embedding.weight, before - 0.01 * summed.sign())
    assert torch.equal(embedding.weight[1], before[1]) and not torch.equal(embedding.weight[2], before[2])


@pytest.mark.parametrize("name", ["adam_atan2", "adamw", "muon"])
def test_every_parameter_belongs_to_one_optimizer_and_moves(name: Any) -> None:
    model = small.model()
    optimizers = build_optimizers(model, OptimConfig(name=name, lr=1e-2))
    groups = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert len(groups) == len({id(p) for p in groups}) == len(list(model.parameters()))
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    readout = small.readout(model)
    (readout.logits.square().mean() + readout.q.square().mean()).backward()
    for optimizer in optimizers:
        optimizer.step()
    assert all(not torch.equal(before[key], p) for key, p in model.named_parameters())


def test_muon_takes_the_matrices_of_the_stacks_and_adamw_the_rest() -> None:
    model = small.model()
    muon, adamw = build_optimizers(model, OptimConfig(name="muon"))
    names = {id(p): name for name, p in model.named_parameters()}
    taken, rest = ({names[id(p)] for p in o.param_groups[0]["params"]} for o in (muon, adamw))
    assert all(name.startswith("recurrence.") for name in taken)
    assert rest == {"embed_tokens.weight", "head.weight", "q_head.weight", "q_head.bias"}
    assert muon.param_groups[0]["lr"] == 0.02 and muon.param_groups[0]["weight_decay"] == 0.005


def test_warm_up_is_linear_and_then_the_rate_is_constant() -> None:
    config = OptimConfig(warmup_steps=4)
    assert [lr_factor(step, 0.0, config) for step in (1, 2, 3, 4, 5, 999)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert lr_factor(1, 0.0, dataclasses.replace(config, warmup_steps=0)) == 1


def test_cosine_falls_to_its_share_and_stays_there() -> None:
    config = OptimConfig(warmup_steps=0, schedule="cosine", min_ratio=0.1)
    factors = [lr_factor(10, progress, config) for progress in (0, 1 / 3, 0.5, 1, 2)]
    half_way = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 3))
    assert factors == pytest.approx([1, half_way, 0.55, 0.1, 0.1])


def test_averaging_follows_the_weights_and_task_embeddings_and_keeps_the_raw_ones() -> None:
    model = small.model()
    assert model.task_embedding is not None
    ema = EMA(model, 0.9, SignSGD("task_embedding.weight", model.task_embedding).tables)
    start = {name: tensor.clone() for name, tensor in ema.average.items()}
    assert start.keys() == {*dict(model.named_parameters()), "task_embedding.weight"}
    with torch.no_grad():
        for tensor in ema.live.values():
            tensor.add_(1.0)
    ema.update()
    raw = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, average in ema.average.items():
        torch.testing.assert_close(average, start[name] + 0.1)
    with ema.applied():
        for name, average in ema.average.items():
            assert torch.equal(model.state_dict()[name], average)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, raw[name])


def test_averaged_weights_are_taken_back_even_after_an_error() -> None:
    model = small.model()
    ema = EMA(model, decay=0.5)
    with torch.no_grad():
        model.head.weight.zero_()  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="on purpose"), ema.applied():
        raise RuntimeError("on purpose")
    assert not model.head.weight.any()  # type: ignore[union-attr]
