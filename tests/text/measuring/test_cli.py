"""`hrm generate` and `hrm eval` of text models, through main(): streams, JSON, tables, pictures, sentences."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from hrm.cli.generate import legend, style_of, table
from hrm.cli.main import main
from hrm.text.measuring.report import ranks_table
from tests import forks
from tests.text.measuring.small import TEXT, saved

COMMON = {"n", "seconds", "device", "dtype", "checkpoint", "data"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, trained for two steps."""
    place = tmp_path_factory.mktemp("run")
    (place / "book.txt").write_text(TEXT * 5, "utf-8")
    args = ["train", "text-char", "--data", str(place / "book.txt"), "--out", str(place / "book")]
    args += [
        "--arch.dim=32",
        "--arch.heads=2",
        "--arch.fast-layers=1",
        "--arch.slow-layers=1",
        "--halting.max-segments=2",
        "--halting.kind=q",
        "--arch.horizon=last_step",
    ]
    args += ["--text.length", "24", "--train.steps", "2", "--train.batch-size", "4", "--optim.warmup-steps", "1"]
    assert main(args) == 0
    return place / "book"


def said(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[str, str]:
    capsys.readouterr()
    assert main(list(args)) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert main(list(args)) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("hrm ")]
    assert len(lines) == 1 and not captured.out
    return lines[0]


@pytest.mark.slow
def test_a_seed_means_a_text(folder: Path, capsys: pytest.CaptureFixture[str]):
    call = ["generate", str(folder), "the cat", "--max-new-tokens", "30", "--seed"]
    first, again, other = (said(capsys, *call, seed)[0] for seed in "001")
    assert first == again != other and first.endswith("\n")


def test_json_holds_the_text_and_each_token(folder: Path, capsys: pytest.CaptureFixture[str]):
    call = ["generate", str(folder), "the cat", "--max-new-tokens", "9"]
    found = json.loads(said(capsys, *call, "--json")[0])
    assert said(capsys, *call)[0] == found["text"] + "\n" == "".join(found["tokens"]) + "\n"
    for name in ("tokens", "ids", "depth", "confidence", "entropy", "log_probability"):
        assert len(found[name]) == len(found["depth"]) <= 9, name
    assert found["seconds"] > 0 and found["prompt"] == "the cat" and set(found["depth"]) <= {1, 2, 3}


def test_the_prompt_may_come_from_standard_input(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("the cat\n"))
    piped = said(capsys, "generate", str(folder), "-", "--greedy", "--max-new-tokens", "5")
    assert piped[0] == said(capsys, "generate", str(folder), "the cat", "--greedy", "--max-new-tokens", "5")[0]


def test_the_budget_comes_from_the_flags(folder: Path, capsys: pytest.CaptureFixture[str]):
    call = ["generate", str(folder), "the cat", "--json", "--greedy", "--max-new-tokens", "8"]
    assert set(json.loads(said(capsys, *call, "--max-segments", "2", "--halting", "fixed")[0])["depth"]) == {2}
    assert set(json.loads(said(capsys, *call, "--exit-threshold", "0")[0])["depth"]) == {1}
    other = said(capsys, *call, "--schedule", "1", "1", "--halting", "fixed")[0]
    assert json.loads(other)["entropy"] != json.loads(said(capsys, *call, "--halting", "fixed")[0])["entropy"]


def test_a_run_reads_as_many_tokens_as_it_was_trained_on(run: Path, capsys: pytest.CaptureFixture[str]):
    def written(prompt: str) -> tuple[list[float], str]:
        out, err = said(capsys, "generate", str(run), prompt, "--max-new-tokens", "8", "--json")
        return json.loads(out)["entropy"], err

    entropies, notice = written("the cat sat on the mat. the do")
    assert notice.startswith("the prompt has 30 tokens: its last 12 are read")
    assert (entropies, "") == written("e mat. the do"[-12:])


def test_a_trace_without_a_terminal_is_a_table(folder: Path, capsys: pytest.CaptureFixture[str]):
    call = ["generate", str(folder), "the cat", "--max-new-tokens", "6"]
    found = json.loads(said(capsys, *call, "--json")[0])
    lines = said(capsys, *call, "--trace")[0].splitlines()
    assert lines[0].split() == ["depth", "confidence", "entropy", "token"] and len(lines) == 7
    assert [int(line.split()[0]) for line in lines[1:]] == found["depth"]
    assert [line.split(None, 3)[3] for line in lines[1:]] == [repr(token) for token in found["tokens"]]


def test_colours_tell_depths_apart_and_marks_how_sure_the_q_head_is():
    assert len({str(style_of(depth, 0.7, 8).color) for depth in range(1, 9)}) == 8
    sure, unsure, between = (style_of(1, c, 8) for c in (0.95, 0.2, 0.7))
    assert sure.bold and unsure.underline and not between.bold and not between.underline
    assert "depth in segments: 1 2 3" in legend(3).plain


def test_the_table_of_candidates(folder: Path, capsys: pytest.CaptureFixture[str]):
    found = json.loads(said(capsys, "generate", str(folder), "the", "--top-k-table", "4", "--json")[0])
    shown = said(capsys, "generate", str(folder), "the", "--top-k-table", "4")[0]
    assert len(found["candidates"]) == 4 and f"{found['depth']}*" in shown.splitlines()[0]
    for row in found["candidates"]:
        assert repr(row["token"]) in shown and f"{row['probability']:.1%}" in shown
    assert "entropy, nats" in shown and "P(halt)" in shown


def test_a_narrow_table_keeps_the_first_the_last_and_the_chosen_depth():
    depths = [{"segments": i, "entropy": 1.0, "confidence": 0.5} for i in range(1, 17)]
    row = {"id": 0, "token": "a rather long token", "probability": 0.5, "per_segment": [0.5] * 16}
    lines = table({"depth": 7, "candidates": [row], "depths": depths}, 80).splitlines()
    assert lines[0].split() == ["segments", "1", "2", "4", "7*", "8", "16"] and max(map(len, lines)) <= 80


@pytest.mark.slow
def test_the_best_of_several_is_printed_and_all_are_in_the_json(folder: Path, capsys: pytest.CaptureFixture[str]):
    call = ["generate", str(folder), "the cat", "--max-new-tokens", "8", "--best-of", "5", "--rank"]
    for rank, score in (("q", "confidence"), ("likelihood", "log_likelihood")):
        out, err = said(capsys, *call, rank)
        found = json.loads(said(capsys, *call, rank, "--json")[0])
        values = [text[score] for text in found["texts"]]
        assert values == sorted(values, reverse=True) and len(values) == 5
        assert out == found["texts"][0]["text"] + "\n" == found["text"] + "\n" and f"best of 5 by {rank}" in err


def test_an_unknown_character_is_replaced_with_a_notice(folder: Path, capsys: pytest.CaptureFixture[str]):
    _, err = said(capsys, "generate", str(folder), "the \u2603 cat", "--max-new-tokens", "2")
    assert "read as <|unknown|>, because the vocabulary lacks them: '\u2603'" in err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([""], "the prompt is empty"),
        (["the cat " * 20], "160 tokens and the model reads 23: shorten it"),
        (["the", "--temperature", "0"], "--temperature must be"),
        (["the", "--schedule", "2"], "--schedule 2 needs two numbers"),
        (["the", "--top-k-table", "0"], "--top-k-table must be"),
        (["the", "--best-of", "3", "--greedy"], "drawn, not greedy"),
        (["the", "--best-of", "0"], "--best-of must be"),
        (["the", "--halting", "never"], "--halting must be one of fixed, q, kl, change"),
        (["the", "--max-segments", "0"], "--max-segments must be"),
    ],
)
def test_mistakes_get_a_sentence(folder: Path, capsys: pytest.CaptureFixture[str], args: list[str], words: str):
    assert words in refused(capsys, "generate", str(folder), *args)


@pytest.mark.slow
def test_measuring_writes_the_numbers_it_prints(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    call = ["eval", str(folder), "--data", str(tmp_path / "text.txt"), "--exit-threshold", "0.5", "0.4"]
    shown = said(capsys, *call, "--json-file", str(tmp_path / "out.json"))[0]
    result = json.loads((tmp_path / "out.json").read_text())
    assert {*COMMON, "data_sha256", "loss", "bits_per_byte", "mean_segments", "max_segments"} <= result.keys()
    assert [row["exit_threshold"] for row in result["adaptive"]] == [0.5, 0.4] and len(result["fixed"]) == 3
    assert max(map(len, shown.splitlines())) <= 80

    def row_of(name: str) -> list[str]:
        return next(line for line in shown.splitlines() if line.startswith(name)).removeprefix(name).split()

    for depth, row in enumerate(result["fixed"], 1):
        name = "1 segment" if depth == 1 else f"{depth} segments"
        assert row_of(name)[:2] == [f"{row['loss']:.4f}", f"{row['perplexity']:.2f}"]
    for row in result["adaptive"]:
        name = f"{result['halting']} {row['exit_threshold']:g}: {row['mean_segments']:.2f} on average"
        assert row_of(name)[0] == f"{row['loss']:.4f}"
    assert "  the same at random" in shown and f"{result['n']:,} tokens, {result['bytes']:,} bytes" in shown
    assert json.loads(said(capsys, *call, "--json")[0])["loss"] == result["loss"]


def test_the_picture_is_drawn(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("matplotlib", reason="needs the extra [report]")
    (tmp_path / "text.txt").write_text(TEXT[:100], "utf-8")
    shown, _ = said(
        capsys, "eval", str(folder), "--data", str(tmp_path / "text.txt"), "--plot", str(tmp_path / "p.png")
    )
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG") and shown.count("the same at random") == 5


def test_a_run_is_measured_on_what_it_held_out(run: Path, capsys: pytest.CaptureFixture[str]):
    result = json.loads(said(capsys, "eval", str(run), "--json")[0])
    kept = json.loads((run / "result.json").read_text())
    assert result["loss"] == pytest.approx(kept["loss"]) and result["length"] == 24
    assert result["data"].endswith("validation") and len(result["fixed"]) == 2


def test_the_model_card_holds_facts_of_the_run_and_its_lines_run(run: Path, monkeypatch: pytest.MonkeyPatch):
    card, result = (run / "README.md").read_text("utf-8"), json.loads((run / "result.json").read_text())
    facts = json.loads((run / "data/train/index.json").read_text())
    for words in (
        f"{result['loss']:.4f}",
        f"{result['bits_per_byte']:.4f}",
        f"{facts['count']:,} | {facts['characters']:,} | {facts['bytes']:,}",
        "`book.txt`",
        f"On {result['n']:,} held-out tokens",
        *(f"| {i} | {loss:.4f} |" for i, loss in enumerate(result["loss_by_depth"], 1)),
    ):
        assert words in card, words
    monkeypatch.chdir(run.parent)
    code = card.split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line]) <= 5
    exec(code.replace(").text", ").text[:5]"), {})


def test_a_card_of_a_run_that_measured_nothing_says_so(run: Path):
    from hrm.runs import Run
    from hrm.text.config import TextConfig
    from hrm.text.measuring.card import model_card

    opened = Run.open(run, TextConfig)
    opened.result = run / "absent.json"
    card = model_card(opened)
    assert "Not measured" in card and "loss, nats" not in card


def test_a_card_names_the_sources_of_a_corpus_and_what_came_before(tmp_path: Path):
    from hrm.runs import Run
    from hrm.text.config import TextConfig
    from hrm.text.data import Packed, SourceFacts, encode, make_tokenizer, seal
    from hrm.text.measuring.card import model_card

    tokenizer = make_tokenizer("char", [TEXT])
    Packed.write(tmp_path / "corpus/train/tales/0", tokenizer, encode(tokenizer, [TEXT] * 5))
    seal(tmp_path / "corpus/train", [SourceFacts("tales", 2.0, "CC0 | free", "/home/me/tales.txt")])
    tokenizer.save_pretrained(tmp_path / "corpus/tokenizer")
    flags = ["--text.length=24", "--train.steps=1", "--train.batch-size=2", "--optim.warmup-steps=1"]
    shape = ["--arch.dim=32", "--arch.heads=2", "--arch.fast-layers=1", "--arch.slow-layers=1"]
    first, second, book = tmp_path / "first", tmp_path / "second", tmp_path / "book.txt"
    assert main(["train", "text-char", "--data", str(tmp_path / "corpus"), "--out", str(first), *shape, *flags]) == 0
    (tmp_path / "corpus").rename(tmp_path / "moved")
    book.write_text(TEXT, "utf-8")
    again = ["--text.holdout=0", "--model", str(first), "--data", str(book)]
    assert main(["train", "text-char", "--out", str(second), *again, *flags]) == 0
    (card, later), count = ((run / "README.md").read_text() for run in (first, second)), len(TEXT) * 5 + 5
    assert (
        f"| tales | 100.0% | {count:,} | CC0 \\| free | tales.txt |" in card and f"| trained on | {count:,} |" in card
    )
    assert "- `first`, from `corpus`: tales (CC0 | free)" in later and str(tmp_path) not in card + later
    assert "| tales | 100.0% |" in model_card(Run.open(first, TextConfig))


@pytest.mark.slow
def test_questions_are_answered_in_the_order_of_the_file(folder: Path, tmp_path: Path, capsys: Any):
    (tmp_path / "q.jsonl").write_text('{"question": "the", "answer": "cat"}\n{"question": "a", "answer": "la mer"}\n')
    call = ["eval", str(folder), "--data", str(tmp_path / "q.jsonl"), "--task", "pairs", "--max-new-tokens", "4"]
    result = json.loads(said(capsys, *call, "--json")[0])
    assert {*COMMON, "data_sha256", "exact_match", "mean_segments", "ece_q"} <= result.keys() and result["n"] == 2
    assert [row["answer"] for row in result["answers"]] == ["cat", "la mer"]
    ranked = json.loads(said(capsys, *call, "--best-of", "3", "--json")[0])
    assert {"q", "likelihood", "one", "any"} <= ranked.keys() and ranked["best_of"] == 3


def test_ranks_are_told_in_lines() -> None:
    shares = {"q": 0.5, "q-drawn": 1.0, "likelihood": 0.25, "one": 0.1, "any": 1.0}
    lines = ranks_table({"n": 4, "best_of": 2, **shares, "against_likelihood": {"q": [1, 0]}}).splitlines()
    assert max(map(len, lines)) <= 80 and lines[0] == "4 questions, 2 texts drawn for each; answered exactly by"
    assert lines[-1] == "q alone picks a right text in 1, likelihood alone in 0"


def test_of_conversations_only_the_answers_are_measured(folder: Path, tmp_path: Path, capsys: Any):
    (tmp_path / "q.jsonl").write_text('{"question": "the dog", "answer": "cat"}\n')
    result = json.loads(said(capsys, "eval", str(folder), "--data", str(tmp_path / "q.jsonl"), "--json")[0])
    assert (result["n"], result["characters"]) == (4, 3)  # and the end


@pytest.mark.filterwarnings("ignore")
def test_tasks_are_measured_from_local_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("lm_eval", reason="needs the extra [eval]")
    row = {"query": "the", "choices": ["cat", "dog"], "gold": 0}
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row | {"query": each}) + "\n" for each in "abc"))
    words = [{"context": each, "continuation": "cat"} for each in ("the", "a", "dog")]
    (tmp_path / "lambada_openai.jsonl").write_text("\n".join(map(json.dumps, words)))
    call = ["eval", str(folder), "--tasks", "all", "--data-folder", str(tmp_path), "--shots", "0", "2"]
    result = json.loads(said(capsys, *call, "--json")[0])
    assert result.keys() >= COMMON and set(result["tasks"]) == {"mine", "lambada_openai"}
    assert result["tasks"]["mine"]["shots"].keys() == {"0", "2"} and result["n"] == 12
    assert result["tasks"]["mine"]["shots"]["2"]["guessing"] == 0.5
    lambada = result["tasks"]["lambada_openai"]
    assert len(lambada["data_sha256"]) == 64 and lambada["shots_from"] == "other rows"
    assert lambada["published"]["sets"]["LAMBADA"]["perplexity"]["1.5B"] == 8.6
    lines = said(capsys, *call)[0].splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [[n, k] for n in ("lambada_openai", "mine") for k in "02"]
    assert max(map(len, lines)) <= 80 and "shots of lambada_openai, mine: other rows of the same data" in lines
    assert lines[-1].split() == ["LAMBADA:", "acc", "46.0%", "55.5%", "60.1%", "63.2%"]
    assert "has 3 rows to take examples from" in refused(capsys, *call[:-1], "3")


def test_tasks_need_lm_eval(folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine.jsonl").write_text('{"context": "the", "continuation": "cat"}\n')
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    sentence = refused(capsys, "eval", str(folder), "--tasks", "mine", "--data-folder", str(tmp_path))
    assert "lm-eval" in sentence and "pip install '.[eval]'" in sentence


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "holds no text to measure on: name some with --data"),
        (["--data", "nowhere.txt"], "there is no file or folder nowhere.txt"),
        (["--shots", "5"], "--shots counts the examples before a question"),
        (["--task", "puzzles"], "--task puzzles asks those of a file: name it with --data"),
        (["--tasks", "mine", "--shots", "-1"], "--shots"),
        (["--tasks", "mine", "--plot", "x.png"], "--plot shows loss against depth"),
        (["--restarts", "3"], "unknown flag '--restarts'"),
        (["--limit", "0"], "--limit must be"),
        (["--json-file", "no/where/x.json"], "--json-file no/where/x.json is in a folder that does not exist"),
        (["--data", "text.txt", "--length", "1000"], "--length 1000 is more than the 24 tokens"),
        (["--data", "text.txt", "--stride", "30"], "--stride must be from 1 to 24"),
        (["--task", "pairs"], "holds no text"),
    ],
)
def test_mistakes_of_measuring_get_a_sentence(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, args: list[str], words: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    (tmp_path / "mine.jsonl").write_text('{"context": "the", "continuation": "cat"}\n')
    assert words in refused(capsys, "eval", str(folder), "--data-folder", str(tmp_path), *args)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_terminal_shows_prompt_colours_and_a_summary(folder: Path, tmp_path: Path):
    import pty

    main_end, terminal = pty.openpty()
    args, errors = ["generate", str(folder), "the cat", "--trace", "--max-new-tokens", "5"], tmp_path / "errors.txt"
    errors.touch()
    colours = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    process = forks.start(args, (Path(os.devnull), terminal, errors), environment=colours)
    process.join(120)
    err = errors.read_text("utf-8")
    os.close(terminal)
    shown = os.read(main_end, 1 << 16).decode()
    os.close(main_end)
    assert process.exitcode == 0, err
    assert "depth in segments" in shown and "\x1b[2mthe cat" in shown and "38;2;" in shown
    assert "5 tokens" in err and "mean depth" in err


def test_a_run_that_is_not_there_is_said_before_its_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["eval", str(tmp_path / "none"), "--length", "64"]) == 2
    assert "there is no run at" in capsys.readouterr().err
    assert main(["train", "--model", str(tmp_path / "none"), "--data", "x"]) == 2
    assert "name a preset first" in capsys.readouterr().err
