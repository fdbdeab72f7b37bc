"""The training loop of a book: epochs, metrics, and pausing or stopping on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hrm.files.records import Json
from hrm.text.learned import Book
from hrm.text.learning.trainer import BookTrainer
from hrm.training.interrupt import Abandoned
from hrm.training.loop import Loop

if TYPE_CHECKING:
    from hrm.text.learning.learner import Learner

Event = Json
"""What happened: `event` names it, the rest depends on it."""


class BookLoop(Loop):
    """Updates from the current position in a book to its end; all books are measured after every epoch, or as often
    as `eval_every` says."""

    trainer: BookTrainer

    def __init__(self, learner: Learner, trainer: BookTrainer, book: Book, say: Callable[[Event], None]) -> None:
        self.per_epoch = max(1, trainer.train.steps // book.epochs)
        measure_every = learner.config.eval_every or self.per_epoch
        super().__init__(trainer, trainer.train.log_every, measure_every, trainer.train.checkpoint_every)
        self.learner, self.book, self.say = learner, book, say
        self.answer: str | None = None
        """The request to end, if any: "pause" or "stop"."""

    def moved(self) -> None:
        self.book.step = self.trainer.step_number
        self.learner.step_number += 1
        self.say({"event": "update", **self._place()})

    def log(self) -> None:
        found, learner = self.trainer.metrics(), self.learner
        self.count_time()
        names = ("bits", "replayed_bits", "steps_per_second", "lr", "grad_norm")
        metrics = {
            "step": learner.step_number, "book": self.book.name, "book_step": self.book.step,
            **{name: found[name] for name in names}, "seconds": learner.seconds,
        }  # fmt: skip
        learner.run.log(metrics)
        self.say({**self._place(), **metrics, "event": "step"})

    def measure(self) -> bool:
        """Measure every book, unless this step was measured. Never ends the loop."""
        if not self.learner.is_measured(self.book):
            with self.pace.part("measuring"):
                self.learner.measure(self.book, self.say, self.tick)
        return False

    def save(self) -> None:
        self.count_time()
        with self.pace.part("saving"):
            self.learner.save(self.trainer.updates)

    def asked(self) -> bool:
        self.answer = self.learner.asked()
        return self.answer is not None

    def tick(self, share: float = 0.0) -> None:
        """Called often during long work that can be repeated; raises Abandoned after a request to end."""
        if self.asked():
            raise Abandoned

    def count_time(self) -> None:
        """Add the time since the last call to the learner's seconds."""
        self.learner.seconds += self.pace.spent()

    def _place(self) -> Event:
        book = self.book
        return {
            "epoch": min(book.epochs, 1 + (book.step - 1) // self.per_epoch), "epochs": book.epochs,
            "book": book.name, "book_step": book.step, "steps": self.trainer.train.steps, "left": self.left(),
        }  # fmt: skip
