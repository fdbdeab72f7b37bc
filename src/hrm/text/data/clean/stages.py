"""The stages of a recipe, each some steps of datatrove for each of its tasks. Imported only where datatrove is.

    clean -> duplicates -> signatures -> buckets -> clusters -> keep -> tokenizer -> pack -> finish

`clean` reads, filters and writes what stays; `keep` leaves duplicates out and sets some aside; a task of either is a
share of the files of one source, and tasks are numbered in the order of the sources.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Of the extra `pipeline`, which the type checker need not have.
from datatrove.pipeline.dedup import (  # pyright: ignore[reportMissingImports]
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
    MinhashDedupBuckets,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig  # pyright: ignore[reportMissingImports]
from datatrove.pipeline.dedup.minhash import MinhashConfig  # pyright: ignore[reportMissingImports]
from datatrove.pipeline.filters import (  # pyright: ignore[reportMissingImports]
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter  # pyright: ignore[reportMissingImports]
from datatrove.pipeline.writers import JsonlWriter  # pyright: ignore[reportMissingImports]
from datatrove.utils.hashing import HashConfig  # pyright: ignore[reportMissingImports]

from hrm.text.data.clean import steps
from hrm.text.data.clean.plan import Plan
from hrm.text.data.clean.read import Read
from hrm.text.data.clean.recipe import Filters, GopherRepetition

Steps = list[tuple[str, Any]]
"""What each step of a task is called in the report, and the step."""


@dataclass(frozen=True)
class Stage:
    """Tasks of one kind, which start when all of the stage before are complete."""

    name: str
    tasks: int
    steps: Callable[[], Steps]

    def pipeline(self) -> list[Any]:
        """Fresh steps, as an executor of datatrove takes them."""
        return [step for _, step in self.steps()]


def stages(plan: Plan) -> list[Stage]:
    """All stages of a plan, in order."""
    at, tasks, made = plan.work, len(plan.shares), _Tasks(plan)
    found = [Stage("clean", tasks, made.cleaning)]
    if plan.recipe.deduplicate.exact:
        find, places = ExactFindDedups, (str(at / "hashes"), str(at / "equal"))
        found.append(Stage("duplicates", 1, lambda: [("", find(*places, made.exact))]))
    if (near := made.near) is not None:
        sign, bucket = MinhashDedupSignature, MinhashDedupBuckets
        buckets, every = str(at / "buckets"), str(at / "signatures")
        found += [
            Stage("signatures", tasks, lambda: [*made.different(False), ("", sign(every, near))]),
            Stage("buckets", near.num_buckets, lambda: [("", bucket(every, buckets, config=near))]),
            Stage("clusters", 1, lambda: [("", steps.Cluster(buckets, str(at / "near"), near))]),
        ]
    return [
        *found,
        Stage("keep", tasks, made.keeping),
        Stage("tokenizer", 1, made.spelling),
        Stage("pack", tasks, made.packing),
        Stage("finish", 1, made.finishing),
    ]


class _Tasks:
    """What a task of each stage does."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.recipe, self.at = plan, plan.recipe, plan.work
        sha1 = HashConfig(hash_fc="sha1")  # xxhash, the default, has changed under datatrove
        self.exact = ExactDedupConfig(steps.content, steps.Priority(self.recipe), sha1)
        seen = self.recipe.deduplicate.minhash
        self.near = seen and MinhashConfig(seen.n_grams, seen.buckets, seen.hashes, hash_config=sha1)

    def cleaning(self) -> Steps:
        """Read, filter and write what stays."""
        recipe, at = self.recipe, self.at
        found: Steps = [
            ("", steps.Sweep(at / "clean", at / "removed", at / "hashes")),
            ("read", Read(self.plan.shares)),
        ]
        if recipe.normalise is not None:
            found.append(("normalise", _repair(recipe.normalise.form, recipe.normalise.mojibake)))
        if recipe.language is not None:
            found.append(("language", steps.IsLanguage(recipe, _removed(at, "language"))))
        found += _filters(recipe.filters, at)
        if recipe.decontaminate is not None and recipe.decontaminate.files:
            found.append(("contamination", steps.IsClean(recipe, _removed(at, "contamination"))))
        found.append(("cleaned", _writer(at / "clean")))
        if recipe.deduplicate.exact:
            found.append(("", ExactDedupSignature(str(at / "hashes"), self.exact)))
        return found

    def different(self, writer: bool) -> Steps:
        """The documents that were cleaned, without those that are equal to others."""
        found: Steps = [("", steps.Kept(self.at / "clean"))]
        if self.recipe.deduplicate.exact:
            removed = _removed(self.at, "duplicate", writer)
            found.append(("duplicate", ExactDedupFilter(str(self.at / "equal"), self.exact, removed)))
        return found

    def keeping(self) -> Steps:
        """Leave duplicates out and set some documents aside."""
        recipe, at = self.recipe, self.at
        found: Steps = [
            ("", steps.Sweep(at / "kept", at / "held", at / "removed" / "duplicate", at / "removed" / "near_duplicate"))
        ]
        found += self.different(True)
        if self.near:
            writer = _removed(at, "near_duplicate")
            found.append(("near_duplicate", MinhashDedupFilter(str(at / "near"), writer)))
        if recipe.pii:
            found.append(("pii", PIIFormatter()))
        if recipe.holdout:
            found.append(("held_out", steps.IsTraining(recipe.holdout, _writer(at / "held"))))
        return [*found, ("kept", _writer(at / "kept"))]

    def spelling(self) -> Steps:
        """Make the tokenizer."""
        tasks, made = len(self.plan.shares), self.at / "tokenizer"
        return [("", steps.Tokenizer(self.at / "kept", tasks, self.recipe.tokenizer, made))]

    def packing(self) -> Steps:
        """Write shards."""
        sources = [share[0].name for share in self.plan.shares]
        pack = steps.Pack(sources, self.at / "tokenizer", self.at / "corpus" / "train", self.recipe.shard_tokens)
        return [("", steps.Kept(self.at / "kept")), ("packed", pack)]

    def finishing(self) -> Steps:
        """Put the corpus together, with a report on the stages that change documents."""
        told = {"clean": self.cleaning, "keep": self.keeping, "pack": self.packing}
        return [("", steps.Finish(self.plan, told))]


def _filters(filters: Filters, at: Path) -> Steps:
    """The filters that the recipe has, with its numbers."""
    kinds: dict[str, Any] = {
        "gopher_repetition": GopherRepetitionFilter, "gopher_quality": GopherQualityFilter, "c4": steps.ByLine,
        "fineweb_quality": FineWebQualityFilter,
    }  # fmt: skip
    found: Steps = []
    for name, kind in kinds.items():
        settings = getattr(filters, name)
        if settings is None:
            continue
        numbers = dict(vars(settings))
        if isinstance(settings, GopherRepetition):
            numbers["top_n_grams"] = tuple(enumerate(settings.top_n_grams, 2))
            numbers["dup_n_grams"] = tuple(enumerate(settings.dup_n_grams, 5))
        found.append((name, kind(exclusion_writer=_removed(at, name), **numbers)))
    return found


def _repair(form: Any, mojibake: bool) -> Any:
    names = (
        "unescape_html", "remove_terminal_escapes", "fix_encoding", "restore_byte_a0", "replace_lossy_sequences",
        "decode_inconsistent_utf8", "fix_c1_controls", "fix_surrogates", "remove_control_chars",
    )  # fmt: skip
    return FTFYFormatter(normalization=form, **({} if mojibake else dict.fromkeys(names, False)))


def _writer(folder: Path) -> Any:
    return JsonlWriter(str(folder), "${rank}.jsonl.zst", "zstd")


def _removed(at: Path, name: str, wanted: bool = True) -> Any:
    return _writer(at / "removed" / name) if wanted else None
