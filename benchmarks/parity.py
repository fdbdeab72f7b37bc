"""Run the official HRM and TRM beside this package on the same random weights and print the largest differences.

    git clone https://github.com/sapientinc/HRM /tmp/HRM
    git clone https://github.com/SamsungSAILMontreal/TinyRecursiveModels /tmp/TRM
    python benchmarks/parity.py --hrm /tmp/HRM --trm /tmp/TRM [--threads 2]

The official models are saved as their programs save them and come in through `hrm.puzzles.official`. They run on the
CPU in float32, with scaled_dot_product_attention in the place of flash-attn; their Adam-atan2 needs CUDA, so its update
is restated here in float64. They need pydantic. Exits with 1 where a difference is larger than promised.

Freshly drawn models are chaotic: the last bit of a number decides what they answer after sixteen segments. In float32
this package computes in the published order, so that nothing differs even there. Every model is compared twice, as
drawn and with the matrices of its stacks halved, which makes it converge, and each time the original is also compared
with itself after the last bit of its initial state was moved: the control.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import platform
import sys
import tempfile
import types
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from official import flash_attn_func
from torch import Tensor

from hrm.core.arch import HaltingConfig
from hrm.core.halting import continue_target
from hrm.puzzles.config import LossConfig
from hrm.puzzles.model import PuzzleModel, board_of
from hrm.puzzles.official import names, read, write
from hrm.puzzles.tasks import build
from hrm.puzzles.training.objective import IGNORE, objective
from hrm.training.optim import AdamATan2, SignSGD

SEGMENTS = 16
LR, DECAY, BETAS = 1e-4, 1.0, (0.9, 0.95)
HRM = "hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1"
TRM = "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1"
SMALL = {"hidden_size": 64, "num_heads": 4, "puzzle_emb_ndim": 64}
PUBLISHED = {"hidden_size": 512, "num_heads": 8, "puzzle_emb_ndim": 512}
HRM_ARCH = {"name": HRM, "H_cycles": 2, "L_cycles": 2, "H_layers": 4, "L_layers": 4, "pos_encodings": "rope"}
TRM_ARCH = {
    "name": TRM,
    "H_cycles": 3,
    "L_cycles": 6,
    "H_layers": 0,
    "L_layers": 2,
    "pos_encodings": "rope",
    "mlp_t": False,
    "puzzle_emb_len": 16,
    "no_ACT_continue": True,
}
MLP = {"mlp_t": True, "pos_encodings": "none"}
SOFTMAX = {"loss": {"name": "losses@ACTLossHead", "loss_type": "softmax_cross_entropy"}}
SCALES = {"as drawn": 1.0, "halved": 0.5}
# Settings, cells and vocabulary.
CASES: dict[str, tuple[dict[str, Any], int, int]] = {
    "HRM small": (HRM_ARCH | SMALL, 81, 11),
    "HRM small, learned positions, softmax": (
        HRM_ARCH | SMALL | SOFTMAX | {"pos_encodings": "learned"},
        81,
        11,
    ),
    "HRM small, 900 cells": (HRM_ARCH | SMALL, 900, 6),
    "HRM 27M": (HRM_ARCH | PUBLISHED, 81, 11),
    "TRM small, attention": (TRM_ARCH | SMALL, 81, 11),
    "TRM small, MLP": (TRM_ARCH | SMALL | MLP, 81, 11),
    "TRM 7M, attention": (TRM_ARCH | PUBLISHED, 81, 11),
    "TRM 5M, MLP": (TRM_ARCH | PUBLISHED | MLP, 81, 11),
}
SAME = "other answers, 16 segments"
PROMISES = {
    "logits": 1e-5,
    "q": 1e-5,
    SAME: 0,
    "gradients": 1e-4,
    "loss (relative)": 1e-5,
    "target q_continue": 1e-5,
    "step": 1e-6,
}


class Original(NamedTuple):
    """The classes of an official program."""

    model: type
    loss: type
    sign_sgd: type


class Batch(NamedTuple):
    """Inputs and labels [rows, cells] and puzzle ids [rows]."""

    inputs: Tensor
    labels: Tensor
    ids: Tensor


def load_original(path: Path, module: str, model: str) -> Original:
    """Import an official program, whose packages have the same names in both repositories."""
    attention, rearranging = types.ModuleType("flash_attn"), types.ModuleType("einops")

    def rearrange(tensor: Tensor, pattern: str) -> Tensor:
        swaps = {"B S H D -> B H S D", "B H S D -> B S H D"}
        assert pattern in swaps, pattern
        return tensor.transpose(1, 2).contiguous() if pattern.startswith("B H") else tensor.transpose(1, 2)

    attention.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    rearranging.rearrange = rearrange  # type: ignore[attr-defined]
    sys.modules |= {"flash_attn": attention, "einops": rearranging}
    for name in [name for name in sys.modules if name == "models" or name.startswith("models.")]:
        del sys.modules[name]
    sys.path.insert(0, str(path))
    try:
        return Original(
            getattr(importlib.import_module(f"models.{module}"), model),
            importlib.import_module("models.losses").ACTLossHead,
            importlib.import_module("models.sparse_embedding").CastedSparseEmbeddingSignSGD_Distributed,
        )
    finally:
        sys.path.remove(str(path))


def arch_of(changes: dict[str, Any]) -> dict[str, Any]:
    """The `arch` section of an all_config.yaml. Without exploration, the random numbers of halting change nothing."""
    common = {
        "halt_exploration_prob": 0.0, "halt_max_steps": SEGMENTS, "expansion": 4, "forward_dtype": "float32",
        "loss": {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"},
    }  # fmt: skip
    return common | changes


def make_original(original: Original, arch: dict[str, Any], rows: int, cells: int, vocabulary: int) -> Any:
    """The official model in its loss head; the parts that start at zero get random numbers."""
    sizes = {"batch_size": rows, "seq_len": cells, "vocab_size": vocabulary, "num_puzzle_identifiers": 3}
    settings = {key: value for key, value in arch.items() if key not in ("name", "loss")}
    head = original.loss(original.model(settings | sizes), arch["loss"]["loss_type"])
    # The softmax loss of the original needs contiguous logits, which it has in bfloat16 only.
    loss = head.loss_fn
    head.loss_fn = lambda logits, *rest, **kwargs: loss(logits.contiguous(), *rest, **kwargs)
    with torch.no_grad():
        head.model.inner.q_head.weight.normal_(std=0.1)
        head.model.inner.puzzle_emb.weights.normal_(std=0.1)
    return head.train()


def bring_over(head: Any, arch: dict[str, Any], cells: int, folder: Path) -> PuzzleModel:
    """Save as the official programs do, read it here, write it back, and insist on identical tensors."""
    folder.mkdir()
    training = {"global_batch_size": 768, "epochs": 20000, "lr": LR, "lr_min_ratio": 1.0, "lr_warmup_steps": 2000}
    (folder / "all_config.yaml").write_text(yaml.dump({"arch": arch, **training}))
    state = {"_orig_mod." + name: tensor for name, tensor in head.state_dict().items()}
    torch.save(state, folder / "step_1")
    found = read(folder)
    assert found.cells == cells
    file = write(
        folder / "back", "trm" if found.config.arch.shared else "sapient-hrm", found.config, cells, found.weights, 1
    )
    back = torch.load(file, weights_only=True)
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    model = PuzzleModel(found.config.arch, board_of(build(found.config.task), found.task_ids))
    model.load_state_dict(found.weights)
    return model.train()


def random_batch(rows: int, cells: int, vocabulary: int) -> Batch:
    """Random puzzles; some labels of the first are ignored."""
    inputs, labels = (torch.randint(1, vocabulary, (rows, cells)) for _ in range(2))
    labels[0, : cells // 3] = IGNORE
    return Batch(inputs, labels, torch.arange(rows) % 3)


def difference(a: Tensor, b: Tensor) -> float:
    return (a.detach().double() - b.detach().double()).abs().max().item()


@torch.no_grad()
def compare_forward(head: Any, model: PuzzleModel, batch: Batch) -> dict[str, Any]:
    """Logits and Q values after one segment, logits and answers after sixteen, and the control."""
    head.eval()
    model.eval()
    data = {"inputs": batch.inputs, "puzzle_identifiers": batch.ids}
    inner = head.model.inner
    fresh = inner.reset_carry(torch.ones(len(batch.ids), dtype=torch.bool), inner.empty_carry(len(batch.ids)))
    carry, ours = fresh, model.initial_carry(batch.inputs, batch.ids)
    moved = type(fresh)(z_H=fresh.z_H * (1 + torch.finfo(torch.float32).eps), z_L=fresh.z_L)
    found: dict[str, Any] = {}
    for segment in range(1, SEGMENTS + 1):
        carry, logits, (halt, proceed) = inner(carry, data)
        moved, moved_logits, _ = inner(moved, data)
        ours, readout = model.segment(ours, batch.inputs, batch.ids)
        if segment == 1:
            q = torch.stack((halt, proceed), 1)
            found = {"logits": difference(logits, readout.logits), "q": difference(q, readout.q)}
            found["logits, control"] = difference(logits, moved_logits)
            batch.labels[-1] = logits[-1].argmax(-1)  # a solved puzzle, so that both halting targets occur
    head.train()
    model.train()
    answers = logits.argmax(-1)
    return found | {
        "logits, 16 segments": difference(logits, readout.logits),
        "logits, 16 segments, control": difference(logits, moved_logits),
        SAME: int((answers != readout.logits.argmax(-1)).sum()),
        f"{SAME}, control": int((answers != moved_logits.argmax(-1)).sum()),
    }


def compare_training(original: Original, head: Any, model: PuzzleModel, batch: Batch, loss_kind: Any) -> dict[str, Any]:
    """Loss, Q targets, gradients and one step of the optimizers, from fresh states."""
    rows = len(batch.ids)
    data = {"inputs": batch.inputs, "labels": batch.labels, "puzzle_identifiers": batch.ids}
    wanted = ["q_halt_logits", "target_q_continue"]
    _, loss, metrics, outputs, _ = head(carry=head.initial_carry(data), batch=data, return_keys=wanted)
    (loss / rows).backward()

    carry, readout = model.segment(model.initial_carry(batch.inputs, batch.ids), batch.inputs, batch.ids)
    target = None
    found: dict[str, Any] = {}
    if "target_q_continue" in outputs:
        with torch.no_grad():
            next_q = model.segment(carry.detach(), batch.inputs, batch.ids)[1].q
        target = continue_target(next_q, torch.zeros(rows, dtype=torch.bool))
        found["target q_continue"] = difference(outputs["target_q_continue"], target)
    result = objective(readout, batch.labels, target, LossConfig(kind=loss_kind), HaltingConfig())
    (result.total / rows).backward()
    found["loss (relative)"] = difference(loss, result.total) / loss.item()
    # Their loss of q_halt shows their target, 1 for the solved puzzle and 0 for the others.
    found["loss of q_halt"] = difference(metrics["q_halt_loss"], result.halt)
    assert result.correct.tolist() == [False] * (rows - 1) + [True]

    theirs = {name: p.grad for name, p in names.bare(dict(head.named_parameters()), "the official model").items()}
    pairs: dict[str, tuple[Tensor | None, Tensor | None]]
    pairs = {name: (theirs[names.official(name)], p.grad) for name, p in model.named_parameters()}
    embedding, sparse = model.task_embedding, head.model.puzzle_emb
    assert embedding is not None
    optimizer = SignSGD("task_embedding.weight", embedding)
    ids, grads = optimizer.collect()
    table = torch.zeros_like(embedding.weight)
    pairs["task_embedding.weight"] = (
        table.index_add(0, batch.ids, sparse.local_weights.grad),
        table.index_add(0, ids, grads),
    )
    for name, (a, b) in pairs.items():
        assert (a is None) == (b is None), name
    compared = {name: (a, b) for name, (a, b) in pairs.items() if a is not None and b is not None}
    found["gradients"] = max(difference(a, b) for a, b in compared.values())
    found["gradients (largest)"] = max(a.abs().max().item() for a, _ in compared.values())

    original.sign_sgd(sparse.buffers(), world_size=1, lr=LR, weight_decay=DECAY).step()
    optimizer.step(ids, grads, lr=LR, weight_decay=DECAY)
    found["sign-SGD step"] = difference(sparse.weights, embedding.weight)
    return found | compare_step(model, {name: a for name, (a, _) in compared.items()})


def compare_step(model: PuzzleModel, official_grads: dict[str, Tensor]) -> dict[str, Any]:
    """One Adam-atan2 step here against the published one, from the official gradients and from each one's own.

    The first step is almost the sign of the gradient, so that from their own gradients the two may differ by two steps
    wherever the gradient is nothing but rounding; the share of such weights is reported.
    """
    parameters = dict(model.named_parameters())
    official_grads = {name: official_grads[name] for name in parameters if name in official_grads}

    def published(name: str) -> Tensor:
        p, g = parameters[name].detach().double(), official_grads[name].double()
        m, v = (1 - BETAS[0]) * g, (1 - BETAS[1]) * g * g
        step = LR / (1 - BETAS[0]) * torch.atan2(m, v.sqrt() / math.sqrt(1 - BETAS[1]))
        return p * (1 - LR * DECAY) - step

    expected = {name: published(name) for name in official_grads}
    saved = {name: p.detach().clone() for name, p in parameters.items()}
    AdamATan2(parameters.values(), LR, BETAS, DECAY).step()
    own = {name: (parameters[name].detach().double() - expected[name]).abs() for name in expected}
    elements = sum(d.numel() for d in own.values())
    for name, parameter in parameters.items():
        parameter.data.copy_(saved[name])
        parameter.grad = official_grads.get(name)
    AdamATan2(parameters.values(), LR, BETAS, DECAY).step()
    return {
        "step": max(difference(expected[name], parameters[name]) for name in expected),
        "step, own gradients": max(d.max().item() for d in own.values()),
        "share of weights off by more than lr/100": sum(int((d > LR / 100).sum()) for d in own.values()) / elements,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hrm", type=Path, help="checkout of sapientinc/HRM")
    parser.add_argument("--trm", type=Path, help="checkout of SamsungSAILMontreal/TinyRecursiveModels")
    parser.add_argument("--rows", type=int, default=2, help="puzzles in the batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "parity.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results: dict[str, dict[str, dict[str, Any]]] = {}
    broken: list[str] = []
    for name in CASES:
        if (args.trm if CASES[name][0]["name"] == TRM else args.hrm) is None:
            continue
        results[name] = {title: compare(name, scale, args) for title, scale in SCALES.items()}
        broken += report(name, results[name])
    machine = {"torch": torch.__version__, "machine": platform.machine(), "threads": args.threads, "rows": args.rows}
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps({**machine, "results": results, "broken": broken}, indent=1) + "\n")
    print("every promise is kept" if not broken else "larger than promised: " + "; ".join(broken))
    return 1 if broken else 0


def compare(name: str, scale: float, args: argparse.Namespace) -> dict[str, Any]:
    """All differences of one case; `scale` multiplies the matrices of the stacks."""
    changes, cells, vocabulary = CASES[name]
    if changes["name"] == TRM:
        original = load_original(args.trm, "recursive_reasoning.trm", "TinyRecursiveReasoningModel_ACTV1")
    else:
        original = load_original(args.hrm, "hrm.hrm_act_v1", "HierarchicalReasoningModel_ACTV1")
    torch.manual_seed(0)
    arch = arch_of(changes)
    head = make_original(original, arch, args.rows, cells, vocabulary)
    with torch.no_grad():
        for parameter_name, parameter in head.named_parameters():
            if "_level." in parameter_name:
                parameter.mul_(scale)
    with tempfile.TemporaryDirectory() as folder:
        model = bring_over(head, arch, cells, Path(folder) / "official")
    batch = random_batch(args.rows, cells, vocabulary)
    kind = arch["loss"]["loss_type"].removesuffix("_cross_entropy")
    parameters = {"parameters": sum(p.numel() for p in model.parameters())}
    return parameters | compare_forward(head, model, batch) | compare_training(original, head, model, batch, kind)


def report(name: str, results: dict[str, dict[str, Any]]) -> list[str]:
    """Print one case as a table and name the broken promises."""
    titles = list(results)
    print(f"{name:45}" + "".join(f"{title:>12}" for title in titles) + "    promised")
    broken = []
    for key in results[titles[0]]:
        values = [results[title][key] for title in titles]
        bounds = [PROMISES.get(key) for title in titles]
        cells = "".join(f"{value:12.1e}" if isinstance(value, float) else f"{value:12}" for value in values)
        print(f"  {key:43}{cells}" + ("" if bounds[-1] is None else f"{bounds[-1]:12.0e}"), flush=True)
        for title, value, bound in zip(titles, values, bounds, strict=True):
            if bound is not None and value > bound:
                broken.append(f"{name}, {title}: {key}")
    return broken


if __name__ == "__main__":
    sys.exit(main())
