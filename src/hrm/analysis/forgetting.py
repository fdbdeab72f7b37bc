"""What a learner forgets: every book's score after every book, and what follows from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def forgetting(books: list[dict[str, Any]]) -> dict[str, Any]:
    """Of a learner's books: `matrix[i][j]`, held-out bits a character on book j after book i; rises and their mean.

    `rise` is relative, from right after a book was learned to the end; `worst` the same to the worst measurement in
    between (the stability gap). Averages leave out the newest book, which had no time to be forgotten.
    """
    done = [book for book in books if book["scores"]]
    matrix = [book["scores"][-1]["bits_per_character"] for book in done]
    rises, worst = [], []
    for j in range(len(done) - 1):
        then = matrix[j][j]
        later = [score["bits_per_character"][j] for book in done[j + 1 :] for score in book["scores"]]
        rises.append(matrix[-1][j] / then - 1)
        worst.append(max(later) / then - 1)
    return {
        "books": [book["name"] for book in done],
        "matrix": matrix,
        "rise": rises,
        "worst": worst,
        "mean_rise": sum(rises) / len(rises) if rises else None,
    }


def draw(found: dict[str, Any], file: Path) -> None:
    """The matrix as a picture: a row after each book, a column of each."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    names, count = found["books"], len(found["books"])
    grid = np.full((count, count), np.nan)
    for i, row in enumerate(found["matrix"]):
        grid[i, : len(row)] = row
    figure, axis = plt.subplots(figsize=(1.4 * count + 2, 0.8 * count + 1.6), constrained_layout=True)
    image = axis.imshow(grid, cmap="viridis_r")
    for i, j in zip(*np.nonzero(~np.isnan(grid)), strict=True):
        axis.text(j, i, f"{grid[i, j]:.2f}", ha="center", va="center", color="white")
    axis.set(xticks=range(count), yticks=range(count), xlabel="held-out bits a character of", ylabel="after learning")
    axis.set_xticklabels(names, rotation=30, ha="right")
    axis.set_yticklabels(names)
    figure.colorbar(image)
    figure.savefig(file, dpi=110)
    plt.close(figure)
