"""What there is to tell of a run, from its own files: facts, results, figures, samples, limits and commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hrm.files import names
from hrm.files.reading import SMALL, UserError, json_of, parsed
from hrm.files.records import Json
from hrm.overview import listed
from hrm.report.known import PUZZLES, Published, text
from hrm.runs import Run, checkpoint
from hrm.settings import kind_of, to_yaml
from hrm.text import learned
from hrm.text.config import LearnConfig, TextConfig

MOST_FIGURE = 4 << 20
"""Bytes of a picture, or of its numbers, that is taken into the page."""


class Figure(NamedTuple):
    """What a question of `hrm analyze` found about the run, with its picture as SVG."""

    question: str
    title: str
    says: list[str]
    picture: bytes
    command: str


class Row(NamedTuple):
    """A name, its value, and what it means or how sure it is."""

    name: str
    value: str
    note: str = ""


@dataclass
class Story:
    """One run, told."""

    name: str
    path: Path
    family: str
    lead: str
    """What it is, in a sentence."""
    facts: list[Row]
    results: list[Row]
    score: Row
    """The one number to compare by."""
    published: list[Published]
    limits: list[str]
    commands: list[str]
    settings: str
    """YAML."""
    figures: list[Figure] = field(default_factory=list)
    samples: list[tuple[str, str]] = field(default_factory=list)
    """Title and HTML of each."""

    def plain(self) -> Json:
        """Its JSON, without pictures and samples."""
        rows = {name: [row._asdict() for row in getattr(self, name)] for name in ("facts", "results", "published")}
        figures = [{"question": each.question, "title": each.title, "says": each.says} for each in self.figures]
        return {
            "name": self.name, "family": self.family, "lead": self.lead, **rows, "score": self.score._asdict(),
            "figures": figures, "limits": self.limits, "commands": self.commands, "settings": self.settings,
        }  # fmt: skip


def story(path: Path, price: float | None = None) -> Story:
    """The story of a run; UserError for what is none. `price` is that of an hour of its device."""
    kind = kind_of(path)
    run: Run[Any] = Run.open(path, kind)
    result = json_of(names.regular(run.result), SMALL) if run.result.is_file() else run.best or {}
    try:
        return _story(path, run, kind, result, price)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if not result:
            raise
        file = run.result if run.result.is_file() else run.path / "best.json"
        raise UserError(f"{file} is damaged: restore it, or remove it and measure again with 'hrm eval'") from error


def _story(path: Path, run: Run[Any], kind: Any, result: Json, price: float | None) -> Story:
    told = _Learner(run) if kind is LearnConfig else _Text(run, result) if kind is TextConfig else _Puzzles(run, result)
    listing = listed(path)
    steps, seconds = told.course()
    name = run.path.resolve().name
    facts = [
        *told.data(),
        Row("parameters", f"{listing.parameters:,}" if listing.parameters else "unknown"),
        *told.shape(),
        Row("updates", steps, listing.problem or listing.state),
        Row("training", _time(seconds), ", ".join(str(result[key]) for key in ("device", "dtype") if key in result)),
        *([] if price is None else [Row("cost", f"{price * seconds / 3600:,.2f}", f"at {price:g} an hour")]),
        Row("begun", run.created[:16].replace("T", " "), f"hrm {run.version}"),
    ]
    # The page draws the training itself.
    figures = [each for each in figures_of(run.path / "analysis") if each.question != "training"]
    out = shlex.quote(f"runs/{name}")
    return Story(
        name=name, path=run.path, family=kind.family, lead=told.lead, facts=facts, results=told.results(),
        score=told.score(), published=told.published, limits=told.limits(),
        commands=[*told.commands(out), *(each.command for each in figures),
                  f"hrm report {out} --out report.html"],
        settings=to_yaml(run.config), figures=figures,
    )  # fmt: skip


def figures_of(folder: Path) -> Iterator[Figure]:
    """What `hrm analyze` has left in a folder; what cannot be read is passed over."""
    for file in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        picture = file.with_suffix(".svg")
        try:
            file.stem.encode()
            found = parsed(names.read_bytes(file, MOST_FIGURE), file)
            content = names.read_bytes(picture, MOST_FIGURE)
            says = [str(sentence) for sentence in found["says"]]
            yield Figure(file.stem, str(found["title"]), says, content, _command(found.get("command"), file))
        except (UserError, OSError, ValueError, KeyError, TypeError):
            continue


class _Told:
    """What the families tell in their own words."""

    lead = ""
    published: list[Published] = []  # noqa: RUF012

    def __init__(self, run: Run[Any], result: Json) -> None:
        self.run, self.result, self.config = run, result, run.config
        newest = checkpoint.complete(run.checkpoints)
        self.newest = newest[-1] if newest else None

    def course(self) -> tuple[str, float]:
        """Updates that were made, in words, and the seconds they took."""
        at = 0 if self.newest is None else checkpoint.step_of(self.newest)
        seconds = float(self.result.get("training_seconds") or _seconds(self.run))
        return f"{at:,} of at most {self.config.train.steps:,}", seconds

    def shape(self) -> list[Row]:
        arch, halting = self.config.arch, self.config.halting
        if not getattr(arch, "hierarchy", True):
            return [Row("architecture", "a plain Transformer", f"width {arch.dim}")]
        layers = f"{arch.fast_layers} fast" + ("" if arch.shared else f" + {arch.slow_layers} slow") + " layers"
        cycles = f"{arch.h_cycles} cycles of {arch.l_cycles} steps, at most {halting.max_segments} segments"
        return [Row("architecture", f"width {arch.dim}, {layers}", cycles)]

    def data(self) -> list[Row]:
        raise NotImplementedError

    def results(self) -> list[Row]:
        raise NotImplementedError

    def score(self) -> Row:
        raise NotImplementedError

    def limits(self) -> list[str]:
        return [
            f"One training with one seed ({self.config.seed}). Another seed gives other numbers: repeat it to know "
            "how much they vary."
        ]

    def commands(self, out: str) -> list[str]:
        return [f"hrm train settings.yaml --out {out}", f"hrm eval {out}"]


class _Puzzles(_Told):
    def __init__(self, run: Run[Any], result: Json) -> None:
        super().__init__(run, result)
        self.kind = run.config.task.kind
        model = "hierarchical reasoning model" if run.config.arch.hierarchy else "plain Transformer, the baseline"
        self.lead = f"A {model}, for puzzles: {listed(run.path).task}."
        self.published = list(PUZZLES.get(self.kind, ()))

    def data(self) -> list[Row]:
        config = self.config
        made = f"{config.task.puzzles:,} puzzles that it made itself" if config.data is None else Path(config.data).name
        digest = str(self.run.board.get("training_sha256", ""))[:16]
        return [Row("trained on", made, f"SHA-256 {digest}…" if digest else "")]

    def results(self) -> list[Row]:
        r = self.result
        if "exact_accuracy" not in r:
            return []
        low, high = r["exact_interval"]
        sure = f"95% interval {low:.2%} to {high:.2%}, {r['n']:,} puzzles held out"
        return [
            Row("exact", f"{r['exact_accuracy']:.2%}", sure),
            Row("solved", f"{r['solved']:,} of {r['n']:,}", "the answer passed the rules"),
            Row("solved but wrong", f"{r['wrong']:,}", "of these, by the label"),
            Row("unsolved", f"{r['unsolved']:,}", "said so"),
            Row("mean depth", f"{r['mean_segments']:.2f} segments", f"of at most {r['max_segments']}"),
            Row("calibration error", f"{r['ece']:.3f}", "of the Q head's confidence (ECE)"),
        ]  # fmt: skip

    def score(self) -> Row:
        r = self.result
        return Row("exact", f"{r['exact_accuracy']:.2%}" if "exact_accuracy" in r else "not measured")

    def limits(self) -> list[str]:
        n = self.result.get("n", 0)
        return [
            *super().limits(),
            f"Measured on {n:,} puzzles that were held out, of the same kind as those it learned from; harder ones are "
            "another question.",
            "Published figures are of other puzzles, unless the data is named alike: they say where the field stands, "
            "not which model is better.",
        ]  # fmt: skip


class _Text(_Told):
    lead = "A causal language model whose tokens think in segments."

    def __init__(self, run: Run[Any], result: Json) -> None:
        super().__init__(run, result)
        self.published = text()
        if not run.config.arch.hierarchy:
            self.lead = "A plain Transformer for text, without hierarchy: the baseline."

    def data(self) -> list[Row]:
        source = self.config.data or "nothing named"
        many = [source] if isinstance(source, str) else list(source)
        return [Row("trained on", ", ".join(Path(one).name for one in many), f"{self.config.text.length} tokens a row")]

    def results(self) -> list[Row]:
        r = self.result
        rows = [
            ("bits a byte", "bits_per_byte", "{:.4f}", ""),
            ("bits a character", "bits_per_character", "{:.4f}", ""),
            ("perplexity", "perplexity", "{:.2f}", "a token"),
            ("token accuracy", "token_accuracy", "{:.2%}", ""),
            ("mean depth", "mean_segments", "{:.2f} segments", f"of at most {r.get('max_segments', '?')}"),
            ("calibration error", "ece", "{:.3f}", "of the likeliest token's probability (ECE)"),
            ("preferred", "reward_accuracy", "{:.1%}", "pairs whose chosen answer comes first"),
        ]
        found = [Row(said, form.format(r[name]), note) for said, name, form, note in rows if _is_number(r.get(name))]
        return [Row("held out", f"{r['n']:,} tokens"), *found] if found and _is_number(r.get("n")) else found

    def score(self) -> Row:
        value = self.result.get("bits_per_byte")
        return Row("bits a byte", f"{value:.4f}" if _is_number(value) else "not measured")

    def limits(self) -> list[str]:
        return [
            *super().limits(),
            "Measured on a part of the same text that was held out. It says how well this text is predicted, and "
            "nothing of facts, reasoning or harm.",
            "Published figures are of other texts; only the same set, measured alike, can be compared.",
        ]


class _Learner(_Told):
    lead = "A model that reads book after book and is measured on all of them."

    def __init__(self, run: Run[Any]) -> None:
        super().__init__(run, {})
        self.state = None if self.newest is None else learned.load(self.newest, ())[1]
        self.books = [] if self.state is None else self.state.books

    def course(self) -> tuple[str, float]:
        if self.state is None:
            return "0", 0.0
        return f"{self.state.step_number:,}", float(self.state.seconds)

    def data(self) -> list[Row]:
        return [Row("book", book.name, f"{book.characters:,} characters, {book.state}") for book in self.books]

    def results(self) -> list[Row]:
        found = []
        for book in self.books:
            then, now = book.get("bits_per_character_then"), book.get("bits_per_character_now")
            if now is not None:
                note = "" if then is None else f"{then:.3f} when it had just been read"
                found.append(Row(book.name, f"{now:.3f} bits a character", note))
        return found

    def score(self) -> Row:
        bits = [book.get("bits_per_character_now") for book in self.books]
        bits = [value for value in bits if value is not None]
        mean = f"{sum(bits) / len(bits):.3f}" if bits else "not measured"
        return Row("bits a character", mean, "mean over the books")

    def commands(self, out: str) -> list[str]:
        return [f"hrm learn {out} {shlex.quote(book.name)}" for book in self.books]


def _command(told: object, file: Path) -> str:
    """The command that found a figure, if it is one of `hrm analyze`; quoted, since it may come from a stranger."""
    try:
        words = shlex.split(str(told))
    except ValueError:
        words = []
    plain = ["hrm", "analyze", file.stem]
    return shlex.join(words if words[:3] == plain else [*plain, str(file.parents[1])])


def _seconds(run: Run[Any]) -> float:
    found = (record.get("seconds") for record in run.records() if "event" not in record)
    return max((float(value) for value in found if _is_number(value)), default=0.0)  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _time(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
