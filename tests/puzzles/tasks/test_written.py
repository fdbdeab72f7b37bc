"""Puzzles read back as themselves from every form in which people write them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrm.puzzles.solving.answer import in_form_of, text_of
from hrm.puzzles.tasks import Puzzle, PuzzleError
from hrm.puzzles.tasks.grid import Grid
from hrm.puzzles.tasks.maze import Maze
from hrm.puzzles.tasks.sudoku import Sudoku
from hrm.puzzles.tasks.written import puzzles, spans
from tests.puzzles.tasks.forms import (
    FORMS,
    Form,
    celled,
    drawn,
    empty_fields,
    hodoku,
    hollow,
    piped,
    plain,
    sadman,
    spaced,
)

SUDOKUS = [Sudoku(2, 2), Sudoku(2, 3), Sudoku(3, 3), Sudoku(4, 4)]
NINE = SUDOKUS[2]
EASY = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
law = settings(deadline=None, derandomize=True, max_examples=60)


@cache
def made(which: int) -> Puzzle:
    return SUDOKUS[which].generate(np.random.default_rng(1))


@st.composite
def sound(draw: st.DrawFn) -> tuple[Sudoku, Puzzle, list[list[str]]]:
    """A Sudoku, one of its puzzles, and the puzzle's rows of cells with one of the signs for blanks."""
    which = draw(st.integers(0, len(SUDOKUS) - 1))
    task, puzzle = SUDOKUS[which], made(which)
    uniforms = np.random.default_rng(draw(st.integers(0, 99))).random((1, task.uniforms))
    question, answer = task.augment(puzzle.question[None], puzzle.answer[None], uniforms)
    cells = list(task.format(question[0]).replace(".", draw(st.sampled_from(".0*_xX-"))))
    return task, Puzzle(question[0], answer[0]), [cells[i : i + task.n] for i in range(0, task.n**2, task.n)]


def fits(form: Form, rows: list[list[str]]) -> bool:
    """Whether a form can show these blanks."""
    return form not in (celled, hollow, empty_fields) or any(cell in ".0" for row in rows for cell in row)


@law
@given(sound(), st.lists(st.sampled_from(FORMS), min_size=1, max_size=4), st.booleans())
def test_a_puzzle_reads_back_as_itself_from_every_form(case, forms: list[Form], windows: bool):
    task, puzzle, rows = case
    forms = sorted((form for form in forms if fits(form, rows)), key=lambda form: form is sadman)  # it has sections
    text = "\n".join(form(rows, task.box_rows, task.box_cols) for form in forms)
    found = list(puzzles(text.replace("\n", "\r\n" if windows else "\n").split("\n"), task))
    assert len(found) == len(forms)
    for one in found:
        assert np.array_equal(task.parse(one.question), puzzle.question)
    starts = np.cumsum([0, *(form(rows, task.box_rows, task.box_cols).count("\n") + 1 for form in forms)])
    assert all(start < one.line <= end for one, start, end in zip(found, starts[:-1], starts[1:], strict=True))


@law
@given(sound(), st.sampled_from(FORMS))
def test_a_text_of_one_puzzle_is_parsed_and_answered_in_its_own_form(case, form: Form):
    task, puzzle, rows = case
    if not fits(form, rows):
        return
    text = form(rows, task.box_rows, task.box_cols)
    assert np.array_equal(task.parse(text), puzzle.question)
    answer = in_form_of(text, task, puzzle.answer)
    assert np.array_equal(task.parse(answer), puzzle.answer)
    assert len(answer.splitlines()) == len(text.strip("\n").splitlines())


@law
@given(sound(), st.sampled_from([plain, spaced, piped, drawn, hodoku]))
def test_numbers_of_two_digits_are_read_and_answered(case, form: Form):
    task, puzzle, _ = case
    cells = [" ." if token == 1 else f"{token - 1:2}" for token in puzzle.question.tolist()]
    rows = [cells[i : i + task.n] for i in range(0, task.n**2, task.n)]
    text = (spaced if form is plain else form)(rows, task.box_rows, task.box_cols)
    assert np.array_equal(task.parse(text), puzzle.question)
    (found,) = puzzles(text.split("\n"), task)
    assert np.array_equal(task.parse(found.question), puzzle.question)
    answer = in_form_of(text, task, puzzle.answer)
    assert np.array_equal(task.parse(answer), puzzle.answer) and ("16" in answer) == (task.n == 16)


@law
@given(sound(), st.sampled_from(FORMS), st.data())
def test_a_cell_that_is_lost_is_named_and_the_other_puzzles_are_read(case, form: Form, data):
    task, puzzle, rows = case
    if not fits(form, rows) or form in (celled, hollow, empty_fields):
        return
    row = data.draw(st.integers(1, task.n - 1))
    whole = form(rows, task.box_rows, task.box_cols)
    broken = form([*rows[:row], [*rows[row][:-1], "%"], *rows[row + 1 :]], task.box_rows, task.box_cols)
    good = []
    for one in puzzles(f"{broken}\n{whole}".split("\n"), task):
        try:
            good.append(task.parse(one.question))
        except PuzzleError:
            continue
    assert len(good) == 1 and np.array_equal(good[0], puzzle.question)


@law
@given(
    st.integers(0, 20), st.sampled_from(["\n", "\n\n", "\nMaze 2\n", "\n; a remark\n\n"]), st.booleans(), st.booleans()
)
def test_drawn_mazes_read_back_as_themselves(seed: int, between: str, cut: bool, one: bool):
    task = Maze(6, 7, min_path=3)
    made = [task.generate(np.random.default_rng(seed + i)).question for i in range(3)]
    texts = []
    for tokens in made:
        rows = ["".join(task.vocabulary[t] for t in row) for row in tokens.reshape(6, 7).tolist()]
        if cut:
            rows = [row.rstrip() for row in rows]
        if not rows[0] or not rows[-1] or (between == "\n" and "" in rows):
            return  # nobody can tell how many empty lines belong to it
        texts.append(task.format(tokens) if one else "\n".join(rows))
    found = list(puzzles((between if not one else "\n").join(texts).split("\n"), task))
    assert len(found) == 3 and all(np.array_equal(task.parse(f.question), t) for f, t in zip(found, made, strict=True))


def test_grids_of_any_tokens_are_read_row_by_row():
    task = Grid(3, 4, vocabulary=30)
    tokens = np.arange(12, dtype=np.uint8) * 2
    rows = [" ".join(map(str, row)) for row in tokens.reshape(3, 4).tolist()]
    text = "\n".join(["First one", *rows, "", *rows, "# a remark", " ".join(rows)])
    found = list(puzzles(text.split("\n"), task))
    assert [one.line for one in found] == [2, 6, 10]
    assert all(np.array_equal(task.parse(one.question), tokens) for one in found)


SAMPLES = {
    "Simple Sudoku's candidates": (
        """*--------------------------------------------------------------------*
| 1567   3      1567   | 4      12579  179    | 689    5678   579    |
| 9      45     2      | 8      57     6      | 3      457    1      |
| 1567   1458   14567  | 1357   13579  1379   | 4689   2      4579   |
|----------------------+----------------------+----------------------|
| 8      12459  1459   | 13     6      139    | 7      145    2345   |
| 17     6      147    | 2      1378   5      | 14     9      34     |
| 1257   1259   3      | 17     4      179    | 126    156    8      |
|----------------------+----------------------+----------------------|
| 12356  7      1569   | 1356   135    134    | 12489  148    249    |
| 4      1      8      | 9      137    2      | 5      17     6      |
| 1256   1259   1569   | 1567   157    8      | 1249   3      2479   |
*--------------------------------------------------------------------*
                           Simple Sudoku
                            Version 4.2n
""",
        [".3.4.....9.28.63.1.......2.8...6.7...6.2.5.9...3.4...8.7.......4189.25.6.....8.3."],
    ),
    "a list by Peter Norvig": (
        """003020600
900305001
001806400
008102900
700000008
006708200
002609500
800203009
005010300
========
200080300
060070084
030500209
000105408
000000000
402706000
301007040
720040060
004010003
""",
        [
            "003020600900305001001806400008102900700000008006708200002609500800203009005010300",
            "200080300060070084030500209000105408000000000402706000301007040720040060004010003",
        ],
    ),
    "a list with ratings": (
        """# the hardest, with what solvers say of them
98.7.....6.....87...7.....54..3.2......65..9......4..1.3..2..4...9..1..6....3.2..;11.30;1.20;1.20;GP;12_12_03
98.7.....7.6...8...54......6..8..3......9..2......4..1.3..6..7...5..9..8....1.5..;11.10;2.60;2.60;tarek
""",
        [
            "98.7.....6.....87...7.....54..3.2......65..9......4..1.3..2..4...9..1..6....3.2..",
            "98.7.....7.6...8...54......6..8..3......9..2......4..1.3..6..7...5..9..8....1.5..",
        ],
    ),
    "lines of JSON": (f'{{"id": 5, "puzzle": "{EASY}", "level": "easy"}}\n', [EASY]),
    "a Windows editor's titles": (f"Puzzle Nr. 1 (leicht, f\u00fcr Anf\u00e4nger)\n\n{EASY}\n", None),
    "a list by number": ("1\n" + "\n".join(EASY[i : i + 9] for i in range(0, 81, 9)) + "\n2\n", [EASY]),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_from_life_are_read(name: str):
    text, wanted = SAMPLES[name]
    found = list(puzzles(text.split("\n"), NINE))
    if wanted is None:  # a title above a puzzle on one line cannot be told from a broken line: it is named
        assert [one.question for one in found][1:] == [EASY] and found[0].line == 1
    else:
        parsed = [NINE.format(NINE.parse(one.question)) for one in found]
        assert parsed == [question.replace("0", ".") for question in wanted]


def test_an_answer_behind_its_question_is_found():
    solved = NINE.format(NINE.solution(NINE.parse(EASY)))
    for line in (f"{EASY},{solved}", f'{{"q": "{EASY}", "a": "{solved}"}}', f"1 {EASY} {solved} 5.0"):
        (found,) = puzzles([line], NINE)
        assert (found.question, found.answer) == (EASY, solved)


def test_rules_of_the_signs_of_blanks_are_told_from_rows():
    rows = [EASY[i : i + 9].replace(".", "-") for i in range(0, 81, 9)]
    rows[1] = "---------"
    for text in (rows, ["---------", *rows], [*rows, "---------"]):
        first = next(puzzles(text, NINE))
        assert first.question.splitlines()[1] == "---------" or text[0] == "---------"
    dotted = [row.replace("-", ".") for row in rows]
    ruled = ["---------", *dotted[:3], "---------", *dotted[3:6], "---------", *dotted[6:], "---------"]
    (found,) = puzzles(ruled, NINE)
    assert found.question.splitlines() == dotted


def test_the_task_decides_what_a_line_is():
    line = "1...............\n"
    assert [one.question for one in puzzles([line] * 16, SUDOKUS[0])] == [line.strip()] * 16
    (found,) = puzzles([line] * 16, SUDOKUS[3])
    assert found.question == (line * 16).strip()


def test_puzzles_are_given_as_soon_as_they_have_been_read():
    def lines():
        yield EASY
        yield from (EASY[i : i + 9] for i in range(0, 81, 9))
        raise AssertionError("read too far")

    found = puzzles(lines(), NINE)
    assert next(found).line == 1 and next(found).line == 2


def test_what_is_wrong_with_a_row_is_said():
    rows = [EASY[i : i + 9] for i in range(0, 81, 9)]
    with pytest.raises(PuzzleError, match=r"row 5 has 8 cells instead of 9: '4\.\.8\.3\.\.'"):
        NINE.parse("\n".join([*rows[:4], rows[4][:-1], *rows[5:]]))
    assert spans("hello\nworld", NINE) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda rows: np.array(rows),
        lambda rows: np.array(rows, float),
        lambda rows: np.array(rows).ravel(),
        lambda rows: rows,
        lambda rows: [tuple(row) for row in rows],
        lambda rows: [cell for row in rows for cell in row],
        lambda rows: [[cell or None for cell in row] for row in rows],
        lambda rows: [[cell or float("nan") for cell in row] for row in rows],
        lambda rows: [[str(cell) if cell else "" for cell in row] for row in rows],
        lambda rows: ["".join(map(str, row)) for row in rows],
        lambda rows: "".join(str(cell) for row in rows for cell in row).encode(),
        lambda rows: list(np.array(rows)),
    ],
)
@pytest.mark.parametrize("which", range(len(SUDOKUS) - 1))
def test_lists_and_arrays_of_any_kind_are_questions(make, which: int):
    task, puzzle = SUDOKUS[which], made(which)
    rows = (puzzle.question.astype(int) - 1).reshape(task.shape).tolist()
    assert np.array_equal(task.parse(text_of(make(rows), task)), puzzle.question)


def test_lists_of_large_sudokus_mazes_and_grids_are_questions():
    large, maze, grid = SUDOKUS[3], Maze(2, 3, 1), Grid(2, 2, vocabulary=40)
    rows = (made(3).question.astype(int) - 1).reshape(16, 16)
    assert np.array_equal(large.parse(text_of(rows, large)), made(3).question)
    assert np.array_equal(large.parse(text_of(rows.ravel().tolist(), large)), made(3).question)
    for question in (["S #", "  G"], [list("S #"), list("  G")], list("S #  G"), np.array([list("S #"), list("  G")])):
        assert maze.format(maze.parse(text_of(question, maze))) == "S #  G"
    assert grid.parse(text_of([[1, 30], [2, 3]], grid)).tolist() == [1, 30, 2, 3]


@pytest.mark.parametrize("question", [5, None, {"a": 1}, [[1.5] * 9] * 9, [[True] * 9] * 9, [[[1]]], [[1], 2], []])
def test_what_is_no_question_is_refused(question: object):
    with pytest.raises(PuzzleError):
        NINE.parse(text_of(question, NINE))
