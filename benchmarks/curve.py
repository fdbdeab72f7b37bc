"""Draw the held-out accuracy of runs over their training time, from their metrics.jsonl files, as an SVG picture.

python benchmarks/curve.py docs/sudoku-9x9.svg benchmarks/results/sudoku-9x9.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 320, 50, 40
COLOURS = ("#1f6feb", "#bf3989", "#1a7f37", "#9a6700")


def points(path: Path) -> list[tuple[float, float]]:
    """Minutes of training and exact accuracy at each measurement."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [(r["seconds"] / 60, r["exact_accuracy"]) for r in records if r.get("event") == "eval"]


def draw(runs: dict[str, list[tuple[float, float]]]) -> str:
    """The picture: one line per run, minutes to the right, accuracy upwards."""
    longest = max(minutes for run in runs.values() for minutes, _ in run)

    def place(minutes: float, accuracy: float) -> tuple[float, float]:
        across, up = (WIDTH - LEFT - 20) * minutes / longest, (HEIGHT - BOTTOM - 20) * accuracy
        return round(LEFT + across, 1), round(HEIGHT - BOTTOM - up, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for percent in range(0, 101, 20):
        (x0, y), (x1, _) = place(0, percent / 100), place(longest, 0)
        parts.append(f'<line x1="{x0}" x2="{x1}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{x0 - 8}" y="{y + 4}" text-anchor="end">{percent} %</text>')
    for tick in range(0, int(longest) + 1, max(1, round(longest / 8))):
        x, y = place(tick, 0)
        parts.append(f'<text x="{x}" y="{y + 18}" text-anchor="middle">{tick}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">minutes of training</text>')
    for colour, (name, run), number in zip(COLOURS, runs.items(), range(len(runs)), strict=False):
        path = " ".join(f"{x},{y}" for x, y in (place(*point) for point in run))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in (place(*point) for point in run)]
        parts.append(
            f'<text x="{LEFT + 12}" y="{34 + 16 * number}" fill="{colour}">{name}: held-out puzzles solved</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    target, *sources = sys.argv[1:]
    Path(target).write_text(draw({Path(source).stem: points(Path(source)) for source in sources}))
