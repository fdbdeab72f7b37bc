"""Questions and answers of Reasoning Gym's text data sets, and what to keep apart so that fresh ones are fresh."""

from __future__ import annotations

import ast
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hrm.files.reading import UserError, nearest, needs
from hrm.text.data.chat import Messages

Options = Mapping[str, object] | Sequence[str]


class MadeQuestions(NamedTuple):
    """Different questions with their answers, and how many were made and left out because they are kept apart."""

    items: list[Messages]
    left_out: int


def gym_text(
    name: str, options: Options, count: int, seed: int | Sequence[int], avoid: Container[str] = ()
) -> MadeQuestions:
    """`count` different questions of a text data set of Reasoning Gym with their answers; none is among `avoid`.
    Options by name or as NAME=VALUE. The same seed makes the same questions. UserError if there are not that many."""
    data = _data_set(name, options)
    rng = np.random.default_rng(seed)
    found: dict[str, str] = {}
    left_out: set[str] = set()
    for _ in range(20 * count + 1000):
        if len(found) == count:
            break
        entry = data[int(rng.integers(2**62))]
        if entry["question"] in avoid:
            left_out.add(entry["question"])
        else:
            found.setdefault(entry["question"], str(entry["answer"]))
    else:
        raise UserError(
            f"Reasoning Gym's {name} gives only {len(found)} different questions"
            f"{f' beside {len(left_out)} that are kept apart' if left_out else ''}, not {count}: ask for fewer, or "
            "make the task larger with its options"
        )
    items = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in found.items()
    ]
    return MadeQuestions(items, len(left_out))


def gym_sets(name: str, options: Options, train: int, fresh: int, seed: int) -> tuple[list[Messages], MadeQuestions]:
    """Questions for training, and `fresh` others that are not among them."""
    training = gym_text(name, options, train, 2 * seed).items
    return training, gym_text(name, options, fresh, 2 * seed + 1, {messages[0]["content"] for messages in training})


def _data_set(name: str, options: Options) -> Any:
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise UserError(needs(f"--data {name}", "Reasoning Gym", "gym", error)) from error
    if name not in DATASETS:
        raise UserError(f"Reasoning Gym has no data set '{name}'{nearest(name, DATASETS)}")
    if not isinstance(options, Mapping):
        options = dict(_option(pair) for pair in options)
    try:
        return reasoning_gym.create_dataset(name, seed=0, **options)
    except (AssertionError, ValueError, TypeError) as error:
        raise UserError(f"Reasoning Gym refuses the options of {name}: {' '.join(str(error).split())}") from error


def _option(pair: str) -> tuple[str, object]:
    name, equals, value = pair.partition("=")
    if not equals:
        raise UserError(f"'{pair}' is not NAME=VALUE: write for example min_terms=2")
    try:
        return name.strip().replace("-", "_"), ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name.strip().replace("-", "_"), value
