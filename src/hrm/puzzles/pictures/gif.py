"""Solving as a moving picture: the question, then the grid after every segment with its numbers below."""

from __future__ import annotations

import io
from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from hrm.files.reading import UserError, needs
from hrm.puzzles.pictures.candidates import Marks, abreast, marks
from hrm.puzzles.pictures.page import Steps, chosen, verdict
from hrm.puzzles.solving.answer import Answer
from hrm.puzzles.solving.engine import Segment
from hrm.puzzles.solving.solver import Solver

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 480
"""Pixels of the longer side of the grid, about."""
MARGIN, CAPTION = 16, 66
"""Pixels around the grid, and below it for two lines of text and the progress."""
PAUSES = 1500, 700, 4000
"""Milliseconds for which the question, a segment and the end are shown."""
COLOURS = 128
LARGEST = 900_000
"""Bytes, about: of a longer story fewer segments are shown."""
LONGEST = 20_000
"""Milliseconds that all segments together take at most: many go by faster."""

CARD, INK, SOFT, LINE, STRONG, TRACK = "#ffffff", "#1d1c1a", "#625e57", "#d3d0c8", "#3a3833", "#e9e6df"
MODEL, FRESH, WRONG, TINT, GOOD = "#1f4fc4", "#8fabf0", "#b3201a", "#fbd9d5", "#0f6b47"
FILLS = {"": CARD, "wall": "#45433f", "path": "#34b58d", "end": "#0d5c46"}
DOUBT = "#f7c667"
"""The colours of the page in daylight."""


def pillow() -> None:
    """UserError if Pillow is not installed."""
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise UserError(needs("a GIF", "Pillow", "report")) from error


def gif(solver: Solver, answer: Answer, segments: Sequence[Segment], steps: Steps = Steps()) -> bytes:  # noqa: B008
    """An endless animated GIF of one answer and its observed segments (at least one). Segments are skipped to keep it
    under 1 MB."""
    pillow()
    drawing, end = _Drawing(solver, answer, segments, steps), chosen(solver, answer, segments)
    frames = len(segments)
    while True:
        content = _content(drawing, _steps(segments, end, frames))
        if len(content) <= LARGEST or frames <= 8:
            return content
        # A little fewer than would fit if all frames were of one size.
        frames = max(8, min(frames - 1, int(0.9 * frames * LARGEST / len(content))))


def _steps(segments: Sequence[Segment], end: int, frames: int) -> list[int]:
    """The segments, counted from 1, shown after the question: all, or about `frames` at even steps, always with the
    first and the last one of the successful attempt."""
    last = len(segments)
    begins = 1 + next(i for i, segment in enumerate(segments) if segment.attempt == segments[end - 1].attempt)
    kept = range(1, last + 1) if frames >= last else {round(1 + i * (last - 1) / (frames - 1)) for i in range(frames)}
    return [0, *sorted({*kept, begins, end, last}), *([end] if end < last else [])]


def _content(drawing: _Drawing, steps: Sequence[int]) -> bytes:
    """The GIF with these steps, as bytes."""
    from PIL import Image

    pages = [(step, number == len(steps) - 1) for number, step in enumerate(steps)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(_palette([drawing.frame(*page) for page in [*pages[:: 1 + len(pages) // 8], pages[-1]]]))
    first, *others = (drawing.frame(*page).quantize(palette=palette, dither=Image.Dither.NONE) for page in pages)
    each = max(100, min(PAUSES[1], LONGEST // len(steps)))
    pauses = [PAUSES[0], *[each] * (len(steps) - 2), PAUSES[2]]
    content = io.BytesIO()
    first.save(content, "GIF", save_all=True, append_images=others, duration=pauses, loop=0, optimize=True)
    return content.getvalue()


class _Drawing:
    """What all frames share."""

    def __init__(self, solver: Solver, answer: Answer, segments: Sequence[Segment], steps: Steps) -> None:
        from PIL import ImageFont

        self.solver, self.answer, self.segments, self.look = solver, answer, segments, solver.task.look()
        self.steps = steps
        self.rows, self.columns = solver.task.shape
        self.cell = max(10, min(72, SIZE // max(self.rows, self.columns)))
        self.width = max(self.columns * self.cell, 320) + 2 * MARGIN
        self.height = 2 * MARGIN + self.rows * self.cell + CAPTION
        self.left = (self.width - self.columns * self.cell) // 2
        longest = max(map(len, self.look.labels))
        self.glyphs = ImageFont.load_default(self.cell * min(0.62, 0.85 / (0.6 * longest)))
        self.small = ImageFont.load_default(0.8 * self.cell / abreast(solver.task))
        self.words, self.details = ImageFont.load_default(17), ImageFont.load_default(14)

    def frame(self, step: int, last: bool = False) -> Image:
        """Draw the question (step 0) or the grid after a segment, counted from 1; the last frame shows the verdict."""
        from PIL import Image, ImageDraw

        image = Image.new("RGB", (self.width, self.height), CARD)
        self.pen = ImageDraw.Draw(image)
        wrong = set(self.steps.marked(self.solver.task, self.segments, step - 1)) if step else set()
        deduces = step and self.segments[step - 1].deduced is not None
        self.held = marks(self.solver.task, self.segments[step - 1]) if deduces else []
        for cell in range(self.rows * self.columns):
            self._cell(cell, step, cell in wrong)
        self._lines()
        self._caption(step, len(wrong), last)
        return image

    def _cell(self, cell: int, step: int, wrong: bool) -> None:
        asked = int(self.segments[0].question[cell])
        if self.held:
            return self._marks(cell, self.held[cell], asked)
        token = int(self.segments[step - 1].readout[cell]) if step else asked
        fill = FILLS[self.look.fills[token]]
        if wrong:
            fill = _mixed(TINT, WRONG, 0.5) if self.look.fills[token] == "path" else TINT
        elif step:
            # In four shades, so that a frame has few colours.
            doubt = 1 - float(self.segments[step - 1].probabilities[cell, token])
            fill = _mixed(fill, DOUBT, 0.75 * round(3 * doubt) / 3)
        x, y = self._corner(cell)
        box = x, y, x + self.cell - 1, y + self.cell - 1
        self.pen.rectangle(box, fill)
        before = self.segments[step - 2] if step > 1 else None
        if before and before.attempt == self.segments[step - 1].attempt and token != int(before.readout[cell]):
            self.pen.rectangle(box, outline=FRESH, width=max(1, self.cell // 20))
        end = self.look.fills[token] == "end"
        colour = WRONG if wrong else CARD if end else INK if token == asked else MODEL
        middle = x + self.cell / 2, y + self.cell / 2
        bold = self.cell // 40 if token == asked else 0
        self.pen.text(middle, self.look.labels[token], colour, self.glyphs, anchor="mm", stroke_width=bold)
        if wrong:
            size = self.cell * 0.3
            self.pen.polygon([(box[2] - size, y), (box[2], y), (box[2], y + size)], WRONG)

    def _marks(self, cell: int, held: Marks, asked: int) -> None:
        """A symbol that is alone large, else pencil marks, those that die struck through."""
        x, y = self._corner(cell)
        task, labels = self.solver.task, self.look.labels
        fill = _mixed(CARD, DOUBT, 0.6) if held.decided else CARD if held.alive else TINT
        self.pen.rectangle((x, y, x + self.cell - 1, y + self.cell - 1), fill)
        if len(held.alive) == 1 and not held.dying:
            given = held.alive[0] == asked
            middle, colour = (x + self.cell / 2, y + self.cell / 2), INK if given or held.decided else MODEL
            bold = self.cell // 40 if given else 0
            self.pen.text(middle, labels[held.alive[0]], colour, self.glyphs, anchor="mm", stroke_width=bold)
            return
        wide = abreast(task)
        part, half = self.cell / wide, 0.22 * self.cell / wide
        for number, token in enumerate(task.symbols):
            row, column = divmod(number, wide)
            middle = mx, my = x + (column + 0.5) * part, y + (row + 0.5) * self.cell / -(-len(task.symbols) // wide)
            dies = token in held.dying
            if dies or token in held.alive:
                colour = WRONG if dies else MODEL if len(held.alive) == 1 else SOFT
                self.pen.text(middle, labels[token], colour, self.small, anchor="mm")
            if dies:
                self.pen.line((mx - 1.5 * half, my, mx + 1.5 * half, my), WRONG, max(1, self.cell // 40))

    def _corner(self, cell: int) -> tuple[int, int]:
        row, column = divmod(cell, self.columns)
        return self.left + column * self.cell, MARGIN + row * self.cell

    def _lines(self) -> None:
        """Draw the cell borders, then the box and grid borders over them."""
        blocks, size = self.look.blocks, self.cell
        borders: list[tuple[bool, tuple[int, int, int, int]]] = []
        for cell in range(self.rows * self.columns):
            x, y = self._corner(cell)
            if cell % self.columns:
                borders.append((bool(blocks) and blocks[cell] != blocks[cell - 1], (x, y, x, y + size)))
            if cell >= self.columns:
                borders.append((bool(blocks) and blocks[cell] != blocks[cell - self.columns], (x, y, x + size, y)))
        for thick, line in sorted(borders, key=itemgetter(0)):
            self.pen.line(line, STRONG if thick else LINE, 2 if thick else 1)
        right, bottom = self.left + self.columns * size, MARGIN + self.rows * size
        self.pen.rectangle((self.left - 1, MARGIN - 1, right, bottom), outline=STRONG, width=2)

    def _caption(self, step: int, wrong: int, last: bool) -> None:
        """Write the step and the model's confidence, or at the end the verdict, above a progress bar."""
        first, second, colour = "Question", "", INK
        if step:
            segment = self.segments[step - 1]
            again = f"attempt {segment.attempt}, " if self.segments[-1].attempt > 1 else ""
            named = self.steps.names[step - 1] if self.steps.names else f"segment {segment.segment}"
            first = again + named
            first = first[:1].upper() + first[1:]
            second = f"confidence {self.solver.confidence(segment.q):.0%}"
            if (deduced := segment.deduced) is not None:
                second = f"{deduced.killed.sum()} killed, {deduced.depth} of {deduced.decisions} decisions stand"
            elif self.solver.task.marks or self.steps.wrong is not None:
                one, several, _ = self.steps.means
                second += f", {wrong} cell {one}" if wrong == 1 else f", {wrong} cells {several}"
        if last:
            first, colour = verdict(self.answer), {"solved": GOOD, "unsolved": WRONG}.get(self.answer.status, INK)
        y, right = MARGIN + self.rows * self.cell + 12, self.width - MARGIN
        self.pen.text((MARGIN, y), first, colour, self.words)
        self.pen.text((MARGIN, y + 25), second, SOFT, self.details)
        end = right if last else MARGIN + (right - MARGIN) * step // len(self.segments)
        self.pen.rectangle((MARGIN, y + 50, right, y + 55), TRACK)
        if step:
            self.pen.rectangle((MARGIN, y + 50, end, y + 55), MODEL)


def _palette(frames: Sequence[Image]) -> list[int]:
    """The most frequent visibly different colours, as RGB values: one palette for all frames keeps the file small."""
    pixels = np.concatenate([np.asarray(frame).reshape(-1, 3) for frame in frames]).astype(int)
    packed, counts = np.unique(pixels @ (1 << 16, 1 << 8, 1), return_counts=True)
    kept = np.empty((0, 3), int)
    for colour in packed[np.argsort(-counts)]:
        parts = np.array((colour >> 16, colour >> 8 & 255, colour & 255))
        if len(kept) < COLOURS and (np.abs(kept - parts).sum(1) > 16).all():
            kept = np.vstack((kept, parts))
    return kept.ravel().tolist()


def _mixed(one: str, other: str, share: float) -> tuple[int, ...]:
    """The first colour mixed with `share` of the other."""
    pairs = [(int(one[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5)]
    return tuple(round(a + (b - a) * share) for a, b in pairs)
