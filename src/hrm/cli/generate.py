"""`hrm generate RUN "prompt"`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from rich.color import Color
from rich.style import Style
from rich.text import Text

from hrm.cli.options import DEVICE, DRAWS, Device, Draws, OnDevice, Positional, parse
from hrm.console import Console
from hrm.files.output import to_json
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.terminal import clean, replaced
from hrm.text.config import Decoding

if TYPE_CHECKING:
    from hrm.text.load import TextModel
    from hrm.text.writing.generation import Completion, Sampling, Token

SHALLOW, MIDDLE, DEEP = (91, 143, 249), (230, 170, 30), (225, 60, 50)
"""Colours of depth 1, of half the budget and of all of it."""


@dataclass(frozen=True)
class Options:
    """Continue a prompt. Each token gets as many segments as it needs; --trace shows how many."""

    run: Positional[str]
    """Run folder of a text model, or any folder that save_pretrained wrote with a tokenizer in it."""
    prompt: Positional[str]
    """The text to continue, or - for standard input."""
    ask: bool = False
    """The prompt is a question: write it as the model has learned to read questions."""
    decoding: Draws = field(default_factory=lambda: Decoding(temperature=0.8))
    stop: tuple[str, ...] = ()
    """Stop before any of these words."""
    max_segments: int | None = None
    """Segments a token may take; default: the model's own."""
    halting: Literal["fixed", "q", "kl", "change", "readout"] | None = None
    """When a token stops thinking: after all segments, by the Q head, when its prediction or state settles, or by what
    hrm calibrate has fitted."""
    exit_threshold: float | None = None
    """Where that criterion stops; default: the model's own."""
    schedule: tuple[int, ...] = ()
    """Cycles and steps of a segment, as in 2 2; default: the model's own."""
    state: Literal["reset", "carry"] | None = None
    """reset: a new token starts from a fresh state; carry: from the last token's; default: the model's own."""
    trace: bool = False
    """Colour each token by its depth, and mark how sure the Q head is of it."""
    top_k_table: int | None = None
    """Instead: this many of the likeliest next tokens, with their probability after every segment."""
    best_of: int = 1
    """Draw this many texts and print the best."""
    rank: Literal["q", "q-drawn", "likelihood"] = "q"
    """Best by: the Q head's mean confidence, its confidence in the drawn tokens (q-drawn), or mean log-probability."""
    json: bool = False
    """Print one JSON object: the text, and each token with its depth, confidence and entropy."""
    checkpoint: str = "best"
    """best, latest or a step."""
    on: OnDevice = field(default_factory=Device)


def main(args: list[str]) -> int:
    example = 'hrm generate runs/shakespeare "ROMEO:" --max-new-tokens 100'
    options = parse("generate", Options, args, example=example, main=(*DRAWS, *DEVICE), rare=("state", "schedule"))
    prompt = replaced(sys.stdin.read().removesuffix("\n") if options.prompt == "-" else options.prompt)
    options = replace(options, prompt=prompt)
    request = budget_of(options.max_segments, options.halting, options.exit_threshold, options.schedule)
    request |= {} if options.state is None else {"state": options.state}

    from hrm.runs import threads
    from hrm.text.data.chat import chat_prompt
    from hrm.text.data.growing import new_characters
    from hrm.text.load import load_text
    from hrm.text.writing.generation import Sampling, candidates, encode, generate, shown

    sampling = Sampling(**vars(options.decoding), stop=tuple(map(replaced, options.stop)))
    sampling.check()
    loaded = load_text(options.run, options.checkpoint, options.on.device or "auto", options.on.precision)
    model, tokenizer = loaded.model, loaded.tokenizer
    threads.settle_for(model, 1)
    positions = model.config.max_position_embeddings
    memory = min(loaded.length or positions, positions)
    asked = options.ask and prompt
    given = chat_prompt(tokenizer, [{"role": "user", "content": prompt}], loaded.template) if asked else prompt
    length = len(encode(tokenizer, given, positions - 1))
    if unknown := new_characters(tokenizer, [prompt]):
        print(f"read as {tokenizer.unk_token}, because the vocabulary lacks them: {shown(unknown)}", file=sys.stderr)
    if options.top_k_table is not None:
        found = candidates(model, tokenizer, given, options.top_k_table, **request) | {"prompt": prompt}
        print(to_json(found) if options.json else table(found, _console().width))
        return 0
    if length >= memory:
        print(f"the prompt has {length:,} tokens: its last {memory // 2:,} are read", file=sys.stderr)
    if options.best_of != 1:
        return _best(loaded, options, given, sampling, request, memory)
    writer = _Writer(options, prompt, model.budget(**request).limit)
    completion = generate(model, tokenizer, given, sampling, writer, memory=memory, **request)
    writer.end(completion)
    return 0


def budget_of(
    max_segments: int | None, halting: str | None, exit_threshold: float | None, schedule: tuple[int, ...]
) -> Json:
    """What flags say of the budget, as a request; UserError for a schedule that is none."""
    if schedule and len(schedule) != 2:
        raise UserError(f"--schedule {' '.join(map(str, schedule))} needs two numbers, cycles and steps, as in 2 2")
    request = {"max_segments": max_segments, "halting": halting, "exit_threshold": exit_threshold}
    request["schedule"] = schedule or None
    return {name: value for name, value in request.items() if value is not None}


class _Writer:
    """Prints tokens as they come: plain, coloured, or in the end as JSON."""

    def __init__(self, options: Options, prompt: str, deepest: int) -> None:
        self.options, self.prompt, self.deepest = options, prompt, deepest
        self.console = _console()
        self.quiet = options.json
        if not self.quiet and self.console.is_terminal:
            if options.trace:
                self.console.print(legend(deepest))
            self.console.print(Text(clean(prompt), "dim"), end="", soft_wrap=True)
        elif options.trace and not self.quiet:
            print(f"{'depth':>5}{'confidence':>12}{'entropy':>9}  token")

    def __call__(self, token: Token) -> None:
        if self.quiet:
            return
        if self.console.is_terminal:
            style = style_of(token.depth, token.confidence, self.deepest) if self.options.trace else ""
            self.console.print(Text(clean(token.text), style), end="", soft_wrap=True)
        elif self.options.trace:
            print(f"{token.depth:>5}{token.confidence:>12.1%}{token.entropy:>9.2f}  {token.text!r}")
        else:
            print(token.text, end="", flush=True)

    def end(self, completion: Completion) -> None:
        """The end of the line, and what it took."""
        if self.quiet:
            print(to_json({"prompt": self.prompt, **completion.to_dict()}))
            return
        if not (self.options.trace and not self.console.is_terminal):
            print(flush=True)
        if self.console.is_terminal:
            print(completion.summary, file=sys.stderr)


def _best(
    loaded: TextModel, options: Options, given: str | list[int], sampling: Sampling, request: Json, memory: int
) -> int:
    from hrm.text.measuring.best_of import RANKS, best_of

    how = (options.best_of, options.rank, sampling, memory)
    found, prompt = best_of(loaded.model, loaded.tokenizer, given, *how, **request), options.prompt
    if options.json:
        scored = [{"confidence": c.confidence, "log_likelihood": c.log_likelihood, "text": c.text} for c in found]
        best = found[0].to_dict()
        print(to_json({"prompt": prompt, **best, "best_of": options.best_of, "rank": options.rank, "texts": scored}))
        return 0
    writer = _Writer(options, prompt, loaded.model.budget(**request).limit)
    for token in found[0].tokens:
        writer(token)
    writer.end(found[0])
    scores = ", ".join(f"{RANKS[options.rank](completion):.3f}" for completion in found)
    what = "mean log-probability, nats a token" if options.rank == "likelihood" else "mean P(halt)"
    print(f"best of {len(found)} by {options.rank} ({what}): {scores}", file=sys.stderr)
    return 0


def table(found: Json, width: int = 80) -> str:
    """Candidates as lines, a column per segment as far as the width allows; a star marks where the model stops."""
    segments = [row["segments"] for row in found["depths"]]
    room = max(3, (width - 24) // 8)
    if len(segments) > room:
        last = segments[-1]
        wanted = [found["depth"], last, 1, *(2**i for i in range(1, 10) if 2**i < last)]
        segments = sorted(dict.fromkeys(wanted[:room]))
    heads = [f"{segment}{'*' if segment == found['depth'] else ' '}" for segment in segments]
    lines = [f"{'segments':<16}" + "".join(f"{head:>8}" for head in heads)]
    for row in found["candidates"]:
        values = "".join(f"{row['per_segment'][segment - 1]:>7.1%} " for segment in segments)
        lines.append(f"{_short(row['token']):<16}{values}")
    for name, key, form in (("entropy, nats", "entropy", ">7.2f"), ("P(halt)", "confidence", ">7.1%")):
        values = "".join(f"{found['depths'][segment - 1][key]:{form}} " for segment in segments)
        lines.append(f"{name:<16}{values}")
    stop = f"* the model stops after {found['depth']}"
    return "\n".join([*(line.rstrip() for line in lines[:-2]), "", *lines[-2:], stop])


def legend(deepest: int) -> Text:
    """What the colours of a trace mean."""
    text = Text("depth in segments: ")
    for depth in range(1, deepest + 1):
        text.append(f"{depth} ", style_of(depth, 0.7, deepest))
    text.append("  Q head's confidence: ")
    for confidence, words in ((0.2, "below 50%"), (0.7, "50 to 90%"), (0.95, "above")):
        text.append(words, style_of(0, confidence, deepest))
        text.append("  ")
    return text


def style_of(depth: int, confidence: float, deepest: int) -> Style:
    """Colour from blue (one segment) to red (all of them); underlined below even odds, bold above 90 %."""
    color = None
    if depth:
        share = (depth - 1) / max(1, deepest - 1)
        low, high, at = (SHALLOW, MIDDLE, 2 * share) if share < 0.5 else (MIDDLE, DEEP, 2 * share - 1)
        color = Color.from_rgb(*(a + (b - a) * at for a, b in zip(low, high, strict=True)))
    return Style(color=color, underline=confidence < 0.5, bold=confidence > 0.9)


def _short(token: str) -> str:
    """A token in quotes, cut where it is long."""
    quoted = repr(token)
    return quoted if len(quoted) <= 14 else quoted[:12] + "..."


def _console() -> Console:
    """Decided by the stream alone: a pipe gets plain text whatever the environment says about colour."""
    return Console(highlight=False, force_terminal=sys.stdout.isatty())
