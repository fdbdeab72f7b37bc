"""A training on text: tokenizer, packed text, model, measurements and the final result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerFast

from hrm.core.devices import device_of
from hrm.files.output import check_utf8
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.progress import share
from hrm.runs import Run, checkpoint, durable
from hrm.text import data as corpus
from hrm.text.config import TextConfig, saved
from hrm.text.data import Packed, Tokens, chat
from hrm.text.data.hops import Hops, tokenizer_of_task
from hrm.text.data.preferences import REFERENCE, Pairs
from hrm.text.load import (
    adapt,
    architecture,
    as_trained,
    configure,
    fill,
    load_saved,
    load_text,
    load_tokenizer,
    refuse_quantised,
)
from hrm.text.measuring import origins
from hrm.text.measuring.losses import Measured, evaluate
from hrm.text.model import HRMForCausalLM
from hrm.text.training.plan import count
from hrm.text.training.preference import HeldOutPairs, PreferenceTrainer, likelihoods, measure
from hrm.text.training.source import Source, in_place, made
from hrm.text.training.trainer import TextTrainer
from hrm.training import cluster
from hrm.training.interrupt import Abandoning
from hrm.training.loop import Evaluator
from hrm.training.progress import Reporter
from hrm.training.session import Changes, Subject, run_training


def train_text(config: TextConfig, path: Path, resume: bool = False, overwrite: bool = False) -> Json:
    """Train into the run folder `path`, from the start or from its newest checkpoint; returns the result. UserError for
    data or settings that cannot work, BadBatch when the training diverges."""
    check_utf8(path)
    return run_training(_TextTraining(config), path, resume, overwrite)


class _TextTraining(Subject[TextConfig, TextTrainer]):
    """A training on text."""

    saves_start = True
    fitting = "text-char"

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config)
        self.start = config.model
        self.first: dict[str, torch.Tensor] | None = None
        """The initial weights, if this process created the run."""
        self.training: Tokens | Hops | Pairs | None = None
        self.held_out: Tokens | Hops | Pairs | None = None
        self.measured: _HeldOutText | HeldOutPairs | None = None
        self.prefers = config.text.kind == "preference"
        self.in_place = in_place(config)
        self.made = config.text.kind == "hops"
        if config.text.kind in ("gym", "hops"):
            self.sources = []  # --data is the name of what is made
        self.calibrated = False
        """Whether the run halts by a readout that belongs to the weights of before."""

    def create(self, path: Path, overwrite: bool, reporter: Reporter) -> None:
        config = self.config
        if config.data is None:
            raise UserError("a text model needs text: give --data FILE[,FILE ...]")
        if self.made:
            made(config)  # before anything is written
        if self.prefers and self.in_place:
            raise UserError(
                f"{config.data} is packed: --text.kind preference reads rows of JSON with chosen and rejected"
            )
        start = Path(config.model or "")
        existing = _continued(start) if config.model and saved(start) else None
        source = None if self.in_place or self.made else Source(config, reporter.say)
        if existing:
            tokenizer = existing[1]
            if self.made and tokenizer.get_vocab() != tokenizer_of_task(config.data).get_vocab():
                raise UserError(f"the words of {start} are not those of {config.data}: train a new model")
        elif self.made:
            tokenizer = tokenizer_of_task(config.data)
        elif source:
            tokenizer = source.tokenizer()
        else:
            tokenizer = corpus.tokenizer_of(Path(config.data)) or corpus.make_tokenizer(config.text.tokenizer)
        if source and source.talks and config.text.template is not None:
            tokenizer.chat_template = chat.chat_template(config.text.template)
        shape = configure(config, tokenizer, existing[0].config if existing else None)
        torch.manual_seed(config.seed)
        model = HRMForCausalLM(shape)
        if existing:
            fill(model, dict(existing[0].state_dict()), start)
        if config.lora:
            adapt(model, config.lora)
        if (length := config.text.length) > (most := shape.max_position_embeddings):
            instead = f"shorten it, or use --arch.max-position-embeddings {length}"
            raise UserError(f"--text.length {length} is longer than the model's {most} positions: {instead}")

        def fill_folder(folder: Path) -> None:
            tokenizer.save_pretrained(folder / "tokenizer")
            shape.save_pretrained(folder / "model")
            if source is not None:
                source.pack(tokenizer, folder / "data", reporter)
            if self.prefers:
                self._ask(model, tokenizer, folder / "data", reporter)

        board: Json = {"before": earlier} if (earlier := origins.before(config.model)) else {}
        if self.in_place:
            self.training = corpus.open_text(Path(config.data), tokenizer)
            board |= {"data_sha256": self.training.fingerprint, "sources": origins.sources(self.training)}
        Run.create(path, config, board, overwrite, fill_folder)
        self.first = dict(model.state_dict())

    def _ask(self, model: HRMForCausalLM, tokenizer: PreTrainedTokenizerFast, data: Path, reporter: Reporter) -> None:
        """Write down what the model says of all pairs before it learns from them."""
        train = self.config.train
        model.compute_dtype = getattr(torch, train.precision)
        model = model.to(device_of(train.device))
        for part in sorted(data.iterdir()):
            pairs = Pairs(Packed.open(part, tokenizer))
            reporter.say(f"computing what the model before says of {pairs.rows:,} answers ({part.name})")
            with share("the model before", reporter.console) as done:
                np.save(part / REFERENCE, likelihoods(model, pairs, -(-train.batch_size // train.accumulate), done))
        model.to("cpu")

    def read(self, run: Run[TextConfig], changed: Changes, reporter: Reporter) -> None:
        self.tokenizer = load_tokenizer(run.path)
        if self.made:
            if "data" in changed:
                raise UserError(f"the run learned {changed['data'][0]}: --data cannot change, train a new run instead")
            self.training, self.held_out = made(self.config), made(self.config, held_out=True)
            return
        if self.in_place or "data_sha256" in run.board:
            self._read_in_place(run)
            return
        if self.first is None:  # otherwise this process has just written them
            run.check_data()
        held_out = run.data / "validation"
        if self.prefers:
            self.training = Pairs.open(run.data / "train", self.tokenizer)
            self.held_out = Pairs.open(held_out, self.tokenizer) if held_out.is_dir() else None
            return
        self.training = Packed.open(run.data / "train", self.tokenizer).verify()
        self.held_out = Packed.open(held_out, self.tokenizer).verify() if held_out.is_dir() else None

    def _read_in_place(self, run: Run[TextConfig]) -> None:
        """What is packed already is read where it is, not copied into the run."""
        config, tokenizer = self.config, self.tokenizer
        assert config.data is not None
        if self.training is None:
            if not Path(config.data).is_dir():
                raise UserError(f"{config.data}, which the run reads, is missing: put it back, or name it with --data")
            self.training = corpus.open_text(Path(config.data), tokenizer)
            if run.board.get("data_sha256") not in (None, self.training.fingerprint):
                change = f"{self.training.folder} has changed since the run {run.path} began"
                raise UserError(f"{change}: restore it, or say where it is with --data")
        held = corpus.held_out(config.validation or config.data) or config.validation
        self.held_out = corpus.open_text(Path(held), tokenizer, "validation") if held else None

    def trainer(self, run: Run[TextConfig], accelerator: Accelerator) -> TextTrainer:
        model = architecture(run)
        self.calibrated = as_trained(model.config, run.path)
        if self.first is not None:
            fill(model, self.first, run.path)
            self.first = None
        data = self._training
        if isinstance(data, Pairs):
            return PreferenceTrainer(self.config, model, data, accelerator)
        trainer = TextTrainer(self.config, model, data, accelerator)
        name = torch.cuda.get_device_name(accelerator.device) if accelerator.device.type == "cuda" else ""
        if (gpu := cluster.known(name)) is not None and model.config.halting in ("fixed", "readout"):
            length, wide = self.config.text.length, self.config.train.precision == "float32"
            trainer.flops_per_unit = count(model.config, length)[1] / length
            trainer.peak_flops = accelerator.num_processes * (gpu.flops_float32 if wide else gpu.flops_16_bit)
        return trainer

    def resumed(self, run: Run[TextConfig], trainer: TextTrainer) -> None:
        self.calibrated &= trainer.step_number < self.train.steps
        if self.calibrated:
            from hrm.text.measuring.calibrating import forget

            forget(run.path)

    def amounts(self) -> str:
        if isinstance(self._training, Hops):
            return f"questions of {self._training.name} with 1 to {self._training.hops} hops, made when they are read"
        rows, held_out = self._training.epoch(self.config.text.length), self.held_out.count if self.held_out else 0
        unit = "pairs of answers" if self.prefers else "rows"
        return f"{self._training.count:,} tokens ({rows:,} {unit}), {held_out:,} held out"

    def notes(self) -> Iterator[str]:
        if self.held_out is None:
            how = "--validation FOLDER" if self.in_place else "--validation FILE or --text.holdout 0.1"
            yield f"nothing is held out, so no best checkpoint can be chosen and the newest is taken: see {how}"
        if self.calibrated:
            yield "the calibrated readout was fitted to the weights so far: calibrate again after this (hrm calibrate)"

    def measures(self, trainer: TextTrainer) -> _HeldOutText | HeldOutPairs | None:
        if isinstance(self.held_out, Pairs):
            self.measured = HeldOutPairs(trainer, self.held_out)
        elif self.held_out is not None:
            self.measured = _HeldOutText(trainer, self.tokenizer, self.held_out)
        return self.measured

    def finish(self, run: Run[TextConfig], trainer: TextTrainer, reporter: Reporter, abandoning: Abandoning) -> Json:
        from hrm.text.measuring.card import model_card

        found: Json = {}
        if self.held_out is not None and self.measured is not None:
            device, precision = str(trainer.accelerator.device), self.config.train.precision
            best = load_text(run.path, device=device, precision=precision)
            as_trained(best.model.config, run.path)
            if isinstance(self.held_out, Pairs):
                found = measure(best.model, self.held_out, self.config.text.beta)
            elif isinstance(self.measured, _HeldOutText) and not (found := self.measured.again(Path(best.name))):
                reporter.say(f"measuring the best checkpoint on the {self.held_out.count:,} held-out tokens")
                length = self.config.text.length
                with abandoning(), share("measuring", reporter.console) as done:
                    measured = evaluate(best.model, self.tokenizer, self.held_out, length, progress=done, control=False)
                found = self.measured.brief(measured)
        run.set_result(found)
        durable.write(run.path / "README.md", model_card(run))
        return found

    @property
    def _training(self) -> Tokens | Hops | Pairs:
        assert self.training is not None  # read by now
        return self.training


def _continued(start: Path) -> tuple[HRMForCausalLM, PreTrainedTokenizerFast]:
    """The model and tokenizer of a run or saved folder, in full precision."""
    if not (start / "run.json").is_file():
        model, tokenizer = load_saved(start)
        refuse_quantised(model, start)
        as_trained(model.config, start)
        return model, tokenizer
    old = load_text(start, device="cpu", precision="float32")
    if old.template is not None:
        old.tokenizer.chat_template = chat.chat_template(old.template)
    as_trained(old.model.config, start)
    return old.model, old.tokenizer


class _HeldOutText(Evaluator):
    """Measures the averaged weights, if there are any, on some of the held-out text at every depth."""

    def __init__(self, trainer: TextTrainer, tokenizer: PreTrainedTokenizerFast, held_out: Tokens | Hops) -> None:
        self.trainer, self.tokenizer, self.held_out = trainer, tokenizer, held_out
        self.limit = trainer.config.train.eval_puzzles * trainer.config.text.length
        self.best: tuple[int, float, Json] | None = None
        """Step, score and measurement of the best weights that this process has measured."""
        self.fingerprint = origins.digest(held_out)

    def __call__(self) -> Json:
        length = self.trainer.config.text.length
        with self.trainer.as_measured() as model:
            measured = evaluate(model, self.tokenizer, self.held_out, length, limit=self.limit, control=False)
        found = self.brief(measured)
        if self.best is None or self.score(found) >= self.best[1]:
            self.best = self.trainer.step_number, self.score(found), found
        return {**found, "data_sha256": self.fingerprint}

    def again(self, saved: Path) -> Json:
        """What was measured with the weights of a checkpoint; {} unless it was on all of the text, and to the bit what
        the checkpoint gives: a loaded model has its weights rounded and LoRA merged."""
        config = self.trainer.config
        if self.best is None or self.limit < self.held_out.count or config.train.precision != "float32" or config.lora:
            return {}
        step, _, found = self.best
        return found if checkpoint.step_of(saved) == step else {}

    def brief(self, found: Measured) -> Json:
        """What a line of metrics holds of a measurement."""
        kept = {name: value for name, value in found.items() if isinstance(value, int | float | str)}
        measures = [name for name in ("loss", "exact_match") if name in found]
        kept |= {f"{name}_by_depth": [row[name] for row in found.fixed] for name in measures}
        if self.trainer.only_q:
            key = "ece_q" if self.trainer.model.config.q_target == "right" else "ece_q_target"
            errors = [row[key] for row in found.fixed if row.get(key) is not None]
            kept["q_error"] = sum(errors) / len(errors)
        return kept

    def score(self, measured: Json) -> float:
        if "q_error" in measured:
            return -measured["q_error"]
        # Between equal numbers of exact answers, the lower loss wins.
        return measured["exact_match"] - 1e-6 * measured["loss"] if "exact_match" in measured else -measured["loss"]

    def sentence(self, measured: Json) -> str:
        if "q_error" in measured:
            return f"held out: the Q head is off by {measured['q_error']:.2%}, the mean over depths of its ECE"
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

    def target(self, measured: Json) -> str | None:
        wanted, exact = self.trainer.config.train.target_accuracy, measured.get("exact_match", 0.0)
        return f"{exact:.1%} of the held-out answers are exact: stopping" if wanted and exact >= wanted else None
