"""The command line: flags, help, exit codes and the sentences for mistakes."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

import hrm.cli
from hrm.cli.completion import _help, _words
from hrm.cli.main import VERBS, main
from hrm.cli.options import Positional, Settings, help_text, options_of, parse
from hrm.files.reading import UserError
from hrm.puzzles.config import Config
from hrm.settings import from_yaml, load_preset, presets
from hrm.text.config import TextConfig

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).with_name("flags.txt")


@dataclass(frozen=True)
class Options:
    """Do something with a run."""

    preset: Positional[str | None] = None
    """Where the settings start."""
    config: Settings = field(default_factory=Config)
    out: Path | None = None
    """Folder to write."""
    rounds: int = 3
    """How often."""
    quiet: bool = False
    """Say nothing."""


@dataclass(frozen=True)
class Needy:
    """Wants things."""

    run: Positional[str]
    """Run folder."""
    data: Path
    """File of puzzles."""
    size: Literal[4, 6] = 4
    """Rows."""


def read(*args: str) -> Options:
    return parse(
        "try", Options, args, example="hrm try it", base=lambda options: load_preset(options.preset or "sudoku-extreme")
    )


def complaint(*args: str) -> str:
    with pytest.raises(UserError) as error:
        read(*args)
    return str(error.value)


def python(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A verb `boom` whose file the test writes."""
    monkeypatch.setitem(VERBS, "boom", "for tests")
    monkeypatch.setattr(hrm.cli, "__path__", [*hrm.cli.__path__, str(tmp_path)])
    yield tmp_path / "boom.py"
    sys.modules.pop("hrm.cli.boom", None)


def flag_list() -> str:
    """Every verb's arguments and flags with the kind of their values, as its own help lists them."""
    names = [name.split() for name, words in _words().items() if "--help" in words]
    names += [["train", "text-char"], ["text_eval"], ["config", "show", "text-char"]]
    lines: list[str] = []
    for words in names:
        flags = re.findall(r"^  (\S.*?)(?:  +\S.*)?$", _help(*words).partition("\nexample:")[2], re.MULTILINE)
        lines += [f"hrm {' '.join(words)}", *(f"  {flag}" for flag in flags if not flag.startswith("hrm ")), ""]
    return "\n".join(lines)


def test_the_flags_of_every_verb_are_the_frozen_ones(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert flag_list() == GOLDEN.read_text("utf-8"), (
        "flags are an interface: if meant, run python tests/test_cli.py and say so in the changelog"
    )


def test_every_setting_is_explained():
    for option in options_of(Config):
        assert option.doc.endswith("."), f"{option.flag} needs a docstring"


def test_flags_override_the_file_which_overrides_the_preset(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("parent: sudoku-extreme-trm\narch: {l_cycles: 5, h_cycles: 4}\n")
    config = read(str(file), "--arch.h-cycles", "6").config
    assert (config.arch.task_positions, config.arch.l_cycles, config.arch.h_cycles) == (16, 5, 6)


def test_flags_of_the_verb_and_of_the_run_mix_in_any_order():
    options = read("--arch.l_cycles=4", "--out", "x", "sudoku-4x4", "--task.box", "2", "3", "--quiet", "--data", "None")
    assert (options.preset, options.out, options.quiet, options.rounds) == ("sudoku-4x4", Path("x"), True, 3)
    assert (options.config.arch.l_cycles, options.config.task.box, options.config.data) == (4, (2, 3), None)


def test_switches_turn_off_with_no():
    config = read("--arch.no-hierarchy", "--halting.max-segments", "1", "--halting.no-q-continue").config
    assert not config.arch.hierarchy and not config.halting.q_continue


def test_a_list_takes_any_number_of_values():
    assert read("--train.track", "wandb", "trackio").config.train.track == ("wandb", "trackio")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("--arch.l-cycle 4", "unknown flag '--arch.l-cycle'; did you mean '--arch.l-cycles'?"),
        ("--lr 1e-4", "unknown flag '--lr'; did you mean '--optim.lr'?"),
        ("--arch.no-hierarch", "did you mean '--arch.no-hierarchy'?"),
        ("--zzzzzz", "unknown flag '--zzzzzz'; --help-all lists all flags"),
        ("-x", "unknown flag '-x'"),
        ("--arch.dim wide", "--arch.dim must be an integer, not 'wide'"),
        ("--arch.dim 1.5", "--arch.dim must be an integer, not '1.5'"),
        ("--arch.dim=", "--arch.dim must be an integer, not ''"),
        ("--arch.dim", "--arch.dim needs an integer"),
        ("--optim.betas 0.9", "--optim.betas needs 2 values, each a number"),
        ("--optim.betas 0.9 x", "--optim.betas must be a number, not 'x'"),
        ("--arch.mixer conv", "--arch.mixer must be one of attention, mlp, groups, neighbours, not 'conv'"),
        ("--arch.kv-heads two", "--arch.kv-heads must be an integer, not 'two'"),
        ("--train.track aim", "--train.track must be one of tensorboard, wandb, trackio, not 'aim'"),
        ("--train.compile=false", "--train.compile takes no value: use --train.compile or --train.no-compile"),
        ("sudoku-4x4 again", "unexpected argument 'again'"),
        ("--optim.lr -1e-4", "--optim.lr must be at least 0"),
        ("--seed 99999999999999999999", "--seed must be at least 0 and at most 9,223,372,036,854,775,807, not"),
        ("--arch.dim 500", "--arch.dim 500 is not divisible by --arch.heads 8"),
        ("sudoku-4x5", "did you mean 'sudoku-4x4'?"),
    ],
)
def test_a_wrong_flag_gets_one_sentence(args: str, words: str):
    message = complaint(*args.split())
    assert words in message
    assert "\n" not in message and "─" not in message


@dataclass(frozen=True)
class Measured:
    """Measure something."""

    run: Positional[str]
    """Run folder."""
    json: bool = False
    """Print the result as JSON."""
    json_file: Path | None = None
    """File to write the result to as JSON."""


@pytest.mark.parametrize(
    ("args", "json", "file", "hint"),
    [
        ("r --json", True, None, ""),
        ("--json r", True, None, ""),
        ("r --json --json-file x", True, "x", ""),
        ("r --json x.json", False, "x.json", "read as --json-file x.json"),
        ("--json x.json r", False, "x.json", "read as --json-file x.json"),
        ("r --json pipe", False, "pipe", "read as --json-file pipe"),
        ("r --json=x", False, "x", "read as --json-file x"),
        ("r --json -", True, None, "read as --json\n"),
    ],
)
def test_json_with_a_file_is_read_as_it_was(
    args: str, json: bool, file: str | None, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = parse("try", Measured, args.split(), example="hrm try r")
    assert options == Measured("r", json, None if file is None else Path(file))
    said = capsys.readouterr().err
    assert hint in said and bool(hint) == ("is a switch now" in said)


def test_what_is_missing_is_named_with_its_meaning():
    for args, words in [
        ((), "RUN is missing: run folder"),
        (("runs/a",), "--data is missing: file of puzzles"),
        (("runs/a", "--size", "6"), "--data is missing: file of puzzles"),
        (("runs/a", "--size", "5"), "--size must be one of 4, 6, not '5'"),
    ]:
        with pytest.raises(UserError, match=words):
            parse("need", Needy, args, example="hrm need")
    assert parse("need", Needy, ["-", "--data", "x.csv"], example="hrm need") == Needy("-", Path("x.csv"))
    assert "--size {4,6}" in help_text("need", Needy, "hrm need")


def test_help_shows_an_example_and_the_main_flags_in_plain_text(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        parse("try", Options, ["--help"], example="hrm try it --now", main=("optim.lr",), base=lambda _: Config())
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "usage: hrm try [PRESET] [flags]" in text and "  hrm try it --now" in text
    assert "--optim.lr NUMBER" in text and "Learning rate. (0.0001)" in text
    assert "--out" in text and "--arch.dim" not in text and "--help-all" in text
    assert "─" not in text and "\x1b" not in text


def test_help_all_shows_every_flag():
    text = help_text("try", Options, "hrm try it", everything=True)
    assert all(option.flag in text for option in options_of(Config))


def test_help_shows_the_values_of_the_preset_that_it_is_asked_about(capsys: pytest.CaptureFixture[str]):
    for preset, shown in (("text-char", ["(256)", "(1000)"]), ("sudoku-4x4", []), ("no-preset", ["(26041)"])):
        assert main(["train", preset, "--help"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        steps = str(load_preset(preset).train.steps) if preset in presets() else "26041"
        assert f"({steps})" in text and all(value in text for value in shown)
    assert "`hrm train --help-all` lists" in text
    assert main(["train", "text-char", "--help-all"]) == 0
    flags = sum(line.startswith("  --") for line in capsys.readouterr().out.splitlines())
    assert main(["train", "text-char", "--help"]) == 0
    assert f"`hrm train text-char --help-all` lists all {flags} flags." in " ".join(capsys.readouterr().out.split())
    assert main(["plan", "text-char", "--help"]) == 0 and "hrm plan" in capsys.readouterr().out


def test_a_text_in_place_of_a_recipe_is_met_with_the_command_that_trains_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    book = tmp_path / "alice.txt"
    for text in ("Down the Rabbit-Hole\n", "Alice: what\n\tis: the use\n"):
        book.write_text(text)
        assert main(["train", str(book)]) == 2
        said = capsys.readouterr().err
        assert f"{book} is no recipe: to train on it, hrm train text-char --data {book}" in said
    recipe = tmp_path / "recipe.txt"
    recipe.write_text("parent: sudoku-4x4\n")
    assert main(["train", str(recipe), "--dry-run"]) == 0


def test_help_imports_nothing_but_the_standard_library():
    code = "import sys; from hrm.cli.main import main; assert main(['--help']) == 0; print(*sys.modules)"
    result = python("-c", code)
    loaded = {name.split(".")[0] for name in result.stdout.splitlines()[-1].split()}
    assert result.returncode == 0, result.stderr
    assert "hrm" in loaded and not loaded & {"torch", "numpy", "tyro", "yaml", "rich", "accelerate", "jaxtyping"}


def test_no_verb_imports_torch_before_it_is_run():
    verbs = [verb for verb in VERBS if (ROOT / "src/hrm/cli" / f"{verb}.py").exists()]
    code = f"import sys; from hrm.cli import {', '.join(verbs)}; print('torch' in sys.modules)"
    assert python("-c", code).stdout.strip() == "False"


def test_help_lists_each_verb_that_exists(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in VERBS:
        assert (f"\n  {name} " in text) == (ROOT / "src/hrm/cli" / f"{name}.py").exists()


def test_every_verb_has_help_with_an_example_and_at_most_twenty_flags(capsys: pytest.CaptureFixture[str]):
    for name in VERBS:
        if (ROOT / "src/hrm/cli" / f"{name}.py").exists():
            assert main([name, "--help"]) == 0
            text = capsys.readouterr().out
            assert f"hrm {name}" in text
            assert sum(line.startswith("  --") for line in text.splitlines()) <= 20, f"hrm {name} --help is too long"


@pytest.mark.parametrize("width", [60, 120])
@pytest.mark.parametrize("args", ["", "train --help-all", "solve --help", "data", "config list", "completion --help"])
def test_help_follows_the_width_of_the_terminal(
    width: int, args: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    main(args.split() or ["--help"])
    lines = capsys.readouterr().out.splitlines()
    # What is to be copied stays in one line.
    longest = max(len(line) for line in lines if not line.startswith("  hrm "))
    assert longest <= width and (width == 60 or longest > 60)


def test_config_list_shows_the_presets_of_both_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["preset"] for row in rows} == {*presets(Config), *presets(TextConfig)}
    assert all(row["about"].endswith((".", "%")) for row in rows)


@pytest.mark.parametrize("flags", [["--data", "book.txt"], ["--data=book.txt"], ["--arch.dim", "64", "--overwrite"]])
def test_a_preset_behind_flags_still_decides_the_family(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *flags, "text-char", "--help"]) == 0
    assert "--text.tokenizer" in capsys.readouterr().out


def test_a_misspelt_preset_of_text_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "text-chra"]) == 2
    assert "did you mean 'text-char'?" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_verbs_actions_presets_and_flags(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert ("bashcompinit" in script) == (shell == "zsh")
    if shell == "zsh" or shutil.which("bash") is None:
        return
    for words, found in (
        (["gen"], {"generate"}),
        (["data", "bu"], {"build"}),
        (["data", "build", "--puz"], {"--puzzles"}),
        (["train", "text-ch"], {"text-char"}),
        (["train", "--text.le"], {"--text.length"}),
        (["eval", "x", "--json"], {"--json", "--json-file"}),
        (["config", "diff", "sudoku-4"], {"sudoku-4x4"}),
    ):
        line = f"COMP_WORDS=(hrm {' '.join(words)}); COMP_CWORD={len(words)}; _hrm; echo ${{COMPREPLY[@]}}"
        shown = subprocess.run(["bash", "-c", script + line], capture_output=True, text=True, check=True).stdout
        assert set(shown.split()) == found


def test_quiet_leaves_what_was_found_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.csv").write_text("question,answer\n1,1\n")
    assert main(["data", "check", str(tmp_path / "x.csv"), "--task", "sudoku", "--box", "2", "2", "--quiet"]) == 2
    assert "line 2" in capsys.readouterr().err


def test_a_device_is_named_by_the_flag_of_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("A short book about nothing. " * 99)
    assert main(["learn", str(tmp_path / "run"), str(tmp_path / "a.txt"), "--device", "tpu9"]) == 2
    message = capsys.readouterr().err
    assert "--device" in message and "--train.device" not in message


def test_python_dash_m_is_the_same_program():
    assert python("-m", "hrm", "--version").stdout == f"hrm {hrm.__version__}\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["tran"], "hrm: unknown verb 'tran'"),
        (["confg", "show"], "hrm: unknown verb 'confg'; did you mean 'config'?"),
        (["--verbose"], "hrm: unknown flag '--verbose'"),
        (["config", "shw"], "hrm config: unknown action 'shw'; did you mean 'show'?"),
        (["config", "show"], "hrm config: PRESET is missing"),
        (["config", "show", "sudoku-4x4", "--seed", "x"], "hrm config: --seed must be an integer, not 'x'"),
    ],
)
def test_wrong_usage_is_one_sentence_on_stderr_and_exit_code_2(
    args: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(words) and captured.err.count("\n") == 1


def test_no_arguments_show_the_help_and_exit_code_2(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 2
    assert "usage: hrm VERB" in capsys.readouterr().out


def test_an_unforeseen_error_is_one_sentence_and_exit_code_1(verb: Path, capsys: pytest.CaptureFixture[str]):
    verb.write_text("def main(args):\n    raise OSError('disk\\nfull')\n")
    assert main(["boom"]) == 1
    assert capsys.readouterr().err == "hrm boom: disk full (OSError; --debug shows where)\n"


@pytest.mark.parametrize(("error", "code"), [("OSError('full')", 1), ("UserError('no such file')", 2)])
def test_debug_adds_the_traceback_and_keeps_the_exit_code(
    verb: Path, capsys: pytest.CaptureFixture[str], error: str, code: int
):
    start = "from hrm.files.reading import UserError\ndef main(args):\n    assert args == ['x']\n    raise "
    verb.write_text(f"{start}{error}\n")
    assert main(["boom", "x", "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_ends_cleanly_with_130(verb: Path, capsys: pytest.CaptureFixture[str]):
    verb.write_text("def main(args):\n    raise KeyboardInterrupt\n")
    assert main(["boom"]) == 130
    assert capsys.readouterr().err == "hrm boom: interrupted\n"


def test_the_exit_code_of_a_verb_is_passed_on(verb: Path):
    verb.write_text("def main(args):\n    return 1\n")
    assert main(["boom"]) == 1


def test_a_reader_that_leaves_early_causes_no_noise():
    code = (
        "import sys; from hrm.cli.main import main; sys.stdin.read(); sys.exit(main(['config', 'show', 'sudoku-4x4']))"
    )
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdin and process.stdout and process.stderr
    process.stdout.close()
    process.stdin.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() == 1


def test_a_terminal_without_the_characters_still_works():
    result = python(
        "-c", "from hrm.cli.main import main; main(['--version']); print('\\u2588')", PYTHONIOENCODING="ascii"
    )
    assert (result.returncode, result.stdout.split("\n")[1]) == (0, "?")


def test_config_show_prints_yaml_that_can_be_trained_again(capsys: pytest.CaptureFixture[str]):
    assert main(["config", "show", "sudoku-extreme-trm", "--arch.l-cycles", "4"]) == 0
    config = from_yaml(capsys.readouterr().out, "shown", Config)
    assert (config.arch.l_cycles, config.arch.task_positions) == (4, 16)


def test_config_diff_prints_only_what_differs(capsys: pytest.CaptureFixture[str]):
    assert main(["config", "diff", "arc-1", "arc-2"]) == 0
    assert capsys.readouterr().out == "train.steps: 519270 -> 607682\n"
    assert main(["config", "diff", "arc-1", "arc-1"]) == 0
    assert capsys.readouterr().out == ""


def test_config_check_answers_for_files_and_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "mine.yaml"
    file.write_text("parent: sudoku-extreme\narch: {heads: 7}\n")
    assert main(["config", "check", str(file)]) == 2
    assert "--arch.dim 512 is not divisible by --arch.heads 7" in capsys.readouterr().err
    assert main(["config", "check", str(file), "--arch.heads", "8"]) == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("demo --watch", "--watch is no flag of demo: hrm solve has it"),
        ("demo --overwrite", "hrm train, hrm data build, hrm data clean and hrm arc build have it"),
        ("demo --resume x", "--resume is no flag of demo: hrm train has it"),
        ("data build --out=", "--out is empty: name a file or folder"),
        ("train sudoku-4x4 --out=", "--out is empty: name a file or folder"),
        ("convert none /dev/null --to hrm", "none is neither a run folder"),
    ],
)
def test_a_flag_of_another_verb_and_an_empty_place_get_a_sentence(
    args: str, words: str, capsys: pytest.CaptureFixture[str]
):
    assert main(args.split()) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["solve", "", "1"], "RUN is empty: name a file or folder"),
        (["solve", "none", "1", "--also", ""], "--also is empty"),
        (["learn", "none", ""], "BOOKS is empty: name a file or folder"),
        (["learn", "", "a.txt"], "RUN is empty: name a file or folder"),
        (["arc", "check", ""], "DATA is empty: name a file or folder"),
        (["arc", "check", "x.json,,y.json"], "an empty name stands in 'x.json,,y.json'"),
        (["data", "pack", "", "--out", "none"], "FILES is empty: name a file or folder"),
        (["config", "check", ""], "PRESET is empty: name a file or folder"),
        (["train", "text-char", "--data", "a.txt,,b.txt", "--out", "none"], "an empty name stands in 'a.txt,,b.txt'"),
        (["train", "text-char", "--data", ""], "--data is empty: name a file"),
    ],
)
def test_an_empty_name_is_not_the_current_folder(
    args: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    for name in ("x.json", "a.txt"):
        (tmp_path / name).write_text('{"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[1]]}]}' * 9)
    assert main(args) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_a_leading_tilde_of_what_is_written_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert main(["data", "build", "--box", "2", "2", "--puzzles", "2", "--out", "~/four.csv"]) == 0
    assert (tmp_path / "four.csv").is_file()
    assert read("--out", "~/run").out == tmp_path / "run"


def test_each_family_is_sent_to_the_verb_that_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from hrm.runs import Run
    from hrm.text.config import LearnConfig

    board = {"cells": 16, "vocabulary": 6, "task_ids": 1}
    puzzles, reader = tmp_path / "puzzles", tmp_path / "reader"
    Run.create(puzzles, load_preset("sudoku-4x4"), board)
    Run.create(reader, LearnConfig(), {})
    for args, words in (
        (["chat", str(puzzles)], "solves and does not talk: see hrm solve"),
        (["train", "--resume", str(reader)], f"resume it with hrm learn {reader}"),
        (["train", f"--resume={reader}", "--epochs", "3"], f"resume it with hrm learn {reader}"),
    ):
        assert main(args) == 2
        assert words in capsys.readouterr().err


def test_a_model_of_text_is_not_measured_on_puzzles(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    for name in ("x.csv", "folder"):
        assert main(["data", "build", "--box", "2", "2", "--puzzles", "2", "--out", str(tmp_path / name)]) == 0
        capsys.readouterr()
        assert main(["eval", str(tmp_path / "model"), "--data", str(tmp_path / name)]) == 2
        assert "is a model of text and" in capsys.readouterr().err


if __name__ == "__main__":
    os.environ["COLUMNS"] = "400"
    GOLDEN.write_text(flag_list(), "utf-8")
