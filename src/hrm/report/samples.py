"""Samples of what a run does: puzzles to step through, and text coloured by how long each token was thought about."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch

from hrm.puzzles.config import Config
from hrm.puzzles.pictures.page import page, verdict
from hrm.puzzles.solving import load
from hrm.puzzles.solving.engine import Segment
from hrm.puzzles.training.session import puzzles_of
from hrm.runs import Run
from hrm.settings import kind_of
from hrm.text.data import open_text
from hrm.text.load import load_text
from hrm.text.writing.generation import Sampling, complete

TRIED, EACH = 40, 2
"""Held-out puzzles that are tried, and how many solved and unsolved ones are shown."""
PROMPT, WRITTEN, TEXTS = 48, 160, 3
"""Tokens of a prompt, tokens that are written after it, and how many texts."""
Tell = Callable[[float], object]


def samples(path: Path, device: str | None = None, tell: Tell = lambda share: None) -> list[tuple[str, str]]:
    """Title and HTML of each sample; none where a run holds nothing to try, UserError where that cannot be read."""
    return _puzzles(path, device, tell) if kind_of(path) is Config else _texts(path, device, tell)


def _puzzles(path: Path, device: str | None, tell: Tell) -> list[tuple[str, str]]:
    run = Run.open(path, Config)
    if run.config.data is None and not run.data.is_dir():
        return []
    solver = load(path, device=device)
    held_out = None if solver.task.embedded else puzzles_of(run, solver.task)[1]
    if held_out is None:
        return []
    found: dict[str, list[tuple[str, str]]] = {"solved": [], "answered": [], "unsolved": []}
    for number, question in enumerate(held_out.inputs[:TRIED], 1):
        segments: list[Segment] = []
        text = solver.task.format(question)
        answer = solver.solve(text, observe=segments.append, restarts=0, views=1, guesses=0)
        tell(number / min(TRIED, len(held_out.inputs)))
        if segments and len(found.get(answer.status, [0] * EACH)) < EACH:
            title = f"Held-out puzzle {number}: {verdict(answer)[0].lower()}{verdict(answer)[1:]}"
            inside = html.escape(page(solver, answer, segments))
            frame = f'<iframe class="puzzle" title="{html.escape(title)}" srcdoc="{inside}"></iframe>'
            found[answer.status].append((title, frame))
        if all(len(found[status]) == EACH for status in ("solved", "unsolved")):
            break
    return [sample for each in found.values() for sample in each]


def _texts(path: Path, device: str | None, tell: Tell) -> list[tuple[str, str]]:
    loaded = load_text(path, device=device)
    if not loaded.held_out:
        return []
    packed = open_text(loaded.held_out[-1], loaded.tokenizer, "validation")
    length = PROMPT + WRITTEN
    apart = max(1, packed.count // length // (TEXTS + 1))
    found: list[tuple[str, str]] = []
    most = loaded.model.config.max_position_embeddings
    for batch in islice(packed.windows(min(length, most - 1, max(2, packed.count - 1)), None, 1, apart), TEXTS):
        ids = batch.input_ids[0, : min(PROMPT, batch.input_ids.shape[1] // 2 + 1)].tolist()
        with torch.inference_mode():
            sampling = Sampling(max_new_tokens=min(WRITTEN, most - len(ids)), temperature=0.8, seed=len(found))
            written = complete(loaded.model, loaded.tokenizer, [ids], sampling)[0]
        budget = loaded.model.budget()
        deepest = budget.max_segments if budget.adaptive else 1
        prompt = html.escape(str(loaded.tokenizer.decode(ids)))
        spans = "".join(
            f'<span class="d{_shade(token.depth, deepest)}" title="depth {token.depth}, '
            f'probability {min(1.0, math.exp(token.log_probability)):.0%}">{html.escape(token.text)}</span>'
            for token in written.tokens
        )
        mean = sum(token.depth for token in written.tokens) / max(1, len(written.tokens))
        of = f" of {deepest}" if budget.adaptive else ""
        title = f"After a held-out passage, temperature 0.8: {mean:.2f}{of} segments a token"
        legend = "".join(f'<span class="d{_shade(d, deepest)}"> {d} </span> ' for d in range(1, min(deepest, 8) + 1))
        told = f"Segments: {legend}" if budget.adaptive else f"Every token takes {budget.max_segments}."
        body = f'<p class="text"><span class="soft">{prompt}</span>{spans}</p><p class="soft">{told}</p>'
        found.append((title, body))
        tell(len(found) / TEXTS)
    return found


def _shade(depth: int, deepest: int) -> int:
    """0 (shallow) to 4 (as deep as possible)."""
    return 0 if deepest <= 1 else round(4 * (depth - 1) / (deepest - 1))
