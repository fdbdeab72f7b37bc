"""A training on text from its configuration to its result: tokenizer, packed text, model, run folder, the loop."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator

from hrm.config import TextConfig, UserError, check, settings
from hrm.data import text as corpus
from hrm.data.text import Packed
from hrm.evaluation.text import evaluate
from hrm.models.text import HRMForCausalLM
from hrm.runs import Run, checkpoint, durable
from hrm.runs.text import adapt, architecture, configure, fill, load_saved, load_text, load_tokenizer
from hrm.training.course import follow
from hrm.training.progress import Reporter
from hrm.training.session import changes, make_accelerator
from hrm.training.text import TextTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def train_text(config: TextConfig, path: Path, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Train into the run folder `path`, from the start or from its newest checkpoint; returns the result.

    Raises UserError for data or settings that cannot work, BadBatch when the training diverges.
    """
    check(config)
    accelerator = make_accelerator(config)
    reporter = Reporter(config.train, accelerator)
    if not resume and accelerator.is_main_process:
        _create(config, path, overwrite, reporter)
    accelerator.wait_for_everyone()
    run = Run.open(path, TextConfig)
    changed = changes(run.config, config)
    run.config = config
    tokenizer = load_tokenizer(run.path)
    training = Packed.open(run.data / "train", tokenizer)
    held_out = Packed.open(run.data / "validation", tokenizer) if (run.data / "validation").is_dir() else None
    model = architecture(run)
    trainer = TextTrainer(config, model, training, accelerator)
    newest = checkpoint.newest(run.checkpoints, reporter.say)
    assert newest is not None or resume
    if newest is None:
        raise UserError(f"{path} has no intact checkpoint, not even that of its start: begin a new run")
    trainer.unpack(*checkpoint.load(newest))
    if resume and accelerator.is_main_process:
        run.rewind(trainer.step_number)
        if changed:
            reporter.say("changed by flags: " + ", ".join(f"{k} {old} -> {new}" for k, (old, new) in changed.items()))
            run.log({"event": "resumed", "from_step": trainer.step_number, "changed": changed})
            run.set_config(config)
    parameters = [p for p in model.parameters() if p.requires_grad]
    reporter.say(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {sum(p.numel() for p in parameters):,} of them "
        f"learning, on {accelerator.device.type} in {config.train.precision}; {training.count:,} tokens "
        f"({training.epoch(config.text.length):,} rows), {held_out.count if held_out else 0:,} held out; "
        f"step {trainer.step_number} of {config.train.steps}"
    )
    reporter.start(accelerator, path.name, str(path), settings(config))
    measures = None if held_out is None else _Held(trainer, tokenizer, held_out)

    def finish() -> dict[str, Any]:
        from hrm.evaluation.text_card import model_card

        found: dict[str, Any] = {}
        if held_out is not None:
            best = load_text(path, device=str(accelerator.device), precision=config.train.precision)
            found = _brief(evaluate(best.model, tokenizer, held_out, config.text.length))
        run.set_result(found)
        durable.write(path / "README.md", model_card(run))
        return found

    result = follow(run, trainer, trainer.pack, config.train, measures, reporter, finish)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return result


class _Held:
    """Measures the averaged weights, if there are any, on some of the held-out text at every depth."""

    compared: tuple[str, ...] = ("data_sha256", "n")

    def __init__(self, trainer: TextTrainer, tokenizer: PreTrainedTokenizerFast, held_out: Packed) -> None:
        self.trainer, self.tokenizer, self.held_out = trainer, tokenizer, held_out

    def __call__(self) -> dict[str, Any]:
        trainer, config, ema = self.trainer, self.trainer.config, self.trainer.updates.ema
        try:
            with torch.compiler.set_stance("force_eager"), ema.applied() if ema else nullcontext():
                limit = config.train.eval_puzzles * config.text.length
                found = evaluate(trainer.model, self.tokenizer, self.held_out, config.text.length, limit=limit)
        finally:
            trainer.model.train()
        return {**_brief(found), "data_sha256": self.held_out.facts["sha256"]["tokens.bin"]}

    def score(self, measured: dict[str, Any]) -> float:
        return -measured["loss"]

    def sentence(self, measured: dict[str, Any]) -> str:
        depths = "  ".join(f"{loss:.3f}" for loss in measured["loss_by_depth"])
        return (
            f"held out {measured['bits_per_character']:.3f} bits a character at depth {measured['mean_segments']:.2f}; "
            f"nats a token at depth 1, 2, ...: {depths}"
        )

    def target(self, measured: dict[str, Any]) -> str | None:
        return None


def _brief(found: dict[str, Any]) -> dict[str, Any]:
    """What a line of metrics holds of a measurement."""
    kept = {name: value for name, value in found.items() if isinstance(value, int | float | str)}
    return kept | {"loss_by_depth": [row["loss"] for row in found["fixed"]]}


def _create(config: TextConfig, path: Path, overwrite: bool, reporter: Reporter) -> None:
    """A run folder with tokenizer, packed text, the model's form and a checkpoint of its start."""
    if config.data is None:
        raise UserError("a text model needs text: give --data FILE[,FILE ...]")
    start = Path(config.model)
    existing: tuple[HRMForCausalLM, PreTrainedTokenizerFast] | None = None
    if (start / "run.json").is_file():
        old = load_text(start, device="cpu", precision="float32")
        existing = old.model, old.tokenizer
    elif (start / "config.json").is_file():
        existing = load_saved(start)
    sources = [part.strip() for part in config.data.split(",")]
    tokenizer = existing[1] if existing else _tokenizer(config, sources)
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
        _pack(config, sources, tokenizer, folder / "data", reporter)

    run = Run.create(path, config, {}, overwrite, fill_folder)
    # The start is a checkpoint like any other: what a new run and a resumed one do is the same.
    trainer = TextTrainer(config, model, Packed.open(run.data / "train"), Accelerator(cpu=True))
    checkpoint.save(run.checkpoints, 0, *trainer.pack())


def _tokenizer(config: TextConfig, sources: list[str]) -> PreTrainedTokenizerFast:
    kind = config.text.tokenizer
    if kind == "char" and config.text.kind == "rows":
        raise UserError("--text.kind rows holds tokens, not text: name their tokenizer with --text.tokenizer")
    texts: Iterable[str] = ()
    if kind == "char":
        texts = chain.from_iterable(corpus.documents(source, config.text.field) for source in sources)
        if config.text.kind == "chat":
            pairs = chain.from_iterable(corpus.chat.pairs(source) for source in sources)
            texts = (config.text.template.format(question=q, answer=a) for q, a in pairs)
    return corpus.make_tokenizer(kind, texts)


def _pack(
    config: TextConfig, sources: list[str], tokenizer: PreTrainedTokenizerFast, folder: Path, reporter: Reporter
) -> None:
    """The training text and the held-out part of it, or a file of its own, as packed tokens."""
    text = config.text
    folder.mkdir(parents=True, exist_ok=True)

    def examples(names: list[str]) -> Any:
        if text.kind == "chat":
            return [e for name in names for e in corpus.chat.examples(name, tokenizer, text.template)]
        return _Documents(names, text.field)

    def write(name: str, items: Any) -> None:
        encoded = items if text.kind == "chat" else corpus.encode(tokenizer, items)
        packed = Packed.write(folder / name, tokenizer, encoded)
        if packed.facts["unknown"]:
            reporter.say(f"{packed.facts['unknown']:,} tokens of {name} are unknown to the tokenizer")

    shutil.rmtree(folder / "train", ignore_errors=True)
    items = examples(sources)
    if config.validation is not None:
        write("train", items)
        write("validation", examples([part.strip() for part in config.validation.split(",")]))
    elif text.holdout:
        kept, held = corpus.hold_out(items, text.holdout)
        write("train", kept)
        write("validation", held)
    else:
        write("train", items)


class _Documents(Iterable[str]):
    """Documents that can be read more than once."""

    def __init__(self, sources: list[str], field: str) -> None:
        self.sources, self.field = sources, field

    def __iter__(self) -> Any:
        return chain.from_iterable(corpus.documents(source, self.field) for source in self.sources)
