"""The moving picture of `hrm solve --gif`."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrm.cli.main import main
from hrm.files.reading import UserError
from hrm.puzzles.pictures.gif import MARGIN, PAUSES, _steps, gif
from tests.puzzles.pictures.observed import Solving, long, solved, unsolved, untrained
from tests.puzzles.solving.small import questions, run_folder

CELL = 72
"""Pixels of a cell of a small grid."""


def opened(item: Solving) -> Image.Image:
    return Image.open(io.BytesIO(gif(*item)))


def frames(item: Solving) -> list[np.ndarray]:
    """[height, width, 3] of each frame."""
    image, found = opened(item), []
    for number in range(image.n_frames):  # type: ignore[attr-defined]
        image.seek(number)
        found.append(np.array(image.convert("RGB")).astype(int))
    return found


def cell_of(frame: np.ndarray, cell: int) -> np.ndarray:
    """[pixels, pixels, 3] the inside of a cell of a 4x4, without its borders."""
    y, x = MARGIN + cell // 4 * CELL, (frame.shape[1] - 4 * CELL) // 2 + cell % 4 * CELL
    return frame[y + 5 : y + CELL - 5, x + 5 : x + CELL - 5]


def test_it_shows_the_question_every_segment_and_the_end_for_longest():
    item = solved()
    image = opened(item)
    assert image.n_frames == len(item.segments) + 1  # type: ignore[attr-defined]
    assert image.info["loop"] == 0
    pauses = []
    for number in range(image.n_frames):  # type: ignore[attr-defined]
        image.seek(number)
        pauses.append(image.info["duration"])
    assert pauses == [PAUSES[0], *[PAUSES[1]] * (len(item.segments) - 1), PAUSES[2]]


def test_of_hundreds_of_segments_some_are_shown_and_the_picture_stays_below_a_megabyte():
    item = long(12)
    image = opened(item)
    assert len(image.fp.getbuffer()) < 1e6  # type: ignore[union-attr]
    assert 8 < image.n_frames < len(item.segments)  # type: ignore[attr-defined]
    for segments in (item.segments, item.segments[:16], item.segments[:1]):
        steps = _steps(segments, len(segments), 20)
        assert steps[:2] == [0, 1] and steps[-1] == len(segments) and steps == sorted(set(steps))
    assert {177, 192} <= set(_steps(item.segments, 192, 20))  # the whole of the last attempt is framed


def test_wrong_cells_are_marked_and_no_others():
    item = unsolved()
    marked = 0
    for segment, frame in zip(item.segments, frames(item)[1:], strict=True):
        # A wrong cell has its mark in the upper right corner.
        red, green, _ = np.array([cell_of(frame, cell)[0, -1] for cell in range(16)]).T
        wrong = item.solver.task.wrong(segment.question, segment.readout)
        assert np.flatnonzero((red > 150) & (green < 90)).tolist() == wrong
        marked += len(wrong)
    assert marked


def test_cells_without_a_digit_are_empty_in_the_question():
    item = solved()
    first = frames(item)[0]
    for cell, token in enumerate(item.segments[0].question):
        assert bool((cell_of(first, cell) < 128).any()) == (token > 1)


def test_it_ends_on_the_answer_of_a_vote_also_when_that_came_earlier():
    item = solved()
    found = frames(item._replace(segments=[item.segments[-1], *item.segments[:-1]]))
    assert len(found) == len(item.segments) + 2
    for cell in range(16):
        assert np.abs(cell_of(found[-1], cell) - cell_of(found[1], cell)).mean() < 2


@pytest.mark.parametrize("kind", ["6x6", "9x9", "16x16", "grid", "numbers"])
def test_every_task_is_drawn_at_a_readable_size(kind: str):
    item = untrained(kind)
    for frame in frames(item):
        assert 320 <= frame.shape[1] <= 560 and frame.shape[0] <= 640
        assert (frame < 128).any()


@pytest.mark.slow
def test_a_maze_of_64_segments_plays_in_half_a_minute_and_stays_small():
    content = gif(*untrained("maze"))
    image = Image.open(io.BytesIO(content))
    assert image.n_frames == 65 and len(content) < 5e6  # type: ignore[attr-defined]
    image.seek(1)
    assert 64 * image.info["duration"] < 30_000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(run_folder(tmp_path_factory.mktemp("runs") / "tiny"))


def test_the_command_writes_it_beside_the_page(run: str, tmp_path: Path):
    page, picture = tmp_path / "out.html", tmp_path / "out.gif"
    assert main(["solve", run, solved().answer.question, "--html", str(page), "--gif", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"GIF89a") and page.exists()


def test_without_pillow_one_sentence_says_what_to_install(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UserError, match=r"pip install '\.\[report\]'"):
        gif(*solved())
    assert main(["solve", "no-run", questions(1)[0], "--gif", str(tmp_path / "out.gif")]) == 2
    error = capsys.readouterr().err
    assert "pip install '.[report]'" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
    page = tmp_path / "out.html"
    assert main(["solve", run, solved().answer.question, "--html", str(page), "--gif", str(tmp_path / "out.gif")]) == 0
    error = capsys.readouterr().err
    assert "only the page is written" in error and f"wrote {page}" in error and list(tmp_path.iterdir()) == [page]
