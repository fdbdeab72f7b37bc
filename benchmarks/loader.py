"""How fast a corpus of 10 billion tokens is opened and read, and how much memory that takes.

    python benchmarks/loader.py [--tokens 10_000_000_000] [--shards 100] [--length 1024] [--out RESULT.json]

The shards are sparse files: their sizes are those of real ones, all tokens are 0, and a document has 500. Opening is
measured in a process of its own. Memory is what the process has to itself (anonymous pages); the pages of files that
are mapped belong to the system's cache and are given separately.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

DOCUMENT = 500


def make(folder: Path, tokens: int, shards: int) -> None:
    """A corpus of sparse files: two sources, one with twice the weight."""
    from hrm.files.output import to_json
    from hrm.text.data import SourceFacts, make_tokenizer, seal, tokenizer_hash

    tokenizer = tokenizer_hash(make_tokenizer("char", ["ab"]))
    each = tokens // shards
    for number in range(shards):
        shard = folder / "ab"[number % 2] / f"{number:05}"
        shard.mkdir(parents=True)
        with (shard / "tokens.bin").open("wb") as file:
            file.truncate(2 * each)
        starts = np.append(np.arange(0, each, DOCUMENT), each)
        np.save(shard / "documents.npy", starts)
        facts = {"format": 1, "count": each, "documents": len(starts) - 1, "characters": each, "bytes": each}
        facts |= {"unknown": 0, "dtype": "<u2", "mask": False, "whole": False, "eos": 0, "vocabulary": 3}
        facts |= {"tokenizer": tokenizer, "sha256": {"tokens.bin": "", "documents.npy": ""}}
        (shard / "index.json").write_text(to_json(facts))
    seal(folder, [SourceFacts("a", 2, "none", "sparse files"), SourceFacts("b", 1, "none", "sparse files")])


def memory() -> dict[str, int]:
    """Bytes of this process: its own pages, and pages of mapped files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(status[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")}


def measure(folder: Path, length: int, seconds: float) -> dict[str, Any]:
    """Open and read on one core, with nothing else loaded."""
    from hrm.text.data.corpus import Corpus

    before, started = memory(), time.perf_counter()
    corpus = Corpus.open(folder)
    first = corpus.batch(0, 0, range(32), 32, length)
    opened = time.perf_counter() - started
    assert first.input_ids.shape == (32, length)
    rates, step = [], 1
    for _ in range(5):
        started, rows = time.perf_counter(), 0
        while time.perf_counter() - started < seconds / 5:
            corpus.batch(0, 1000 * step, range(32), 32, length)
            step, rows = step + 1, rows + 32
        rates.append(rows * length / (time.perf_counter() - started))
    after = memory()
    return {
        "tokens": corpus.count,
        "shards": sum(len(source.shards) for source in corpus.sources),
        "open_and_first_batch_seconds": opened,
        "tokens_per_second": sorted(rates)[2],
        "tokens_per_second_of_each": rates,
        "own_bytes": after["RssAnon"] - before["RssAnon"],
        "mapped_bytes": after["RssFile"] - before["RssFile"],
    }


def main() -> None:
    """Make the corpus, measure in a fresh process, write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=10_000_000_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long rows are read")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/loader.json"))
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:
        print(json.dumps(measure(args.folder, args.length, args.seconds)))
        return
    with tempfile.TemporaryDirectory() as place:
        make(Path(place) / "corpus", args.tokens, args.shards)
        command = [sys.executable, __file__, "--folder", f"{place}/corpus", "--length", str(args.length)]
        found = subprocess.run([*command, "--seconds", str(args.seconds)], check=True, capture_output=True, text=True)
    args.out.write_text(json.dumps(json.loads(found.stdout), indent=2) + "\n")
    print(args.out.read_text())


if __name__ == "__main__":
    main()
