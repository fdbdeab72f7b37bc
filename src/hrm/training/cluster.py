"""What accelerators can do, by their makers' figures, and how a training is started on several."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from hrm.files.records import Record


@dataclass(frozen=True)
class GPU(Record):
    """An accelerator: GiB of memory, and FLOPs a second of dense matrix products in 16 bits and in float32."""

    name: str
    gib: int
    flops_16_bit: float
    flops_float32: float
    source: str


_NVIDIA = "https://www.nvidia.com/en-us/data-center"
GPUS = {
    "b200": GPU("NVIDIA B200, HGX", 180, 2250e12, 75e12, f"{_NVIDIA}/hgx/"),
    "h200": GPU("NVIDIA H200 SXM", 141, 989e12, 67e12, f"{_NVIDIA}/h200/"),
    "h100": GPU("NVIDIA H100 SXM", 80, 989e12, 67e12, f"{_NVIDIA}/h100/"),
    "a100": GPU("NVIDIA A100 80GB SXM", 80, 312e12, 19.5e12, f"{_NVIDIA}/a100/"),
    "a100-40": GPU("NVIDIA A100 40GB", 40, 312e12, 19.5e12, f"{_NVIDIA}/a100/"),
    "l40s": GPU("NVIDIA L40S", 48, 362e12, 91.6e12, f"{_NVIDIA}/l40s/"),
    "4090": GPU(
        "NVIDIA GeForce RTX 4090", 24, 165.2e12, 82.6e12,
        "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf",
    ),
    "3090": GPU(
        "NVIDIA GeForce RTX 3090", 24, 71e12, 35.6e12,
        "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf",
    ),
    "mi300x": GPU(
        "AMD Instinct MI300X", 192, 1307.4e12, 163.4e12,
        "https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html",
    ),
}  # fmt: skip
"""FLOPs without sparsity; where a maker gives the figure with it, half of that."""
GPUS |= {"h100-80": GPUS["h100"], "a100-80": GPUS["a100"]}  # by their memory, as a100-40 is called


def known(device: str) -> GPU | None:
    """The accelerator that a driver calls by this name, such as "NVIDIA H100 80GB HBM3"."""
    words = re.split(r"[^a-z0-9]+", device.lower())
    found = next((name for name in GPUS if name in words), None)
    return GPUS["a100-40" if found == "a100" and "40gb" in words else found] if found else None


def torchrun(command: Sequence[str], gpus: int, per_node: int) -> str:
    """The line that starts a training on this many GPUs of one node, or on each of several nodes under Slurm."""
    nodes = -(-gpus // per_node)
    where = f"--nproc-per-node {min(gpus, per_node)} --max-restarts 3"
    if nodes == 1:
        return f"torchrun --standalone {where} -m hrm {shlex.join(command)}"
    rendezvous = '--rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$HEAD:29500"'
    return f"torchrun --nnodes {nodes} {where} {rendezvous} -m hrm {shlex.join(command)}"


def sbatch(name: str, command: Sequence[str], gpus: int, per_node: int, hours: int) -> str:
    """A Slurm script that starts a training or, where its run exists, resumes it; `command` ends in `--out RUN ...`."""
    nodes, each, run = -(-gpus // per_node), min(gpus, per_node), command[command.index("--out") + 1]
    days, rest = divmod(min(max(1, hours), 24 * 365), 24)
    start, resume = (torchrun(words, nodes * each, per_node) for words in (command, ["train", "--resume", run]))
    return f"""#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={each}
#SBATCH --cpus-per-task={8 * each}
#SBATCH --time={days}-{rest:02}:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
##SBATCH --partition=...  --account=...
# Activate your environment here, and put your corpus in the place of CORPUS.
export HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Otherwise processes that torchrun starts again find the addresses of those before.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
if [ -f {shlex.quote(run)}/run.json ]; then
    srun {resume}
else
    srun {start}
fi
"""
