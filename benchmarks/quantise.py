"""What torchao's quantisation does to a text model on this machine: size on disk, bits a byte, time a token.

    python benchmarks/quantise.py RUN [--data TEXT] [--tokens 4000] [--new 32] [--rounds 3] [--out FILE.json]

RUN is a run of text, or a folder that save_pretrained wrote. Each arm is loaded from disk, quantised while loading as docs/quantisation.md shows, measured,
saved, read back and compared. Needs the extra [quantize].
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from hrm.files.reading import UserError, needs
from hrm.text.data import Packed, documents, encode, open_text
from hrm.text.load import load_text
from hrm.text.measuring.losses import evaluate


def arms() -> dict[str, tuple[Any, torch.dtype]]:
    """What is compared: torchao's configuration, and the dtype of all that it leaves."""
    from torchao.quantization import (  # pyright: ignore[reportMissingImports]
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
    )
    from torchao.quantization.granularity import PerGroup  # pyright: ignore[reportMissingImports]

    float32, bfloat16 = torch.float32, torch.bfloat16
    return {
        "float32": (None, float32),
        "bfloat16": (None, bfloat16),
        "int8 weights, float32": (Int8WeightOnlyConfig(), float32),
        "int8 weights, bfloat16": (Int8WeightOnlyConfig(), bfloat16),
        "int8 weights and activations, float32": (Int8DynamicActivationInt8WeightConfig(), float32),
        "int4 weights in groups of 32, kept in int8": (
            IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)),  # pyright: ignore[reportAttributeAccessIssue]
            float32,
        ),
    }


def loaded(folder: Path, config: Any, dtype: torch.dtype) -> Any:
    """A folder's model, quantised while it is read."""
    given: dict[str, Any] = {}
    if config is not None:
        from transformers import TorchAoConfig

        given["quantization_config"] = TorchAoConfig(config)
    given |= {"dtype": dtype, "local_files_only": True}
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, **given).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", help="default: what the run held out")
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if find_spec("torchao") is None:
        raise SystemExit(UserError(needs("this benchmark", "torchao", "quantize")))
    torch.set_num_threads(1)
    source = load_text(options.run, device="cpu", precision="float32")
    tokenizer, rows = source.tokenizer, []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        source.model.save_pretrained(folder)
        if options.data is None:
            packed = open_text(source.held_out[0], tokenizer)
        else:
            packed = Packed.write(Path(place) / "packed", tokenizer, encode(tokenizer, documents(options.data)))
        length = min(source.length or 256, source.model.config.max_position_embeddings)
        prompt = torch.from_numpy(next(packed.windows(length, None, 1)).input_ids[:, :16]).long()
        asked = {"max_new_tokens": options.new, "min_new_tokens": options.new, "do_sample": False, "halting": "fixed"}
        models = {name: loaded(folder, *arm) for name, arm in arms().items()}
        times: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(options.rounds + 1):  # the first one warms up; arms take turns, so that all see the same machine
            for name, model in models.items():
                start = time.process_time()
                model.generate(prompt, **asked)
                times[name].append(1000 * (time.process_time() - start) / options.new)
        for name, model in models.items():
            found = evaluate(model, tokenizer, packed, length, limit=options.tokens, halting="fixed")
            saved = Path(place) / "saved"
            model.save_pretrained(saved)
            again = AutoModelForCausalLM.from_pretrained(
                saved, local_files_only=True, trust_remote_code=False, dtype="auto"
            ).eval()
            with torch.no_grad():
                same = torch.equal(again(prompt).logits, model(prompt).logits)
            size = sum(file.stat().st_size for file in saved.glob("*.safetensors"))
            for file in saved.iterdir():
                file.unlink()
            rows.append(
                {
                    "arm": name,
                    "bytes": size,
                    "bits_per_byte": found["bits_per_byte"],
                    "ms_per_token": statistics.median(times[name][1:]),
                    "reads_back_the_same": same,
                }
            )
    for row in rows:
        wrong = "" if row["reads_back_the_same"] else "  NOT THE SAME when read back"
        print(
            f"{row['arm']:<44}{row['bytes'] / 1e6:>8.2f} MB{row['bits_per_byte']:>9.4f} bits a byte"
            f"{row['ms_per_token']:>9.1f} ms of processor time a token{wrong}"
        )
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
