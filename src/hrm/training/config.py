"""How a model is trained, whatever it is: optimizer and loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from hrm.files.ranges import BELOW_ONE, Range


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer, learning rates and averaging."""

    name: Literal["adam_atan2", "adamw", "muon"] = "adam_atan2"
    """muon takes the matrices and leaves everything else to AdamW."""
    lr: Annotated[float, Range(0, 1000)] = 1e-4
    """Learning rate."""
    betas: Annotated[tuple[float, float], Range(0, BELOW_ONE)] = (0.9, 0.95)
    """Decay rates of the two moments."""
    weight_decay: Annotated[float, Range(0, 1000)] = 1.0
    """Decoupled weight decay."""
    muon_lr: Annotated[float, Range(0, 1000)] = 0.02
    """Learning rate of Muon's matrices."""
    muon_weight_decay: Annotated[float, Range(0, 1000)] = 0.005
    """Decoupled weight decay of Muon's matrices."""
    task_lr: Annotated[float, Range(0, 1000)] = 1e-4
    """Learning rate of the task embeddings (sign-SGD)."""
    task_weight_decay: Annotated[float, Range(0, 1000)] = 1.0
    """Weight decay of the task embeddings."""
    warmup_steps: Annotated[int, Range(0, 10**12)] = 2000
    """Steps of linear warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up."""
    min_ratio: Annotated[float, Range(0, 1)] = 0.0
    """Where the cosine ends, as a share of the learning rate."""
    clip: Annotated[float, Range(0, 10**9)] = 0.0
    """Largest gradient norm; 0 for no clipping."""
    ema: Annotated[float, Range(0, BELOW_ONE)] = 0.0
    """Decay of the averaged weights; 0 for none."""


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    steps: Annotated[int, Range(1, 10**12)] = 26041
    """Optimizer steps: of puzzles one segment each, of text one batch."""
    minutes: Annotated[float, Range(0, 10**7)] = 0.0
    """Stop after this many minutes; 0 for no limit. The learning-rate schedule follows whichever is nearer."""
    learn: Literal["all", "embedding", "q"] = "all"
    """What moves: everything, the task embeddings alone, or of a text model the Q head alone."""
    batch_size: Annotated[int, Range(1, 1 << 20)] = 768
    """Puzzles in flight, or rows of text, over all processes."""
    accumulate: Annotated[int, Range(1, 1 << 20)] = 1
    """Parts a batch is split into to save memory; the gradient is the same."""
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of states and activations; weights stay float32."""
    compile: bool = False
    """torch.compile the two stacks."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass to save memory."""
    log_every: Annotated[int, Range(1, 10**12)] = 10
    """Steps between lines of metrics."""
    eval_every: Annotated[int, Range(1, 10**12)] = 1000
    """Steps between measurements on held-out data."""
    eval_puzzles: Annotated[int, Range(0, 10**9)] = 500
    """Held-out puzzles, or rows of text, measured each time."""
    target_accuracy: Annotated[float, Range(0, 1)] = 0.0
    """Stop once this exact accuracy is reached on the held-out puzzles or answers; 0 for never."""
    patience: Annotated[int, Range(0, 10**9)] = 0
    """Stop after this many measurements in a row that are no better than the best one; 0 for never."""
    checkpoint_every: Annotated[int, Range(1, 10**12)] = 1000
    """Steps between checkpoints."""
    keep: Annotated[int, Range(1, 10**6)] = 3
    """Newest checkpoints kept, besides the best."""
    async_checkpoints: bool = False
    """Write checkpoints during the next steps; takes the memory of one."""
    max_bad_steps: Annotated[int, Range(1, 10**9)] = 10
    """Non-finite updates in a row that stop the training."""
    device: str = "auto"
    """cpu, cuda, mps, xpu, or auto: the fastest one there is."""
    threads: Annotated[int, Range(0, 1024)] = 0
    """On a CPU; 0: one for a small model, else as many as cores are free at the start, which then stays the run's
    number. OMP_NUM_THREADS overrides it."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Of several processes (torchrun): each holds the whole model, or its share of every block's weights, gradients
    and optimizer state (FSDP2)."""
    reshard: bool = False
    """With fsdp: drop the other processes' share of a block after each visit and fetch it again, to save memory."""
    timeout: Annotated[float, Range(0.01, 10**7)] = 1440.0
    """Of several processes: all end when one has not answered for this many minutes. The others wait while the main one
    prepares data and measures."""
    track: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Trackers beside metrics.jsonl."""


def problems(optim: OptimConfig, train: TrainConfig) -> Iterator[str]:
    """One sentence per combination that cannot work."""
    warmup, steps, batch = optim.warmup_steps, train.steps, train.batch_size
    if warmup > steps:
        yield f"--optim.warmup-steps {warmup} exceeds --train.steps {steps}: use --optim.warmup-steps {steps // 10}"
    if train.parallel == "fsdp" and optim.name == "muon":
        yield "--optim.name muon needs whole matrices, and --train.parallel fsdp splits them: use ddp, or adamw"
    if train.reshard and train.parallel != "fsdp":
        yield "--train.reshard is a matter of --train.parallel fsdp: leave it out, or use fsdp"
    if train.parallel == "fsdp" and train.learn != "all":
        yield f"--train.learn {train.learn} moves no weights that --train.parallel fsdp could split: use ddp"
    if train.parallel == "fsdp" and train.compile:
        yield "--train.compile has not been tried with --train.parallel fsdp: leave one of them out"
    if batch % train.accumulate:
        yield f"--train.accumulate {train.accumulate} does not divide --train.batch-size {batch}: use a divisor of it"
    if len(set(train.track)) < len(train.track):
        yield f"--train.track {' '.join(train.track)} names a tracker twice: name each once"
