"""The steps of a stage that datatrove has none for. This module is imported only where datatrove is."""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

# Of the extra `pipeline`, which the type checker need not have.
from datatrove.data import Document  # pyright: ignore[reportMissingImports]
from datatrove.pipeline.base import PipelineStep  # pyright: ignore[reportMissingImports]
from datatrove.pipeline.dedup.minhash import MinhashDedupCluster  # pyright: ignore[reportMissingImports]
from datatrove.pipeline.filters import C4QualityFilter  # pyright: ignore[reportMissingImports]
from datatrove.pipeline.filters.base_filter import BaseFilter  # pyright: ignore[reportMissingImports]
from datatrove.utils.binaryio import read_tuples_from_file  # pyright: ignore[reportMissingImports]

from hrm.files import output
from hrm.files.reading import UserError, opened, reading
from hrm.text.data.clean import report
from hrm.text.data.clean.contamination import Index
from hrm.text.data.clean.plan import Plan
from hrm.text.data.clean.recipe import Recipe
from hrm.text.data.corpus import SourceFacts, seal
from hrm.text.data.packed import Packed, encode
from hrm.text.data.tokenizers import load_tokenizer, make_tokenizer, train_bpe

_SAMPLE = 50_000_000
"""Characters that byte pairs are trained on."""


class Sweep(PipelineStep):
    """Remove what an earlier try of this task has left."""

    name, type = "leavings", "sweep"

    def __init__(self, *folders: Path) -> None:
        super().__init__()
        self.folders = folders

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        for path in (path for folder in self.folders for path in folder.glob(f"**/{rank:05d}[.-]*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return data


class Kept(PipelineStep):
    """The documents that the same task of an earlier stage has written."""

    name, type = "kept documents", "read"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        yield from written(self.folder, rank)


def written(folder: Path, rank: int) -> Iterator[Any]:
    """Documents of a task, which are absent where it kept none."""
    import orjson  # pyright: ignore[reportMissingImports]

    path = folder / f"{rank:05d}.jsonl.zst"
    if path.exists():
        with opened(path) as lines:
            for line in lines:
                fields = orjson.loads(line)
                yield Document(text=fields["text"], id=fields["id"], metadata=fields["metadata"])


class IsLanguage(BaseFilter):
    """Documents in one of the languages that are kept."""

    name = "language"

    def __init__(self, recipe: Recipe, writer: Any) -> None:
        super().__init__(writer)
        assert recipe.language is not None
        self.language = recipe.language

    def filter(self, doc: Any) -> bool | tuple[bool, str]:
        labels, scores = _model(self.language.model).predict(doc.text.replace("\n", " "), k=1)
        found = labels[0].removeprefix("__label__") if len(labels) else "unknown"
        if found not in self.language.keep:
            return False, found
        return bool(scores[0] >= self.language.threshold) or (False, "doubtful")


@lru_cache(maxsize=1)
def _model(path: str) -> Any:
    from fasttext.FastText import _FastText  # pyright: ignore[reportMissingImports]

    with reading(path, "name a fastText model such as lid.176.bin"):
        return _FastText(path)


class ByLine(C4QualityFilter):
    """C4's rules; unless they are to cut lines, a document that stays keeps all of its text."""

    def __init__(self, cut_lines: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.cut_lines = cut_lines

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """datatrove's verdict, and its cut text only where it is wanted."""
        text = doc.text
        found = super().filter(doc)
        if not self.cut_lines:
            doc.text = text
        return found


class IsClean(BaseFilter):
    """Documents that have nothing of an evaluation in them."""

    name = "contamination"

    def __init__(self, recipe: Recipe, writer: Any) -> None:
        super().__init__(writer)
        assert recipe.decontaminate is not None
        self.against = recipe.decontaminate

    def filter(self, doc: Any) -> bool | tuple[bool, str]:
        found = index(self.against.files, self.against.n_grams, self.against.shortest).find(doc.text)
        return True if found is None else (False, Path(found).name)


index = lru_cache(maxsize=1)(Index)
"""The index of some evaluation files, made once in a process."""


class IsTraining(BaseFilter):
    """Documents that are not held out: whether one is depends on its text alone."""

    name = "held out"

    def __init__(self, share: float, writer: Any) -> None:
        super().__init__(writer)
        self.share = share

    def filter(self, doc: Any) -> bool:
        digest = hashlib.blake2b(doc.text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") >= self.share * 2**64


class Priority:
    """Of equal documents the one of the earliest source stays."""

    def __init__(self, recipe: Recipe) -> None:
        self.ranks = {source.name: 65535 - number for number, source in enumerate(recipe.sources)}

    def __call__(self, document: Any) -> int:
        return self.ranks[document.metadata["source"]]


def content(document: Any) -> str:
    """What two documents have in common that are equal."""
    return document.text


class Cluster(MinhashDedupCluster):
    """As datatrove's, but of near-duplicates the first one stays: tasks are numbered in the order of the sources."""

    def run(self, data: Any = None, _: int = 0, world_size: int = 1) -> None:
        above: dict[tuple[int, int], tuple[int, int]] = {}

        def first(node: tuple[int, int]) -> tuple[int, int]:
            way = []
            while above.setdefault(node, node) != node:
                way.append(node)
                node = above[node]
            above.update(dict.fromkeys(way, node))
            return node

        for file in self.input_folder.list_files(glob_pattern="*.dups"):
            with self.input_folder.open(file, "rb") as pairs:
                for one, at, other, there in read_tuples_from_file(pairs, "4I", lines_to_buffer=self.lines_to_buffer):
                    low, high = sorted((first((one, at)), first((other, there))))
                    above[high] = low
        with self.output_folder.get_output_file_manager(mode="wb") as out:
            for node in sorted(above):
                if first(node) != node:
                    out.write(f"{node[0]:06d}.remove", struct.pack("<I", node[1]))


class Tokenizer(PipelineStep):
    """The tokenizer of the corpus: as the recipe names it, or trained on what was kept."""

    name, type = "tokenizer", "make"

    def __init__(self, kept: Path, tasks: int, kind: str, out: Path) -> None:
        super().__init__()
        self.kept, self.tasks, self.kind, self.out = kept, tasks, kind, out

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        every = (document.text for task in range(self.tasks) for document in written(self.kept, task))
        if self.kind.startswith("bpe:"):
            made = train_bpe(self._sample(), int(self.kind[4:]))
        else:
            made = make_tokenizer(self.kind, every)
        made.save_pretrained(self.out)

    def _sample(self) -> Iterator[str]:
        """As much of every task's documents, the first ones."""
        for task in range(self.tasks):
            left = _SAMPLE // self.tasks
            for document in written(self.kept, task):
                yield document.text[:left]
                left -= len(document.text)
                if left <= 0:
                    break


class Pack(PipelineStep):
    """Packed shards of the documents of each task, in the folder of its source."""

    name, type = "shards", "pack"

    def __init__(self, sources: list[str], tokenizer: Path, out: Path, shard_tokens: int) -> None:
        """`sources`: the name of the source of each task."""
        super().__init__()
        self.sources, self.tokenizer, self.out, self.shard_tokens = sources, tokenizer, out, shard_tokens

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        made = load_tokenizer(self.tokenizer)
        home = self.out / self.sources[rank]
        for left in [*home.glob(f"{rank:05d}-*"), *home.glob(f".tmp-{rank:05d}-*")]:
            shutil.rmtree(left)
        examples = encode(made, (document.text for document in data))
        for part, first in enumerate(examples):
            shard = _shard(chain([first], examples), self.shard_tokens)
            packed = Packed.write(home / f"{rank:05d}-{part:05d}", made, shard, whole=False)
            self.stat_update("tokens", value=packed.count)


def _shard(examples: Iterable[Any], most: int) -> Iterator[Any]:
    """Examples until a shard is full."""
    count = 0
    for example in examples:
        yield example
        count += len(example.tokens) + 1
        if count >= most:
            return


class Finish(PipelineStep):
    """What makes the packed shards a corpus: the part held out, the manifest and the report."""

    name, type = "corpus", "finish"

    def __init__(self, plan: Plan, stages: dict[str, Callable[[], list[tuple[str, Any]]]]) -> None:
        """`stages`: the steps of those that the report tells of."""
        super().__init__()
        self.plan, self.stages = plan, stages

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        plan, out = self.plan, self.plan.work / "corpus"
        made = load_tokenizer(plan.work / "tokenizer")
        filled = {source.name for source in plan.recipe.sources if any((out / "train" / source.name).glob("*"))}
        if not filled:
            raise UserError(
                f"nothing is left of the sources: {plan.work / 'removed'} holds what was taken out, and why"
            )
        shutil.rmtree(out / "validation", ignore_errors=True)
        held = (document.text for task in range(len(plan.shares)) for document in written(plan.work / "held", task))
        if (first := next(held, None)) is not None:
            Packed.write(out / "validation", made, encode(made, chain([first], held)), whole=False)
        tokens = {source.name: _tokens(out / "train" / source.name) for source in plan.recipe.sources}
        seal(out / "train", [
            SourceFacts(
                source.name, source.weight or float(tokens[source.name]), source.licence,
                source.origin or source.hub or Path(source.path or "").name,
            )
            for source in plan.recipe.sources if source.name in filled
        ])  # fmt: skip
        made.save_pretrained(out / "tokenizer")
        (out / "recipe.yaml").write_text(plan.recipe.yaml(), "utf-8")
        facts = report.facts(plan, {name: [label for label, _ in make()] for name, make in self.stages.items()})
        output.write_json(out / "report.json", facts)
        (out / "report.html").write_text(report.page(facts), "utf-8")


def _tokens(folder: Path) -> int:
    return sum(Packed.open(path.parent).count for path in folder.glob("*/index.json"))
