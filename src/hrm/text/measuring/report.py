"""Measurements of text as a table and as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from hrm.files import output
from hrm.files.records import Json
from hrm.text.measuring.losses import Means, Measured
from hrm.text.measuring.published import lines, of_task

OTHER_ROWS = "other rows"
"""Where a task's examples come from that are of the same part of its data as the asked row."""

COLUMNS = (
    ("loss", "loss", "{:.4f}"),
    ("perplexity", "ppl", "{:.2f}"),
    ("bits_per_byte", "bits/byte", "{:.4f}"),
    ("bits_per_character", "bits/char", "{:.4f}"),
    ("token_accuracy", "accuracy", "{:.2%}"),
    ("ece", "ECE", "{:.3f}"),
    ("ece_q", "Q's ECE", "{:.3f}"),
    ("exact_match", "exact", "{:.1%}"),
    ("exact_match_interval", "95% interval", "{0[0]:.1%}-{0[1]:.1%}"),
)
ANSWERS = ("loss", "token_accuracy", "ece", "ece_q", "exact_match", "exact_match_interval")
"""What is shown of answers, whose length in bytes says little."""


def rows_of(result: Measured) -> Iterator[tuple[str, Means]]:
    """Name and numbers of every fixed depth, every threshold, and the same depths at random."""
    for row in result.fixed:
        yield f"{row.segments} segment{'s' if row.segments > 1 else ''}", row
    for row in result.adaptive:
        yield f"{result.halting} {row.exit_threshold:g}: {row.mean_segments:.2f} on average", row
        if row.random is not None:
            yield "  the same at random", row.random


def table(result: Measured) -> str:
    """The measurement of a text in lines of about 80 characters."""
    answering = "exact_match" in result
    columns = [column for column in COLUMNS if (column[0] in ANSWERS if answering else column[0] in result)]
    lines = _lines("depth", columns, rows_of(result))
    if answering:
        lines.append(f"{result.answers:,} answers; exact: each token of the answer, and its end, is the likeliest")
    lines.append(
        f"{result.n:,} tokens, {result.bytes:,} bytes, {result.characters:,} characters in windows of "
        f"{result.length};\nloss in nats a token; {result.tokens_per_second:,.0f} tokens a second on {result.device}"
    )
    if result.unknown:
        many = "token stands" if result.unknown == 1 else "tokens stand"
        lines.append(f"{result.unknown:,} {many} for characters that the vocabulary lacks: bits are too low")
    return "\n".join(lines)


def tasks_table(tasks: dict[str, Json], length: int) -> str:
    """Scores of tasks in lines of 80 characters, and what has to be known to read them; `length`: tokens that the model
    reads."""
    form = "{:<26}{:>6}{:>7}{:>6}{:>9}{:>7}{:>6}{:>5}{:>8}"
    table = [form.format("task", "shots", "score", "+-", "acc_norm", "guess", "depth", "cut", "n")]
    notes = ["score: acc unless said; +-: its standard error"]
    for name, task in tasks.items():
        for shots, row in task["shots"].items():
            score = _score(row)
            keys = (score, f"{score}_stderr", "acc_norm", "guessing")
            shares = ["" if key not in row else _shown(row[key]) for key in keys]
            depth = f"{row['mean_segments']:.2f}" if "mean_segments" in row else ""
            cut = f"{row['cut']:.0%}" if "cut" in row else ""
            table.append(form.format(name, shots, *shares, depth, cut, f"{row['n']:,}"))
            if score != "acc":
                notes.append(f"score of {name}: {score}")
            if "perplexity" in row and score != "perplexity":
                notes.append(f"perplexity of {name} with {shots} shots: {_large(row['perplexity'], '.2f')}")
    if any(row.get("cut") for task in tasks.values() for row in task["shots"].values()):
        notes.append(f"cut: questions longer than the model's {length} tokens, which lose their beginning")
    shot = (name for name, task in tasks.items() if any(map(int, task["shots"])))
    if own := [name for name in shot if tasks[name].get("shots_from") == OTHER_ROWS]:
        notes.append(f"shots of {', '.join(own)}: other rows of the same data")
    return "\n".join([*table, *dict.fromkeys(notes), *lines([each for name in tasks for each in of_task(name)])])


def _score(row: Json) -> str:
    """The number that a task is told apart by: accuracy, or the first one that lm-eval gives it."""
    given = [key for key in row if key not in ("n", "guessing", "mean_segments", "cut", "seconds", "groups")]
    return next((key for key in ("acc", "exact_match") if key in row), (given or ["n"])[0])


def _shown(value: float) -> str:
    return f"{value:.1%}" if 0 <= value <= 1 else _large(value, ".4g")


def _large(value: float, form: str) -> str:
    """A number without decimals above 1,000."""
    return f"{value:,.0f}" if 1000 < value < 1e9 else format(value, form)


def ranks_table(result: Json) -> str:
    """What `compare_ranks` found, in lines of 80 characters with their meaning."""
    count, n = result["best_of"], result["n"]
    rows = [
        ("q", "the text of the highest mean P(halt)"),
        ("q-drawn", "so, but 1 - P(halt) where not the likeliest was drawn"),
        ("likelihood", "the text of the highest mean log-probability"),
        ("one", f"one of the {count:,} at random"),
        ("any", f"any of the {count:,}: no choice can do better"),
    ]
    lines = [f"{n:,} questions, {count:,} texts drawn for each; answered exactly by"]
    lines += [f"{name:<10}{result[name]:>7.1%}  {what}" for name, what in rows]
    for name, (own, other) in result["against_likelihood"].items():
        lines.append(f"{name} alone picks a right text in {own:,}, likelihood alone in {other:,}")
    return "\n".join(lines)


def states_table(result: Json) -> str:
    """The measurement of a text read with fresh and with carried states."""
    kept = [column for column in COLUMNS if column[0] in result and not column[0].startswith("ece")]
    lines = _lines("state", kept, result["states"].items())
    return "\n".join([*lines, f"{result['n']:,} tokens, one text a row of {result['length']}"])


def _lines(first: str, columns: Iterable[tuple[str, str, str]], rows: Iterable[tuple[str, Means]]) -> list[str]:
    """A table whose columns are as wide as what is in them."""
    rows, cells = list(rows), list[list[str]]()
    for key, head, form in columns:
        column = [head, *(form.format(row[key]) for _, row in rows)]
        width = max(map(len, column)) + 1
        cells.append([f"{cell:>{width}}" for cell in column])
    names = [first, *(name for name, _ in rows)]
    width = max(map(len, names))
    return [f"{name:<{width}}" + "".join(row) for name, row in zip(names, zip(*cells, strict=True), strict=True)]


_CURVES = {
    "q": "Q head halts",
    "kl": "the prediction settles",
    "change": "the state settles",
    "readout": "the readout says it is settled",
}


def draw(result: Measured, path: Path) -> None:
    """Loss against mean depth: fixed, adaptive at each threshold, and the same depths dealt out at random."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes, fixed = figure.add_subplot(), result.fixed
    axes.plot([row.segments for row in fixed], [row.loss for row in fixed], "o-", ms=4, label="fixed depth")
    if adaptive := sorted(result.adaptive, key=lambda row: row.mean_segments):
        depths = [row.mean_segments for row in adaptive]
        name = _CURVES[result.halting]
        axes.plot(depths, [row.loss for row in adaptive], "s-", ms=4, label=name)
        dealt = [row.random.loss for row in adaptive if row.random]
        axes.plot(depths, dealt, "x--", ms=5, label="same depths at random")
        for row in adaptive:
            at = row.mean_segments, row.loss
            axes.annotate(f"{row.exit_threshold:g}", at, xytext=(4, -10), textcoords="offset points", fontsize=8)
    axes.set(xlabel="mean segments a token", ylabel="loss, nats a token", title=f"{result.n:,} tokens")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    output.write_figure(path, figure, 150)
