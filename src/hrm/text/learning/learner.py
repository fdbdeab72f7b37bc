"""The learner: reads books one after another, remembers parts of them, grows, and resumes after any interruption."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from hrm.files import names
from hrm.files.reading import UserError, reading
from hrm.files.records import Json
from hrm.runs import Run, checkpoint, durable, lock, threads
from hrm.settings import check, settings
from hrm.text import data as corpus
from hrm.text import learned
from hrm.text.arch import GROUPS
from hrm.text.config import LearnConfig
from hrm.text.data import Packed
from hrm.text.data.growing import grow_tokenizer, new_characters, tokenizer_files
from hrm.text.learned import Book, NewLayers, NewTokens, Score, State
from hrm.text.learning.growth import admit, carry_over, grow_depth, grow_vocabulary, layers_for
from hrm.text.learning.loop import BookLoop, Event
from hrm.text.learning.memory import DreamMemory, Memory
from hrm.text.learning.trainer import BookTrainer, train_config, visits, work
from hrm.text.load import form_of, load_tokenizer, rebuild, tokens_of
from hrm.text.measuring.losses import evaluate
from hrm.text.model import HRMConfig, HRMForCausalLM
from hrm.text.model.budget import Request
from hrm.text.names import shown
from hrm.text.writing.generation import Sampling, complete
from hrm.training.devices import make_accelerator
from hrm.training.interrupt import Abandoned
from hrm.training.long_steps import seconds_of
from hrm.training.updates import Updates

_PARTS = ("train", "validation")


class Learner:
    """A run that learns books, locked for this process until `close`. Use `Learner.create` or `open`, then `learn`."""

    def __init__(self, run: Run[LearnConfig], memory: Memory | None = None) -> None:
        run.check_places()
        self.run, self.config = run, run.config
        self.memory: Memory = memory or DreamMemory(run.config.memory)
        self.accelerator = make_accelerator(train_config(run.config, 1), "--device")
        if self.accelerator.num_processes > 1:
            raise UserError("hrm learn works in one process: start it without torchrun")
        self.device = self.accelerator.device
        self.books: list[Book] = []
        """The books in reading order; the last one may be unfinished."""
        self.growth: list[NewTokens | NewLayers] = []
        self.step_number, self.seconds = 0, 0.0
        self.asked: Callable[[], str | None] = lambda: None
        """Called after every update, and often while it prepares or measures; returning "pause" or "stop" ends the
        reading."""
        newest = checkpoint.newest(run.checkpoints, partial(print, flush=True))
        if newest is None:
            self.tokenizer = load_tokenizer(run.path)
            torch.manual_seed(run.config.seed)
            self.model = HRMForCausalLM(form_of(run.path))
            self.optimizer: dict[str, Tensor] = {}
            self.counters: dict[str, float] = {}
        else:
            with checkpoint.restoring(newest):
                groups, state = learned.load(newest)
                self.model, self.tokenizer = rebuild(state, groups["weights"], newest)
                self.optimizer, self.counters = groups.get("optimizer", {}), state.counters
                if groups.get("memory"):
                    with reading(newest / "memory.safetensors", "use another checkpoint or restore this one"):
                        self.memory.unpack(groups["memory"], self.model)
                self.step_number, self.seconds = state.step_number, state.seconds
                self.books, self.growth = state.books, state.growth
        self.model.to(self.device).train()
        self.threads = self._choose_threads()
        """A note on the threads, for people."""
        self.model.compute_dtype = getattr(torch, self.config.precision)
        self.close = weakref.finalize(self, lock.own(run.path, "learn").release)
        """Unlock the run for other processes; also happens when the learner is garbage-collected."""

    @classmethod
    def create(cls, path: Path | str, config: LearnConfig | None = None, memory: Memory | None = None) -> Learner:
        """A new run with an untrained model; UserError if there is one. Byte pairs are trained on the first book."""
        config = config or LearnConfig()
        tokenizer = ready(config)
        arch = replace(config.arch, max_position_embeddings=max(config.arch.max_position_embeddings, config.length))
        shape = HRMConfig.of(arch, config.halting, config.loss, **tokens_of(tokenizer))

        def save(folder: Path) -> None:
            tokenizer.save_pretrained(folder / "tokenizer")
            shape.save_pretrained(folder / "model")
            (folder / "books").mkdir(exist_ok=True)

        with lock.own(path, "learn", new=True):
            run = Run.create(path, config, {}, fill=save)
            try:
                return cls(run, memory)
            except Exception:
                run.remove()
                raise

    @classmethod
    def open(
        cls, path: Path | str, memory: Memory | None = None, config: LearnConfig | None = None, **changes: Any
    ) -> Learner:
        """Open a run at its newest intact checkpoint; a new `config`, or `changes` to its own, apply from here on."""
        with lock.own(path, "learn"):
            run = Run.open(path, LearnConfig)
            changed = replace(config or run.config, **changes)
            if changed != run.config:
                check(changed)
                old, new = settings(run.config), settings(changed)
                other = {name: new[name] for name in new if new[name] != old[name] and name.startswith((*GROUPS,))}
                instead = "begin another run, or start over with --fresh"
                if other:
                    raise UserError(f"{' '.join(shown(other))}: {path} has a model of its own by now: {instead}")
                if changed.tokenizer != (known := run.config.tokenizer):
                    raise UserError(f"--tokenizer {changed.tokenizer}: {path} has learned with {known}: {instead}")
                run.set_config(changed)
            return cls(run, memory)

    def learn(
        self, source: str | Path, epochs: int | None = None, say: Callable[[Event], None] = lambda event: None,
        encoding: str | None = None,
    ) -> Book:  # fmt: skip
        """Read a book, or resume it; returns its entry in `books`. `say` gets every event: note, begin, step, measured,
        grown, end, or known. `encoding`: of the file; default: what it was read in before, or is found to be. UserError
        for a book that cannot be read."""
        for known in self.books:  # before anything is learned
            for part in _PARTS:
                if (self._folder(known) / part / "index.json").exists():
                    self._part(known, part)
        place = str(Path(source).absolute())
        before = next((b.encoding for b in self.books if b.source == place), None)
        way = corpus.ReadOptions(lambda sentence: say({"event": "note", "sentence": sentence}), encoding or before)
        book = self._enter(source, epochs, way)
        if book.state != "learning":
            known = {name: book.get(name) for name in ("name", "state", "step", "steps", "epochs")}
            say({"event": "known", "given": Path(source).name, **known})
            return book
        return self._read(book, say)

    def resume(self, epochs: int | None = None, say: Callable[[Event], None] = lambda event: None) -> Book:
        """Resume the paused book, without its file; UserError if there is none."""
        book = self.unfinished
        if book is None:
            raise UserError(f"{self.run.path} has no paused book: give it the next one, hrm learn {self.run.path} FILE")
        if not self._packed(book):
            raise UserError(f"the text of {book.name} in {self._folder(book)} is incomplete: give the file again")
        if epochs is not None and epochs > book.epochs:
            book.epochs = epochs
        return self._read(book, say)

    def _read(self, book: Book, say: Callable[[Event], None]) -> Book:
        """Learn a book from its current position to its end, or until asked to pause or stop."""
        for known in self.books:  # before anything is learned: all of them are measured
            self._part(known, "validation")
        training = self._part(book, "train").verify()
        steps = book.steps = self._steps(book, training)
        trainer = BookTrainer(self, book, training, steps)
        loop = BookLoop(self, trainer, book, say)
        self.run.rewind(self.step_number)
        begun = {"event": "begin", "book": book.name, "steps": steps, "done": book.step, "threads": self.threads}
        say(begun | self.facts())
        measured = [record["measuring_seconds"] for record in self.run.records() if "measuring_seconds" in record]
        loop.pace.last["measuring"] = measured[-1] if measured else 0.0
        if book.step < steps and self.device.type == "cpu":
            say({"event": "estimate", "seconds": self._expected(book, loop), "new": not self.step_number})
        try:
            self._prepare(book, training, loop)
            ended = loop.run_steps()
        except Abandoned:  # interrupted while preparing, which will be repeated
            ended = False
        if ended or loop.answer != "pause":
            self._finish(book, training, trainer.updates, say)
        loop.count_time()
        self.save(trainer.updates)
        say({"event": "end", "book": book.name, "state": book.state, "step": book.step, "steps": steps})
        return book

    def _expected(self, book: Book, loop: BookLoop) -> float:
        """Estimated seconds for the rest of a book, from a trial update."""
        config = self.config
        rows = config.batch_size + (round(config.replay * config.batch_size) if len(self.books) > 1 else 0)
        each = seconds_of(loop.trainer, rows, rows)
        if self.model.config.hierarchy:
            each *= work(self.model.config.max_segments) / visits(self.model.config.schedule)
        steps = loop.trainer.train.steps
        measurements = steps // config.eval_every if config.eval_every else book.epochs
        return each * (steps - book.step) + measurements * loop.pace.last["measuring"]

    def _prepare(self, book: Book, training: Packed, loop: BookLoop) -> None:
        """Work before the first update: a measurement, and the memory's `begin`."""
        if book.step == 0 and book.bits_per_character_before is None:
            with loop.pace.part("measuring"):
                book.bits_per_character_before = self.bits(book, progress=loop.tick)
            loop.pace.last["measuring"] *= len(self.books)  # all of them are measured from here on
            known = {"bits": book.bits_per_character_before, "new_tokens": book.new_tokens}
            loop.say({"event": "before", "book": book.name, "vocabulary": len(self.tokenizer), **known})
            with loop.pace.part("saving"):
                self.save(loop.trainer.updates)
        if not book.begun:
            self.memory.asked = loop.tick
            self.memory.begin(self.model, self.config.length, self.config.seed, book.number)
            if book.step == 0 and book.new_tokens:  # their probability was nearly zero until now
                batch = training.batch(self.config.seed, 0, range(64), 64, self.config.length)
                ids, targets = (torch.from_numpy(array).to(self.device) for array in (batch.input_ids, batch.labels))
                admit(self.model, ids, targets, max(0, len(self.tokenizer) - book.new_tokens))
            book.begun = True

    def _choose_threads(self) -> str:
        """Set the threads on a CPU and record their number in the run."""
        config = self.config
        if self.device.type != "cpu":
            return ""
        positions = round(config.batch_size * (1 + config.replay)) * config.length
        number, said = threads.settle(threads.work_of(self.model, positions), config.threads)
        if not config.threads:
            self.config = replace(config, threads=number)
            self.run.set_config(self.config)
        return said

    def end(self) -> Book:
        """End the unfinished book at its current position; UserError if there is none."""
        book = self.unfinished
        if book is None:
            raise UserError(f"{self.run.path} has no unfinished book to end")
        training = self._part(book, "train").verify()
        updates = BookTrainer(self, book, training, self._steps(book, training)).updates
        self._finish(book, training, updates, lambda event: None)
        self.save(updates)
        return book

    def grow(
        self, fast: int | None = None, slow: int | None = None, parameters: int | None = None,
        why: Literal["characters", "plateau", "command"] = "command",
    ) -> NewLayers:  # fmt: skip
        """Add layers now, without changing predictions. Returns the entry in the growth history."""
        config, parameters = self.config, parameters or self.config.grow_params
        if parameters:
            fast, slow = layers_for(self.model, parameters)
        fast, slow = config.grow_fast if fast is None else fast, config.grow_slow if slow is None else slow
        before = self.parameters
        grow_depth(self.model, fast, slow, config.seed)
        self.model.to(self.device).train()
        self.optimizer = carry_over(self.optimizer, self.model)
        entry = NewLayers(
            at=_now(), step=self.step_number, characters=self.characters, why=why,
            fast_layers=fast, slow_layers=slow, parameters=[before, self.parameters],
        )  # fmt: skip
        self.growth.append(entry)
        self.save(None)
        return entry

    def bits(
        self, book: Book, limit: int | None = None, progress: Callable[[float], None] | None = None,
        **request: Unpack[Request],
    ) -> float:  # fmt: skip
        """Bits a character on the held-out part of a book, by default in one segment of the model's own schedule."""
        held = self._part(book, "validation")  # its ids never move
        wanted: Json = {"max_segments": 1, "halting": "fixed", **request}
        try:
            found = evaluate(
                self.model, self.tokenizer, held, self.config.length, batch_size=32,
                progress=progress, limit=limit or self.config.eval_characters, **wanted,
            )  # fmt: skip
        finally:
            self.model.train()
        return found.bits_per_character

    def facts(self) -> dict[str, object]:
        """What `hrm status --json` says of the model."""
        config = self.model.config
        return {
            "vocabulary": len(self.tokenizer),
            "parameters": self.parameters,
            "layers": {"fast": config.fast_layers, "slow": config.slow_layers},
            "characters": self.characters,
            "updates": self.step_number,
            "growth": self.growth,
        }

    @property
    def unfinished(self) -> Book | None:
        """The book that is being learned, or paused; not one that was stopped."""
        return next((book for book in self.books if book.state == "learning"), None)

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def characters(self) -> int:
        """Characters read so far, each book counted once."""
        return sum(book.characters for book in self.books)

    def _enter(self, source: str | Path, epochs: int | None, way: corpus.ReadOptions) -> Book:
        """The entry of a book, packed and with all its characters known; a new one after the last."""
        name, digest, size = Path(source).name, hashlib.sha256(), 0
        documents = corpus.documents(str(source), way=way)
        for part in documents:
            digest.update(part.encode("utf-8", "surrogatepass"))
            size += len(part)
        least = self.config.length * (4 if self.config.tokenizer == "char" else 16)  # tokens of several characters
        if size < least:
            raise UserError(f"{source} has {size} characters: a book of at least {least} is needed")
        known = next((b for b in self.books if b.sha256 == digest.hexdigest()), None)
        if known is None:
            if (open_one := self.unfinished) is not None:
                finish = f"finish it first (hrm learn {self.run.path} {open_one.source}), or end it with --stop"
                raise UserError(f"{open_one.name} is not finished: {finish}")
            known = Book(
                name=name, source=str(Path(source).absolute()), sha256=digest.hexdigest(), characters=size,
                learned_at=_now(), epochs=epochs or self.config.epochs, step=0, state="learning",
                number=len(self.books), scores=[], encoding=way.encoding or None,
                new_tokens=self._learn_alphabet(documents),
            )  # fmt: skip
            self.books.append(known)
        elif epochs is not None and epochs + (known.state == "stopped") > known.epochs:
            known.epochs, known.state, known.begun = epochs, "learning", False
        if not self._packed(known):
            self._pack(documents, self._folder(known), way)
            known.packed = None
        known.packed = known.packed or {part: Packed.open(self._folder(known) / part).fingerprint for part in _PARTS}
        return known

    def _learn_alphabet(self, documents: Iterable[str]) -> int:
        """Give new characters the next ids, without changing predictions. Returns how many are new."""
        before, added = self.model.config.vocab_size, []
        if self.config.tokenizer.startswith("bpe:") and not self.books:
            self.tokenizer = corpus.train_bpe(documents, int(self.config.tokenizer[4:]))
        else:
            added = grow_tokenizer(self.tokenizer, new_characters(self.tokenizer, documents))
        if len(self.tokenizer) == before:
            return 0
        if self.books:
            grow_vocabulary(self.model, len(self.tokenizer), seed=self.config.seed)
        else:  # it has learned nothing that could change
            torch.manual_seed(self.config.seed)
            dtype, config = self.model.compute_dtype, self.model.config
            config.vocab_size = len(self.tokenizer)
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                setattr(config, name, getattr(self.tokenizer, name))
            self.model = HRMForCausalLM(config)
            self.model.compute_dtype = dtype
        self.model.to(self.device).train()
        self.optimizer = carry_over(self.optimizer, self.model)
        entry = NewTokens(
            at=_now(), step=self.step_number, characters=self.characters,
            added="".join(added), vocabulary=[before, len(self.tokenizer)],
        )  # fmt: skip
        self.growth.append(entry)
        return len(added) if self.books else 0

    def _pack(self, documents: Iterable[str], folder: Path, way: corpus.ReadOptions) -> None:
        shutil.rmtree(names.place_in(self.run.path, "books", folder.name), ignore_errors=True)
        folder.mkdir(parents=True)
        kept, held = corpus.hold_out(documents, self.config.holdout)
        for doubt in corpus.doubts(kept, held):
            way.say(doubt)
        for part, items in (("train", kept), ("validation", held)):
            Packed.write(folder / part, self.tokenizer, corpus.encode(self.tokenizer, items))

    def _packed(self, book: Book) -> bool:
        return all((self._folder(book) / part / "index.json").is_file() for part in _PARTS)

    def _part(self, book: Book, part: str) -> Packed:
        """A part of a book; UserError where it is not the one that was packed."""
        packed = Packed.open(self._folder(book) / part)
        if packed.fingerprint != (book.packed or {}).get(part, packed.fingerprint):
            raise UserError(f"{packed.folder / 'index.json'} has changed since {book.name} was packed: restore it")
        return packed

    def _folder(self, book: Book) -> Path:
        return learned.folder_of(self.run.path, book)

    def _steps(self, book: Book, training: Packed) -> int:
        """Updates for a book: a row begins at every `stride`-th character, in each epoch."""
        rows = book.epochs * max(1, training.count // self.config.stride)
        return max(1, rows // self.config.batch_size)

    def is_measured(self, book: Book) -> bool:
        """Whether all books have been measured at the current step."""
        return bool(book.scores) and book.scores[-1].step == book.step

    def measure(self, book: Book, say: Callable[[Event], None], tick: Callable[[float], None] | None = None) -> None:
        """Every book's held-out text so far, and a sample of how it writes."""
        start = time.perf_counter()
        bits = [self.bits(other, progress=tick) for other in self.books]
        book.scores.append(Score(step=book.step, update=self.step_number, bits_per_character=bits))
        scores = {other.name: score for other, score in zip(self.books, bits, strict=True)}
        sample, rate = self.sample()
        took = {"characters_per_second": rate, "measuring_seconds": time.perf_counter() - start}
        found = {"event": "eval", "step": self.step_number, "book": book.name, "bits_per_character": scores}
        self.run.log({**found, "sample": sample, **took})
        say({"event": "measured", "step": self.step_number, "scores": scores, "sample": sample, "rate": rate})

    def sample(self, characters: int = 120) -> tuple[str, float]:
        """A sample of generated text in one segment, and the characters a second."""
        self.model.eval()
        first = self.tokenizer("\n", add_special_tokens=False)["input_ids"] or [0]
        sampling = Sampling(max_new_tokens=characters, temperature=0.8, seed=self.step_number)
        request = {"memory": self.config.length, "max_segments": 1, "halting": "fixed"}
        (found,) = complete(self.model, self.tokenizer, [first], sampling, **request)  # type: ignore[arg-type]
        self.model.train()
        return found.text, len(found.text) / found.seconds

    def _finish(self, book: Book, training: Packed, updates: Updates, say: Callable[[Event], None]) -> None:
        """Finish a book: remember parts of it, record its score, and grow if enough was read."""
        read = book.step >= self._steps(book, training)
        book.state, book.finished_at = "finished" if read else "stopped", _now()
        if not self.is_measured(book):
            self.measure(book, say)
        bits, config = book.scores[-1].bits_per_character, self.config
        book.bits_per_character_then = bits[book.number]
        for other, now in zip(self.books, bits, strict=True):
            other.bits_per_character_now = now
        tokens = np.asarray(training.tokens)
        self.memory.remember(book.number, tokens, book.characters, config.length, config.seed, self.model)
        size = sum(t.numel() * t.element_size() for t in self.memory.pack().values())
        book.scores[-1] = replace(book.scores[-1], memory_bytes=size)
        self._take(updates)
        grown = sum(isinstance(each, NewLayers) and each.why in ("characters", None) for each in self.growth)
        if config.grow_every and self.characters // config.grow_every > grown:
            say({"event": "grown", "layers": self.grow(why="characters")})
        elif self._stands_still(book, training):
            say({"event": "grown", "layers": self.grow(why="plateau")})

    def _stands_still(self, book: Book, training: Packed) -> bool:
        """Whether the last epoch of a book that was read to its end brought less than `grow_plateau`."""
        last = book.scores[-2:]
        if self.config.eval_every:  # of several measurements in an epoch, the one before it
            before = book.step - max(1, self._steps(book, training) // book.epochs)
            last = [score for score in book.scores[:-1] if score.step <= before][-1:] + book.scores[-1:]
        scores = [score.bits_per_character[book.number] for score in last]
        read = len(scores) == 2 and book.step >= self._steps(book, training)
        return read and scores[1] > scores[0] * (1 - self.config.grow_plateau) and self.config.grow_plateau > 0

    def _take(self, updates: Updates) -> None:
        groups, self.counters = updates.pack()
        self.optimizer = groups["optimizer"]

    def save(self, updates: Updates | None) -> None:
        """Write a checkpoint; `updates` are those of the book that is being learned."""
        if updates is not None and self.unfinished is not None:
            self._take(updates)
        groups = {"weights": dict(self.model.state_dict()), "optimizer": self.optimizer, "memory": self.memory.pack()}
        state = State(
            step_number=self.step_number, seconds=self.seconds, books=self.books, growth=self.growth,
            counters=self.counters, parameters=self.parameters, model=self.model.config.to_dict(),
            tokens=list(self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))),
            tokenizer=None if self.config.tokenizer == "char" else tokenizer_files(self.tokenizer),
        )  # fmt: skip
        checkpoint.save(self.run.checkpoints, self.step_number, groups, state.plain())
        checkpoint.prune(self.run.checkpoints, 2)
        # For other programs, beside the checkpoints.
        _mirrored(self.tokenizer, self.run.path, "tokenizer")
        _mirrored(self.model.config, self.run.path, "model")


def ready(config: LearnConfig) -> PreTrainedTokenizerFast:
    """The tokenizer that a new run begins with; UserError where settings, device or tokenizer cannot work."""
    check(config)
    make_accelerator(train_config(config, 1), "--device")
    return corpus.make_tokenizer("char" if config.tokenizer.startswith("bpe:") else config.tokenizer)


def _mirrored(what: HRMConfig | PreTrainedTokenizerFast, run: Path, name: str) -> None:
    """Replace a folder that `save_pretrained` writes file by file, each complete or as it was, and no link followed."""
    folder = names.place_in(run, name)
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        what.save_pretrained(temporary)
        for file in sorted(Path(temporary).iterdir()):
            durable.write(folder / file.name, file.read_text("utf-8"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
