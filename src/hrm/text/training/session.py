"""A training on text from its configuration to its result: tokenizer, packed text, model, run folder, the loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator

from hrm.files.output import check_utf8
from hrm.files.reading import UserError
from hrm.runs import Run, checkpoint, durable
from hrm.settings import check, settings
from hrm.text import data as corpus
from hrm.text.config import TextConfig
from hrm.text.data import Packed, Rows, chat, gym
from hrm.text.data.tokenizers import add_frame
from hrm.text.load import adapt, architecture, configure, fill, load_saved, load_text, load_tokenizer
from hrm.text.measuring.losses import evaluate
from hrm.text.model import HRMForCausalLM
from hrm.text.training.trainer import TextTrainer
from hrm.training.course import Course
from hrm.training.long_steps import announce
from hrm.training.progress import Reporter
from hrm.training.session import changes, choose_threads, make_accelerator, owner, refuse_place

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def train_text(config: TextConfig, path: Path, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Train into the run folder `path`, from the start or from its newest checkpoint; returns the result.

    Raises UserError for data or settings that cannot work, BadBatch when the training diverges.
    """
    check(config)
    check_utf8(path)
    accelerator = make_accelerator(config.train)
    with owner(path, resume, accelerator):
        return _train(config, path, resume, overwrite, accelerator)


def _train(config: TextConfig, path: Path, resume: bool, overwrite: bool, accelerator: Accelerator) -> dict[str, Any]:
    reporter = Reporter(config.train, accelerator)
    first: dict[str, torch.Tensor] | None = None
    if not resume and accelerator.is_main_process:
        refuse_place(path, overwrite, (config.data, config.validation), config.model)
        first = _create(config, path, overwrite, reporter)
    accelerator.wait_for_everyone()
    run = Run.open(path, TextConfig)
    run.check_places()
    changed = changes(run.config, config)
    run.config = config
    tokenizer = load_tokenizer(run.path)
    training, held_out = data_of(run, tokenizer)
    model = architecture(run)
    if first is not None:
        fill(model, first, path)
    trainer = TextTrainer(config, model, training, accelerator)
    if not resume:
        # The start is a checkpoint like any other: what a new run and a resumed one do is the same.
        groups, state = trainer.pack()
        if accelerator.is_main_process:
            checkpoint.save(run.checkpoints, 0, groups, state)
        accelerator.wait_for_everyone()
    newest = checkpoint.newest(run.checkpoints, reporter.say)
    assert newest is not None or resume
    if newest is None:
        raise UserError(f"{path} has no intact checkpoint, not even that of its start: begin a new run")
    with checkpoint.restoring(newest):
        trainer.unpack(*checkpoint.load(newest))
    if resume and accelerator.is_main_process:
        run.rewind(trainer.step_number)
        if changed:
            reporter.say("changed by flags: " + ", ".join(f"{k} {old} -> {new}" for k, (old, new) in changed.items()))
            run.log({"event": "resumed", "from_step": trainer.step_number, "changed": changed})
            run.set_config(config)
    device = choose_threads(run, accelerator, model, config.train.batch_size * config.text.length)
    parameters = [p for p in model.parameters() if p.requires_grad]
    reporter.say(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {sum(p.numel() for p in parameters):,} of them "
        f"learning, on {device} in {config.train.precision}; {training.count:,} tokens "
        f"({training.epoch(config.text.length):,} rows), {held_out.count if held_out else 0:,} held out; "
        f"step {trainer.step_number} of {config.train.steps}"
    )
    reporter.start(accelerator, path.name, str(path), settings(config))
    place = accelerator.num_processes, accelerator.device
    announce(config.train, trainer, trainer.step_number, *place, reporter, "text-char")
    measures = None if held_out is None else _Held(trainer, tokenizer, held_out)

    def finish() -> dict[str, Any]:
        from hrm.text.measuring.card import model_card

        found: dict[str, Any] = {}
        if held_out is not None:
            best = load_text(path, device=str(accelerator.device), precision=config.train.precision)
            found = _brief(evaluate(best.model, tokenizer, held_out, config.text.length, control=False))
        run.set_result(found)
        durable.write(path / "README.md", model_card(run))
        return found

    result = Course(run, trainer, trainer.pack, config.train, measures, reporter).follow(finish)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return result


def data_of(run: Run[TextConfig], tokenizer: PreTrainedTokenizerFast) -> tuple[Packed | Rows, Packed | Rows | None]:
    """What a run trains on, and what is held out; a folder of rows is not copied, but read where it is."""
    if run.config.text.kind == "rows":
        assert run.config.data is not None
        folders = Path(run.config.data), Path(run.config.validation or run.config.data)
        training = corpus.open_text(folders[0], tokenizer)
        split = "validation" if (folders[1] / "validation").is_dir() else "test"
        if training.fingerprint != run.board.get("data_sha256", training.fingerprint):
            raise UserError(
                f"{training.folder} has changed since the run {run.path} began: restore it, or say where it is with "
                "--data"
            )
        apart = run.config.validation is not None or (folders[1] / split).is_dir()
        held = corpus.open_text(folders[1], tokenizer, split) if apart else None
        return training, held
    run.check_data()
    held_out = run.data / "validation"
    training = Packed.open(run.data / "train", tokenizer).verify()
    return training, Packed.open(held_out, tokenizer).verify() if held_out.is_dir() else None


class _Held:
    """Measures the averaged weights, if there are any, on some of the held-out text at every depth."""

    compared: tuple[str, ...] = ("data_sha256", "n")
    nothing: float = -math.inf

    def __init__(self, trainer: TextTrainer, tokenizer: PreTrainedTokenizerFast, held_out: Packed | Rows) -> None:
        self.trainer, self.tokenizer, self.held_out = trainer, tokenizer, held_out
        self.fingerprint = held_out.facts["sha256"]["tokens.bin"] if isinstance(held_out, Packed) else held_out.rows

    def __call__(self) -> dict[str, Any]:
        trainer, config, ema = self.trainer, self.trainer.config, self.trainer.updates.ema
        try:
            with torch.compiler.set_stance("force_eager"), ema.applied() if ema else nullcontext():
                limit = config.train.eval_puzzles * config.text.length
                found = evaluate(
                    trainer.model, self.tokenizer, self.held_out, config.text.length, limit=limit, control=False
                )
        finally:
            trainer.model.train()
        return {**_brief(found), "data_sha256": self.fingerprint}

    def score(self, measured: dict[str, Any]) -> float:
        # Among equally many exact answers the likelier ones.
        return measured["exact_match"] - 1e-6 * measured["loss"] if "exact_match" in measured else -measured["loss"]

    def sentence(self, measured: dict[str, Any]) -> str:
        depths = "  ".join(f"{loss:.3f}" for loss in measured["loss_by_depth"])
        if "exact_match" in measured:
            shares = "  ".join(f"{share:.1%}" for share in measured["exact_match_by_depth"])
            return (
                f"{measured['exact_match']:.1%} of {measured['answers']:,} held-out answers exact at depth "
                f"{measured['mean_segments']:.2f}; at depth 1, 2, ...: {shares}; nats a token: {depths}"
            )
        return (
            f"held out {measured['bits_per_character']:.3f} bits a character at depth {measured['mean_segments']:.2f}; "
            f"nats a token at depth 1, 2, ...: {depths}"
        )

    def target(self, measured: dict[str, Any]) -> str | None:
        wanted, exact = self.trainer.config.train.target_accuracy, measured.get("exact_match", 0.0)
        return f"{exact:.1%} of the held-out answers are exact: stopping" if wanted and exact >= wanted else None


def _brief(found: dict[str, Any]) -> dict[str, Any]:
    """What a line of metrics holds of a measurement."""
    kept = {name: value for name, value in found.items() if isinstance(value, int | float | str)}
    by_depth = {
        f"{name}_by_depth": [row[name] for row in found["fixed"]] for name in ("loss", "exact_match") if name in found
    }
    return kept | by_depth


def _create(config: TextConfig, path: Path, overwrite: bool, reporter: Reporter) -> dict[str, torch.Tensor]:
    """A run folder with tokenizer, packed text and the model's form; returns the weights to begin with."""
    if config.data is None:
        raise UserError("a text model needs text: give --data FILE[,FILE ...]")
    start = Path(config.model)
    existing: tuple[HRMForCausalLM, PreTrainedTokenizerFast] | None = None
    if (start / "run.json").is_file():
        old = load_text(start, device="cpu", precision="float32")
        existing = old.model, old.tokenizer
    elif (start / "config.json").is_file():
        existing = load_saved(start)
    source = None if config.text.kind == "rows" else _Source(config, reporter.say)
    if existing:
        tokenizer = existing[1]
    else:
        tokenizer = corpus.make_tokenizer(config.text.tokenizer) if source is None else source.tokenizer()
    shape = configure(existing[0].config if existing else config.model, config.settings, tokenizer)
    torch.manual_seed(config.seed)
    model = HRMForCausalLM(shape)
    if existing:
        fill(model, dict(existing[0].state_dict()), start)
    if config.lora:
        adapt(model, config.lora)
    if config.text.length > shape.max_position_embeddings:
        raise UserError(
            f"--text.length {config.text.length} is longer than the model's {shape.max_position_embeddings} positions: "
            f"shorten it, or use --settings max_position_embeddings={config.text.length}"
        )

    def fill_folder(folder: Path) -> None:
        tokenizer.save_pretrained(folder / "tokenizer")
        shape.save_pretrained(folder / "model")
        if source is not None:
            source.pack(tokenizer, folder / "data", reporter)

    board = {} if source else {"data_sha256": corpus.open_text(Path(config.data)).fingerprint}
    Run.create(path, config, board, overwrite, fill_folder)
    return dict(model.state_dict())


class _Texts(Iterable[str]):
    """Documents of several sources, which can be read more than once."""

    def __init__(self, sources: list[str], field: str, way: corpus.Way) -> None:
        self.sources, self.field, self.way = sources, field, way

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(corpus.documents(source, self.field, way=self.way) for source in self.sources)


class _Source:
    """What is trained on and what is measured on, before it has tokens."""

    def __init__(self, config: TextConfig, say: Callable[[str], object]) -> None:
        self.config, text = config, config.text
        self.way = corpus.Way(say, config.encoding)
        assert config.data is not None
        names = [part.strip() for part in config.data.split(",")]
        others = [part.strip() for part in (config.validation or "").split(",") if part.strip()]
        self.held: Any = None
        self.left_out: int | None = None
        if text.kind == "gym":
            fresh = min(500, max(1, round(text.holdout * text.examples)))
            self.items, made = gym.gym_sets(names[0], text.options, text.examples, fresh, config.seed)
            self.held, self.left_out = made
        elif text.kind == "chat":
            self.items: Any = list(chain.from_iterable(chat.conversations(name, self.way) for name in names))
            self.held = list(chain.from_iterable(chat.conversations(name, self.way) for name in others)) or None
        else:
            self.items = _Texts(names, text.field, self.way)
            self.held = _Texts(others, text.field, self.way) if others else None
        if self.held is None and text.holdout:
            self.items, self.held = corpus.hold_out(self.items, text.holdout)
        for doubt in corpus.doubts(self.items, self.held) if self.held is not None and text.kind != "gym" else ():
            say(doubt)

    @property
    def talks(self) -> bool:
        """Whether it consists of questions and answers."""
        return self.config.text.kind in ("chat", "gym")

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer that the settings name; of characters it knows those of the training part."""
        kind, text = self.config.text.tokenizer, self.config.text
        if kind != "char" or not self.talks:
            return corpus.make_tokenizer(kind, self.items)
        pieces = [chat.written(messages, text.template) for messages in self.items]
        tokenizer = corpus.make_tokenizer(kind, ("".join(text for text, _ in some) for some in pieces))
        if text.frame:
            add_frame(tokenizer, (some[0][0] for some in pieces))
        return tokenizer

    def pack(self, tokenizer: PreTrainedTokenizerFast, folder: Path, reporter: Reporter) -> None:
        """Both parts as packed tokens."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, items in (("train", self.items), ("validation", self.held)):
            if items is None:
                continue
            template = self.config.text.template
            tokens = chat.examples(tokenizer, items, template) if self.talks else corpus.encode(tokenizer, items)
            packed = Packed.write(folder / name, tokenizer, tokens)
            if name == "validation" and self.left_out is not None:
                reporter.say(
                    f"{len(items):,} questions are held out; none is trained on ({self.left_out:,} more were made that "
                    f"are among the {len(self.items):,} trained on, and left out)"
                )
            if packed.facts["unknown"]:
                reporter.say(f"{packed.facts['unknown']:,} tokens of {name} are unknown to the tokenizer")
