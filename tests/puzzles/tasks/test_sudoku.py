"""The promises of the Sudoku task, for every box shape."""

import gzip
from functools import cache
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from hrm.files.reading import UserError
from hrm.puzzles.config import TaskConfig
from hrm.puzzles.tasks import Puzzle, PuzzleError, build
from hrm.puzzles.tasks.search import sudoku_search
from hrm.puzzles.tasks.sudoku import Sudoku
from tests.data import hrm_data
from tests.puzzles.tasks import rules

SHAPES = [(2, 2), (2, 3), (3, 2), (3, 3), (4, 4)]
WELL_KNOWN = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
law = settings(deadline=None, derandomize=True, max_examples=30)
tasks = st.sampled_from([Sudoku(*shape) for shape in SHAPES])
seeds = st.integers(0, 9)  # few, so that `made` remembers the puzzles


@cache
def made(box_rows: int, box_cols: int, seed: int) -> Puzzle:
    return Sudoku(box_rows, box_cols).generate(np.random.default_rng(seed))


def turned(task: Sudoku, puzzle: Puzzle, seed: int) -> Puzzle:
    """A random symmetric variant."""
    uniforms = np.random.default_rng(seed).random((1, task.uniforms))
    question, answer = task.augment(puzzle.question[None], puzzle.answer[None], uniforms)
    return Puzzle(question[0], answer[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_task_describes_itself(shape):
    task = build(TaskConfig(box=shape))
    n = shape[0] * shape[1]
    assert task.shape == (n, n) and len(task.vocabulary) == n + 2 and list(task.symbols) == list(range(2, n + 2))
    assert task.groups.shape == (5, n * n)
    cells = [np.flatnonzero(labels == k).tolist() for labels in task.groups[:3] for k in range(n)]
    assert cells == rules.units(*shape)
    # The last two: what a box shares with a row, and with a column.
    row, column, box, in_row, in_column = task.groups
    for shared, line in ((in_row, row), (in_column, column)):
        pairs = np.stack([line, box, shared])
        assert len(np.unique(pairs[:2], axis=1).T) == len(np.unique(pairs, axis=1).T) == len(np.unique(shared))


@pytest.mark.parametrize("box", [(1, 4), (3, 0), (5, 4)])
def test_impossible_boxes_are_refused_naming_the_flag(box):
    with pytest.raises(UserError, match=r"--task\.box"):
        build(TaskConfig(box=box))


@law
@given(tasks, st.data())
def test_parse_reads_what_format_writes(task, data):
    tokens = st.lists(st.integers(1, task.n + 1), min_size=task.n**2, max_size=task.n**2)
    grid = np.array(data.draw(tokens), np.uint8)
    parsed = task.parse(task.format(grid))
    assert parsed.dtype == np.uint8 and np.array_equal(parsed, grid)


def test_parse_accepts_zeros_rows_on_lines_and_small_letters():
    task = Sudoku(3, 3)
    rows = "\n".join(" ".join(WELL_KNOWN[i : i + 9].replace(".", "0")) for i in range(0, 81, 9)) + "\n"
    assert task.format(task.parse(rows)) == WELL_KNOWN
    assert Sudoku(4, 4).format(Sudoku(4, 4).parse("g" + "." * 255)) == "G" + "." * 255


def test_parse_says_what_is_wrong_and_where():
    task = Sudoku(3, 3)
    with pytest.raises(PuzzleError, match="expected 81 characters for 9x9, got 80"):
        task.parse(WELL_KNOWN[1:])
    with pytest.raises(PuzzleError, match="'z' at row 2, column 1"):
        task.parse(WELL_KNOWN[:9] + "z" + WELL_KNOWN[10:])


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_generated_puzzles_have_one_solution_and_no_clue_to_spare(shape):
    task = Sudoku(*shape)
    for seed in range(3):
        puzzle = made(*shape, seed)
        question, answer = task.format(puzzle.question), task.format(puzzle.answer)
        assert rules.sudoku_solutions(question, *shape) == [answer]
        task.check(puzzle.question)
        for cell in np.flatnonzero(puzzle.question > 1):
            fewer = question[:cell] + "." + question[cell + 1 :]
            assert len(rules.sudoku_solutions(fewer, *shape)) == 2


def test_generated_16x16_puzzles_have_one_solution_and_many_blanks():
    puzzle, task = made(4, 4, 0), Sudoku(4, 4)
    task.check(puzzle.question)
    assert rules.sudoku_right(task.format(puzzle.question), task.format(puzzle.answer), 4, 4)
    assert (puzzle.question == 1).sum() > 128


@pytest.mark.slow
@law
@given(tasks, seeds)
def test_generating_depends_on_the_seed_alone(task, seed):
    again = task.generate(np.random.default_rng(seed))
    first = made(task.box_rows, task.box_cols, seed)
    assert np.array_equal(first.question, again.question) and first.rating == again.rating


@law
@given(tasks, seeds, seeds)
def test_augmenting_keeps_the_puzzle_valid_and_its_canonical_form(task, seed, turn):
    puzzle = made(task.box_rows, task.box_cols, seed)
    variant = turned(task, puzzle, turn)
    question, answer = task.format(variant.question), task.format(variant.answer)
    assert rules.sudoku_right(question, answer, task.box_rows, task.box_cols)
    assert (variant.question == 1).sum() == (puzzle.question == 1).sum()
    assert variant.question.dtype == puzzle.question.dtype
    assert task.canonical(variant) == task.canonical(puzzle)


def test_augmenting_treats_each_row_by_its_own_uniforms_and_leaves_ignored_labels():
    task = Sudoku(3, 3)
    puzzles = [made(3, 3, seed) for seed in range(3)]
    uniforms = np.random.default_rng(0).random((3, task.uniforms))
    labels = np.stack([p.answer for p in puzzles]).astype(np.int32)
    labels[:, 40:] = -100
    questions, answers = task.augment(np.stack([p.question for p in puzzles]), labels, uniforms)
    assert ((answers == -100).sum(1) == 41).all() and answers.dtype == np.int32
    for row in range(3):
        alone, _ = task.augment(puzzles[row].question[None], puzzles[row].answer[None], uniforms[row : row + 1])
        assert np.array_equal(alone[0], questions[row])


def test_augmenting_reaches_every_image_of_a_4x4_grid_and_no_other_grid():
    task, puzzle = Sudoku(2, 2), made(2, 2, 0)
    images = set()
    for rows, columns, names in product(_layouts(2, 2), _layouts(2, 2), permutations(range(2, 6))):
        grid = np.array([0, 0, *names], np.uint8)[puzzle.answer.reshape(4, 4)][np.ix_(rows, columns)]
        images |= {grid.tobytes(), grid.T.tobytes()}
    assert {turned(task, puzzle, seed).answer.tobytes() for seed in range(3000)} == images


def _layouts(groups: int, size: int) -> list[list[int]]:
    """All orders of rows (or columns) that keep bands (or stacks) together."""
    inner = list(permutations(range(size)))
    choices = product(permutations(range(groups)), product(inner, repeat=groups))
    return [[group * size + i for group, within in zip(*choice, strict=True) for i in within] for choice in choices]


@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (3, 2)])
def test_the_canonical_form_is_the_smallest_of_all_images(shape):
    task, n = Sudoku(*shape), shape[0] * shape[1]
    for seed in range(2):
        puzzle = made(*shape, seed)
        digits, clues = puzzle.answer.reshape(n, n) - 2, (puzzle.question > 1).reshape(n, n).astype(np.uint8)
        smallest = None
        for rows, columns in product(_layouts(shape[1], shape[0]), _layouts(*shape)):
            layout = np.ix_(rows, columns)
            both = [(digits[layout], clues[layout])]
            if task.square:
                both.append((digits[layout].T, clues[layout].T))
            for grid, mask in both:
                names = np.argsort(grid[0])  # only a first row of 0, 1, 2, ... can be the smallest
                image = names[grid].astype(np.uint8).tobytes() + mask.tobytes()
                smallest = image if smallest is None else min(smallest, image)
        assert task.canonical(puzzle) == smallest


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "classes", "samples"), [((2, 2), 2, 100), ((2, 3), 49, 5000)])
def test_grids_fall_into_the_known_number_of_classes(shape, classes, samples):
    """4x4 has 2 essentially different grids, 6x6 has 49 (Jarvis and Russell's count for 2x3 boxes)."""
    task, rng = Sudoku(*shape), np.random.default_rng(0)
    grids = [np.array(sudoku_search(*shape).fill(rng), np.uint8) + 1 for _ in range(samples)]
    assert len({task.canonical(Puzzle(grid, grid)) for grid in grids}) == classes


def test_the_canonical_form_of_9x9_is_an_image_that_no_other_undercuts():
    task, puzzle = Sudoku(3, 3), made(3, 3, 0)
    form = task.canonical(puzzle)
    grid, given = np.frombuffer(form, np.uint8).reshape(2, 81)
    assert task.canonical(Puzzle(np.where(given, grid + 2, 1), grid + 2)) == form
    for seed in range(500):
        question, answer, _ = turned(task, puzzle, seed)
        names = np.argsort(answer[:9]).astype(np.uint8)
        assert names[answer - 2].tobytes() + (question > 1).tobytes() >= form


def test_different_puzzles_on_one_grid_differ_in_canonical_form():
    for shape in SHAPES:
        task = Sudoku(*shape)
        puzzle = made(*shape, 0)
        more = puzzle.question.copy()
        blanks = np.flatnonzero(more == 1)
        more[blanks[0]] = puzzle.answer[blanks[0]]
        assert task.canonical(Puzzle(more, puzzle.answer)) != task.canonical(puzzle)


@law
@given(tasks, seeds, st.data())
def test_verify_accepts_the_answer_and_rejects_any_single_change(task, seed, data):
    puzzle = made(task.box_rows, task.box_cols, seed)
    assert task.verify(puzzle.question, puzzle.answer)
    cell = data.draw(st.integers(0, task.n**2 - 1))
    changed = puzzle.answer.copy()
    changed[cell] = data.draw(st.integers(0, task.n + 1).filter(lambda token: token != puzzle.answer[cell]))
    assert not task.verify(puzzle.question, changed)


def test_verify_rejects_a_right_grid_that_changes_a_given():
    task, puzzle = Sudoku(3, 3), made(3, 3, 0)
    swapped = (puzzle.answer - 1) % 9 + 2  # every digit renamed: complete, but not an answer to this question
    assert rules.sudoku_right("." * 81, task.format(swapped), 3, 3)
    assert not task.verify(puzzle.question, swapped)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({0: "5", 8: "5"}, "5 twice in a row, at row 1, column 1 and at row 1, column 9"),
        ({1: "7", 73: "7"}, "7 twice in a column, at row 1, column 2 and at row 9, column 2"),
        ({30: "2", 40: "2"}, "2 twice in a box, at row 4, column 4 and at row 5, column 5"),
        ({i: str(i + 1) for i in range(8)} | {17: "9"}, "no solution"),
        ({0: "1"}, "several solutions"),
    ],
)
def test_check_gives_the_reason(cells, reason):
    task = Sudoku(3, 3)
    with pytest.raises(PuzzleError, match=reason):
        task.check(task.parse("".join(cells.get(i, ".") for i in range(81))))


def test_a_complete_but_wrong_grid_is_a_contradiction_and_a_right_one_is_well_posed():
    task, puzzle = Sudoku(3, 3), made(3, 3, 0)
    task.check(puzzle.answer)
    wrong = puzzle.answer.copy()
    wrong[0] = wrong[1]
    with pytest.raises(PuzzleError, match="contradicting clues"):
        task.check(wrong)


def test_a_hard_question_without_solution_is_refused():
    task = Sudoku(3, 3)
    with pytest.raises(PuzzleError, match="no solution"):
        task.check(task.parse(".....5.8....6.1.43..........1.5........1.6...3.......553.....61........4........."))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_drawing_shows_digits_boxes_and_marks_without_colour(shape):
    task, puzzle = Sudoku(*shape), made(*shape, 0)
    blank = int(np.flatnonzero(puzzle.question == 1)[0])
    console = Console(width=100, no_color=True)
    with console.capture() as capture:
        console.print(task.draw(puzzle.question, puzzle.answer, [blank]))
    text = capture.get()
    assert "".join(character for character in text if character in rules.DIGITS) == task.format(puzzle.answer)
    assert task.vocabulary[puzzle.answer[blank]] + "!" in text and text.count("!") == 1
    assert len(text.splitlines()) == task.n + task.box_cols + 1


def test_the_real_answers_verify_and_the_search_finds_them():
    task = Sudoku(3, 3)
    rows = rules.table(hrm_data() / "sudoku/sudoku_extreme_1k_train.csv", 1000)
    for row in rows:
        assert task.verify(task.parse(row["question"]), task.parse(row["answer"]))
    for row in rows[:200]:
        [solution], _ = sudoku_search(3, 3).solve((task.parse(row["question"]) - 1).tolist())
        assert task.format(np.array(solution) + 1) == row["answer"]


def test_real_puzzles_with_several_solutions_are_invalid_for_that_reason():
    task = Sudoku(3, 3)
    path = hrm_data() / "sudoku/serg_multi_solution_2k.txt.gz"
    for line in gzip.decompress(path.read_bytes()).decode().split()[::10]:
        with pytest.raises(PuzzleError, match=r"^several solutions$"):
            task.check(task.parse(line))


@pytest.mark.slow
def test_real_17_clue_puzzles_are_all_different_classes():
    task = Sudoku(3, 3)
    rows = rules.table(hrm_data() / "sudoku/clue17_test.csv.gz", 500)
    puzzles = [Puzzle(task.parse(row["question"]), task.parse(row["answer"])) for row in rows]
    forms = [task.canonical(puzzle) for puzzle in puzzles]
    assert len(set(forms)) == len(forms)
    assert [task.canonical(turned(task, puzzle, seed)) for seed, puzzle in enumerate(puzzles)] == forms


def test_extra_clues_keep_the_solution_unique_and_add_givens():
    minimal, easier = Sudoku(2, 2), Sudoku(2, 2, extra_clues=0.5)
    counts = []
    for task in (minimal, easier):
        puzzles = [task.generate(np.random.default_rng(seed)) for seed in range(60)]
        for puzzle in puzzles:
            task.check(puzzle.question)
        counts.append(np.mean([(puzzle.question != 1).sum() for puzzle in puzzles]))
    assert counts[0] + 1 < counts[1] < 4**2
