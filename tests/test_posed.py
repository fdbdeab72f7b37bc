"""Puzzles asked of a model of text: what it is shown, what counts as right, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hrm.files.reading import UserError
from hrm.posed import evaluate_posed, pose, prompts
from hrm.text.data.tokenizers import train_characters
from hrm.text.measuring.subject import Thinking, Written
from hrm.text.writing.generation import Sampling
from tests.data import hrm_data
from tests.text.measuring.small import pair

ARC = {
    "train": [{"input": [[1, 2]], "output": [[2, 1]]}],
    "test": [{"input": [[3, 4]], "output": [[4, 3]]}, {"input": [[5]], "output": [[5]]}],
}


@pytest.fixture
def sudoku(tmp_path: Path) -> Path:
    path = tmp_path / "sudoku.csv"
    rows = "".join(f"{q},1234341221434321\n" for q in ("1...3...2...4...", "12..34..21..43..", "..34..12..43..21"))
    path.write_text("question,answer\n" + rows)
    return path


def test_a_sudoku_is_written_row_by_row_and_judged_by_its_rules(sudoku: Path):
    first = pose(sudoku)[0]
    assert first.question == "Puzzle:\n1...\n3...\n2...\n4...\n\nAnswer:\n" and first.answer == "1234\n3412\n2143\n4321"
    assert first.right("1234\n3412\n2143\n4321\n") and first.right("1234341221434321")
    assert first.right("1342\n3124\n2413\n4231") is False, "its boxes hold a symbol twice"
    assert first.right("1243\n3421\n2134\n4312"), "another answer than the file's that keeps the rules"
    more = "1234\n3412\n2143\n4321\n123"
    assert not any(map(first.right, ("", "1234", "2134\n3412\n1243\n4321", "no idea", more)))


def test_free_cells_of_a_maze_are_written_as_points(tmp_path: Path):
    path = tmp_path / "maze.csv"
    path.write_text("question,answer\nS ## G   ,So##oG   \n")
    (one,) = pose(path)
    assert one.question == "Puzzle:\nS.#\n#.G\n...\n\nAnswer:\n" and one.answer == "So#\n#oG\n..."
    assert one.right("So#\n#oG\n...") and not one.right("S.#\n#.G\n...") and not one.right("So#\n#.G\nooo")


def test_arc_shows_a_tasks_own_examples_and_asks_each_test_input(tmp_path: Path):
    path = tmp_path / "arc.jsonl"
    path.write_text(json.dumps({"id": "one", **ARC}) + "\n")
    first, second = pose(path)
    assert first.question == "Input:\n1 2\n\nOutput:\n2 1\n\nInput:\n3 4\n\nOutput:\n" and first.answer == "4 3"
    assert second.question.endswith("Input:\n5\n\nOutput:\n")
    assert first.right("4 3\n") and not any(map(first.right, ("4 3\n4 3", "3 4", "4", "four three", "")))


def test_shots_are_other_puzzles_of_the_file(sudoku: Path):
    asked = pose(sudoku)
    for number, prompt in enumerate(prompts(asked, 2)):
        shown, own = prompt.rsplit("Puzzle:", 1)
        assert own == asked[number].question.removeprefix("Puzzle:")
        assert all((other.shown in shown) == (other is not asked[number]) for other in asked)
    assert prompts(asked, 1) == prompts(asked, 1) != prompts(asked, 1, seed=1)
    with pytest.raises(UserError, match="--shots 3 wants more other puzzles than the 2 that the file has"):
        prompts(asked, 3)


def test_no_shot_is_the_asked_puzzle_or_another_question_of_its_riddle(sudoku: Path, tmp_path: Path):
    sudoku.write_text(sudoku.read_text() + "1...3...2...4...,1234341221434321\n")
    asked = pose(sudoku)
    assert all(prompt.count(one.question) == 1 for one, prompt in zip(asked, prompts(asked, 2), strict=True))
    path = tmp_path / "arc.jsonl"
    other = {"train": ARC["train"], "test": ARC["test"][:1]}
    path.write_text("".join(json.dumps({"id": name, **task}) + "\n" for name, task in (("a", ARC), ("b", other))))
    asked = pose(path)
    assert [prompt.count("Output:") for prompt in prompts(asked, 1)] == [4, 4, 4]
    assert asked[2].shown in prompts(asked, 1)[0] and asked[2].shown in prompts(asked, 1)[1]
    with pytest.raises(UserError, match="--shots 2 wants more other puzzles than the 1 that the file has"):
        prompts(asked, 2)


def test_what_does_not_fit_the_context_counts_as_wrong(sudoku: Path, monkeypatch: pytest.MonkeyPatch):
    asked = pose(sudoku)
    asked[1] = asked[1]._replace(question="Puzzle:\n" + "." * 400)
    model, tokenizer = pair(vocab_size=100, max_position_embeddings=200)
    tokenizer = train_characters([asked[0].shown + asked[0].rule + "?"])
    given = []

    def right(self: Thinking, prompts: list[list[int]], sampling: Sampling) -> list[Written]:
        given.extend(prompts)
        assert all(len(ids) + sampling.max_new_tokens <= 200 for ids in prompts)
        return [Written(asked[0].answer, 20, 20, True, 0.5) for _ in prompts]

    monkeypatch.setattr(Thinking, "write", right)
    found = evaluate_posed(model, tokenizer, asked)
    assert found["n"] == 3 and found["fits"] == pytest.approx(2 / 3) == found["solved"] and len(given) == 2
    assert [one["right"] for one in found["answers"]] == [True, False, True] and found["answers"][1]["said"] is None


@pytest.mark.slow
def test_a_model_of_text_answers_puzzles(sudoku: Path):
    asked = pose(sudoku)
    model, _ = pair(vocab_size=100, max_position_embeddings=200)
    tokenizer = train_characters([asked[0].shown + asked[0].rule])
    found = evaluate_posed(model, tokenizer, asked, limit=2)
    assert found["n"] == 2 and found["fits"] == 1 and 0 <= found["solved"] <= 1 and found["mean_segments"] >= 1


def test_real_puzzles_are_right_by_their_own_answers():
    for name in ("sudoku/hard_train_1k.csv", "maze/maze_30x30_hard_test_dev700.csv.gz", "arc_agi_1/training.jsonl.gz"):
        asked = pose(hrm_data() / name)
        some = np.random.Generator(np.random.Philox(0)).choice(len(asked), 20, replace=False)
        assert all(asked[number].right(asked[number].answer) for number in some)
        assert not any(asked[number].right(asked[number - 1].answer) for number in some)
