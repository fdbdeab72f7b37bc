"""Where known texts stand on the scale of `hrm analyze text`: books, code, chains of characters, one line repeated.

python benchmarks/text_measures.py --data HRM_DATA/text --out benchmarks/results/text_measures.json --plot docs/text-quality.png
"""  # noqa: E501

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from hrm.files.output import to_json
from hrm.text.data import documents
from hrm.text.quality.copying import TrainingText
from hrm.text.quality.report import draw, table
from hrm.text.quality.scale import Judged, Scale

ORDERS = (0, 1, 2, 3, 4, 5, 6, 8)


def chain(text: str, order: int, length: int) -> str:
    """A Markov chain: each character is drawn as it follows on the `order` characters before it in the text."""
    dice, following, ring = random.Random(0), defaultdict(list), text + text[: order + 1]
    for i in range(len(text)):
        following[ring[i : i + order]].append(ring[i + order])
    sample = text[:order]
    while len(sample) < length:
        sample += dice.choice(following[sample[len(sample) - order :]])
    return sample


def books(read: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Other texts against the first half of Alice."""
    rest = read["alice.txt"][len(read["alice.txt"]) // 2 :]
    yield "its second half", rest
    for name, text in read.items():
        if name != "alice.txt":
            yield name, text[:200_000]
    yield "second half, shuffled", "".join(random.Random(0).sample(rest, len(rest)))


def made(alice: str) -> Iterator[tuple[str, str]]:
    """Texts made from all of Alice, and one that says one thing."""
    for order in ORDERS:
        yield f"chain of order {order}", chain(alice, order, 60_000)
    yield "one line, again and again", "He said that he would go home. " * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    names = [
        "alice.txt",
        "looking_glass.txt",
        "tinyshakespeare.txt",
        "inaugural_1789_2021.txt.gz",
        "python_code.txt.gz",
    ]
    read = {name: "".join(documents(options.data / name)) for name in names}
    alice = read["alice.txt"]
    result: dict[str, list[Judged]] = {}
    for title, known, texts in (
        ("against the first half of alice.txt", alice[: len(alice) // 2], books(read)),
        ("against all of alice.txt", alice, [("looking_glass.txt", read["looking_glass.txt"]), *made(alice)]),
    ):
        scale, training = Scale("alice.txt", known), TrainingText(known)
        result[title] = [scale.judge(name, text, training) for name, text in texts]
        console = Console(highlight=False)
        console.print(f"\n{title}", table(result[title]))
    if options.out:
        options.out.write_text(to_json(result) + "\n", "utf-8")
    if options.plot:
        draw(result["against all of alice.txt"], scale, options.plot)


if __name__ == "__main__":
    main()
