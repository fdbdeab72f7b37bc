"""What `hrm data clean` costs beside a plain datatrove script of the same steps, what it finds, and what it loses.

    python benchmarks/pipeline.py [--data DATA/text] [--repeats 3] [--out RESULT.json]

Some 8 MB of public-domain speeches, plays and novels in pieces of 3,000 characters, and articles of Wikipedia, with
planted duplicates and questions of a made-up test. Both run with one worker, one after the other in turns.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BOOKS = (
    "state_of_the_union_1945_1998.txt.gz", "inaugural_1789_2021.txt.gz", "tinyshakespeare.txt", "paradise_lost.txt.gz",
    "alice.txt", "looking_glass.txt", "the_verdict.txt",
)  # fmt: skip
PIECE, EQUAL, NEAR, ASKED = 3000, 100, 200, 50


def read(path: Path) -> str:
    """A text file, unpacked."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as file:
        return file.read()


def pieces(text: str) -> list[str]:
    """A text cut at line ends."""
    found, part = [], ""
    for line in text.splitlines():
        part += line + "\n"
        if len(part) >= PIECE:
            found.append(part)
            part = ""
    return found


def articles(data: Path) -> dict[str, str]:
    """Articles by name; those of WikiText-2 with its spaces and <unk> taken out, which are of the data set."""
    found = {}
    for line in read(data / "wiki_demo.txt.gz").split("\n"):
        if line:
            found[" ".join(line.split()[:5])] = line
    for name in ("valid", "test"):
        text = read(data / f"wikitext2_tokenized_{name}.txt.gz")
        for title, body in re.findall(r"^ = ([^=\n]+) = \n(.*?)(?=^ = [^=]|\Z)", text, re.S | re.M):
            lines = [line.strip() for line in body.splitlines() if line.strip() and not line.startswith(" = ")]
            if len(" ".join(lines)) > 1000:  # formulas and tables look like titles, and are none
                found[f"{title} ({name})"] = plain("\n\n".join(lines))
    return found


def plain(text: str) -> str:
    """A text of WikiText-2 about as it was written; <unk> are rare words, each another."""
    draw = random.Random(text)
    text = re.sub("<unk>", lambda _: "".join(draw.choice("bdgklmnrst") + draw.choice("aeiou") for _ in range(3)), text)
    text = re.sub(r" @(.)@ ", r"\1", text)
    text = re.sub(r"([(\[$]) ", r"\1", re.sub(r" ([.,;:!?%)\]])", r"\1", text))
    return re.sub(r'" ([^"]*) "', r'"\1"', re.sub(r" (n't|'\w+)\b", r"\1", text))


def shingles(text: str) -> set[tuple[str, ...]]:
    """Five words in a row."""
    words = re.findall(r"\w+", text.lower())
    return set(zip(*(words[start:] for start in range(5)), strict=False))


def near(text: str, draw: random.Random) -> str:
    """A text with a Jaccard similarity of shingles to the first from 0.8 on."""
    wanted, words, known = draw.uniform(0.82, 0.95), text.split(" "), shingles(text)
    while True:
        words[draw.randrange(len(words))] = f"word{draw.randrange(1000)}"
        other = shingles(" ".join(words))
        if len(known & other) / len(known | other) <= wanted:
            return " ".join(words)


def make(data: Path, folder: Path) -> dict[str, Any]:
    """The sources and the test; which rows are planted copies of which."""
    draw = random.Random(0)
    books = [part for name in BOOKS for part in pieces(read(data / name))]
    wiki = articles(data)
    originals = draw.sample(range(len(books)), EQUAL + NEAR)
    planted = [books[number] for number in originals[:EQUAL]]
    planted += [near(books[number], draw) for number in originals[EQUAL:]]
    names = [f"copy {number}" for number in range(len(planted))]
    vocabulary = sorted({word for text in books[:200] for word in re.findall("[a-z]{4,}", text)})
    questions = [" ".join(draw.sample(vocabulary, 16)) for _ in range(ASKED)]
    for number, question in enumerate(questions):
        text = books[draw.randrange(len(books))].split(". ")
        text.insert(len(text) // 2, question)
        planted.append(". ".join(draw.sample(text, len(text))))
        names.append(f"asked {number}")
    write(folder / "wiki.jsonl", [{"id": name, "text": text} for name, text in wiki.items()])
    for part in range(4):
        write(folder / "books" / f"{part}.jsonl", [{"id": n, "text": books[n]} for n in range(part, len(books), 4)])
    write(folder / "planted.jsonl", [{"id": n, "text": text} for n, text in zip(names, planted, strict=True)])
    write(folder / "test.jsonl", [{"question": question, "answer": "yes"} for question in questions])
    return {"articles": list(wiki), "originals": [books[number] for number in originals], "planted": planted}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


RECIPE = """sources:
  - {name: wiki, path: wiki.jsonl}
  - {name: books, path: books}
  - {name: planted, path: planted.jsonl}
decontaminate: {files: [test.jsonl]}
tokenizer: tokenizer
"""


def script(folder: Path, out: Path) -> None:
    """The same steps in datatrove alone, apart from the index of the test, for which it needs another package."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline import dedup, filters, formatters, readers, tokens, writers
    from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.hashing import HashConfig

    from hrm.text.data.clean import Recipe, steps

    sha1 = HashConfig(hash_fc="sha1")
    exact, config = ExactDedupConfig(steps.content, None, sha1), MinhashConfig(hash_config=sha1)
    recipe = Recipe.read(folder / "recipe.yaml")
    (out / "input").mkdir(parents=True)
    for number, path in enumerate(
        [folder / "wiki.jsonl", *sorted((folder / "books").iterdir()), folder / "planted.jsonl"]
    ):
        (out / "input" / f"{number}.jsonl").symlink_to(path)
    at = {name: str(out / name) for name in ("clean", "hash", "equal", "sign", "bucket", "near", "kept", "tokens")}

    def writer(name: str) -> Any:
        return writers.JsonlWriter(str(out / name), "${rank}.jsonl.zst", "zstd")

    def run(name: str, tasks: int, *pipeline: Any) -> None:
        logs = str(out / "logs" / name)
        LocalPipelineExecutor(list(pipeline), tasks=tasks, workers=1, logging_dir=logs).run()

    run(
        "clean", 6, readers.JsonlReader(str(out / "input")), formatters.FTFYFormatter(normalization="NFC"),
        filters.GopherRepetitionFilter(exclusion_writer=writer("removed/1")),
        filters.GopherQualityFilter(exclusion_writer=writer("removed/2"), max_non_alpha_words_ratio=0.7),
        filters.C4QualityFilter(
            writer("removed/3"), filter_no_terminal_punct=False, min_num_sentences=3, filter_curly_bracket=False
        ),
        filters.FineWebQualityFilter(writer("removed/4"), char_duplicates_ratio=0.1, line_punct_exclude_zero=True),
        steps.IsClean(recipe, writer("removed/5")), writer("clean"), dedup.ExactDedupSignature(at["hash"], exact),
    )  # fmt: skip
    run("find", 1, dedup.ExactFindDedups(at["hash"], at["equal"], exact))
    rest = readers.JsonlReader(at["clean"]), dedup.ExactDedupFilter(at["equal"], exact)
    run("sign", 6, *rest, dedup.MinhashDedupSignature(at["sign"], config))
    run("bucket", 14, dedup.MinhashDedupBuckets(at["sign"], at["bucket"], config=config))
    run("cluster", 1, dedup.MinhashDedupCluster(at["bucket"], at["near"], config))
    run(
        "keep", 6, *rest, dedup.MinhashDedupFilter(at["near"], writer("removed/6")), formatters.PIIFormatter(),
        writer("kept"),
    )  # fmt: skip
    tokenizer = str(folder / "tokenizer" / "tokenizer.json")
    run(
        "tokens",
        6,
        readers.JsonlReader(at["kept"]),
        tokens.DocumentTokenizer(at["tokens"], tokenizer_name_or_path=tokenizer),
    )


def timed(command: list[str], folder: Path) -> dict[str, float]:
    """Seconds of a command, and of the processors for it and its processes."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": wall, "processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def found(work: Path, corpus: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """What became of what was planted, and of the articles."""
    from hrm.text.data.clean.steps import written

    removed: dict[str, dict[str, str]] = {}
    for folder in (work / "removed").iterdir():
        for rank in range(6):
            for document in written(folder, rank):
                removed.setdefault(folder.name, {})[document.id] = document.metadata.get("filter_reason", "")
    twins = {**removed.get("duplicate", {}), **removed.get("near_duplicate", {})}
    gone = {name: why for step, each in removed.items() if "duplicate" not in step for name, why in each.items()}

    def rows(name: str) -> list[str]:
        return [f"{place} line {number}" for place, number in _lines(work.parent / name)]

    copies = rows("planted.jsonl")
    places = {
        json.loads(text)["text"]: place
        for path in sorted((work.parent / "books").iterdir())
        for place, text in zip(rows(f"books/{path.name}"), path.read_text("utf-8").splitlines(), strict=True)
    }
    counts: dict[str, Any] = {}
    for name, numbers in (("equal", range(EQUAL)), ("near", range(EQUAL, EQUAL + NEAR))):
        both = [n for n in numbers if copies[n] not in gone and places[facts["originals"][n]] not in gone]
        counts[name] = {
            "planted": len(both),
            "found": sum(copies[n] in twins or places[facts["originals"][n]] in twins for n in both),
        }
    asked = copies[EQUAL + NEAR :]
    counts["asked"] = {"planted": len(asked), "found": sum(place in gone for place in asked)}
    wiki = rows("wiki.jsonl")
    lost = {
        facts["articles"][n]: gone.get(place) or "duplicate"
        for n, place in enumerate(wiki)
        if place in {**gone, **twins}
    }
    counts["articles"] = {"read": len(wiki), "lost": len(lost), "each": lost}
    counts["report"] = json.loads((corpus / "report.json").read_text("utf-8"))["seconds"]
    return counts


def _lines(path: Path) -> list[tuple[str, int]]:
    return [(str(path), number) for number, _ in enumerate(path.read_text("utf-8").splitlines(), 1)]


def main() -> None:
    """Make the sources, run both in turns, write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("HRM_DATA", "data")) / "text")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pipeline.json"))
    parser.add_argument("--plain", type=Path, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        script(*args.plain)
        return
    from hrm.text.data import train_bpe

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        facts = make(args.data, folder)
        (folder / "recipe.yaml").write_text(RECIPE)
        train_bpe(facts["originals"], 4096).save_pretrained(folder / "tokenizer")
        size = sum(path.stat().st_size for path in [*folder.glob("*.jsonl"), *folder.glob("books/*")])
        ours, theirs = [], []
        for number in range(args.repeats):
            out = ["--out", str(folder / f"corpus{number}"), "--workers", "1", "--keep-work"]
            ours.append(timed([sys.executable, "-m", "hrm", "data", "clean", "recipe.yaml", *out], folder))
            here = str(Path(__file__).resolve())
            theirs.append(timed([sys.executable, here, "--plain", str(folder), str(folder / f"plain{number}")], folder))
            print(ours[-1], theirs[-1], flush=True)
        counts = found(folder / "corpus0.work", folder / "corpus0", facts)
    middle = {
        name: [statistics.median(run[name] for run in runs) for runs in (ours, theirs)]
        for name in ("seconds", "processor")
    }
    result = {
        "bytes": size, "hrm": ours, "plain": theirs,
        **{f"{name}_more": mine / plain - 1 for name, (mine, plain) in middle.items()}, **counts,
    }  # fmt: skip
    args.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print(args.out.read_text("utf-8"))


if __name__ == "__main__":
    main()
