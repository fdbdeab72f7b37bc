"""Questions that a run has not seen: generated with another seed, or counted if they were trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from hrm.files.reading import UserError
from hrm.text.data import Packed, is_packed
from hrm.text.data.chat import chat_prompt
from hrm.text.data.gym import MadeQuestions, gym_text
from hrm.text.measuring.plain import Loaded


class SeenQuestions:
    """The questions of packed folders, as a run's model reads them."""

    def __init__(self, loaded: Loaded, folders: Iterable[Path]) -> None:
        self.tokenizer, config = loaded.tokenizer, loaded.run.config.text if loaded.run else None
        self.template = config.template if config is not None else None
        self.prompts = {
            tuple(tokens)
            for folder in folders
            if is_packed(folder)
            for tokens in prompts_of(Packed.open(folder, self.tokenizer))
        }

    def __contains__(self, question: object) -> bool:
        messages = [{"role": "user", "content": str(question)}]
        return tuple(chat_prompt(self.tokenizer, messages, self.template)) in self.prompts


def fresh_questions(loaded: Loaded, count: int, seed: int = 0) -> MadeQuestions:
    """`count` questions of the Reasoning Gym data set of a run, none of them trained on or held out by it; UserError
    for a run that learned something else."""
    run = loaded.run
    if run is None or run.config.text.kind != "gym" or run.config.data is None:
        raise UserError("--fresh makes questions of the Reasoning Gym data set that a run was trained on: name --data")
    seen = SeenQuestions(loaded, (run.data / "train", run.data / "validation"))
    # The training's own seeds are single numbers.
    return gym_text(run.config.data, run.config.text.options, count, [seed, 1], seen)


def trained_on(loaded: Loaded, prompts: Iterable[str | list[int]]) -> int | None:
    """How many of these prompts the run was trained on; None where that is not known."""
    folder = loaded.run.data / "train" if loaded.run else None
    if folder is None or not is_packed(folder):
        return None
    known = SeenQuestions(loaded, [folder]).prompts
    return sum(tuple(loaded.tokenizer(one)["input_ids"] if isinstance(one, str) else one) in known for one in prompts)


def prompts_of(packed: Packed) -> Iterator[list[int]]:
    """The tokens of each packed document up to its last answer; nothing for running text."""
    if packed.mask is None:
        return
    tokens, mask = np.asarray(packed.tokens), np.asarray(packed.mask)
    for begin, end in zip(packed.documents[:-1].tolist(), packed.documents[1:].tolist(), strict=True):
        given = np.flatnonzero(mask[begin:end] == 0)
        yield tokens[begin : begin + int(given[-1]) + 1].tolist() if len(given) else []
