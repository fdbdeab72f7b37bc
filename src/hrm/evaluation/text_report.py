"""Measurements of text as a table and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLUMNS = (
    ("loss", "loss, nats", "{:.4f}"),
    ("perplexity", "perplexity", "{:.2f}"),
    ("bits_per_byte", "bits/byte", "{:.4f}"),
    ("bits_per_character", "bits/char", "{:.4f}"),
    ("token_accuracy", "accuracy", "{:.2%}"),
    ("ece", "ECE", "{:.3f}"),
    ("ece_q", "ECE of Q", "{:.3f}"),
)


def rows_of(result: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Name and numbers of every fixed depth, every threshold, and the same depths at random."""
    named = [(f"{row['segments']} segment{'s' if row['segments'] > 1 else ''}", row) for row in result["fixed"]]
    for row in result["adaptive"]:
        named.append((f"{result['halting']} {row['exit_threshold']:g}: {row['mean_segments']:.2f} on average", row))
        if "random" in row:
            named.append(("  the same at random", row["random"]))
    return named


def table(result: dict[str, Any]) -> str:
    """The measurement of a text in lines of 80 to 110 characters."""
    lines = [f"{'depth':<28}" + "".join(f"{head:>11}" for _, head, _ in COLUMNS)]
    for name, row in rows_of(result):
        lines.append(f"{name:<28}" + "".join(f"{form.format(row[key]):>11}" for key, _, form in COLUMNS))
    lines.append(
        f"{result['n']:,} tokens, {result['bytes']:,} bytes, {result['characters']:,} characters in windows of "
        f"{result['length']}; {result['tokens_per_second']:,.0f} tokens a second on {result['device']}"
    )
    if result["unknown"]:
        lines.append(f"{result['unknown']:,} tokens stand for characters that the vocabulary lacks: bits are too low")
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Loss against mean depth: fixed, adaptive at each threshold, and the same depths dealt out at random."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    fixed = result["fixed"]
    axes.plot([row["segments"] for row in fixed], [row["loss"] for row in fixed], "o-", ms=4, label="fixed depth")
    adaptive = sorted(result["adaptive"], key=lambda row: row["mean_segments"])
    if adaptive:
        depths = [row["mean_segments"] for row in adaptive]
        name = {"q": "Q head halts", "kl": "the prediction settles", "change": "the state settles"}[result["halting"]]
        axes.plot(depths, [row["loss"] for row in adaptive], "s-", ms=4, label=name)
        axes.plot(depths, [row["random"]["loss"] for row in adaptive], "x--", ms=5, label="same depths at random")
        for row in adaptive:
            at = row["mean_segments"], row["loss"]
            axes.annotate(f"{row['exit_threshold']:g}", at, xytext=(4, -10), textcoords="offset points", fontsize=8)
    axes.set(xlabel="mean segments a token", ylabel="loss, nats a token", title=f"{result['n']:,} tokens")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
